"""Generated from avro/*.avsc by `python -m schemas.generate`. Do not edit: change the schema and generate again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar


class MemberStatus(StrEnum):
    """State of a membership. UNKNOWN stands for a symbol that this reader does not know yet."""

    UNKNOWN = "UNKNOWN"
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """State of one member, the value of the accounts table (its changelog topic is compacted, key as everywhere)."""

    SCHEMA: ClassVar[str] = "Account"

    program_id: str
    """Loyalty programme, a slug of a-z, 0-9 and '-'. One deployment serves several."""
    member_id: str
    """Member within the programme, made by the enrolling system; 1 to 128 characters. Key of the record: program_id + '/' + member_id."""
    status: MemberStatus
    """Status of the membership."""
    status_reason: str | None = None
    """Why the status is what it is."""
    tier: str
    """Tier of the member."""
    available_points: int = 0
    """Points that can be spent."""
    qualifying_points: int = 0
    """Points that count for the tier."""
    event_sequence: int = 0
    """Sequence of the member's last loyalty event."""
    entry_sequence: int = 0
    """Sequence of the member's last ledger entry."""
    profile_version: int = 0
    """Version of the member's profile."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Profile attributes."""
    segments: tuple[str, ...] = ()
    """Segment tags."""
    source_versions: Mapping[str, int] = field(default_factory=dict)
    """Newest version applied, by source system."""
    active_offers: tuple[str, ...] = ()
    """Offers the member opted in to."""
    enrolled_at_ms: int
    """When the member joined, in the source system, UTC."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "Account":
        return cls(
            program_id=data["program_id"],
            member_id=data["member_id"],
            status=MemberStatus(data["status"]),
            status_reason=data["status_reason"],
            tier=data["tier"],
            available_points=data["available_points"],
            qualifying_points=data["qualifying_points"],
            event_sequence=data["event_sequence"],
            entry_sequence=data["entry_sequence"],
            profile_version=data["profile_version"],
            attributes=data["attributes"],
            segments=tuple(data["segments"]),
            source_versions=data["source_versions"],
            active_offers=tuple(data["active_offers"]),
            enrolled_at_ms=data["enrolled_at_ms"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "program_id": self.program_id,
            "member_id": self.member_id,
            "status": self.status.value,
            "status_reason": self.status_reason,
            "tier": self.tier,
            "available_points": self.available_points,
            "qualifying_points": self.qualifying_points,
            "event_sequence": self.event_sequence,
            "entry_sequence": self.entry_sequence,
            "profile_version": self.profile_version,
            "attributes": dict(self.attributes),
            "segments": list(self.segments),
            "source_versions": dict(self.source_versions),
            "active_offers": list(self.active_offers),
            "enrolled_at_ms": self.enrolled_at_ms,
        }


class DeadLetterStage(StrEnum):
    """Where it failed. DECODE: the bytes are not a known schema. CONTRACT: a field breaks a rule of the contract. HANDLER: the program
    failed on it. DELIVERY: a destination refused it for good. UNKNOWN stands for a symbol that this reader does not know yet."""

    UNKNOWN = "UNKNOWN"
    DECODE = "DECODE"
    CONTRACT = "CONTRACT"
    HANDLER = "HANDLER"
    DELIVERY = "DELIVERY"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that could not be processed, whole, with the reason. Nothing is lost: mend the cause and send it again."""

    SCHEMA: ClassVar[str] = "DeadLetter"

    dead_letter_id: str
    """processor and topic-partition-offset: the same record gives the same id."""
    stage: DeadLetterStage
    """Where it failed."""
    reason: str
    """Stable code of the reason."""
    detail: str
    """The reason for people. Holds no values of personal attributes."""
    processor: str
    """Process that gave up on it."""
    topic: str
    """Topic of the record."""
    partition: int
    """Partition of the record."""
    offset: int
    """Offset of the record."""
    key: bytes | None = None
    """Key of the record as it was."""
    value: bytes | None = None
    """Value of the record as it was."""
    headers: Mapping[str, bytes] = field(default_factory=dict)
    """Headers of the record as they were."""
    ingested_at_ms: int
    """When the broker appended the inbound record that caused this, UTC."""
    failed_at_ms: int
    """When it failed, UTC."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "DeadLetter":
        return cls(
            dead_letter_id=data["dead_letter_id"],
            stage=DeadLetterStage(data["stage"]),
            reason=data["reason"],
            detail=data["detail"],
            processor=data["processor"],
            topic=data["topic"],
            partition=data["partition"],
            offset=data["offset"],
            key=data["key"],
            value=data["value"],
            headers=data["headers"],
            ingested_at_ms=data["ingested_at_ms"],
            failed_at_ms=data["failed_at_ms"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "dead_letter_id": self.dead_letter_id,
            "stage": self.stage.value,
            "reason": self.reason,
            "detail": self.detail,
            "processor": self.processor,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "key": self.key,
            "value": self.value,
            "headers": dict(self.headers),
            "ingested_at_ms": self.ingested_at_ms,
            "failed_at_ms": self.failed_at_ms,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """A member joins a programme. Nothing but an enrolment makes a member: what arrives earlier for the same member waits for it."""

    SCHEMA: ClassVar[str] = "Enrolment"

    program_id: str
    """Loyalty programme, a slug of a-z, 0-9 and '-'. One deployment serves several."""
    member_id: str
    """Member within the programme, made by the enrolling system; 1 to 128 characters. Key of the record: program_id + '/' + member_id."""
    event_id: str
    """Made and kept by the client before it sends: the same id always means the same event. Unique per member; 1 to 128 characters."""
    source_system: str
    """System in which this happened, for example 'apaleo' or 'salesforce'."""
    occurred_at_ms: int
    """When it happened in the source system, UTC."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Profile attributes by name: given_name, family_name, email, phone, locale, time_zone and the programme's own."""
    segments: tuple[str, ...] = ()
    """Segment tags."""
    source_version: int | None = None
    """Version of the record in the source system (commit number, last-modified in ms, sequence). One that is not greater than what was
    applied before is superseded."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "Enrolment":
        return cls(
            program_id=data["program_id"],
            member_id=data["member_id"],
            event_id=data["event_id"],
            source_system=data["source_system"],
            occurred_at_ms=data["occurred_at_ms"],
            attributes=data["attributes"],
            segments=tuple(data["segments"]),
            source_version=data["source_version"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "program_id": self.program_id,
            "member_id": self.member_id,
            "event_id": self.event_id,
            "source_system": self.source_system,
            "occurred_at_ms": self.occurred_at_ms,
            "attributes": dict(self.attributes),
            "segments": list(self.segments),
            "source_version": self.source_version,
        }


class EntryKind(StrEnum):
    """Why points moved. UNKNOWN stands for a symbol that this reader does not know yet."""

    UNKNOWN = "UNKNOWN"
    EARN = "EARN"
    OFFER_BONUS = "OFFER_BONUS"
    REDEEM = "REDEEM"
    REVERSAL = "REVERSAL"
    ADJUSTMENT = "ADJUSTMENT"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One posting: points_delta to the member's available points and the opposite to counter_account, so that every entry sums to zero."""

    SCHEMA: ClassVar[str] = "LedgerEntry"

    entry_id: str
    """Same for the same entry for ever."""
    program_id: str
    """Loyalty programme, a slug of a-z, 0-9 and '-'. One deployment serves several."""
    member_id: str
    """Member within the programme, made by the enrolling system; 1 to 128 characters. Key of the record: program_id + '/' + member_id."""
    entry_sequence: int
    """Number of this entry within the member's entries, from 1 without gaps."""
    transaction_id: str
    """Transaction that was posted."""
    kind: EntryKind
    """Why points moved."""
    points_delta: int
    """Change of the member's available points, never 0."""
    balance_after: int
    """Available points after this entry."""
    counter_account: str
    """Account on the other side: issued, redeemed or adjusted."""
    rule_id: str
    """Rule that computed the points."""
    reverses_transaction_id: str | None = None
    """REVERSAL: the transaction that was taken back."""
    source_system: str
    """System in which this happened, for example 'apaleo' or 'salesforce'."""
    property_id: str | None = None
    """Hotel, shop or branch."""
    category: str | None = None
    """Category of the sale."""
    reason: str | None = None
    """Reason that the command gave."""
    occurred_at_ms: int
    """When it happened in the source system, UTC."""
    ingested_at_ms: int
    """When the broker appended the inbound record that caused this, UTC."""
    recorded_at_ms: int
    """When the worker decided it, UTC, by the worker's clock."""
    correlation_id: str | None = None
    """Follows one request through all topics: the correlation_id header of the inbound record."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "LedgerEntry":
        return cls(
            entry_id=data["entry_id"],
            program_id=data["program_id"],
            member_id=data["member_id"],
            entry_sequence=data["entry_sequence"],
            transaction_id=data["transaction_id"],
            kind=EntryKind(data["kind"]),
            points_delta=data["points_delta"],
            balance_after=data["balance_after"],
            counter_account=data["counter_account"],
            rule_id=data["rule_id"],
            reverses_transaction_id=data["reverses_transaction_id"],
            source_system=data["source_system"],
            property_id=data["property_id"],
            category=data["category"],
            reason=data["reason"],
            occurred_at_ms=data["occurred_at_ms"],
            ingested_at_ms=data["ingested_at_ms"],
            recorded_at_ms=data["recorded_at_ms"],
            correlation_id=data["correlation_id"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "entry_id": self.entry_id,
            "program_id": self.program_id,
            "member_id": self.member_id,
            "entry_sequence": self.entry_sequence,
            "transaction_id": self.transaction_id,
            "kind": self.kind.value,
            "points_delta": self.points_delta,
            "balance_after": self.balance_after,
            "counter_account": self.counter_account,
            "rule_id": self.rule_id,
            "reverses_transaction_id": self.reverses_transaction_id,
            "source_system": self.source_system,
            "property_id": self.property_id,
            "category": self.category,
            "reason": self.reason,
            "occurred_at_ms": self.occurred_at_ms,
            "ingested_at_ms": self.ingested_at_ms,
            "recorded_at_ms": self.recorded_at_ms,
            "correlation_id": self.correlation_id,
        }


class LoyaltyEventKind(StrEnum):
    """What happened. UNKNOWN stands for a symbol that this reader does not know yet."""

    UNKNOWN = "UNKNOWN"
    MEMBER_ENROLLED = "MEMBER_ENROLLED"
    PROFILE_CHANGED = "PROFILE_CHANGED"
    BALANCE_CHANGED = "BALANCE_CHANGED"
    TIER_CHANGED = "TIER_CHANGED"
    OFFER_ACTIVATED = "OFFER_ACTIVATED"
    VOUCHER_ISSUED = "VOUCHER_ISSUED"
    ACCOUNT_SUSPENDED = "ACCOUNT_SUSPENDED"
    ACCOUNT_REACTIVATED = "ACCOUNT_REACTIVATED"
    COMMAND_REFUSED = "COMMAND_REFUSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSnapshot:
    """The account after the event, in absolute values."""

    SCHEMA: ClassVar[str] = "AccountSnapshot"

    status: MemberStatus
    """Status of the membership."""
    tier: str
    """Tier of the member."""
    available_points: int
    """Points that can be spent."""
    qualifying_points: int
    """Points that count for the tier; spending does not lower them."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "AccountSnapshot":
        return cls(
            status=MemberStatus(data["status"]),
            tier=data["tier"],
            available_points=data["available_points"],
            qualifying_points=data["qualifying_points"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "status": self.status.value,
            "tier": self.tier,
            "available_points": self.available_points,
            "qualifying_points": self.qualifying_points,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """The command behind an event."""

    SCHEMA: ClassVar[str] = "Cause"

    command_id: str
    """transaction_id or event_id of the command."""
    stream: str
    """Inbound stream of the command: enrolments, transactions, profile-changes or offer-activations."""
    source_system: str
    """System that sent the command."""
    reason: str | None = None
    """Reason that the command gave."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "Cause":
        return cls(
            command_id=data["command_id"],
            stream=data["stream"],
            source_system=data["source_system"],
            reason=data["reason"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "command_id": self.command_id,
            "stream": self.stream,
            "source_system": self.source_system,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LoyaltyEvent:
    """Something about an account changed, or was refused. Holds absolute values and a per-member sequence 1, 2, 3 without gaps: a reader
    that keeps the highest sequence per member is right whatever arrives twice or late."""

    SCHEMA: ClassVar[str] = "LoyaltyEvent"

    event_id: str
    """Same for the same event for ever; also the webhook-id."""
    program_id: str
    """Loyalty programme, a slug of a-z, 0-9 and '-'. One deployment serves several."""
    member_id: str
    """Member within the programme, made by the enrolling system; 1 to 128 characters. Key of the record: program_id + '/' + member_id."""
    sequence: int
    """Number of this event within the member's events, from 1."""
    kind: LoyaltyEventKind
    """What happened."""
    account: AccountSnapshot
    """The account after it."""
    cause: Cause
    """The command behind it."""
    points_delta: int = 0
    """BALANCE_CHANGED: change of available_points."""
    shortfall_points: int = 0
    """BALANCE_CHANGED by a REVERSE: points that could not be taken back because they were spent."""
    previous_tier: str | None = None
    """TIER_CHANGED: the tier before."""
    offer_id: str | None = None
    """OFFER_ACTIVATED: the offer."""
    reward_code: str | None = None
    """VOUCHER_ISSUED: the reward."""
    voucher_code: str | None = None
    """VOUCHER_ISSUED: the code, the same however often the event is read."""
    refusal: str | None = None
    """COMMAND_REFUSED: the reason, a code of the programme's refusals."""
    changed_attributes: tuple[str, ...] = ()
    """PROFILE_CHANGED: names of the attributes; their values are not in this event."""
    occurred_at_ms: int
    """When it happened in the source system, UTC."""
    ingested_at_ms: int
    """When the broker appended the inbound record that caused this, UTC."""
    recorded_at_ms: int
    """When the worker decided it, UTC, by the worker's clock."""
    correlation_id: str | None = None
    """Follows one request through all topics: the correlation_id header of the inbound record."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "LoyaltyEvent":
        return cls(
            event_id=data["event_id"],
            program_id=data["program_id"],
            member_id=data["member_id"],
            sequence=data["sequence"],
            kind=LoyaltyEventKind(data["kind"]),
            account=AccountSnapshot.from_avro(data["account"]),
            cause=Cause.from_avro(data["cause"]),
            points_delta=data["points_delta"],
            shortfall_points=data["shortfall_points"],
            previous_tier=data["previous_tier"],
            offer_id=data["offer_id"],
            reward_code=data["reward_code"],
            voucher_code=data["voucher_code"],
            refusal=data["refusal"],
            changed_attributes=tuple(data["changed_attributes"]),
            occurred_at_ms=data["occurred_at_ms"],
            ingested_at_ms=data["ingested_at_ms"],
            recorded_at_ms=data["recorded_at_ms"],
            correlation_id=data["correlation_id"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "event_id": self.event_id,
            "program_id": self.program_id,
            "member_id": self.member_id,
            "sequence": self.sequence,
            "kind": self.kind.value,
            "account": self.account.to_avro(),
            "cause": self.cause.to_avro(),
            "points_delta": self.points_delta,
            "shortfall_points": self.shortfall_points,
            "previous_tier": self.previous_tier,
            "offer_id": self.offer_id,
            "reward_code": self.reward_code,
            "voucher_code": self.voucher_code,
            "refusal": self.refusal,
            "changed_attributes": list(self.changed_attributes),
            "occurred_at_ms": self.occurred_at_ms,
            "ingested_at_ms": self.ingested_at_ms,
            "recorded_at_ms": self.recorded_at_ms,
            "correlation_id": self.correlation_id,
        }


class ProfileOperation(StrEnum):
    """What made this version. UNKNOWN stands for a symbol that this reader does not know yet."""

    UNKNOWN = "UNKNOWN"
    ENROL = "ENROL"
    CHANGE = "CHANGE"
    TIER = "TIER"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberProfile:
    """One version of a member's profile, whole. The only outbound record with personal data; the topic is compacted, so that an erasure can
    remove it."""

    SCHEMA: ClassVar[str] = "MemberProfile"

    program_id: str
    """Loyalty programme, a slug of a-z, 0-9 and '-'. One deployment serves several."""
    member_id: str
    """Member within the programme, made by the enrolling system; 1 to 128 characters. Key of the record: program_id + '/' + member_id."""
    version: int
    """Number of this version, from 1 without gaps."""
    operation: ProfileOperation
    """What made this version."""
    attributes: Mapping[str, str]
    """All profile attributes."""
    segments: tuple[str, ...]
    """All segment tags."""
    status: MemberStatus
    """Status of the membership."""
    tier: str
    """Tier of the member."""
    changed: tuple[str, ...]
    """Names of what differs from the version before."""
    source_system: str
    """System in which this happened, for example 'apaleo' or 'salesforce'."""
    valid_from_ms: int
    """When this version began, in the source system, UTC."""
    ingested_at_ms: int
    """When the broker appended the inbound record that caused this, UTC."""
    recorded_at_ms: int
    """When the worker decided it, UTC, by the worker's clock."""
    correlation_id: str | None = None
    """Follows one request through all topics: the correlation_id header of the inbound record."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "MemberProfile":
        return cls(
            program_id=data["program_id"],
            member_id=data["member_id"],
            version=data["version"],
            operation=ProfileOperation(data["operation"]),
            attributes=data["attributes"],
            segments=tuple(data["segments"]),
            status=MemberStatus(data["status"]),
            tier=data["tier"],
            changed=tuple(data["changed"]),
            source_system=data["source_system"],
            valid_from_ms=data["valid_from_ms"],
            ingested_at_ms=data["ingested_at_ms"],
            recorded_at_ms=data["recorded_at_ms"],
            correlation_id=data["correlation_id"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "program_id": self.program_id,
            "member_id": self.member_id,
            "version": self.version,
            "operation": self.operation.value,
            "attributes": dict(self.attributes),
            "segments": list(self.segments),
            "status": self.status.value,
            "tier": self.tier,
            "changed": list(self.changed),
            "source_system": self.source_system,
            "valid_from_ms": self.valid_from_ms,
            "ingested_at_ms": self.ingested_at_ms,
            "recorded_at_ms": self.recorded_at_ms,
            "correlation_id": self.correlation_id,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferActivation:
    """A member opts in to an offer."""

    SCHEMA: ClassVar[str] = "OfferActivation"

    program_id: str
    """Loyalty programme, a slug of a-z, 0-9 and '-'. One deployment serves several."""
    member_id: str
    """Member within the programme, made by the enrolling system; 1 to 128 characters. Key of the record: program_id + '/' + member_id."""
    event_id: str
    """Made and kept by the client before it sends: the same id always means the same event. Unique per member; 1 to 128 characters."""
    source_system: str
    """System in which this happened, for example 'apaleo' or 'salesforce'."""
    occurred_at_ms: int
    """When it happened in the source system, UTC."""
    offer_id: str
    """Offer of the programme."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "OfferActivation":
        return cls(
            program_id=data["program_id"],
            member_id=data["member_id"],
            event_id=data["event_id"],
            source_system=data["source_system"],
            occurred_at_ms=data["occurred_at_ms"],
            offer_id=data["offer_id"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "program_id": self.program_id,
            "member_id": self.member_id,
            "event_id": self.event_id,
            "source_system": self.source_system,
            "occurred_at_ms": self.occurred_at_ms,
            "offer_id": self.offer_id,
        }


class CommandResult(StrEnum):
    """What became of a command. APPLIED: it took effect. REFUSED: a rule said no, the reason tells which. CONFLICT: its id was used before
    with another payload. WAITING: its member is not enrolled yet; it is decided when the enrolment arrives. SUPERSEDED: a newer version of
    the same source was applied before. UNKNOWN stands for a symbol that this reader does not know yet."""

    UNKNOWN = "UNKNOWN"
    APPLIED = "APPLIED"
    REFUSED = "REFUSED"
    CONFLICT = "CONFLICT"
    WAITING = "WAITING"
    SUPERSEDED = "SUPERSEDED"


class TransactionKind(StrEnum):
    """What a transaction does. UNKNOWN stands for a symbol that this reader does not know yet."""

    UNKNOWN = "UNKNOWN"
    EARN = "EARN"
    REDEEM = "REDEEM"
    REVERSE = "REVERSE"
    ADJUST = "ADJUST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one command, the value of the outcomes table: a command that is sent again gets this answer."""

    SCHEMA: ClassVar[str] = "Outcome"

    payload_hash: str
    """Hash of the command's content without times."""
    result: CommandResult
    """What became of it."""
    reason: str | None = None
    """Why it was refused."""
    transaction_kind: TransactionKind | None = None
    """Transactions: what it did."""
    points_delta: int = 0
    """Points that moved."""
    reversed_points: int = 0
    """Points of it that were taken back since, as a positive number."""
    sequence: int
    """The member's event sequence after the decision."""
    available_points: int
    """The member's available points after the decision."""
    tier: str
    """The member's tier after the decision."""
    voucher_code: str | None = None
    """Code of the voucher that it bought."""
    ingested_at_ms: int
    """When the broker appended the inbound record that caused this, UTC."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "Outcome":
        return cls(
            payload_hash=data["payload_hash"],
            result=CommandResult(data["result"]),
            reason=data["reason"],
            transaction_kind=None if data["transaction_kind"] is None else TransactionKind(data["transaction_kind"]),
            points_delta=data["points_delta"],
            reversed_points=data["reversed_points"],
            sequence=data["sequence"],
            available_points=data["available_points"],
            tier=data["tier"],
            voucher_code=data["voucher_code"],
            ingested_at_ms=data["ingested_at_ms"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "payload_hash": self.payload_hash,
            "result": self.result.value,
            "reason": self.reason,
            "transaction_kind": None if self.transaction_kind is None else self.transaction_kind.value,
            "points_delta": self.points_delta,
            "reversed_points": self.reversed_points,
            "sequence": self.sequence,
            "available_points": self.available_points,
            "tier": self.tier,
            "voucher_code": self.voucher_code,
            "ingested_at_ms": self.ingested_at_ms,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileChange:
    """A partial update of a member's profile or status. What is absent stays as it is."""

    SCHEMA: ClassVar[str] = "ProfileChange"

    program_id: str
    """Loyalty programme, a slug of a-z, 0-9 and '-'. One deployment serves several."""
    member_id: str
    """Member within the programme, made by the enrolling system; 1 to 128 characters. Key of the record: program_id + '/' + member_id."""
    event_id: str
    """Made and kept by the client before it sends: the same id always means the same event. Unique per member; 1 to 128 characters."""
    source_system: str
    """System in which this happened, for example 'apaleo' or 'salesforce'."""
    occurred_at_ms: int
    """When it happened in the source system, UTC."""
    source_version: int | None = None
    """Version of the record in the source system (commit number, last-modified in ms, sequence). One that is not greater than what was
    applied before is superseded."""
    attributes: Mapping[str, str | None] = field(default_factory=dict)
    """Attributes to set, by name; null clears one; an absent name is unchanged."""
    segments: tuple[str, ...] | None = None
    """All segment tags from now on; null leaves them unchanged."""
    status: MemberStatus | None = None
    """New status of the membership; null leaves it unchanged."""
    status_reason: str | None = None
    """Why the status changes, for example 'employment ended'."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "ProfileChange":
        return cls(
            program_id=data["program_id"],
            member_id=data["member_id"],
            event_id=data["event_id"],
            source_system=data["source_system"],
            occurred_at_ms=data["occurred_at_ms"],
            source_version=data["source_version"],
            attributes=data["attributes"],
            segments=None if data["segments"] is None else tuple(data["segments"]),
            status=None if data["status"] is None else MemberStatus(data["status"]),
            status_reason=data["status_reason"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "program_id": self.program_id,
            "member_id": self.member_id,
            "event_id": self.event_id,
            "source_system": self.source_system,
            "occurred_at_ms": self.occurred_at_ms,
            "source_version": self.source_version,
            "attributes": dict(self.attributes),
            "segments": None if self.segments is None else list(self.segments),
            "status": None if self.status is None else self.status.value,
            "status_reason": self.status_reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedWebhook:
    """A webhook that only hints at a change, kept as it arrived until the entity was read again from its system."""

    SCHEMA: ClassVar[str] = "ReceivedWebhook"

    source: str
    """Name of the source in the configuration."""
    delivery_id: str
    """Id that the sender gave to the delivery, or a hash of the body."""
    entity_id: str
    """What the hint is about, for example a reservation; hints about one entity are followed in order."""
    kind: str
    """What the sender says happened, for example 'Reservation/checked-out'."""
    body: bytes
    """Body as it was sent."""
    received_at_ms: int
    """When the ingress received it, UTC."""
    correlation_id: str | None = None
    """Follows one request through all topics: the correlation_id header of the inbound record."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "ReceivedWebhook":
        return cls(
            source=data["source"],
            delivery_id=data["delivery_id"],
            entity_id=data["entity_id"],
            kind=data["kind"],
            body=data["body"],
            received_at_ms=data["received_at_ms"],
            correlation_id=data["correlation_id"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "delivery_id": self.delivery_id,
            "entity_id": self.entity_id,
            "kind": self.kind,
            "body": self.body,
            "received_at_ms": self.received_at_ms,
            "correlation_id": self.correlation_id,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeChange:
    """One changed attribute. Personal data is masked."""

    SCHEMA: ClassVar[str] = "AttributeChange"

    attribute: str
    """Name of the attribute: available_points, qualifying_points, tier, status, segments, active_offers, or a profile attribute."""
    before: str | None = None
    """Value before; personal data masked."""
    after: str | None = None
    """Value after; personal data masked."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "AttributeChange":
        return cls(
            attribute=data["attribute"],
            before=data["before"],
            after=data["after"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "attribute": self.attribute,
            "before": self.before,
            "after": self.after,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncAudit:
    """One record for every sync event that was received: what it changed, when, from which source, and what became of it. It is also the
    answer that a waiting client gets."""

    SCHEMA: ClassVar[str] = "SyncAudit"

    audit_id: str
    """topic-partition-offset of the inbound record, with '-released' for a command that had waited."""
    program_id: str
    """Loyalty programme, a slug of a-z, 0-9 and '-'. One deployment serves several."""
    member_id: str
    """Member within the programme, made by the enrolling system; 1 to 128 characters. Key of the record: program_id + '/' + member_id."""
    stream: str
    """Inbound stream: enrolments, transactions, profile-changes or offer-activations."""
    command_id: str
    """transaction_id or event_id of the command."""
    payload_hash: str
    """Hash of the command's content without times: tells a repetition from a conflict."""
    source_system: str
    """System in which this happened, for example 'apaleo' or 'salesforce'."""
    actor: str | None = None
    """Who caused it, as an id of the source system."""
    result: CommandResult
    """What became of the command."""
    reason: str | None = None
    """REFUSED: the code of the rule. CONFLICT: ID_REUSED. Otherwise empty."""
    replayed: bool = False
    """True if the command had been decided before: result, reason and numbers are those of the first time, and nothing changed."""
    changes: tuple[AttributeChange, ...] = ()
    """What changed."""
    sequence: int | None = None
    """The member's event sequence after the decision."""
    points_delta: int | None = None
    """Points that moved."""
    available_points: int | None = None
    """The member's available points after the decision."""
    tier: str | None = None
    """The member's tier after the decision."""
    voucher_code: str | None = None
    """Code of the voucher that the command bought."""
    occurred_at_ms: int
    """When it happened in the source system, UTC."""
    ingested_at_ms: int
    """When the broker appended the inbound record that caused this, UTC."""
    recorded_at_ms: int
    """When the worker decided it, UTC, by the worker's clock."""
    correlation_id: str | None = None
    """Follows one request through all topics: the correlation_id header of the inbound record."""
    topic: str
    """Topic of the inbound record."""
    partition: int
    """Partition of the inbound record."""
    offset: int
    """Offset of the inbound record."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "SyncAudit":
        return cls(
            audit_id=data["audit_id"],
            program_id=data["program_id"],
            member_id=data["member_id"],
            stream=data["stream"],
            command_id=data["command_id"],
            payload_hash=data["payload_hash"],
            source_system=data["source_system"],
            actor=data["actor"],
            result=CommandResult(data["result"]),
            reason=data["reason"],
            replayed=data["replayed"],
            changes=tuple((AttributeChange.from_avro(x) for x in data["changes"])),
            sequence=data["sequence"],
            points_delta=data["points_delta"],
            available_points=data["available_points"],
            tier=data["tier"],
            voucher_code=data["voucher_code"],
            occurred_at_ms=data["occurred_at_ms"],
            ingested_at_ms=data["ingested_at_ms"],
            recorded_at_ms=data["recorded_at_ms"],
            correlation_id=data["correlation_id"],
            topic=data["topic"],
            partition=data["partition"],
            offset=data["offset"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "audit_id": self.audit_id,
            "program_id": self.program_id,
            "member_id": self.member_id,
            "stream": self.stream,
            "command_id": self.command_id,
            "payload_hash": self.payload_hash,
            "source_system": self.source_system,
            "actor": self.actor,
            "result": self.result.value,
            "reason": self.reason,
            "replayed": self.replayed,
            "changes": list((x.to_avro() for x in self.changes)),
            "sequence": self.sequence,
            "points_delta": self.points_delta,
            "available_points": self.available_points,
            "tier": self.tier,
            "voucher_code": self.voucher_code,
            "occurred_at_ms": self.occurred_at_ms,
            "ingested_at_ms": self.ingested_at_ms,
            "recorded_at_ms": self.recorded_at_ms,
            "correlation_id": self.correlation_id,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LineItem:
    """One line of the sale behind an earn."""

    SCHEMA: ClassVar[str] = "LineItem"

    sku: str | None = None
    """Article, product or service code."""
    category: str | None = None
    """Category of this line, as earning rules know it."""
    amount_minor: int
    """Amount of the line in minor units of the transaction's currency."""
    quantity: int = 1
    """Number of units."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "LineItem":
        return cls(
            sku=data["sku"],
            category=data["category"],
            amount_minor=data["amount_minor"],
            quantity=data["quantity"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "sku": self.sku,
            "category": self.category,
            "amount_minor": self.amount_minor,
            "quantity": self.quantity,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A command on a member's points: earn, redeem, reverse or adjust. Exactly one of points and amount_minor says how much (a REVERSE may
    give neither: all of it)."""

    SCHEMA: ClassVar[str] = "Transaction"

    program_id: str
    """Loyalty programme, a slug of a-z, 0-9 and '-'. One deployment serves several."""
    member_id: str
    """Member within the programme, made by the enrolling system; 1 to 128 characters. Key of the record: program_id + '/' + member_id."""
    transaction_id: str
    """Made and kept by the client before it sends: the same id always means the same transaction. Unique per member over all sources, so
    start it with the system's name; 1 to 128 characters."""
    source_system: str
    """System in which this happened, for example 'apaleo' or 'salesforce'."""
    occurred_at_ms: int
    """When it happened in the source system, UTC."""
    kind: TransactionKind
    """What the transaction does."""
    points: int | None = None
    """Points to move, above 0 (ADJUST: any but 0). Empty for an earn that the programme's rules compute."""
    amount_minor: int | None = None
    """Money spent, in minor units of the currency (cents), for an earn that the programme's rules compute."""
    currency: str | None = None
    """ISO 4217 code of amount_minor and the line items, for example 'EUR'."""
    category: str | None = None
    """Category of the sale, for example 'room', 'spa', 'flight'."""
    nights: int | None = None
    """Nights of the stay."""
    property_id: str | None = None
    """Hotel, shop or branch."""
    line_items: tuple[LineItem, ...] = ()
    """Lines of the sale."""
    reverses_transaction_id: str | None = None
    """REVERSE: the transaction of the same member to take back."""
    reward_code: str | None = None
    """REDEEM: the reward that is bought. A voucher for it is issued."""
    reason: str | None = None
    """Why; required for ADJUST."""
    actor: str | None = None
    """Who caused it, as an id of the source system; required for ADJUST."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "Transaction":
        return cls(
            program_id=data["program_id"],
            member_id=data["member_id"],
            transaction_id=data["transaction_id"],
            source_system=data["source_system"],
            occurred_at_ms=data["occurred_at_ms"],
            kind=TransactionKind(data["kind"]),
            points=data["points"],
            amount_minor=data["amount_minor"],
            currency=data["currency"],
            category=data["category"],
            nights=data["nights"],
            property_id=data["property_id"],
            line_items=tuple((LineItem.from_avro(x) for x in data["line_items"])),
            reverses_transaction_id=data["reverses_transaction_id"],
            reward_code=data["reward_code"],
            reason=data["reason"],
            actor=data["actor"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "program_id": self.program_id,
            "member_id": self.member_id,
            "transaction_id": self.transaction_id,
            "source_system": self.source_system,
            "occurred_at_ms": self.occurred_at_ms,
            "kind": self.kind.value,
            "points": self.points,
            "amount_minor": self.amount_minor,
            "currency": self.currency,
            "category": self.category,
            "nights": self.nights,
            "property_id": self.property_id,
            "line_items": list((x.to_avro() for x in self.line_items)),
            "reverses_transaction_id": self.reverses_transaction_id,
            "reward_code": self.reward_code,
            "reason": self.reason,
            "actor": self.actor,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingCommand:
    """One inbound record as it arrived."""

    SCHEMA: ClassVar[str] = "WaitingCommand"

    topic: str
    """Topic of the record."""
    partition: int
    """Partition of the record."""
    offset: int
    """Offset of the record."""
    ingested_at_ms: int
    """When the broker appended the inbound record that caused this, UTC."""
    correlation_id: str | None = None
    """Follows one request through all topics: the correlation_id header of the inbound record."""
    value: bytes
    """Value of the record as it was."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "WaitingCommand":
        return cls(
            topic=data["topic"],
            partition=data["partition"],
            offset=data["offset"],
            ingested_at_ms=data["ingested_at_ms"],
            correlation_id=data["correlation_id"],
            value=data["value"],
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "ingested_at_ms": self.ingested_at_ms,
            "correlation_id": self.correlation_id,
            "value": self.value,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingCommands:
    """Commands of a member who is not enrolled yet, the value of the waiting table. The enrolment releases them in this order."""

    SCHEMA: ClassVar[str] = "WaitingCommands"

    commands: tuple[WaitingCommand, ...]
    """In the order of arrival."""

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> "WaitingCommands":
        return cls(
            commands=tuple((WaitingCommand.from_avro(x) for x in data["commands"])),
        )

    def to_avro(self) -> dict[str, Any]:
        return {
            "commands": list((x.to_avro() for x in self.commands)),
        }
