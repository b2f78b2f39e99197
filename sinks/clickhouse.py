"""outbound topics -> history in ClickHouse: ledger entries, loyalty events, profile versions, audits, deliveries, dead letters.

Each topic has its own table, consumer group and pace. Rows go in by large inserts, offsets are committed after them, and the order of
each table identifies its records: what is read again replaces itself, so that under FINAL replays change nothing.

An erasure takes its member's older profile versions out of the table, and out of every part on disk, before its offset is committed; so it
does with the reasons that senders gave for what they did.
"""

import asyncio
import logging
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DataError

from schemas.records import (
    DeadLetter,
    DeliveryAttempt,
    DeliveryAudit,
    DeliveryNotice,
    LedgerEntry,
    LotPart,
    LoyaltyEvent,
    LoyaltyEventKind,
    MemberProfile,
    ProfileOperation,
    SyncAudit,
)
from sinks import migrations
from sinks.base import Health, Item, Receipt, Verdict
from sinks.batches import run_batches
from sinks.schedule import Schedule
from streams import metrics, topics
from streams.codec import open_codec
from streams.configuration import Configuration
from streams.errors import UnavailableError
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger(__name__)

ROWS_MAX = 10_000  # ClickHouse prefers few large inserts; this one takes some 50 ms.
WAIT_MAX_S = 1.0  # At low load analysts see a row after this, and each table gets one insert a second at most.
CONNECT_S = 5
ANSWER_S = 30  # A stop waits this long for an insert that hangs.
QUERY_BYTES_MAX = 2**24  # Names of a batch's members, at their longest; the server's default would be 256 KB.
# The range of DateTime64(3): 1900 to 2299. ClickHouse would store what is beyond it as some other time.
TIME_MS_MIN, TIME_MS_MAX = -2_208_988_800_000, 10_413_791_999_999

# Errors that blame the rows. Sent again they would fail again, so the batch is halved until the bad rows are alone.
# All other errors blame the server or its setup, and are waited for: they pass, or an operator mends them.
DATA_ERRORS = frozenset({
    6, 26, 27, 32, 33, 38, 41, 72,  # cannot parse or read: text, number, date, to the end
    53, 69, 70, 117, 131, 321, 349,  # type mismatch, out of bounds, cannot convert, incorrect data, too large, null where none may be
    469, 691,  # violated constraint, unknown symbol of an enum
})  # fmt: skip

# The reason in the cause of an event, as the bodies of webhooks have it. The end of a body may have been cut off, even amid an escape.
_TEXT = r'"(?:[^"\\]|\\.)*'
WORDS = re.compile(rf"""("cause"\s*:\s*\{{(?:[^{{}}"]|{_TEXT}")*?"reason"\s*:\s*){_TEXT}(?:"|\\?\Z)""", re.DOTALL)

Row = dict[str, Any]
Lot = tuple[str, int, int | None]
"""lot_id, points, expires_at in milliseconds."""
Member = tuple[str, str]
"""program_id, member_id."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table and the topic it mirrors."""

    name: str
    topic: Topic
    row: Callable[[Any], Row]
    """Record -> its columns. Pure."""
    erasable: bool = False
    """Its records are versions of members, and an ERASE ends all that came before it."""
    words: str = ""
    """Column with what a command's sender wrote, which may be about a person: emptied when the member is erased."""


def _lots(lots: Sequence[LotPart]) -> list[Lot]:
    return [(lot.lot_id, lot.points, lot.expires_at_ms) for lot in lots]


def _ledger_entry(entry: LedgerEntry) -> Row:
    return {
        "program_id": entry.program_id,
        "member_id": entry.member_id,
        "entry_sequence": entry.entry_sequence,
        "entry_id": entry.entry_id,
        "transaction_id": entry.transaction_id,
        "kind": entry.kind.value,
        "points_delta": entry.points_delta,
        "balance_after": entry.balance_after,
        "counter_account": entry.counter_account,
        "rule_id": entry.rule_id,
        "reverses_transaction_id": entry.reverses_transaction_id,
        "source_system": entry.source_system,
        "property_id": entry.property_id,
        "category": entry.category,
        "reason": entry.reason,
        "occurred_at": entry.occurred_at_ms,
        "ingested_at": entry.ingested_at_ms,
        "recorded_at": entry.recorded_at_ms,
        "correlation_id": entry.correlation_id,
        "account": entry.account,
        "rule_version": entry.rule_version,
        # An entry without hash is from before there were several accounts: its balance is the available one.
        "available_after": entry.available_after if entry.entry_hash else entry.balance_after,
        "lots": _lots(entry.lots),
        "counter_member_id": entry.counter_member_id,
        "previous_hash": entry.previous_hash,
        "entry_hash": entry.entry_hash,
    }


def _loyalty_event(event: LoyaltyEvent) -> Row:
    return {
        "program_id": event.program_id,
        "member_id": event.member_id,
        "sequence": event.sequence,
        "event_id": event.event_id,
        "kind": event.kind.value,
        "status": event.account.status.value,
        "tier": event.account.tier,
        "available_points": event.account.available_points,
        "qualifying_points": event.account.qualifying_points,
        "pending_points": event.account.pending_points,
        "held_points": event.account.held_points,
        "debt_points": event.account.debt_points,
        "tier_valid_until": event.account.tier_valid_until_ms,
        "points_delta": event.points_delta,
        "shortfall_points": event.shortfall_points,
        "previous_tier": event.previous_tier,
        "offer_id": event.offer_id,
        "reward_code": event.reward_code,
        "voucher_code": event.voucher_code,
        "refusal": event.refusal,
        "refusal_detail": event.refusal_detail,
        "changed_attributes": list(event.changed_attributes),
        "command_id": event.cause.command_id,
        "command_stream": event.cause.stream,
        "source_system": event.cause.source_system,
        "command_reason": event.cause.reason,
        "occurred_at": event.occurred_at_ms,
        "ingested_at": event.ingested_at_ms,
        "recorded_at": event.recorded_at_ms,
        "correlation_id": event.correlation_id,
        "movement": event.movement.value if event.movement else None,
        "lots": _lots(event.lots),
        "hold_id": event.hold_id,
        "expires_at": event.expires_at_ms,
        "counter_member_id": event.counter_member_id,
        "effective_at": event.effective_at_ms,
        "identity_type": event.identity_type,
    }


def _member_profile(profile: MemberProfile) -> Row:
    return {
        "program_id": profile.program_id,
        "member_id": profile.member_id,
        "version": profile.version,
        "operation": profile.operation.value,
        "attributes": dict(profile.attributes),
        "segments": list(profile.segments),
        "external_ids": dict(profile.external_ids),
        "status": profile.status.value,
        "tier": profile.tier,
        "changed": list(profile.changed),
        "source_system": profile.source_system,
        "valid_from": profile.valid_from_ms,
        "ingested_at": profile.ingested_at_ms,
        "recorded_at": profile.recorded_at_ms,
        "correlation_id": profile.correlation_id,
    }


def _sync_audit(audit: SyncAudit) -> Row:
    return {
        "program_id": audit.program_id,
        "member_id": audit.member_id,
        "audit_id": audit.audit_id,
        "stream": audit.stream,
        "command_id": audit.command_id,
        "payload_hash": audit.payload_hash,
        "source_system": audit.source_system,
        "source_version": audit.source_version,
        "actor": audit.actor,
        "result": audit.result.value,
        "reason": audit.reason,
        "detail": audit.detail,
        "replayed": audit.replayed,
        "changes": [(change.attribute, change.before, change.after) for change in audit.changes],
        "sequence": audit.sequence,
        "points_delta": audit.points_delta,
        "available_points": audit.available_points,
        "tier": audit.tier,
        "voucher_code": audit.voucher_code,
        "occurred_at": audit.occurred_at_ms,
        "ingested_at": audit.ingested_at_ms,
        "recorded_at": audit.recorded_at_ms,
        "correlation_id": audit.correlation_id,
        "topic": audit.topic,
        "partition": audit.partition,
        "offset": audit.offset,
        "chain_number": audit.chain_number,
        "previous_hash": audit.previous_hash,
        "record_hash": audit.record_hash,
    }


def _delivery_audit(audit: DeliveryAudit) -> Row:
    return {
        "destination": audit.destination,
        "program_id": audit.program_id,
        "member_id": audit.member_id,
        "sequence": audit.sequence,
        "delivery_id": audit.delivery_id,
        "event_id": audit.event_id,
        "kind": audit.kind,
        "result": audit.result.value,
        "reason": audit.reason,
        "status": audit.status,
        "attempts": audit.attempts,
        "command_id": audit.command_id,
        "source_system": audit.source_system,
        "changed_attributes": list(audit.changed_attributes),
        "occurred_at": audit.occurred_at_ms,
        "ingested_at": audit.ingested_at_ms,
        "recorded_at": audit.recorded_at_ms,
        "ended_at": audit.ended_at_ms,
        "correlation_id": audit.correlation_id,
        "chain_number": audit.chain_number,
        "previous_hash": audit.previous_hash,
        "record_hash": audit.record_hash,
    }


def _delivery_attempt(attempt: DeliveryAttempt) -> Row:
    return {
        "attempt_id": attempt.attempt_id,
        "destination": attempt.destination,
        "channel": attempt.channel,
        "webhook_id": attempt.webhook_id,
        "event_ids": list(attempt.event_ids),
        "kind": attempt.kind,
        "program_id": attempt.program_id,
        "member_id": attempt.member_id,
        "sequence": attempt.sequence,
        "attempt": attempt.attempt,
        "verdict": attempt.verdict.value,
        "outcome": attempt.outcome,
        "status": attempt.status,
        "detail": attempt.detail,
        "next_attempt_at": attempt.next_attempt_at_ms,
        "url": attempt.url,
        "peer_address": attempt.peer_address,
        "request_headers": dict(attempt.request_headers),
        "request_body": without_words(attempt.request_body),
        "response_headers": dict(attempt.response_headers),
        "response_body": without_words(attempt.response_body),
        "appended_at": attempt.appended_at_ms,
        "started_at": attempt.started_at_ms,
        "duration_us": attempt.duration_us,
        "correlation_id": attempt.correlation_id,
    }


def without_words(body: str) -> str:
    """A body, whole or cut, without what the command's sender wrote: it may be about a person, and no erasure would find it in here."""
    return WORDS.sub(r'\1"***"', body)


def _delivery_notice(notice: DeliveryNotice) -> Row:
    return {
        "notice_id": notice.notice_id,
        "kind": notice.kind.value,
        "destination": notice.destination,
        "reason": notice.reason,
        "detail": notice.detail,
        "program_id": notice.program_id,
        "member_id": notice.member_id,
        "event_id": notice.event_id,
        "occurred_at": notice.occurred_at_ms,
    }


def _dead_letter(letter: DeadLetter) -> Row:
    return {
        "dead_letter_id": letter.dead_letter_id,
        "stage": letter.stage.value,
        "reason": letter.reason,
        "detail": letter.detail,
        "processor": letter.processor,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "key": (letter.key or b"").decode(errors="backslashreplace"),
        "value_bytes": len(letter.value or b""),
        "ingested_at": letter.ingested_at_ms,
        "failed_at": letter.failed_at_ms,
    }


TABLES = (
    Table("ledger_entries", topics.LEDGER_ENTRIES, _ledger_entry),
    Table("loyalty_events", topics.EVENTS, _loyalty_event, words="command_reason"),
    Table("member_profile_history", topics.PROFILES, _member_profile, erasable=True),
    Table("sync_audit", topics.SYNC_AUDIT, _sync_audit),
    Table("delivery_audit", topics.DELIVERY_AUDIT, _delivery_audit),
    Table("delivery_attempts", topics.DELIVERY_ATTEMPTS, _delivery_attempt),
    Table("delivery_notices", topics.DELIVERY_NOTICES, _delivery_notice),
    Table("dead_letters", topics.DEAD_LETTERS, _dead_letter),
)
AUDIT_TIMES = {"sync_audit": "recorded_at", "delivery_audit": "ended_at", "delivery_notices": "occurred_at"}
"""The tables that LOYALTY_AUDIT_RETENTION_DAYS is about, and the time by which their rows are old."""
ATTEMPT_TIMES = {"delivery_attempts": "started_at"}
"""Those that LOYALTY_ATTEMPT_RETENTION_DAYS is about."""
# Columns that hold a time: what a source says, or a broken clock, may be out of range.
TIMES = frozenset({
    "occurred_at", "ingested_at", "recorded_at", "valid_from", "failed_at", "tier_valid_until", "expires_at", "effective_at", "ended_at",
    "appended_at", "started_at", "next_attempt_at",
})  # fmt: skip


async def run(settings: Settings, _: Configuration, stop: asyncio.Event, health: Health) -> None:
    """Migrate the database, then mirror every topic of TABLES until `stop` is set. Raises ConfigurationError for a changed migration."""
    waiting = "clickhouse: has not answered yet"
    health.set("clickhouse", lambda: waiting)
    if not await _migrate_when_available(settings, stop):
        return
    waiting = ""
    codec = open_codec(settings)
    histories = [History(settings, table) for table in TABLES]
    try:
        async with asyncio.TaskGroup() as group:
            for history in histories:
                stream = history.table.topic.stream
                group.create_task(
                    run_batches(
                        settings, sink=f"clickhouse-{stream}", group=f"sink-clickhouse-{stream}", topic=history.table.topic,
                        write=history.write, rows_max=ROWS_MAX, wait_max_s=WAIT_MAX_S, stop=stop, codec=codec, health=health,
                    )
                )  # fmt: skip
    finally:
        for history in histories:
            history.close()


async def _migrate_when_available(settings: Settings, stop: asyncio.Event) -> bool:
    """False if `stop` was set before ClickHouse answered."""
    schedule, attempt = Schedule(), 0
    while not stop.is_set():
        try:
            await asyncio.to_thread(migrate, settings)
            return True
        except UnavailableError as error:
            attempt += 1
            if attempt == 1:
                log.warning("history.waits_for_clickhouse", extra={"error": str(error)})
        try:
            await asyncio.wait_for(stop.wait(), schedule.delay_s(attempt, random.random()))
        except TimeoutError:
            pass
    return False


def migrate(settings: Settings) -> list[str]:
    """Create the database and apply what is missing; the names of what was applied. Raises UnavailableError and ConfigurationError."""
    try:
        client = connect(settings, database=None)
        try:
            client.command(f"CREATE DATABASE IF NOT EXISTS `{settings.clickhouse_database}`")
            client.database = settings.clickhouse_database
            applied = migrations.apply(client, migrations.load())
            _set_retention(client, AUDIT_TIMES, settings.audit_retention_days)
            _set_retention(client, ATTEMPT_TIMES, settings.attempt_retention_days)
            return applied
        finally:
            client.close()
    except (ClickHouseError, OSError) as error:
        raise UnavailableError(f"LOYALTY_CLICKHOUSE_URL={settings.clickhouse_url} does not answer as it should: {error}") from error


def _set_retention(client: Client, times: Mapping[str, str], days: int) -> None:
    """Give these tables this retention, where they have another one. ClickHouse removes what is older by itself, in the background."""
    for table, column in times.items():
        wanted = f"TTL toDateTime({column}) + toIntervalDay({days})" if days else ""
        definition = str(client.command(f"SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = '{table}'"))
        if (wanted not in definition) if days else (" TTL " in definition):
            # What is there already is judged by ClickHouse's next merges: rewriting all of it at once would take hours.
            statement = f"MODIFY {wanted}" if days else "REMOVE TTL"
            client.command(f"ALTER TABLE {table} {statement}", settings={"materialize_ttl_after_modify": 0})
            log.info("history.retention_set", extra={"table": table, "days": days})


def connect(settings: Settings, database: str | None = "") -> Client:
    """A client of the settings' server and database ('' is the settings' own, None the server's default). Raises ClickHouseError."""
    url = urlsplit(settings.clickhouse_url)
    return clickhouse_connect.get_client(
        interface=url.scheme,
        host=url.hostname or "127.0.0.1",
        port=url.port or (8443 if url.scheme == "https" else 8123),
        proxy_path=url.path,
        username=settings.clickhouse_username,
        password=settings.clickhouse_password,
        database=settings.clickhouse_database if database == "" else database,
        ca_cert=settings.clickhouse_ca_file or None,
        compress=False,  # Batches are small for a local network; compressing them would cost more than sending them.
        connect_timeout=CONNECT_S,
        send_receive_timeout=ANSWER_S,
        query_retries=0,  # Our own loop retries, and says so.
        autogenerate_session_id=False,  # A session would allow one query at a time, and outlive a broken connection.
    )


class History:
    """Inserts into one table."""

    def __init__(self, settings: Settings, table: Table) -> None:
        self.table = table
        self._settings = settings
        self._client: Client | None = None
        self._column_types: Mapping[str, Any] = {}

    async def write(self, items: Sequence[Item[Any]]) -> list[Receipt]:
        return await asyncio.to_thread(self.write_now, items)

    def write_now(self, items: Sequence[Item[Any]]) -> list[Receipt]:
        """One attempt at a batch: rows that ClickHouse blames alone are REFUSED, what it could not take is RETRY."""
        receipts: list[Receipt] = [Receipt(verdict=Verdict.DELIVERED)] * len(items)
        good: list[tuple[int, Row]] = []
        erasing = _erasures(items) if self.table.erasable else {}
        try:
            erased = _newest(erasing, self._erased(items)) if self.table.erasable else {}
        except (ClickHouseError, OSError) as error:
            return [self._again(error)] * len(items)
        for number, item in enumerate(items):
            if erased and item.record.version < erased.get(_member(item.record), 0):
                continue  # Read again, or together with its erasure: it must not even come back for a moment.
            try:
                good.append((number, to_row(self.table, item)))
            except ValueError as error:
                receipts[number] = Receipt(verdict=Verdict.REFUSED, reason="ROW_INVALID", detail=str(error))
        for number, receipt in self._insert_halving(good):
            receipts[number] = receipt
        if self.table.words and (gone := [item.record for item in items if item.record.kind is LoyaltyEventKind.MEMBER_ERASED]):
            try:
                self._empty_words(gone)
            except (ClickHouseError, OSError) as error:
                return [self._again(error)] * len(items)
        if erasing:
            # Behind the insert: from here on the ERASE row in the table keeps older versions out.
            try:
                self._remove(erasing)
            except (ClickHouseError, OSError) as error:
                again = self._again(error)
                return [again if _member(item.record) in erasing else receipt for item, receipt in zip(items, receipts, strict=True)]
        return receipts

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        self._column_types = {}  # Asked for again: a retry may meet a table that was mended.

    def _insert_halving(self, numbered: Sequence[tuple[int, Row]]) -> list[tuple[int, Receipt]]:
        """The receipts of rows that did not go in. A batch that is refused for its rows is halved until the bad ones are alone."""
        failed: list[tuple[int, Receipt]] = []
        batches = [numbered] if numbered else []
        while batches:
            batch = batches.pop()
            try:
                self._insert([row for _, row in batch])
            except (ClickHouseError, OSError) as error:
                if not blames_rows(error):
                    again = self._again(error)
                    return failed + [(number, again) for left in (batch, *batches) for number, _ in left]
                if len(batch) == 1:
                    detail = f"ClickHouse refused the row: {_without_values(error)}"
                    failed.append((batch[0][0], Receipt(verdict=Verdict.REFUSED, reason="ROW_REFUSED", detail=detail)))
                else:
                    said = _without_values(error)
                    log.warning("history.batch_halved", extra={"table": self.table.name, "rows": len(batch), "error": said})
                    half = len(batch) // 2
                    batches += [batch[half:], batch[:half]]
        return failed

    def _connected(self) -> Client:
        if self._client is None:
            self._client = connect(self._settings)
        return self._client

    def _again(self, error: Exception) -> Receipt:
        """What could not be done for now; the next attempt connects anew."""
        self.close()
        return Receipt(verdict=Verdict.RETRY, detail=f"ClickHouse: {type(error).__name__}: {error}"[:500])

    def _erased(self, items: Sequence[Item[Any]]) -> dict[Member, int]:
        """Those of the items' members whom the table knows as erased, with the version that did it."""
        found = self._connected().query(
            f"SELECT program_id, member_id, max(version) FROM {self.table.name}"
            f" WHERE operation = '{ProfileOperation.ERASE.value}' AND member_id IN %(members)s GROUP BY program_id, member_id",
            parameters={"members": sorted({item.record.member_id for item in items})},
            settings={"max_query_size": QUERY_BYTES_MAX},
        )
        return {(program_id, member_id): version for program_id, member_id, version in found.result_rows}

    def _remove(self, erasing: Mapping[Member, int]) -> None:
        """Take all versions before these out of the table.

        By a mutation, which writes the parts concerned anew: a lightweight DELETE only hides rows, and a large part is never merged again,
        so that their bytes would stay on the disk. A mutation costs more, so it is not made for an erasure that is merely read again.
        """
        older = "member_id IN %(members)s AND version < transform(concat(program_id, '/', member_id), %(keys)s, %(versions)s, 0)"
        parameters = {
            "members": sorted({member_id for _, member_id in erasing}),
            "keys": [f"{program_id}/{member_id}" for program_id, member_id in erasing],
            "versions": list(erasing.values()),
        }
        client, settings = self._connected(), {"max_query_size": QUERY_BYTES_MAX}
        if client.query(f"SELECT 1 FROM {self.table.name} WHERE {older} LIMIT 1", parameters=parameters, settings=settings).result_rows:
            settings |= {"mutations_sync": 2}  # It returns when all replicas are done: the offsets are committed then.
            client.command(f"ALTER TABLE {self.table.name} DELETE WHERE {older}", parameters=parameters, settings=settings)
            log.info("history.erased", extra={"table": self.table.name, "members": len(erasing)})

    def _empty_words(self, gone: Sequence[LoyaltyEvent]) -> None:
        """Take the senders' words out of all events of these members: by a mutation, as `_remove` does, and for the same reason.

        They become an empty text and not NULL: where ClickHouse puts a NULL, the bytes of before stay under it, and are written again with
        every part that follows.
        """
        named = f"(program_id, member_id) IN %(members)s AND {self.table.words} != ''"
        parameters = {"members": sorted({(event.program_id, event.member_id) for event in gone})}
        client, settings = self._connected(), {"max_query_size": QUERY_BYTES_MAX}
        if client.query(f"SELECT 1 FROM {self.table.name} WHERE {named} LIMIT 1", parameters=parameters, settings=settings).result_rows:
            settings |= {"mutations_sync": 2}
            client.command(f"ALTER TABLE {self.table.name} UPDATE {self.table.words} = '' WHERE {named}", parameters=parameters, settings=settings)
            log.info("history.erased", extra={"table": self.table.name, "members": len(parameters["members"])})

    def _insert(self, rows: Sequence[Row]) -> None:
        client = self._connected()
        names = list(rows[0])
        if not self._column_types:
            context = client.create_insert_context(self.table.name, names)
            self._column_types = dict(zip(names, context.column_types, strict=True))
        client.insert(
            self.table.name,
            [[row[name] for row in rows] for name in names],
            column_names=names,
            column_types=[self._column_types[name] for name in names],
            column_oriented=True,
            # The offsets are committed when this returns: the rows must be in by then, not in a buffer.
            settings={"async_insert": 0, "wait_end_of_query": 1},
        )
        metrics.HISTORY_ROWS.labels(self.table.name).inc(len(rows))


def to_row(table: Table, item: Item[Any]) -> Row:
    """The columns of a record and its place in the log. Raises ValueError for a time that ClickHouse cannot hold."""
    row = table.row(item.record)
    times = [(name, row[name]) for name in TIMES & row.keys()] + [("expiry of a lot", lot[2]) for lot in row.get("lots", ())]
    for name, moment_ms in times:
        if moment_ms is not None and not TIME_MS_MIN <= moment_ms <= TIME_MS_MAX:
            raise ValueError(f"{name} is not between the years 1900 and 2299")
    return row | {"source_partition": item.partition, "source_offset": item.offset}


def _member(profile: MemberProfile) -> Member:
    return profile.program_id, profile.member_id


def _erasures(items: Sequence[Item[MemberProfile]]) -> dict[Member, int]:
    """The members whom these items erase, with the version that does it."""
    erasures = [item.record for item in items if item.record.operation is ProfileOperation.ERASE]
    return _newest(*({_member(profile): profile.version} for profile in erasures))


def _newest(*versions: Mapping[Member, int]) -> dict[Member, int]:
    newest: dict[Member, int] = {}
    for some in versions:
        for member, version in some.items():
            newest[member] = max(version, newest.get(member, 0))
    return newest


def blames_rows(error: Exception) -> bool:
    """Whether the error is about what was sent, and so would return for ever."""
    return isinstance(error, DataError) or getattr(error, "code", None) in DATA_ERRORS


def _without_values(error: Exception) -> str:
    """The error's number and name: ClickHouse's own text quotes the row, which may hold personal data."""
    return f"{getattr(error, 'name', None) or type(error).__name__} ({getattr(error, 'code', None)})"
