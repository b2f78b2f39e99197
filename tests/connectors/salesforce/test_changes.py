"""Change events in their JSON form -> commands and hints."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.contract import Command, problems
from schemas.records import Enrolment, MemberStatus, ProfileChange
from streams.connectors.contract import Hint, Translation
from streams.connectors.salesforce import CONNECTOR, bitmaps, inbound, members
from streams.errors import ContractError
from streams.signatures import SignatureError
from tests.connectors.salesforce.cases import COMMIT, COMMITTED_AT_MS, KEY, RECORD_ID, delivery, payload, recorded, relayed, source

VERSION = COMMIT * members.VERSIONS_PER_COMMIT + 1
READ_VERSION = COMMIT * members.VERSIONS_PER_COMMIT + members.LAST
CREATED = {
    "Name": {"Salutation": "Ms.", "FirstName": "Ada", "LastName": "Example"}, "Email": "ada@example.com", "CreatedDate": "2026-11-22T03:40:00.000Z",
    "Loyalty_Id__c": "M-1", "Loyalty_Segments__c": "vip; staff", "Loyalty_Status__c": "Suspended", "Employee_Number__c": "21001",
}  # fmt: skip
MAPPED = {"segments_field": "Loyalty_Segments__c", "status_field": "Loyalty_Status__c", "external_id_map": {"employee": "Employee_Number__c"}}
HINT = Hint(entity_id=f"Contact/{RECORD_ID}", kind="UPDATE", delivery_id=f"{KEY}:1@{READ_VERSION}")


def meant(kind: str, fields: dict[str, Any] | None = None, options: dict[str, Any] | None = None, **header: Any) -> Translation:
    return inbound.translate(relayed(kind, fields, **header), source(**(options or {})))


def test_a_recorded_echo_is_not_heard_and_the_same_of_anybody_else_is_read_again() -> None:
    ours = source(client_name="loyalty-sync")
    assert inbound.translate(delivery(recorded("change_event.json")), ours).ignored == "our own write"
    found = inbound.translate(delivery(recorded("change_event.json")), source())
    assert (found.commands, found.hints) == ((), (HINT,)), "the event does not say whose record it is"


@pytest.mark.parametrize(("origin", "is_echo"), [
    ("com/salesforce/api/rest/62.0;client=salesforce", True), ("com/salesforce/api/soap/62.0;client=salesforce", True),
    ("com/salesforce/api/rest/62.0;client=salesforce2", False), ("com/salesforce/api/rest/62.0", False), ("client=salesforce", False), ("", False),
])  # fmt: skip
def test_an_echo_is_known_by_the_name_that_both_halves_share(origin: str, is_echo: bool) -> None:
    found = meant("UPDATE", {"LastName": "Okafor"}, changeOrigin=origin)
    assert bool(found.ignored) is is_echo


def test_a_record_that_is_created_is_a_member() -> None:
    enrolment, change = meant("CREATE", CREATED, MAPPED).commands
    assert enrolment == Enrolment(
        program_id="staff", member_id="M-1", event_id=f"salesforce:{RECORD_ID}:enrolled:1795318800000", source_system="salesforce",
        occurred_at_ms=1795318800000, source_version=1, external_ids={"salesforce": RECORD_ID},
    )  # fmt: skip
    assert change == ProfileChange(
        program_id="staff", member_id="M-1", event_id=f"salesforce:{KEY}:1:{RECORD_ID}", source_system="salesforce", occurred_at_ms=COMMITTED_AT_MS,
        source_version=VERSION, attributes={"given_name": "Ada", "family_name": "Example", "email": "ada@example.com"}, segments=("staff", "vip"),
        external_ids={"employee": "21001", "salesforce": RECORD_ID}, status=MemberStatus.SUSPENDED, status_reason="Suspended",
    )  # fmt: skip


def test_a_record_without_a_number_is_of_no_member() -> None:
    assert meant("CREATE", {"LastName": "Example"}).ignored
    (change,) = meant("CREATE", CREATED, {"enrols": False}).commands
    assert isinstance(change, ProfileChange), "another system enrols"


def test_what_a_change_says_and_does_not_say() -> None:
    """A channel that is enriched with the number; null clears, absent is unchanged."""
    fields = {"LastName": "Okafor", "Phone": None, "Loyalty_Id__c": "M-1"}
    (change,) = meant("UPDATE", fields, changedFields=["Name.LastName", "Phone"]).commands
    assert isinstance(change, ProfileChange)
    assert (change.member_id, change.attributes, change.segments, change.status) == ("M-1", {"family_name": "Okafor", "phone": None}, None, None)
    assert (change.source_version, change.event_id) == (VERSION, f"salesforce:{KEY}:1:{RECORD_ID}")


def test_parts_of_compound_fields_are_called_as_in_queries() -> None:
    options = {"field_map": {"city": "MailingCity", "family_name": "LastName"}}
    fields = {"MailingAddress": {"City": None}, "Name": {"LastName": "Okafor"}, "Loyalty_Id__c": "M-1"}
    (change,) = meant("UPDATE", fields, options, changedFields=[], nulledFields=["MailingAddress.City"]).commands
    assert isinstance(change, ProfileChange) and change.attributes == {"city": None, "family_name": "Okafor"}


def test_only_what_is_kept_is_asked_for() -> None:
    assert meant("UPDATE", {"Description": "x", "LastModifiedDate": "2026-11-22T03:40:00.000Z"}).ignored
    assert meant("UPDATE", {"LastName": "x"}, entityName="Account").ignored
    assert meant("DELETE", options={"deleted_status": "as it is"}).ignored


@pytest.mark.parametrize(("kind", "record_ids"), [
    ("GAP_UPDATE", [RECORD_ID]), ("GAP_CREATE", [RECORD_ID, "0035f00000AbCdFAAV"]), ("GAP_DELETE", [RECORD_ID]), ("DELETE", [RECORD_ID]),
    ("UPDATE", [RECORD_ID, "0035f00000AbCdFAAV"]),
])  # fmt: skip
def test_records_that_the_event_tells_too_little_of_are_read(kind: str, record_ids: list[str]) -> None:
    found = meant(kind, {"LastName": "Okafor"} if kind == "UPDATE" else None, recordIds=record_ids)
    assert found.commands == ()
    assert [(one.entity_id, one.kind, one.delivery_id) for one in found.hints] == [(f"Contact/{one}", kind, f"{KEY}:1@{READ_VERSION}") for one in record_ids]


def test_a_gap_of_our_own_transaction_is_read_all_the_same() -> None:
    assert meant("GAP_UPDATE", changeOrigin="com/salesforce/api/rest/62.0;client=salesforce").hints


@pytest.mark.parametrize("header", [{"changeType": "GAP_OVERFLOW", "recordIds": []}, {"changeType": "UPDATE", "recordIds": ["003*"]}])
def test_where_ids_are_missing_all_records_are_read(header: dict[str, Any]) -> None:
    found = meant("?", **header)
    assert found.hints == (Hint(entity_id="Contact/*", kind="RESYNC", delivery_id=f"{COMMITTED_AT_MS - 86_400_000}@{READ_VERSION}"),)


def test_a_number_that_is_set_makes_a_member_of_the_whole_record() -> None:
    assert meant("UPDATE", {"Loyalty_Id__c": "M-1"}).hints == (HINT,)


def test_changes_can_be_addressed_by_the_records_id() -> None:
    options = {"number_missing": "address"}
    (change,) = meant("UPDATE", {"LastName": "Okafor"}, options).commands
    assert change.member_id == f"@salesforce:{RECORD_ID}"
    (gone,) = meant("DELETE", options=options).commands
    assert isinstance(gone, ProfileChange)
    assert (gone.member_id, gone.status, gone.status_reason) == (f"@salesforce:{RECORD_ID}", MemberStatus.SUSPENDED, "deleted in Salesforce")
    (taken,) = meant("UPDATE", {"Loyalty_Id__c": None}).commands
    assert isinstance(taken, ProfileChange) and (taken.member_id, taken.status) == (f"@salesforce:{RECORD_ID}", MemberStatus.SUSPENDED)


def test_a_record_that_is_back_is_active_again() -> None:
    _, change = meant("UNDELETE", {"LastName": "Example", "Loyalty_Id__c": "M-1"}).commands
    assert isinstance(change, ProfileChange) and change.status is MemberStatus.ACTIVE


@given(st.lists(st.tuples(st.integers(1, 10**14), st.integers(1, 200_000)), min_size=2, max_size=2, unique=True))
def test_versions_are_in_the_order_of_commits(places: list[tuple[int, int]]) -> None:
    (first, second) = sorted(places)
    assert members.version(*first) <= members.version(*second)
    if first[0] < second[0] or second[1] < members.LAST:
        assert members.version(*first) < members.version(*second)


def test_changes_beyond_a_versions_room_are_read() -> None:
    assert meant("UPDATE", {"LastName": "Okafor", "Loyalty_Id__c": "M-1"}, changedFields=[], sequenceNumber=members.LAST).hints == (
        Hint(entity_id=f"Contact/{RECORD_ID}", kind="UPDATE", delivery_id=f"{KEY}:{members.LAST}@{READ_VERSION}"),
    )


@pytest.mark.parametrize("header", [
    {"commitNumber": 0}, {"commitNumber": "1"}, {"commitNumber": 10**17}, {"commitTimestamp": None}, {"commitTimestamp": 10**17},
    {"sequenceNumber": True}, {"transactionKey": ""},
    {"recordIds": "0035f00000AbCdEAAV"}, {"recordIds": ["x' OR Id != '"]}, {"changeType": "SNAPSHOT"}, {"entityName": None}, {"recordIds": [1]},
])  # fmt: skip
def test_a_header_that_is_none_is_refused(header: dict[str, Any]) -> None:
    with pytest.raises(ContractError):
        meant("UPDATE", {"LastName": "Okafor", "Loyalty_Id__c": "M-1"}, **header)


def test_a_status_without_a_meaning_is_refused_rather_than_lost() -> None:
    with pytest.raises(ContractError, match="status_map"):
        meant("CREATE", CREATED | {"Loyalty_Status__c": "Frozen"}, MAPPED)


def test_a_relay_may_send_many_with_their_channels() -> None:
    body = orjson.dumps([
        {"channel": "/data/ContactChangeEvent", "data": {"schema": "s", "payload": payload("CREATE", CREATED), "event": {"replayId": 1}}},
        {"channel": "/data/ContactChangeEvent", "data": {"schema": "s", "payload": payload("GAP_UPDATE"), "event": {"replayId": 2}}},
        {"channel": "/event/Other__e", "data": {"schema": "s", "payload": {"CreatedDate": "2026-11-22T03:40:00.000Z"}, "event": {"replayId": 3}}},
    ])  # fmt: skip
    found = inbound.translate(delivery(body), source())
    assert (len(found.commands), len(found.hints)) == (2, 1)
    assert inbound.translate(delivery(b"[]"), source()).ignored == "no events"
    with pytest.raises(ContractError, match="1000"):
        inbound.translate(delivery(orjson.dumps([{}] * 1001)), source())


def test_the_password_proves_a_relay() -> None:
    assert CONNECTOR.push is not None
    with pytest.raises(SignatureError):
        CONNECTOR.push.authenticate(source(secret=""), delivery(b"{}"))


# Bitmaps.

SCHEMA: dict[str, Any] = {"fields": [
    {"name": "ChangeEventHeader", "type": "Header"},
    {"name": "Name", "type": ["null", {"type": "record", "name": "N", "fields": [{"name": "Salutation"}, {"name": "FirstName"}, {"name": "LastName"}]}]},
    *({"name": f"F{place}", "type": ["null", "string"]} for place in range(2, 70)),
    {"name": "Other", "type": ["null", "N"]},
]}  # fmt: skip
NAMED = {"N": SCHEMA["fields"][1]["type"][1]}


@pytest.mark.parametrize(("given", "names"), [
    ([], []), (["0x00"], []), (["0x2"], ["Name"]), (["0x0C"], ["F2", "F3"]), (["0x200000000000000000"], ["F69"]),
    (["1-0x06"], ["Name.FirstName", "Name.LastName"]),
    (["0x04", "1-0x1", "70-0x4"], ["F2", "Name.Salutation", "Other.LastName"]),
])  # fmt: skip
def test_bitmaps_name_fields_in_the_order_of_the_schema(given: list[str], names: list[str]) -> None:
    assert bitmaps.names(given, SCHEMA, NAMED) == names


@pytest.mark.parametrize("wrong", ["", "0x", "06", "0xZ", "-0x1", "2-0x1", "99-0x1", "1-0x8", "0x1" + "0" * 40, "0x" + "0" * 2000, 5])
def test_a_bitmap_that_does_not_fit_is_refused(wrong: str) -> None:
    with pytest.raises(ContractError):
        bitmaps.names([wrong], SCHEMA, NAMED)


# Whatever comes.

_WORDS = st.sampled_from(["M-1", RECORD_ID, "003*", "UPDATE", "CREATE", "GAP_OVERFLOW", "Contact", ""])
_LEAVES = st.none() | st.integers() | st.booleans() | st.floats() | _WORDS
_NAMES = st.sampled_from(["ChangeEventHeader", "payload", "data", "event", "channel", "recordIds", "LastName", "Loyalty_Id__c", "Name", "CreatedDate"])
_JSON = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4), max_leaves=8)
_HEADER = st.dictionaries(st.sampled_from([name for name in payload("UPDATE")["ChangeEventHeader"] if name != "changeType"]), _JSON)


def check(translation: Translation) -> None:
    assert bool(translation.commands or translation.hints) != bool(translation.ignored)
    assert [problem for command in translation.commands for problem in problems(command)] == []


@given(st.binary(max_size=80) | _JSON.map(json.dumps).map(str.encode))
def test_any_body_is_understood_or_refused(body: bytes) -> None:
    try:
        check(inbound.translate(delivery(body), source()))
    except ContractError:
        return


@given(st.sampled_from(["CREATE", "UPDATE", "DELETE", "UNDELETE", "GAP_UPDATE", "X"]), st.dictionaries(_NAMES, _JSON), _HEADER)
def test_any_change_is_understood_or_refused(kind: str, fields: dict[str, Any], header: dict[str, Any]) -> None:
    event = fields | payload(kind, **header)
    try:
        check(inbound.translate(delivery(json.dumps({"payload": event}).encode()), source(**MAPPED)))
    except ContractError:
        return


def command_ids(found: tuple[Command, ...]) -> list[str]:
    return [one.event_id for one in found if isinstance(one, ProfileChange)]


def test_an_event_that_comes_twice_makes_the_same_commands() -> None:
    assert meant("CREATE", CREATED) == meant("CREATE", CREATED)
    assert command_ids(meant("CREATE", CREATED, sequenceNumber=2).commands) != command_ids(meant("CREATE", CREATED).commands)
