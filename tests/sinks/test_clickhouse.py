"""The history: what is written twice is there once, a bad row goes alone, migrations are applied once and never change."""

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, DataError, OperationalError
from prometheus_client import REGISTRY

from schemas.columns import ColumnDecoder
from schemas.records import AccountSnapshot, Cause, CommandResult, DeadLetterStage, EntryKind, LoyaltyEventKind, MemberStatus, RunResult
from sinks import clickhouse, main
from sinks.base import Verdict
from sinks.clickhouse import TABLES, History, erasure, migrations
from sinks.clickhouse.migrations import Migration
from sinks.clickhouse.tables import Fields
from streams import kafka as kafka_clients
from streams import topics
from streams.configuration import Configuration
from streams.errors import ConfigurationError, UnavailableError
from streams.settings import Settings
from tests.sinks import examples
from tests.sinks.broker import codec, dead_letters, fill, running, until_committed
from tests.sinks.examples import item
from tests.sinks.proxy import proxy

pytestmark = pytest.mark.stack

NOWHERE = {"kafka_bootstrap_servers": "127.0.0.1:1", "redis_url": "redis://127.0.0.1:1"}
TABLE = {table.name: table for table in TABLES}
EXAMPLES: dict[str, list[Any]] = {
    "ledger_entries": [examples.ledger_entry(n, f"m-{m}") for m in range(5) for n in range(1, 21)],
    "loyalty_events": list(examples.EVERY_KIND.values()),
    "member_profile_history": [examples.profile(n, f"m-{m}") for m in range(3) for n in range(1, 5)],
    "sync_audit": [examples.audit(n) for n in range(1, 20)],
    "delivery_audit": [examples.delivery_audit(n) for n in range(1, 20)],
    "delivery_attempts": [*(examples.delivery_attempt(n) for n in range(1, 10)), *(examples.failed_attempt(n) for n in range(1, 10))],
    "delivery_notices": [examples.delivery_notice(1), examples.delivery_notice(2, program_id=None, member_id=None, event_id=None)],
    "dead_letters": [examples.dead_letter(n) for n in range(5)],
    "sync_runs": [examples.sync_run(1), examples.sync_run(2, counts={}, result=RunResult.FAILED, detail="it is not ready")],
}


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Settings]) -> Settings:
    made = make_settings(**NOWHERE, attempt_retention_days=0)  # The examples are from long ago.
    clickhouse.migrate(made)
    return made


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    connected = clickhouse.connect(settings)
    for table in TABLES:
        connected.command(f"TRUNCATE TABLE {table.name}")
    connected.command("TRUNCATE TABLE mirror_ranges")
    yield connected
    connected.close()


def verdicts(history: History, records: list[Any]) -> list[Verdict]:
    return [receipt.verdict for receipt in history.write_now([item(record, offset=n) for n, record in enumerate(records)])]


def columns(name: str, records: list[Any]) -> Any:
    decoded = ColumnDecoder(codec(), TABLE[name].topic.record).decode([codec().encode(record) for record in records])
    return pa.table(TABLE[name].columns(Fields(decoded.fields)))


def rows(client: Client, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in client.query(sql).result_rows]


@pytest.mark.parametrize("name", list(TABLE))
def test_replays_in_other_batches_change_nothing(settings: Settings, client: Client, name: str) -> None:
    history = History(settings, TABLE[name])
    everything = f"SELECT * EXCEPT mirrored_at FROM {name} FINAL ORDER BY ALL"
    items = [item(record, offset=n) for n, record in enumerate(EXAMPLES[name])]
    history.write_now(items)
    before = rows(client, everything)
    assert len(before) == len(items)
    rng = random.Random(5)
    for _ in range(3):
        some = rng.sample(items, rng.randint(1, len(items)))
        history.write_now(some + some[:2])
    assert rows(client, f"SELECT count() > {len(items)} FROM {name}") == [(1,)]
    assert rows(client, everything) == before
    history.close()


@pytest.mark.parametrize("name", list(TABLE))
def test_every_column_is_written(settings: Settings, client: Client, name: str) -> None:
    """A column that is added to a table and forgotten here, or the other way round, is found."""
    stored = [row[0] for row in rows(client, f"DESCRIBE TABLE {name}")]
    assert [*columns(name, EXAMPLES[name]).column_names, "source_partition", "source_offset", "mirrored_at"] == stored


def test_values_arrive_as_they_are(settings: Settings, client: Client) -> None:
    History(settings, TABLE["sync_audit"]).write_now([item(examples.audit(3, actor="a'b\\", sequence=None, tier="Größe"), offset=9)])
    (row,) = client.query("SELECT * FROM sync_audit").named_results()
    assert row["changes"] == [
        {"attribute": "available_points", "before": "0", "after": "10"}, {"attribute": "tier", "before": None, "after": None},
    ]  # fmt: skip
    assert (row["detail"], row["source_version"], row["chain_number"]) == (None, None, 0)
    assert (row["actor"], row["sequence"], row["tier"], row["source_offset"]) == ("a'b\\", None, "Größe", 9)
    assert f"{row['occurred_at']:%Y-%m-%dT%H:%M:%S.%f}" == "2026-03-01T12:00:00.003000"
    History(settings, TABLE["ledger_entries"]).write_now([item(examples.ledger_entry(1, points_delta=-(2**63), balance_after=2**63 - 1))])
    assert rows(client, "SELECT points_delta, balance_after FROM ledger_entries") == [(-(2**63), 2**63 - 1)]
    (entry,) = client.query("SELECT * FROM ledger_entries").named_results()
    assert [(lot["lot_id"], lot["points"], lot["expires_at"]) for lot in entry["lots"]] == [
        ("t-1", 10, datetime.fromisoformat("2026-06-25T05:46:40")), ("t-2", 10, None),
    ]  # fmt: skip
    assert (entry["account"], entry["rule_version"], entry["available_after"], entry["entry_hash"]) == ("available", 2, 10, f"{1:032x}")
    History(settings, TABLE["loyalty_events"]).write_now([item(one) for one in examples.EVERY_KIND.values()])
    changed = "SELECT movement, hold_id, length(lots), pending_points, held_points, debt_points FROM loyalty_events WHERE sequence = 3"
    assert rows(client, changed) == [("HOLD", "h-3", 2, 40, 250, 7)]
    assert rows(client, "SELECT count() FROM loyalty_events WHERE movement IS NULL AND empty(lots)") == [(18,)]


def test_rows_that_clickhouse_refuses_go_alone(settings: Settings, client: Client) -> None:
    bad = {17, 18, 600}
    records = [examples.ledger_entry(n + 1, f"m-{n}", transaction_id="unlucky" if n in bad else "t") for n in range(1000)]
    client.command("ALTER TABLE ledger_entries ADD CONSTRAINT lucky CHECK transaction_id != 'unlucky'")
    with proxy(settings.clickhouse_url) as between:
        history = History(replace(settings, clickhouse_url=between.url), TABLE["ledger_entries"])
        receipts = history.write_now([item(record, offset=n) for n, record in enumerate(records)])
        history.close()
        assert between.inserts <= 2 * len(bad) * 11
    assert {n for n, receipt in enumerate(receipts) if receipt.verdict is Verdict.REFUSED} == bad
    assert {receipt.verdict for n, receipt in enumerate(receipts) if n not in bad} == {Verdict.DELIVERED}
    assert receipts[17].reason == "ROW_REFUSED"
    assert "m-17" not in receipts[17].detail and "VIOLATED_CONSTRAINT" in receipts[17].detail
    assert rows(client, "SELECT count() FROM ledger_entries FINAL") == [(997,)]


@pytest.mark.parametrize("text", [
    "Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)",
    "Code: 252. DB::Exception: Too many parts. (TOO_MANY_PARTS)",
    "Code: 60. DB::Exception: Table does not exist. (UNKNOWN_TABLE)", "Code: 999. DB::Exception: Session expired. (KEEPER_EXCEPTION)",
    "<html>Bad Gateway</html>",
])  # fmt: skip
def test_other_errors_are_waited_for(settings: Settings, client: Client, text: str) -> None:
    with proxy(settings.clickhouse_url) as between:
        history = History(replace(settings, clickhouse_url=between.url), TABLE["ledger_entries"])
        between.failing = (502 if "html" in text else 500, text)
        assert set(verdicts(history, EXAMPLES["ledger_entries"])) == {Verdict.RETRY}
        assert between.inserts == 1
        between.failing = None
        assert set(verdicts(history, EXAMPLES["ledger_entries"])) == {Verdict.DELIVERED}
        history.close()


@pytest.mark.parametrize(("bad", "reason"), [
    (examples.ledger_entry(-1, "bad"), "ROW_INVALID"),
    (examples.ledger_entry(1, "bad", occurred_at_ms=10**17), "ROW_INVALID"),
    (examples.ledger_entry(1, "bad", occurred_at_ms=-(10**15)), "ROW_INVALID"),
])  # fmt: skip
def test_a_row_that_cannot_be_sent_goes_alone(settings: Settings, client: Client, bad: Any, reason: str) -> None:
    history = History(settings, TABLE["ledger_entries"])
    receipts = history.write_now([item(one) for one in (examples.ledger_entry(1), bad, examples.ledger_entry(2))])
    assert [receipt.verdict for receipt in receipts] == [Verdict.DELIVERED, Verdict.REFUSED, Verdict.DELIVERED]
    assert receipts[1].reason == reason
    assert rows(client, "SELECT count() FROM ledger_entries FINAL") == [(2,)]


def test_old_stays_do_not_touch_too_many_partitions(settings: Settings, client: Client) -> None:
    """ClickHouse refuses an insert into more than 100 partitions, for ever: here are 400 months."""
    month_ms = 30 * 24 * 3600 * 1000
    records = [examples.ledger_entry(n, occurred_at_ms=n * month_ms) for n in range(1, 401)]
    assert set(verdicts(History(settings, TABLE["ledger_entries"]), records)) == {Verdict.DELIVERED}
    assert rows(client, "SELECT count() FROM ledger_entries") == [(400,)]


@pytest.mark.parametrize("bad", [
    examples.event(1, "bad", expires_at_ms=10**17), examples.event(1, "bad", effective_at_ms=-(10**15)),
    examples.event(1, "bad", lots=(examples.lot(), examples.lot(expires_at_ms=10**17))),
])  # fmt: skip
def test_times_that_may_be_empty_have_the_same_bounds(settings: Settings, client: Client, bad: Any) -> None:
    receipts = History(settings, TABLE["loyalty_events"]).write_now([item(bad), item(examples.event(1))])
    assert (receipts[0].verdict, receipts[0].reason) == (Verdict.REFUSED, "ROW_INVALID")
    assert rows(client, "SELECT member_id FROM loyalty_events") == [("m-1",)]


@pytest.mark.parametrize(("error", "verdict"), [
    (DatabaseError("x", code=469, name="VIOLATED_CONSTRAINT"), Verdict.REFUSED), (DataError("x"), Verdict.REFUSED),
    (DatabaseError("x", code=241, name="MEMORY_LIMIT_EXCEEDED"), Verdict.RETRY), (DatabaseError("x", code=60), Verdict.RETRY),
    (DatabaseError("x", code=252, name="TOO_MANY_PARTS"), Verdict.RETRY), (DatabaseError("x", code=497), Verdict.RETRY),
    (OperationalError("connection refused"), Verdict.RETRY), (ConnectionResetError(), Verdict.RETRY), (TimeoutError(), Verdict.RETRY),
])  # fmt: skip
def test_which_errors_blame_the_rows(settings: Settings, monkeypatch: pytest.MonkeyPatch, error: Exception, verdict: Verdict) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(History, "_insert", fail)
    assert set(verdicts(History(settings, TABLE["ledger_entries"]), EXAMPLES["ledger_entries"][:3])) == {verdict}


def test_an_outage_amid_the_halving_is_a_retry_of_all(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: Iterator[Exception | None] = iter([DataError("x"), None, DataError("x"), DataError("x"), OperationalError("gone")])

    def insert(*_: object) -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(History, "_insert", insert)
    assert set(verdicts(History(settings, TABLE["ledger_entries"]), EXAMPLES["ledger_entries"][:8])) == {Verdict.RETRY}


def test_a_server_that_is_not_there_is_a_retry(make_settings: Callable[..., Settings]) -> None:
    history = History(make_settings(**NOWHERE, clickhouse_url="http://127.0.0.1:1"), TABLE["ledger_entries"])
    assert set(verdicts(history, EXAMPLES["ledger_entries"][:3])) == {Verdict.RETRY}


# Ranges.


def of_partition(*offsets: int, follows: int | None = None, partition: int = 0) -> list[Any]:
    """Ledger entries at these offsets; the first of them behind `follows`."""
    made = [item(examples.ledger_entry(n + 1, f"p-{partition}"), offset=n, partition=partition) for n in offsets]
    before = [follows, *(n + 1 for n in offsets)]
    return [replace(one, follows=after) for one, after in zip(made, before, strict=False)]


RANGES = "SELECT partition, first_offset, last_offset, records, row_count, refused, points FROM mirror_ranges FINAL ORDER BY ALL"
GAPS = "SELECT partition, kind, from_offset, to_offset FROM mirror_gaps ORDER BY ALL"


def test_every_insert_says_what_it_brought_and_what_is_missing_shows(settings: Settings, client: Client) -> None:
    history = History(settings, TABLE["ledger_entries"])
    history.write_now([*of_partition(0, 1, 2), *of_partition(5, 7, follows=4, partition=3)])
    history.write_now(of_partition(4, 5, follows=3))  # 3 is the mark of a transaction.
    assert rows(client, RANGES) == [(0, 0, 2, 3, 3, 0, 30), (0, 3, 5, 2, 2, 0, 20), (3, 4, 7, 2, 2, 0, 20)]
    assert rows(client, GAPS) == []
    history.write_now(of_partition(9, 10, follows=9))
    history.write_now(of_partition(9, 10, 11, follows=9))  # Read again.
    assert rows(client, GAPS) == [(0, "GAP", 6, 8), (0, "OVERLAP", 9, 10)]
    history.write_now(of_partition(6, 7, 8, follows=6))
    assert rows(client, GAPS) == [(0, "OVERLAP", 9, 10)]
    history.close()


def test_a_range_counts_what_was_given_up_and_says_nothing_of_what_comes_again(settings: Settings, client: Client) -> None:
    history = History(settings, TABLE["ledger_entries"])
    poison = replace(of_partition(1)[0], value=b"poison")
    bad = item(examples.ledger_entry(3, occurred_at_ms=10**17), offset=2)
    with proxy(settings.clickhouse_url) as between:
        down = History(replace(settings, clickhouse_url=between.url), TABLE["ledger_entries"])
        between.failing = (500, "Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)")
        assert {one.verdict for one in down.write_now([*of_partition(0), poison, bad])} == {Verdict.RETRY}
        down.close()
    assert rows(client, RANGES) == []
    receipts = history.write_now([*of_partition(0), poison, bad])
    assert [(one.verdict, one.reason, one.stage) for one in receipts] == [
        (Verdict.DELIVERED, "", DeadLetterStage.DELIVERY), (Verdict.REFUSED, "NOT_WIRE_FORMAT", DeadLetterStage.DECODE),
        (Verdict.REFUSED, "ROW_INVALID", DeadLetterStage.DELIVERY),
    ]  # fmt: skip
    assert rows(client, RANGES) == [(0, 0, 2, 3, 1, 2, 10)]
    history.close()


def test_an_insert_that_is_sent_again_is_passed_over_but_no_other(settings: Settings, client: Client) -> None:
    """Its answer may have been lost. What a broker that lost its log writes at the same offsets is another insert."""
    batch = of_partition(0, 1, 2)
    for _ in range(3):
        History(settings, TABLE["ledger_entries"]).write_now(batch)
    assert rows(client, "SELECT count() FROM ledger_entries") == [(3,)]
    other = [item(examples.ledger_entry(n, "other"), offset=n - 1) for n in (1, 2, 3)]
    History(settings, TABLE["ledger_entries"]).write_now(other)
    assert rows(client, "SELECT count() FROM ledger_entries") == [(6,)]
    client.command("ALTER TABLE ledger_entries DELETE WHERE member_id = 'other'", settings={"mutations_sync": 2})
    History(settings, TABLE["ledger_entries"], follows_topic=False).write_now(other)
    assert rows(client, "SELECT count() FROM ledger_entries") == [(6,)]


def test_the_lag_is_from_the_append_to_the_acknowledgement(settings: Settings, client: Client) -> None:
    def observed() -> float:
        return REGISTRY.get_sample_value("loyalty_mirror_lag_seconds_count", {"table": "ledger_entries"}) or 0

    def oldest_s() -> float:
        return REGISTRY.get_sample_value("loyalty_mirror_oldest_seconds", {"table": "ledger_entries"}) or 0

    down = History(replace(settings, clickhouse_url="http://127.0.0.1:1"), TABLE["ledger_entries"])
    before = observed()
    down.write_now(of_partition(0, 1))
    assert observed() == before and oldest_s() > 3600  # The examples are from long ago.
    History(settings, TABLE["ledger_entries"]).write_now(of_partition(0, 1))
    assert observed() == before + 2 and oldest_s() == 0


# Replays.


def test_a_replay_of_all_topics_changes_no_figure_of_any_view(settings: Settings, client: Client) -> None:
    # Without those that have parameters, and the one that tells of replays.
    known = "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'View' AND NOT match(create_table_query, '[{]\\\\w+:')"
    views = [name for (name,) in rows(client, f"{known} AND name != 'mirror_gaps' ORDER BY name")]
    assert len(views) > 10
    everything = [f"SELECT * EXCEPT mirrored_at FROM {name} FINAL ORDER BY ALL" for name in EXAMPLES]
    everything += [f"SELECT * EXCEPT mirrored_at FROM {name} ORDER BY ALL" for name in views]
    rng = random.Random(7)

    def write(*, replay: bool) -> None:
        for name, records in EXAMPLES.items():
            history, items = History(settings, TABLE[name]), [item(record, offset=n) for n, record in enumerate(records)]
            cuts = sorted(rng.sample(range(len(items) + 1), 2)) if replay else []
            for first, last in zip([0, *cuts], [*cuts, len(items)], strict=True):
                history.write_now(items[first:last])
            history.close()

    write(replay=False)
    before = [rows(client, one) for one in everything]
    assert sum(map(len, before)) > 300
    for _ in range(2):
        write(replay=True)
    for query, wanted in zip(everything, before, strict=True):
        assert rows(client, query) == wanted, query


# Views.


def test_the_views_answer_what_analysts_ask(settings: Settings, client: Client) -> None:
    entries = [
        examples.ledger_entry(1, points_delta=100, balance_after=100),
        examples.ledger_entry(2, points_delta=-30, balance_after=70, kind=EntryKind.REDEEM),
        examples.ledger_entry(1, "m-2", points_delta=5, balance_after=5, source_system="crm"),
        examples.ledger_entry(3, "gap", points_delta=5, balance_after=5),
        examples.ledger_entry(1, "off", points_delta=5, balance_after=6),
    ]
    gold = AccountSnapshot(
        status=MemberStatus.ACTIVE, tier="GOLD", available_points=20, qualifying_points=20, pending_points=1, held_points=2, debt_points=3,
        tier_valid_until_ms=examples.MOMENT_MS,
    )
    # The tier that had an end has none any more: the newest event counts, its empty fields too.
    events = [examples.event(n, **({"account": gold} if n == 2 else {"points": n * 10})) for n in (3, 1, 2)]
    events += [examples.event(1, "m-2"), examples.event(7, "m-3", account=gold)]
    no = {"result": CommandResult.REFUSED, "reason": "INSUFFICIENT_POINTS"}
    refused = [examples.audit(n, f"m-{n}", replayed=n == 3, **no) for n in (1, 2, 3)]
    for _ in range(2):  # Everything twice: the views must not care.
        History(settings, TABLE["ledger_entries"]).write_now([item(one) for one in entries])
        History(settings, TABLE["loyalty_events"]).write_now([item(one) for one in events])
        History(settings, TABLE["sync_audit"]).write_now([item(one) for one in [*refused, examples.audit(9)]])
        History(settings, TABLE["member_profile_history"]).write_now([item(examples.profile(n)) for n in (2, 1, 3)])
    assert rows(client, "SELECT source_system, kind, entries, members, points_in, points_out, points FROM points_by_day_and_source"
                        " ORDER BY ALL") == [("crm", "EARN", 1, 1, 5, 0, 5), ("pms", "EARN", 3, 3, 110, 0, 110),
                                             ("pms", "REDEEM", 1, 1, 0, 30, -30)]  # fmt: skip
    assert rows(client, "SELECT member_id, available_points, last_sequence, tier FROM balances ORDER BY 1") == [
        ("m-1", 30, 3, "MEMBER"), ("m-2", 100, 1, "MEMBER"), ("m-3", 20, 7, "GOLD"),
    ]  # fmt: skip
    assert rows(client, "SELECT pending_points, held_points, debt_points, tier_valid_until FROM balances ORDER BY member_id") == [
        (0, 0, 0, None), (0, 0, 0, None), (1, 2, 3, datetime.fromisoformat("2026-03-01T12:00:00")),
    ]  # fmt: skip
    assert rows(client, "SELECT stream, source_system, reason, refusals, members FROM refusals_by_reason") == [
        ("transactions", "pms", "INSUFFICIENT_POINTS", 2, 2),
    ]  # fmt: skip
    assert rows(client, "SELECT member_id, gapless, balanced FROM reconciliation ORDER BY 1") == [
        ("gap", 0, 1), ("m-1", 1, 1), ("m-2", 1, 1), ("off", 1, 0),
    ]  # fmt: skip
    history = rows(client, "SELECT version, valid_from, valid_to, is_current FROM member_profile_scd2 ORDER BY version")
    assert [(version, current) for version, _, _, current in history] == [(1, 0), (2, 0), (3, 1)]
    assert [valid_to for _, _, valid_to, _ in history] == [history[1][1], history[2][1], None]


def ledger(member_id: str, *lines: tuple[str, int, int, str]) -> list[Any]:
    """Entries by (account, points_delta, balance_after, counter_account)."""
    return [
        examples.ledger_entry(
            n, member_id, account=account, points_delta=delta, balance_after=balance, counter_account=counter,
            previous_hash=f"{member_id}-{n - 1}" if n > 1 else "", entry_hash=f"{member_id}-{n}",
        )
        for n, (account, delta, balance, counter) in enumerate(lines, 1)
    ]  # fmt: skip


FULL = ledger(
    "full",
    ("pending", 100, 100, "issued"), ("available", 100, 100, "pending"), ("available", -60, 40, "held"), ("held", -50, 10, "redeemed"),
    ("available", 10, 50, "held"), ("available", -5, 45, "expired"), ("debt", -20, -20, "issued"), ("available", -20, 25, "debt"),
    ("available", -15, 10, "in_transit"), ("available", 3, 13, "adjusted"),
)  # fmt: skip


def test_every_account_of_a_member_adds_up_after_every_entry(settings: Settings, client: Client) -> None:
    History(settings, TABLE["ledger_entries"]).write_now([item(one) for one in [*FULL, *ledger("other", ("available", 15, 15, "in_transit"))]])
    assert rows(client, "SELECT * FROM reconciliation WHERE member_id = 'full'") == [("grand", "full", 10, 10, 13, 13, 0, 1, 1)]
    last = "SELECT available, pending, held, debt FROM ledger_balances WHERE member_id = 'full' ORDER BY entry_sequence DESC LIMIT 1"
    assert rows(client, last) == [(13, 0, 0, 0)]
    (total,) = client.query("SELECT * FROM zero_sum").named_results()
    assert total == {
        "program_id": "grand", "members": 2, "available": 28, "pending": 0, "held": 0, "debt": 0, "issued": -80, "redeemed": 50,
        "adjusted": -3, "expired": 5, "in_transit": 0, "total": 0, "is_zero": 1,
    }  # fmt: skip
    assert rows(client, "SELECT member_id, entries, hashed_entries, breaks, first_break_sequence, chained FROM hash_chain ORDER BY ALL") == [
        ("full", 10, 10, 0, 0, 1), ("other", 1, 1, 0, 0, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("what", "at", "change", "seen"), [
    ("the balance of held points, which move once more", 4, {"balance_after": 11}, (1, 0, 0, 1)),
    ("a balance that a later one makes good", 3, {"balance_after": 41}, (1, 0, 1, 1)),
    ("the last balance of available points", 10, {"balance_after": 14}, (1, 0, 0, 1)),
    ("what was moved", 2, {"points_delta": 90}, (1, 0, 0, 1)),
    ("an account on the other side that nobody knows", 4, {"counter_account": "elsewhere"}, (1, 1, 0, 1)),
    ("another account than it was", 3, {"account": "pending"}, (1, 0, 0, 1)),
    ("the hash", 3, {"entry_hash": "forged"}, (1, 1, 1, 0)),
    ("an entry is missing", 6, None, (0, 0, 0, 0)),
    ("the only entry that states an account is missing", 1, None, (0, 1, 1, 0)),
])  # fmt: skip
def test_what_was_changed_or_left_out_shows(
    settings: Settings, client: Client, what: str, at: int, change: dict[str, Any] | None, seen: tuple[int, ...]
) -> None:
    changed = [replace(one, **(change or {})) if one.entry_sequence == at else one for one in FULL]
    if change is None:
        changed = [one for one in changed if one.entry_sequence != at]
    sound = [replace(one, program_id="staff") for one in FULL]
    History(settings, TABLE["ledger_entries"]).write_now([item(one) for one in [*changed, *sound]])
    proof = (
        "SELECT r.gapless, r.balanced, z.is_zero, h.chained FROM reconciliation AS r JOIN zero_sum AS z USING program_id"
        " JOIN hash_chain AS h USING (program_id, member_id) WHERE r.program_id = '{}'"
    )
    assert rows(client, proof.format("grand")) == [seen], what
    assert rows(client, proof.format("staff")) == [(1, 1, 1, 1)]


# Erasure.


SECRETS = ("ada@example.com", "Lovelace-Ünïque", "vip-secret", "shoe_size_secret")


def told(version: int, member_id: str = "m-1", **fields: Any) -> Any:
    attributes = {"email": SECRETS[0], "name": f"{SECRETS[1]}-{version}", SECRETS[3]: "x"}
    return examples.profile(version, member_id, attributes=attributes, segments=(SECRETS[2],), changed=(SECRETS[3],), **fields)


def leaks(client: Client) -> list[Any]:
    """Rows, those that FINAL would hide too, that hold anything of what was told."""
    texts = [str(row) for row in rows(client, "SELECT * FROM member_profile_history")]
    return [text for text in texts if any(secret in text for secret in SECRETS)]


@pytest.mark.parametrize("cut", [(4,), (3, 4), (1, 2, 3, 4), (2, 4)], ids=str)
def test_an_erasure_leaves_no_byte_of_the_member(settings: Settings, client: Client, cut: tuple[int, ...]) -> None:
    """In one batch with what came before, or behind it; and read again from any place, by the same process or another."""
    month_ms = 31 * 24 * 3600 * 1000
    quoted = "a'b\\%(x)s{y:String}"
    records = [told(1, quoted), told(2, quoted, recorded_at_ms=examples.MOMENT_MS + month_ms), told(3, quoted), examples.erased_profile(4, quoted)]
    others = [examples.profile(1, "m-2"), examples.profile(2, "m-2"), examples.profile(1, quoted, program_id="staff")]
    history = History(settings, TABLE["member_profile_history"])
    assert set(verdicts(history, others)) == {Verdict.DELIVERED}
    kept = "SELECT program_id, member_id, version, operation FROM member_profile_history FINAL ORDER BY ALL"
    expected = [("grand", quoted, 4, "ERASE"), ("grand", "m-2", 1, "ENROL"), ("grand", "m-2", 2, "CHANGE"), ("staff", quoted, 1, "ENROL")]
    for replay in (False, True):
        for start, end in zip((0, *cut), cut, strict=False):
            assert set(verdicts(history, records[start:end])) == {Verdict.DELIVERED}
            assert len(leaks(client)) == (0 if replay or end == 4 else end)
    assert set(verdicts(History(settings, TABLE["member_profile_history"]), records[:2])) == {Verdict.DELIVERED}
    assert leaks(client) == [] and rows(client, kept) == expected
    client.command("OPTIMIZE TABLE member_profile_history FINAL")
    assert leaks(client) == [] and rows(client, kept) == expected
    history.close()


def test_an_erasure_that_was_read_before_writes_no_parts_anew(settings: Settings, client: Client) -> None:
    mutations = "SELECT count() FROM system.mutations WHERE database = currentDatabase() AND table = 'member_profile_history'"
    (before,) = rows(client, mutations)[0]
    for _ in range(3):
        verdicts(History(settings, TABLE["member_profile_history"]), [told(1), told(2)])
        verdicts(History(settings, TABLE["member_profile_history"]), [examples.erased_profile(3)])
    assert rows(client, mutations) == [(before + 1,)]


@pytest.mark.parametrize(("part", "step"), [(erasure, "done"), (History, "_insert"), (erasure, "remove")])
def test_an_erasure_that_broke_off_is_tried_again(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch, part: Any, step: str
) -> None:
    """Wherever it was: the offsets are not committed, so all of it comes again."""

    def gone(*_: object) -> None:
        raise OperationalError("gone")

    verdicts(History(settings, TABLE["member_profile_history"]), [told(1), examples.profile(1, "m-2")])
    batch = [told(2), examples.erased_profile(3), examples.profile(2, "m-2")]
    with monkeypatch.context() as patched:
        patched.setattr(part, step, gone)
        first = verdicts(History(settings, TABLE["member_profile_history"]), batch)
    assert first[1] is Verdict.RETRY and not any(f"{SECRETS[1]}-2" in leak for leak in leaks(client))
    assert set(verdicts(History(settings, TABLE["member_profile_history"]), batch)) == {Verdict.DELIVERED}
    assert leaks(client) == []
    assert rows(client, "SELECT member_id, version FROM member_profile_history FINAL ORDER BY ALL") == [("m-1", 3), ("m-2", 1), ("m-2", 2)]


def test_a_whole_batch_of_the_longest_names_may_be_erased(settings: Settings, client: Client) -> None:
    names = [f"{n:05d}" + "ü" * 123 for n in range(clickhouse.ROWS_MAX)]
    history = History(settings, TABLE["member_profile_history"])
    assert set(verdicts(history, [told(1, name) for name in names])) == {Verdict.DELIVERED}
    assert set(verdicts(history, [examples.erased_profile(2, name) for name in names])) == {Verdict.DELIVERED}
    assert leaks(client) == [] and rows(client, "SELECT count() FROM member_profile_history") == [(len(names),)]
    history.close()


# Migrations.


def test_a_history_from_before_the_full_ledger_keeps_its_meaning(make_settings: Callable[..., Settings]) -> None:
    """Rows that were there when the columns were added, and the same records read again afterwards, are the same rows."""
    fresh = make_settings(**NOWHERE)
    admin = clickhouse.connect(fresh, database=None)
    admin.command(f"CREATE DATABASE {fresh.clickhouse_database}")
    admin.database = fresh.clickhouse_database
    migrations.apply(admin, [one for one in migrations.load() if one.number < 3])
    plain: dict[str, Any] = {"rule_version": 0, "available_after": 0, "lots": (), "previous_hash": "", "entry_hash": ""}
    entries = [examples.ledger_entry(n, **plain) for n in (1, 2)]
    events = [examples.event(n) for n in (1, 2)]
    for name, records in (("ledger_entries", entries), ("loyalty_events", events)):
        known = {row[0] for row in rows(admin, f"DESCRIBE TABLE {name}")}
        made = columns(name, records)
        admin.insert_arrow(name, made.select([column for column in made.column_names if column in known]))
    assert clickhouse.migrate(fresh) == [one.name for one in migrations.load() if one.number >= 3]
    everything = "SELECT * EXCEPT mirrored_at FROM {} FINAL ORDER BY ALL"
    before = {name: rows(admin, everything.format(name)) for name in ("ledger_entries", "loyalty_events")}
    History(fresh, TABLE["ledger_entries"]).write_now([item(one) for one in entries])
    History(fresh, TABLE["loyalty_events"]).write_now([item(one) for one in events])
    assert before == {name: rows(admin, everything.format(name)) for name in ("ledger_entries", "loyalty_events")}
    assert rows(admin, "SELECT account, available_after FROM ledger_entries FINAL ORDER BY entry_sequence") == [("available", 10), ("available", 20)]
    # The first entry after the upgrade follows one without hash.
    newer = examples.ledger_entry(3, balance_after=30, previous_hash="", entry_hash="a" * 32)
    History(fresh, TABLE["ledger_entries"]).write_now([item(newer)])
    assert rows(admin, "SELECT gapless, balanced, points_sum FROM reconciliation") == [(1, 1, 30)]
    assert rows(admin, "SELECT hashed_entries, chained FROM hash_chain") == [(1, 1)]
    assert rows(admin, "SELECT total, available, issued FROM zero_sum") == [(0, 30, -30)]
    admin.close()


def test_migrations_are_applied_once(make_settings: Callable[..., Settings]) -> None:
    fresh = make_settings(**NOWHERE)
    names = [one.name for one in migrations.load()]
    assert clickhouse.migrate(fresh) == names and names[0] == "0001_history"
    assert clickhouse.migrate(fresh) == []


def test_two_processes_may_migrate_at_once(make_settings: Callable[..., Settings]) -> None:
    fresh = make_settings(**NOWHERE)
    errors: list[BaseException] = []

    def migrate() -> None:
        try:
            clickhouse.migrate(fresh)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and clickhouse.migrate(fresh) == []


def test_a_migration_that_changed_stops_the_start(settings: Settings, client: Client) -> None:
    ours = migrations.load()
    edited = [Migration(one.number, one.name, one.sql + " ") if one.number == 1 else one for one in ours]
    with pytest.raises(ConfigurationError, match=r"infra/clickhouse/0001_history\.sql has changed"):
        migrations.apply(client, edited)


def test_a_migration_that_broke_off_is_applied_again(make_settings: Callable[..., Settings]) -> None:
    fresh = make_settings(**NOWHERE)
    admin = clickhouse.connect(fresh, database=None)
    admin.command(f"CREATE DATABASE {fresh.clickhouse_database}")
    admin.database = fresh.clickhouse_database
    broken = Migration(1, "0001_a", "CREATE TABLE IF NOT EXISTS a (x Int8) ENGINE = MergeTree ORDER BY x;\nSELECT nonsense;\n")
    with pytest.raises(DatabaseError):
        migrations.apply(admin, [broken])
    mended = Migration(1, "0001_a", "CREATE TABLE IF NOT EXISTS a (x Int8) ENGINE = MergeTree ORDER BY x;\nSELECT 1;\n")
    assert migrations.apply(admin, [mended]) == ["0001_a"]
    assert migrations.apply(admin, []) == []  # A database that is ahead of the checkout is a warning.
    admin.close()


def test_a_file_is_split_into_statements() -> None:
    text = "-- A comment; with a semicolon.\nCREATE TABLE a (\n    x String DEFAULT ';'\n);\n\n  -- More.\nSELECT 1 ; \nSELECT 2"
    assert Migration(1, "x", text).statements == ["CREATE TABLE a (\n    x String DEFAULT ';'\n)", "SELECT 1", "SELECT 2"]


def test_no_clickhouse_is_unavailable(make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(UnavailableError, match="LOYALTY_CLICKHOUSE_URL"):
        clickhouse.migrate(make_settings(**NOWHERE, clickhouse_url="http://127.0.0.1:1"))


# Through Kafka.


async def test_every_topic_reaches_its_table_and_bad_rows_the_dead_letters(make_settings: Callable[..., Settings]) -> None:
    own = make_settings(redis_url="redis://127.0.0.1:1", http_port=0, attempt_retention_days=0)
    await asyncio.to_thread(clickhouse.migrate, own)
    admin = clickhouse.connect(own)
    for name, column in (("ledger_entries", "reason"), ("dead_letters", "detail")):
        await asyncio.to_thread(admin.command, f"ALTER TABLE {name} ADD CONSTRAINT lucky CHECK ifNull({column}, '') != 'unlucky'")
    await asyncio.to_thread(kafka_clients.ensure_topics, own)
    for table in TABLES:
        await asyncio.to_thread(fill, own, table.topic, EXAMPLES[table.name])
    await asyncio.to_thread(fill, own, topics.LEDGER_ENTRIES, [examples.ledger_entry(1, "bad", reason="unlucky")])
    await asyncio.to_thread(fill, own, topics.DEAD_LETTERS, [examples.dead_letter(77, detail="unlucky"), b"poison"])
    nothing = Configuration(programs={}, sources={}, destinations={}, tokens=())
    async with running(lambda stop: main.run_sink("clickhouse", own, nothing, stop)):
        for table in TABLES:  # The dead letters last: the ledger adds one.
            await until_committed(own, f"sink-clickhouse-{table.topic.stream}", table.topic)
    counts = {name: rows(admin, f"SELECT count() FROM {name} FINAL")[0][0] for name in TABLE}
    admin.close()
    assert counts == {name: len(EXAMPLES[name]) for name in TABLE} | {"dead_letters": len(EXAMPLES["dead_letters"]) + 1}
    # A letter that ClickHouse refuses stays in its topic and makes no letters about letters.
    written = [letter for letter in await asyncio.to_thread(dead_letters, own) if letter.processor.startswith("clickhouse")]
    assert [(letter.processor, letter.reason) for letter in written] == [("clickhouse-ledger-entries", "ROW_REFUSED")]


def test_an_erasure_takes_the_senders_words_out_of_the_events(settings: Settings, client: Client) -> None:
    """In one batch with what came before, behind it, and read again; of others nothing is touched."""
    quoted = "a'b\\%(x)s{y:String}"
    said = Cause(command_id="c", stream="profile-changes", source_system="hr", reason=SECRETS[2])
    events = [replace(examples.event(1), member_id=name, cause=said) for name in (quoted, "m-2")]
    gone = replace(examples.EVERY_KIND[LoyaltyEventKind.MEMBER_ERASED], member_id=quoted)
    history = History(settings, TABLE["loyalty_events"])
    kept = "SELECT member_id, sequence, command_reason FROM loyalty_events FINAL ORDER BY ALL"
    for batch in ([*events, gone], [events[0]], [gone]):
        assert set(verdicts(history, batch)) == {Verdict.DELIVERED}
    assert rows(client, kept) == [(quoted, 1, ""), (quoted, 16, None), ("m-2", 1, SECRETS[2])]
    assert [row for row in rows(client, "SELECT * FROM loyalty_events") if row[1] == quoted and SECRETS[2] in str(row)] == []


def test_an_event_of_an_erasure_is_sent_again_when_the_words_could_not_be_removed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ClickHouseError("the server is gone")

    history = History(settings, TABLE["loyalty_events"])
    monkeypatch.setattr(erasure, "empty_words", broken)
    batch = [examples.event(1), examples.EVERY_KIND[LoyaltyEventKind.MEMBER_ERASED]]
    assert verdicts(history, batch) == [Verdict.RETRY, Verdict.RETRY]
