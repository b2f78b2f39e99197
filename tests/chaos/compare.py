"""What a partition of the pipeline holds against what must follow from its inputs. Pure: lines in, findings out."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.findings import Findings
from tests.chaos.ledger import Answer, Entry, Event, Expected, Line, Member

RELEASED = "-released"
STATE_KINDS = ("state rows that differ from the changelog", "state rows missing", "state rows too many")


@dataclass(slots=True)
class Seen:
    """How far a member's sequence was read."""

    last: int = 0
    skipped: dict[int, str] = field(default_factory=dict)
    """Numbers that were not there in their turn -> where they should have been."""


def sequence_kinds(what: str) -> tuple[str, ...]:
    return tuple(f"{what} {problem}" for problem in ("missing", "doubled", "out of order", "that differ", "too many"))


def check_sequence(
    what: str,
    topic: str,
    lines: Iterable[Line],
    wanted: Mapping[str, Sequence[Any]],
    view: Callable[[dict[str, Any]], tuple[int, Any]],
    findings: Findings,
) -> None:
    """A topic in which each member's records count from 1: every one there, once, in order, and saying what it must.

    `view(value)` gives its number and what is compared with the member's `wanted[number - 1]`.
    """
    missing, doubled, out_of_order, differ, too_many = sequence_kinds(what)
    findings.looked_for(missing, doubled, out_of_order, differ, too_many)
    seen: dict[str, Seen] = {key: Seen() for key in wanted}
    for offset, key, value in lines:
        place = f"{topic}@{offset}"
        number, content = view(value)
        member = seen.get(key)
        if member is None or number > len(wanted[key]):
            findings.add(too_many, key, place, f"{len(wanted.get(key, ()))} records", f"number {number}: {content}")
            continue
        if number == member.last + 1:
            member.last = number
        elif number in member.skipped:
            del member.skipped[number]
            findings.add(out_of_order, key, place, f"number {number} before {member.last}", "after it")
        elif number <= member.last:
            findings.add(doubled, key, place, f"number {member.last + 1}", f"number {number} again: {content}")
            continue
        else:
            member.skipped |= dict.fromkeys(range(member.last + 1, number), f"before {place}")
            member.last = number
        if content != wanted[key][number - 1]:
            findings.add(differ, key, place, wanted[key][number - 1], content)
    for key, member in seen.items():
        lost = {**member.skipped, **dict.fromkeys(range(member.last + 1, len(wanted[key]) + 1), f"the end of {topic}")}
        for number, place in lost.items():
            findings.add(missing, key, place, f"number {number}: {wanted[key][number - 1]}", "nothing")


def event_view(value: dict[str, Any]) -> tuple[int, Event]:
    account = value["account"]
    return value["sequence"], Event(
        value["kind"], value["cause"]["command_id"], value["points_delta"], account["available_points"], account["qualifying_points"], account["tier"]
    )


def entry_view(value: dict[str, Any]) -> tuple[int, Entry]:
    return value["entry_sequence"], Entry(value["transaction_id"], value["account"], value["points_delta"], value["balance_after"])


AUDIT_KINDS = ("inputs without an answer", "inputs answered twice", "answers that differ", "answers out of order", "answers to no input")


@dataclass(slots=True)
class Audited:
    """What the audit topic of a partition holds, for comparing ClickHouse with it."""

    records: Counter[str] = field(default_factory=Counter)
    """By member."""
    refusals: int = 0


def check_audits(topic: str, lines: Iterable[Line], expected: Expected, findings: Findings) -> Audited:
    """Every input has one audit record; one that had to WAIT has another one with the answer. Streams keep the order of the log."""
    missing, twice, differ, out_of_order, stray = AUDIT_KINDS
    findings.looked_for(*AUDIT_KINDS)
    audited = Audited()
    first: dict[str, dict[int, bool]] = {stream: {} for stream in expected.answers}
    """Stream -> offset of an input that has been answered -> whether the answer was WAITING."""
    released: dict[str, set[int]] = {stream: set() for stream in expected.answers}
    last: Counter[str] = Counter({stream: -1 for stream in expected.answers})
    last_released: dict[str, int] = {}
    for offset, key, value in lines:
        place, stream, of = f"{topic}@{offset}", value["stream"], value["offset"]
        audited.records[key] += 1
        found = Answer(value["result"], value["replayed"], value["points_delta"], value["sequence"], value["available_points"])
        audited.refusals += found.result == "REFUSED" and not found.replayed
        wanted = expected.answers.get(stream, {}).get(of)
        if wanted is None:
            findings.add(stray, key, place, "no such input", value["audit_id"])
            continue
        if value["audit_id"].endswith(RELEASED):
            if of in released[stream]:
                findings.add(twice, key, place, "one release", value["audit_id"])
            if not first[stream].get(of, False):
                findings.add(out_of_order, key, place, "a release of what waits", value["audit_id"])
            if of < last_released.get(key, -1):
                findings.add(out_of_order, key, place, f"above {last_released[key]}", value["audit_id"])
            released[stream].add(of)
            last_released[key] = of
        else:
            if of in first[stream]:
                findings.add(twice, key, place, "one answer", value["audit_id"])
            if of < last[stream]:
                findings.add(out_of_order, key, place, f"above {last[stream]}", value["audit_id"])
            last[stream] = of
            first[stream][of] = found.result == "WAITING"
            if found.result == "WAITING":
                continue
        if found != wanted:
            findings.add(differ, key, place, f"{value['audit_id']}: {wanted}", found)
    for stream, answers in expected.answers.items():
        for of in answers:
            waits = first[stream].get(of)
            if waits is None or (waits and of not in released[stream]):
                findings.add(missing, stream, f"{stream}@{of}", answers[of], "WAITING only" if waits else "nothing")
    return audited


TABLE_KINDS = tuple(f"{table} {problem}" for table in ("accounts", "outcomes") for problem in ("missing", "that differ", "too many"))


def account_row(value: dict[str, Any]) -> tuple[Any, ...]:
    names = ("available_points", "debt_points", "qualifying_points", "tier", "event_sequence", "entry_sequence", "profile_version")
    return tuple(value[name] for name in names)


def outcome_row(value: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(value[name] for name in ("result", "points_delta", "reversed_points", "sequence", "available_points", "tier"))


def check_rows(table: str, place: str, wanted: Mapping[str, tuple[Any, ...]], rows: Mapping[str, tuple[Any, ...]], findings: Findings) -> None:
    """A table, row by row."""
    findings.looked_for(*(f"{table} {problem}" for problem in ("missing", "that differ", "too many")))
    for key, row in wanted.items():
        if key not in rows:
            findings.add(f"{table} missing", key, place, row, "no row")
        elif rows[key] != row:
            findings.add(f"{table} that differ", key, place, row, rows[key])
    for key in rows.keys() - wanted.keys():
        findings.add(f"{table} too many", key, place, "no row", rows[key])


def wanted_accounts(members: Mapping[str, Member]) -> dict[str, tuple[Any, ...]]:
    return {key: member.row() for key, member in members.items()}


def wanted_outcomes(members: Mapping[str, Member]) -> dict[str, tuple[Any, ...]]:
    return {f"{key}\0{identity}": outcome.row() for key, member in members.items() for identity, outcome in member.outcomes.items()}


def check_state(place: str, changelog: Mapping[bytes, bytes], state: Mapping[bytes, bytes], findings: Findings) -> None:
    """The local copy, row by row and byte by byte."""
    differ, missing, too_many = STATE_KINDS
    findings.looked_for(*STATE_KINDS)
    for key, row in changelog.items():
        if key not in state:
            findings.add(missing, repr(key), place, row.hex(), "no row")
        elif state[key] != row:
            findings.add(differ, repr(key), place, row.hex(), state[key].hex())
    for key in state.keys() - changelog.keys():
        findings.add(too_many, repr(key), place, "no row", state[key].hex())


def check_versions(topic: str, lines: Iterable[Line], members: Mapping[str, Member], findings: Findings) -> None:
    """The profiles topic: versions from 1 to the member's last."""
    wanted = {key: range(1, member.versions + 1) for key, member in members.items()}
    check_sequence("profile versions", topic, lines, wanted, lambda value: (value["version"], value["version"]), findings)


def check_dead_letters(topic: str, lines: Iterable[Line], findings: Findings) -> None:
    """Nothing in the traffic deserves one."""
    findings.looked_for("dead letters")
    for offset, key, value in lines:
        findings.add("dead letters", key, f"{topic}@{offset}", "none", f"{value['reason']}: {value['topic']}@{value['offset']}")
