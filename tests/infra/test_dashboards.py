"""Grafana cannot run here. What its dashboards ask can: every metric exists, and every query runs on a real ClickHouse."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from clickhouse_connect.driver.client import Client
from prometheus_client import REGISTRY

import streams.engine.metrics  # noqa: F401  Declares the engine's.
import streams.metrics  # noqa: F401
from sinks import clickhouse
from streams.analytics import catalogue, refresh
from streams.settings import Settings

GRAFANA = Path(__file__).resolve().parents[2] / "infra" / "grafana"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}
TARGETS = [
    pytest.param(target, id=f"{name}-{panel['title']}-{target['refId']}")
    for name, dashboard in DASHBOARDS.items() for panel in dashboard["panels"] for target in panel["targets"]
]  # fmt: skip
NOBODY = "127.0.0.1:1"


def asks(key: str) -> list[Any]:
    return [one for one in TARGETS if key in one.values[0]]


@pytest.fixture(scope="module")
def client(make_settings: Callable[..., Settings]) -> Iterator[Client]:
    """A history with all tables, those of the reports among them."""
    settings = make_settings(kafka_bootstrap_servers=NOBODY, redis_url=f"redis://{NOBODY}")
    clickhouse.migrate(settings)
    connected = clickhouse.connect(settings)
    for report in catalogue.load().values():
        refresh.make_table(connected, report, report.table)
    yield connected
    connected.close()


def test_datasources_are_those_that_panels_name() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "loyalty.yaml").read_text())["datasources"]
    known = {(one["type"], one["uid"]) for one in sources}
    used = {(panel["datasource"]["type"], panel["datasource"]["uid"]) for dashboard in DASHBOARDS.values() for panel in dashboard["panels"]}
    assert used == known


def test_places_do_not_overlap() -> None:
    for name, dashboard in DASHBOARDS.items():
        assert dashboard["uid"] == name
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
        assert len(set(places)) == len(places) and len({panel["id"] for panel in dashboard["panels"]}) == len(places)


@pytest.mark.parametrize("target", asks("expr"))
def test_metrics_exist(target: dict[str, Any]) -> None:
    declared = {name for collector in list(REGISTRY._names_to_collectors) for name in (collector, collector.removesuffix("_created"))}
    names = set(re.findall(r"loyalty_[a-z_]+", target["expr"]))
    assert names and names <= declared


@pytest.mark.stack
@pytest.mark.parametrize("target", asks("rawSql"))
def test_queries_run(client: Client, target: dict[str, Any]) -> None:
    sql = re.sub(r"\$__timeFilter\(((?:[^()]|\([^()]*\))*)\)", r"(\1 >= toDateTime(0) AND \1 < now())", target["rawSql"])
    assert "$" not in sql
    assert client.query(sql).result_rows == []
