"""The stream over real gRPC: events, keep-alives, what is asked for, gaps, expired replay ids, tokens that end, and what cannot be understood."""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, date, datetime
from typing import Any, cast

import grpc
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.fakes.salesforce import SalesforceFake
from infra.fakes.salesforce_pubsub import CONTACT_CHANGE_EVENT, LOYALTY_PURCHASE, Failure, change_event, encode
from schemas.records import Enrolment, ProfileChange, Transaction
from streams.connectors import grants
from streams.connectors.contract import Answer, Cursor, Found, Source, Token
from streams.connectors.salesforce import changes, inbound, members, pubsub
from streams.connectors.salesforce.pubsub import messages
from streams.errors import ContractError, UnavailableError
from tests.connectors.salesforce.cases import COMMITTED_AT_MS, KEY, PURCHASES, RECORD_ID, TOPIC, payload, source
from tests.connectors.salesforce.test_changes import CREATED, MAPPED

PURCHASE = {
    "CreatedDate": 1795318800000, "CreatedById": "0055f000005mc66AAA", "Order_Number__c": "1001", "Member__c": "M-1", "Currency__c": "EUR",
    "Category__c": "spa", "Amount__c": 260.5, "Nights__c": 2.0,
}  # fmt: skip
PURCHASE_FIELDS = {
    "transaction_id": "Order_Number__c", "member_id": "Member__c", "kind": "=EARN", "amount": "Amount__c", "currency": "Currency__c", "nights": "Nights__c",
}  # fmt: skip


CREATED_FLAT = {
    "FirstName": "Ada", "LastName": "Example", "Email": "ada@example.com", "Loyalty_Id__c": "M-1", "Loyalty_Segments__c": "vip; staff",
    "Employee_Number__c": "21001",
}  # fmt: skip


class Tokens:
    """Of the organization; what is refused is remembered."""

    def __init__(self, org: SalesforceFake) -> None:
        self.org, self.refused = org, 0

    async def get(self) -> Token:
        content = b'{"access_token":"%s","instance_url":"https://acme.my.salesforce.com","id":"https://login.salesforce.com/id/%s/0055f000005mc66AAA"}'
        return grants.oauth_token(Answer(status=200, body=content % (self.org.new_token().encode(), self.org.tenant_id.encode())))

    def refuse(self, token: Token) -> bool:
        self.refused += 1
        return True


def hearing(org: SalesforceFake, **options: Any) -> Source:
    return source(**{"pubsub_url": org.bus.url, "resync_at_start": False, **options})


@asynccontextmanager
async def feed(org: SalesforceFake, cursor: Cursor | None = None, *, tokens: Tokens | None = None, **options: Any) -> AsyncIterator[AsyncIterator[Found]]:
    stream = cast(AsyncGenerator[Found, None], inbound.listen(hearing(org, **options), cursor or {}, tokens or Tokens(org)))
    async with asyncio.timeout(30), aclosing(stream):
        yield stream


async def until(stream: AsyncIterator[Found], wanted: int) -> list[Found]:
    """Read until so many commands, hints and dead letters have come; what had something."""
    found: list[Found] = []
    while sum(len(one.commands) + len(one.hints) + len(one.parked) for one in found) < wanted:
        one = await anext(stream)
        if one.commands or one.hints or one.parked or one.alert:
            found.append(one)
    return found


def test_messages_are_on_the_wire_as_published() -> None:
    """By the field numbers, without the library."""
    request = messages.FetchRequest(topic_name="/t", replay_preset=pubsub.CUSTOM, replay_id=b"\x01\x02", num_requested=5)
    assert request.SerializeToString() == b"\x0a\x02/t\x10\x02\x1a\x02\x01\x02\x20\x05"
    event = b"\x0a\x02id\x12\x01s\x1a\x02\xff\x00\x22\x03\x0a\x01k"  # With headers, which are not read.
    consumed = b"\x0a" + bytes([len(event)]) + event + b"\x12\x01r"
    response = messages.FetchResponse.FromString(b"\x0a" + bytes([len(consumed)]) + consumed + b"\x12\x01L\x1a\x01x\x20\x07")
    assert [(one.event.id, one.event.schema_id, one.event.payload, one.replay_id) for one in response.events] == [("id", "s", b"\xff\x00", b"r")]
    assert (response.latest_replay_id, response.rpc_id, response.pending_num_requested) == (b"L", "x", 7)
    assert messages.SchemaRequest(schema_id="s").SerializeToString() == b"\x0a\x01s"
    info = messages.SchemaInfo.FromString(b"\x0a\x02{}\x12\x01s\x1a\x01x")
    assert (info.schema_json, info.schema_id) == ("{}", "s")


async def test_changes_come_in_order_and_the_cursor_with_them(org: SalesforceFake) -> None:
    record_id = await org.create(**CREATED_FLAT)
    await org.update(record_id, LastName="Okafor", Phone=None, Loyalty_Id__c="M-1")
    async with feed(org, None, **dict[str, Any](MAPPED)) as stream:
        found = await until(stream, 3)
        enrolment, created = [command for one in found for command in one.commands][:2]
    assert isinstance(enrolment, Enrolment) and enrolment.external_ids == {"salesforce": record_id}
    assert isinstance(created, ProfileChange)
    assert created.attributes == {"given_name": "Ada", "family_name": "Example", "email": "ada@example.com"}
    assert (created.segments, created.external_ids) == (("staff", "vip"), {"employee": "21001", "salesforce": record_id})
    assert [(one.entity_id, one.kind) for step in found for one in step.hints] == [(f"Contact/{record_id}", "UPDATE")], "its number has changed, it says"
    cursor = found[-1].cursor
    assert cursor is not None
    assert base64.b64decode(cursor["replay"][TOPIC]) == org.bus.last[TOPIC].to_bytes(8)
    assert cursor["commit"] == org.commit_number and found[-1].source_time_ms == cursor["at_ms"]
    assert org.bus.metadata[0] | {"instanceurl": "https://acme.my.salesforce.com", "tenantid": org.tenant_id} == org.bus.metadata[0]
    await org.create(Loyalty_Id__c="M-2")
    async with feed(org, cursor) as stream:
        assert [one.member_id for step in await until(stream, 2) for one in step.commands] == ["M-2", "M-2"], "what was read is not read again"


async def test_keep_alives_move_the_cursor_too(org: SalesforceFake) -> None:
    await org.update(await org.create(LastName="Example"), Email="ada@example.com")
    async with feed(org, first_read="latest") as stream:
        first = await anext(stream)
    assert (first.commands, first.hints) == ((), ())
    assert first.cursor is not None and base64.b64decode(first.cursor["replay"][TOPIC]) == org.bus.last[TOPIC].to_bytes(8)


async def test_more_is_asked_for_when_what_came_was_dealt_with(org: SalesforceFake) -> None:
    count = 2 * pubsub.EVENTS_REQUESTED + 30
    for number in range(count):
        await org.tell("UPDATE", RECORD_ID, {"LastName": f"Example {number}"})
    async with feed(org) as stream:
        first = await anext(stream)
        assert len(first.hints) == pubsub.EVENTS_REQUESTED, "no more than was asked for"
        assert [one.num_requested for one in org.bus.fetches] == [pubsub.EVENTS_REQUESTED]
        rest = await until(stream, count - pubsub.EVENTS_REQUESTED)
    assert len({one.delivery_id for step in (first, *rest) for one in step.hints}) == count
    assert org.bus.outstanding_max <= 2 * pubsub.EVENTS_REQUESTED
    assert org.bus.requests["schema"] == 1, "a schema is asked for once"


async def test_topics_share_a_connection_and_keep_their_own_places(org: SalesforceFake) -> None:
    await org.create(Loyalty_Id__c="M-1")
    await org.bus.publish(PURCHASES, LOYALTY_PURCHASE, PURCHASE)
    async with feed(org, transaction_topics=[PURCHASES], transaction_fields=PURCHASE_FIELDS) as stream:
        found = await until(stream, 3)
    (earn,) = [one for step in found for one in step.commands if isinstance(one, Transaction)]
    assert (earn.transaction_id, earn.amount_minor, earn.nights, earn.occurred_at_ms) == ("salesforce:1001", 26050, 2, 1795318800000)
    assert found[-1].cursor is not None and found[-1].cursor["replay"].keys() == {TOPIC, PURCHASES}


async def test_gaps_and_overflows_are_read_again(org: SalesforceFake) -> None:
    gap = await org.tell("GAP_UPDATE", [RECORD_ID], {})
    overflow = await org.tell("GAP_OVERFLOW", [], {})
    async with feed(org) as stream:
        hints = [one for step in await until(stream, 2) for one in step.hints]
    assert [(one.entity_id, one.kind) for one in hints] == [(f"Contact/{RECORD_ID}", "GAP_UPDATE"), ("Contact/*", "RESYNC")]
    assert [one.delivery_id.rpartition("@")[2] for one in hints] == [str(members.version(one["commitNumber"])) for one in (gap, overflow)]


async def test_a_replay_id_that_has_run_out_is_replaced_by_the_oldest_event_and_a_reread(org: SalesforceFake) -> None:
    await org.create(Loyalty_Id__c="M-1")
    async with feed(org) as stream:
        cursor = (await until(stream, 2))[-1].cursor
    assert cursor is not None
    await org.create(Loyalty_Id__c="M-2")
    await org.create(Loyalty_Id__c="M-3")
    org.bus.expire(TOPIC, keep=1)
    async with feed(org, cursor, first_read="latest") as stream:
        alert, *rest = await until(stream, 3)
    assert alert.alert.startswith(f"REPLAY_EXPIRED: {TOPIC}")
    (hint,) = [one for step in rest for one in step.hints]
    since_ms, _, version = hint.delivery_id.partition("@")
    assert (hint.entity_id, hint.kind, int(since_ms)) == ("Contact/*", "RESYNC", cursor["at_ms"] - 86_400_000)
    seen, next_one = org.commit_number, org.commit_number + 728
    assert members.version(seen) < int(version) < members.version(next_one, 1), "newer than all that was seen, older than all that comes"
    assert [one.member_id for step in rest for one in step.commands] == ["M-3", "M-3"]
    # It stopped before the oldest event came: the cursor says what is to be done.
    async with feed(org, alert.cursor, first_read="latest") as stream:
        again = await until(stream, 3)
    assert [one.member_id for step in again for one in step.commands] == ["M-3", "M-3"]
    assert [one for step in again for one in step.hints] == [hint]


async def test_of_platform_events_that_have_run_out_the_alert_tells(org: SalesforceFake) -> None:
    await org.bus.publish(PURCHASES, LOYALTY_PURCHASE, PURCHASE)
    await org.bus.publish(PURCHASES, LOYALTY_PURCHASE, PURCHASE)
    org.bus.expire(PURCHASES)
    cursor = {"replay": {PURCHASES: base64.b64encode(b"another bus").decode()}, "commit": 5, "at_ms": 5}
    async with feed(org, cursor, change_topics=[], transaction_topics=[PURCHASES], transaction_fields=PURCHASE_FIELDS) as stream:
        first = await anext(stream)
    assert first.hints == () and "lost" in first.alert


async def test_an_organization_that_refuses_even_the_oldest_event_is_told_of(org: SalesforceFake) -> None:
    refusal = Failure(code=grpc.StatusCode.INVALID_ARGUMENT, error_code=f"{pubsub.REPLAY_ERROR}.corrupted")
    await org.bus.fail(refusal, refusal)
    async with feed(org) as stream:
        assert (await anext(stream)).alert.startswith("REPLAY_EXPIRED")
        with pytest.raises(UnavailableError, match="the oldest event, too"):
            await anext(stream)


async def test_at_the_start_all_records_are_read(org: SalesforceFake) -> None:
    async with feed(org, resync_at_start=True) as stream:
        first = await anext(stream)
    assert [(one.entity_id, one.delivery_id) for one in first.hints] == [("Contact/*", f"0@{members.VERSIONS_PER_COMMIT}")]
    assert first.cursor is not None and first.cursor["replay"], "once something is heard: what happens from then on is not missed"
    async with feed(org, first.cursor, resync_at_start=True) as stream:
        assert (await anext(stream)).hints == (), "once"


async def test_what_cannot_be_understood_is_parked_and_holds_nothing_up(org: SalesforceFake) -> None:
    schema_id = org.bus.add_schema(CONTACT_CHANGE_EVENT)
    await org.bus.publish_bytes(TOPIC, schema_id, b"\xff\xff")
    await org.bus.publish_bytes(TOPIC, org.bus.add_schema({"type": "string"}), b"\x00")
    await org.tell("SNAPSHOT", [RECORD_ID], {})
    org.commit_number, known = 10**17, org.commit_number
    await org.tell("UPDATE", [RECORD_ID], {"LastName": "Okafor"})
    org.commit_number = known
    await org.create(Loyalty_Id__c="M-1")
    async with feed(org) as stream:
        found = await until(stream, 6)
    assert [one.reason for step in found for one in step.parked] == ["AVRO_INVALID", "SCHEMA_INVALID", "TYPE_UNKNOWN", "COMMIT_INVALID"]
    assert [one.member_id for step in found for one in step.commands] == ["M-1", "M-1"]


@pytest.mark.parametrize(("failure", "said"), [
    (Failure(), "UNAVAILABLE: asked for"), (Failure(ends=True), "has ended"), (Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED), "RESOURCE_EXHAUSTED"),
])  # fmt: skip
async def test_a_stream_that_breaks_says_why(org: SalesforceFake, failure: Failure, said: str) -> None:
    async with feed(org) as stream:
        await anext(stream)
        await org.bus.fail(failure)
        with pytest.raises(UnavailableError, match=said):
            while True:
                await anext(stream)


async def test_a_token_that_has_ended_is_refused(org: SalesforceFake) -> None:
    tokens = Tokens(org)
    async with feed(org, tokens=tokens) as stream:
        org.bus.is_good = lambda token: False
        with pytest.raises(UnavailableError, match="UNAUTHENTICATED"):
            await anext(stream)
    assert tokens.refused == 1


async def test_a_topic_or_a_schema_that_is_not_there_is_named(org: SalesforceFake) -> None:
    async with feed(org, change_topics=["/data/Nothing__ChangeEvent"]) as stream:
        with pytest.raises(UnavailableError, match="/data/Nothing__ChangeEvent: NOT_FOUND"):
            await anext(stream)
    await org.bus.publish_bytes(TOPIC, "gone", b"")
    async with feed(org) as stream:
        with pytest.raises(UnavailableError, match="schema.not.found"):
            await anext(stream)


async def test_silence_is_the_end_of_a_connection(org: SalesforceFake, monkeypatch: pytest.MonkeyPatch) -> None:
    org.bus.keep_alive_s = 600
    monkeypatch.setattr(pubsub, "SILENCE_S", 0.05)
    async with feed(org) as stream:
        with pytest.raises(UnavailableError, match="nothing has come"):
            await anext(stream)


async def test_a_bus_that_is_not_there_is_unavailable(org: SalesforceFake) -> None:
    await org.bus.stop()
    async with feed(org) as stream:
        with pytest.raises(UnavailableError, match="UNAVAILABLE"):
            await anext(stream)


# Payloads.

SCHEMA = pubsub.parse_schema(orjson.dumps(CONTACT_CHANGE_EVENT).decode())


def header(kind: str, **values: Any) -> dict[str, Any]:
    found: dict[str, Any] = payload(kind, **values)["ChangeEventHeader"]
    return found


def test_bitmaps_and_nulls_become_what_json_says() -> None:
    changed = {"LastName": "Okafor", "FirstName": None, "MailingCity": None, "Phone": None, "LastModifiedDate": COMMITTED_AT_MS, "Birthdate": 86_400_000}
    record = change_event(CONTACT_CHANGE_EVENT, header("UPDATE"), changed)
    assert record["ChangeEventHeader"]["changedFields"] == ["0x124", "4-0x02", "1-0x06"], "Phone, Birthdate, LastModifiedDate; City; FirstName, LastName"
    found = pubsub.json_form(encode(CONTACT_CHANGE_EVENT, record), SCHEMA)
    told = found.pop("ChangeEventHeader")
    assert found == {"Name": {"LastName": "Okafor"}, "MailingAddress": {}, "LastModifiedDate": "2025-10-09T08:53:20.000Z", "Birthdate": "1970-01-02"}
    assert set(told["changedFields"]) == {
        "Name.FirstName", "Name.LastName", "MailingAddress.City", "Phone", "LastModifiedDate", "Birthdate",
    }  # fmt: skip
    assert set(told["nulledFields"]) == {"Name.FirstName", "MailingAddress.City", "Phone"}
    change = changes.change_of({"ChangeEventHeader": told, **found})
    assert {name: value for name, value in change.fields.items() if value is None} == {"FirstName": None, "MailingCity": None, "Phone": None}


def test_both_forms_of_an_event_mean_the_same() -> None:
    by_json = inbound.meaning(TOPIC, payload("CREATE", CREATED), "", source(**MAPPED), 1)
    flat = {"Salutation": "Ms.", "FirstName": "Ada", "LastName": "Example"} | {name: value for name, value in CREATED.items() if name != "Name"}
    record = change_event(CONTACT_CHANGE_EVENT, header("CREATE"), flat | {"CreatedDate": 1795318800000})
    by_avro = inbound.meaning(TOPIC, pubsub.json_form(encode(CONTACT_CHANGE_EVENT, record), SCHEMA), "", source(**MAPPED), 1)
    assert by_avro == by_json and by_json.commands[1].event_id == f"salesforce:{KEY}:1:{RECORD_ID}"  # type: ignore[union-attr]


_RECORD = st.dictionaries(st.sampled_from(["LastName", "FirstName", "Email", "Loyalty_Id__c", "Phone"]), st.none() | st.text(max_size=8))


@given(_RECORD, st.sampled_from(["CREATE", "UPDATE", "DELETE", "GAP_UPDATE"]), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3))
def test_any_payload_is_understood_or_refused(fields: dict[str, Any], kind: str, damage: list[tuple[int, int]]) -> None:
    body = bytearray(encode(CONTACT_CHANGE_EVENT, change_event(CONTACT_CHANGE_EVENT, header(kind), fields)))
    for place, byte in damage:
        body[place % len(body)] = byte
    try:
        inbound.meaning(TOPIC, pubsub.json_form(bytes(body), SCHEMA), "", source(), 1)
    except ContractError:
        return


@pytest.mark.parametrize("wrong", ["", "{", "5", '"string"', '{"type":"record"}', '{"type":"record","name":"a","fields":[{"name":"b","type":"nothing"}]}'])
def test_a_schema_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ContractError, match="SCHEMA_INVALID"):
        pubsub.parse_schema(wrong)


def test_logical_types_become_texts() -> None:
    schema = {"type": "record", "name": "E", "fields": [
        {"name": "Day", "type": {"type": "int", "logicalType": "date"}}, {"name": "At", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ]}  # fmt: skip
    parsed = pubsub.parse_schema(orjson.dumps(schema).decode())
    at = datetime(2026, 11, 22, 3, 40, tzinfo=UTC)
    assert pubsub.json_form(encode(schema, {"Day": date(1970, 1, 2), "At": at}), parsed) == {"Day": "1970-01-02", "At": "2026-11-22T03:40:00.000Z"}
