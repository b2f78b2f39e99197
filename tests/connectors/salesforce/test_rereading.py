"""Hints at records -> what the organization holds of them."""

from typing import Any

import orjson
import pytest

from infra.fakes.salesforce import SalesforceFake
from schemas.records import Enrolment, MemberStatus, ProfileChange
from streams.connectors.contract import Answer, Hint
from streams.connectors.salesforce import changes, members, rereading
from streams.errors import ContractError
from tests.connectors.salesforce.cases import COMMIT, KEY, RECORD_ID, source
from tests.connectors.support import NOW_MS, commands_in, poll_fake, polled

VERSION = members.version(COMMIT)


def hint(record_id: str, kind: str = "GAP_UPDATE", delivery_id: str = f"{KEY}:1@{VERSION}") -> Hint:
    return Hint(entity_id=f"Contact/{record_id}", kind=kind, delivery_id=delivery_id)


def authorized(org: SalesforceFake) -> dict[str, str]:
    return {"Authorization": f"Bearer {org.new_token()}"}


async def read(org: SalesforceFake, one: Hint, **options: Any) -> list[Any]:
    return commands_in(await poll_fake(org, rereading.read(source(**options), one, b"", NOW_MS), authorized(org)))


def test_the_request_names_what_is_kept() -> None:
    (request,), found = polled(rereading.read(source(), hint(RECORD_ID), b"", NOW_MS), [Answer(status=200, body=b'{"records":[]}')])
    assert (request.method, request.url) == (
        "GET", "/services/data/v62.0/query?q=SELECT+Id%2C+IsDeleted%2C+CreatedDate%2C+SystemModstamp%2C+Loyalty_Id__c%2C+Email%2C+FirstName%2C+LastName%2C+"
        "Phone+FROM+Contact+WHERE+Id+%3D+%270035f00000AbCdEAAV%27",
    )  # fmt: skip
    assert commands_in(found) == []


async def test_a_record_is_read_whole_and_counts_as_the_end_of_its_commit(org: SalesforceFake) -> None:
    record_id = await org.create(FirstName="Ada", LastName="Example", Loyalty_Id__c="M-1")
    enrolment, change = await read(org, hint(record_id))
    assert isinstance(enrolment, Enrolment) and enrolment.member_id == "M-1"
    assert isinstance(change, ProfileChange) and change.source_version == VERSION
    assert change.attributes == {"given_name": "Ada", "family_name": "Example", "email": None, "phone": None}
    assert change.external_ids == {"salesforce": record_id}
    assert await read(org, hint(record_id)) == [enrolment, change], "read twice, it is the same"
    org.change_silently(record_id, LastName="Okafor")
    _, again = await read(org, hint(record_id))
    assert (again.event_id != change.event_id, again.attributes["family_name"]) == (True, "Okafor"), "another content has another id"


async def test_who_has_no_number_is_no_member(org: SalesforceFake) -> None:
    assert await read(org, hint(await org.create(LastName="Example"))) == []


async def test_the_deleted_are_found_in_the_bin_and_the_gone_by_their_ids(org: SalesforceFake) -> None:
    record_id = await org.create(LastName="Example", Loyalty_Id__c="M-1")
    await org.delete(record_id)
    assert await read(org, hint(record_id)) == [], "its deletion has a hint of its own"
    (removed,) = await read(org, hint(record_id, "GAP_DELETE"))
    assert (removed.member_id, removed.status) == ("M-1", MemberStatus.SUSPENDED)
    (gone,) = await read(org, hint(RECORD_ID, "DELETE"))
    assert (gone.member_id, gone.status) == (f"@salesforce:{RECORD_ID}", MemberStatus.SUSPENDED)
    assert await read(org, hint(RECORD_ID, "DELETE"), record_id_type="") == []
    await org.undelete(record_id)
    _, back = await read(org, hint(record_id, "GAP_UNDELETE"))
    assert back.status is MemberStatus.ACTIVE


async def test_all_records_are_read_page_by_page(org: SalesforceFake) -> None:
    for number in range(5):
        await org.create(LastName="Example", Loyalty_Id__c=f"M-{number}")
    await org.create(LastName="Nobody")
    await org.delete(next(iter(org.contacts)))
    everything = changes.everything(source(), 0, 7)
    found = await poll_fake(org, rereading.read(source(), everything, b"", NOW_MS), authorized(org))
    assert [len(one.commands) for one in found] == [3, 4, 2], "one that was deleted, and an enrolment and a profile for each other one"
    told = commands_in(found)
    assert {one.member_id for one in told} == {f"M-{number}" for number in range(5)}
    assert [one.status for one in told if isinstance(one, ProfileChange) and one.status] == [MemberStatus.SUSPENDED]
    since_now = changes.everything(source(), NOW_MS * 2, 7)
    assert await read(org, since_now) == []


def test_one_record_that_makes_no_sense_does_not_hold_up_the_others() -> None:
    records = [{"Id": RECORD_ID, "Loyalty_Id__c": "M-1", "LastName": "x" * 2000}, {"Id": RECORD_ID, "Loyalty_Id__c": "M-2"}, 5]
    answer = Answer(status=200, body=orjson.dumps({"done": True, "records": records}))
    _, (found,) = polled(rereading.read(source(), changes.everything(source(), 0, 7), b"", NOW_MS), [answer])
    assert [one.member_id for one in found.commands] == ["M-2", "M-2"]
    assert [(one.reason, one.entity_id) for one in found.parked] == [("ATTRIBUTE_TOO_LONG", RECORD_ID), ("TYPE_INVALID", "")]
    assert b"xxx" not in found.parked[0].value, "what is personal stays where it is"


@pytest.mark.parametrize("wrong", [
    hint("x' OR Id != '"), hint(RECORD_ID, delivery_id="1"), Hint(entity_id="Con tact/1", kind="?", delivery_id="@1"), hint(RECORD_ID, delivery_id="1@²"),
    hint("*", delivery_id="x@1"), hint("*", delivery_id=f"{10**17}@1"),
])  # fmt: skip
def test_a_hint_of_another_form_asks_for_nothing(wrong: Hint) -> None:
    with pytest.raises(ContractError, match="HINT_INVALID"):
        next(rereading.read(source(), wrong, b"", NOW_MS))


async def test_a_refusal_stops_the_conversation(org: SalesforceFake) -> None:
    with pytest.raises(ContractError, match="400: MALFORMED_QUERY"):
        await read(org, Hint(entity_id=f"Account/{RECORD_ID}", kind="UPDATE", delivery_id="1@1"))
