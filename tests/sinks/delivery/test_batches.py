"""Batches: when they go out, whatever happens meanwhile, and which events give way to newer ones. In virtual time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from schemas.records import DeliveryResult, LoyaltyEventKind
from sinks.delivery.records import Outgoing
from tests.sinks.delivery.simulation import Process, World, replaced
from tests.sinks.delivery.support import destination
from tests.sinks.delivery.virtual import now_ms, run
from tests.sinks.examples import event

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
SOON_S = 5.0
PROFILE, BALANCE, RETAINED = LoyaltyEventKind.PROFILE_CHANGED, LoyaltyEventKind.BALANCE_CHANGED, LoyaltyEventKind.TIER_RETAINED


class Day:
    """A destination named crm, and a process that can be killed. It begins at 12:16 UTC."""

    process: Process

    def __init__(self) -> None:
        self.world = World(1)

    def put(self, **fields: Any) -> None:
        self.world.put(destination("http://127.0.0.1:9/hooks", retry_delays_s=(1.0,), **fields))

    async def start(self) -> None:
        self.process = Process(self.world, polls_s=(1.0,))
        await self.process.start()

    async def until(self, hour: int, minute: int = 0) -> None:
        """Sleep until the next time that it is so late."""
        wait_ms = (hour * HOUR_MS + minute * MINUTE_MS - now_ms()) % DAY_MS
        await asyncio.sleep(wait_ms / 1000)

    def append(self, kind: LoyaltyEventKind = PROFILE, member: str = "m-1", names: Sequence[str] = ()) -> str:
        number = len(self.world.log) + 1
        made = event(number, member, kind=kind, changed_attributes=tuple(names))
        self.world.log.append(Outgoing(offset=number - 1, key=f"grand/{member}".encode(), record=made, timestamp_ms=now_ms()))
        return made.event_id

    @property
    def accepted(self) -> list[str]:
        return [one.record.event_id for one in self.world.acceptances]

    def ended(self, result: DeliveryResult) -> list[str]:
        return [one.event_id for one in self.world.audit if one.result is result]


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Day], Awaitable[None]]], None]:
    """Runs a story."""

    def play(story: Callable[[Day], Awaitable[None]]) -> None:
        told = Day()
        monkeypatch.setattr(told.world, "answer", lambda *_: told.world.health["crm"] if told.world.health["crm"] != "up" else "ok")

        async def work() -> None:
            await told.start()
            await story(told)
            await told.process.stop()

        with replaced(told.world):
            run(work)

    return play


Play = Callable[[Callable[[Day], Awaitable[None]]], None]


def test_an_event_goes_at_the_first_instant_after_it_and_no_restart_changes_that(day: Play) -> None:
    async def story(told: Day) -> None:
        told.put(cadence_s=600.0)
        first, points = told.append(), told.append(BALANCE)
        await asyncio.sleep(SOON_S)
        assert told.accepted == [points], "points wait for nothing"
        await told.until(12, 19)
        assert told.accepted == [points]
        await told.until(12, 20)
        await asyncio.sleep(SOON_S)
        assert told.accepted == [points, first]
        second = told.append()
        await told.until(12, 22)
        await told.process.kill()
        await told.start()
        await told.until(12, 29)
        assert told.accepted == [points, first], "a restart is no instant"
        await told.until(12, 30)
        await asyncio.sleep(SOON_S)
        assert told.accepted == [points, first, second]
        third = told.append()
        await told.process.kill()
        await told.until(12, 44)
        await told.start()
        await asyncio.sleep(SOON_S)
        assert told.accepted == [points, first, second, third], "an instant that was missed is made up for"

    day(story)


def test_what_is_due_outside_the_window_waits_for_it(day: Play) -> None:
    async def story(told: Day) -> None:
        told.put(cadence_cron="*/5 * * * *", cadence_time_zone="Europe/Berlin", cadence_window="13:31-13:40")  # An hour earlier in UTC.
        first = told.append()
        await told.until(12, 30)
        assert told.accepted == []
        await told.until(12, 31)
        await asyncio.sleep(SOON_S)
        assert told.accepted == [first]
        second = told.append()
        await told.until(12, 32)
        await told.process.kill()
        await told.until(12, 41)
        await told.start()
        await told.until(12, 51)
        assert told.accepted == [first], "what was missed is made up for within the window alone"
        told.put(cadence_cron="*/5 * * * *")
        await asyncio.sleep(SOON_S)
        assert told.accepted == [first, second]

    day(story)


def test_a_cadence_that_is_changed_counts_at_once(day: Play) -> None:
    async def story(told: Day) -> None:
        told.put(cadence_s=86_400.0)
        waits = told.append()
        await told.until(12, 31)
        assert told.accepted == []
        told.put(cadence_s=1.0)
        await asyncio.sleep(SOON_S)
        assert told.accepted == [waits]

    day(story)


def test_events_give_way_to_a_later_one_that_names_as_much(day: Play) -> None:
    async def story(told: Day) -> None:
        told.put(cadence_s=600.0, coalesce=True, batch_events_max=2)
        gone = [told.append(names=("email",)), told.append(names=("phone",))]
        kept = [told.append(names=("locale",)), told.append(LoyaltyEventKind.MEMBER_ENROLLED), told.append(LoyaltyEventKind.MEMBER_ENROLLED)]
        gone += [told.append(RETAINED)]
        kept += [told.append(names=("email", "phone", "segment")), told.append(member="m-2", names=("email",)), told.append(RETAINED)]
        await told.until(12, 20)
        await asyncio.sleep(SOON_S)
        assert told.accepted == kept == told.ended(DeliveryResult.DELIVERED)
        assert told.ended(DeliveryResult.SUPERSEDED) == gone
        later = told.append(names=("email",))
        await told.until(12, 30)
        await asyncio.sleep(SOON_S)
        assert told.accepted == [*kept, later], "what was sent once gives way to nothing"

    day(story)


def test_many_more_than_a_batch_are_looked_through(day: Play) -> None:
    async def story(told: Day) -> None:
        told.put(cadence_s=600.0, coalesce=True, batch_events_max=10)
        events = [told.append(member=f"m-{number % 20}", names=("segment",)) for number in range(3_000)]
        await told.until(12, 20)
        await asyncio.sleep(SOON_S)
        assert told.accepted == events[-20:]
        assert sorted(told.ended(DeliveryResult.SUPERSEDED)) == sorted(events[:-20])

    day(story)


def test_what_has_failed_gives_way_to_nothing(day: Play) -> None:
    async def story(told: Day) -> None:
        told.put(cadence_s=600.0, coalesce=True)
        first = told.append(names=("email",))
        told.world.health["crm"] = "failure"
        await told.until(12, 21)
        second = told.append(names=("email",))
        await told.until(12, 31)
        told.world.health["crm"] = "up"
        await told.until(12, 33)
        assert told.accepted == [first, second] and told.ended(DeliveryResult.SUPERSEDED) == []

    day(story)
