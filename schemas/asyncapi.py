"""streams/topics.py + avro/*.avsc -> asyncapi.yaml: `python -m schemas.asyncapi` writes it; a test fails while it is not current.

The document is all that a producer or consumer in another language needs: topic names, keys, the partitioner, the bytes of a value.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from schemas import avsc
from schemas.codec import HEADER, MAGIC, Codec
from schemas.contract import member_key
from schemas.registry import LocalRegistry
from streams import topics
from streams.kafka import PARTITIONER
from streams.settings import Settings
from streams.topics import Direction, Topic

TARGET = Path(__file__).parent / "asyncapi.yaml"
WIDTH = 140
HEADER_TEXT = "# Generated from streams/topics.py and avro/*.avsc by `python -m schemas.asyncapi`. Do not edit.\n"
EXAMPLE_ID = "3f0c2a9d4e5b4cb39d1e0a7c6b5a4938"

DESCRIPTION = """\
Kafka is a full way into the pipeline, beside the HTTP ingress, and the only way out for those who read topics.

**Value.** Confluent's wire format: one byte 0, the schema id as four bytes big-endian, then the record in Avro binary (no container,
no length). Every message gives its schema id as `x-schema-id`: 31 bits of the SHA-256 of the schema's Avro Parsing Canonical Form, so
that no server is needed to know it. It holds while the setting `LOYALTY_SCHEMA_REGISTRY_URL` is empty; with a registry, ids are the
registry's. Older versions of a schema stay readable under their own ids. `x-example-value` is the example as the bytes of a value, in
hexadecimal.

**Key.** `program_id/member_id` in UTF-8, without a length or quotes. A programme has no `/`, so the first `/` separates the two. The
webhook inbox has `source/entity_id`.

**Partition.** `(murmur2(key) & 0x7fffffff) % partitions`, seed 0x9747b28c, as Java's clients do by default; with librdkafka:
`partitioner=PARTITIONER`. All topics have the same number of partitions (setting `LOYALTY_KAFKA_PARTITIONS`), which never changes once
they exist: all that concerns one member is in partitions of the same number, in order.

**Producers** use acks=all and idempotence. The id in a command (`transaction_id`, `event_id`) is made once and kept: a record that is
there twice takes effect once. Inbound topics are stamped by the broker's clock (LogAppendTime).

**Consumers** use isolation.level=read_committed: the worker writes in transactions, and what was aborted never happened.
""".replace("PARTITIONER", PARTITIONER)

COMMAND = {"program_id": "grand", "member_id": "M-000123", "source_system": "pms", "occurred_at_ms": 1795341900000}
TIMES = {"occurred_at_ms": 1795341900000, "ingested_at_ms": 1795341900412, "recorded_at_ms": 1795341900425}
WHERE = {"topic": "loyalty.transactions.v1", "partition": 3, "offset": 10422}
ACCOUNT = {"status": "ACTIVE", "tier": "GOLD", "available_points": 2600, "qualifying_points": 12600, "tier_valid_until_ms": 1830297600000}
LOTS = [{"lot_id": "pms:stay:88123", "points": 2600, "expires_at_ms": 1858413900000}]

# What passes between the pipeline's own processes is their affair: nobody else writes or reads it.
OWN = (
    topics.RELAYS, topics.TICKS, topics.PROGRAMS, topics.DELIVERY_CONTROL, topics.DELIVERY_PROGRESS, topics.CONNECTOR_PROGRESS, topics.SYNC_CONTROL,
    topics.SOURCE_PROGRESS, topics.RESTATEMENTS,
)  # fmt: skip
CHANNELS = tuple(topic for topic in topics.ALL if topic not in OWN)

# One example per record; fields that are left out have their defaults, in nested records, too.
EXAMPLES: dict[str, dict[str, Any]] = {
    "Enrolment": COMMAND
    | {"event_id": "crm:enrol:M-000123", "attributes": {"given_name": "Ada"}, "segments": ["corporate"], "source_version": 1},
    "Transaction": COMMAND
    | {
        "transaction_id": "pms:stay:88123", "kind": "EARN", "amount_minor": 26000, "currency": "EUR", "category": "room", "nights": 2,
        "property_id": "MUC",
    },
    "ProfileChange": COMMAND
    | {"event_id": "crm:update:77", "attributes": {"email": "ada@example.org", "phone": None}, "source_version": 2},
    "OfferActivation": COMMAND | {"event_id": "app:offer:1", "offer_id": "double-points"},
    "MemberOperation": COMMAND
    | {"event_id": "crm:merge:M-000123", "kind": "MERGE", "target_member_id": "M-000077", "reason": "enrolled twice", "actor": "ops@grand"},
    "LoyaltyEvent": TIMES
    | {
        "event_id": "grand/M-000123/419", "program_id": "grand", "member_id": "M-000123", "sequence": 419, "kind": "BALANCE_CHANGED",
        "account": ACCOUNT, "points_delta": 2600, "movement": "EARN", "lots": LOTS, "correlation_id": EXAMPLE_ID,
        "cause": {"command_id": "pms:stay:88123", "stream": "transactions", "source_system": "pms", "reason": None},
    },
    "LedgerEntry": TIMES
    | {
        "entry_id": "grand/M-000123/12", "program_id": "grand", "member_id": "M-000123", "entry_sequence": 12,
        "transaction_id": "pms:stay:88123", "kind": "EARN", "points_delta": 2600, "balance_after": 2600, "counter_account": "issued",
        "rule_id": "points-per-unit", "rule_version": 3, "available_after": 2600, "lots": LOTS, "source_system": "pms",
        "previous_hash": "5d0f9a51b7c3a41f0f6c2f4c6f1b8f0a", "entry_hash": "c1c0b52e7c6f7d1d3a3f1e92b0a4d6e8", "correlation_id": EXAMPLE_ID,
    },
    "MemberProfile": {
        "program_id": "grand", "member_id": "M-000123", "version": 3, "operation": "CHANGE", "attributes": {"given_name": "Ada"},
        "segments": ["corporate"], "status": "ACTIVE", "tier": "GOLD", "changed": ["email"], "source_system": "crm",
        "valid_from_ms": 1795341900000, "ingested_at_ms": 1795341900412, "recorded_at_ms": 1795341900425,
    },
    "SyncAudit": TIMES
    | WHERE
    | {
        "audit_id": "loyalty.transactions.v1-3-10422", "program_id": "grand", "member_id": "M-000123", "stream": "transactions",
        "command_id": "pms:stay:88123", "payload_hash": "9c1185a5c5e9fc54", "source_system": "pms", "result": "APPLIED",
        "changes": [{"attribute": "available_points", "before": "0", "after": "2600"}], "sequence": 419, "points_delta": 2600,
        "available_points": 2600, "tier": "GOLD", "correlation_id": EXAMPLE_ID,
    },
    "DeliveryAudit": TIMES
    | {
        "delivery_id": "crm/grand/M-000123/419", "destination": "crm", "event_id": "grand/M-000123/419", "program_id": "grand",
        "member_id": "M-000123", "sequence": 419, "kind": "BALANCE_CHANGED", "result": "DELIVERED", "status": 204, "attempts": 1,
        "command_id": "pms:stay:88123", "source_system": "pms", "ended_at_ms": 1795341900490, "correlation_id": EXAMPLE_ID,
        "chain_number": 1, "previous_hash": "", "record_hash": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    },
    "DeliveryAttempt": {
        "attempt_id": "crm/grand-M-000123-419/1795341900470", "destination": "crm", "channel": "crm", "webhook_id": "grand-M-000123-419",
        "event_ids": ["grand-M-000123-419"], "kind": "BALANCE_CHANGED", "program_id": "grand", "member_id": "M-000123", "sequence": 419, "attempt": 1,
        "verdict": "DELIVERED", "outcome": "204", "status": 204, "detail": "", "url": "https://crm.example.com/hooks/loyalty",
        "peer_address": "192.0.2.17", "request_headers": {"webhook-id": "grand-M-000123-419", "authorization": "***"},
        "request_body": "{}", "response_headers": {}, "response_body": "", "appended_at_ms": 1795341900460, "started_at_ms": 1795341900470,
        "duration_us": 20300, "correlation_id": EXAMPLE_ID,
    },
    "DeliveryNotice": {
        "notice_id": "crm-failing-1795341900", "kind": "DESTINATION_FAILING", "destination": "crm", "reason": "TIMEOUT",
        "detail": "no answer within 15 s", "occurred_at_ms": 1795341900470,
    },
    "SyncRun": {
        "run_id": "report/liability@1795341900000", "job": "report/liability", "trigger": "SCHEDULE", "result": "DONE", "detail": "", "attempt": 1,
        "cadence": "cron 45 3 * * *", "requested_by": "", "scheduled_for_ms": 1795341900000, "started_at_ms": 1795341900120,
        "ended_at_ms": 1795341901480, "rows": 24, "counts": {"months": 2}, "due_after_ms": 1795428300000,
    },
    "DeadLetter": WHERE
    | {
        "dead_letter_id": "worker-loyalty.transactions.v1-3-10422", "stage": "DECODE", "reason": "NOT_WIRE_FORMAT",
        "detail": "the value does not start with the zero byte and a schema id", "processor": "worker", "key": b"grand/M-000123",
        "value": b"{}", "ingested_at_ms": 1795341900412, "failed_at_ms": 1795341900425,
    },
    "ReceivedWebhook": {
        "source": "apaleo", "delivery_id": "ec5a1fe4-6a16-4b3c-9d10-4f52d4a9a5ab", "entity_id": "XPGMSXGF-1",
        "kind": "Reservation/checked-out", "body": b'{"topic":"Reservation","type":"checked-out"}', "received_at_ms": 1795341900400,
        "correlation_id": EXAMPLE_ID,
    },
}  # fmt: skip


def document() -> dict[str, Any]:
    """The AsyncAPI document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Loyalty sync topics",
            "version": "1",
            "license": {"name": "Apache-2.0"},
            "description": DESCRIPTION,
        },
        "defaultContentType": "application/vnd.apache.avro",
        "servers": {
            "kafka": {
                "host": Settings().kafka_bootstrap_servers,
                "protocol": "kafka",
                "description": "The setting LOYALTY_KAFKA_BOOTSTRAP_SERVERS; LOYALTY_KAFKA_SECURITY_PROTOCOL and others secure it.",
            }
        },
        "channels": {topic.stream: _channel(topic) for topic in CHANNELS},
        "operations": {name: operation for topic in CHANNELS for name, operation in _operations(topic)},
        "components": {"messages": {topic.record.__name__: _message(topic) for topic in CHANNELS}},
    }


def _channel(topic: Topic) -> dict[str, Any]:
    name = topic.record.__name__
    return {
        "address": topic.name("{prefix}"),
        "description": f"{topic.doc} Written by: {topic.writers}. Read by: {topic.readers}.",
        "parameters": {"prefix": {"default": Settings().topic_prefix, "description": "The setting LOYALTY_TOPIC_PREFIX."}},
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {
            "kafka": {
                "topicConfiguration": {key: _config(key, value) for key, value in topic.config.items()},
                "bindingVersion": "0.5.0",
            }
        },
        "x-direction": topic.direction.value,
    }


def _config(key: str, value: str) -> Any:
    if key == "cleanup.policy":
        return value.split(",")
    return int(value) if value.isdigit() else value


def _operations(topic: Topic) -> list[tuple[str, dict[str, Any]]]:
    """What the pipeline does with a topic."""
    actions = {Direction.IN: ("receive",), Direction.OUT: ("send",), Direction.INTERNAL: ("send", "receive")}[topic.direction]
    return [
        (f"{action}-{topic.stream}", {"action": action, "channel": {"$ref": f"#/channels/{topic.stream}"}, "summary": topic.doc})
        for action in actions
    ]


def _message(topic: Topic) -> dict[str, Any]:
    name = topic.record.__name__
    codec = Codec(LocalRegistry())
    example = example_record(topic)
    schema = avsc.load_all()[name]
    files = {json.loads(path.read_text())["name"]: path.name for path in avsc.FOLDER.glob("*.avsc")}
    message: dict[str, Any] = {
        "name": f"{schema['namespace']}.{name}",
        "title": name,
        "summary": schema["doc"],
        "contentType": "application/vnd.apache.avro",
        "payload": {"schemaFormat": "application/vnd.apache.avro+json;version=1.9.0", "schema": {"$ref": f"avro/{files[name]}"}},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": _key_rule(topic), "examples": [example_key(topic).decode()]},
                "schemaIdLocation": "payload",
                "schemaIdPayloadEncoding": "confluent",
                "bindingVersion": "0.5.0",
            }
        },
        "x-schema-id": LocalRegistry().id_of(name),
        "x-value-prefix": HEADER.pack(MAGIC, LocalRegistry().id_of(name)).hex(" "),
        "examples": [{"name": "example", "payload": _plain(example.to_avro())}],
        "x-example-value": codec.encode(example).hex(),
    }
    if topic.direction is not Direction.OUT:
        message["headers"] = {
            "type": "object",
            "properties": {
                "correlation_id": {
                    "type": "string",
                    "description": "Optional: follows one request through all topics, as the field correlation_id of what comes of it.",
                    "examples": [EXAMPLE_ID],
                }
            },
        }
        message["correlationId"] = {"location": "$message.header#/correlation_id"}
    return message


def example_record(topic: Topic) -> Any:
    """The example of a topic's record."""
    name = topic.record.__name__
    return topic.record.from_avro(_whole(avsc.expanded(avsc.load_all()[name]), EXAMPLES[name]))  # type: ignore[attr-defined]


def _whole(schema: Any, value: Any) -> Any:
    """The value with the defaults of what it leaves out, at any depth."""
    if isinstance(schema, list):
        return value if value is None else _whole(schema[1], value)
    match schema["type"] if isinstance(schema, dict) else schema:
        case "record":
            given = {field["name"]: value[field["name"]] if field["name"] in value else field["default"] for field in schema["fields"]}
            return {field["name"]: _whole(field["type"], given[field["name"]]) for field in schema["fields"]}
        case "array":
            return [_whole(schema["items"], inner) for inner in value]
    return value


def example_key(topic: Topic) -> bytes:
    """The key of the example."""
    example = example_record(topic)
    if topic is topics.WEBHOOK_INBOX:
        return f"{example.source}/{example.entity_id}".encode()
    if topic is topics.SYNC_RUNS:
        return str(example.job).encode()
    return b"grand/M-000123" if topic is topics.DEAD_LETTERS else member_key(example.program_id, example.member_id)


def _key_rule(topic: Topic) -> str:
    if topic is topics.WEBHOOK_INBOX:
        return "source/entity_id, in UTF-8"
    if topic is topics.SYNC_RUNS:
        return "the job, in UTF-8"
    return "key of the record that failed" if topic is topics.DEAD_LETTERS else "program_id/member_id, in UTF-8"


def _plain(value: Any) -> Any:
    """Values as JSON: bytes as Avro's JSON has them, one character each."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value.decode("latin-1") if isinstance(value, bytes) else value


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types.
    """Long texts as blocks, no anchors, lists indented."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def render() -> str:
    """The text of asyncapi.yaml."""
    return HEADER_TEXT + str(yaml.dump(document(), Dumper=_Dumper, sort_keys=False, width=WIDTH - 20, allow_unicode=True))


if __name__ == "__main__":
    TARGET.write_text(render())
    print(f"{TARGET.name} written: {len(CHANNELS)} channels")
