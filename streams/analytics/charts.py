"""Rows of a report -> a chart: in the terminal, as PNG, or as a page of HTML that needs nothing else."""

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from streams.analytics.catalogue import Report
from streams.command_line import clean
from streams.errors import ConfigurationError

Row = Mapping[str, Any]
SERIES_MAX = 12  # Beyond it the smaller ones are drawn as one.
OTHERS = "others"
COLUMNS, LINES = 100, 24
DPI = 120


def series_of(report: Report, rows: Sequence[Row]) -> tuple[list[str], dict[str, list[float]]]:
    """The values of x in their order, and of each series a value for each of them. What is twice is a sum; what is not there is 0, and in a
    heatmap, where it has not come yet, no number."""
    chart, absent = report.chart, float("nan") if report.chart.kind == "heatmap" else 0.0
    places = sorted({_text(row[chart.x]) for row in rows}, key=_sort_key)
    sums: dict[str, dict[str, float]] = {}
    for row in rows:
        value = row[chart.y]
        if value is not None:
            values = sums.setdefault(_text(row[chart.series]), {})
            values[_text(row[chart.x])] = values.get(_text(row[chart.x]), 0.0) + float(value)
    largest = sorted(sums, key=lambda name: (-sum(map(abs, sums[name].values())), name))
    shown = {name: [sums[name].get(place, absent) for place in places] for name in largest[:SERIES_MAX]}
    if rest := largest[SERIES_MAX:]:
        shown[OTHERS] = [sum(sums[name].get(place, 0.0) for name in rest) for place in places]
    return places, shown


def in_terminal(report: Report, rows: Sequence[Row], *, columns: int = COLUMNS, has_colour: bool = True) -> str:
    """Lines of text, as wide as the terminal. Bars of several series need colours: without them their sums are drawn. Raises ConfigurationError."""
    try:
        import plotext
    except ImportError as error:
        raise ConfigurationError(f"charts need plotext: pip install 'loyalty-sync[charts]' ({error})") from error
    places, series = series_of(report, rows)
    if not has_colour and report.chart.kind == "bar":
        series = {"all": [sum(values) for values in zip(*series.values(), strict=True)]}
    plotext.clear_figure()
    plotext.plotsize(columns, LINES)
    plotext.title(report.title)
    if report.chart.kind == "bar" and len(series) > 1:
        plotext.stacked_bar(places, list(series.values()), labels=list(series))
    elif report.chart.kind == "bar":
        plotext.bar(places, next(iter(series.values()), []))
    else:
        numbers = list(range(len(places)))
        for name, values in series.items():
            plotext.plot(numbers, values, label=name)
        plotext.xticks(numbers, places)
    drawn: str = plotext.build()
    return drawn if has_colour else plotext.uncolorize(drawn)


def to_file(report: Report, rows: Sequence[Row], path: Path) -> None:
    """A picture: PNG, or by the name of the file SVG or HTML. Raises ConfigurationError when it cannot be drawn or written."""
    try:
        data = _html(report, rows).encode() if path.suffix in (".html", ".htm") else _picture(report, rows, path.suffix.removeprefix(".") or "png")
        path.write_bytes(data)
    except ImportError as error:
        raise ConfigurationError(f"charts need matplotlib: pip install 'loyalty-sync[charts]' ({error})") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be written: {error}") from error


def _picture(report: Report, rows: Sequence[Row], form: str) -> bytes:
    from matplotlib.figure import Figure

    places, series = series_of(report, rows)
    figure = Figure(figsize=(max(7.0, min(16.0, 0.35 * len(places))), 4.5), layout="constrained")
    axes = figure.subplots()
    numbers = range(len(places))
    if report.chart.kind == "heatmap" and series:
        names = sorted(series, key=_sort_key)
        image = axes.imshow([series[name] for name in names], aspect="auto", cmap="viridis", vmin=0)
        axes.set_yticks(range(len(names)), names)
        figure.colorbar(image, label=report.chart.y)
    elif report.chart.kind == "bar":
        base = [0.0] * len(places)
        for name, values in series.items():
            axes.bar(numbers, values, bottom=base, label=name)
            base = [low + value for low, value in zip(base, values, strict=True)]
    else:
        for name, values in series.items():
            axes.plot(numbers, values, marker="o", markersize=3, label=name)
    axes.set_xticks(numbers, places, rotation=45, ha="right")
    axes.set_title(report.title)
    axes.set_xlabel(report.chart.x)
    if report.chart.kind != "heatmap":
        axes.set_ylabel(report.chart.y)
        axes.grid(axis="y", alpha=0.3)
        if series:
            axes.legend(fontsize="small")
    out = io.BytesIO()
    figure.savefig(out, format=form, dpi=DPI)
    return out.getvalue()


def _html(report: Report, rows: Sequence[Row]) -> str:
    picture = _picture(report, rows, "svg").decode()
    columns = list(rows[0]) if rows else []
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(_text(row[name]))}</td>" for name in columns) + "</tr>" for row in rows)
    style = "body{font-family:sans-serif;margin:2em}table{border-collapse:collapse}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left}"
    title = html.escape(report.title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{style}</style><h1>{title}</h1>'
        f"{picture[picture.index('<svg') :]}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></html>\n"
    )


def _text(value: Any) -> str:
    """As people read it; without what a terminal obeys."""
    if value is None:
        return "none"
    return clean(str(value))


def _sort_key(text: str) -> tuple[bool, float, str]:
    """Numbers by their size, then texts; none is last."""
    if text == "none":
        return True, float("inf"), text
    try:
        return False, float(text), ""
    except ValueError:
        return True, 0.0, text
