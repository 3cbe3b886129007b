"""What a reader gets, compared with a plain-Python account of the same stored candles and coverage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Span, Spans, normalise
from kraken_pipeline.errors import Incomplete
from kraken_pipeline.market.bars import Bars
from kraken_pipeline.market.candle import CANDLE_SCHEMA, time_from_seconds
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.workflow.reading.assembly import assemble
from kraken_pipeline.workflow.reading.candles import require_complete, rows_of
from kraken_pipeline.workflow.reading.evidence import TimeEvidence
from kraken_pipeline.workflow.reading.request import ReadRequest

MINUTE, HOUR, DAY = 60, 3_600, 86_400
BERLIN_SPRING = 1_679_788_800  # 2023-03-26T00:00Z: an hour before the clock is put forward
STORED = (Interval.M5, Interval.M15, Interval.H1, Interval.H4, Interval.D1)

Row = tuple[int, float, float, float, float, float, int]
"""Time, open, high, low, close, volume and trade count."""


@dataclass(frozen=True)
class Market:
    """The stored candles, the coverage and the proof of one pair."""

    candles: Mapping[Interval, Mapping[int, Row]]
    covered: Mapping[Interval, Spans]
    verified: Mapping[Interval, Spans]
    reconciled: Mapping[Interval, Spans]
    suspicious: Spans
    now: int

    @property
    def evidence(self) -> TimeEvidence:
        stored = {interval: rows for interval, rows in self.candles.items() if rows}
        return TimeEvidence(
            covered=self.covered,
            proven={
                interval: Proven(normalise([*self.reconciled[interval], *spans]), spans)
                for interval, spans in self.verified.items()
            },
            suspicious=self.suspicious,
            stored={interval: Span(min(rows), max(rows) + interval.seconds) for interval, rows in stored.items()},
            first_known=min((min(rows) for rows in stored.values()), default=None),
        )

    def read(self, interval: Interval, start: int, end: int) -> pl.DataFrame:
        rows = [row for time, row in sorted(self.candles.get(interval, {}).items()) if start <= time < end]
        names = [name for name in CANDLE_SCHEMA if name not in ("source", "release", *FLOW)]
        frame = pl.DataFrame(rows, schema={**dict.fromkeys(names, pl.Float64()), "time": pl.Int64()}, orient="row")
        return frame.select(
            time_from_seconds(pl.col("time")),
            *(pl.col(name) for name in names[1:-1]),
            pl.col("trade_count").cast(pl.Int32),
            pl.lit("CSV", CANDLE_SCHEMA["source"]).alias("source"),
            pl.lit(0, pl.Int32()).alias("release"),
            *(pl.lit(None, pl.Float64()).alias(name) for name in FLOW),
        )


@st.composite
def markets(draw: st.DrawFn) -> Market:
    """Two days around the change of Berlin's clock; each interval has candles and coverage of its own."""
    start, end = BERLIN_SPRING - DAY, BERLIN_SPRING + DAY
    candles: dict[Interval, dict[int, Row]] = {}
    covered: dict[Interval, Spans] = {}
    verified: dict[Interval, Spans] = {}
    reconciled: dict[Interval, Spans] = {}

    def spans(interval: Interval) -> Spans:
        slots = (end - start) // interval.seconds
        edges = st.tuples(st.integers(0, slots), st.integers(0, slots)).filter(lambda edge: edge[0] < edge[1])
        found = draw(st.lists(edges, max_size=3))
        return normalise(Span(start + a * interval.seconds, start + b * interval.seconds) for a, b in found)

    for interval in draw(st.sets(st.sampled_from(STORED), max_size=4)):
        slots = (end - start) // interval.seconds
        count = draw(st.integers(0, min(slots, 40)))
        seed = draw(st.randoms(use_true_random=False))
        rows: dict[int, Row] = {}
        for slot in seed.sample(range(slots), count):
            open_, close = seed.randint(90, 110) / 2, seed.randint(90, 110) / 2
            low, high = min(open_, close) - seed.randint(0, 4) / 2, max(open_, close) + seed.randint(0, 4) / 2
            time = start + slot * interval.seconds
            rows[time] = (time, open_, high, low, close, seed.randint(1, 64) / 8, seed.randint(1, 9))
        candles[interval] = rows
        covered[interval] = spans(interval)
        verified[interval], reconciled[interval] = spans(interval), spans(interval)
    return Market(candles, covered, verified, reconciled, spans(Interval.H1), end + draw(st.integers(-DAY, DAY)))


requests = st.builds(
    ReadRequest,
    bars=st.builds(
        Bars.parse,
        st.sampled_from(["5m", "10m", "15m", "45m", "1h", "2h", "3h", "4h", "8h", "1d"]),
        st.sampled_from([None, None, 5, 60, 300]),
        st.sampled_from([None, None, "Europe/Berlin"]),
    ),
    start=st.none() | st.integers(BERLIN_SPRING - DAY - HOUR, BERLIN_SPRING),
    end=st.none() | st.integers(BERLIN_SPRING + 1, BERLIN_SPRING + 2 * DAY),
    fill_quiet=st.booleans(),
    incomplete=st.booleans(),
    with_state=st.booleans(),
)


# --- the account in plain Python


def holds(spans: Spans, start: int, end: int) -> bool:
    return any(span.start <= start and end <= span.end for span in spans)


def fits(interval: Interval, start: int, end: int) -> bool:
    return start % interval.seconds == 0 and end % interval.seconds == 0


def folded(rows: list[Row], start: int) -> Row | None:
    if not rows:
        return None
    return (
        start,
        rows[0][1],
        max(row[2] for row in rows),
        min(row[3] for row in rows),
        rows[-1][4],
        sum(row[5] for row in rows),
        sum(row[6] for row in rows),
    )


def within(market: Market, interval: Interval, start: int, end: int) -> list[Row]:
    return [row for time, row in sorted(market.candles.get(interval, {}).items()) if start <= time < end]


@dataclass(frozen=True)
class Account:
    """What is known of one bar: a stored candle, one made of candles of a whole bar, and those of parts of it."""

    start: int
    end: int
    is_whole: bool
    base: Interval | None
    stored: Row | None
    made: Row | None
    parts: list[Row]

    @property
    def sure(self) -> list[Row]:
        return [row for row in (self.stored, self.made) if row is not None]


def account(market: Market, bars: Bars, start: int, end: int) -> Account:
    fitting = [interval for interval in sorted(Interval, reverse=True) if fits(interval, start, end)]
    base = next((i for i in fitting if holds(market.covered.get(i, ()), start, end)), None)
    stored = None
    if bars.stored_as is not None:
        stored = market.candles.get(bars.stored_as, {}).get(start)
    made = None
    if base is not None and base is not bars.stored_as:
        made = folded(within(market, base, start, end), start)
    parts = []
    if base is None:
        found = (folded(within(market, i, start, end), start) for i in fitting if i is not bars.stored_as)
        parts = [row for row in found if row is not None]
    return Account(start, end, base is not None, base, stored, made, parts)


def best(rows: list[Row]) -> int | None:
    """The trade count of the row that a merge keeps."""
    return max((row[6] for row in rows), default=None)


def grid(bars: Bars, start: int, end: int) -> list[tuple[int, int]]:
    edges = bars.edges(start, end).tolist()
    return list(pairwise(edges))


def plain(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return frame.with_columns(pl.col("time").dt.epoch("s")).to_dicts()


@given(market=markets(), request=requests)
@settings(max_examples=60)
def test_a_reader_gets_what_a_plain_account_of_the_store_gives(market: Market, request: ReadRequest) -> None:
    frame = rows_of(request, market.evidence, market.read, market.now)
    rows = {row["time"]: row for row in plain(frame)}
    assert list(rows) == sorted(rows)
    assert len(rows) == frame.height
    close: float | None = None
    there = set()
    for edges in grid(request.bars, BERLIN_SPRING - 3 * DAY, BERLIN_SPRING + 4 * DAY):
        bar = account(market, request.bars, *edges)
        row = rows.get(bar.start)
        if is_selected(request, bar):
            if wanted(request, bar):
                there.add(bar.start)
                check_candle(request, bar, row)
            elif is_quiet(bar) and request.fill_quiet and close is not None:
                there.add(bar.start)
                check_filled(row, close)
            if request.with_state and is_expected(market, request, bar):
                there.add(bar.start)
                check_unfilled(request, bar, row)
        if request.with_state and row is not None:
            state = "traded" if wanted(request, bar) else "quiet"
            assert row["state"] == (state if bar.is_whole else "gap")
            assert row["proof"] == proof_of(market, bar)
        if [*bar.sure, *bar.parts]:
            close = merged_close(market, request.bars, bar)
    assert set(rows) == there


def is_selected(request: ReadRequest, bar: Account) -> bool:
    return (request.start is None or bar.start >= request.start) and (request.end is None or bar.start < request.end)


def wanted(request: ReadRequest, bar: Account) -> list[Row]:
    return [*bar.sure, *bar.parts] if request.incomplete else bar.sure


def is_quiet(bar: Account) -> bool:
    return bar.is_whole and not bar.sure


def is_expected(market: Market, request: ReadRequest, bar: Account) -> bool:
    """Whether the bar has ended, after the start or the first known candle."""
    if bar.end > market.now:
        return False
    if request.start is not None:
        return True
    usable = [interval for interval in market.candles if interval.seconds <= request.bars.seconds]
    firsts = [time for interval in usable for time in market.candles[interval]]
    known = market.evidence.first_known
    return known is not None and bar.start >= request.bars.floor(min([known, *firsts]))


def check_candle(request: ReadRequest, bar: Account, row: dict[str, Any] | None) -> None:
    assert row is not None
    assert row["trade_count"] == best(wanted(request, bar))
    candidates = [its for its in wanted(request, bar) if its[6] == row["trade_count"]]
    values = (row["open"], row["high"], row["low"], row["close"], round(row["volume"], 6))
    assert values in [(*its[1:5], round(its[5], 6)) for its in candidates]
    if bar.stored in candidates and not all(float(price).is_integer() for price in bar.stored[1:5]):
        assert row["source"] == "CSV", "with as many trades, prices with decimals are kept"


def check_filled(row: dict[str, Any] | None, close: float) -> None:
    assert row is not None
    assert {row[name] for name in ("open", "high", "low", "close")} == {close}
    assert (row["volume"], row["trade_count"], row["source"]) == (0.0, 0, None)


def check_unfilled(request: ReadRequest, bar: Account, row: dict[str, Any] | None) -> None:
    """A row that is there for its state alone has no prices."""
    assert row is not None
    if not wanted(request, bar) and not (request.fill_quiet and is_quiet(bar)):
        assert row["close"] is None
        assert row["trade_count"] == (0 if bar.is_whole else None)


def merged_close(market: Market, bars: Bars, bar: Account) -> float:
    """The close of a bar that has candles, of whatever parts."""
    edges = bars.edges(bar.start, bar.start + 1)
    return float(assemble(bars, edges, market.evidence, market.read, with_partial=True).known["close"][-1])


def proof_of(market: Market, bar: Account) -> str | None:
    if bar.base is None:
        return None
    if holds(market.verified[bar.base], bar.start, bar.end):
        return "verified"
    every = normalise([*market.reconciled[bar.base], *market.verified[bar.base]])
    return "reconciled" if holds(every, bar.start, bar.end) else "untested"


@given(market=markets(), request=requests)
@settings(max_examples=30)
def test_what_must_be_complete_is_refused_for_each_gap_and_each_suspicion(market: Market, request: ReadRequest) -> None:
    first = request.expected(market.evidence, market.now)
    bars = [] if first is None else [bar for bar in grid(request.bars, first.start, first.end) if bar[1] <= market.now]
    missing = normalise(Span(*bar) for bar in bars if not account(market, request.bars, *bar).is_whole)
    inside = [span for span in market.suspicious if first is not None and span.overlaps(first)]
    if first is not None and not missing and not inside:
        require_complete(request, {"XBTUSD": market.evidence}, market.now)
        return
    with pytest.raises(Incomplete) as refused:
        require_complete(request, {"XBTUSD": market.evidence}, market.now)
    said = str(refused.value)
    assert ("nothing is known of XBTUSD in this time" in said) == (first is None)
    assert refused.value.gaps == tuple(("XBTUSD", span.start, span.end) for span in missing)
    assert len(refused.value.suspicious) == len(inside)
    assert ("under suspicion" in said) == bool(inside)


@given(market=markets(), request=requests, at=st.integers(0, 2 * 24 * 12))
@settings(max_examples=30)
def test_a_part_of_the_time_is_read_as_a_part_of_the_whole_is(market: Market, request: ReadRequest, at: int) -> None:
    """Nothing depends on where a window begins, the close that quiet time repeats included."""
    middle = BERLIN_SPRING - DAY + at * 5 * MINUTE
    if middle <= (request.start or 0) or middle >= (request.end or 1 << 40):
        return
    whole = rows_of(request, market.evidence, market.read, market.now)
    parts = [
        rows_of(replace(request, end=middle), market.evidence, market.read, market.now),
        rows_of(replace(request, start=middle), market.evidence, market.read, market.now),
    ]
    later = parts[1]
    if request.with_state:  # time before the first trade is expected where it is named as the start
        later = later.filter(pl.col("time").is_in(whole["time"].implode()))
    assert pl.concat([parts[0], later]).equals(whole)


def test_nothing_known_is_an_empty_frame() -> None:
    nothing = Market({}, {}, {}, {}, (), BERLIN_SPRING)
    for with_state in (False, True):
        request = ReadRequest(Bars.parse("2h"), with_state=with_state, fill_quiet=True)
        assert rows_of(request, nothing.evidence, nothing.read, nothing.now).is_empty()


@pytest.mark.parametrize("minutes", [3, 7, 60])
def test_a_long_time_is_read_in_parts(minutes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the memory depends on how many candles are read at once."""
    start = 1_600_000_000 // DAY * DAY
    rows = {
        time: (time, 1.0 + n % 7, 9.0, 0.5, 2.0 + n % 5, 1.0, 1 + n % 3)
        for n, time in enumerate(range(start, start + DAY, MINUTE))
        if n % 11
    }
    span = (Span(start, start + DAY),)
    market = Market({Interval.M1: rows}, {Interval.M1: span}, {}, {}, (), start + 2 * DAY)
    request = ReadRequest(Bars.parse(minutes))
    whole = rows_of(request, market.evidence, market.read, market.now)
    monkeypatch.setattr("kraken_pipeline.workflow.reading.assembly._AT_ONCE", 50)
    assert rows_of(request, market.evidence, market.read, market.now).equals(whole)
    edges = request.bars.edges(start, start + DAY).tolist()
    last = edges[-1] if edges[-1] <= start + DAY else edges[-2]
    assert whole["trade_count"].sum() == sum(row[6] for row in rows.values() if edges[0] <= row[0] < last)
