"""Balances as of a moment, in a real ClickHouse: equal to the fold of the journal at every one, however late its entries came."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from schemas.records import EntryKind, LedgerEntry, LoyaltyEvent, MemberStatus
from sinks import clickhouse
from sinks.base import Verdict
from sinks.clickhouse import TABLES, History
from streams.as_of import query
from streams.as_of.query import Moment
from streams.history import Reader
from streams.settings import Settings
from tests.sinks import examples
from tests.sinks.examples import MOMENT_MS, item

pytestmark = pytest.mark.stack

NOBODY = "127.0.0.1:1"
OWN, PROGRAMS_OWN = ("available", "pending", "held", "debt"), ("issued", "redeemed", "adjusted", "expired", "in_transit")
MEMBERS, EACH, SEED = 12, 60, 20261201


def journal() -> list[LedgerEntry]:
    """Entries of every kind of movement; what happened and what was known are in different orders."""
    chosen = random.Random(SEED)
    entries = []
    for number in range(MEMBERS):
        recorded_ms = MOMENT_MS
        for sequence in range(1, EACH + 1):
            recorded_ms += chosen.choice([0, 1, 999, 86_400_000])  # Several of one instant, too.
            account = chosen.choice(OWN)
            entries.append(replace(
                examples.ledger_entry(sequence, f"m-{number:02}"), kind=EntryKind.EARN, account=account, points_delta=chosen.randint(-500, 500),
                counter_account=chosen.choice([one for one in OWN + PROGRAMS_OWN if one != account]),
                occurred_at_ms=recorded_ms - chosen.choice([0, 0, 1, 3_600_000, 40 * 86_400_000]), recorded_at_ms=recorded_ms,
            ))  # fmt: skip
    return entries


def standings() -> list[LoyaltyEvent]:
    """Everybody joins before all; some are suspended, and are gold, later."""
    made = [examples.event(1, f"m-{number:02}") for number in range(MEMBERS + 1)]
    for number in range(0, MEMBERS, 2):
        event = examples.event(2, f"m-{number:02}")
        account = replace(event.account, status=MemberStatus.SUSPENDED, tier="GOLD")
        made.append(replace(event, account=account, occurred_at_ms=MOMENT_MS + 5_000, recorded_at_ms=MOMENT_MS + 90_000))
    early_ms = MOMENT_MS - 100 * 86_400_000
    return [replace(one, occurred_at_ms=early_ms, recorded_at_ms=early_ms) if one.sequence == 1 else one for one in made]


def folded(entries: list[LedgerEntry], moment: Moment) -> dict[str, Counter[str]]:
    """What the journal adds up to, by the rule of double entry."""
    found: dict[str, Counter[str]] = {f"m-{number:02}": Counter() for number in range(MEMBERS + 1)}
    for entry in entries:
        if moment.effective_ms is not None and entry.occurred_at_ms > moment.effective_ms:
            continue
        if moment.recorded_ms is not None and entry.recorded_at_ms > moment.recorded_ms:
            continue
        balances = found[entry.member_id]
        balances["entries"] += 1
        balances[entry.account] += entry.points_delta
        if entry.counter_account in OWN:
            balances[entry.counter_account] -= entry.points_delta
    return found


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Settings]) -> Settings:
    made = make_settings(kafka_bootstrap_servers=NOBODY, redis_url=f"redis://{NOBODY}")
    clickhouse.migrate(made)
    for _ in range(2):  # What is read again changes nothing.
        write(made, "ledger_entries", journal())
        write(made, "loyalty_events", standings())
    return made


def write(settings: Settings, table: str, records: list[Any]) -> None:
    history = History(settings, next(one for one in TABLES if one.name == table))
    receipts = history.write_now([item(record, offset=number, partition=0) for number, record in enumerate(records)])
    assert {receipt.verdict for receipt in receipts} == {Verdict.DELIVERED}
    history.close()


def rows(settings: Settings, asked: query.Query) -> list[list[Any]]:
    async def read() -> list[list[Any]]:
        async with Reader(settings) as reader:
            return [row async for row in reader.rows(asked)]

    return asyncio.run(read())


def test_balances_are_the_fold_of_the_journal_at_every_moment(settings: Settings) -> None:
    entries, chosen = journal(), random.Random(SEED + 1)
    instants = [entry.occurred_at_ms for entry in entries] + [entry.recorded_at_ms for entry in entries]
    moments = [Moment(), Moment(effective_ms=MOMENT_MS), Moment(recorded_ms=MOMENT_MS)]
    for _ in range(25):  # Exactly at an entry, and an instant beside it.
        effective_ms, recorded_ms = (chosen.choice(instants) + chosen.choice([-1, 0, 0, 1]) for _ in range(2))
        moments.append(Moment(effective_ms=chosen.choice([None, effective_ms]), recorded_ms=chosen.choice([None, recorded_ms])))
    for moment in moments:
        found = {row["member_id"]: row for row in map(query.named, rows(settings, query.balances(moment)))}
        expected = folded(entries, moment)
        assert list(found) == sorted(expected)
        for member_id, balances in expected.items():
            own = [balances["available"], balances["pending"], balances["held"], -balances["debt"]]
            assert [found[member_id][name] for name in query.POINTS] == own, (moment, member_id)
            assert found[member_id]["entries"] == balances["entries"]


def test_a_member_by_herself_is_as_among_all(settings: Settings) -> None:
    moment = Moment(effective_ms=MOMENT_MS + 86_400_000)
    everybody = rows(settings, query.balances(moment))
    assert rows(settings, query.balances(moment, limit=2)) == everybody[:2]
    for row in everybody[:3]:
        assert rows(settings, query.balances(moment, program="grand", member=row[1])) == [row]
    assert rows(settings, query.balances(moment, programs=frozenset({"staff"}))) == []


@pytest.mark.parametrize(("moment", "expected"), [
    (Moment(effective_ms=MOMENT_MS + 4_999), ("ACTIVE", "MEMBER")),
    (Moment(effective_ms=MOMENT_MS + 5_000), ("SUSPENDED", "GOLD")),
    (Moment(effective_ms=MOMENT_MS + 5_000, recorded_ms=MOMENT_MS + 89_999), ("ACTIVE", "MEMBER")),
    (Moment(recorded_ms=MOMENT_MS + 90_000), ("SUSPENDED", "GOLD")),
])  # fmt: skip
def test_status_and_tier_are_of_the_newest_event_by_then(settings: Settings, moment: Moment, expected: tuple[str, str]) -> None:
    row = query.named(rows(settings, query.balances(moment, program="grand", member="m-00"))[0])
    assert (row["status"], row["tier"]) == expected


def test_who_had_not_joined_is_not_there(settings: Settings) -> None:
    assert rows(settings, query.balances(Moment(effective_ms=MOMENT_MS - 101 * 86_400_000))) == []


def test_how_far_the_history_is(settings: Settings) -> None:
    assert rows(settings, query.mirrored()) == [[MOMENT_MS + 90_000]]
