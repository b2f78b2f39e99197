"""A test of the tests: faults as users of other ledgers have met them are put into the domain, and the tests have to notice.

A fault is a change of the source text. It is applied to a copy of the module, whose functions then replace the real ones.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import streams.domain
from tests.domain import cases
from tests.domain.machine import Member

TABLE, MACHINE = "table", "machine"

# What goes wrong, and in which module; the right text, the wrong text; who must notice.
FAULTS = [
    (
        "the whole balance cannot be spent", "ledger",
        "points > account.available_points",
        "points >= account.available_points",
        {TABLE, MACHINE},
    ),
    (
        "one more than the balance can be spent", "ledger",
        "points > account.available_points",
        "points > account.available_points + 1",
        {TABLE, MACHINE},
    ),
    (
        "a redemption is cut to the balance in silence", "ledger",
        "_moved(EntryKind.REDEEM, -points,",
        "_moved(EntryKind.REDEEM, -min(points, 50),",
        {TABLE, MACHINE},
    ),
    (
        "suspended members spend", "ledger",
        "if account.status is MemberStatus.SUSPENDED:",
        "if False:",
        {TABLE, MACHINE},
    ),
    (
        "negative balances by adjustment", "ledger",
        "if account.available_points + points < 0:",
        "if False:",
        {TABLE, MACHINE},
    ),
    (
        "a refund twice", "ledger",
        "reversed_points=original.reversed_points + asked_points",
        "reversed_points=0",
        {TABLE, MACHINE},
    ),
    (
        "a refund in parts gives more than was paid", "ledger",
        "if asked_points > left_points:",
        "if asked_points > abs(original.points_delta):",
        {TABLE, MACHINE},
    ),
    (
        "a reversal leaves the points", "ledger",
        "min(asked_points, account.available_points)",
        "0",
        {TABLE, MACHINE},
    ),
    (
        "a reversal takes more than there is", "ledger",
        "min(asked_points, account.available_points)",
        "asked_points",
        {TABLE, MACHINE},
    ),
    (
        "the shortfall is asked for again", "ledger",
        "original.reversed_points + asked_points",
        "original.reversed_points + moved_points",
        {TABLE, MACHINE},
    ),
    (
        "a purchase that was returned still counts for the tier", "ledger",
        "qualifying_delta=-asked_points",
        "qualifying_delta=-0",
        {TABLE, MACHINE},
    ),
    (
        "only what was recovered is taken from the tier", "ledger",
        "qualifying_delta=-asked_points",
        "qualifying_delta=-moved_points",
        {TABLE, MACHINE},
    ),
    (
        "adjustments are given back as if earned", "ledger",
        "original.transaction_kind is TransactionKind.EARN",
        "taken_back",
        {TABLE, MACHINE},
    ),
    (
        "refused transactions are reversed", "ledger",
        "original.result is not CommandResult.APPLIED or original.points_delta == 0",
        "False",
        {TABLE, MACHINE},
    ),
    (
        "reaching a threshold is not enough", "tiers",
        "qualifying_points < tier.threshold_points",
        "qualifying_points <= tier.threshold_points",
        {TABLE, MACHINE},
    ),
    (
        "only the next tier is looked at", "tiers",
        "        reached = tier\n",
        "        return tier\n",
        {TABLE, MACHINE},
    ),
    (
        "reversals never demote", "tiers",
        "if not may_demote and",
        "if",
        {TABLE, MACHINE},
    ),
    (
        "rounded in parts", "earning",
        "(rated_minor + nights_points * minor_units) * earn_percent(program, account.tier) // (minor_units * 100)",
        "(rated_minor // minor_units + nights_points) * earn_percent(program, account.tier) // 100",
        {TABLE, MACHINE},
    ),
    (
        "rounded per line", "earning",
        "max(0, sum(line.amount_minor for line in command.line_items))",
        "max(0, sum(line.amount_minor // 10 * 10 for line in command.line_items))",
        {TABLE},
    ),
    (
        "every currency has cents", "earning",
        '10 ** MINOR_UNIT_DIGITS[command.currency or ""]',
        "100",
        {TABLE, MACHINE},
    ),
    (
        "a missing rate earns nothing in silence", "earning",
        "return Refusal.CURRENCY_NOT_EARNING",
        "rate = 0",
        {TABLE, MACHINE},
    ),
    (
        "given points are multiplied", "earning",
        "points, rule_id = command.points,",
        "points, rule_id = command.points * earn_percent(program, account.tier) // 100,",
        {TABLE, MACHINE},
    ),
    (
        "an offer runs one instant too long", "offers",
        "at_ms < offer.ends_at_ms",
        "at_ms <= offer.ends_at_ms",
        {TABLE, MACHINE},
    ),
    (
        "an offer starts one instant late", "offers",
        "offer.starts_at_ms <= at_ms",
        "offer.starts_at_ms < at_ms",
        {TABLE, MACHINE},
    ),
    (
        "an offer is activated twice", "offers",
        "if offer.offer_id in account.active_offers:",
        "if False:",
        {TABLE, MACHINE},
    ),
    (
        "an offer applies to all categories", "offers",
        "command.category in offer.categories",
        "True",
        {TABLE},
    ),
    (
        "an equal version is applied again", "profiles",
        "command.source_version > applied_version",
        "command.source_version >= applied_version",
        {TABLE, MACHINE},
    ),
    (
        "a late version is applied", "profiles",
        "return command.source_version is None or",
        "return True or",
        {TABLE, MACHINE},
    ),
    (
        "a refusal is forgotten", "desk",
        "        outcome=outcome,\n",
        "        outcome=None if decision.result is CommandResult.REFUSED else outcome,\n",
        {TABLE, MACHINE},
    ),
    (
        "a repetition is done again", "desk",
        "if remembered is not None:",
        "if False:",
        {TABLE, MACHINE},
    ),
    (
        "an id used again is taken for a repetition", "desk",
        "if digest == remembered.payload_hash:",
        "if True:",
        {TABLE, MACHINE},
    ),
    (
        "a bonus makes a second balance event", "accounts",
        "event_sequence=account.event_sequence + 1,",
        "event_sequence=account.event_sequence + len(fact.postings),",
        {MACHINE},
    ),
    (
        "entry numbers leave gaps", "accounts",
        "entry_sequence=account.entry_sequence + len(fact.postings)",
        "entry_sequence=account.entry_sequence + 2",
        {MACHINE},
    ),
    (
        "the balance of the first of two entries is that of the last", "outbound",
        "balance += posting.points_delta",
        "balance = account.available_points",
        {MACHINE},
    ),
    (
        "events show the balance before", "outbound",
        "available_points=account.available_points,",
        "available_points=account.available_points - getattr(fact, 'points_delta', 0),",
        {MACHINE},
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
    # Functions only: a second class of the same name would be noticed by the first comparison.
    faulty.update({name: value for name, value in vars(module).items() if isinstance(value, type)})
    for name, original in list(vars(module).items()):
        if isinstance(original, FunctionType) and original.__module__ == module.__name__:
            for user in domain_modules():
                for alias, value in list(vars(user).items()):
                    if value is original:
                        monkeypatch.setattr(user, alias, faulty[name])


def domain_modules() -> list[ModuleType]:
    return [importlib.import_module(f"streams.domain.{info.name}") for info in pkgutil.iter_modules(streams.domain.__path__)]


def table_notices() -> bool:
    for case in cases.CASES:
        try:
            cases.check(case)
        except AssertionError:
            return True
    return False


def machine_notices() -> bool:
    quick = settings(
        max_examples=300, stateful_step_count=50, deadline=None, derandomize=True, database=None, report_multiple_bugs=False,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    try:
        run_state_machine_as_test(Member, settings=quick)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("patched", FAULTS, ids=[fault[0] for fault in FAULTS], indirect=True)
def test_the_fault_is_noticed(patched: set[str]) -> None:
    noticed = ({TABLE} if table_notices() else set()) | ({MACHINE} if MACHINE in patched and machine_notices() else set())
    assert noticed >= patched


def test_without_a_fault_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of the sources work like the sources; else the faults above might be noticed for the wrong reason."""
    for module in domain_modules():
        put_fault(monkeypatch, module, "", "")
    assert not table_notices()
    assert not machine_notices()
