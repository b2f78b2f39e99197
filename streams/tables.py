"""Every changelog-backed table, its key and its value record.

| table      | key                                                   | value           | holds                                                 |
|------------|-------------------------------------------------------|-----------------|-------------------------------------------------------|
| accounts   | program_id/member_id                                  | Account         | the state of each member                              |
| outcomes   | program_id/member_id, NUL, t: or e:, the command's id | Outcome         | the answer to each command, for when it comes again   |
| waiting    | program_id/member_id                                  | WaitingCommands | commands of members who are not enrolled yet          |
| vouchers   | program_id/member_id, NUL, v:, the code               | Voucher         | every voucher and what became of it                   |
| budgets    | program_id/, NUL, offer:, the offer's id              | Budget          | what is reserved of the budgets of offers             |
| due        | 8 bytes of milliseconds, program_id/member_id         | Due             | who has something due, in the order of time           |
| clock      | now; audit                                            | PartitionClock  | the log's time, how far tables were walked; the chain |
| identities | program_id/, NUL, i:, type, :, a pseudonym of the id  | Identity        | whom each external id leads to, in its own partition  |
| programs   | program_id                                            | ProgramVersions | the rules, the same in every partition                |
"""

from collections.abc import Callable
from typing import Any

from schemas.records import Account, Budget, Due, Identity, MemberStatus, Outcome, PartitionClock, ProgramVersions, Voucher, WaitingCommands
from streams.settings import Settings

TABLES: dict[str, type] = {
    "accounts": Account, "outcomes": Outcome, "waiting": WaitingCommands, "vouchers": Voucher, "budgets": Budget, "due": Due,
    "clock": PartitionClock, "programs": ProgramVersions, "identities": Identity,
}  # fmt: skip

FORGET: dict[str, Callable[[Any], bool]] = {
    "accounts": lambda account: account is not None and account.status is MemberStatus.ERASED,
    "waiting": lambda row: row is None,
    "identities": lambda row: row is None,
}
"""Rows of which no older version may stay on a worker's disk: what is personal in it is gone once the log says so."""

# Compaction keeps the last row of each key; tombstones stay a day, so that a local state that is younger than that misses none.
DELETIONS_KEPT_S = 24 * 3600
# What was overwritten is gone from the brokers' disks two days later: a segment takes records for a day, and is compacted when its first
# record is a day old, whatever else there is to compact. A segment only ends when a record comes: the engine sees to one a day.
COMPACTION_LAG_MAX_S = 24 * 3600
CHANGELOG_CONFIG = {
    "cleanup.policy": "compact",
    "delete.retention.ms": str(DELETIONS_KEPT_S * 1000),
    "segment.ms": str(COMPACTION_LAG_MAX_S * 1000),
    "max.compaction.lag.ms": str(COMPACTION_LAG_MAX_S * 1000),
}


def changelog_name(app_id: str, table: str) -> str:
    """The changelog topic of a table, by Faust's rule."""
    return f"{app_id}-{table}-changelog"


def app_id(settings: Settings) -> str:
    """Consumer group of the workers, and first part of the changelogs' names."""
    return f"{settings.topic_prefix}.worker"


def changelogs(settings: Settings) -> dict[str, str]:
    """Changelog topic -> name of its record."""
    return {changelog_name(app_id(settings), name): record.SCHEMA for name, record in TABLES.items()}  # type: ignore[attr-defined]
