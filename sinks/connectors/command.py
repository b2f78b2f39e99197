"""`loyalty connectors parked, redrive, pause, resume`: members that wait for a person, and targets that are held. Asked of Kafka alone."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from streams.command_line import failures_told, print_table, user

if TYPE_CHECKING:
    from schemas.codec import Codec
    from streams.configuration import Configuration
    from streams.destinations.control import ControlLog
    from streams.settings import Settings

JSON = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
COLUMNS = ("member", "sequence>", "state", "since", "attempts>", "reason", "detail")

READY_S = 30.0  # Until the control topic has been read.

Row = dict[str, Any]


@click.command()
@click.argument("name")
@click.option("--failing", is_flag=True, help="Also those that fail on their own and are tried again by themselves.")
@JSON
def parked(name: str, failing: bool, as_json: bool) -> None:
    """List the members whose state the system NAME did not take, and why. A newer state of theirs is tried by itself."""
    with failures_told("connectors parked"):
        loaded, configured, codec = _loaded()
        _check(name, configured)
        rows = rows_of(name, loaded, codec, failing=failing)
    print_table(rows, as_json, COLUMNS, _cells, "No member waits for a person.")


@click.command()
@click.argument("name")
@click.argument("members", nargs=-1, metavar="[PROGRAM/NUMBER]...")
@click.option("--all", "is_all", is_flag=True, help="All that are parked, instead of some.")
@JSON
def redrive(name: str, members: Sequence[str], is_all: bool, as_json: bool) -> None:
    """Try parked members of the system NAME again, with their newest states."""
    if is_all == bool(members):
        raise click.UsageError("either members, or --all")
    from streams.destinations.model import Action, Job

    now_ms = time.time_ns() // 1_000_000
    job = Job(
        job_id=f"redrive-{secrets.token_hex(6)}", destination=name, action=Action.RETRY, members=frozenset(members), created_by=user(),
        created_at_ms=now_ms, since_ms=0, until_ms=now_ms,
    )  # fmt: skip

    async def put(control: "ControlLog") -> None:
        await control.put_job(job, changed_by=user())

    _change(name, "connectors redrive", put)
    told = "All that are parked are" if is_all else f"{', '.join(members)}:"
    click.echo(json.dumps({"job_id": job.job_id, "name": name, "members": sorted(members)}) if as_json else f"{told} tried again.")


def _state_command(verb: str, state: str, told: str, doc: str) -> click.Command:
    @click.command(verb, help=doc)
    @click.argument("name")
    @JSON
    def change(name: str, as_json: bool) -> None:
        from streams.destinations.model import DestinationState, State

        async def put(control: "ControlLog") -> None:
            known = control.states.get(name)
            version = 0 if known is None else known.version
            await control.put_state(DestinationState(name=name, state=State(state), reason="OPERATOR", version=version), changed_by=user())

        _change(name, f"connectors {verb}", put)
        click.echo(json.dumps({"name": name, "state": state}) if as_json else f"{name} {told}.")

    return change


COMMANDS: tuple[click.Command, ...] = (
    parked, redrive,
    _state_command("pause", "PAUSED", "is paused: of each member the newest state is kept", "Write nothing to the system NAME for now."),
    _state_command("resume", "ACTIVE", "is written to again", "Write to the system NAME again: the newest state of each member that has changed."),
)  # fmt: skip


def rows_of(name: str, settings: "Settings", codec: "Codec", *, failing: bool) -> list[Row]:
    """Members of a target that wait for a person, or fail on their own, by their names. Blocks. Raises UnavailableError, ContractError."""
    from schemas.records import ConnectorProgress, ConnectorProgressKind, LoyaltyEvent
    from streams import topics
    from streams.compacted import read_newest
    from streams.ingress.commands import format_time

    prefix = f"{name}|{ConnectorProgressKind.MEMBER.value}|".encode()
    found = []
    for value in read_newest(settings, topics.CONNECTOR_PROGRESS, range(settings.kafka_partitions), prefix=prefix).values():
        row = codec.decode(value, ConnectorProgress)
        if row.is_parked or (failing and row.attempts):
            event = codec.decode(row.event or b"", LoyaltyEvent)
            found.append({
                "member": row.member, "sequence": event.sequence, "event_id": event.event_id, "state": "PARKED" if row.is_parked else "FAILING",
                "since": None if row.failing_since_ms is None else format_time(row.failing_since_ms), "attempts": row.attempts, "reason": row.reason,
                "detail": row.detail,
            })  # fmt: skip
    return sorted(found, key=lambda row: str(row["member"]))


def _cells(row: Row) -> Sequence[str]:
    return (row["member"], str(row["sequence"]), row["state"], row["since"] or "", str(row["attempts"]), row["reason"], row["detail"])


def _loaded() -> "tuple[Settings, Configuration, Codec]":
    from streams import configuration, settings
    from streams.codec import open_codec

    loaded = settings.load()
    return loaded, configuration.load(loaded), open_codec(loaded)


def _check(name: str, configured: "Configuration") -> None:
    from streams.errors import LoyaltyError

    targets: Mapping[str, Any] = configured.targets
    if name not in targets:
        raise LoyaltyError(f"LOYALTY_CONFIG_FILE has no [destinations.{name}] with a kind; it has {', '.join(sorted(targets)) or 'none'}")


def _change(name: str, command: str, put: "Callable[[ControlLog], Awaitable[None]]") -> None:
    """Write what an operator wants to the control topic, when it is known what is in force there."""
    from streams.destinations.control import ControlLog
    from streams.errors import UnavailableError

    async def change(settings: "Settings", configured: "Configuration", codec: "Codec") -> None:
        control = ControlLog(settings, codec, configured.destinations)
        control.start()
        try:
            try:
                await asyncio.wait_for(control.ready(), READY_S)
            except TimeoutError:
                raise UnavailableError(f"Kafka at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={settings.kafka_bootstrap_servers} does not answer") from None
            await put(control)
        finally:
            await control.close()

    with failures_told(command):
        loaded, configured, codec = _loaded()
        _check(name, configured)
        asyncio.run(change(loaded, configured, codec))
