"""A member as we have them, and as the source's export does -> differences, and for each the event that explains it. Pure.

What is compared is what the programme's mastering policy gives to the source, by the rules in force. Whether a repair would count is not
guessed: the same function decides it as in the ledger (streams/domain/origins.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from schemas.records import Account, AttributeOrigin, MemberStatus
from streams.domain.mastering import EXTERNAL_IDS, SEGMENTS, STATUS, master_of
from streams.domain.origins import STATUS_RANK, by_name
from streams.domain.outbound import masked
from streams.domain.program import Program, in_force
from streams.publishing import rfc_3339
from streams.reconciliation.exports import Row, Said

UNMASKED = frozenset({SEGMENTS, STATUS})


class Kind(StrEnum):
    """How the two stores differ."""

    MISSING_HERE = "missing_here"
    """The source has a member whom we do not have."""
    MISSING_THERE = "missing_there"
    """We have a member whom the source masters and does not have."""
    ATTRIBUTE = "attribute"
    """An attribute, the segments or an external id differs."""
    STATUS = "status"
    VERSION_BEHIND = "version_behind"
    """All that is compared is the same, but the source has a newer version than the newest event that came."""
    VERSION_AHEAD = "version_ahead"
    """The other way round: the export is older than what came."""
    MERGED_HERE = "merged_here"
    ERASED_HERE = "erased_here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that the two stores do not agree on."""

    kind: Kind
    member_id: str
    """Empty: the source has an external id only, and no member has it."""
    part: str = ""
    """Of the profile; empty where it is about the member."""
    ours: Said = None
    theirs: Said = None
    line: int | None = None
    """Of the export."""
    version_here: int | None = None
    """Of the newest event of the source that came for the member."""
    version_there: int | None = None
    origin: AttributeOrigin | None = None
    """What had the last word here."""
    explanation: str = ""
    repair: str = ""
    """Id of the event that would repair it, or `none: why not`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is compared."""

    source: str
    versions: Sequence[Program]
    """Of the programme's rules, all of them."""
    now_ms: int
    all_attributes: bool = False
    ignore_versions: bool = False
    absent: MemberStatus | None = None
    """What it says of a member that the export does not have them."""

    @property
    def program(self) -> Program:
        return in_force(self.versions, self.now_ms)

    def compares(self, part: str) -> bool:
        return self.all_attributes or master_of(self.program.mastering, part) == self.source

    def may_say(self, part: str) -> bool:
        """Whether the source's word on it is not refused."""
        return master_of(self.program.mastering, part) in (None, self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of an event of the source: an audit record, or a dead letter."""

    event_id: str
    stream: str
    result: str
    """Of the audit, or DEAD_LETTERED."""
    reason: str = ""
    detail: str = ""
    version: int | None = None
    ingested_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a member beside the account."""

    answers: Sequence[Answer] = ()
    waiting: int = 0
    """Commands that wait for the enrolment."""
    waiting_since_ms: int = 0


NO_EVIDENCE = Evidence()


def compare(policy: Policy, account: Account | None, row: Row | None) -> list[Difference]:
    """Every difference, unexplained, in the order of the parts' names."""
    if row is None:
        assert account is not None, "one of the two is there"
        return _missing_there(policy, account)
    if account is None:
        if row.said.get(STATUS) == MemberStatus.LEFT.value:
            return []  # Who is gone need not come.
        return [Difference(kind=Kind.MISSING_HERE, member_id=row.member_id, line=row.line, version_there=row.version)]
    there = Difference(
        kind=Kind.ATTRIBUTE, member_id=account.member_id, line=row.line, version_there=row.version,
        version_here=account.source_versions.get(policy.source),
    )  # fmt: skip
    if account.status is MemberStatus.ERASED:
        return [replace(there, kind=Kind.ERASED_HERE)]
    if account.merged_into is not None:
        return [replace(there, kind=Kind.MERGED_HERE)]
    origins, found = by_name(account), []
    for part, theirs in sorted(row.said.items()):
        ours = ours_of(account, part)
        if ours != theirs and policy.compares(part):
            kind = Kind.STATUS if part == STATUS else Kind.ATTRIBUTE
            found.append(replace(there, kind=kind, part=part, ours=ours, theirs=theirs, origin=origins.get(part)))
    if found or policy.ignore_versions or row.version is None or there.version_here == row.version:
        return found
    is_behind = there.version_here is None or there.version_here < row.version
    return [replace(there, kind=Kind.VERSION_BEHIND if is_behind else Kind.VERSION_AHEAD)]


def _missing_there(policy: Policy, account: Account) -> list[Difference]:
    if account.status in (MemberStatus.ERASED, MemberStatus.MERGED, MemberStatus.LEFT) or account.merged_into is not None:
        return []
    if policy.absent is not None and STATUS_RANK[account.status] >= STATUS_RANK[policy.absent]:
        return []  # That they are not there says no more.
    origins = by_name(account)
    spoke = [origin for origin in account.origins if origin.source_system == policy.source]
    if not spoke and master_of(policy.program.mastering, STATUS) != policy.source:
        return []  # The source never had to do with them.
    newest = max(spoke, key=lambda origin: (origin.source_version or 0, origin.occurred_at_ms), default=origins.get(STATUS))
    return [
        Difference(
            kind=Kind.MISSING_THERE, member_id=account.member_id, version_here=account.source_versions.get(policy.source), origin=newest,
        )
    ]  # fmt: skip


def ours_of(account: Account, part: str) -> Said:
    """What the member's account says of a part, in the form of a row's word."""
    if part == SEGMENTS:
        return account.segments
    if part == STATUS:
        return account.status.value
    if part.startswith(EXTERNAL_IDS):
        return account.external_ids.get(part.removeprefix(EXTERNAL_IDS))
    return account.attributes.get(part)


def explained(policy: Policy, account: Account | None, one: Difference, evidence: Evidence = NO_EVIDENCE) -> Difference:
    """The difference with the event that explains it."""
    return replace(one, explanation=_explanation(policy, account, one, evidence))


def _explanation(policy: Policy, account: Account | None, one: Difference, evidence: Evidence) -> str:
    source = policy.source
    trouble = _trouble(one, evidence)
    match one.kind:
        case Kind.MISSING_HERE:
            if evidence.waiting:
                commands = f"{evidence.waiting} command{'s' * (evidence.waiting > 1)}"
                waits = f"{commands} for them wait{'s' * (evidence.waiting == 1)} for the enrolment since {rfc_3339(evidence.waiting_since_ms)}"
                return f"{waits}; {trouble}" if trouble else waits
            return trouble or f"never arrived: no enrolment of {source} for them is known"
        case Kind.MISSING_THERE:
            if one.origin is None:
                return "no event of any source is known for them"
            return f"{_named(one.origin)} spoke of them last, and the export does not have them"
        case Kind.ERASED_HERE:
            return f"erased here: {source} still holds them"
        case Kind.MERGED_HERE:
            assert account is not None
            return f"merged here into {account.merged_into}: {source} still has them as a member of their own"
        case Kind.VERSION_AHEAD:
            return _export_is_older(one, account, source)
        case Kind.VERSION_BEHIND:
            return trouble or _never_arrived(one, source)
    assert account is not None
    if one.kind is Kind.STATUS and account.scheduled_status is not None and account.scheduled_status.value == one.theirs:
        by = f", said by {_named(one.origin)}" if one.origin is not None else ""
        return f"scheduled here: {one.theirs} takes effect at {rfc_3339(account.scheduled_at_ms or 0)}{by}"
    if trouble:
        return trouble
    if one.version_there is not None and (one.version_here is None or one.version_here < one.version_there):
        return _never_arrived(one, source) + _last_word(policy, one)
    if one.origin is None:
        return f"no event is known that said anything of it here; {source}'s events never did"
    if one.origin.source_system != source:
        return _named(one.origin) + " had the last word" + _before_the_policy(policy, one.part)
    if one.version_there is None:
        return f"{_named(one.origin)} had the last word; the export has no version to compare with it"
    if one.origin.source_version is not None and one.origin.source_version > one.version_there:
        return f"superseded: the export has version {one.version_there}, and {_named(one.origin)} had the last word"
    if one.origin.source_version == one.version_there:
        return f"{_named(one.origin)} says otherwise under the same version as the export"
    return f"never said: the event of version {one.version_there} came without it, and {_named(one.origin)} had the last word"


def _named(origin: AttributeOrigin) -> str:
    version = "" if origin.source_version is None else f" version {origin.source_version}"
    return f"event {origin.event_id} of {origin.source_system}{version} ({rfc_3339(origin.occurred_at_ms)})"


def _never_arrived(one: Difference, source: str) -> str:
    if one.version_here is None:
        return f"never arrived: no event of {source} with a version came for this member, the export has {one.version_there}"
    return f"never arrived: the newest event of {source} for this member is version {one.version_here}, the export has {one.version_there}"


def _last_word(policy: Policy, one: Difference) -> str:
    """Of another system: without it the source's older word would stand here."""
    if one.origin is None or one.origin.source_system == policy.source:
        return ""
    return f"; {_named(one.origin)} had the last word" + _before_the_policy(policy, one.part)


def _export_is_older(one: Difference, account: Account | None, source: str) -> str:
    assert account is not None
    newest = next((origin for origin in account.origins if origin.source_system == source and origin.source_version == one.version_here), None)
    what = _named(newest) if newest is not None else f"an event of {source} version {one.version_here}"
    return f"the export is older: it has version {one.version_there}, and {what} came since"


def _before_the_policy(policy: Policy, part: str) -> str:
    """Since when the source masters the part, if it does."""
    if master_of(policy.program.mastering, part) != policy.source:
        return f"; {part} is not mastered by {policy.source}"
    since = policy.program
    for version in reversed([version for version in policy.versions if version.version < since.version]):
        if master_of(version.mastering, part) != policy.source:
            return f", by rules from before {policy.source} mastered {part}: version {since.version}, in force since {rfc_3339(since.effective_from_ms)}"
        since = version
    return ""


_WORDS = {"REFUSED": "was refused", "CONFLICT": "was a conflict", "DEAD_LETTERED": "was given up", "SUPERSEDED": "was superseded", "WAITING": "waits"}


def _trouble(one: Difference, evidence: Evidence) -> str:
    """The event of the source that should have brought it, and what became of it instead; empty: there is none."""
    # Of two answers to the same event the later counts: one that waited was decided since.
    latest: dict[str, Answer] = {}
    for answer in sorted(evidence.answers, key=lambda answer: answer.ingested_at_ms):
        if answer.event_id not in latest or answer.result != "WAITING":
            latest[answer.event_id] = answer
    # Without a version to go by, what was taken since makes good for what went wrong before.
    taken_ms = max((answer.ingested_at_ms for answer in latest.values() if answer.result == "APPLIED"), default=0)
    candidates = [
        answer for answer in latest.values()
        if answer.result in _WORDS
        and (answer.ingested_at_ms >= taken_ms if one.version_there is None or answer.version is None else answer.version >= one.version_there)
    ]  # fmt: skip
    if not candidates:
        return ""
    exact = [answer for answer in candidates if answer.version == one.version_there] or candidates
    answer = max(exact, key=lambda answer: answer.ingested_at_ms)
    version = "" if answer.version is None else f" version {answer.version}"
    why = ": " + ", ".join(text for text in (answer.reason, answer.detail) if text) if answer.reason or answer.detail else ""
    by = f", by {_named(one.origin)}" if answer.result == "SUPERSEDED" and one.origin is not None else ""
    return f"event {answer.event_id}{version} {_WORDS[answer.result]} at {rfc_3339(answer.ingested_at_ms)}{why}{by}"


@dataclass(frozen=True, slots=True)
class Mask:
    """How values are shown: as the audit of the programme shows them, or in full."""

    program: Program
    show: bool = False

    def __call__(self, part: str, value: Said) -> str | None:
        if value is None:
            return None
        text = ", ".join(value) if isinstance(value, tuple) else value
        if self.show or part in UNMASKED:
            return text
        return masked(self.program, part, text)
