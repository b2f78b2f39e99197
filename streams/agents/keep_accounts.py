"""commands, relays, ticks, programme rules -> domain -> accounts, outcomes, vouchers ... + the outbound topics

One handler for all source topics, because all of them change the same members' state: the engine gives it what they hold for one
partition, in order, as one unit of work.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from schemas.codec import Codec
from schemas.contract import Command, command_id, member_key, problems
from schemas.records import (
    Account,
    CommandResult,
    DeadLetter,
    DeadLetterStage,
    Due,
    Enrolment,
    MemberOperation,
    PartitionClock,
    ProfileChange,
    ProgramVersion,
    ProgramVersions,
    Relay,
    RelayKind,
    SyncAudit,
    Tick,
    WaitingCommand,
    WaitingCommands,
)
from streams import metrics, topics
from streams.domain import budgets, coalescing, desk, exchange, identities, rules
from streams.domain.audit_chain import chained
from streams.domain.book import is_remembered
from streams.domain.desk import Received, Rows, Settlement
from streams.domain.program import Program, in_force
from streams.domain.suspension import barred
from streams.engine import Input, Outgoing, Poison, Unit
from streams.errors import ConfigurationError, ContractError

log = logging.getLogger(__name__)

PROCESSOR = "worker"
# Commands kept for one member who is not enrolled. More is no late enrolment but a wrong id: they go to the dead letters.
WAITING_COMMANDS_MAX = 1000
KEYS_REMEMBERED = 65_536  # Keys whose partition was checked; a murmur2 in Python costs more than a look-up.
CLOCK_KEY = b"now"
CHAIN_KEY = b"audit"  # A row of its own: what a tick writes back must not take it along.
PROGRAMS_AUDITED_IN = 0  # Every partition has the rules; one of them says so.
SOURCE_SYSTEMS_MEASURED_MAX = 100
DUE_TIME_BYTES = 8
NO_CLOCK = PartitionClock(now_ms=0)
RELAYED_COMMANDS = frozenset({RelayKind.FORWARD, RelayKind.BUDGET_ASK})
"""Relays that carry the command they came from."""
IDENTITY_RELAYS = frozenset({RelayKind.IDENTITY_CLAIM, RelayKind.IDENTITY_RELEASE})
WAITING_ROWS_PER_TICK = 50  # A thousand rows are counted anew every twenty seconds, by a hundredth of a partition's time.


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The changelog-backed tables, keyed as streams/tables.py says."""

    accounts: Any
    outcomes: Any
    waiting: Any
    vouchers: Any
    budgets: Any
    due: Any
    clock: Any
    programs: Any
    identities: Any


@dataclass(slots=True)
class Walk:
    """How far one partition's waiting table was counted since the walk began."""

    cursor: bytes = b""
    commands: int = 0
    oldest_ms: int | None = None


def now_ms() -> int:
    """The worker's clock; stamps what goes out, never what is stored."""
    return time.time_ns() // 1_000_000


def due_key(due_ms: int, key: bytes) -> bytes:
    """Key in the due table: in the order of time."""
    return due_ms.to_bytes(DUE_TIME_BYTES, "big") + key


class KeepAccounts:
    """The handler. Its state is in the tables; what it holds itself can be made again from them."""

    def __init__(
        self,
        tables: Tables,
        *,
        codec: Codec,
        parse_rules: Callable[[ProgramVersion], Program],
        prefix: str,
        partition_of: Callable[[bytes], int],
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        """`parse_rules` raises ConfigurationError for rules that are none."""
        self._tables = tables
        self._codec = codec
        self._parse_rules = parse_rules
        self._clock_ms = clock_ms
        self._partition_of = lru_cache(KEYS_REMEMBERED)(partition_of)
        self._rows = Rows(outcomes=tables.outcomes, vouchers=tables.vouchers)
        self._parsed: dict[tuple[int, str], tuple[ProgramVersions, tuple[Program, ...]]] = {}
        self._streams = {topic.name(prefix): topic for topic in topics.SOURCES}
        # Where a change that travels with another one has waited: its place is there.
        self._streams |= {waiting.name(prefix): topics.BY_STREAM[waiting.stream.removeprefix(topics.SCHEDULED_PREFIX)] for waiting in topics.SCHEDULED}
        self._events, self._entries, self._profiles, self._audit, self._dead_letters = (topic.name(prefix) for topic in topics.OUTBOUND)
        self._relays = topics.RELAYS.name(prefix)
        handlers = {topics.RELAYS.stream: self._relay, topics.TICKS.stream: self._tick, topics.PROGRAMS.stream: self._take_rules}
        self._handlers = {topic.name(prefix): handlers.get(topic.stream, self._command) for topic in topics.SOURCES}
        self.behind: set[int] = set()
        """Partitions in which more was due than the last tick had room for. A hint for whoever makes the ticks, as is the next one."""
        self.ticks: Counter[int] = Counter()
        """Ticks handled, by partition; those of units that were done again count twice."""
        self._walks: dict[int, Walk] = {}

    def handle(self, one: Input, unit: Unit) -> None:
        """Decide one record, store its effect and send its results."""
        self._handlers[one.topic](one, unit)

    def dead_letter(self, poison: Poison) -> Outgoing:
        """What takes the place of a record that could not be decoded, or on which the program failed."""
        return self._dead_letter(poison.input, DeadLetterStage(poison.stage), poison.reason, poison.detail)

    # Commands.

    def _command(self, one: Input, unit: Unit) -> None:
        command: Command = one.record
        refusal = self._check(one, command)
        if refusal is not None:
            self._send_dead_letter(one, DeadLetterStage.CONTRACT, *refusal, unit)
            return
        earlier = next((value for name, value in one.headers if name == topics.EARLIER), None)
        if earlier is None:
            self._decide(one, command, unit)
        else:
            self._decide_together([*self._earlier(one, earlier, unit), one], unit)

    def _decide(self, one: Input, command: Command, unit: Unit) -> None:
        received = self._received(one, command)
        if identities.is_address(command.member_id):
            self._addressed(one, command, received, unit)
            return
        settlement = self._settle(one.partition, command, received)
        if settlement.audit is not None and settlement.audit.result is CommandResult.WAITING and settlement.account is None:
            self._park(one, received, settlement, unit)
            return
        self._send(settlement, one.value, received, unit)
        if settlement.account is None and isinstance(command, MemberOperation):
            # An erasure: nobody is enrolled, and nothing is to be kept for anybody who will be. What waited is answered.
            for waited, _ in self._unpark(one.key or b""):
                self._send(desk.refuse_erased(waited, self._clock_ms()), None, waited, unit)
        if isinstance(command, Enrolment) and settlement.audit is not None and settlement.audit.result is CommandResult.APPLIED:
            self._release(one.partition, one.key or b"", unit)

    def _earlier(self, one: Input, header: bytes, unit: Unit) -> list[Input]:
        """The changes that travel with a record that has waited for its schedule, each as it came. What is none is a dead letter."""
        topic = self._streams[one.topic]
        try:
            found = self._codec.decode(header, WaitingCommands).commands
        except ContractError as error:
            self._send_dead_letter(one, DeadLetterStage.DECODE, error.reason, f"header {topics.EARLIER}: {error.detail}", unit)
            return []
        earlier = []
        for carried in found:
            correlation = (("correlation_id", carried.correlation_id.encode()),) if carried.correlation_id else ()
            # It is ingested with the record that carries it: the log's time does not go back.
            alone = replace(one, topic=carried.topic, partition=carried.partition, offset=carried.offset, value=carried.value, headers=correlation)
            if self._streams.get(carried.topic) is not topic or carried.partition != one.partition:
                self._send_dead_letter(one, DeadLetterStage.CONTRACT, "EARLIER_INVALID", f"{topics.EARLIER} is from another stream or partition", unit)
                continue
            try:
                alone = replace(alone, record=self._codec.decode(carried.value, topic.record))
            except ContractError as error:
                self._send_dead_letter(alone, DeadLetterStage.DECODE, error.reason, error.detail, unit)
                continue
            refusal = self._check(alone, alone.record)
            if refusal is None:
                earlier.append(alone)
            else:
                self._send_dead_letter(alone, DeadLetterStage.CONTRACT, *refusal, unit)
        return earlier

    def _decide_together(self, inputs: list[Input], unit: Unit) -> None:
        """Changes of one member, told as one where that can be; else each for itself, in their order."""
        last = inputs[-1]
        key = last.key or b""
        account = self._tables.accounts.get(key)
        are_plain = all(isinstance(one.record, ProfileChange) and one.record.status is None for one in inputs)
        if account is None or not are_plain or identities.is_address(last.record.member_id) or not coalescing.may_be_settled(account):
            for one in inputs:
                self._decide(one, one.record, unit)
            return
        settlement, audits = coalescing.settle(
            account, [self._received(one, one.record) for one in inputs], rows=self._rows,
            programs=self._versions(last.partition, last.record.program_id), clock_ms=self._now().now_ms, recorded_at_ms=self._clock_ms(),
        )  # fmt: skip
        self._store(key, account, settlement)
        self._send(settlement, None, None, unit)
        for audit in audits:
            _decided(audit.stream, audit.result.value, audit.replayed).inc()
            self._send_audit(audit, unit)

    def _received(self, one: Input, command: Command | None) -> Received:
        return Received(
            stream=self._streams[one.topic].stream,
            command=command,
            topic=one.topic,
            partition=one.partition,
            offset=one.offset,
            ingested_at_ms=one.timestamp_ms,
            # What a producer sent without one is known by its place from here on.
            correlation_id=one.header("correlation_id") or f"{one.topic}-{one.partition}-{one.offset}",
        )

    def _check(self, one: Input, command: Command) -> tuple[str, str] | None:
        """Reason and detail when the record breaks the contract."""
        found = problems(command)
        if found:
            return found[0].reason, "; ".join(f"{problem.field} {problem.detail}" for problem in found)
        if not self._versions(one.partition, command.program_id):
            return "PROGRAM_UNKNOWN", f"no rules of programme {command.program_id!r} are published: put it into LOYALTY_CONFIG_FILE, loyalty program apply"
        key = member_key(command.program_id, command.member_id)
        if one.key != key:
            return "KEY_MISMATCH", "the record's key must be program_id + '/' + member_id"
        # A producer with another partitioner (librdkafka's default, for one) would give a member two accounts.
        if self._partition_of(key) != one.partition:
            return "PARTITION_MISMATCH", f"key belongs to partition {self._partition_of(key)}: produce with the murmur2 partitioner"
        return None

    def _settle(self, partition: int, command: Command, received: Received) -> Settlement:
        """Decide with what the tables hold, and put the effect into them."""
        key = member_key(command.program_id, command.member_id)
        account = self._tables.accounts.get(key)
        recorded_at_ms = self._clock_ms()
        settlement = desk.settle(
            account,
            received,
            rows=self._rows,
            programs=self._versions(partition, command.program_id),
            clock_ms=self._now().now_ms,
            recorded_at_ms=recorded_at_ms,
        )
        self._store(key, account, settlement)
        self._measure(received, settlement, account, recorded_at_ms)
        return settlement

    def _measure(self, received: Received, settlement: Settlement, account: Account | None, recorded_at_ms: int) -> None:
        """What became of a command, and how long it took. `account` is as it was before."""
        command = received.command
        assert command is not None, "what is measured was decided"
        if settlement.audit is not None:
            if log.isEnabledFor(logging.DEBUG):
                log.debug("command.decided", extra=_decision_fields(received, settlement.audit))
            _decided(received.stream, settlement.audit.result.value, settlement.audit.replayed).inc()
            if account is not None and settlement.account is not None and barred(settlement.account) and not barred(account):
                metrics.SUSPENSION_SECONDS.observe(max(0, recorded_at_ms - received.ingested_at_ms) / 1000)
        _source_lag(received.stream, command.source_system).observe(max(0, received.ingested_at_ms - command.occurred_at_ms) / 1000)
        _decision_seconds(received.stream).observe(max(0, recorded_at_ms - received.ingested_at_ms) / 1000)

    def _addressed(self, one: Input, command: Command, received: Received, unit: Unit) -> None:
        """A command that names its member by an external id: on to whom the id leads to. As long as that is nobody, it waits here."""
        program = self._program(one.partition, command.program_id, one.timestamp_ms)
        row = self._tables.identities.get(identities.identity_key(program, command.member_id))
        if row is not None:
            self._send_relay(identities.addressed(row, received, one.value or b""), unit)
            return
        # What is published about it does not show the id.
        shown = replace(received, command=replace(command, member_id=identities.shown(program, command.member_id)))
        recorded_at_ms = self._clock_ms()
        settlement = desk.settle(
            None, shown, rows=self._rows, programs=self._versions(one.partition, command.program_id), clock_ms=self._now().now_ms,
            recorded_at_ms=recorded_at_ms,
        )  # fmt: skip
        self._measure(shown, settlement, None, recorded_at_ms)
        if settlement.audit is not None and settlement.audit.result is CommandResult.WAITING:
            self._park(one, received, settlement, unit)
            return
        if self._tables.waiting.get(one.key or b"") is not None:
            del self._tables.waiting[one.key or b""]  # An erasure of who never came.
        self._send(settlement, None, shown, unit)

    def _program(self, partition: int, program_id: str, at_ms: int) -> Program:
        """The rules in force now."""
        return in_force(self._versions(partition, program_id), max(at_ms, self._now().now_ms))

    def _store(self, key: bytes, before: Account | None, settlement: Settlement) -> None:
        tables, account = self._tables, settlement.account
        if account is not None and account is not before:
            tables.accounts[key] = account
            due_ms = account.due_at_ms
            if due_ms is not None and (before is None or before.due_at_ms != due_ms):
                # The old row stays until its time comes, and is found to be out of date then.
                tables.due[due_key(due_ms, key)] = Due(program_id=account.program_id, member_id=account.member_id)
        for row_key, outcome in settlement.outcomes.items():
            tables.outcomes[row_key] = outcome
        for row_key, voucher in settlement.vouchers.items():
            tables.vouchers[row_key] = voucher

    # Programme rules, time, and what other partitions pass on.

    def _versions(self, partition: int, program_id: str) -> tuple[Program, ...]:
        """All versions of a programme's rules; none: it is not published."""
        row = self._tables.programs.get(program_id.encode())
        if row is None:
            return ()
        parsed = self._parsed.get((partition, program_id))
        if parsed is None or (parsed[0] is not row and parsed[0] != row):
            parsed = (row, tuple(map(self._parse_rules, row.versions)))
            self._parsed[partition, program_id] = parsed
        return parsed[1]

    def _take_rules(self, one: Input, unit: Unit) -> None:
        """A new version of a programme. One that came before is no news; versions have no gaps, and none ever changes."""
        version: ProgramVersion = one.record
        key = version.program_id.encode()
        row = self._tables.programs.get(key)
        known = row.versions if row is not None else ()
        problem = None
        if version.version <= len(known):
            if known[version.version - 1] == version:
                return
            problem = ("VERSION_CHANGED", f"version {version.version} of {version.program_id} is there with other rules: a version never changes")
        elif version.version != len(known) + 1:
            problem = ("VERSION_GAP", f"version {version.version} of {version.program_id} follows version {len(known)}")
        else:
            try:
                self._parse_rules(version)
            except ConfigurationError as error:
                problem = ("RULES_INVALID", str(error)[:500])
        if problem is not None:
            self._send_dead_letter(one, DeadLetterStage.CONTRACT, *problem, unit)
            return
        self._tables.programs[key] = ProgramVersions(versions=(*known, version))
        if one.partition == PROGRAMS_AUDITED_IN:
            before = row.versions[-1] if row is not None else None
            self._send_audit(rules.audit(before, version, self._received(one, None), self._clock_ms()), unit)

    def _now(self) -> PartitionClock:
        return self._tables.clock.get(CLOCK_KEY) or NO_CLOCK

    def _tick(self, one: Input, unit: Unit) -> None:
        """Let happen what is due, as far as this tick has room; the rest waits for the next one, and live traffic goes between them."""
        tick: Tick = one.record
        tables, clock = self._tables, self._now()
        now = max(clock.now_ms, one.timestamp_ms)
        tables.clock[CLOCK_KEY] = clock = replace(clock, now_ms=now)
        end = due_key(now + 1, b"")
        rows = tables.due.scan(clock.due_cursor or b"", end, tick.due_members_max)
        for key, due in rows:
            del tables.due[key]
            self._due(one.partition, int.from_bytes(key[:DUE_TIME_BYTES], "big"), due, one.timestamp_ms, unit)
        is_behind = len(rows) == tick.due_members_max
        (self.behind.add if is_behind else self.behind.discard)(one.partition)
        self._count_waiting(one.partition, one.timestamp_ms)
        cursor, aged = self._forget(one.partition, clock.outcomes_cursor, tick.outcomes_max, now)
        # New rows are for later than now, so that none ever lies before the cursor.
        tables.clock[CLOCK_KEY] = replace(
            clock, due_cursor=rows[-1][0] + b"\0" if is_behind else end, outcomes_cursor=cursor, aged_outcomes=clock.aged_outcomes + aged
        )
        self.ticks[one.partition] += 1
        metrics.TICKS.labels(one.partition).inc()
        metrics.DUE_MEMBERS.labels(one.partition).inc(len(rows))

    def _due(self, partition: int, due_ms: int, due: Due, ingested_at_ms: int, unit: Unit) -> None:
        key = member_key(due.program_id, due.member_id)
        account = self._tables.accounts.get(key)
        if account is None or account.due_at_ms != due_ms:
            return
        settlement = desk.tick(
            account, ingested_at_ms, rows=self._rows, programs=self._versions(partition, due.program_id), clock_ms=self._now().now_ms,
            recorded_at_ms=self._clock_ms(),
        )  # fmt: skip
        self._store(key, account, settlement)
        self._send(settlement, None, None, unit)

    def _forget(self, partition: int, cursor: bytes | None, rows_max: int, now: int) -> tuple[bytes | None, int]:
        """Walk on through the remembered answers and delete those that are too old. Where to go on, and how many were deleted."""
        rows = self._tables.outcomes.scan(cursor or b"", None, rows_max)
        aged = 0
        for key, outcome in rows:
            versions = self._versions(partition, key.partition(b"/")[0].decode())
            if versions and not is_remembered(outcome, in_force(versions, now), now):
                del self._tables.outcomes[key]
                aged += 1
        return (rows[-1][0] + b"\0" if len(rows) == rows_max else None), aged

    def _count_waiting(self, partition: int, ingested_at_ms: int) -> None:
        """Walk on through what waits; at the end, say how much it was. Published by the walk, not by whoever scrapes."""
        walk = self._walks.setdefault(partition, Walk())
        rows = self._tables.waiting.scan(walk.cursor, None, WAITING_ROWS_PER_TICK)
        for _, row in rows:
            walk.commands += len(row.commands)
            for parked in row.commands[:1]:
                walk.oldest_ms = parked.ingested_at_ms if walk.oldest_ms is None else min(walk.oldest_ms, parked.ingested_at_ms)
        if len(rows) == WAITING_ROWS_PER_TICK:
            walk.cursor = rows[-1][0] + b"\0"
            return
        metrics.WAITING_COMMANDS.labels(partition).set(walk.commands)
        age_ms = 0 if walk.oldest_ms is None else max(0, ingested_at_ms - walk.oldest_ms)
        metrics.WAITING_OLDEST_SECONDS.labels(partition).set(age_ms / 1000)
        self._walks[partition] = Walk()

    def leave(self, partition: int) -> None:
        """Another worker owns the partition: what waits there is told of by that one."""
        self._walks.pop(partition, None)
        for gauge in (metrics.WAITING_COMMANDS, metrics.WAITING_OLDEST_SECONDS):
            gauge.remove_by_labels({"partition": str(partition)})

    def _relay(self, one: Input, unit: Unit) -> None:
        """What another member's partition passes on."""
        relay: Relay = one.record
        versions = self._versions(one.partition, relay.program_id)
        key = member_key(relay.program_id, relay.member_id)
        if relay.kind is RelayKind.BUDGET_ASK:
            program = in_force(versions, max(one.timestamp_ms, self._now().now_ms))
            self._tables.budgets[key], reply = budgets.answer(self._tables.budgets.get(key), relay, program)
            self._send_relay(reply, unit)
            return
        if relay.kind in IDENTITY_RELAYS:
            self._identify(one, relay, key, unit)
            return
        origin = relay.origin
        topic = self._streams.get(origin.topic)
        command = None
        if origin.value is not None and topic is not None:
            command = self._codec.decode(origin.value, topic.record)
        received = Received(
            stream=topics.RELAYS.stream if topic is None else topic.stream,
            command=command,
            topic=origin.topic or one.topic,
            partition=origin.partition if origin.topic else one.partition,
            offset=origin.offset if origin.topic else one.offset,
            # How the sender named the member is no reason to count from later on.
            ingested_at_ms=origin.ingested_at_ms if relay.kind is RelayKind.ADDRESSED else one.timestamp_ms,
            correlation_id=origin.correlation_id,
            released=origin.released,
        )
        account, recorded_at_ms = self._tables.accounts.get(key), self._clock_ms()
        settlement = exchange.receive(
            account, relay, received, rows=self._rows, programs=versions, clock_ms=self._now().now_ms, recorded_at_ms=recorded_at_ms
        )
        self._store(key, account, settlement)
        metrics.RELAYS.labels(relay.kind.value).inc()
        if relay.kind is RelayKind.ADDRESSED:
            self._measure(received, settlement, account, recorded_at_ms)
        elif relay.kind is RelayKind.IDENTITY_REFUSED and settlement.profiles:
            metrics.IDENTITY_CONFLICTS.inc()
        self._send(settlement, origin.value, received, unit)

    def _identify(self, one: Input, relay: Relay, key: bytes, unit: Unit) -> None:
        """A member claims an external id of this partition, or lets go of it. Who has it now receives what waited for it."""
        tables = self._tables
        now = max(one.timestamp_ms, self._now().now_ms)
        program = self._program(one.partition, relay.program_id, one.timestamp_ms)
        metrics.RELAYS.labels(relay.kind.value).inc()
        known = identities.relay_key(program, relay)
        if known in tables.outcomes:
            return
        tables.outcomes[known] = identities.noted(now)
        row_key = identities.identity_key(program, relay.member_id)
        before = tables.identities.get(row_key)
        claimed = identities.take(before, relay, now)
        if claimed.refusal is not None:
            self._send_relay(claimed.refusal, unit)
        if claimed.row is not None:
            tables.identities[row_key] = claimed.row
            for received, value in self._unpark(key):
                self._send_relay(identities.addressed(claimed.row, received, value), unit)
        elif before is not None:
            del tables.identities[row_key]

    def _park(self, one: Input, received: Received, settlement: Settlement, unit: Unit) -> None:
        """Keep the command of a member who is not enrolled, as it came."""
        key = one.key or b""
        row = self._tables.waiting.get(key)
        commands = row.commands if row is not None else ()
        if len(commands) >= WAITING_COMMANDS_MAX:
            detail = f"{WAITING_COMMANDS_MAX} commands wait for this member's enrolment already"
            self._send_dead_letter(one, DeadLetterStage.CONTRACT, "WAITING_FULL", detail, unit)
            return
        parked = WaitingCommand(
            topic=one.topic,
            partition=one.partition,
            offset=one.offset,
            ingested_at_ms=one.timestamp_ms,
            correlation_id=received.correlation_id,
            value=one.value or b"",
        )
        self._tables.waiting[key] = WaitingCommands(commands=(*commands, parked))
        self._send(settlement, one.value, received, unit)

    def _release(self, partition: int, key: bytes, unit: Unit) -> None:
        """Decide what waited for this enrolment."""
        for received, value in self._unpark(key):
            assert received.command is not None, "what waits are commands"
            self._send(self._settle(partition, received.command, received), value, received, unit)

    def _unpark(self, key: bytes) -> list[tuple[Received, bytes]]:
        """Take what waited under a key, in the order of arrival, with the records as they came."""
        row = self._tables.waiting.get(key)
        if row is None:
            return []
        del self._tables.waiting[key]
        unparked = []
        for parked in row.commands:
            topic = self._streams[parked.topic]
            received = Received(
                stream=topic.stream,
                command=self._codec.decode(parked.value, topic.record),
                topic=parked.topic,
                partition=parked.partition,
                offset=parked.offset,
                ingested_at_ms=parked.ingested_at_ms,
                correlation_id=parked.correlation_id,
                released=True,
            )
            unparked.append((received, parked.value))
        return unparked

    def _send(self, settlement: Settlement, value: bytes | None, received: Received | None, unit: Unit) -> None:
        """`value` is the record that was decided, for relays that carry it."""
        for relay in settlement.relays:
            if relay.kind in RELAYED_COMMANDS and relay.origin.value is None and received is not None:
                place = replace(
                    relay.origin, topic=received.topic, partition=received.partition, offset=received.offset, value=value,
                    released=received.released,
                )  # fmt: skip
                relay = replace(relay, origin=place)
            self._send_relay(relay, unit)
        encode = self._codec.encode
        for topic, records in (
            (self._events, settlement.events),
            (self._entries, settlement.entries),
            (self._profiles, settlement.profiles),
        ):
            for record in records:
                correlation_id = record.correlation_id
                headers = {"correlation_id": correlation_id.encode()} if correlation_id else None
                unit.send(topic, member_key(record.program_id, record.member_id), encode(record), headers)
        for audit in settlement.audit_by_clock:
            self._send_audit(audit, unit)
        if settlement.audit is not None:
            self._send_audit(settlement.audit, unit)

    def _send_audit(self, audit: SyncAudit, unit: Unit) -> None:
        """As the next link of this partition's chain."""
        last = self._tables.clock.get(CHAIN_KEY) or NO_CLOCK
        audit = chained(audit, last.audit_number + 1, last.audit_hash)
        self._tables.clock[CHAIN_KEY] = last.but(audit_number=audit.chain_number, audit_hash=audit.record_hash)
        headers = {"correlation_id": audit.correlation_id.encode()} if audit.correlation_id else None
        unit.send(self._audit, member_key(audit.program_id, audit.member_id), self._codec.encode(audit), headers)

    def _send_relay(self, relay: Relay, unit: Unit) -> None:
        key = member_key(relay.program_id, relay.member_id)
        unit.send(self._relays, key, self._codec.encode(relay), partition=self._partition_of(key))

    def _send_dead_letter(self, one: Input, stage: DeadLetterStage, reason: str, detail: str, unit: Unit) -> None:
        letter = self._dead_letter(one, stage, reason, detail)
        unit.send(letter.topic, letter.key, letter.value, dict(letter.headers or {}))

    def _dead_letter(self, one: Input, stage: DeadLetterStage, reason: str, detail: str) -> Outgoing:
        metrics.DEAD_LETTERS.labels(PROCESSOR, stage.value, reason).inc()
        identifier = f"{PROCESSOR}-{one.topic}-{one.partition}-{one.offset}"
        log.warning(
            "record.dead_lettered",
            extra={"stage": stage.value, "reason": reason, "detail": detail, "dead_letter_id": identifier,
                   "command_id": command_id(one.record) if isinstance(one.record, Command) else None},
        )  # fmt: skip
        letter = DeadLetter(
            dead_letter_id=identifier,
            stage=stage,
            reason=reason,
            detail=detail,
            processor=PROCESSOR,
            topic=one.topic,
            partition=one.partition,
            offset=one.offset,
            key=one.key,
            value=one.value,
            headers={name: value for name, value in one.headers if value is not None},
            ingested_at_ms=one.timestamp_ms,
            failed_at_ms=self._clock_ms(),
        )
        correlation_id = one.header("correlation_id")
        headers = {"correlation_id": correlation_id.encode()} if correlation_id else {}
        return Outgoing(self._dead_letters, one.key, self._codec.encode(letter), headers)


@lru_cache
def _decided(stream: str, result: str, replayed: bool) -> Any:
    """The counter's child: finding it costs more than counting."""
    return metrics.COMMANDS.labels(stream, result, str(replayed).lower())


_sources_seen: set[str] = set()


@lru_cache(SOURCE_SYSTEMS_MEASURED_MAX * len(topics.SOURCES))
def _source_lag(stream: str, source_system: str) -> Any:
    """Names come with the records: beyond so many, they are measured together."""
    if source_system not in _sources_seen and len(_sources_seen) >= SOURCE_SYSTEMS_MEASURED_MAX:
        source_system = "other"
    _sources_seen.add(source_system)
    return metrics.SOURCE_LAG_SECONDS.labels(stream, source_system)


@lru_cache
def _decision_seconds(stream: str) -> Any:
    return metrics.DECISION_SECONDS.labels(stream)


def _decision_fields(received: Received, audit: SyncAudit) -> dict[str, object]:
    """One decision as a wide log line; the audit record says the same, and more."""
    return {
        "stream": received.stream,
        "command_id": audit.command_id,
        "source_system": audit.source_system,
        "result": audit.result.value,
        "reason": audit.reason,
        "replayed": audit.replayed,
        "sequence": audit.sequence,
        "correlation_id": audit.correlation_id,
        "partition": received.partition,
        "offset": received.offset,
    }
