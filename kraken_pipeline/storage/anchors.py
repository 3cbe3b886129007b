"""The catalog's records of how the exchange numbers trades: anchors, and the ids that are in none of its pages."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import sqlalchemy as sa

from kraken_pipeline.coverage.anchors import HOLE_SECONDS, Anchor, Hole
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.storage.postgresql import alone
from kraken_pipeline.storage.schema import anchors, id_holes, of_pairs
from kraken_pipeline.storage.seals import is_intact, sealed


def anchors_of(connection: sa.Connection, pair: str) -> dict[int, Anchor]:
    """Read the anchors of a pair by their moments; a damaged row is none, and is asked for again."""
    query = sa.select(anchors).where(anchors.c.pair == pair).order_by(anchors.c.moment)
    names = ("moment", "trade_id", "trade_time", "asked_at", "listed", "numbered")
    return {
        row["moment"]: Anchor(*(row[name] for name in names))
        for row in connection.execute(query).mappings()
        if is_intact(anchors, row)
    }


def keep_anchors(connection: sa.Connection, pair: str, found: Iterable[Anchor]) -> None:
    """Put anchors of a pair on record, in place of what was known of their moments."""
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


def holes_of(connection: sa.Connection, pairs: Collection[str] | None = None) -> dict[str, list[Hole]]:
    """Read the ids that were found absent of every pair, or of some, in order of time."""
    query = sa.select(id_holes).where(of_pairs(id_holes.c.pair, pairs)).order_by(id_holes.c.pair, id_holes.c.start)
    found: dict[str, list[Hole]] = {}
    names = ("first_id", "last_id", "parts", "seen_at", "again_at")
    for row in connection.execute(query).mappings():
        if is_intact(id_holes, row):
            hole = Hole(Span(row["start"], row["end"]), *(row[name] for name in names))
            found.setdefault(row["pair"], []).append(hole)
    return found


def note_hole(connection: sa.Connection, pair: str, hole: Hole, run_id: str) -> Hole:
    """Put ids on record that are absent, and say whether that is settled: found by two runs at least an hour apart.

    Returns:
        The hole as it is on record now; `again_at` is None until a second run has found the same ids absent.
    """
    alone(connection, id_holes)
    is_one = (id_holes.c.pair == pair) & (id_holes.c.first_id == hole.first_id)
    before = connection.execute(sa.select(id_holes).where(is_one)).mappings().first()
    first_run = run_id
    # Where a page has several holes, the last of them depends on where the page ends.
    is_same = before is not None and (before["last_id"] == hole.last_id or hole.parts > 1)
    if before is not None and is_intact(id_holes, before) and is_same:
        first_run, again_at = before["run_id"], before["again_at"]
        if again_at is None and run_id != first_run and hole.seen_at >= before["seen_at"] + HOLE_SECONDS:
            again_at = hole.seen_at
        hole = replace(hole, seen_at=before["seen_at"], again_at=again_at)
    row = {
        "pair": pair,
        "start": hole.span.start,
        "end": hole.span.end,
        "first_id": hole.first_id,
        "last_id": hole.last_id,
        "parts": hole.parts,
        "seen_at": hole.seen_at,
        "run_id": first_run,
        "again_at": hole.again_at,
    }
    connection.execute(sa.delete(id_holes).where(is_one))
    connection.execute(sa.insert(id_holes).values(**sealed(id_holes, row)))
    return hole


def forget_hole(connection: sa.Connection, pair: str, hole: Hole) -> None:
    """Take a hole off the record whose ids the exchange has listed after all.

    What was asked about moments within it was answered by the trade behind it, and is to be asked for again.
    """
    connection.execute(sa.delete(id_holes).where(id_holes.c.pair == pair, id_holes.c.first_id == hole.first_id))
    is_within = (anchors.c.moment > hole.span.start) & (anchors.c.moment < hole.span.end)
    connection.execute(sa.delete(anchors).where(anchors.c.pair == pair, is_within))
