"""avro/*.avsc -> records.py: `python -m schemas.generate` writes it; a test fails while it is not current.

Each Avro record becomes a frozen dataclass, each enum a StrEnum. Optional fields (`["null", T]`) become `T | None`,
arrays tuples, maps read-only Mappings. `from_avro` and `to_avro` convert from and to what fastavro reads and writes.
"""

import textwrap
from pathlib import Path
from typing import Any

from schemas import avsc

TARGET = Path(__file__).parent / "records.py"
WIDTH = 140
PRIMITIVES = {"string": "str", "long": "int", "int": "int", "boolean": "bool", "bytes": "bytes", "double": "float"}

COPIED = {"Account", "DeliveryAudit", "Lot", "Outcome", "PartitionClock", "SyncAudit"}
"""Records of which the ledger makes changed copies, several for each command: they get a method for that."""

HEADER = '''"""Generated from avro/*.avsc by `python -m schemas.generate`. Do not edit: change the schema and generate again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar
'''


def render() -> str:
    """The text of records.py for the schemas as they are on disk. Raises ValueError when two files define one name differently."""
    types: dict[str, Any] = {}
    for schema in avsc.load_all().values():
        _collect(avsc.expanded(schema), types)
    return HEADER + "".join(_render_enum(t) if t["type"] == "enum" else _render_record(t) for t in types.values())


def _collect(schema: Any, types: dict[str, Any]) -> None:
    """Gather named types into `types`, inner ones first, so that each is defined before it is used."""
    if isinstance(schema, list):
        for branch in schema:
            _collect(branch, types)
    elif isinstance(schema, dict):
        for inner in [f["type"] for f in schema.get("fields", [])] + [schema.get("items"), schema.get("values")]:
            _collect(inner, types)
        if schema["type"] in ("record", "enum"):
            known = types.setdefault(schema["name"], schema)
            if known != schema:
                raise ValueError(f"{schema['name']} is defined in two files, differently")


def _python_type(avro: Any) -> str:
    if isinstance(avro, list):
        return f"{_python_type(_optional(avro))} | None"
    if isinstance(avro, str):
        return PRIMITIVES[avro]
    kind = avro["type"]
    if kind == "array":
        return f"tuple[{_python_type(avro['items'])}, ...]"
    if kind == "map":
        return f"Mapping[str, {_python_type(avro['values'])}]"
    return str(avro["name"]) if kind in ("record", "enum") else PRIMITIVES[kind]


def _optional(union: list[Any]) -> Any:
    if len(union) != 2 or union[0] != "null":
        raise ValueError(f"only [null, T] unions are supported, not {union}")
    return union[1]


def _convert(avro: Any, value: str, *, reading: bool) -> str:
    """The expression that turns `value` into the other form; `value` itself where both forms are the same."""
    if isinstance(avro, list):
        inner = _convert(_optional(avro), value, reading=reading)
        return value if inner == value else f"None if {value} is None else {inner}"
    if isinstance(avro, str):
        return value
    kind = avro["type"]
    if kind == "array":
        inner = _convert(avro["items"], "x", reading=reading)
        items = value if inner == "x" else f"({inner} for x in {value})"
        return f"{'tuple' if reading else 'list'}({items})"
    if kind == "map" and not reading:
        return f"dict({value})"
    if kind == "enum":
        return f"{avro['name']}({value})" if reading else f"{value}.value"
    if kind == "record":
        return f"{avro['name']}.from_avro({value})" if reading else f"{value}.to_avro()"
    return value


def _default(field: dict[str, Any]) -> str:
    if "default" not in field:
        return ""
    value = field["default"]
    return " = ()" if value == [] else " = field(default_factory=dict)" if value == {} else f" = {value!r}"


def _doc(text: str, indent: str) -> str:
    return textwrap.fill(f'"""{text}"""', WIDTH, initial_indent=indent, subsequent_indent=indent)


def _render_enum(schema: dict[str, Any]) -> str:
    lines = [f"\n\nclass {schema['name']}(StrEnum):", _doc(schema["doc"], "    "), ""]
    return "\n".join(lines + [f'    {symbol} = "{symbol}"' for symbol in schema["symbols"]]) + "\n"


def _render_record(schema: dict[str, Any]) -> str:
    name, fields = schema["name"], schema["fields"]
    lines = ["\n\n@dataclass(frozen=True, slots=True, kw_only=True)", f"class {name}:", _doc(schema["doc"], "    "), ""]
    lines += [f'    SCHEMA: ClassVar[str] = "{name}"', ""]
    for field in fields:
        lines.append(f"    {field['name']}: {_python_type(field['type'])}{_default(field)}")
        lines.append(_doc(field["doc"], "    "))
    lines += ["", "    @classmethod", f'    def from_avro(cls, data: Mapping[str, Any]) -> "{name}":', "        return cls("]
    for field in fields:
        value = f'data["{field["name"]}"]'
        lines.append(f"            {field['name']}={_convert(field['type'], value, reading=True)},")
    lines += ["        )", "", "    def to_avro(self) -> dict[str, Any]:", "        return {"]
    for field in fields:
        lines.append(f'            "{field["name"]}": {_convert(field["type"], "self." + field["name"], reading=False)},')
    lines.append("        }")
    if name in COPIED:
        lines += ["", f'    def but(self, **changes: Any) -> "{name}":']
        lines += ['        """A copy with these fields changed: dataclasses.replace, in a third of its time."""']
        lines += [f"        copy, put = object.__new__({name}), object.__setattr__"]
        lines += [f'        put(copy, "{field["name"]}", self.{field["name"]})' for field in fields]
        lines += ["        for name, value in changes.items():", "            put(copy, name, value)", "        return copy"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render())
    print(f"{TARGET.name} written: {len(avsc.load_all())} schemas")
