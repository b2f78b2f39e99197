"""All tables of cases. test_cases.py runs them, and so do the seeded faults."""

from tests.domain import (
    cases_basics,
    cases_earning,
    cases_holds,
    cases_lots,
    cases_membership,
    cases_offers,
    cases_pending,
    cases_reversals,
    cases_tiers,
    cases_vouchers,
)
from tests.domain.casework import Case, check

__all__ = ["CASES", "TABLES", "Case", "check"]

TABLES = {
    "basics": cases_basics.CASES, "earning": cases_earning.CASES, "lots": cases_lots.CASES, "holds": cases_holds.CASES,
    "pending": cases_pending.CASES, "reversals": cases_reversals.CASES, "tiers": cases_tiers.CASES, "offers": cases_offers.CASES,
    "vouchers": cases_vouchers.CASES, "membership": cases_membership.CASES,
}  # fmt: skip
CASES: list[Case] = [case for table in TABLES.values() for case in table]
