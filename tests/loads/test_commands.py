"""Rows -> commands by a mapping, and every row that is none with its reason."""

import tomllib
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.contract import Command
from schemas.currencies import MINOR_UNIT_DIGITS
from schemas.records import Enrolment, LineItem, MemberOperation, MemberStatus, OfferActivation, ProfileChange, Transaction, TransactionKind
from streams.errors import ConfigurationError
from streams.loads.commands import Converter
from streams.loads.mapping import STREAMS, LoadMapping, parse
from tests.loads.mappings import postings

PMS = postings("%d.%m.%Y %H:%M", "Europe/Berlin", columns='pts = "points"\ncur = "currency"', more='[csv]\ndecimal_mark = ","')
STAY = {"folio": "17", "guest": "M-1", "posted": "03.05.2024 11:30", "type": "stay", "total": "420,00", "pts": "", "cur": ""}
MAPPED = Converter(parse(tomllib.loads(PMS), Transaction), "grand", "pms")
PLAIN = {"member_id": "M-1", "transaction_id": "t-1", "occurred_at": "2024-05-03T09:30:00Z", "kind": "EARN", "points": "5"}


def converter(record: type[Command] = Transaction, toml: str = "") -> Converter:
    return Converter(parse(tomllib.loads(toml), record), "grand", "pms")


def reasons(made: Any) -> list[str]:
    return [reject.reason for reject in made] if isinstance(made, list) else []


def test_a_row_by_a_mapping() -> None:
    assert MAPPED(STAY) == Transaction(
        program_id="grand", member_id="M-1", transaction_id="pms:17", source_system="pms", occurred_at_ms=1_714_728_600_000,
        kind=TransactionKind.EARN, amount_minor=42_000, currency="EUR",
    )  # fmt: skip
    yen = MAPPED(STAY | {"total": "4200", "cur": "JPY"})
    assert isinstance(yen, Transaction) and (yen.amount_minor, yen.currency) == (4_200, "JPY")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"folio": ""}, ["ID_INCOMPLETE"]),
        ({"folio": "4.2E+11"}, ["NUMBER_SHORTENED"]),
        ({"guest": "4,2e11"}, ["NUMBER_SHORTENED"]),
        ({"guest": "=A1&A2"}, ["FORMULA"]),
        ({"guest": ""}, ["FIELD_REQUIRED"]),
        ({"guest": "x" * 129}, ["ID_INVALID"]),
        ({"posted": "2024-05-03"}, ["TIME_INVALID"]),
        ({"posted": "31.02.2024 10:00"}, ["TIME_INVALID"]),
        ({"posted": "27.10.2024 02:30"}, ["TIME_TWICE"]),
        ({"posted": "31.03.2024 02:30"}, ["TIME_SKIPPED"]),
        ({"type": "Stay"}, ["WORD_UNKNOWN"]),
        ({"total": "420.00"}, ["NUMBER_INVALID"]),
        ({"total": "1e3"}, ["NUMBER_INVALID"]),
        ({"total": "1.234,00"}, ["NUMBER_INVALID"]),
        ({"total": "NaN"}, ["NUMBER_INVALID"]),
        ({"total": "420,001"}, ["AMOUNT_INEXACT"]),
        ({"total": "0,5", "cur": "JPY"}, ["AMOUNT_INEXACT"]),
        ({"total": "1", "cur": "euro"}, ["CURRENCY_REQUIRED"]),
        ({"total": "-1,00"}, ["AMOUNT_INVALID"]),
        ({"total": "", "pts": "1,5"}, ["NUMBER_INVALID"]),
        ({"total": "", "pts": "٣"}, ["NUMBER_INVALID"]),
        ({"total": "", "pts": "99999999999999999999"}, ["NUMBER_INVALID"]),
        ({"total": "", "pts": "=1+1"}, ["FORMULA"]),
        ({"total": "", "pts": "0"}, ["POINTS_NOT_POSITIVE"]),
        ({"pts": "5"}, ["POINTS_AND_AMOUNT"]),
        ({"type": "reward"}, ["POINTS_REQUIRED"]),
        ({"guest": "=1", "posted": "?", "total": "1e3"}, ["FORMULA", "TIME_INVALID", "NUMBER_INVALID"]),
    ],
)
def test_rows_that_are_none(changes: dict[str, str], found: list[str]) -> None:
    assert reasons(MAPPED(STAY | changes)) == found


def test_a_row_without_a_mapping() -> None:
    convert = converter()
    made = convert(PLAIN | {"line_items": [{"amount_minor": 5, "sku": 7}], "currency": "EUR", "clerk": "x", "_line": "9", "source_system": "pms"})
    assert isinstance(made, Transaction) and made.line_items == (LineItem(amount_minor=5, sku="7"),)
    assert convert.unused == {"clerk"}
    assert reasons(convert(PLAIN | {"source_system": "crm"})) == ["NOT_OF_THIS_LOAD"]
    assert reasons(convert(PLAIN | {"occurred_at_ms": "1"})) == ["SAID_TWICE"]
    assert reasons(convert({**PLAIN, "occurred_at": "2024-05-03T09:30:00"})) == ["TIME_WITHOUT_ZONE"]
    assert reasons(convert({**PLAIN, "transaction_id": ""})) == ["FIELD_REQUIRED"]
    assert reasons(convert(PLAIN | {"line_items": "a"})) == ["LINE_ITEM_INVALID"]
    assert reasons(convert(PLAIN | {"pending": "maybe"})) == ["BOOLEAN_INVALID"]
    assert reasons(convert(PLAIN | {"category": "\ud800"})) == ["TEXT_INVALID"]


@pytest.mark.parametrize(
    ("given", "points"),
    [("12.00", 12), (12, 12), (12.0, 12), (Decimal("1E+3"), 1_000), (12.5, None), (True, None), (float("nan"), None), (float("inf"), None), (2.0**60, None),
     ([1], None), ({}, None), (Decimal("NaN"), None)],
)  # fmt: skip
def test_numbers_of_other_types(given: Any, points: int | None) -> None:
    made = converter()(PLAIN | {"points": given})
    assert (made.points if isinstance(made, Transaction) else None) == points
    assert reasons(made) == ([] if points is not None else ["NUMBER_INVALID"])


@pytest.mark.parametrize(
    ("toml", "value", "ms"),
    [
        ("", datetime(2024, 5, 3, 9, 30, tzinfo=UTC), 1_714_728_600_000), ("", "2024-05-03t11:30:00.5+0200", 1_714_728_600_500),
        ("", datetime(2024, 5, 3, 9, 30), None), ("", date(2024, 5, 3), None), ("", 1_714_728_600, None), ("", "2024-05-03", None),
        ("[times]\nformat = 'unix_s'", "1714728600", 1_714_728_600_000), ("[times]\nformat = 'unix_ms'", 1_714_728_600_000, 1_714_728_600_000),
        ("[times]\nformat = 'unix_s'", "1.7e9", None), ("[times]\nformat = '%Y-%m-%d'\ntime_zone = 'Asia/Kolkata'", "2024-05-03", 1_714_674_600_000),
        ("[times]\ntime_zone = 'Europe/Berlin'\ntwice = 'first'", "2024-10-27T02:30:00", 1_729_989_000_000),
        ("[times]\ntime_zone = 'Europe/Berlin'\ntwice = 'second'", "2024-10-27T02:30:00", 1_729_992_600_000),
    ],
)  # fmt: skip
def test_times(toml: str, value: Any, ms: int | None) -> None:
    made = converter(toml=toml)(PLAIN | {"occurred_at": value})
    assert (made.occurred_at_ms if isinstance(made, Transaction) else None) == ms, made


@given(st.integers(0, 10**15), st.sampled_from(sorted(MINOR_UNIT_DIGITS)))
def test_money_comes_back_exactly(minor: int, currency: str) -> None:
    digits = MINOR_UNIT_DIGITS[currency]
    text = f"{Decimal(minor).scaleb(-digits):.{digits}f}"
    row = {name: value for name, value in PLAIN.items() if name != "points"} | {"amount": text, "currency": currency}
    made = converter()(row)
    assert isinstance(made, Transaction) and made.amount_minor == minor


def test_profiles() -> None:
    said = {"member_id": "M-1", "id": "c-1", "occurred_at": "2020-01-01T00:00:00Z", "attributes.given_name": "Ada", "external_ids.card": 4711.0,
            "segments": "spa; golf;;spa", "attributes.phone": ""}  # fmt: skip
    enrolled = converter(Enrolment)(said)
    assert isinstance(enrolled, Enrolment)
    assert (enrolled.attributes, enrolled.external_ids, enrolled.segments) == ({"given_name": "Ada"}, {"card": "4711"}, ("golf", "spa"))
    cleared = converter(ProfileChange, "empty = 'clears'\n[statuses]\nfired = 'SUSPENDED'")(said | {"status": "fired"})
    assert isinstance(cleared, ProfileChange)
    assert (cleared.attributes, cleared.status) == ({"given_name": "Ada", "phone": None}, MemberStatus.SUSPENDED)
    nested = converter(Enrolment)({"member_id": "M-1", "event_id": "c-1", "occurred_at_ms": 1, "attributes": [("a", "b")], "external_ids": {"card": "1"}})
    assert isinstance(nested, Enrolment) and (nested.attributes, nested.external_ids) == ({"a": "b"}, {"card": "1"})
    assert reasons(converter(Enrolment)(said | {"attributes": "x"})) == ["MAP_INVALID"]


def test_the_other_streams() -> None:
    common = {"member_id": "M-1", "id": "c-1", "occurred_at": "2020-01-01T00:00:00Z"}
    assert isinstance(converter(OfferActivation)(common | {"offer_id": "double"}), OfferActivation)
    tier = {"kind": "SET_TIER", "tier": "GOLD", "valid_until": "2027-01-01T00:00:00Z", "reason": "history", "actor": "crm"}
    made = converter(MemberOperation)(common | tier)
    assert isinstance(made, MemberOperation) and (made.tier, made.valid_until_ms) == ("GOLD", 1_798_761_600_000)
    assert set(STREAMS.values()) == {Transaction, Enrolment, ProfileChange, OfferActivation, MemberOperation}


@pytest.mark.parametrize(
    ("toml", "line", "why"),
    [
        ("column = 1", 1, "is not known here"),
        ("[columns]\na = 'point'", 2, "is no field of Transaction"),
        ("[columns]\na = 'points'\nb = ['points']", 3, "which 'a' says already"),
        ("[columns]\na = 7", 2, "must be the name of a field"),
        ("[constants]\ntransaction_id = 'x'", 2, "can have in common"),
        ("id = 'pms'", 1, "must name a column in braces"),
        ("id = 'pms:{'", 1, "is not a text with columns"),
        ("[times]\ntime_zone = 'Berlin'", 2, "such as Europe/Berlin"),
        ("[times]\ntwice = 'both'", 2, "must be reject, first or second"),
        ("[kinds]\nstay = 'EARNED'", 2, "must be one of EARN"),
        ("[kinds]\nstay = ['EARN']", 2, "must be one of EARN"),
        ("[csv]\nencoding = 'utf-16'", 2, "line ends of more than one byte"),
        ("[csv]\nencoding = 'none'", 2, "such as UTF-8"),
        ("[csv]\ndelimiter = ';;'", 2, "one character"),
        ("[csv]\ndecimal_mark = '·'", 2, "must be '.' or ','"),
        ("empty = 'x'", 1, "unchanged or clears"),
        ("separator = ''", 1, "must not be empty"),
    ],
)
def test_mappings_that_must_be_mended(toml: str, line: int, why: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(tomllib.loads(toml), Transaction, file="m.toml", text=toml)
    assert f"m.toml line {line}: " in str(raised.value) and why in str(raised.value)


def test_a_mapping_alone_means_nothing_of_a_row() -> None:
    """The default is the record's own names."""
    assert LoadMapping(record=Transaction) == parse({}, Transaction)
