"""External ids on real parts: two workers, four partitions, kill -9 in between. What was sent by card is credited once, to whom the card leads."""

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import Enrolment, MemberOperation, MemberOperationKind, Transaction, TransactionKind
from schemas.registry import LocalRegistry
from streams import kafka, topics
from streams.cli import main
from streams.domain.identity import pseudonym
from streams.ingress.commands import format_time
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, changelogs
from tests.e2e import oracle
from tests.e2e.processes import Pipeline, free_port
from tests.waiting import wait_until

PARTITIONS, TIMEOUT_S = 4, 60
TOKEN = "token-of-the-identities-test"
CARDS, EARNS_PER_CARD, POINTS = 40, 5, 10
SCOPES = ["transactions:write", "enrolments:write", "member-operations:write", "members:read", "operations:read"]
BASE: dict[str, Any] = {"program_id": "grand", "source_system": "test", "occurred_at_ms": 1_795_318_800_000}
TOPICS = {topic.record: topic for topic in topics.INBOUND}


class World:
    """Two workers and an ingress. A worker that was killed comes back at its port."""

    def __init__(self, settings: Settings) -> None:
        self.ports = [free_port(), free_port()]
        urls = ",".join(f"http://127.0.0.1:{port}" for port in self.ports)
        self.settings = replace(settings, worker_urls=urls, ingress_port=free_port())
        self.workers = [self._worker(number) for number in range(2)]
        self.ingress = Pipeline(self.settings, "ingress", http_port=self.settings.ingress_port)
        self.codec, self.producer = Codec(LocalRegistry()), kafka.producer(settings)

    def _worker(self, number: int) -> Pipeline:
        settings = replace(self.settings, worker_data_dir=str(Path(self.settings.home) / f"worker-{number}"))
        return Pipeline(settings, "worker", name=f"worker-{number}", http_port=self.ports[number])

    def kill(self, number: int) -> None:
        self.workers[number].kill()
        self.workers[number] = self._worker(number)

    def stop(self) -> None:
        for process in (*self.workers, self.ingress):
            if process.process.poll() is None:
                process.kill()

    def send(self, *commands: Enrolment | Transaction | MemberOperation) -> None:
        """Into the topics, as an upstream producer."""
        for command in commands:
            key = member_key(command.program_id, command.member_id)
            self.producer.produce(TOPICS[type(command)].name(self.settings.topic_prefix), self.codec.encode(command), key)
        assert self.producer.flush(TIMEOUT_S) == 0

    def post(self, command: Enrolment | Transaction | MemberOperation, wait_s: int = 20) -> tuple[int, dict[str, Any]]:
        """By the REST API."""
        fields = {name: value for name, value in command.to_avro().items() if value is not None}
        body = {name.removesuffix("_ms"): format_time(value) if name.endswith("_ms") else value for name, value in fields.items()}
        return self._ask(TOPICS[type(command)].stream, json.dumps(body).encode(), {"Prefer": f"wait={wait_s}"} if wait_s else {})

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        return self._ask(path, None, {})

    def _ask(self, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"} | headers
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{self.ingress.url}/v1/{path}", body, headers), timeout=TIMEOUT_S) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def read(self, stream: str, record: str) -> list[dict[str, Any]]:
        lines = oracle.read(self.settings.kafka_bootstrap_servers, f"{self.settings.topic_prefix}.{stream}.v1", record)
        return [line.value for line in lines if line.value is not None]

    def accounts(self) -> dict[str, dict[str, Any]]:
        lines = oracle.read(self.settings.kafka_bootstrap_servers, f"{self.settings.topic_prefix}.worker-accounts-changelog", "account")
        return {line.value["member_id"]: line.value for line in lines if line.value is not None}

    def waiting_metrics(self) -> dict[str, float]:
        """Commands that wait, by partition, as the workers tell it."""
        found = {}
        for worker in self.workers:
            with urllib.request.urlopen(f"{worker.url}/metrics", timeout=TIMEOUT_S) as answer:
                lines = answer.read().decode().splitlines()
            for line in lines:
                if line.startswith("loyalty_waiting_commands{"):
                    found[line.partition("{")[2].partition("}")[0]] = float(line.rpartition(" ")[2])
        return found


@pytest.fixture
def world(make_settings: Any, tmp_path: Path) -> Iterator[World]:
    config_file = tmp_path / "loyalty.toml"
    config_file.write_text(oracle.RULES_TOML + f'[tokens.test]\ntoken = "{TOKEN}"\nscopes = {json.dumps(SCOPES)}\nsource_systems = ["*"]\n')
    settings: Settings = make_settings(
        config_file=str(config_file), kafka_partitions=PARTITIONS, worker_session_timeout_s=3, transaction_timeout_s=6, clickhouse_url="http://unused",
    )  # fmt: skip
    kafka.ensure_topics(settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)})
    running = World(settings)
    try:
        for process in (*running.workers, running.ingress):
            process.wait_ready()
        yield running
    finally:
        running.stop()


def earn(member_id: str, transaction_id: str, points: int = 100) -> Transaction:
    return Transaction(**BASE, member_id=member_id, transaction_id=transaction_id, kind=TransactionKind.EARN, points=points)


def enrol(member_id: str, card: str) -> Enrolment:
    return Enrolment(**BASE, member_id=member_id, event_id=f"enrol:{member_id}", external_ids={"card": card})


def test_a_card_leads_to_one_member_through_enrolment_conflict_merge_and_kills(world: World) -> None:
    # Before anybody has the card.
    status, answer = world.post(earn("@card:GRAND-0815", "pms:1"))
    assert (status, answer["status"]) == (202, "waiting_for_enrolment")
    status, page = world.get("waiting?program=grand")
    shown = "@card:" + pseudonym(world.settings.voucher_key.encode(), "grand", "card", "GRAND-0815")
    assert status == 200
    assert [(row["member_id"], row["commands"], row["streams"], row["source_systems"]) for row in page["waiting"]] == [
        (shown, 1, {"transactions": 1}, {"test": 1})
    ]
    assert (page["next"], page["partitions_missing"]) == (None, [])
    told = CliRunner().invoke(main, ["waiting", "--url", world.ingress.url, "--token", TOKEN, "--json"])
    assert (told.exit_code, json.loads(told.output)) == (0, page)
    wait_until(lambda: sum(world.waiting_metrics().values()) == 1, TIMEOUT_S)
    assert world.get("members/@card:GRAND-0815?program=grand")[0] == 404

    # The enrolment with the card, and the worker dies.
    world.post(enrol("M-1", "GRAND-0815"), wait_s=0)
    world.kill(0)

    def balance() -> dict[str, Any]:
        status, found = world.get("members/@card:GRAND-0815?program=grand")
        return found if status == 200 else {}

    wait_until(lambda: balance().get("available_points") == 100, TIMEOUT_S)
    assert balance()["member_id"] == "M-1"
    world.workers[0].wait_ready()
    status, again = world.post(earn("M-1", "pms:1"))
    assert (status, again["replayed"]) == (200, True), "by number it is the same command"

    # Another member with the same card.
    assert world.post(enrol("M-2", "GRAND-0815"))[0] == 200

    def conflicts() -> list[tuple[str, str, str]]:
        events = world.read("events", "loyalty_event")
        return [(one["member_id"], one["identity_type"], one["counter_member_id"]) for one in events if one["kind"] == "IDENTITY_CONFLICT"]

    wait_until(lambda: conflicts() == [("M-2", "card", "M-1")], TIMEOUT_S)
    assert balance()["member_id"] == "M-1"
    assert world.get("members/M-2?program=grand")[1]["external_ids"] == {}

    # One number becomes another, and the worker dies.
    merge = MemberOperation(
        **BASE, member_id="M-1", event_id="merge:1", kind=MemberOperationKind.MERGE, target_member_id="M-2", reason="one guest", actor="desk"
    )
    world.post(merge, wait_s=0)
    world.kill(1)
    wait_until(lambda: balance().get("member_id") == "M-2" and balance()["available_points"] == 100, TIMEOUT_S)
    world.workers[1].wait_ready()
    status, answer = world.post(earn("@card:GRAND-0815", "pms:2", 50))
    assert (status, answer["member_id"], answer["available_points"]) == (200, "M-2", 150)

    wait_until(lambda: set(world.waiting_metrics().values()) == {0.0} and len(world.waiting_metrics()) == PARTITIONS, TIMEOUT_S)
    assert "GRAND-0815" not in repr(world.read("sync-audit", "sync_audit"))
    credits = [entry for entry in world.read("ledger-entries", "ledger_entry") if entry["kind"] == "EARN"]
    assert [(entry["transaction_id"], entry["points_delta"]) for entry in credits] in (
        [("pms:1", 100), ("M-1/pms:2", 50)], [("M-1/pms:2", 50), ("pms:1", 100)],
    )  # fmt: skip


def test_what_is_sent_by_card_while_workers_die_is_credited_once(world: World) -> None:
    earns = [earn(f"@card:{card}", f"pms:{card}-{number}", POINTS) for number in range(EARNS_PER_CARD) for card in range(CARDS)]
    enrolments = [enrol(f"M-{card}", str(card)) for card in range(CARDS)]
    third = len(earns) // 3
    world.send(*earns[:third])
    world.send(*enrolments[: CARDS // 2])
    world.kill(0)
    world.send(*earns[third : 2 * third])
    world.kill(1)
    world.send(*enrolments[CARDS // 2 :])
    world.send(*earns[2 * third :])

    def points() -> set[int]:
        accounts = world.accounts()
        return {account["available_points"] for account in accounts.values()} if len(accounts) == CARDS else set()

    wait_until(lambda: points() == {EARNS_PER_CARD * POINTS}, TIMEOUT_S)
    for worker in world.workers:
        worker.wait_ready()
    # Twice, once by each way: repetitions, all of them.
    world.send(*earns, *(replace(one, member_id=one.member_id.replace("@card:", "M-")) for one in earns))

    def answers() -> Counter[tuple[str, str, bool]]:
        audits = world.read("sync-audit", "sync_audit")
        return Counter((audit["command_id"], audit["result"], audit["replayed"]) for audit in audits if audit["stream"] == "transactions")

    wait_until(lambda: sum(count for (_, _, replayed), count in answers().items() if replayed) == 2 * len(earns), TIMEOUT_S)
    told = answers()
    for one in earns:
        assert (told[one.transaction_id, "APPLIED", False], told[one.transaction_id, "APPLIED", True]) == (1, 2), one.transaction_id
    assert points() == {EARNS_PER_CARD * POINTS}
    entries = Counter(entry["transaction_id"] for entry in world.read("ledger-entries", "ledger_entry"))
    assert entries == {one.transaction_id: 1 for one in earns}
