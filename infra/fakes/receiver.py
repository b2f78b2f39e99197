"""A receiver of webhooks: a real HTTP server that verifies signatures, remembers every attempt and misbehaves on demand.

One server is as many destinations as there are paths: `crm` is at /hooks/crm. Scripts say what it does, for everybody, a destination, a
member, one event of a member, or a webhook-id.

As a process of its own, whose log says all that came even if it is killed:

    python -m infra.fakes.receiver --port 9000 --script script.json --log attempts.jsonl

The script, of which everything may be left out (an answer is a status, or an object: fields of Behaviour; {"fail_first": 2, "failure": 503};
{"up_s": 1, "down_s": 2, "failure": 503}):

    {"secrets": ["whsec_...", "whpk_..."],
     "always": 200,
     "destinations": {"crm": {"secrets": ["whsec_..."], "always": {"hang": true}}},
     "steps": [{"destination": "crm", "member": "grand/m-1", "sequence": 7, "answers": [500, {"status": 429, "headers": {"Retry-After": "1"}}]},
               {"webhook_id": "grand-m-2-1", "answers": [503, 200]}]}
"""

import asyncio
import os
import signal
import socket
import struct
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any, NamedTuple

import click
import orjson
from aiohttp import web

from infra import ports
from infra.fakes import attempts
from infra.fakes.attempts import Attempt
from streams import signatures
from streams.signatures import Verifier

DRIP_INTERVAL_S = 0.05
CHUNK = b"x" * 65536
BATCH_TYPE = "loyalty.batch"
BATCH_CHANNEL = "batch"
REPLAY_HEADER = "loyalty-replay"


# What a receiver can do.


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What the receiver does with one request. The plain answer is status 200."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    """Before the answer."""
    hang: bool = False
    """Take the request and never answer."""
    reset: bool = False
    """Cut the connection without an answer."""
    drip_bytes: int = 0
    """Send a body of this many bytes, one every DRIP_INTERVAL_S."""
    body_bytes: int = 0
    """Send a body of this size as fast as it goes."""

    @property
    def accepts(self) -> bool:
        return 200 <= self.status < 300 and not self.hang and not self.reset


class Call(NamedTuple):
    """What a rule may decide by; as in Attempt. Of a batch, the webhook-id is the batch's, and there is no member."""

    destination: str
    member: str
    sequence: int
    webhook_id: str
    attempt: int
    at_s: float


Step = Behaviour | int
"""An int is a status."""
Rule = Callable[[Call], Behaviour]

OK = Behaviour()
GONE = Behaviour(status=410)
HANG = Behaviour(hang=True)
RESET = Behaviour(reset=True)


def redirect(location: str, status: int = 302) -> Behaviour:
    return Behaviour(status=status, headers={"Location": location})


def too_many(retry_after: int | datetime, status: int = 429) -> Behaviour:
    """With Retry-After in seconds, or as a date, which must be in UTC."""
    text = format_datetime(retry_after, usegmt=True) if isinstance(retry_after, datetime) else str(retry_after)
    return Behaviour(status=status, headers={"Retry-After": text})


def fail_first(count: int, failure: Step = 503, *, then: Step = OK) -> Rule:
    """The first `count` attempts of each webhook-id fail."""
    bad, good = _behaviour(failure), _behaviour(then)
    return lambda call: bad if call.attempt <= count else good


def flapping(up_s: float, down_s: float, failure: Step = 503, *, then: Step = OK) -> Rule:
    """Up for a while and down for a while, again and again, from the first request on."""
    bad, good = _behaviour(failure), _behaviour(then)
    began_s: float | None = None

    def decide(call: Call) -> Behaviour:
        nonlocal began_s
        began_s = call.at_s if began_s is None else began_s
        return good if (call.at_s - began_s) % (up_s + down_s) < up_s else bad

    return decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request as the receiver saw it."""

    destination: str
    """Last part of its path."""
    webhook_id: str
    member: str
    """program_id/member_id of the body; empty for a batch."""
    sequence: int
    kind: str
    """The body's type, for example loyalty.balance.changed."""
    attempt: int
    """How often this webhook-id has come to the destination by now, from 1."""
    at_s: float
    """Monotonic time of its arrival."""
    verified: bool
    problem: str
    """Why it is not verified; empty if it is."""
    behaviour: Behaviour
    body: bytes
    headers: Mapping[str, str]
    method: str
    path: str

    @property
    def accepted(self) -> bool:
        """Whether it was answered with success."""
        return self.verified and self.behaviour.accepts

    @property
    def data(self) -> dict[str, Any]:
        """The event."""
        data: dict[str, Any] = orjson.loads(self.body)["data"]
        return data


class Receiver:
    """`start`, read `url`, look into `received`, `stop`. Deliveries that are not genuine get 401, whatever was scripted."""

    def __init__(
        self, secrets: str | Sequence[str], host: str = ports.HOST, port: int = 0, *, is_compact: bool = False, log: Path | None = None
    ) -> None:
        """`secrets` of both schemes, any of which is enough, also public keys (whpk_...); none: nothing is verified.

        A compact one fills `attempts` alone, and is for runs of a million. With a `log` even those are in the log and not in memory.
        """
        self.received: list[Received] = []
        """Every request, in the order of arrival."""
        self.attempts: list[Attempt] = []
        """Every event in every request, in the order of arrival."""
        self.host = host
        self.port = port
        self._is_compact = is_compact
        self._log_path = log
        self._log_file: int | None = None
        self._verifiers: dict[str, Verifier | None] = {}
        self._verifier: Verifier | None = None
        self.trust([secrets] if isinstance(secrets, str) else secrets)
        self._runner: web.ServerRunner | None = None
        self._counts: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._scripts: dict[_Target, deque[Behaviour]] = {}
        self._always: dict[str, Rule] = {}
        self._otherwise: Rule = _rule(OK)
        self._changed = asyncio.Event()
        self._hanging: set[asyncio.Event] = set()

    @property
    def url(self) -> str:
        """Of the destination `loyalty`."""
        return self.url_of("loyalty")

    def url_of(self, destination: str) -> str:
        return f"http://{self.host}:{self.port}/hooks/{destination}"

    async def __aenter__(self) -> "Receiver":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen. The port that was found at the first start is kept."""
        if self._log_path is not None:
            self._log_file = os.open(self._log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        for event in self._hanging:
            event.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._log_file is not None:
            os.close(self._log_file)
            self._log_file = None

    async def go_down(self) -> None:
        """Refuse connections, and cut those that are open."""
        await self.stop()

    async def come_back(self) -> None:
        """Listen again on the same port."""
        if self._runner is None:
            await self.start()

    # What to do.

    def trust(self, secrets: Sequence[str], *, destination: str | None = None) -> None:
        """Verify with these from now on, as after a rotation: what comes to a destination, or to those that have none of their own."""
        verifier = Verifier(secrets) if secrets else None
        if destination is None:
            self._verifier = verifier
        else:
            self._verifiers[destination] = verifier

    def script(
        self, *steps: Step, destination: str | None = None, member: str | None = None, sequence: int | None = None, webhook_id: str | None = None
    ) -> None:
        """Answer the next requests like this, one step each; then as always.

        They are those of a member (`program_id/member_id`), of one event of it (`sequence`), of a webhook-id, or of anybody; at a
        destination, or at any. The narrowest script that has steps left decides.
        """
        target = _Target(destination, member, sequence, webhook_id)
        self._scripts.setdefault(target, deque()).extend(_behaviour(step) for step in steps)

    def always(self, step: Step | Rule = OK, *, destination: str | None = None) -> None:
        """Answer like this whenever the script says nothing: at a destination, or at those of which nothing else was said."""
        if destination is None:
            self._otherwise = _rule(step)
        else:
            self._always[destination] = _rule(step)

    def follow(self, script: Mapping[str, Any]) -> None:
        """Do as a script says that was written as JSON: the module's docstring has its form. Raises ValueError naming what is wrong."""
        _check(script, "the script", ("secrets", "always", "destinations", "steps"))
        for destination, part in ((None, script), *script.get("destinations", {}).items()):
            if destination is not None:
                _check(part, f"destinations.{destination}", ("secrets", "always"))
            if "secrets" in part:
                self.trust(part["secrets"], destination=destination)
            if "always" in part:
                self.always(_scripted_rule(part["always"]), destination=destination)
        for number, step in enumerate(script.get("steps", [])):
            _check(step, f"steps[{number}]", ("destination", "member", "sequence", "webhook_id", "answers"))
            target = {name: value for name, value in step.items() if name != "answers"}
            self.script(*(_scripted(answer) for answer in step.get("answers", [])), **target)

    # What happened.

    @property
    def accepted(self) -> list[Received]:
        """Requests that were answered with success."""
        return [one for one in self.received if one.accepted]

    @property
    def unverified(self) -> list[Received]:
        return [one for one in self.received if not one.verified]

    def sequences(self, member: str, destination: str | None = None) -> list[int]:
        """Sequences accepted for one member, in the order of arrival."""
        return attempts.sequences(self.attempts, member, destination)

    def inversions(self, destination: str | None = None) -> int:
        """How often an event was accepted for the first time after a later one of its member, per destination."""
        return _sum(attempts.inversions(self.attempts), destination)

    def duplicates(self, destination: str | None = None) -> int:
        """How often an event was accepted once more, per destination."""
        return _sum(attempts.duplicates(self.attempts), destination)

    def lost(self, wanted: Mapping[tuple[str, str], Collection[int]]) -> dict[tuple[str, str], list[int]]:
        """(destination, member) -> sequences of `wanted` that were never accepted; only where there are some."""
        return attempts.lost(self.attempts, wanted)

    async def wait_for(self, predicate: Callable[["Receiver"], bool], timeout_s: float = 10.0) -> None:
        """Return when the predicate holds, which is looked at after each request. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not predicate(self):
                self._changed.clear()
                await self._changed.wait()

    # One request.

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        how, problem = self._remember(request, body)
        self._changed.set()
        if problem:
            return web.json_response({"reason": problem}, status=401)
        if how.delay_s:
            await asyncio.sleep(how.delay_s)
        if how.reset:
            _reset(request)
            raise asyncio.CancelledError
        if how.hang:
            released = asyncio.Event()
            self._hanging.add(released)
            try:
                await released.wait()
            finally:
                self._hanging.discard(released)
            raise asyncio.CancelledError
        if how.drip_bytes or how.body_bytes:
            return await _send_slowly_or_much(request, how)
        return web.Response(status=how.status, headers=how.headers)

    def _remember(self, request: web.BaseRequest, body: bytes) -> tuple[Behaviour, str]:
        """What is done with it, and why it is not genuine, if so. All is on record before anything is done."""
        at_s, headers, path = time.monotonic(), request.headers, request.path
        destination, webhook_id = path.rpartition("/")[2], headers.get("webhook-id", "")
        problem = self._problem(destination, headers, body)
        kind, events = _content_of(body, webhook_id)
        member, sequence, _ = ("", 0, "") if kind == BATCH_TYPE else events[0]
        self._counts[destination, webhook_id] += 1
        call = Call(destination, member, sequence, webhook_id, self._counts[destination, webhook_id], at_s)
        behaviour = self._next_behaviour(call)
        channel = headers.get(REPLAY_HEADER, "") or (BATCH_CHANNEL if kind == BATCH_TYPE else "")
        accepted = behaviour.accepts and not problem
        self._keep([Attempt(destination, *event, call.attempt, at_s, accepted, channel) for event in events])
        if not self._is_compact:
            self.received.append(Received(
                destination=destination, webhook_id=webhook_id, member=member, sequence=sequence, kind=kind, attempt=call.attempt, at_s=at_s,
                verified=not problem, problem=problem, behaviour=behaviour, body=body,
                headers={name.lower(): value for name, value in headers.items()}, method=request.method, path=path,
            ))  # fmt: skip
        return behaviour, problem

    def _problem(self, destination: str, headers: Mapping[str, str], body: bytes) -> str:
        verifier = self._verifiers.get(destination, self._verifier)
        if verifier is not None:
            try:
                verifier.verify(headers, body, now_s=time.time())
            except signatures.SignatureError as error:
                return error.reason
        return ""

    def _keep(self, seen: list[Attempt]) -> None:
        if self._log_file is None:
            self.attempts += seen
        else:  # One write and no buffer: what was answered is in the log, whatever becomes of this process.
            os.write(self._log_file, b"".join(map(attempts.log_line, seen)))

    def _next_behaviour(self, call: Call) -> Behaviour:
        if self._scripts:
            for target in _targets(call):
                if steps := self._scripts.get(target):
                    return steps.popleft()
        return self._always.get(call.destination, self._otherwise)(call)


class _Target(NamedTuple):
    """Whose requests a script is for; None: any."""

    destination: str | None
    member: str | None
    sequence: int | None
    webhook_id: str | None


def _targets(call: Call) -> Iterable[_Target]:
    """Those that a call is among, the narrowest first."""
    destinations = (call.destination, None)
    yield from (_Target(one, None, None, call.webhook_id) for one in destinations)
    yield from (_Target(one, call.member, call.sequence, None) for one in destinations)
    yield from (_Target(one, call.member, None, None) for one in destinations)
    yield from (_Target(one, None, None, None) for one in destinations)


def _sum(counts: Counter[tuple[str, str]], destination: str | None) -> int:
    return sum(count for place, count in counts.items() if destination in (None, place[0]))


def _behaviour(step: Step) -> Behaviour:
    return step if isinstance(step, Behaviour) else Behaviour(status=step)


def _rule(step: Step | Rule) -> Rule:
    if callable(step):
        return step
    behaviour = _behaviour(step)
    return lambda _: behaviour


def _content_of(body: bytes, webhook_id: str) -> tuple[str, list[tuple[str, int, str]]]:
    """Type of a body, and (member, sequence, webhook-id) of each event in it, as far as it has them: nothing about it is trusted yet."""
    try:
        envelope = orjson.loads(body)
        kind, data = str(envelope["type"]), envelope["data"]
        if kind == BATCH_TYPE:
            return kind, [(*_event_of(one["data"]), str(one["data"]["event_id"])) for one in data["events"]]
        return kind, [(*_event_of(data), webhook_id)]
    except (ValueError, TypeError, KeyError):
        return "", [("", 0, webhook_id)]


def _event_of(data: Mapping[str, Any]) -> tuple[str, int]:
    """(program_id/member_id, sequence); ("", 0) for what is no event of a member. Members are texts that are kept once."""
    if "sequence" not in data:
        return "", 0
    return sys.intern(f"{data['program_id']}/{data['member_id']}"), int(data["sequence"])


def _reset(request: web.BaseRequest) -> None:
    """Cut the connection with RST rather than a polite end."""
    transport = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


async def _send_slowly_or_much(request: web.BaseRequest, how: Behaviour) -> web.StreamResponse:
    response = web.StreamResponse(status=how.status, headers=how.headers)
    response.content_length = how.drip_bytes or how.body_bytes
    await response.prepare(request)
    try:
        for _ in range(how.drip_bytes):
            await response.write(b"x")
            await asyncio.sleep(DRIP_INTERVAL_S)
        for start in range(0, how.body_bytes if not how.drip_bytes else 0, len(CHUNK)):
            await response.write(CHUNK[: how.body_bytes - start])
        await response.write_eof()
    except (ConnectionError, OSError):  # The caller has heard enough.
        pass
    return response


# A process of its own.


def _check(part: Any, place: str, known: Collection[str]) -> None:
    if not isinstance(part, Mapping):
        raise ValueError(f"{place} must be an object")
    if unknown := sorted(part.keys() - set(known)):
        raise ValueError(f"{place}: {unknown[0]!r} is not known; known are {', '.join(known)}")


def _scripted(answer: Any) -> Behaviour:
    """A status, or the fields of a Behaviour. Raises ValueError."""
    if isinstance(answer, int):
        return Behaviour(status=answer)
    _check(answer, f"the answer {answer!r}", Behaviour.__slots__)
    return Behaviour(**answer)


def _scripted_rule(answer: Any) -> Rule:
    """As `_scripted`, or by the attempt's number or the time. Raises ValueError."""
    if isinstance(answer, Mapping) and "fail_first" in answer:
        _check(answer, f"the answer {answer!r}", ("fail_first", "failure", "then"))
        return fail_first(answer["fail_first"], _scripted(answer.get("failure", 503)), then=_scripted(answer.get("then", 200)))
    if isinstance(answer, Mapping) and "up_s" in answer:
        _check(answer, f"the answer {answer!r}", ("up_s", "down_s", "failure", "then"))
        return flapping(answer["up_s"], answer["down_s"], _scripted(answer.get("failure", 503)), then=_scripted(answer.get("then", 200)))
    return _rule(_scripted(answer))


async def _serve(receiver: Receiver) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with receiver:
        click.echo(f"destinations are at {receiver.url_of('<destination>')}")
        await stopped.wait()


@click.command()
@click.option("--port", default=0, show_default="a free one")
@click.option("--delay-ms", default=0.0, help="Before each answer of which the script says nothing.")
@click.option("--script", "script_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON: what to do.")
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path), required=True, help="JSON lines, appended: one for each event that comes.")
def main(port: int, delay_ms: float, script_file: Path | None, log: Path) -> None:
    """Receive webhooks until stopped, at /hooks/<destination>."""
    receiver = Receiver((), port=port, is_compact=True, log=log)
    receiver.always(Behaviour(delay_s=delay_ms / 1000))
    try:
        receiver.follow(orjson.loads(script_file.read_bytes()) if script_file else {})
    except (ValueError, TypeError) as error:
        raise click.BadParameter(str(error), param_hint="--script") from error
    asyncio.run(_serve(receiver))


if __name__ == "__main__":
    main()
