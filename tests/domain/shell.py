"""The smallest shell around the domain: it remembers what a worker's tables would, and collects what would be published."""

from dataclasses import dataclass, field, replace
from typing import Any

from schemas.contract import Command, problems
from schemas.records import (
    Account,
    CommandResult,
    Enrolment,
    LedgerEntry,
    LoyaltyEvent,
    MemberOperation,
    MemberOperationKind,
    MemberProfile,
    OfferActivation,
    Outcome,
    ProfileChange,
    Relay,
    SyncAudit,
    Transaction,
    TransactionKind,
    Voucher,
)
from streams.domain import desk, exchange
from streams.domain.desk import Received, Rows, Settlement
from streams.domain.program import Offer, Program, Tier

NOW_MS = 1_500
"""When commands happen unless they say otherwise: while the offer `double` runs."""

PROGRAM = Program(
    program_id="grand",
    tiers=(
        Tier(name="blue", threshold_points=0),
        Tier(name="silver", threshold_points=1_000, earn_percent=125),
        Tier(name="gold", threshold_points=5_000, earn_percent=150),
    ),
    points_per_unit={"EUR": 10, "JPY": 3, "KWD": 40},
    points_per_night=50,
    offers={
        "double": Offer(offer_id="double", bonus_percent=100, starts_at_ms=1_000, ends_at_ms=2_000),
        "spa-week": Offer(offer_id="spa-week", bonus_percent=33, categories=frozenset({"spa", "wellness"})),
        "winter": Offer(offer_id="winter", bonus_percent=10, starts_at_ms=9_000),
    },
    voucher_key=b"a key for tests, not a secret...",
)

WHO = {"program_id": "grand", "member_id": "m-1", "source_system": "pms"}


def enrol(event_id: str = "", **more: Any) -> Enrolment:
    return Enrolment(**{**WHO, "occurred_at_ms": NOW_MS, **more}, event_id=event_id)


def earn(points: int | None = None, **more: Any) -> Transaction:
    return _transaction(TransactionKind.EARN, points=points, **more)


def redeem(points: int, **more: Any) -> Transaction:
    return _transaction(TransactionKind.REDEEM, points=points, **more)


def adjust(points: int, **more: Any) -> Transaction:
    return _transaction(TransactionKind.ADJUST, points=points, **{"reason": "goodwill", "actor": "agent-7", **more})


def reverse(original_id: str, points: int | None = None, **more: Any) -> Transaction:
    return _transaction(TransactionKind.REVERSE, points=points, reverses_transaction_id=original_id, **more)


def hold(points: int, **more: Any) -> Transaction:
    return _transaction(TransactionKind.HOLD, points=points, **more)


def capture(hold_id: str, points: int | None = None, **more: Any) -> Transaction:
    return _transaction(TransactionKind.CAPTURE, related_transaction_id=hold_id, points=points, **more)


def void(hold_id: str, **more: Any) -> Transaction:
    return _transaction(TransactionKind.VOID, related_transaction_id=hold_id, **more)


def make_available(earn_id: str, **more: Any) -> Transaction:
    return _transaction(TransactionKind.ACTIVATE, related_transaction_id=earn_id, **more)


def transfer(points: int, to_member_id: str, **more: Any) -> Transaction:
    return _transaction(TransactionKind.TRANSFER, points=points, to_member_id=to_member_id, **more)


def redeem_voucher(code: str, **more: Any) -> Transaction:
    return _transaction(TransactionKind.REDEEM_VOUCHER, voucher_code=code, **more)


def cancel_voucher(code: str, **more: Any) -> Transaction:
    return _transaction(TransactionKind.CANCEL_VOUCHER, voucher_code=code, **more)


def operate(kind: MemberOperationKind, event_id: str = "", **more: Any) -> MemberOperation:
    about = {**WHO, "occurred_at_ms": NOW_MS, "reason": "asked for", "actor": "agent-7", **more}
    return MemberOperation(**about, event_id=event_id, kind=kind)


def change(event_id: str = "", **more: Any) -> ProfileChange:
    return ProfileChange(**{**WHO, "occurred_at_ms": NOW_MS, **more}, event_id=event_id)


def activate(offer_id: str, event_id: str = "", **more: Any) -> OfferActivation:
    return OfferActivation(**{**WHO, "occurred_at_ms": NOW_MS, **more}, event_id=event_id, offer_id=offer_id)


def _transaction(kind: TransactionKind, **more: Any) -> Transaction:
    return Transaction(**{**WHO, "occurred_at_ms": NOW_MS, "transaction_id": "", **more}, kind=kind)


STREAMS = {
    MemberOperation: "member-operations", Enrolment: "enrolments", Transaction: "transactions", ProfileChange: "profile-changes",
    OfferActivation: "offer-activations",
}  # fmt: skip


@dataclass
class Shell:
    """One member. `send` numbers commands without an id by their position: c1, c2, ..."""

    program: Program = PROGRAM
    later_versions: tuple[Program, ...] = ()
    clock_ms: int = 0
    recorded_at_ms: int = 7_777
    account: Account | None = None
    outcomes: dict[bytes, Outcome] = field(default_factory=dict)
    vouchers: dict[bytes, Voucher] = field(default_factory=dict)
    relays: list[Relay] = field(default_factory=list)
    waiting: list[Received] = field(default_factory=list)
    log: list[Received] = field(default_factory=list)
    events: list[LoyaltyEvent] = field(default_factory=list)
    entries: list[LedgerEntry] = field(default_factory=list)
    profiles: list[MemberProfile] = field(default_factory=list)
    audits: list[SyncAudit] = field(default_factory=list)
    sent: int = 0

    def enrolled(self, **more: Any) -> "Shell":
        audit = self.settle(received(enrol("enrol-0", **more), offset=0)).audit
        assert audit is not None
        assert audit.result is CommandResult.APPLIED
        return self

    def send(self, command: Command, **more: Any) -> Settlement:
        self.sent += 1
        return self.settle(received(named(command, f"c{self.sent}"), offset=self.sent, **more))

    def settle(self, arrived: Received) -> Settlement:
        """What a worker does with one record, and with those that it releases."""
        self.log.append(arrived)
        settlement = self._settle(arrived)
        if settlement.audit is not None and settlement.audit.result is CommandResult.WAITING and settlement.account is None:
            self.waiting.append(arrived)
        elif self.waiting:
            released, self.waiting = self.waiting, []
            for earlier in released:
                self._settle(replace(earlier, released=True))
        return settlement

    def _settle(self, arrived: Received) -> Settlement:
        assert arrived.command is not None
        assert problems(arrived.command) == (), "the contract refuses it before it comes here"
        settlement = desk.settle(
            self.account,
            arrived,
            rows=Rows(outcomes=self.outcomes, vouchers=self.vouchers),
            programs=self.programs,
            clock_ms=self.clock_ms,
            recorded_at_ms=self.recorded_at_ms,
        )
        self._keep(settlement)
        return settlement

    def tick(self, at_ms: int) -> Settlement:
        """The log's time, when nothing else happens to the member."""
        assert self.account is not None
        self.clock_ms = max(self.clock_ms, at_ms)
        settlement = desk.tick(
            self.account, at_ms, rows=Rows(outcomes=self.outcomes, vouchers=self.vouchers), programs=self.programs, clock_ms=self.clock_ms,
            recorded_at_ms=self.recorded_at_ms,
        )  # fmt: skip
        self._keep(settlement)
        return settlement

    def receive(self, relay: Relay, command: Command | None = None, **more: Any) -> Settlement:
        """What another member's partition passes on."""
        self.sent += 1
        arrived = Received(
            stream="relays", command=command, topic="loyalty.relays.v1", partition=3, offset=self.sent, correlation_id=None,
            **{"ingested_at_ms": 10_000 + self.sent, **more},
        )  # fmt: skip
        settlement = exchange.receive(
            self.account, relay, arrived, rows=Rows(outcomes=self.outcomes, vouchers=self.vouchers), programs=self.programs,
            clock_ms=self.clock_ms, recorded_at_ms=self.recorded_at_ms,
        )  # fmt: skip
        self._keep(settlement)
        return settlement

    def _keep(self, settlement: Settlement) -> None:
        self.account = settlement.account
        self.outcomes.update(settlement.outcomes)
        self.vouchers.update(settlement.vouchers)
        self.relays += settlement.relays
        self.events += settlement.events
        self.entries += settlement.entries
        self.profiles += settlement.profiles
        if settlement.audit is not None:
            self.audits.append(settlement.audit)

    @property
    def programs(self) -> tuple[Program, ...]:
        return (self.program, *self.later_versions)


def named(command: Command, name: str) -> Command:
    """The command, with this id if it has none."""
    if isinstance(command, Transaction):
        return command if command.transaction_id else replace(command, transaction_id=name)
    return command if command.event_id else replace(command, event_id=name)


def received(command: Command, *, offset: int, **more: Any) -> Received:
    stream = STREAMS[type(command)]
    fields = {"partition": 3, "ingested_at_ms": 10_000 + offset, "correlation_id": None, **more}
    return Received(stream=stream, command=command, topic=f"loyalty.{stream}.v1", offset=offset, **fields)
