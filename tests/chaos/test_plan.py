"""A seed is a storm: the same one each time, one that can be carried out, and one that lasts as long as its stream."""

from collections import Counter

import pytest

from tests.chaos import plan
from tests.chaos.plan import Disturbance, Kind

INPUTS = 100_000


def drawn(seed: int, workers: int = 3, kills: int = 20) -> list[Disturbance]:
    return plan.draw(seed, inputs=INPUTS, workers=workers, kinds=plan.counts(kills), session_timeout_s=3)


def test_the_same_seed_is_the_same_storm() -> None:
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_there_are_as_many_kills_as_were_asked_for_and_some_of_everything() -> None:
    kinds = Counter(disturbance.kind for disturbance in drawn(5))
    assert sum(kinds[kind] for kind in plan.WORKER_KILLS) == 20
    assert kinds.keys() >= set(Kind) - {Kind.WORKER_ADDED, Kind.WORKER_REMOVED}
    assert kinds[Kind.WORKER_ADDED] + kinds[Kind.WORKER_REMOVED] == 6


@pytest.mark.parametrize("kills", range(1, 40))
def test_any_number_of_kills_is_kept(kills: int) -> None:
    kinds = plan.counts(kills)
    assert sum(kinds[kind] for kind in plan.WORKER_KILLS) == kills
    assert min(kinds.values()) >= 0


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_only_workers_that_run_are_hit(workers: int) -> None:
    for seed in range(50):
        running = set(range(workers))
        for disturbance in drawn(seed, workers):
            if disturbance.kind is Kind.WORKER_ADDED:
                assert disturbance.worker not in running
                running.add(disturbance.worker or 0)
            elif disturbance.worker is not None:
                assert disturbance.worker in running
                running -= {disturbance.worker} if disturbance.kind is Kind.WORKER_REMOVED else set()
            assert running


def test_the_storm_lasts_as_long_as_the_stream() -> None:
    for seed in range(20):
        times = [disturbance.at_answered for disturbance in drawn(seed)]
        gaps = [later - earlier for earlier, later in zip([0, *times], [*times, INPUTS], strict=True)]
        assert min(gaps[1:-1]) > 0
        assert max(gaps) < INPUTS / len(times) * 4


def test_a_pause_outlasts_the_session() -> None:
    pauses = [d.delay_s for seed in range(20) for d in drawn(seed) if d.kind is Kind.WORKER_PAUSE]
    assert pauses and min(pauses) > 3
