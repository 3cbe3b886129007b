"""Read-only queries about when something that is known of a pair last changed."""

from __future__ import annotations

import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.storage.catalog import schema


def changes_of(connection: sa.Connection, pair: str, longest: Interval) -> list[tuple[Span, int]]:
    """Return the spans of a pair about which something was learnt, each with the time of the last change.

    These are answers, refuted answers, sources that differed, contradictions and suspicions.

    Args:
        connection: A transaction.
        pair: The name of the pair.
        longest: The longest interval that counts.

    Returns:
        The spans and the times, in seconds since the epoch, in no order.
    """
    minutes = longest.value
    queries = []
    for table, moment in (
        (schema.coverage, schema.coverage.c.verified_at),
        (schema.conflicts, schema.conflicts.c.made_at),
        (schema.refutations, sa.func.coalesce(schema.refutations.c.ended_at, schema.refutations.c.made_at)),
    ):
        is_of_pair = (table.c.pair == pair) & (table.c.interval <= minutes)
        queries.append(sa.select(table.c.start, table.c.end, moment).where(is_of_pair))
    sides, suspected = schema.contradictions, schema.suspicions
    queries.append(
        sa.select(sides.c.start, sides.c.end, sides.c.changed_at).where(sides.c.pair == pair, sides.c.fine <= minutes)
    )
    queries.append(
        sa.select(suspected.c.start, suspected.c.end, suspected.c.changed_at).where(
            suspected.c.pair.is_(None) | (suspected.c.pair == pair), suspected.c.interval <= minutes
        )
    )
    return [
        (Span(start, end), int(moment)) for query in queries for start, end, moment in connection.execute(query).all()
    ]
