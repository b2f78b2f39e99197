"""Conversations without a network, and with the fakes' real one; sources and targets with their defaults filled in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import aiohttp

from infra.fakes.server import FakeServer
from schemas.contract import Command
from schemas.records import AccountSnapshot, LoyaltyEventKind, MemberStatus
from streams.connectors.contract import Answer, Connector, Cursor, Found, MemberState, Polling, Request, Source, Target, Writing, Written

STAFF = """
[programs.staff.earn]
points_per_unit = { EUR = 1 }
[[programs.staff.tiers]]
name = "STAFF"
threshold_points = 0
"""
"""The programme of a configuration file."""
NOW_MS = 1_795_318_800_000
"""2026-11-22T03:40:00Z"""


def source_of(connector: Connector, name: str = "", **options: Any) -> Source:
    known = {option.name: option.default for option in connector.source_options}
    assert options.keys() <= known.keys(), options.keys() - known.keys()
    return Source(name=name or connector.kind, kind=connector.kind, program_id="staff", options=known | options)


def target_of(connector: Connector, name: str = "", **options: Any) -> Target:
    known = {option.name: option.default for option in connector.target_options}
    assert options.keys() <= known.keys(), options.keys() - known.keys()
    return Target(name=name or connector.kind, kind=connector.kind, options=known | options)


def state_of(member_id: str, sequence: int = 418, points: int = 1250, **values: Any) -> MemberState:
    account = AccountSnapshot(status=MemberStatus.ACTIVE, tier="GOLD", available_points=points, qualifying_points=points)
    state = MemberState(
        program_id="staff", member_id=member_id, sequence=sequence, event_id=f"staff/{member_id}:{sequence}", account=account,
        kinds=frozenset({LoyaltyEventKind.BALANCE_CHANGED}), recorded_at_ms=NOW_MS,
    )  # fmt: skip
    return replace(state, **values)


def polled(polling: Polling, answers: Iterable[Answer]) -> tuple[list[Request], list[Found]]:
    """Lead a conversation with these answers; what it asked, and what it found."""
    requests, found, left = [], [], iter(answers)
    try:
        step = next(polling)
        while True:
            if isinstance(step, Request):
                requests.append(step)
                step = polling.send(next(left))
            else:
                found.append(step)
                step = polling.send(None)
    except StopIteration:
        assert next(left, None) is None, "an answer was not asked for"
        return requests, found


def written(writing: Writing, answers: Iterable[Answer]) -> tuple[list[Request], Sequence[Written]]:
    requests, left = [], iter(answers)
    try:
        requests.append(next(writing))
        while True:
            requests.append(writing.send(next(left)))
    except StopIteration as end:
        assert next(left, None) is None, "an answer was not asked for"
        return requests, end.value


async def asked(fake: FakeServer, request: Request, headers: Mapping[str, str] = {}) -> Answer:
    """One request to a fake, over HTTP."""
    url = request.url if "://" in request.url else fake.base_url + request.url
    async with (
        aiohttp.ClientSession() as session,
        session.request(request.method, url, headers={**request.headers, **headers}, data=request.body, allow_redirects=False) as response,
    ):
        return Answer(status=response.status, headers={name.lower(): value for name, value in response.headers.items()}, body=await response.read())


async def poll_fake(fake: FakeServer, polling: Polling, headers: Mapping[str, str] = {}) -> list[Found]:
    found = []
    try:
        step = next(polling)
        while True:
            if isinstance(step, Request):
                step = polling.send(await asked(fake, step, headers))
            else:
                found.append(step)
                step = polling.send(None)
    except StopIteration:
        return found


async def write_fake(fake: FakeServer, writing: Writing, headers: Mapping[str, str] = {}) -> Sequence[Written]:
    try:
        request = next(writing)
        while True:
            request = writing.send(await asked(fake, request, headers))
    except StopIteration as end:
        value: Sequence[Written] = end.value
        return value


def commands_in(found: Iterable[Found]) -> list[Command]:
    return [command for one in found for command in one.commands]


def cursor_of(found: Sequence[Found]) -> Cursor:
    """The last cursor that was found."""
    return next((one.cursor for one in reversed(found) if one.cursor is not None), {})
