"""Catalog records of anchors: the first trade at or after a moment, as the exchange reported it."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from kraken_pipeline.coverage.anchors import Anchor
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.storage.catalog.schema import anchors
from kraken_pipeline.storage.catalog.seals import is_intact, sealed
from kraken_pipeline.storage.postgresql import alone


def anchors_of(connection: sa.Connection, pair: str) -> dict[int, Anchor]:
    """Return the anchors of a pair by moment; damaged rows are left out, so that they are requested again."""
    query = sa.select(anchors).where(anchors.c.pair == pair).order_by(anchors.c.moment)
    names = ("moment", "trade_id", "trade_time", "asked_at", "listed", "numbered")
    return {
        row["moment"]: Anchor(*(row[name] for name in names))
        for row in connection.execute(query).mappings()
        if is_intact(anchors, row)
    }


def keep_anchors(connection: sa.Connection, pair: str, found: Iterable[Anchor]) -> None:
    """Record anchors of a pair, replacing earlier records of the same moments."""
    alone(connection, anchors)
    rows = [
        {
            "pair": pair,
            "moment": anchor.moment,
            "trade_id": anchor.trade_id,
            "trade_time": anchor.trade_time,
            "asked_at": anchor.asked_at,
            "listed": anchor.listed,
            "numbered": anchor.numbered,
        }
        for anchor in found
    ]
    for row in rows:
        connection.execute(sa.delete(anchors).where(anchors.c.pair == pair, anchors.c.moment == row["moment"]))
        connection.execute(sa.insert(anchors).values(**sealed(anchors, row)))


def forget_anchors(connection: sa.Connection, pair: str, span: Span) -> None:
    """Delete the anchors strictly within a span, so that they are requested again."""
    is_within = (anchors.c.moment > span.start) & (anchors.c.moment < span.end)
    connection.execute(sa.delete(anchors).where(anchors.c.pair == pair, is_within))
