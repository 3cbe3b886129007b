"""The records of the lists of pairs that the exchange sent: of each that differed from the one before, its changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from kraken_pipeline.market.listed_state import ListedState, PairChange, PairList, changes
from kraken_pipeline.storage.catalog.schema import pair_changes, pair_lists
from kraken_pipeline.storage.catalog.seals import is_intact, sealed
from kraken_pipeline.storage.postgresql import alone


def lists_of(connection: sa.Connection) -> list[PairList]:
    """Return the lists that differed from the one before them, in order of time."""
    rows = connection.execute(sa.select(pair_lists).order_by(pair_lists.c.listed_at)).mappings()
    return [PairList(row["listed_at"], row["seen_at"], row["pairs"]) for row in rows if is_intact(pair_lists, row)]


def changes_of(connection: sa.Connection) -> list[PairChange]:
    """Return all changes from list to list, in order of time."""
    query = sa.select(pair_changes).order_by(pair_changes.c.listed_at, pair_changes.c.pair)
    return [
        PairChange(row["pair"], row["listed_at"], _state(row["before"]), _state(row["after"]))
        for row in connection.execute(query).mappings()
        if is_intact(pair_changes, row)
    ]


def is_news(connection: sa.Connection, made_at: int) -> bool:
    """Return whether a list of this time is newer than the last one on record."""
    known = lists_of(connection)
    return not known or made_at > known[-1].seen_at


def record_list(
    connection: sa.Connection, states: Mapping[str, ListedState], unreadable: Collection[str], made_at: int
) -> list[PairChange]:
    """Record a list of pairs, if it is newer than the last one on record.

    A list that equals the last one only moves the time until which that one was seen.

    Args:
        connection: A connection in a write transaction.
        states: Pair → its state in the list.
        unreadable: Names and keys of entries that cannot be read; such a pair keeps its state.
        made_at: The time of the list, in seconds since the epoch.

    Returns:
        The changes since the list before; for the first list, all of its pairs.
    """
    alone(connection, pair_lists)
    known = lists_of(connection)
    if known and made_at <= known[-1].seen_at:
        return []
    changed = changes(_newest(connection), states, unreadable, made_at)
    if known and not changed:
        connection.execute(sa.delete(pair_lists).where(pair_lists.c.listed_at == known[-1].listed_at))
        _insert(connection, known[-1].listed_at, made_at, known[-1].pairs)
        return []
    _insert(connection, made_at, made_at, len(states))
    rows = [
        {
            "listed_at": change.listed_at,
            "pair": change.pair,
            "before": None if change.before is None else change.before.as_json(),
            "after": None if change.after is None else change.after.as_json(),
        }
        for change in changed
    ]
    if rows:
        connection.execute(sa.insert(pair_changes), [sealed(pair_changes, row) for row in rows])
    return changed


def _newest(connection: sa.Connection) -> dict[str, ListedState]:
    """Return the state of each pair in the last list on record, whose time does not grow with the history."""
    last = sa.select(pair_changes.c.pair, sa.func.max(pair_changes.c.listed_at).label("at"))
    last_of = last.group_by(pair_changes.c.pair).subquery()
    is_last = sa.and_(pair_changes.c.pair == last_of.c.pair, pair_changes.c.listed_at == last_of.c.at)
    rows = connection.execute(sa.select(pair_changes).join(last_of, is_last)).mappings()
    states = {row["pair"]: _state(row["after"]) for row in rows if is_intact(pair_changes, row)}
    return {pair: state for pair, state in states.items() if state is not None}


def _insert(connection: sa.Connection, listed_at: int, seen_at: int, pairs: int) -> None:
    # A damaged row of the same time, which is ignored, would be in the way.
    connection.execute(sa.delete(pair_lists).where(pair_lists.c.listed_at == listed_at))
    row = {"listed_at": listed_at, "seen_at": seen_at, "pairs": pairs}
    connection.execute(sa.insert(pair_lists).values(sealed(pair_lists, row)))


def _state(content: Any) -> ListedState | None:
    return None if content is None else ListedState(**content)
