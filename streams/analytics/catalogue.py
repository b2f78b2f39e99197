"""infra/clickhouse/reports/<name>/ -> the reports: what each asks, its SQL by versions, when it is refreshed, how it is drawn. Pure but for the files.

A report is a folder: `report.toml`, `README.md` for whoever reads the numbers, and `v1.sql`, `v2.sql` ... A definition that changes is a new
version; the old file stays, and so do the rows that it made: each version has a table of its own.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

from streams.scheduling import cadence
from streams.scheduling.cadence import Cadence

RECONCILE = "reconcile"


class Grain(StrEnum):
    """What one refresh replaces."""

    MONTH = "month"  # Rows of a month: those in which something came since, however old it is.
    SNAPSHOT = "snapshot"  # Rows of the run's day: how things stood then.
    WHOLE = "whole"  # All rows: any of them may change with any event.


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    kind: str
    """bar, line or heatmap."""
    x: str
    y: str
    series: str
    """Column whose values are drawn apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    name: str
    title: str
    version: int
    grain: Grain
    keys: tuple[str, ...]
    """Columns that name a row, in the order in which rows are shown."""
    sources: tuple[str, ...]
    """Tables of the history from which late rows may come."""
    by: str
    """The sources' time by which a row belongs to a period."""
    after: tuple[str, ...]
    """Jobs that go before, when they are due at the same instant."""
    cadence: Cadence
    chart: Chart
    sql: str
    """With the parameters {since} and {until}, times; `since` is included, `until` is not."""

    @property
    def table(self) -> str:
        """Where this version's rows are."""
        return f"report_{self.name.replace('-', '_')}_v{self.version}"

    @property
    def job(self) -> str:
        return f"report/{self.name}"


@cache
def load() -> Mapping[str, Report]:
    """All reports of this checkout, by name."""
    folder = resources.files("infra") / "clickhouse" / "reports"
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and (entry / "report.toml").is_file())
    return {name: _read(name, folder / name) for name in names}


def readme(name: str) -> str:
    """What a report means, for whoever reads its numbers."""
    return (resources.files("infra") / "clickhouse" / "reports" / name / "README.md").read_text()


def _read(name: str, folder: Any) -> Report:
    table = tomllib.loads((folder / "report.toml").read_text())
    return Report(
        name=name, title=table["title"], version=table["version"], grain=Grain(table["grain"]), keys=tuple(table["keys"]),
        sources=tuple(table["sources"]), by=table.get("by", "occurred_at"), after=tuple(table.get("after", ())),
        cadence=cadence.of_text(table["cadence"]), chart=Chart(**table["chart"]), sql=(folder / f"v{table['version']}.sql").read_text().strip(),
    )  # fmt: skip
