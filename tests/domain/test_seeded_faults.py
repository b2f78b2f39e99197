"""A test of the tests: faults as users of other ledgers have met them are put into the domain, and the tests have to notice.

A fault is a change of the source text. It is applied to a copy of the module, whose functions then replace the real ones.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

import streams.domain
from tests.domain import cases
from tests.domain.machine import Member
from tests.domain.machine_many import Members

TABLE, MACHINE, MANY = "table", "machine", "machine of many members"

# What goes wrong, and in which module; the right text, the wrong text; who must notice.
FAULTS: list[tuple[str, str, str, str, set[str]]] = [
    (
        "an event counts again under the version that is there", "origins",
        "return version == origin.source_version and said > current",
        "return version == origin.source_version",
        {TABLE},
    ),
    (
        "of two statuses under one version the first to arrive counts", "origins",
        "return version == origin.source_version and said > current",
        "return False",
        {TABLE},
    ),
    (
        "versions are compared by arrival", "origins",
        "if origin.source_version is None or version > origin.source_version:",
        "if True:",
        {TABLE},
    ),
    (
        "what was parked is forgotten", "profiles",
        "    ledger.unpark(book)\n    return command.status",
        "    return command.status",
        {TABLE},
    ),
    (
        "what was parked is forgotten when a scheduled status comes", "timers",
        "            ledger.unpark(book)\n",
        "",
        {TABLE},
    ),
    (
        "who has left goes on spending", "suspension",
        ", MemberStatus.LEFT: Refusal.MEMBERSHIP_ENDED",
        "",
        {TABLE},
    ),
    (
        "the whole balance cannot be spent", "ledger",
        "        return Refusal.REWARD_PRICE_DIFFERS\n    if points > account.available_points:",
        "        return Refusal.REWARD_PRICE_DIFFERS\n    if points >= account.available_points:",
        {TABLE, MACHINE},
    ),
    (
        "a redemption is cut in silence", "ledger",
        "_spend(book, command, about, EntryKind.REDEEM, points, REDEEMED, \"redeem\")",
        "_spend(book, command, about, EntryKind.REDEEM, min(points, 20), REDEEMED, \"redeem\")",
        {TABLE, MACHINE},
    ),
    (
        "expiry takes the spent points, too: the balance collapses", "lots",
        "-sum(part.points for part in parts), EXPIRED",
        ("-sum(p.points for p in parts) - (not pending) * min(self.available - sum(p.points for p "
         "in parts), self._lots[parts[0].lot_id].spent if parts else 0), EXPIRED"),
        {TABLE, MACHINE},
    ),
    (
        "a refund gives everything again", "reversals",
        "left = total - original.reversed_points",
        "left = total",
        {TABLE, MACHINE},
    ),
    (
        "a second refund in part gives the first parts again", "reversals",
        "skip, due = original.reversed_points, []",
        "skip, due = 0, []",
        {TABLE, MACHINE},
    ),
    (
        "a refund brings back a lot that was taken back", "lots",
        "if lot is None or lot.reversed or grace or",
        "if lot is None or grace or",
        {MACHINE},
    ),
    (
        "a reversal forgets what was spent", "lots",
        "self.recover(spent, policy, \"reverse\")",
        "0",
        {TABLE, MACHINE},
    ),
    (
        "what is taken back of other points is forgotten with them", "lots",
        "self.take(taken, \"settled\")",
        "self.take(taken, \"clawed\")",
        {MACHINE},
    ),
    (
        "a reversal leaves the points", "lots",
        "else min(points, self.available)",
        "else 0",
        {TABLE, MACHINE},
    ),
    (
        "the newest points are spent first", "lots",
        "return sorted(lots, key=order) if self._inserted else lots",
        "return sorted(lots, key=lambda lot: -lot.earned_at_ms)",
        {TABLE, MACHINE},
    ),
    (
        "the oldest points are spent first, whenever they expire", "lots",
        "return (NEVER_MS if lot.expires_at_ms is None else lot.expires_at_ms, lot",
        "return (0, lot",
        {TABLE, MACHINE},
    ),
    (
        "pending points are spent", "lots",
        "if lot.remaining and not lot.pending and (",
        "if lot.remaining and (",
        {TABLE, MACHINE},
    ),
    (
        "points can be spent in the instant of their expiry", "timers",
        "is not None and due_ms <= now_ms:",
        "is not None and due_ms < now_ms:",
        {TABLE, MACHINE},
    ),
    (
        "a late activity shortens the life of points", "lots",
        "until_ms is not None and until_ms > lot.expires_at_ms:",
        "until_ms is not None:",
        {TABLE},
    ),
    (
        "an expired lot's refund lives for ever", "lots",
        "grace = until_ms is not None and until_ms <= now_ms and book",
        "grace = until_ms is not None and book",
        {TABLE, MACHINE},
    ),
    (
        "a refusal is not remembered", "desk",
        "    book.outcomes[own_key] = outcome\n",
        "    if result is CommandResult.APPLIED:\n        book.outcomes[own_key] = outcome\n",
        {TABLE, MACHINE},
    ),
    (
        "a repetition is done again", "desk",
        ("        return repeat(account, received, command, digest, remembered, recorded_at_ms)\n"
         "    if account is not None and isinstance(command, Transaction) and _is"),
        "        pass\n    if account is not None and isinstance(command, Transaction) and _is",
        {TABLE, MACHINE},
    ),
    (
        "an id used again is taken for a repetition", "desk",
        "if digest == remembered.payload_hash:",
        "if True:",
        {TABLE, MACHINE},
    ),
    (
        "answers are forgotten after a day", "book",
        "< program.idempotency_days * DAY_MS",
        "< DAY_MS",
        {TABLE, MACHINE},
    ),
    (
        "every line is rounded by itself", "earning",
        "points = _rounded(program.rounding, exact, denominator) - given",
        "points = given * rule.percent // 100 if rule.percent else _rounded(program.rounding, exact, denominator) - given",
        {TABLE, MACHINE},
    ),
    (
        "a rule's cap is counted anew with every sale", "earning",
        "rule.cap_points - used.points))",
        "rule.cap_points))",
        {TABLE, MACHINE},
    ),
    (
        "a missing rate earns nothing in silence", "earning",
        "        return Refusal.CURRENCY_NOT_EARNING",
        "        currency = 'JPY'",
        {TABLE, MACHINE},
    ),
    (
        "reaching a threshold is not enough", "tiers",
        "qualifying_points < tier.threshold_points",
        "qualifying_points <= tier.threshold_points",
        {TABLE, MACHINE},
    ),
    (
        "a tier is lost a year early", "tiers",
        "change(book, tier, valid_until(program, account.enrolled_at_ms, book.now_ms))",
        "change(book, tier, start_of_year(program.time_zone, book.now_ms, 1))",
        {MACHINE},
    ),
    (
        "the days of grace are not given", "tiers",
        "return add_days(zone, end_ms, policy.grace_days) if policy.grace_days else end_ms",
        "return end_ms",
        {TABLE, MACHINE},
    ),
    (
        "a reversal costs the tier, whatever the policy", "tiers",
        "if not program.tier_policy.demote_on_reversal or current is None:",
        "if current is None:",
        {TABLE, MACHINE},
    ),
    (
        "a late earn counts for today's period", "ledger",
        "count(book, earned.points, command.occurred_at_ms)",
        "count(book, earned.points, book.now_ms)",
        {TABLE, MACHINE},
    ),
    (
        "a reversal takes the qualifying points twice", "reversals",
        "tiers.count(book, -asked, lot",
        "tiers.count(book, -2 * asked, lot",
        {TABLE, MACHINE},
    ),
    (
        "a purchase that was returned still counts for the tier", "reversals",
        "tiers.count(book, -asked, lot",
        "tiers.count(book, 0, lot",
        {TABLE, MACHINE},
    ),
    (
        "an earn does not pay the debt", "lots",
        "points = min(self.debt, self.available)",
        "points = 0",
        {TABLE, MACHINE},
    ),
    (
        "held points are taken at once by a reversal", "lots",
        "        elif held:\n            self.put(replace(self._lots[lot_id], claw_when_released=lot.claw_when_released + held))",
        "        elif held:\n            self.recover(held, policy, \"reverse\")",
        {TABLE, MACHINE},
    ),
    (
        "a capture forgets what a reversal has asked for", "lots",
        "owed[_came_from(lot)] += claw",
        "owed[_came_from(lot)] += 0",
        {TABLE, MACHINE},
    ),
    (
        "a void forgets what a reversal has asked for", "lots",
        "            if claw:\n",
        "            if False:\n",
        {TABLE},
    ),
    (
        "a void brings expired points back to life", "lots",
        "lot = _moved(self._lots[part.lot_id], part.points, \"held\", \"remaining\")",
        "lot = replace(_moved(self._lots[part.lot_id], part.points, \"held\", \"remaining\"), expires_at_ms=None)",
        {TABLE, MACHINE},
    ),
    (
        "a hold's time is never over", "timers",
        "ends = [hold.expires_at_ms for hold in account.holds] + [",
        "ends = [",
        {TABLE},
    ),
    (
        "a capture in part keeps the rest", "lots",
        "self.release(hold, left, \"capture\")",
        "self.release(hold, [], \"capture\")",
        {TABLE, MACHINE},
    ),
    (
        "a hold is captured for more than it has", "ledger",
        "        return Refusal.CAPTURE_TOO_LARGE",
        "        points = held",
        {TABLE},
    ),
    (
        "suspended members spend", "ledger",
        "    if (refusal := barred(account)) is not None:\n        return refusal\n    reward =",
        "    reward =",
        {TABLE, MACHINE},
    ),
    (
        "suspended members capture", "ledger",
        "is not None and not book.program.capture_while_suspended:",
        "is not None and book.program.capture_while_suspended is None:",
        {TABLE},
    ),
    (
        "a voucher is redeemed twice", "vouchers",
        "    refusal = refusal_of(voucher)\n",
        "    refusal = None\n",
        {TABLE, MACHINE},
    ),
    (
        "a cancelled voucher can be redeemed still", "reversals",
        "    vouchers.close(book, voucher, VoucherState.CANCELLED)\n    return None",
        "    return None",
        {TABLE, MACHINE},
    ),
    (
        "an offer's cap is counted anew with every sale", "offers",
        "offer.cap_points - use.points)",
        "offer.cap_points)",
        {TABLE, MACHINE},
    ),
    (
        "an offer gives once too often", "offers",
        "use.uses >= offer.uses_max",
        "use.uses > offer.uses_max",
        {TABLE, MACHINE},
    ),
    (
        "an offer runs one instant too long", "offers",
        "at_ms < offer.ends_at_ms",
        "at_ms <= offer.ends_at_ms",
        {TABLE},
    ),
    (
        "an offer is activated twice", "offers",
        "if use_of(account, offer.offer_id, period_ms) is not None:",
        "if False:",
        {TABLE},
    ),
    (
        "the chain of entries stands still", "book",
        "            before = chain\n",
        "            before = account.entry_hash\n",
        {MACHINE},
    ),
    (
        "a downward adjustment goes below 0", "ledger",
        "        if account.available_points + points < 0:\n",
        "        if False:\n",
        {TABLE, MACHINE},
    ),
    (
        "a budget grants one too many", "budgets",
        "before.reserved_points + relay.points <= limit",
        "before.reserved_points <= limit",
        {MANY},
    ),
    (
        "a merge loses the debt", "membership",
        "moved.post(movement, -debt_points, IN_TRANSIT, \"merge\", DEBT)",
        "moved.post(movement, 0, IN_TRANSIT, \"merge\", DEBT)",
        {MANY},
    ),
    (
        "a merge leaves the points with the source", "membership",
        "    moved.empty(EntryKind.MERGE_OUT, \"merge\")\n",
        "    moved.pay_debt()\n",
        {TABLE, MANY},
    ),
    (
        "points that are passed on live longer", "ledger",
        "            expires_at_ms=expires_at_ms,\n",
        "            expires_at_ms=None,\n",
        {MANY},
    ),
    (
        "a relay that comes twice gives twice", "exchange",
        "    if key in rows.outcomes:\n",
        "    if False:\n",
        {MANY},
    ),
    (
        "what is sent to nobody is lost", "exchange",
        "    return _sent(account, replace(relay, member_id=relay.from_member_id, kind=back, path=(), from_member_id=sender))",
        "    return Settlement(account=account, outcomes={}, vouchers={}, audit=None)",
        {MANY},
    ),
    (
        "who was merged goes on alone", "desk",
        "    if account is not None and account.merged_into is not None and not stays_here(account, command):",
        "    if False:",
        {TABLE, MANY},
    ),
]  # fmt: skip


@pytest.fixture
def patched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The domain with the fault; the value is who must notice."""
    _, module, right, wrong, noticed_by = request.param
    put_fault(monkeypatch, importlib.import_module(f"streams.domain.{module}"), right, wrong)
    yield noticed_by


def put_fault(monkeypatch: pytest.MonkeyPatch, module: ModuleType, right: str, wrong: str) -> None:
    assert module.__file__ is not None
    source = Path(module.__file__).read_text()
    assert not right or source.count(right) == 1, (
        f"the fault does not fit {module.__name__} any more: {right!r} occurs {source.count(right)} times"
    )
    faulty = dict(vars(module))
    exec(compile(source.replace(right, wrong) if right else source, f"<{module.__name__} with a fault>", "exec"), faulty)
    # Functions and methods only: a second class of the same name would be noticed by the first comparison.
    for name, original in list(vars(module).items()):
        if isinstance(original, type):
            put_methods(monkeypatch, original, faulty[name], module.__name__)
            faulty[name] = original
    for name, original in list(vars(module).items()):
        if is_function(original) and original.__module__ == module.__name__:
            for user in domain_modules():
                for alias, value in list(vars(user).items()):
                    if value is original:
                        monkeypatch.setattr(user, alias, faulty[name])


def put_methods(monkeypatch: pytest.MonkeyPatch, original: type, faulty: type, module: str) -> None:
    if original.__module__ == module and not is_dataclass(original) and not issubclass(original, (Enum, tuple)):
        for name, value in list(vars(faulty).items()):
            if isinstance(value, FunctionType | property):
                monkeypatch.setattr(original, name, value)


def is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, type) and hasattr(value, "__module__")  # Also those that remember their results.


def domain_modules() -> list[ModuleType]:
    return [importlib.import_module(f"streams.domain.{info.name}") for info in pkgutil.iter_modules(streams.domain.__path__)]


def table_notices() -> bool:
    return any(is_noticed(partial(cases.check, case)) for case in cases.CASES)


def machine_notices(machine: type[RuleBasedStateMachine] = Member) -> bool:
    quick = settings(
        max_examples=300, stateful_step_count=40, deadline=None, derandomize=True, database=None, report_multiple_bugs=False,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    return is_noticed(partial(run_state_machine_as_test, machine, settings=quick))


def is_noticed(check: Callable[[], object]) -> bool:
    """By whatever it is that goes wrong: the domain has assertions of its own."""
    try:
        check()
    except Exception:
        return True
    return False


NOTICE: dict[str, Callable[[], bool]] = {TABLE: table_notices, MACHINE: machine_notices, MANY: partial(machine_notices, Members)}


@pytest.mark.parametrize("patched", FAULTS, ids=[fault[0] for fault in FAULTS], indirect=True)
def test_the_fault_is_noticed(patched: set[str]) -> None:
    assert {who for who in patched if NOTICE[who]()} == patched


def test_without_a_fault_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of the sources work like the sources; else the faults above might be noticed for the wrong reason."""
    for module in domain_modules():
        put_fault(monkeypatch, module, "", "")
    assert [who for who, notices in NOTICE.items() if notices()] == []
