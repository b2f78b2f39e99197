"""A chain shows whatever was done to it: every bit of every field, a record that is gone, is new, has moved or is another's."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import DeliveryAudit, SyncAudit
from streams.audit.verification import Chain, Fault, Verifier, link_of
from streams.domain.audit_chain import Record, chained
from tests.audit.chains import altered, chain, delivery_audits, names, sync_audits
from tests.sinks import examples

COUNT = 6
SYNC, DELIVERY = sync_audits(COUNT), delivery_audits(COUNT)
LATER = sync_audits(12)[4:]
"""Retention has taken the first four."""


def verify(records: list[Record], **options: Any) -> Chain:
    verifier = Verifier(**options)
    for offset, record in enumerate(records):
        verifier.add(link_of(record, 0, f"offset {offset}"))
    (found,) = verifier.finish()
    return found


def fault(records: list[Record], **options: Any) -> tuple[Fault, int] | None:
    broken = verify(records, **options).broken
    return None if broken is None else (broken.fault, broken.number)


@pytest.mark.parametrize("records", [SYNC, DELIVERY, LATER])
def test_a_whole_chain(records: list[Any]) -> None:
    found = verify(records)
    assert found.broken is None
    assert (found.records, found.last_number, found.last_hash) == (len(records), records[-1].chain_number, records[-1].record_hash)
    assert found.beginning_is_gone is (records is LATER)


@pytest.mark.parametrize("name", names(SyncAudit))
@given(place=st.integers(0, COUNT - 1), bit=st.integers(0, 40))
def test_a_flipped_bit_in_any_field(name: str, place: int, bit: int) -> None:
    changed = [*SYNC[:place], altered(SYNC[place], name, bit), *SYNC[place + 1 :]]
    broken = verify(changed).broken
    assert broken is not None and (broken.fault, broken.place) == (Fault.CHANGED, f"offset {place}")


@pytest.mark.parametrize("name", [name for name in names(DeliveryAudit) if name != "destination"])
@given(place=st.integers(0, COUNT - 1), bit=st.integers(0, 40))
def test_a_flipped_bit_in_any_field_of_a_delivery(name: str, place: int, bit: int) -> None:
    changed = [*DELIVERY[:place], altered(DELIVERY[place], name, bit), *DELIVERY[place + 1 :]]
    broken = verify(changed).broken
    assert broken is not None and (broken.fault, broken.place) == (Fault.CHANGED, f"offset {place}")


def test_a_delivery_that_is_given_to_another_destination_breaks_both_chains() -> None:
    verifier = Verifier()
    for record in [*DELIVERY[:2], DELIVERY[2].but(destination="app"), *DELIVERY[3:]]:
        verifier.add(link_of(record, 0, "here"))
    app, crm = verifier.finish()
    assert (app.name, app.broken and app.broken.fault) == ("delivery-audit/0/app", Fault.CHANGED)
    assert (crm.name, crm.broken and crm.broken.fault) == ("delivery-audit/0/crm", Fault.MISSING)


@pytest.mark.parametrize("records", [SYNC, LATER])
@given(data=st.data())
def test_a_removed_record(records: list[SyncAudit], data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(records) - 2))
    assert fault(records[:place] + records[place + 1 :]) == (Fault.MISSING, records[place].chain_number)


@pytest.mark.parametrize("records", [SYNC, LATER])
@given(data=st.data())
def test_two_swapped_records(records: list[SyncAudit], data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.integers(0, len(records) - 1), min_size=2, max_size=2)))
    swapped = list(records)
    swapped[places[0]], swapped[places[1]] = swapped[places[1]], swapped[places[0]]
    found = fault(swapped)
    assert found is not None and found[0] in (Fault.REORDERED, Fault.REPLACED)


@given(place=st.integers(0, COUNT - 1), at=st.integers(0, COUNT - 1))
def test_an_added_record(place: int, at: int) -> None:
    """A repetition, wherever it stands: also one with a number and hash that were made for it."""
    later = place + 1 + at % (COUNT - place)
    assert fault([*SYNC[:later], SYNC[place], *SYNC[later:]]) == (Fault.DOUBLED, place + 1)
    forged = chained(examples.audit(99), place + 2, SYNC[place].record_hash)
    found = fault([*SYNC[: place + 1], forged, *SYNC[place + 1 :]])
    assert found == (None if place == COUNT - 1 else (Fault.DOUBLED, place + 2))


@given(place=st.integers(0, COUNT - 2))
def test_a_record_that_was_made_anew_does_not_fit_its_successor(place: int) -> None:
    forged = chained(examples.audit(99), place + 1, SYNC[place].previous_hash)
    assert fault([*SYNC[:place], forged, *SYNC[place + 1 :]]) == (Fault.REPLACED, place + 2)


@given(place=st.integers(0, COUNT - 1))
def test_a_chain_that_was_made_anew_from_some_record_on_shows_by_its_anchor(place: int) -> None:
    anew = chain([*SYNC[:place], examples.audit(99), *SYNC[place + 1 :]])
    assert fault(anew) is None
    assert fault(anew, anchors={"sync-audit/0": {COUNT: SYNC[-1].record_hash}}) == (Fault.REPLACED, COUNT)


@given(left=st.integers(0, COUNT - 1))
def test_a_lost_end_shows_by_its_anchor(left: int) -> None:
    anchors = {"sync-audit/0": {COUNT: SYNC[-1].record_hash}}
    assert fault(SYNC[:left], anchors=anchors) == (Fault.MISSING, left + 1)
    assert fault(SYNC, anchors=anchors) is None


def test_an_anchor_that_retention_has_taken_says_nothing() -> None:
    assert fault(LATER, anchors={"sync-audit/0": {2: "0" * 64}}) is None


def test_records_from_before_there_were_chains() -> None:
    before = [examples.audit(number) for number in range(3)]
    found = verify([*before, *SYNC])
    assert (found.broken, found.unchained, found.records) == (None, 3, COUNT)
    assert fault([*before, *SYNC[2:]]) == (Fault.MISSING, 1)
    assert fault([*SYNC, before[0]]) == (Fault.CHANGED, COUNT + 1)


@pytest.mark.parametrize("number", [1, 2])
def test_only_the_first_record_has_no_predecessor(number: int) -> None:
    assert fault([chained(examples.audit(1), number, "0" * 64 if number == 1 else "")]) == (Fault.REPLACED, number)


def test_the_first_break_is_named() -> None:
    assert fault([SYNC[0], altered(SYNC[1], "actor"), SYNC[3]]) == (Fault.CHANGED, 2)
