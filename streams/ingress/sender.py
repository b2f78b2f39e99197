"""What outside systems say -> Kafka, awaited: commands into the topics of their streams or to where they wait, hints into webhook-inbox, what cannot
be understood into dead-letters. Shared by the ingress and by the process of polls and streams.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from schemas.contract import Command, Problem, command_id, member_key
from schemas.records import DeadLetter, DeadLetterStage, ProfileChange, ReceivedWebhook
from streams import kafka, metrics, topics
from streams.codec import open_codec
from streams.configuration import Configuration
from streams.connectors.contract import Found, Hint, Parked, Source
from streams.errors import UnavailableError
from streams.ingress import commands
from streams.ingress.commands import TOPIC_OF, InvalidError, format_time, id_field
from streams.ingress.publisher import Acknowledgement, Publisher
from streams.ingress.staging import Staging
from streams.settings import Settings
from streams.sync import names
from streams.sync.control import SyncControlLog
from streams.sync.flush import SCHEDULE
from streams.topics import Topic

log = logging.getLogger(__name__)

ASK_AGAIN_S = 0.5
HINT_ID_CHARACTERS_MAX = 128
DETAIL_CHARACTERS_MAX = 500
VALUE_BYTES_MAX = 512 * 1024
"""Of what cannot be understood, so much is kept: the rest would not fit into a message."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A command on its way: what every answer says of it, and the acknowledgement to come."""

    about: dict[str, Any]
    acknowledgement: "asyncio.Future[Acknowledgement]"
    waits: bool = False
    """Its stream has a schedule: it is decided when its instant has come."""


class Sender:
    """Opened inside the running loop."""

    def __init__(
        self, settings: Settings, configuration: Configuration, clock: Callable[[], float], acknowledgement_timeout_s: float
    ) -> None:
        self.settings = settings
        self.configuration = configuration
        self.clock = clock
        self.codec = open_codec(settings)
        self.publisher = Publisher(settings, timeout_s=acknowledgement_timeout_s)
        self.sync = SyncControlLog(settings, self.codec, configuration)
        self.staging = Staging(settings, self.sync)

    async def connect(self) -> None:
        """Return once the topics exist and schedules are followed. Raises ConfigurationError."""
        await kafka.wait_for_topics(self.settings, asyncio.Event())
        while True:
            try:
                await asyncio.to_thread(self.staging.read_ends)
                break
            except UnavailableError:
                await asyncio.sleep(ASK_AGAIN_S)
        self.sync.start()
        await self.sync.ready()

    def send(self, command: Command, correlation_id: str, *, at_once: bool = False) -> Sent:
        """Encode a command and hand it to the producer: to its stream's topic, or to where it waits for the stream's schedule.

        `at_once`: it does not wait, whatever the schedule. Raises ContractError for values that no record can hold.
        """
        topic = TOPIC_OF[type(command)]
        headers = {"correlation_id": correlation_id.encode()}
        about = {"stream": topic.stream, id_field(topic): command_id(command), "correlation_id": correlation_id}
        key = member_key(command.program_id, command.member_id)
        schedule = "" if at_once else self._schedule_of(topic.stream, command, key)
        if schedule:
            topic = names.STAGING[topic.stream]
            headers[SCHEDULE] = schedule.encode()
            about["decided_after"] = format_time(self.sync.cadence(schedule).next_ms(int(self.clock() * 1000)))
        acknowledgement = self.publisher.send(topic.name(self.settings.topic_prefix), key, self.codec.encode(command), headers)
        if schedule:
            arrived = self.staging.sent(schedule, key)
            acknowledgement.add_done_callback(lambda done: arrived(None if done.cancelled() or done.exception() else done.result()))
        return Sent(about, acknowledgement, waits=bool(schedule))

    def _schedule_of(self, stream: str, command: Command, key: bytes) -> str:
        """Whose schedule the command waits for; empty: it does not."""
        if stream not in names.INBOUND or (isinstance(command, ProfileChange) and command.status is not None):
            return ""
        return self.staging.schedule_of(stream, command.source_system, key)

    async def acknowledged(self, sent: Sent, source: str) -> dict[str, Any]:
        """What to say of a command that the broker has. Raises UnavailableError or ContractError, as the publisher does."""
        at = await sent.acknowledgement
        metrics.INGRESS_PRODUCED.labels(sent.about["stream"], source).inc()
        return sent.about | {"topic": at.topic, "partition": at.partition, "offset": at.offset}

    async def take(self, source: Source, found: Found, correlation_id: str, *, body: bytes = b"", received_at_ms: int) -> list[dict[str, Any]]:
        """Send all of it, then await all acknowledgements; what to say of each command and hint, in order.

        Only commands that keep the contract leave here, and only for the source's own programme: raises ContractError before anything is sent.
        Raises UnavailableError and ContractError as the publisher does. `body` is kept with the hints.
        """
        check(source, found)
        sent = [self.send(command, correlation_id) for command in found.commands]
        waiting = [self.acknowledged(one, source.name) for one in sent]
        waiting += [self._keep(source, hint, body, received_at_ms, correlation_id) for hint in found.hints]
        told = list(await asyncio.gather(*waiting, *(self._park(source, one, correlation_id) for one in found.parked)))
        if found.alert:
            alert(source, found.alert)
        return told[: len(waiting)]

    async def _keep(self, source: Source, hint: Hint, body: bytes, received_at_ms: int, correlation_id: str) -> dict[str, Any]:
        record = ReceivedWebhook(
            source=source.name, delivery_id=hint.delivery_id, entity_id=hint.entity_id, kind=hint.kind, body=body, received_at_ms=received_at_ms,
            correlation_id=correlation_id,
        )  # fmt: skip
        key = f"{source.name}/{hint.entity_id}".encode()
        at = await self._published(topics.WEBHOOK_INBOX, key, record, correlation_id)
        metrics.INGRESS_PRODUCED.labels(topics.WEBHOOK_INBOX.stream, source.name).inc()
        about = {"stream": topics.WEBHOOK_INBOX.stream, "entity_id": hint.entity_id}
        return about | {"topic": at.topic, "partition": at.partition, "offset": at.offset}

    async def _park(self, source: Source, parked: Parked, correlation_id: str) -> dict[str, Any]:
        """What never was a record of Kafka has no place there: its topic is empty, its id made of what it says."""
        digest = hashlib.sha256(parked.reason.encode() + b"\0" + parked.value).hexdigest()[:32]
        processor = f"source-{source.name}"
        now_ms = time.time_ns() // 1_000_000
        letter = DeadLetter(
            dead_letter_id=f"{processor}-{digest}", stage=DeadLetterStage.CONTRACT, reason=parked.reason, detail=parked.detail[:DETAIL_CHARACTERS_MAX],
            processor=processor, topic="", partition=0, offset=0, key=f"{source.name}/{parked.entity_id}".encode(), value=parked.value[:VALUE_BYTES_MAX],
            ingested_at_ms=now_ms, failed_at_ms=now_ms,
        )  # fmt: skip
        await self._published(topics.DEAD_LETTERS, letter.key or b"", letter, correlation_id)
        metrics.DEAD_LETTERS.labels(processor, letter.stage.value, letter.reason).inc()
        metrics.SOURCE_PARKED.labels(source.name).inc()
        log.error("source.parked", extra={
            "source": source.name, "dead_letter_id": letter.dead_letter_id, "reason": letter.reason, "detail": letter.detail,
            "entity_id": parked.entity_id, "correlation_id": correlation_id,
        })  # fmt: skip
        return {}

    async def _published(self, topic: Topic, key: bytes, record: Any, correlation_id: str) -> Acknowledgement:
        headers = {"correlation_id": correlation_id.encode()}
        return await self.publisher.send(topic.name(self.settings.topic_prefix), key, self.codec.encode(record), headers)

    async def close(self) -> None:
        await self.sync.close()
        await self.publisher.close()


def check(source: Source, found: Found) -> None:
    """Whatever a translator does: raises ContractError for what must not leave here."""
    for command in found.commands:
        commands.check(command)
        if command.program_id != source.program_id:
            raise InvalidError(Problem("PROGRAM_NOT_ALLOWED", "program_id", f"must be {source.program_id}, or left out"))
    for hint in found.hints:
        for name, value in (("entity", hint.entity_id), ("id", hint.delivery_id)):
            if not (1 <= len(value) <= HINT_ID_CHARACTERS_MAX and value.isprintable()):
                raise InvalidError(Problem("ID_INVALID", name, f"must have 1 to {HINT_ID_CHARACTERS_MAX} printable characters"))


def alert(source: Source, text: str) -> None:
    """Tell an operator. `text`: a stable code, a colon, a sentence."""
    reason, _, sentence = text.partition(":")
    metrics.SOURCE_ALERTS.labels(source.name, reason).inc()
    log.error("source.alert", extra={"source": source.name, "reason": reason, "detail": sentence.strip()})
