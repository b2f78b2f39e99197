"""Random happenings in virtual time: nothing is lost, repeated without need, or out of order. And the checks can fail: each is shown a core that is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from schemas.records import DeliveryProgress
from sinks.delivery import partition, progress
from sinks.delivery.branch import Branch
from sinks.delivery.lane import Lane
from sinks.delivery.outlet import Outlet
from sinks.delivery.partition import Partition
from sinks.delivery.transaction import Gathered
from tests.sinks.delivery.simulation import Violation, simulate

QUIET = ("change", "remove", "create", "job", "cancel", "retention")
"""What is left: events, receivers that fail, commits that fail, pauses, restarts."""


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_nothing_is_lost_repeated_or_out_of_order(seed: int) -> None:
    world = simulate(seed)
    assert world.commits and world.acceptances


@contextmanager
def without_parking() -> Iterator[None]:
    """What waits behind a failure is not written down."""
    with patch.object(Branch, "park", lambda branch, lane: None):
        yield


@contextmanager
def without_a_segment() -> Iterator[None]:
    """The first segment of a parked lane is never written."""
    written = progress.lane_row

    def lane_row(lane: Lane, segment: int) -> DeliveryProgress | None:
        return None if segment == 0 else written(lane, segment)

    with patch.object(progress, "lane_row", lane_row):
        yield


@contextmanager
def without_offsets() -> Iterator[None]:
    """A branch writes its position, and not what it has in hand."""
    written = progress.channel_row

    def channel_row(branch: Branch) -> DeliveryProgress:
        row = written(branch)
        return DeliveryProgress(**{name: getattr(row, name) for name in row.__dataclass_fields__} | {"offsets": ()})

    with patch.object(progress, "channel_row", channel_row):
        yield


@contextmanager
def without_channels_in_the_same_transaction() -> Iterator[None]:
    """The feed's position is written one transaction before what the branches are at."""
    snapshot, late = Partition._snapshot, {}

    def delayed(self: Partition) -> Gathered:
        gathered = snapshot(self)
        rows = {key: row for key, row in gathered.rows.items() if row is None or row.kind is not progress.ProgressKind.FEED}
        gathered.rows = {key: row for key, row in gathered.rows.items() if key not in rows} | late.pop(self, {})
        late[self] = rows
        return gathered

    with patch.object(partition.Partition, "_snapshot", delayed):
        yield


@contextmanager
def with_two_attempts_at_once() -> Iterator[None]:
    """A lane counts as free while its attempt is under way."""
    attempt = Outlet._attempt

    async def careless(self: Outlet, lane: Lane) -> None:
        lane.busy = False
        await attempt(self, lane)

    with patch.object(Outlet, "_attempt", careless):
        yield


@contextmanager
def with_a_slot_that_is_not_given_back() -> Iterator[None]:
    take = Outlet._take

    def leaking(self: Outlet) -> Lane | None:
        lane = take(self)
        if lane is not None and len(lane) == 7:
            self._retries_in_flight += 1
        return lane

    with patch.object(Outlet, "_take", leaking):
        yield


@contextmanager
def with_a_chain_that_forgets() -> Iterator[None]:
    """A process does not go on with the audit chains of the one before."""
    begin = Partition._begin

    def forgetful(self: Partition, journal: Any, memory: Any, *rest: int) -> None:
        memory.chains = {}
        begin(self, journal, memory, *rest)

    with patch.object(Partition, "_begin", forgetful):
        yield


MUTATIONS = (
    without_parking, without_a_segment, without_offsets, without_channels_in_the_same_transaction, with_two_attempts_at_once,
    with_a_slot_that_is_not_given_back, with_a_chain_that_forgets,
)  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_the_checks_see_a_core_that_is_wrong(mutation: Any) -> None:
    with mutation(), pytest.raises(Violation):
        for seed in range(12):
            simulate(seed, without=QUIET)
