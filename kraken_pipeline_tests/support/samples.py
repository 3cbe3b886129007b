"""Small candles, rows and files to test with, and where Kraken's real ones lie."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.candle import CANDLE_SCHEMA, Source, time_from_seconds
from kraken_pipeline.market.flow import FLOW

REAL_FILES = Path(__file__).resolve().parents[2] / ".." / "shared" / "kraken"
DAY = 86_400

CandleRow = tuple[int, float, float, float, float, float, int, str, int]
"""time (seconds), open, high, low, close, volume, trade_count, source, release"""


def real_file(name: str) -> Path:
    """One of Kraken's own files; the test is skipped where it is absent."""
    path = REAL_FILES / name
    if not path.is_file():
        pytest.skip(f"the recording {name} is not in ../shared/kraken")
    return path


def at(text: str) -> int:
    """An ISO date or time in UTC as seconds since the epoch."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def between(start: str, end: str) -> Span:
    """The span between two ISO dates or times."""
    return Span(at(start), at(end))


def candle(
    time: int,
    price: float = 10.0,
    *,
    volume: float = 1.0,
    trades: int = 5,
    source: Source = Source.CSV,
    release: int = 0,
) -> CandleRow:
    """A candle whose four prices are one."""
    return (time, price, price, price, price, volume, trades, source.value, release)


def frame(rows: Iterable[CandleRow]) -> pl.DataFrame:
    """Candles as the lake has them, without any flow."""
    whole = [(*row, *(None for _ in FLOW)) for row in rows]
    raw = pl.DataFrame(whole, schema={**CANDLE_SCHEMA, "time": pl.Int64()}, orient="row")
    return raw.with_columns(time_from_seconds(pl.col("time")))


def csv_row(time: int | str, *, trades: int | str = 3) -> str:
    """A good line of a candle archive."""
    return f"{time},1.5,2.5,0.5,2.0,12.25,{trades}\n"


def write_zip(path: Path, members: Mapping[str, str | bytes]) -> Path:
    """A ZIP with these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path
