"""The gate of the contract: no schema may change so that somebody cannot read any more what was or will be written.

`python -m schemas.compatibility` compares every schema in `avro/` with all its versions in `history/`, and prints what is wrong.
With `--freeze` it then stores each changed schema as the next version: do that with every change, and commit both files.

Inbound records are BACKWARD_TRANSITIVE: we read what any client writes by any version it ever got. All others are FULL_TRANSITIVE:
besides, every reader out there, however old, reads what we write. What breaks these rules is another record on another topic
(`loyalty.transactions.v2`), beside the old one until nobody uses that.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, get_args

import avro.compatibility
import avro.errors
import avro.schema

from schemas import avsc
from schemas.contract import Command

INBOUND = frozenset(command.SCHEMA for command in get_args(Command))


class Mode(StrEnum):
    """Who has to be able to read what."""

    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    FULL_TRANSITIVE = "FULL_TRANSITIVE"


def mode_of(record: str) -> Mode:
    return Mode.BACKWARD_TRANSITIVE if record in INBOUND else Mode.FULL_TRANSITIVE


def problems(record: str, schema: avsc.Schema, history: Sequence[avsc.Schema]) -> list[str]:
    """Why `schema` cannot follow the versions in `history`, one sentence each; empty if it can."""
    found = []
    for number, older in enumerate(history, 1):
        for why in _unreadable(reader=schema, writer=older):
            found.append(f"{record}: what was written by version {number} cannot be read: {why}")
        if mode_of(record) is Mode.FULL_TRANSITIVE:
            for why in _unreadable(reader=older, writer=schema):
                found.append(f"{record}: readers of version {number} could not read it: {why}")
        found += [f"{record}: {why} (version {number})" for why in _broken_house_rules(record, older, schema)]
    return found


def check() -> list[str]:
    """What is wrong with the schemas of this checkout, including those that were changed and not frozen."""
    found = []
    for record, schema in avsc.load_all().items():
        history = avsc.history_of(record)
        found += problems(record, schema, history)
        if not history or history[-1] != schema:
            found.append(f"{record}: differs from its newest stored version; if meant, run: python -m schemas.compatibility --freeze")
    stored = {path.name for path in avsc.HISTORY.iterdir()} if avsc.HISTORY.exists() else set()
    found += [f"{record}: has a history but no schema any more" for record in sorted(stored - avsc.load_all().keys())]
    return found


def freeze() -> list[str]:
    """Store every changed schema and return what was written. The caller has made sure that there are no problems.

    A change of documentation alone changes no byte on the wire: it replaces the newest version instead of making another one.
    """
    written = []
    for record, schema in avsc.load_all().items():
        history = avsc.history_of(record)
        if history and history[-1] == schema:
            continue
        documentation_only = bool(history) and _without_docs(history[-1]) == _without_docs(schema)
        number = len(history) + (not documentation_only)
        path = avsc.HISTORY / record / f"{number}.avsc"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
        written.append(f"{record} version {number}" + (": documentation only" if documentation_only else ""))
    return written


def _unreadable(*, reader: avsc.Schema, writer: avsc.Schema) -> list[str]:
    try:
        parsed_reader, parsed_writer = avro.schema.parse(json.dumps(reader)), avro.schema.parse(json.dumps(writer))
    except avro.errors.AvroException as error:
        return [f"it is not a valid Avro schema: {error}"]
    checker = avro.compatibility.ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
    result = checker.get_compatibility(parsed_reader, parsed_writer)
    if result.compatibility is avro.compatibility.SchemaCompatibilityType.compatible:
        return []
    kinds = ", ".join(sorted({kind.value for kind in result.incompatibilities}))
    return [f"{kinds} ({'; '.join(sorted(result.messages))}) at {', '.join(sorted(result.locations))}"]


def _broken_house_rules(record: str, older: avsc.Schema, newer: avsc.Schema) -> Iterator[str]:
    """What Avro allows and we do not."""
    if older.get("namespace") != newer.get("namespace"):
        # The Avro library of Python compares names without it, those of other languages do not.
        yield f"the namespace changes from {older.get('namespace')} to {newer.get('namespace')}"
    symbols = {name: set(enum["symbols"]) for name, enum in _named(newer, "enum")}
    for name, enum in _named(older, "enum"):
        # Avro reads a removed symbol as the default, UNKNOWN: what was stored would lose its meaning in silence.
        if gone := set(enum["symbols"]) - symbols.get(name, set()):
            yield f"{name} loses {', '.join(sorted(gone))}: symbols stay for ever"
    if record not in INBOUND:
        return
    known = {name: {field["name"] for field in inner["fields"]} for name, inner in _named(older, "record")}
    for name, inner in _named(newer, "record"):
        for field in inner["fields"]:
            # Other defaults would change the payload_hash of older commands, and their repetitions would become conflicts.
            optional = isinstance(field["type"], list) and field["type"][0] == "null" and field.get("default", "") is None
            if name in known and field["name"] not in known[name] and not optional:
                yield f"{name}.{field['name']} is new and not [null, ...] with the default null"


def _named(schema: Any, kind: str) -> Iterator[tuple[str, avsc.Schema]]:
    """Every definition of a record or an enum in the schema, by name."""
    if isinstance(schema, list):
        for branch in schema:
            yield from _named(branch, kind)
    elif isinstance(schema, dict):
        if schema.get("type") == kind:
            yield schema["name"], schema
        for inner in [schema.get("type"), schema.get("items"), schema.get("values"), *schema.get("fields", [])]:
            yield from _named(inner, kind)


def _without_docs(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_docs(branch) for branch in schema]
    if isinstance(schema, dict):
        return {key: _without_docs(value) for key, value in schema.items() if key != "doc"}
    return schema


def main(arguments: Sequence[str]) -> int:
    """The command line. 0: all is well, 1: something is wrong, 2: unknown arguments."""
    if list(arguments) not in ([], ["--freeze"]):
        print("usage: python -m schemas.compatibility [--freeze]", file=sys.stderr)
        return 2
    if arguments:
        breaking = [why for record, schema in avsc.load_all().items() for why in problems(record, schema, avsc.history_of(record))]
        if breaking:
            print("\n".join([*breaking, "Nothing was frozen. A breaking change is another record on another topic, see this module."]))
            return 1
        for line in freeze():
            print(f"frozen: {line}")
    found = check()
    print("\n".join(found) if found else f"{len(avsc.load_all())} schemas are compatible with all their versions.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
