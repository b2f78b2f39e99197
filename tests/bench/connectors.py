"""Writes to each connected system beside a bare loop: the same conversations with the same fake, of the same members, without log, order and records.

`python -m tests.bench.connectors`. For each kind: members who have one event each, then the same members with many events each, of which only the newest
has to get there. The bare loop holds the connector's own conversations over the same client, as many at once, and knows no failure. Broker, fake,
sink and loop share one machine, so a ratio says what the machinery costs there, and nothing of a real system, whose answers take a second.
"""

import asyncio
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from infra.kafka_server import KafkaServer
from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import LoyaltyEvent
from schemas.registry import LocalRegistry
from sinks.connectors.members import Entry, state_of
from sinks.connectors.process import Run
from sinks.delivery.records import Outgoing
from streams import kafka, topics
from streams.connectors.contract import MemberState, Outcome, Target
from streams.connectors.exchange import Exchange, connect
from streams.connectors.registry import CONNECTORS
from streams.settings import Settings
from tests.bench.rig import Others
from tests.connectors.conformance.outbound import KINDS, Owners, System, adapters
from tests.sinks.connectors.support import Desk
from tests.sinks.examples import event

PARTITIONS = 8
TOPICS = (topics.EVENTS, topics.CONNECTOR_PROGRESS, topics.DELIVERY_AUDIT, topics.DELIVERY_ATTEMPTS, topics.DEAD_LETTERS)
CODEC = Codec(LocalRegistry())
MANY = 20
"""Events of a member in the second measurement."""
DONE_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    kind: str
    members: int
    events_each: int
    members_per_s: float
    bare_members_per_s: float
    calls: int
    """Of the sink; those of the bare loop are in bare_calls."""
    bare_calls: int

    @property
    def ratio(self) -> float:
        return self.members_per_s / self.bare_members_per_s


def fill(settings: Settings, events: Sequence[LoyaltyEvent]) -> None:
    producer, topic = kafka.producer(settings), topics.EVENTS.name(settings.topic_prefix)
    for one in events:
        producer.produce(topic, CODEC.encode(one), member_key(one.program_id, one.member_id))
        producer.poll(0)
    assert producer.flush(120) == 0


async def bare(system: System, target: Target, states: Sequence[MemberState]) -> float:
    """Seconds of the same conversations in a plain loop."""
    connector, transport = CONNECTORS[target.kind], connect()
    write = connector.write
    assert write is not None
    exchange, at_once = Exchange(connector, target.options, transport), asyncio.Semaphore(int(target.options["concurrency_max"]))

    async def hold(batch: Sequence[MemberState]) -> None:
        async with at_once:
            conversation = write.begin(target, batch, 0)
            request = next(conversation)
            try:
                while True:
                    request = conversation.send(await exchange.ask(request))
            except StopIteration as end:
                assert {one.outcome for one in end.value} == {Outcome.DONE}, end.value

    began_s = time.perf_counter()
    await asyncio.gather(*(hold(states[start : start + write.states_max]) for start in range(0, len(states), write.states_max)))
    seconds = time.perf_counter() - began_s
    await transport.close()
    return seconds


async def sink(settings: Settings, system: System, target: Target, last: int) -> float:
    """Seconds from the first write to the last end of all members, by one process of the sink."""
    transport, accounts = connect(), Owners(system)
    run = Run(settings, CODEC, target, CONNECTORS[target.kind], transport, Desk(), accounts)  # type: ignore[arg-type]
    calls = sum(system.fake.requests.values())
    run.start()
    began_s = 0.0
    async with asyncio.timeout(DONE_S):
        while True:
            await asyncio.sleep(0.005)
            if not began_s and sum(system.fake.requests.values()) > calls:
                began_s = time.perf_counter()
            position = sum(one.position for one in run.partitions.values())
            if len(run.partitions) == PARTITIONS and position >= last and not any(one.hand for one in run.partitions.values()):
                break
    seconds = time.perf_counter() - began_s
    await run.stop()
    await transport.close()
    return seconds


async def measure(kind: str, kafka_server: KafkaServer, members: int, events_each: int) -> Result:
    system = System(adapters()[kind])
    await system.start()
    settings = Settings(
        kafka_bootstrap_servers=kafka_server.bootstrap_servers, kafka_partitions=PARTITIONS, kafka_replication_factor=1,
        topic_prefix=f"bench-{kind}-{events_each}-{time.time_ns()}",
    )  # fmt: skip
    await asyncio.to_thread(kafka.ensure_topics, settings, TOPICS)
    program_id, target = system.adapter.program_id, system.target()
    target = replace(target, options={**target.options, "timeout_s": 60.0})
    names = [f"E-{number}" for number in range(members)]
    for name in names:
        await system.add(name)
    # In rounds, so that a member's events are not side by side.
    events = [event(sequence, name, program_id) for sequence in range(1, events_each + 1) for name in names]
    await asyncio.to_thread(fill, settings, events)
    owners = Owners(system)
    states = []
    for one in events[-members:]:
        account = await owners.from_owner(program_id, one.member_id)
        assert account is not None
        entry = Entry(member=one.member_id, newest=Outgoing(offset=0, key=b"", record=one, timestamp_ms=0))
        states.append(replace(state_of(entry), external_ids=account.external_ids, attributes=account.attributes))
    before = sum(system.fake.requests.values())
    bare_s = await bare(system, target, states)
    bare_calls = sum(system.fake.requests.values()) - before
    sink_s = await sink(settings, system, target, len(events))
    calls = sum(system.fake.requests.values()) - before - bare_calls
    await system.fake.stop()
    return Result(
        kind=kind, members=members, events_each=events_each, members_per_s=members / sink_s, bare_members_per_s=members / bare_s, calls=calls,
        bare_calls=bare_calls,
    )  # fmt: skip


@click.command(help=__doc__)
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="One kind; may be repeated.  [default: all]")
@click.option("--members", default=2_000, show_default=True, type=click.IntRange(10), help="Members that are written to each system.")
@click.option("--quick", is_flag=True, help="200 members.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Keep the figures in this file, too.")
def main(kinds: Sequence[str], members: int, quick: bool, json_file: Path | None) -> None:
    members = 200 if quick else members
    results: list[Result] = []
    others = Others()
    with tempfile.TemporaryDirectory(prefix="loyalty-bench-", ignore_cleanup_errors=True) as folder:
        server = KafkaServer(Path(folder))
        server.start()
        try:
            for kind in kinds or KINDS:
                for events_each in (1, MANY):
                    results.append(asyncio.run(measure(kind, server, members, events_each)))
        finally:
            server.stop()
    table = Table("system", "events each", "members/s", "bare loop", "of it", "calls", "bare", box=None)
    for one in results:
        rates = f"{one.members_per_s:,.0f}", f"{one.bare_members_per_s:,.0f}", f"{one.ratio:.0%}"
        table.add_row(one.kind, str(one.events_each), *rates, str(one.calls), str(one.bare_calls))
    Console().print(table)
    memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    Console().print(f"{members:,} members each; peak of this process, fakes included: {memory_mib:.0f} MiB; others kept {others.cores()} cores busy.")
    if json_file is not None:
        rows: list[dict[str, Any]] = [{name: getattr(one, name) for name in one.__slots__} | {"ratio": one.ratio} for one in results]
        json_file.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
