"""infra/clickhouse/<number>_<name>.sql -> the tables and views of the history: each file is applied once, in order, and never edited.

Files are written for one server. For a cluster every statement of theirs runs on all of its replicas, and tables replicate.
"""

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
_NAME = r"[a-z_][a-z0-9_]*"
FORMS = tuple(re.compile(rf"{words} {_NAME}(?= |\n|$)") for words in (
    "CREATE TABLE IF NOT EXISTS", "CREATE OR REPLACE VIEW", "CREATE MATERIALIZED VIEW IF NOT EXISTS", "ALTER TABLE", "DROP TABLE IF EXISTS",
    "DROP VIEW IF EXISTS",
))  # fmt: skip
"""What statements of files may begin with, up to the name that ON CLUSTER follows."""
ENGINE = re.compile(r"\bENGINE = (?P<name>(?:Replacing|Summing|Aggregating)?MergeTree)(?:\((?P<arguments>[^)]*)\))?")
# Servers put their own macros in: replicas of a shard find each other by the path, and no table meets one of the same name before it.
REPLICA = "'/clickhouse/tables/{uuid}/{shard}', '{replica}'"
_APPLIED = """\
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


def render(statement: str, cluster: str) -> str:
    """A statement of a file as it is for a cluster; as it stands without one. Raises ConfigurationError for a form that is not known here.

    What ALTERs of replicated tables change, one replica hands to the others: ON CLUSTER then waits for all.
    """
    if not cluster:
        return statement
    for form in FORMS:
        if found := form.match(statement):
            rest = statement[found.end() :]
            if "TABLE" in found[0] or "MATERIALIZED" in found[0]:
                rest = ENGINE.sub(_replicated, rest, count=1)
            return f"{found[0].rstrip()} {on_cluster(cluster)}{'' if rest[:1] in ('', chr(10)) else ' '}{rest.lstrip(' ')}"
    raise ConfigurationError(f"a migration has a statement that cannot run on a cluster: {statement.partition(chr(10))[0][:100]}")


def on_cluster(cluster: str) -> str:
    """The clause for a statement about a table or a database; empty without a cluster."""
    return f"ON CLUSTER '{cluster}'" if cluster else ""


def _replicated(engine: re.Match[str]) -> str:
    arguments = [REPLICA, *([engine["arguments"]] if engine["arguments"] else [])]
    return f"ENGINE = Replicated{engine['name']}({', '.join(arguments)})"


def apply(client: Client, migrations: Iterable[Migration], cluster: str = "") -> list[str]:
    """Apply what the client's database does not have yet; the names of what was applied.

    Statements are such that a file which broke off, or which two processes apply at once, can be applied again. Raises
    ConfigurationError if a file that was applied has changed since.
    """
    client.command(render(_APPLIED, cluster))
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
                client.command(render(statement, cluster))
            client.insert("schema_migrations", [[one.number, one.name, one.checksum]], column_names=["number", "name", "checksum"])
            log.info("history.migrated", extra={"migration": one.name})
            names.append(one.name)
    return names
