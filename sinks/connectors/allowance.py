"""What is left of a system's allowance of calls -> how many a second there may be. Pure.

Others use the same allowance: a system that refuses everybody's calls because of ours would do more harm than points that are shown late.
"""

from streams.connectors.contract import Budget

SLOW_FROM = 0.8
"""Share of the allowance that is used before calls wait."""
WAIT_MAX_S = 30.0
"""At the end of it. Each answer says anew how much is used, so that a new day is noticed within this."""


def rate_max_per_s(budget: Budget | None) -> float | None:
    """Calls a second; None while there is plenty, and where nothing is known."""
    return 1.0 / seconds if (seconds := wait_s(budget)) > 0 else None


def wait_s(budget: Budget | None) -> float:
    """Seconds from one call to the next; 0 while there is plenty, and where nothing is known."""
    if budget is None or budget.allowed <= 0:
        return 0.0
    over = (budget.used / budget.allowed - SLOW_FROM) / (1.0 - SLOW_FROM)
    return WAIT_MAX_S * min(1.0, max(0.0, over)) ** 2
