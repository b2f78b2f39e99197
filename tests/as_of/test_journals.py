"""Journals that the domain itself makes of any sequence of commands, in a real ClickHouse: the balances of every moment, and the reports' sums."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from schemas.records import LedgerEntry, LoyaltyEvent
from sinks import clickhouse
from streams.analytics import catalogue
from streams.as_of import query
from streams.as_of.query import Moment
from streams.domain.program import ExpiryRule
from streams.history import EPOCH, Reader
from streams.settings import Settings
from tests.analytics import world
from tests.domain.journals import Journal, journals

pytestmark = pytest.mark.stack

NOBODY = "127.0.0.1:1"
EACH, STEPS, SEED = 30, 40, 8
MOMENTS = 24
OWN = ("available", "pending", "held", "debt")
END = datetime(2100, 1, 1, tzinfo=UTC)
Member = tuple[str, str]
Points = tuple[int, int, int, int]
"""Available, pending, held and owed."""


@pytest.fixture(scope="module")
def made() -> Sequence[Journal]:
    return journals(EACH, STEPS)


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Settings], made: Sequence[Journal]) -> Settings:
    settings = make_settings(kafka_bootstrap_servers=NOBODY, redis_url=f"redis://{NOBODY}")
    clickhouse.migrate(settings)
    world.write(settings, "ledger_entries", [entry for journal in made for entry in journal.entries])
    world.write(settings, "loyalty_events", [event for journal in made for event in journal.events])
    return settings


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[Client]:
    connected = clickhouse.connect(settings)
    yield connected
    connected.close()


def balances(settings: Settings, moment: Moment, **about: Any) -> dict[Member, Points]:
    async def read() -> list[dict[str, Any]]:
        async with Reader(settings) as reader:
            return [query.named(row) async for row in reader.rows(query.balances(moment, **about))]

    found = asyncio.run(read())
    return {(row["program_id"], row["member_id"]): tuple(row[name] for name in query.POINTS) for row in found}


def is_by_then(record: LedgerEntry | LoyaltyEvent, moment: Moment) -> bool:
    return (moment.effective_ms is None or record.occurred_at_ms <= moment.effective_ms) and (
        moment.recorded_ms is None or record.recorded_at_ms <= moment.recorded_ms
    )


def folded(made: Sequence[Journal], moment: Moment) -> dict[Member, Points]:
    """What the journals add up to, by the rule of double entry, for everybody who had joined."""
    found: dict[Member, Counter[str]] = {
        (event.program_id, event.member_id): Counter() for journal in made for event in journal.events if is_by_then(event, moment)
    }
    for entry in (entry for journal in made for entry in journal.entries if is_by_then(entry, moment)):
        sums = found.setdefault((entry.program_id, entry.member_id), Counter())
        sums[entry.account] += entry.points_delta
        sums[entry.counter_account] -= entry.points_delta
    return {member: (sums["available"], sums["pending"], sums["held"], -sums["debt"]) for member, sums in found.items()}


def told(made: Sequence[Journal], recorded_ms: int) -> dict[Member, Points]:
    """What the newest event of each member said by then: how the account itself was."""
    newest: dict[Member, LoyaltyEvent] = {}
    for event in (event for journal in made for event in journal.events if event.recorded_at_ms <= recorded_ms):
        member = (event.program_id, event.member_id)
        if member not in newest or event.sequence > newest[member].sequence:
            newest[member] = event
    accounts = {member: event.account for member, event in newest.items()}
    return {member: (one.available_points, one.pending_points, one.held_points, one.debt_points) for member, one in accounts.items()}


def instants(made: Sequence[Journal], name: str) -> list[int]:
    return sorted({getattr(record, name) for journal in made for record in (*journal.entries, *journal.events)})


def test_the_journals_are_worth_it(made: Sequence[Journal]) -> None:
    kinds = Counter(entry.kind.value for journal in made for entry in journal.entries)
    assert len(kinds) > 15 and sum(kinds.values()) > 900
    late = [entry for journal in made for entry in journal.entries if entry.occurred_at_ms < entry.recorded_at_ms]
    assert len(late) > 100


def test_balances_are_the_fold_of_the_journal_at_any_moment(settings: Settings, made: Sequence[Journal]) -> None:
    chosen, effective, recorded = random.Random(SEED), instants(made, "occurred_at_ms"), instants(made, "recorded_at_ms")
    moments = [Moment()]
    for _ in range(MOMENTS):  # Exactly at something, and an instant beside it.
        effective_ms, recorded_ms = (chosen.choice(times) + chosen.choice([-1, 0, 0, 1]) for times in (effective, recorded))
        moments.append(Moment(effective_ms=chosen.choice([None, effective_ms]), recorded_ms=chosen.choice([None, recorded_ms])))
    for moment in moments:
        everybody, expected = balances(settings, moment), folded(made, moment)
        assert everybody == {member: points for member, points in expected.items() if member in everybody}
        assert all(points == (0, 0, 0, 0) for member, points in expected.items() if member not in everybody), "who had not joined had nothing"
        for program, member in chosen.sample(sorted(everybody), min(2, len(everybody))):
            assert balances(settings, moment, program=program, member=member) == {(program, member): everybody[program, member]}


def test_what_was_known_is_what_the_account_was_then(settings: Settings, made: Sequence[Journal]) -> None:
    chosen = random.Random(SEED + 1)
    for recorded_ms in chosen.sample(instants(made, "recorded_at_ms"), MOMENTS):
        assert balances(settings, Moment(recorded_ms=recorded_ms)) == told(made, recorded_ms)


def test_all_that_is_known_is_what_the_accounts_are(settings: Settings, made: Sequence[Journal]) -> None:
    accounts = {
        (one.program_id, one.member_id): (one.available_points, one.pending_points, one.held_points, one.debt_points)
        for journal in made for one in journal.accounts
    }  # fmt: skip
    assert balances(settings, Moment()) == accounts


def report(client: Client, name: str) -> list[dict[str, Any]]:
    """The rows of all times, by the report's own SQL."""
    answer = client.query(catalogue.load()[name].sql, parameters={"since": EPOCH, "until": END})
    return [dict(zip(answer.column_names, row, strict=True)) for row in answer.result_rows]


def points_of(rows: list[dict[str, Any]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in rows:
        found[row["program_id"]] += row["points"]
    return found


def test_what_was_issued_less_what_went_is_what_is_owed(client: Client, made: Sequence[Journal]) -> None:
    """Reversals are in what was issued, refunds in what was redeemed, and what was given by hand or is on its way has accounts of its own."""
    issued, redeemed, expired, owed = (points_of(report(client, name)) for name in ("points-issued", "points-redeemed", "points-expired", "liability"))
    others = {row[0]: row[1:] for row in client.query("SELECT program_id, adjusted, in_transit, is_zero FROM zero_sum").result_rows}
    for journal in made:
        program_id = journal.program.program_id
        adjusted, in_transit, is_zero = others.get(program_id, (0, 0, True))
        debt = sum(account.debt_points for account in journal.accounts)
        assert is_zero
        assert owed[program_id] == sum(account.available_points + account.pending_points + account.held_points for account in journal.accounts)
        assert owed[program_id] == issued[program_id] - redeemed[program_id] - expired[program_id] - adjusted - in_transit + debt, program_id


def test_what_is_owed_expires_when_the_lots_do(client: Client, made: Sequence[Journal]) -> None:
    """Where activity keeps points alive, entries do not say for how long."""
    found: dict[str, Counter[str]] = {}
    for row in report(client, "liability"):
        assert row["points_not_in_lots"] == 0, row
        found.setdefault(row["program_id"], Counter())[str(row["expires"])] += row["points"]
    for journal in made:
        expected: Counter[str] = Counter()
        for lot in (lot for account in journal.accounts for lot in account.lots):
            if lot.remaining + lot.held:
                expected[_month(lot.expires_at_ms)] += lot.remaining + lot.held
        if journal.program.expiry.rule is not ExpiryRule.INACTIVITY:
            assert found.get(journal.program.program_id, Counter()) == expected, journal.program.program_id


def _month(at_ms: int | None) -> str:
    return "None" if at_ms is None else f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-01}"
