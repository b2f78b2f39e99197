"""Bytes of XML -> elements, found by local name: senders disagree on namespaces and prefixes. DTDs and entities are refused. Pure."""

from collections.abc import Iterator
from xml.etree.ElementTree import Element, ParseError
from xml.sax.saxutils import escape, quoteattr

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from streams.errors import ContractError

__all__ = ["Element", "attribute", "children", "descendants", "escape", "find", "find_all", "local_name", "parse", "quoteattr", "text_at"]


def parse(body: bytes) -> Element:
    """The root. Raises ContractError: NOT_XML, or XML_FORBIDDEN for what only an attack needs."""
    try:
        root: Element = fromstring(body, forbid_dtd=True)
    except DefusedXmlException as error:
        raise ContractError("XML_FORBIDDEN", "the XML has a document type or entities of its own") from error
    except (ParseError, ValueError, LookupError) as error:  # LookupError: an encoding that there is not.
        raise ContractError("NOT_XML", f"the body is not XML: {error}"[:200]) from error
    return root


def local_name(name: str) -> str:
    return name.rpartition("}")[2]


def attribute(element: Element, name: str) -> str | None:
    """By local name, stripped; None if there is none, or it is empty."""
    for key, value in element.attrib.items():
        if local_name(key) == name:
            return value.strip() or None
    return None


def children(element: Element, name: str) -> Iterator[Element]:
    return (child for child in element if local_name(child.tag) == name)


def descendants(element: Element, name: str) -> Iterator[Element]:
    """The element itself included, in the order of the document."""
    return (found for found in element.iter() if isinstance(found.tag, str) and local_name(found.tag) == name)


def find_all(element: Element, path: str) -> Iterator[Element]:
    """Elements at a path of local names, "Body/ExternalEvent"; an empty path is the element itself."""
    name, _, rest = path.partition("/")
    if not name:
        yield element
        return
    for child in children(element, name):
        yield from find_all(child, rest)


def find(element: Element, path: str) -> Element | None:
    return next(find_all(element, path), None)


def text_at(element: Element, path: str) -> str | None:
    """Stripped text of the first element at the path that has any; "@name" at its end is an attribute. None if there is none."""
    path, _, name = path.partition("@")
    for found in find_all(element, path.rstrip("/")):
        text = attribute(found, name) if name else (found.text or "").strip() or None
        if text is not None:
            return text
    return None
