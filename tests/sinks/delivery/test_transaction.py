"""What one transaction writes is encoded in slices: short ones while the loop is quick, longer ones when its turns are long."""

import asyncio

import pytest

from schemas.records import DeliveryResult
from sinks.delivery.evidence import Ended
from sinks.delivery.records import Outgoing
from sinks.delivery.transaction import ENCODED_IN_S, SLICE_MIN, Gathered, encoded
from streams import topics
from tests.sinks.broker import codec
from tests.sinks.examples import MOMENT_MS, event

ENDS = 3_200


class Hourglass(asyncio.SelectorEventLoop):
    """Time passes by a turn of the loop, and by nothing else."""

    def __init__(self, turn_s: float) -> None:
        self.now_s, self.turns = 100.0, 0
        super().__init__()
        self._turn_s = turn_s

    def time(self) -> float:
        return self.now_s

    async def turn(self) -> None:
        while True:
            self.now_s += self._turn_s
            self.turns += 1
            await asyncio.sleep(0)


def gathered() -> Gathered:
    ends: list[Ended] = []
    for number in range(ENDS):
        record = Outgoing(offset=number, key=b"grand/m-1", record=event(number + 1, "m-1"), timestamp_ms=MOMENT_MS)
        ends.append(Ended(destination="crm", record=record, result=DeliveryResult.DELIVERED, reason="", status=204, attempts=1, ended_at_ms=MOMENT_MS))
    return Gathered(ends=[*ends])


@pytest.mark.parametrize(("turn_s", "turns_min", "turns_max"), [
    (0.0001, ENDS // SLICE_MIN, ENDS // SLICE_MIN + 2),  # Quick turns: no slice is longer than it need be.
    (0.02, 2, int(ENCODED_IN_S / 0.02) + 3),
    (0.5, 2, 4),  # Each turn is longer than all should take: whatever is left comes in one go.
])  # fmt: skip
def test_a_transaction_is_encoded_in_time_however_long_turns_are(turn_s: float, turns_min: int, turns_max: int) -> None:
    loop = Hourglass(turn_s)

    async def work() -> int:
        others = asyncio.ensure_future(loop.turn())
        writes, chains = await encoded(gathered(), {}, "loyalty", codec(), topics.EVENTS, 0)
        others.cancel()
        assert len(writes) == ENDS + 1 and chains["crm"][0] == ENDS
        return loop.turns

    try:
        assert turns_min <= loop.run_until_complete(work()) <= turns_max
    finally:
        loop.close()
