"""Statements for a cluster: every form that the files have, and none that nobody has thought of."""

import re
from typing import Any

import pytest

from sinks.clickhouse import erasure, migrations, retention
from sinks.clickhouse.migrations import Migration
from sinks.clickhouse.tables import TABLES
from streams.errors import ConfigurationError
from streams.settings import Settings, load

STATEMENTS = [(one.name, statement) for one in migrations.load() for statement in one.statements]


class Server:
    """Answers as one without tables, and remembers what it was told."""

    def __init__(self, found: Any = ()) -> None:
        self.told: list[str] = []
        self.inserted: list[Any] = []
        self.result_rows = found

    def command(self, cmd: str, **_: Any) -> str:
        self.told.append(cmd)
        return ""

    def query(self, query: str, **_: Any) -> "Server":
        return self

    def insert(self, table: str, data: Any, column_names: Any) -> None:
        self.inserted += data


@pytest.mark.parametrize(("name", "statement"), STATEMENTS)
def test_every_statement_runs_on_all_replicas(name: str, statement: str) -> None:
    assert migrations.render(statement, "") == statement
    there = migrations.render(statement, "history")
    assert there.count("ON CLUSTER 'history'") == 1
    assert re.match(r"[A-Z ]+ [a-z_0-9]+ ON CLUSTER 'history'( |\n)", there), there
    assert len(re.findall(r"ENGINE = Replicated\w*MergeTree\('/clickhouse/tables/{uuid}/{shard}', '{replica}'", there)) == len(
        re.findall(r"\bENGINE\b", statement)
    )
    # Nothing else has changed.
    plain = there.replace(" ON CLUSTER 'history'", "").replace(f"{migrations.REPLICA}, ", "").replace(f"({migrations.REPLICA})", "")
    assert plain.replace("ENGINE = Replicated", "ENGINE = ") == statement


@pytest.mark.parametrize(("statement", "expected"), [
    ("CREATE TABLE IF NOT EXISTS a (x Int8) ENGINE = MergeTree ORDER BY x",
     "CREATE TABLE IF NOT EXISTS a ON CLUSTER 'c' (x Int8) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}') ORDER BY x"),
    ("CREATE TABLE IF NOT EXISTS a (\n    x Int8\n) ENGINE = ReplacingMergeTree(x)\nORDER BY x",
     "CREATE TABLE IF NOT EXISTS a ON CLUSTER 'c' (\n    x Int8\n)"
     " ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', x)\nORDER BY x"),
    ("CREATE OR REPLACE VIEW a AS\nSELECT 1", "CREATE OR REPLACE VIEW a ON CLUSTER 'c' AS\nSELECT 1"),
    ("ALTER TABLE a\n    ADD COLUMN b Int8", "ALTER TABLE a ON CLUSTER 'c'\n    ADD COLUMN b Int8"),
])  # fmt: skip
def test_how_statements_look_there(statement: str, expected: str) -> None:
    assert migrations.render(statement, "c") == expected


@pytest.mark.parametrize("statement", ["INSERT INTO a SELECT 1", "CREATE TABLE a (x Int8) ENGINE = Log", "RENAME TABLE a TO b", "SYSTEM REFRESH VIEW a"])
def test_a_form_that_nobody_has_thought_of_is_an_error(statement: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot run on a cluster"):
        migrations.render(statement, "c")


def test_a_file_has_the_same_checksum_on_a_cluster() -> None:
    server, one = Server(), Migration(1, "0001_a", "CREATE OR REPLACE VIEW a AS\nSELECT 1;\n")
    assert migrations.apply(server, [one], "c") == ["0001_a"]
    assert server.inserted == [[1, "0001_a", one.checksum]]
    applied, view = server.told
    assert applied.startswith("CREATE TABLE IF NOT EXISTS schema_migrations ON CLUSTER 'c' (")
    assert "ReplicatedReplacingMergeTree(" in applied
    assert view == "CREATE OR REPLACE VIEW a ON CLUSTER 'c' AS\nSELECT 1"


def test_retention_and_erasure_reach_every_replica() -> None:
    server: Any = Server(found=[(1,)])
    retention.apply(server, Settings(clickhouse_cluster="c"))
    table = {table.name: table for table in TABLES}
    erasure.remove(server, table["member_profile_history"], {("grand", "m-1"): 3}, "c")
    erasure.empty_words(server, table["loyalty_events"], {("grand", "m-1")}, "c")
    altered = [told for told in server.told if told.startswith("ALTER")]
    assert len(altered) == len(retention.AUDIT_TIMES) + len(retention.ATTEMPT_TIMES) + 2
    assert all(re.match(r"ALTER TABLE \w+ ON CLUSTER 'c' (MODIFY TTL|DELETE|UPDATE) ", told) for told in altered)


def test_the_name_of_a_cluster_is_a_name() -> None:
    with pytest.raises(ConfigurationError, match="LOYALTY_CLICKHOUSE_CLUSTER"):
        load({"LOYALTY_CLICKHOUSE_CLUSTER": "a' b"})
