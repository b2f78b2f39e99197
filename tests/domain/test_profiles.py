"""Enrolments, profiles, statuses, offers: what changes, what is published about it, and what stays private."""

import re
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from schemas.contract import ATTRIBUTES_MAX
from schemas.records import CommandResult, LoyaltyEventKind, MemberStatus, ProfileOperation
from streams.domain import outbound
from streams.domain.profiles import SOURCE_SYSTEMS_MAX
from streams.domain.program import AUDIT_SHOWS, PersonalData
from streams.domain.refusals import Refusal
from tests.domain.shell import NOW_MS, PROGRAM, Shell, activate, change, enrol

KINDS = LoyaltyEventKind
ACTIVE, SUSPENDED = MemberStatus.ACTIVE, MemberStatus.SUSPENDED


def kinds(shell: Shell) -> list[LoyaltyEventKind]:
    return [event.kind for event in shell.events]


def member() -> Shell:
    return Shell().enrolled(attributes={"email": "ann@example.com", "locale": "de"}, segments=("vip", "spa"), source_version=3)


def test_an_enrolment_makes_the_account() -> None:
    shell = member()
    account = shell.account
    assert account is not None
    assert (account.status, account.tier, account.available_points, account.qualifying_points) == (ACTIVE, "blue", 0, 0)
    assert (account.event_sequence, account.entry_sequence, account.profile_version) == (1, 0, 1)
    assert (account.attributes, account.segments) == ({"email": "ann@example.com", "locale": "de"}, ("spa", "vip"))
    assert (account.source_versions, account.enrolled_at_ms) == ({"pms": 3}, NOW_MS)
    assert kinds(shell) == [KINDS.MEMBER_ENROLLED]
    (profile,) = shell.profiles
    assert (profile.operation, profile.version, profile.valid_from_ms) == (ProfileOperation.ENROL, 1, NOW_MS)
    assert (profile.attributes, profile.segments, profile.status, profile.tier) == (account.attributes, account.segments, ACTIVE, "blue")
    assert profile.changed == ("email", "locale", "segments", "status", "tier")


@pytest.mark.parametrize("word", [{}, {"source_version": 3}, {"source_version": 2}, {"source_version": 9, "source_system": "app"}], ids=str)
def test_a_second_enrolment_changes_nothing(word: dict[str, Any]) -> None:
    shell = member()
    before = shell.account
    settlement = shell.send(enrol(attributes={"email": "other@example.com"}, **word))
    assert settlement.audit.reason == Refusal.MEMBER_ALREADY_ENROLLED
    assert before is not None and settlement.account is not None
    assert (settlement.account.attributes, settlement.account.source_versions) == (before.attributes, {"pms": 3})


@pytest.mark.parametrize("order", list(permutations(range(2))))
def test_who_leaves_and_comes_back_is_back_in_any_order(order: tuple[int, ...]) -> None:
    """The enrolment of the return may come before the news of the leaving: its version tells."""
    shell = member()
    words = (
        change(status=MemberStatus.LEFT, source_version=4),
        enrol(attributes={"email": "back@example.com"}, source_version=5),
    )  # fmt: skip
    results = [shell.send(words[number]).audit.result for number in order]
    account = shell.account
    assert account is not None
    assert (account.status, account.attributes) == (ACTIVE, {"email": "back@example.com", "locale": "de"})
    assert results == [CommandResult.APPLIED, CommandResult.SUPERSEDED if order[0] else CommandResult.APPLIED]


def test_attributes_are_set_cleared_and_left_alone() -> None:
    shell = member()
    settlement = shell.send(change(attributes={"email": None, "phone": "+491234", "nickname": None}))
    assert settlement.account is not None and settlement.account.attributes == {"locale": "de", "phone": "+491234"}
    (event,) = settlement.events
    assert (event.kind, event.changed_attributes) == (KINDS.PROFILE_CHANGED, ("email", "phone"))
    (profile,) = settlement.profiles
    assert (profile.operation, profile.version, profile.changed) == (ProfileOperation.CHANGE, 2, ("email", "phone"))
    assert settlement.account.segments == ("spa", "vip"), "absent: unchanged"


def test_segments_are_a_set() -> None:
    shell = member()
    assert shell.send(change(segments=("vip", "spa", "vip"))).events == ()
    settlement = shell.send(change(segments=("golf",)))
    assert settlement.account is not None and settlement.account.segments == ("golf",)
    assert settlement.events[0].changed_attributes == settlement.profiles[0].changed == ("segments",)
    assert shell.send(change(segments=())).profiles[0].segments == ()


@pytest.mark.parametrize(
    "command",
    [
        change(attributes={"email": "ann@example.com"}, source_version=4),
        change(attributes={"phone": None}, source_version=4),
        change(segments=("spa", "vip"), source_version=4),
        change(status=ACTIVE, status_reason="other", source_version=4),
    ],
    ids=lambda command: str(command.to_avro()["attributes"] or command.segments or command.status),
)
def test_what_is_so_already_publishes_nothing_but_counts_as_seen(command: object) -> None:
    shell = member()
    settlement = shell.send(command)  # type: ignore[arg-type]
    assert (settlement.audit.result, settlement.audit.changes) == (CommandResult.APPLIED, ())
    assert (settlement.events, settlement.profiles) == ((), ())
    assert settlement.account is not None and settlement.account.source_versions == {"pms": 4}
    assert len(settlement.outcomes) == 1


def test_superseded_changes_nothing_and_is_remembered() -> None:
    shell = member()
    before = shell.account
    settlement = shell.send(change(attributes={"email": "old@example.com"}, source_version=2))
    assert settlement.audit.result is CommandResult.SUPERSEDED
    assert before is not None and settlement.account is not None
    assert replace(settlement.account, clock_ms=before.clock_ms) == before, "but for the member's clock"
    assert (settlement.events, settlement.profiles, settlement.audit.changes) == ((), (), ())
    assert [outcome.result for outcome in settlement.outcomes.values()] == [CommandResult.SUPERSEDED]


def test_status_changes() -> None:
    shell = member()
    settlement = shell.send(change(status=SUSPENDED, status_reason="employment ended"))
    (event,) = settlement.events
    assert (event.kind, event.account.status, event.cause.reason) == (KINDS.ACCOUNT_SUSPENDED, SUSPENDED, "employment ended")
    assert settlement.account is not None and settlement.account.status_reason == "employment ended"
    assert settlement.profiles[0].changed == ("status",)
    assert shell.send(change(status=SUSPENDED, status_reason="again")).events == ()
    settlement = shell.send(change(status=ACTIVE))
    assert [event.kind for event in settlement.events] == [KINDS.ACCOUNT_REACTIVATED]
    assert settlement.account is not None and (settlement.account.status, settlement.account.status_reason) == (ACTIVE, None)


def test_profile_and_status_in_one_command_make_one_version() -> None:
    shell = member()
    settlement = shell.send(change(attributes={"email": None}, segments=(), status=SUSPENDED, source_version=4))
    assert [event.kind for event in settlement.events] == [KINDS.PROFILE_CHANGED, KINDS.ACCOUNT_SUSPENDED]
    assert [event.account.status for event in settlement.events] == [ACTIVE, SUSPENDED]
    (profile,) = settlement.profiles
    assert (profile.version, profile.status, profile.segments, profile.changed) == (2, SUSPENDED, (), ("email", "segments", "status"))


def test_the_newest_version_wins_in_every_order() -> None:
    """I-13: of one source's versions the greatest decides, however they arrive; none in between can end active."""
    changes = [
        change(f"v{version}", source_version=version, status=status, attributes={"level": str(version)})
        for version, status in ((1, SUSPENDED), (2, ACTIVE), (3, ACTIVE), (4, SUSPENDED))
    ]
    for order in permutations(changes):
        shell = Shell().enrolled()
        for command in order:
            shell.send(command)
        account = shell.account
        assert account is not None
        assert (account.status, account.attributes, account.source_versions) == (SUSPENDED, {"level": "4"}, {"pms": 4})


def test_the_order_of_names_does_not_show_in_the_state() -> None:
    ab, ba = (Shell().enrolled(attributes=attributes) for attributes in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"}))
    ab.send(change("x", attributes={"c": "3"}))
    ab.send(change("y", attributes={"aa": "4"}))
    ba.send(change("x", attributes={"aa": "4"}))
    ba.send(change("y", attributes={"c": "3"}))
    assert ab.account is not None and ba.account is not None
    assert list(ab.account.attributes.items()) == list(ba.account.attributes.items())


def test_an_account_holds_so_many_attributes_and_no_more() -> None:
    shell = Shell().enrolled(attributes={f"a{n}": "x" for n in range(ATTRIBUTES_MAX - 1)})
    assert shell.send(change(attributes={"last": "x"})).audit.result is CommandResult.APPLIED
    settlement = shell.send(change(attributes={"more": "x"}, source_version=1))
    assert settlement.audit.reason == Refusal.PROFILE_TOO_LARGE
    assert settlement.account is not None and settlement.account.source_versions == {}, "a refused version may be sent again"
    assert shell.send(change(attributes={"more": "x", "last": None})).audit.result is CommandResult.APPLIED


def test_an_account_knows_so_many_sources_and_no_more() -> None:
    shell = Shell().enrolled()
    for number in range(SOURCE_SYSTEMS_MAX):
        shell.send(change(segments=(), source_system=f"s{number}", source_version=1))
    assert shell.send(change(segments=(), source_system="new", source_version=1)).audit.reason == Refusal.PROFILE_TOO_LARGE
    assert shell.send(change(segments=(), source_system="new")).audit.result is CommandResult.APPLIED
    assert shell.send(change(segments=(), source_system="s0", source_version=2)).audit.result is CommandResult.APPLIED


def test_activating_offers() -> None:
    shell = Shell().enrolled()
    shell.send(activate("spa-week"))
    settlement = shell.send(activate("double"))
    (event,) = settlement.events
    assert (event.kind, event.offer_id) == (KINDS.OFFER_ACTIVATED, "double")
    assert settlement.account is not None and settlement.account.active_offers == ("double", "spa-week")
    assert [(c.attribute, c.before, c.after) for c in settlement.audit.changes] == [("active_offers", "spa-week", "double, spa-week")]


def test_the_audit_masks_what_may_be_personal() -> None:
    shell = member()
    enrolment = shell.audits[0]
    assert [(c.attribute, c.before, c.after) for c in enrolment.changes] == [
        ("tier", None, "blue"),
        ("status", None, "ACTIVE"),
        ("email", None, "a***"),
        ("locale", None, "de"),
        ("segments", "0 tags", "2 tags"),
    ]
    audit = shell.send(change(attributes={"email": "bob@example.com", "locale": "fr", "x": "y"}, segments=())).audit
    assert [(c.attribute, c.before, c.after) for c in audit.changes] == [
        ("email", "a***", "b***"),
        ("locale", "de", "fr"),
        ("x", None, "***"),
        ("segments", "2 tags", "0 tags"),
    ]


def test_values_of_attributes_are_in_profiles_alone() -> None:
    secret = "Zqxjkvb"
    shell = Shell().enrolled(attributes={"family_name": secret})
    shell.send(change(attributes={"family_name": None, "given_name": secret}))
    assert secret not in str([shell.events, shell.entries, shell.audits])
    assert secret in str(shell.profiles)


@pytest.mark.parametrize(
    ("policy", "shows", "name", "value", "expected"),
    [
        (PersonalData.MASKED, AUDIT_SHOWS, "email", "ann@x.org", "a***"),
        (PersonalData.MASKED, AUDIT_SHOWS, "own", "Z", "***"),
        (PersonalData.MASKED, AUDIT_SHOWS, "own", "", "***"),
        (PersonalData.MASKED, AUDIT_SHOWS, "email", None, None),
        (PersonalData.MASKED, AUDIT_SHOWS, "time_zone", "Europe/Rome", "Europe/Rome"),
        (PersonalData.MASKED, frozenset(), "time_zone", "Europe/Rome", "E***"),
        (PersonalData.MASKED, frozenset({"email"}), "email", "ann@x.org", "ann@x.org"),
        (PersonalData.HIDDEN, AUDIT_SHOWS, "email", "ann@x.org", "***"),
        (PersonalData.HIDDEN, AUDIT_SHOWS, "email", None, None),
        (PersonalData.HASHED, AUDIT_SHOWS, "locale", "de", "de"),
    ],
)
def test_masked(policy: PersonalData, shows: frozenset[str], name: str, value: str | None, expected: str | None) -> None:
    program = replace(PROGRAM, personal_data=policy, audit_shows=shows)
    assert outbound.masked(program, name, value) == expected


def test_a_hashed_value_shows_only_that_it_is_the_same() -> None:
    program = replace(PROGRAM, personal_data=PersonalData.HASHED)
    shown = outbound.masked(program, "email", "ann@x.org")
    assert shown is not None and re.fullmatch("hmac:[0-9a-f]{16}", shown) and shown == outbound.masked(program, "email", "ann@x.org")
    others = (
        outbound.masked(program, "email", "ann@x.net"), outbound.masked(program, "phone", "ann@x.org"),
        outbound.masked(replace(program, voucher_key=b"another key, as secret as it is."), "email", "ann@x.org"),
        outbound.masked(replace(program, program_id="other"), "email", "ann@x.org"),
    )  # fmt: skip
    assert len({shown, *others}) == 5


@pytest.mark.parametrize(("shows", "expected"), [(AUDIT_SHOWS, ("1 tags", "2 tags")), (frozenset({"segments"}), ("vip", "spa, vip"))])
def test_segments_are_counted_or_named(shows: frozenset[str], expected: tuple[str, str]) -> None:
    shell = Shell(program=replace(PROGRAM, audit_shows=shows)).enrolled(segments=("vip",))
    audit = shell.send(change(segments=("vip", "spa"))).audit
    assert audit is not None and [(one.attribute, one.before, one.after) for one in audit.changes] == [("segments", *expected)]
