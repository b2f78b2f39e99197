"""/v1/destinations from end to end, on a real broker: what is made, changed, paused, rotated, sent again; and what sinks say, put together."""

import json
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from aiohttp import web

from infra.fakes.receiver import Receiver
from schemas.records import ControlKind
from streams import configuration, signatures, topics
from streams.configuration import Token
from streams.destinations import document, sealing
from streams.destinations.model import Action, DestinationState, State
from streams.observability import serve
from tests.ingress.support import INTERNAL_TOKEN, NOBODY, OPENAPI, Answer, Looped, Service, make_configuration, read_all
from tests.ingress.test_openapi import examples
from tests.sinks.broker import codec
from tests.sinks.examples import SECRET
from tests.waiting import wait_until

pytestmark = pytest.mark.stack

READER, WRITER, GRAND = "token-that-reads-destinations", "token-that-writes-destinations", "token-of-the-grands-destinations"
TOKENS = tuple(
    Token(name=name, sha256=sha256(text.encode()).hexdigest(), scopes=frozenset(scopes), programs=frozenset(programs))
    for name, text, scopes, programs in (
        ("destinations-reader", READER, ["destinations:read"], []),
        ("destinations-writer", WRITER, ["destinations:read", "destinations:write"], []),
        ("destinations-grand", GRAND, ["destinations:read", "destinations:write"], ["grand"]),
    )
)
URL = "https://crm.example.com/hooks"


class StubSink:
    """A sink's internal port. `answers` maps a path to what it says; what is not there is 503."""

    def __init__(self, looped: Looped) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self._looped = looped
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = looped.run(serve(app, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(str(request.rel_url))
        if request.headers.get("Authorization") != f"Bearer {INTERNAL_TOKEN}":
            return web.Response(status=401)
        found = self.answers.get(request.path)
        return web.Response(status=503) if found is None else web.json_response(found)

    def stop(self) -> None:
        self._looped.run(self._runner.cleanup())


@pytest.fixture(scope="module")
def sinks() -> Iterator[list[StubSink]]:
    looped = Looped()
    found = [StubSink(looped) for _ in range(2)]
    yield found
    for sink in found:
        sink.stop()
    looped.close()


@pytest.fixture(autouse=True)
def quiet(sinks: list[StubSink]) -> None:
    for sink in sinks:
        sink.answers.clear()


@pytest.fixture(scope="module")
def running(kafka: Any, valkey: Any, make_settings: Any, sinks: list[StubSink]) -> Iterator[Service]:
    """An ingress with a key for secrets, two sinks, and one destination of its configuration file."""
    settings = make_settings(
        clickhouse_url=NOBODY, internal_token=INTERNAL_TOKEN, sink_urls=",".join(sink.url for sink in sinks), destination_keys=sealing.new_key(),
        delivery_allowed_addresses="127.0.0.1",
    )  # fmt: skip
    base = make_configuration()
    of_file = document.read_destination("of-file", {"url": URL, "secret": SECRET}, programs=None, start_at="beginning")
    made = Service(settings, replace(base, tokens=(*base.tokens, *TOKENS), destinations={"of-file": of_file}))
    made.wait_ready()
    yield made
    made.stop()


async def ask(service: Service, method: str, path: str, body: Any = None, *, token: str = WRITER, **options: Any) -> Answer:
    if body is not None:
        options["json"] = body
    return await service.request(method, f"/v1/destinations{path}", token=token, **options)


async def make(service: Service, name: str, **fields: Any) -> Answer:
    answer = await ask(service, "POST", "", {"name": name, "url": URL, **fields})
    assert answer.status == 201, answer.body
    return answer


def fields_of(answer: Answer) -> list[str]:
    assert answer.status == 422, answer.body
    return [error["field"] for error in answer.json["errors"]]


async def test_a_destination_is_made_read_changed_and_ended(running: Service) -> None:
    made = await make(running, "crm", events=["TIER_CHANGED"], headers={"X-Key": "hunter2"}, secret=SECRET)
    assert (made.headers["ETag"], made.headers["Location"], made.json["secret"]) == ('"1"', "/v1/destinations/crm", None)
    found = await ask(running, "GET", "/crm", token=READER)
    assert found.json == {key: value for key, value in made.json.items() if key != "secret"}
    assert (found.json["headers"], found.json["changed_by"], found.json["is_from_file"]) == ({"x-key": "********"}, "destinations-writer", False)
    assert b"hunter2" not in found.body and SECRET.encode() not in found.body

    put = await ask(running, "PUT", "/crm", found.json | {"timeout_s": 3}, headers={"If-Match": '"1"'})
    assert (put.status, put.headers["ETag"], put.json["timeout_s"], put.json["events"]) == (200, '"2"', 3.0, ["TIER_CHANGED"])
    patched = await ask(running, "PATCH", "/crm", {"timeout_s": None, "headers": {"x-other": "y"}}, headers={"If-Match": 'W/"2"'})
    assert (patched.json["version"], patched.json["timeout_s"], patched.json["headers"]) == (3, 15.0, {"x-key": "********", "x-other": "********"})
    kept = running.parts.control.destinations["crm"]
    assert (kept.headers, [one.value for one in kept.secrets]) == ({"x-key": "hunter2", "x-other": "y"}, [SECRET])

    ended = await ask(running, "DELETE", "/crm", headers={"If-Match": '"3"'})
    assert (ended.status, ended.json) == (200, {"name": "crm", "deleted": True})
    assert (await ask(running, "GET", "/crm")).status == 404
    records = [codec().decode(message.value(), topics.DELIVERY_CONTROL.record) for message in read_all(running.settings, topics.DELIVERY_CONTROL)]
    own = [record for record in records if record.kind is ControlKind.DESTINATION and record.name == "crm"]
    assert [(record.version, record.changed_by, bool(record.document)) for record in own] == [
        (1, "destinations-writer", True), (2, "destinations-writer", True), (3, "destinations-writer", True), (4, "destinations-writer", False),
    ]  # fmt: skip
    assert not any(secret in record.document for record in own for secret in ("hunter2", SECRET))


async def test_a_secret_that_is_made_is_shown_once(running: Service) -> None:
    made = await make(running, "fresh")
    signatures.check_secret(made.json["secret"])
    assert made.json["secrets"][0]["secret_id"] == document.secret_id(made.json["secret"])
    assert made.json["secret"].encode() not in (await ask(running, "GET", "/fresh")).body


async def test_pages_are_in_the_order_of_the_names(running: Service) -> None:
    for name in ("page-b", "page-a", "page-c"):
        await make(running, name)
    first = await ask(running, "GET", "?after=page&limit=2", token=READER)
    second = await ask(running, "GET", f"?after={first.json['next']}&limit=1", token=READER)
    assert [one["name"] for one in (*first.json["destinations"], *second.json["destinations"])] == ["page-a", "page-b", "page-c"]
    assert (await ask(running, "GET", "?limit=201")).status == 422


async def test_what_has_changed_since_is_not_overwritten(running: Service) -> None:
    await make(running, "stale")
    await ask(running, "PATCH", "/stale", {"timeout_s": 1})
    for method, path, body in (("PUT", "", {"url": URL}), ("PATCH", "", {"timeout_s": 2}), ("DELETE", "", None), ("POST", "/secrets", {})):
        answer = await ask(running, method, f"/stale{path}", body, headers={"If-Match": '"1"'})
        assert (answer.status, answer.json["type"]) == (409, "urn:loyalty:stale")
    assert (await ask(running, "POST", "", {"name": "stale", "url": URL})).status == 409
    assert (await ask(running, "PATCH", "/stale", {"timeout_s": 2}, headers={"If-Match": "*"})).json["version"] == 3


async def test_the_configuration_file_s_can_be_paused_and_nothing_else(running: Service) -> None:
    shown = await ask(running, "GET", "/of-file")
    assert (shown.json["is_from_file"], shown.json["version"], shown.json["start_at"]) == (True, 0, "beginning")
    for method, path, body in (("PUT", "", {"url": URL}), ("PATCH", "", {}), ("DELETE", "", None), ("POST", "/secrets", {})):
        assert (await ask(running, method, f"/of-file{path}", body)).status == 409
    assert (await ask(running, "POST", "/of-file/pause")).json["state"]["state"] == "PAUSED"
    assert (await ask(running, "POST", "/of-file/resume")).json["state"]["state"] == "ACTIVE"


async def test_all_problems_of_a_body_come_at_once(running: Service) -> None:
    body = {"name": "Bad Name", "url": "ftp://x", "programs": ["other"], "timeout_s": 0, "colour": "red", "secret": "whsec_hunter2"}
    answer = await ask(running, "POST", "", body)
    assert sorted(fields_of(answer)) == ["colour", "name", "programs", "secret", "timeout_s", "url"] and b"hunter2" not in answer.body
    assert fields_of(await ask(running, "POST", "", {"url": URL})) == ["name"]
    await make(running, "whole")
    assert fields_of(await ask(running, "PATCH", "/whole", {"name": "other"})) == ["name"]
    assert fields_of(await ask(running, "PATCH", "/whole", {"start_at": "beginning"})) == ["start_at"]


@pytest.mark.parametrize(
    ("method", "path", "token", "status"),
    [
        ("GET", "", "unknown-token-of-nobody", 401),
        ("GET", "/of-file", "token-that-only-reads", 403),
        ("POST", "/of-file/pause", READER, 403),
        ("DELETE", "/of-file", READER, 403),
        ("POST", "/of-file/lanes/retry", READER, 403),
        ("GET", "/nowhere", READER, 404),
        ("POST", "/nowhere/pause", WRITER, 404),
        ("GET", "/of-file/replays/replay-0", READER, 404),
        ("DELETE", "/of-file/secrets/sec-0", WRITER, 404),
        ("GET", "/of-file", GRAND, 404),
    ],
)
async def test_who_may_not_is_told(running: Service, method: str, path: str, token: str, status: int) -> None:
    assert (await ask(running, method, path, token=token)).status == status


async def test_a_token_of_a_programme_reaches_what_hears_of_that_alone(running: Service) -> None:
    await make(running, "both", programs=["grand", "staff"])
    own = await ask(running, "POST", "", {"name": "own", "url": URL, "programs": ["grand"]}, token=GRAND)
    assert own.status == 201
    assert [one["name"] for one in (await ask(running, "GET", "", token=GRAND)).json["destinations"]] == ["own"]
    for changes in ({"programs": ["staff"]}, {"programs": []}, {"events": ["DELIVERY_BLOCKED"]}):
        assert (await ask(running, "PATCH", "/own", changes, token=GRAND)).status == 403
    assert (await ask(running, "GET", "/both", token=GRAND)).status == 404


@pytest.mark.parametrize("body", [b"{", b"[]", b"7"])
async def test_a_body_is_an_object(running: Service, body: bytes) -> None:
    answer = await ask(running, "POST", "", data=body, headers={"Content-Type": "application/json"})
    assert answer.status in (400, 422)
    assert (await ask(running, "POST", "", data=b"{}", headers={"Content-Type": "text/plain"})).status == 415


async def test_states_have_their_reason_and_overrule_what_a_sink_says(running: Service) -> None:
    await make(running, "stateful")
    paused = await ask(running, "POST", "/stateful/pause", {"detail": "their maintenance"})
    state = paused.json["state"]
    assert (state["state"], state["reason"], state["detail"], state["changed_by"]) == ("PAUSED", "OPERATOR", "their maintenance", "destinations-writer")
    known = running.parts.control.states["stateful"]
    gone = DestinationState(name="stateful", state=State.DISABLED, reason="GONE", failing_since_ms=1000, version=known.version)
    running.run(running.parts.control.put_state(gone, changed_by="webhooks"))
    state = (await ask(running, "GET", "/stateful")).json["state"]
    assert (state["state"], state["reason"], state["failing_since"]) == ("DISABLED", "GONE", "1970-01-01T00:00:01.000Z")
    assert (await ask(running, "POST", "/stateful/resume", {})).json["state"]["state"] == "ACTIVE"
    assert (await ask(running, "POST", "/stateful/disable")).json["state"]["state"] == "DISABLED"
    assert fields_of(await ask(running, "POST", "/stateful/pause", {"why": "x"})) == ["why"]


async def test_secrets_overlap_and_end(running: Service) -> None:
    first = (await make(running, "rotated", secret=SECRET)).json["secrets"][0]["secret_id"]
    pair = await ask(running, "POST", "/rotated/secrets", {"scheme": "v1a", "overlap_s": 3600})
    assert pair.status == 201 and pair.json["public_key"] == signatures.public_key(pair.json["secret"])
    old, new = (await ask(running, "GET", "/rotated")).json["secrets"]
    assert (old["secret_id"], new["secret_id"], new["expires_at"]) == (first, pair.json["secret_id"], None)
    ends_ms, now_ms = running.parts.control.destinations["rotated"].secrets[0].expires_at_ms, running.parts.clock() * 1000
    assert now_ms < ends_ms <= now_ms + 3_600_000
    given = await ask(running, "POST", "/rotated/secrets", {"secret": signatures.new_secret(), "overlap_s": 7200})
    assert given.json["secret"] is None
    assert running.parts.control.destinations["rotated"].secrets[0].expires_at_ms == ends_ms, "none lives longer for it"
    left = await ask(running, "DELETE", f"/rotated/secrets/{first}")
    assert [one["secret_id"] for one in left.json["secrets"]] == [pair.json["secret_id"], given.json["secret_id"]]
    at_once = await ask(running, "POST", "/rotated/secrets", {"overlap_s": 0})
    assert [one["secret_id"] for one in (await ask(running, "GET", "/rotated")).json["secrets"]] == [at_once.json["secret_id"]]
    assert fields_of(await ask(running, "DELETE", f"/rotated/secrets/{at_once.json['secret_id']}")) == ["secrets"]


@pytest.mark.parametrize(
    ("body", "field"),
    [({"secret": "x"}, "secrets[1].secret"), ({"secret": SECRET}, "secrets"), ({"scheme": "v2"}, "scheme"), ({"overlap_s": -1}, "overlap_s"),
     ({"scheme": "v1", "secret": SECRET}, "scheme"), ({"colour": "red"}, "colour")],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
async def test_secrets_that_cannot_be(running: Service, body: dict[str, Any], field: str) -> None:
    if "unrotated" not in running.parts.control.destinations:
        await make(running, "unrotated", secret=SECRET)
    assert fields_of(await ask(running, "POST", "/unrotated/secrets", body)) == [field]


async def test_a_test_is_signed_and_sent_at_once(running: Service) -> None:
    async with Receiver(SECRET) as receiver:
        await make(running, "tried", url=receiver.url, secret=SECRET)
        answer = await ask(running, "POST", "/tried/test")
        assert (answer.status, answer.json["delivered"], answer.json["outcome"]) == (200, True, "200"), answer.body
        (received,) = receiver.received
        assert json.loads(received.body)["type"] == "loyalty.test"


# Replays and lanes.


async def test_a_replay_is_a_job_in_the_log_and_can_be_cancelled(running: Service) -> None:
    await make(running, "replayed")
    wish = {"since": "2026-11-24", "until": "2026-11-25T00:00:00+01:00", "events": ["TIER_CHANGED"], "which": "MISSING", "rate_max_per_s": "unlimited"}
    made = await ask(running, "POST", "/replayed/replays", wish)
    job = running.parts.control.jobs[made.json["job_id"]]
    assert made.status == 201 and made.headers["Location"] == f"/v1/destinations/replayed/replays/{job.job_id}"
    assert (job.destination, job.action, job.since_ms, job.until_ms) == ("replayed", Action.REPLAY, 1_795_478_400_000, 1_795_561_200_000)
    assert (job.events, job.which.value, job.rate_max_per_s, job.created_by) == (frozenset({"TIER_CHANGED"}), "MISSING", None, "destinations-writer")
    cancelled = await ask(running, "POST", f"/replayed/replays/{job.job_id}/cancel")
    assert cancelled.json["is_cancelled"] and running.parts.control.jobs[job.job_id].is_cancelled
    assert (await ask(running, "GET", f"/replayed/replays/{job.job_id}")).json["progress"]["status"] == "cancelled"
    assert (await ask(running, "GET", f"/of-file/replays/{job.job_id}")).status == 404, "it is another one's"


async def test_replays_come_newest_first(running: Service) -> None:
    await make(running, "paged")
    ids = [(await ask(running, "POST", "/paged/replays", {"since": f"2026-11-{day}"})).json["job_id"] for day in (10, 11, 12)]
    first = await ask(running, "GET", "/paged/replays?limit=2", token=READER)
    second = await ask(running, "GET", f"/paged/replays?after={first.json['next']}", token=READER)
    assert sorted(one["job_id"] for one in (*first.json["replays"], *second.json["replays"])) == sorted(ids)
    times = [one["created_at"] for one in (*first.json["replays"], *second.json["replays"])]
    assert (len(first.json["replays"]), second.json["next"], times) == (2, None, sorted(times, reverse=True))


async def test_jobs_older_than_the_log_go(running: Service) -> None:
    await make(running, "tidied")
    old = (await ask(running, "POST", "/tidied/replays", {"since": "2026-11-10"})).json["job_id"]
    job = running.parts.control.jobs[old]
    running.run(running.parts.control.put_job(replace(job, created_at_ms=job.created_at_ms - 31 * 86_400_000), changed_by="test"))
    new = (await ask(running, "POST", "/tidied/replays", {"since": "2026-11-10"})).json["job_id"]
    assert [one["job_id"] for one in (await ask(running, "GET", "/tidied/replays")).json["replays"]] == [new]


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "since"), ({"since": "soon"}, "since"), ({"since": "2026-11-25", "until": "2026-11-24"}, "until"),
     ({"since": "2026-11-25", "created_by": "me"}, "created_by"),
     ({"since": "2026-11-24", "members": ["M-1"]}, "members[0]"), ({"since": "2026-11-24", "programs": ["other"]}, "programs")],
    ids=["nothing", "no-time", "backwards", "not-its-own", "no-programme", "unknown-programme"],
)  # fmt: skip
async def test_replays_that_cannot_be(running: Service, body: dict[str, Any], field: str) -> None:
    assert fields_of(await ask(running, "POST", "/of-file/replays", body)) == [field]


def progress(owned: list[int], done: list[int], running: list[int], **counts: int) -> dict[str, Any]:
    return {"partitions": owned, "counts": counts, "done_partitions": done, "running_partitions": running}


@pytest.mark.parametrize(
    ("first", "second", "status", "counts", "missing"),
    [
        (progress([0], [], []), progress([1], [], []), "waiting", {}, []),
        (progress([0], [0], [], matched=3, delivered=3), progress([1], [], [1], matched=2), "running", {"matched": 5, "delivered": 3}, []),
        (progress([0], [0], [], matched=3), progress([1], [1], []), "done", {"matched": 3}, []),
        (progress([0], [0], [], matched=3), None, "running", {"matched": 3}, [1]),
    ],
    ids=["not-begun", "under-way", "done", "unknown"],
)
async def test_a_replay_is_done_when_all_partitions_are(
    running: Service, sinks: list[StubSink], first: Any, second: Any, status: str, counts: dict[str, int], missing: list[int]
) -> None:
    job_id = (await ask(running, "POST", "/of-file/replays", {"since": "2026-11-24"})).json["job_id"]
    for sink, answer in zip(sinks, (first, second), strict=True):
        sink.answers[f"/internal/jobs/{job_id}"] = answer
    found = (await ask(running, "GET", f"/of-file/replays/{job_id}", token=READER)).json["progress"]
    assert (found["status"], found["counts"], found["partitions_missing"], found["incomplete"]) == (status, counts, missing, bool(missing))
    assert found["unreachable"] == ([sinks[1].url] if missing else [])


def lane(member: str, channel: str = "of-file", **fields: Any) -> dict[str, Any]:
    return {"member": member, "channel": channel, "waiting": 4, "attempts": 7, "failing_since_ms": 1000, "due_at_ms": None, "is_blocked": True,
            "event_id": "grand-M-1-4", "detail": "status 503", **fields}  # fmt: skip


async def test_members_that_wait_are_one_list_of_all_sinks(running: Service, sinks: list[StubSink]) -> None:
    path = "/internal/destinations/of-file/lanes"
    sinks[0].answers[path] = {"lanes": [lane("grand/M-2"), lane("grand/M-4")]}
    sinks[1].answers[path] = {"lanes": [lane("grand/M-1"), lane("grand/M-3"), lane("grand/M-3", "of-file#batch")]}
    whole = await ask(running, "GET", "/of-file/lanes", token=READER)
    assert [one["member"] for one in whole.json["lanes"]] == ["grand/M-1", "grand/M-2", "grand/M-3", "grand/M-3", "grand/M-4"]
    assert whole.json["lanes"][0]["failing_since"] == "1970-01-01T00:00:01.000Z" and not whole.json["incomplete"]
    page = await ask(running, "GET", "/of-file/lanes?limit=3&after=grand%2FM-0", token=READER)
    assert ([one["member"] for one in page.json["lanes"]], page.json["next"]) == (["grand/M-1", "grand/M-2"], "grand/M-2"), "all of a member, or nothing"
    assert sinks[0].asked[-1] == f"{path}?limit=4&after=grand%2FM-0"
    del sinks[1].answers[path]
    part = await ask(running, "GET", "/of-file/lanes", token=READER)
    assert (len(part.json["lanes"]), part.json["incomplete"], part.json["unreachable"]) == (2, True, [sinks[1].url])


@pytest.mark.parametrize(("verb", "action"), [("retry", Action.RETRY), ("skip", Action.SKIP)])
async def test_members_are_tried_or_passed_over_by_a_job(running: Service, verb: str, action: Action) -> None:
    some = await ask(running, "POST", f"/of-file/lanes/{verb}", {"members": ["grand/M-1", "staff/7"]})
    job = running.parts.control.jobs[some.json["job_id"]]
    assert (some.status, job.action, job.members) == (202, action, frozenset({"grand/M-1", "staff/7"}))
    everyone = await ask(running, "POST", f"/of-file/lanes/{verb}", {"all": True})
    assert everyone.json["all"] and running.parts.control.jobs[everyone.json["job_id"]].members == frozenset()
    for body in ({}, {"all": False}, {"members": []}, {"members": ["grand/M-1"], "all": True}):
        assert fields_of(await ask(running, "POST", f"/of-file/lanes/{verb}", body)) == ["members"]
    assert (await ask(running, "GET", "/of-file/replays")).status == 200


STANDING = {"waiting": 2, "oldest_ms": 5000, "in_flight": 1, "concurrency": 8, "breaker": "closed", "parked_members": 1, "blocked_members": 0,
            "behind_records": 10, "last_failure": "", "failing_since_ms": None}  # fmt: skip


async def test_how_a_destination_fares_is_the_sum_of_its_sinks(running: Service, sinks: list[StubSink]) -> None:
    other = STANDING | {"oldest_ms": 4000, "breaker": "half-open", "last_failure": "status 503", "failing_since_ms": 1000}
    for sink, number, standing in ((sinks[0], 0, STANDING), (sinks[1], 1, other)):
        sink.answers["/internal/destinations"] = {"instance": "x", "partitions": {"events": [number]}, "destinations": {"of-file": standing}}
    found = (await ask(running, "GET", "/of-file/status", token=READER)).json
    assert {key: found[key] for key in ("waiting", "in_flight", "concurrency", "parked_members", "behind_records")} == {
        "waiting": 4, "in_flight": 2, "concurrency": 16, "parked_members": 2, "behind_records": 20,
    }  # fmt: skip
    assert (found["oldest"], found["breaker"], found["last_failure"]) == ("1970-01-01T00:00:04.000Z", "half-open", "status 503")
    assert (found["failing_since"], found["incomplete"], found["partitions_missing"]) == ("1970-01-01T00:00:01.000Z", False, [])
    del sinks[0].answers["/internal/destinations"]
    found = (await ask(running, "GET", "/of-file/status", token=READER)).json
    assert (found["waiting"], found["incomplete"], found["unreachable"], found["partitions_missing"]) == (2, True, [sinks[0].url], [0])


async def test_how_it_fares_when_no_sink_answers(running: Service, sinks: list[StubSink]) -> None:
    found = (await ask(running, "GET", "/of-file/status", token=READER)).json
    assert (found["waiting"], found["oldest"], found["breaker"], found["incomplete"]) == (0, None, "closed", True)
    assert found["unreachable"] == [sink.url for sink in sinks]


async def test_without_keys_nothing_is_made_and_the_setting_is_named(running: Service, make_settings: Any) -> None:
    base = make_configuration()
    keyless = Service(replace(running.settings, destination_keys=""), replace(base, tokens=TOKENS))
    try:
        keyless.wait_ready()
        answer = await ask(keyless, "POST", "", {"name": "keyless", "url": URL})
        assert answer.status == 503 and "LOYALTY_DESTINATION_KEYS" in answer.json["detail"]
        there = await ask(running, "POST", "", {"name": "sealed", "url": URL})
        assert there.status == 201
        wait_until(lambda: "sealed" in keyless.parts.control.unreadable, timeout_s=10)
        unreadable = await ask(keyless, "GET", "/sealed")
        assert unreadable.status == 409 and "LOYALTY_DESTINATION_KEYS" in unreadable.json["detail"]
        assert (await ask(keyless, "DELETE", "/sealed")).status == 200, "what cannot be read can be ended"
    finally:
        keyless.stop()


EXAMPLES = [one for one in examples() if one.id.startswith("/v1/destinations") and "dead-letters" not in one.id]


@pytest.mark.parametrize(("path", "media_type", "value"), EXAMPLES)
async def test_an_example_is_taken(running: Service, path: str, media_type: str, value: Any) -> None:
    if "{name}" in path:
        if "shown-by-docs" not in running.parts.control.destinations:
            await make(running, "shown-by-docs")
        path = path.replace("{name}", "shown-by-docs")
    answer = await running.request("POST", path, json=value, token=WRITER)
    assert answer.status in (200, 201, 202), answer.body


def test_the_bounds_of_the_document_are_those_of_the_code() -> None:
    shown = OPENAPI["components"]["schemas"]["DestinationBody"]["properties"]
    assert set(shown) == document.FIELDS | {"name", "version", "is_from_file", "changed_by", "changed_at", "state"}
    for name, bounds in {**document.NUMBERS, **document.WHOLE_NUMBERS}.items():
        own = shown[name]["oneOf"][0] if "oneOf" in shown[name] else shown[name]
        assert (own["minimum"], own["maximum"]) == bounds, name
    assert OPENAPI["components"]["schemas"]["DeliveredKind"]["enum"] == list(document.KINDS)
    assert shown["payload_version"]["enum"] == list(document.PAYLOAD_VERSIONS)
    assert {"destinations:read", "destinations:write"} <= set(configuration.SCOPES)
