"""I-13: every order of the same source's events ends in the same state, once all that was scheduled has taken effect."""

from itertools import permutations
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.contract import Command
from schemas.records import Account, MemberStatus
from tests.domain.casework import ms
from tests.domain.shell import PROGRAM, Shell, change, enrol

SLOW = settings(deadline=None, database=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
ACTIVE, SUSPENDED, LEFT = MemberStatus.ACTIVE, MemberStatus.SUSPENDED, MemberStatus.LEFT
END_MS = 1_000_000
RANK = [ACTIVE, SUSPENDED, LEFT]

STATUS_EVENTS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from(RANK), st.sampled_from([None, None, 5, 10_002, 10_004, 500_000])), min_size=1, max_size=5
)
PARTS = st.fixed_dictionaries(
    {},
    optional={
        "attributes": st.dictionaries(st.sampled_from("ab"), st.none() | st.sampled_from("xyz"), min_size=1),
        "segments": st.lists(st.sampled_from(["s", "t"]), unique=True).map(tuple),
        "external_ids": st.dictionaries(st.sampled_from(["card", "employee"]), st.none() | st.sampled_from("12"), min_size=1),
    },
).filter(bool)
"""Absent is not null: a part that an event does not name, it says nothing of."""


def ended(commands: list[Command]) -> Account:
    shell = Shell(program=PROGRAM).enrolled()
    for command in commands:
        shell.send(command)
    shell.tick(END_MS)
    assert shell.account is not None
    return shell.account


@SLOW
@given(STATUS_EVENTS, st.booleans(), st.randoms(use_true_random=False))
def test_statuses_come_to_the_same_in_every_order(said: list[tuple[int, MemberStatus, int | None]], twice: bool, order: Any) -> None:
    """Of one version's statuses the one that allows less counts; of the versions the greatest, whatever was scheduled."""
    events: list[Command] = [
        change(f"e{n}", source_system="hr", source_version=version, status=status, status_from_ms=from_ms) for n, (version, status, from_ms) in enumerate(said)
    ]
    newest = max(version for version, _, _ in said)
    expected = max((status for version, status, _ in said if version == newest), key=RANK.index)
    orders = [list(one) for one in permutations(events)]
    for commands in order.sample(orders, min(len(orders), 24)):
        if twice:
            commands.insert(order.randint(0, len(commands)), order.choice(commands))
        account = ended(commands)
        assert (account.status, account.scheduled_status, account.scheduled_at_ms) == (expected, None, None)
        assert account.source_versions == {"hr": newest}


@SLOW
@given(st.lists(st.tuples(st.integers(1, 4), PARTS), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_partial_updates_come_to_the_same_in_every_order(said: list[tuple[int, dict[str, Any]]], order: Any) -> None:
    events: list[Command] = [change(f"e{n}", source_system="hr", source_version=version, **parts) for n, (version, parts) in enumerate(said)]
    expected = words_of(said)
    for _ in range(12):
        order.shuffle(events)
        account = ended(events)
        assert account.attributes == {name: value for (part, name), value in expected.items() if part == "attributes" and value}
        assert account.external_ids == {name: value for (part, name), value in expected.items() if part == "external_ids" and value}
        assert account.segments == expected.get(("segments", ""), ())
        versions = {name: one.source_version for one in account.origins for name in one.names if one.source_system == "hr"}
        assert versions == {
            {"attributes": name, "segments": "segments", "external_ids": f"external_ids.{name}"}[part]: newest_of(said, part, name)
            for part, name in expected
        }  # fmt: skip


def words_of(said: list[tuple[int, dict[str, Any]]]) -> dict[tuple[str, str], Any]:
    """By the rule: of each part the greatest version, and of that the greatest value; null is less than any."""
    words: dict[tuple[str, str], tuple[int, Any]] = {}
    for version, parts in said:
        for part, value in parts.items():
            for name, word in value.items() if isinstance(value, dict) else [("", tuple(sorted(value)))]:
                word = word or (() if part == "segments" else "")
                words[part, name] = max(words.get((part, name), (-1, word)), (version, word))
    return {key: word for key, (_, word) in words.items()}


def newest_of(said: list[tuple[int, dict[str, Any]]], part: str, name: str) -> int:
    return max(version for version, parts in said if part in parts and (part == "segments" or name in parts[part]))


def test_no_late_update_undoes_a_deactivation() -> None:
    """The update of version 4 says nothing of the status, and is older than the deactivation; its name is news all the same."""
    off = change("off", source_system="hr", source_version=5, status=SUSPENDED)
    for late in (change("late", source_system="hr", source_version=4, status=ACTIVE, attributes={"a": "x"}),
                 change("late", source_system="hr", source_version=4, attributes={"a": "x"})):  # fmt: skip
        for order in permutations([off, late]):
            account = ended(list(order))
            assert (account.status, account.attributes) == (SUSPENDED, {"a": "x"})


def test_what_is_news_in_part_says_what_is_not() -> None:
    shell = Shell(program=PROGRAM).enrolled()
    shell.send(change(source_system="hr", source_version=5, status=SUSPENDED))
    audit = shell.send(change(source_system="hr", source_version=4, status=ACTIVE, attributes={"a": "x"}, segments=("s",))).audit
    assert audit is not None and (audit.result.value, audit.detail, audit.source_version) == ("APPLIED", "superseded: status", 4)


@pytest.mark.parametrize(
    ("zone", "day", "starts"),
    [
        ("America/Los_Angeles", "2027-01-01", ms("2027-01-01 08:00")),
        ("Pacific/Kiritimati", "2027-01-01", ms("2026-12-31 10:00")),
        ("Asia/Kolkata", "2027-01-01", ms("2026-12-31 18:30")),
        ("Europe/Berlin", "2027-03-28", ms("2027-03-27 23:00")),  # The day on which the clocks go forward begins in winter time,
        ("Europe/Berlin", "2027-03-29", ms("2027-03-28 22:00")),  # and has 23 hours.
        ("America/Santiago", "2026-09-06", ms("2026-09-06 04:00")),  # A midnight that there is not: the clocks go from 0:00 to 1:00.
        ("", "2027-01-01", ms("2027-01-01 00:00")),
        ("Mars/Olympus", "2027-01-01", ms("2027-01-01 00:00")),
        ("../../etc/passwd", "2027-01-01", ms("2027-01-01 00:00")),
    ],
)  # fmt: skip
def test_a_day_begins_where_the_member_lives(zone: str, day: str, starts: int) -> None:
    """In the zone of the attribute time_zone; in the programme's, where there is none or it is no zone."""
    attributes = {"time_zone": zone} if zone else {}
    shell = Shell(program=PROGRAM)
    shell.send(enrol(attributes=attributes))
    shell.send(change(status=SUSPENDED, status_from_date=day))
    assert shell.account is not None
    assert (shell.account.status, shell.account.scheduled_at_ms) == (ACTIVE, starts)
    shell.tick(starts - 1)
    assert shell.account.status is ACTIVE
    assert [event.kind.value for event in shell.tick(starts).events] == ["ACCOUNT_SUSPENDED"]


def test_the_zone_may_come_with_the_day() -> None:
    shell = Shell(program=PROGRAM).enrolled()
    shell.send(change(attributes={"time_zone": "Asia/Kolkata"}, status=SUSPENDED, status_from_date="2027-01-01"))
    assert shell.account is not None and shell.account.scheduled_at_ms == ms("2026-12-31 18:30")


def test_a_day_that_has_begun_is_at_once() -> None:
    shell = Shell(program=PROGRAM).enrolled()
    settlement = shell.send(change(status=LEFT, status_from_date="2025-06-01"), ingested_at_ms=ms("2025-06-01 00:00"))
    assert [event.kind.value for event in settlement.events] == ["MEMBER_LEFT"]


def test_a_newer_day_replaces_the_one_before_and_a_reactivation_calls_it_off() -> None:
    shell = Shell(program=PROGRAM).enrolled()
    shell.send(change(status=SUSPENDED, status_from_date="2027-01-01", source_version=1))
    shell.send(change(status=SUSPENDED, status_from_date="2027-02-01", source_version=2))
    assert shell.account is not None and shell.account.scheduled_at_ms == ms("2027-02-01 00:00")
    shell.tick(ms("2027-01-15 00:00"))
    assert shell.account.status is ACTIVE
    shell.send(change(status=ACTIVE, source_version=3))
    shell.tick(ms("2027-03-01 00:00"))
    assert (shell.account.status, shell.account.scheduled_at_ms) == (ACTIVE, None)
