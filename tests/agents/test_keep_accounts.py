"""One inbound record -> tables and outbound records, without a broker: the shell keeps what the domain says and loses nothing."""

import logging
from dataclasses import replace
from typing import Any

import pytest

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import (
    CommandResult,
    DeadLetter,
    DeadLetterStage,
    Enrolment,
    LedgerEntry,
    LoyaltyEvent,
    LoyaltyEventKind,
    MemberProfile,
    SyncAudit,
    Transaction,
    TransactionKind,
)
from schemas.registry import LocalRegistry
from streams import topics
from streams.agents.keep_accounts import WAITING_COMMANDS_MAX, KeepAccounts, Tables
from streams.domain.program import Program, Tier
from streams.engine import Input, Poison

CODEC = Codec(LocalRegistry())
GRAND = Program(program_id="grand", tiers=(Tier(name="MEMBER", threshold_points=0), Tier(name="GOLD", threshold_points=1000)), voucher_key=b"k" * 16)
ENROLMENT = Enrolment(program_id="grand", member_id="m-1", event_id="e-1", source_system="crm", occurred_at_ms=1_000)
EARN = Transaction(
    program_id="grand", member_id="m-1", transaction_id="t-1", source_system="pms", occurred_at_ms=2_000, kind=TransactionKind.EARN, points=100
)
REDEEM = replace(EARN, transaction_id="t-2", kind=TransactionKind.REDEEM, points=60)
NOW_MS = 5_000


class Desk:
    """The handler with dictionaries for tables, and what it sent."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, Any]] = {"accounts": {}, "outcomes": {}, "waiting": {}}
        self.sent: list[tuple[str, bytes | None, bytes | None, Any]] = []
        self.handler = KeepAccounts(
            Tables(**self.tables), codec=CODEC, programs={"grand": GRAND}, prefix="loyalty", partition_of=lambda key: 0, clock_ms=lambda: NOW_MS
        )
        self._offset = 0

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Any = None) -> None:
        self.sent.append((topic, key, value, headers))

    def receive(self, command: Any, *, key: bytes | None = None, partition: int = 0) -> Input:
        topic = next(topic for topic in topics.INBOUND if topic.record is type(command))
        one = Input(
            topic.name("loyalty"), partition, self._offset, 3_000, key or member_key(command.program_id, command.member_id),
            CODEC.encode(command), (("correlation_id", b"c-1"),), command,
        )  # fmt: skip
        self._offset += 1
        self.handler.handle(one, self)  # type: ignore[arg-type]
        return one

    def records(self, record_type: type) -> list[Any]:
        name = next(topic.name("loyalty") for topic in topics.OUTBOUND if topic.record is record_type)
        return [CODEC.decode(value, record_type) for topic, _, value, _ in self.sent if topic == name]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_enrolment_and_an_earn_reach_every_outbound_topic(desk: Desk) -> None:
    desk.receive(ENROLMENT)
    desk.receive(EARN)
    assert [(event.kind, event.sequence, event.account.available_points) for event in desk.records(LoyaltyEvent)] == [
        (LoyaltyEventKind.MEMBER_ENROLLED, 1, 0),
        (LoyaltyEventKind.BALANCE_CHANGED, 2, 100),
    ]
    assert [(entry.points_delta, entry.balance_after) for entry in desk.records(LedgerEntry)] == [(100, 100)]
    assert [profile.version for profile in desk.records(MemberProfile)] == [1]
    audits = desk.records(SyncAudit)
    assert [(audit.result, audit.correlation_id, audit.ingested_at_ms, audit.recorded_at_ms) for audit in audits] == [
        (CommandResult.APPLIED, "c-1", 3_000, NOW_MS)
    ] * 2
    assert desk.tables["accounts"][b"grand/m-1"].available_points == 100
    assert {key for _, key, _, _ in desk.sent} == {b"grand/m-1"}
    assert {headers["correlation_id"] for _, _, _, headers in desk.sent} == {b"c-1"}


def test_a_repetition_gets_the_first_answer_and_changes_nothing(desk: Desk) -> None:
    for command in (ENROLMENT, EARN, EARN):
        desk.receive(command)
    first, again = desk.records(SyncAudit)[1:]
    assert (again.replayed, again.result, again.available_points, again.points_delta) == (True, first.result, 100, 100)
    assert len(desk.records(LedgerEntry)) == 1
    assert desk.tables["accounts"][b"grand/m-1"].available_points == 100


def test_another_payload_under_the_same_id_is_a_conflict(desk: Desk) -> None:
    for command in (ENROLMENT, EARN, replace(EARN, points=999)):
        desk.receive(command)
    assert desk.records(SyncAudit)[-1].result is CommandResult.CONFLICT
    assert desk.tables["accounts"][b"grand/m-1"].available_points == 100


def test_commands_before_the_enrolment_wait_and_are_released_in_order(desk: Desk) -> None:
    desk.receive(EARN)
    desk.receive(REDEEM)
    assert [audit.result for audit in desk.records(SyncAudit)] == [CommandResult.WAITING] * 2
    assert desk.records(LoyaltyEvent) == []
    desk.receive(ENROLMENT)
    assert [(audit.command_id, audit.result) for audit in desk.records(SyncAudit)[2:]] == [
        ("e-1", CommandResult.APPLIED),
        ("t-1", CommandResult.APPLIED),
        ("t-2", CommandResult.APPLIED),
    ]
    assert [audit.audit_id.endswith("-released") for audit in desk.records(SyncAudit)] == [False, False, False, True, True]
    assert desk.tables["accounts"][b"grand/m-1"].available_points == 40
    assert desk.tables["waiting"] == {}


def test_a_wrong_member_id_cannot_fill_the_waiting_table(desk: Desk) -> None:
    for number in range(WAITING_COMMANDS_MAX + 1):
        desk.receive(replace(EARN, transaction_id=f"t-{number}"))
    assert len(desk.tables["waiting"][b"grand/m-1"].commands) == WAITING_COMMANDS_MAX
    assert [letter.reason for letter in desk.records(DeadLetter)] == ["WAITING_FULL"]


@pytest.mark.parametrize(
    ("command", "where", "reason"),
    [
        (replace(EARN, points=-1), {}, "POINTS_NOT_POSITIVE"),
        (replace(EARN, points=None), {}, "POINTS_OR_AMOUNT_REQUIRED"),
        (replace(EARN, kind=TransactionKind.UNKNOWN), {}, "KIND_UNKNOWN"),
        (replace(EARN, program_id="other"), {}, "PROGRAM_UNKNOWN"),
        (EARN, {"key": b"grand/m-2"}, "KEY_MISMATCH"),
        (EARN, {"partition": 1}, "PARTITION_MISMATCH"),
    ],
)
def test_what_breaks_the_contract_is_a_dead_letter_with_the_whole_record(
    desk: Desk, command: Transaction, where: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    desk.receive(ENROLMENT)
    with caplog.at_level(logging.WARNING):
        one = desk.receive(command, **where)
    (letter,) = desk.records(DeadLetter)
    assert (letter.stage, letter.reason, letter.offset) == (DeadLetterStage.CONTRACT, reason, one.offset)
    assert (letter.key, letter.value, letter.topic, letter.partition) == (one.key, one.value, one.topic, one.partition)
    assert CODEC.decode(letter.value, Transaction) == command
    assert [line.getMessage() for line in caplog.records] == ["record.dead_lettered"]
    assert desk.tables["accounts"][b"grand/m-1"].available_points == 0


def test_a_bug_in_the_handler_becomes_a_dead_letter_too(desk: Desk) -> None:
    one = Input("loyalty.transactions.v1", 2, 7, 3_000, b"grand/m-1", b"bytes", (("x", b"y"),))
    out = desk.handler.dead_letter(Poison(one, "HANDLER", "KeyError", "KeyError in settle, line 1"))
    letter = CODEC.decode(out.value, DeadLetter)
    assert (out.topic, out.key) == ("loyalty.dead-letters.v1", b"grand/m-1")
    assert (letter.stage, letter.reason, letter.headers, letter.dead_letter_id) == (
        DeadLetterStage.HANDLER, "KeyError", {"x": b"y"}, "worker-loyalty.transactions.v1-2-7",
    )  # fmt: skip
