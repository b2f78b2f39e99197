"""ClickHouse against what must follow from the inputs, as analysts read it: with FINAL and through the views."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import clickhouse_connect

from streams.settings import Settings
from tests.chaos.findings import Findings
from tests.chaos.ledger import Member

# One row per member each. Sums over number times content change with any row that is missing, doubled, swapped or off by a point.
QUERIES = {
    "loyalty_events": "SELECT member_id, count(), max(sequence), sum(toInt64(sequence) * available_points), sum(toInt64(sequence) * points_delta)"
                      " FROM loyalty_events FINAL GROUP BY member_id",
    "ledger_entries": "SELECT member_id, count(), max(entry_sequence), sum(points_delta), sum(toInt64(entry_sequence) * balance_after)"
                      " FROM ledger_entries FINAL GROUP BY member_id",
    "member_profile_history": "SELECT member_id, count(), max(version) FROM member_profile_history FINAL GROUP BY member_id",
    "sync_audit": "SELECT member_id, count(), uniqExact(audit_id) FROM sync_audit FINAL WHERE stream != 'programs' GROUP BY member_id",
    "balances": "SELECT member_id, available_points, qualifying_points, tier, last_sequence FROM balances",
    "reconciliation": "SELECT member_id, entries, points_sum, last_balance, gapless, balanced FROM reconciliation",
}  # fmt: skip
TOTALS = {
    "refusals_by_reason": "SELECT sum(refusals) FROM refusals_by_reason",
    "points_by_day_and_source": "SELECT sum(points) FROM points_by_day_and_source",
    "dead_letters": "SELECT count() FROM dead_letters FINAL",
    "mirror_gaps": "SELECT count() FROM mirror_gaps WHERE kind = 'GAP'",  # None: what was read again is no gap.
}
KINDS = tuple(f"ClickHouse: {name} that differ" for name in (*QUERIES, *TOTALS))


class Client(Protocol):
    """What of a ClickHouse client is used."""

    def query(self, query: str) -> Any: ...


@dataclass(slots=True)
class History:
    """What ClickHouse must hold: rows by member (without the programme), and totals."""

    rows: dict[str, dict[str, tuple[Any, ...]]] = field(default_factory=lambda: {name: {} for name in QUERIES})
    totals: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(TOTALS, 0)))

    def add(self, members: Mapping[str, Member], audited: Mapping[str, int], refusals: int) -> None:
        """The members of a partition, with the audit records that its topic holds."""
        for key, member in members.items():
            name = key.partition("/")[2]
            events, entries = member.events, member.entries
            self.rows["loyalty_events"][name] = (
                len(events), len(events), _weighted([e.available for e in events]), _weighted([e.points_delta for e in events])
            )  # fmt: skip
            self.rows["member_profile_history"][name] = (member.versions, member.versions)
            self.rows["sync_audit"][name] = (audited[key], audited[key])
            self.rows["balances"][name] = (member.available, member.qualifying, member.tier, len(events))
            if entries:
                count = len(entries)
                self.rows["ledger_entries"][name] = (
                    count, count, sum(e.points_delta for e in entries), _weighted([e.balance_after for e in entries])
                )  # fmt: skip
                self.rows["reconciliation"][name] = (count, member.available, member.available, 1, 1)
            self.totals["points_by_day_and_source"] += member.available
        self.totals["refusals_by_reason"] += refusals

    def merge(self, other: "History") -> None:
        for name, rows in other.rows.items():
            self.rows[name] |= rows
        self.totals.update(other.totals)


def _weighted(values: Sequence[int]) -> int:
    return sum(number * value for number, value in enumerate(values, 1))


def connect(settings: Settings) -> Any:
    url = urlsplit(settings.clickhouse_url)
    return clickhouse_connect.get_client(host=url.hostname, port=url.port, database=settings.clickhouse_database, send_receive_timeout=600)


def check_history(client: Client, wanted: History, findings: Findings) -> None:
    findings.looked_for(*KINDS)
    for name, query in QUERIES.items():
        kind = f"ClickHouse: {name} that differ"
        found = {str(row[0]): tuple(row[1:]) for row in client.query(query).result_rows}
        for member in wanted.rows[name].keys() | found.keys():
            if wanted.rows[name].get(member) != found.get(member):
                findings.add(kind, member, name, wanted.rows[name].get(member), found.get(member))
    for name, query in TOTALS.items():
        ((total,),) = client.query(query).result_rows
        if total != wanted.totals[name]:
            findings.add(f"ClickHouse: {name} that differ", "all", name, wanted.totals[name], total)
