"""Results -> goals met or not, a Markdown page, and lines for the terminal. Pure: numbers in, text out."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.measure import MEMBERS, SUBJECTS
from tests.bench.rig import WARM_UP_PERCENT

DISTURBED_CORES = 0.1  # Taken by other programs, on average of a measurement: from there on it is said above the table.

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


_VERDICTS = {None: "", True: "met", False: "**not met**"}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def markdown(results: Mapping[str, Any]) -> str:
    """The page for the documentation."""
    machine = results["machine"]
    lines = [
        "# Benchmark",
        "",
        "Made by `make bench`; do not edit. Every ratio is between two numbers of this one run, on one machine, with the same broker; absolute",
        "numbers are of little use elsewhere. The broker, the observer and everything measured share the machine's cores: a subject that takes",
        "more of them leaves less to the broker. The broker runs as the tests run it, with Java's quick compiler alone, which is the same for all.",
        "",
        f"{results['date']}, {machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, Python {machine['python']}, "
        f"{', '.join(f'{name} {version}' for name, version in machine['versions'].items())}. Command: `{results['command']}`.",
        "",
        *_disturbance(results),
        "**The work**, the same for all (`tests/bench/work.py`): decode an Avro movement, look the member's balance up, recognise a transaction id",
        "among the last eight, refuse what exceeds the balance, write the Avro row to the changelog, send an Avro event. Four partitions,",
        f"{MEMBERS:,} members, one event in fifty repeated. The engine and the bare loops write a key's row once per transaction.",
        "Every output of every round is compared byte by byte with what the inputs should give: what is missing, doubled or different is `wrong`.",
        "",
        "## Goals",
        "",
        "| goal | bound | measured | |",
        "|---|---|---|---|",
        *(f"| {goal.name} | {goal.bound} | {goal.measured} | {_VERDICTS[goal.met]} |" for goal in goals(results)),
        "",
        *_throughput(results.get("throughput", {})),
        *_latency(results.get("latency", {})),
        *_members(results.get("members", {})),
        *_ledger(results.get("ledger")),
    ]
    return "\n".join(lines) + "\n"


THROUGHPUT_PROSE = (
    f"Inputs are there before the start. Events a second are counted between the broker's append times of the outputs, without the first "
    f"{WARM_UP_PERCENT} %",
    "(start-up, first rebalance, compilers). Subjects take turns, round by round. CPU and memory are those of the subject's processes, start-up",
    "included, without the broker. The ratios are the subject's speed over the one in the heading, so above 1 the subject is faster.",
    "",
    "- *Bare loops* are the floor: librdkafka and fastavro in one Python thread, rows in a dict. They cannot recover rows, share the work, or survive",
    "  a bad record. The distance to `bare-txn` is the price of the engine, less what it gains by decoding and committing at the same time.",
    "- *Quix Streams* keeps rows in RocksDB with a changelog, as the engine does. By default it commits every 5 s, which is also its latency in",
    "  exactly-once; with 0.1 s it is nearer to what the engine gives.",
    "- *Kafka Streams* does the same with the Processor API and a cached RocksDB store, committing every 0.1 s (its default in exactly-once). It",
    "  does not write a row for a repetition.",
    "- *Faust as it is* handles and sends event by event, with rows in memory. It gets few events, or a round would take minutes.",
)
LATENCY_PROSE = (
    "From handing a record to a producer until a `read_committed` consumer has the output, both in one process: two ways through the broker and the",
    "commit of the transaction are in it. Inputs come at their rate whether or not outputs do, after 200 that warm everything up.",
)
MEMBERS_PROSE = (
    "One worker of this engine. Each member has a row before the measured inputs, of random members, begin. More members give fewer repeated keys",
    "in a transaction, so more rows to write for the same inputs, and rows that must be read from RocksDB instead of the cache. CPU is that of the",
    "whole run, those first rows included. With a million members most rows hold one transaction id, near its neighbour's, and RocksDB compresses",
    "them well: expect more for real ones.",
)


def _disturbance(results: Mapping[str, Any]) -> list[str]:
    """A warning, when other programs kept a part of the machine busy."""
    every = [*itertools.chain(*results.get("throughput", {}).values()), *results.get("latency", {}).values(), *results.get("members", {}).values()]
    cores = [one["others_cores"] for one in every if "others_cores" in one]
    if max(cores, default=0.0) < DISTURBED_CORES:
        return []
    return [
        f"**Other programs were running**: they took {statistics.median(cores):.1f} of {results['machine']['cores']} cores in the median measurement,"
        f" {max(cores):.1f} at most. Ratios are disturbed by what differs from row to row; times are longer than they would be alone.",
        "",
    ]


def _throughput(found: Mapping[str, Rounds]) -> list[str]:
    if not found:
        return []
    ours, floor = (median(found.get(name, ()), "events_s") for name in ("engine", "bare-txn"))
    heads = ("subject", "events/s (median)", "min to max", "engine, 1 worker = 1", "bare-txn = 1", "CPU us/event", "MiB", "wrong", "others' cores")
    lines = ["## Throughput", "", *THROUGHPUT_PROSE, "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, rounds in found.items():
        good = [one for one in rounds if "events_s" in one]
        if not good:
            lines.append(f"| {SUBJECTS[name][0]} | not measured: {str(rounds[-1].get('error', '')).splitlines()[-1][:120]} | | | | | | | |")
            continue
        speed = statistics.median(one["events_s"] for one in good)
        spread = f"{min(one['events_s'] for one in good):,.0f} to {max(one['events_s'] for one in good):,.0f}"
        ratios = [f"{speed / other:.2f}x" if other else "" for other in (ours, floor)]
        wrong, others = max(one["wrong"] for one in good), max(one["others_cores"] for one in good)
        lines.append(
            f"| {SUBJECTS[name][0]} | {speed:,.0f} | {spread} | {ratios[0]} | {ratios[1]} | {median(good, 'cpu_us'):.0f} |"
            f" {_number(median(good, 'rss_mib'))} | {wrong:,} | {others:.2f} |"
        )
    return [*lines, ""]


def _latency(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not found:
        return []
    lines = ["## Latency", "", *LATENCY_PROSE, "",
             "| subject and rate | p50 ms | p99 ms | max ms | events | others' cores |", "|---|---|---|---|---|---|"]  # fmt: skip
    for name, one in found.items():
        if "error" in one:
            lines.append(f"| {name} | {one['error']} | | | | |")
        else:
            lines.append(f"| {name} | {one['p50_ms']:.1f} | {one['p99_ms']:.1f} | {one['max_ms']:.1f} | {one['events']:,} | {one['others_cores']:.2f} |")
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
    lines = ["## Members", "", *MEMBERS_PROSE, "",
             "| members in the table | events/s | CPU us/event | MiB | disk bytes per member | others' cores |", "|---|---|---|---|---|---|"]  # fmt: skip
    for count, one in found.items():
        if "error" in one:
            lines.append(f"| {int(count):,} | {one['error']} | | | | |")
        else:
            lines.append(
                f"| {int(count):,} | {one['events_s']:,.0f} | {one['cpu_us']:.0f} | {one['rss_mib']:,} | {one['disk_bytes_per_member']:.0f} |"
                f" {one['others_cores']:.2f} |"
            )
    for count, one in found.items():
        if "cold_s" in one:
            lines += [
                "", f"Start with {int(count):,} members ({one['changelog_rows']:,} changelog rows): from the start of the process, imports",
                "included, to all partitions open.",
                "", "| start | s | bare read = 1 | MiB then |", "|---|---|---|---|",
                *(f"| {label} | {one[f'{key}_s']:.1f} | {one[f'{key}_s'] / one['bare_read_s']:.2f}x | {one.get(f'{key}_rss_mib', '')} |"
                  for label, key in (("warm, after a clean stop", "warm"), ("warm, after kill -9", "warm_after_kill"),
                                     ("cold, local state lost", "cold"), ("bare consumer reading the changelog into a dict", "bare_read"))),
            ]  # fmt: skip
    return [*lines, ""]
