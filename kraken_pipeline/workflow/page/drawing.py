"""Plots: the trend of past reports, and the share of each state where a page cannot be shown.

They are drawn with Matplotlib's objects, never with pyplot, whose figures are global. Only one is drawn at a time,
because all threads share Matplotlib's fonts and settings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO, StringIO
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from kraken_pipeline.coverage.months import State
from kraken_pipeline.market.moment import as_datetime
from kraken_pipeline.storage.records.report_records import ReportRecord
from kraken_pipeline.workflow.page.contents import HeatMap
from kraken_pipeline.workflow.page.heat_map import COLOURS, NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ONE_AT_A_TIME = Lock()
_STYLED = {
    "#010203": "currentColor",
    "#010204": "var(--reconciled)",
    "#010205": "var(--alarm)",
    "#010206": "var(--conflict)",
    "#010207": "var(--line)",
    "#010208": "var(--verified)",
}
"""Stand-ins for the colours of the page, which has others on a dark background."""
_TEXT, _RECONCILED, _GAPS, _CONFLICTS, _LINE, _VERIFIED = _STYLED
_FEW = 40
"""The number of reports below which each has a marker."""


def trend_svgs(records: Sequence[ReportRecord]) -> list[str]:
    """Return plots of past reports as SVG elements in the page's colours: completeness and proof; gaps and conflicts.

    The list is empty if there are fewer than two reports.
    """
    from matplotlib import rc_context  # noqa: PLC0415

    if len({record.made_at for record in records}) < 2:
        return []
    with _ONE_AT_A_TIME, rc_context({"svg.fonttype": "none", "svg.hashsalt": "kraken_pipeline"}):
        return [
            _svg_of(
                records,
                "percent",
                ("completeness_pct", "complete", _TEXT),
                ("proven_pct", "reconciled", _RECONCILED),
                ("verified_pct", "verified", _VERIFIED),
            ),
            _svg_of(records, "how many", ("gaps", "gaps", _GAPS), ("conflicts", "conflicts", _CONFLICTS)),
        ]


def _svg_of(records: Sequence[ReportRecord], title: str, *lines: tuple[str, str, str]) -> str:
    """Return a plot of lines over time as an SVG element.

    Each line is given as the name of a number, its label and its colour. The second line is dashed. A line has a hole
    where a report lacks the number.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(4.4, 2.7), layout="constrained")
    axes = figure.subplots()
    times = np.array([as_datetime(record.made_at) for record in records])
    has_markers = len(records) < _FEW
    for (name, label, colour), style, marker in zip(lines, ("-", "--", ":"), ("o", "s", "^"), strict=False):
        values = np.array([record.numbers.get(name) for record in records], dtype=np.float64)
        axes.plot(
            times,
            np.array(values, dtype=np.float64),
            style,
            color=colour,
            marker=marker if has_markers else "",
            ms=4,
            label=label,
        )
    axes.set_title(title, loc="left", fontsize=10, color=_TEXT)
    _style(axes)
    drawn = StringIO()
    figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _in_page(drawn.getvalue(), title)


def _style(axes: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    locator = AutoDateLocator(minticks=2, maxticks=5)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylim(bottom=0, top=max(1.0, axes.get_ylim()[1]))
    axes.tick_params(colors=_TEXT, labelsize=9)
    axes.xaxis.get_offset_text().set_color(_TEXT)
    axes.grid(axis="y", color=_LINE, lw=0.8)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_LINE)
    axes.legend(frameon=False, fontsize=9, labelcolor=_TEXT)


def _in_page(svg: str, title: str) -> str:
    """Return the SVG element alone, scaled to the available space and with the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="Trend, {title}: the table below has the numbers" ', 1)
    for stand_in, colour in _STYLED.items():
        svg = svg.replace(stand_in, colour)
    return svg


def shares_png(maps: Sequence[HeatMap]) -> bytes:
    """Return a PNG of the share of months in each state, by interval, as bars on a white background."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    counts = np.array([np.bincount(heat_map.states.ravel(), minlength=len(State)) for heat_map in maps])
    expected = np.maximum(1, counts[:, State.NOTHING + 1 :].sum(axis=1))
    drawn = BytesIO()
    with _ONE_AT_A_TIME:
        figure = Figure(figsize=(7, 1.3 + 0.26 * len(maps)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        places = np.arange(len(maps))
        left = np.zeros(len(maps))
        for state, colour in COLOURS.items():
            if counts[:, state].any():
                share = 100 * counts[:, state] / expected
                axes.barh(places, share, left=left, color=colour, label=NAMES[state], height=0.8)
                left += share
        axes.set_yticks(places, [f"{heat_map.interval.value} min" for heat_map in maps])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("percent of the months of all pairs", fontsize=9)
        axes.tick_params(labelsize=9)
        figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
        figure.savefig(drawn, format="png", dpi=100)
    return drawn.getvalue()
