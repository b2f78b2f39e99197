"""Days, months and years of a time zone: month ends, leap days, and the days on which clocks change."""

import pytest

from streams.domain.periods import add_days, expires_at, start_of_day, start_of_membership_year, start_of_period, start_of_year
from streams.domain.program import Expiry, ExpiryRule, Period
from tests.domain.casework import HOUR_MS, ms

BERLIN, UTC, AUCKLAND, LORD_HOWE = "Europe/Berlin", "UTC", "Pacific/Auckland", "Australia/Lord_Howe"


@pytest.mark.parametrize(
    ("zone", "start", "days", "end"),
    [
        (UTC, "2025-01-31 10:00", 1, "2025-02-01 10:00"),
        (UTC, "2024-02-28 10:00", 1, "2024-02-29 10:00"),
        (UTC, "2024-02-28 10:00", 2, "2024-03-01 10:00"),
        (UTC, "2025-02-28 10:00", 1, "2025-03-01 10:00"),
        (UTC, "2024-02-29 10:00", 365, "2025-02-28 10:00"),
        (UTC, "2024-02-29 10:00", 366, "2025-03-01 10:00"),
        (UTC, "2023-03-01 00:00", 365, "2024-02-29 00:00"),
        (UTC, "2023-03-01 00:00", 366, "2024-03-01 00:00"),
        (UTC, "2025-12-31 23:59:59.999", 1, "2026-01-01 23:59:59.999"),
        (UTC, "2025-03-01 10:00", 0, "2025-03-01 10:00"),
        (UTC, "2025-03-01 10:00", -1, "2025-02-28 10:00"),
        (BERLIN, "2025-03-29 12:00", 1, "2025-03-30 12:00"),
        (BERLIN, "2025-10-25 12:00", 1, "2025-10-26 12:00"),
        (BERLIN, "2025-03-29 12:00", 365, "2026-03-29 12:00"),
        # A time that there is not: with the offset from before the change, which is an hour later by the new one.
        (BERLIN, "2025-03-29 02:30", 1, "2025-03-30 03:30"),
        (BERLIN, "2025-03-29 02:30", 2, "2025-03-31 02:30"),
    ],
)
def test_so_many_days_later_it_is_the_same_time_of_the_day(zone: str, start: str, days: int, end: str) -> None:
    assert add_days(zone, ms(start, zone), days) == ms(end, zone)


@pytest.mark.parametrize(
    ("zone", "start", "hours"),
    [(BERLIN, "2025-03-29 12:00", 23), (BERLIN, "2025-10-25 12:00", 25), (BERLIN, "2025-06-01 12:00", 24), (LORD_HOWE, "2025-10-04 12:00", 23.5),
     (AUCKLAND, "2025-04-05 12:00", 25)],
)  # fmt: skip
def test_how_long_a_day_is(zone: str, start: str, hours: float) -> None:
    assert add_days(zone, ms(start, zone), 1) - ms(start, zone) == hours * HOUR_MS


def test_a_time_that_there_is_twice_stays_the_one_it_was() -> None:
    first, second = (ms("2025-10-26 02:30", BERLIN, fold=fold) for fold in (0, 1))
    assert second - first == HOUR_MS
    assert (add_days(BERLIN, first, 0), add_days(BERLIN, second, 0)) == (first, second)
    assert add_days(BERLIN, first, 1) == add_days(BERLIN, second, 1) == ms("2025-10-27 02:30", BERLIN)


@pytest.mark.parametrize("zone", [UTC, BERLIN, AUCKLAND])
def test_milliseconds_are_kept(zone: str) -> None:
    assert add_days(zone, ms("2025-03-29 12:00:00.123", zone), 1) == ms("2025-03-30 12:00:00.123", zone)


@pytest.mark.parametrize(
    ("period", "at", "start"),
    [
        (Period.DAY, "2025-03-30 00:00", "2025-03-30 00:00"),
        (Period.DAY, "2025-03-30 23:59:59.999", "2025-03-30 00:00"),
        (Period.DAY, "2025-03-29 23:59:59.999", "2025-03-29 00:00"),
        (Period.MONTH, "2025-03-01 00:00", "2025-03-01 00:00"),
        (Period.MONTH, "2025-03-31 23:59:59.999", "2025-03-01 00:00"),
        (Period.MONTH, "2024-02-29 12:00", "2024-02-01 00:00"),
        (Period.YEAR, "2025-01-01 00:00", "2025-01-01 00:00"),
        (Period.YEAR, "2025-12-31 23:59:59.999", "2025-01-01 00:00"),
    ],
)
@pytest.mark.parametrize("zone", [UTC, BERLIN, AUCKLAND])
def test_periods_begin_at_midnight_of_the_zone(zone: str, period: Period, at: str, start: str) -> None:
    assert start_of_period(zone, period, ms(at, zone)) == ms(start, zone)
    assert start_of_period(zone, Period.ONCE, ms(at, zone)) == 0


def test_the_same_instant_lies_in_different_days() -> None:
    at_ms = ms("2025-12-31 23:30")
    assert start_of_day(UTC, at_ms) == ms("2025-12-31 00:00")
    assert start_of_day(BERLIN, at_ms) == ms("2026-01-01 00:00", BERLIN)
    assert [start_of_year(zone, at_ms) for zone in (UTC, BERLIN)] == [ms("2025-01-01 00:00"), ms("2026-01-01 00:00", BERLIN)]


@pytest.mark.parametrize(
    ("rule", "start", "end"),
    [
        (Expiry(rule=ExpiryRule.AFTER_DAYS, days=365), "2023-03-01 10:00", "2024-02-29 10:00"),
        (Expiry(rule=ExpiryRule.AFTER_DAYS, days=365), "2024-02-29 10:00", "2025-02-28 10:00"),
        (Expiry(rule=ExpiryRule.AFTER_DAYS, days=1), "2025-03-29 02:30", "2025-03-30 03:30"),
        (Expiry(rule=ExpiryRule.INACTIVITY, days=30), "2025-01-31 10:00", "2025-03-02 10:00"),
        # The end of a month is the first instant of the next.
        (Expiry(rule=ExpiryRule.END_OF_MONTH, months=0), "2025-01-01 00:00", "2025-02-01 00:00"),
        (Expiry(rule=ExpiryRule.END_OF_MONTH, months=0), "2025-01-31 23:59:59.999", "2025-02-01 00:00"),
        (Expiry(rule=ExpiryRule.END_OF_MONTH, months=1), "2025-01-31 12:00", "2025-03-01 00:00"),
        (Expiry(rule=ExpiryRule.END_OF_MONTH, months=1), "2024-01-31 12:00", "2024-03-01 00:00"),
        (Expiry(rule=ExpiryRule.END_OF_MONTH, months=11), "2025-01-31 12:00", "2026-01-01 00:00"),
        (Expiry(rule=ExpiryRule.END_OF_MONTH, months=12), "2025-01-31 12:00", "2026-02-01 00:00"),
        (Expiry(rule=ExpiryRule.END_OF_MONTH, months=12), "2024-02-29 12:00", "2025-03-01 00:00"),
        (Expiry(rule=ExpiryRule.END_OF_MONTH, months=25), "2025-11-30 12:00", "2028-01-01 00:00"),
        (Expiry(rule=ExpiryRule.END_OF_MONTH, months=0), "2025-12-31 23:59:59.999", "2026-01-01 00:00"),
        (Expiry(rule=ExpiryRule.END_OF_MONTH, months=1), "2025-12-01 00:00", "2026-02-01 00:00"),
        (Expiry(rule=ExpiryRule.END_OF_YEAR, years=0), "2025-01-01 00:00", "2026-01-01 00:00"),
        (Expiry(rule=ExpiryRule.END_OF_YEAR, years=0), "2025-12-31 23:59:59.999", "2026-01-01 00:00"),
        (Expiry(rule=ExpiryRule.END_OF_YEAR, years=2), "2024-02-29 12:00", "2027-01-01 00:00"),
        # The next such day, from its first instant.
        (Expiry(rule=ExpiryRule.FIXED_DAY, month=4, day=1), "2025-03-31 23:59:59.999", "2025-04-01 00:00"),
        (Expiry(rule=ExpiryRule.FIXED_DAY, month=4, day=1), "2025-04-01 00:00", "2026-04-01 00:00"),
        (Expiry(rule=ExpiryRule.FIXED_DAY, month=4, day=1), "2025-04-01 00:00:00.001", "2026-04-01 00:00"),
        (Expiry(rule=ExpiryRule.FIXED_DAY, month=1, day=1), "2025-12-31 23:59:59.999", "2026-01-01 00:00"),
        (Expiry(rule=ExpiryRule.FIXED_DAY, month=12, day=31), "2025-12-30 12:00", "2025-12-31 00:00"),
        (Expiry(rule=ExpiryRule.FIXED_DAY, month=2, day=28), "2024-02-28 12:00", "2025-02-28 00:00"),
        (Expiry(rule=ExpiryRule.FIXED_DAY, month=7, day=1, days=90), "2025-03-01 10:00", "2025-07-01 00:00"),
        (Expiry(rule=ExpiryRule.FIXED_DAY, month=7, day=1, days=90), "2025-05-01 10:00", "2026-07-01 00:00"),
    ],
)
@pytest.mark.parametrize("zone", [UTC, BERLIN])
def test_when_points_expire(zone: str, rule: Expiry, start: str, end: str) -> None:
    if zone == UTC and start.endswith("03-29 02:30"):
        end = "2025-03-30 02:30"
    assert expires_at(rule, zone, ms(start, zone)) == ms(end, zone)


def test_never() -> None:
    assert expires_at(Expiry(), UTC, ms("2025-01-01 00:00")) is None


@pytest.mark.parametrize(
    ("joined", "at", "years", "start"),
    [
        ("2023-05-17 15:00", "2023-05-17 15:00", 0, "2023-05-17 00:00"),
        ("2023-05-17 15:00", "2024-05-16 23:59:59.999", 0, "2023-05-17 00:00"),
        ("2023-05-17 15:00", "2024-05-17 00:00", 0, "2024-05-17 00:00"),
        ("2023-05-17 15:00", "2024-05-17 00:00", 1, "2025-05-17 00:00"),
        ("2023-05-17 15:00", "2024-05-17 00:00", -1, "2023-05-17 00:00"),
        ("2023-05-17 15:00", "2020-01-01 00:00", 0, "2023-05-17 00:00"),  # What happened before counts in the first year.
        ("2024-02-29 15:00", "2025-02-27 23:59:59.999", 0, "2024-02-29 00:00"),
        ("2024-02-29 15:00", "2025-02-28 00:00", 0, "2025-02-28 00:00"),
        ("2024-02-29 15:00", "2028-02-28 23:59:59.999", 0, "2027-02-28 00:00"),
        ("2024-02-29 15:00", "2028-02-29 00:00", 0, "2028-02-29 00:00"),
        ("2024-02-29 15:00", "2027-06-01 00:00", 1, "2028-02-29 00:00"),
        ("2024-12-31 23:30", "2025-12-31 00:00", 0, "2025-12-31 00:00"),
    ],
)
@pytest.mark.parametrize("zone", [UTC, BERLIN])
def test_years_of_membership(zone: str, joined: str, at: str, years: int, start: str) -> None:
    assert start_of_membership_year(zone, ms(joined, zone), ms(at, zone), years) == ms(start, zone)


@pytest.mark.parametrize("zone", [UTC, BERLIN, AUCKLAND])
def test_the_last_years_that_have_a_name_do_not_fail(zone: str) -> None:
    """The contract lets them in; calendars end there, and the next year has no name."""
    last_ms = 253_402_300_799_999
    for rule in ExpiryRule:
        until_ms = expires_at(Expiry(rule=rule, days=36_500, months=1_200, years=100), zone, last_ms)
        assert (until_ms is None) == (rule is ExpiryRule.NEVER)
    assert start_of_membership_year(zone, last_ms, last_ms, 2) > 0
