"""batches of records -> rows of one table: what ClickHouse could not take comes again, what it never will goes alone."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from schemas.codec import Codec
from schemas.columns import ColumnDecoder, Places
from schemas.records import DeadLetterStage
from sinks.base import Item, Receipt, Verdict
from sinks.clickhouse import erasure
from sinks.clickhouse.connection import blames_rows, connect, without_values
from sinks.clickhouse.tables import Fields, Table
from streams import metrics
from streams.codec import open_codec
from streams.settings import Settings

log = logging.getLogger(__name__)

DELIVERED = Receipt(verdict=Verdict.DELIVERED)


class History:
    """Inserts into one table."""

    def __init__(self, settings: Settings, table: Table, codec: Codec | None = None) -> None:
        self.table = table
        self._settings = settings
        self._decoder = ColumnDecoder(codec or open_codec(settings), table.topic.record)
        self._client: Client | None = None

    async def write(self, items: Sequence[Item[Any]]) -> list[Receipt]:
        return await asyncio.to_thread(self.write_now, items)

    def write_now(self, items: Sequence[Item[Any]]) -> list[Receipt]:
        """One attempt at a batch of encoded records: rows that ClickHouse blames alone, and what is no record, are REFUSED; what it
        could not take is RETRY.
        """
        receipts = [DELIVERED] * len(items)
        decoded = self._decoder.decode([item.value for item in items])
        for place, error in decoded.errors.items():
            receipts[place] = Receipt(verdict=Verdict.REFUSED, reason=error.reason, detail=error.detail, stage=DeadLetterStage.DECODE)
        of, places = Fields(decoded.fields), decoded.places
        rows = pa.table(self.table.columns(of) | _source(items, places))
        is_kept = np.ones(len(places), dtype=bool)
        for row, complaint in of.invalid.items():
            is_kept[row] = False
            receipts[places[row]] = Receipt(verdict=Verdict.REFUSED, reason="ROW_INVALID", detail=complaint)
        try:
            erasing = erasure.asked(of) if self.table.erasable else {}
            if self.table.erasable and len(places):
                erased = erasure.newest((erasing, erasure.done(self._connected(), self.table, of)))
                # Read again, or together with its erasure: it must not even come back for a moment.
                is_kept &= [version >= erased.get(member, 0) for member, version in erasure.versions(of)]
            for row, receipt in self._insert_halving(rows.filter(pa.array(is_kept))):
                receipts[places[is_kept][row]] = receipt
            if self.table.words and (gone := erasure.gone(of)):
                erasure.empty_words(self._connected(), self.table, gone)
            if erasing:
                # Behind the insert: from here on the ERASE row in the table keeps older versions out.
                erasure.remove(self._connected(), self.table, erasing)
        except (ClickHouseError, OSError) as error:
            return [self._again(error)] * len(items)
        return receipts

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _insert_halving(self, rows: Any) -> list[tuple[int, Receipt]]:
        """The receipts of rows that did not go in. A batch that is refused for its rows is halved until the bad ones are alone."""
        failed: list[tuple[int, Receipt]] = []
        batches = [(0, rows)] if rows.num_rows else []
        while batches:
            first, batch = batches.pop()
            try:
                self._insert(batch)
            except (ClickHouseError, OSError) as error:
                if not blames_rows(error):
                    again = self._again(error)
                    return failed + [(row, again) for start, left in ((first, batch), *batches) for row in range(start, start + left.num_rows)]
                said = without_values(error)
                if batch.num_rows == 1:
                    failed.append((first, Receipt(verdict=Verdict.REFUSED, reason="ROW_REFUSED", detail=f"ClickHouse refused the row: {said}")))
                else:
                    log.warning("history.batch_halved", extra={"table": self.table.name, "rows": batch.num_rows, "error": said})
                    half = batch.num_rows // 2
                    batches += [(first + half, batch.slice(half)), (first, batch.slice(0, half))]
        return failed

    def _connected(self) -> Client:
        if self._client is None:
            self._client = connect(self._settings)
        return self._client

    def _again(self, error: Exception) -> Receipt:
        """What could not be done for now; the next attempt connects anew."""
        self.close()
        return Receipt(verdict=Verdict.RETRY, detail=f"ClickHouse: {type(error).__name__}: {error}"[:500])

    def _insert(self, rows: Any) -> None:
        # The offsets are committed when this returns: the rows must be in by then, not in a buffer.
        self._connected().insert_arrow(self.table.name, rows, settings={"async_insert": 0, "wait_end_of_query": 1})
        metrics.HISTORY_ROWS.labels(self.table.name).inc(rows.num_rows)


def _source(items: Sequence[Item[Any]], places: Places) -> dict[str, Any]:
    """Where each row's record is in its topic."""
    partitions = np.fromiter((item.partition for item in items), dtype=np.uint16, count=len(items))
    offsets = np.fromiter((item.offset for item in items), dtype=np.uint64, count=len(items))
    return {"source_partition": pa.array(partitions[places]), "source_offset": pa.array(offsets[places])}
