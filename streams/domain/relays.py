"""What is passed from one member's partition to another's: how a relay is made."""

from schemas.records import Origin, Relay
from streams.domain.book import Cause


def origin_of(cause: Cause, *, topic: str = "", partition: int = 0, offset: int = 0, value: bytes | None = None) -> Origin:
    """The inbound record behind a relay. Its place and its bytes are known to the shell alone, which fills them in."""
    return Origin(
        topic=topic,
        partition=partition,
        offset=offset,
        value=value,
        command_id=cause.command_id,
        source_system=cause.source_system,
        reason=cause.reason,
        occurred_at_ms=cause.occurred_at_ms,
        ingested_at_ms=cause.ingested_at_ms,
        correlation_id=cause.correlation_id,
    )


def cause_of(relay: Relay, stream: str, ingested_at_ms: int) -> Cause:
    """The cause of what follows from a relay: the command that it came from."""
    origin = relay.origin
    return Cause(
        command_id=origin.command_id,
        stream=stream,
        source_system=origin.source_system,
        reason=origin.reason,
        occurred_at_ms=origin.occurred_at_ms,
        ingested_at_ms=ingested_at_ms,
        correlation_id=origin.correlation_id,
    )
