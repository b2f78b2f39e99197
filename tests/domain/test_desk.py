"""The door to the domain: waiting, repetition, conflict, and what depends on which clock."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from schemas.contract import Command
from schemas.records import CommandResult, LotPart, MemberStatus, Outcome, SyncAudit
from streams.domain.accounts import evolve
from streams.domain.desk import Rows, Settlement, outcome_key, settle
from streams.domain.facts import CommandRefused
from streams.domain.refusals import Refusal
from tests.domain.shell import NOW_MS, PROGRAM, Shell, activate, adjust, change, earn, enrol, named, received, redeem, reverse

COMMANDS: list[Command] = [
    earn(100),
    activate("double"),
    earn(100),
    redeem(30, reward_code="R"),
    reverse("c3"),
    adjust(-5),
    change(segments=("a",)),
    redeem(999),
]


def test_commands_wait_for_the_enrolment() -> None:
    shell = Shell()
    settlement = shell.send(earn(100), correlation_id="req-1")
    assert settlement == Settlement(account=None, outcomes={}, vouchers={}, audit=settlement.audit)
    audit = settlement.audit
    assert audit is not None
    assert (audit.result, audit.reason, audit.audit_id) == (CommandResult.WAITING, None, "loyalty.transactions.v1-3-1")
    assert (audit.sequence, audit.points_delta, audit.available_points, audit.tier) == (None, None, None, None)
    assert (audit.command_id, audit.correlation_id) == ("c1", "req-1")
    assert (audit.topic, audit.partition, audit.offset) == ("loyalty.transactions.v1", 3, 1)
    shell.send(enrol())
    assert [audit.audit_id for audit in shell.audits] == [
        "loyalty.transactions.v1-3-1", "loyalty.enrolments.v1-3-2", "loyalty.transactions.v1-3-1-released",
    ]  # fmt: skip
    assert shell.audits[-1].result is CommandResult.APPLIED
    assert shell.account is not None and shell.account.available_points == 100


def test_a_command_that_waited_twice_counts_once() -> None:
    shell = Shell()
    shell.send(earn(100, transaction_id="x"))
    shell.send(earn(100, transaction_id="x"))
    shell.send(enrol())
    assert [(audit.result, audit.replayed) for audit in shell.audits[3:]] == [(CommandResult.APPLIED, False), (CommandResult.APPLIED, True)]
    assert shell.account is not None and shell.account.available_points == 100


def test_only_an_enrolment_does_without_an_account() -> None:
    with pytest.raises(ValueError, match="not enrolled"):
        evolve(None, CommandRefused(refusal=Refusal.INSUFFICIENT_POINTS))


@pytest.mark.parametrize("position", range(len(COMMANDS)))
def test_a_repetition_gets_the_first_answer_and_changes_nothing(position: int) -> None:
    shell = Shell().enrolled()
    firsts = [shell.send(command).audit for command in COMMANDS]
    shell.send(earn(7))
    before, remembered = shell.account, dict(shell.outcomes)
    again = replace(named(COMMANDS[position], f"c{position + 1}"), occurred_at_ms=NOW_MS + 60_000)
    settlement = shell.send(again, correlation_id="second attempt")
    assert settlement == Settlement(account=before, outcomes={}, vouchers={}, audit=settlement.audit)
    assert (shell.account, shell.outcomes) == (before, remembered)
    assert answer(settlement.audit) == answer(firsts[position])
    assert settlement.audit.replayed and settlement.audit.correlation_id == "second attempt"
    assert settlement.audit.offset == shell.sent and settlement.audit.changes == ()


def answer(audit: SyncAudit) -> tuple[object, ...]:
    return (
        audit.result, audit.reason, audit.sequence, audit.points_delta, audit.available_points, audit.tier, audit.voucher_code,
        audit.payload_hash,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (earn(100, transaction_id="x"), earn(101, transaction_id="x")),
        (earn(100, transaction_id="x"), redeem(100, transaction_id="x")),
        (redeem(100, transaction_id="x"), redeem(1, transaction_id="x")),
        (earn(100, transaction_id="x"), earn(100, transaction_id="x", source_system="crm")),
        (activate("double", "x"), activate("winter", "x")),
        (activate("double", "x"), change("x", segments=())),
        (change("x", segments=()), change("x", segments=None, attributes={"a": None})),
        (change("x", attributes={"a": None}), change("x", attributes={"b": None})),
        (enrol("enrol-0"), enrol("enrol-0", segments=("a",))),
    ],
)
def test_an_id_used_again_is_a_conflict(first: Command, second: Command) -> None:
    shell = Shell().enrolled()
    shell.send(first)
    before, remembered = shell.account, dict(shell.outcomes)
    settlement = shell.send(second)
    assert settlement == Settlement(account=before, outcomes={}, vouchers={}, audit=settlement.audit)
    assert shell.outcomes == remembered
    assert (settlement.audit.result, settlement.audit.reason, settlement.audit.replayed) == (CommandResult.CONFLICT, "ID_REUSED", False)
    assert (settlement.audit.sequence, settlement.audit.available_points) == (None, None), "nothing was decided"
    assert shell.send(first).audit.replayed, "the first one still gets its answer"


def test_conflict_comes_before_everything() -> None:
    """Even for a member that is not there any more: an answer that was given is kept."""
    shell = Shell().enrolled()
    shell.send(earn(100))
    remembered = next(outcome for outcome in shell.outcomes.values() if outcome.transaction_kind)
    for command, result in (
        (earn(100, transaction_id="c1"), CommandResult.APPLIED),
        (earn(9, transaction_id="c1"), CommandResult.CONFLICT),
    ):
        arrived = received(command, offset=9)
        rows = Rows(outcomes={outcome_key("grand", "m-1", command): remembered}, vouchers={})
        settlement = settle(None, arrived, rows=rows, programs=(PROGRAM,), clock_ms=0, recorded_at_ms=1)
        assert settlement.audit is not None
        assert (settlement.account, settlement.audit.result) == (None, result)


def test_a_settlement_tells_what_to_remember() -> None:
    shell = Shell().enrolled()
    earned = shell.send(earn(100))
    redeemed = shell.send(redeem(30, reward_code="R"))
    assert earned.audit is not None and redeemed.audit is not None
    first = Outcome(
        payload_hash=earned.audit.payload_hash,
        result=CommandResult.APPLIED,
        transaction_kind=earn(1).kind,
        points_delta=100,
        sequence=2,
        available_points=100,
        tier="blue",
        ingested_at_ms=10_001,
        counter_account="issued",
    )
    second = replace(
        first, payload_hash=redeemed.audit.payload_hash, transaction_kind=redeem(1).kind, points_delta=-30, sequence=4, available_points=70,
        voucher_code=redeemed.audit.voucher_code, ingested_at_ms=10_002, parts=(LotPart(lot_id="c1", points=30),), counter_account="redeemed",
    )  # fmt: skip
    assert dict(earned.outcomes) == {b"grand/m-1\x00t:c1": first}
    assert dict(redeemed.outcomes) == {b"grand/m-1\x00t:c2": second}


def test_a_transaction_that_the_command_names_is_remembered_anew() -> None:
    shell = Shell().enrolled()
    shell.send(earn(100))
    first = shell.outcomes[b"grand/m-1\x00t:c1"]
    settlement = shell.send(reverse("c1", 30))
    assert settlement.outcomes[b"grand/m-1\x00t:c1"] == replace(first, reversed_points=30)
    assert settlement.outcomes.keys() == {b"grand/m-1\x00t:c1", b"grand/m-1\x00t:c2"}


def test_the_workers_clock_is_in_nothing_that_is_stored() -> None:
    """Replaying the log rebuilds the same bytes, whenever it is done."""
    stored, published = [], []
    for recorded_at_ms in (1, 10**12):
        shell = Shell(recorded_at_ms=recorded_at_ms)
        for command in (COMMANDS[0], enrol("e"), *COMMANDS[1:], change(status=MemberStatus.SUSPENDED), earn(1_000)):
            shell.send(command)
        assert shell.account is not None
        state = [shell.account.to_avro(), *(outcome.to_avro() for outcome in shell.outcomes.values()), *(row.to_avro() for row in shell.vouchers.values())]
        stored.append(orjson.dumps(state))
        records: list[Any] = [*shell.events, *shell.entries, *shell.profiles, *shell.audits]
        assert {record.recorded_at_ms for record in records} == {recorded_at_ms}
        published.append([replace(record, recorded_at_ms=0) for record in records])
    assert stored[0] == stored[1]
    assert published[0] == published[1]


def test_times_and_correlation_reach_every_record() -> None:
    shell = Shell()
    shell.send(enrol(), correlation_id="r")
    shell.send(earn(1_000), correlation_id="r", ingested_at_ms=5)
    records: list[Any] = [*shell.events, *shell.entries, *shell.profiles, *shell.audits]
    assert {record.correlation_id for record in records} == {"r"}
    assert [event.ingested_at_ms for event in shell.events] == [10_001, 5, 5]
    assert {event.occurred_at_ms for event in shell.events} == {NOW_MS}


def test_the_audit_names_the_actor_and_the_changes() -> None:
    shell = Shell().enrolled()
    audit = shell.send(earn(1_000, actor="till-3")).audit
    assert audit.actor == "till-3"
    assert [(c.attribute, c.before, c.after) for c in audit.changes] == [
        ("available_points", "0", "1000"), ("qualifying_points", "0", "1000"), ("tier", "blue", "silver"),
    ]  # fmt: skip
    assert shell.send(activate("double")).audit.actor is None
