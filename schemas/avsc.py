"""avro/*.avsc -> parsed schemas: the one place that reads the schema files."""

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "avro"
HISTORY = Path(__file__).parent / "history"

Schema = dict[str, Any]


@cache
def load_all() -> dict[str, Schema]:
    """Record name -> its schema as written, for every file in `avro/`, in the order of the file names."""
    schemas = (json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.avsc")))
    return {schema["name"]: schema for schema in schemas}


def expanded(schema: Any, defined: dict[str, Schema] | None = None) -> Any:
    """The schema with every type in full wherever it is used: Avro defines a name once in a file and then refers to it."""
    defined = {} if defined is None else defined
    if isinstance(schema, str):
        return defined.get(schema, schema)
    if isinstance(schema, list):
        return [expanded(branch, defined) for branch in schema]
    whole = dict(schema)
    for place in ("type", "items", "values"):
        if place in whole:
            whole[place] = expanded(whole[place], defined)
    if "fields" in whole:
        whole["fields"] = [expanded(field, defined) for field in whole["fields"]]
    if whole.get("type") in ("record", "enum"):
        defined[f"{whole['namespace']}.{whole['name']}"] = whole
    return whole


def history_of(record: str) -> list[Schema]:
    """The stored versions of one record's schema, oldest first. The newest equals the schema in force."""
    paths = sorted((HISTORY / record).glob("*.avsc"), key=lambda path: int(path.stem))
    return [json.loads(path.read_text()) for path in paths]
