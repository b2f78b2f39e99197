"""An event bus like Salesforce's Pub/Sub API, as a real gRPC server: topics, schemas, replay, retention, keep-alives, flow control, errors on demand.

    bus = PubSubFake()
    await bus.start()
    bus.publish("/data/ContactChangeEvent", CONTACT_CHANGE_EVENT, change_event(...))
    bus.expire("/data/ContactChangeEvent")
"""

import asyncio
import random
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import fastavro
import grpc
import orjson

from streams.connectors.salesforce.pubsub import CUSTOM, EARLIEST, PACKAGE, REPLAY_ERROR, SERVICE, messages

REPLAY_STEP = 3  # Replay ids are not dense.
_HEADER = {
    "type": "record", "name": "ChangeEventHeader", "fields": [
        {"name": "entityName", "type": "string"},
        {"name": "recordIds", "type": {"type": "array", "items": "string"}},
        {"name": "changeType", "type": {"type": "enum", "name": "ChangeType", "symbols": [
            "CREATE", "UPDATE", "DELETE", "UNDELETE", "GAP_CREATE", "GAP_UPDATE", "GAP_DELETE", "GAP_UNDELETE", "GAP_OVERFLOW", "SNAPSHOT",
        ]}},
        {"name": "changeOrigin", "type": "string"},
        {"name": "transactionKey", "type": "string"},
        {"name": "sequenceNumber", "type": "int"},
        {"name": "commitTimestamp", "type": "long"},
        {"name": "commitNumber", "type": "long"},
        {"name": "commitUser", "type": "string"},
        {"name": "nulledFields", "type": {"type": "array", "items": "string"}},
        {"name": "diffFields", "type": {"type": "array", "items": "string"}},
        {"name": "changedFields", "type": {"type": "array", "items": "string"}},
    ],
}  # fmt: skip


def _text(name: str, kind: str = "Text") -> dict[str, Any]:
    return {"name": name, "type": ["null", "string"], "doc": f"Data:{kind}", "default": None}


def _compound(name: str, record: str, *fields: str) -> dict[str, Any]:
    return {"name": name, "type": ["null", {"type": "record", "name": record, "fields": [_text(one) for one in fields]}], "default": None}


CONTACT_CHANGE_EVENT: Mapping[str, Any] = {
    "type": "record", "name": "ContactChangeEvent", "namespace": "com.sforce.eventbus", "fields": [
        {"name": "ChangeEventHeader", "type": _HEADER},
        _compound("Name", "Switchable_PersonName", "Salutation", "FirstName", "LastName"),
        _text("Phone", "Phone"),
        _text("Email", "Email"),
        _compound("MailingAddress", "Address", "Street", "City", "Country"),
        {"name": "Birthdate", "type": ["null", "long"], "doc": "Data:DateOnly", "default": None},
        {"name": "HasOptedOutOfEmail", "type": ["null", "boolean"], "doc": "Data:Boolean", "default": None},
        {"name": "CreatedDate", "type": ["null", "long"], "doc": "CreatedDate:DateTime", "default": None},
        {"name": "LastModifiedDate", "type": ["null", "long"], "doc": "LastModifiedDate:DateTime", "default": None},
        _text("Loyalty_Id__c"),
        _text("Loyalty_Status__c", "Picklist"),
        _text("Loyalty_Segments__c", "MultiPicklist"),
        _text("Employee_Number__c"),
        {"name": "Loyalty_Points__c", "type": ["null", "double"], "doc": "Data:Double", "default": None},
        _text("Loyalty_Tier__c"),
        {"name": "Loyalty_Seq__c", "type": ["null", "double"], "doc": "Data:Double", "default": None},
    ],
}  # fmt: skip
LOYALTY_PURCHASE: Mapping[str, Any] = {
    "type": "record", "name": "Loyalty_Purchase__e", "namespace": "com.sforce.eventbus", "fields": [
        {"name": "CreatedDate", "type": "long", "doc": "CreatedDate:DateTime"},
        {"name": "CreatedById", "type": "string", "doc": "CreatedBy:EntityId"},
        _text("Order_Number__c"), _text("Member__c"), _text("Currency__c"), _text("Category__c"),
        {"name": "Amount__c", "type": ["null", "double"], "doc": "Data:Double", "default": None},
        {"name": "Nights__c", "type": ["null", "double"], "doc": "Data:Double", "default": None},
    ],
}  # fmt: skip


def encode(schema: Mapping[str, Any], record: Mapping[str, Any]) -> bytes:
    stream = BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(dict(schema)), record)
    return stream.getvalue()


def change_event(
    schema: Mapping[str, Any], header: Mapping[str, Any], changed: Mapping[str, Any], enrichment: Mapping[str, Any] = {}
) -> dict[str, Any]:
    """A record of the schema from a header and fields by name (FirstName or Name.FirstName); None: the field was nulled. Bitmaps are made.
    `enrichment`: top-level fields that are said though they have not changed."""
    record: dict[str, Any] = {field["name"]: None for field in schema["fields"]} | dict(enrichment)
    marks: dict[str, Counter[int | None]] = {"nulledFields": Counter(), "changedFields": Counter()}
    for name, value in changed.items():
        place, parent, inner = _place(schema, name)
        if parent is None:
            record[name] = value
        else:
            fields = next(one for one in schema["fields"][parent]["type"] if one != "null")["fields"]
            compound = record[schema["fields"][parent]["name"]] or {field["name"]: None for field in fields}
            record[schema["fields"][parent]["name"]] = compound | {inner: value}
        marks["changedFields"][parent] |= 1 << place
        if value is None:
            marks["nulledFields"][parent] |= 1 << place
    bitmaps = {name: [_bitmap(parent, bits) for parent, bits in sorted(found.items(), key=str, reverse=True)] for name, found in marks.items()}
    is_update = header["changeType"] == "UPDATE"
    record["ChangeEventHeader"] = {"commitUser": "0055f000005mc66AAA", "diffFields": [], "nulledFields": [], "changedFields": []} | dict(header) | (
        bitmaps if is_update else {}
    )
    return record


def _place(schema: Mapping[str, Any], name: str) -> tuple[int, int | None, str]:
    """(place among its siblings, place of the compound field or None, name within it)."""
    for place, field in enumerate(schema["fields"]):
        if field["name"] == name:
            return place, None, name
        compound = field["type"][1] if isinstance(field["type"], list) and isinstance(field["type"][1], dict) else {"fields": []}
        prefix = field["name"].removesuffix("Address") if field["name"].endswith("Address") else ""
        for inner, one in enumerate(compound["fields"]):
            if name in (f"{field['name']}.{one['name']}", prefix + one["name"]):
                return inner, place, one["name"]
    raise KeyError(name)


def _bitmap(parent: int | None, bits: int) -> str:
    return f"0x{bits:02X}" if parent is None else f"{parent}-0x{bits:02X}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How one subscription goes wrong, before its next response."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    detail: str = "asked for"
    error_code: str = ""
    """Of the trailing metadata."""
    ends: bool = False
    """Without an error: the stream just ends."""


FAILURES = (Failure(), Failure(ends=True), Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED), Failure(code=grpc.StatusCode.INTERNAL))


class PubSubFake:
    """One organization's bus. `fetches` are all FetchRequests as they came."""

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, keep_alive_s: float = 270.0, is_good: Callable[[str], bool] = lambda token: True,
    ) -> None:  # fmt: skip
        self.host, self.port = host, port
        self.keep_alive_s = keep_alive_s
        self.is_good = is_good
        self.schemas: dict[str, str] = {}
        self.events: defaultdict[str, list[tuple[int, Any]]] = defaultdict(list)
        """Topic -> (replay id, ProducerEvent)."""
        self.last: Counter[str] = Counter()
        """Topic -> newest replay id."""
        self.oldest: Counter[str] = Counter()
        """Topic -> ids below this one are not known any more."""
        self.topics: set[str] = set()
        self.failures: deque[Failure] = deque()
        """Used up one by one, by the next responses."""
        self.fails: Callable[[], Failure | None] = lambda: None
        """Asked when there are none."""
        self.fetches: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.requests: Counter[str] = Counter()
        self.outstanding_max = 0
        """Most events that were asked for and not yet sent, on any subscription."""
        self._changed = asyncio.Condition()
        self._server: Any = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def start(self) -> None:
        self._server = grpc.aio.server()
        handlers = {
            "Subscribe": grpc.stream_stream_rpc_method_handler(
                self._subscribe, request_deserializer=messages.FetchRequest.FromString, response_serializer=messages.FetchResponse.SerializeToString
            ),
            "GetSchema": grpc.unary_unary_rpc_method_handler(
                self._get_schema, request_deserializer=messages.SchemaRequest.FromString, response_serializer=messages.SchemaInfo.SerializeToString
            ),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"{PACKAGE}.{SERVICE}", handlers),))
        self.port = self._server.add_insecure_port(f"{self.host}:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=0)

    # The organization's side.

    def add_topic(self, topic: str) -> None:
        self.topics.add(topic)

    async def publish(self, topic: str, schema: Mapping[str, Any], record: Mapping[str, Any]) -> bytes:
        """Returns the replay id."""
        return await self.publish_bytes(topic, self.add_schema(schema), encode(schema, record))

    def add_schema(self, schema: Mapping[str, Any]) -> str:
        text = orjson.dumps(schema).decode()
        schema_id = uuid.uuid5(uuid.NAMESPACE_OID, text).hex[:22]
        self.schemas[schema_id] = text
        return schema_id

    async def publish_bytes(self, topic: str, schema_id: str, payload: bytes) -> bytes:
        self.topics.add(topic)
        self.last[topic] += REPLAY_STEP
        event = messages.ProducerEvent(id=str(uuid.uuid4()), schema_id=schema_id, payload=payload)
        async with self._changed:
            self.events[topic].append((self.last[topic], event))
            self._changed.notify_all()
        return _replay_id(self.last[topic])

    def expire(self, topic: str, keep: int = 0) -> None:
        """The retention ends for all but the last `keep` events."""
        kept = self.events[topic][len(self.events[topic]) - keep :]
        self.events[topic] = kept
        self.oldest[topic] = kept[0][0] if kept else self.last[topic] + 1

    async def fail(self, *failures: Failure) -> None:
        """Open subscriptions hear of it at once."""
        async with self._changed:
            self.failures.extend(failures)
            self._changed.notify_all()

    def fail_at_random(self, seed: object, share: float) -> None:
        """From now on this share of all responses is a failure in their place, the same for the same seed."""
        chance = random.Random(str(seed))
        self.fails = lambda: chance.choice(FAILURES) if chance.random() < share else None

    # The bus.

    async def _check(self, context: Any) -> None:
        metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
        self.metadata.append(metadata)
        if not self.is_good(metadata.get("accesstoken", "")):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "sfdc.platform.eventbus.grpc.service.auth.error")

    async def _get_schema(self, request: Any, context: Any) -> Any:
        self.requests["schema"] += 1
        await self._check(context)
        if request.schema_id not in self.schemas:
            await context.abort(grpc.StatusCode.NOT_FOUND, "sfdc.platform.eventbus.grpc.schema.not.found")
        return messages.SchemaInfo(schema_id=request.schema_id, schema_json=self.schemas[request.schema_id])

    async def _subscribe(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        self.requests["subscribe"] += 1
        await self._check(context)
        first = await anext(aiter(requests))
        self.fetches.append(first)
        topic = first.topic_name
        if topic not in self.topics:
            await context.abort(grpc.StatusCode.NOT_FOUND, "sfdc.platform.eventbus.grpc.topic.not.found")
        place = await self._begin(first, topic, context)
        credit = _Credit(first.num_requested)
        reader = asyncio.create_task(self._read_on(requests, credit))
        try:
            while True:
                batch = await self._next(topic, place, credit)
                wrong = self.failures.popleft() if self.failures else self.fails()
                if wrong is not None:
                    if wrong.ends:
                        return
                    if wrong.error_code:
                        context.set_trailing_metadata((("error-code", wrong.error_code),))
                    await context.abort(wrong.code, wrong.detail)
                latest = self.last[topic] if credit.left else place  # What was not asked for has not been seen.
                place = batch[-1][0] if batch else place
                credit.left -= len(batch)
                events = [messages.ConsumerEvent(event=event, replay_id=_replay_id(number)) for number, event in batch]
                yield messages.FetchResponse(events=events, latest_replay_id=_replay_id(latest), pending_num_requested=credit.left)
        finally:
            reader.cancel()

    async def _begin(self, first: Any, topic: str, context: Any) -> int:
        """The replay id behind which a subscription begins."""
        if first.replay_preset == EARLIEST:
            return 0
        if first.replay_preset != CUSTOM:
            return self.last[topic]
        place = int.from_bytes(first.replay_id) if len(first.replay_id) == 8 else -1
        if not self.oldest[topic] - 1 <= place <= self.last[topic]:
            context.set_trailing_metadata((("error-code", f"{REPLAY_ERROR}.validation.failed"),))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The Replay ID validation failed. Ensure that the Replay ID is valid.")
        return place

    async def _next(self, topic: str, place: int, credit: "_Credit") -> Sequence[tuple[int, Any]]:
        """What comes behind a place, as many as were asked for; none when it is time for a keep-alive, or for a failure."""

        def batch() -> Sequence[tuple[int, Any]]:
            return [one for one in self.events[topic] if one[0] > place][: credit.left]

        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: self.failures or batch()), self.keep_alive_s)
            except TimeoutError:
                return ()
            return batch()

    async def _read_on(self, requests: AsyncIterator[Any], credit: "_Credit") -> None:
        async for request in requests:
            self.fetches.append(request)
            async with self._changed:
                credit.left += request.num_requested
                self.outstanding_max = max(self.outstanding_max, credit.left)
                self._changed.notify_all()


@dataclass(slots=True)
class _Credit:
    left: int


def _replay_id(number: int) -> bytes:
    return number.to_bytes(8)
