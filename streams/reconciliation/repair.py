"""Differences of one member -> the events that would mend them, as the source itself would have sent them. Nothing is written but events.

An event's id is made of what it says and of the profile that it is to change: a repair that is sent again before it was decided is the same
event, and changes nothing a second time; one that is needed anew later is another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import orjson

from schemas.contract import Command, problems
from schemas.records import Account, Enrolment, MemberStatus, ProfileChange
from streams.domain.identity import payload_hash
from streams.domain.mastering import EXTERNAL_IDS, SEGMENTS, STATUS, master_of
from streams.domain.origins import STATUS_RANK, Word, by_name, is_news
from streams.reconciliation.comparison import Difference, Kind, Policy, ours_of
from streams.reconciliation.exports import Row, Said

ACTOR = "loyalty reconcile"
ABSENT_REASON = "not in the source's export any more"
NONE = "none: "


@dataclass(frozen=True, slots=True)
class Plan:
    """The differences, each with the event that repairs it or why none does; and the events, in the order in which they are sent."""

    differences: list[Difference]
    commands: tuple[Command, ...]


def plan(policy: Policy, account: Account | None, row: Row | None, found: Sequence[Difference]) -> Plan:
    """What to send for one member."""
    if not found:
        return Plan([], ())
    kind = found[0].kind
    if kind is Kind.MISSING_HERE:
        assert row is not None
        return _enrol(policy, row, list(found))
    assert account is not None
    if kind is Kind.MISSING_THERE:
        return _absent(policy, account, list(found))
    if kind in (Kind.ERASED_HERE, Kind.MERGED_HERE):
        return _none(found, f"a member who was {'erased' if kind is Kind.ERASED_HERE else 'merged'} is not changed by an export")
    if kind is Kind.VERSION_AHEAD:
        return _none(found, "what came is newer than the export")
    assert row is not None
    return _change(policy, account, row, list(found))


def _none(found: Sequence[Difference], why: str) -> Plan:
    return Plan([replace(one, repair=NONE + why) for one in found], ())


def _enrol(policy: Policy, row: Row, found: list[Difference]) -> Plan:
    if not row.member_id:
        return _none(found, "the export has no member id: --id names the column with the one to enrol under")
    if not policy.may_say(STATUS):
        return _none(found, f"enrolments are mastered by {master_of(policy.program.mastering, STATUS)}")
    said = _told(policy, row)
    enrolment = Enrolment(
        program_id=policy.program.program_id, member_id=row.member_id, event_id="", source_system=policy.source, occurred_at_ms=policy.now_ms,
        source_version=row.version, actor=ACTOR,
        attributes={part: value for part, value in said.items() if isinstance(value, str) and _is_attribute(part)},
        segments=_tags(said.get(SEGMENTS)),
        external_ids={part.removeprefix(EXTERNAL_IDS): value for part, value in said.items() if isinstance(value, str) and part.startswith(EXTERNAL_IDS)}
        or None,
    )  # fmt: skip
    commands: list[Command] = [_with_id(policy, enrolment, 0)]
    status = said.get(STATUS)
    if status is not None and status != MemberStatus.ACTIVE.value:
        commands.append(_with_id(policy, _profile_change(policy, row.member_id, row.version, {STATUS: status}), 0))
    return _checked(found, commands)


def _absent(policy: Policy, account: Account, found: list[Difference]) -> Plan:
    if policy.absent is None:
        return _none(found, "what it means that the export does not have a member is for you to say: --absent SUSPENDED or --absent LEFT")
    if not policy.may_say(STATUS):
        return _none(found, f"the status is mastered by {master_of(policy.program.mastering, STATUS)}")
    change = replace(_profile_change(policy, account.member_id, None, {STATUS: policy.absent.value}), status_reason=ABSENT_REASON)
    return _checked(found, [_with_id(policy, change, account.profile_version)])


def _change(policy: Policy, account: Account, row: Row, found: list[Difference]) -> Plan:
    parts = {one.part for one in found if one.part} or set(_told(policy, row))
    reasons: dict[str, str] = {}
    for part in sorted(parts):
        if not policy.may_say(part):
            reasons[part] = f"{part} is mastered by {master_of(policy.program.mastering, part)}"
        elif part == STATUS and account.scheduled_status is not None and account.scheduled_status.value == row.said[STATUS]:
            reasons[part] = "it takes effect by itself"
        elif not _would_count(policy, account, row, part):
            reasons[part] = "what had the last word is not older than the export"
    sent = {part: row.said[part] for part in sorted(parts - reasons.keys())}
    marked = [replace(one, repair=NONE + reasons[one.part]) if one.part in reasons else one for one in found]
    if not sent:
        return Plan([one if one.repair else replace(one, repair=NONE + "; ".join(reasons.values())) for one in marked], ())
    change = _profile_change(policy, account.member_id, row.version, sent)
    return _checked(marked, [_with_id(policy, change, account.profile_version)])


def _would_count(policy: Policy, account: Account, row: Row, part: str) -> bool:
    """Whether the ledger would take the row's word: by the ledger's own rule."""
    command = _profile_change(policy, account.member_id, row.version, {part: row.said[part]})
    is_master = master_of(policy.program.mastering, part) == policy.source
    ours = (account.scheduled_status or account.status).value if part == STATUS else ours_of(account, part)
    return is_news(account, by_name(account), command, part, said=_word(part, row.said[part]), current=_word(part, ours), is_master=is_master)


def _word(part: str, value: Said) -> Word:
    if part == STATUS and isinstance(value, str):
        return STATUS_RANK.get(MemberStatus(value), -1)
    return value if value is not None else ""


def _told(policy: Policy, row: Row) -> dict[str, Said]:
    """What the row says of the parts that are compared and that the source may speak of."""
    return {part: value for part, value in row.said.items() if policy.compares(part) and policy.may_say(part)}


def _profile_change(policy: Policy, member_id: str, version: int | None, said: dict[str, Said]) -> ProfileChange:
    status = said.get(STATUS)
    segments = said.get(SEGMENTS)
    return ProfileChange(
        program_id=policy.program.program_id, member_id=member_id, event_id="", source_system=policy.source, occurred_at_ms=policy.now_ms,
        source_version=version, actor=ACTOR,
        attributes={part: value for part, value in said.items() if _is_attribute(part) and not isinstance(value, tuple)},
        segments=_tags(segments) if SEGMENTS in said else None,
        status=MemberStatus(status) if isinstance(status, str) else None,
        external_ids={
            part.removeprefix(EXTERNAL_IDS): value for part, value in said.items() if part.startswith(EXTERNAL_IDS) and not isinstance(value, tuple)
        } or None,
    )  # fmt: skip


def _is_attribute(part: str) -> bool:
    return part not in (SEGMENTS, STATUS) and not part.startswith(EXTERNAL_IDS)


def _tags(value: Said) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()


def _with_id(policy: Policy, command: Enrolment | ProfileChange, profile_version: int) -> Command:
    """The rules' version counts, too: what they refused is asked anew when there are others."""
    content = orjson.dumps([payload_hash(command), profile_version, policy.program.version])
    return replace(command, event_id=f"reconcile:{sha256(content).hexdigest()[:32]}")


def _checked(found: list[Difference], commands: list[Command]) -> Plan:
    broken = [problem for command in commands for problem in problems(command)]
    if broken:
        return Plan([one if one.repair else replace(one, repair=f"{NONE}{broken[0].field} {broken[0].detail}") for one in found], ())
    ids = ", ".join(command.event_id for command in commands if isinstance(command, Enrolment | ProfileChange))
    return Plan([one if one.repair else replace(one, repair=ids) for one in found], tuple(commands))
