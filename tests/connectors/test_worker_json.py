import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Enrolment, MemberStatus, ProfileChange
from streams.connectors.contract import Delivery, Source
from streams.connectors.worker_json import translate
from streams.errors import ContractError
from tests.connectors.support import NOW_MS

HR = Source(name="workday", kind="workday", program_id="staff")
DOCUMENTED = {
    "event_id": "wd-1a2b", "type": "worker.deactivated", "employee_id": "21001", "worker_id": "7bf6322f1ea101fd0b4433077f09cb04",
    "effective_date": "2026-11-22", "time_zone": "Asia/Kolkata", "occurred_at": "2026-11-22T03:40:00Z", "reason": "TERMINATION",
}  # fmt: skip


def delivery(body: bytes) -> Delivery:
    return Delivery(body=body, headers={}, received_at_ms=NOW_MS)


def test_a_deactivation_suspends() -> None:
    (change,) = translate(delivery(orjson.dumps(DOCUMENTED)), HR).commands
    assert isinstance(change, ProfileChange)
    assert (change.member_id, change.status, change.status_reason, change.status_from_ms) == ("21001", MemberStatus.SUSPENDED, "TERMINATION", None)
    assert change.source_version == change.occurred_at_ms == NOW_MS


def test_a_deactivation_ahead_waits_for_the_end_of_the_last_day_where_they_work() -> None:
    (change,) = translate(delivery(orjson.dumps(DOCUMENTED | {"effective_date": "2026-11-30"})), HR).commands
    assert isinstance(change, ProfileChange) and change.status_from_ms == 1_796_063_400_000  # 2026-12-01T00:00 in Kolkata


def test_a_hire_enrols() -> None:
    event = {"type": "worker.hired", "employee_id": "21001", "effective_date": "2026-11-02", "occurred_at": "2026-11-22T03:40:00Z",
             "attributes": {"given_name": "Ada"}, "segments": ["staff"], "external_ids": {"card": "4711"}}  # fmt: skip
    enrolment, change = translate(delivery(orjson.dumps(event)), HR).commands
    assert isinstance(enrolment, Enrolment) and isinstance(change, ProfileChange)
    assert (change.attributes, change.segments, change.external_ids) == ({"given_name": "Ada"}, ("staff",), {"card": "4711"})


@pytest.mark.parametrize(
    "other",
    [{"type": "worker.fired"}, {"employee_id": ""}, {"employee_id": 7}, {"occurred_at": "yesterday"}, {"effective_date": "soon"},
     {"time_zone": "Mars/Phobos", "effective_date": "2026-12-01"}, {"attributes": []}, {"segments": [1]}, {"version": "1"}],
)  # fmt: skip
def test_what_cannot_be_is_refused(other: dict[str, object]) -> None:
    with pytest.raises(ContractError):
        translate(delivery(orjson.dumps(DOCUMENTED | other)), HR)


_VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.text(max_size=8), inner, max_size=3), max_leaves=6)  # fmt: skip


_NAMES = st.sampled_from([*DOCUMENTED, "attributes", "segments", "external_ids", "version"])


@given(st.dictionaries(_NAMES, _VALUES), st.sampled_from(["", "worker.hired", "worker.updated"]))
def test_any_json_is_understood_or_refused(event: dict[str, object], kind: str) -> None:
    body = orjson.dumps(event | ({"type": kind} if kind else {})) if _fits(event) else b"{}"
    try:
        translation = translate(delivery(body), HR)
        assert bool(translation.commands) != bool(translation.ignored)
    except ContractError:
        pass


def _fits(value: object) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True
