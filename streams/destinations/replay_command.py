"""The commands of `loyalty destinations` about what is sent again: replays and how far they are, members that wait and what to do with them."""

import json
import time
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from streams.api import Api, Fields
from streams.command_line import TimeText, clean, print_table
from streams.destinations.printing import JSON, READ, WRITE, asks, failures_told, path, print_missing, time_of

LIMIT = 50
FOLLOW_S = 0.5
MAXIMUM = click.option("--limit", type=click.IntRange(1, 1_000_000), default=LIMIT, show_default=True, help="Rows at most.")


@click.command()
@click.argument("name")
@click.option("--since", type=TimeText(), required=True, help="Appended to the log at this time or later: 2026-11-25 or 2026-11-25T12:00:00Z.")
@click.option("--until", type=TimeText(), help="And before this time.  [default: now]")
@click.option("--which", type=click.Choice(["all", "missing", "failed"]), default="all", show_default=True,
              help="All; those without a delivery on record; those that were given up or passed over.")  # fmt: skip
@click.option("--event", "events", multiple=True, help="Only this kind; may be repeated.")
@click.option("--program", "-p", "programs", multiple=True, help="Only this programme; may be repeated.")
@click.option("--member", "-m", "members", multiple=True, metavar="PROGRAM/NUMBER", help="Only this member; may be repeated.")
@click.option("--event-id", "event_ids", multiple=True, help="Only this event; may be repeated.")
@click.option("--rate", "rate_max_per_s", type=click.FloatRange(min=0.001), help="Most attempts a second.  [default: 100]")
@click.option("--dry-run", is_flag=True, help="Count, and send nothing.")
@click.option("--follow", is_flag=True, help="Wait until it is done, and show how far it is.")
@JSON
@asks(WRITE)
def replay(name: str, follow: bool, as_json: bool, ingress: str | None, token: str | None, **given: Any) -> None:
    """Send events to NAME again: those of a range of times, chosen by all that is given."""
    body = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items() if value not in (None, ())}
    body |= {"which": given["which"].upper(), "events": [event.upper() for event in given["events"]]}
    with failures_told():
        api = Api(ingress, token)
        job = api.ask("POST", path(name, "replays"), body=body)
        if follow:
            job = _follow(api, name, job["job_id"])
    if as_json:
        click.echo(json.dumps(job, ensure_ascii=False))
    elif follow:
        click.echo(f"Replay {job['job_id']} is {job['progress']['status']}: {_counts(job['progress']['counts'])}.")
    else:
        click.echo(f"Replay {job['job_id']} is made. `loyalty destinations replays {name} {job['job_id']}` shows how far it is.")


@click.command()
@click.argument("name")
@click.argument("job_id", required=False)
@MAXIMUM
@JSON
@asks(READ)
def replays(name: str, job_id: str | None, limit: int, as_json: bool, ingress: str | None, token: str | None) -> None:
    """List the replays of NAME, the newest first; of one, JOB_ID, show how far it is."""
    with failures_told():
        api = Api(ingress, token)
        if job_id is None:
            rows = list(api.pages(path(name, "replays"), "replays", {}, limit))
        else:
            rows = [api.ask("GET", path(name, "replays", job_id))]
    columns = ("replay", "made", "by", "from", "to", "which", "state", "so far")
    print_table(rows, as_json, columns, _of_replay, "There are no replays.")
    if job_id is not None and not as_json:
        print_missing(rows[0]["progress"])


@click.command()
@click.argument("name")
@click.argument("job_id")
@JSON
@asks(WRITE)
def cancel(name: str, job_id: str, as_json: bool, ingress: str | None, token: str | None) -> None:
    """End the replay JOB_ID of NAME: what is under way ends, and nothing else is sent."""
    with failures_told():
        job = Api(ingress, token).ask("POST", path(name, "replays", job_id, "cancel"))
    click.echo(json.dumps(job, ensure_ascii=False) if as_json else f"Replay {job_id} ends.")


@click.command()
@click.argument("name")
@MAXIMUM
@JSON
@asks(READ)
def lanes(name: str, limit: int, as_json: bool, ingress: str | None, token: str | None) -> None:
    """List the members whose deliveries to NAME wait behind one that failed."""
    with failures_told():
        rows = list(Api(ingress, token).pages(path(name, "lanes"), "lanes", {}, limit))
    print_table(rows, as_json, ("member", "channel", "wait>", "attempts>", "since", "next", "event", "why"), _of_lane, "No member waits.")


def _lanes_command(verb: str, told: str, question: str, doc: str) -> click.Command:
    @click.command(verb, help=doc)
    @click.argument("name")
    @click.argument("members", nargs=-1, metavar="[PROGRAM/NUMBER]...")
    @click.option("--all", "is_all", is_flag=True, help="All that wait, instead of some.")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @JSON
    @asks(WRITE)
    def act(name: str, members: Sequence[str], is_all: bool, yes: bool, as_json: bool, ingress: str | None, token: str | None) -> None:
        if is_all == bool(members):
            raise click.UsageError("either members, or --all")
        if question and is_all and not yes:
            click.confirm(question.format(name=name), abort=True, err=True)
        with failures_told():
            job = Api(ingress, token).ask("POST", path(name, "lanes", verb), body={"all": True} if is_all else {"members": list(members)})
        click.echo(json.dumps(job) if as_json else f"{'All members that wait' if is_all else ', '.join(map(clean, members))}: {told}.")

    return act


COMMANDS: tuple[click.Command, ...] = (
    replay, replays, cancel, lanes,
    _lanes_command("retry", "tried again now", "", "Try members that wait for NAME again now."),
    _lanes_command(
        "skip", "the event that was given up is passed over", "Pass over what was given up, for all members of {name} that are blocked?",
        "Pass over the event that blocks members of NAME, and go on behind it. The audit says so.",
    ),
)  # fmt: skip


def _follow(api: Api, name: str, job_id: str) -> Fields:
    """The replay once it has ended. The bar counts partitions: how many events there are is known at the end."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[counts]}"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("partitions", total=None, counts="")
        while True:
            job = api.ask("GET", path(name, "replays", job_id))
            how_far = job["progress"]
            progress.update(task, total=how_far["partitions"], completed=len(how_far["partitions_done"]), counts=_counts(how_far["counts"]))
            if how_far["status"] in ("done", "cancelled"):
                return job
            time.sleep(FOLLOW_S)


def _of_replay(row: Fields) -> Sequence[str]:
    how_far = row.get("progress", {"status": "cancelled" if row["is_cancelled"] else "", "counts": {}})
    which = row["which"].lower() + (", counted only" if row["dry_run"] else "")
    return (
        row["job_id"], time_of(row["created_at"]), row["created_by"], time_of(row["since"]), time_of(row["until"]), which, how_far["status"],
        _counts(how_far["counts"]),
    )  # fmt: skip


def _of_lane(row: Fields) -> Sequence[str]:
    following = "waits for an operator" if row["is_blocked"] else time_of(row["due_at"])
    return (
        row["member"], row["channel"], f"{row['waiting']:,}", str(row["attempts"]), time_of(row["failing_since"]), following, row["event_id"] or "",
        row["detail"],
    )  # fmt: skip


def _counts(counts: Fields) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
