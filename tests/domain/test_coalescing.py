"""Changes that are told as one leave what they would have left one by one, and each has its own answer."""

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import Account, CommandResult, LoyaltyEventKind, ProfileChange, RelayKind
from streams.domain import coalescing
from streams.domain.book import Received
from streams.domain.desk import Rows
from tests.domain.shell import PROGRAM, Shell, change, earn, received

MASTERED = replace(PROGRAM, mastering={"email": "crm", "external_ids.card": "crm"})
TOLD_ONCE = ("event_sequence", "profile_version")
"""Of an account: what counts how often others were told."""

values = st.sampled_from([None, "a", "b", "c"])
parts = st.fixed_dictionaries({}, optional={"name": values, "city": values, "email": values})
changes = st.builds(
    lambda number, attributes, segments, ids, version: change(
        f"e{number}", attributes=attributes or {"city": "d"}, segments=segments, external_ids=ids or None, source_version=version
    ),
    st.integers(0, 9), parts, st.none() | st.lists(st.sampled_from(["vip", "spa"]), max_size=2).map(tuple),
    st.dictionaries(st.sampled_from(["card", "loyalty"]), st.sampled_from([None, "1", "2"]), max_size=2), st.none() | st.integers(1, 5),
)  # fmt: skip


def a_member(seed: list[ProfileChange]) -> Shell:
    """With points, so that time has something to do with them, and with what others and the source itself have said before."""
    shell = Shell(program=MASTERED).enrolled(attributes={"name": "x", "city": "y"}, source_version=2)
    shell.send(earn(100))
    shell.send(change("other", attributes={"city": "o"}, source_system="app", source_version=7))
    for one in seed:
        shell.send(one)
    return shell


def together(shell: Shell, commands: list[ProfileChange]) -> Any:
    arrived: list[Received] = [received(one, offset=100 + number) for number, one in enumerate(commands)]
    assert shell.account is not None
    settlement, audits = coalescing.settle(
        shell.account, arrived, rows=Rows(outcomes=shell.outcomes, vouchers=shell.vouchers), programs=shell.programs, clock_ms=shell.clock_ms,
        recorded_at_ms=shell.recorded_at_ms,
    )  # fmt: skip
    return settlement, audits


def kept(account: Account | None) -> dict[str, Any]:
    assert account is not None
    return {name: value for name, value in account.to_avro().items() if name not in (*TOLD_ONCE, "clock_ms")}


@settings(deadline=None)
@given(st.lists(changes, max_size=2), st.lists(changes, min_size=1, max_size=6))
def test_the_account_and_every_answer_are_those_of_one_by_one(seed: list[ProfileChange], commands: list[ProfileChange]) -> None:
    alone, at_once = a_member(seed), a_member(seed)
    before = alone.account
    expected = [alone.settle(received(one, offset=100 + number)).audit for number, one in enumerate(commands)]
    settlement, audits = together(at_once, commands)
    assert kept(settlement.account) == kept(alone.account)

    def answers(found: Any) -> Any:
        return [(one.audit_id, one.command_id, one.result, one.reason, one.detail, one.replayed, one.changes, one.payload_hash) for one in found]

    assert answers(audits) == answers(expected)
    # Sent again, each is a repetition of the same answer: also those that were told with others.
    at_once.outcomes.update(settlement.outcomes)
    assert {key: (one.result, one.reason, one.payload_hash) for key, one in at_once.outcomes.items()} == {
        key: (one.result, one.reason, one.payload_hash) for key, one in alone.outcomes.items()
    }
    told = [event.kind for event in settlement.events]
    assert told.count(LoyaltyEventKind.PROFILE_CHANGED) == len(settlement.profiles) <= 1
    assert before is not None and settlement.account is not None
    assert [event.sequence for event in settlement.events] == list(range(before.event_sequence + 1, settlement.account.event_sequence + 1))


@settings(deadline=None)
@given(st.lists(changes, min_size=1, max_size=6))
def test_external_ids_lead_where_they_would_have_led(commands: list[ProfileChange]) -> None:
    shell = a_member([])
    assert shell.account is not None
    claimed = dict(shell.account.external_ids)
    settlement, _ = together(shell, commands)
    for relay in settlement.relays:
        _, kind, value, _ = relay.member_id.replace(":", "@").split("@") + [""]
        if relay.kind is RelayKind.IDENTITY_CLAIM:
            claimed[kind] = value
        elif claimed.get(kind) == value:
            del claimed[kind]
    assert settlement.account is not None and claimed == settlement.account.external_ids


def test_many_changes_make_one_event_and_a_refusal_its_own() -> None:
    shell = a_member([])
    settlement, audits = together(shell, [
        change("e1", attributes={"name": "b"}), change("e2", attributes={"email": "mine@example.com"}), change("e3", attributes={"name": "c", "city": "z"}),
    ])  # fmt: skip
    assert [audit.result for audit in audits] == [CommandResult.APPLIED, CommandResult.REFUSED, CommandResult.APPLIED]
    kinds = [(event.kind, event.cause.command_id) for event in settlement.events]
    assert kinds == [(LoyaltyEventKind.COMMAND_REFUSED, "e2"), (LoyaltyEventKind.PROFILE_CHANGED, "e3")]
    (profile,) = settlement.profiles
    assert profile.changed == ("city", "name") and profile.attributes["name"] == "c"
