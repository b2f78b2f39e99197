"""received command -> settlement: the one door to the domain. `settle` is a pure function; the agents call it and store what it returns.

Everything that is stored depends on the command and on ingested_at_ms alone, so that replaying the log gives the same bytes.
recorded_at_ms, the worker's clock, goes into outbound records only.
"""

from dataclasses import dataclass

from schemas.records import (
    Account,
    CommandResult,
    Enrolment,
    LedgerEntry,
    LoyaltyEvent,
    MemberProfile,
    OfferActivation,
    Outcome,
    ProfileChange,
    SyncAudit,
    Transaction,
)
from streams.domain import ledger, offers, outbound, profiles
from streams.domain.accounts import walk
from streams.domain.facts import CommandRefused, Decision, PointsMoved, VoucherIssued
from streams.domain.identity import outcome_key, payload_hash, transaction_key
from streams.domain.outbound import Received
from streams.domain.program import Program
from streams.domain.refusals import ID_REUSED

__all__ = ["Received", "Settlement", "decide", "outcome_key", "payload_hash", "settle", "transaction_key"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """All that follows from one command."""

    account: Account | None
    """State after it; None: the member is not enrolled, the command waits."""
    outcome: Outcome | None
    """To be remembered under outcome_key(...); None when replayed, CONFLICT or WAITING: then there is nothing to remember."""
    original: Outcome | None = None
    """Reverse: to be stored under the transaction_key of the transaction that was taken back."""
    events: tuple[LoyaltyEvent, ...] = ()
    entries: tuple[LedgerEntry, ...] = ()
    profiles: tuple[MemberProfile, ...] = ()
    audit: SyncAudit


def settle(
    account: Account | None,
    received: Received,
    *,
    remembered: Outcome | None,
    original: Outcome | None,
    program: Program,
    recorded_at_ms: int,
) -> Settlement:
    """`remembered` is the outcome stored under the command's own key, `original` the one stored for the transaction a REVERSE names.

    A repetition gets the first answer again and changes nothing; so does a refused one, even if it would be accepted by now. The
    command keeps the contract's rules (schemas.contract.problems), and `program` is that of the command.
    """
    digest = payload_hash(received.command)
    if remembered is not None:
        return _repeated(account, received, digest, remembered, recorded_at_ms)
    if account is None and not isinstance(received.command, Enrolment):
        audit = outbound.audit(received, digest, CommandResult.WAITING, None, recorded_at_ms)
        return Settlement(account=None, outcome=None, audit=audit)
    decision = decide(account, received.command, original=original, program=program)
    steps = walk(account, decision.facts)
    after = steps[-1][1] if steps else account
    assert after is not None, "an enrolment makes the account"
    outcome = _outcome(decision, received, after, digest)
    return Settlement(
        account=after,
        outcome=outcome,
        original=decision.original,
        events=outbound.events(steps, received, recorded_at_ms),
        entries=outbound.entries(steps, received, recorded_at_ms),
        profiles=outbound.profiles(steps, received, recorded_at_ms),
        audit=outbound.audit(received, digest, decision.result, outcome, recorded_at_ms, changes=outbound.changes_between(account, after)),
    )


def decide(
    account: Account | None,
    command: Enrolment | Transaction | ProfileChange | OfferActivation,
    *,
    original: Outcome | None,
    program: Program,
) -> Decision:
    """The answer to a command that was not decided before. Only an enrolment can do without an account."""
    if isinstance(command, Enrolment):
        return profiles.decide_enrolment(account, command, program)
    if account is None:
        raise ValueError("the member is not enrolled: the command has to wait")
    if isinstance(command, Transaction):
        return ledger.decide(account, command, original=original, program=program)
    if isinstance(command, ProfileChange):
        return profiles.decide_change(account, command)
    return offers.decide_activation(account, command, program)


def _repeated(account: Account | None, received: Received, digest: str, remembered: Outcome, recorded_at_ms: int) -> Settlement:
    """The id was decided before: the same content gets the same answer, other content is a conflict. Neither changes anything."""
    if digest == remembered.payload_hash:
        audit = outbound.audit(received, digest, remembered.result, remembered, recorded_at_ms, replayed=True)
    else:
        audit = outbound.audit(received, digest, CommandResult.CONFLICT, None, recorded_at_ms, reason=ID_REUSED)
    return Settlement(account=account, outcome=None, audit=audit)


def _outcome(decision: Decision, received: Received, after: Account, digest: str) -> Outcome:
    reason = voucher_code = None
    points_delta = 0
    for fact in decision.facts:
        if isinstance(fact, PointsMoved):
            points_delta = fact.points_delta
        elif isinstance(fact, CommandRefused):
            reason = fact.refusal.value
        elif isinstance(fact, VoucherIssued):
            voucher_code = fact.voucher_code
    command = received.command
    return Outcome(
        payload_hash=digest,
        result=decision.result,
        reason=reason,
        transaction_kind=command.kind if isinstance(command, Transaction) else None,
        points_delta=points_delta,
        sequence=after.event_sequence,
        available_points=after.available_points,
        tier=after.tier,
        voucher_code=voucher_code,
        ingested_at_ms=received.ingested_at_ms,
    )
