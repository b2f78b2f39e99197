import pytest

from streams.connectors import xml_reader as xml
from streams.errors import ContractError

BOMB = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]><a>&c;</a>'
EXTERNAL = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'


def test_elements_are_found_by_local_name() -> None:
    root = xml.parse(b'<x:a xmlns:x="urn:1"><b xmlns="urn:2" x:id=" 7 "><c> one </c></b><b><c/><c>two</c></b></x:a>')
    assert xml.text_at(root, "b/c") == "one"
    assert [found.text for found in xml.find_all(root, "b/c")] == [" one ", None, "two"]
    assert xml.text_at(root, "b@id") == "7"
    assert xml.text_at(root, "b/d") is None
    assert len(list(xml.descendants(root, "c"))) == 3


@pytest.mark.parametrize(
    ("body", "reason"),
    [(BOMB, "XML_FORBIDDEN"), (EXTERNAL, "XML_FORBIDDEN"), (b"<!DOCTYPE a><a/>", "XML_FORBIDDEN"), (b"", "NOT_XML"), (b"{}", "NOT_XML"), (b"<a>", "NOT_XML"),
     (b'<?xml version="1.0" encoding="nonsense"?><a/>', "NOT_XML"), (b"\xff\xfe\x00", "NOT_XML")],
)  # fmt: skip
def test_what_is_no_xml_and_what_attacks_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(ContractError) as raised:
        xml.parse(body)
    assert raised.value.reason == reason


def test_deep_documents_do_not_break_the_parser() -> None:
    root = xml.parse(b"<a>" * 50_000 + b"</a>" * 50_000)
    assert sum(1 for _ in xml.descendants(root, "a")) == 50_000
