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


def history_of(record: str) -> list[Schema]:
    """The stored versions of one record's schema, oldest first. The newest equals the schema in force."""
    paths = sorted((HISTORY / record).glob("*.avsc"), key=lambda path: int(path.stem))
    return [json.loads(path.read_text()) for path in paths]
