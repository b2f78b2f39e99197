"""One run over all copies -> their differences, member by member.

Positions first, then the log up to them, then the stores: what a store must have by then is exact, whatever is written meanwhile. What its
sink has not come to is lag; a sink gets a while to come to the positions before that is said. All is sorted out into buckets of members on the
disk, and each bucket is looked at in memory.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, TypeGuard
from zlib import crc32

import orjson
from confluent_kafka import Message

from schemas.contract import member_key
from schemas.records import Account, DeliveryAudit, LedgerEntry, LoyaltyEvent, MemberProfile
from streams import topics
from streams.agreement import deliveries, folds, history, judging
from streams.agreement.buckets import Buckets, Copy
from streams.agreement.cache import MEMBERS_MAX, Cache
from streams.agreement.deliveries import Deliveries
from streams.agreement.history import History, Sum
from streams.agreement.log import Advance, Log, Range, reached
from streams.agreement.model import PROFILE, Cause, Difference, Standing, Store, snapshot, standing
from streams.agreement.tables import Tables
from streams.codec import open_codec
from streams.configuration import Configuration
from streams.errors import ContractError, UnavailableError
from streams.settings import Settings
from streams.tables import app_id, changelog_name
from streams.topics import Topic

WAIT_S = 10.0
"""How long a sink gets to come to the positions of the start."""
LOOK_S = 0.2
NEWER_MAX = 100_000
"""Members that changed meanwhile, whose copies are judged by what was written meanwhile; those beyond it are left to the next run."""
ACCOUNTS, ENTRIES, EVENTS, PROFILES, AUDITS, ROWS = range(6)
"""Kinds of copies in the buckets; behind them the sums of each of `history.TABLES`. In this order they are put there, and are taken."""
SUMS = 6


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


@dataclass(slots=True)
class Bucket:
    """The copies of some members beside each other, by key."""

    stored: dict[bytes, bytes] = field(default_factory=dict)
    """Accounts as they are in the changelog."""
    accounts: dict[bytes, Standing] = field(default_factory=dict)
    rows: dict[bytes, Standing] = field(default_factory=dict)
    """By the workers."""
    journal: dict[bytes, list[Any]] = field(default_factory=dict)
    events: dict[bytes, list[Any]] = field(default_factory=dict)
    """Folds of entries and of events."""
    profiles: dict[bytes, list[Any]] = field(default_factory=dict)
    """[version, offset, digest, expected of the mirror, its digest, waiting since]"""
    sums: tuple[dict[bytes, Sum], ...] = field(default_factory=lambda: tuple({} for _ in history.TABLES))
    """By the table's place in `history.TABLES`."""
    cached: dict[bytes, Any] = field(default_factory=dict)

    def keys(self) -> list[bytes]:
        """Of all members, in their order."""
        return sorted(self.accounts.keys() | self.journal.keys() | self.events.keys() | self.profiles.keys() | self.rows.keys() | set().union(*self.sums))


class Comparison:
    """One run. Close it; its folder can be removed then. Methods raise LoyaltyError."""

    def __init__(self, settings: Settings, configuration: Configuration, scope: Scope, folder: Path, *, wait_s: float = WAIT_S) -> None:
        self.settings = settings
        self.scope = scope
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
        self._folder = folder
        self._buckets: Buckets
        self._deliveries: Deliveries
        self._newer_rows: dict[bytes, bytes] = {}
        self._newer_cached: dict[bytes, bytes] = {}
        """What is judged when it is known what was written meanwhile, as JSON: the account, and of the row or the balance what it is judged by."""
        self._suspects: dict[str, set[bytes]] = {table.table: set() for table in history.TABLES}
        self._takers = (self._take_accounts, self._take_entries, self._take_events, self._take_profiles, self._take_audits, self._take_rows)

    def differences(self, step: Callable[[str], Advance]) -> Iterator[Difference]:
        """Each difference, those of one member together but for what needs a second look. `step` begins a part of the work and gives its progress."""
        self._load(step)
        for one in self._judged(step("members")):
            self.found[one.store, one.cause.value] += 1
            yield one

    def topic(self, topic: Topic) -> str:
        return topic.name(self.settings.topic_prefix)

    # Reading

    def _load(self, step: Callable[[str], Advance]) -> None:
        changelog = self._changelog
        # In this order: what a transaction wrote into the changelog before it was looked at, it has written into the topics, too.
        changelog_ranges = self.log.ranges(changelog)
        logs = {topic.stream: self.log.ranges(self.topic(topic)) for topic in (topics.LEDGER_ENTRIES, topics.EVENTS, topics.PROFILES)}
        from_control = asyncio.run(deliveries.documents(self.settings, self.codec, self._configuration.destinations))
        self._deliveries = Deliveries(self.codec, from_control)
        self._read_progress()
        self.marks = Marks(changelog_ranges, logs, {}, {})
        self._buckets = Buckets(self._folder, sum(high - low for ranges in (changelog_ranges, *logs.values()) for low, high in ranges.values()))
        self._read(changelog, changelog_ranges, ACCOUNTS, step("changelog"))
        ends = {
            topic.stream: self._read(self.topic(topic), logs[topic.stream], kind, step(name))
            for kind, topic, name in ((ENTRIES, topics.LEDGER_ENTRIES, "journal"), (EVENTS, topics.EVENTS, "events"), (PROFILES, topics.PROFILES, "profiles"))
        }
        self._wait_for_sinks(logs, ends)
        audits = self.topic(topics.DELIVERY_AUDIT)
        self._read(audits, self.log.ranges(audits), AUDITS, step("delivery audit"))
        self._ask(Store.TABLE, self._read_rows, step("tables of the workers"))
        for number, table in enumerate(history.TABLES):
            self._ask(table.store, lambda advance, number=number: self._read_history(number, advance), step(table.table))  # type: ignore[misc]

    @property
    def _changelog(self) -> str:
        return changelog_name(app_id(self.settings), "accounts")

    def _read(self, topic: str, ranges: Mapping[int, Range], kind: int, advance: Advance) -> dict[int, int]:
        """Partition -> the offset behind the last record that is compared. Behind it there may be ends of transactions, which nobody reads."""
        covers, add = self.scope.covers, self._buckets.add
        ends: dict[int, int] = {}

        def take(message: Message) -> None:
            key, partition, offset = message.key(), message.partition() or 0, message.offset() or 0
            if covers(key):
                add(kind, key, message.value(), partition, offset, message.timestamp()[1])
                ends[partition] = offset + 1

        self.log.read(topic, ranges, take, advance)
        return ends

    def _read_progress(self) -> None:
        progress = self.topic(topics.DELIVERY_PROGRESS)

        def take(message: Message) -> None:
            self._deliveries.add_progress(message.partition() or 0, message.key() or b"", message.value())

        self.log.read(progress, self.log.ranges(progress), take)
        self._deliveries.progress_is_known()

    def _wait_for_sinks(self, logs: Mapping[str, Mapping[int, Range]], ends: Mapping[str, Mapping[int, int]]) -> None:
        """Give the sinks a while to come to the ends, and note to where they have come."""
        deadline_s = time.monotonic() + self._wait_s
        events = topics.EVENTS.stream
        places = {stream: (f"sink-clickhouse-{stream}", stream) for stream in logs} | {Store.REDIS: ("sink-redis", events)}
        while True:
            come = {name: self.log.committed(group, topics.BY_STREAM[stream].name(self.settings.topic_prefix)) for name, (group, stream) in places.items()}
            is_behind = any(come[name][number] < end for name, (_, stream) in places.items() for number, end in ends[stream].items())
            if not is_behind or time.monotonic() > deadline_s:
                break
            time.sleep(LOOK_S)
        marks = {name: reached(logs[stream], come[name]) for name, (_, stream) in places.items()}
        self.marks.cached = marks.pop(Store.REDIS)
        self.marks.mirrored = dict(marks)

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
                self._buckets.add(ROWS, key, value)
        advance(partitions, partitions)

    def _read_history(self, number: int, advance: Advance) -> None:
        table = history.TABLES[number]
        for done, (key, line) in enumerate(self.history.sums(table, self.marks.mirrored[table.topic.stream])):
            self._buckets.add(SUMS + number, key, line)
            if done % 10_000 == 0:
                advance(done, 0)

    # One bucket

    def _bucket(self, number: int) -> Bucket:
        """All copies of its members, but for those in Redis."""
        bucket = Bucket()
        self._deliveries.next_members()
        for kind, copies in groupby(self._buckets.copies(number), attrgetter("kind")):
            if kind < SUMS:
                self._takers[kind](bucket, copies)
            else:
                bucket.sums[kind - SUMS].update((copy.key, Sum.of(copy.value or b"")) for copy in copies)
        return bucket

    def _take_accounts(self, bucket: Bucket, copies: Iterator[Copy]) -> None:
        newest = {copy.key: copy.value for copy in copies}
        bucket.stored = {key: value for key, value in newest.items() if value is not None}
        bucket.accounts = {key: standing(self.codec.decode_fields(value, Account), value) for key, value in bucket.stored.items()}

    def _take_rows(self, bucket: Bucket, copies: Iterator[Copy]) -> None:
        for _, key, value, *_ in copies:
            if value is not None:
                is_same = bucket.stored.get(key) == value
                bucket.rows[key] = bucket.accounts[key] if is_same else standing(self.codec.decode_fields(value, Account), value)

    def _take_entries(self, bucket: Bucket, copies: Iterator[Copy]) -> None:
        mirrored = self.marks.mirrored[topics.LEDGER_ENTRIES.stream]
        for _, key, value, partition, offset, _ in copies:
            entry = self._decoded(value, LedgerEntry)
            if entry is None:
                continue
            fold = bucket.journal.get(key)
            if fold is None:
                fold = bucket.journal[key] = folds.entries_begin(entry)
            account = bucket.accounts.get(key)
            folds.add_entry(fold, entry, offset, account.entry_sequence if account else -1, offset < mirrored[partition][1])

    def _take_events(self, bucket: Bucket, copies: Iterator[Copy]) -> None:
        mirrored, kept = self.marks.mirrored[topics.EVENTS.stream], self.marks.cached
        for _, key, value, partition, offset, timestamp_ms in copies:
            event = self._decoded(value, LoyaltyEvent)
            if event is None:
                continue
            fold = bucket.events.get(key)
            if fold is None:
                fold = bucket.events[key] = folds.events_begin(event)
            account = bucket.accounts.get(key)
            is_mirrored, is_kept = offset < mirrored[partition][1], offset < kept[partition][1]
            folds.add_event(fold, event, offset, account.event_sequence if account else -1, is_mirrored, is_kept)
            self._deliveries.add_event(partition, offset, key, timestamp_ms, event)

    def _take_profiles(self, bucket: Bucket, copies: Iterator[Copy]) -> None:
        mirrored = self.marks.mirrored[topics.PROFILES.stream]
        for _, key, value, partition, offset, _ in copies:
            profile = self._decoded(value, MemberProfile)
            if profile is None:
                continue
            seen = bucket.profiles.setdefault(key, [0, 0, 0, 0, 0, 0])
            digest = PROFILE.of(profile)
            seen[:3] = [profile.version, offset, digest]
            if offset < mirrored[partition][1]:
                seen[3:5] = [profile.version, digest]
            elif not seen[5]:
                seen[5] = profile.recorded_at_ms

    def _take_audits(self, _: Bucket, copies: Iterator[Copy]) -> None:
        for copy in copies:
            audit = self._decoded(copy.value, DeliveryAudit)
            if audit is not None:
                self._deliveries.add_audit(audit)

    def _decoded(self, value: bytes | None, record: Any) -> Any:
        """None for what is no record: whoever reads the topic has made a dead letter of it."""
        try:
            return self.codec.decode(value, record)
        except ContractError:
            return None

    def _read_cache(self, bucket: Bucket, cache: Cache) -> None:
        keys = iter(sorted(bucket.accounts.keys() | bucket.events.keys()))
        while batch := list(islice(keys, MEMBERS_MAX)):
            bucket.cached.update(zip(batch, cache.balances(batch), strict=True))

    # Judging

    def _judged(self, advance: Advance) -> Iterator[Difference]:
        cache = Cache(self.settings)
        try:
            for number in range(self._buckets.count):
                bucket = self._bucket(number)
                if Store.REDIS not in self.not_compared:
                    self._ask(Store.REDIS, lambda _, bucket=bucket: self._read_cache(bucket, cache), advance)  # type: ignore[misc]
                for key in bucket.keys():
                    yield from self._member(bucket, key)
                yield from self._undelivered()
                advance(self.members, 0)
        finally:
            cache.close()
        advance(self.members, self.members)
        yield from self._judged_newer()
        for table in history.TABLES:
            if suspects := self._suspects[table.table]:
                yield from judging.Details(self.log, self.history, self.codec, self.topic(table.topic), self.marks, table).of(suspects)
        now_ms = time.time_ns() // 1_000_000
        for destination, (count, oldest_ms) in sorted(self._deliveries.underway.items()):
            yield Difference(
                program_id="", member_id="", store=f"destination:{destination}", cause=Cause.LAG, age_s=(now_ms - oldest_ms) / 1000,
                detail=f"{count:,} events are under way", repair="none: they wait for the destination",
            )  # fmt: skip

    def _member(self, bucket: Bucket, key: bytes) -> Iterator[Difference]:
        self.members += 1
        account, row = bucket.accounts.get(key), bucket.rows.get(key)
        journal, seen, profile = bucket.journal.get(key), bucket.events.get(key), bucket.profiles.get(key)
        who = judging.Member.of(key, account)
        if row != account and Store.TABLE not in self.not_compared:
            if row is None:
                yield from judging.rows(who, row, journal)
            elif len(self._newer_rows) < NEWER_MAX:
                self._newer_rows[key] = orjson.dumps([account and list(account), list(row), journal])
        yield from judging.journal(who, journal, self._low(topics.LEDGER_ENTRIES) == 0)
        yield from judging.events(who, seen, self._low(topics.EVENTS) == 0)
        yield from judging.profile(who, profile)
        for table, fold, sums in zip(history.TABLES, (journal, seen, profile), bucket.sums, strict=True):
            if table.store not in self.not_compared:
                yield from judging.lag(who, table, fold)
                if judging.is_suspect(table, who, fold, sums.get(key)):
                    self._suspects[table.table].add(key)
        if Store.REDIS in self.not_compared:
            return
        cached = bucket.cached.get(key)
        if cached is None or seen is None or cached[0] <= seen[folds.KEPT_SEQUENCE]:
            yield from judging.cached(who, seen, cached)
        elif len(self._newer_cached) < NEWER_MAX:
            self._newer_cached[key] = orjson.dumps([account and list(account), seen, cached])

    def _low(self, topic: Topic) -> int:
        """Above 0: retention has taken the beginning of the topic."""
        return max(low for low, _ in self.marks.log[topic.stream].values())

    def _undelivered(self) -> Iterator[Difference]:
        for owed, (event_id, appended_at_ms) in sorted(self._deliveries.owed.items()):
            yield judging.unrecorded(owed, event_id, appended_at_ms)
        for (destination, key), taken in sorted(self._deliveries.taken.items(), key=itemgetter(0)):
            yield from judging.given_up(destination, key, taken)

    def _judged_newer(self) -> Iterator[Difference]:
        """Of members whose copies in the workers and in Redis are not those of the start: what was not written meanwhile, either, is wrong."""
        if self._newer_rows:
            self.log.read(self._changelog, self._since(self._changelog, self.marks.changelog), self._newer_row)
        if self._newer_cached:
            events = self.topic(topics.EVENTS)
            self.log.read(events, self._since(events, self.marks.cached), self._newer_event)
        for key, known in self._newer_rows.items():
            account, row, journal = orjson.loads(known)
            yield from judging.rows(judging.Member.of(key, account and Standing(*account)), Standing(*row), journal)
        for key, known in self._newer_cached.items():
            account, seen, cached = orjson.loads(known)
            yield from judging.cached(judging.Member.of(key, account and Standing(*account)), seen, cached)

    def _since(self, topic: str, marks: Mapping[int, Range]) -> dict[int, Range]:
        return {number: (marks[number][1], high) for number, (_, high) in self.log.ranges(topic).items()}

    def _newer_row(self, message: Message) -> None:
        key, value = message.key(), message.value()
        if key in self._newer_rows and value is not None and orjson.loads(self._newer_rows[key])[1][-1] == crc32(value):
            del self._newer_rows[key]

    def _newer_event(self, message: Message) -> None:
        key = message.key()
        if key in self._newer_cached:
            event = self._decoded(message.value(), LoyaltyEvent)
            if event is not None and [event.sequence, snapshot(event)] == orjson.loads(self._newer_cached[key])[2]:
                del self._newer_cached[key]

    def close(self) -> None:
        self.history.close()
