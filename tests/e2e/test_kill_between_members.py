"""kill -9 of two workers while points pass between members of different partitions: what leaves one arrives at another, once, or comes back."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import Enrolment, MemberOperation, MemberOperationKind, Transaction, TransactionKind
from schemas.registry import LocalRegistry
from streams import kafka, topics
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, changelogs
from tests.e2e import oracle
from tests.e2e.processes import Pipeline
from tests.engine import log
from tests.waiting import wait_until

SEED = 20261125
MEMBERS, TRANSFERS, MERGES, KILLS = 80, 4_000, 6, 4
POINTS = 5_000
STRANGER = "nobody-knows"


@pytest.fixture
def settings(make_settings: Any, tmp_path: Path) -> Settings:
    config_file = tmp_path / "loyalty.toml"
    config_file.write_text(oracle.RULES_TOML)
    settings: Settings = make_settings(
        config_file=str(config_file), worker_batch_records_max=100, worker_session_timeout_s=3, transaction_timeout_s=6, redis_url="redis://unused",
        clickhouse_url="http://unused",
    )  # fmt: skip
    kafka.ensure_topics(settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)})
    return settings


def commands() -> Iterator[Enrolment | Transaction | MemberOperation]:
    """Everybody joins and has points; then they give them to each other, to nobody, and to members who are merged meanwhile."""
    dice = random.Random(SEED)
    names = [f"M-{number}" for number in range(MEMBERS)]
    base = {"program_id": "grand", "source_system": "test", "occurred_at_ms": 1}
    for name in names:
        yield Enrolment(**base, member_id=name, event_id=f"{name}:enrol")
        yield Transaction(**base, member_id=name, transaction_id=f"{name}:start", kind=TransactionKind.EARN, points=POINTS)
    merged = dice.sample(names, 2 * MERGES)
    for number in range(TRANSFERS):
        if number % (TRANSFERS // MERGES) == TRANSFERS // MERGES // 2:
            source, target = merged.pop(), merged.pop()
            yield MemberOperation(
                **base, member_id=source, event_id=f"merge:{source}", kind=MemberOperationKind.MERGE, target_member_id=target, reason="twice", actor="desk"
            )
        giver, taker = dice.sample(names, 2)
        yield Transaction(
            **base, member_id=giver, transaction_id=f"gift:{number}", kind=TransactionKind.TRANSFER, points=dice.randrange(1, 400),
            to_member_id=STRANGER if dice.random() < 0.05 else taker,
        )  # fmt: skip


class Feeder:
    """Sends the commands, portion by portion."""

    def __init__(self, settings: Settings) -> None:
        self._commands = list(commands())
        self._portion = -(-len(self._commands) // (KILLS + 1))
        self._codec, self._producer = Codec(LocalRegistry()), kafka.producer(settings)
        self._names = {topic.record: topic.name(settings.topic_prefix) for topic in topics.INBOUND}

    def send_portion(self) -> None:
        for command in self._commands[: self._portion]:
            key = member_key(command.program_id, command.member_id)
            self._producer.produce(self._names[type(command)], self._codec.encode(command), key)
        del self._commands[: self._portion]
        assert self._producer.flush(60) == 0


def decided(settings: Settings) -> int:
    return log.end_offsets(settings.kafka_bootstrap_servers, f"{settings.topic_prefix}.ledger-entries.v1")


def accounts_of(settings: Settings) -> dict[str, dict[str, Any]]:
    lines = oracle.read(settings.kafka_bootstrap_servers, f"{settings.topic_prefix}.worker-accounts-changelog", "account")
    return {line.key: line.value for line in lines if line.value is not None}


def test_points_that_pass_between_members_are_neither_lost_nor_doubled(settings: Settings) -> None:
    dice, feeder = random.Random(SEED), Feeder(settings)
    workers = [Pipeline(settings, "worker", name=f"worker-{number}") for number in (1, 2)]
    try:
        for worker in workers:
            worker.wait_ready()
        for kill in range(KILLS):
            wanted = decided(settings) + dice.randrange(100, 600)
            feeder.send_portion()
            wait_until(lambda wanted=wanted: decided(settings) >= wanted, timeout_s=90)
            workers[kill % 2].kill()
            workers[kill % 2] = Pipeline(settings, "worker", name=f"worker-{kill % 2 + 1}")
        feeder.send_portion()

        def everything_has_arrived() -> bool:
            return sum(account["available_points"] for account in accounts_of(settings).values()) == MEMBERS * POINTS

        wait_until(everything_has_arrived, timeout_s=120)
        assert [worker.wait_ready().stop() for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.kill()
    check(settings)


def check(settings: Settings) -> None:
    """In the journal: each gift left once and came to one place once; nobody has a gap, everybody's entries lead to the balance."""
    entries = [line.value for line in oracle.read(settings.kafka_bootstrap_servers, f"{settings.topic_prefix}.ledger-entries.v1", "ledger_entry")]
    moved: Counter[tuple[str, str]] = Counter()
    per_member: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        assert entry is not None
        per_member.setdefault(entry["member_id"], []).append(entry)
        if entry["counter_account"] == "in_transit":
            moved[entry["transaction_id"], "out" if entry["points_delta"] < 0 else "in"] += 1
    gifts = {identity.rpartition("/")[2] for identity, _ in moved}
    assert len([gift for gift in gifts if gift.startswith("gift:")]) > TRANSFERS // 2
    for identity, direction in moved:
        if identity.startswith("gift:") or "/gift:" in identity:
            assert moved[identity, direction] == 1, (identity, direction, moved[identity, direction])
            assert moved[identity, "in"] == moved[identity, "out"] == 1, identity
    accounts = {key.partition("/")[2]: account for key, account in accounts_of(settings).items()}
    for name, own in per_member.items():
        assert [entry["entry_sequence"] for entry in own] == list(range(1, len(own) + 1)), name
        assert sum(entry["points_delta"] for entry in own if entry["account"] == "available") == accounts[name]["available_points"], name
        assert [entry["previous_hash"] for entry in own[1:]] == [entry["entry_hash"] for entry in own[:-1]], name
    audits = [line.value for line in oracle.read(settings.kafka_bootstrap_servers, f"{settings.topic_prefix}.sync-audit.v1", "sync_audit")]
    answers = Counter(audit["audit_id"] for audit in audits if audit is not None and audit["result"] != "WAITING" and audit["stream"] != "programs")
    assert set(answers.values()) == {1}
    assert len(answers) == 2 * MEMBERS + TRANSFERS + MERGES
    assert sum(account["status"] == "MERGED" for account in accounts.values()) == MERGES
