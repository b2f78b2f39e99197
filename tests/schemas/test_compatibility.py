"""The gate lets through what nobody is hurt by, and stops what breaks a reader, a writer or the memory of commands."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas import avsc, compatibility
from schemas.compatibility import Mode, mode_of, problems
from streams import topics

INBOUND, OUTBOUND, STATE = "Transaction", "LoyaltyEvent", "Account"


def test_the_schemas_pass() -> None:
    assert compatibility.check() == []


@pytest.mark.parametrize("name", avsc.load_all())
def test_the_newest_version_is_the_schema_in_force(name: str) -> None:
    assert avsc.history_of(name)[-1:] == [avsc.load_all()[name]], "run: python -m schemas.compatibility --freeze"


@pytest.mark.parametrize("name", avsc.load_all())
def test_versions_are_numbered_without_gaps(name: str) -> None:
    numbers = sorted(int(path.stem) for path in (avsc.HISTORY / name).glob("*.avsc"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_inbound_is_what_the_topics_say() -> None:
    assert compatibility.INBOUND == {topic.record.SCHEMA for topic in topics.INBOUND}  # type: ignore[attr-defined]
    assert (mode_of(INBOUND), mode_of(OUTBOUND), mode_of(STATE)) == (Mode.BACKWARD_TRANSITIVE, Mode.FULL_TRANSITIVE, Mode.FULL_TRANSITIVE)


def field(schema: Any, name: str) -> Any:
    return next(field for field in schema["fields"] if field["name"] == name)


def without(name: str) -> Callable[[Any], None]:
    return lambda schema: schema["fields"].remove(field(schema, name))


def with_field(**new: Any) -> Callable[[Any], None]:
    return lambda schema: schema["fields"].append(new)


def with_type(name: str, avro: Any) -> Callable[[Any], None]:
    return lambda schema: field(schema, name).update(type=avro)


def renamed(old: str, new: str) -> Callable[[Any], None]:
    return lambda schema: field(schema, old).update(name=new)


def without_symbol(name: str, symbol: str) -> Callable[[Any], None]:
    return lambda schema: field(schema, name)["type"]["symbols"].remove(symbol)


def with_symbol(name: str, symbol: str) -> Callable[[Any], None]:
    return lambda schema: field(schema, name)["type"]["symbols"].append(symbol)


def without_enum_default(schema: Any) -> None:
    kind = field(schema, "kind")["type"]
    del kind["default"]
    kind["symbols"].append("NEW")


def required_in_line_items(schema: Any) -> None:
    field(schema, "line_items")["type"]["items"]["fields"].append({"name": "shelf", "type": "string"})


def defaulted_in_line_items(schema: Any) -> None:
    field(schema, "line_items")["type"]["items"]["fields"].append({"name": "shelf", "type": "string", "default": ""})


def changed(record: str, change: Callable[[Any], object]) -> Any:
    schema = copy.deepcopy(avsc.load_all()[record])
    change(schema)
    assert schema != avsc.load_all()[record]
    return schema


BREAKING = [
    ("a field that readers need is removed", OUTBOUND, without("event_id"), "reader_field_missing_default_value"),
    ("a field that the state needs is removed", STATE, without("tier"), "reader_field_missing_default_value"),
    ("a field without default is added", OUTBOUND, with_field(name="new", type="string"), "reader_field_missing_default_value"),
    ("the same inbound", INBOUND, with_field(name="new", type="string"), "reader_field_missing_default_value"),
    ("a field is renamed", OUTBOUND, renamed("event_id", "id"), "reader_field_missing_default_value"),
    ("a field is renamed inbound", INBOUND, renamed("transaction_id", "id"), "reader_field_missing_default_value"),
    ("a number becomes a text", STATE, with_type("available_points", "string"), "type_mismatch"),
    ("a number gets narrower", INBOUND, with_type("occurred_at_ms", "int"), "type_mismatch"),
    ("a number gets wider, which older readers do not know", "DeadLetter", with_type("partition", "long"), "type_mismatch"),
    ("an optional field becomes required", INBOUND, with_type("points", "long"), "type_mismatch"),
    ("a required field becomes optional outbound", OUTBOUND, with_type("sequence", ["null", "long"]), "type_mismatch"),
    ("another branch in a union outbound", OUTBOUND, with_type("offer_id", ["null", "string", "long"]), "missing_union_branch"),
    ("the record is renamed", OUTBOUND, lambda schema: schema.update(name="Event"), "name_mismatch"),
    ("the namespace changes", OUTBOUND, lambda schema: schema.update(namespace="loyalty.v2"), "namespace changes"),
    ("a symbol is removed outbound", OUTBOUND, without_symbol("kind", "VOUCHER_ISSUED"), "loses VOUCHER_ISSUED"),
    ("a symbol is removed inbound", INBOUND, without_symbol("kind", "ADJUST"), "loses ADJUST"),
    ("a symbol is added while older readers have no default", OUTBOUND, without_enum_default, ""),
    ("a required field in a nested record", INBOUND, required_in_line_items, "reader_field_missing_default_value"),
    ("inbound, a default would change the hashes", INBOUND, with_field(name="n", type="long", default=1), "not [null, ...]"),
    ("the same in a nested record", INBOUND, defaulted_in_line_items, "LineItem.shelf is new"),
    ("inbound, optional but without default", INBOUND, with_field(name="n", type=["null", "long"]), "reader_field_missing_default_value"),
    ("no Avro schema at all", STATE, with_type("tier", "text"), "not a valid Avro schema"),
]


@pytest.mark.parametrize(("what", "record", "change", "why"), BREAKING, ids=[case[0] for case in BREAKING])
def test_breaking_changes_are_stopped(what: str, record: str, change: Callable[[Any], object], why: str) -> None:
    history = [avsc.load_all()[record]]
    if change is without_enum_default:
        # Older readers without the default are what breaks here: make them the history.
        history = [changed(record, lambda schema: field(schema, "kind")["type"].pop("default"))]
    found = problems(record, changed(record, change), history)
    assert found and all(line.startswith(f"{record}: ") for line in found)
    assert why in "\n".join(found)


ALLOWED = [
    ("an optional field", OUTBOUND, with_field(name="n", type=["null", "long"], default=None)),
    ("an optional field inbound", INBOUND, with_field(name="n", type=["null", "long"], default=None)),
    ("a field with a default outbound", STATE, with_field(name="n", type="long", default=0)),
    ("a symbol more, which older readers take for UNKNOWN", OUTBOUND, with_symbol("kind", "NEW")),
    ("a symbol more inbound", INBOUND, with_symbol("kind", "NEW")),
    ("a field with a default is removed", OUTBOUND, without("shortfall_points")),
    ("inbound, any field is removed that no reader here misses", INBOUND, without("actor")),
    ("inbound, a required field becomes optional", INBOUND, with_type("source_system", ["null", "string"])),
    ("other documentation", OUTBOUND, lambda schema: schema.update(doc="Something else entirely.")),
]


@pytest.mark.parametrize(("what", "record", "change"), ALLOWED, ids=[case[0] for case in ALLOWED])
def test_harmless_changes_pass(what: str, record: str, change: Callable[[Any], object]) -> None:
    assert problems(record, changed(record, change), [avsc.load_all()[record]]) == []


def test_all_versions_count_not_just_the_last() -> None:
    """Removed, then added again with another type: the last version would not notice."""
    first = avsc.load_all()[OUTBOUND]
    second = changed(OUTBOUND, without("shortfall_points"))
    third = copy.deepcopy(second)
    third["fields"].append({"name": "shortfall_points", "type": ["null", "string"], "default": None})
    assert problems(OUTBOUND, second, [first]) == []
    assert problems(OUTBOUND, third, [second]) == []
    assert "version 1" in "\n".join(problems(OUTBOUND, third, [first, second]))


class Checkout:
    """A copy of the schemas in which to change and to freeze."""

    def __init__(self, history: Path, schemas: dict[str, Any]) -> None:
        self.history, self.schemas = history, schemas

    def change(self, change: Callable[[Any], object]) -> None:
        change(self.schemas[OUTBOUND])


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    schemas = copy.deepcopy(avsc.load_all())
    monkeypatch.setattr(avsc, "HISTORY", tmp_path)
    monkeypatch.setattr(avsc, "load_all", lambda: schemas)
    assert compatibility.main(["--freeze"]) == 0
    return Checkout(tmp_path / OUTBOUND, schemas)


def versions(checkout: Checkout) -> list[str]:
    return sorted(path.name for path in checkout.history.iterdir())


def test_freezing_appends_a_version(checkout: Checkout, capsys: pytest.CaptureFixture[str]) -> None:
    checkout.change(with_symbol("kind", "NEW"))
    capsys.readouterr()
    assert compatibility.main([]) == 1
    assert "--freeze" in capsys.readouterr().out
    assert compatibility.main(["--freeze"]) == 0
    assert "frozen: LoyaltyEvent version 2" in capsys.readouterr().out
    assert versions(checkout) == ["1.avsc", "2.avsc"]
    assert json.loads((checkout.history / "2.avsc").read_text()) == checkout.schemas[OUTBOUND]
    assert compatibility.main([]) == compatibility.main(["--freeze"]) == 0
    assert versions(checkout) == ["1.avsc", "2.avsc"]


def test_documentation_makes_no_version(checkout: Checkout) -> None:
    checkout.change(lambda schema: schema.update(doc="Another sentence."))
    assert compatibility.main(["--freeze"]) == 0
    assert versions(checkout) == ["1.avsc"]
    assert json.loads((checkout.history / "1.avsc").read_text())["doc"] == "Another sentence."


def test_freezing_refuses_a_breaking_change_and_says_why(checkout: Checkout, capsys: pytest.CaptureFixture[str]) -> None:
    checkout.change(without("event_id"))
    checkout.schemas["Account"]["doc"] = "Something harmless."
    assert compatibility.main(["--freeze"]) == 1
    said = capsys.readouterr().out
    assert "LoyaltyEvent: readers of version 1 could not read it" in said and "event_id" in said and "Nothing was frozen" in said
    assert versions(checkout) == ["1.avsc"]
    assert "Something harmless." not in (checkout.history.parent / "Account" / "1.avsc").read_text()


def test_a_schema_that_disappears_is_noticed(checkout: Checkout) -> None:
    del checkout.schemas[OUTBOUND]
    assert compatibility.check() == ["LoyaltyEvent: has a history but no schema any more"]


def test_unknown_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert compatibility.main(["--force"]) == 2
    assert "usage" in capsys.readouterr().err
