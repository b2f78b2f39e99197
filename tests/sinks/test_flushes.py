"""Flushes of what waits: one for each instant, with all of its rows, and none for what is realtime."""

from sinks.flushes import Flushes


async def test_one_flush_for_each_instant() -> None:
    ended: list[tuple[int, int]] = []

    async def hear(instant_ms: int, started_ms: int, rows: int) -> None:
        assert started_ms > instant_ms
        ended.append((instant_ms, rows))

    flushes = Flushes(hear)
    for instant_ms, rows in ((1_000, 10), (1_000, 5), (2_000, 7), (None, 3)):
        await flushes.begin(instant_ms)
        flushes.wrote(rows)
    assert ended == [(1_000, 15), (2_000, 7)] and not flushes.is_open
    await flushes.begin(3_000)
    assert flushes.is_open
    await flushes.end()
    assert ended[2:] == [], "a flush that wrote nothing is none"
