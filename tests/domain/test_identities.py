"""External ids: the first claim counts, in whatever order the relays of different members arrive, and however often."""

from collections import deque
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.contract import Command
from schemas.records import (
    CommandResult,
    Identity,
    LoyaltyEventKind,
    MemberOperation,
    MemberOperationKind,
    MemberStatus,
    ProfileOperation,
    Relay,
    RelayKind,
)
from streams.domain import identities
from streams.domain.desk import payload_hash
from streams.domain.identity import address, pseudonym
from tests.domain.family import CARRYING, Family
from tests.domain.shell import PROGRAM, WHO, Shell, change, earn, enrol, received

CARD = "@card:4711"
IDENTITY_KINDS = (RelayKind.IDENTITY_CLAIM, RelayKind.IDENTITY_RELEASE)


def merge(source: str, target: str) -> MemberOperation:
    return operation(source, MemberOperationKind.MERGE, target_member_id=target)


def erase(member_id: str) -> MemberOperation:
    return operation(member_id, MemberOperationKind.ERASE)


def operation(member_id: str, kind: MemberOperationKind, **more: Any) -> MemberOperation:
    return MemberOperation(
        **{**WHO, "member_id": member_id, "occurred_at_ms": 1_500}, event_id="", kind=kind, reason="asked for", actor="agent-7", **more
    )


class World:
    """Members and the rows of external ids, each in a partition of its own; what one sends to another arrives in order, when it is told to."""

    def __init__(self, *member_ids: str) -> None:
        self.family = Family()
        self.rows: dict[str, Identity] = {}
        self.remembered: set[bytes] = set()
        self.queues: dict[tuple[str, str], deque[Relay]] = {}
        self.sent: dict[str, int] = {}
        """relay_id -> number of when it was sent last."""
        self.numbers = 0
        self.arrived: list[Relay] = []
        for member_id in member_ids:
            self.send(enrol(f"enrol-{member_id}", member_id=member_id))

    def send(self, command: Command) -> None:
        self.family.send(command)
        self._sort(command.member_id)

    def link(self, member_id: str, value: str | None, kind: str = "card") -> None:
        self.send(change(member_id=member_id, external_ids={kind: value}))

    def arrive(self, place: int, *, twice: bool = False) -> None:
        """The next relay of one of the ways that are not empty."""
        ways = sorted(way for way, queue in self.queues.items() if queue)
        self.arrive_from(*ways[place % len(ways)], twice=twice)

    def arrive_from(self, source: str, target: str, *, twice: bool = False) -> None:
        """The next relay of this way."""
        relay = self.queues[source, target].popleft()
        self.arrived.append(relay)
        for _ in range(1 + twice):
            self._hand_over(relay)

    def arrive_again(self, place: int) -> None:
        """Something about an id that was there before, however long ago."""
        about_ids = [relay for relay in self.arrived if relay.kind in (*IDENTITY_KINDS, RelayKind.IDENTITY_REFUSED)]
        if about_ids:
            self._hand_over(about_ids[place % len(about_ids)])

    def _hand_over(self, relay: Relay) -> None:
        if relay.kind in IDENTITY_KINDS:
            self._take(relay)
        else:
            self.family.hand_over(relay)
            self._sort(relay.member_id)

    def settle(self) -> None:
        for _ in range(1_000):
            ways = [way for way, queue in self.queues.items() if queue]
            if not ways:
                return
            # What has waited longest is next: no way is left out for ever.
            self.arrive_from(*min(ways, key=lambda way: self.sent[self.queues[way][0].relay_id]))
        raise AssertionError("relays go round for ever")

    def _take(self, relay: Relay) -> None:
        known = identities.relay_key(PROGRAM, relay)
        if known in self.remembered:
            return
        self.remembered.add(known)
        claimed = identities.take(self.rows.get(relay.member_id), relay, self.family.now_ms)
        if claimed.row is None:
            self.rows.pop(relay.member_id, None)
        else:
            self.rows[relay.member_id] = claimed.row
        if claimed.refusal is not None:
            self._put(relay.member_id, claimed.refusal)

    def _sort(self, source: str) -> None:
        for relay in self.family.under_way:
            self._put(source, relay)
        self.family.under_way.clear()

    def _put(self, source: str, relay: Relay) -> None:
        self.numbers += 1
        self.sent[relay.relay_id] = self.numbers
        self.queues.setdefault((source, relay.member_id), deque()).append(relay)

    def owner(self, address_text: str = CARD) -> str | None:
        row = self.rows.get(address_text)
        return None if row is None else row.member_id

    def numbers_of(self, member_id: str) -> set[str]:
        """The member, and those it was merged into."""
        numbers = {member_id}
        while (into := self.family.account(member_id).merged_into) is not None and into not in numbers:
            numbers.add(into)
            member_id = into
        return numbers

    def check(self) -> None:
        """Every id that a member holds leads to it; no id leads to somebody who does not hold it."""
        holders: dict[str, list[str]] = {}
        for member_id, shell in self.family.shells.items():
            assert shell.account is not None
            for kind, value in shell.account.external_ids.items():
                holders.setdefault(address(kind, value), []).append(member_id)
        for address_text, members in holders.items():
            owner = self.owner(address_text)
            active = [one for one in members if self.family.account(one).merged_into is None]
            assert len(active) <= 1, f"{address_text} is held by {active}"
            for one in active:
                assert owner == one, f"{address_text} is held by {one} and leads to {owner}"
        for address_text, row in self.rows.items():
            assert row.member_id in holders.get(address_text, ()), f"{address_text} leads to {row.member_id}, who does not hold it"


def test_the_first_claim_counts_and_the_second_member_is_told() -> None:
    world = World("m-1", "m-2")
    world.link("m-1", "4711")
    world.settle()
    world.link("m-2", "4711")
    world.settle()
    assert world.owner() == "m-1"
    assert world.family.account("m-2").external_ids == {}
    event = world.family.shell("m-2").events[-1]
    assert (event.kind, event.identity_type, event.counter_member_id) == (LoyaltyEventKind.IDENTITY_CONFLICT, "card", "m-1")
    profile = world.family.shell("m-2").profiles[-1]
    assert (profile.operation, profile.changed, dict(profile.external_ids)) == (ProfileOperation.CHANGE, ("external_ids.card",), {})
    world.check()


def test_a_refused_claim_has_an_audit_record_that_shows_no_value() -> None:
    world = World("m-1")
    world.link("m-1", "4711")
    world.settle()
    shell = Shell().enrolled(member_id="m-2", external_ids={"card": "4711"})
    claimed = identities.take(world.rows[CARD], shell.relays[0], 9)
    assert claimed.refusal is not None
    (audit,) = shell.receive(claimed.refusal).audit_by_clock
    assert (audit.audit_id, audit.member_id, audit.command_id, audit.source_system) == (shell.events[-1].event_id, "m-2", "enrol-0", "pms")
    assert (audit.result, audit.reason, audit.detail) == (CommandResult.REFUSED, "IDENTITY_CONFLICT", "external_ids.card leads to m-1")
    assert [(one.attribute, one.before, one.after) for one in audit.changes] == [("external_ids.card", "4***", None)]
    assert shell.receive(claimed.refusal).audit_by_clock == (), "once"


def test_an_enrolment_claims_as_well() -> None:
    world = World("m-1")
    world.send(enrol("e-2", member_id="m-2", external_ids={"card": "4711"}))
    world.link("m-1", "4711")
    world.arrive(1)
    assert world.owner() == "m-2"
    world.settle()
    assert (world.owner(), world.family.account("m-1").external_ids) == ("m-2", {})


def test_what_is_let_go_of_is_free() -> None:
    world = World("m-1", "m-2")
    world.link("m-1", "4711")
    world.link("m-1", "4712")
    world.settle()
    assert (world.owner(), world.owner("@card:4712")) == (None, "m-1")
    world.link("m-2", "4711")
    world.settle()
    assert world.owner() == "m-2"
    world.send(erase("m-2"))
    world.settle()
    assert world.owner() is None
    world.check()


def test_a_release_of_one_who_does_not_own_it_changes_nothing() -> None:
    row = Identity(member_id="m-1", claimed_at_ms=5)
    relay = replace(claim_of("m-2"), kind=RelayKind.IDENTITY_RELEASE)
    assert identities.take(row, relay, 9) == identities.Claimed(row=row)
    assert identities.take(None, relay, 9) == identities.Claimed(row=None)


def claim_of(member_id: str) -> Relay:
    shell = Shell().enrolled(member_id=member_id, external_ids={"card": "4711"})
    return shell.relays[0]


def test_a_claim_that_comes_again_is_the_same_row() -> None:
    first = identities.take(None, claim_of("m-1"), 5)
    assert first.row == Identity(member_id="m-1", claimed_at_ms=5)
    assert identities.take(first.row, claim_of("m-1"), 9) == first


def test_who_took_over_a_number_may_claim_what_leads_to_it() -> None:
    world = World("m-1", "m-2", "m-3")
    world.link("m-1", "4711")
    world.send(merge("m-1", "m-2"))
    world.settle()
    assert world.owner() == "m-1", "the number forwards"
    world.link("m-2", "4711")
    world.settle()
    assert world.owner() == "m-2"
    world.link("m-2", None)
    world.link("m-3", "4711")
    world.settle()
    assert world.owner() == "m-3"


def test_a_claimant_who_was_merged_meanwhile_loses_the_id_itself() -> None:
    world = World("m-1", "m-2", "m-3")
    world.link("m-1", "4711")
    world.settle()
    world.link("m-2", "4711")
    world.send(merge("m-2", "m-3"))
    world.settle()
    assert (world.family.account("m-2").external_ids, world.family.account("m-2").status) == ({}, MemberStatus.MERGED)
    assert (world.owner(), world.family.account("m-3").external_ids) == ("m-1", {})
    world.check()


def test_a_merge_that_is_not_taken_leaves_the_ids_as_they_were() -> None:
    world = World("m-1")
    world.link("m-1", "4711")
    world.settle()
    before = world.family.account("m-1").external_ids
    world.send(merge("m-1", "nobody"))
    world.settle()
    account = world.family.account("m-1")
    assert (account.merged_into, account.external_ids, world.owner()) == (None, before, "m-1")


def test_a_refusal_of_an_older_claim_does_not_take_what_was_granted_since() -> None:
    world = World("m-1", "m-2")
    world.link("m-1", "4711")
    world.settle()
    world.link("m-2", "4711")
    world.arrive(0)
    assert world.owner() == "m-1"
    refusal = world.queues.pop((CARD, "m-2"))
    world.link("m-1", None)
    world.link("m-2", None)
    world.link("m-2", "4711")
    world.settle()
    assert world.owner() == "m-2"
    world.queues[CARD, "m-2"] = refusal
    world.settle()
    assert (world.owner(), world.family.account("m-2").external_ids) == ("m-2", {"card": "4711"})
    world.check()


def test_who_is_refused_lets_go_of_what_a_claim_under_way_may_still_win() -> None:
    world = World("m-1", "m-2")
    world.link("m-1", "4711")
    world.settle()
    world.link("m-2", "4711")
    world.arrive(0)
    first_refusal = world.queues.pop((CARD, "m-2"))
    world.link("m-2", None)
    world.link("m-2", "4711")
    for _ in range(2):
        world.arrive_from("m-2", CARD)
    world.queues[CARD, "m-2"].extendleft(first_refusal)
    for _ in range(2):  # The first one makes the member ask again, the second one is about the newest word.
        world.arrive_from(CARD, "m-2")
    assert world.family.account("m-2").external_ids == {}
    world.link("m-1", None)
    world.arrive_from("m-1", CARD)
    assert world.owner() is None
    world.settle()
    assert world.owner() is None
    world.check()


def test_a_claim_that_was_said_again_meanwhile_is_refused_once() -> None:
    world = World("m-1", "m-2")
    world.link("m-1", "4711")
    world.settle()
    world.link("m-2", "4711")
    world.link("m-2", "4711")
    world.settle()
    kinds = [event.kind for event in world.family.shell("m-2").events]
    assert kinds.count(LoyaltyEventKind.IDENTITY_CONFLICT) == 1
    assert world.family.account("m-2").external_ids == {}
    world.check()


MEMBERS, VALUES = ("m-1", "m-2", "m-3"), ("a", "b")
STEPS = st.one_of(
    st.tuples(st.just("link"), st.sampled_from(MEMBERS), st.sampled_from((*VALUES, None))),
    st.tuples(st.just("merge"), st.sampled_from(MEMBERS), st.sampled_from(MEMBERS)),
    st.tuples(st.just("erase"), st.sampled_from(MEMBERS)),
    st.tuples(st.just("arrive"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("arrive"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("again"), st.integers(0, 20)),
)


@given(st.lists(STEPS, max_size=40))
@settings(max_examples=200, deadline=None)
def test_whatever_the_order_each_id_leads_to_who_holds_it_and_no_point_moves(steps: list[tuple[Any, ...]]) -> None:
    world = World(*MEMBERS)
    for number, member_id in enumerate(MEMBERS):
        world.send(earn(100, member_id=member_id, transaction_id=f"start-{number}"))
    for step in steps:
        match step:
            case ("link", member_id, value):
                world.link(member_id, value)
            case ("merge", source, target):
                world.send(merge(source, target))
            case ("erase", member_id):
                world.send(erase(member_id))
            case ("arrive", place, twice) if any(world.queues.values()):
                world.arrive(place, twice=twice)
            case ("again", place):
                world.arrive_again(place)
    world.settle()
    world.check()
    assert sum(world.family.account(member_id).available_points for member_id in MEMBERS) == 100 * len(MEMBERS)
    world.family.in_order()


def test_what_is_shown_is_a_pseudonym() -> None:
    assert identities.shown(PROGRAM, "m-1") == "m-1"
    shown = identities.shown(PROGRAM, CARD)
    assert shown == "@card:" + pseudonym(PROGRAM.voucher_key, "grand", "card", "4711")
    assert "4711" not in shown
    assert identities.identity_key(PROGRAM, CARD) == b"grand/\0i:" + shown[1:].encode()
    assert identities.identity_key(PROGRAM, "@email:4711") != identities.identity_key(PROGRAM, CARD)
    assert identities.parts_of("@email:a:b@example.com") == ("email", "a:b@example.com")


def by_address(command: Command) -> Any:
    return replace(command, member_id=CARD)


def deliver_addressed(shell: Shell, command: Command, **more: Any) -> Any:
    assert shell.account is not None
    relay = identities.addressed(
        Identity(member_id=shell.account.member_id, claimed_at_ms=1), received(by_address(command), offset=77, **more), b"bytes"
    )
    assert (relay.kind, relay.origin.offset, relay.origin.value) == (RelayKind.ADDRESSED, 77, b"bytes")
    return shell.receive(relay, by_address(command))


@pytest.mark.parametrize("first", ["by address", "by number"])
def test_by_address_and_by_number_it_is_the_same_command(first: str) -> None:
    shell = Shell().enrolled()
    command = earn(100, transaction_id="t-1")
    if first == "by address":
        deliver_addressed(shell, command)
        shell.send(command)
    else:
        shell.send(command)
        deliver_addressed(shell, command)
    answers = [(audit.member_id, audit.command_id, audit.result, audit.replayed, audit.payload_hash) for audit in shell.audits[1:]]
    digest = payload_hash(command)
    assert answers == [("m-1", "t-1", CommandResult.APPLIED, False, digest), ("m-1", "t-1", CommandResult.APPLIED, True, digest)]
    assert shell.account is not None
    assert shell.account.available_points == 100


def test_other_content_by_address_is_a_conflict() -> None:
    shell = Shell().enrolled()
    shell.send(earn(100, transaction_id="t-1"))
    settlement = deliver_addressed(shell, earn(101, transaction_id="t-1"))
    assert settlement.audit.result is CommandResult.CONFLICT


def test_an_erased_member_is_told_by_address_as_well() -> None:
    shell = Shell().enrolled()
    shell.send(erase("m-1"))
    assert deliver_addressed(shell, earn(5, transaction_id="t-1")).audit.reason == "MEMBER_ERASED"


def test_a_command_to_a_merged_members_card_is_forwarded_and_known_under_the_old_number() -> None:
    family = Family.of("m-1", "m-2")
    family.does(merge("m-1", "m-2"))
    deliver_addressed(family.shell("m-1"), earn(30, transaction_id="t-1"))
    (forward,) = [relay for relay in family.shell("m-1").relays if relay.kind in CARRYING]
    settlement = family.shell("m-2").receive(forward, by_address(earn(30, transaction_id="t-1")))
    assert (settlement.audit.member_id, settlement.audit.command_id, settlement.audit.result) == ("m-2", "m-1/t-1", CommandResult.APPLIED)
    assert family.account("m-2").available_points == 30


def test_a_forwarded_command_that_comes_back_is_decided_under_the_own_number() -> None:
    family = Family.of("m-1")
    family.send(merge("m-1", "nobody"))
    deliver_addressed(family.shell("m-1"), earn(30, transaction_id="t-1"))
    (forward,) = [relay for relay in family.shell("m-1").relays if relay.kind in CARRYING]
    family.deliver()
    assert family.account("m-1").merged_into is None
    settlement = family.shell("m-1").receive(forward, by_address(earn(30, transaction_id="t-1")))
    assert (settlement.audit.member_id, settlement.audit.command_id, settlement.audit.result) == ("m-1", "t-1", CommandResult.APPLIED)
