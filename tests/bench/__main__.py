"""`make bench`: measures everything in one run and writes streams/engine/BENCHMARK.md."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import psutil
from rich.console import Console
from rich.table import Table

from infra import jars
from tests.bench import ledger, measure, peers, report
from tests.bench.rig import Rig, rig

PAGE = Path(__file__).parents[2] / "streams" / "engine" / "BENCHMARK.md"
LATENCIES = (("engine", 1, 20.0), ("engine", 100, 15.0), ("engine", 1000, 15.0), ("bare-txn", 100, 15.0))
MEMBER_COUNTS = (10_000, 100_000, 1_000_000)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", default=3, show_default=True, help="Rounds of throughput; the table has their medians.")
@click.option("--events", default=300_000, show_default=True, help="Inputs of one round; slow subjects get a share of them.")
@click.option("--only", default="", help="Comma-separated: subjects (engine, bare-txn, quix-eo, streams-2, ...), latency, members, ledger.")
@click.option("--quick", is_flag=True, help="One short round without the million members: does it run?")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write all numbers here.")
@click.option("--page", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Where the page goes. By default BENCHMARK.md, after a full run.")
def main(rounds: int, events: int, only: str, quick: bool, json_file: Path | None, page: Path | None) -> None:
    """Measure this engine beside its peers and beside bare loops."""
    console = Console(stderr=True)
    chosen = [name for name in only.split(",") if name]
    unknown = set(chosen) - set(measure.SUBJECTS) - {"latency", "members", "ledger"}
    if unknown:
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: choose from {', '.join(measure.SUBJECTS)}, latency, members, ledger", param_hint="--only")
    if quick:
        rounds, events = 1, 40_000
    results: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": f'make bench ARGS="--rounds {rounds} --events {events}"',
        "machine": _machine(),
    }
    with rig() as place:
        subjects = [name for name in measure.SUBJECTS if not chosen or name in chosen]
        results["throughput"] = _throughput(place, subjects, rounds, events, console)
        if not chosen or "latency" in chosen:
            results["latency"] = {}
            for name, per_second, duration_s in LATENCIES:
                label = f"{name} {per_second:,}/s".replace(",", "")
                with console.status(f"latency: {label}"):
                    found = results["latency"][label] = measure.latency(place, name, per_second, duration_s / (4 if quick else 1))
                console.print(f"latency {label}: {_plain(found)}")
        if not chosen or "members" in chosen:
            results["members"] = {}
            for count in MEMBER_COUNTS[:1] if quick else MEMBER_COUNTS:
                with console.status(f"{count:,} members"):
                    found = results["members"][str(count)] = measure.members(place, count, events, recover=count == MEMBER_COUNTS[-1] or quick)
                console.print(f"{count:,} members: {_plain(found)}")
    if not chosen or "ledger" in chosen:
        with console.status("the ledger's own cost"):
            results["ledger"] = ledger.cost()
        console.print(f"ledger: {_plain(results['ledger'])}")
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=2) + "\n")
    if page is None and not chosen and not quick:
        page = PAGE
    if page is not None:
        page.write_text(report.markdown(results))
        console.print(f"{page} written")
    _print_goals(results, console)


def _throughput(place: Rig, subjects: list[str], rounds: int, events: int, console: Console) -> dict[str, list[dict[str, Any]]]:
    """Round by round through all subjects, so that what disturbs the machine disturbs all of them."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in subjects}
    for number in range(1, rounds + 1):
        for name in subjects:
            with console.status(f"round {number} of {rounds}: {measure.SUBJECTS[name][0]}"):
                one = measure.throughput(place, name, events)
            found[name].append(one)
            console.print(f"round {number}, {measure.SUBJECTS[name][0]}: {_plain(one)}")
    return found


def _plain(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:,.1f}" if isinstance(value, float) else f"{name} {value}" for name, value in found.items())


def _print_goals(results: dict[str, Any], console: Console) -> None:
    table = Table("goal", "bound", "measured", "")
    for goal in report.goals(results):
        table.add_row(goal.name, goal.bound, goal.measured, {None: "", True: "[green]met[/]", False: "[red]not met[/]"}[goal.met])
    console.print(table)


def _machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    packages = ("faust-streaming", "confluent-kafka", "fastavro", "rocksdict")
    return {
        "cores": os.cpu_count(),
        "cpu": models[0] if models else platform.machine(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "versions": {"Kafka": jars.KAFKA_VERSION, **{name: version(name) for name in packages}, "Quix Streams": peers.QUIX.partition("==")[2]},
    }


if __name__ == "__main__":
    main()
