"""A status that was scheduled and takes effect by itself has an audit record of its own, and shows in nobody else's."""

import pytest

from schemas.records import AttributeChange, CommandResult, MemberStatus, SyncAudit
from tests.domain.shell import Shell, change, redeem

SUSPENDED_FROM_MS = 50_000


@pytest.fixture
def shell() -> Shell:
    one = Shell().enrolled(source_system="hr", source_version=1)
    one.send(change("hr:2", source_system="hr", source_version=2, status=MemberStatus.SUSPENDED, status_from_ms=SUSPENDED_FROM_MS))
    return one


def check(audits: tuple[SyncAudit, ...]) -> None:
    (audit,) = audits
    assert (audit.stream, audit.command_id, audit.result) == ("ticks", f"due:{SUSPENDED_FROM_MS}", CommandResult.APPLIED)
    assert (audit.source_system, audit.source_version, audit.detail) == ("hr", 2, "scheduled by hr:2")
    assert (audit.occurred_at_ms, audit.recorded_at_ms) == (SUSPENDED_FROM_MS, 7_777)
    assert audit.changes == (
        AttributeChange(attribute="status", before="ACTIVE", after="SUSPENDED"),
        AttributeChange(attribute="scheduled_status", before="SUSPENDED", after=None),
        AttributeChange(attribute="scheduled_at_ms", before=str(SUSPENDED_FROM_MS), after=None),
    )


def test_by_a_tick(shell: Shell) -> None:
    assert shell.tick(SUSPENDED_FROM_MS - 1).audit_by_clock == ()
    settlement = shell.tick(SUSPENDED_FROM_MS)
    check(settlement.audit_by_clock)
    assert settlement.audit is None and shell.tick(SUSPENDED_FROM_MS + 1).audit_by_clock == ()


def test_by_a_command_that_comes_before_the_tick(shell: Shell) -> None:
    settlement = shell.send(redeem(1), ingested_at_ms=SUSPENDED_FROM_MS + 5)
    check(settlement.audit_by_clock)
    assert settlement.audit is not None
    assert (settlement.audit.reason, settlement.audit.changes) == ("ACCOUNT_SUSPENDED", ()), "the status is not the redemption's doing"


def test_its_id_is_no_other_records(shell: Shell) -> None:
    first = shell.tick(SUSPENDED_FROM_MS).audit_by_clock
    shell.send(change("hr:3", source_system="hr", source_version=3, status=MemberStatus.ACTIVE, status_from_ms=60_000), ingested_at_ms=55_000)
    second = shell.tick(60_000).audit_by_clock
    assert len({audit.audit_id for audit in (*first, *second, *shell.audits)}) == 2 + len(shell.audits)
