"""What the domain makes of commands that Hypothesis chooses: journals, events and accounts of many programmes, for those that read them elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from schemas.records import Account, LedgerEntry, LoyaltyEvent
from streams.domain.program import Program
from tests.domain.machine import Member
from tests.domain.machine_many import Members
from tests.domain.shell import Shell
from tests.domain.test_machine import SLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """All that happened to the members of one programme. Records were recorded when what caused them was ingested."""

    program: Program
    accounts: Sequence[Account]
    entries: Sequence[LedgerEntry]
    events: Sequence[LoyaltyEvent]


@cache
def journals(each: int, steps: int) -> Sequence[Journal]:
    """`each` of one member and of several members with relays between them; always the same. Programmes are p0, p1 ..."""
    found: list[Journal] = []

    def keep(shells: Sequence[Shell]) -> None:
        if any(shell.account is not None for shell in shells):
            found.append(_named(f"p{len(found)}", shells))

    class OneMember(Member):
        def teardown(self) -> None:
            super().teardown()
            if hasattr(self, "shell"):
                keep([self.shell])

    class ManyMembers(Members):
        def teardown(self) -> None:
            super().teardown()
            keep(list(self.shells.values()))

    for machine in (OneMember, ManyMembers):
        run_state_machine_as_test(machine, settings=settings(SLOW, max_examples=each, stateful_step_count=steps))
    return tuple(found)


def _named(program_id: str, shells: Sequence[Shell]) -> Journal:
    entries: list[LedgerEntry] = []
    events: list[LoyaltyEvent] = []
    for shell in shells:
        enrolled_ms = shell.events[0].ingested_at_ms if shell.events else 0  # What waited for the enrolment was decided with it.
        entries += [replace(one, program_id=program_id, recorded_at_ms=max(enrolled_ms, one.ingested_at_ms)) for one in shell.entries]
        events += [replace(one, program_id=program_id, recorded_at_ms=max(enrolled_ms, one.ingested_at_ms)) for one in shell.events]
    return Journal(
        program=replace(shells[0].program, program_id=program_id), entries=entries, events=events,
        accounts=[replace(shell.account, program_id=program_id) for shell in shells if shell.account is not None],
    )  # fmt: skip
