"""seed -> what the storm will do: which disturbance hits whom, and after how many answered inputs. Pure, drawn up front."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What is done to the pipeline. The text is what the table at the end says."""

    WORKER_KILL = "kill -9 of a worker"
    WORKER_KILL_COLD = "kill -9 of a worker, state lost"
    WORKER_TERM = "SIGTERM of a worker"
    WORKER_PAUSE = "SIGSTOP of a worker, SIGCONT"
    WORKER_ADDED = "one worker more"
    WORKER_REMOVED = "one worker less"
    BROKER_KILL = "kill -9 of the broker"
    BROKER_AND_WORKER_KILL = "kill -9 of broker and worker"
    BROKER_RESTART = "restart of the broker"
    HISTORY_KILL = "kill -9 of ClickHouse"
    HISTORY_PAUSE = "SIGSTOP of ClickHouse, SIGCONT"
    SINK_KILL = "kill -9 of the ClickHouse sink"


# A scale step is drawn as one kind and becomes the other where there is no room for it.
WORKER_KILLS = (Kind.WORKER_KILL, Kind.WORKER_KILL_COLD, Kind.BROKER_AND_WORKER_KILL)
OF_WORKER = {*WORKER_KILLS, Kind.WORKER_TERM, Kind.WORKER_PAUSE}
OF_HISTORY = {Kind.HISTORY_KILL, Kind.HISTORY_PAUSE, Kind.SINK_KILL}
PAUSES = {Kind.WORKER_PAUSE, Kind.HISTORY_PAUSE}

# How many of each for 20 kills of workers; a kill is cold, or comes with the broker's, as these numbers say.
PER_20_KILLS: Mapping[Kind, int] = {
    Kind.WORKER_KILL: 13, Kind.WORKER_KILL_COLD: 5, Kind.BROKER_AND_WORKER_KILL: 2,
    Kind.WORKER_TERM: 4, Kind.WORKER_PAUSE: 4, Kind.WORKER_REMOVED: 3, Kind.WORKER_ADDED: 3,
    Kind.BROKER_KILL: 3, Kind.BROKER_RESTART: 2, Kind.HISTORY_KILL: 2, Kind.HISTORY_PAUSE: 2, Kind.SINK_KILL: 3,
}  # fmt: skip

CALM_PERCENT = 4  # Of the inputs, at the start and at the end: nothing can be disturbed before it runs, or when nothing is left to do.
DOWN_MAX_S = 5.0  # What was killed is started again at once, or within this: longer than the session time-out of the group.
BEYOND_SESSION_MAX_S = 2.5  # A paused worker sleeps up to this beyond its session time-out.
AT_ONCE_PERCENT = 50


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One thing that is done to the pipeline once `at_answered` inputs are answered."""

    at_answered: int
    kind: Kind
    worker: int | None
    """Which worker, from 0; None for what is done to others."""
    delay_s: float
    """How long it is down or paused."""


def counts(kills: int) -> dict[Kind, int]:
    """How many of each kind, for so many kill -9 of workers. At least one of each but the cold ones, whose number `kills` bounds."""
    wanted = {kind: max(1, round(number * kills / 20)) for kind, number in PER_20_KILLS.items()}
    wanted[Kind.WORKER_KILL_COLD] = min(kills, round(PER_20_KILLS[Kind.WORKER_KILL_COLD] * kills / 20))
    wanted[Kind.BROKER_AND_WORKER_KILL] = min(kills - wanted[Kind.WORKER_KILL_COLD], round(PER_20_KILLS[Kind.BROKER_AND_WORKER_KILL] * kills / 20))
    wanted[Kind.WORKER_KILL] = kills - wanted[Kind.WORKER_KILL_COLD] - wanted[Kind.BROKER_AND_WORKER_KILL]
    return wanted


def draw(seed: int, *, inputs: int, workers: int, kinds: Mapping[Kind, int], session_timeout_s: float) -> list[Disturbance]:
    """The storm of a seed: always the same for the same arguments. It begins with `workers` workers, which are also the most."""
    dice = random.Random(f"plan-{seed}")
    drawn = [kind for kind, number in kinds.items() for _ in range(number)]
    dice.shuffle(drawn)
    calm = inputs * CALM_PERCENT // 100
    spacing = (inputs - 2 * calm) / max(1, len(drawn))
    times = [calm + int((number + 0.25 + 0.5 * dice.random()) * spacing) for number in range(len(drawn))]
    return list(_disturbances(dice, zip(times, drawn, strict=True), workers, session_timeout_s))


def _disturbances(dice: random.Random, drawn: Iterator[tuple[int, Kind]], workers: int, session_timeout_s: float) -> Iterator[Disturbance]:
    running = set(range(workers))
    for at_answered, kind in drawn:
        worker: int | None = None
        if kind in (Kind.WORKER_ADDED, Kind.WORKER_REMOVED):
            if workers == 1:
                continue
            if len(running) == 1:
                kind = Kind.WORKER_ADDED
            elif len(running) == workers:
                kind = Kind.WORKER_REMOVED
            if kind is Kind.WORKER_ADDED:
                worker = min(set(range(workers)) - running)
                running.add(worker)
            else:
                worker = dice.choice(sorted(running))
                running.remove(worker)
        elif kind in OF_WORKER:
            worker = dice.choice(sorted(running))
        yield Disturbance(at_answered, kind, worker, _delay_s(dice, kind, session_timeout_s))


def _delay_s(dice: random.Random, kind: Kind, session_timeout_s: float) -> float:
    length = dice.random()
    if kind is Kind.WORKER_PAUSE:
        return session_timeout_s + 0.5 + length * (BEYOND_SESSION_MAX_S - 0.5)
    if kind is Kind.HISTORY_PAUSE:
        return 1 + length * 3
    at_once = dice.randrange(100) < AT_ONCE_PERCENT
    return 0.0 if at_once else length * DOWN_MAX_S
