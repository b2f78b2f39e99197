"""enrolments, transactions, profile changes, offer activations -> domain -> accounts, outcomes, waiting + the outbound topics

One handler for all four inbound topics, because all of them change the same member's state: the engine gives it what they hold for one
partition, in order, as one unit of work.
"""

import logging
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from schemas.codec import Codec
from schemas.contract import Command, command_id, member_key, problems
from schemas.records import (
    Account,
    CommandResult,
    DeadLetter,
    DeadLetterStage,
    Enrolment,
    Outcome,
    Transaction,
    TransactionKind,
    WaitingCommand,
    WaitingCommands,
)
from streams import metrics, topics
from streams.domain.desk import Received, Settlement, outcome_key, settle, transaction_key
from streams.domain.program import Program
from streams.engine import Input, Outgoing, Poison, Unit

log = logging.getLogger(__name__)

PROCESSOR = "worker"
# Commands kept for one member who is not enrolled. More is no late enrolment but a wrong id: they go to the dead letters.
WAITING_COMMANDS_MAX = 1000
KEYS_REMEMBERED = 65_536  # Keys whose partition was checked; a murmur2 in Python costs more than a look-up.


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The changelog-backed tables, keyed as streams/tables.py says."""

    accounts: MutableMapping[bytes, Account]
    outcomes: MutableMapping[bytes, Outcome]
    waiting: MutableMapping[bytes, WaitingCommands]


def now_ms() -> int:
    """The worker's clock; stamps what goes out, never what is stored."""
    return time.time_ns() // 1_000_000


class KeepAccounts:
    """The handler. Holds no state of its own: everything is in the tables."""

    def __init__(
        self,
        tables: Tables,
        *,
        codec: Codec,
        programs: Mapping[str, Program],
        prefix: str,
        partition_of: Callable[[bytes], int],
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._tables = tables
        self._codec = codec
        self._programs = programs
        self._clock_ms = clock_ms
        self._partition_of = lru_cache(KEYS_REMEMBERED)(partition_of)
        self._streams = {topic.name(prefix): topic for topic in topics.INBOUND}
        self._events, self._entries, self._profiles, self._audit, self._dead_letters = (topic.name(prefix) for topic in topics.OUTBOUND)

    def handle(self, one: Input, unit: Unit) -> None:
        """Decide one command, store its effect and send its results."""
        command: Command = one.record
        refusal = self._check(one, command)
        if refusal is not None:
            self._send_dead_letter(one, DeadLetterStage.CONTRACT, *refusal, unit)
            return
        received = Received(
            stream=self._streams[one.topic].stream,
            command=command,
            topic=one.topic,
            partition=one.partition,
            offset=one.offset,
            ingested_at_ms=one.timestamp_ms,
            correlation_id=one.header("correlation_id"),
        )
        settlement = self._settle(received, unit)
        if settlement.audit.result is CommandResult.WAITING:
            self._park(one, received, settlement, unit)
            return
        self._send(settlement, unit)
        if isinstance(command, Enrolment) and not settlement.audit.replayed:
            self._release(one.key or b"", unit)

    def dead_letter(self, poison: Poison) -> Outgoing:
        """What takes the place of a record that could not be decoded, or on which the program failed."""
        return self._dead_letter(poison.input, DeadLetterStage(poison.stage), poison.reason, poison.detail)

    def _check(self, one: Input, command: Command) -> tuple[str, str] | None:
        """Reason and detail when the record breaks the contract."""
        found = problems(command)
        if found:
            return found[0].reason, "; ".join(f"{problem.field} {problem.detail}" for problem in found)
        if command.program_id not in self._programs:
            return "PROGRAM_UNKNOWN", f"programme {command.program_id!r} is not in LOYALTY_CONFIG_FILE"
        key = member_key(command.program_id, command.member_id)
        if one.key != key:
            return "KEY_MISMATCH", "the record's key must be program_id + '/' + member_id"
        # A producer with another partitioner (librdkafka's default, for one) would give a member two accounts.
        if self._partition_of(key) != one.partition:
            return "PARTITION_MISMATCH", f"key belongs to partition {self._partition_of(key)}: produce with the murmur2 partitioner"
        return None

    def _settle(self, received: Received, unit: Unit) -> Settlement:
        """Decide with what the tables hold, and put the effect into them."""
        command, tables = received.command, self._tables
        key = member_key(command.program_id, command.member_id)
        own_key = outcome_key(command.program_id, command.member_id, command)
        reversed_key = None
        if isinstance(command, Transaction) and command.kind is TransactionKind.REVERSE and command.reverses_transaction_id:
            reversed_key = transaction_key(command.program_id, command.member_id, command.reverses_transaction_id)
        account = tables.accounts.get(key)
        recorded_at_ms = self._clock_ms()
        settlement = settle(
            account,
            received,
            remembered=tables.outcomes.get(own_key),
            original=tables.outcomes.get(reversed_key) if reversed_key is not None else None,
            program=self._programs[command.program_id],
            recorded_at_ms=recorded_at_ms,
        )
        if settlement.account is not None and settlement.account is not account:
            tables.accounts[key] = settlement.account
        if settlement.outcome is not None:
            tables.outcomes[own_key] = settlement.outcome
        if settlement.original is not None and reversed_key is not None:
            tables.outcomes[reversed_key] = settlement.original
        audit = settlement.audit
        if log.isEnabledFor(logging.DEBUG):
            log.debug("command.decided", extra=_decision_fields(received, settlement))
        _decided(received.stream, audit.result.value, audit.replayed).inc()
        _decision_seconds(received.stream).observe(max(0, recorded_at_ms - received.ingested_at_ms) / 1000)
        return settlement

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
        self._send(settlement, unit)

    def _release(self, key: bytes, unit: Unit) -> None:
        """Decide what waited for this enrolment, in the order of arrival."""
        row = self._tables.waiting.get(key)
        if row is None:
            return
        del self._tables.waiting[key]
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
            self._send(self._settle(received, unit), unit)

    def _send(self, settlement: Settlement, unit: Unit) -> None:
        audit, encode = settlement.audit, self._codec.encode
        key = member_key(audit.program_id, audit.member_id)
        headers = {"correlation_id": audit.correlation_id.encode()} if audit.correlation_id else None
        for topic, records in (
            (self._events, settlement.events),
            (self._entries, settlement.entries),
            (self._profiles, settlement.profiles),
            (self._audit, (audit,)),
        ):
            for record in records:
                unit.send(topic, key, encode(record), headers)

    def _send_dead_letter(self, one: Input, stage: DeadLetterStage, reason: str, detail: str, unit: Unit) -> None:
        letter = self._dead_letter(one, stage, reason, detail)
        unit.send(*letter)

    def _dead_letter(self, one: Input, stage: DeadLetterStage, reason: str, detail: str) -> Outgoing:
        metrics.DEAD_LETTERS.labels(PROCESSOR, stage.value, reason).inc()
        identifier = f"{PROCESSOR}-{one.topic}-{one.partition}-{one.offset}"
        log.warning(
            "record.dead_lettered",
            extra={"stage": stage.value, "reason": reason, "detail": detail, "dead_letter_id": identifier,
                   "command_id": command_id(one.record) if one.record is not None else None},
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


@lru_cache
def _decision_seconds(stream: str) -> Any:
    return metrics.DECISION_SECONDS.labels(stream)


def _decision_fields(received: Received, settlement: Settlement) -> dict[str, object]:
    """One decision as a wide log line; the audit record says the same, and more."""
    audit = settlement.audit
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
