import pytest

from sinks.connectors.allowance import WAIT_MAX_S, rate_max_per_s, wait_s
from streams.connectors.contract import Budget


@pytest.mark.parametrize(
    ("budget", "expected_s"),
    [
        (None, 0.0), (Budget(used=0, allowed=0), 0.0), (Budget(used=1, allowed=100_000), 0.0), (Budget(used=80, allowed=100), 0.0),
        (Budget(used=90, allowed=100), WAIT_MAX_S / 4), (Budget(used=100, allowed=100), WAIT_MAX_S), (Budget(used=120, allowed=100), WAIT_MAX_S),
    ],
)  # fmt: skip
def test_calls_wait_when_little_is_left(budget: Budget | None, expected_s: float) -> None:
    assert wait_s(budget) == pytest.approx(expected_s)
    assert rate_max_per_s(budget) == (pytest.approx(1 / expected_s) if expected_s else None)


def test_the_less_is_left_the_longer_they_wait() -> None:
    waits = [wait_s(Budget(used=used, allowed=1000)) for used in range(1001)]
    assert waits == sorted(waits) and waits[-1] == WAIT_MAX_S
