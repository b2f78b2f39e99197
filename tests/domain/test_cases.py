"""The tables of cases, and that they speak of every refusal there is."""

import ast
import inspect

import pytest

from streams.domain.refusals import Refusal
from tests.domain import cases

# The first needs a policy: test_mastering.py. The others need accounts that take very many commands to make: test_profiles.py, test_ledger.py.
NOT_IN_THE_TABLE = {Refusal.ATTRIBUTE_MASTERED_EXTERNALLY, Refusal.PROFILE_TOO_LARGE, Refusal.POINTS_OVERFLOW}


NAMED = {f"{table}: {case.name}": case for table, rows in cases.TABLES.items() for case in rows}


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
def test_case(case: cases.Case) -> None:
    cases.check(case)


def test_every_case_has_a_name_of_its_own() -> None:
    assert len(NAMED) == len(cases.CASES) > 700


def test_every_refusal_explains_itself() -> None:
    """A string under each member: the meaning of the code, for whoever gets it as an answer."""
    body = ast.parse(inspect.getsource(Refusal)).body[0].body  # type: ignore[attr-defined]
    docs = {ast.unparse(one.targets[0]): ast.unparse(other) for one, other in zip(body, body[1:], strict=False) if isinstance(one, ast.Assign)}
    assert docs.keys() == {refusal.value for refusal in Refusal}
    assert all(len(doc) > 30 for doc in docs.values())


def test_every_refusal_has_a_case() -> None:
    assert {case.result for case in cases.CASES if isinstance(case.result, Refusal)} == set(Refusal) - NOT_IN_THE_TABLE
