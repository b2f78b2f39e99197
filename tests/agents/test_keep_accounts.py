"""One inbound record -> tables and outbound records, without a broker: the shell keeps what the domain says and loses nothing."""

import json
import logging
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import (
    Budget,
    CommandResult,
    DeadLetter,
    DeadLetterStage,
    Enrolment,
    EntryKind,
    LedgerEntry,
    LoyaltyEvent,
    LoyaltyEventKind,
    MemberOperation,
    MemberOperationKind,
    MemberProfile,
    MemberStatus,
    OfferActivation,
    ProgramVersion,
    Relay,
    RelayKind,
    SyncAudit,
    Tick,
    Transaction,
    TransactionKind,
)
from schemas.registry import LocalRegistry
from streams import programs, tables, topics
from streams.agents.keep_accounts import WAITING_COMMANDS_MAX, KeepAccounts, Tables, due_key
from streams.domain.program import DAY_MS
from streams.engine import Input, Poison

CODEC = Codec(LocalRegistry())
RULES: dict[str, Any] = {
    "earn": {"points_per_unit": {"EUR": 1}},
    "tiers": [{"name": "MEMBER", "threshold_points": 0}, {"name": "GOLD", "threshold_points": 1000}],
    "offers": {"rare": {"bonus_points": 10, "cap_points": 10, "budget_points": 10}},
    "idempotency_days": 30,
}
GRAND = ProgramVersion(program_id="grand", version=1, effective_from_ms=0, rules=json.dumps(RULES), published_by="tests")
ENROLMENT = Enrolment(program_id="grand", member_id="m-1", event_id="e-1", source_system="crm", occurred_at_ms=1_000)
EARN = Transaction(
    program_id="grand", member_id="m-1", transaction_id="t-1", source_system="pms", occurred_at_ms=2_000, kind=TransactionKind.EARN, points=100
)
REDEEM = replace(EARN, transaction_id="t-2", kind=TransactionKind.REDEEM, points=60)
TRANSFER = replace(EARN, transaction_id="t-3", kind=TransactionKind.TRANSFER, points=40, to_member_id="m-2")
ACTIVATION = OfferActivation(program_id="grand", member_id="m-1", event_id="o-1", source_system="app", occurred_at_ms=2_000, offer_id="rare")
MERGE = MemberOperation(
    program_id="grand", member_id="m-1", event_id="x-1", source_system="crm", occurred_at_ms=2_000, kind=MemberOperationKind.MERGE,
    target_member_id="m-2", reason="the same person", actor="agent-7",
)  # fmt: skip
NOW_MS = 5_000
INGESTED_MS = 3_000
PARTITION_OF = {b"grand/m-2": 1, b"grand/\0offer:rare": 1}
"""All others are in partition 0."""


class Table:
    """A table of two partitions, of which a handler sees the one whose unit is running."""

    def __init__(self, desk: "Desk") -> None:
        self._desk = desk
        self.partitions: tuple[dict[bytes, Any], dict[bytes, Any]] = ({}, {})

    @property
    def rows(self) -> dict[bytes, Any]:
        return self.partitions[self._desk.partition]

    def get(self, key: bytes, default: Any = None) -> Any:
        return self.rows.get(key, default)

    def __contains__(self, key: bytes) -> bool:
        return key in self.rows

    def __getitem__(self, key: bytes) -> Any:
        return self.rows[key]

    def __setitem__(self, key: bytes, value: Any) -> None:
        self.rows[key] = CODEC.decode(CODEC.encode(value), type(value))  # What cannot be stored shows here.

    def __delitem__(self, key: bytes) -> None:
        del self.rows[key]

    def scan(self, start: bytes, end: bytes | None, limit: int) -> list[tuple[bytes, Any]]:
        keys = sorted(key for key in self.rows if start <= key and (end is None or key < end))
        return [(key, self.rows[key]) for key in keys[:limit]]


@dataclass
class Sent:
    """A record that the handler sent, to a partition if it named one."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Any
    partition: int | None


@dataclass
class Desk:
    """The handler with dictionaries for tables, and what it sent."""

    partition: int = 0
    sent: list[Sent] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    relayed: int = 0

    def __post_init__(self) -> None:
        self.all = {name: Table(self) for name in tables.TABLES}
        self.handler = KeepAccounts(
            Tables(**self.all), codec=CODEC, parse_rules=lambda version: programs.from_record(version, b"k" * 16), prefix="loyalty",
            partition_of=lambda key: PARTITION_OF.get(key, 0), clock_ms=lambda: NOW_MS,
        )  # fmt: skip

    @property
    def tables(self) -> dict[str, dict[bytes, Any]]:
        """What partition 0 holds."""
        return {name: table.partitions[0] for name, table in self.all.items()}

    @property
    def others(self) -> dict[str, dict[bytes, Any]]:
        """What partition 1 holds."""
        return {name: table.partitions[1] for name, table in self.all.items()}

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Any = None, *, partition: int | None = None) -> None:
        self.sent.append(Sent(topic, key, value, headers, partition))

    def receive(self, command: Any, *, key: bytes | None = None, partition: int | None = None, at_ms: int = INGESTED_MS) -> Input:
        """A command, in the partition of its member unless another is given."""
        own = member_key(command.program_id, command.member_id)
        partition = PARTITION_OF.get(own, 0) if partition is None else partition
        return self._handle(command, key or own, partition, at_ms, (("correlation_id", b"c-1"),))

    def publish(self, version: ProgramVersion, partition: int = 0) -> Input:
        return self._handle(version, version.program_id.encode(), partition, INGESTED_MS)

    def tick(self, at_ms: int, *, due_members_max: int = 100, outcomes_max: int = 100) -> None:
        self._handle(Tick(partition=0, due_members_max=due_members_max, outcomes_max=outcomes_max), None, 0, at_ms)

    def deliver(self) -> list[Relay]:
        """Bring relays to their partitions until none is under way; returns them."""
        delivered = []
        while (relays := [one for one in self.sent if one.topic == "loyalty.relays.v1"][self.relayed :]):
            for one in relays:
                self.relayed += 1
                assert one.partition is not None
                relay = CODEC.decode(one.value, Relay)
                delivered.append(relay)
                self._handle(relay, one.key, one.partition, INGESTED_MS + 1)
        return delivered

    def _handle(self, record: Any, key: bytes | None, partition: int, at_ms: int, headers: Any = ()) -> Input:
        topic = next(topic for topic in topics.SOURCES if topic.record is type(record))
        one = Input(topic.name("loyalty"), partition, len(self.inputs), at_ms, key, CODEC.encode(record), headers, record)
        self.inputs.append(one)
        self.partition = partition
        self.handler.handle(one, self)  # type: ignore[arg-type]
        return one

    def records(self, record_type: type) -> list[Any]:
        name = next(topic.name("loyalty") for topic in (*topics.OUTBOUND, topics.RELAYS) if topic.record is record_type)
        return [CODEC.decode(one.value, record_type) for one in self.sent if one.topic == name]

    @property
    def answers(self) -> list[tuple[str, str, CommandResult, str | None]]:
        return [(audit.member_id, audit.command_id, audit.result, audit.reason) for audit in self.records(SyncAudit)]


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    for partition in (0, 1):
        desk.publish(GRAND, partition)
    desk.sent.clear()  # The rules have an audit record of their own.
    return desk


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
    assert {one.key for one in desk.sent} == {b"grand/m-1"}
    assert {one.headers["correlation_id"] for one in desk.sent} == {b"c-1"}


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


def test_an_erasure_of_nobody_removes_what_waits_and_does_not_wait_itself(desk: Desk) -> None:
    desk.receive(EARN)
    erase = replace(MERGE, event_id="privacy:1", kind=MemberOperationKind.ERASE, target_member_id=None)
    for _ in range(2):
        desk.receive(erase)
        assert desk.tables["waiting"] == {} == desk.tables["accounts"]
    audits = desk.records(SyncAudit)[-3:]
    assert [(audit.command_id, audit.result, audit.reason, audit.audit_id.endswith("-released")) for audit in audits] == [
        ("privacy:1", CommandResult.APPLIED, None, False),
        ("t-1", CommandResult.REFUSED, "MEMBER_ERASED", True),
        ("privacy:1", CommandResult.APPLIED, None, False),
    ], "nothing that came is without its answer"
    assert desk.records(LoyaltyEvent) == []
    desk.receive(ENROLMENT)
    assert desk.tables["accounts"][b"grand/m-1"].status is MemberStatus.ACTIVE, "who comes under this number later is somebody else"


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


# Rules come by the log.


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (replace(GRAND, version=3), "VERSION_GAP"),
        (replace(GRAND, program_id="other", version=2), "VERSION_GAP"),
        (replace(GRAND, rules=json.dumps({**RULES, "idempotency_days": 31})), "VERSION_CHANGED"),
        (replace(GRAND, published_by="somebody else"), "VERSION_CHANGED"),
        (replace(GRAND, version=2, rules="{"), "RULES_INVALID"),
        (replace(GRAND, version=2, rules=json.dumps({**RULES, "tiers": []})), "RULES_INVALID"),
    ],
)
def test_rules_that_cannot_be_taken_are_dead_letters_and_change_nothing(desk: Desk, version: ProgramVersion, reason: str) -> None:
    one = desk.publish(version)
    (letter,) = desk.records(DeadLetter)
    assert (letter.stage, letter.reason, letter.value) == (DeadLetterStage.CONTRACT, reason, one.value)
    assert [row.versions for row in desk.tables["programs"].values()] == [(GRAND,)]


def test_a_version_that_is_there_already_is_no_news(desk: Desk) -> None:
    desk.publish(GRAND)
    assert desk.sent == []
    assert desk.tables["programs"][b"grand"].versions == (GRAND,)


def test_a_new_version_is_in_force_for_what_happens_from_its_time_on(desk: Desk) -> None:
    desk.publish(replace(GRAND, version=2, effective_from_ms=2_500, rules=json.dumps({**RULES, "earn": {"points_per_unit": {"EUR": 7}}})))
    sale = replace(EARN, points=None, amount_minor=100, currency="EUR")
    for command in (ENROLMENT, replace(sale, occurred_at_ms=2_499), replace(sale, transaction_id="t-2", occurred_at_ms=2_500)):
        desk.receive(command)
    assert [(entry.points_delta, entry.rule_version) for entry in desk.records(LedgerEntry)] == [(1, 1), (7, 2)]


def test_a_programme_is_known_from_its_first_version_on(desk: Desk) -> None:
    elsewhere = replace(ENROLMENT, program_id="other")
    desk.receive(elsewhere)
    assert [letter.reason for letter in desk.records(DeadLetter)] == ["PROGRAM_UNKNOWN"]
    desk.publish(replace(GRAND, program_id="other"))
    desk.receive(elsewhere)
    audits = desk.records(SyncAudit)
    assert [(audit.program_id, audit.stream, audit.command_id, audit.result) for audit in audits] == [
        ("other", "programs", "version:1", CommandResult.APPLIED), ("other", "enrolments", "e-1", CommandResult.APPLIED),
    ]  # fmt: skip


# The time comes by ticks.


def expiries(desk: Desk) -> list[tuple[str, int]]:
    return [(entry.member_id, entry.points_delta) for entry in desk.records(LedgerEntry) if entry.kind is EntryKind.EXPIRY]


def test_a_tick_lets_happen_what_is_due_and_nothing_before(desk: Desk) -> None:
    for command in (ENROLMENT, replace(EARN, expires_at_ms=10_000)):
        desk.receive(command)
    desk.tick(9_999)
    assert expiries(desk) == []
    assert desk.tables["due"].keys() == {due_key(10_000, b"grand/m-1")}
    desk.tick(10_000)
    assert expiries(desk) == [("m-1", -100)]
    assert desk.tables["due"] == {}
    desk.tick(10_001)
    assert expiries(desk) == [("m-1", -100)]


def test_what_a_tick_has_no_room_for_waits_for_the_next(desk: Desk) -> None:
    for number in (3, 4, 5):
        member = {"member_id": f"m-{number}"}
        desk.receive(replace(ENROLMENT, **member))
        desk.receive(replace(EARN, **member, expires_at_ms=10_000 + number))
    desk.tick(20_000, due_members_max=2)
    assert (expiries(desk), desk.handler.behind) == ([("m-3", -100), ("m-4", -100)], {0})
    desk.receive(replace(REDEEM, member_id="m-5"))
    assert desk.answers[-1] == ("m-5", "t-2", CommandResult.REFUSED, "INSUFFICIENT_POINTS"), "a command between the ticks does not see late points"
    desk.tick(20_000, due_members_max=2)
    assert (expiries(desk)[2:], desk.handler.behind, desk.tables["due"]) == ([("m-5", -100)], set(), {})


def test_what_becomes_due_while_a_partition_is_behind_is_not_left_out(desk: Desk) -> None:
    for number in (3, 4):
        member = {"member_id": f"m-{number}"}
        desk.receive(replace(ENROLMENT, **member))
        desk.receive(replace(EARN, **member, expires_at_ms=10_000 + number))
    desk.tick(20_000, due_members_max=1)
    desk.receive(ENROLMENT)
    desk.receive(replace(EARN, expires_at_ms=20_500))
    desk.receive(replace(EARN, transaction_id="late", expires_at_ms=9_000))
    for at_ms in (20_400, 20_500):
        desk.tick(at_ms, due_members_max=10)
    assert sorted(expiries(desk)) == [("m-1", -100), ("m-1", -100), ("m-3", -100), ("m-4", -100)]
    assert desk.tables["due"] == {}


def test_a_row_that_is_out_of_date_is_passed_over(desk: Desk) -> None:
    for command in (ENROLMENT, replace(EARN, expires_at_ms=10_000), replace(EARN, transaction_id="t-9", points=1, expires_at_ms=8_000)):
        desk.receive(command)
    desk.receive(replace(REDEEM, points=101))
    assert desk.tables["due"].keys() == {due_key(8_000, b"grand/m-1"), due_key(10_000, b"grand/m-1")}
    sent = len(desk.sent)
    desk.tick(8_000)
    before = desk.tables["accounts"][b"grand/m-1"]
    desk.tick(10_000)
    assert desk.tables["accounts"][b"grand/m-1"] is before, "the second row says nothing any more"
    assert (len(desk.sent), desk.tables["due"]) == (sent, {})


def test_a_row_of_nobody_is_passed_over(desk: Desk) -> None:
    for command in (ENROLMENT, replace(EARN, expires_at_ms=10_000)):
        desk.receive(command)
    del desk.tables["accounts"][b"grand/m-1"]
    desk.tick(10_000)
    assert (expiries(desk), desk.tables["due"]) == ([], {})


def test_the_logs_time_never_goes_back(desk: Desk) -> None:
    for command in (ENROLMENT, replace(EARN, expires_at_ms=10_000)):
        desk.receive(command)
    desk.tick(10_000)
    desk.tick(4_000)
    assert desk.tables["clock"][b"now"].now_ms == 10_000
    desk.receive(replace(EARN, transaction_id="t-9", expires_at_ms=10_000), at_ms=4_000)
    assert expiries(desk) == [("m-1", -100)] * 2, "what has come too late for its own expiry does not wait for a tick"


def test_answers_are_forgotten_when_they_are_too_old_and_not_before(desk: Desk) -> None:
    desk.receive(ENROLMENT)
    for number in range(5):
        desk.receive(replace(EARN, transaction_id=f"t-{number}"))
    first_ms = INGESTED_MS + 30 * DAY_MS

    def clock() -> tuple[int, int, bool]:
        row = desk.tables["clock"][b"now"]
        return len(desk.tables["outcomes"]), row.aged_outcomes, row.outcomes_cursor is None

    walk = [
        (first_ms - 1, 6, (6, 0, False)),  # All of them, and not known whether there are more.
        (first_ms - 1, 6, (6, 0, True)),  # There are none: from the beginning.
        (first_ms, 4, (2, 4, False)),
        (first_ms, 4, (0, 6, True)),
        (first_ms, 4, (0, 6, True)),
    ]
    for at_ms, outcomes_max, expected in walk:
        desk.tick(at_ms, outcomes_max=outcomes_max)
        assert clock() == expected
    desk.receive(replace(EARN, transaction_id="young"), at_ms=first_ms)
    desk.tick(first_ms, outcomes_max=4)
    assert clock() == (1, 6, True), "the walk has begun again and finds a new one that is young"


def test_an_answer_that_is_too_old_is_not_given_even_if_its_row_is_there(desk: Desk) -> None:
    for command in (ENROLMENT, replace(EARN, transaction_id="t-0"), replace(REDEEM, points=100)):
        desk.receive(command)
    last_ms = INGESTED_MS + 30 * DAY_MS - 1
    for at_ms in (last_ms, last_ms + 1):
        desk.receive(replace(EARN, transaction_id="t-0"), at_ms=at_ms)
    assert [audit.replayed for audit in desk.records(SyncAudit)[3:]] == [True, False]
    assert desk.tables["accounts"][b"grand/m-1"].available_points == 100


# Other members' partitions.


def test_a_transfer_reaches_the_other_members_partition(desk: Desk) -> None:
    for command in (ENROLMENT, replace(ENROLMENT, member_id="m-2"), EARN, TRANSFER):
        desk.receive(command)
    relayed = [one for one in desk.sent if one.topic == "loyalty.relays.v1"]
    assert [(one.key, one.partition) for one in relayed] == [(b"grand/m-2", 1)]
    (relay,) = desk.deliver()
    assert (relay.kind, relay.origin.value, relay.origin.command_id) == (RelayKind.TRANSFER_IN, None, "t-3")
    assert desk.tables["accounts"][b"grand/m-1"].available_points == 60
    assert desk.others["accounts"].keys() == {b"grand/m-2"}
    assert desk.others["accounts"][b"grand/m-2"].available_points == 40
    assert [(e.member_id, e.points_delta, e.correlation_id) for e in desk.records(LedgerEntry)[1:]] == [("m-1", -40, "c-1"), ("m-2", 40, "c-1")]


def test_a_transfer_to_nobody_comes_back(desk: Desk) -> None:
    for command in (ENROLMENT, EARN, TRANSFER):
        desk.receive(command)
    assert [(relay.kind, relay.member_id) for relay in desk.deliver()] == [(RelayKind.TRANSFER_IN, "m-2"), (RelayKind.TRANSFER_BACK, "m-1")]
    assert [one.partition for one in desk.sent if one.topic == "loyalty.relays.v1"] == [1, 0]
    assert desk.tables["accounts"][b"grand/m-1"].available_points == 100
    assert desk.others["accounts"] == {}


def test_a_relay_that_comes_twice_counts_once(desk: Desk) -> None:
    for command in (ENROLMENT, replace(ENROLMENT, member_id="m-2"), EARN, TRANSFER):
        desk.receive(command)
    desk.deliver()
    desk.relayed = 0
    sent = len(desk.sent)
    desk.deliver()
    assert (len(desk.sent), desk.others["accounts"][b"grand/m-2"].available_points) == (sent, 40)


def test_a_budget_is_asked_with_the_command_as_it_was_and_answers_to_its_place(desk: Desk) -> None:
    desk.receive(ENROLMENT)
    one = desk.receive(ACTIVATION)
    assert len(desk.records(SyncAudit)) == 1, "no answer while the budget is asked"
    desk.receive(ACTIVATION)
    assert desk.answers[1:] == [("m-1", "o-1", CommandResult.WAITING, None)]
    assert desk.records(SyncAudit)[-1].replayed
    ask, answer = desk.deliver()
    assert (ask.kind, ask.member_id, answer.kind, answer.member_id) == (RelayKind.BUDGET_ASK, "\0offer:rare", RelayKind.BUDGET_ANSWER, "m-1")
    for relay in (ask, answer):
        origin = relay.origin
        assert (origin.topic, origin.partition, origin.offset, origin.value) == (one.topic, one.partition, one.offset, one.value)
    assert [sent.partition for sent in desk.sent if sent.topic == "loyalty.relays.v1"] == [1, 0]
    assert desk.others["budgets"] == {b"grand/\0offer:rare": Budget(reserved_points=10, grants=1, denials=0)}
    audit = desk.records(SyncAudit)[-1]
    assert (audit.result, audit.stream, audit.audit_id, audit.correlation_id) == (
        CommandResult.APPLIED, "offer-activations", f"{one.topic}-{one.partition}-{one.offset}", "c-1",
    )  # fmt: skip
    assert desk.tables["accounts"][b"grand/m-1"].active_offers == ("rare",)


def test_a_budget_that_is_spent_refuses(desk: Desk) -> None:
    for member_id in ("m-1", "m-3"):
        desk.receive(replace(ENROLMENT, member_id=member_id))
        desk.receive(replace(ACTIVATION, member_id=member_id))
    desk.deliver()
    assert desk.answers[2:] == [
        ("m-1", "o-1", CommandResult.APPLIED, None), ("m-3", "o-1", CommandResult.REFUSED, "OFFER_BUDGET_SPENT"),
    ]  # fmt: skip
    assert desk.others["budgets"][b"grand/\0offer:rare"] == Budget(reserved_points=10, grants=1, denials=1)
    desk.receive(replace(ACTIVATION, member_id="m-3"))
    assert (desk.records(SyncAudit)[-1].replayed, desk.answers[-1][3]) == (True, "OFFER_BUDGET_SPENT")


def test_an_answer_that_comes_twice_counts_once(desk: Desk) -> None:
    for command in (ENROLMENT, ACTIVATION):
        desk.receive(command)
    desk.deliver()
    events, before = len(desk.records(LoyaltyEvent)), desk.others["budgets"][b"grand/\0offer:rare"]
    desk.relayed = 1
    desk.deliver()
    assert len(desk.records(LoyaltyEvent)) == events
    assert desk.others["budgets"][b"grand/\0offer:rare"] == before


def test_a_command_for_a_merged_member_is_decided_by_who_took_over(desk: Desk) -> None:
    for command in (ENROLMENT, replace(ENROLMENT, member_id="m-2"), EARN, MERGE):
        desk.receive(command)
    desk.deliver()
    assert desk.others["accounts"][b"grand/m-2"].available_points == 100
    audits = len(desk.records(SyncAudit))
    one = desk.receive(REDEEM)
    assert len(desk.records(SyncAudit)) == audits, "no answer from who is merged"
    (relay,) = desk.deliver()
    origin = relay.origin
    assert (relay.kind, relay.member_id, origin.topic, origin.offset, origin.value) == (RelayKind.FORWARD, "m-2", one.topic, one.offset, one.value)
    audit = desk.records(SyncAudit)[-1]
    assert (audit.result, audit.member_id, audit.offset, audit.correlation_id) == (CommandResult.APPLIED, "m-2", one.offset, "c-1")
    assert audit.available_points == desk.others["accounts"][b"grand/m-2"].available_points == 40
    assert desk.tables["accounts"][b"grand/m-1"].available_points == 0
    desk.receive(REDEEM)
    desk.deliver()
    assert desk.records(SyncAudit)[-1].replayed
    assert desk.others["accounts"][b"grand/m-2"].available_points == 40


def test_released_commands_are_relayed_with_their_own_bytes_and_place(desk: Desk) -> None:
    first = desk.receive(ACTIVATION)
    second = desk.receive(EARN)
    desk.receive(TRANSFER)
    desk.receive(ENROLMENT)
    desk.receive(replace(ENROLMENT, member_id="m-2"))
    ask = next(relay for relay in desk.deliver() if relay.kind is RelayKind.BUDGET_ASK)
    assert second.offset > first.offset
    assert (ask.origin.topic, ask.origin.offset, ask.origin.value) == (first.topic, first.offset, first.value)
    assert desk.tables["accounts"][b"grand/m-1"].active_offers == ("rare",)
    assert (desk.tables["accounts"][b"grand/m-1"].available_points, desk.others["accounts"][b"grand/m-2"].available_points) == (60, 40)


def test_commands_that_wait_are_released_at_the_logs_time(desk: Desk) -> None:
    """What has expired while they waited is not available, but it is accounted for."""
    desk.receive(replace(EARN, expires_at_ms=10_000))
    desk.receive(REDEEM)
    desk.tick(10_000)
    desk.receive(ENROLMENT, at_ms=10_000)
    assert desk.answers[3:] == [("m-1", "t-1", CommandResult.APPLIED, None), ("m-1", "t-2", CommandResult.REFUSED, "INSUFFICIENT_POINTS")]
    assert expiries(desk) == [("m-1", -100)]
