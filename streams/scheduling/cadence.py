"""How often: in real time, every so often, or by cron, perhaps only in a window of the day and at a rate. Pure: times come in.

    [sync.profile-changes]
    every = "15m"                  # or cron = "0 2 * * *", or realtime = true
    time_zone = "Europe/Berlin"    # of cron and window; UTC, unless said
    window = "01:00-05:00"         # runs begin only then; what is due at another time waits for its beginning
    rate_max_per_s = 200           # records that a run sends
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from streams.toml_lines import join
from streams.toml_reader import TomlReader

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
EVERY_S_MIN, EVERY_S_MAX = 1.0, 31 * 86_400.0
LOOK_BACK_MS_MAX = 2 * 366 * 86_400_000
KEYS = frozenset({"realtime", "every", "cron", "time_zone", "window", "rate_max_per_s"})
_EVERY = re.compile(r"(\d{1,9})\s*([smhd])")
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\s*-\s*([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """When something happens. Neither `every_s` nor `cron`: in real time."""

    every_s: float | None = None
    """Instants are the multiples of it since 1970, so that a restart changes none."""
    cron: str = ""
    """Five fields, in `time_zone`."""
    time_zone: str = "UTC"
    window: tuple[int, int] | None = None
    """Minutes of the local day: from the first on and before the second, which may be on the next day."""
    rate_max_per_s: float | None = None

    @property
    def is_realtime(self) -> bool:
        return self.every_s is None and not self.cron

    def next_ms(self, after_ms: int) -> int:
        """The first instant after that time; what falls outside the window is put off to its beginning. In real time: that time itself."""
        if self.is_realtime:
            return after_ms
        if not self.is_open(after_ms):
            put_off_ms, begins_ms = self._due_ms(after_ms, is_before=True), self._opens_ms(after_ms)
            if not self.is_open(put_off_ms) and self._opens_ms(put_off_ms) == begins_ms:
                return begins_ms
        due_ms = self._due_ms(after_ms)
        return due_ms if self.is_open(due_ms) else self._opens_ms(due_ms)

    def last_ms(self, at_ms: int) -> int:
        """The newest instant that is not after that time; 0 if there was none for two years. In real time: that time itself."""
        if self.is_realtime:
            return at_ms
        back_ms = 1000
        while self.next_ms(at_ms - back_ms) > at_ms:
            back_ms *= 2
            if back_ms > LOOK_BACK_MS_MAX:
                return 0
        last_ms = self.next_ms(at_ms - back_ms)
        while (following_ms := self.next_ms(last_ms)) <= at_ms:
            last_ms = following_ms
        return last_ms

    def _due_ms(self, at_ms: int, *, is_before: bool = False) -> int:
        """The first instant after that time, or the last one that is not after it; whatever the window is."""
        if self.every_s is not None:
            step_ms = int(self.every_s * 1000)
            return (at_ms // step_ms + (not is_before)) * step_ms
        zone = ZoneInfo(self.time_zone)
        if is_before:
            at_ms = (at_ms // 60_000 + 1) * 60_000  # An instant is the beginning of a minute.
        return int(next(CronSim(self.cron, datetime.fromtimestamp(at_ms / 1000, zone), reverse=is_before)).timestamp()) * 1000

    def is_open(self, at_ms: int) -> bool:
        """Whether a run may begin or go on at that time."""
        if self.window is None:
            return True
        local, (begin, end) = datetime.fromtimestamp(at_ms / 1000, ZoneInfo(self.time_zone)), self.window
        minute = local.hour * 60 + local.minute
        return begin <= minute < end if begin < end else minute >= begin or minute < end

    def _opens_ms(self, after_ms: int) -> int:
        assert self.window is not None
        zone = ZoneInfo(self.time_zone)
        day = datetime.fromtimestamp(after_ms / 1000, zone).date()
        for _ in range(3):  # The beginning may not exist on the day when clocks go forward: then it is an hour later by the clock.
            begins = datetime(day.year, day.month, day.day, self.window[0] // 60, self.window[0] % 60, tzinfo=zone)
            begins_ms = int(begins.astimezone(UTC).timestamp()) * 1000
            if begins_ms > after_ms:
                break
            day += timedelta(days=1)
        return begins_ms

    def __str__(self) -> str:
        if self.is_realtime:
            parts = ["realtime"]
        elif self.every_s is not None:
            parts = [f"every {duration_text(self.every_s)}"]
        else:
            parts = [f"cron {self.cron}"]
        if self.time_zone != "UTC" and (self.cron or self.window):
            parts[0] += f" {self.time_zone}"
        if self.window is not None:
            parts.append(window_text(self.window))
        if self.rate_max_per_s is not None:
            parts.append(f"{self.rate_max_per_s:g}/s")
        return ", ".join(parts)


REALTIME = Cadence()


def make(
    *, realtime: bool = False, every: str | None = None, cron: str | None = None, time_zone: str | None = None, window: str | None = None,
    rate_max_per_s: float | None = None, default: Cadence = REALTIME,
) -> Cadence:  # fmt: skip
    """A cadence of its parts as texts; what is left out is as in `default`. Raises ValueError saying which part is wrong, and what is right."""
    if realtime + (every is not None) + (cron is not None) > 1:
        raise ValueError("realtime, every and cron exclude each other")
    every_s, line = (None, "") if realtime or every is not None or cron is not None else (default.every_s, default.cron)
    if every is not None:
        every_s = duration_s(every)
    zone = default.time_zone if time_zone is None else time_zone
    try:
        ZoneInfo(zone)
    except (OSError, ValueError, KeyError) as error:  # Of a name that is none, and of one that there is not.
        raise ValueError(f"time_zone must be a name such as Europe/Berlin, not {zone!r}") from error
    if cron is not None:
        line = " ".join(cron.split())
        _check_cron(line, zone)
    if rate_max_per_s is not None and not 0 < rate_max_per_s < 1e9:
        raise ValueError(f"rate_max_per_s must be above 0, not {rate_max_per_s:g}")
    is_realtime = every_s is None and not line
    if is_realtime and window is not None:
        raise ValueError("a window needs every or cron: what is realtime waits for nothing")
    return Cadence(
        every_s=every_s, cron=line, time_zone=zone,
        window=None if is_realtime else default.window if window is None else window_of(window),
        rate_max_per_s=default.rate_max_per_s if rate_max_per_s is None else rate_max_per_s,
    )  # fmt: skip


def of_text(text: str) -> Cadence:
    """`realtime`, `15m` or `0 2 * * *`. Raises ValueError."""
    if text == "realtime":
        return REALTIME
    return make(every=text) if _EVERY.fullmatch(text.strip()) else make(cron=text)


def read(reader: TomlReader, place: str, table: Mapping[str, Any], *, default: Cadence = REALTIME, more_keys: frozenset[str] = frozenset()) -> Cadence:
    """The cadence in a table of the configuration file; problems go to the reader, and then it is `default`. `more_keys`: the table's others."""
    reader.check_keys(place, table, KEYS | more_keys)
    rate = table.get("rate_max_per_s")
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float)):
        reader.problem(join(place, "rate_max_per_s"), "must be a number")
        rate = None
    texts = {key: reader.value(place, table, key, str) for key in ("every", "cron", "time_zone", "window")}
    try:
        return make(realtime=reader.value(place, table, "realtime", bool, False), rate_max_per_s=rate, default=default, **texts)
    except ValueError as error:
        reader.problem(place, f"cannot be so: {error}")
        return default


def duration_s(text: str) -> float:
    """`90s`, `15m`, `2h` or `1d` -> seconds. Raises ValueError."""
    found = _EVERY.fullmatch(text.strip())
    if found is None or not EVERY_S_MIN <= (seconds := int(found[1]) * UNITS_S[found[2]]) <= EVERY_S_MAX:
        raise ValueError(f"every must be a time such as 90s, 15m, 2h or 1d, from 1s to 31d, not {text!r}")
    return float(seconds)


def duration_text(seconds: float) -> str:
    """The same back: the largest unit without a rest."""
    unit = next(name for name in reversed(UNITS_S) if not seconds % UNITS_S[name] or name == "s")
    return f"{seconds / UNITS_S[unit]:g}{unit}"


def window_of(text: str) -> tuple[int, int]:
    """`22:00-05:00` -> minutes of the day. Raises ValueError."""
    found = _WINDOW.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"window must be two times of the day such as 22:00-05:00, not {text!r}")
    begin, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
    if begin == end:
        raise ValueError(f"window {text} is empty: leave it out for the whole day")
    return begin, end


def window_text(window: tuple[int, int]) -> str:
    return "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in window)


def _check_cron(line: str, zone: str) -> None:
    try:
        if len(line.split()) != 5:
            raise CronSimError("it has not five fields")
        next(CronSim(line, datetime(2026, 1, 1, tzinfo=ZoneInfo(zone))))
    except (CronSimError, StopIteration) as error:
        raise ValueError(f"cron must be a line of five fields such as 0 2 * * *, not {line!r}: {error or 'it has no instant'}") from error
