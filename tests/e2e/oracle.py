"""Recomputes every member from the input log and compares: shares no code with the pipeline but the Avro schemas.

It knows the rules of one programme by heart (RULES_TOML), reads topics with its own consumer and decodes them with fastavro.
"""

import io
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import Consumer, TopicPartition

AVRO = Path(__file__).parents[2] / "schemas" / "avro"

RULES_TOML = """
[programs.grand.earn]
points_per_unit = { EUR = 10, JPY = 1 }
[programs.grand.reversal]
policy = "unlimited"
[[programs.grand.tiers]]
name = "MEMBER"
threshold_points = 0
[[programs.grand.tiers]]
name = "GOLD"
threshold_points = 10000
earn_percent = 125
"""
UNITS = {"EUR": (10, 100), "JPY": (1, 1)}  # Points per unit, minor units per unit.
GOLD_FROM, GOLD_PERCENT = 10_000, 125


@dataclass(frozen=True, slots=True)
class Line:
    partition: int
    offset: int
    key: str
    value: dict[str, Any] | None


def read(bootstrap: str, topic: str, record: str) -> list[Line]:
    """All committed records of a topic, by partition and offset."""
    schema = fastavro.parse_schema(json.loads((AVRO / f"{record}.avsc").read_text()))
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "oracle", "isolation.level": "read_committed",
                         "enable.partition.eof": True, "enable.auto.commit": False, "fetch.wait.max.ms": 10})  # fmt: skip
    lines: list[Line] = []
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        at_end: set[int] = set()
        while len(at_end) < len(partitions):
            for message in consumer.consume(5000, timeout=0.1):
                if message.error():
                    at_end.add(message.partition())
                    continue
                data = message.value()
                value = None if data is None else fastavro.schemaless_reader(io.BytesIO(data[5:]), schema, None)
                lines.append(Line(message.partition(), message.offset(), message.key().decode(), value))
    finally:
        consumer.close()
    return sorted(lines, key=lambda line: (line.partition, line.offset))


@dataclass(slots=True)
class Member:
    net: int = 0
    """Points, or below 0 what is owed: nobody has points and a debt."""
    qualifying: int = 0
    answers: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Transaction id -> result and change of the available points."""
    amounts: dict[str, int] = field(default_factory=dict)
    """Transaction id -> points it was about, above 0 for those that came in."""
    payloads: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    reversed: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, str] = field(default_factory=dict)
    postings: int = 0

    @property
    def available(self) -> int:
        return max(0, self.net)

    @property
    def debt(self) -> int:
        return max(0, -self.net)

    def move(self, points: int) -> int:
        """The change of the available points."""
        before, owed = self.available, self.debt
        self.net += points
        # What comes in is one line, and what of it pays a debt another; what goes out is taken of the points, and the rest is owed.
        self.postings += (points > 0) + (points > 0 and owed > 0) if points > 0 else (self.available < before) + (self.debt > owed)
        return self.available - before


def recompute(transactions: list[Line], enrolled: set[str]) -> dict[str, Member]:
    """The naive ledger: each enrolled member's transactions, in the order of the log."""
    members: dict[str, Member] = {key: Member() for key in enrolled}
    for line in transactions:
        t = line.value
        assert t is not None
        if line.key not in members:
            continue
        member = members[line.key]
        identity = t["transaction_id"]
        payload = tuple(t[name] for name in ("kind", "points", "amount_minor", "currency", "reverses_transaction_id", "source_system"))
        if identity in member.payloads:
            continue  # A repetition or a conflict: neither changes anything.
        member.payloads[identity] = payload
        moved, result = _decide(member, t)
        member.answers[identity] = (result, moved)
        member.kinds[identity] = t["kind"]
    return members


def _decide(member: Member, t: dict[str, Any]) -> tuple[int, str]:
    identity = t["transaction_id"]
    if t["kind"] == "EARN":
        points = t["points"]
        if points is None:
            per_unit, minor = UNITS[t["currency"]]
            percent = GOLD_PERCENT if member.qualifying >= GOLD_FROM else 100
            points = int(Fraction(t["amount_minor"] * per_unit, minor) * percent / 100)
        member.qualifying += points
        member.amounts[identity] = points
        return member.move(points), "APPLIED"
    if t["kind"] == "REDEEM":
        if t["points"] > member.available:
            return 0, "REFUSED"
        member.amounts[identity] = -t["points"]
        return member.move(-t["points"]), "APPLIED"
    assert t["kind"] == "REVERSE"
    original = t["reverses_transaction_id"]
    amount = member.amounts.get(original, 0)
    left = abs(amount) - member.reversed[original]
    asked = t["points"] or left
    if amount == 0 or left == 0 or asked > left:
        return 0, "REFUSED"
    member.reversed[original] += asked
    if amount > 0:
        member.qualifying = max(0, member.qualifying - asked)
    return member.move(-asked if amount > 0 else asked), "APPLIED"


def differences(bootstrap: str, prefix: str) -> dict[str, int]:
    """What is wrong in tables and outbound topics, counted; every value is 0 when all is right."""
    transactions = read(bootstrap, f"{prefix}.transactions.v1", "transaction")
    enrolled = {line.key for line in read(bootstrap, f"{prefix}.enrolments.v1", "enrolment")}
    expected = recompute(transactions, enrolled)
    accounts: dict[str, dict[str, Any]] = {}
    for line in read(bootstrap, f"{prefix}.worker-accounts-changelog", "account"):
        if line.value is not None:
            accounts[line.key] = line.value
    entries: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in read(bootstrap, f"{prefix}.ledger-entries.v1", "ledger_entry"):
        assert line.value is not None
        entries[line.key].append(line.value)
    events: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in read(bootstrap, f"{prefix}.events.v1", "loyalty_event"):
        assert line.value is not None
        events[line.key].append(line.value)
    audits = read(bootstrap, f"{prefix}.sync-audit.v1", "sync_audit")
    audited = Counter(line.value["audit_id"] for line in audits if line.value)
    answers = {
        (line.key, line.value["command_id"]): (line.value["result"], line.value["points_delta"] or 0)
        for line in audits
        if line.value and line.value["stream"] == "transactions" and not line.value["replayed"] and line.value["result"] in ("APPLIED", "REFUSED")
    }
    inputs = {f"{prefix}.transactions.v1-{line.partition}-{line.offset}" for line in transactions}
    return {
        "balances wrong in the table": sum(accounts[key]["available_points"] != m.available for key, m in expected.items()),
        "debts wrong in the table": sum(accounts[key]["debt_points"] != m.debt for key, m in expected.items()),
        "tier points wrong in the table": sum(accounts[key]["qualifying_points"] != m.qualifying for key, m in expected.items()),
        "tiers wrong in the table": sum((accounts[key]["tier"] == "GOLD") != (m.qualifying >= GOLD_FROM) for key, m in expected.items()),
        "ledgers that do not sum up": sum(
            [sum(e["points_delta"] for e in entries[key] if e["account"] == "available"), entries[key][-1]["available_after"] if entries[key] else 0]
            != [m.available, m.available]
            for key, m in expected.items()
        ),
        "ledgers with lost or doubled entries": sum(len(entries[key]) != m.postings for key, m in expected.items()),
        "ledger sequences with a gap": sum(_gapped(entries[key], "entry_sequence") for key in expected),
        "event sequences with a gap": sum(_gapped(events[key], "sequence") for key in expected),
        "last events that differ": sum(events[key][-1]["account"]["available_points"] != m.available for key, m in expected.items()),
        "wrong answers": sum(answers.get((key, i)) != answer for key, m in expected.items() for i, answer in m.answers.items()),
        "inputs without exactly one audit record": sum(audited[identity] != 1 for identity in inputs),
    }


def _gapped(records: list[dict[str, Any]], name: str) -> bool:
    return [record[name] for record in records] != list(range(1, len(records) + 1))
