import json
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.fakes.successfactors import SuccessFactorsFake
from schemas.records import Enrolment, MemberStatus, ProfileChange
from streams.connectors import xml_reader as xml
from streams.connectors.contract import Answer, Delivery, Hint, Source
from streams.connectors.successfactors import inbound
from streams.errors import ContractError
from tests.connectors.support import NOW_MS, commands_in, cursor_of, poll_fake, polled

TERMINATION = (Path(__file__).parent / "payloads/termination.xml").read_bytes()
OPTIONS = {
    "base_url": "https://api55.example.com", "employee_key": "userId", "employee_path": "userId", "termination_day": "first_day_off", "time_zone": "",
    "active_values": ["t", "e", "active", "a"], "overlap_s": 300.0, "field_map": {},
}  # fmt: skip
JOB = {
    "userId": "10042", "lastModifiedDateTime": f"/Date({NOW_MS}+0000)/", "emplStatusNav": {"externalCode": "A"},
    "userNav": {"status": "t", "firstName": "Ada", "lastName": "Example", "email": "ada@example.com"},
    "employmentNav": {"startDate": "/Date(1767571200000)/", "endDate": None, "lastDateWorked": None},
}  # fmt: skip
DAY_MS = 86_400_000


def source(**options: Any) -> Source:
    return Source(name="successfactors", kind="successfactors", program_id="staff", options=OPTIONS | options)


def delivery(body: bytes) -> Delivery:
    return Delivery(body=body, headers={}, received_at_ms=NOW_MS + 5)


def jobs(*records: Any, after: str = "") -> Answer:
    return Answer(status=200, body=orjson.dumps({"d": {"results": records} | ({"__next": after} if after else {})}))


# Events.


def test_a_termination_suspends_at_once() -> None:
    (change,) = inbound.translate(delivery(TERMINATION), source()).commands
    assert isinstance(change, ProfileChange)
    assert (change.member_id, change.status, change.status_reason, change.status_from_date) == ("10042", MemberStatus.SUSPENDED, "TERMINATION", None)
    assert change.source_version == change.occurred_at_ms == NOW_MS
    (other,) = inbound.translate(delivery(TERMINATION), source(employee_key="personIdExternal")).commands
    assert other.member_id == "P-10042"


@pytest.mark.parametrize(("meaning", "from_date"), [("first_day_off", "2026-12-01"), ("last_day", "2026-12-02")])
def test_a_termination_ahead_waits_for_its_day(meaning: str, from_date: str) -> None:
    body = TERMINATION.replace(b"<ns3:effectiveStartDate>2026-11-22", b"<ns3:effectiveStartDate>2026-12-01")
    (change,) = inbound.translate(delivery(body), source(termination_day=meaning)).commands
    assert isinstance(change, ProfileChange) and (change.status, change.status_from_date) == (MemberStatus.SUSPENDED, from_date)


def test_namespaces_do_not_matter_and_a_repost_is_the_same() -> None:
    other = TERMINATION.replace(b"http://notification.event.successfactors.com", b"com.successfactors.event.notification").replace(b"ns3:", b"x:").replace(
        b"xmlns:ns3", b"xmlns:x")  # fmt: skip
    repost = TERMINATION.replace(b"repost>false", b"repost>true")
    assert inbound.translate(delivery(other), source()) == inbound.translate(delivery(repost), source()) == inbound.translate(delivery(TERMINATION), source())


@pytest.mark.parametrize("kind", [b"AssignmentInformation.Hire", b"AssignmentInformation.ReHire", b"JobInformation.ManagerChanged"])
def test_what_else_happens_is_a_hint(kind: bytes) -> None:
    body = TERMINATION.replace(b"AssignmentInformation.Termination", kind)
    found = inbound.translate(delivery(body), source())
    name = kind.rpartition(b".")[2].lower().decode()
    assert found.hints == (Hint(entity_id="10042", kind=name, delivery_id="2dc67448-a1d9-4c31-8f04-bcb94bfe23b3"),)
    alone = inbound.translate(delivery(body), source(base_url=""))
    assert [type(command) for command in alone.commands] == ([] if b"Manager" in kind else [Enrolment, ProfileChange])
    assert bool(alone.ignored) is (b"Manager" in kind)


def test_answers_are_in_its_form() -> None:
    payload = "Body/ExternalEventResponse/responsePayload/"
    good = xml.parse(inbound.accepted(delivery(TERMINATION), source()).body)
    assert (xml.text_at(good, payload + "status"), xml.text_at(good, payload + "entityId")) == ("0", "EmploymentInformation")
    assert xml.text_at(good, payload + "statusDate") == "2026-11-22T03:40:00"
    reply = inbound.refused(delivery(b"<a/>"), source(), 422, "TYPE_UNKNOWN", "<&>")
    assert (reply.status, xml.text_at(xml.parse(reply.body), payload + "status")) == (200, "1")
    assert inbound.refused(delivery(TERMINATION), source(), 503, "UNAVAILABLE", "").status == 503, "it comes again"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"ExternalEvent>", b"Event>", "NOT_XML"), (b"<name>userId</name>", b"<name>other</name>", "FIELD_REQUIRED"), (b"2026-11-22T03", b"x", "TIME_INVALID"),
        (b"effectiveStartDate>2026-11-22", b"effectiveStartDate>soon", "TIME_INVALID"),
        (b"effectiveStartDate>2026-11-22", b"effectiveStartDate>0001-01-01", "TIME_INVALID"),
        (b"externalEventId>2dc67448-a1d9-4c31-8f04-bcb94bfe23b3", b"externalEventId>", "FIELD_REQUIRED"),
        (b"<soapenv:Envelope", b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><soapenv:Envelope', "XML_FORBIDDEN"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(old: bytes, new: bytes, reason: str) -> None:
    body = TERMINATION.replace(old, new)
    assert body != TERMINATION
    with pytest.raises(ContractError) as raised:
        inbound.translate(delivery(body), source())
    assert raised.value.reason == reason


@given(st.integers(0, len(TERMINATION)), st.binary(max_size=6), st.integers(0, 40))
def test_any_body_is_understood_or_refused_and_answered(at: int, other: bytes, cut: int) -> None:
    body = TERMINATION[:at] + other + TERMINATION[at + cut :]
    try:
        found = inbound.translate(delivery(body), source())
    except ContractError as error:
        assert xml.parse(inbound.refused(delivery(body), source(), 422, error.reason, error.detail).body) is not None
        return
    assert bool(found.commands or found.hints) != bool(found.ignored)


# Jobs.


def test_a_job_becomes_a_member() -> None:
    (request,), found = polled(inbound.poll(source(), {}, NOW_MS + 1000), [jobs(JOB)])
    assert request.url == "/odata/v2/EmpJob?$expand=emplStatusNav/picklistLabels,userNav,employmentNav&$format=json&paging=snapshot"
    enrolment, change = commands_in(found)
    assert isinstance(enrolment, Enrolment) and enrolment.event_id == "successfactors:10042:hired:2026-01-05"
    assert isinstance(change, ProfileChange)
    assert (change.status, change.source_version) == (MemberStatus.ACTIVE, NOW_MS)
    assert change.attributes == {"given_name": "Ada", "family_name": "Example", "email": "ada@example.com"}


@pytest.mark.parametrize(
    ("user_status", "employment", "status", "from_date"),
    [
        ("f", {}, MemberStatus.SUSPENDED, None),
        ("d", {"endDate": f"/Date({NOW_MS - 2 * DAY_MS})/"}, MemberStatus.SUSPENDED, None),
        ("t", {"endDate": f"/Date({NOW_MS + 8 * DAY_MS})/"}, MemberStatus.SUSPENDED, "2026-12-01"),
        ("t", {"endDate": f"/Date({NOW_MS + 8 * DAY_MS})/", "lastDateWorked": f"/Date({NOW_MS + DAY_MS})/"}, MemberStatus.SUSPENDED, "2026-11-24"),
        ("e", {}, MemberStatus.ACTIVE, None),
    ],
)  # fmt: skip
def test_statuses(user_status: str, employment: dict[str, str], status: MemberStatus, from_date: str | None) -> None:
    job = JOB | {"userNav": {"status": user_status}, "employmentNav": {"startDate": "/Date(1767571200000)/"} | employment}
    _, found = polled(inbound.poll(source(), {}, NOW_MS), [jobs(job)])
    change = commands_in(found)[-1]
    assert isinstance(change, ProfileChange) and (change.status, change.status_from_date) == (status, from_date)


def test_pages_follow_each_other_and_a_run_that_breaks_off_goes_on() -> None:
    second = JOB | {"userId": "10043"}
    link = "https://api55.example.com/odata/v2/EmpJob?$skiptoken=abc&x=1"
    requests, found = polled(inbound.poll(source(), {}, NOW_MS), [jobs(JOB, after=link), jobs(second)])
    assert requests[1].url == "/odata/v2/EmpJob?$skiptoken=abc&x=1"
    assert cursor_of(found)["since_ms"] == NOW_MS
    middle = found[0].cursor
    assert middle is not None
    (request,), rest = polled(inbound.poll(source(), middle, NOW_MS + 99), [jobs(second)])
    assert request.url == requests[1].url and cursor_of(rest) == cursor_of(found)


def test_a_later_run_asks_since_the_one_before_and_tells_nothing_twice() -> None:
    _, found = polled(inbound.poll(source(), {}, NOW_MS), [jobs(JOB)])
    (request,), again = polled(inbound.poll(source(), cursor_of(found), NOW_MS + 3_600_000), [jobs(JOB)])
    assert "lastModifiedDateTime ge datetimeoffset'2026-11-22T03:35:00.000Z'" in unquote(request.url)
    assert commands_in(again) == []


def test_a_job_that_cannot_be_read_is_parked_and_a_refusal_stops_the_run() -> None:
    _, found = polled(inbound.poll(source(), {}, NOW_MS), [jobs(JOB | {"lastModifiedDateTime": "now"}, 7, JOB)])
    assert [one.reason for one in found[0].parked] == ["TIME_INVALID", "FIELD_REQUIRED"] and len(commands_in(found)) == 2
    refusal = Answer(status=400, body=b'{"error":{"code":"COE_PROPERTY_NOT_FOUND","message":{"lang":"en-US","value":"[COE0021]Invalid property names"}}}')
    with pytest.raises(ContractError, match="400 COE_PROPERTY_NOT_FOUND"):
        polled(inbound.poll(source(), {}, NOW_MS), [refusal])


def test_a_hint_is_read_again() -> None:
    hint = Hint(entity_id="10'42", kind="hire", delivery_id="1")
    (request,), found = polled(inbound.read(source(), hint, b"", NOW_MS), [jobs(JOB)])
    assert "userId eq '10''42'" in unquote(request.url) and len(commands_in(found)) == 2


_JSON = st.recursive(st.none() | st.integers() | st.text(max_size=6), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
    st.sampled_from(["d", "results", "__next", *JOB]), inner), max_leaves=6)  # fmt: skip


_BODIES = st.lists(_JSON, max_size=3).map(lambda records: b'{"d":{"results":' + json.dumps(records).encode() + b"}}")


@given(st.binary(max_size=40) | _BODIES)
def test_any_answer_is_read_parked_or_refused(body: bytes) -> None:
    try:
        polled(inbound.poll(source(), {}, NOW_MS), [Answer(status=200, body=body)])
    except ContractError:
        pass


# With the tenant.


async def test_changes_of_a_tenant_arrive() -> None:
    tenant = SuccessFactorsFake()
    await tenant.start()
    try:
        for number in range(150):
            tenant.hire(f"1{number:04}")
        headers = {"Authorization": f"Bearer {tenant.new_token()}"}
        found = await poll_fake(tenant, inbound.poll(source(), {}, now_ms()), headers)
        assert len(commands_in(found)) == 300 and len(found) == 2
        tenant.leave("10007", last_day=date.today() - timedelta(days=2))
        again = await poll_fake(tenant, inbound.poll(source(), cursor_of(found), now_ms()), headers)
        (change,) = commands_in(again)
        assert isinstance(change, ProfileChange) and (change.member_id, change.status) == ("10007", MemberStatus.SUSPENDED)
        hint = Hint(entity_id="10008", kind="rehire", delivery_id="1")
        assert {command.member_id for command in commands_in(await poll_fake(tenant, inbound.read(source(), hint, b"", NOW_MS), headers))} == {"10008"}
        with pytest.raises(ContractError, match="401"):
            await poll_fake(tenant, inbound.poll(source(), {}, now_ms()))
    finally:
        await tenant.stop()


def now_ms() -> int:
    return int(time.time() * 1000)
