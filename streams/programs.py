"""Rules of a programme, from the configuration file or from the log -> the Program that the domain reads, checked whole.

The file has them as TOML; the log, in ProgramVersion.rules, as JSON. `parse` takes either, `to_json` leads from the one to the other.
"""

import calendar
import json
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from schemas.contract import ATTRIBUTES_RESERVED, ID_CHARACTERS_MAX, POINTS_MAX
from schemas.currencies import MINOR_UNIT_DIGITS
from schemas.records import ProgramVersion
from streams.domain.mastering import LOCAL, SEGMENTS, STATUS
from streams.domain.program import (
    AUDIT_SHOWS,
    IDEMPOTENCY_DAYS_MIN,
    Demotion,
    EarnRule,
    EarnWhileSuspended,
    Expiry,
    ExpiryRule,
    Offer,
    Period,
    PersonalData,
    Program,
    RefundOfExpired,
    ReversalPolicy,
    Reward,
    Rounding,
    Tier,
    TierPolicy,
    Window,
)
from streams.errors import ConfigurationError
from streams.toml_lines import join
from streams.toml_reader import TomlReader

REWARD_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
RULE_PREFIXES_RESERVED = ("earn:", "offer:")  # Of the rules that ledger entries name and that no [[earn.rules]] stands for.
DAYS_MAX = 36_500  # A hundred years: what is further away cannot be meant, and calendars end.
MONTHS_MAX, YEARS_MAX = 1_200, 100
PERCENT_MAX = 100_000
MINUTES_MAX = DAYS_MAX * 24 * 60
MASTERING_PATTERN = re.compile(r"(?=.)[a-z0-9_.]{0,95}\*?")
NEVER_MASTERED = ATTRIBUTES_RESERVED - {SEGMENTS, STATUS}
COMMON_YEAR = 2001  # Any year without 29 February.

# Rule of expiry -> the numbers that it needs, those that it can have besides.
EXPIRY_NUMBERS: dict[ExpiryRule, tuple[tuple[str, ...], tuple[str, ...]]] = {
    ExpiryRule.NEVER: ((), ()),
    ExpiryRule.AFTER_DAYS: (("days",), ()),
    ExpiryRule.END_OF_MONTH: (("months",), ()),
    ExpiryRule.END_OF_YEAR: (("years",), ()),
    ExpiryRule.FIXED_DAY: (("month", "day"), ("days",)),
    ExpiryRule.INACTIVITY: (("days",), ()),
}

PROGRAM_KEYS = (
    "name", "time_zone", "earn", "expiry", "tiers", "tier_policy", "reversal", "refund", "holds", "offers", "rewards", "idempotency_days",
    "mastering", "suspension", "audit",
)  # fmt: skip
EARN_KEYS = ("points_per_unit", "points_per_night", "rounding", "pending_days", "rules")
RULE_KEYS = (
    "id", "points_per_unit", "points_per_night", "points_per_stay", "percent", "categories", "segments", "tiers", "cap_points", "cap_period", "stop",
)  # fmt: skip
OFFER_KEYS = (
    "bonus_percent", "bonus_points", "starts_at", "ends_at", "categories", "segments", "tiers", "period", "uses_max", "cap_points",
    "budget_points", "reward",
)  # fmt: skip


def parse(program_id: str, rules: Mapping[str, Any], *, version: int = 1, effective_from_ms: int = 0, voucher_key: bytes = b"") -> Program:
    """The programme that a table `[programs.<program_id>]` describes. Times are datetimes, or RFC 3339 in texts.

    Raises ConfigurationError naming every problem and its place, `programs.grand.earn.rules[1].cap_period`.
    """
    reader = TomlReader()
    program = read(reader, program_id, rules, version=version, effective_from_ms=effective_from_ms, voucher_key=voucher_key)
    reader.raise_problems()
    return program


def from_record(record: ProgramVersion, voucher_key: bytes) -> Program:
    """The programme of a published version. Raises ConfigurationError when this program cannot read its rules."""
    try:
        rules = json.loads(record.rules)
    except ValueError as error:
        raise ConfigurationError(f"programs.{record.program_id} version {record.version} is not JSON: {error}.") from error
    if not isinstance(rules, dict):
        raise ConfigurationError(f"programs.{record.program_id} version {record.version} must be a table.")
    return parse(record.program_id, rules, version=record.version, effective_from_ms=record.effective_from_ms, voucher_key=voucher_key)


def to_json(rules: Mapping[str, Any]) -> str:
    """A programme's table as JSON, in one form only: sorted keys, no blanks, times in UTC. Equal rules have equal texts."""
    return json.dumps(rules, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_time)


def read(
    reader: TomlReader, program_id: str, table: Mapping[str, Any], *, version: int = 1, effective_from_ms: int = 0, voucher_key: bytes = b""
) -> Program:  # fmt: skip
    """`parse` for a reader that collects the problems of a whole file: the result is worth something only if it has none."""
    place = f"programs.{program_id}"
    reader.check_keys(place, table, PROGRAM_KEYS)
    reader.value(place, table, "name", str)
    rewards = _rewards(reader, place, table)
    tiers = _tiers(reader, place, table, rewards)
    tier_names = [tier.name for tier in tiers]
    offers = {
        key: _offer(reader, join(f"{place}.offers", key), key, offer, tier_names, rewards)
        for key, offer in reader.tables(table, "offers", place=place)
    }  # fmt: skip
    earn_place, earn = _section(reader, place, table, "earn", EARN_KEYS)
    holds_place, holds = _section(reader, place, table, "holds", ("minutes", "capture_while_suspended"))
    reversal_place, reversal = _section(reader, place, table, "reversal", ("policy",))
    refund_place, refund = _section(reader, place, table, "refund", ("of_expired", "grace_days"))
    suspension_place, suspension = _section(reader, place, table, "suspension", ("earn",))
    audit_place, audit = _section(reader, place, table, "audit", ("personal_data", "shows"))
    of_expired = reader.choice(refund_place, refund, "of_expired", RefundOfExpired, RefundOfExpired.EXPIRE_AGAIN)
    if "grace_days" in refund and of_expired is not RefundOfExpired.GRACE:
        reader.problem(f"{refund_place}.grace_days", f"has no effect unless of_expired is {RefundOfExpired.GRACE.value!r}")
    return Program(
        program_id=program_id,
        version=version,
        effective_from_ms=effective_from_ms,
        tiers=tiers,
        time_zone=_time_zone(reader, place, table),
        points_per_unit=_rates(reader, earn_place, earn),
        points_per_night=reader.whole(earn_place, earn, "points_per_night", 0, maximum=POINTS_MAX),
        rules=_rules(reader, earn_place, earn, tier_names),
        rounding=reader.choice(earn_place, earn, "rounding", Rounding, Rounding.FLOOR),
        expiry=_expiry(reader, place, table),
        pending_days=reader.whole(earn_place, earn, "pending_days", 0, maximum=DAYS_MAX),
        reversal=reader.choice(reversal_place, reversal, "policy", ReversalPolicy, ReversalPolicy.WITHIN_BALANCE),
        refund_of_expired=of_expired,
        refund_grace_days=reader.whole(refund_place, refund, "grace_days", 30, 1, DAYS_MAX),
        hold_minutes=reader.optional(holds_place, holds, "minutes", maximum=MINUTES_MAX),
        capture_while_suspended=reader.value(holds_place, holds, "capture_while_suspended", bool, False),
        tier_policy=_tier_policy(reader, place, table),
        earn_while_suspended=reader.choice(suspension_place, suspension, "earn", EarnWhileSuspended, EarnWhileSuspended.PARK),
        mastering=_mastering(reader, place, table),
        personal_data=reader.choice(audit_place, audit, "personal_data", PersonalData, PersonalData.MASKED),
        audit_shows=reader.texts(audit_place, audit, "shows") if "shows" in audit else AUDIT_SHOWS,
        offers=offers,
        rewards=rewards,
        idempotency_days=reader.whole(place, table, "idempotency_days", 90, IDEMPOTENCY_DAYS_MIN, DAYS_MAX),
        voucher_key=voucher_key,
    )


def _section(reader: TomlReader, place: str, table: Mapping[str, Any], key: str, known: Collection[str]) -> tuple[str, Mapping[str, Any]]:
    """A table in the programme's, with its place; empty if it is not there."""
    section: Mapping[str, Any] = reader.value(place, table, key, dict, {})
    reader.check_keys(f"{place}.{key}", section, known)
    return f"{place}.{key}", section


def _mastering(reader: TomlReader, place: str, table: Mapping[str, Any]) -> dict[str, str]:
    """Pattern -> source system. A pattern that is one no more than another leaves no doubt: the longest one that fits decides."""
    here = f"{place}.mastering"
    patterns: dict[str, Any] = reader.value(place, table, "mastering", dict, {})
    for pattern, source in patterns.items():
        if not MASTERING_PATTERN.fullmatch(pattern):
            reader.problem(
                join(here, pattern), "must be the name of an attribute, segments, status or external_ids.<type>, or the beginning of one and '*'"
            )
        elif pattern in NEVER_MASTERED:
            reader.problem(join(here, pattern), "is what the ledger itself keeps, and nobody's to set")
        if not isinstance(source, str) or not (1 <= len(source) <= ID_CHARACTERS_MAX and source.isprintable()):
            reader.problem(join(here, pattern), f"must name a source system, or {LOCAL!r}, with 1 to {ID_CHARACTERS_MAX} printable characters")
    if patterns and all(source == LOCAL for source in patterns.values()):
        reader.problem(here, f"masters nothing: every pattern is {LOCAL!r}, which is what all is without it")
    return {pattern: str(source) for pattern, source in patterns.items()}


def _time_zone(reader: TomlReader, place: str, table: Mapping[str, Any]) -> str:
    name: str = reader.value(place, table, "time_zone", str, "UTC")
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: it is the name of a folder of zones, such as Europe.
        reader.problem(f"{place}.time_zone", f"must be a time zone of the IANA database such as Europe/Berlin, not {name!r}")
    return name


def _rates(reader: TomlReader, place: str, table: Mapping[str, Any]) -> dict[str, int]:
    here = f"{place}.points_per_unit"
    rates: dict[str, Any] = reader.value(place, table, "points_per_unit", dict, {})
    for code in rates:
        if code not in MINOR_UNIT_DIGITS:
            reader.problem(join(here, code), "is not a currency code of ISO 4217")
    return {code: reader.whole(here, rates, code, 1, 1, POINTS_MAX) for code in rates}


def _rules(reader: TomlReader, place: str, earn: Mapping[str, Any], tier_names: Collection[str]) -> tuple[EarnRule, ...]:
    rules: list[EarnRule] = []
    for here, table in reader.elements(place, earn, "rules"):
        rule = _rule(reader, here, table, tier_names)
        if rule.rule_id and rule.rule_id in [earlier.rule_id for earlier in rules]:
            reader.problem(f"{here}.id", f"is {rule.rule_id!r}, as that of a rule before it")
        rules.append(rule)
    return tuple(rules)


def _rule(reader: TomlReader, place: str, table: Mapping[str, Any], tier_names: Collection[str]) -> EarnRule:
    reader.check_keys(place, table, RULE_KEYS)
    rule_id: str | None = reader.value(place, table, "id", str, None, required=True)
    if rule_id is not None and not (1 <= len(rule_id) <= ID_CHARACTERS_MAX and rule_id.isprintable()):
        reader.problem(f"{place}.id", f"must have 1 to {ID_CHARACTERS_MAX} printable characters")
    if rule_id is not None and rule_id.startswith(RULE_PREFIXES_RESERVED):
        reader.problem(f"{place}.id", f"must not begin with {' or '.join(RULE_PREFIXES_RESERVED)}: these name rules that the pipeline has by itself")
    rule = EarnRule(
        rule_id=rule_id or "",
        points_per_unit=_rates(reader, place, table),
        points_per_night=reader.whole(place, table, "points_per_night", 0, 1, POINTS_MAX),
        points_per_stay=reader.whole(place, table, "points_per_stay", 0, 1, POINTS_MAX),
        percent=reader.whole(place, table, "percent", 0, 1, PERCENT_MAX),
        categories=reader.texts(place, table, "categories"),
        segments=reader.texts(place, table, "segments"),
        tiers=reader.names(place, table, "tiers", tier_names),
        cap_points=reader.optional(place, table, "cap_points", maximum=POINTS_MAX),
        cap_period=reader.choice(place, table, "cap_period", Period, Period.ONCE),
        stop=reader.value(place, table, "stop", bool, False),
    )
    if not any(key in table for key in ("points_per_unit", "points_per_night", "points_per_stay", "percent")) and not rule.stop:
        reader.problem(place, "gives nothing: it needs points_per_unit, points_per_night, points_per_stay or percent, or stop = true")
    if "cap_period" in table and "cap_points" not in table:
        reader.problem(f"{place}.cap_period", "has no effect without cap_points")
    return rule


def _expiry(reader: TomlReader, place: str, table: Mapping[str, Any]) -> Expiry:
    here, section = _section(reader, place, table, "expiry", ("rule", "days", "months", "years", "month", "day"))
    rule = reader.choice(here, section, "rule", ExpiryRule, ExpiryRule.NEVER, required="expiry" in table)
    numbers = {
        "days": reader.whole(here, section, "days", 0, 0 if rule is ExpiryRule.FIXED_DAY else 1, DAYS_MAX),
        "months": reader.whole(here, section, "months", 0, 0, MONTHS_MAX),
        "years": reader.whole(here, section, "years", 0, 0, YEARS_MAX),
        "month": reader.whole(here, section, "month", 1, 1, 12),
        "day": reader.whole(here, section, "day", 1, 1, 31),
    }
    if section.get("rule") == rule:  # Otherwise the rule itself is the problem.
        needed, possible = EXPIRY_NUMBERS[rule]
        for key in needed:
            if key not in section:
                reader.problem(f"{here}.{key}", f"is required by the rule {rule.value}")
        for key in numbers:
            if key in section and key not in needed + possible:
                uses = ", ".join(needed + possible) or "no number"
                reader.problem(f"{here}.{key}", f"is not used by the rule {rule.value}, which uses {uses}")
    if rule is ExpiryRule.FIXED_DAY and 1 <= numbers["month"] <= 12:
        _check_day(reader, f"{here}.day", numbers["month"], numbers["day"])
    return Expiry(rule=rule, **numbers)


def _check_day(reader: TomlReader, place: str, month: int, day: int) -> None:
    days = calendar.monthrange(COMMON_YEAR, month)[1]
    if (month, day) == (2, 29):
        reader.problem(place, "is 29 February, which most years do not have: take 28 February or 1 March")
    elif days < day <= 31:
        reader.problem(place, f"must be {days} or less in month {month}, not {day}")


def _tiers(reader: TomlReader, place: str, table: Mapping[str, Any], rewards: Mapping[str, Reward]) -> tuple[Tier, ...]:
    tiers: list[Tier] = []
    if not table.get("tiers"):
        reader.problem(f"{place}.tiers", "is required: one tier at least, whose threshold_points are 0")
    for here, tier in reader.elements(place, table, "tiers"):
        reader.check_keys(here, tier, ("name", "threshold_points", "earn_percent", "reward"))
        name: str | None = reader.value(here, tier, "name", str, None, required=True)
        if name is not None and not (1 <= len(name) <= ID_CHARACTERS_MAX and name.isprintable()):
            reader.problem(f"{here}.name", f"must have 1 to {ID_CHARACTERS_MAX} printable characters")
        if name and name in [lower.name for lower in tiers]:
            reader.problem(f"{here}.name", f"is {name!r}, as that of a tier before it")
        threshold = reader.whole(here, tier, "threshold_points", 0, maximum=POINTS_MAX)
        if not tiers and threshold > 0:
            reader.problem(f"{here}.threshold_points", f"must be 0 for the first tier, in which members begin, not {threshold}")
        if tiers and threshold <= tiers[-1].threshold_points:
            reader.problem(f"{here}.threshold_points", f"must be more than those of the tier before it, {tiers[-1].threshold_points}, not {threshold}")
        tiers.append(
            Tier(
                name=name or "",
                threshold_points=threshold,
                earn_percent=reader.whole(here, tier, "earn_percent", 100, 1, PERCENT_MAX),
                reward_code=reader.value(here, tier, "reward", str),
            )
        )
        _check_reward(reader, here, tiers[-1].reward_code, rewards)
    return tuple(tiers)


def _tier_policy(reader: TomlReader, place: str, table: Mapping[str, Any]) -> TierPolicy:
    here, section = _section(reader, place, table, "tier_policy", ("window", "window_days", "grace_days", "demotion", "demote_on_reversal"))
    window = reader.choice(here, section, "window", Window, Window.LIFETIME)
    if "window_days" in section and window is not Window.ROLLING:
        reader.problem(f"{here}.window_days", f"has no effect unless window is {Window.ROLLING.value!r}")
    return TierPolicy(
        window=window,
        window_days=reader.whole(here, section, "window_days", 365, 1, DAYS_MAX),
        grace_days=reader.whole(here, section, "grace_days", 0, maximum=DAYS_MAX),
        demotion=reader.choice(here, section, "demotion", Demotion, Demotion.BALANCE_BASED),
        # A tier that lasts for a period is kept until its end; one for life has no end at which it could be lost otherwise.
        demote_on_reversal=reader.value(here, section, "demote_on_reversal", bool, window is Window.LIFETIME),
    )


def _offer(
    reader: TomlReader, place: str, offer_id: str, table: Mapping[str, Any], tier_names: Collection[str], rewards: Mapping[str, Reward]
) -> Offer:  # fmt: skip
    reader.check_keys(place, table, OFFER_KEYS)
    starts_at_ms, ends_at_ms = (reader.instant_ms(place, table, key) for key in ("starts_at", "ends_at"))
    if ends_at_ms is not None and ends_at_ms <= (starts_at_ms or 0):
        reader.problem(f"{place}.ends_at", "must be after starts_at" if starts_at_ms is not None else "must be after 1970")
    offer = Offer(
        offer_id=offer_id,
        bonus_percent=reader.whole(place, table, "bonus_percent", 0, 1, PERCENT_MAX),
        bonus_points=reader.whole(place, table, "bonus_points", 0, 1, POINTS_MAX),
        starts_at_ms=starts_at_ms or 0,
        ends_at_ms=ends_at_ms,
        categories=reader.texts(place, table, "categories"),
        segments=reader.texts(place, table, "segments"),
        tiers=reader.names(place, table, "tiers", tier_names),
        period=reader.choice(place, table, "period", Period, Period.ONCE),
        uses_max=reader.optional(place, table, "uses_max", maximum=POINTS_MAX),
        cap_points=reader.optional(place, table, "cap_points", maximum=POINTS_MAX),
        budget_points=reader.optional(place, table, "budget_points", maximum=POINTS_MAX),
        reward_code=reader.value(place, table, "reward", str),
    )
    _check_reward(reader, place, offer.reward_code, rewards)
    has_bonus = "bonus_percent" in table or "bonus_points" in table
    if not has_bonus and "reward" not in table:
        reader.problem(place, "gives nothing: it needs bonus_percent, bonus_points or reward")
    for key in ("uses_max", "cap_points", "budget_points"):
        if key in table and not has_bonus:
            reader.problem(f"{place}.{key}", "has no effect without bonus_percent or bonus_points")
    if "budget_points" in table and "cap_points" not in table:
        reader.problem(f"{place}.budget_points", "needs cap_points: every activation reserves that much of the budget")
    elif offer.budget_points is not None and offer.cap_points is not None and offer.budget_points < offer.cap_points:
        reader.problem(f"{place}.budget_points", f"must be {offer.cap_points} or more, the cap_points of one activation, not {offer.budget_points}")
    return offer


def _rewards(reader: TomlReader, place: str, table: Mapping[str, Any]) -> dict[str, Reward]:
    rewards = {}
    for code, reward in reader.tables(table, "rewards", place=place, named=REWARD_CODE, naming="A-Z, a-z, 0-9, '-' and '_'"):
        here = f"{place}.rewards.{code}"
        reader.check_keys(here, reward, ("points", "valid_days"))
        rewards[code] = Reward(
            reward_code=code,
            points=reader.optional(here, reward, "points", maximum=POINTS_MAX),
            valid_days=reader.optional(here, reward, "valid_days", maximum=DAYS_MAX),
        )
    return rewards


def _check_reward(reader: TomlReader, place: str, code: str | None, rewards: Mapping[str, Reward]) -> None:
    """A reward that is named must be described: its vouchers are issued without anybody who could say what they are."""
    if code is not None and code not in rewards:
        reader.check_name(f"{place}.reward", code, rewards)


def _time(value: Any) -> str:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    raise TypeError(f"{value!r} has no place in the rules of a programme")
