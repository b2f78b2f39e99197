"""Recorded webhooks of HR -> commands."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.contract import Command
from schemas.records import Enrolment, MemberStatus, ProfileChange
from streams.connectors.contract import Delivery, Translation
from streams.connectors.hr import CONNECTOR, inbound
from streams.errors import ContractError
from streams.ingress import commands
from tests.connectors.support import source_of

PAYLOADS = Path(__file__).parent / "payloads"
RECEIVED_MS = 1_795_319_000_000  # 2026-11-22T03:43:20Z
HR = source_of(CONNECTOR)


def recorded(name: str, **changes: Any) -> Delivery:
    """A payload as it was sent; with `changes`, re-written with them in its data."""
    body = (PAYLOADS / name).read_bytes()
    if changes:
        value = json.loads(body)
        value["data"] |= changes
        body = json.dumps(value).encode()
    return Delivery(body=body, headers={}, delivery_id="msg_1", received_at_ms=RECEIVED_MS)


def only(translation: Translation) -> Command:
    assert not translation.hints and not translation.ignored
    (command,) = translation.commands
    return command


HIRED = Enrolment(
    program_id="staff", member_id="21002", event_id="hr:msg_1", source_system="hr", occurred_at_ms=1795318800000,
    attributes={"given_name": "Ada", "department": "spa"}, segments=("hq",), source_version=1,
)  # fmt: skip
UPDATED = ProfileChange(
    program_id="staff", member_id="21002", event_id="hr:msg_1", source_system="hr", occurred_at_ms=1795318860250,
    attributes={"department": "front office", "phone": None}, source_version=1795318860250,
)  # fmt: skip
DEACTIVATED = ProfileChange(
    program_id="staff", member_id="21001", event_id="hr:msg_1", source_system="hr", occurred_at_ms=1795318800000,
    status=MemberStatus.SUSPENDED, status_reason="TERMINATION", source_version=1795318800000,
)  # fmt: skip
DEACTIVATED_AHEAD = replace(DEACTIVATED, status_from_date="2027-01-01")
REACTIVATED = ProfileChange(
    program_id="staff", member_id="21001", event_id="hr:msg_1", source_system="hr", occurred_at_ms=1795318920000,
    status=MemberStatus.ACTIVE, source_version=7,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hired.json", HIRED), ("updated.json", UPDATED), ("deactivated.json", DEACTIVATED),
        ("deactivated_ahead.json", DEACTIVATED_AHEAD), ("reactivated.json", REACTIVATED),
    ],
)  # fmt: skip
def test_hr(name: str, expected: Command) -> None:
    assert only(inbound.translate(recorded(name), HR)) == expected


@pytest.mark.parametrize(
    ("last_day", "time_zone", "suspended_from"),
    [
        # It is 2026-11-22 03:40 UTC, 09:10 in Kolkata, 17:40 of the day before in Honolulu.
        ("2026-11-21", None, None),
        ("2026-11-22", None, None),
        ("2026-11-22", "Asia/Kolkata", None),
        ("2026-11-23", "Asia/Kolkata", "2026-11-23T18:30:00.000Z"),
        ("2026-11-22", "Pacific/Honolulu", "2026-11-23T10:00:00.000Z"),
        ("2026-11-21", "Pacific/Honolulu", None),
        ("2027-03-27", "Europe/Berlin", "2027-03-27T23:00:00.000Z"),
        ("2027-03-28", "Europe/Berlin", "2027-03-28T22:00:00.000Z"),
    ],
)
def test_a_last_day_counts_where_the_person_works(last_day: str, time_zone: str | None, suspended_from: str | None) -> None:
    """Who has a last day ahead is suspended from the start of the day after, others at once."""
    at_ms = commands.parse_time(suspended_from) if suspended_from else None
    delivery = recorded("deactivated.json", last_day=last_day, time_zone=time_zone)
    assert only(inbound.translate(delivery, HR)) == replace(DEACTIVATED, status_from_ms=at_ms)


def test_a_last_day_without_a_zone_is_one_of_the_members() -> None:
    delivery = recorded("deactivated.json", last_day="2026-11-30", time_zone=None)
    assert only(inbound.translate(delivery, HR)) == replace(DEACTIVATED, status_from_date="2026-12-01")


def test_a_termination_is_the_same_command_whenever_it_arrives() -> None:
    early = recorded("deactivated_ahead.json")
    late = replace(early, received_at_ms=RECEIVED_MS + 100 * 86_400_000)
    assert inbound.translate(early, HR) == inbound.translate(late, HR)


def test_an_hr_event_without_time_version_and_reason() -> None:
    body = b'{"type":"worker.deactivated","data":{"employee_id":"1"}}'
    command = only(inbound.translate(Delivery(body=body, headers={}, delivery_id="d", received_at_ms=RECEIVED_MS), HR))
    assert isinstance(command, ProfileChange)
    assert (command.occurred_at_ms, command.source_version, command.status_reason) == (RECEIVED_MS, None, "employment ended")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "NOT_JSON"),
        ("[]", "TYPE_INVALID"),
        ("{}", "TYPE_INVALID"),
        ('{"type":"worker.deactivated"}', "TYPE_INVALID"),
        ('{"type":"worker.deactivated","data":{}}', "TYPE_INVALID"),
        ('{"type":"worker.deactivated","data":{"employee_id":21001}}', "TYPE_INVALID"),
        ('{"type":"worker.terminated","data":{"employee_id":"1"}}', "TYPE_UNKNOWN"),
        ('{"type":"worker.deactivated","timestamp":"yesterday","data":{"employee_id":"1"}}', "TIME_INVALID"),
        ('{"type":"worker.deactivated","data":{"employee_id":"1","version":"7"}}', "TYPE_INVALID"),
        ('{"type":"worker.deactivated","data":{"employee_id":"1","last_day":"22.11.2026"}}', "TIME_INVALID"),
        ('{"type":"worker.deactivated","data":{"employee_id":"1","last_day":"9999-12-31"}}', "TIME_INVALID"),
        ('{"type":"worker.deactivated","data":{"employee_id":"1","last_day":"2026-11-22","time_zone":"Mars/Base"}}', "VALUE_UNKNOWN"),
        ('{"type":"worker.deactivated","data":{"employee_id":"1","last_day":"2026-11-22","time_zone":"../../etc"}}', "VALUE_UNKNOWN"),
        ('{"type":"worker.updated","data":{"employee_id":"1","attributes":{"a":1}}}', "TYPE_INVALID"),
        ('{"type":"worker.hired","data":{"employee_id":"1","segments":"hq"}}', "TYPE_INVALID"),
    ],
)
def test_hr_events_that_cannot_be_understood(body: str, reason: str) -> None:
    with pytest.raises(ContractError) as caught:
        inbound.translate(Delivery(body=body.encode(), headers={}, delivery_id="d", received_at_ms=RECEIVED_MS), HR)
    assert caught.value.reason == reason


@given(body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_a_translator_raises_only_contract_errors(body: bytes) -> None:
    try:
        inbound.translate(Delivery(body=body, headers={}, delivery_id="d", received_at_ms=RECEIVED_MS), HR)
    except ContractError:
        pass
