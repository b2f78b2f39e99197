"""Attempts of webhooks as a receiver saw them, event by event, and what they say of order, losses and repetitions."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import orjson


class Attempt(NamedTuple):
    """One event in one request. A batch of ten events is ten of these."""

    destination: str
    """Last part of the path: `crm` of /hooks/crm."""
    member: str
    """program_id/member_id; empty for what is about no member."""
    sequence: int
    webhook_id: str
    """Of the event, also in a batch."""
    attempt: int
    """How often this webhook-id has come to the destination by now, from 1; for a batch, that of the batch."""
    at_s: float
    """Monotonic time of the arrival, the same clock in all processes of a machine."""
    accepted: bool
    """Whether it is answered with success."""
    channel: str = ""
    """How it came: empty for an event on its own, `batch`, or the job of a replay. There is order within a channel."""

    @property
    def place(self) -> tuple[str, str]:
        """(destination, member)."""
        return self.destination, self.member


def sequences(attempts: Iterable[Attempt], member: str, destination: str | None = None) -> list[int]:
    """Sequences accepted for one member, in the order of arrival."""
    return [one.sequence for one in attempts if one.accepted and one.member == member and destination in (None, one.destination)]


def inversions(attempts: Iterable[Attempt]) -> Counter[tuple[str, str]]:
    """(destination, member) -> how often an event was accepted for the first time after a later one of its member in the same channel."""
    newest: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    seen: set[tuple[str, str, str]] = set()
    found: Counter[tuple[str, str]] = Counter()
    for one in attempts:
        event, lane = (one.destination, one.channel, one.webhook_id), (one.destination, one.channel, one.member)
        if one.accepted and event not in seen:
            seen.add(event)
            if one.sequence < newest[lane]:
                found[one.place] += 1
            else:
                newest[lane] = one.sequence
    return found


def duplicates(attempts: Iterable[Attempt]) -> Counter[tuple[str, str]]:
    """(destination, member) -> how often an event was accepted once more in the same channel. A replay is no repetition of the live event."""
    seen: set[tuple[str, str, str]] = set()
    found: Counter[tuple[str, str]] = Counter()
    for one in attempts:
        event = (one.destination, one.channel, one.webhook_id)
        if one.accepted and event in seen:
            found[one.place] += 1
        elif one.accepted:
            seen.add(event)
    return found


def lost(attempts: Iterable[Attempt], wanted: Mapping[tuple[str, str], Collection[int]]) -> dict[tuple[str, str], list[int]]:
    """(destination, member) -> sequences of `wanted` that were never accepted, in any channel; only where there are some."""
    heard: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for one in attempts:
        if one.accepted:
            heard[one.place].add(one.sequence)
    missing = {place: sorted(set(numbers) - heard[place]) for place, numbers in wanted.items()}
    return {place: numbers for place, numbers in missing.items() if numbers}


def read_log(path: Path) -> list[Attempt]:
    """What a receiver's log holds. A last line that was cut, as by kill -9, is left out."""
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [Attempt(**orjson.loads(line)) for line in whole.splitlines()]


def log_line(attempt: Attempt) -> bytes:
    return orjson.dumps(attempt._asdict(), option=orjson.OPT_APPEND_NEWLINE)
