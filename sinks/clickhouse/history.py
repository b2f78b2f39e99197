"""batches of records -> rows of one table: what ClickHouse could not take comes again, what it never will goes alone."""

import asyncio
import logging
import time
from collections.abc import Sequence
from hashlib import sha256
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
from sinks.clickhouse import ranges as mirror_ranges
from sinks.clickhouse.connection import blames_rows, connect, without_values
from sinks.clickhouse.tables import Fields, Table
from sinks.records import Records
from streams import metrics
from streams.codec import open_codec
from streams.settings import Settings

log = logging.getLogger(__name__)

DELIVERED = Receipt(verdict=Verdict.DELIVERED)


class History:
    """Inserts into one table."""

    def __init__(self, settings: Settings, table: Table, codec: Codec | None = None, *, follows_topic: bool = True) -> None:
        """`follows_topic`: its batches are the topic as it comes, not some records of it that are said again. Only then are their ranges
        noted, and inserts that come again passed over.
        """
        self.table = table
        self._settings = settings
        self._follows_topic = follows_topic
        self._topic = table.topic.name(settings.topic_prefix)
        self._decoder = ColumnDecoder(codec or open_codec(settings), table.topic.record)
        self._client: Client | None = None
        self._oldest_ms: int | None = None
        if follows_topic:
            metrics.MIRROR_OLDEST_SECONDS.labels(table.name).set_function(self._oldest_s)

    async def write(self, items: Sequence[Item[Any]]) -> list[Receipt]:
        return await asyncio.to_thread(self.write_now, items)

    def write_now(self, items: Sequence[Item[Any]]) -> list[Receipt]:
        """One attempt at a batch of encoded records: rows that ClickHouse blames alone, and what is no record, are REFUSED. When it could not
        take one of them, all are RETRY: what went in comes again, and replaces itself.
        """
        records = Records.of(items)
        self._oldest_ms = int(records.timestamps_ms.min()) if records else None
        try:
            receipts, rows = self._write(records)
            if self._follows_topic and records:
                ranges = mirror_ranges.of(records, receipts, rows)
                self._send(mirror_ranges.TABLE, pa.table(mirror_ranges.columns(self.table.name, self._topic, ranges)))
        except (ClickHouseError, OSError) as error:
            return [self._again(error)] * len(records)
        self._oldest_ms = None
        if self._follows_topic:
            metrics.observe_all(metrics.MIRROR_LAG_SECONDS.labels(self.table.name), np.maximum(time.time() - records.timestamps_ms / 1000, 0.0))
        return receipts

    def _write(self, records: Records[Any]) -> tuple[list[Receipt], Any]:
        """The receipts of a batch, and those of its rows that went in."""
        receipts = [DELIVERED] * len(records)
        decoded = self._decoder.decode(records.values)
        for place, error in decoded.errors.items():
            receipts[place] = Receipt(verdict=Verdict.REFUSED, reason=error.reason, detail=error.detail, stage=DeadLetterStage.DECODE)
        of, places = Fields(decoded.fields), decoded.places
        rows = pa.table(self.table.columns(of) | _source(records, places))
        is_kept = np.ones(len(places), dtype=bool)
        for row, complaint in of.invalid.items():
            is_kept[row] = False
            receipts[places[row]] = Receipt(verdict=Verdict.REFUSED, reason="ROW_INVALID", detail=complaint)
        erasing = erasure.asked(of) if self.table.erasable else {}
        if self.table.erasable and len(places):
            erased = erasure.newest((erasing, erasure.done(self._connected(), self.table, of)))
            # Read again, or together with its erasure: it must not even come back for a moment.
            is_kept &= [version >= erased.get(member, 0) for member, version in erasure.versions(of)]
        kept = np.flatnonzero(is_kept)
        refused = self._insert_halving(rows.take(pa.array(kept)) if len(kept) < len(places) else rows)
        for number, receipt in refused.items():
            receipts[places[kept[number]]] = receipt
        if self.table.words and (gone := erasure.gone(of)):
            erasure.empty_words(self._connected(), self.table, gone, self._settings.clickhouse_cluster)
        if erasing:
            # Behind the insert: from here on the ERASE row in the table keeps older versions out.
            erasure.remove(self._connected(), self.table, erasing, self._settings.clickhouse_cluster)
        return receipts, rows.take(pa.array(np.delete(kept, list(refused)))) if len(kept) < len(places) or refused else rows

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _insert_halving(self, rows: Any) -> dict[int, Receipt]:
        """The receipts of rows that are refused. A batch that is refused for its rows is halved until the bad ones are alone."""
        refused: dict[int, Receipt] = {}
        batches = [(0, rows)] if rows.num_rows else []
        while batches:
            first, batch = batches.pop()
            try:
                self._insert(batch)
            except (ClickHouseError, OSError) as error:
                if not blames_rows(error):
                    raise
                said = without_values(error)
                if batch.num_rows == 1:
                    refused[first] = Receipt(verdict=Verdict.REFUSED, reason="ROW_REFUSED", detail=f"ClickHouse refused the row: {said}")
                else:
                    log.warning("history.batch_halved", extra={"table": self.table.name, "rows": batch.num_rows, "error": said})
                    half = batch.num_rows // 2
                    batches += [(first + half, batch.slice(half)), (first, batch.slice(0, half))]
        metrics.HISTORY_ROWS.labels(self.table.name).inc(rows.num_rows - len(refused))
        return refused

    def _connected(self) -> Client:
        if self._client is None:
            self._client = connect(self._settings)
        return self._client

    def _again(self, error: Exception) -> Receipt:
        """What could not be done for now; the next attempt connects anew."""
        self.close()
        return Receipt(verdict=Verdict.RETRY, detail=f"ClickHouse: {type(error).__name__}: {error}"[:500])

    def _insert(self, rows: Any) -> None:
        self._send(self.table.name, rows)

    def _send(self, table: str, rows: Any) -> None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, rows.schema) as writer:
            writer.write_table(rows)
        data = sink.getvalue().to_pybytes()
        # The offsets are committed when this returns: the rows must be in by then, not in a buffer.
        settings: dict[str, Any] = {"async_insert": 0, "wait_end_of_query": 1}
        if self._follows_topic:
            # The rows' places in the topic are among the bytes. Their values are as well: a broker that lost its log gives offsets anew.
            settings["insert_deduplication_token"] = sha256(data).hexdigest()
        self._connected().raw_insert(table, rows.schema.names, data, settings, "Arrow")

    def _oldest_s(self) -> float:
        oldest_ms = self._oldest_ms
        return 0.0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)


def _source(records: Records[Any], places: Places) -> dict[str, Any]:
    """Where each row's record is in its topic."""
    return {
        "source_partition": pa.array(records.partitions[places].astype(np.uint16)),
        "source_offset": pa.array(records.offsets[places].astype(np.uint64)),
    }
