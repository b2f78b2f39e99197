"""Instants -> days, months and years of a programme's time zone. The zone's rules come from the pinned tzdata: data, not a clock."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from streams.domain.program import Expiry, ExpiryRule, Period

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_AT_MS_MAX = 247_000_000_000_000  # In the year 9797: room for a century more, and the last year that has a name is 9999.


@lru_cache(1024)
def is_time_zone(name: str) -> bool:
    """Whether this is the IANA name of a zone; what members are said to live in need not be."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        return False
    return bool(name)


def local(time_zone: str, at_ms: int) -> datetime:
    """The instant as a time of the zone."""
    return (_EPOCH + timedelta(milliseconds=min(at_ms, _AT_MS_MAX))).astimezone(ZoneInfo(time_zone))


def instant(time_zone: str, year: int, month: int, day: int, at: datetime | None = None) -> int:
    """Milliseconds since 1970 of a local day's start, or of the time of day of `at`. Months beyond 12 go on in the next year.

    A time that does not exist, because clocks were put forward, is read with the offset from before the change.
    """
    year, month = year + (month - 1) // 12, (month - 1) % 12 + 1
    moment = datetime(min(year, 9987), month, min(day, _days_of(min(year, 9987), month)), tzinfo=ZoneInfo(time_zone))
    if at is not None:
        moment = moment.replace(hour=at.hour, minute=at.minute, second=at.second, microsecond=at.microsecond, fold=at.fold)
    return (moment.astimezone(UTC) - _EPOCH) // _MILLISECOND


def _days_of(year: int, month: int) -> int:
    first = datetime(year + month // 12, month % 12 + 1, 1)
    return (first - timedelta(days=1)).day


@lru_cache(4096)
def start_of_day(time_zone: str, at_ms: int) -> int:
    moment = local(time_zone, at_ms)
    return instant(time_zone, moment.year, moment.month, moment.day)


def add_days(time_zone: str, at_ms: int, days: int) -> int:
    """The same local time, so many days later: a day is 23 or 25 hours long when clocks change."""
    moment = local(time_zone, at_ms)
    day = moment.replace(tzinfo=None) + timedelta(days=days)
    return instant(time_zone, day.year, day.month, day.day, moment) + (at_ms - _whole_ms(moment))


def _whole_ms(moment: datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND


def start_of_period(time_zone: str, period: Period, at_ms: int) -> int:
    """First instant of the period; 0 for ONCE."""
    if period is Period.ONCE:
        return 0
    moment = local(time_zone, at_ms)
    if period is Period.YEAR:
        return instant(time_zone, moment.year, 1, 1)
    if period is Period.MONTH:
        return instant(time_zone, moment.year, moment.month, 1)
    return start_of_day(time_zone, at_ms)


def start_of_year(time_zone: str, at_ms: int, years: int = 0) -> int:
    """First instant of the calendar year, or of the one `years` later."""
    return instant(time_zone, local(time_zone, at_ms).year + years, 1, 1)


def start_of_membership_year(time_zone: str, enrolled_at_ms: int, at_ms: int, years: int = 0) -> int:
    """First instant of the year of membership, or of the one `years` later. Who joined on 29 February begins on the 28th in other years."""
    joined, moment = local(time_zone, enrolled_at_ms), local(time_zone, at_ms)
    year = moment.year
    if at_ms < instant(time_zone, year, joined.month, joined.day):
        year -= 1
    return instant(time_zone, max(year, joined.year) + years, joined.month, joined.day)


@lru_cache(4096)
def expires_at(expiry: Expiry, time_zone: str, from_ms: int) -> int | None:
    """First instant at which points that were earned (INACTIVITY: or used) at `from_ms` cannot be spent any more; None: never."""
    match expiry.rule:
        case ExpiryRule.NEVER:
            return None
        case ExpiryRule.AFTER_DAYS | ExpiryRule.INACTIVITY:
            return add_days(time_zone, from_ms, expiry.days)
    moment = local(time_zone, from_ms)
    match expiry.rule:
        case ExpiryRule.END_OF_MONTH:
            return instant(time_zone, moment.year, moment.month + expiry.months + 1, 1)
        case ExpiryRule.END_OF_YEAR:
            return instant(time_zone, moment.year + expiry.years + 1, 1, 1)
    least_ms = add_days(time_zone, from_ms, expiry.days)
    year = local(time_zone, least_ms).year
    day = instant(time_zone, year, expiry.month, expiry.day)
    return day if day > least_ms else instant(time_zone, year + 1, expiry.month, expiry.day)
