"""A chart of candles for notebooks: prices, volume, and under them what is known of the time."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.settings import Settings
from kraken_pipeline.workflow.reading.candles import read_candles
from kraken_pipeline.workflow.reading.request import Moment

MOST_CANDLES = 20_000
"""The number of candles that a browser still draws in a second or two."""
_UP, _DOWN = "#1a7f5a", "#b5462f"
_KNOWN = {
    "verified": "#1a7f5a",
    "reconciled": "#58a986",
    "untested": "#a9c7b8",
    "quiet": "#9aa3ad",
    "gap": "#b5462f",
}
"""The colour of each kind of time; quiet time has its own, whatever its proof."""


def plot_candles(
    pair: str,
    interval: int | str,
    start: Moment | None = None,
    end: Moment | None = None,
    *,
    offset: int | str | None = None,
    timezone: str | None = None,
    settings: Settings | None = None,
) -> Any:
    """Return a chart of the candles of a pair, with their volume and what is known of the time.

    Under the candles, a strip shows which time is verified, reconciled, untested, quiet, or a gap. The arguments are
    those of `read_candles`.

    Returns:
        A `plotly.graph_objects.Figure`, which a notebook shows, and which `write_html` saves with all that it needs.

    Raises:
        InvalidRequest: Plotly is not installed, there are more candles than a browser can draw, or one of the arguments
            is wrong.
    """
    try:
        import plotly.graph_objects as go  # noqa: PLC0415 - an extra, and half a second to import
        from plotly.subplots import make_subplots  # noqa: PLC0415
    except ImportError:
        raise InvalidRequest("plot_candles needs Plotly: pip install 'kraken_pipeline[notebook]'") from None
    rows = read_candles(
        pair, interval, start, end, offset=offset, timezone=timezone, with_state=True, settings=settings
    )
    if rows.height > MOST_CANDLES:
        raise InvalidRequest(
            f"{rows.height:,} candles are more than a chart can show ({MOST_CANDLES:,}): narrow the time, or take a "
            "longer interval"
        )
    if rows.is_empty():
        raise InvalidRequest(f"nothing is known of {pair} in that time")
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, row_heights=[0.68, 0.24, 0.08], vertical_spacing=0.02)
    prices = {name: rows[name].to_numpy() for name in ("open", "high", "low", "close")}
    times = rows["time"].to_numpy()
    figure.add_trace(
        go.Candlestick(
            x=times,
            **prices,
            increasing_line_color=_UP,
            decreasing_line_color=_DOWN,
            name=pair,
            showlegend=False,
        ),
        row=1,
        col=1,
    )
    with np.errstate(invalid="ignore"):
        is_up = prices["close"] >= prices["open"]
    figure.add_trace(
        go.Bar(x=times, y=rows["volume"].to_numpy(), marker_color=np.where(is_up, _UP, _DOWN), showlegend=False),
        row=2,
        col=1,
    )
    for kind, stretches in _stretches(rows).items():
        figure.add_trace(
            go.Bar(
                base=stretches["start"].to_numpy(),
                x=stretches["milliseconds"].to_numpy(),
                y=[""] * stretches.height,
                orientation="h",
                marker_color=_KNOWN[kind],
                marker_line_width=0,
                marker_pattern_shape="/" if kind == "gap" else "",  # which those see who do not see the colours
                name=kind,
                customdata=stretches["candles"].to_numpy(),
                hovertemplate=f"{kind}, %{{customdata:,}} candles from %{{base}}<extra></extra>",
            ),
            row=3,
            col=1,
        )
    figure.update_layout(
        title=f"{pair} {interval}",
        template="plotly_white",
        barmode="overlay",
        bargap=0,
        height=620,
        legend={"orientation": "h", "y": -0.12},
        xaxis_rangeslider_visible=False,
    )
    figure.update_xaxes(type="date")
    figure.update_yaxes(title_text="price", row=1, col=1)
    figure.update_yaxes(title_text="volume", row=2, col=1)
    figure.update_yaxes(fixedrange=True, row=3, col=1)
    return figure


def _stretches(rows: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return the ranges of time of each kind: where they start, how long they are, and the number of candles."""
    length = rows["time"].diff().min() if rows.height > 1 else None
    kinds = rows.select(
        "time",
        pl.when(pl.col("state") == "traded")
        .then(pl.col("proof").cast(pl.String))
        .otherwise(pl.col("state").cast(pl.String))
        .alias("kind"),
        pl.col("time").shift(-1).alias("next"),
    ).with_columns(pl.col("next").fill_null(pl.col("time") + (length or pl.duration(minutes=1))))
    ranges = (
        kinds.with_columns(pl.col("kind").rle_id().alias("number"))
        .group_by("number", "kind", maintain_order=True)
        .agg(pl.col("time").first().alias("start"), pl.col("next").last(), pl.len().alias("candles"))
        .with_columns((pl.col("next") - pl.col("start")).dt.total_milliseconds().alias("milliseconds"))
    )
    return {kind: found for kind in _KNOWN if (found := ranges.filter(pl.col("kind") == kind)).height}
