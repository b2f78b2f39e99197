from datetime import date
from typing import Any

import pytest

from schemas.records import Enrolment, MemberStatus, ProfileChange
from streams.connectors.contract import Source
from streams.connectors.workers import Told, Worker, commands_of, digest_of, read_day, read_flag
from streams.errors import ContractError
from tests.connectors.support import NOW_MS

HR = Source(name="workday", kind="workday", program_id="staff")
TODAY, TOMORROW, YESTERDAY = date(2026, 11, 22), date(2026, 11, 23), date(2026, 11, 21)
JANUARY_MS = 1_767_571_200_000


def worker(**values: Any) -> Worker:
    return Worker(**{"employee_id": "21001", "version": NOW_MS, "occurred_at_ms": NOW_MS, "hired_on": date(2026, 1, 5), **values})


def change_in(found: tuple[Any, ...]) -> ProfileChange:
    (change,) = (command for command in found if isinstance(command, ProfileChange))
    return change


def test_who_works_is_enrolled_and_active() -> None:
    enrolment, change = commands_of(worker(is_active=True, attributes={"given_name": "Ada", "phone": None}), HR)
    assert enrolment == Enrolment(
        program_id="staff", member_id="21001", event_id="workday:21001:hired:2026-01-05", source_system="workday", occurred_at_ms=JANUARY_MS,
        source_version=JANUARY_MS,
    )  # fmt: skip
    assert isinstance(change, ProfileChange)
    assert (change.status, change.attributes, change.source_version) == (MemberStatus.ACTIVE, {"given_name": "Ada", "phone": None}, NOW_MS)


@pytest.mark.parametrize(
    ("values", "status", "from_date", "from_ms"),
    [
        ({"is_active": True}, MemberStatus.ACTIVE, None, None),
        ({"is_active": False}, MemberStatus.SUSPENDED, None, None),
        ({"is_active": False, "last_day": YESTERDAY}, MemberStatus.SUSPENDED, None, None),
        ({"is_active": False, "last_day": TODAY}, MemberStatus.SUSPENDED, None, None),
        ({"is_active": True, "last_day": TODAY}, MemberStatus.SUSPENDED, "2026-11-23", None),
        ({"is_active": True, "last_day": TOMORROW}, MemberStatus.SUSPENDED, "2026-11-24", None),
        ({"is_active": False, "last_day": TOMORROW}, MemberStatus.SUSPENDED, "2026-11-24", None),
        # 2026-11-24T00:00 in Kolkata.
        ({"is_active": True, "last_day": TOMORROW, "time_zone": "Asia/Kolkata"}, MemberStatus.SUSPENDED, None, 1_795_458_600_000),
        # Half past three in the night in London is still yesterday in Honolulu.
        ({"is_active": False, "last_day": TODAY, "time_zone": "Pacific/Honolulu"}, MemberStatus.SUSPENDED, None, 1_795_428_000_000),
        ({"is_active": True, "last_day": YESTERDAY}, MemberStatus.ACTIVE, None, None),
        ({"attributes": {"email": "a@example.com"}}, None, None, None),
    ],
)  # fmt: skip
def test_a_status_holds_from_when_the_last_day_is_over(values: dict[str, Any], status: MemberStatus, from_date: str | None, from_ms: int | None) -> None:
    change = change_in(commands_of(worker(**values), HR))
    assert (change.status, change.status_from_date, change.status_from_ms) == (status, from_date, from_ms)


def test_who_is_hired_but_not_yet_here_waits_for_the_day() -> None:
    assert commands_of(worker(is_active=False, hired_on=TOMORROW), HR) == ()


def test_a_record_that_is_read_again_makes_the_same_commands() -> None:
    again = worker(is_active=True, version=NOW_MS + 1, occurred_at_ms=NOW_MS + 1)
    assert commands_of(worker(is_active=True), HR) == commands_of(worker(is_active=True), HR)
    assert digest_of(commands_of(again, HR)) == digest_of(commands_of(worker(is_active=True), HR))
    assert commands_of(again, HR)[1] != commands_of(worker(is_active=True), HR)[1]
    other = commands_of(worker(is_active=True, attributes={"email": "b@example.com"}), HR)
    assert digest_of(other) != digest_of(commands_of(again, HR))


@pytest.mark.parametrize("values", [{"employee_id": ""}, {"employee_id": "x" * 61}, {"last_day": TOMORROW, "time_zone": "Mars/Phobos"},
                                    {"is_active": True, "last_day": date.max},
                                    {"is_active": True, "attributes": {"Not A Name": "x"}}, {"is_active": True, "occurred_at_ms": 10**17}])  # fmt: skip
def test_what_cannot_be_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ContractError):
        commands_of(worker(**values), HR)


@pytest.mark.parametrize(
    ("text", "day"), [("2026-11-22", TODAY), (" 2026-11-22T10:00:00-08:00 ", TODAY), ("2026-11-22-08:00", TODAY), (None, None), ("", None)]
)  # fmt: skip
def test_days_are_read(text: str | None, day: date | None) -> None:
    assert read_day(text) == day


@pytest.mark.parametrize(("text", "flag"), [("1", True), ("False", False), ("0", False), ("Active", True), ("", None), (None, None)])
def test_flags_are_read(text: str | None, flag: bool | None) -> None:
    assert read_flag(text) is flag


def test_what_is_neither_a_day_nor_a_flag_is_refused() -> None:
    with pytest.raises(ContractError):
        read_day("soon")
    with pytest.raises(ContractError):
        read_flag("perhaps")


def test_what_was_told_last_is_not_told_again() -> None:
    here, gone = commands_of(worker(is_active=True), HR), commands_of(worker(is_active=False), HR)
    first = Told({})
    assert (first.news("21001", here), first.news("21001", here)) == (here, ())
    second = Told(first.kept)
    assert [second.news("21001", one) for one in (here, gone, gone, here)] == [(), gone, (), here]
    assert Told(first.kept, second.kept).kept == second.kept
