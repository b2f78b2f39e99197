"""The worker process around the engine: what passes is waited for, what does not ends it with the reason."""

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from streams import worker
from streams.errors import ConfigurationError, LoyaltyError, UnavailableError
from streams.settings import Settings

SETTINGS = Settings(voucher_key="k" * 16, http_port=0)


class ScriptedApp:
    """What `run` asks of the engine's app; its starts end as they are told to."""

    def __init__(self, failures: list[Exception], stop: asyncio.Event, crash: Exception | None = None) -> None:
        self._failures, self._stop, self.crash_reason = failures, stop, crash
        self.stopped = False

    async def start(self) -> None:
        if self._failures:
            raise self._failures.pop(0)
        if self.crash_reason is None:
            self._stop.set()

    async def wait_until_stopped(self) -> None:
        if self.crash_reason is None:
            await asyncio.Event().wait()

    async def stop(self) -> None:
        self.stopped = True


class ScriptedTicker:
    """Ticks never: nothing is due here."""

    async def run(self) -> None:
        await asyncio.Event().wait()


async def run(
    monkeypatch: pytest.MonkeyPatch, failures: list[Exception], crash: Exception | None = None, unpublished: tuple[Exception, ...] = ()
) -> list[ScriptedApp]:  # fmt: skip
    stop, apps, publications = asyncio.Event(), list[ScriptedApp](), list(unpublished)

    async def topics_are_there(*_: Any, **__: Any) -> bool:
        return True

    def ensure_published(*_: Any) -> None:
        if publications:
            raise publications.pop()

    def build(*_: Any) -> tuple[ScriptedApp, ScriptedTicker]:
        apps.append(ScriptedApp(failures, stop, crash))
        return apps[-1], ScriptedTicker()

    monkeypatch.setattr(worker.kafka, "wait_for_topics", topics_are_there)
    monkeypatch.setattr(worker.publishing, "ensure_published", ensure_published)
    monkeypatch.setattr(worker, "build", build)
    await asyncio.wait_for(worker.run(SETTINGS, None, stop), 10)  # type: ignore[arg-type]
    return apps


async def test_a_broker_that_goes_away_during_the_start_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    apps = await run(monkeypatch, [KafkaConnectionError("Unable to bootstrap")] * 2)
    assert [app.stopped for app in apps] == [True] * 3


async def test_an_engine_that_stops_by_itself_ends_the_worker_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoyaltyError, match="the engine stopped: records expired"):
        await run(monkeypatch, [], crash=RuntimeError("records expired"))


async def test_a_broker_that_goes_away_while_programmes_are_published_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    apps = await run(monkeypatch, [], unpublished=(UnavailableError("no answer"), UnavailableError("no answer")))
    assert [app.stopped for app in apps] == [True]


async def test_rules_that_cannot_be_published_end_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="too large"):
        await run(monkeypatch, [], unpublished=(ConfigurationError("too large"),))
