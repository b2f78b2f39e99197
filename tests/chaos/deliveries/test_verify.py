"""A test of the test: whatever of a faultless storm is changed by one thing, the recount finds, and names what it is."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from schemas.records import DeadLetter, DeliveryAudit, DeliveryResult
from tests.audit.chains import chain
from tests.chaos.deliveries import plan, verify
from tests.chaos.deliveries.verify import Seen, Window
from tests.chaos.findings import Findings
from tests.sinks import examples

WANTED = {"m0": 4, "m1": 3}
DESTINATIONS = ("app", "crm")
WINDOW = Window(100, 105, "a kill")


def event_id(member: str, sequence: int) -> str:
    return f"{member}-{sequence}"


def seen(destination: str, member: str, sequence: int, at_ns: int, *, accepted: bool = True, job: str = "") -> Seen:
    return Seen(destination, member, sequence, event_id(member, sequence), at_ns, accepted, job, "")


@dataclass
class Storm:
    """What a faultless one leaves behind: some failures, one repeat after a kill, one replay."""

    requests: list[Seen] = field(default_factory=list)
    audits: list[DeliveryAudit] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)

    def verify(self) -> Findings:
        findings = Findings()
        replayed = {("app", "m1-1"): 1}
        verify.check_requests(self.requests, WANTED, DESTINATIONS, [WINDOW], findings, event_id=event_id)
        verify.check_audits([self.audits], WANTED, DESTINATIONS, replayed, findings, event_id=event_id)
        verify.check_dead_letters(self.letters, findings)
        return findings

    def place(self, destination: str, member: str, sequence: int) -> int:
        """Of the event's first acceptance."""
        wanted = (destination, member, sequence, True, "")
        return next(n for n, one in enumerate(self.requests) if (one.destination, one.member, one.sequence, one.accepted, one.job) == wanted)

    def change(self, number: int, **values: object) -> None:
        self.requests[number] = self.requests[number]._replace(**values)  # type: ignore[arg-type]

    def link(self) -> None:
        """Make each destination's chain anew."""
        self.audits = [
            record for destination in DESTINATIONS for record in chain([one for one in self.audits if one.destination == destination])
        ]  # fmt: skip


def audit(destination: str, member: str, sequence: int, **values: object) -> DeliveryAudit:
    event = event_id(member, sequence)
    return examples.delivery_audit(sequence, member, destination=destination, event_id=event, delivery_id=f"{destination}/{event}", **values)


def faultless() -> Storm:
    storm = Storm()
    for destination in DESTINATIONS:
        for member, count in WANTED.items():
            for sequence in range(1, count + 1):
                storm.requests.append(seen(destination, member, sequence, 10 * sequence, accepted=False))
                storm.requests.append(seen(destination, member, sequence, 10 * sequence + 1))
                storm.audits.append(audit(destination, member, sequence))
    first = storm.place("crm", "m0", 4)
    storm.change(first, at_ns=103)
    storm.requests.append(seen("crm", "m0", 4, 110))
    storm.requests.append(seen("app", "m1", 1, 200, job="again"))
    storm.audits.append(audit("app", "m1", 1))
    storm.link()
    return storm


def test_a_faultless_storm_passes_and_everything_was_looked_for() -> None:
    assert faultless().verify().counts == dict.fromkeys([*verify.REQUEST_KINDS, *verify.RECORD_KINDS], 0)


def test_what_is_repeated_and_replayed_is_counted() -> None:
    recount = verify.check_requests(faultless().requests, WANTED, DESTINATIONS, [WINDOW], Findings(), event_id=event_id)
    assert (recount.accepted, recount.by_cause(), recount.replayed) == (14, {"a kill": [1]}, 1)


Tamper = Callable[[Storm], object]


def without_audit(storm: Storm) -> None:
    storm.audits.remove(next(one for one in storm.audits if one.event_id == "m0-2"))
    storm.link()


def audited_again(storm: Storm) -> None:
    storm.audits.append(audit("crm", "m0", 2))
    storm.link()


def given_up(storm: Storm) -> None:
    storm.audits.append(audit("crm", "m0", 2, result=DeliveryResult.DEAD_LETTERED))
    storm.link()


def audited_stray(storm: Storm) -> None:
    storm.audits.append(audit("crm", "m9", 1))
    storm.link()


def never_accepted(storm: Storm) -> None:
    del storm.requests[storm.place("app", "m0", 4)]


def before_its_turn(storm: Storm) -> None:
    """The acceptances of two events of one member change places; their failures stay where they are."""
    first, second = storm.place("app", "m0", 2), storm.place("app", "m0", 3)
    del storm.requests[second - 1]
    storm.requests[first], storm.requests[second - 1] = storm.requests[second - 1], storm.requests[first]


TAMPERS: dict[str, Tamper] = {
    verify.LOST: never_accepted,
    verify.OUT_OF_ORDER: before_its_turn,
    verify.OUT_OF_TURN: lambda storm: storm.requests.insert(0, seen("crm", "m1", 3, 1, accepted=False)),
    verify.OTHER_ID: lambda storm: storm.change(storm.place("crm", "m0", 2), webhook_id="random"),
    verify.UNCAUSED: lambda storm: storm.requests.append(seen("crm", "m0", 1, 120)),
    verify.NOT_GENUINE: lambda storm: storm.requests.insert(0, seen("crm", "m0", 1, 1)._replace(accepted=False, problem="BAD_SIGNATURE")),
    verify.STRAY: lambda storm: storm.requests.append(seen("crm", "m0", 5, 300)),
    verify.CHAINS: lambda storm: storm.audits.__setitem__(3, storm.audits[3].but(attempts=77)),
    verify.UNAUDITED: without_audit,
    verify.AUDITED_TWICE: audited_again,
    verify.AUDITED_STRAY: audited_stray,
    verify.GIVEN_UP: given_up,
    verify.DEAD: lambda storm: storm.letters.append(examples.dead_letter()),
}


@pytest.mark.parametrize("kind", TAMPERS)
def test_one_thing_that_is_wrong_is_found_and_named(kind: str) -> None:
    storm = faultless()
    TAMPERS[kind](storm)
    findings = storm.verify()
    assert findings.counts[kind] == 1
    assert findings.total == 1
    assert [sample.kind for sample in findings.samples] == [kind]


def test_a_line_of_the_log_is_read_as_it_was_written() -> None:
    one = Seen("crm", "m0", 7, "e-7", 123_456_789, True, "job-1", "")
    assert Seen.of(one.line()) == one
    assert Seen.of(one._replace(accepted=False, problem="BAD_SIGNATURE").line()) == one._replace(accepted=False, problem="BAD_SIGNATURE")


def test_the_same_seed_draws_the_same_storm() -> None:
    kinds = plan.counts(5)
    assert plan.draw(7, seconds=100, sinks=3, kinds=kinds) == plan.draw(7, seconds=100, sinks=3, kinds=kinds)
    assert plan.draw(7, seconds=100, sinks=3, kinds=kinds) != plan.draw(8, seconds=100, sinks=3, kinds=kinds)
    assert list(plan.traffic(7, 500, 20)) == list(plan.traffic(7, 500, 20))


def test_every_script_ends_with_an_acceptance_and_all_of_them_are_drawn() -> None:
    drawn = {plan.script(7, "crm", f"m{member}", sequence) for member in range(50) for sequence in range(1, 41)}
    assert drawn == {replies for _, replies in plan.STORMY}
    assert all(replies[-1].accepts for replies in drawn)


def test_the_traffic_counts_each_member_from_one() -> None:
    newest: dict[str, int] = {}
    for member, sequence in plan.traffic(7, 2_000, 30):
        assert sequence == newest.get(member, 0) + 1
        newest[member] = sequence
    assert len(newest) == 31
    assert newest[plan.HOT] == max(newest.values()) > 2_000 / plan.HOT_ONE_IN / 2
