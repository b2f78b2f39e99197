"""seed -> how each event fares at each destination, and what is done to the pipeline when. Pure, drawn up front."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from zlib import crc32

from tests.bench.delivery_receiver import HANG, OK, RESET, Reply

SLOW = Reply(delay_s=0.2)
TOO_MANY = Reply(429, headers=(("Retry-After", "1"),))
STORMY: Sequence[tuple[int, tuple[Reply, ...]]] = (
    (700, (OK,)),
    (90, (Reply(500), Reply(500), OK)),
    (60, (Reply(400), OK)),
    (50, (Reply(503), OK)),
    (30, (Reply(500), Reply(400), RESET, OK)),
    (25, (TOO_MANY, OK)),
    (25, (RESET, OK)),
    (15, (SLOW,)),
    (5, (HANG, OK)),
)
"""How often of a thousand, and the answers to an event's attempts; the last one from then on."""
CALM: Sequence[tuple[int, tuple[Reply, ...]]] = ((970, (OK,)), (20, (Reply(500), OK)), (10, (SLOW,)))
DESTINATIONS: Mapping[str, Sequence[tuple[int, tuple[Reply, ...]]]] = {"crm": STORMY, "app": CALM, "partner": STORMY}
HOT = "hot"
"""Member with many events, the first of which one destination does not take for a long time."""
HOT_ONE_IN = 10
HOT_AT = "crm"


def script(seed: int, destination: str, member: str, sequence: int) -> tuple[Reply, ...]:
    """The answers to one event's attempts."""
    if member == HOT:
        return (OK,)
    kinds = DESTINATIONS[destination]
    drawn = crc32(f"{seed}/{destination}/{member}/{sequence}".encode()) % sum(share for share, _ in kinds)
    for share, replies in kinds:
        if drawn < share:
            return replies
        drawn -= share
    raise AssertionError("the shares have covered everything")


def traffic(seed: int, events: int, members: int) -> Iterator[tuple[str, int]]:
    """Member and sequence of each event, in the order of the log. Every member has one at least."""
    dice, sequences = random.Random(f"traffic-{seed}"), dict.fromkeys([HOT, *(f"m{number}" for number in range(members))], 0)
    names = list(sequences)
    for number in range(events):
        name = names[number] if number < len(names) else HOT if dice.randrange(HOT_ONE_IN) == 0 else dice.choice(names[1:])
        sequences[name] += 1
        yield name, sequences[name]


class Kind(StrEnum):
    """What is done. The text is what the table at the end says."""

    SINK_KILL = "kill -9 of a sink"
    SINK_TERM = "SIGTERM of a sink, and its start"
    SINK_PAUSE = "SIGSTOP of a sink beyond its session, SIGCONT"
    SINK_AWAY = "one sink less for a while"
    BROKER_KILL = "kill -9 of the broker"
    BROKER_RESTART = "restart of the broker"
    DESTINATION_PAUSE = "a destination is paused, and resumed"
    DESTINATION_DOWN = "a destination answers 503 to everything"
    REPLAY = "a replay of all so far"


OF_SINK = {Kind.SINK_KILL, Kind.SINK_TERM, Kind.SINK_PAUSE, Kind.SINK_AWAY}
OF_DESTINATION = {Kind.DESTINATION_PAUSE, Kind.DESTINATION_DOWN, Kind.REPLAY}
PER_10_KILLS: Mapping[Kind, int] = {
    Kind.SINK_KILL: 10, Kind.SINK_TERM: 3, Kind.SINK_PAUSE: 2, Kind.SINK_AWAY: 2, Kind.BROKER_KILL: 1, Kind.BROKER_RESTART: 1,
    Kind.DESTINATION_PAUSE: 3, Kind.DESTINATION_DOWN: 3, Kind.REPLAY: 1,
}  # fmt: skip
LENGTHS_S: Mapping[Kind, tuple[float, float]] = {
    Kind.SINK_KILL: (0.0, 3.0), Kind.SINK_TERM: (0.0, 1.0), Kind.SINK_PAUSE: (7.0, 10.0), Kind.SINK_AWAY: (3.0, 8.0),
    Kind.BROKER_KILL: (0.0, 10.0), Kind.BROKER_RESTART: (0.0, 0.0), Kind.DESTINATION_PAUSE: (3.0, 10.0), Kind.DESTINATION_DOWN: (3.0, 10.0),
    Kind.REPLAY: (0.0, 0.0),
}  # fmt: skip
"""How long it lasts, at least and at most. The session of a sink in its group is 6 s."""
CALM_SHARE = 0.1  # Of the storm's time, at its begin: nothing can be disturbed before it runs.


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One thing that is done, `at_s` after the first event."""

    at_s: float
    kind: Kind
    sink: int | None
    """Which sink, from 0; None for what is done to others."""
    destination: str
    """Empty for what is done to others."""
    length_s: float


def counts(kills: int) -> dict[Kind, int]:
    """How many of each kind, one at least."""
    return {kind: max(1, round(number * kills / 10)) for kind, number in PER_10_KILLS.items()}


def draw(seed: int, *, seconds: float, sinks: int, kinds: Mapping[Kind, int]) -> list[Disturbance]:
    """The storm of a seed: always the same for the same arguments. Disturbances may overlap."""
    dice = random.Random(f"plan-{seed}")
    drawn = [kind for kind, number in kinds.items() for _ in range(number)]
    dice.shuffle(drawn)
    calm_s = seconds * CALM_SHARE
    spacing_s = (seconds - calm_s) / max(1, len(drawn))
    return [
        Disturbance(
            at_s=calm_s + (number + 0.5 * dice.random()) * spacing_s, kind=kind, sink=dice.randrange(sinks) if kind in OF_SINK else None,
            destination=dice.choice(sorted(DESTINATIONS)) if kind in OF_DESTINATION else "", length_s=dice.uniform(*LENGTHS_S[kind]),
        )
        for number, kind in enumerate(drawn)
    ]  # fmt: skip
