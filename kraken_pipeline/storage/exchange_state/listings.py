"""The records of listings: the pairs that the exchange has delisted, and the first trade of each pair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from kraken_pipeline.storage.catalog.schema import absences, listings, of_pairs
from kraken_pipeline.storage.catalog.seals import is_intact, sealed
from kraken_pipeline.storage.postgresql import alone

DAY = 86_400
"""The time in seconds between two lists without a pair after which the pair counts as delisted."""


@dataclass(frozen=True, slots=True)
class ListingRecord:
    """The listing of a pair, as the exchange reported it.

    Attributes:
        delisted_at: The time when the pair was found to be delisted, in seconds since the epoch; None while it is
            listed.
        first_trade: The start of the minute of its first trade, in seconds since the epoch; None until it was fetched.
    """

    delisted_at: int | None
    first_trade: int | None


def listings_of(connection: sa.Connection, pairs: Sequence[str] | None = None) -> dict[str, ListingRecord]:
    """Return the records of all pairs, or of some, by name."""
    query = sa.select(listings).where(of_pairs(listings.c.pair, pairs))
    return {
        row["pair"]: ListingRecord(row["delisted_at"], row["first_trade"])
        for row in connection.execute(query).mappings()
        if is_intact(listings, row)
    }


def absences_of(connection: sa.Connection) -> dict[str, int]:
    """Return the pairs absent from a list that still count as listed, with its time in seconds since the epoch."""
    rows = connection.execute(sa.select(absences)).mappings()
    return {row["pair"]: row["listed_at"] for row in rows if is_intact(absences, row)}


def record_listed(
    connection: sa.Connection, listed: Iterable[str], absent: Iterable[str], now: int
) -> tuple[list[str], list[str]]:
    """Record which pairs a list has, and which it lacks.

    A pair counts as delisted once two lists at least a day apart lack it, and none between them had it.

    Args:
        connection: A connection in a write transaction.
        listed: The pairs in the list.
        absent: The known pairs that the list lacks.
        now: The time of the list, in seconds since the epoch.

    Returns:
        The pairs found absent for the first time, and the pairs that count as delisted from now on.
    """
    alone(connection, listings)
    known, missed = listings_of(connection), absences_of(connection)
    listed = set(listed)
    still = {pair for pair in absent if pair not in known or known[pair].delisted_at is None}
    gone = sorted(pair for pair in still if pair in missed and now - missed[pair] >= DAY)
    new = sorted(pair for pair in still if pair not in missed)
    back = [pair for pair in listed if pair in known and known[pair].delisted_at is not None]
    _write(connection, known, [{"_pair": pair, "delisted_at": now} for pair in gone], now)
    _write(connection, known, [{"_pair": pair, "delisted_at": None} for pair in back], now)
    over = [pair for pair in missed if pair in listed or pair in gone]
    for pair in (*over, *new):  # a new one may have a damaged row, which is ignored
        connection.execute(sa.delete(absences).where(absences.c.pair == pair))
    if new:
        connection.execute(sa.insert(absences), [sealed(absences, {"pair": pair, "listed_at": now}) for pair in new])
    return new, gone


def record_first_trade(connection: sa.Connection, pair: str, first_trade: int, now: int) -> None:
    """Record the first trade of a pair."""
    alone(connection, listings)
    _write(connection, listings_of(connection, [pair]), [{"_pair": pair, "first_trade": first_trade}], now)


def _write(
    connection: sa.Connection, known: dict[str, ListingRecord], rows: Sequence[dict[str, str | int | None]], now: int
) -> None:
    for row in rows:
        before = known.get(str(row["_pair"]), ListingRecord(None, None))
        changed = {name: value for name, value in row.items() if name != "_pair"}
        connection.execute(sa.delete(listings).where(listings.c.pair == row["_pair"]))
        connection.execute(
            sa.insert(listings).values(
                sealed(
                    listings,
                    {
                        "pair": row["_pair"],
                        "delisted_at": before.delisted_at,
                        "first_trade": before.first_trade,
                        **changed,
                        "seen_at": now,
                    },
                )
            )
        )
