"""Profile changes of one member that come together -> decided one by one, told as one.

Each change gets the answer that it would have got alone, and is remembered by it; the profile and its origins are what they would have
been. But there is one event, one version of the profile and one step of the sequence for all, and external ids that came and went again
are told to nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from schemas.records import Account, AttributeChange, CommandResult, Outcome, ProfileChange, SyncAudit
from streams.domain import desk, outbound, profiles, tiers, timers
from streams.domain.accounts import brought_up
from streams.domain.book import Book, Cause, Received, is_remembered
from streams.domain.desk import Rows, Settlement
from streams.domain.facts import CommandRefused
from streams.domain.identity import outcome_key, payload_hash
from streams.domain.ledger import Effect
from streams.domain.mastering import trespasses
from streams.domain.program import Program
from streams.domain.refusals import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decided:
    """One change that was not decided before."""

    received: Received
    digest: str
    result: CommandResult
    refusal: Refusal | None
    detail: str | None
    changes: Sequence[AttributeChange]


def may_be_settled(account: Account | None) -> bool:
    """Whether changes can be told as one. Of who is not enrolled they wait, and those of who was merged go on, each for itself."""
    return account is not None and account.merged_into is None


def settle(
    account: Account, together: Sequence[Received], *, rows: Rows, programs: Sequence[Program], clock_ms: int, recorded_at_ms: int
) -> tuple[Settlement, tuple[SyncAudit, ...]]:
    """What follows from all, and the audits, one for each in its order. The changes carry no status; `account` is as `may_be_settled` says."""
    before = brought_up(account)
    assert before is not None, "nobody's profile changes"
    now_ms = max(clock_ms, before.clock_ms, *(one.ingested_at_ms for one in together))

    def opened(account: Account) -> Book:
        cause = _cause(together[-1])
        return Book(account, cause, None, programs=programs, now_ms=now_ms, recorded_at_ms=recorded_at_ms, outcomes=rows.outcomes, vouchers=rows.vouchers)

    book = opened(before)
    timers.advance(book)
    tiers.roll(book)
    scratch = opened(book.account)
    new: dict[bytes, _Decided] = {}
    keys: list[tuple[Received, bytes, str]] = []
    for one in together:
        command = one.command
        assert isinstance(command, ProfileChange) and command.status is None, "profile changes without a status come together"
        key, digest = outcome_key(command.program_id, command.member_id, command), payload_hash(command)
        keys.append((one, key, digest))
        if key not in new and not is_remembered(rows.outcomes.get(key), book.program, now_ms):
            new[key] = _decide(scratch, one, command, digest)
    for decided in new.values():
        if decided.refusal is not None:
            book.resume(_cause(decided.received), decided.received.command, now_ms)
            book.record(CommandRefused(refusal=decided.refusal, detail=decided.detail))
    applied = [decided.received for decided in new.values() if decided.result is CommandResult.APPLIED]
    if applied:
        book.resume(_cause(applied[-1]), applied[-1].command, now_ms)
        profiles.adopt(book, scratch.account, applied[-1].command.source_system)  # type: ignore[union-attr]
    for key, decided in new.items():
        book.outcomes[key] = _outcome(book, decided)
    book.touch(clock_ms=now_ms)
    timers.catch_up(book)
    audits = []
    for one, key, digest in keys:
        decided_now = new.get(key)
        if decided_now is not None and decided_now.received is one:
            command, outcome = one.command, book.outcomes[key]
            assert command is not None, "it was decided"
            audits.append(outbound.audit(one, command, digest, decided_now.result, outcome, recorded_at_ms, changes=decided_now.changes))
        else:
            remembered = book.outcomes.get(key) or rows.outcomes[key]
            repeated = desk.repeat(book.account, one, one.command, digest, remembered, recorded_at_ms)  # type: ignore[arg-type]
            assert repeated.audit is not None, "a repetition is answered"
            audits.append(repeated.audit)
    return desk.finish(book, None, recorded_at_ms, before), tuple(audits)


def _decide(scratch: Book, one: Received, command: ProfileChange, digest: str) -> _Decided:
    """As if it had come alone, on an account of which nobody is told."""
    scratch.resume(_cause(one), command, scratch.now_ms)
    scratch.detail = None
    start = scratch.account
    answer = desk.decide(scratch, command, Effect(), trespasses(scratch.program, command))
    refusal = answer if isinstance(answer, Refusal) else None
    result = answer if isinstance(answer, CommandResult) else CommandResult.APPLIED if answer is None else CommandResult.REFUSED
    changes = outbound.changes_between(start, scratch.account, scratch.program)
    return _Decided(received=one, digest=digest, result=result, refusal=refusal, detail=scratch.detail, changes=changes)


def _outcome(book: Book, decided: _Decided) -> Outcome:
    after = book.account
    return Outcome(
        payload_hash=decided.digest, result=decided.result, reason=decided.refusal.value if decided.refusal is not None else None,
        detail=decided.detail, sequence=after.event_sequence, available_points=after.available_points, tier=after.tier, ingested_at_ms=book.now_ms,
    )  # fmt: skip


def _cause(one: Received) -> Cause:
    assert one.command is not None, "what comes together are commands"
    return replace(desk.cause_of_command(one, one.command), reason=None)
