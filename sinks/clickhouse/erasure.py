"""An erased member -> nothing of what they were, in any part on disk.

By mutations, which write the parts concerned anew: a lightweight DELETE only hides rows, and a large part is never merged again, so that
their bytes would stay on the disk. A mutation costs more, so it is not made for an erasure that is merely read again.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
from clickhouse_connect.driver.client import Client

from schemas.records import LoyaltyEventKind, ProfileOperation
from sinks.clickhouse.connection import QUERY_BYTES_MAX
from sinks.clickhouse.migrations import render
from sinks.clickhouse.tables import Fields, Table

log = logging.getLogger(__name__)

Member = tuple[str, str]
"""program_id, member_id."""


def versions(of: Fields) -> list[tuple[Member, int]]:
    """Whose each row is, and its version."""
    members = zip(of["program_id"].to_pylist(), of["member_id"].to_pylist(), strict=True)
    return list(zip(members, of["version"].to_pylist(), strict=True))


def asked(of: Fields) -> dict[Member, int]:
    """The members whom these rows erase, with the version that does it."""
    is_erasure = pc.equal(of["operation"], ProfileOperation.ERASE.value).to_pylist()
    return newest({member: version} for (member, version), yes in zip(versions(of), is_erasure, strict=True) if yes)


def newest(some: Iterable[Mapping[Member, int]]) -> dict[Member, int]:
    found: dict[Member, int] = {}
    for one in some:
        for member, version in one.items():
            found[member] = max(version, found.get(member, 0))
    return found


def done(client: Client, table: Table, of: Fields) -> dict[Member, int]:
    """Those of the rows' members whom the table knows as erased, with the version that did it."""
    found = client.query(
        f"SELECT program_id, member_id, max(version) FROM {table.name}"
        f" WHERE operation = '{ProfileOperation.ERASE.value}' AND member_id IN %(members)s GROUP BY program_id, member_id",
        parameters={"members": sorted(pc.unique(of["member_id"]).to_pylist())},
        settings={"max_query_size": QUERY_BYTES_MAX},
    )
    return {(program_id, member_id): version for program_id, member_id, version in found.result_rows}


def remove(client: Client, table: Table, erasing: Mapping[Member, int], cluster: str = "") -> None:
    """Take all versions before these out of the table."""
    older = "member_id IN %(members)s AND version < transform(concat(program_id, '/', member_id), %(keys)s, %(versions)s, 0)"
    parameters = {
        "members": sorted({member_id for _, member_id in erasing}),
        "keys": [f"{program_id}/{member_id}" for program_id, member_id in erasing],
        "versions": list(erasing.values()),
    }
    _mutate(client, table, "DELETE", older, parameters, len(erasing), cluster)


def gone(of: Fields) -> set[Member]:
    """The members of whom these rows say that they are erased."""
    rows = np.flatnonzero(pc.equal(of["kind"], LoyaltyEventKind.MEMBER_ERASED.value))
    return {(of["program_id"][row].as_py(), of["member_id"][row].as_py()) for row in rows.tolist()}


def empty_words(client: Client, table: Table, members: set[Member], cluster: str = "") -> None:
    """Take the senders' words out of all events of these members.

    They become an empty text and not NULL: where ClickHouse puts a NULL, the bytes of before stay under it, and are written again with
    every part that follows.
    """
    named = f"(program_id, member_id) IN %(members)s AND {table.words} != ''"
    _mutate(client, table, f"UPDATE {table.words} = ''", named, {"members": sorted(members)}, len(members), cluster)


def _mutate(client: Client, table: Table, change: str, where: str, parameters: Mapping[str, Any], members: int, cluster: str) -> None:
    values, settings = dict(parameters), {"max_query_size": QUERY_BYTES_MAX}
    if client.query(f"SELECT 1 FROM {table.name} WHERE {where} LIMIT 1", parameters=values, settings=settings).result_rows:
        # It returns when all replicas are done: the offsets are committed then.
        statement = render(f"ALTER TABLE {table.name} {change} WHERE {where}", cluster)
        client.command(statement, parameters=values, settings=settings | {"mutations_sync": 2})
        log.info("history.erased", extra={"table": table.name, "members": members})
