"""One member's account while one record is decided: facts are written into it, and it keeps all that follows from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import NamedTuple

from schemas.contract import Command
from schemas.records import Account, CommandResult, LedgerEntry, Lot, Outcome, Relay, Transaction, Voucher
from streams.domain.accounts import evolve
from streams.domain.facts import AVAILABLE, DEBT, HELD, PENDING, Fact, PointsMoved
from streams.domain.identity import HASH_CHARACTERS, SEPARATOR, entry_id, transaction_key, voucher_key
from streams.domain.program import DAY_MS, Program, in_force

CLOCK_STREAM, CLOCK_SYSTEM = "ticks", "loyalty-sync"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A record as it came in."""

    stream: str
    """Inbound stream: enrolments, transactions, profile-changes, offer-activations, member-operations, relays or ticks."""
    command: Command | None
    """The command; None for ticks, and for relays that carry none."""
    topic: str
    partition: int
    offset: int
    ingested_at_ms: int
    correlation_id: str | None
    released: bool = False
    """True when it had waited for its member's enrolment, or for an answer, and is decided now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """What is said of a record's origin in all that follows from it."""

    command_id: str
    stream: str
    source_system: str
    reason: str | None
    occurred_at_ms: int
    ingested_at_ms: int
    correlation_id: str | None


class Step(NamedTuple):
    """A fact, the account after it, and its cause."""

    fact: Fact
    account: Account
    cause: Cause


class Book:
    """Not for keeping: one per record and member. What it was opened with is never changed in place."""

    def __init__(
        self,
        account: Account | None,
        cause: Cause,
        command: Command | None,
        *,
        programs: Sequence[Program],
        now_ms: int,
        recorded_at_ms: int,
        outcomes: Mapping[bytes, Outcome],
        vouchers: Mapping[bytes, Voucher],
    ) -> None:
        self._account = account
        self.cause = cause
        self.command = command
        self.programs = programs
        self.program = in_force(programs, now_ms)
        """In force now; what depends on when something happened asks `program_at`."""
        self.now_ms = now_ms
        """The log's time."""
        self._recorded_at_ms = recorded_at_ms
        self._stored_outcomes = outcomes
        self._stored_vouchers = vouchers
        self._entry_hash = account.entry_hash if account is not None else ""
        self.steps: list[Step] = []
        self.entries: list[LedgerEntry] = []
        self.outcomes: dict[bytes, Outcome] = {}
        """Rows that changed, by their keys."""
        self.vouchers: dict[bytes, Voucher] = {}
        self.relays: list[Relay] = []
        self.detail: str | None = None
        """What the answer is about, in words that programs know as well."""
        self.closed_lots: dict[str, Lot] = {}
        """Lots that were closed and whose transaction is not remembered yet: that of the command itself."""

    @property
    def account(self) -> Account:
        """As it is after the facts so far. For a member who exists."""
        assert self._account is not None, "a member who is not enrolled has no account"
        return self._account

    @property
    def opened(self) -> Account | None:
        return self._account

    def program_at(self, at_ms: int) -> Program:
        """The programme's version in force at an effective time."""
        return in_force(self.programs, at_ms)

    def record(self, fact: Fact) -> None:
        """The one way to change the account."""
        if isinstance(fact, PointsMoved) and fact.postings:
            entries = self._entries(fact)
            self.entries += entries
            self._entry_hash = entries[-1].entry_hash
        self._account = evolve(self._account, fact)
        self.steps.append(Step(fact, self._account, self.cause))

    def touch(self, **changes: int | None) -> None:
        """Set what is nobody's business: clock_ms and due_at_ms, and the hash of the last entry."""
        self._account = self.account.but(entry_hash=self._entry_hash, **changes)

    def by_clock(self, due_at_ms: int) -> None:
        """What is recorded from now on happens by itself, and happened when it was due."""
        self.cause = replace(self.cause, stream=CLOCK_STREAM, source_system=CLOCK_SYSTEM, reason=None)
        self.dated(due_at_ms)
        self.command = None
        self._set_time(due_at_ms)

    def dated(self, due_at_ms: int) -> None:
        """What is recorded from now on by itself was due then; the time is as it was."""
        self.cause = replace(self.cause, command_id=f"due:{due_at_ms}", occurred_at_ms=due_at_ms)

    def resume(self, cause: Cause, command: Command | None, now_ms: int) -> None:
        """What is recorded from now on is the record's doing again."""
        self.cause, self.command = cause, command
        self._set_time(now_ms)

    def _set_time(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.program = in_force(self.programs, now_ms)

    def outcome(self, transaction_id: str) -> Outcome | None:
        """What is remembered of a transaction of this member; None once it is older than the programme's window."""
        key = transaction_key(self.account.program_id, self.account.member_id, transaction_id)
        found = self.outcomes.get(key) or self._stored_outcomes.get(key)
        return found if is_remembered(found, self.program, self.now_ms) else None

    def remember(self, transaction_id: str, outcome: Outcome) -> None:
        self.outcomes[transaction_key(self.account.program_id, self.account.member_id, transaction_id)] = outcome

    def voucher(self, code: str) -> Voucher | None:
        key = voucher_key(self.account.program_id, self.account.member_id, code)
        return self.vouchers.get(key) or self._stored_vouchers.get(key)

    def store_voucher(self, voucher: Voucher) -> None:
        self.vouchers[voucher_key(self.account.program_id, self.account.member_id, voucher.voucher_code)] = voucher

    def close_lot(self, lot: Lot) -> None:
        """Keep a lot of which nothing is open any more with the transaction that made it, as long as that is remembered."""
        found = self.outcome(lot.lot_id)
        if found is not None:
            self.remember(lot.lot_id, replace(found, lot=lot))
        else:
            self.closed_lots[lot.lot_id] = lot

    def reopen_lot(self, lot_id: str) -> Lot | None:
        """A closed lot, to be put among the open ones by the caller; None if it is not remembered."""
        found = self.outcome(lot_id)
        if found is None or found.lot is None:
            return None
        self.remember(lot_id, replace(found, lot=None))
        return found.lot

    def _entries(self, fact: PointsMoved) -> list[LedgerEntry]:
        """One per posting, with running balances, each chained to the one before."""
        account, cause, command = self.account, self.cause, self.command
        balances = {
            AVAILABLE: account.available_points, PENDING: account.pending_points, HELD: account.held_points, DEBT: -account.debt_points,
        }  # fmt: skip
        number, chain = account.entry_sequence, self._entry_hash
        transaction = command if isinstance(command, Transaction) else None
        version = self.program_at(cause.occurred_at_ms).version
        written = []
        for posting in fact.postings:
            number += 1
            balances[posting.account] += posting.points_delta
            if posting.counter_account in balances:
                balances[posting.counter_account] -= posting.points_delta
            before = chain
            chain = chained(
                before, number, cause, posting.kind, posting.account, posting.points_delta, posting.counter_account, posting.rule_id, version,
                balances[posting.account], fact.counter_member_id, [(part.lot_id, part.points, part.expires_at_ms) for part in posting.lots],
            )  # fmt: skip
            written.append(
                LedgerEntry(
                    entry_id=entry_id(account.program_id, account.member_id, number),
                    program_id=account.program_id,
                    member_id=account.member_id,
                    entry_sequence=number,
                    transaction_id=cause.command_id,
                    kind=posting.kind,
                    points_delta=posting.points_delta,
                    balance_after=balances[posting.account],
                    counter_account=posting.counter_account,
                    rule_id=posting.rule_id,
                    reverses_transaction_id=transaction.reverses_transaction_id if transaction else None,
                    source_system=cause.source_system,
                    property_id=transaction.property_id if transaction else None,
                    category=transaction.category if transaction else None,
                    reason=cause.reason,
                    occurred_at_ms=cause.occurred_at_ms,
                    ingested_at_ms=cause.ingested_at_ms,
                    recorded_at_ms=self._recorded_at_ms,
                    correlation_id=cause.correlation_id,
                    account=posting.account,
                    rule_version=version,
                    available_after=balances[AVAILABLE],
                    lots=posting.lots,
                    counter_member_id=fact.counter_member_id,
                    previous_hash=before,
                    entry_hash=chain,
                )
            )
        return written


def chained(previous_hash: str, number: int, cause: Cause, *content: object) -> str:
    """The hash of an entry: over the one before and all that it says, but for the worker's clock."""
    text = SEPARATOR.join(
        map(str, (previous_hash, number, cause.command_id, cause.source_system, cause.occurred_at_ms, cause.ingested_at_ms, *content))
    )
    return sha256(text.encode()).hexdigest()[:HASH_CHARACTERS]


def is_asked(outcome: Outcome) -> bool:
    """Whether the outcome is that of an activation whose budget has not answered."""
    return outcome.result is CommandResult.WAITING


def is_remembered(outcome: Outcome | None, program: Program, now_ms: int) -> bool:
    """Whether the answer is within the programme's window. When its row is deleted does not matter: too old, it is not there.
    What a budget was asked is remembered until it has answered."""
    return outcome is not None and (is_asked(outcome) or now_ms - outcome.ingested_at_ms < program.idempotency_days * DAY_MS)
