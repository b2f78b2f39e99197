"""`make bench-deliveries`: what the delivery of webhooks can do, each figure from one run on this machine; JSON, and a table for the docs."""

import json
import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from tests.bench import delivery_faults as faults
from tests.bench import delivery_measure as measure
from tests.bench import delivery_report as report
from tests.bench.delivery_rig import DeliveryRig, delivery_rig
from tests.bench.rig import Stalled

RATES = (1000.0, 750.0, 500.0, 350.0, 250.0, 150.0)
CARDINALITIES = (10, 100, 1_000, 5_000)
NAMES = ("throughput", "latency", "isolation", "cardinality", "spread", "breaker", "hot", "pause", "replay", "outage")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", default="", help=f"Comma-separated: {', '.join(NAMES)}.")
@click.option("--events", default=20_000, show_default=True, help="Backlog of a round of throughput, and of each cardinality.")
@click.option("--phase-s", default=60.0, show_default=True, help="Seconds of each phase of latency and isolation; the bar of isolation says 600.")
@click.option("--per-second", type=float, help="Load of isolation and of the hot member, all destinations together. Default: half of what was sustained.")
@click.option("--down-s", default=30.0, show_default=True, help="Seconds that the broker is down; the bar says 300.")
@click.option("--replayed", default=100_000, show_default=True, help="Events of a pause, and in the past that a replay is for; bars: 100,000 and 1,000,000.")
@click.option("--quick", is_flag=True, help="Everything, short: does it run?")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write all numbers here.")
def main(
    only: str, events: int, phase_s: float, per_second: float | None, down_s: float, replayed: int, quick: bool, json_file: Path | None
) -> None:  # fmt: skip
    """Measure deliveries: throughput, latency, isolation, cardinality, retries, breaker, a hot member, a pause, a replay, an outage of the broker."""
    console = Console(stderr=True)
    chosen = [name for name in only.split(",") if name] or list(NAMES)
    if unknown := set(chosen) - set(NAMES):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: choose from {', '.join(NAMES)}", param_hint="--only")
    if quick:
        events, phase_s, down_s, replayed = 4_000, 8.0, 8.0, 4_000
    results: dict[str, Any] = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": _machine(), "phase_s": phase_s}
    with delivery_rig() as rig:
        for name in chosen:
            load = per_second or _half_of_sustained(results)
            for label, one in _rounds(name, rig, events=events, phase_s=phase_s, load=load, down_s=down_s, replayed=replayed, quick=quick):
                with console.status(label):
                    try:
                        found = one()
                    except Stalled as error:
                        found = {"error": str(error)[-1500:]}
                results.setdefault(name, []).extend(found if isinstance(found, list) else [found])
                console.print(f"{label}: {json.dumps(found, default=str)}", soft_wrap=True)
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=2) + "\n")
    _print_bars(results, console)
    print(report.markdown(results))


def _rounds(
    name: str, rig: DeliveryRig, *, events: int, phase_s: float, load: float, down_s: float, replayed: int, quick: bool
) -> list[tuple[str, Callable[[], Any]]]:
    """What is to be measured under this name, in order."""
    match name:
        case "throughput":
            return [
                (f"throughput: {destinations} destinations, {sinks} sinks",
                 lambda d=destinations, s=sinks: measure.throughput(rig, destinations=d, sinks=s, events=events))  # type: ignore[misc]
                for destinations, sinks in ((1, 1), (8, 1), (8, 2))
            ]  # fmt: skip
        case "latency":
            return [("latency", lambda: measure.sustained(rig, RATES, phase_s / 2))]
        case "isolation":
            destinations = 20 if quick else 100
            return [(f"isolation: {load:.0f}/s", lambda: measure.isolation(rig, destinations=destinations, per_second=load, duration_s=phase_s))]
        case "cardinality":
            return [
                (f"cardinality: {count}", lambda count=count: measure.cardinality(rig, destinations=count, events=events))  # type: ignore[misc]
                for count in (CARDINALITIES[:2] if quick else CARDINALITIES)
            ]
        case "spread":
            return [("spread of retries", lambda: faults.spread(rig, events=2_000 if quick else 10_000))]
        case "breaker":
            return [("breaker", lambda: faults.breaker(rig, per_second=min(300.0, load), before_s=5, down_s=8 if quick else 20, after_s=10))]
        case "hot":
            return [("a hot member", lambda: faults.hot_member(rig, per_second=load, duration_s=phase_s / 2, events=1_000 if quick else 10_000))]
        case "pause":
            return [("a pause", lambda: faults.pause(rig, events=replayed))]
        case "replay":
            return [("a replay", lambda: faults.replay(rig, per_second=load, duration_s=phase_s / 2, events=replayed))]
        case _:
            return [("outage of the broker", lambda: faults.outage(rig, per_second=min(200.0, load), before_s=10, down_s=down_s, after_s=20))]


def _half_of_sustained(results: dict[str, Any]) -> float:
    """Half, so that what is measured is what others do to a destination, and not a full machine."""
    rates = [one["per_second"] for one in results.get("latency", []) if "error" not in one]
    return rates[-1] / 2 if rates else 250.0


def _print_bars(results: dict[str, Any], console: Console) -> None:
    table = Table("", "bar", "bound", "measured", "")
    for bar in report.bars(results):
        table.add_row(bar.number, bar.name, bar.bound, bar.measured, "[green]met[/]" if bar.met else "[red]not met[/]")
    console.print(table)


def _machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return {"cores": os.cpu_count(), "cpu": models[0] if models else platform.machine(), "python": platform.python_version()}


if __name__ == "__main__":
    main()
