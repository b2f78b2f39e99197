"""What the receiver saw, and what the topics say of it -> what is wrong. Pure: requests and records in, findings out.

Requests of replays repeat on purpose: they count for genuineness and for their webhook-id, and prove nothing about order or loss.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.records import DeadLetter, DeliveryAudit, DeliveryResult
from streams.audit.verification import Verifier, link_of
from tests.chaos.findings import Findings

LOST, OUT_OF_ORDER, OUT_OF_TURN = "events lost", "events accepted before an earlier one", "attempts before an earlier event was accepted"
OTHER_ID, UNCAUSED = "repeats with another webhook-id", "repeats that nothing explains"
NOT_GENUINE, STRAY = "requests that are not genuine", "requests about no event"
CHAINS, UNAUDITED, AUDITED_TWICE = "audit chains that are broken", "deliveries without an audit record", "deliveries audited twice"
AUDITED_STRAY, GIVEN_UP, DEAD = "audit records of no delivery", "events given up", "dead letters"
REQUEST_KINDS = (LOST, OUT_OF_ORDER, OUT_OF_TURN, OTHER_ID, UNCAUSED, NOT_GENUINE, STRAY)
RECORD_KINDS = (CHAINS, UNAUDITED, AUDITED_TWICE, AUDITED_STRAY, GIVEN_UP, DEAD)


class Seen(NamedTuple):
    """One request."""

    destination: str
    member: str
    sequence: int
    webhook_id: str
    at_ns: int
    accepted: bool
    job: str
    """Of a replay; empty for all others."""
    problem: str
    """Why it is not genuine; empty if it is."""

    def line(self) -> str:
        return "\t".join((*map(str, self[:5]), str(int(self.accepted)), self.job, self.problem)) + "\n"

    @classmethod
    def of(cls, line: str) -> "Seen":
        destination, member, sequence, webhook_id, at_ns, accepted, job, problem = line.rstrip("\n").split("\t")
        return cls(destination, member, int(sequence), webhook_id, int(at_ns), accepted == "1", job, problem)


class Window(NamedTuple):
    """A time in which a delivery may have been accepted without being on record: it may be repeated."""

    begin_ns: int
    end_ns: int
    why: str


@dataclass(slots=True)
class Recount:
    """What was counted beside the findings."""

    requests: int = 0
    accepted: int = 0
    """Events, each once per destination."""
    repeated: Counter[Window] = field(default_factory=Counter)
    """Requests about what had been accepted, by what explains them."""
    replayed: int = 0

    def by_cause(self) -> dict[str, list[int]]:
        """What explains repeats -> how many each of its times has caused."""
        found: dict[str, list[int]] = {}
        for window, count in self.repeated.items():
            found.setdefault(window.why, []).append(count)
        return found


class _Member:
    """How far one member has come at one destination."""

    __slots__ = ("accepted", "next", "first_ns")

    def __init__(self) -> None:
        self.next = 1
        self.accepted: set[int] = set()
        """From `next` on."""
        self.first_ns: dict[int, int] = {}
        """Sequence -> when it was first accepted."""


def check_requests(
    requests: Iterable[Seen], wanted: Mapping[str, int], destinations: Collection[str], windows: Sequence[Window], findings: Findings,
    *, event_id: Callable[[str, int], str],
) -> Recount:  # fmt: skip
    """`wanted`: member -> the number of its events, whose sequences count from 1; each goes to all destinations. `requests` in their order."""
    findings.looked_for(*REQUEST_KINDS)
    recount = Recount()
    members = {(destination, member): _Member() for destination in destinations for member in wanted}
    for number, one in enumerate(requests, 1):
        recount.requests += 1
        key, place = f"{one.destination}/{one.member}", f"request {number}, sequence {one.sequence}"
        member = members.get((one.destination, one.member))
        if one.problem:
            findings.add(NOT_GENUINE, key, place, "a valid signature", one.problem)
            continue
        if member is None or not 1 <= one.sequence <= wanted[one.member]:
            findings.add(STRAY, key, place, "an event of the feed", one.webhook_id)
            continue
        if one.webhook_id != event_id(one.member, one.sequence):
            findings.add(OTHER_ID, key, place, event_id(one.member, one.sequence), one.webhook_id)
        if one.job:
            recount.replayed += one.accepted
        else:
            _attempt(one, member, key, place, windows, findings, recount)
    for (destination, name), member in members.items():
        for sequence in range(1, wanted[name] + 1):
            if sequence not in member.first_ns:
                findings.add(LOST, f"{destination}/{name}", f"sequence {sequence}", "accepted", "never")
    return recount


def _attempt(one: Seen, member: _Member, key: str, place: str, windows: Sequence[Window], findings: Findings, recount: Recount) -> None:
    sequence = one.sequence
    if sequence > member.next and sequence not in member.first_ns:
        kind = OUT_OF_ORDER if one.accepted else OUT_OF_TURN
        findings.add(kind, key, place, f"{member.next} before it", f"{sequence} {'accepted' if one.accepted else 'attempted'}")
    first_ns = member.first_ns.get(sequence)
    if first_ns is not None:
        window = next((window for window in windows if window.begin_ns <= first_ns <= window.end_ns), None)
        if window is not None:
            recount.repeated[window] += 1
        else:
            findings.add(UNCAUSED, key, place, "accepted once", "accepted before, and sent again")
    elif one.accepted:
        recount.accepted += 1
        member.first_ns[sequence] = one.at_ns
        member.accepted.add(sequence)
        while member.next in member.accepted:
            member.accepted.discard(member.next)
            member.next += 1


def check_audits(
    partitions: Iterable[Iterable[DeliveryAudit]], wanted: Mapping[str, int], destinations: Collection[str], replayed: Mapping[tuple[str, str], int],
    findings: Findings, *, event_id: Callable[[str, int], str],
) -> int:  # fmt: skip
    """Each delivery is on record exactly once, and once more for each time that a replay delivered it; chains are whole. How many records.

    `replayed`: (destination, event id) -> how often a replay's request was accepted.
    """
    findings.looked_for(CHAINS, UNAUDITED, AUDITED_TWICE, AUDITED_STRAY, GIVEN_UP)
    events = {event_id(member, sequence) for member, count in wanted.items() for sequence in range(1, count + 1)}
    verifier, found = Verifier(), Counter[tuple[str, str]]()
    count = 0
    for partition, records in enumerate(partitions):
        for number, record in enumerate(records, 1):
            count += 1
            place = f"partition {partition}, record {number}"
            verifier.add(link_of(record, partition, place))
            if record.destination not in destinations or record.event_id not in events:
                findings.add(AUDITED_STRAY, record.delivery_id, place, "an event of the feed", f"{record.kind} {record.result.value}")
            elif record.result is not DeliveryResult.DELIVERED:
                findings.add(GIVEN_UP, record.delivery_id, place, "DELIVERED", f"{record.result.value} {record.reason}")
            else:
                found[record.destination, record.event_id] += 1
    for chain in verifier.finish():
        if chain.broken is not None or chain.beginning_is_gone:
            findings.add(CHAINS, chain.name, str(chain.broken and chain.broken.place), "whole", chain.broken or "it does not begin with 1")
    for destination in destinations:
        for event in events:
            times = found[destination, event]
            if not times:
                findings.add(UNAUDITED, f"{destination}/{event}", "delivery-audit", "1 record", "none")
            elif times > 1 + replayed.get((destination, event), 0):
                findings.add(AUDITED_TWICE, f"{destination}/{event}", "delivery-audit", f"{1 + replayed.get((destination, event), 0)} records", times)
    return count


def check_dead_letters(letters: Iterable[DeadLetter], findings: Findings) -> None:
    """Customers' failures are none of the system's."""
    findings.looked_for(DEAD)
    for letter in letters:
        findings.add(DEAD, letter.dead_letter_id, f"{letter.topic}[{letter.partition}]@{letter.offset}", "none", f"{letter.reason}: {letter.detail}")
