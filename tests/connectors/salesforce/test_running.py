"""`loyalty connectors run` with an organization: it is killed, the bus forgets what came meanwhile, and nothing is lost."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from infra.fakes.salesforce import TOPIC, SalesforceFake, key_pair
from schemas.records import Enrolment, ReceivedWebhook, SourceProgress
from streams import kafka, topics
from streams.codec import open_codec
from streams.connectors.running import progress
from streams.settings import Settings
from tests.e2e.processes import Pipeline
from tests.ingress.support import CODEC, read_all

WAIT_S = 180


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.2)


def configured(settings: Settings, org: SalesforceFake) -> Settings:
    file = Path(settings.home) / "loyalty.toml"
    (Path(settings.home) / "key.pem").write_text(key_pair()[0])
    file.write_text(f"""
[programs.staff.earn]
points_per_unit = {{ EUR = 1 }}
[[programs.staff.tiers]]
name = "STAFF"
threshold_points = 0
[sources.salesforce]
kind = "salesforce"
program = "staff"
login_url = "{org.base_url}"
client_id = "{org.consumer_key}"
username = "{org.username}"
private_key_file = "key.pem"
pubsub_url = "{org.bus.url}"
""")
    return replace(settings, config_file=str(file))


def known(settings: Settings) -> SourceProgress | None:
    return progress.read(settings, open_codec(settings), range(settings.kafka_partitions)).get(("salesforce", "events"))


def cursor(settings: Settings) -> Any:
    record = known(settings)
    return orjson.loads(record.cursor) if record is not None else {}


def enrolled(settings: Settings) -> set[str]:
    return {CODEC.decode(message.value(), Enrolment).member_id for message in read_all(settings, topics.ENROLMENTS)}


async def test_a_kill_loses_no_change(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(redis_url="redis://unused", clickhouse_url="http://unused", kafka_partitions=2)
    kafka.ensure_topics(settings)
    org = SalesforceFake(keep_alive_s=0.2)
    await org.start()
    settings = configured(settings, org)
    for number in range(250):
        await org.create(LastName="Example", Loyalty_Id__c=f"M-{number}")
    process = Pipeline(settings, "connectors", "run")
    await until(lambda: len(org.bus.fetches) >= 2)
    process.kill()
    for number in range(250, 300):
        await org.create(LastName="Example", Loyalty_Id__c=f"M-{number}")
    process = Pipeline(settings, "connectors", "run")
    await until(lambda: enrolled(settings) == {f"M-{number}" for number in range(300)})
    await until(lambda: cursor(settings).get("commit", 0) >= org.commit_number)
    assert process.stop() == 0
    await org.create(LastName="Example", Loyalty_Id__c="M-lost")
    await org.create(LastName="Example", Loyalty_Id__c="M-kept")
    org.bus.expire(TOPIC, keep=1)
    process = Pipeline(settings, "connectors", "run")
    try:
        await until(lambda: "M-kept" in enrolled(settings))
        record = known(settings)
        logged = process.log_file.read_text()
    finally:
        assert process.stop() == 0
        await org.stop()
    assert record is not None and record.alert.startswith("REPLAY_EXPIRED")
    hints = [CODEC.decode(message.value(), ReceivedWebhook) for message in read_all(settings, topics.WEBHOOK_INBOX)]
    assert {one.entity_id for one in hints} == {"Contact/*"}
    assert hints[0].delivery_id.startswith("0@") and not hints[-1].delivery_id.startswith("0@"), "at the start all, then what was modified since"
    assert "PRIVATE KEY" not in logged and not any(token in logged for token in org.tokens)
