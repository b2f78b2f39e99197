"""Every command of the full ledger through REST and through Avro topics, on the real stack: both routes come to the same accounts."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import clickhouse_connect
import pytest
from yarl import URL

from infra.stack import Stack
from schemas.codec import Codec
from schemas.contract import Command, command_id, member_key
from schemas.records import (
    Enrolment,
    MemberOperation,
    MemberOperationKind,
    MemberStatus,
    OfferActivation,
    ProfileChange,
    Transaction,
    TransactionKind,
)
from schemas.registry import LocalRegistry
from streams import kafka, topics
from streams.ingress.commands import format_time
from tests.waiting import wait_until

TOKEN = "token-of-the-full-ledger-test"
TIMEOUT_S = 30
REVERTS = 40
RULES = f"""
[programs.grand]
time_zone = "Europe/Berlin"
[programs.grand.earn]
points_per_unit = {{ EUR = 10 }}
[[programs.grand.earn.rules]]
id = "spa"
points_per_stay = 25
categories = ["spa"]
[programs.grand.expiry]
rule = "end_of_year"
years = 2
[programs.grand.reversal]
policy = "unlimited"
[[programs.grand.tiers]]
name = "MEMBER"
[[programs.grand.tiers]]
name = "GOLD"
threshold_points = 3000
[programs.grand.offers.spring]
bonus_points = 100
cap_points = 100
budget_points = 400
[programs.grand.rewards.spa-day]
points = 500
valid_days = 30
[tokens.test]
token = "{TOKEN}"
scopes = ["transactions:write", "enrolments:write", "profile-changes:write", "offer-activations:write", "member-operations:write", "members:read"]
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, kafka_jars: list[Path]) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("full-ledger")
    config_file = home / "test.toml"
    config_file.write_text(RULES)
    with Stack(home / "stack", config_file=config_file, partitions=3, free_ports=True) as stack:
        yield stack


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        yield session


def as_json(command: Command) -> dict[str, Any]:
    """The command as a client writes it."""
    fields = {name: value for name, value in command.to_avro().items() if value is not None}
    return {name.removesuffix("_ms"): format_time(value) if name.endswith("_ms") else value for name, value in fields.items()}


class Rest:
    """Commands by HTTP, each answered after its decision."""

    name = "rest"

    def __init__(self, stack: Stack, http: aiohttp.ClientSession) -> None:
        self._url, self._http = f"http://127.0.0.1:{stack.settings.ingress_port}", http

    async def send(self, command: Command) -> tuple[int, dict[str, Any]]:
        topic = next(topic for topic in topics.INBOUND if topic.record is type(command))
        async with self._http.post(f"{self._url}/v1/{topic.stream}", json=as_json(command), headers={"Prefer": "wait=20"}) as response:
            return response.status, await response.json()

    async def member(self, member_id: str, sequence: int) -> dict[str, Any]:
        """The account, not older than its event of that number."""
        url = URL(f"{self._url}/v1/members/").joinpath(member_id).with_query(program="grand", min_sequence=sequence)
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            async with self._http.get(url) as response:
                if response.status != 503 or time.monotonic() > deadline_s:
                    assert response.status == 200, await response.text()
                    account: dict[str, Any] = await response.json()
                    return account
            await asyncio.sleep(0.02)


class Topics:
    """Commands as Avro records, each sent when the one before is decided: by another reader of accounts than the writer of commands."""

    name = "avro"

    def __init__(self, stack: Stack, http: aiohttp.ClientSession) -> None:
        self._settings, self._codec = stack.settings, Codec(LocalRegistry())
        self._producer = kafka.producer(stack.settings)
        self._rest = Rest(stack, http)
        self._audits = kafka.consumer(stack.settings, "full-ledger-audits")
        self._audits.subscribe([topics.SYNC_AUDIT.name(stack.settings.topic_prefix)])
        self._seen: dict[tuple[str, str], Any] = {}

    async def send(self, command: Command) -> tuple[int, dict[str, Any]]:
        topic = next(topic for topic in topics.INBOUND if topic.record is type(command))
        key = member_key(command.program_id, command.member_id)
        self._producer.produce(topic.name(self._settings.topic_prefix), self._codec.encode(command), key)
        await asyncio.to_thread(self._producer.flush, TIMEOUT_S)
        audit = await asyncio.to_thread(self._answer, command)
        about = {"reason": audit.reason, "voucher_code": audit.voucher_code, "sequence": audit.sequence}
        return (200 if audit.result.value == "APPLIED" else 422), about

    def _answer(self, command: Command) -> Any:
        wanted = (command.member_id, command_id(command))

        def arrived() -> bool:
            for message in self._audits.consume(100, 0.1):
                assert message.error() is None, message.error()
                audit = self._codec.decode(message.value(), topics.SYNC_AUDIT.record)
                self._seen[audit.member_id, audit.command_id] = audit
            return wanted in self._seen

        wait_until(arrived, TIMEOUT_S)
        return self._seen.pop(wanted)

    async def member(self, member_id: str, sequence: int) -> dict[str, Any]:
        return await self._rest.member(member_id, sequence)

    def close(self) -> None:
        self._audits.close()


class Story:
    """One guest's commands; the same for every route but for the name in front of the ids."""

    def __init__(self, route: Rest | Topics) -> None:
        self.route, self.name = route, f"{route.name}-guest"
        self._sequences: dict[str, int] = {}

    def fields(self, member_id: str | None = None) -> dict[str, Any]:
        return {
            "program_id": "grand", "member_id": member_id or self.name, "source_system": "test", "occurred_at_ms": int(time.time() * 1000) - 1000,
        }  # fmt: skip

    async def transact(self, identity: str, kind: TransactionKind, *, member_id: str | None = None, expect: str | None = None, **more: Any) -> Any:
        status, answer = await self.route.send(Transaction(**self.fields(member_id), transaction_id=identity, kind=kind, **more))
        self._note(member_id, answer)
        assert (status, answer.get("reason")) == ((422, expect) if expect else (200, None)), (identity, answer)
        return answer

    async def other(self, record: type, identity: str, *, member_id: str | None = None, expect: str | None = None, **more: Any) -> Any:
        status, answer = await self.route.send(record(**self.fields(member_id), event_id=identity, **more))
        self._note(member_id, answer)
        assert (status, answer.get("reason")) == ((422, expect) if expect else (200, None)), (identity, answer)
        return answer

    def _note(self, member_id: str | None, answer: dict[str, Any]) -> None:
        name = member_id or self.name
        self._sequences[name] = max(self._sequences.get(name, 0), answer.get("sequence") or 0)

    async def account(self, member_id: str | None = None) -> dict[str, Any]:
        name = member_id or self.name
        return await self.route.member(name, self._sequences.get(name, 0))

    async def points(self, member_id: str | None = None) -> tuple[int, int, int, int]:
        account = await self.account(member_id)
        return account["available_points"], account["pending_points"], account["held_points"], account["debt_points"]

    async def until(self, expected: tuple[int, int, int, int], member_id: str | None = None) -> None:
        """What happens by itself, or in another partition, takes its moment."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while (seen := await self.points(member_id)) != expected and time.monotonic() < deadline_s:
            await asyncio.sleep(0.05)
        assert seen == expected


OPERATE = {"reason": "asked for", "actor": "agent-7"}


@pytest.fixture(params=[Rest, Topics], ids=["rest", "avro"])
async def story(request: pytest.FixtureRequest, stack: Stack, http: aiohttp.ClientSession) -> AsyncIterator[Story]:
    route = request.param(stack, http)
    yield Story(route)
    if isinstance(route, Topics):
        route.close()


async def test_every_command(story: Story) -> None:
    me, friend = story.name, f"{story.name}-friend"
    kind = TransactionKind
    for member_id in (me, friend):
        await story.other(Enrolment, f"{member_id}:enrol", member_id=member_id, attributes={"email": f"{member_id}@example.org"})

    # Earning: by rules, pending, with an expiry of its own that comes while we look.
    await story.transact("stay", kind.EARN, amount_minor=10_000, currency="EUR", category="spa")
    assert await story.points() == (1_025, 0, 0, 0)
    await story.transact("later", kind.EARN, points=200, pending=True)
    assert await story.points() == (1_025, 200, 0, 0)
    await story.transact("now", kind.ACTIVATE, related_transaction_id="later")
    await story.transact("again", kind.ACTIVATE, related_transaction_id="later", expect="NOT_PENDING")
    await story.transact("short-lived", kind.EARN, points=70, expires_at_ms=int(time.time() * 1000) + 1500)
    await story.until((1_225, 0, 0, 0))

    # Holds.
    await story.transact("dinner", kind.HOLD, points=300)
    assert await story.points() == (925, 0, 300, 0)
    await story.transact("too-much", kind.REDEEM, points=926, expect="INSUFFICIENT_POINTS")
    await story.transact("bill", kind.CAPTURE, related_transaction_id="dinner", points=120)
    assert await story.points() == (1_105, 0, 0, 0)
    await story.transact("bill-2", kind.CAPTURE, related_transaction_id="dinner", expect="HOLD_ALREADY_CAPTURED")
    await story.transact("cab", kind.HOLD, points=100)
    await story.transact("no-cab", kind.VOID, related_transaction_id="cab")
    await story.transact("forgotten", kind.HOLD, points=50, expires_at_ms=int(time.time() * 1000) + 1500)
    await story.until((1_105, 0, 0, 0))

    # Vouchers, refunds, reversals.
    bought = await story.transact("spa-1", kind.REDEEM, points=500, reward_code="spa-day")
    await story.transact("hand-in", kind.REDEEM_VOUCHER, voucher_code=bought["voucher_code"])
    await story.transact("hand-in-2", kind.REDEEM_VOUCHER, voucher_code=bought["voucher_code"], expect="VOUCHER_ALREADY_REDEEMED")
    bought = await story.transact("spa-2", kind.REDEEM, points=500, reward_code="spa-day")
    await story.transact("changed-my-mind", kind.CANCEL_VOUCHER, voucher_code=bought["voucher_code"])
    await story.transact("twice", kind.CANCEL_VOUCHER, voucher_code=bought["voucher_code"], expect="VOUCHER_ALREADY_CANCELLED")
    await story.transact("refund", kind.REVERSE, reverses_transaction_id="bill", points=20)
    await story.transact("goodwill", kind.ADJUST, points=75, reason="late towels", actor="desk-1")
    assert await story.points() == (700, 0, 0, 0)
    await story.transact("returned", kind.REVERSE, reverses_transaction_id="stay", points=25)
    await story.transact("all-of-it", kind.REVERSE, reverses_transaction_id="stay")
    assert await story.points() == (0, 0, 0, 325)
    await story.transact("makes-good", kind.EARN, points=1_325)
    assert await story.points() == (1_000, 0, 0, 0)

    # An offer with a budget of four members, a transfer, a pool.
    await story.other(OfferActivation, "spring", offer_id="spring")
    await story.other(OfferActivation, "spring-2", offer_id="spring", expect="OFFER_ALREADY_ACTIVE")
    await story.transact("in-spring", kind.EARN, points=50)
    assert await story.points() == (1_150, 0, 0, 0)
    await story.transact("gift", kind.TRANSFER, points=150, to_member_id=friend)
    await story.until((150, 0, 0, 0), friend)
    await story.transact("to-nobody", kind.TRANSFER, points=150, to_member_id="nobody-knows")
    await story.until((1_000, 0, 0, 0))
    await story.other(MemberOperation, "join", kind=MemberOperationKind.JOIN_POOL, target_member_id=friend, **OPERATE)
    await story.transact("pooled", kind.EARN, points=40)
    await story.until((190, 0, 0, 0), friend)
    await story.other(MemberOperation, "leave", kind=MemberOperationKind.LEAVE_POOL, **OPERATE)

    # Tiers, suspension, merge, erasure.
    await story.other(MemberOperation, "tier", kind=MemberOperationKind.SET_TIER, tier="GOLD", **OPERATE)
    in_a_moment_ms = int(time.time() * 1000) + 1500
    await story.other(ProfileChange, "leaves", status=MemberStatus.SUSPENDED, status_reason="last day", status_from_ms=in_a_moment_ms)
    assert (await story.account())["status"] == "ACTIVE"
    deadline_s = time.monotonic() + TIMEOUT_S
    while (await story.account())["status"] != "SUSPENDED" and time.monotonic() < deadline_s:
        await asyncio.sleep(0.05)
    await story.transact("not-now", kind.REDEEM, points=1, expect="ACCOUNT_SUSPENDED")
    await story.other(ProfileChange, "back", status=MemberStatus.ACTIVE)
    await story.other(MemberOperation, "merge", kind=MemberOperationKind.MERGE, target_member_id=friend, **OPERATE)
    await story.until((1_190, 0, 0, 0), friend)
    assert (await story.account())["merged_into"] == friend
    if isinstance(story.route, Rest):  # A command for the old number is the new one's; its answer is found by the request.
        await story.transact("old-number", kind.EARN, points=10)
        await story.until((1_200, 0, 0, 0), friend)
    account = await story.account(friend)
    assert account["tier"] == "GOLD", "the higher tier stays"
    await story.other(MemberOperation, "erase", member_id=friend, kind=MemberOperationKind.ERASE, **OPERATE)
    account = await story.account(friend)
    assert (account["status"], account["attributes"]) == ("ERASED", {})
    await story.transact("too-late", kind.EARN, member_id=friend, points=1, expect="MEMBER_ERASED")


async def test_every_revert_sent_twice_in_parallel_succeeds_once(stack: Stack, http: aiohttp.ClientSession) -> None:
    route = Rest(stack, http)
    story = Story(route)
    story.name = "reverted"
    await story.other(Enrolment, "reverted:enrol")
    earns = [f"e-{number}" for number in range(REVERTS)]
    await asyncio.gather(*(story.transact(identity, TransactionKind.EARN, points=10 + at) for at, identity in enumerate(earns)))
    spends = [f"s-{number}" for number in range(REVERTS // 2)]
    await asyncio.gather(*(story.transact(identity, TransactionKind.REDEEM, points=5 + at) for at, identity in enumerate(spends)))
    before = (await story.points())[0]
    reverts = [
        Transaction(
            **story.fields(), transaction_id=f"r-{original}-{attempt}", kind=TransactionKind.REVERSE, reverses_transaction_id=original
        )
        for original in (*earns, *spends)
        for attempt in (1, 2)
    ]  # fmt: skip
    # Besides, every request is sent twice under its own id: a client that did not wait for the answer.
    answers = await asyncio.gather(*(route.send(command) for command in reverts for _ in (1, 2)))
    by_original: dict[str, set[tuple[int, str, Any]]] = {}
    for command, (status, answer) in zip([c for c in reverts for _ in (1, 2)], answers, strict=True):
        by_original.setdefault(command.reverses_transaction_id or "", set()).add((status, command.transaction_id, answer.get("reason")))
    for original, seen in by_original.items():
        succeeded = {identity for status, identity, _ in seen if status == 200}
        refused = {(status, reason) for status, _, reason in seen if status != 200}
        assert len(succeeded) == 1, (original, seen)
        assert refused == {(422, "ALREADY_REVERSED")}, (original, seen)
    earned, spent = sum(10 + at for at in range(REVERTS)), sum(5 + at for at in range(REVERTS // 2))
    assert before == earned - spent
    assert await story.points() == (0, 0, 0, 0), "all earns are gone, all spends are back: nothing is left"


async def test_the_history_adds_up(stack: Stack) -> None:
    """After all that: per programme all accounts sum to zero, every chain of hashes is whole, every balance is the sum of its entries."""
    settings = stack.settings
    url = URL(settings.clickhouse_url)

    def rows(sql: str) -> list[Any]:
        client = clickhouse_connect.get_client(host=url.host, port=url.port, database=settings.clickhouse_database)
        try:
            return list(client.query(sql).result_rows)
        finally:
            client.close()

    erased = "SELECT count() FROM loyalty_events FINAL WHERE kind = 'MEMBER_ERASED'"
    expected = 2
    await asyncio.to_thread(wait_until, lambda: rows(erased)[0][0] >= expected, TIMEOUT_S)
    await asyncio.to_thread(wait_until, lambda: rows("SELECT is_zero FROM zero_sum") == [(True,)], TIMEOUT_S)
    assert rows("SELECT member_id FROM hash_chain WHERE NOT chained") == []
    assert rows("SELECT member_id FROM reconciliation WHERE NOT balanced OR NOT gapless") == []
    leaked = "SELECT count() FROM member_profile_history WHERE member_id LIKE '%-friend' AND length(attributes) > 0"
    await asyncio.to_thread(wait_until, lambda: rows(leaked)[0][0] == 0, TIMEOUT_S)


def test_the_helper_writes_what_clients_write() -> None:
    command = Transaction(
        program_id="grand", member_id="m", transaction_id="t", source_system="s", occurred_at_ms=1_000, kind=TransactionKind.EARN, points=1
    )
    assert as_json(replace(command, pending=True))["occurred_at"] == "1970-01-01T00:00:01.000Z"
