"""POST /v1/<stream>: 202 means that the record is in the topic, whoever asks, however often."""

import asyncio
import time
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.records import Enrolment, OfferActivation, ProfileChange, Transaction
from streams import topics
from streams.configuration import Configuration, Token
from streams.connectors.contract import Source
from streams.domain.program import Program
from streams.errors import ContractError
from streams.ingress import decisions, rest, server
from streams.ingress.rest import may_speak_for
from streams.observability import JsonFormatter
from tests.ingress.support import CODEC, TOKENS, Answer, Decider, Service, read_all, read_at

pytestmark = pytest.mark.stack

EARN = {"program_id": "grand", "member_id": "M-1", "transaction_id": "t-1", "kind": "EARN", "points": 5}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ([], 0), (["wait=5"], 5), (["WAIT = 5"], 5), (["respond-async, wait=7"], 7), (["respond-async", "wait=7"], 7), (["wait=90"], 30),
        (["wait=0"], 0), (["wait=-1"], 0), (["wait=1.5"], 0), (["wait=x"], 0), (["wait"], 0), (["wait=99999999999"], 0),
        (["wait=5; a=b"], 5), (["return=minimal"], 0), (["wait=３"], 0),
    ],
)  # fmt: skip
def test_the_wish_to_wait(header: list[str], expected: int) -> None:
    assert rest.preferred_wait(header) == expected


async def test_202_means_the_record_is_in_the_topic(service: Service) -> None:
    sent = EARN | {"occurred_at": "2026-11-22T03:40:00Z", "category": "room", "source_system": "pos", "member_id": "M/1 é"}
    answer = await service.post("transactions", sent)
    assert answer.status == 202
    message = await asyncio.to_thread(read_at, service.settings, *(answer.json[name] for name in ("topic", "partition", "offset")))
    assert message.key() == "grand/M/1 é".encode()
    assert dict(message.headers()) == {"correlation_id": answer.json["correlation_id"].encode()}
    assert answer.headers["X-Correlation-Id"] == answer.json["correlation_id"]
    command = CODEC.decode(message.value(), Transaction)
    assert (command.member_id, command.occurred_at_ms, command.source_system, command.points) == ("M/1 é", 1795318800000, "pos", 5)


@pytest.mark.parametrize(
    ("stream", "payload", "record"),
    [
        ("enrolments", {"event_id": "e", "attributes": {"given_name": "Ada"}, "segments": ["s"], "source_version": 3}, Enrolment),
        ("profile-changes", {"event_id": "p", "attributes": {"phone": None}, "status": "ACTIVE"}, ProfileChange),
        ("offer-activations", {"event_id": "o", "offer_id": "double-points"}, OfferActivation),
    ],
)
async def test_every_stream_has_its_topic(service: Service, stream: str, payload: dict[str, Any], record: type) -> None:
    before_ms = int(time.time() * 1000)
    answer = await service.post(stream, payload | {"program_id": "grand", "member_id": "M-2"}, token=TOKENS["pms"])
    assert answer.status == 202 and answer.json["stream"] == stream and answer.json["event_id"] == payload["event_id"]
    message = await asyncio.to_thread(read_at, service.settings, *(answer.json[name] for name in ("topic", "partition", "offset")))
    command: Any = CODEC.decode(message.value(), record)
    assert {name: value for name, value in command.to_avro().items() if name in payload} == payload
    assert command.source_system == "pms" and before_ms <= command.occurred_at_ms <= time.time() * 1000


async def test_the_programme_may_be_left_out_where_there_is_only_one(service: Service) -> None:
    payload = {name: value for name, value in EARN.items() if name != "program_id"}
    answer = await service.post("transactions", payload, token=TOKENS["pms"])
    assert answer.status == 202
    message = await asyncio.to_thread(read_at, service.settings, *(answer.json[name] for name in ("topic", "partition", "offset")))
    assert message.key() == b"grand/M-1"
    assert reasons(await service.post("transactions", payload)) == [("program_id", "FIELD_REQUIRED")]


def reasons(answer: Answer) -> list[tuple[str, str]]:
    assert answer.status == 422, answer.body
    return [(error["field"], error["reason"]) for error in answer.json["errors"]]


@pytest.mark.parametrize("key", ["key-1", '"key-1"'])
async def test_an_idempotency_key_is_the_commands_id(service: Service, key: str) -> None:
    payload = {name: value for name, value in EARN.items() if name != "transaction_id"}
    answer = await service.post("transactions", payload, headers={"Idempotency-Key": key})
    assert answer.status == 202 and answer.json["transaction_id"] == "key-1"
    assert (await service.post("transactions", EARN | {"transaction_id": "key-1"}, headers={"Idempotency-Key": key})).status == 202
    other = await service.post("transactions", EARN, headers={"Idempotency-Key": key})
    assert reasons(other) == [("transaction_id", "IDEMPOTENCY_KEY_MISMATCH")]
    assert reasons(await service.post("transactions", [EARN], headers={"Idempotency-Key": key})) == [
        ("Idempotency-Key", "IDEMPOTENCY_KEY_WITH_LIST")
    ]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": f"Basic {TOKENS['all']}"}, 401),
        ({"Authorization": TOKENS["all"]}, 401),
        ({"Authorization": f"Bearer {TOKENS['all']}x"}, 401),
        ({"Authorization": f"Bearer {TOKENS['all'][:-1]}"}, 401),
        ({"Authorization": "Bearer é"}, 401),
        ({"Authorization": "Bearer " + "x" * 7000}, 401),
        ({"Authorization": f"Bearer {TOKENS['reader']}"}, 403),
        ({"Authorization": f"Bearer {TOKENS['all']}"}, 202),
        ({"Authorization": f"bearer   {TOKENS['all']} "}, 202),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_who_may_send(service: Service, headers: dict[str, str], status: int) -> None:
    answer = await service.post("transactions", EARN, token=None, headers=headers)
    assert answer.status == status
    assert ("WWW-Authenticate" in answer.headers) == (status in (401, 403))


async def test_what_a_token_reaches(service: Service) -> None:
    assert (await service.post("transactions", EARN | {"program_id": "staff"}, token=TOKENS["pms"])).status == 403
    assert (await service.post("transactions", EARN | {"program_id": "nowhere"}, token=TOKENS["pms"])).status == 403
    assert reasons(await service.post("transactions", EARN | {"program_id": "nowhere"})) == [("program_id", "PROGRAM_UNKNOWN")]
    for name in ("all", "hr"):
        answer = await service.post("transactions", EARN | {"source_system": name}, token=TOKENS["pms"])
        assert reasons(answer) == [("source_system", "SOURCE_SYSTEM_TAKEN")]
    assert (await service.post("transactions", EARN | {"source_system": "pms"}, token=TOKENS["pms"])).status == 202
    assert reasons(await service.post("transactions", EARN | {"source_system": "till"}, token=TOKENS["pms"])) == [("source_system", "SOURCE_SYSTEM_TAKEN")]
    assert (await service.post("transactions", EARN | {"source_system": "till", "transaction_id": "till:1"})).status == 202


@pytest.mark.parametrize(
    ("allowed", "name", "expected"),
    [
        ([], "app", True), ([], "crm", False), ([], "till", False), ([], "salesforce", False),
        (["crm"], "crm", True), (["crm"], "till", False),
        (["*"], "till", True), (["*"], "crm", False), (["*"], "hr", False), (["*"], "salesforce", False),
        (["*", "salesforce"], "salesforce", True),
    ],
)  # fmt: skip
def test_for_which_systems_a_token_speaks(allowed: list[str], name: str, expected: bool) -> None:
    """A master's name is nobody's to take: a policy would be worth nothing otherwise."""
    program = Program(program_id="grand", tiers=(), mastering={"email": "salesforce"})
    app = Token(name="app", sha256="", scopes=frozenset(), source_systems=frozenset(allowed))
    crm = Token(name="crm", sha256="", scopes=frozenset())
    hr = Source(name="hr", kind="hr", program_id="grand")
    everything = Configuration(programs={"grand": program}, sources={"hr": hr}, destinations={}, tokens=(app, crm))
    assert may_speak_for(everything, app, name) is expected


async def test_a_list_keeps_its_order_and_answers_for_each(service: Service) -> None:
    good = [EARN | {"transaction_id": f"bulk-{n}", "member_id": "M-bulk"} for n in range(4)]
    payload: list[Any] = [good[0], EARN | {"points": "x"}, good[1], "nonsense", good[2], EARN | {"program_id": "staff"}, good[3]]
    answer = await service.post("transactions", payload, token=TOKENS["pms"])
    assert answer.status == 207
    assert [item["code"] for item in answer.json["items"]] == [202, 422, 202, 422, 202, 403, 202]
    accepted = [item["answer"] for item in answer.json["items"] if item["code"] == 202]
    assert [one["transaction_id"] for one in accepted] == [f"bulk-{n}" for n in range(4)]
    assert [one["offset"] for one in accepted] == sorted(one["offset"] for one in accepted)
    assert len({item["answer"]["correlation_id"] for item in answer.json["items"]}) == 7
    message = await asyncio.to_thread(read_at, service.settings, accepted[2]["topic"], accepted[2]["partition"], accepted[2]["offset"])
    assert CODEC.decode(message.value(), Transaction).transaction_id == "bulk-2"


@pytest.mark.parametrize("payload", [[], [EARN] * 501], ids=["none", "501"])
async def test_a_list_has_bounds(service: Service, payload: list[Any]) -> None:
    assert reasons(await service.post("transactions", payload)) == [("", "ITEMS_INVALID")]


async def test_500_commands_in_one_request(service: Service) -> None:
    answer = await service.post("transactions", [EARN | {"member_id": f"M-{n}", "transaction_id": f"five-hundred-{n}"} for n in range(500)])
    assert answer.status == 207 and {item["code"] for item in answer.json["items"]} == {202}


async def test_a_hundred_parallel_requests_with_one_id_are_all_kept(service: Service) -> None:
    payload = EARN | {"member_id": "M-parallel", "transaction_id": "parallel"}
    answers = await asyncio.gather(*(service.post("transactions", payload) for _ in range(100)))
    assert {answer.status for answer in answers} == {202}
    assert len({answer.json["correlation_id"] for answer in answers}) == 100
    places = {(answer.json["partition"], answer.json["offset"]) for answer in answers}
    assert len(places) == 100 and len({partition for partition, _ in places}) == 1, "one member, one partition"
    there = [m for m in await asyncio.to_thread(read_all, service.settings, topics.TRANSACTIONS) if m.key() == b"grand/M-parallel"]
    assert {(message.partition(), message.offset()) for message in there} == places


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"", {}, 400),
        (b"\xff\xfe", {}, 400),
        (b"[" * 5000, {}, 400),
        (b"null", {}, 422),
        (b'"x"', {}, 422),
        (b"{}", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {"Content-Type": ";;;"}, 422),
        (b"\x1f\x8b\x08\x00", {"Content-Encoding": "gzip"}, 415),
        (b"x" * (server.BODY_BYTES_MAX + 1), {}, 413),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_bodies_that_are_not_served(service: Service, body: bytes, headers: dict[str, str], status: int) -> None:
    answer = await service.request("POST", "/v1/transactions", data=body, headers={"Content-Type": "application/json"} | headers)
    assert answer.status == status


async def test_a_body_without_a_length_is_bounded_too(service: Service) -> None:
    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * 100_000

    answer = await service.request("POST", "/v1/transactions", data=chunks(), headers={"Content-Type": "application/json"})
    assert answer.status == 413


async def test_a_command_larger_than_a_kafka_message_is_refused_for_good(service: Service) -> None:
    async def send() -> None:
        await service.parts.publisher.send(topics.TRANSACTIONS.name(service.settings.topic_prefix), b"k", b"x" * 1_100_000, {})

    with pytest.raises(ContractError) as caught:
        service.run(send())
    assert rest.as_problem(caught.value).status == 413


async def test_a_body_that_breaks_off_is_no_error_of_ours(service: Service) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    token = TOKENS["all"].encode()
    head = b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n" % token
    for rest_of_it in (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"Content-Length: 100\r\n\r\n{"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + rest_of_it)
        writer.write_eof()
        assert not (await reader.read(200)).startswith(b"HTTP/1.1 5")
        writer.close()


async def test_unknown_paths_and_methods(service: Service) -> None:
    assert (await service.request("GET", "/v1/nothing")).status == 404
    answer = await service.request("GET", "/v1/transactions")
    assert answer.status == 405 and answer.headers["Allow"] == "POST"


async def test_a_clients_correlation_id_is_not_ours(service: Service) -> None:
    answers = [await service.post("transactions", EARN, headers={"X-Correlation-Id": "mine\u00e9"}) for _ in range(2)]
    assert len({answer.headers["X-Correlation-Id"] for answer in answers} | {"mine\u00e9"}) == 3


async def test_a_body_that_does_not_come_is_not_waited_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "READ_TIMEOUT_S", 0.2)
    host, port = service.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_an_error_of_ours_says_nothing_of_our_inside(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Any) -> bytes:
        raise ZeroDivisionError("inside-detail")

    monkeypatch.setattr(service.parts.codec, "encode", fail)
    answer = await service.post("transactions", EARN, headers={"Prefer": "wait=1"})
    assert answer.status == 500 and b"inside" not in answer.body and b"Zero" not in answer.body
    failed = next(record for record in caplog.records if record.getMessage() == "request.failed")
    assert vars(failed)["correlation_id"] == answer.json["correlation_id"] and failed.exc_info
    assert service.run(_waiters(service)) == 0


async def test_no_token_gets_into_the_log(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", logger="streams"):
        for token in (TOKENS["all"], TOKENS["reader"], "a-token-of-nobody"):
            await service.post("transactions", EARN, token=token)
    shown = "".join(JsonFormatter("test").format(record) for record in caplog.records)
    assert "request.answered" in shown
    assert not any(token in shown for token in (*TOKENS.values(), "a-token-of-nobody"))


# Waiting for the decision. The decider does what a transaction's category says.


async def wait_for(service: Service, category: str | None, wait: str = "wait=10", **fields: Any) -> Answer:
    payload = EARN | {"member_id": f"M-{category}"[:128], "category": category} | fields
    return await service.post("transactions", payload, headers={"Prefer": wait})


async def test_a_decision_in_the_answer(service: Service, decider: Decider) -> None:
    answer = await wait_for(service, "APPLIED", reward_code="SPA", kind="REDEEM")
    assert answer.status == 200 and answer.headers["Preference-Applied"] == "wait=10"
    assert {name: value for name, value in answer.json.items() if name not in ("correlation_id", "topic", "partition", "offset")} == {
        "status": "applied", "stream": "transactions", "transaction_id": "t-1", "replayed": False, "sequence": 7, "points_delta": 5,
        "available_points": 100, "tier": "MEMBER", "voucher_code": "CODE", "member_id": "M-APPLIED",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("category", "status", "field", "expected"),
    [
        ("REFUSED:INSUFFICIENT_POINTS", 422, "type", "urn:loyalty:refused:INSUFFICIENT_POINTS"),
        ("CONFLICT", 409, "type", "urn:loyalty:conflict"),
        ("WAITING", 202, "status", "waiting_for_enrolment"),
        ("SUPERSEDED", 200, "status", "superseded"),
        ("UNKNOWN", 202, "decision", "pending"),
        ("ABORTED", 200, "status", "applied"),
    ],
)
async def test_other_decisions(service: Service, decider: Decider, category: str, status: int, field: str, expected: str) -> None:
    answer = await wait_for(service, category)
    assert (answer.status, answer.json[field]) == (status, expected)
    assert answer.json["correlation_id"] == answer.headers["X-Correlation-Id"]
    if status == 422:
        assert answer.json["available_points"] == 100 and answer.json["transaction_id"] == "t-1"


async def test_without_a_decision_in_time_it_is_the_202_it_would_have_been(service: Service, decider: Decider) -> None:
    started_s = time.monotonic()
    answer = await wait_for(service, "SILENT", "wait=1")
    assert 0.9 < time.monotonic() - started_s < 5
    assert (answer.status, answer.json["decision"], answer.headers["Preference-Applied"]) == (202, "pending", "wait=1")
    assert service.run(_waiters(service)) == 0


async def _waiters(service: Service) -> int:
    return len(service.parts.decisions._waiters)


async def test_many_wait_at_once_and_each_gets_its_own(service: Service, decider: Decider) -> None:
    amounts = range(1, 61)
    answers = await asyncio.gather(
        *(wait_for(service, "APPLIED", transaction_id=f"many-{n}", points=n, member_id=f"M-many-{n}") for n in amounts)
    )
    assert [answer.json["points_delta"] for answer in answers] == list(amounts)
    assert service.run(_waiters(service)) == 0


async def test_a_list_waits_too(service: Service, decider: Decider) -> None:
    payload = [EARN | {"transaction_id": f"w-{n}", "category": c} for n, c in enumerate(("APPLIED", "REFUSED:NO", None, "CONFLICT"))]
    answer = await service.post("transactions", payload, headers={"Prefer": "wait=2"})
    assert [item["code"] for item in answer.json["items"]] == [200, 422, 202, 409]
    assert answer.json["items"][2]["answer"]["decision"] == "pending"


async def test_an_id_of_an_earlier_answer_inside_a_command_confuses_nobody(service: Service, decider: Decider) -> None:
    earlier = (await wait_for(service, "APPLIED")).json["correlation_id"]
    answer = await wait_for(service, "APPLIED", transaction_id=earlier, member_id=f"{earlier}{earlier}")
    assert answer.status == 200


async def test_when_too_many_wait_the_others_are_not_kept_waiting(
    service: Service, decider: Decider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "WAITERS_MAX", 0)
    answer = await wait_for(service, "APPLIED")
    assert answer.status == 202 and "decision" not in answer.json and "Preference-Applied" not in answer.headers


async def test_requests_that_do_not_wait_leave_nothing_behind(service: Service, decider: Decider) -> None:
    await asyncio.gather(*(service.post("transactions", EARN | {"category": "APPLIED"}) for _ in range(20)))
    assert reasons(await wait_for(service, "APPLIED", points="x")) == [("points", "TYPE_INVALID")]
    assert service.run(_waiters(service)) == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
others = ["amount_minor", "currency", "occurred_at", "line_items", "attributes", "segments", "offer_id", "source_system"]
fields = st.sampled_from([*EARN, *others])
bodies = (
    st.binary(max_size=100)
    | json_values.map(orjson.dumps)
    | st.dictionaries(fields, json_values, max_size=5).map(lambda changes: orjson.dumps(EARN | changes))
    | st.lists(st.dictionaries(fields, json_values, max_size=3).map(lambda changes: EARN | changes), max_size=4).map(orjson.dumps)
)


async def test_no_body_makes_the_service_fail(service: Service) -> None:
    async with aiohttp.ClientSession() as session:

        async def send(stream: str, body: bytes, headers: dict[str, str]) -> int:
            url = f"{service.url}/v1/{stream}"
            given = {"Authorization": f"Bearer {TOKENS['all']}", "Content-Type": "application/json"} | headers
            async with session.post(url, data=body, headers=given) as response:
                await response.read()
                return response.status

        header_values = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=40)

        @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            stream=st.sampled_from([topic.stream for topic in topics.INBOUND]),
            body=bodies,
            headers=st.dictionaries(st.sampled_from(["Idempotency-Key", "X-Correlation-Id"]), header_values),
        )
        def sent(stream: str, body: bytes, headers: dict[str, str]) -> None:
            statuses.append(asyncio.run_coroutine_threadsafe(send(stream, body, headers), loop).result(30))
            assert statuses[-1] < 500

        statuses: list[int] = []
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(sent)
    assert {202, 400, 422} <= set(statuses)
