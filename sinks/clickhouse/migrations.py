"""infra/clickhouse/<number>_<name>.sql -> the tables and views of the history: each file is applied once, in order, and never edited."""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from typing import Any, Protocol

from streams.errors import ConfigurationError

log = logging.getLogger(__name__)

FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_APPLIED = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number UInt32, name String, checksum String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
) ENGINE = ReplacingMergeTree(applied_at) ORDER BY number
"""


class Client(Protocol):
    """What migrations need of a ClickHouse client."""

    def command(self, cmd: str) -> Any: ...

    def query(self, query: str) -> Any: ...

    def insert(self, table: str, data: Sequence[Sequence[Any]], column_names: Sequence[str]) -> Any: ...


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return sha256(self.sql.encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        """The statements of the file. A ';' ends one at the end of a line; comments are whole lines."""
        code = "\n".join(line for line in self.sql.splitlines() if not line.lstrip().startswith("--"))
        return [statement.strip() for statement in re.split(r";[ \t]*(?:\n|$)", code) if statement.strip()]


def load() -> list[Migration]:
    """The migrations of this checkout, in order."""
    folder = resources.files("infra") / "clickhouse"
    files = sorted((entry for entry in folder.iterdir() if FILE_NAME.fullmatch(entry.name)), key=lambda entry: entry.name)
    return [Migration(int(entry.name[:4]), entry.name.removesuffix(".sql"), entry.read_text()) for entry in files]


def apply(client: Client, migrations: Iterable[Migration]) -> list[str]:
    """Apply what the client's database does not have yet; the names of what was applied.

    Statements are such that a file which broke off, or which two processes apply at once, can be applied again. Raises
    ConfigurationError if a file that was applied has changed since.
    """
    client.command(_APPLIED)
    stored = client.query("SELECT number, name, checksum FROM schema_migrations FINAL ORDER BY number").result_rows
    applied = {int(number): (str(name), str(checksum)) for number, name, checksum in stored}
    ordered = sorted(migrations, key=lambda migration: migration.number)
    changed = [
        f"infra/clickhouse/{one.name}.sql has changed since it was applied as {applied[one.number][0]}: restore it, and put the change"
        " into a new file."
        for one in ordered
        if one.number in applied and applied[one.number][1] != one.checksum
    ]
    if changed:
        raise ConfigurationError(*changed)
    unknown = applied.keys() - {one.number for one in ordered}
    if unknown:
        log.warning("history.newer_schema", extra={"migrations": sorted(applied[number][0] for number in unknown)})
    names = []
    for one in ordered:
        if one.number not in applied:
            for statement in one.statements:
                client.command(statement)
            client.insert("schema_migrations", [[one.number, one.name, one.checksum]], column_names=["number", "name", "checksum"])
            log.info("history.migrated", extra={"migration": one.name})
            names.append(one.name)
    return names
