"""Catalog records of trade counts: the number of trades by ids and by candles, span by span.

A proven count is a proof like any other and is deleted with its evidence: `void` is called before candles change, and
whenever anything is refuted. A count is a sum, so all of it is deleted where any part is. The anchors stay, so counting
again costs no request.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from kraken_pipeline.coverage.anchors import CountVerdict
from kraken_pipeline.coverage.ranges import Span, Spans, intersect
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso, short
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.schema import of_pairs, trade_counts
from kraken_pipeline.storage.catalog.seals import is_intact, sealed


@dataclass(frozen=True, slots=True)
class TradeCount:
    """The trades of a span of a series, counted by ids and by candles.

    Attributes:
        series: The series.
        span: The span.
        by_ids: The number of trades by ids; None where ids say nothing.
        counted: The number of trades by candles; None where they were not counted.
        verdict: The verdict on the two numbers.
        action: The action that was taken or is recommended.
        run_id: The run that found it.
    """

    series: Series
    span: Span
    by_ids: int | None
    counted: int | None
    verdict: CountVerdict
    action: str
    run_id: str

    def __str__(self) -> str:
        return f"{in_all([self])}, {self.when}"

    @property
    def when(self) -> str:
        """The span, as text."""
        return f"from {short(self.span.start)} to {short(self.span.end)}"

    def as_json(self) -> dict[str, object]:
        """Return the count as `prove --json` shows it."""
        return {
            "pair": self.series.pair,
            "start": iso(self.span.start),
            "end": iso(self.span.end),
            "trades_by_ids": self.by_ids,
            "interval": self.series.interval.value,
            "trades_counted": self.counted,
            "verdict": str(self.verdict),
            "action": self.action,
        }


def in_all(counts: Iterable[TradeCount]) -> str:
    """Return the total of some spans that do not overlap, as text: "counted: 34,817 trades by ids and …"."""
    return as_counted(sum(count.counted or 0 for count in counts))


def as_counted(trades: int) -> str:
    """Return the text for a number of trades on which ids and candles agree."""
    return f"counted: {trades:,} trades by ids and by candles"


def record(connection: sa.Connection, found: Iterable[TradeCount], now: int) -> None:
    """Record counts, replacing earlier records of the same spans."""
    for count in found:
        row = {
            "pair": count.series.pair,
            "interval": count.series.interval.value,
            "start": count.span.start,
            "end": count.span.end,
            "by_ids": count.by_ids,
            "counted": count.counted,
            "verdict": str(count.verdict),
            "action": count.action,
            "run_id": count.run_id,
            "made_at": now,
        }
        is_of_series = [trade_counts.c[name] == row[name] for name in ("pair", "interval")]
        is_one = (trade_counts.c.start == row["start"]) & (trade_counts.c.end == row["end"])
        if count.verdict is CountVerdict.PROVEN:  # it supersedes shorter ones: each night brings a longer one
            is_within = (trade_counts.c.start >= row["start"]) & (trade_counts.c.end <= row["end"])
            is_one = is_one | (is_within & (trade_counts.c.verdict == row["verdict"]))
        connection.execute(sa.delete(trade_counts).where(*is_of_series, is_one))
        connection.execute(sa.insert(trade_counts).values(**sealed(trade_counts, row)))


def of_pair(connection: sa.Connection, pair: str) -> dict[tuple[Series, Span], TradeCount]:
    """Return the counts of a pair, by series and span."""
    return {(count.series, count.span): count for count in _read(connection, trade_counts.c.pair == pair)}


def of_run(connection: sa.Connection, run_id: str) -> list[TradeCount]:
    """Return the counts that a run found, by pair, time and interval."""
    return _read(connection, trade_counts.c.run_id == run_id)


def proven(connection: sa.Connection, pairs: Collection[str] | None = None) -> dict[Series, list[TradeCount]]:
    """Return the proven counts of every series, or of those of some pairs, in order of time and without overlaps."""
    is_proven = trade_counts.c.verdict == str(CountVerdict.PROVEN)
    found: dict[Series, list[TradeCount]] = {}
    rows = _read(connection, is_proven & of_pairs(trade_counts.c.pair, pairs))
    for count in sorted(rows, key=lambda count: (count.series, count.span.start, -count.span.end)):
        counts = found.setdefault(count.series, [])
        if not counts or not counts[-1].span.overlaps(count.span):
            counts.append(count)
    return found


def _read(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[TradeCount]:
    columns = trade_counts.c
    query = sa.select(trade_counts).where(condition)
    query = query.order_by(columns.pair, columns.start, columns.end, columns.interval)
    return [
        TradeCount(
            Series(row["pair"], Interval(row["interval"])),
            Span(row["start"], row["end"]),
            row["by_ids"],
            row["counted"],
            CountVerdict(row["verdict"]),
            row["action"],
            row["run_id"],
        )
        for row in connection.execute(query).mappings()
        if is_intact(trade_counts, row)
    ]


def void(connection: sa.Connection, changing: Mapping[Series, Spans]) -> None:
    """Delete the proven counts of some spans before their candles or their evidence change.

    Candles longer than a day are proven by the counts of their days, so their counts are deleted with these.
    """
    pairs = {series.pair for series, spans in changing.items() if spans}
    if not pairs:
        return
    is_proven = trade_counts.c.verdict == str(CountVerdict.PROVEN)
    known = _read(connection, is_proven & of_pairs(trade_counts.c.pair, pairs))
    gone = [count for count in known if intersect((count.span,), changing.get(count.series, ()))]
    days = [count for count in gone if count.series.interval is Interval.D1]
    gone += [
        count
        for count in known
        if count.series.interval > Interval.D1
        and any(count.series.pair == day.series.pair and count.span.overlaps(day.span) for day in days)
    ]
    for count in gone:
        is_one = (
            (trade_counts.c.pair == count.series.pair)
            & (trade_counts.c.interval == count.series.interval.value)
            & (trade_counts.c.start == count.span.start)
            & (trade_counts.c.end == count.span.end)
        )
        connection.execute(sa.delete(trade_counts).where(is_one))
