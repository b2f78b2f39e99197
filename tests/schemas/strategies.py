"""Hypothesis strategies made from the schemas: any record that the contract's types allow."""

from typing import Any

from hypothesis import strategies as st

import schemas.records
from schemas import avsc

RECORDS: dict[str, Any] = {name: getattr(schemas.records, name) for name in avsc.load_all()}
"""Record name -> generated class, for every schema file."""

PRIMITIVES: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "string": st.text(max_size=20),
    "bytes": st.binary(max_size=20),
}


def values(schema: Any) -> st.SearchStrategy[Any]:
    """What fastavro reads and writes for the schema."""
    if isinstance(schema, list):
        return st.one_of([values(branch) for branch in schema])
    if isinstance(schema, str):
        return PRIMITIVES[schema]
    match schema["type"]:
        case "record":
            return st.fixed_dictionaries({field["name"]: values(field["type"]) for field in schema["fields"]})
        case "enum":
            return st.sampled_from(schema["symbols"])
        case "array":
            return st.lists(values(schema["items"]), max_size=3)
        case "map":
            return st.dictionaries(st.text(max_size=8), values(schema["values"]), max_size=3)
    return values(schema["type"])


def records(name: str) -> st.SearchStrategy[Any]:
    return values(avsc.expanded(avsc.load_all()[name])).map(RECORDS[name].from_avro)


@st.composite
def any_record(draw: st.DrawFn) -> Any:
    return draw(records(draw(st.sampled_from(sorted(RECORDS)))))
