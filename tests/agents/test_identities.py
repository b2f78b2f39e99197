"""External ids in the shell: addressed commands go to whom an id leads to, or wait at the id's partition and are counted."""

from dataclasses import replace

import pytest

from schemas.records import (
    CommandResult,
    DeadLetter,
    LoyaltyEvent,
    LoyaltyEventKind,
    MemberOperation,
    MemberOperationKind,
    ProfileChange,
    Relay,
    RelayKind,
    SyncAudit,
)
from streams import metrics
from streams.agents import keep_accounts
from streams.domain.identity import pseudonym
from tests.agents.test_keep_accounts import EARN, ENROLMENT, GRAND, INGESTED_MS, MERGE, NOW_MS, PARTITION_OF, Desk

CARD = "@card:4711"
SHOWN = "@card:" + pseudonym(b"k" * 16, "grand", "card", "4711")
KEY = b"grand/" + CARD.encode()
ROW_KEY = b"grand/\0i:" + SHOWN[1:].encode()
HOLDER = replace(ENROLMENT, external_ids={"card": "4711"})
ADDRESSED = replace(EARN, member_id=CARD)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The card is in partition 1, its members are in partition 0."""
    monkeypatch.setitem(PARTITION_OF, KEY, 1)
    desk = Desk()
    for partition in (0, 1):
        desk.publish(GRAND, partition)
    desk.sent.clear()
    return desk


def kinds(relays: list[Relay]) -> list[RelayKind]:
    return [relay.kind for relay in relays]


def test_a_command_to_a_card_is_decided_at_its_member(desk: Desk) -> None:
    desk.receive(HOLDER)
    assert kinds(desk.deliver()) == [RelayKind.IDENTITY_CLAIM]
    assert desk.others["identities"][ROW_KEY].member_id == "m-1"
    one = desk.receive(ADDRESSED)
    assert desk.answers[1:] == [], "the id's partition does not answer"
    assert kinds(desk.deliver()) == [RelayKind.ADDRESSED]
    audit = desk.records(SyncAudit)[-1]
    assert (audit.member_id, audit.command_id, audit.result, audit.available_points) == ("m-1", "t-1", CommandResult.APPLIED, 100)
    place = (audit.stream, audit.topic, audit.partition, audit.offset, audit.correlation_id, audit.ingested_at_ms)
    assert place == ("transactions", one.topic, 1, one.offset, "c-1", INGESTED_MS)
    desk.receive(EARN)
    assert desk.records(SyncAudit)[-1].replayed, "by number it is the same command"


def test_what_comes_before_the_id_waits_and_is_decided_in_order(desk: Desk) -> None:
    for number in (1, 2, 3):
        desk.receive(replace(ADDRESSED, transaction_id=f"t-{number}"))
    waiting = [(audit.member_id, audit.result) for audit in desk.records(SyncAudit)]
    assert waiting == [(SHOWN, CommandResult.WAITING)] * 3
    assert len(desk.others["waiting"][KEY].commands) == 3
    published = b"".join((one.key or b"") + (one.value or b"") for one in desk.sent)
    assert b"4711" not in published
    desk.receive(HOLDER)
    desk.deliver()
    assert KEY not in desk.others["waiting"]
    assert [(audit.command_id, audit.member_id, audit.audit_id.endswith("-released")) for audit in desk.records(SyncAudit)[4:]] == [
        ("t-1", "m-1", True), ("t-2", "m-1", True), ("t-3", "m-1", True),
    ]  # fmt: skip
    assert desk.tables["accounts"][b"grand/m-1"].available_points == 300


def test_an_id_that_is_linked_later_releases_as_well(desk: Desk) -> None:
    desk.receive(ADDRESSED)
    desk.receive(ENROLMENT)
    desk.deliver()
    assert KEY in desk.others["waiting"]
    link = ProfileChange(
        program_id="grand", member_id="m-1", event_id="p-1", source_system="crm", occurred_at_ms=2_000, external_ids={"card": "4711"}
    )
    desk.receive(link)
    desk.deliver()
    assert desk.tables["accounts"][b"grand/m-1"].available_points == 100


def test_a_second_member_is_told_and_loses_the_id(desk: Desk) -> None:
    before = metrics.IDENTITY_CONFLICTS._value.get()
    for command in (HOLDER, replace(HOLDER, member_id="m-3", event_id="e-3")):
        desk.receive(command)
    assert kinds(desk.deliver()) == [
        RelayKind.IDENTITY_CLAIM, RelayKind.IDENTITY_CLAIM, RelayKind.IDENTITY_REFUSED, RelayKind.IDENTITY_RELEASE
    ]  # fmt: skip
    event = desk.records(LoyaltyEvent)[-1]
    assert (event.kind, event.member_id, event.identity_type, event.counter_member_id) == (LoyaltyEventKind.IDENTITY_CONFLICT, "m-3", "card", "m-1")
    assert desk.tables["accounts"][b"grand/m-3"].external_ids == {}
    assert desk.others["identities"][ROW_KEY].member_id == "m-1"
    assert metrics.IDENTITY_CONFLICTS._value.get() == before + 1


def test_a_relay_that_comes_again_is_no_news(desk: Desk) -> None:
    desk.receive(HOLDER)
    (claim,) = desk.deliver()
    erase = MemberOperation(
        program_id="grand", member_id="m-1", event_id="x-9", source_system="crm", occurred_at_ms=2_000, kind=MemberOperationKind.ERASE,
        reason="asked for", actor="agent-7",
    )  # fmt: skip
    desk.receive(erase)
    assert kinds(desk.deliver()) == [RelayKind.IDENTITY_RELEASE]
    desk._handle(claim, KEY, 1, INGESTED_MS)
    assert desk.others["identities"] == {}


def test_a_card_of_a_merged_member_leads_to_who_took_over(desk: Desk) -> None:
    for command in (HOLDER, replace(ENROLMENT, member_id="m-2", event_id="e-2"), MERGE):
        desk.receive(command)
    desk.deliver()
    desk.receive(ADDRESSED)
    assert kinds(desk.deliver()) == [RelayKind.ADDRESSED, RelayKind.FORWARD]
    audit = desk.records(SyncAudit)[-1]
    assert (audit.member_id, audit.command_id, audit.result, audit.correlation_id) == ("m-2", "m-1/t-1", CommandResult.APPLIED, "c-1")


def test_too_many_for_a_card_are_dead_letters(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_accounts, "WAITING_COMMANDS_MAX", 3)
    for number in range(4):
        desk.receive(replace(ADDRESSED, transaction_id=f"t-{number}"))
    assert [letter.reason for letter in desk.records(DeadLetter)] == ["WAITING_FULL"]
    assert len(desk.others["waiting"][KEY].commands) == 3


def gauges(partition: int) -> tuple[float, float]:
    return metrics.WAITING_COMMANDS.labels(partition)._value.get(), metrics.WAITING_OLDEST_SECONDS.labels(partition)._value.get()


def test_ticks_tell_how_many_wait_and_how_long(desk: Desk) -> None:
    desk.tick(10_000)
    assert gauges(0) == (0, 0)
    desk.receive(replace(EARN, member_id="m-8"), at_ms=4_000)
    desk.receive(replace(EARN, member_id="m-9"), at_ms=3_000)
    desk.receive(replace(EARN, member_id="m-9", transaction_id="t-2"), at_ms=8_000)
    desk.tick(11_000)
    assert gauges(0) == (3, 8)
    for member_id in ("m-8", "m-9"):
        desk.receive(replace(ENROLMENT, member_id=member_id))
    desk.tick(12_000)
    assert gauges(0) == (0, 0)


def test_a_large_table_is_counted_over_several_ticks(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_accounts, "WAITING_ROWS_PER_TICK", 2)
    for number in range(5):
        desk.receive(replace(EARN, member_id=f"m-1{number}"))
    desk.tick(5_000)
    desk.tick(6_000)
    assert gauges(0)[0] == 0, "not before the end of the walk"
    desk.tick(7_000)
    assert gauges(0) == (5, 4)
    assert NOW_MS == 5_000, "the age is by the log's time, not by the worker's"


def test_whoever_gives_a_partition_up_says_nothing_of_it(desk: Desk) -> None:
    desk.receive(replace(EARN, member_id="m-8"))
    desk.tick(5_000)
    desk.handler.leave(0)
    shown = [sample.labels for sample in metrics.WAITING_COMMANDS.collect()[0].samples]
    assert {"partition": "0"} not in shown
    desk.handler.leave(0)
