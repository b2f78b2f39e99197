"""Tables of the configuration -> options; every problem with its place."""

from pathlib import Path
from typing import Any

import pytest

from streams import configuration
from streams.configuration import POLL_EVERY_S_MIN
from streams.connectors import options
from streams.connectors.contract import Option
from streams.connectors.registry import CONNECTORS, KINDS
from streams.errors import ConfigurationError
from streams.toml_reader import TomlReader

OPTIONS = (
    Option(name="base_url", doc=".", is_required=True, is_url=True),
    Option(name="password", doc=".", is_secret=True, is_required=True),
    Option(name="page", doc=".", type=int, default=100, wrong=lambda value: "" if value > 0 else "must be 1 or more"),
    Option(name="overlap_s", doc=".", type=float, default=300.0),
    Option(name="settle", doc=".", default="activate", choices=("activate", "replace")),
    Option(name="map", doc=".", type=dict, default={}),
    Option(name="words", doc=".", type=list, default=[]),
    Option(name="is_strict", doc=".", type=bool, default=False),
)
GOOD = {"base_url": "https://x.example", "password": "fake-password"}
DEFAULTS = {"page": 100, "overlap_s": 300.0, "settle": "activate", "map": {}, "words": [], "is_strict": False}


def read(table: dict[str, Any], folder: Path = Path(".")) -> tuple[dict[str, Any], list[str]]:
    reader = TomlReader(folder)
    found = options.read(reader, "sources.x", table, OPTIONS, others={"kind"})
    return found, [problem.place for problem in reader.problems]


def test_defaults_are_filled_in() -> None:
    assert read(GOOD | {"kind": "x"}) == (GOOD | DEFAULTS, [])


def test_values_are_read_with_their_types(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("fake-password\n")
    table = {"base_url": "https://x.example", "password_file": "secret", "page": 7, "overlap_s": 5, "settle": "replace", "map": {"a": "b"}, "words": ["c"]}
    found, problems = read(table | {"is_strict": True}, tmp_path)
    assert not problems
    assert found == GOOD | {"page": 7, "overlap_s": 5.0, "settle": "replace", "map": {"a": "b"}, "words": ["c"], "is_strict": True}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"base_url": None}, "base_url"), ({"base_url": "ftp://x"}, "base_url"), ({"base_url": ""}, "base_url"), ({"password": None}, "password"),
        ({"password": ""}, "password"), ({"password_file": "nowhere"}, "password_file"), ({"page": "7"}, "page"), ({"page": True}, "page"),
        ({"page": 0}, "page"), ({"overlap_s": "5"}, "overlap_s"), ({"overlap_s": True}, "overlap_s"), ({"settle": "ignore"}, "settle"),
        ({"map": {"a": 1}}, "map"), ({"words": [1]}, "words"), ({"words": "c"}, "words"), ({"is_strict": 1}, "is_strict"), ({"basis_url": "x"}, "basis_url"),
        ({"base_url_file": "x"}, "base_url_file"),
    ],
)  # fmt: skip
def test_every_problem_has_its_place(change: dict[str, Any], place: str) -> None:
    table = {name: value for name, value in (GOOD | change).items() if value is not None}
    assert read(table)[1] == [f"sources.x.{place}"]


def test_every_option_can_be_configured() -> None:
    """Of each connector: names that are free, defaults of their types, and defaults that are right."""
    for kind in KINDS:
        connector = CONNECTORS[kind]
        assert connector.kind == kind and connector.title
        for half in (connector.source_options, connector.target_options):
            assert len({option.name for option in half}) == len(half), kind
            for option in half:
                place = f"{kind}.{option.name}"
                assert option.doc.endswith((".", ":")) and option.name not in ("kind", "program", "poll_every_s", "programs"), place
                assert isinstance(option.default, option.type), place
                assert not option.choices or option.default in option.choices, place
                assert option.is_required or not option.wrong(option.default) or option.default == "", place
                assert not (option.is_required and option.default), place


def parse(**source: Any) -> configuration.Configuration:
    programs = {"grand": {"earn": {"points_per_unit": {"EUR": 1}}, "tiers": [{"name": "MEMBER", "threshold_points": 0}]}}
    return configuration.parse({"programs": programs, "sources": {"x": {"program": "grand"} | source}})


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ({}, "sources.x.kind"),
        ({"kind": "nobody"}, "sources.x.kind"),
        ({"kind": "hr", "secret": "too-short"}, "sources.x.secret"),
        ({"kind": "hr", "secret": "whsec_" + "QUFB" * 10, "poll_every_s": 5}, "sources.x.poll_every_s"),
        ({"kind": "hr", "secret": "whsec_" + "QUFB" * 10, "program": "silver"}, "sources.x.program"),
        ({"kind": "workday", "base_url": "https://x.example", "tenant": "t", "poll_every_s": POLL_EVERY_S_MIN / 2}, "sources.x.poll_every_s"),
    ],
)  # fmt: skip
def test_sources_that_are_wrong(source: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigurationError, match=place) as caught:
        parse(**source)
    assert "too-short" not in str(caught.value)


def test_the_cadence_of_polls_is_one_of_the_options() -> None:
    found = parse(kind="workday", base_url="https://x.example", tenant="t", poll_every_s=5)
    assert found.sources["x"].options["poll_every_s"] == 5.0
