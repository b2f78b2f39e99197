import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.fakes.darwinbox import DarwinboxFake
from infra.fakes.server import Misbehaviour
from schemas.records import Enrolment, MemberStatus, ProfileChange
from streams.connectors.contract import Answer, Delivery, Found, Outcome
from streams.connectors.darwinbox import CONNECTOR, inbound, outbound
from streams.errors import ContractError
from tests.connectors.support import NOW_MS, asked, commands_in, cursor_of, poll_fake, polled, source_of, state_of, target_of, write_fake, written

RECORD = {
    "employee_id": "E1", "first_name": "Ada", "last_name": "Example", "company_email_id": "ada@example.com", "employee_status": "Active",
    "date_of_joining": "05-01-2026", "last_modified": "22-11-2026 09:10:00",
}  # fmt: skip
MODIFIED_MS = NOW_MS  # 09:10 in Kolkata


def answer(*records: Any, **values: Any) -> Answer:
    return Answer(status=200, body=orjson.dumps({"status": 1, "message": "Successfully loaded all employees data", "employee_data": records} | values))


def source(**options: Any) -> Any:
    return source_of(CONNECTOR, **{"base_url": "https://db.example.com", "dataset_key": "fake-dataset-active", **options})


def target(**options: Any) -> Any:
    return target_of(CONNECTOR, base_url="https://db.example.com", **options)


@pytest.fixture
async def tenant() -> AsyncIterator[DarwinboxFake]:
    fake = DarwinboxFake()
    await fake.start()
    yield fake
    await fake.stop()


# Reading.


def test_a_record_becomes_a_member() -> None:
    (request,), found = polled(inbound.poll(source(), {}, NOW_MS + 1000), [answer(RECORD)])
    assert (request.method, request.url) == ("POST", "/masterapi/employee")
    assert orjson.loads(request.body or b"") == {"datasetKey": "fake-dataset-active", "last_modified": "01-01-1990 00:00:00"}
    enrolment, change = commands_in(found)
    assert isinstance(enrolment, Enrolment) and enrolment.event_id == "darwinbox:E1:hired:2026-01-05"
    assert isinstance(change, ProfileChange)
    assert (change.status, change.source_version, change.occurred_at_ms) == (MemberStatus.ACTIVE, MODIFIED_MS, MODIFIED_MS)
    assert change.attributes == {"given_name": "Ada", "family_name": "Example", "email": "ada@example.com"}


@pytest.mark.parametrize(
    ("fields", "status", "from_date"),
    [
        ({"employee_status": "Inactive", "date_of_exit": "21-11-2026", "separation_reason": "Resigned"}, MemberStatus.SUSPENDED, None),
        ({"employee_status": "Active", "date_of_exit": "30-11-2026"}, MemberStatus.SUSPENDED, "2026-12-01"),
        ({"employee_status": "1"}, MemberStatus.ACTIVE, None),
    ],
)  # fmt: skip
def test_who_leaves_is_suspended(fields: dict[str, str], status: MemberStatus, from_date: str | None) -> None:
    _, found = polled(inbound.poll(source(), {}, NOW_MS), [answer(RECORD | fields)])
    change = commands_in(found)[-1]
    assert isinstance(change, ProfileChange) and (change.status, change.status_from_date) == (status, from_date)
    assert change.status_reason == fields.get("separation_reason", change.status_reason)


def test_inactive_people_may_have_a_dataset_of_their_own() -> None:
    gone = {key: value for key, value in RECORD.items() if key != "employee_status"}
    requests, found = polled(inbound.poll(source(inactive_dataset_key="other"), {}, NOW_MS), [answer(), answer(gone)])
    assert [orjson.loads(request.body or b"")["datasetKey"] for request in requests] == ["fake-dataset-active", "other"]
    (change,) = commands_in(found)
    assert isinstance(change, ProfileChange) and change.status is MemberStatus.SUSPENDED


def test_a_later_run_asks_since_the_one_before_and_tells_nothing_twice() -> None:
    _, found = polled(inbound.poll(source(), {}, NOW_MS), [answer(RECORD)])
    (request,), again = polled(inbound.poll(source(api_key="k"), cursor_of(found), NOW_MS + 60_000), [answer(RECORD)])
    assert orjson.loads(request.body or b"") == {"datasetKey": "fake-dataset-active", "last_modified": "22-11-2026 09:05:00", "api_key": "k"}
    assert commands_in(again) == []


def test_nothing_modified_is_no_error_and_a_refusal_is() -> None:
    _, found = polled(inbound.poll(source(), {}, NOW_MS), [answer(status=0, message="No record found", employee_data=None)])
    assert cursor_of(found)["since_ms"] == NOW_MS
    with pytest.raises(ContractError, match="Invalid dataset key"):
        polled(inbound.poll(source(), {}, NOW_MS), [answer(status=0, message="Invalid dataset key")])


def test_a_record_that_cannot_be_read_is_parked_and_the_others_are_read() -> None:
    _, found = polled(inbound.poll(source(), {}, NOW_MS), [answer(RECORD | {"date_of_exit": "soon"}, 7, RECORD | {"employee_id": "E2"})])
    assert [one.reason for one in found[0].parked] == ["TIME_INVALID", "TYPE_INVALID"]
    assert {command.member_id for command in commands_in(found)} == {"E2"}


_JSON = st.recursive(st.none() | st.booleans() | st.integers(0, 10**9) | st.text(max_size=12), lambda inner: st.lists(inner, max_size=2), max_leaves=3)


@given(st.lists(st.dictionaries(st.sampled_from(sorted(RECORD) + ["date_of_exit"]), _JSON) | _JSON, max_size=3) | _JSON, _JSON)
def test_any_answer_is_read_parked_or_refused(records: Any, status: Any) -> None:
    try:
        body = orjson.dumps({"status": status, "employee_data": records})
    except TypeError:  # Lone surrogates.
        body = b"\xff"
    for one in (body, body.replace(b'"status":', b'"status":1,"was":')):
        try:
            _, found = polled(inbound.poll(source(), {}, NOW_MS), [Answer(status=200, body=one)])
        except ContractError:
            continue
        assert all(isinstance(step, Found) for step in found)


async def test_changes_of_a_tenant_arrive(tenant: DarwinboxFake) -> None:
    ours = source(inactive_dataset_key="fake-dataset-inactive")
    headers = {"TOKEN": tenant.new_token()}
    tenant.hire("E1")
    tenant.hire("E2")
    found = await poll_fake(tenant, inbound.poll(ours, {}, now_ms()), headers)
    assert [type(command) for command in commands_in(found)] == [Enrolment, ProfileChange] * 2
    yesterday = (datetime.now(UTC) - timedelta(days=2)).strftime("%d-%m-%Y")
    tenant.deactivate("E2", last_day=yesterday)
    again = await poll_fake(tenant, inbound.poll(ours, cursor_of(found), now_ms()), headers)
    (change,) = commands_in(again)
    assert isinstance(change, ProfileChange)
    assert (change.member_id, change.status, change.status_reason) == ("E2", MemberStatus.SUSPENDED, "Resigned")
    tenant.reactivate("E2")
    last = await poll_fake(tenant, inbound.poll(ours, cursor_of(again), now_ms()), headers)
    assert [command.status for command in commands_in(last) if isinstance(command, ProfileChange)] == [MemberStatus.ACTIVE]
    assert (await asked(tenant, inbound.request(ours.options, "fake-dataset-active", None))).status == 401


def now_ms() -> int:
    return int(time.time() * 1000)


# Pushed.


def delivery(body: Any) -> Delivery:
    return Delivery(body=orjson.dumps(body), headers={}, received_at_ms=NOW_MS)


DEACTIVATION = {"employees": [{
    "employee_id": "E1", "deactivate_type": "Resigned", "deactivate_reason": "Other", "date_of_resignation": "01-10-2026", "date_of_exit": "21-11-2026",
}]}  # fmt: skip


def test_a_deactivation_in_the_form_of_the_import_api_suspends() -> None:
    (change,) = inbound.translate(delivery(DEACTIVATION), source()).commands
    assert isinstance(change, ProfileChange)
    assert (change.member_id, change.status, change.status_reason, change.status_from_date) == ("E1", MemberStatus.SUSPENDED, "Resigned", None)
    ahead = {"employees": [DEACTIVATION["employees"][0] | {"date_of_exit": "30-11-2026"}, {"employee_id": "E2"}]}
    first, second = inbound.translate(delivery(ahead), source()).commands
    assert isinstance(first, ProfileChange) and first.status_from_date == "2026-12-01"
    assert isinstance(second, ProfileChange) and (second.member_id, second.status_reason) == ("E2", "employment ended")


def test_any_hr_json_is_taken_as_well() -> None:
    event = {"type": "worker.hired", "employee_id": "E3", "effective_date": "2026-11-02", "occurred_at": "2026-11-22T03:40:00Z"}
    assert [type(one) for one in inbound.translate(delivery(event), source()).commands] == [Enrolment, ProfileChange]


@pytest.mark.parametrize(
    "body", [[], {}, {"employees": []}, {"employees": [7]}, {"employees": [{}]}, {"employees": [{"employee_id": "E1", "date_of_exit": "soon"}]}]
)  # fmt: skip
def test_what_cannot_be_is_refused(body: Any) -> None:
    with pytest.raises(ContractError):
        inbound.translate(delivery(body), source())


# Writing.


def test_states_go_out_in_one_call() -> None:
    (request,), found = written(outbound.write(target(), [state_of("E1"), state_of("E2", points=-3)], NOW_MS), [Answer(status=200, body=b'{"status":1}')])
    assert orjson.loads(request.body or b"") == {"employees": [
        {"employee_id": "E1", "loyalty_points": "1250", "loyalty_tier": "GOLD"}, {"employee_id": "E2", "loyalty_points": "-3", "loyalty_tier": "GOLD"},
    ]}  # fmt: skip
    assert [one.outcome for one in found] == [Outcome.DONE, Outcome.DONE]


@pytest.mark.parametrize(
    ("body", "outcome"), [(b'{"status":"1"}', Outcome.DONE), (b'{"status":0}', Outcome.PARK), (b"[]", Outcome.PARK), (b"<html>", Outcome.RETRY)]
)  # fmt: skip
def test_the_status_in_a_good_answer_decides(body: bytes, outcome: Outcome) -> None:
    _, (found,) = written(outbound.write(target(), [state_of("E1")], NOW_MS), [Answer(status=200, body=body)])
    assert found.outcome is outcome


async def test_one_who_is_unknown_does_not_hold_up_the_others(tenant: DarwinboxFake) -> None:
    tenant.hire("E1")
    headers = {"TOKEN": tenant.new_token()}
    found = await write_fake(tenant, outbound.write(target(), [state_of("nobody"), state_of("E1")], NOW_MS), headers)
    assert [one.outcome for one in found] == [Outcome.PARK, Outcome.DONE]
    assert tenant.values == {"E1": {"loyalty_points": "1250", "loyalty_tier": "GOLD"}}, "nobody is created"
    tenant.misbehaviours.append(Misbehaviour(status=400, body=b"{}"))
    (found_now,) = await write_fake(tenant, outbound.write(target(), [state_of("E1", 419)], NOW_MS), headers)
    assert (found_now.outcome, found_now.reason) == (Outcome.PARK, "STATUS_400")
