"""What an auditor asks in SQL, over a handful of records whose answers are known."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from schemas.records import AttributeChange, CommandResult
from sinks import clickhouse
from sinks.clickhouse import TABLES, History
from streams.settings import Settings
from tests.sinks import examples
from tests.sinks.examples import MOMENT_MS, item

pytestmark = pytest.mark.stack

MASTERED = "ATTRIBUTE_MASTERED_EXTERNALLY"


def change(attribute: str, before: str | None, after: str | None) -> AttributeChange:
    return AttributeChange(attribute=attribute, before=before, after=after)


def profile_change(number: int, source: str, *changes: AttributeChange, **fields: Any) -> Any:
    about = {"stream": "profile-changes", "command_id": f"e-{number}", "source_system": source, "points_delta": None, "available_points": None}
    return examples.audit(number, **about | {"changes": changes, **fields})


RECORDS = [
    profile_change(1, "crm", change("email", None, "a***"), change("status", None, "ACTIVE"), stream="enrolments"),
    profile_change(2, "app", result=CommandResult.REFUSED, reason=MASTERED, detail="email is mastered by crm; status is mastered by hr", actor="u-7"),
    profile_change(3, "app", result=CommandResult.REFUSED, reason=MASTERED, detail="email is mastered by crm; status is mastered by hr", replayed=True),
    profile_change(4, "crm", change("nickname", "a***", "b***")),
    profile_change(5, "app", change("nickname", "b***", "c***")),
    profile_change(6, "hr", change("status", "ACTIVE", "SUSPENDED"), ingested_at_ms=MOMENT_MS + 5_006, recorded_at_ms=MOMENT_MS + 5_026),
    profile_change(7, "crm", result=CommandResult.SUPERSEDED),
    profile_change(8, "desk", change("status", "SUSPENDED", "ERASED"), stream="member-operations", actor="dpo-1"),
    profile_change(
        9, "loyalty", change("mastering.email", None, '"crm"'), member_id="", stream="programs", command_id="version:2", actor="ops"
    ),
    examples.audit(10),
]


@pytest.fixture(scope="module")
def client(make_settings: Callable[..., Settings]) -> Iterator[Client]:
    settings = make_settings(kafka_bootstrap_servers="127.0.0.1:1", redis_url="redis://127.0.0.1:1")
    clickhouse.migrate(settings)
    (table,) = (one for one in TABLES if one.name == "sync_audit")
    history = History(settings, table)
    for _ in range(2):  # What is read again shows nowhere.
        history.write_now([item(record, offset=number) for number, record in enumerate(RECORDS)])
    history.close()
    connected = clickhouse.connect(settings)
    yield connected
    connected.close()


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (
            "SELECT attribute, before, after, source_system, result FROM audit_member_changes WHERE member_id = 'm-1' AND stream != 'transactions'"
            " ORDER BY recorded_at, attribute",
            [
                ("email", None, "a***", "crm", "APPLIED"), ("status", None, "ACTIVE", "crm", "APPLIED"), ("", None, None, "app", "REFUSED"),
                ("", None, None, "app", "REFUSED"), ("nickname", "a***", "b***", "crm", "APPLIED"), ("nickname", "b***", "c***", "app", "APPLIED"),
                ("", None, None, "crm", "SUPERSEDED"), ("status", "SUSPENDED", "ERASED", "desk", "APPLIED"),
                ("status", "ACTIVE", "SUSPENDED", "hr", "APPLIED"),
            ],
        ),
        (
            "SELECT stream, events, applied, refused, superseded, repeated, members, changed_attributes FROM audit_by_source"
            " WHERE source_system IN ('app', 'crm') ORDER BY source_system, stream",
            [("profile-changes", 3, 1, 1, 0, 1, 1, 1), ("enrolments", 1, 1, 0, 0, 0, 1, 2), ("profile-changes", 2, 1, 0, 1, 0, 1, 1)],
        ),
        (
            "SELECT attribute, master, source_system, actor, command_id FROM audit_refused_edits ORDER BY attribute",
            [("email", "crm", "app", "u-7", "e-2"), ("status", "hr", "app", "u-7", "e-2")],
        ),
        (
            "SELECT attribute, why, systems, members, claims FROM audit_contested_attributes ORDER BY attribute, why",
            [
                ("email", "mastered", ["app", "crm"], 1, 1), ("nickname", "changed by several", ["app", "crm"], 1, 2),
                ("status", "mastered", ["app", "hr"], 1, 1),
            ],
        ),
        ("SELECT member_id, source_system, actor, command_id, in_force_ms FROM audit_erasures", [("m-1", "desk", "dpo-1", "e-8", 0)]),
        ("SELECT before, after, source_system, in_force_ms, source_lag_ms FROM audit_suspensions", [("ACTIVE", "SUSPENDED", "hr", 20, 5_000)]),
        ("SELECT version, published_by, place, before, after FROM audit_rules_changes", [("version:2", "ops", "mastering.email", None, '"crm"')]),
    ],
    ids=["member", "source", "refused", "contested", "erasures", "suspensions", "rules"],
)  # fmt: skip
def test_a_report(client: Client, sql: str, expected: list[tuple[Any, ...]]) -> None:
    assert [tuple(row) for row in client.query(sql).result_rows] == expected
