"""The schema files, and the records made from them."""

import dataclasses
from typing import Any

import pytest

from schemas import avsc, generate
from streams import topics
from tests.schemas.strategies import RECORDS

SCHEMAS = avsc.load_all()


def test_records_are_current() -> None:
    assert generate.TARGET.read_text() == generate.render(), "run: python -m schemas.generate"


def test_every_file_is_named_like_its_record() -> None:
    for path in avsc.FOLDER.glob("*.avsc"):
        assert path.stem.replace("_", "") in {name.lower() for name in SCHEMAS}
    assert len(list(avsc.FOLDER.glob("*.avsc"))) == len(SCHEMAS)


def test_every_topic_has_a_schema() -> None:
    assert {topic.record.SCHEMA for topic in topics.ALL} <= SCHEMAS.keys()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SCHEMAS)
def test_everything_has_a_doc(name: str) -> None:
    silent = [place for place, part in parts(SCHEMAS[name], name) if len(part.get("doc", "")) < 10]
    assert silent == []


@pytest.mark.parametrize("name", SCHEMAS)
def test_names_carry_units_and_enums_a_way_out(name: str) -> None:
    for place, part in parts(SCHEMAS[name], name):
        kind = part["type"]
        if isinstance(kind, dict) and kind.get("logicalType") == "timestamp-millis":
            assert part["name"].endswith("_ms"), place
        if isinstance(kind, list):
            assert kind[0] == "null" and "default" in part and part["default"] is None, f"{place}: optional fields default to null"
        if kind == "enum":
            assert part["symbols"][0] == part["default"] == "UNKNOWN", f"{place}: an older reader needs a symbol for what it does not know"


def test_no_floats() -> None:
    """Points and money are whole numbers."""
    for schema in SCHEMAS.values():
        assert not {"float", "double"} & set(types(schema))


def types(schema: Any) -> list[str]:
    """The name of every type that is used in a schema."""
    if isinstance(schema, list):
        return [found for branch in schema for found in types(branch)]
    if isinstance(schema, str):
        return [schema]
    inner = [schema["type"], *(schema[place] for place in ("items", "values") if place in schema)]
    return [found for part in inner + [field["type"] for field in schema.get("fields", [])] for found in types(part)]


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_class_has_the_fields_of_the_schema(name: str) -> None:
    assert RECORDS[name].SCHEMA == name
    assert [field.name for field in dataclasses.fields(RECORDS[name])] == [field["name"] for field in SCHEMAS[name]["fields"]]


def parts(schema: Any, place: str) -> list[tuple[str, dict[str, Any]]]:
    """Every record, enum and field in a schema, with its path."""
    if isinstance(schema, list):
        return [found for branch in schema for found in parts(branch, place)]
    if not isinstance(schema, dict):
        return []
    found = [(place, schema)] if schema["type"] in ("record", "enum") else []
    for field in schema.get("fields", []):
        here = f"{place}.{field['name']}"
        found += [(here, field), *parts(field["type"], here)]
    for inner in ("items", "values"):
        found += parts(schema.get(inner), place)
    return found
