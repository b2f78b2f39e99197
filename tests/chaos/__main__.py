"""`make chaos`: a storm over the real pipeline, and the count afterwards. Exit code 1 for any difference."""

import json
import random
import sys
from pathlib import Path

import click
from rich.console import Console

from tests.chaos import plan, world
from tests.chaos.plan import Kind
from tests.chaos.run import Request, run
from tests.chaos.screen import Screen, show

EVENTS = 1_000_000
KILLS = 20
EVENTS_PER_BROKER_KILL = 1_000
SEEDS = 10**6


@click.command()
@click.option("--seed", type=int, help="The same seed sends the same events and disturbs in the same order. Default: a random one, printed.")
@click.option("--events", type=click.IntRange(min=1000), help=f"Inputs. Default: {EVENTS:,}, or {EVENTS_PER_BROKER_KILL:,} per broker kill.")
@click.option("--kills", default=KILLS, show_default=True, type=click.IntRange(min=1), help="kill -9 of workers; the other disturbances in proportion.")
@click.option("--workers", default=3, show_default=True, type=click.IntRange(1, 8), help="At most; fewer at times.")
@click.option("--partitions", default=world.PARTITIONS, show_default=True, type=click.IntRange(min=1), help="Of every topic.")
@click.option("--broker-storm", type=click.IntRange(min=1), help="Only kill the broker, this many times, with little traffic in between.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write the report to this file.")
@click.option("--keep", is_flag=True, help="Keep the folder with logs and data also when all is right.")
def main(
    seed: int | None, events: int | None, kills: int, workers: int, partitions: int, broker_storm: int | None, json_file: Path | None, keep: bool
) -> None:
    """A storm over the real pipeline: seeded traffic, seeded disturbances, an independent count of everything at the end."""
    console = Console()
    seed = random.SystemRandom().randrange(SEEDS) if seed is None else seed
    console.print(f"seed {seed}", style="bold")
    kinds = {Kind.BROKER_KILL: broker_storm} if broker_storm else plan.counts(kills)
    inputs = events or (broker_storm * EVENTS_PER_BROKER_KILL if broker_storm else EVENTS)
    screen = Screen(console, partitions)
    with screen.shown():
        request = Request(seed=seed, inputs=inputs, kinds=kinds, workers=workers, partitions=partitions, keep=keep)
        report = run(request, screen.update, screen.verified)
    show(console, report)
    if json_file:
        json_file.write_text(json.dumps(report.to_json(), indent=2, default=str) + "\n")
    if not broker_storm:
        console.print("To hunt faults of a dying broker alone: python -m tests.chaos --broker-storm 100 --workers 2", style="dim", soft_wrap=True)
    sys.exit(0 if report.is_clean else 1)


if __name__ == "__main__":
    main()
