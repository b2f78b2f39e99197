"""Rules of the simulated programmes: between them every expiry, reversal policy, tier window and kind of offer, in two versions each."""

import json
from typing import Any

from schemas.records import ProgramVersion

START_MS = 1_768_435_200_000
"""2026-01-15, midnight UTC: when the simulation begins."""

SECOND_VERSION_AFTER_MS = 120 * 24 * 3600 * 1000
"""How long after the start the second versions take effect, about."""

IDEMPOTENCY_DAYS = 30
CATEGORIES = ("room", "spa", "bar", None)
SEGMENTS = ("staff", "press", "family")
CURRENCIES = ("EUR", "USD", "JPY")

REWARDS = {"NIGHT": {"points": 400, "valid_days": 60}, "WELCOME": {"valid_days": 20}, "LOUNGE": {}}

OFFERS: dict[str, dict[str, Any]] = {
    "double": {"bonus_percent": 100, "cap_points": 600, "uses_max": 3, "period": "month"},
    "scarce": {"bonus_points": 40, "cap_points": 120, "budget_points": 700, "period": "month"},
    "spa-week": {"bonus_percent": 33, "categories": ["spa"], "reward": "WELCOME"},
    "insiders": {"bonus_points": 7, "segments": ["staff", "press"], "period": "day"},
    "spring": {"bonus_percent": 10, "starts_at": "2026-03-01T00:00:00Z", "ends_at": "2026-06-01T00:00:00Z", "cap_points": 100},
}

TIERS = [
    {"name": "BLUE", "threshold_points": 0},
    {"name": "SILVER", "threshold_points": 1_500, "earn_percent": 125, "reward": "WELCOME"},
    {"name": "GOLD", "threshold_points": 6_000, "earn_percent": 150},
]

GRAND: dict[str, Any] = {
    "time_zone": "Europe/Berlin",
    "earn": {
        "points_per_unit": {"EUR": 3, "JPY": 1},
        "points_per_night": 50,
        "rounding": "half_up",
        "rules": [
            {"id": "spa", "points_per_unit": {"EUR": 2}, "categories": ["spa"], "cap_points": 300, "cap_period": "month"},
            {"id": "insider", "percent": 20, "segments": ["staff"]},
            {"id": "stay", "points_per_stay": 25, "categories": ["room"], "cap_points": 100, "cap_period": "day"},
        ],
    },
    "expiry": {"rule": "end_of_month", "months": 2},
    "tiers": TIERS,
    "tier_policy": {"window": "calendar_year", "grace_days": 10, "demote_on_reversal": True},
    "reversal": {"policy": "unlimited"},
    "holds": {"minutes": 90},
    "offers": OFFERS,
    "rewards": REWARDS,
    "idempotency_days": IDEMPOTENCY_DAYS,
}

ALPINE: dict[str, Any] = {
    "time_zone": "America/New_York",
    "earn": {
        "points_per_unit": {"EUR": 7, "USD": 5},
        "pending_days": 3,
        "rounding": "ceiling",
        "rules": [{"id": "bar", "percent": 50, "categories": ["bar"], "cap_points": 40, "cap_period": "year", "stop": True}, {"id": "more", "percent": 3}],
    },
    "expiry": {"rule": "after_days", "days": 40},
    "tiers": TIERS,
    "tier_policy": {"window": "rolling", "window_days": 90, "demotion": "one_step", "grace_days": 5},
    "reversal": {"policy": "within_balance"},
    "refund": {"of_expired": "grace", "grace_days": 12},
    "holds": {"minutes": 2_000, "capture_while_suspended": True},
    "offers": OFFERS,
    "rewards": REWARDS,
    "idempotency_days": IDEMPOTENCY_DAYS,
}

METRO: dict[str, Any] = {
    "time_zone": "Asia/Tokyo",
    "earn": {"points_per_unit": {"JPY": 1, "EUR": 9}, "points_per_night": 11, "pending_days": 6},
    "expiry": {"rule": "inactivity", "days": 50},
    "tiers": TIERS,
    "tier_policy": {"window": "lifetime"},
    "reversal": {"policy": "only_pending"},
    "offers": {name: OFFERS[name] for name in ("double", "scarce")},
    "rewards": REWARDS,
    "idempotency_days": IDEMPOTENCY_DAYS,
}

FIRST = {"grand": GRAND, "alpine": ALPINE, "metro": METRO}

SECOND: dict[str, dict[str, Any]] = {
    "grand": {
        **GRAND,
        "expiry": {"rule": "after_days", "days": 25},
        "earn": {**GRAND["earn"], "points_per_unit": {"EUR": 5}, "rounding": "floor", "pending_days": 1},
        "tiers": [TIERS[0], {**TIERS[1], "threshold_points": 1_000}, {**TIERS[2], "threshold_points": 9_000}, {"name": "ONYX", "threshold_points": 20_000}],
        "holds": {"minutes": 30},
    },
    "alpine": {
        **ALPINE,
        "expiry": {"rule": "end_of_year", "years": 0},
        "tier_policy": {"window": "membership_year", "demotion": "balance_based"},
        "refund": {"of_expired": "expire_again"},
        "holds": {"minutes": 600},
    },
    "metro": {**METRO, "expiry": {"rule": "fixed_day", "month": 4, "day": 1, "days": 30}, "tier_policy": {"window": "lifetime", "demote_on_reversal": False}},
}


def versions(second_from_ms: int) -> list[ProgramVersion]:
    """All versions of all programmes: the first of each, and the second, which takes effect at that time."""
    return [
        ProgramVersion(program_id=program_id, version=number, effective_from_ms=from_ms, rules=json.dumps(rules), published_by="simulation")
        for number, from_ms, programs in ((1, 0, FIRST), (2, second_from_ms, SECOND))
        for program_id, rules in programs.items()
    ]
