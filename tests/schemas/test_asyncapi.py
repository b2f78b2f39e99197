"""asyncapi.yaml: current, whole, and enough to write a producer in another language from."""

import asyncio
import json
import struct
from typing import Any

import pytest
import yaml

from schemas import asyncapi, avsc
from schemas.codec import Codec
from schemas.records import Enrolment
from schemas.registry import LocalRegistry
from streams import kafka, topics
from streams.settings import Settings

DOCUMENT = yaml.safe_load(asyncapi.TARGET.read_text())
MESSAGES = DOCUMENT["components"]["messages"]


def test_asyncapi_is_current() -> None:
    assert asyncapi.TARGET.read_text() == asyncapi.render(), "run: python -m schemas.asyncapi"


def test_every_topic_of_others_is_a_channel_and_every_reference_leads_somewhere() -> None:
    # All but the worker's own.
    own = {"relays", "ticks", "programs", "delivery-control", "delivery-progress", "connector-progress", "source-progress", "sync-control", "restatements"}
    assert set(DOCUMENT["channels"]) == set(topics.BY_STREAM) - own
    for reference in references(DOCUMENT):
        if reference.startswith("#/"):
            value = DOCUMENT
            for part in reference[2:].split("/"):
                value = value[part]
        else:
            assert (asyncapi.TARGET.parent / reference).is_file()


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [value["$ref"]] if "$ref" in value else [found for inner in value.values() for found in references(inner)]
    return [found for inner in value for found in references(inner)] if isinstance(value, list) else []


@pytest.mark.parametrize("topic", asyncapi.CHANNELS, ids=lambda topic: topic.stream)
def test_an_example_is_the_bytes_it_says(topic: topics.Topic) -> None:
    message = MESSAGES[topic.record.__name__]
    value = bytes.fromhex(message["x-example-value"])
    assert value[:5] == bytes.fromhex(message["x-value-prefix"]) == b"\0" + message["x-schema-id"].to_bytes(4, "big")
    decoded = Codec(LocalRegistry()).decode(value, topic.record)
    assert json.loads(json.dumps(decoded.to_avro(), default=lambda raw: raw.decode("latin-1"))) == message["examples"][0]["payload"]


# A producer in another language, by the document alone: twenty lines, no Avro library, no registry.


def avro_long(number: int) -> bytes:
    zigzag = (number << 1) ^ (number >> 63)
    out = bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes(out) + bytes([zigzag])


def avro(schema: Any, value: Any) -> bytes:
    if isinstance(schema, list):
        return avro_long(0) if value is None else avro_long(1) + avro(schema[1], value)
    match schema["type"] if isinstance(schema, dict) else schema:
        case "string":
            return avro_long(len(value.encode())) + value.encode()
        case "long" | "int":
            return avro_long(value)
        case "map":
            items = [avro("string", key) + avro(schema["values"], inner) for key, inner in value.items()]
            return (avro_long(len(items)) + b"".join(items) if items else b"") + avro_long(0)
        case "array":
            items = [avro(schema["items"], inner) for inner in value]
            return (avro_long(len(items)) + b"".join(items) if items else b"") + avro_long(0)
        case "record":
            return b"".join(avro(field["type"], value[field["name"]]) for field in schema["fields"])
        case other:
            raise ValueError(other)


def test_a_value_made_by_the_document_alone_is_understood() -> None:
    message = MESSAGES["Enrolment"]
    schema = json.loads((asyncapi.TARGET.parent / message["payload"]["schema"]["$ref"]).read_text())
    enrolment = {
        "program_id": "grand", "member_id": "M-Ünïcode", "event_id": "crm:1", "source_system": "crm", "occurred_at_ms": 1795341900000,
        "attributes": {"given_name": "Ada", "city": "Zürich"}, "segments": [], "source_version": -3,
        "external_ids": {"card": "6035550000012345"}, "actor": None,
    }  # fmt: skip
    value = struct.pack(">bI", 0, message["x-schema-id"]) + avro(schema, enrolment)
    assert Codec(LocalRegistry()).decode(value, Enrolment) == Enrolment.from_avro(enrolment)


def murmur2(key: bytes) -> int:
    """Java's org.apache.kafka.common.utils.Utils.murmur2, in unsigned 32-bit arithmetic."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    tail = key[whole:]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    ],
)
def test_murmur2_gives_the_values_of_kafkas_own_test(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0xFFFFFFFF


@pytest.mark.stack
async def test_the_broker_gets_every_key_in_the_partition_that_the_document_says(kafka_settings: Settings) -> None:
    await asyncio.to_thread(kafka.ensure_topics, kafka_settings, [topics.ENROLMENTS])
    producer = kafka.producer(kafka_settings)
    found: dict[bytes, int] = {}
    keys = [f"grand/{'x' * (n % 9)}{n}é".encode() for n in range(200)]
    for key in keys:
        producer.produce(
            topics.ENROLMENTS.name(kafka_settings.topic_prefix), key=key, value=b"",
            on_delivery=lambda error, message: found.update({message.key(): message.partition()}),
        )  # fmt: skip
    assert await asyncio.to_thread(producer.flush, 20) == 0
    assert found == {key: (murmur2(key) & 0x7FFFFFFF) % kafka_settings.kafka_partitions for key in keys}
    assert len(set(found.values())) == kafka_settings.kafka_partitions


@pytest.fixture
def kafka_settings(kafka: Any, make_settings: Any) -> Settings:
    settings: Settings = make_settings(kafka_partitions=8, redis_url="redis://127.0.0.1:9", clickhouse_url="http://127.0.0.1:9")
    return settings


def test_the_records_of_all_messages_have_a_schema_file() -> None:
    assert set(MESSAGES) <= set(avsc.load_all())
