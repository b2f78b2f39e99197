"""Explanations over the real pipeline: worker, ingress and sinks as processes; a command's way to the receipt, and to ClickHouse's rows."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner

from infra.fakes.receiver import Receiver
from sinks import clickhouse
from streams import kafka
from streams.configuration import new_webhook_secret
from streams.explanation import log
from streams.explanation.command import explain, explained
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, changelogs
from tests.e2e.oracle import RULES_TOML
from tests.e2e.processes import Pipeline, free_port
from tests.ingress.support import Looped
from tests.waiting import wait_until

pytestmark = pytest.mark.stack

TOKEN, TIMEOUT_S = "token-of-the-explanations", 180
MIRRORED = {"sync_audit", "ledger_entries", "loyalty_events", "delivery_attempts", "delivery_audit"}

Row = dict[str, Any]


@dataclass
class World:
    settings: Settings
    api: httpx2.Client
    looped: Looped
    app: Receiver
    processes: dict[str, Pipeline] = field(default_factory=dict)

    def start(self, *names: str) -> None:
        for name in names:
            port = {"worker": self.settings.worker_urls, "sink webhooks": self.settings.sink_urls}.get(name, "0").rpartition(":")[2]
            ports = {"ingress": self.settings.ingress_port}
            self.processes[name] = Pipeline(self.settings, *name.split(), http_port=ports.get(name, int(port)))
        for name in names:
            self.processes[name].wait_ready(TIMEOUT_S)

    def send(self, stream: str, wait_s: int = 20, **fields: Any) -> Row:
        answer = self.api.post(f"/v1/{stream}", json={"program_id": "grand"} | fields, headers={"Prefer": f"wait={wait_s}"} if wait_s else {})
        assert answer.status_code in (200, 202), answer.text
        return dict(answer.json())

    def explained(self, identifier: str, **settings: Any) -> Row:
        return asyncio.run(explained(replace(self.settings, **settings), identifier, None, 5))

    def once(self, identifier: str, is_there: Callable[[Row], Any]) -> Row:
        """The explanation, once it has what is awaited."""
        found: Row = {}

        def look() -> bool:
            found.update(self.explained(identifier))
            return bool(is_there(found))

        wait_until(look, TIMEOUT_S)
        return found

    def way(self, identifier: str, tables: set[str] = MIRRORED) -> Row:
        """The one way, once the history has it in these tables."""
        found = self.once(identifier, lambda one: one["ways"] and tables <= {row["table"] for row in rows(one["ways"][0], "mirrored")})
        assert found["not_reached"] == {}
        [way] = found["ways"]
        return dict(way)


def rows(way: Row, step: str) -> list[Row]:
    return [one["row"] for one in way["steps"] if one["step"] == step]


@pytest.fixture(scope="module")
def world(patience: None, make_settings: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    secret, app_port = new_webhook_secret(), free_port()
    config_file: Path = tmp_path_factory.mktemp("explanations") / "loyalty.toml"
    config_file.write_text(f"""{RULES_TOML}
[destinations.app]
url = "http://127.0.0.1:{app_port}/hooks/app"
secret = "{secret}"
[tokens.desk]
token = "{TOKEN}"
programs = ["grand"]
scopes = ["enrolments:write", "transactions:write", "profile-changes:write", "audit:read"]
""")
    made: Settings = make_settings(
        config_file=str(config_file), kafka_partitions=2, ingress_port=free_port(), worker_urls=f"http://127.0.0.1:{free_port()}",
        sink_urls=f"http://127.0.0.1:{free_port()}", delivery_allowed_addresses="127.0.0.1",
    )  # fmt: skip
    kafka.ensure_topics(made, changelogs={name: CHANGELOG_CONFIG for name in changelogs(made)})
    clickhouse.migrate(made)
    with ExitStack() as stack:
        looped = Looped()
        stack.callback(looped.close)
        app = Receiver(secret, port=app_port)
        looped.run(app.start())
        stack.callback(lambda: looped.run(app.stop()))
        api = stack.enter_context(
            httpx2.Client(base_url=f"http://127.0.0.1:{made.ingress_port}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
        )
        world = World(made, api, looped, app)
        stack.callback(lambda: [one.kill() for one in world.processes.values()])
        world.start("worker", "ingress", "sink webhooks", "sink redis", "sink clickhouse")
        for number in (1, 2):
            world.send("enrolments", member_id=f"G-{number}", event_id=f"crm:{number}", attributes={"given_name": "Robin"})
        world.send("transactions", member_id="G-1", transaction_id="stay-1", kind="EARN", points=100)
        yield world


def test_a_command_on_its_whole_way(world: World) -> None:
    way = world.way("stay-1")
    assert (way["program_id"], way["members"], way["waits_for"]) == ("grand", ["G-1"], None)
    names = [one["step"] for one in way["steps"] if one["step"] != "mirrored"]
    assert names[:4] == ["received", "decided", "posted", "told"] and sorted(names[4:]) == ["attempted", "concluded", "stored"]
    assert all(one["after_ms"] >= 0 for one in way["steps"]) and way["total_ms"] > 0
    [received], [decided], [posted], [told] = (rows(way, step) for step in ("received", "decided", "posted", "told"))
    assert (received["topic"], received["stream"]) == (f"{world.settings.topic_prefix}.transactions.v1", "transactions")
    assert (decided["result"], decided["rule_version"], posted["points_delta"], told["available_points"]) == ("APPLIED", 1, 100, 100)
    [stored], [attempt], [receipt] = (rows(way, step) for step in ("stored", "attempted", "concluded"))
    assert stored["topic"].endswith("-accounts-changelog") and stored["event_sequence"] == told["sequence"]
    assert (attempt["verdict"], attempt["status"], receipt["result"], receipt["destination"]) == ("DELIVERED", 200, "DELIVERED", "app")
    for identifier in (posted["entry_id"], told["event_id"], received["correlation_id"], attempt["webhook_id"]):
        assert [one["steps"] for one in world.explained(identifier)["ways"]] == [way["steps"]]
    # The ingress waits for no source as long as this test does.
    wait_until(lambda: world.api.get("/v1/explanations/stay-1").json().get("ways") == [way], TIMEOUT_S)


def test_both_members_of_a_transfer(world: World) -> None:
    world.send("transactions", member_id="G-1", transaction_id="gift-1", kind="TRANSFER", points=30, to_member_id="G-2")
    way = world.once("gift-1", lambda one: one["ways"] and len(rows(one["ways"][0], "concluded")) == 2)["ways"][0]
    assert way["members"] == ["G-1", "G-2"]
    assert {(row["member_id"], row["kind"]) for row in rows(way, "posted")} >= {("G-1", "TRANSFER_OUT"), ("G-2", "TRANSFER_IN")}
    assert {row["member_id"] for row in rows(way, "stored")} == {"G-1", "G-2"}
    received = next(row["entry_id"] for row in rows(way, "posted") if row["member_id"] == "G-2")
    assert [one["command_id"] for one in world.explained(received)["ways"]] == ["gift-1"]
    assert ("points came from", "stay-1", 30) in [(one["relation"], one["command_id"], one["points"]) for one in way["related"]]


def test_a_hold_and_what_ended_it(world: World) -> None:
    world.send("transactions", member_id="G-1", transaction_id="hold-1", kind="HOLD", points=20)
    world.send("transactions", member_id="G-1", transaction_id="take-1", kind="CAPTURE", related_transaction_id="hold-1", points=15)

    def related(one: Any) -> list[tuple[str, str]]:
        return [(other["relation"], other["command_id"]) for way in one["ways"] if way["command_id"] == "hold-1" for other in way["related"]]

    # Both are told before the history has both.
    found = world.once("hold-1", lambda one: ("same hold", "take-1") in related(one))
    assert {way["command_id"] for way in found["ways"]} == {"hold-1", "take-1"}


def test_what_waits_for_somebody(world: World) -> None:
    world.send("transactions", wait_s=0, member_id="G-9", transaction_id="early-1", kind="EARN", points=5)
    world.send("transactions", wait_s=0, member_id="@card:77", transaction_id="early-2", kind="EARN", points=5)
    early = world.once("early-1", lambda one: one["ways"])["ways"][0]
    assert early["waits_for"] == "the enrolment of this number"
    external = world.once("early-2", lambda one: one["ways"])["ways"][0]
    assert external["waits_for"] == "a member with this external id" and "77" not in external["member_id"]
    [nobody] = world.explained("G-9")["members"]
    assert nobody["account"] is None and [one["command_id"] for one in nobody["waiting"]] == ["early-1"]
    [address] = world.explained("@card:77")["members"]
    assert address["member_id"] == external["member_id"] and [one["command_id"] for one in address["waiting"]] == ["early-2"]


def test_a_member_as_of_now_and_a_destination_that_is_behind(world: World) -> None:
    world.looped.run(world.app.stop())
    world.send("transactions", member_id="G-2", transaction_id="stay-2", kind="EARN", points=7)
    found = world.once("G-2", lambda one: one["members"][0]["destinations"])
    [member] = found["members"]
    account = member["account"]
    assert (account["status"], account["available_points"]) == ("ACTIVE", 37) and "attributes" not in account
    assert [(lot["remaining"], lot["expires_at"]) for lot in account["lots"]] == [(30, None), (7, None)]
    assert (member["cache"]["available_points"], member["cache"]["sequence"]) == (37, account["event_sequence"])
    [lane] = member["destinations"]
    assert (lane["destination"], lane["member"]) == ("app", "grand/G-2") and lane["attempts"] > 0
    assert found["ways"][0]["command_id"] == "stay-2"
    world.looped.run(world.app.start())
    world.once("G-2", lambda one: not one["members"][0]["destinations"])


def test_what_the_history_does_not_have_yet_comes_from_the_log(world: World) -> None:
    world.processes["sink clickhouse"].kill()
    world.send("transactions", member_id="G-1", transaction_id="stay-3", kind="EARN", points=11)
    found = world.once("stay-3", lambda one: one["ways"] and rows(one["ways"][0], "concluded"))
    [way] = found["ways"]
    assert {one["step"]: one["from"] for one in way["steps"]} == dict.fromkeys(
        ("received", "decided", "posted", "told", "stored", "attempted", "concluded"), "log"
    )
    assert found["not_reached"] == {} and world.explained("G-1")["ways"][0]["command_id"] == "stay-3"
    without = world.explained("stay-3", clickhouse_url="http://127.0.0.1:1")
    assert [one["steps"] for one in without["ways"]] == [way["steps"]]
    assert without["not_reached"].keys() == {"history"} and "LOYALTY_CLICKHOUSE_URL" in without["not_reached"]["history"]


def test_without_anything_that_answers_it_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "ASK_TIMEOUT_S", 1)
    nobody = "127.0.0.1:1"
    settings = replace(
        world.settings, clickhouse_url=f"http://{nobody}", kafka_bootstrap_servers=nobody, redis_url=f"redis://{nobody}", worker_urls=f"http://{nobody}"
    )
    shown = CliRunner().invoke(explain, ["stay-1", "--json"], env=settings.environment())
    assert shown.exit_code == 1 and "cache, history, log, table did not" in shown.stderr and "Traceback" not in shown.output
    assert json.loads(shown.stdout)["ways"] == []


def test_a_command_that_the_worker_has_not_read(world: World) -> None:
    world.processes["worker"].kill()
    sent = world.send("transactions", wait_s=0, member_id="G-1", transaction_id="late-1", kind="EARN", points=1)
    found = world.explained("late-1")
    assert found["ways"] == [] and found["not_reached"].keys() == {"table"}
    [waiting] = found["waiting"]
    assert waiting["place"] == f"{sent['topic']}[{sent['partition']}]@{sent['offset']}" and "not read" in waiting["waits_for"]
    shown = CliRunner().invoke(explain, ["late-1"], env=world.settings.environment())
    assert shown.exit_code == 0 and "late-1 of grand/G-1 is not decided" in shown.output and "worker's table has no say" in shown.output
