from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.fakes.server import Misbehaviour
from infra.fakes.workday import WorkdayFake
from schemas.records import Enrolment, MemberStatus, ProfileChange
from streams.connectors import xml_reader as xml
from streams.connectors.contract import Answer, Outcome, Verdict
from streams.connectors.workday import CONNECTOR, inbound, outbound, service
from streams.errors import ContractError
from tests.connectors.support import NOW_MS, asked, commands_in, cursor_of, poll_fake, polled, source_of, state_of, target_of, write_fake, written

PAYLOADS = Path(__file__).parent / "payloads"
FAULT = Answer(status=500, body=(PAYLOADS / "validation_fault.xml").read_bytes())
WORKERS = Answer(status=200, body=(PAYLOADS / "get_workers_response.xml").read_bytes())
EMPTY = Answer(
    status=200,
    body=b'<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body><wd:Get_Workers_Response xmlns:wd="urn:com.workday/bsvc">'
    b"<wd:Response_Results><wd:Total_Pages>1</wd:Total_Pages></wd:Response_Results><wd:Response_Data/></wd:Get_Workers_Response></e:Body></e:Envelope>",
)
MINUTE_MS = 60_000


def source(**options: Any) -> Any:
    return source_of(CONNECTOR, **{"base_url": "https://wd.example.com", "tenant": "acme", "user_name": "ISU_LOYALTY", "password": "fake-password", **options})


def target(**options: Any) -> Any:
    return target_of(CONNECTOR, **{"base_url": "https://wd.example.com", "tenant": "acme", "user_name": "ISU_LOYALTY", "password": "fake-password", **options})


def body_of(request: Any) -> Any:
    return xml.find(xml.parse(request.body), "Body")


@pytest.fixture
async def tenant() -> AsyncIterator[WorkdayFake]:
    fake = WorkdayFake()
    await fake.start()
    yield fake
    await fake.stop()


# Reading.


def test_the_first_run_reads_everybody_and_later_ones_ask_twice() -> None:
    (first,), found = polled(inbound.poll(source(), {}, NOW_MS), [WORKERS])
    assert first.url == "/ccx/service/acme/Human_Resources/v45.2"
    assert xml.text_at(body_of(first), "Get_Workers_Request/Request_Criteria/Transaction_Log_Criteria_Data") is None
    assert [type(command) for command in commands_in(found)] == [Enrolment, ProfileChange, ProfileChange]
    later_ms = NOW_MS + MINUTE_MS
    (entry, effective), again = polled(inbound.poll(source(), cursor_of(found), later_ms), [WORKERS, EMPTY])
    ranges = "Get_Workers_Request/Request_Criteria/Transaction_Log_Criteria_Data/Transaction_Date_Range_Data/"
    assert xml.text_at(body_of(entry), ranges + "Updated_From") == "2026-11-22T03:35:00.000Z"
    assert xml.text_at(body_of(entry), ranges + "Updated_Through") == "2026-11-22T03:41:00.000Z"
    assert xml.text_at(body_of(entry), "Get_Workers_Request/Response_Filter/As_Of_Effective_Date") == "2026-11-22T03:41:00.000Z"
    assert xml.text_at(body_of(effective), ranges + "Effective_From") == "2026-11-22T03:35:00.000Z"
    assert xml.text_at(body_of(effective), ranges + "Effective_Through") == "2026-11-23T03:41:00.000Z"
    assert xml.text_at(body_of(effective), "Get_Workers_Request/Response_Filter/As_Of_Entry_DateTime") == "2026-11-22T03:41:00.000Z"
    assert commands_in(again) == [], "the overlap tells nothing twice"
    assert cursor_of(again)["through_ms"] == later_ms


def test_a_recorded_answer_is_understood() -> None:
    _, found = polled(inbound.poll(source(), {}, NOW_MS), [WORKERS])
    enrolment, active, gone = commands_in(found)
    assert isinstance(enrolment, Enrolment) and enrolment.member_id == "21001"
    assert isinstance(active, ProfileChange) and active.status is MemberStatus.ACTIVE
    assert active.attributes == {"given_name": "Ada", "family_name": "Example", "email": "21001@example.com"}
    assert active.external_ids == {"workday": "7bf6322f1ea101fd0b4433077f09cb04"}
    assert isinstance(gone, ProfileChange) and (gone.member_id, gone.status) == ("21002", MemberStatus.SUSPENDED)
    assert found[0].parked == () and found[0].source_time_ms == NOW_MS


def test_a_day_ahead_is_no_reason_to_suspend_today() -> None:
    cursor = {"through_ms": NOW_MS - MINUTE_MS}
    ahead = Answer(status=200, body=WORKERS.body.replace(b"2026-11-20", b"2026-11-22"))
    _, found = polled(inbound.poll(source(), cursor, NOW_MS), [EMPTY, ahead])
    change = commands_in(found)[-1]
    assert isinstance(change, ProfileChange) and (change.member_id, change.status_from_date) == ("21002", "2026-11-23")


def test_a_fault_is_parked_and_stops_the_run() -> None:
    polling = inbound.poll(source(), {}, NOW_MS)
    next(polling)
    found = polling.send(FAULT)
    assert not isinstance(found, type(None)) and found.cursor is None and found.parked[0].value == FAULT.body
    assert found.alert.startswith("WORKDAY_FAULT: Validation error occurred")
    with pytest.raises(ContractError):
        polling.send(None)


def test_a_worker_that_cannot_be_read_is_parked_and_the_others_are_read() -> None:
    broken = Answer(status=200, body=WORKERS.body.replace(b"<wd:Active>1</wd:Active>", b"<wd:Active>perhaps</wd:Active>"))
    _, found = polled(inbound.poll(source(), {}, NOW_MS), [broken])
    assert [(one.entity_id, one.reason) for one in found[0].parked] == [("21001", "VALUE_UNKNOWN")]
    assert [command.member_id for command in commands_in(found)] == ["21002"]


def test_only_faults_of_validation_are_answers() -> None:
    assert service.judged(FAULT).verdict is Verdict.PASS
    assert service.judged(replace(FAULT, body=b"<html>")).verdict is Verdict.RETRY
    assert service.judged(replace(FAULT, body=FAULT.body.replace(b"Client.validationError", b"Server.processingError"))).verdict is Verdict.RETRY
    assert service.judged(Answer(status=401)).verdict is Verdict.RENEW


def test_a_token_takes_the_place_of_a_user_name() -> None:
    assert b"UsernameToken" not in next(inbound.poll(source(user_name=""), {}, NOW_MS)).body  # type: ignore[union-attr]
    assert b"<wsse:Username>ISU_LOYALTY@acme</wsse:Username>" in next(inbound.poll(source(), {}, NOW_MS)).body  # type: ignore[union-attr]


@given(st.binary(max_size=200) | st.sampled_from([WORKERS.body, FAULT.body]), st.integers(200, 599), st.integers(0, 3000), st.binary(max_size=3))
def test_any_answer_is_read_parked_or_refused(body: bytes, status: int, at: int, other: bytes) -> None:
    answer = Answer(status=status, body=body[:at] + other + body[at + len(other) :])
    try:
        polled(inbound.poll(source(), {}, NOW_MS), [answer])
    except (ContractError, StopIteration, AssertionError) as error:
        assert not isinstance(error, AssertionError) or "not asked for" in str(error)


# With the tenant.


async def test_changes_of_a_tenant_arrive(tenant: WorkdayFake) -> None:
    for number in range(7):
        tenant.hire(f"2100{number}")
    ours = source(page_size=3)
    found = await poll_fake(tenant, inbound.poll(ours, {}, now_ms()))
    assert len(commands_in(found)) == 14 and len(found) == 3
    today = datetime.now(UTC).date()
    tenant.change("21003", family_name="Other")
    tenant.terminate("21004", last_day=today - timedelta(days=1))
    tenant.terminate("21005", last_day=today + timedelta(days=30))
    found += await poll_fake(tenant, inbound.poll(ours, cursor_of(found), now_ms()))
    changes = {command.member_id: command for command in commands_in(found)[14:]}
    assert set(changes) == {"21003", "21004", "21005"}
    assert changes["21003"].attributes["family_name"] == "Other"  # type: ignore[union-attr]
    assert changes["21004"].status is MemberStatus.SUSPENDED  # type: ignore[union-attr]
    assert changes["21005"].status_from_date == (today + timedelta(days=31)).isoformat()  # type: ignore[union-attr]
    tenant.rescind("21005")
    again = await poll_fake(tenant, inbound.poll(ours, cursor_of(found), now_ms()))
    assert [(one.member_id, one.status) for one in commands_in(again) if isinstance(one, ProfileChange)] == [("21005", MemberStatus.ACTIVE)]


async def test_a_run_that_breaks_off_goes_on_at_its_page(tenant: WorkdayFake) -> None:
    for number in range(9):
        tenant.hire(f"2100{number}")
    ours = source(page_size=3)
    polling = inbound.poll(ours, {}, now_ms())
    first = polling.send(await asked(tenant, next(polling)))  # type: ignore[arg-type]
    assert first.cursor is not None and first.cursor["run"]["page"] == 2  # type: ignore[union-attr]
    rest = await poll_fake(tenant, inbound.poll(ours, first.cursor, now_ms()))  # type: ignore[union-attr]
    enrolled = [command.member_id for command in commands_in([first, *rest]) if isinstance(command, Enrolment)]  # type: ignore[list-item]
    assert enrolled == [f"2100{n}" for n in range(9)]
    assert "run" not in cursor_of(rest)


async def test_who_may_not_ask_is_told_so(tenant: WorkdayFake) -> None:
    with pytest.raises(ContractError):
        await poll_fake(tenant, inbound.poll(source(password="wrong"), {}, NOW_MS))
    assert (await asked(tenant, next(inbound.poll(source(user_name=""), {}, NOW_MS)))).status == 401  # type: ignore[arg-type]
    token = tenant.new_token()
    assert await poll_fake(tenant, inbound.poll(source(user_name=""), {}, NOW_MS), {"Authorization": f"Bearer {token}"})
    tenant.misbehaviours.append(Misbehaviour(refuses_token=True))
    request = next(inbound.poll(source(user_name=""), {}, NOW_MS))
    assert (await asked(tenant, request, {"Authorization": f"Bearer {token}"})).status == 401  # type: ignore[arg-type]


def now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000) + 1


# Writing.


def test_a_state_goes_into_the_custom_object() -> None:
    (request,), (done,) = written(outbound.write(target(sequence_field="seq"), [state_of("21001")], NOW_MS), [Answer(
        status=200, body=b'<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body><wd:Edit_Worker_Additional_Data_Response '
        b'xmlns:wd="urn:com.workday/bsvc"/></e:Body></e:Envelope>')])  # fmt: skip
    edit = xml.find(body_of(request), "Edit_Worker_Additional_Data_Request")
    assert request.url == "/ccx/service/acme/Staffing/v45.2" and edit is not None
    data = xml.find(edit, "Worker_Custom_Object_Data")
    assert data is not None
    assert (xml.text_at(data, "Worker_Reference/ID"), xml.text_at(data, "Worker_Reference/ID@type")) == ("21001", "Employee_ID")
    assert xml.text_at(data, "Effective_Date") == "2026-11-22"
    custom = xml.find(data, "Business_Object_Additional_Data/loyaltyBalance")
    assert custom is not None and custom.tag == "{urn:com.workday/tenants/super/data/custom}loyaltyBalance"
    assert {xml.local_name(part.tag): part.text for part in custom} == {"points": "1250", "tier": "GOLD", "seq": "418"}
    assert done.outcome is Outcome.DONE


async def test_each_member_is_judged_by_itself(tenant: WorkdayFake) -> None:
    tenant.hire("21001")
    found = await write_fake(tenant, outbound.write(target(), [state_of("21001"), state_of("nobody")], NOW_MS))
    assert [(one.outcome, one.reason) for one in found] == [(Outcome.DONE, ""), (Outcome.PARK, "VALIDATION")]
    assert tenant.values == {"21001": {"points": "1250", "tier": "GOLD"}}, "nobody is created"


def test_what_is_written_is_escaped() -> None:
    request = next(outbound.write(target(), [state_of("<&>'\"")], NOW_MS))
    assert xml.text_at(body_of(request), "Edit_Worker_Additional_Data_Request/Worker_Custom_Object_Data/Worker_Reference/ID") == "<&>'\""


def test_days_of_hire_are_kept() -> None:
    _, found = polled(inbound.poll(source(), {}, NOW_MS), [WORKERS])
    assert commands_in(found)[0].event_id == f"workday:21001:hired:{date(2026, 1, 5)}"  # type: ignore[union-attr]
