"""Reads archive files to their end, in blocks of any size, and gathers what comes out."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest
from hypothesis import strategies as st

from kraken_pipeline.coverage.density import Density
from kraken_pipeline.coverage.ranges import Span, Spans, intersect
from kraken_pipeline.errors import UnreadableArchive
from kraken_pipeline.kraken import rows
from kraken_pipeline.kraken.manifest import ReleaseManifest
from kraken_pipeline.kraken.ohlcvt import CandleReader, OutOfOrder
from kraken_pipeline.kraken.rows import Block, Facts, Reject
from kraken_pipeline.kraken.time_and_sales import TradesReader
from kraken_pipeline.market.candle import seconds_of
from kraken_pipeline.market.flow import FLOW, with_flow
from kraken_pipeline.market.interval import Interval
from kraken_pipeline_tests.support.samples import at

NOW = at("2026-12-01")
BLOCK_SIZES = (48, 130, 1 << 20)
"""Blocks of a line or so, of some lines, and of the whole file."""
HORIZON = Span(0, 1 << 33)
"""Longer than any file here; what is not answered for at a file's end has no end."""


@dataclass
class Reading:
    """What came out of a file.

    Attributes:
        candles: time (seconds), open, high, low, close, volume, trade_count, in the order they came.
        flows: vwap, quote_volume and buy_volume of each candle; None where the file does not tell it.
        rejects: In the order they came.
        facts: As the reader left them.
        error: Why it gave up, if it did.
    """

    candles: list[tuple[float, ...]] = field(default_factory=list)
    flows: list[tuple[float | None, ...]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    facts: Facts = field(default_factory=Facts)
    error: str = ""

    @property
    def reasons(self) -> dict[int, str]:
        """Line → reason."""
        assert len({reject.line for reject in self.rejects}) == len(self.rejects), "a line was rejected twice"
        return {reject.line: reject.reason for reject in self.rejects}

    @property
    def unanswered(self) -> Spans:
        """What the file does not answer for, up to the horizon."""
        return intersect(self.facts.unanswered, (HORIZON,))

    def take(self, block: Block) -> None:
        """Takes what a block holds."""
        self.rejects += block.rejects
        if block.rows.height:
            rows = block.rows.with_columns(seconds_of(pl.col("time")))
            self.candles += rows.drop(FLOW, strict=False).rows()
            self.flows += with_flow(rows).select(FLOW).rows()


def _read(reader: CandleReader | TradesReader, block_bytes: int) -> Reading:
    reading = Reading()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK_BYTES", block_bytes)
        try:
            for block in reader.blocks():
                reading.take(block)
        except UnreadableArchive as error:
            reading.error = str(error)
    reading.facts = reader.facts
    return reading


def read_candles(
    data: bytes | str,
    interval: Interval = Interval.H1,
    *,
    manifest: ReleaseManifest | None = None,
    block_bytes: int = 1 << 20,
    sort_in: Path | None = None,
) -> Reading:
    """A file of candles; in order, unless there is a folder to sort in."""
    stream = io.BytesIO(data.encode() if isinstance(data, str) else data)
    reader = CandleReader(stream, interval, NOW, manifest=manifest, sort_in=sort_in)
    return _read(reader, block_bytes)


def read_candles_in_any_order(data: bytes, folder: Path, block_bytes: int = 1 << 20) -> Reading:
    """A file of candles as it is ingested: sorted, where it turns out to need it."""
    try:
        return read_candles(data, block_bytes=block_bytes)
    except OutOfOrder:
        return read_candles(data, block_bytes=block_bytes, sort_in=folder)


def read_trades(
    data: bytes | str, *, edges_are_whole: bool = True, block_bytes: int = 1 << 20, density: Density | None = None
) -> Reading:
    """A file of trades."""
    stream = io.BytesIO(data.encode() if isinstance(data, str) else data)
    return _read(TradesReader(stream, NOW, edges_are_whole=edges_are_whole, density=density), block_bytes)


def lines_of(data: bytes) -> int:
    """How many lines some bytes have; a last one without a line feed counts."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    return data.count(b"\n") + (bool(data) and not data.endswith(b"\n"))


# What files are damaged with.
SHRAPNEL = st.one_of(
    st.sampled_from(
        [
            b"\n", b"\n\n", b"\r\n", b"\r", b",", b",,", b";", b" ", b"\t", b"\x00", b"\x00" * 40, b'"', b"'", b"#",
            b"\xff", b"\xc3\x28", b"\xef\xbb\xbf", b"e", b"E5", b"-", b"+", b".", b"nan", b"inf", b"-inf", b"null",
            b"0", b"9", b"9" * 25, b"0x1", b"1_0", b"x" * 300, "½٣".encode(), b"time,open,high\n",
        ]
    ),
    st.binary(max_size=6),
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, files: st.SearchStrategy[bytes]) -> bytes:
    """A file in which some bytes were put, or put in place of others."""
    data = draw(files)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.sampled_from([0, 0, 1, 2, 12, 30]))
        data = data[:start] + draw(SHRAPNEL) + data[end:]
    return data
