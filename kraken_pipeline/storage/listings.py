"""What the exchange lists: the pairs that it no longer does, and when each was traded for the first time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from kraken_pipeline.storage.postgresql import alone
from kraken_pipeline.storage.schema import listings, of_pairs
from kraken_pipeline.storage.seals import is_intact, sealed


@dataclass(frozen=True, slots=True)
class ListingRecord:
    """What the exchange said of a pair.

    Attributes:
        delisted_at: When it was first found to be listed no more, in seconds since the epoch; None where it is.
        first_trade: The start of the minute of its first trade; None until that was asked for.
    """

    delisted_at: int | None
    first_trade: int | None


def listings_of(connection: sa.Connection, pairs: Sequence[str] | None = None) -> dict[str, ListingRecord]:
    """What is on record of all pairs, or of some."""
    query = sa.select(listings).where(of_pairs(listings.c.pair, pairs))
    return {
        row["pair"]: ListingRecord(row["delisted_at"], row["first_trade"])
        for row in connection.execute(query).mappings()
        if is_intact(listings, row)
    }


def record_listed(connection: sa.Connection, listed: Iterable[str], absent: Iterable[str], now: int) -> list[str]:
    """Puts on record which pairs are listed and which are not; returns those that are newly found absent."""
    alone(connection, listings)
    known = listings_of(connection)
    listed, absent = set(listed), set(absent)
    gone = sorted(pair for pair in absent if pair not in known or known[pair].delisted_at is None)
    back = [pair for pair in listed if pair in known and known[pair].delisted_at is not None]
    _write(connection, known, [{"_pair": pair, "delisted_at": now} for pair in gone], now)
    _write(connection, known, [{"_pair": pair, "delisted_at": None} for pair in back], now)
    return gone


def record_first_trade(connection: sa.Connection, pair: str, first_trade: int, now: int) -> None:
    """Puts on record when a pair was traded for the first time."""
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
