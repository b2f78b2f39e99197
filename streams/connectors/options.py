"""A table of the configuration -> the options that a connector declares, typed and with their defaults."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from streams.connectors.contract import Option
from streams.toml_lines import join
from streams.toml_reader import TomlReader


def read(reader: TomlReader, place: str, table: Mapping[str, Any], options: Sequence[Option], *, others: Collection[str]) -> dict[str, Any]:
    """Values by name; what is wrong is the reader's problem. `others`: keys of the table that the machinery reads."""
    files = {f"{option.name}_file" for option in options if option.is_secret}
    reader.check_keys(place, table, {*others, *(option.name for option in options), *files})
    return {option.name: _read(reader, place, table, option) for option in options}


def _read(reader: TomlReader, place: str, table: Mapping[str, Any], option: Option) -> Any:
    here = join(place, option.name)
    if option.is_secret:
        value = reader.secret(place, table, option.name, required=option.is_required) or option.default
    elif option.is_url:
        value = reader.url(place, table, option.name, required=option.is_required) or option.default
    elif option.type is float:
        given = table.get(option.name)
        value = float(given) if type(given) is int else reader.value(place, table, option.name, float, option.default, required=option.is_required)
    else:
        value = reader.value(place, table, option.name, option.type, option.default, required=option.is_required)
    texts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    if not all(isinstance(text, str) for text in texts):
        reader.problem(here, "must hold texts alone")
        return option.default
    if option.is_required and table.get(option.name) == "":
        reader.problem(here, "must not be empty")
    if option.choices and value not in option.choices:
        reader.problem(here, f"must be one of {', '.join(option.choices)}, not {value!r}")
    wrong = option.wrong(value) if value != option.default else ""
    if wrong:
        reader.problem(here, wrong)
        return option.default
    return value
