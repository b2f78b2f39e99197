"""batches -> which part of the topic each brought: rows of mirror_ranges. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sinks.base import Receipt, Verdict
from sinks.clickhouse.tables import Columns
from sinks.records import UNKNOWN, Records

TABLE = "mirror_ranges"


@dataclass(frozen=True, slots=True)
class Range:
    """What a batch brought of one partition."""

    partition: int
    first_offset: int
    """The one behind the last record before: what lies between was no record."""
    last_offset: int
    records: int
    rows: int
    refused: int
    points: int


def of(records: Records[Any], receipts: Sequence[Receipt], rows: Any) -> list[Range]:
    """The ranges of a batch that is finished. `rows`: its rows in the table, with the place of each in the topic."""
    numbers, offsets = records.partitions, records.offsets
    follow = np.where(records.follows == UNKNOWN, offsets, np.minimum(records.follows, offsets))
    refused = np.array([receipt.verdict is Verdict.REFUSED for receipt in receipts], dtype=bool)
    row_numbers = np.asarray(rows["source_partition"])
    # Of an audit's record it may be empty: a command that was refused moved nothing.
    points = np.asarray(rows["points_delta"].fill_null(0)) if "points_delta" in rows.column_names else np.zeros(rows.num_rows, dtype=np.int64)
    found = []
    for number in np.unique(numbers):
        own, own_rows = numbers == number, row_numbers == number
        found.append(Range(
            partition=int(number), first_offset=int(follow[own].min()), last_offset=int(offsets[own].max()), records=int(own.sum()),
            rows=int(own_rows.sum()), refused=int(refused[own].sum()), points=int(points[own_rows].sum()),
        ))  # fmt: skip
    return found


def columns(table: str, topic: str, ranges: Sequence[Range]) -> Columns:
    return {
        "table_name": pa.array([table] * len(ranges)),
        "topic": pa.array([topic] * len(ranges)),
        "partition": pa.array([one.partition for one in ranges], type=pa.uint16()),
        "first_offset": pa.array([one.first_offset for one in ranges], type=pa.uint64()),
        "last_offset": pa.array([one.last_offset for one in ranges], type=pa.uint64()),
        "records": pa.array([one.records for one in ranges], type=pa.uint64()),
        "row_count": pa.array([one.rows for one in ranges], type=pa.uint64()),
        "refused": pa.array([one.refused for one in ranges], type=pa.uint64()),
        "points": pa.array([one.points for one in ranges], type=pa.int64()),
    }
