"""`make simulate`: seeds, one after the other, until a number of them or a time is over. Exit code 1 for the first that finds something."""

import json
import logging
import random
import sys
import time
from collections import Counter
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tests.simulation.simulator import Failure, Result, run

STEPS = 3_000
SEEDS = 20
SEEDS_MAX = 10**6


@click.command()
@click.option("--seed", type=int, help="The first seed. The same seed and steps give the same run. Default: a random one, printed.")
@click.option("--steps", default=STEPS, show_default=True, type=click.IntRange(min=1), help="Commands of each run, about; the rest follows from them.")
@click.option("--seeds", type=click.IntRange(min=1), help=f"How many, one after the other. Default: 1 with --seed, {SEEDS} without.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Go on for so long, instead of --seeds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object as the only output, for programs.")
def main(seed: int | None, steps: int, seeds: int | None, minutes: float | None, as_json: bool) -> None:
    """The whole pipeline in one process: seeded clients, seeded faults, months in seconds, and every invariant checked."""
    logging.disable(logging.CRITICAL)  # Dead letters are meant.
    count = seeds or (1 if seed is not None else SEEDS)
    first = random.SystemRandom().randrange(SEEDS_MAX) if seed is None else seed
    console = Console(quiet=as_json)
    results: list[Result] = []
    failure: Failure | None = None
    started_s = time.monotonic()
    ends_s = started_s + minutes * 60 if minutes else None
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None if ends_s else count * steps)
        number = first
        while failure is None and (time.monotonic() < ends_s if ends_s else number < first + count):
            done = (number - first) * steps
            progress.update(task, description=f"seed {number}", completed=done)
            try:
                results.append(run(number, steps, lambda step, done=done: progress.update(task, completed=done + step)))  # type: ignore[misc]
            except Failure as found:
                failure = found
            number += 1
    summary = _summary(first, steps, results, failure, time.monotonic() - started_s)
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        _show(console, summary, failure)
    sys.exit(1 if failure else 0)


def _summary(first: int, steps: int, results: list[Result], failure: Failure | None, elapsed_s: float) -> dict[str, Any]:
    counts: Counter[str] = sum((result.counts for result in results), Counter())
    busy_s = sum(result.elapsed_s for result in results)
    return {
        "first_seed": first,
        "steps": steps,
        "seeds_clean": len(results),
        "elapsed_s": round(elapsed_s, 2),
        "steps_per_s": round(len(results) * steps / busy_s) if busy_s else None,
        "records_per_s": round(counts["records"] / busy_s) if busy_s else None,
        "simulated_days": sum(result.simulated_days for result in results),
        "counts": dict(sorted(counts.items())),
        "digests": {result.seed: result.digest for result in results},
        "failure": None if failure is None else {
            "seed": failure.seed, "step": failure.step, "rule": failure.rule, "text": failure.text, "story": failure.story, "replay": failure.replay,
        },
    }  # fmt: skip


def _show(console: Console, summary: dict[str, Any], failure: Failure | None) -> None:
    if summary["seeds_clean"]:
        faults = sum(number for name, number in summary["counts"].items() if name.startswith("fault "))
        console.print(
            f"{summary['seeds_clean']} seeds from {summary['first_seed']}, {summary['steps']:,} steps each: nothing found in {summary['elapsed_s']:.0f} s; "
            f"{summary['steps_per_s']:,} steps/s, {summary['records_per_s']:,} records/s, {faults:,} faults, {summary['simulated_days']:,} simulated days.",
            soft_wrap=True,
        )
    if failure is not None:
        console.print(str(failure), style="red", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
