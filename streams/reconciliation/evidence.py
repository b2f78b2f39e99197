"""ClickHouse's audit and dead letters -> what became of a source's events about some members."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from schemas.contract import member_key
from sinks.clickhouse import connect
from streams.errors import UnavailableError
from streams.reconciliation.comparison import Answer
from streams.settings import PREFIX, Settings

MEMBERS_MAX = 500  # Asked for at once.
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)  # What it logs it raises, too.
# All columns: what a version of the history does not have yet is empty.
AUDITS = """
SELECT * FROM sync_audit FINAL
WHERE program_id = {program:String} AND member_id IN {members:Array(String)} AND source_system = {source:String} AND NOT replayed
"""
DEAD_LETTERS = "SELECT * FROM dead_letters FINAL WHERE key IN {keys:Array(String)}"


class Audit:
    """Answers of one programme to one source. Connects when it is first asked."""

    def __init__(self, settings: Settings, program_id: str, source: str) -> None:
        self._settings = settings
        self._program_id = program_id
        self._source = source
        self._client: Client | None = None

    def answers(self, member_ids: Sequence[str]) -> Mapping[str, list[Answer]]:
        """Member -> answers to the source's events, in no order. Dead letters have no source: all of the member's are there.

        Raises UnavailableError.
        """
        found: defaultdict[str, list[Answer]] = defaultdict(list)
        keys = {member_key(self._program_id, member_id).decode(): member_id for member_id in member_ids}
        try:
            if self._client is None:
                self._client = connect(self._settings)
            parameters = {"program": self._program_id, "members": list(member_ids), "source": self._source}
            for row in self._client.query(AUDITS, parameters=parameters).named_results():
                found[row["member_id"]].append(_answer(row))
            for row in self._client.query(DEAD_LETTERS, parameters={"keys": list(keys)}).named_results():
                found[keys[row["key"]]].append(
                    Answer(
                        event_id=row["dead_letter_id"], stream=row["topic"], result="DEAD_LETTERED", reason=row["reason"], detail=row["detail"],
                        ingested_at_ms=_ms(row["ingested_at"]),
                    )
                )  # fmt: skip
        except (ClickHouseError, OSError) as error:
            said = str(error).partition("\n")[0][:300]
            raise UnavailableError(f"ClickHouse at {PREFIX}CLICKHOUSE_URL={self._settings.clickhouse_url} does not answer: {said}") from error
        return found

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


def _answer(row: Mapping[str, Any]) -> Answer:
    return Answer(
        event_id=row["command_id"], stream=row["stream"], result=row["result"], reason=row["reason"] or "", detail=row.get("detail") or "",
        version=row.get("source_version"), ingested_at_ms=_ms(row["ingested_at"]),
    )  # fmt: skip


def _ms(moment: datetime) -> int:
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
