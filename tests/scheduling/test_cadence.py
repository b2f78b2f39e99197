"""Cadences: instants, windows, clocks that change, and what is refused."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.scheduling import cadence
from streams.scheduling.cadence import REALTIME, Cadence
from streams.toml_reader import TomlReader

BERLIN = "Europe/Berlin"


def ms(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


@pytest.mark.parametrize(("wanted", "after", "expected"), [
    (Cadence(every_s=900), ms("2026-11-25T10:00:00"), ms("2026-11-25T10:15:00")),
    (Cadence(every_s=900), ms("2026-11-25T10:14:59"), ms("2026-11-25T10:15:00")),
    (Cadence(cron="0 2 * * *"), ms("2026-11-25T01:59:59"), ms("2026-11-25T02:00:00")),
    (Cadence(cron="0 2 * * *"), ms("2026-11-25T02:00:00"), ms("2026-11-26T02:00:00")),
    (Cadence(cron="0 2 * * *", time_zone=BERLIN), ms("2026-11-25T00:30:00"), ms("2026-11-25T01:00:00")),
    (Cadence(cron="*/5 9-17 * * MON-FRI"), ms("2026-11-27T17:55:00"), ms("2026-11-30T09:00:00")),
    # Clocks go forward: what was to happen at 02:30 happens; they go back: it happens once.
    (Cadence(cron="30 2 * * *", time_zone=BERLIN), ms("2027-03-28T00:00:00", BERLIN), ms("2027-03-28T03:00:00", BERLIN)),
    (Cadence(cron="30 2 * * *", time_zone=BERLIN), ms("2026-10-25T00:35:00"), ms("2026-10-26T02:30:00", BERLIN)),
    # Outside the window: its beginning.
    (Cadence(every_s=900, window=(60, 300)), ms("2026-11-25T10:00:00"), ms("2026-11-26T01:00:00")),
    (Cadence(every_s=900, window=(60, 300)), ms("2026-11-25T04:30:00"), ms("2026-11-25T04:45:00")),
    (Cadence(every_s=900, window=(60, 300)), ms("2026-11-25T04:45:00"), ms("2026-11-26T01:00:00")),
    (Cadence(every_s=86_400, window=(60, 300)), ms("2026-11-25T10:00:00"), ms("2026-11-26T01:00:00")),
    (Cadence(every_s=900, window=(1320, 300), time_zone=BERLIN), ms("2026-11-25T12:00:00"), ms("2026-11-25T22:00:00", BERLIN)),
    (Cadence(every_s=900, window=(1320, 300), time_zone=BERLIN), ms("2026-11-25T23:55:00", BERLIN), ms("2026-11-26T00:00:00", BERLIN)),
    (Cadence(cron="0 12 * * *", window=(60, 300)), ms("2026-11-25T10:00:00"), ms("2026-11-26T01:00:00")),
    (REALTIME, 17, 17),
])  # fmt: skip
def test_the_next_instant(wanted: Cadence, after: int, expected: int) -> None:
    found = wanted.next_ms(after)
    assert (found, datetime.fromtimestamp(found / 1000, UTC)) == (expected, datetime.fromtimestamp(expected / 1000, UTC))


CADENCES = st.one_of(
    st.builds(
        Cadence, every_s=st.sampled_from([1.0, 60.0, 900.0, 7 * 3600.0, 86_400.0]), time_zone=st.sampled_from(["UTC", BERLIN, "America/New_York"]),
        window=st.none() | st.tuples(st.integers(0, 1439), st.integers(0, 1439)).filter(lambda pair: pair[0] != pair[1]),
    ),
    st.builds(Cadence, cron=st.sampled_from(["0 2 * * *", "*/7 * * * *", "30 2 * * SUN", "0 0 29 2 *"]), time_zone=st.sampled_from(["UTC", BERLIN])),
)  # fmt: skip


@given(CADENCES, st.integers(0, 4_102_444_800_000))
def test_instants_follow_each_other_and_do_not_depend_on_where_one_looks_from(wanted: Cadence, after_ms: int) -> None:
    first = wanted.next_ms(after_ms)
    assert first > after_ms
    assert wanted.next_ms(first) > first
    # From anywhere between, the same one is next: a scheduler that starts later neither skips nor invents one.
    assert wanted.next_ms((after_ms + first) // 2) == first or (after_ms + first) // 2 == first
    # Backward, too: it is the last one from its own time on until the next.
    if wanted.cron != "0 0 29 2 *":
        assert wanted.last_ms(first) == first == wanted.last_ms(wanted.next_ms(first) - 1)


@pytest.mark.parametrize(("text", "expected"), [
    ("realtime", "realtime"), ("15m", "every 15m"), ("90s", "every 90s"), ("7200s", "every 2h"), ("1d", "every 1d"), ("0  2 * * *", "cron 0 2 * * *"),
])  # fmt: skip
def test_texts(text: str, expected: str) -> None:
    assert str(cadence.of_text(text)) == expected


@pytest.mark.parametrize("text", ["", "15", "0s", "32d", "0 2 * *", "61 2 * * *", "0 2 30 2 *", "* * * * * *", "soon"])
def test_texts_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        cadence.of_text(text)


@pytest.mark.parametrize(("table", "problem"), [
    ({"every": "15m", "cron": "0 2 * * *"}, "realtime, every and cron exclude each other"),
    ({"every": "15m", "time_zone": "Europe/Atlantis"}, "time_zone must be a name"),
    ({"every": "15m", "time_zone": "../etc/passwd"}, "time_zone must be a name"),
    ({"every": "15m", "window": "1-5"}, "window must be two times of the day"),
    ({"every": "15m", "window": "05:00-05:00"}, "is empty"),
    ({"window": "01:00-05:00"}, "a window needs every or cron"),
    ({"every": "15m", "rate_max_per_s": 0}, "rate_max_per_s must be above 0"),
    ({"every": "15m", "rate_max_per_s": "fast"}, "must be a number"),
    ({"every": 15}, "must be a text"),
    ({"often": "15m"}, "is not known here"),
])  # fmt: skip
def test_what_is_wrong_in_a_table_is_told_with_its_place(table: dict[str, object], problem: str) -> None:
    reader = TomlReader()
    cadence.read(reader, "sync.profile-changes", table)
    assert len(reader.problems) == 1
    assert "sync.profile-changes" in str(reader.problems[0]) and problem in str(reader.problems[0])


def test_a_table_changes_only_what_it_says() -> None:
    reader, default = TomlReader(), Cadence(every_s=60, rate_max_per_s=5, window=(60, 120))
    assert cadence.read(reader, "sync.x", {}, default=default) == default
    assert cadence.read(reader, "sync.x", {"cron": "0 3 * * *", "time_zone": BERLIN}, default=default) == Cadence(
        cron="0 3 * * *", time_zone=BERLIN, rate_max_per_s=5, window=(60, 120)
    )
    assert cadence.read(reader, "sync.x", {"realtime": True}, default=default) == Cadence(rate_max_per_s=5)
    assert str(cadence.read(reader, "sync.x", {"every": "2h", "window": "22:00-05:00", "time_zone": BERLIN})) == f"every 2h {BERLIN}, 22:00-05:00"
    assert not reader.problems
