"""What the delivery audit says became of a member's events -> what the destination is said to lack, and why."""

from typing import Any

import pytest

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import DeliveryAudit, DeliveryResult
from schemas.registry import LocalRegistry
from streams.agreement import judging
from streams.agreement.deliveries import Deliveries
from streams.agreement.model import Cause

KEY = member_key("grand", "M-1")
DELIVERED, DEAD, SKIPPED, DROPPED = DeliveryResult.DELIVERED, DeliveryResult.DEAD_LETTERED, DeliveryResult.SKIPPED, DeliveryResult.DROPPED


def audit(sequence: int, result: DeliveryResult, destination: str = "app", reason: str = "", **more: Any) -> DeliveryAudit:
    reason = reason or ("OPERATOR" if result is SKIPPED else f"why {sequence}")
    return DeliveryAudit(
        delivery_id=f"dlv_{sequence}", destination=destination, event_id=f"evt_{sequence}", program_id="grand", member_id="M-1", sequence=sequence,
        kind="BALANCE_CHANGED", result=result, reason=reason, attempts=1, command_id="pos:1", source_system="pos", occurred_at_ms=1,
        ingested_at_ms=1, recorded_at_ms=1, ended_at_ms=1, chain_number=1, previous_hash="", record_hash="", **more,
    )  # fmt: skip


@pytest.mark.parametrize(("ends", "expected"), [
    ([(1, DELIVERED), (2, DELIVERED)], None),
    ([(1, DELIVERED), (2, DEAD)], (Cause.DEAD_LETTER, 2, "sequence 1")),
    ([(1, SKIPPED)], (Cause.SKIPPED, 1, "sequence 0")),
    ([(1, DELIVERED), (2, DROPPED)], (Cause.DROPPED, 2, "sequence 1")),
    ([(1, DELIVERED), (2, DEAD), (3, SKIPPED)], (Cause.SKIPPED, 3, "sequence 1")),
    ([(1, DEAD), (2, DELIVERED)], None),  # A later event says all that the one before it said of the account.
    ([(2, DELIVERED), (1, DEAD)], None),  # In whatever order they end.
    ([(2, DEAD), (2, DELIVERED)], None),  # A replay has brought it.
])  # fmt: skip
def test_what_was_given_up_is_named(ends: list[tuple[int, DeliveryResult]], expected: tuple[Cause, int, str] | None) -> None:
    deliveries = Deliveries(Codec(LocalRegistry()), {})
    for sequence, result in ends:
        deliveries.add_audit(audit(sequence, result))
    found = [one for (destination, key), taken in deliveries.taken.items() for one in judging.given_up(destination, key, taken)]
    if expected is None:
        assert found == []
        return
    (one,) = found
    assert (one.cause, one.sequence, one.here) == expected
    assert (one.store, one.member_id, one.record_id, one.detail) == (
        "destination:app", "M-1", f"evt_{expected[1]}", "OPERATOR" if expected[0] is Cause.SKIPPED else f"why {expected[1]}"
    )
    assert one.repair == judging.REPLAYED


def test_a_connected_system_without_the_member_lacks_nothing() -> None:
    deliveries = Deliveries(Codec(LocalRegistry()), {})
    deliveries.add_audit(audit(1, SKIPPED, "salesforce", reason="MEMBER_UNKNOWN"))
    assert list(judging.given_up("salesforce", KEY, deliveries.taken["salesforce", KEY])) == []


def test_a_record_of_the_end_settles_what_is_owed_to_that_destination_alone() -> None:
    deliveries = Deliveries(Codec(LocalRegistry()), {})
    deliveries.owed = {("app", KEY, 1): ("evt_1", 5), ("app", KEY, 2): ("evt_2", 6), ("crm", KEY, 1): ("evt_1", 5)}
    deliveries.add_audit(audit(1, DEAD))
    assert set(deliveries.owed) == {("app", KEY, 2), ("crm", KEY, 1)}
    one = judging.unrecorded(("crm", KEY, 1), *deliveries.owed["crm", KEY, 1])
    assert (one.store, one.cause, one.sequence, one.record_id) == ("destination:crm", Cause.MISSING, 1, "evt_1")
    deliveries.next_members()
    assert not deliveries.owed and not deliveries.taken
