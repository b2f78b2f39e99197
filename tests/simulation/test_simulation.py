"""The simulation in short: some seeds find nothing, the same seed is the same run, and a domain with a fault in it is found out."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schemas.records import EntryKind, MemberStatus
from streams.agents.keep_accounts import KeepAccounts
from streams.domain import accounts, book, budgets, desk, earning, exchange, ledger, offers, reversals, timers
from streams.domain.lots import Movement
from tests.simulation import simulator
from tests.simulation.simulator import Failure, run

ROOT = Path(__file__).parent.parent.parent
STEPS = 1_500
SEEDS_MAX = 6
"""How many seeds a fault may hide from."""


@pytest.mark.parametrize("seed", [*range(5), 2 * simulator.AVRO_EVERY_SEEDS - 1])
def test_a_seed_finds_nothing(seed: int) -> None:
    result = run(seed, STEPS)
    assert result.counts["records"] > STEPS
    assert result.counts["result APPLIED"] > STEPS / 10


def test_a_run_is_its_seed() -> None:
    """Also in another process, where sets and dictionaries of texts have another order."""
    script = "import logging; logging.disable(); from tests.simulation.simulator import run; print(run(8, 300).digest)"
    there = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True, timeout=100
    )
    assert run(8, 300).digest == there.stdout.strip()
    assert run(9, 300).digest != there.stdout.strip()


def test_a_failure_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _credits_transfers_twice(monkeypatch)
    failures = []
    for _ in range(2):
        with pytest.raises(Failure) as found:
            _find()
        failures.append(str(found.value))
    assert failures[0] == failures[1]
    assert "again: make simulate SEED=" in failures[0]


# Faults.


def _books_expiry_wrong(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: Movement, kind: EntryKind, points_delta: int, *rest: Any, **more: Any) -> None:
        post(self, kind, points_delta - (kind is EntryKind.EXPIRY and points_delta < 0), *rest, **more)

    post = Movement.post
    patch.setattr(Movement, "post", wrong)


def _lets_points_stay(patch: pytest.MonkeyPatch) -> None:
    next_due_ms = timers.next_due_ms
    patch.setattr(timers, "next_due_ms", lambda account: next_due_ms(replace(account, lots=())))


def _credits_transfers_twice(patch: pytest.MonkeyPatch) -> None:
    receive = ledger.receive

    def twice(opened: Any, relay: Any) -> None:
        receive(opened, relay)
        if relay.movement is EntryKind.TRANSFER_IN:
            receive(opened, replace(relay, lots=tuple(replace(lot, lot_id=f"{lot.lot_id}-again") for lot in relay.lots)))

    patch.setattr(ledger, "receive", twice)


def _refunds_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reversals, "_due_back", lambda original, asked: list(original.parts))


def _writes_no_due_rows(patch: pytest.MonkeyPatch) -> None:
    def store(self: KeepAccounts, key: bytes, before: Any, settlement: Any) -> None:
        kept(self, key, settlement.account if before is not None else None, settlement)  # As if nothing had changed.
        if settlement.account is not None:
            self._tables.accounts[key] = settlement.account

    kept = KeepAccounts._store
    patch.setattr(KeepAccounts, "_store", store)


def _drops_what_cannot_be_delivered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(exchange, "_returned", lambda account, relay: desk.Settlement(account=account, outcomes={}, vouchers={}, audit=None))


def _lets_the_suspended_spend(patch: pytest.MonkeyPatch) -> None:
    redeem = ledger._redeem

    def unchecked(opened: Any, command: Any, about: Any) -> Any:
        if opened.account.status is not MemberStatus.SUSPENDED or opened.account.available_points < command.points:
            return redeem(opened, command, about)
        ledger._spend(opened, command, about, EntryKind.REDEEM, command.points, "redeemed", "redeem")
        return None

    patch.setattr(ledger, "_redeem", unchecked)


def _grants_every_budget(patch: pytest.MonkeyPatch) -> None:
    def answer(budget: Any, relay: Any, program: Any) -> Any:
        wide = {name: replace(offer, budget_points=10**9) for name, offer in program.offers.items()}
        return real(budget, relay, replace(program, offers=wide))

    real = budgets.answer
    patch.setattr(budgets, "answer", answer)


def _leaves_the_cap_out(patch: pytest.MonkeyPatch) -> None:
    def uncapped(account: Any, command: Any, program: Any, base_points: int) -> Any:
        without = {name: replace(offer, cap_points=None) for name, offer in program.offers.items()}
        return real(account, command, replace(program, offers=without), base_points)

    real = offers.bonuses
    patch.setattr(earning, "bonuses", uncapped)


def _keeps_what_was_erased(patch: pytest.MonkeyPatch) -> None:
    def evolve(account: Any, fact: Any) -> Any:
        after = accounts.evolve(account, fact)
        return replace(after, attributes=account.attributes) if type(fact).__name__ == "MemberErased" else after

    patch.setattr(book, "evolve", evolve)


def _reads_a_clock(patch: pytest.MonkeyPatch) -> None:
    settle = desk.settle

    def late(account: Any, received: Any, **more: Any) -> Any:
        return settle(account, received, **{**more, "clock_ms": more["clock_ms"] + more["recorded_at_ms"] % 2})

    patch.setattr(desk, "settle", late)


def _decides_repetitions_anew(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(desk, "is_remembered", lambda outcome, program, now_ms: False)


def _lets_holds_stay(patch: pytest.MonkeyPatch) -> None:
    next_due_ms = timers.next_due_ms
    patch.setattr(timers, "next_due_ms", lambda account: next_due_ms(replace(account, holds=())))


@pytest.mark.parametrize(
    "break_it",
    [
        _books_expiry_wrong, _lets_points_stay, _lets_holds_stay, _credits_transfers_twice, _refunds_twice, _writes_no_due_rows,
        _drops_what_cannot_be_delivered, _lets_the_suspended_spend, _grants_every_budget, _leaves_the_cap_out, _keeps_what_was_erased,
        _reads_a_clock, _decides_repetitions_anew,
    ],
    ids=lambda function: function.__name__.strip("_").replace("_", " "),
)  # fmt: skip
def test_a_fault_is_found(break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    break_it(monkeypatch)
    with pytest.raises(Failure):
        _find()


def _find() -> None:
    for seed in range(SEEDS_MAX):
        run(seed, STEPS)
