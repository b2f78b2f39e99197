"""What the steps have in common: a command that somebody waits for, what both systems are told of it, and what ends by itself."""

import asyncio
import os
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from infra.demo.checks import CheckFailed, Step, duration
from infra.demo.inbox import Arrival
from infra.demo.screen import INDENT, WIDTH
from infra.demo.systems import Answer
from infra.demo.world import World

REFUSED = "urn:loyalty:refused:"
MOVED = "BALANCE_CHANGED"


@dataclass(frozen=True, slots=True)
class Moment:
    """An instant, on the two clocks that matter."""

    at_ms: int
    """Milliseconds since 1970: what is sent."""
    at_s: float
    """Monotonic: what is measured."""

    @property
    def text(self) -> str:
        """As the REST API and the events write it."""
        moment = datetime.fromtimestamp(self.at_ms // 1000, UTC).replace(microsecond=self.at_ms % 1000 * 1000)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    @property
    def command(self) -> str:
        """What events name as their cause that come by themselves at that instant."""
        return f"due:{self.at_ms}"


def moment_in(seconds: float) -> Moment:
    return Moment(time.time_ns() // 1_000_000 + round(seconds * 1000), time.monotonic() + seconds)


def number_of(member: str) -> str:
    """The member's number, without the programme."""
    return member.partition("/")[2]


def code_of(answer: Answer) -> str:
    """The rule that refused a command; empty if none did."""
    kind: str = answer.body.get("type", "")
    return kind.removeprefix(REFUSED) if kind.startswith(REFUSED) else ""


async def submit(world: World, member: str, command: str, kind: str, **fields: Any) -> Answer:
    """Send a transaction that comes alone, and wait for the decision."""
    world.singles.append(command)
    return await world.api.transact(member, command, kind=kind, **fields)


def refused(step: Step, claim: str, answer: Answer, code: str) -> None:
    step.equal(f"{claim}: {code}", (answer.status, code_of(answer)), (422, code), took_s=answer.took_s)


async def both_hear(
    world: World, step: Step, claim: str, member: str, command: str, kind: str = MOVED, *, since_s: float | None = None, **expected: Any
) -> Arrival:
    """Both systems get the same event, and it says what is expected of it or of its account. What the app got."""
    arrivals = [await inbox.hear(kind, command, member) for inbox in world.inboxes]
    seen = [{name: one.event[name] if name in one.event else one.event["account"].get(name) for name in expected} for one in arrivals]
    since_s = world.sent.at_s[command] if since_s is None else since_s
    names = " and ".join(inbox.name for inbox in world.inboxes)
    step.equal(f"{names}: {claim}", seen, [expected] * len(seen), took_s=max(one.at_s for one in arrivals) - since_s)
    return arrivals[0]


async def both_hear_in_time(world: World, step: Step, claim: str, member: str, moment: Moment, **expected: Any) -> str:
    """Both systems hear of what happens by itself; the time is counted from when it was due. Says how long after it the app was told."""
    arrival = await both_hear(world, step, claim, member, moment.command, since_s=moment.at_s, occurred_at=moment.text, **expected)
    world.lapses_s.append(arrival.at_s - moment.at_s)
    return f"{duration(world.lapses_s[-1])} after its time"


async def give(world: World, member: str, command: str, points: int) -> Answer:
    """Points to begin with."""
    answer = await submit(world, member, command, "EARN", points=points)
    world.book.earn(member, points, command)
    return answer


async def loyalty(world: World, *arguments: str) -> str:
    """What the command says on its standard output. Raises CheckFailed for an exit code above 0."""
    encoding = sys.stdout.encoding  # A screen that has no lines to draw tables with gets tables without them.
    environment = os.environ | world.stack.settings.environment() | {"COLUMNS": str(WIDTH - INDENT), "PYTHONIOENCODING": f"{encoding}:replace"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streams.cli", *arguments, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, problem = await process.communicate()
    if process.returncode != 0:
        raise CheckFailed(f"loyalty {' '.join(arguments)}", expected="exit code 0", seen=f"{process.returncode}: {problem.decode(encoding).strip()}")
    return output.decode(encoding)
