"""GET /v1/connectors: both halves of the connected systems, in the document that openapi.yaml promises."""

import asyncio
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from streams.configuration import Token
from streams.connectors import overview
from streams.connectors.contract import Source, Target
from streams.connectors.running import progress
from streams.connectors.running.progress import Progress
from streams.ingress.connectors import SCOPE
from tests.ingress.support import TOKENS, Service

pytestmark = pytest.mark.stack

OPTIONS = {"base_url": "https://hr.example.com", "password": "fake-password", "dataset_key": "fake-dataset", "user_name": "", "secret": ""}
NAME = ("darwin", "employees")
PATH = "/v1/connectors"


@pytest.fixture
def connected(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """The ingress with a source that is polled and a destination of another kind than a webhook."""
    configured = service.parts.configuration
    of_staff = Token(name="staff", sha256=sha256(b"token-of-the-staff").hexdigest(), scopes=frozenset({SCOPE}), programs=frozenset({"staff"}))
    monkeypatch.setattr(service.parts, "configuration", replace(
        configured, sources={**configured.sources, "darwin": Source(name="darwin", kind="darwinbox", program_id="staff", options=OPTIONS)},
        targets={"darwin": Target(name="darwin", kind="darwinbox", options=OPTIONS)}, tokens=(*configured.tokens, of_staff),
    ))  # fmt: skip
    return service


async def rows(service: Service, token: str = TOKENS["operator"]) -> list[Any]:
    answer = await service.request("GET", PATH, token=token)
    assert answer.status == 200
    found: list[Any] = answer.json["connectors"]
    return found


async def test_every_way_has_a_row(connected: Service) -> None:
    found = await rows(connected)
    assert [(row["name"], row["direction"], row["way"], row["state"]) for row in found] == [
        ("apaleo", "in", "webhooks", "listens"), ("darwin", "in", "poll", "never"), ("hr", "in", "webhooks", "listens"),
        ("partner", "in", "webhooks", "listens"), ("darwin", "out", "writes", "unknown"),
    ]  # fmt: skip
    assert [row["name"] for row in await rows(connected, "token-of-the-staff")] == ["darwin", "hr", "darwin"], "of its programme"


async def test_a_row_says_how_its_feed_fares(connected: Service) -> None:
    parts = connected.parts

    async def fare() -> None:
        kept = Progress(parts.settings, parts.codec, parts.publisher, progress.nothing(NAME))
        kept.begin()
        await kept.succeeded()
        await kept.failed("the system answers 503", waits_until_ms=progress.now_ms() + 60_000)

    await asyncio.to_thread(connected.run, fare())
    row = next(row for row in await rows(connected) if row["name"] == "darwin")
    assert (row["state"], row["last_error"], row["budget"]) == ("waits", "the system answers 503", None)
    assert row["succeeded_at"] and row["failing_since"] and row["waits_until"] and row["lag_s"] >= 0


async def test_who_may_not_look_does_not(connected: Service) -> None:
    assert (await connected.request("GET", PATH, token=TOKENS["reader"])).status == 403
    assert (await connected.request("GET", PATH, token=None)).status == 401


def test_secrets_are_hidden(connected: Service) -> None:
    found = overview.details("darwin", connected.parts.configuration, {}, [])
    for half in ("source", "destination"):
        assert (found[half]["options"]["password"], found[half]["options"].get("secret")) == (overview.HIDDEN, "")
        assert found[half]["options"]["base_url"] == OPTIONS["base_url"]
    assert "fake-password" not in str(found)
