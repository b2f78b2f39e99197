"""What every connector that something comes in by must keep: against its own fake over real HTTP, with a real broker, while much goes wrong.

A connector joins by `INBOUND` in tests/connectors/<kind>/conformance.py. Its settings are those of infra/connectors.example.toml.
"""

import asyncio
import importlib
import importlib.util
import logging
import random
import time
import tomllib
from base64 import b64encode
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

import aiohttp

from infra.fakes.registry import EXAMPLE_FILE, Fakes
from infra.fakes.server import Misbehaviour
from schemas.contract import Command, command_id
from schemas.records import DeadLetter, Enrolment, MemberStatus, ProfileChange, Transaction
from streams import configuration, topics
from streams.connectors import ways
from streams.connectors.contract import Source
from streams.connectors.registry import CONNECTORS
from streams.connectors.running import progress
from streams.connectors.running.process import Process
from streams.ingress import rereader
from streams.observability import JsonFormatter
from streams.settings import Settings
from tests.ingress.support import CODEC, Looped, Service, make_configuration, read_all

SEED = 9
STEPS = 8
POLL_EVERY_S = 0.3
CONVERGES_WITHIN_S = 90
FUZZED = 60
MISBEHAVIOURS = (
    Misbehaviour(status=503), Misbehaviour(status=500, body=b"<html>gateway</html>"), Misbehaviour(drops=True), Misbehaviour(refuses_token=True),
    Misbehaviour(status=429, headers={"Retry-After": "1"}), Misbehaviour(status=200, body=b"<html>back soon</html>"), Misbehaviour(delay_s=0.2),
)  # fmt: skip
SHARE = 0.3

Understood = Mapping[str, Any]
Proof = Callable[[Source, bytes], tuple[str, Mapping[str, str]]]


def by_password(source: Source, body: bytes) -> tuple[str, Mapping[str, str]]:
    """Query and headers of a genuine webhook."""
    return "", {"Authorization": "Basic " + b64encode(f"x:{source.options['secret']}".encode()).decode()}


def by_url_token(source: Source, body: bytes) -> tuple[str, Mapping[str, str]]:
    return "?token=" + quote(source.options["secret"]), {}


@dataclass(kw_only=True)
class System:
    """One system that is running, and its source here."""

    fake: Any
    source: Source
    webhook_url: str
    """Without a proof."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """How the suite sees one system. The functions run in the fakes' loop."""

    kind: str
    happen: Callable[[System, int, random.Random], Awaitable[None]]
    """One change in the system, the step-th; those who subscribed hear of it."""
    expected: Callable[[System], Understood]
    """What must be understood in the end of all that has happened."""
    understood: Callable[[Sequence[Command]], Understood]
    """What the commands say, those of the log in its order; `people` and `stays` below."""
    prepare: Callable[[System], Awaitable[None]] | None = None
    """Before anything happens."""
    garble: Callable[[System], Awaitable[None]] | None = None
    """Something comes in that cannot be understood, and must be found among the dead letters."""
    make: Callable[[Source, str], Any] | None = None
    """Of a system without a server: what stands for the fake."""
    crosses: bool = False
    """One member's changes come by several ways, which do not wait for each other: versions alone say what is newer."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Other than the example's."""
    samples: Sequence[bytes] = ()
    """Webhooks as they are recorded, for fuzzing."""
    proof: Proof | None = None
    media_type: str = "application/json"


def adapters() -> dict[str, Inbound]:
    """By kind."""
    names = {kind: f"tests.connectors.{kind}.conformance" for kind in CONNECTORS if CONNECTORS[kind].is_source}
    modules = {kind: importlib.import_module(name) for kind, name in names.items() if importlib.util.find_spec(name) is not None}
    return {kind: module.INBOUND for kind, module in modules.items() if hasattr(module, "INBOUND")}


# What commands say.


def unique(commands: Sequence[Command]) -> list[Command]:
    """As the ledger takes them: a repetition of an id does nothing."""
    return list({(command.program_id, command.member_id, command_id(command)): command for command in reversed(commands)}.values())[::-1]


def people(commands: Sequence[Command]) -> Understood:
    """Member -> enrolled, status and attributes: what is older than what is known does nothing, part by part."""
    said: dict[str, dict[str, tuple[int, Any]]] = {}
    for command in unique(commands):
        parts: dict[str, Any] = {}
        if isinstance(command, Enrolment):
            parts["enrolled"] = True
        elif isinstance(command, ProfileChange):
            parts |= command.attributes
            if command.status is not None:
                ahead = command.status_from_ms is not None or command.status_from_date is not None
                parts["status"] = f"{command.status.value}{' from then on' if ahead else ''}"
        version = getattr(command, "source_version", None) or command.occurred_at_ms
        for name, value in parts.items():
            known = said.setdefault(command.member_id, {}).get(name)
            if known is None or version >= known[0]:
                said[command.member_id][name] = (version, value)
    return {member: {name: value for name, (_, value) in parts.items()} for member, parts in said.items()}


def stays(commands: Sequence[Command]) -> Understood:
    """Transaction -> what it does."""
    return {
        one.transaction_id: (one.kind.value, one.member_id, one.amount_minor) for one in unique(commands) if isinstance(one, Transaction)
    }  # fmt: skip


ACTIVE, SUSPENDED = MemberStatus.ACTIVE.value, MemberStatus.SUSPENDED.value


def out_of_order(commands: Sequence[Command]) -> list[str]:
    """What a member's commands, each where it was first, have in another order than that of their versions; a reversal before what it reverses."""
    found, newest, seen = [], dict[str, int](), set[str]()
    first = {(command.member_id, command_id(command)): command for command in reversed(commands)}
    for command in reversed(first.values()):
        if isinstance(command, ProfileChange) and command.source_version is not None:
            if command.source_version < newest.get(command.member_id, 0):
                found.append(command.event_id)
            newest[command.member_id] = max(newest.get(command.member_id, 0), command.source_version)
        elif isinstance(command, Transaction):
            seen.add(command.transaction_id)
            if command.reverses_transaction_id in {one.transaction_id for one in first.values() if isinstance(one, Transaction)} - seen:
                found.append(command.transaction_id)
    return found


# The run: all systems at once.


class LogLines(logging.Handler):
    """Every line that the processes would write, with all its fields."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.raised: list[str] = []
        """Of our own code."""
        self.setFormatter(JsonFormatter("conformance"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))
        if record.exc_info and record.name.partition(".")[0] in ("streams", "sinks", "schemas"):
            self.raised.append(self.lines[-1])


@dataclass(kw_only=True)
class Report:
    """What came of one system's run."""

    system: System
    commands: Sequence[Command]
    expected: Understood
    new_ids: frozenset[str]
    """Said when everything had been said already."""
    garbled: bool
    """Whether what could not be understood is among the dead letters."""
    fuzz_statuses: Sequence[int]
    lines: Sequence[str]
    """All that was logged, of all systems."""
    raised: Sequence[str]
    """Errors of our own that were logged, likewise."""
    secrets: frozenset[str]


class Run:
    """All systems that have joined, one ingress, and one process of polls and streams that is stopped and started amid it."""

    def __init__(self, settings: Settings, joined: Mapping[str, Inbound]) -> None:
        self._settings = settings
        self._joined = joined
        self._fakes = Fakes(free_ports=True)
        self._looped = Looped()
        self._logged = LogLines()
        self._chance = random.Random(SEED)

    def reports(self) -> dict[str, Report]:
        """By kind."""
        root = logging.getLogger()
        root.addHandler(self._logged)
        self._fakes.start()
        try:
            return self._run()
        finally:
            root.removeHandler(self._logged)
            self._fakes.stop()
            self._looped.close()

    def _run(self) -> dict[str, Report]:
        sources = self._sources()
        configured = replace(make_configuration(), sources=sources)
        service = Service(self._settings, configured)
        service.wait_ready()
        systems = {}
        for kind, one in self._joined.items():
            source = next(source for source in sources.values() if source.kind == kind)
            url = f"{service.url}/v1/webhooks/{source.name}"
            systems[kind] = System(fake=one.make(source, url) if one.make else self._fakes.running[kind], source=source, webhook_url=url)
        stop_rereading = service.run(self._follow_hints(service, sources))
        try:
            return self._lead(service, configured, systems)
        finally:
            service.run(stop_rereading())
            service.stop()

    def _sources(self) -> dict[str, Source]:
        document = tomllib.loads(self._fakes.render(configuration.render_example(EXAMPLE_FILE.read_text())))
        wanted = {name: table for name, table in document["sources"].items() if table["kind"] in self._joined}
        secret = "whsec_" + b64encode(b"0123456789abcdef0123456789abcdef").decode()
        signed = {kind: {"kind": kind, "program": "staff", "secret": secret} for kind in ("hr", "cloudevents") if kind in self._joined}
        found = configuration.parse({"programs": document["programs"], "sources": wanted | signed}).sources
        return {
            name: replace(source, options={**source.options, "poll_every_s": POLL_EVERY_S, **self._joined[source.kind].options})
            for name, source in found.items()
        }  # fmt: skip

    async def _follow_hints(self, service: Service, sources: Mapping[str, Source]) -> Callable[[], Awaitable[None]]:
        stop = asyncio.Event()
        reads = [(source, read) for source in sources.values() if (read := CONNECTORS[source.kind].read) is not None]
        tasks = [asyncio.create_task(rereader.run(service.parts, source, read, stop)) for source, read in reads]

        async def end() -> None:
            stop.set()
            await asyncio.gather(*tasks)

        return end

    def _lead(self, service: Service, configured: configuration.Configuration, systems: Mapping[str, System]) -> dict[str, Report]:
        for kind, system in systems.items():
            if (prepare := self._joined[kind].prepare) is not None:
                self._fakes.run(_awaited(prepare(system)))
        stop = self._start(configured)
        for kind, system in systems.items():
            if hasattr(system.fake, "fail_at_random"):
                system.fake.fail_at_random(f"{SEED} {kind}", SHARE, *MISBEHAVIOURS)
        for step in range(STEPS):
            for kind, system in systems.items():
                self._fakes.run(_awaited(self._joined[kind].happen(system, step, self._chance)))
            if step == STEPS // 2:
                stop()
                stop = self._start(configured)
        for system in systems.values():
            if hasattr(system.fake, "behave"):
                system.fake.behave()
        self._until(lambda: self._missing(systems))
        for kind, system in systems.items():
            if (garble := self._joined[kind].garble) is not None:
                self._fakes.run(_awaited(garble(system)))
        wanted = {system.source.name for kind, system in systems.items() if self._joined[kind].garble is not None}
        self._until(lambda: wanted - self._letters().keys())
        before = defaultdict(frozenset, {name: ids_of(commands) for name, commands in self._commands().items()})
        since_ms = progress.now_ms()
        self._until(lambda: self._not_read_again(systems, since_ms))
        after, letters = self._commands(), self._letters()
        statuses = {kind: service.run(self._fuzz(system, self._joined[kind])) for kind, system in systems.items()}
        stop()
        return {
            kind: Report(
                system=system, commands=after[system.source.name], expected=self._joined[kind].expected(system),
                new_ids=ids_of(after[system.source.name]) - before[system.source.name], garbled=system.source.name in letters,
                fuzz_statuses=statuses[kind], lines=self._logged.lines, raised=self._logged.raised, secrets=self._secrets(system),
            )
            for kind, system in systems.items()
        }  # fmt: skip

    def _start(self, configured: configuration.Configuration) -> Callable[[], None]:
        """The process of polls and streams; what stops it."""
        stop = asyncio.Event()

        async def start() -> "asyncio.Task[None]":
            return asyncio.create_task(Process(self._settings, configured).run(stop))

        async def end() -> None:
            stop.set()
            await running

        running = self._looped.run(start())
        return lambda: self._looped.run(end())

    def _until(self, missing: Callable[[], Any]) -> None:
        """Wait while something is missing. If it still is after a while, the reports say so."""
        deadline_s = time.monotonic() + CONVERGES_WITHIN_S
        while missing() and time.monotonic() < deadline_s:
            time.sleep(0.5)

    def _missing(self, systems: Mapping[str, System]) -> dict[str, Any]:
        commands = self._commands()
        return {kind: lacks for kind, one in systems.items() if (lacks := difference(self._joined[kind], one, commands[one.source.name]))}

    def _not_read_again(self, systems: Mapping[str, System], since_ms: int) -> list[progress.Name]:
        known = progress.read(self._settings, CODEC, range(self._settings.kafka_partitions))
        names = [(system.source.name, feed) for system in systems.values() for feed, _ in ways.wanted(system.source)]
        polled = {system.source.name: CONNECTORS[system.source.kind].polls for system in systems.values()}
        return [name for name in names if name[1] in polled[name[0]] and (name not in known or known[name].begun_at_ms <= since_ms)]

    def _commands(self) -> dict[str, list[Command]]:
        """All that are in the log, by source."""
        found: dict[str, list[Command]] = defaultdict(list)
        for topic in topics.INBOUND:
            for message in read_all(self._settings, topic):
                command: Any = CODEC.decode(message.value(), topic.record)
                found[command.source_system].append(command)
        return found

    def _letters(self) -> dict[str, list[DeadLetter]]:
        """By source."""
        found: dict[str, list[DeadLetter]] = defaultdict(list)
        for message in read_all(self._settings, topics.DEAD_LETTERS):
            letter = CODEC.decode(message.value(), DeadLetter)
            found[letter.processor.partition("-")[2]].append(letter)
        return found

    def _secrets(self, system: System) -> frozenset[str]:
        options = CONNECTORS[system.source.kind].source_options
        given = [str(system.source.options[option.name]) for option in options if option.is_secret]
        lines = {line for secret in given for line in secret.splitlines() if len(line) > 6 and "-----" not in line}
        return frozenset(lines | set(getattr(system.fake, "tokens", ())))

    async def _fuzz(self, system: System, one: Inbound) -> list[int]:
        """Statuses of the answers to webhooks that are proved and broken."""
        statuses: list[int] = []
        if one.proof is None:
            return statuses
        async with aiohttp.ClientSession() as session:
            for body in broken(one.samples, random.Random(f"{SEED} {one.kind}")):
                query, headers = one.proof(system.source, body)
                async with session.post(system.webhook_url + query, data=body, headers={"Content-Type": one.media_type, **headers}) as response:
                    statuses.append(response.status)
        return statuses


def ids_of(commands: Sequence[Command]) -> frozenset[str]:
    return frozenset(command_id(command) for command in commands)


async def _awaited(work: Awaitable[None]) -> None:
    await work


def difference(one: Inbound, system: System, commands: Sequence[Command]) -> dict[str, Any]:
    """What is expected and not understood, or otherwise: entity -> (expected, understood)."""
    understood = one.understood(commands)
    found = {}
    for entity, expected in one.expected(system).items():
        known = understood.get(entity)
        if isinstance(expected, Mapping) and isinstance(known, Mapping):
            known = {name: known.get(name) for name in expected}
        if known != expected:
            found[entity] = (expected, known)
    return found


def broken(samples: Sequence[bytes], chance: random.Random) -> Iterator[bytes]:
    """Recorded bodies with something wrong, and some that never were right."""
    yield from (b"", b"{}", b"[]", b"null", b"\xff\xfe", b"<a/>", b"{" * 5000, b'{"a":' * 2000)
    for _ in range(FUZZED if samples else 0):
        body = bytearray(chance.choice(samples))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(body)) if body else 0
            match chance.randrange(5):
                case 0:
                    del body[at:]
                case 1:
                    del body[at : at + chance.randint(1, 20)]
                case 2:
                    body[at : at + 1] = bytes([chance.randrange(256)])
                case 3:
                    body[at:at] = chance.choice((b"null", b"[]", b'"', b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"\x00", "é".encode(), b"9" * 400, b"-1", b"true"))
                case 4:
                    body[at:at] = body[: chance.randrange(200)]
        yield bytes(body)
