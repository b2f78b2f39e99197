"""batches of records -> rows of one table: what ClickHouse could not take comes again, what it never will goes alone."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from sinks.base import Item, Receipt, Verdict
from sinks.clickhouse import erasure
from sinks.clickhouse.connection import blames_rows, connect, without_values
from sinks.clickhouse.tables import Row, Table, to_row
from streams import metrics
from streams.settings import Settings

log = logging.getLogger(__name__)


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
        erasing = erasure.asked(items) if self.table.erasable else {}
        try:
            erased = erasure.newest(erasing, erasure.done(self._connected(), self.table, items)) if self.table.erasable else {}
        except (ClickHouseError, OSError) as error:
            return [self._again(error)] * len(items)
        for number, item in enumerate(items):
            if erased and item.record.version < erased.get(erasure.member(item.record), 0):
                continue  # Read again, or together with its erasure: it must not even come back for a moment.
            try:
                good.append((number, to_row(self.table, item)))
            except ValueError as error:
                receipts[number] = Receipt(verdict=Verdict.REFUSED, reason="ROW_INVALID", detail=str(error))
        for number, receipt in self._insert_halving(good):
            receipts[number] = receipt
        if self.table.words and (gone := erasure.gone(items)):
            try:
                erasure.empty_words(self._connected(), self.table, gone)
            except (ClickHouseError, OSError) as error:
                return [self._again(error)] * len(items)
        if erasing:
            # Behind the insert: from here on the ERASE row in the table keeps older versions out.
            try:
                erasure.remove(self._connected(), self.table, erasing)
            except (ClickHouseError, OSError) as error:
                again = self._again(error)
                return [again if erasure.member(item.record) in erasing else receipt for item, receipt in zip(items, receipts, strict=True)]
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
                    detail = f"ClickHouse refused the row: {without_values(error)}"
                    failed.append((batch[0][0], Receipt(verdict=Verdict.REFUSED, reason="ROW_REFUSED", detail=detail)))
                else:
                    said = without_values(error)
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
