"""Steps and their checks: what a step claims is compared with what was seen, and the first claim that does not hold ends the demo."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

TIMEOUT_S = 60.0  # Of every wait. A thousand times what a quiet machine needs: a busy one is slow, not wrong.
POLL_S = 0.02


class CheckFailed(Exception):
    """A claim that does not hold."""

    def __init__(self, claim: str, *, expected: object, seen: object) -> None:
        self.claim = claim
        self.expected = str(expected)
        self.seen = str(seen)
        super().__init__(f"{claim}: expected {expected}, seen {seen}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A claim that holds."""

    claim: str
    took_s: float | None = None
    """How long the claim took to become true; None if that says nothing."""


@dataclass(slots=True, kw_only=True)
class Step:
    """One step of the story as it is told."""

    number: int
    title: str
    checks: list[Check] = field(default_factory=list)
    took_s: float = 0.0
    proof: str = ""
    """What it has proven, with the numbers, in one line."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """What it has asked for in SQL."""
    on_check: Callable[[Check], None] = lambda _: None
    on_rows: Callable[[Sequence[Mapping[str, Any]]], None] = lambda _: None
    outputs: list[dict[str, str]] = field(default_factory=list)
    """Commands that it has given, each with what it said: `command`, `output`."""
    on_output: Callable[[str, str], None] = lambda command, output: None

    def equal(self, claim: str, seen: object, expected: object, *, took_s: float | None = None) -> None:
        """Claim that what was seen is what was expected. Raises CheckFailed."""
        self.holds(claim, seen == expected, expected=expected, seen=seen, took_s=took_s)

    def holds(self, claim: str, condition: bool, *, expected: object, seen: object, took_s: float | None = None) -> None:
        """Claim a condition. `expected` and `seen` are for people who read that it does not hold. Raises CheckFailed."""
        if not condition:
            raise CheckFailed(claim, expected=expected, seen=seen)
        check = Check(claim=claim, took_s=took_s)
        self.checks.append(check)
        self.on_check(check)

    def show(self, rows: list[dict[str, Any]]) -> None:
        """Show what was asked for in SQL."""
        self.rows = rows
        self.on_rows(rows)

    def show_output(self, command: str, output: str) -> None:
        """Show what a command says, as whoever gives it sees it."""
        self.outputs.append({"command": command, "output": output})
        self.on_output(command, output)

    def to_json(self) -> dict[str, Any]:
        checks = [{"claim": one.claim, "took_ms": None if one.took_s is None else round(one.took_s * 1000, 1)} for one in self.checks]
        about = {"number": self.number, "title": self.title, "proof": self.proof, "took_s": round(self.took_s, 3)}
        return about | {"checks": checks, "rows": self.rows, "outputs": self.outputs}


async def poll(
    what: str, ask: Callable[[], Awaitable[T]], enough: Callable[[T], bool], *, expected: object, timeout_s: float = TIMEOUT_S
) -> T:
    """Ask again and again until the answer is enough. Raises CheckFailed with the last answer."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        answer = await ask()
        if enough(answer):
            return answer
        if time.monotonic() > deadline_s:
            raise CheckFailed(what, expected=f"{expected}, within {timeout_s:.0f} s", seen=answer)
        await asyncio.sleep(POLL_S)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Latencies of one situation: from the sender's call to the arrival at a receiver."""

    situation: str
    seconds: tuple[float, ...]

    @property
    def p50_s(self) -> float:
        return percentile(self.seconds, 50)

    @property
    def p99_s(self) -> float:
        return percentile(self.seconds, 99)

    @property
    def text(self) -> str:
        return f"p50 {duration(self.p50_s)}, p99 {duration(self.p99_s)}"

    def to_json(self) -> dict[str, Any]:
        numbers = {"p50_ms": self.p50_s, "p99_ms": self.p99_s, "max_ms": max(self.seconds)}
        return {"situation": self.situation, "events": len(self.seconds)} | {name: round(s * 1000, 1) for name, s in numbers.items()}


def duration(seconds: float) -> str:
    """`41 ms`, `1.25 s`, `38.4 s`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
