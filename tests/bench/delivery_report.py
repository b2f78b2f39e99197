"""The measurements of deliveries -> bars, and a table in Markdown for the docs. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SPREAD_OF = 10_000
"""Messages that fail, by which the bar of their next wave is set."""
RECORDED_MS = 1_000  # A transaction every quarter of a second, and the time that it takes.
DISTURBED_CORES = 0.1  # Taken by other programs, on average of a measurement: from there on it is said above the table.

Results = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bar:
    """A bound, and what was measured against it."""

    number: str
    name: str
    bound: str
    measured: str
    met: bool


def bars(results: Results) -> list[Bar]:
    """Those for which there are measurements."""
    found: list[Bar] = []
    for name, look in (("isolation", _isolation), ("cardinality", _cardinality), ("throughput", _throughput), ("latency", _latency),
                       ("hot", _hot), ("pause", _pause), ("replay", _replay), ("outage", _outage), ("breaker", _breaker), ("spread", _spread)):  # fmt: skip
        rounds = [one for one in results.get(name, ()) if "error" not in one]
        failed = [one for one in results.get(name, ()) if "error" in one]
        found += [Bar("", name, "ends", str(one["error"]).splitlines()[-1][:100], False) for one in failed]
        if rounds:
            found += look(rounds)
    return found


def _isolation(rounds: Sequence[Mapping[str, Any]]) -> list[Bar]:
    baseline = rounds[0]
    found = []
    for one in rounds[1:]:
        what = f"{one['black_holes']} of {one['destinations']} destinations black-holed, {one['per_second']:.0f} ev/s"
        bound_ms = min(1.2 * baseline["p99_ms"], baseline["p99_ms"] + 50)
        found += [
            Bar("B1", f"{what}: healthy p99", f"<= {bound_ms:.0f} ms", f"{one['p99_ms']:.0f} ms (baseline {baseline['p99_ms']:.0f})",
                one["p99_ms"] <= bound_ms),
            Bar("B1", f"{what}: healthy throughput", ">= 98 %", f"{one['delivered_share']:.1%} (baseline {baseline['delivered_share']:.1%})",
                one["delivered_share"] >= 0.98),
            Bar("B1", f"{what}: memory", "bounded", f"{one['rss_mib']:.0f} MiB (baseline {baseline['rss_mib']:.0f})",
                one["rss_mib"] <= 1.5 * baseline["rss_mib"]),
        ]  # fmt: skip
    return found


def _cardinality(rounds: Sequence[Mapping[str, Any]]) -> list[Bar]:
    few = rounds[0]
    return [
        Bar("B2", f"{one['destinations']:,} destinations beside {few['destinations']}", ">= 80 %" if one["destinations"] <= 1_000 else "said",
            f"{one['deliveries_s'] / few['deliveries_s']:.0%}: {one['deliveries_s']:,.0f}/s, {one['rss_mib']:.0f} MiB, start {one['start_s']:.1f} s",
            one["destinations"] > 1_000 or one["deliveries_s"] >= 0.8 * few["deliveries_s"])
        for one in rounds[1:]
    ]  # fmt: skip


def _throughput(rounds: Sequence[Mapping[str, Any]]) -> list[Bar]:
    found = []
    for one in rounds:
        what = f"{one['destinations']} destinations, {one['sinks']} process(es)"
        found.append(Bar("B3", what, f">= {2_000 * one['sinks']:,}/s", f"{one['deliveries_s']:,.0f}/s, {one['cpu_us']:.0f} us CPU each",
                         one["deliveries_s"] >= 2_000 * one["sinks"]))  # fmt: skip
        found.append(Bar("B3", f"{what}, beside the bare loop", ">= 60 %" if one["sinks"] == 1 else "said",
                         f"{one['ratio']:.0%} of {one['bare_s']:,.0f}/s ({one['bare_cpu_us']:.0f} us CPU each)",
                         one["sinks"] > 1 or one["ratio"] >= 0.6))  # fmt: skip
        found.append(Bar("B6", f"{what}: audited once", f"{one['events']:,}", f"{one['audited']:,}, {one['repeated']:,} repeated",
                         one["audited"] == one["events"] and not one["repeated"]))  # fmt: skip
        found.append(Bar("B6", f"{what}: on record, so that a kill repeats no more", f"<= {RECORDED_MS:,} ms",
                         f"p50 {one['recorded_p50_ms']:,}, max {one['recorded_max_ms']:,} ms", one["recorded_max_ms"] <= RECORDED_MS))  # fmt: skip
    return found


def _latency(rounds: Sequence[Mapping[str, Any]]) -> list[Bar]:
    return [
        Bar("B4", f"{one['per_second']:.0f} ev/s, append to receiver", "p50 <= 25, p99 <= 100 ms",
            f"p50 {one['p50_ms']:.1f}, p99 {one['p99_ms']:.1f} ms at {one['cores']:.2f} cores", one["p50_ms"] <= 25 and one["p99_ms"] <= 100)
        for one in rounds
    ]  # fmt: skip


def _pause(rounds: Sequence[Mapping[str, Any]]) -> list[Bar]:
    return [
        Bar("B8", f"{one['events']:,} events of a destination that is paused", "all, in order",
            f"{one['taken']:,}, {one['repeated']} repeated, {one['inversions']} inversions, at {one['drained_s']:.0f}/s, {one['rss_mib']:.0f} MiB",
            (one["taken"], one["inversions"], one["while_paused"]) == (one["events"], 0, 0))
        for one in rounds
    ]  # fmt: skip


def _replay(rounds: Sequence[Mapping[str, Any]]) -> list[Bar]:
    return [
        Bar("B9", f"{one['events']:,} events replayed beside {one['per_second']:.0f} live ev/s: live p99",
            f"<= {min(1.2 * one['baseline_p99_ms'], one['baseline_p99_ms'] + 50):.0f} ms",
            f"{one['live_p99_ms']:.0f} ms (baseline {one['baseline_p99_ms']:.0f}), {one['replayed']:,} replayed at {one['replayed_s']:.0f}/s meanwhile",
            one["live_p99_ms"] <= min(1.2 * one["baseline_p99_ms"], one["baseline_p99_ms"] + 50))
        for one in rounds
    ]  # fmt: skip


def _hot(rounds: Sequence[Mapping[str, Any]]) -> list[Bar]:
    return [
        bar
        for one in rounds
        for bar in (
            Bar("B5", f"others while one member has {one['pending']:,} pending", ">= 95 %",
                f"{one['others_delivered_share']:.1%}, p99 {one['others_p99_ms']:.0f} ms (baseline {one['baseline_p99_ms']:.0f})",
                one["others_delivered_share"] >= 0.95),
            Bar("B5", "the hot member afterwards", "0 inversions", f"{one['inversions']} inversions, drained in {one['drained_s']:.1f} s",
                one["inversions"] == 0),
        )
    ]  # fmt: skip


def _outage(rounds: Sequence[Mapping[str, Any]]) -> list[Bar]:
    return [
        bar
        for one in rounds
        for bar in (
            Bar("B7", f"broker down {one['down_s']:.0f} s", "recovers", f"first delivery {one['first_after_s']:.1f} s after its start", True),
            Bar("B7", "peak of repeated attempts", f"<= {2 * one['per_second']:.0f}/s",
                f"{one['repeated_peak_per_s']}/s; {one['repeated']} repeated; the backlog drains at {one['peak_per_s']}/s",
                one["repeated_peak_per_s"] <= 2 * one["per_second"]),
        )
    ]  # fmt: skip


def _breaker(rounds: Sequence[Mapping[str, Any]]) -> list[Bar]:
    return [
        bar
        for one in rounds
        for bar in (
            Bar("B10", "failed calls until it opens", "<= 20 or <= 2 s", f"{one['failed_calls_until_open']} in {one['open_after_s']:.2f} s",
                one["failed_calls_until_open"] <= 20 or one["open_after_s"] <= 2),
            Bar("B10", "probes at once", "1", f"{one['probes_at_once']} ({one['probes']} probes)", one["probes_at_once"] == 1),
            Bar("B10", "full rate after healing", "<= 5 s", f"{one['full_rate_after_s']:.1f} s, peak {one['peak_per_s']}/s of {one['per_second']:.0f}/s",
                one["full_rate_after_s"] <= 5),
        )
    ]  # fmt: skip


def _spread(rounds: Sequence[Mapping[str, Any]]) -> list[Bar]:
    return [
        Bar("B14", f"{one['events']:,} fail within {one['first_wave_s']:.1f} s: largest second of the next wave",
            "<= 5 %" if one["events"] >= SPREAD_OF else f"<= 5 % of {SPREAD_OF:,}",
            f"{one['second_largest_share']:.1%} (of the first: {one['first_largest_share']:.0%})",
            one["second_largest_share"] * one["events"] <= 0.05 * max(SPREAD_OF, one["events"]))
        for one in rounds
    ]  # fmt: skip


def markdown(results: Results) -> str:
    """One table."""
    machine = results["machine"]
    lines = [f"Measured on {results['date']}: {machine['cores']} cores ({machine['cpu']}), Python {machine['python']}; broker, receiver, feeder and sinks"
             " on the same machine.", "", *_disturbances(results), "| bar | what | bound | measured | |", "|---|---|---|---|---|"]  # fmt: skip
    lines += [f"| {bar.number} | {bar.name} | {bar.bound} | {bar.measured} | {'met' if bar.met else 'not met'} |" for bar in bars(results)]
    return "\n".join(lines)


def _disturbances(results: Results) -> list[str]:
    """What to know before the numbers are believed."""
    cores = [one["others_cores"] for rounds in results.values() if isinstance(rounds, list) for one in rounds if "others_cores" in one]
    if max(cores, default=0.0) < DISTURBED_CORES:
        return []
    return [f"**Other programs were running**: they took {statistics.median(cores):.1f} cores in the median measurement, {max(cores):.1f} at most.", ""]
