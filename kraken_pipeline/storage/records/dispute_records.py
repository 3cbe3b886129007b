"""Catalog records of disputes: candles in which two files of one release differ at one trade count.

A merge keeps one of the two by a fixed order of values, which settles nothing. A dispute is about the stored candle. It
ends when a candle with a greater trade count or of a later release replaces that candle, and when a file that the
candle came from is withdrawn. The remaining files are then read again, and their differences are recorded anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span, Spans, intersect, subtract, union
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.schema import disputes, of_pairs
from kraken_pipeline.storage.catalog.seals import is_intact, sealed


def disputed(connection: sa.Connection, pairs: Collection[str] | None = None) -> dict[Series, Spans]:
    """Return the disputed candles of every series, or of those of some pairs."""
    query = sa.select(disputes).where(of_pairs(disputes.c.pair, pairs))
    query = query.order_by(disputes.c.pair, disputes.c.interval, disputes.c.start)
    found: dict[Series, list[Span]] = {}
    for row in connection.execute(query).mappings():
        if is_intact(disputes, row):
            span = Span(row["start"], row["end"])
            found.setdefault(Series(row["pair"], Interval(row["interval"])), []).append(span)
    return {series: tuple(spans) for series, spans in found.items()}


def dispute(connection: sa.Connection, found: Mapping[Series, Spans]) -> None:
    """Record candles as disputed; those already on record are skipped."""
    known = disputed(connection, {series.pair for series, spans in found.items() if spans})
    for series, spans in found.items():
        if subtract(spans, known.get(series, ())):
            _replace(connection, series, union(known.get(series, ()), spans))


def settle(connection: sa.Connection, ended: Mapping[Series, Spans]) -> None:
    """End the disputes about some candles."""
    known = disputed(connection, {series.pair for series, spans in ended.items() if spans})
    for series, spans in ended.items():
        if intersect(known.get(series, ()), spans):
            _replace(connection, series, subtract(known[series], spans))


def _replace(connection: sa.Connection, series: Series, spans: Spans) -> None:
    key = {"pair": series.pair, "interval": series.interval.value}
    is_one = (disputes.c.pair == series.pair) & (disputes.c.interval == series.interval.value)
    connection.execute(sa.delete(disputes).where(is_one))
    rows = [sealed(disputes, {**key, "start": span.start, "end": span.end}) for span in spans]
    if rows:
        connection.execute(sa.insert(disputes), rows)
