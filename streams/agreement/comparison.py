"""One run over all copies -> their differences, member by member.

Positions first, then the log up to them, then the stores: what a store must have by then is exact, whatever is written meanwhile. What its
sink has not come to is lag; a sink gets a while to come to the positions before that is said.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from confluent_kafka import Message

from schemas.contract import member_key
from schemas.records import Account, DeliveryAudit, LedgerEntry, LoyaltyEvent, MemberProfile
from streams import topics
from streams.agreement import deliveries, folds, history, judging, shelf
from streams.agreement.cache import MEMBERS_MAX, Cache
from streams.agreement.deliveries import OWED, TAKEN, Deliveries
from streams.agreement.history import History, Mirrored
from streams.agreement.log import Log, Range, is_behind, reached
from streams.agreement.model import PROFILE, Cause, Difference, Standing, Store, snapshot, standing
from streams.agreement.shelf import Advance, Shelf
from streams.agreement.tables import Tables
from streams.codec import open_codec
from streams.configuration import Configuration
from streams.engine.state import StateFailed
from streams.errors import ContractError, LoyaltyError, UnavailableError
from streams.settings import Settings
from streams.tables import app_id, changelog_name
from streams.topics import Topic

WAIT_S = 10.0
"""How long a sink gets to come to the positions of the start."""
LOOK_S = 0.2
NEWER_MAX = 100_000
"""Members that changed meanwhile, whose copies are judged by what was written meanwhile; those beyond it are left to the next run."""
ACCOUNTS, ROWS, JOURNAL, SEEN, VERSIONS = "accounts", "rows", "journal", "events", "profiles"
"""Tables of the shelf: Standing by changelog and by the workers, folds of entries and events, [version, offset, digest, expected of the mirror,
its digest, waiting since] of profiles; and by the names of Mirrored the sums of ClickHouse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Of whom; empty: of all."""

    program_id: str = ""
    member_id: str = ""

    @property
    def start(self) -> bytes:
        """First key."""
        return member_key(self.program_id, self.member_id) if self.program_id else b""

    def covers(self, key: bytes | None) -> TypeGuard[bytes]:
        if key is None or b"/" not in key:
            return False
        return not self.program_id or (key == self.start if self.member_id else key.startswith(self.start))


@dataclass(slots=True)
class Marks:
    """Where the log was at the start, and up to where each mirror must have it."""

    changelog: Mapping[int, Range]
    log: Mapping[str, Mapping[int, Range]]
    """Stream -> what its topic held."""
    mirrored: dict[str, Mapping[int, Range]]
    """Stream -> up to where ClickHouse must have it."""
    cached: Mapping[int, Range]
    """Of the events, up to where Redis must have them."""


class Comparison:
    """One run. Close it; its folder can be removed then. Methods raise LoyaltyError."""

    def __init__(self, settings: Settings, configuration: Configuration, scope: Scope, folder: Path, *, wait_s: float = WAIT_S) -> None:
        self.settings = settings
        self.scope = scope
        self.shelf = Shelf(folder)
        self.codec = open_codec(settings)
        self.log = Log(settings)
        self.history = History(settings, scope.program_id, scope.member_id)
        self.members = 0
        self.found: Counter[tuple[str, str]] = Counter()
        """Differences by store and cause."""
        self.not_compared: dict[str, str] = {}
        """Store -> why it could not be asked."""
        self.marks: Marks
        self._configuration = configuration
        self._wait_s = wait_s
        self._deliveries: Deliveries
        self._newer_rows: dict[bytes, int] = {}
        self._newer_cached: dict[bytes, tuple[int, list[Any]]] = {}

    def differences(self, step: Callable[[str], Advance]) -> Iterator[Difference]:
        """Each difference, in the order of the members. `step` begins a part of the work and gives its progress."""
        try:
            self._load(step)
            for one in self._judged(step("members")):
                self.found[one.store, one.cause.value] += 1
                yield one
        except StateFailed as error:
            raise LoyaltyError(f"the disk for the comparison fails: {error}") from error

    def topic(self, topic: Topic) -> str:
        return topic.name(self.settings.topic_prefix)

    # Reading

    def _load(self, step: Callable[[str], Advance]) -> None:
        changelog = changelog_name(app_id(self.settings), "accounts")
        # In this order: what a transaction wrote into the changelog before it was looked at, it has written into the topics, too.
        changelog_ranges = self.log.ranges(changelog)
        logs = {topic.stream: self.log.ranges(self.topic(topic)) for topic in (topics.LEDGER_ENTRIES, topics.EVENTS, topics.PROFILES)}
        from_control = asyncio.run(deliveries.documents(self.settings, self.codec, self._configuration.destinations))
        self._deliveries = Deliveries(self.settings, self.codec, self.shelf, from_control)
        self._read_progress()
        self._table_of_accounts(changelog, changelog_ranges, step("changelog"))
        self.marks = Marks(changelog_ranges, logs, {}, {})
        self._wait_for_sinks(logs)
        self._read_entries(step("journal"))
        self._read_events(step("events"))
        self._read_profiles(step("profiles"))
        audits = self.topic(topics.DELIVERY_AUDIT)
        self.log.read(audits, self.log.ranges(audits), self._audit, step("delivery audit"))
        self.shelf.write()
        self._ask(Store.TABLE, self._read_rows, step("tables of the workers"))
        for table in history.TABLES:
            self._ask(table.store, lambda advance, table=table: self._read_history(table, advance), step(table.table))  # type: ignore[misc]
        self._ask(Store.REDIS, self._read_cache, step("redis"))
        self._read_newer(changelog)

    def _read_progress(self) -> None:
        progress = self.topic(topics.DELIVERY_PROGRESS)

        def take(message: Message) -> None:
            self._deliveries.add_progress(message.partition() or 0, message.key() or b"", message.value())

        self.log.read(progress, self.log.ranges(progress), take)
        self._deliveries.progress_is_known()

    def _table_of_accounts(self, changelog: str, ranges: Mapping[int, Range], advance: Advance) -> None:
        def take(message: Message) -> None:
            key, value = message.key(), message.value()
            if self.scope.covers(key):
                self.shelf.put(ACCOUNTS, key, None if value is None else list(standing(self.codec.decode(value, Account), value)))

        self.log.read(changelog, ranges, take, advance)
        self.shelf.write()

    def _wait_for_sinks(self, logs: Mapping[str, Mapping[int, Range]]) -> None:
        """Give the sinks a while to come to where the log was, and note to where they have come."""
        deadline_s = time.monotonic() + self._wait_s
        events = topics.EVENTS.stream
        places = {stream: (f"sink-clickhouse-{stream}", stream) for stream in logs} | {Store.REDIS: ("sink-redis", events)}
        while True:
            come = {
                name: reached(logs[stream], self.log.committed(group, topics.BY_STREAM[stream].name(self.settings.topic_prefix)))
                for name, (group, stream) in places.items()
            }
            if time.monotonic() > deadline_s or not any(is_behind(logs[places[name][1]].values(), ranges.values()) for name, ranges in come.items()):
                break
            time.sleep(LOOK_S)
        self.marks.cached = come.pop(Store.REDIS)
        self.marks.mirrored = dict(come)

    def _read_entries(self, advance: Advance) -> None:
        marks, stream = self.marks, topics.LEDGER_ENTRIES.stream
        mirrored = marks.mirrored[stream]

        def take(message: Message) -> None:
            if not self.scope.covers(key := message.key()):
                return
            entry = self._decoded(message, LedgerEntry)
            if entry is None:
                return
            fold = self.shelf.get(JOURNAL, key) or folds.entries_begin(entry)
            account = self.shelf.get(ACCOUNTS, key)
            partition, offset = message.partition() or 0, message.offset() or 0
            folds.add_entry(fold, entry, offset, account[1] if account else -1, offset < mirrored[partition][1])
            self.shelf.put(JOURNAL, key, fold)

        self.log.read(self.topic(topics.LEDGER_ENTRIES), marks.log[stream], take, advance)

    def _read_events(self, advance: Advance) -> None:
        marks, stream = self.marks, topics.EVENTS.stream
        mirrored = marks.mirrored[stream]

        def take(message: Message) -> None:
            if not self.scope.covers(key := message.key()):
                return
            event = self._decoded(message, LoyaltyEvent)
            if event is None:
                return
            partition, offset = message.partition() or 0, message.offset() or 0
            fold = self.shelf.get(SEEN, key) or folds.events_begin(event)
            account = self.shelf.get(ACCOUNTS, key)
            is_mirrored, is_kept = offset < mirrored[partition][1], offset < marks.cached[partition][1]
            folds.add_event(fold, event, offset, account[0] if account else -1, is_mirrored, is_kept)
            self.shelf.put(SEEN, key, fold)
            self._deliveries.add_event(partition, offset, key, message.timestamp()[1], event)

        self.log.read(self.topic(topics.EVENTS), marks.log[stream], take, advance)

    def _read_profiles(self, advance: Advance) -> None:
        stream = topics.PROFILES.stream
        mirrored = self.marks.mirrored[stream]

        def take(message: Message) -> None:
            if not self.scope.covers(key := message.key()):
                return
            profile = self._decoded(message, MemberProfile)
            if profile is None:
                return
            seen = self.shelf.get(VERSIONS, key) or [0, 0, 0, 0, 0, 0]
            digest, offset = PROFILE.of(profile), message.offset() or 0
            seen[:3] = [profile.version, offset, digest]
            if offset < mirrored[message.partition() or 0][1]:
                seen[3:5] = [profile.version, digest]
            elif not seen[5]:
                seen[5] = profile.recorded_at_ms
            self.shelf.put(VERSIONS, key, seen)

        self.log.read(self.topic(topics.PROFILES), self.marks.log[stream], take, advance)

    def _audit(self, message: Message) -> None:
        if self.scope.covers(message.key()):
            audit = self._decoded(message, DeliveryAudit)
            if audit is not None:
                self._deliveries.add_audit(audit)

    def _decoded(self, message: Message, record: Any) -> Any:
        """None for what is no record: whoever reads the topic has made a dead letter of it."""
        try:
            return self.codec.decode(message.value(), record)
        except ContractError:
            return None

    def _ask(self, store: Store, read: Callable[[Advance], None], advance: Advance) -> None:
        try:
            read(advance)
        except UnavailableError as error:
            self.not_compared[store] = str(error)

    def _read_rows(self, advance: Advance) -> None:
        workers, partitions = Tables(self.settings), self.settings.kafka_partitions
        for partition in range(partitions):
            advance(partition, partitions)
            for key, value in workers.accounts(partition, self.scope.start):
                if not self.scope.covers(key):
                    break
                self.shelf.put(ROWS, key, list(standing(self.codec.decode(value, Account), value)))
        self.shelf.write()
        advance(partitions, partitions)

    def _read_history(self, table: Mirrored, advance: Advance) -> None:
        marks = self.marks.mirrored[table.topic.stream]
        for number, (key, found) in enumerate(self.history.sums(table, marks)):
            self.shelf.put(table.table, key, list(found))
            if number % 10_000 == 0:
                advance(number, 0)
        self.shelf.write()

    def _read_cache(self, advance: Advance) -> None:
        cache = Cache(self.settings)
        batch: list[bytes] = []
        done = 0

        def look() -> None:
            for key, balance in zip(batch, cache.balances(batch), strict=True):
                self.shelf.put(Store.REDIS, key, balance)
            batch.clear()

        try:
            for key, _ in shelf.merged(self.shelf, ACCOUNTS, SEEN):
                batch.append(key)
                done += 1
                if len(batch) == MEMBERS_MAX:
                    look()
                    advance(done, 0)
            look()
        finally:
            cache.close()
        self.shelf.write()

    def _read_newer(self, changelog: str) -> None:
        """What was written since the start, of members whose copies in the workers and in Redis are not those of the start."""
        for key, (account, row, seen, cached) in shelf.merged(self.shelf, ACCOUNTS, ROWS, SEEN, Store.REDIS):
            if row is not None and (account is None or row != account) and len(self._newer_rows) < NEWER_MAX:
                self._newer_rows[key] = row[-1]
            if cached is not None and seen is not None and cached[0] > seen[folds.KEPT_SEQUENCE] and len(self._newer_cached) < NEWER_MAX:
                self._newer_cached[key] = cached
        if self._newer_rows:
            ranges = {number: (self.marks.changelog[number][1], high) for number, (_, high) in self.log.ranges(changelog).items()}
            self.log.read(changelog, ranges, self._newer_row)
        if self._newer_cached:
            events = self.topic(topics.EVENTS)
            ranges = {number: (self.marks.cached[number][1], high) for number, (_, high) in self.log.ranges(events).items()}
            self.log.read(events, ranges, self._newer_event)

    def _newer_row(self, message: Message) -> None:
        key, value = message.key(), message.value()
        if key in self._newer_rows and value is not None and standing(self.codec.decode(value, Account), value).check == self._newer_rows[key]:
            self.shelf.put(ROWS, key, self.shelf.get(ACCOUNTS, key))  # It was written meanwhile, and is right.
            del self._newer_rows[key]

    def _newer_event(self, message: Message) -> None:
        key = message.key()
        if key in self._newer_cached:
            event = self._decoded(message, LoyaltyEvent)
            if event is not None and (event.sequence, snapshot(event)) == (self._newer_cached[key][0], self._newer_cached[key][1]):
                self.shelf.put(Store.REDIS, key, "newer")
                del self._newer_cached[key]

    # Judging

    def _judged(self, advance: Advance) -> Iterator[Difference]:
        tables = [table.table for table in history.TABLES]
        suspects: dict[str, dict[bytes, str]] = {table: {} for table in tables}
        for key, (account, row, journal, seen, profile, cached, *sums) in shelf.merged(
            self.shelf, ACCOUNTS, ROWS, JOURNAL, SEEN, VERSIONS, Store.REDIS, *tables
        ):
            self.members += 1
            if self.members % 1000 == 0:
                advance(self.members, 0)
            who = judging.Member.of(key, account and Standing(*account))
            if Store.TABLE not in self.not_compared:
                yield from judging.rows(who, row and Standing(*row), journal)
            yield from judging.journal(who, journal, self._low(topics.LEDGER_ENTRIES) == 0)
            yield from judging.events(who, seen, self._low(topics.EVENTS) == 0)
            yield from judging.profile(who, profile)
            for table, fold, found in zip(history.TABLES, (journal, seen, profile), sums, strict=True):
                if table.store in self.not_compared:
                    continue
                yield from judging.lag(who, table, fold)
                if judging.is_suspect(table, who, fold, found and history.Sum(*found)):
                    suspects[table.table][key] = who.status
            if Store.REDIS not in self.not_compared and cached != "newer":
                yield from judging.cached(who, seen, cached)
        advance(self.members, self.members)
        for table in history.TABLES:
            if suspects[table.table]:
                yield from judging.Details(self.log, self.history, self.codec, self.topic(table.topic), self.marks, table).of(suspects[table.table])
        yield from self._undelivered()

    def _low(self, topic: Topic) -> int:
        """Above 0: retention has taken the beginning of the topic."""
        return max(low for low, _ in self.marks.log[topic.stream].values())

    def _undelivered(self) -> Iterator[Difference]:
        now_ms = time.time_ns() // 1_000_000
        for place, (event_id, appended_at_ms) in self.shelf.scan(OWED):
            yield judging.unrecorded(place, event_id, appended_at_ms)
        for place, taken in self.shelf.scan(TAKEN):
            yield from judging.given_up(place, taken)
        for destination, (count, oldest_ms) in sorted(self._deliveries.underway.items()):
            yield Difference(
                program_id="", member_id="", store=f"destination:{destination}", cause=Cause.LAG, age_s=(now_ms - oldest_ms) / 1000,
                detail=f"{count:,} events are under way", repair="none: they wait for the destination",
            )  # fmt: skip

    def close(self) -> None:
        self.history.close()
        self.shelf.close()
