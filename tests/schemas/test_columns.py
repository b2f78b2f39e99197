"""Columns of a batch are what the codec makes of each record, whatever the bytes are."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from schemas.codec import Codec
from schemas.columns import ITEMS_MAX, ColumnDecoder
from schemas.records import LedgerEntry, MemberProfile, MemberStatus, ProfileOperation, SyncAudit
from schemas.registry import LocalRegistry
from streams.errors import ContractError
from tests.schemas.strategies import RECORDS, records

CODEC = Codec(LocalRegistry())
FEW = settings(max_examples=8, deadline=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))


def singly(name: str, values: list[bytes | None]) -> tuple[dict[int, dict[str, Any]], dict[int, tuple[str, str]]]:
    good: dict[int, dict[str, Any]] = {}
    errors: dict[int, tuple[str, str]] = {}
    for place, data in enumerate(values):
        try:
            good[place] = CODEC.decode_fields(data, RECORDS[name])
        except ContractError as error:
            errors[place] = (error.reason, error.detail)
    return good, errors


def check(name: str, values: list[bytes | None]) -> None:
    decoded = ColumnDecoder(CODEC, RECORDS[name]).decode(values)
    good, errors = singly(name, values)
    assert {place: (error.reason, error.detail) for place, error in decoded.errors.items()} == errors
    assert sorted(decoded.places.tolist()) == sorted(good)
    order = pa.array([list(good).index(place) for place in decoded.places.tolist()], type=pa.int64())
    for field, column in decoded.fields.items():
        assert column.equals(pa.array([fields[field] for fields in good.values()], type=column.type).take(order)), field


@pytest.mark.parametrize("name", list(RECORDS))
@FEW
@given(data=st.data())
def test_columns_are_what_the_codec_decodes(name: str, data: st.DataObject) -> None:
    check(name, [CODEC.encode(record) for record in data.draw(st.lists(records(name), max_size=5))])


def _flipped(data: bytes, at: int, bit: int) -> bytes:
    place = at % len(data)
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def damages() -> st.SearchStrategy[Any]:
    """What may happen to the bytes of a record."""
    places = st.integers(0, 10_000)
    return st.one_of(
        st.just(lambda data: data),
        st.builds(lambda at, bit: lambda data: _flipped(data, at, bit), places, st.integers(0, 7)),
        st.builds(lambda at: lambda data: data[: at % len(data)], places),
        st.builds(lambda more: lambda data: data + more, st.binary(min_size=1, max_size=9)),
        st.builds(lambda at, n: lambda data: data[: at % len(data)] + b"\xff" * n + data[at % len(data) + 1 :], places, st.integers(1, 12)),
        st.sampled_from([None, b"", b"\0", b"poison"]).map(lambda instead: lambda data: instead),
    )


@pytest.mark.parametrize("name", ["LedgerEntry", "LoyaltyEvent", "MemberProfile", "SyncAudit", "DeliveryAttempt", "DeadLetter"])
@settings(FEW, max_examples=40)
@given(data=st.data())
def test_bytes_that_are_no_record_are_found_and_spoil_no_other(name: str, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(st.tuples(records(name), damages()), min_size=1, max_size=6))
    check(name, [damage(CODEC.encode(record)) for record, damage in drawn])


def test_lists_that_are_long_and_records_of_an_older_schema_are_decoded_one_by_one() -> None:
    few, many = (
        MemberProfile(
            program_id="grand", member_id="m-1", version=1, operation=ProfileOperation.ENROL, attributes={}, segments=tuple(map(str, range(number))),
            status=MemberStatus.ACTIVE, tier="GOLD", changed=(), source_system="crm", valid_from_ms=1, ingested_at_ms=2, recorded_at_ms=3,
        )
        for number in (3, ITEMS_MAX + 1)
    )  # fmt: skip
    check("MemberProfile", [CODEC.encode(many), CODEC.encode(few)])
    for record in (LedgerEntry, SyncAudit):
        check(record.SCHEMA, [CODEC.encode(few)])
