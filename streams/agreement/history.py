"""ClickHouse -> what its rows of each member add up to, member by member; and single rows, where that is not what the log has."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from sinks.clickhouse.connection import QUERY_BYTES_MAX, connect
from streams import topics
from streams.agreement.log import Range
from streams.agreement.model import ENTRY, EVENT, PROFILE, Digest, Store
from streams.errors import UnavailableError
from streams.settings import Settings
from streams.topics import Topic

GROUP_BYTES_MAX = 1 << 30  # Beyond it ClickHouse groups on its disk.


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrored:
    """A table of members' records."""

    table: str
    store: Store
    topic: Topic
    number: str
    """Column with the record's number within the member."""
    record_id: str
    """SQL of what no two records share."""
    digest: Digest
    last: str
    """SQL of a value of the last row that is compared with the account's."""
    wholeness: str
    """SQL that is 0 where the rows follow one another."""


LEDGER = Mirrored(
    table="ledger_entries", store=Store.LEDGER_ROWS, topic=topics.LEDGER_ENTRIES, number="entry_sequence", record_id="entry_id", digest=ENTRY,
    last="argMax(entry_hash, entry_sequence)",
    # Of a whole chain all hashes but the last one stand as previous_hash, too; and what moved is what the last entry has, if the first is there.
    wholeness=(
        "(sum(toInt64(CRC32(previous_hash))) - sum(toInt64(CRC32(entry_hash))) + toInt64(CRC32(argMax(entry_hash, entry_sequence)))"
        " != toInt64(CRC32(argMin(previous_hash, entry_sequence)))) OR (min(entry_sequence) = 1 AND argMax(available_after, entry_sequence) !="
        " sum(multiIf(account = 'available', points_delta, counter_account = 'available', -points_delta, 0)))"
    ),
)  # fmt: skip
EVENTS = Mirrored(
    table="loyalty_events", store=Store.EVENT_ROWS, topic=topics.EVENTS, number="sequence", record_id="event_id", digest=EVENT,
    last="toString(argMax(available_points, sequence))", wholeness="0",
)  # fmt: skip
PROFILES = Mirrored(
    table="member_profile_history", store=Store.PROFILE_ROWS, topic=topics.PROFILES, number="version", record_id="toString(version)",
    digest=PROFILE, last=f"toString(argMax({PROFILE.sql}, version))",
    # An erasure takes the versions before it away.
    wholeness="countIf(operation = 'ERASE') = 0 AND count() != max(version) - min(version) + 1",
)  # fmt: skip
TABLES = (LEDGER, EVENTS, PROFILES)


class Sum(NamedTuple):
    """What ClickHouse has of a member."""

    rows: int
    first: int
    last: int
    ids: int
    is_broken: int
    last_value: str
    mark_rows: int
    """Of the records between the marks, and the sum of their checksums."""
    mark_digest: int

    @classmethod
    def of(cls, line: bytes) -> "Sum":
        return cls._make(orjson.loads(line)[2:])


class Row(NamedTuple):
    number: int
    record_id: str
    digest: int
    partition: int
    offset: int
    is_linked: int


class History:
    """Methods raise UnavailableError."""

    def __init__(self, settings: Settings, program_id: str, member_id: str) -> None:
        self._settings = settings
        self._where = " AND ".join(
            f"{column} = %({column})s" for column, value in (("program_id", program_id), ("member_id", member_id)) if value
        ) or "1"  # fmt: skip
        self._values = {"program_id": program_id, "member_id": member_id}
        self._client: Client | None = None

    def sums(self, table: Mirrored, marks: Mapping[int, Range]) -> Iterator[tuple[bytes, bytes]]:
        """Key and what `Sum.of` takes, by member, in no order. `marks`: the records of the topic that the checksum is about."""
        lows, highs = [marks[number][0] for number in sorted(marks)], [marks[number][1] for number in sorted(marks)]
        numbers = sorted(marks)
        within = (
            f"source_offset >= transform(source_partition, {numbers}, {lows}, 0) AND source_offset < transform(source_partition, {numbers}, {highs}, 0)"
        )
        sql = (
            f"SELECT program_id, member_id, count(), min({table.number}), max({table.number}), uniqExact({table.record_id}),"
            f" toUInt8({table.wholeness}), {table.last}, countIf({within}), sumIf(toUInt64({table.digest.sql}), {within})"
            f" FROM {table.table} FINAL WHERE {self._where} GROUP BY program_id, member_id"
        )
        settings = {"optimize_aggregation_in_order": 1, "max_bytes_before_external_group_by": GROUP_BYTES_MAX}
        for (program_id, member_id, *_), line in self._rows(sql, self._values, settings):
            yield f"{program_id}/{member_id}".encode(), line

    def rows(self, table: Mirrored, members: Sequence[str]) -> dict[bytes, dict[int, Row]]:
        """All rows of some members (program_id/member_id), by their numbers."""
        linked = "previous_hash = lagInFrame(entry_hash, 1, previous_hash) OVER (PARTITION BY program_id, member_id ORDER BY entry_sequence)"
        sql = (
            f"SELECT program_id, member_id, {table.number}, {table.record_id}, {table.digest.sql}, source_partition, source_offset,"
            f" {f'toUInt8({linked})' if table is LEDGER else '1'} FROM {table.table} FINAL WHERE (program_id, member_id) IN %(members)s"
        )
        found: dict[bytes, dict[int, Row]] = {}
        for (program_id, member_id, *values), _ in self._rows(sql, {"members": [tuple(member.split("/", 1)) for member in members]}, {}):
            row = Row(*values)
            found.setdefault(f"{program_id}/{member_id}".encode(), {})[row.number] = row
        return found

    def dead_letters(self, topic: str, places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], str]:
        """(partition, offset) -> why the mirror gave the record up."""
        sql = (
            "SELECT partition, offset, any(reason) FROM dead_letters FINAL WHERE topic = %(topic)s AND startsWith(processor, 'clickhouse')"
            " AND (partition, offset) IN %(places)s GROUP BY partition, offset"
        )
        return {(int(row[0]), int(row[1])): str(row[2]) for row, _ in self._rows(sql, {"topic": topic, "places": list(places)}, {})}

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _rows(self, sql: str, values: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[tuple[list[Any], bytes]]:
        """Each row, and as the JSON that it came as."""
        options = {"output_format_json_quote_64bit_integers": 0, "max_query_size": QUERY_BYTES_MAX, **settings}
        try:
            if self._client is None:
                self._client = connect(self._settings)
            with self._client.raw_stream(sql, parameters=dict(values), settings=options, fmt="JSONCompactEachRow") as stream:
                rest = b""
                while chunk := stream.read(1 << 20):
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield orjson.loads(line), line
        except (ClickHouseError, OSError, orjson.JSONDecodeError) as error:
            raise UnavailableError(f"LOYALTY_CLICKHOUSE_URL={self._settings.clickhouse_url} does not answer as it should: {error}"[:400]) from error
