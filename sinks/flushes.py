"""What a stream that waits has written, by the instant for which it went out -> one run of it on record for each instant and process."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Ended = Callable[[int, int, int], Awaitable[None]]
"""Of a flush: its instant, when it began, both in ms since 1970, and its rows."""


@dataclass(slots=True, kw_only=True)
class _Flush:
    """All that was due at an instant."""

    instant_ms: int
    started_ms: int
    rows: int = 0


class Flushes:
    """Of one stream in one process."""

    def __init__(self, ended: Ended) -> None:
        """`ended` hears of each flush when nothing more of it is left; it may not raise."""
        self._ended = ended
        self._open: _Flush | None = None

    @property
    def is_open(self) -> bool:
        return self._open is not None

    async def begin(self, instant_ms: int | None) -> None:
        """What is written next is of that instant; None: the stream is realtime, and has no runs."""
        if self._open is not None and self._open.instant_ms != instant_ms:
            await self.end()
        if self._open is None and instant_ms is not None:
            self._open = _Flush(instant_ms=instant_ms, started_ms=time.time_ns() // 1_000_000)

    def wrote(self, rows: int) -> None:
        if self._open is not None:
            self._open.rows += rows

    async def end(self) -> None:
        """Nothing more is due."""
        flush, self._open = self._open, None
        if flush is not None and flush.rows:
            await self._ended(flush.instant_ms, flush.started_ms, flush.rows)
