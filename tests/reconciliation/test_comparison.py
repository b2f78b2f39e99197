"""Member and row beside each other: every kind of difference, what explains it, and what would mend it."""

from dataclasses import replace
from typing import Any

import pytest

from schemas.records import Account, AttributeOrigin, Enrolment, MemberStatus, ProfileChange
from streams import programs
from streams.domain.program import PersonalData, Program
from streams.reconciliation.comparison import Answer, Difference, Evidence, Kind, Mask, Policy, compare, explained
from streams.reconciliation.exports import Row
from streams.reconciliation.repair import NONE, Plan, plan

NOW_MS, SOURCE = 1_800_000_000_000, "salesforce"
RULES: dict[str, Any] = {"earn": {"points_per_unit": {"EUR": 10}}, "tiers": [{"name": "MEMBER"}]}
MASTERING = {"email": "salesforce", "given_name": "salesforce", "segments": "salesforce", "status": "salesforce", "external_ids.*": "salesforce",
             "department": "hr"}  # fmt: skip


def program(version: int = 1, mastering: dict[str, str] | None = None, effective_from_ms: int = 1) -> Program:
    rules = RULES | {"mastering": MASTERING if mastering is None else mastering}
    return programs.parse("grand", rules, version=version, effective_from_ms=effective_from_ms)


POLICY = Policy(source=SOURCE, versions=(program(),), now_ms=NOW_MS)
HR_ENROLS = replace(POLICY, versions=(program(mastering=MASTERING | {"status": "hr"}),))
SINCE_LATELY = replace(POLICY, versions=(program(mastering={"status": "salesforce"}), program(2, effective_from_ms=1_700_000_000_000)))


def origin(*names: str, source: str = SOURCE, version: int | None = 5, event_id: str = "sf:5") -> AttributeOrigin:
    return AttributeOrigin(names=names, source_system=source, source_version=version, event_id=event_id, occurred_at_ms=1_600_000_000_000)


PARTS = ("email", "given_name", "segments", "status", "external_ids.card")
ACCOUNT = Account(
    program_id="grand", member_id="M-1", status=MemberStatus.ACTIVE, tier="MEMBER", enrolled_at_ms=1, profile_version=3,
    attributes={"email": "ada@example.org", "given_name": "Ada", "nickname": "A"}, segments=("spa",), external_ids={"card": "C-1"},
    source_versions={SOURCE: 5}, origins=(origin(*PARTS),),
)  # fmt: skip
ROW = Row(
    line=7, member_id="M-1", version=5,
    said={"email": "ada@example.org", "given_name": "Ada", "segments": ("spa",), "status": "ACTIVE", "external_ids.card": "C-1"},
)  # fmt: skip


def says(version: int | None = 9, **said: Any) -> Row:
    return replace(ROW, said=dict(ROW.said) | {name.replace("__", "."): value for name, value in said.items()}, version=version)


def answer(result: str, version: int | None = 9, reason: str = "", detail: str = "", event_id: str = "sf:9", at_ms: int = NOW_MS - 1000) -> Answer:
    return Answer(event_id=event_id, stream="profile-changes", result=result, reason=reason, detail=detail, version=version, ingested_at_ms=at_ms)


def found(account: Account | None, row: Row | None, policy: Policy = POLICY, *answers: Answer, waiting: int = 0) -> list[Difference]:
    evidence = Evidence(answers=answers, waiting=waiting, waiting_since_ms=1_750_000_000_000)
    return [explained(policy, account, one, evidence) for one in compare(policy, account, row)]


def planned(account: Account | None, row: Row | None, policy: Policy = POLICY) -> Plan:
    return plan(policy, account, row, compare(policy, account, row))


CRM = replace(ACCOUNT, origins=(origin("email", source="crm", version=None, event_id="crm:1"), origin(*PARTS[1:])))
NEWER = replace(ACCOUNT, source_versions={SOURCE: 12}, origins=(origin("email", version=12, event_id="sf:12"), origin(*PARTS[1:])))
SCHEDULED = replace(ACCOUNT, scheduled_status=MemberStatus.SUSPENDED, scheduled_at_ms=1_900_000_000_000)
UNKNOWN_PAST = replace(ACCOUNT, origins=(), source_versions={})
STRANGER = replace(ACCOUNT, source_versions={}, origins=(origin(*PARTS, source="hr", event_id="hr:1"),))

CASES: list[tuple[str, Account | None, Row | None, Policy, tuple[Answer, ...], int, list[tuple[Kind, str]], str]] = [
    ("the same", ACCOUNT, ROW, POLICY, (), 0, [], ""),
    ("nothing there either", ACCOUNT, says(5, nickname=None), POLICY, (), 0, [], ""),
    ("what another masters", ACCOUNT, says(5, department="spa"), POLICY, (), 0, [], ""),
    ("what is local, asked for", ACCOUNT, says(5, nickname="B"), replace(POLICY, all_attributes=True), (), 0, [(Kind.ATTRIBUTE, "nickname")],
     "no event is known that said anything of it here"),
    ("missing here", None, ROW, POLICY, (), 0, [(Kind.MISSING_HERE, "")], "never arrived: no enrolment of salesforce for them is known"),
    ("missing here, others wait", None, ROW, POLICY, (), 2, [(Kind.MISSING_HERE, "")],
     "2 commands for them wait for the enrolment since 2025-06-15T15:06:40Z"),
    ("missing here, refused", None, ROW, POLICY, (answer("REFUSED", 5, "ATTRIBUTE_MASTERED_EXTERNALLY", "status is mastered by hr"),), 0,
     [(Kind.MISSING_HERE, "")], "event sf:9 version 5 was refused at 2027-01-15T07:59:59Z: ATTRIBUTE_MASTERED_EXTERNALLY, status is mastered by hr"),
    ("missing here, left there", None, says(status="LEFT"), POLICY, (), 0, [], ""),
    ("missing there", ACCOUNT, None, POLICY, (), 0, [(Kind.MISSING_THERE, "")],
     "event sf:5 of salesforce version 5 (2020-09-13T12:26:40Z) spoke of them last, and the export does not have them"),
    ("missing there, of another", STRANGER, None, HR_ENROLS, (), 0, [], ""),
    ("missing there, mastered", STRANGER, None, POLICY, (), 0, [(Kind.MISSING_THERE, "")], "event hr:1 of hr version 5"),
    ("missing there, left", replace(ACCOUNT, status=MemberStatus.LEFT), None, POLICY, (), 0, [], ""),
    ("missing there, suspended, as that says", replace(ACCOUNT, status=MemberStatus.SUSPENDED), None, replace(POLICY, absent=MemberStatus.SUSPENDED),
     (), 0, [], ""),
    ("missing there, suspended, but gone", replace(ACCOUNT, status=MemberStatus.SUSPENDED), None, replace(POLICY, absent=MemberStatus.LEFT), (), 0,
     [(Kind.MISSING_THERE, "")], "spoke of them last"),
    ("never arrived", ACCOUNT, says(9, email="new@example.org"), POLICY, (), 0, [(Kind.ATTRIBUTE, "email")],
     "never arrived: the newest event of salesforce for this member is version 5, the export has 9"),
    ("never any", UNKNOWN_PAST, says(9, email="new@example.org"), POLICY, (), 0, [(Kind.ATTRIBUTE, "email")],
     "never arrived: no event of salesforce with a version came for this member, the export has 9"),
    ("refused", ACCOUNT, says(9, email="new@example.org"), POLICY, (answer("REFUSED", 9, "MEMBER_ERASED"),), 0, [(Kind.ATTRIBUTE, "email")],
     "event sf:9 version 9 was refused at 2027-01-15T07:59:59Z: MEMBER_ERASED"),
    ("another version was refused", ACCOUNT, says(9, email="new@example.org"), POLICY, (answer("REFUSED", 6, "X"),), 0, [(Kind.ATTRIBUTE, "email")],
     "never arrived"),
    ("a conflict", ACCOUNT, says(9, email="new@example.org"), POLICY, (answer("CONFLICT", 9, "ID_REUSED"),), 0, [(Kind.ATTRIBUTE, "email")],
     "event sf:9 version 9 was a conflict"),
    ("dead letter", ACCOUNT, says(9, email="new@example.org"), POLICY, (answer("DEAD_LETTERED", None, "KEY_MISMATCH"),), 0, [(Kind.ATTRIBUTE, "email")],
     "event sf:9 was given up at 2027-01-15T07:59:59Z: KEY_MISMATCH"),
    ("dead letter, mended since", ACCOUNT, says(9, email="new@example.org"), POLICY,
     (answer("DEAD_LETTERED", None, "KEY_MISMATCH", at_ms=1), answer("APPLIED", 5, event_id="sf:5", at_ms=2)), 0, [(Kind.ATTRIBUTE, "email")],
     "never arrived"),
    ("waited, and was decided", None, ROW, POLICY, (answer("WAITING", 5, at_ms=1), answer("REFUSED", 5, "GONE", at_ms=1)), 0, [(Kind.MISSING_HERE, "")],
     "was refused"),
    ("superseded", NEWER, says(9, email="old@example.org"), POLICY, (answer("SUPERSEDED", 9),), 0, [(Kind.ATTRIBUTE, "email")],
     "event sf:9 version 9 was superseded at 2027-01-15T07:59:59Z, by event sf:12 of salesforce version 12 (2020-09-13T12:26:40Z)"),
    ("export is older, without an audit", NEWER, says(9, email="old@example.org"), POLICY, (), 0, [(Kind.ATTRIBUTE, "email")],
     "superseded: the export has version 9, and event sf:12 of salesforce version 12"),
    ("an event that did not say it", NEWER, says(12, given_name="Augusta"), POLICY, (), 0, [(Kind.ATTRIBUTE, "given_name")],
     "never said: the event of version 12 came without it, and event sf:5 of salesforce version 5"),
    ("two words under one version", ACCOUNT, says(5, email="b@example.org"), POLICY, (), 0, [(Kind.ATTRIBUTE, "email")],
     "says otherwise under the same version"),
    ("no version to compare", ACCOUNT, says(None, email="b@example.org"), POLICY, (), 0, [(Kind.ATTRIBUTE, "email")],
     "had the last word; the export has no version to compare with it"),
    ("by rules from before", CRM, says(5, email="b@example.org"), SINCE_LATELY, (), 0, [(Kind.ATTRIBUTE, "email")],
     "event crm:1 of crm (2020-09-13T12:26:40Z) had the last word, by rules from before salesforce mastered email: version 2, in force since"
     " 2023-11-14T22:13:20Z"),
    ("not mastered at all", CRM, says(5, email="b@example.org"), replace(POLICY, versions=(program(mastering={}),), all_attributes=True), (), 0,
     [(Kind.ATTRIBUTE, "email")], "had the last word; email is not mastered by salesforce"),
    ("segments", ACCOUNT, says(9, segments=()), POLICY, (), 0, [(Kind.ATTRIBUTE, "segments")], "never arrived"),
    ("external id", ACCOUNT, says(9, external_ids__card=None), POLICY, (), 0, [(Kind.ATTRIBUTE, "external_ids.card")], "never arrived"),
    ("status", ACCOUNT, says(9, status="SUSPENDED"), POLICY, (), 0, [(Kind.STATUS, "status")], "never arrived"),
    ("status, scheduled", SCHEDULED, says(5, status="SUSPENDED"), POLICY, (), 0, [(Kind.STATUS, "status")],
     "scheduled here: SUSPENDED takes effect at 2030-03-17T17:46:40Z, said by event sf:5"),
    ("two at once", ACCOUNT, says(9, email=None, status="LEFT"), POLICY, (), 0, [(Kind.ATTRIBUTE, "email"), (Kind.STATUS, "status")], "never arrived"),
    ("version behind", ACCOUNT, says(9), POLICY, (), 0, [(Kind.VERSION_BEHIND, "")], "never arrived"),
    ("version behind, refused", ACCOUNT, says(9), POLICY, (answer("REFUSED", 9, "GONE"),), 0, [(Kind.VERSION_BEHIND, "")], "was refused"),
    ("version ahead", NEWER, says(9), POLICY, (), 0, [(Kind.VERSION_AHEAD, "")],
     "the export is older: it has version 9, and event sf:12 of salesforce version 12 (2020-09-13T12:26:40Z) came since"),
    ("versions do not matter", ACCOUNT, says(9), replace(POLICY, ignore_versions=True), (), 0, [], ""),
    ("erased", replace(ACCOUNT, status=MemberStatus.ERASED), ROW, POLICY, (), 0, [(Kind.ERASED_HERE, "")], "erased here: salesforce still holds them"),
    ("erased, and gone there", replace(ACCOUNT, status=MemberStatus.ERASED), None, POLICY, (), 0, [], ""),
    ("merged", replace(ACCOUNT, merged_into="M-2"), ROW, POLICY, (), 0, [(Kind.MERGED_HERE, "")], "merged here into M-2"),
]  # fmt: skip


@pytest.mark.parametrize(("account", "row", "policy", "answers", "waiting", "kinds", "why"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_differences_and_what_explains_them(
    account: Account | None, row: Row | None, policy: Policy, answers: tuple[Answer, ...], waiting: int, kinds: list[tuple[Kind, str]], why: str
) -> None:
    differences = found(account, row, policy, *answers, waiting=waiting)
    assert [(one.kind, one.part) for one in differences] == kinds
    for one in differences:
        assert why in one.explanation
        assert one.line == (row.line if row is not None else None)


def test_every_kind_has_a_case() -> None:
    assert {kind for case in CASES for kind, _ in case[6]} == set(Kind)


@pytest.mark.parametrize(
    ("account", "row", "policy", "why"),
    [
        (None, replace(ROW, member_id="", external_id="003"), POLICY, "the export has no member id"),
        (None, ROW, HR_ENROLS, "enrolments are mastered by hr"),
        (ACCOUNT, None, POLICY, "is for you to say"),
        (ACCOUNT, None, replace(HR_ENROLS, absent=MemberStatus.LEFT), "the status is mastered by hr"),
        (replace(ACCOUNT, status=MemberStatus.ERASED), ROW, POLICY, "erased is not changed"),
        (replace(ACCOUNT, merged_into="M-2"), ROW, POLICY, "merged is not changed"),
        (NEWER, says(9), POLICY, "newer than the export"),
        (NEWER, says(9, email="old@example.org"), POLICY, "is not older than the export"),
        (ACCOUNT, says(5, email="aaa@example.org"), POLICY, "is not older than the export"),
        (SCHEDULED, says(5, status="SUSPENDED"), POLICY, "takes effect by itself"),
        (ACCOUNT, says(9, department="spa"), replace(POLICY, all_attributes=True), "department is mastered by hr"),
        (ACCOUNT, says(9, email="x" * 5000), POLICY, "characters at most"),
    ],
)
def test_what_no_event_repairs(account: Account | None, row: Row | None, policy: Policy, why: str) -> None:
    """What would be refused or superseded is not sent."""
    result = planned(account, row, policy)
    assert result.commands == () and result.differences
    assert all(one.repair.startswith(NONE) and why in one.repair for one in result.differences)


def test_a_change_says_what_differs_and_no_more() -> None:
    result = planned(ACCOUNT, says(9, email=None, segments=("golf", "spa"), status="SUSPENDED", external_ids__card="C-2"))
    (change,) = result.commands
    assert isinstance(change, ProfileChange)
    assert (change.attributes, change.segments, change.status, change.external_ids) == (
        {"email": None}, ("golf", "spa"), MemberStatus.SUSPENDED, {"card": "C-2"}
    )  # fmt: skip
    assert (change.source_system, change.source_version, change.actor) == (SOURCE, 9, "loyalty reconcile")
    assert {one.repair for one in result.differences} == {change.event_id}


def test_of_two_differences_each_has_its_own_reason() -> None:
    result = planned(NEWER, says(9, email="old@example.org", given_name="Augusta"))
    (change,) = result.commands
    assert isinstance(change, ProfileChange) and change.attributes == {"given_name": "Augusta"}
    assert [(one.part, one.repair == change.event_id) for one in result.differences] == [("email", False), ("given_name", True)]


def test_a_version_that_is_behind_is_brought_up_with_all_that_is_compared() -> None:
    (change,) = planned(ACCOUNT, says(9, department="spa")).commands
    assert isinstance(change, ProfileChange)
    assert (change.source_version, sorted(change.attributes), change.status) == (9, ["email", "given_name"], MemberStatus.ACTIVE)


def test_an_enrolment_has_what_the_source_masters_and_the_status_follows() -> None:
    row = says(9, status="SUSPENDED", department="spa", nickname="A")
    enrolment, change = planned(None, row).commands
    assert isinstance(enrolment, Enrolment) and isinstance(change, ProfileChange)
    assert (enrolment.attributes, enrolment.segments, enrolment.external_ids) == (
        {"email": "ada@example.org", "given_name": "Ada"}, ("spa",), {"card": "C-1"}
    )  # fmt: skip
    assert (change.status, change.attributes, change.source_version) == (MemberStatus.SUSPENDED, {}, 9)
    assert len(planned(None, ROW).commands) == 1, "who is active needs no second event"


def test_who_is_absent_gets_the_status_that_stands_for_it() -> None:
    (change,) = planned(ACCOUNT, None, replace(POLICY, absent=MemberStatus.SUSPENDED)).commands
    assert isinstance(change, ProfileChange)
    assert (change.status, change.source_version, change.status_reason) == (MemberStatus.SUSPENDED, None, "not in the source's export any more")


def test_an_id_is_the_same_until_there_is_something_new_to_repair() -> None:
    def id_of(account: Account, row: Row, policy: Policy = POLICY) -> str:
        (change,) = planned(account, row, policy).commands
        assert isinstance(change, ProfileChange)
        return change.event_id

    row = says(9, email="new@example.org")
    first = id_of(ACCOUNT, row)
    assert id_of(ACCOUNT, row, replace(POLICY, now_ms=NOW_MS + 1)) == first, "sent again at another time"
    assert id_of(replace(ACCOUNT, profile_version=4), row) != first, "the profile changed since: it must be said again"
    assert id_of(ACCOUNT, says(9, email="newer@example.org")) != first
    assert id_of(ACCOUNT, row, replace(POLICY, versions=(program(), program(2, effective_from_ms=2)))) != first, "refused once, not for ever"


@pytest.mark.parametrize(
    ("part", "value", "masked", "hidden"),
    [
        ("email", "ada@example.org", "a***", "***"), ("email", None, None, None), ("locale", "en-GB", "en-GB", "en-GB"),
        ("status", "ACTIVE", "ACTIVE", "ACTIVE"), ("segments", ("golf", "spa"), "golf, spa", "golf, spa"),
        ("external_ids.card", "C-1", "C***", "***"), ("given_name", "A", "***", "***"),
    ],
)  # fmt: skip
def test_values_are_masked_as_the_programme_says(part: str, value: Any, masked: str | None, hidden: str | None) -> None:
    rules = program()
    assert Mask(rules)(part, value) == masked
    assert Mask(replace(rules, personal_data=PersonalData.HIDDEN))(part, value) == hidden
    shown = Mask(replace(rules, personal_data=PersonalData.HIDDEN), show=True)(part, value)
    assert shown == (", ".join(value) if isinstance(value, tuple) else value)
