"""The accounts of a programme as of one moment, and an export's rows beside them, both on disk in the order of the members' ids.

The changelog of the accounts is read to the end that it has at the start. That is exact, and asks no worker; what is written later is not
seen. Memory stays the same however many members there are; the disk needs some 0.4 KB for each, and gives it back at the end.
"""

import heapq
import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from rocksdict import Options

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import Account, WaitingCommands
from streams import kafka
from streams.engine.state import PartitionState
from streams.errors import LoyaltyError, UnavailableError
from streams.reconciliation.exports import Problem, Row
from streams.settings import Settings
from streams.tables import app_id, changelog_name

ROWS_MAX = 10_000  # Read at once.
TIMEOUT_S = 30.0  # Without a row.
ACCOUNTS, WAITING, EXPORT, IDENTITIES = "accounts", "waiting", "export", "identities"
MEMTABLE_BYTES = 16 << 20

Advance = Callable[[int, int], None]
"""(done, total) of a step."""
Pair = tuple[Account | None, Row | None, WaitingCommands | None]


class Members:
    """One comparison's data. Close it; its folder can be removed then."""

    def __init__(self, folder: Path, codec: Codec, program_id: str) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(MEMTABLE_BYTES)
        self._state = PartitionState(folder / "members", options)
        self._codec = codec
        self._prefix = member_key(program_id, "")
        self.accounts = 0
        """Rows that were read of the changelog, for people: one of a member that was written twice counts twice."""

    def load(self, settings: Settings, advance: Advance) -> None:
        """Read the accounts, and what waits for an enrolment. Raises UnavailableError and LoyaltyError."""
        names = {changelog_name(app_id(settings), table): table for table in (ACCOUNTS, WAITING)}
        counts = kafka.partition_counts(settings, timeout_s=TIMEOUT_S)
        missing = [name for name in names if name not in counts]
        if missing:
            raise LoyaltyError(f"There is no topic {missing[0]}: has a worker ever run under LOYALTY_TOPIC_PREFIX={settings.topic_prefix}?")
        consumer = kafka.consumer(settings, "reconciliation", enable_partition_eof=True, auto_offset_reset="error")
        try:
            places = [TopicPartition(name, partition) for name in names for partition in range(counts[name])]
            bounds = {(place.topic, place.partition): consumer.get_watermark_offsets(place, timeout=TIMEOUT_S) for place in places}
            self._read(settings, consumer, names, bounds, advance)
        except KafkaException as error:
            raise UnavailableError(
                f"the changelogs cannot be read at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={settings.kafka_bootstrap_servers}: {error.args[0].str()}"
            ) from error
        finally:
            consumer.close()
        self._state.flush()

    def _read(
        self, settings: Settings, consumer: Any, names: dict[str, str], bounds: dict[tuple[str, int], tuple[int, int]], advance: Advance
    ) -> None:
        unread = {place: high for place, (low, high) in bounds.items() if low < high}
        total = sum(high - low for low, high in bounds.values())
        left = {place: high - bounds[place][0] for place, high in unread.items()}
        consumer.assign([TopicPartition(topic, partition, bounds[topic, partition][0]) for topic, partition in unread])
        heard_s = time.monotonic()
        while unread:
            rows: dict[str, dict[bytes, bytes | None]] = {}
            for message in consumer.consume(ROWS_MAX, 0.2):
                place, error = (message.topic(), message.partition()), message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                heard_s = time.monotonic()
                if place not in unread:
                    continue
                if error is None and message.offset() < unread[place] and message.key().startswith(self._prefix):
                    rows.setdefault(names[place[0]], {})[message.key()] = message.value()
                    self.accounts += names[place[0]] == ACCOUNTS
                # An end of a transaction has an offset, too: the end of a partition is told by itself.
                left[place] = max(0, unread[place] - message.offset() - (error is None))
                if left[place] == 0:
                    del unread[place]
            self._state.apply(rows, {}, None, logged=False)
            advance(total - sum(left.values()), total)
            if time.monotonic() - heard_s > TIMEOUT_S:
                raise UnavailableError(
                    f"no row of the changelogs for {TIMEOUT_S:.0f} s at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={settings.kafka_bootstrap_servers}"
                )

    def index(self, external_id_type: str, advance: Advance) -> None:
        """Note whom each external id of a type leads to. A merged or erased member's lead nowhere."""
        rows: dict[bytes, bytes | None] = {}
        done = 0
        with closing(self._scan(0, ACCOUNTS)) as accounts:
            for done, (_, _, value) in enumerate(accounts, 1):
                account = self._codec.decode(value, Account)
                external_id = account.external_ids.get(external_id_type)
                if external_id is not None and account.merged_into is None:
                    rows[external_id.encode()] = account.member_id.encode()
                if len(rows) >= ROWS_MAX:
                    self._state.apply({IDENTITIES: rows}, {}, None, logged=False)
                    rows = {}
                    advance(done, self.accounts)
        self._state.apply({IDENTITIES: rows}, {}, None, logged=False)
        advance(done, done)

    def add(self, rows: Iterator[Row | Problem], problems_max: int) -> tuple[int, list[Problem]]:
        """Keep an export's rows by member; how many, and the first problems, two rows for one member among them."""
        count, found = 0, list[Problem]()
        batch: dict[bytes, bytes | None] = {}
        for row in rows:
            problem = row if isinstance(row, Problem) else None
            if isinstance(row, Row):
                count += 1
                key = self._key(row)
                earlier = batch.get(key) or self._state.get(EXPORT, key)
                if earlier is not None:
                    problem = Problem(row.line, f"is a second row for the member of line {json.loads(earlier)[0]}")
                batch[key] = _packed(row)
            if problem is not None:
                found.append(problem)
                if len(found) >= problems_max:
                    break
            if len(batch) >= ROWS_MAX:
                self._state.apply({EXPORT: batch}, {}, None, logged=False)
                batch = {}
        self._state.apply({EXPORT: batch}, {}, None, logged=False)
        return count, found

    def _key(self, row: Row) -> bytes:
        if row.member_id:
            return self._prefix + row.member_id.encode()
        member_id = self._state.get(IDENTITIES, row.external_id.encode())
        # An unknown external id has a key that is no member's: NUL is in no id.
        return self._prefix + (member_id if member_id is not None else b"\0" + row.external_id.encode())

    def pairs(self) -> Iterator[Pair]:
        """Member by member: the account, the export's row, what waits; each None where there is none. In the order of the ids."""
        tables = (ACCOUNTS, EXPORT, WAITING)
        merged = heapq.merge(*(self._scan(number, table) for number, table in enumerate(tables)))
        for _, group in groupby(merged, key=lambda one: one[0]):
            values = {number: value for _, number, value in group}
            account = self._codec.decode(values[0], Account) if 0 in values else None
            row = _unpacked(values[1]) if 1 in values else None
            if account is not None or row is not None:
                yield account, row, self._codec.decode(values[2], WaitingCommands) if 2 in values else None

    def _scan(self, number: int, table: str) -> Generator[tuple[bytes, int, bytes], None, None]:
        for key, value in self._state.scan(table, b"", None):
            yield key, number, value

    def close(self) -> None:
        self._state.close()


def _packed(row: Row) -> bytes:
    return json.dumps([row.line, row.member_id, row.external_id, row.version, dict(row.said)], separators=(",", ":")).encode()


def _unpacked(value: bytes) -> Row:
    line, member_id, external_id, version, said = json.loads(value)
    words = {part: tuple(word) if isinstance(word, list) else word for part, word in said.items()}
    return Row(line=line, member_id=member_id, external_id=external_id, version=version, said=words)
