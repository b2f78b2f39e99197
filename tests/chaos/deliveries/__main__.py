"""`make chaos-deliveries`: a storm over deliveries, and the recount afterwards. Exit code 1 for any difference."""

import json
import random
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.chaos.deliveries import plan
from tests.chaos.deliveries.storm import Hit, Report, Request, run

SEEDS = 10**6


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=int, help="The same seed sends the same events, scripts the same answers and disturbs in the same order. Default: a random one.")
@click.option("--events", default=100_000, show_default=True, type=click.IntRange(min=100), help="Each goes to every destination.")
@click.option("--members", default=500, show_default=True, type=click.IntRange(min=50), help="Beside the hot one.")
@click.option("--seconds", default=600.0, show_default=True, help="Length of the storm; the calm after it takes as long as it takes.")
@click.option("--kills", default=60, show_default=True, type=click.IntRange(min=1), help="kill -9 of sinks; the other disturbances in proportion.")
@click.option("--sinks", default=3, show_default=True, type=click.IntRange(1, 8))
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write the report to this file.")
@click.option("--keep", is_flag=True, help="Keep the folder with logs and data also when all is right.")
def main(seed: int | None, events: int, members: int, seconds: float, kills: int, sinks: int, json_file: Path | None, keep: bool) -> None:
    """A storm over deliveries: sinks and the broker die, destinations misbehave by script, and every request is recounted."""
    console = Console()
    seed = random.SystemRandom().randrange(SEEDS) if seed is None else seed
    console.print(f"seed {seed}", style="bold")
    request = Request(seed=seed, events=events, members=members, seconds=seconds, kinds=plan.counts(kills), sinks=sinks, keep=keep)
    report = run(request, lambda hit: console.print(_line(hit), soft_wrap=True))
    _show(console, report)
    if json_file:
        json_file.write_text(json.dumps(report.to_json(), indent=2, default=str) + "\n")
    sys.exit(0 if report.is_clean else 1)


def _line(hit: Hit) -> Text:
    what, lasted_s = hit.disturbance, (hit.ended_ns - hit.began_ns) / 1e9
    whom = what.destination or ("" if what.sink is None else str(what.sink))
    return Text.assemble((f"{what.at_s:7.1f} s ", "dim"), f"{hit.accepted:>9} accepted  {what.kind.value} {whom}", (f"  {lasted_s:.1f} s", "dim"))


def _show(console: Console, report: Report) -> None:
    """The tables at the end."""
    repeated = report.recount.by_cause()
    table = Table("what", "times", "deliveries repeated because of it", "at most", title="Disturbances", title_justify="left")
    for kind, times in sorted(report.by_kind().items()):
        counts = repeated.get(kind.value, [0])
        table.add_row(kind.value, str(times), str(sum(counts)), str(max(counts)))
    console.print(table)
    differences = Table("what", "number", title="Differences", title_justify="left")
    for name, number in report.findings.counts.items():
        differences.add_row(name, Text(str(number), "bold red" if number else "green"))
    if report.findings.counts:
        console.print(differences)
    for sample in report.findings.samples:
        console.print(Text(str(sample)), soft_wrap=True)
    console.print(
        f"{report.recount.accepted} deliveries of {report.request.events} events in {report.storm_s:.0f} s of storm and {report.calm_s:.0f} s after it;"
        f" {report.recount.requests} requests, {report.recount.repeated.total()} repeated, {report.recount.replayed} replayed,"
        f" {report.audited} audit records compared"
    )
    if report.failure:
        console.print(Text(report.failure, "bold red"), soft_wrap=True)
    if report.folder:
        console.print(f"Logs, broker data and the receiver's log: {report.folder}", soft_wrap=True)
    console.print(Text("clean" if report.is_clean else "NOT CLEAN", "bold green" if report.is_clean else "bold red"), f"seed {report.request.seed}")


if __name__ == "__main__":
    main()
