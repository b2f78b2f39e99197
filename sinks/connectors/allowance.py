"""What is left of a system's allowance of calls -> how long a call waits. Pure.

Others use the same allowance: a system that refuses everybody's calls because of ours would do more harm than points that are shown late.
"""

from streams.connectors.contract import Budget

SLOW_FROM = 0.8
"""Share of the allowance that is used before calls wait."""
WAIT_MAX_S = 30.0
"""At the end of it. Each answer says anew how much is used, so that a new day is noticed within this."""


def wait_s(budget: Budget | None) -> float:
    """Seconds before the next call; 0 while there is plenty, and where nothing is known."""
    if budget is None or budget.allowed <= 0:
        return 0.0
    over = (budget.used / budget.allowed - SLOW_FROM) / (1.0 - SLOW_FROM)
    return WAIT_MAX_S * min(1.0, max(0.0, over)) ** 2
