"""The scripted receiver: what it is told to do it does, what came is on record, and what it says of order is right."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from infra import ports
from infra.fakes import attempts
from infra.fakes.attempts import Attempt
from infra.fakes.receiver import GONE, HANG, OK, RESET, Behaviour, Call, Receiver, fail_first, flapping, main, redirect, too_many
from schemas.records import DeliveryNotice, NoticeKind
from sinks import payloads
from streams import signatures
from streams.signatures import SecretError, Signer
from tests.sinks.examples import MOMENT_MS, SECRET, event

NO_ANSWER_S = 0.3  # How long is waited for an answer that must not come.
ED25519_SECRET = signatures.new_secret(signatures.ED25519)
CRM, APP = ("crm", "grand/m-1"), ("app", "grand/m-1")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver(SECRET) as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def signed(webhook_id: str, body: bytes, secrets: Sequence[str] = (SECRET,)) -> dict[str, str]:
    return Signer(secrets).headers(webhook_id, int(time.time()), body)


class Sender:
    """Sends events of m-1 to one receiver, signed."""

    def __init__(self, client: aiohttp.ClientSession, base: str, secrets: Sequence[str] = (SECRET,)) -> None:
        self._client = client
        self._base = base
        self._secrets = secrets

    async def send(self, sequence: int, destination: str = "crm", *, member_id: str = "m-1", headers: dict[str, str] | None = None) -> int:
        """The status of the answer."""
        return await self.post(f"grand-{member_id}-{sequence}", payloads.render(event(sequence, member_id), "1"), destination, headers)

    async def post(self, webhook_id: str, body: bytes, destination: str = "crm", headers: dict[str, str] | None = None) -> int:
        wanted = signed(webhook_id, body, self._secrets) | (headers or {})
        async with self._client.post(f"{self._base}/hooks/{destination}", data=body, headers=wanted, allow_redirects=False) as response:
            await response.read()
            return response.status

    async def gets_no_answer(self, sequence: int, destination: str = "crm") -> bool:
        """Whether the connection is refused, or cut, or no answer comes."""
        try:
            await asyncio.wait_for(self.send(sequence, destination), NO_ANSWER_S)
        except (aiohttp.ClientError, TimeoutError):
            return True
        return False


@pytest.fixture
def sender(receiver: Receiver, client: aiohttp.ClientSession) -> Sender:
    return Sender(client, f"http://{receiver.host}:{receiver.port}")


# What it does.


async def test_scripts_are_for_everybody_a_destination_a_member_an_event_or_an_id(receiver: Receiver, sender: Sender) -> None:
    receiver.script(500)
    receiver.script(501, destination="crm")
    receiver.script(502, 502, member="grand/m-1")
    receiver.script(503, destination="crm", member="grand/m-1")
    receiver.script(504, destination="crm", member="grand/m-1", sequence=1)
    receiver.script(505, webhook_id="grand-m-1-1")
    assert [await sender.send(1) for _ in range(8)] == [505, 504, 503, 502, 502, 501, 500, 200], "the narrowest first"
    assert receiver.sequences("grand/m-1") == [1]


async def test_every_event_has_a_status_sequence_of_its_own(receiver: Receiver, sender: Sender) -> None:
    receiver.script(500, 500, 200, member="grand/m-1", sequence=1)
    receiver.script(400, member="grand/m-1", sequence=3)
    receiver.script(500, 400, member="grand/m-2", sequence=1)
    assert [await sender.send(1) for _ in range(4)] == [500, 500, 200, 200]
    assert [await sender.send(sequence) for sequence in (2, 3, 3)] == [200, 400, 200]
    assert [await sender.send(1, member_id="m-2") for _ in range(3)] == [500, 400, 200]
    assert [one.attempt for one in receiver.attempts] == [1, 2, 3, 4, 1, 1, 2, 1, 2, 3]


async def test_one_server_is_many_destinations(receiver: Receiver, sender: Sender) -> None:
    receiver.always(HANG, destination="dead")
    receiver.always(GONE, destination="gone")
    assert await sender.send(1) == 200
    assert await sender.gets_no_answer(1, "dead")
    assert [await sender.send(1, name) for name in ("gone", "crm", "app")] == [410, 200, 200]
    assert [(one.destination, one.attempt, one.accepted) for one in receiver.received] == [
        ("crm", 1, True), ("dead", 1, False), ("gone", 1, False), ("crm", 2, True), ("app", 1, True),
    ]  # fmt: skip
    assert (receiver.duplicates(), receiver.duplicates("crm"), receiver.duplicates("app")) == (1, 1, 0)
    assert receiver.sequences("grand/m-1", "crm") == [1, 1]
    assert receiver.url_of("crm") == receiver.url.replace("loyalty", "crm")


async def test_the_first_attempts_of_each_id_fail(receiver: Receiver, sender: Sender) -> None:
    receiver.always(fail_first(2, 500))
    assert [await sender.send(sequence) for sequence in (1, 2, 1, 1, 2, 2)] == [500, 500, 500, 200, 500, 200]


def test_flapping_goes_by_the_time_since_the_first_request() -> None:
    rule = flapping(2.0, 3.0, HANG)
    at = [rule(Call("crm", "grand/m-1", 1, "grand-m-1-1", 1, 1000.0 + seconds)) for seconds in (0, 1.9, 2.0, 4.9, 5.0, 6.9, 7.1)]
    assert at == [OK, OK, HANG, HANG, OK, OK, HANG]


@pytest.mark.parametrize(("behaviour", "status", "headers"), [
    (too_many(17), 429, {"Retry-After": "17"}),
    (too_many(datetime(2026, 3, 1, 12, tzinfo=UTC), 503), 503, {"Retry-After": "Sun, 01 Mar 2026 12:00:00 GMT"}),
    (redirect("http://elsewhere/"), 302, {"Location": "http://elsewhere/"}),
    (GONE, 410, {}),
    (Behaviour(status=204, delay_s=0.01), 204, {}),
    (Behaviour(body_bytes=200_000), 200, {"Content-Length": "200000"}),
    (Behaviour(drip_bytes=2), 200, {"Content-Length": "2"}),
], ids=["seconds", "date", "redirect", "gone", "delay", "body", "drip"])  # fmt: skip
async def test_answers(receiver: Receiver, client: aiohttp.ClientSession, behaviour: Behaviour, status: int, headers: dict[str, str]) -> None:
    receiver.always(behaviour)
    async with client.post(receiver.url, data=b"{}", headers=signed("x", b"{}"), allow_redirects=False) as response:
        await response.read()
        assert response.status == status
        assert {name: response.headers[name] for name in headers} == headers


async def test_no_answer(receiver: Receiver, sender: Sender) -> None:
    receiver.script(RESET, HANG)
    assert await sender.gets_no_answer(1)
    assert await sender.gets_no_answer(1)
    assert await sender.send(1) == 200
    await receiver.go_down()
    assert await sender.gets_no_answer(2)
    await receiver.come_back()
    assert await sender.send(2) == 200
    assert [one.accepted for one in receiver.attempts] == [False, False, True, True]


# Who is trusted.


async def test_any_of_its_secrets_is_enough(client: aiohttp.ClientSession) -> None:
    keys = [SECRET, signatures.public_key(ED25519_SECRET)]
    async with Receiver(keys) as receiver:
        base = f"http://{receiver.host}:{receiver.port}"
        other = signatures.new_secret()
        for secrets, status in (([SECRET], 200), ([ED25519_SECRET], 200), ([other], 401), ([other, ED25519_SECRET], 200)):
            assert await Sender(client, base, secrets).send(1) == status
        assert [one.problem for one in receiver.unverified] == ["SIGNATURE_MISMATCH"]
        receiver.trust([other], destination="crm")
        assert await Sender(client, base, [other]).send(1) == 200
        assert await Sender(client, base, [other]).send(1, "app") == 401
        assert await Sender(client, base, [SECRET]).send(1) == 401
        assert len(receiver.accepted) == 4


async def test_without_secrets_nothing_is_verified(client: aiohttp.ClientSession) -> None:
    async with Receiver(()) as receiver:
        async with client.post(receiver.url, data=b"nonsense") as response:
            assert response.status == 200
        assert (receiver.received[0].kind, receiver.received[0].member, receiver.received[0].body) == ("", "", b"nonsense")
        assert receiver.attempts == [Attempt("loyalty", "", 0, "", 1, receiver.received[0].at_s, True)]


def test_a_secret_that_is_none() -> None:
    with pytest.raises(SecretError):
        Receiver("secret")


# What it remembers.


async def test_a_batch_is_as_many_events(receiver: Receiver, sender: Sender) -> None:
    bodies = [payloads.render(event(sequence, member), "1") for sequence, member in ((1, "m-1"), (2, "m-1"), (1, "m-2"))]
    receiver.script(500, webhook_id="batch-1")
    batch = payloads.render_batch(bodies, "batch-1", MOMENT_MS)
    assert [await sender.post("batch-1", batch), await sender.send(5), await sender.post("batch-1", batch)] == [500, 200, 200]
    assert [(one.kind, one.member, one.webhook_id, one.attempt) for one in receiver.received] == [
        ("loyalty.batch", "", "batch-1", 1), ("loyalty.balance.changed", "grand/m-1", "grand-m-1-5", 1), ("loyalty.batch", "", "batch-1", 2),
    ]  # fmt: skip
    assert [one[:5] for one in receiver.attempts if one.accepted] == [
        ("crm", "grand/m-1", 5, "grand-m-1-5", 1), ("crm", "grand/m-1", 1, "grand-m-1-1", 2), ("crm", "grand/m-1", 2, "grand-m-1-2", 2),
        ("crm", "grand/m-2", 1, "grand-m-2-1", 2),
    ]  # fmt: skip
    assert (receiver.inversions(), receiver.duplicates()) == (0, 0), "what comes in batches has an order of its own"


async def test_a_replay_has_an_order_of_its_own(receiver: Receiver, sender: Sender) -> None:
    await sender.send(1)
    await sender.send(2)
    await sender.send(1, headers={"loyalty-replay": "job-1"})
    await sender.send(3)
    await sender.send(2, headers={"loyalty-replay": "job-1"})
    assert (receiver.inversions(), receiver.duplicates()) == (0, 0)
    await sender.send(1, headers={"loyalty-replay": "job-1"})
    assert (receiver.inversions(), receiver.duplicates()) == (0, 1)


async def test_notices_and_trials_are_about_no_members_order(receiver: Receiver, sender: Sender) -> None:
    blocked = DeliveryNotice(
        notice_id="n-1", kind=NoticeKind.DELIVERY_BLOCKED, destination="crm", reason="RETRIES_EXHAUSTED", detail="status 500", program_id="grand",
        member_id="m-1", occurred_at_ms=MOMENT_MS,
    )  # fmt: skip
    await sender.send(2)
    await sender.post("n-1", payloads.render(blocked, "1"))
    await sender.post("t-1", payloads.test_body("crm", MOMENT_MS))
    assert [(one.kind, one.member) for one in receiver.received[1:]] == [("loyalty.delivery.blocked", ""), ("loyalty.test", "")]
    assert receiver.inversions() == 0


async def test_a_compact_one_keeps_attempts_alone(client: aiohttp.ClientSession) -> None:
    async with Receiver(SECRET, is_compact=True) as receiver:
        await Sender(client, f"http://{receiver.host}:{receiver.port}").send(1)
        await receiver.wait_for(lambda one: len(one.attempts) == 1)
        assert receiver.received == []
        assert receiver.sequences("grand/m-1") == [1]


# What it says.


def seen(*rows: tuple[int, bool], destination: str = "crm", channel: str = "") -> list[Attempt]:
    """(sequence, accepted) of m-1, one attempt after the other."""
    return [Attempt(destination, "grand/m-1", sequence, f"grand-m-1-{sequence}", 1, 0.0, accepted, channel) for sequence, accepted in rows]


@pytest.mark.parametrize(("rows", "inversions", "duplicates", "lost"), [
    ([], 0, 0, [1, 2, 3]),
    ([(1, True), (2, True), (3, True)], 0, 0, []),
    ([(1, False), (1, True), (2, False), (2, True), (3, True)], 0, 0, []),
    ([(2, True), (1, True), (3, True)], 1, 0, []),
    ([(3, True), (2, True), (1, True)], 2, 0, []),
    ([(2, True), (1, False), (3, True)], 0, 0, [1]),
    ([(1, True), (2, True), (1, True), (2, True), (3, True)], 0, 2, []),
    ([(3, True), (3, True), (3, True)], 0, 2, [1, 2]),
    ([(4, True)], 0, 0, [1, 2, 3]),
], ids=["nothing", "good", "retries", "turned", "backwards", "refused", "again", "thrice", "others"])  # fmt: skip
def test_order_losses_and_repetitions(rows: list[tuple[int, bool]], inversions: int, duplicates: int, lost: list[int]) -> None:
    found = seen(*rows)
    assert attempts.inversions(found) == ({CRM: inversions} if inversions else {})
    assert attempts.duplicates(found) == ({CRM: duplicates} if duplicates else {})
    assert attempts.lost(found, {CRM: range(1, 4)}) == ({CRM: lost} if lost else {})


def test_destinations_and_channels_do_not_mix() -> None:
    found = seen((2, True)) + seen((1, True), destination="app") + seen((1, True), channel="job") + seen((2, True), destination="app")
    assert attempts.inversions(found) == {}
    assert attempts.duplicates(found) == {}
    assert attempts.lost(found, {CRM: (1, 2), APP: (1, 2, 3), ("web", "grand/m-1"): (1,)}) == {APP: [3], ("web", "grand/m-1"): [1]}
    assert attempts.sequences(found, "grand/m-1") == [2, 1, 1, 2]
    assert attempts.sequences(found, "grand/m-1", "app") == [1, 2]


# A process of its own.

SCRIPT = {
    "secrets": [SECRET],
    "always": {"status": 202},
    "destinations": {
        "dead": {"always": {"hang": True}}, "picky": {"always": {"fail_first": 1, "failure": 500}}, "flaky": {"always": {"up_s": 3600, "down_s": 1}},
        "open": {"secrets": []},
    },
    "steps": [
        {"destination": "crm", "member": "grand/m-1", "sequence": 2, "answers": [500, {"status": 429, "headers": {"Retry-After": "1"}}]},
        {"webhook_id": "grand-m-1-3", "answers": [503]},
    ],
}  # fmt: skip


async def test_a_script_says_what_to_do(receiver: Receiver, sender: Sender) -> None:
    receiver.follow(SCRIPT)
    assert [await sender.send(sequence) for sequence in (1, 2, 2, 2, 3, 3)] == [202, 500, 429, 202, 503, 202]
    assert [await sender.send(9, destination) for destination in ("picky", "picky", "flaky", "other")] == [500, 200, 200, 202]
    assert await sender.gets_no_answer(9, "dead")
    assert [await sender.send(9, destination, headers={"webhook-id": "x"}) for destination in ("open", "other")] == [202, 401]


@pytest.mark.parametrize(("script", "problem"), [
    ([], "must be an object"), ({"step": []}, "'step' is not known"), ({"steps": [{"who": 1}]}, r"steps\[0\]: 'who' is not known"),
    ({"always": {"stauts": 1}}, "'stauts' is not known"), ({"always": "200"}, "must be an object"), ({"always": {"fail_first": 1, "x": 1}}, "'x'"),
    ({"always": {"up_s": 1, "down": 1}}, "'down'"), ({"destinations": {"crm": {"steps": []}}}, "destinations.crm: 'steps' is not known"),
    ({"secrets": ["x"]}, "starts with"),
], ids=str)  # fmt: skip
def test_a_script_that_is_none(tmp_path: Path, script: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Receiver(()).follow(script)
    file = tmp_path / "script.json"
    file.write_text(json.dumps(script))
    result = CliRunner().invoke(main, ["--script", str(file), "--log", str(tmp_path / "log")])
    assert result.exit_code == 2 and "--script" in result.output


@contextmanager
def process(port: int, log: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A receiver of its own that listens."""
    command = [sys.executable, "-m", "infra.fakes.receiver", "--port", str(port), "--log", str(log), *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}) as running:
        try:
            assert running.stdout is not None and "destinations are at" in running.stdout.readline()
            yield running
        finally:
            running.kill()


async def test_what_a_killed_process_has_answered_is_in_its_log(client: aiohttp.ClientSession, tmp_path: Path) -> None:
    port, log, script = ports.choose(), tmp_path / "attempts.jsonl", tmp_path / "script.json"
    script.write_text(json.dumps(SCRIPT))
    sender = Sender(client, f"http://127.0.0.1:{port}")
    with process(port, log, "--script", str(script)) as running:
        statuses = await asyncio.gather(*(sender.send(1, member_id=f"m-{number}") for number in range(50)))
        assert statuses == [202] * 50
        assert await sender.send(2) == 500
        running.kill()
    assert await sender.gets_no_answer(2)
    with process(port, log, "--delay-ms", "1") as running:  # It goes on in the same log.
        assert await sender.send(3) == 200
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=10) == 0
    found = attempts.read_log(log)
    assert len(found) == 52
    assert sorted(one.member for one in found if one.sequence == 1) == sorted(f"grand/m-{number}" for number in range(50))
    assert [(one.destination, one.webhook_id, one.accepted) for one in found[-2:]] == [("crm", "grand-m-1-2", False), ("crm", "grand-m-1-3", True)]
    assert all(before.at_s <= after.at_s for before, after in zip(found, found[1:], strict=False))


def test_a_line_that_was_cut_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log"
    whole = seen((1, True), (2, False))
    log.write_bytes(b"".join(map(attempts.log_line, whole)) + b'{"destination":"cr')
    assert attempts.read_log(log) == whole
