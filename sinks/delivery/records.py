"""One record of the log on its way out, in the form that every part of the delivery works with."""

from schemas.records import DeliveryNotice, LoyaltyEvent

Payload = LoyaltyEvent | DeliveryNotice


class Outgoing:
    """A decoded record of the events or the notices, at its place. Shared by all destinations that hear of it."""

    __slots__ = ("bodies", "key", "offset", "record", "timestamp_ms")

    def __init__(self, *, offset: int, key: bytes, record: Payload, timestamp_ms: int) -> None:
        self.offset = offset
        self.key = key
        self.record = record
        self.timestamp_ms = timestamp_ms
        """When it was appended to the log."""
        self.bodies: dict[str, bytes] = {}
        """Payload version -> the body, rendered once for all destinations."""

    @property
    def event_id(self) -> str:
        """The webhook-id."""
        return self.record.event_id if isinstance(self.record, LoyaltyEvent) else self.record.notice_id

    @property
    def program_id(self) -> str:
        return self.record.program_id or ""

    @property
    def member_id(self) -> str:
        return self.record.member_id or ""

    @property
    def correlation_id(self) -> str:
        return (self.record.correlation_id or "") if isinstance(self.record, LoyaltyEvent) else ""

    @property
    def lane(self) -> str:
        """What it must keep its place behind: the key, which is the member, or of a notice the destination that it is about."""
        return self.key.decode(errors="backslashreplace")


class Undecodable:
    """A record of the log that is not what the contract promises. It goes to the dead letters of the system, whole."""

    __slots__ = ("detail", "headers", "key", "offset", "reason", "timestamp_ms", "value")

    def __init__(self, *, offset: int, key: bytes, value: bytes, headers: dict[str, bytes], timestamp_ms: int, reason: str, detail: str) -> None:
        self.offset = offset
        self.key = key
        self.value = value
        self.headers = headers
        self.timestamp_ms = timestamp_ms
        self.reason = reason
        self.detail = detail
