"""Results -> goals met or not, a Markdown page, and lines for the terminal. Pure: numbers in, text out."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.measure import MEMBERS, SUBJECTS

Rounds = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Goal:
    name: str
    bound: str
    measured: str
    met: bool | None
    """None: it was not measured in this run."""


def median(rounds: Rounds, what: str) -> float | None:
    values = [one[what] for one in rounds if what in one]
    return statistics.median(values) if values else None


def goals(results: Mapping[str, Any]) -> list[Goal]:
    """Every goal with what was measured in this run."""
    speed = {name: median(rounds, "events_s") for name, rounds in results.get("throughput", {}).items()}
    streams = max((value for name in ("streams-1", "streams-2") if (value := speed.get(name))), default=None)
    sizes = {int(count): found for count, found in results.get("members", {}).items()}
    small, large = sizes.get(10_000, {}), sizes.get(1_000_000, {})
    at_100 = results.get("latency", {}).get("engine 100/s", {})
    return [
        _at_least("one worker beside the bare transactional loop", 0.5, speed.get("engine"), speed.get("bare-txn")),
        _at_least("one worker beside Quix Streams exactly-once, committing every 5 s (its default)", 3, speed.get("engine"), speed.get("quix-eo")),
        _at_least("one worker beside Quix Streams exactly-once, committing every 0.1 s", 3, speed.get("engine"), speed.get("quix-eo-0.1s")),
        _at_least("two workers beside Kafka Streams exactly_once_v2, the better of 1 and 2 threads", 0.5, speed.get("engine-2"), streams),
        _at_least("1,000,000 members beside 10,000", 0.8, large.get("events_s"), small.get("events_s")),
        _at_most("p50 at 100 events/s", 15, at_100.get("p50_ms"), "ms"),
        _at_most("p99 at 100 events/s", 100, at_100.get("p99_ms"), "ms"),
        _at_most("cold recovery of 1,000,000 members beside a bare read", 2, _over(large.get("cold_s"), large.get("bare_read_s")), "x"),
        _at_most("warm restart of 1,000,000 members", 10, large.get("warm_s"), "s"),
        _at_most("local disk per member", 1024, large.get("disk_bytes_per_member"), "bytes"),
    ]


def _over(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def _at_least(name: str, ratio: float, ours: float | None, theirs: float | None) -> Goal:
    found = _over(ours, theirs)
    return Goal(name, f">= {ratio}x", "not measured" if found is None else f"{found:.2f}x", None if found is None else found >= ratio)


def _at_most(name: str, bound: float, found: float | None, unit: str) -> Goal:
    return Goal(name, f"<= {bound:g} {unit}", "not measured" if found is None else f"{found:.3g} {unit}", None if found is None else found <= bound)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def markdown(results: Mapping[str, Any]) -> str:
    """The page for the documentation."""
    machine = results["machine"]
    lines = [
        "# Benchmark",
        "",
        "Made by `make bench`; do not edit. Every ratio is between two numbers of this one run, on one machine, with the same broker; absolute",
        "numbers are of little use elsewhere. The broker, the observer and everything measured share the machine's cores.",
        "",
        f"{results['date']}, {machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, Python {machine['python']}, "
        f"{', '.join(f'{name} {version}' for name, version in machine['versions'].items())}. Command: `{results['command']}`.",
        "",
        "**The work**, the same for all (`tests/bench/work.py`): decode an Avro movement, look the member's balance up, recognise a transaction id",
        "among the last eight, refuse what exceeds the balance, write the Avro row to the changelog, send an Avro event. Four partitions,",
        f"{MEMBERS:,} members, one event in fifty repeated. The engine and the bare loops write a key's row once per transaction.",
        "",
        "## Goals",
        "",
        "| goal | bound | measured | |",
        "|---|---|---|---|",
        *(f"| {goal.name} | {goal.bound} | {goal.measured} | {'' if goal.met is None else 'met' if goal.met else '**not met**'} |" for goal in goals(results)),
        "",
        *_throughput(results.get("throughput", {})),
        *_latency(results.get("latency", {})),
        *_members(results.get("members", {})),
        *_ledger(results.get("ledger")),
    ]
    return "\n".join(lines) + "\n"


def _throughput(found: Mapping[str, Rounds]) -> list[str]:
    if not found:
        return []
    ours, floor = (median(found.get(name, ()), "events_s") for name in ("engine", "bare-txn"))
    heads = ("subject", "events/s (median)", "min to max", "beside engine, 1 worker", "beside bare-txn", "CPU us/event", "MiB", "outputs too many")
    lines = ["## Throughput", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, rounds in found.items():
        good = [one for one in rounds if "events_s" in one]
        if not good:
            lines.append(f"| {SUBJECTS[name][0]} | not measured: {str(rounds[-1].get('error', '')).splitlines()[-1][:120]} | | | | | | |")
            continue
        speed = statistics.median(one["events_s"] for one in good)
        spread = f"{min(one['events_s'] for one in good):,.0f} to {max(one['events_s'] for one in good):,.0f}"
        ratios = [f"{speed / other:.2f}x" if other else "" for other in (ours, floor)]
        extra = max(one["outputs"] - one["events"] for one in good)
        lines.append(
            f"| {SUBJECTS[name][0]} | {speed:,.0f} | {spread} | {ratios[0]} | {ratios[1]} | {median(good, 'cpu_us'):.0f} |"
            f" {_number(median(good, 'rss_mib'))} | {extra:,} |"
        )
    return [*lines, ""]


def _latency(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not found:
        return []
    lines = ["## Latency", "", "From handing a record to a producer until a `read_committed` consumer has the output, in one process.", "",
             "| subject and rate | p50 ms | p99 ms | max ms | events |", "|---|---|---|---|---|"]  # fmt: skip
    for name, one in found.items():
        if "error" in one:
            lines.append(f"| {name} | {one['error']} | | | |")
        else:
            lines.append(f"| {name} | {one['p50_ms']:.1f} | {one['p99_ms']:.1f} | {one['max_ms']:.1f} | {one['events']:,} |")
    return [*lines, ""]


def _ledger(found: Mapping[str, Any] | None) -> list[str]:
    if not found:
        return []
    return [
        "## The ledger's own cost", "",
        f"What the real worker spends on a command of mixed traffic ({found['commands']:,} commands: earns, redemptions, reversals, repetitions,"
        f" conflicts, members enrolled late), without a broker; each sends {found['outputs_per_command']:.1f} records.", "",
        "| part | us per command |", "|---|---|",
        f"| decode the command | {found['decode_us']:.0f} |",
        f"| decide: the pure domain, with hashes, events, entries, audit | {found['decide_us']:.0f} |",
        f"| encode what is sent | {found['encode_us']:.0f} |",
        f"| the handler around them: contract, keys, metrics | {found['rest_us']:.0f} |",
        "",
        f"A row of a table costs {found['row_encode_us']:.0f} us more to encode, once for each key of a unit.", "",
    ]  # fmt: skip


def _members(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not found:
        return []
    lines = ["## Members", "", "| members in the table | events/s | MiB | disk bytes per member |", "|---|---|---|---|"]
    for count, one in found.items():
        if "error" in one:
            lines.append(f"| {int(count):,} | {one['error']} | | |")
        else:
            lines.append(f"| {int(count):,} | {one['events_s']:,.0f} | {one['rss_mib']:,} | {one['disk_bytes_per_member']:.0f} |")
    for count, one in found.items():
        if "cold_s" in one:
            lines += [
                "", f"Start with {int(count):,} members ({one['changelog_rows']:,} changelog rows), from the start of the program to all partitions open:", "",
                "| start | s | beside a bare read of the changelog |", "|---|---|---|",
                *(f"| {label} | {one[key]:.1f} | {one[key] / one['bare_read_s']:.2f}x |" for label, key in (
                    ("warm, after a clean stop", "warm_s"), ("warm, after kill -9", "warm_after_kill_s"), ("cold, local state lost", "cold_s"),
                    ("bare consumer reading the changelog into a dict", "bare_read_s"))),
            ]  # fmt: skip
    return [*lines, ""]
