"""POST /v1/webhooks/<source>: proof over the raw bytes, then the log, then the answer."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from schemas.records import MemberStatus, ProfileChange, ReceivedWebhook, Transaction
from tests.ingress.support import CODEC, PMS_PASSWORD, Answer, Service, basic_headers, read_at, signed_headers

pytestmark = pytest.mark.stack

PAYLOADS = Path(__file__).parent.parent / "connectors"
HR = (PAYLOADS / "hr/payloads/deactivated.json").read_bytes()
CLOUDEVENT = (PAYLOADS / "cloudevents/payloads/transaction.json").read_bytes()
CHECKED_OUT = (PAYLOADS / "apaleo/payloads/checked_out.json").read_bytes()
STRUCTURED = "application/cloudevents+json"


async def kept(service: Service, answer: Answer) -> Any:
    """The record behind the answer's only item."""
    assert answer.status == 202, answer.body
    (item,) = answer.json["items"]
    message = await asyncio.to_thread(read_at, service.settings, *(item[name] for name in ("topic", "partition", "offset")))
    assert dict(message.headers()) == {"correlation_id": answer.json["correlation_id"].encode()}
    return message


async def test_a_deactivation_is_in_the_log_when_it_is_answered(service: Service) -> None:
    message = await kept(service, await service.webhook("hr", HR, signed_headers(HR, "msg_hr_1")))
    command = CODEC.decode(message.value(), ProfileChange)
    assert message.key() == b"staff/21001"
    assert (command.event_id, command.status, command.source_system) == ("hr:msg_hr_1", MemberStatus.SUSPENDED, "hr")


async def test_a_delivery_that_is_repeated_is_the_same_command(service: Service) -> None:
    answers = [await service.webhook("hr", HR, signed_headers(HR, "msg_hr_2", at_s=time.time() - delay_s)) for delay_s in (60, 0)]
    values = [(await kept(service, answer)).value() for answer in answers]
    assert values[0] == values[1]


async def test_a_cloudevent_in_both_modes(service: Service) -> None:
    message = await kept(service, await service.webhook("partner", CLOUDEVENT, signed_headers(CLOUDEVENT, "msg_ce_1", STRUCTURED)))
    assert CODEC.decode(message.value(), Transaction).transaction_id == "/partner/shop:A234-1234-1234"
    body = (PAYLOADS / "cloudevents/payloads/binary_data.json").read_bytes()
    binary = {"ce-specversion": "1.0", "ce-type": "loyalty.transaction.v1", "ce-source": "/partner/shop", "ce-id": "1"}
    message = await kept(service, await service.webhook("partner", body, signed_headers(body, "msg_ce_2") | binary))
    assert CODEC.decode(message.value(), Transaction).transaction_id == "partner:msg_ce_2"


async def test_a_pms_webhook_is_kept_as_a_hint(service: Service) -> None:
    message = await kept(service, await service.webhook("apaleo", CHECKED_OUT, basic_headers()))
    hint = CODEC.decode(message.value(), ReceivedWebhook)
    assert message.key() == b"apaleo/XPGMSXGF-1"
    assert (hint.source, hint.entity_id, hint.kind, hint.body) == ("apaleo", "XPGMSXGF-1", "Reservation/checked-out", CHECKED_OUT)


async def test_a_health_check_is_answered_and_leaves_nothing(service: Service) -> None:
    answer = await service.webhook("apaleo", (PAYLOADS / "apaleo/payloads/healthcheck.json").read_bytes(), basic_headers())
    assert (answer.status, answer.json["status"]) == (200, "ignored")


def without(headers: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in names}


GENUINE = signed_headers(HR, "msg_x")


@pytest.mark.parametrize(
    ("source", "headers"),
    [
        ("hr", {}),
        ("hr", without(GENUINE, "webhook-id")),
        ("hr", without(GENUINE, "webhook-timestamp")),
        ("hr", without(GENUINE, "webhook-signature")),
        ("hr", GENUINE | {"webhook-id": "msg_y"}),
        ("hr", GENUINE | {"webhook-signature": "v1,AAAA"}),
        ("hr", GENUINE | {"webhook-signature": "v1a," + GENUINE["webhook-signature"][3:]}),
        ("hr", GENUINE | {"webhook-signature": " ".join(["v1,AAAA"] * 300)}),
        ("hr", GENUINE | {"webhook-signature": "v1,é"}),
        ("hr", GENUINE | {"webhook-timestamp": "9" * 400}),
        ("hr", GENUINE | {"webhook-timestamp": "NaN"}),
        ("hr", signed_headers(HR, "msg_old", at_s=time.time() - 3600)),
        ("hr", signed_headers(HR, "msg_new", at_s=time.time() + 3600)),
        ("hr", basic_headers()),
        ("partner", basic_headers()),
        ("apaleo", GENUINE),
        ("apaleo", basic_headers("wrong")),
        ("apaleo", {"Authorization": f"Bearer {PMS_PASSWORD}"}),
        ("apaleo", {"Authorization": "Basic !!!"}),
    ],
)
async def test_what_is_not_genuine_is_turned_away_without_a_reason(service: Service, source: str, headers: dict[str, str]) -> None:
    answer = await service.webhook(source, HR if source != "apaleo" else CHECKED_OUT, headers)
    assert answer.status == 401
    assert set(answer.json) == {"type", "title", "status", "correlation_id"}


async def test_the_signature_covers_the_bytes_not_the_json(service: Service) -> None:
    assert (await service.webhook("hr", HR + b" ", signed_headers(HR, "msg_z"))).status == 401


@pytest.mark.parametrize("name", ["nobody", "HR", "hr%2F", "..%2Fhr", "%00"])
async def test_an_unknown_source(service: Service, name: str) -> None:
    assert (await service.webhook(name, HR, GENUINE)).status == 404


@pytest.mark.parametrize(
    ("source", "body", "reason"),
    [
        ("hr", b'{"type":"worker.promoted","data":{"employee_id":"1"}}', "TYPE_UNKNOWN"),
        ("hr", b"not json", "NOT_JSON"),
        ("hr", b'{"type":"worker.updated","data":{"employee_id":"1"}}', "CHANGE_EMPTY"),
        ("hr", b'{"type":"worker.reactivated","data":{"employee_id":"' + b"1" * 200 + b'"}}', "ID_INVALID"),
        ("partner", b"{}", "TYPE_INVALID"),
        (
            "partner",
            b'{"specversion":"1.0","id":"1","source":"s","type":"loyalty.transaction.v1",'
            b'"data":{"program_id":"staff","member_id":"M","kind":"EARN","points":1}}',
            "PROGRAM_NOT_ALLOWED",
        ),
    ],
)
async def test_a_genuine_delivery_that_cannot_be_understood(service: Service, source: str, body: bytes, reason: str) -> None:
    answer = await service.webhook(source, body, signed_headers(body, "msg_bad", STRUCTURED if source == "partner" else "application/json"))
    assert answer.status == 422 and reason in [error["reason"] for error in answer.json["errors"]]


async def test_a_hint_about_something_unnameable_is_refused(service: Service) -> None:
    body = b'{"topic":"Reservation","type":"checked-out","id":"1","data":{"entityId":"a\\u0000b"}}'
    assert (await service.webhook("apaleo", body, basic_headers())).status == 422
