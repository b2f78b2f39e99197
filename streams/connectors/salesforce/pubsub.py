"""Salesforce's Pub/Sub API (gRPC, eventbus.v1) -> events in their JSON form.

Messages are made from the field numbers of the published interface; fields that are not listed are not read. An event's payload is plain Avro, in
the schema whose id it carries. Fields that have not changed are null in it, and the header marks by bitmaps what has.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from io import BytesIO
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import fastavro
import grpc
import orjson
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from streams.connectors.salesforce import bitmaps
from streams.connectors.salesforce.changes import HEADER
from streams.errors import ContractError, UnavailableError
from streams.ingress.commands import format_time

PACKAGE, SERVICE = "eventbus.v1", "PubSub"
SUBSCRIBE, GET_SCHEMA = (f"/{PACKAGE}.{SERVICE}/{name}" for name in ("Subscribe", "GetSchema"))
LATEST, EARLIEST, CUSTOM = 0, 1, 2
"""Replay presets: from now on, from the oldest that is kept, from behind an id."""
EVENTS_REQUESTED = 100
"""How many events are asked for; more are once half of them have come and are in the log."""
SILENCE_S = 330.0
"""Salesforce sends something at least every 270 s: after this much silence the connection is dead."""
CALL_TIMEOUT_S = 30.0
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
REPLAY_ERROR = "sfdc.platform.eventbus.grpc.subscription.fetch.replayid"
"""How the codes begin that say that a replay id is not, or no longer, known."""
BITMAP_FIELDS = ("nulledFields", "diffFields", "changedFields")

_Field = descriptor_pb2.FieldDescriptorProto
_TEXT, _BYTES, _NUMBER, _MESSAGE, _ENUM = _Field.TYPE_STRING, _Field.TYPE_BYTES, _Field.TYPE_INT32, _Field.TYPE_MESSAGE, _Field.TYPE_ENUM
_MESSAGES: Mapping[str, tuple[tuple[int, str, Any], ...]] = {
    "ProducerEvent": ((1, "id", _TEXT), (2, "schema_id", _TEXT), (3, "payload", _BYTES)),
    "ConsumerEvent": ((1, "event", "ProducerEvent"), (2, "replay_id", _BYTES)),
    "FetchRequest": ((1, "topic_name", _TEXT), (2, "replay_preset", _ENUM), (3, "replay_id", _BYTES), (4, "num_requested", _NUMBER)),
    "FetchResponse": ((1, "events", "ConsumerEvent*"), (2, "latest_replay_id", _BYTES), (3, "rpc_id", _TEXT), (4, "pending_num_requested", _NUMBER)),
    "SchemaRequest": ((1, "schema_id", _TEXT),),
    "SchemaInfo": ((1, "schema_json", _TEXT), (2, "schema_id", _TEXT), (3, "rpc_id", _TEXT)),
}


def _made() -> SimpleNamespace:
    file = descriptor_pb2.FileDescriptorProto(name="pubsub.proto", package=PACKAGE, syntax="proto3")
    presets = file.enum_type.add(name="ReplayPreset")
    for number, name in enumerate(("LATEST", "EARLIEST", "CUSTOM")):
        presets.value.add(name=name, number=number)
    for message, fields in _MESSAGES.items():
        made = file.message_type.add(name=message)
        for number, name, kind in fields:
            is_repeated = isinstance(kind, str) and kind.endswith("*")
            label = _Field.LABEL_REPEATED if is_repeated else _Field.LABEL_OPTIONAL
            field = made.field.add(name=name, number=number, label=label, type=_MESSAGE if isinstance(kind, str) else kind)
            if isinstance(kind, str):
                field.type_name = f".{PACKAGE}.{kind.removesuffix('*')}"
            elif kind == _ENUM:
                field.type_name = f".{PACKAGE}.ReplayPreset"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return SimpleNamespace(**{name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES})


messages = _made()
"""Classes of the messages, by their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """An Avro schema, parsed, with the record types in it by their full names."""

    parsed: Any
    named: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    event_id: str
    replay_id: bytes
    payload: bytes
    schema_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What came on one topic. Without events: a keep-alive, whose replay_id is good all the same."""

    topic: str
    events: tuple[Event, ...] = ()
    replay_id: bytes = b""
    is_expired: bool = False
    """The subscription is refused: its replay id is not known any more. Nothing further comes on the topic."""


class Refused(UnavailableError):
    """The API refuses the access token."""


class Client:
    """One connection; several subscriptions on it. Use as an async context manager."""

    def __init__(self, url: str, *, access_token: str, instance_url: str, tenant_id: str) -> None:
        split = urlsplit(url)
        target = f"{split.hostname}:{split.port or 443}"
        limits = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
        if split.scheme == "http":
            self._channel = grpc.aio.insecure_channel(target, options=limits)
        else:
            self._channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options=limits)
        self._metadata = (("accesstoken", access_token), ("instanceurl", instance_url), ("tenantid", tenant_id))
        self._subscribe = self._channel.stream_stream(
            SUBSCRIBE, request_serializer=messages.FetchRequest.SerializeToString, response_deserializer=messages.FetchResponse.FromString
        )
        self._get_schema = self._channel.unary_unary(
            GET_SCHEMA, request_serializer=messages.SchemaRequest.SerializeToString, response_deserializer=messages.SchemaInfo.FromString
        )
        self._schemas: dict[str, Schema] = {}

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *caught: object) -> None:
        await self._channel.close()

    async def schema(self, schema_id: str) -> Schema:
        """Asked for once. Raises ContractError for one that is none, UnavailableError."""
        known = self._schemas.get(schema_id)
        if known is None:
            try:
                info = await self._get_schema(messages.SchemaRequest(schema_id=schema_id), metadata=self._metadata, timeout=CALL_TIMEOUT_S)
            except grpc.RpcError as error:
                raise failure(error) from None
            known = self._schemas[schema_id] = parse_schema(info.schema_json)
        return known

    async def listen(self, replay: Mapping[str, bytes | None], *, preset: int = EARLIEST) -> AsyncGenerator[Response, None]:
        """What comes on all topics, each one from behind its replay id; from the oldest event if that is empty; by the preset if there is none.
        More is asked for once what came was dealt with.

        Raises UnavailableError when a subscription ends, Refused if that is for its token.
        """
        calls: dict[str, Any] = {}
        reads: dict[asyncio.Task[Any], str] = {}
        try:
            for topic, replay_id in replay.items():
                calls[topic] = self._subscribe(metadata=self._metadata)
                how = {"replay_preset": CUSTOM, "replay_id": replay_id} if replay_id else {"replay_preset": preset if replay_id is None else EARLIEST}
                await self._ask(calls[topic], topic, **how)
                reads[_reading(calls[topic])] = topic
            while reads:
                done, _ = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    topic = reads.pop(task)
                    response, pending = _response(topic, task)
                    yield response
                    if response.is_expired:
                        continue
                    if pending <= EVENTS_REQUESTED // 2:
                        await self._ask(calls[topic], topic)
                    reads[_reading(calls[topic])] = topic
        finally:
            for task in reads:
                task.cancel()
            for call in calls.values():
                call.cancel()
            await asyncio.gather(*reads, return_exceptions=True)

    async def _ask(self, call: Any, topic: str, **how: Any) -> None:
        try:
            await call.write(messages.FetchRequest(topic_name=topic, num_requested=EVENTS_REQUESTED, **how))
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # The subscription has ended: reading it tells why.


def _reading(call: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(asyncio.wait_for(call.read(), SILENCE_S))


def _response(topic: str, task: "asyncio.Task[Any]") -> tuple[Response, int]:
    """(what came, how many events are still to come)."""
    try:
        got = task.result()
    except grpc.RpcError as error:
        if REPLAY_ERROR in _told(error):
            return Response(topic=topic, is_expired=True), 0
        raise failure(error, topic) from None
    except TimeoutError:
        raise UnavailableError(f"{topic}: nothing has come for {SILENCE_S:.0f} s") from None
    if got is grpc.aio.EOF:
        raise UnavailableError(f"{topic}: the subscription has ended")
    events = tuple(
        Event(event_id=one.event.id, replay_id=one.replay_id, payload=one.event.payload, schema_id=one.event.schema_id) for one in got.events
    )
    replay_id = events[-1].replay_id if events else got.latest_replay_id
    return Response(topic=topic, events=events, replay_id=replay_id), got.pending_num_requested


def failure(error: Any, topic: str = "") -> UnavailableError:
    """What a call's error means. The API's own words are shown up to their first 200 characters."""
    code = error.code()
    kind = Refused if code is grpc.StatusCode.UNAUTHENTICATED else UnavailableError
    return kind(f"{topic + ': ' if topic else ''}{code.name}: {error.details() or ''}"[:200])


def _told(error: Any) -> str:
    """All that an error says."""
    trailing = error.trailing_metadata() or ()
    return " ".join([str(error.details()), *(str(value) for _, value in trailing)])


def parse_schema(schema_json: str) -> Schema:
    """Raises ContractError for a schema that is none."""
    named: dict[str, Any] = {}
    try:
        parsed = fastavro.parse_schema(orjson.loads(schema_json), named_schemas=named)
    except Exception as error:  # The library has many.
        raise ContractError("SCHEMA_INVALID", f"the event's schema is none: {type(error).__name__}") from None
    if bitmaps.record_type(parsed, named) is None:
        raise ContractError("SCHEMA_INVALID", "the event's schema is no record")
    return Schema(parsed=parsed, named=named)


def json_form(payload: bytes, schema: Schema) -> dict[str, Any]:
    """The event as it is in JSON: only what has changed, names in place of bitmaps, times as texts. Raises ContractError."""
    try:
        stream = BytesIO(payload)
        record: Any = fastavro.schemaless_reader(stream, schema.parsed, None)
    except Exception as error:  # Bytes can be wrong in as many ways as there are.
        raise ContractError("AVRO_INVALID", f"the event is not what its schema promises: {type(error).__name__}") from None
    if stream.read(1):
        raise ContractError("AVRO_INVALID", "the event is longer than its schema promises")
    said = _said(record, schema.parsed, schema)
    header = said.get(HEADER)
    if isinstance(header, dict):
        header |= {name: bitmaps.names(header.get(name) or (), schema.parsed, schema.named) for name in BITMAP_FIELDS}
    return said


def _said(record: Mapping[str, Any], avro: Any, schema: Schema) -> dict[str, Any]:
    """Without what is null: that has not changed, unless the header names it. Times and days as texts; a schema's `doc` says that a number is
    one: "CreatedDate:DateTime"."""
    found: dict[str, Any] = {}
    for field in avro["fields"]:
        name, value = field["name"], record.get(field["name"])
        if value is None:
            continue
        inner = bitmaps.record_type(field["type"], schema.named) if isinstance(value, dict) else None
        if inner is not None:
            found[name] = _said(value, inner, schema)
        elif isinstance(value, datetime):
            found[name] = value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        elif isinstance(value, date):
            found[name] = value.isoformat()
        elif type(value) is int and "Date" in str(field.get("doc", "")):
            found[name] = _time(value, str(field["doc"]))
        else:
            found[name] = value
    return found


def _time(at_ms: int, doc: str) -> str | int:
    kinds = doc.split(":")
    try:
        if "DateTime" in kinds:
            return format_time(at_ms)
        return format_time(at_ms)[:10] if "DateOnly" in kinds or "Date" in kinds else at_ms
    except OverflowError as error:
        raise ContractError("TIME_INVALID", "a time of the event is beyond the calendar") from error
