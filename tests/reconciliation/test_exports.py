"""Files and callables as sources make them: what a row says, and the line of each that says nothing that can be compared."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from schemas.records import MemberStatus
from streams.errors import ConfigurationError
from streams.reconciliation import exports, mapping
from streams.reconciliation.exports import Problem, Row
from streams.reconciliation.mapping import ExportMapping

MAPPING = ExportMapping(
    member_id="Id", version="Modified", parts={"Email": "email", "Tags": "segments", "State": "status", "Card": "external_ids.card"},
    statuses={"Active": MemberStatus.ACTIVE, "Terminated": MemberStatus.SUSPENDED},
)  # fmt: skip
HEADER = "Id,Modified,Email,Tags,State,Card\n"


def read(tmp_path: Path, content: str | bytes, name: str = "export.csv", **changes: Any) -> list[Row | Problem]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(exports.rows(str(path), ExportMapping(**{field: getattr(MAPPING, field) for field in MAPPING.__slots__} | changes)))


def test_a_csv_row(tmp_path: Path) -> None:
    text = "\ufeff" + HEADER + 'M-1,5,ada@example.org,spa; golf;spa,Active,\n"M-2",2026-11-22T03:40:00.250+0000,,,Terminated,"C\n1"\n'
    first, second = read(tmp_path, text, parts=dict(MAPPING.parts))
    said = {"email": "ada@example.org", "segments": ("golf", "spa"), "status": "ACTIVE", "external_ids.card": None}
    assert first == Row(line=2, member_id="M-1", version=5, said=said)
    assert isinstance(second, Row) and (second.line, second.version) == (4, 1_795_318_800_250)
    assert second.said == {"email": None, "segments": (), "status": "SUSPENDED", "external_ids.card": "C\n1"}


def test_json_lines_leave_out_what_they_do_not_say(tmp_path: Path) -> None:
    lines = [
        {"Id": "M-1", "Modified": 5, "Email": None, "Tags": ["spa", "golf"], "State": "Active", "Card": 17},
        {"Id": "M-2", "Modified": "6", "State": "Terminated"},
    ]
    first, second = read(tmp_path, "\n\n".join(map(json.dumps, lines)) + "\n", "export.jsonl")
    assert isinstance(first, Row) and isinstance(second, Row)
    assert first.said == {"email": None, "segments": ("golf", "spa"), "status": "ACTIVE", "external_ids.card": "17"}
    assert (second.line, second.said) == (3, {"status": "SUSPENDED"})


def test_a_callable_of_a_connector(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("a_connector")
    module.rows = lambda: iter([{"Id": "M-1", "Modified": 5, "Email": "a", "Tags": "", "State": "Active", "Card": None}, 17])  # type: ignore[attr-defined]
    module.nothing = 1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_connector", module)
    told: list[int] = []
    first, second = exports.rows("a_connector:rows", MAPPING, advance=told.append)
    assert isinstance(first, Row) and (first.line, first.said["segments"]) == (1, ())
    assert second == Problem(2, "a row must be a mapping of column to value, not int")
    assert told == [1, 2]
    for name, why in (("a_connector:nothing", "not callable"), ("a_connector:none", "neither a file"), ("no_connector:rows", "neither a file")):
        with pytest.raises(ConfigurationError, match=why):
            list(exports.rows(name, MAPPING))


@pytest.mark.parametrize(
    ("content", "name", "line", "why"),
    [
        ("", "e.csv", 1, "the header is missing"),
        ("Id,Modified,Email,Tags,State\n", "e.csv", 1, "no column 'Card', which is mapped: there are no rows"),
        ("Id,Modified,Email,Tags,State\nM-1,5,a,b,Active\n", "e.csv", 2, "no column 'Card', which is mapped"),
        ("Id,Id,Email\n", "e.csv", 1, "the header has 'Id' more than once"),
        (HEADER + "M-1,5,a\n", "e.csv", 2, "has 3 cells, the header 6"),
        (HEADER + 'M-1,5,"a\n', "e.csv", 2, "is not CSV"),
        (HEADER.encode() + b"M-1,5,\xff,,Active,\n", "e.csv", 2, "is not UTF-8"),
        (HEADER + "M-1,v5,a,,Active,\n", "e.csv", 2, "'Modified' must be a whole number or a time with its zone"),
        (HEADER + "M-1,,a,,Active,\n", "e.csv", 2, "'Modified' must be a whole number"),
        (HEADER + "M-1,9223372036854775808,a,,Active,\n", "e.csv", 2, "'Modified' must be a whole number"),
        (HEADER + "M-1,2026-13-01T00:00:00Z,a,,Active,\n", "e.csv", 2, "'Modified' must be a whole number"),
        (HEADER + ",5,a,,Active,\n", "e.csv", 2, "'Id' must say whose row it is"),
        (HEADER + "x" * 129 + ",5,a,,Active,\n", "e.csv", 2, "'Id' must have 1 to 128 printable characters"),
        (HEADER + "M-1,5,a,,Retired,\n", "e.csv", 2, "'State' must be one of Active, Terminated, not 'Retired'"),
        ('{"Id": "M-1"\n', "e.jsonl", 1, "is not JSON"),
        ("[1]\n", "e.jsonl", 1, "must be a JSON object"),
        (b'{"Id": "\xff"}\n', "e.jsonl", 1, "is not UTF-8"),
        ('{"Id": ["M-1"], "Modified": 1}\n', "e.jsonl", 1, "'Id' must be a text or a number, not list"),
        ('{"Id": "M-1", "Modified": true}\n', "e.jsonl", 1, "'Modified' must be a whole number"),
        ('{"Id": "M-1", "Modified": 1, "Tags": [1]}\n', "e.jsonl", 1, "'Tags' must be a list of texts"),
    ],
)
def test_what_cannot_be_compared_is_named_with_its_line(tmp_path: Path, content: str | bytes, name: str, line: int, why: str) -> None:
    problems = [one for one in read(tmp_path, content, name) if isinstance(one, Problem)]
    assert [problem for problem in problems if problem.line == line and why in problem.what], problems
    assert str(problems[0]).startswith(f"line {problems[0].line}: ")


def test_a_file_that_is_no_export(tmp_path: Path) -> None:
    for content, name, why in (
        ("a\n".encode("utf-16"), "e.csv", "UTF-16"), (b"a", "e.xlsx", "--format csv"), (b"a", "e", "--format csv"),
    ):  # fmt: skip
        with pytest.raises(ConfigurationError, match=why):
            read(tmp_path, content, name)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        list(exports.rows(str(tmp_path / "none.csv"), MAPPING))


def test_without_words_of_its_own_a_source_uses_ours(tmp_path: Path) -> None:
    good, bad = read(tmp_path, HEADER + "M-1,5,,,LEFT,\nM-2,5,,,MERGED,\n", statuses={})
    assert isinstance(good, Row) and good.said["status"] == "LEFT"
    assert isinstance(bad, Problem) and "ACTIVE, SUSPENDED, LEFT, not 'MERGED'" in bad.what


FILE = """
id = "Loyalty_Id__c"
version = "SystemModstamp"
separator = "|"
absent = "LEFT"
[external_id]
salesforce = "Id"
[columns]
Email = "email"
Tags__c = "segments"
[statuses]
Active = "ACTIVE"
"""


def test_a_mapping_comes_from_a_file_and_options_prevail(tmp_path: Path) -> None:
    path = tmp_path / "salesforce.toml"
    path.write_text(FILE)
    found = mapping.read(path, {"version": "Version__c", "columns": {"Phone": "phone"}})
    assert (found.member_id, found.external_id_type, found.external_id, found.version, found.separator) == (
        "Loyalty_Id__c", "salesforce", "Id", "Version__c", "|"
    )  # fmt: skip
    assert (found.parts, found.statuses, found.absent) == (
        {"Email": "email", "Tags__c": "segments", "Phone": "phone"}, {"Active": MemberStatus.ACTIVE}, MemberStatus.LEFT
    )  # fmt: skip
    assert found.columns == ["Loyalty_Id__c", "Id", "Version__c", "Email", "Tags__c", "Phone"]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('Email = "email"', 'Email = "E-Mail"', "salesforce.toml line 9: columns.Email must be an attribute, segments, status or external_ids.<type>"),
        ('Email = "email"', 'Email = "tier"', "columns.Email must be"),
        ('Email = "email"', 'Email = "segments"', "columns.Tags__c is a second column for segments"),
        ('Active = "ACTIVE"', 'Active = "ERASED"', "statuses.Active must be ACTIVE, SUSPENDED, LEFT, not 'ERASED'"),
        ('absent = "LEFT"', 'absent = "ACTIVE"', "absent must be SUSPENDED or LEFT"),
        ('separator = "|"', 'separator = ""', "separator must not be empty"),
        ('salesforce = "Id"', "salesforce = 1", "external_id.salesforce must name a column"),
        ('salesforce = "Id"', 'Salesforce = "Id"', "external_id.Salesforce must be named with"),
        ('salesforce = "Id"', 'salesforce = "Id"\nemail = "Email"', "external_id (--id-external) must have one type"),
        ('version = "SystemModstamp"', 'wersion = "SystemModstamp"', "wersion is not known here"),
    ],
)
def test_problems_of_a_mapping_are_located(tmp_path: Path, old: str, new: str, why: str) -> None:
    path = tmp_path / "salesforce.toml"
    assert FILE.count(old) == 1
    path.write_text(FILE.replace(old, new))
    with pytest.raises(ConfigurationError) as caught:
        mapping.read(path, {})
    assert why in str(caught.value)


def test_what_a_mapping_must_say() -> None:
    with pytest.raises(ConfigurationError, match="whose row it is"):
        mapping.parse({"columns": {"Email": "email"}})
    with pytest.raises(ConfigurationError, match="must name one column at least"):
        mapping.parse({"id": "Id"})
    for text, why in (("Email", "the form left=right"), ("=email", "the form left=right")):
        with pytest.raises(ConfigurationError, match=why):
            mapping.pairs("--map", (text,))
    with pytest.raises(ConfigurationError, match="names 'A' twice"):
        mapping.pairs("--map", ("A=email", "A=phone"))
