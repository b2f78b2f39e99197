"""Salesforce -> commands: change events and platform events from the Pub/Sub API, or as JSON from a relay.

The cursor holds each topic's replay id, the greatest commit number so far, and its time:

    {"replay": {"/data/ContactChangeEvent": "AAAA..."}, "commit": 10716283339728, "at_ms": 1760000000000}

An id that the event bus does not know any more is given up for the oldest event that there is, and all records that were modified since are read.
"""

import base64
import binascii
import hashlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from schemas.contract import Command
from streams.connectors import values
from streams.connectors.contract import Cursor, Delivery, Found, Hint, Parked, Source, Tokens, Translation
from streams.connectors.salesforce import api, changes, events, members
from streams.errors import ConfigurationError, ContractError, UnavailableError

if TYPE_CHECKING:
    from streams.connectors.salesforce.pubsub import Client, Response

MESSAGES_MAX = 1000
"""In one delivery of a relay."""


# What a relay sends.


def translate(delivery: Delivery, source: Source) -> Translation:
    """One event, or a list of them: `{"schema", "payload", "event"}`, or that as `data` beside its `channel`. Raises ContractError."""
    content = values.load(delivery.body)
    given = content if isinstance(content, list) else [content]
    if len(given) > MESSAGES_MAX:
        raise ContractError("TOO_MANY", f"a delivery has {MESSAGES_MAX} events at most")
    found: list[Command] = []
    hints: list[Hint] = []
    ignored: dict[str, None] = {}
    for number, message in enumerate(given):
        meant = _relayed(message, f"{hashlib.sha256(delivery.body).hexdigest()[:32]}.{number}", delivery, source)
        found += meant.commands
        hints += meant.hints
        ignored[meant.ignored] = None
    if found or hints:
        return Translation(commands=tuple(found), hints=tuple(hints))
    return Translation(ignored=", ".join(filter(None, ignored))[:200] or "no events")


def _relayed(message: Any, name: str, delivery: Delivery, source: Source) -> Translation:
    data = values.at(message, "data") or message
    payload = values.at(data, "payload")
    if not isinstance(payload, dict):
        raise ContractError("TYPE_INVALID", "an event must have a payload, an object")
    topic = values.text(message, "channel") or delivery.query.get("topic", "")
    event_id = values.text(data, "event.EventUuid") or values.text(data, "event.replayId") or name
    return meaning(topic, payload, event_id, source, delivery.received_at_ms)


def meaning(topic: str, payload: Mapping[str, Any], event_id: str, source: Source, received_at_ms: int) -> Translation:
    """What one event of either sort means. Raises ContractError."""
    if changes.HEADER in payload:
        return changes.meaning(changes.change_of(payload), source)
    found = events.commands_of(topic, payload, event_id, source, received_at_ms)
    return Translation(commands=found, ignored="" if found else "of no member, or of a topic that no option names")


# What the Pub/Sub API sends.


def topics_of(source: Source) -> list[str]:
    """All that are listened to."""
    options = source.options
    return list(dict.fromkeys((*options["change_topics"], *options["transaction_topics"], *options["profile_topics"])))


class Progress:
    """The cursor, while it moves on."""

    def __init__(self, cursor: Cursor) -> None:
        self.replay = {str(topic): _decoded(text) for topic, text in (cursor.get("replay") or {}).items()}
        """Empty: from the oldest event that there is."""
        self.commit: int = cursor.get("commit") or 0
        self.at_ms: int = cursor.get("at_ms") or 0

    def see(self, change: changes.Change) -> None:
        self.commit, self.at_ms = max(self.commit, change.commit_number), max(self.at_ms, change.committed_at_ms)

    def resync_since_ms(self, topic: str, source: Source) -> int | None:
        """What the first that comes on the topic makes necessary: all records that were modified since are read; 0: whenever. None: nothing.

        Before that, nobody would notice if events ran out of the bus while it is out of reach.
        """
        place = self.replay.get(topic)
        if place or topic not in source.options["change_topics"]:
            return None
        if place is None:
            return 0 if source.options["resync_at_start"] else None
        return max(0, self.at_ms - changes.REACH_BACK_MS)

    def resync(self, since_ms: int, source: Source) -> Hint:
        """Newer than all changes so far, older than the next one."""
        self.commit += 1
        return changes.everything(source, since_ms, members.version(self.commit, sequence=0))

    def cursor(self) -> Cursor:
        replay = {topic: base64.b64encode(one).decode() for topic, one in self.replay.items()}
        return {"replay": replay, "commit": self.commit, "at_ms": self.at_ms}


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except binascii.Error:
        return b""


async def listen(source: Source, cursor: Cursor, tokens: Tokens) -> AsyncIterator[Found]:
    """All topics on one connection. Raises UnavailableError when it ends, ConfigurationError where events would be passed over."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # Else lines of another form get between those of the log.
    from streams.connectors.salesforce import pubsub  # What it needs takes time to load, and few processes use it.

    options, progress = source.options, Progress(cursor)
    problem = events.unmapped(options)
    if problem:
        raise ConfigurationError(problem)
    preset = pubsub.LATEST if options["first_read"] == "latest" else pubsub.EARLIEST
    token = await tokens.get()
    instance_url, tenant_id = token.base_url or options["base_url"], options["tenant_id"] or api.tenant_id(token)
    try:
        async with pubsub.Client(options["pubsub_url"], access_token=token.value, instance_url=instance_url, tenant_id=tenant_id) as client:
            while True:
                places = {topic: progress.replay.get(topic) for topic in topics_of(source)}
                async with aclosing(client.listen(places, preset=preset)) as responses:
                    async for response in responses:
                        yield _expired(response.topic, progress, source) if response.is_expired else await _found(response, client, progress, source)
                        if response.is_expired:
                            break
    except pubsub.Refused:
        tokens.refuse(token)
        raise


def _expired(topic: str, progress: Progress, source: Source) -> Found:
    """Raises UnavailableError if even the oldest event is refused."""
    if progress.replay.get(topic) == b"":
        raise UnavailableError(f"{topic}: Salesforce refuses the replay id, and the oldest event, too")
    progress.replay[topic] = b""
    is_of_records = topic in source.options["change_topics"]
    rest = "all records that were modified since are read" if is_of_records else "platform events before it are lost"
    return Found(alert=f"REPLAY_EXPIRED: {topic} begins again at the oldest event that there is; {rest}", cursor=progress.cursor())


async def _found(response: "Response", client: "Client", progress: Progress, source: Source) -> Found:
    """What the events mean, in order. What cannot be understood is parked. Raises UnavailableError when a schema cannot be had."""
    from streams.connectors.salesforce import pubsub

    found: list[Command] = []
    hints: list[Hint] = []
    parked: list[Parked] = []
    newest_ms = 0
    resync_since_ms = progress.resync_since_ms(response.topic, source)
    for event in response.events:
        try:
            payload = pubsub.json_form(event.payload, await client.schema(event.schema_id))
            if changes.HEADER in payload:
                change = changes.change_of(payload)
                newest_ms = max(newest_ms, change.committed_at_ms)
                progress.see(change)
                meant = changes.meaning(change, source)
            else:
                created_at_ms = values.time_ms(payload, "CreatedDate") or 0
                newest_ms = max(newest_ms, created_at_ms)
                meant = meaning(response.topic, payload, event.event_id or event.replay_id.hex(), source, created_at_ms or now_ms())
        except ContractError as error:
            parked.append(Parked(value=event.payload, reason=error.reason, detail=f"{response.topic}: {error.detail}", entity_id=event.event_id))
            continue
        found += meant.commands
        hints += meant.hints
    if response.replay_id:
        progress.replay[response.topic] = response.replay_id
        if resync_since_ms is not None:
            hints.append(progress.resync(resync_since_ms, source))
    return Found(commands=tuple(found), hints=tuple(hints), parked=tuple(parked), cursor=progress.cursor(), source_time_ms=newest_ms or None)


def now_ms() -> int:
    return time.time_ns() // 1_000_000
