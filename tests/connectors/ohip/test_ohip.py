import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.fakes.ohip import OhipFake
from infra.fakes.server import Misbehaviour
from schemas.records import Transaction, TransactionKind
from streams.connectors.contract import Answer, Found, Hint, Outcome, Token
from streams.connectors.ohip import CONNECTOR, api, inbound, outbound
from streams.errors import ContractError
from tests.connectors.support import NOW_MS, asked, commands_in, cursor_of, poll_fake, polled, source_of, state_of, target_of, write_fake

RECORDED = (Path(__file__).parent / "payloads/business_events.json").read_bytes()
OPTIONS = {"base_url": "https://ohip.example.com", "app_key": "fake-app-key", "client_id": "LOYALTY", "client_secret": "fake-client-secret"}
EMPTY = Answer(status=204)


def source(**options: Any) -> Any:
    return source_of(CONNECTOR, **{**OPTIONS, "external_system": "LOYALTY", "hotel_id": "HOTEL1", **options})


def target(**options: Any) -> Any:
    return target_of(CONNECTOR, **{**OPTIONS, "hotel_id": "HOTEL1", **options})


class Keys:
    """Tokens of the fake, without a token endpoint."""

    def __init__(self, opera: OhipFake) -> None:
        self.opera = opera
        self.refused: list[str] = []

    async def get(self) -> Token:
        value = self.opera.new_token()
        return Token(headers={"authorization": f"Bearer {value}"}, value=value)

    def refuse(self, token: Token) -> bool:
        self.refused.append(token.value)
        return True


@pytest.fixture
async def opera() -> AsyncIterator[OhipFake]:
    fake = OhipFake()
    await fake.start()
    yield fake
    await fake.stop()


def headers(opera: OhipFake) -> dict[str, str]:
    return {"Authorization": f"Bearer {opera.new_token()}"}


def hints_in(found: list[Found]) -> list[Hint]:
    return [hint for one in found for hint in one.hints]


# The queue.


def test_a_recorded_answer_of_the_queue_is_a_hint() -> None:
    requests, found = polled(inbound.dequeue(source(), {}, NOW_MS), [Answer(status=200, body=RECORDED), EMPTY])
    assert [request.url for request in requests] == ["/int/v1/externalSystem/LOYALTY/businessEvents?limit=20"] * 2
    assert requests[0].headers["x-app-key"] == "fake-app-key" and requests[0].headers["x-hotelid"] == "HOTEL1"
    assert hints_in(found) == [Hint(entity_id="HOTEL1/42212", kind="reservation", delivery_id="1971132")]


def test_a_status_that_goes_back_is_told() -> None:
    back = RECORDED.replace(b"CHECKED IN", b"X").replace(b"CHECKED OUT", b"CHECKED IN").replace(b'"X"', b'"CHECKED OUT"')
    _, found = polled(inbound.dequeue(source(), {}, NOW_MS), [Answer(status=200, body=back), EMPTY])
    assert hints_in(found)[0].kind == inbound.TAKEN_BACK


def test_what_is_out_of_the_queue_and_not_understood_is_parked() -> None:
    broken = RECORDED.replace(b'"primaryKey":"42212",', b"")
    _, found = polled(inbound.dequeue(source(), {}, NOW_MS), [Answer(status=200, body=broken), EMPTY])
    assert [one.reason for one in found[0].parked] == ["FIELD_REQUIRED"] and b"561139" in found[0].parked[0].value
    polling = inbound.dequeue(source(), {}, NOW_MS)
    next(polling)
    kept = polling.send(Answer(status=200, body=b"<html>"))
    assert isinstance(kept, Found) and kept.parked[0].value == b"<html>"
    with pytest.raises(ContractError):
        polling.send(None)


def test_other_modules_are_left_alone() -> None:
    _, found = polled(inbound.dequeue(source(), {}, NOW_MS), [Answer(status=200, body=RECORDED.replace(b"Reservation", b"Housekeeping", 1)), EMPTY])
    assert hints_in(found) == [] and found[0].parked == ()


@given(st.integers(0, len(RECORDED)), st.binary(max_size=6), st.integers(0, 30))
def test_any_answer_is_read_parked_or_refused(at: int, other: bytes, cut: int) -> None:
    body = RECORDED[:at] + other + RECORDED[at + cut :]
    found: list[Any] = []
    polling = inbound.dequeue(source(), {}, NOW_MS)
    next(polling)
    try:
        found.append(polling.send(Answer(status=200, body=body)))
        polling.send(None)
    except (ContractError, StopIteration):
        pass
    assert found == [] or isinstance(found[0], Found)


async def test_the_queue_is_emptied(opera: OhipFake) -> None:
    for number in range(45):
        await opera.tell("Reservation", "UPDATE RESERVATION", str(number))
    found = await poll_fake(opera, inbound.dequeue(source(), {}, NOW_MS), headers(opera))
    assert [hint.entity_id for hint in hints_in(found)] == [f"HOTEL1/{number}" for number in range(45)] and len(found) == 3
    assert opera.queue == []
    with pytest.raises(ContractError, match="External system not found"):
        await poll_fake(opera, inbound.dequeue(source(external_system="OTHER"), {}, NOW_MS), headers(opera))


async def test_what_the_queue_has_lost_departures_bring_back(opera: OhipFake) -> None:
    for number in range(120):
        opera.add_reservation(str(number), member_id=f"M-{number}")
    found = await poll_fake(opera, inbound.departures(source(), {}, now_ms()), headers(opera))
    assert len(hints_in(found)) == 120 and len(found) == 2
    later = await poll_fake(opera, inbound.departures(source(), cursor_of(found), now_ms()), headers(opera))
    assert len(hints_in(later)) == 120, "since the day before the last run"


# The stream.


async def test_the_stream_goes_on_where_it_was(opera: OhipFake) -> None:
    ours = source(streaming_url=opera.base_url.replace("http", "ws") + "/subscriptions", chain_code="CHAIN")
    for number in range(3):
        await opera.tell("Reservation", "UPDATE RESERVATION", str(number))
    feed = inbound.subscribe(ours, {"offset": "0"}, Keys(opera))
    first, second = await anext(feed), await anext(feed)
    assert [hint.entity_id for hint in hints_in([first, second])] == ["HOTEL1/1", "HOTEL1/2"]
    assert second.cursor == {"offset": "2"}
    await opera.cut()
    with pytest.raises(StopAsyncIteration):
        await anext(feed)
    await opera.tell("Reservation", "UPDATE RESERVATION", "3", ("RESERVATION STATUS", "CHECKED OUT", "CHECKED IN"))
    again = inbound.subscribe(ours, second.cursor, Keys(opera))
    (hint,) = (await anext(again)).hints
    assert (hint.entity_id, hint.kind, hint.delivery_id) == ("HOTEL1/3", inbound.TAKEN_BACK, "event-1971003")
    await again.aclose()  # type: ignore[attr-defined]


async def test_a_token_that_the_stream_refuses_is_given_back(opera: OhipFake) -> None:
    ours = source(streaming_url=opera.base_url.replace("http", "ws") + "/subscriptions", app_key="wrong")
    keys = Keys(opera)
    with pytest.raises(ContractError, match="4403"):
        await anext(inbound.subscribe(ours, {}, keys))
    assert len(keys.refused) == 1


@pytest.mark.parametrize(
    ("message", "kind", "parked"),
    [({"type": "connection_ack"}, "connection_ack", 0), ({"type": "next", "payload": {}}, "next", 1),
     ({"type": "next", "payload": {"data": {"newEvent": {"metadata": {"offset": "9"}}}}}, "next", 1)],
)  # fmt: skip
def test_messages(message: Any, kind: str, parked: int) -> None:
    found_kind, found = inbound.heard(json.dumps(message).encode(), source())
    assert (found_kind, 0 if found is None else len(found.parked)) == (kind, parked)


# The reservation.


async def read(opera: OhipFake, kind: str = inbound.RESERVATION, **options: Any) -> list[Any]:
    hint = Hint(entity_id="HOTEL1/42212", kind=kind, delivery_id="1")
    return commands_in(await poll_fake(opera, inbound.read(source(**options), hint, b"", NOW_MS), headers(opera)))


async def test_a_check_out_earns(opera: OhipFake) -> None:
    opera.add_reservation("42212", member_id="M-1", amount="260.55", nights=3)
    assert await read(opera) == []
    await opera.set_status("42212", "CheckedOut")
    (earn,) = await read(opera)
    assert isinstance(earn, Transaction)
    assert (earn.kind, earn.transaction_id, earn.amount_minor, earn.currency, earn.nights) == (
        TransactionKind.EARN, "ohip:HOTEL1-42212:stay", 26055, "USD", 3,
    )  # fmt: skip
    await opera.set_status("42212", "InHouse")
    (reversal,) = await read(opera, inbound.TAKEN_BACK)
    assert (reversal.kind, reversal.reverses_transaction_id) == (TransactionKind.REVERSE, "ohip:HOTEL1-42212:stay")


async def test_who_has_no_number_is_left_alone(opera: OhipFake) -> None:
    opera.add_reservation("42212")
    await opera.set_status("42212", "CheckedOut")
    assert await read(opera) == []
    with pytest.raises(ContractError, match="Reservation not found"):
        hint = Hint(entity_id="HOTEL1/9", kind=inbound.RESERVATION, delivery_id="1")
        await poll_fake(opera, inbound.read(source(), hint, b"", NOW_MS), headers(opera))


def now_ms() -> int:
    return int(time.time() * 1000)


# Writing.


async def test_each_member_is_judged_by_itself(opera: OhipFake) -> None:
    opera.profiles.add("77")
    states = [state_of("M-0"), state_of("M-1", external_ids={"opera_profile": "77"}), state_of("M-2", external_ids={"opera_profile": "../78"})]
    found = await write_fake(opera, outbound.write(target(), states, NOW_MS), headers(opera))
    assert [(one.outcome, one.reason) for one in found] == [(Outcome.SKIP, "NO_PROFILE"), (Outcome.DONE, ""), (Outcome.PARK, "STATUS_404")]
    assert opera.values == {"77": {"membershipId": "M-1", "currentPoints": 1250, "membershipLevel": "GOLD"}}, "nobody is created"
    assert outbound.request(target(), states[2]).url == "/crm/v1/profiles/..%2F78/memberships/M-2"


async def test_tokens_are_asked_for_as_the_gateway_wants_it(opera: OhipFake) -> None:
    grant = api.grant({**source().options, "base_url": opera.base_url})
    answer = await asked(opera, grant.request(time.time()))
    assert grant.token(answer).value in opera.tokens
    opera.misbehaviours.append(Misbehaviour(refuses_token=True))
    assert (await asked(opera, outbound.request(target(), state_of("M-1", external_ids={"opera_profile": "77"})))).status == 401
