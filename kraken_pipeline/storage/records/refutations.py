"""Refutations: what a source answered and turned out not to be so.

A refuted span is not covered, so that it is a gap with a route. Only what comes after it counts as an answer: hence the
ids of the newest grant and attempt, which each record holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import EVER, Span, Spans, normalise, subtract
from kraken_pipeline.market.candle import Values
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.schema import of_pairs, refutations
from kraken_pipeline.storage.catalog.seals import checksum, is_intact, sealed
from kraken_pipeline.storage.records import trade_counts

_IDS = 500


@dataclass(frozen=True, slots=True)
class Refutation:
    """A span that is refuted.

    Attributes:
        id: Of its record.
        series: Whose.
        span: Which.
        refuted: What stood there, as one candle of its length; None where there was none.
        reason: What refutes it.
        after_grant: The newest grant of that moment.
        after_attempt: The newest attempt of that moment.
        made_at: When, in seconds since the epoch.
        damage_id: The damage that took the evidence away, where no other source refuted it.
    """

    id: int
    series: Series
    span: Span
    refuted: Values | None
    reason: str
    after_grant: int
    after_attempt: int
    made_at: int
    damage_id: int | None = None

    def standing(self, grants: Iterable[Grant]) -> Spans:
        """Return the part of the span that is refuted still, given all grants of the series.

        Evidence that was lost is replaced piece by piece. Values that were refuted stay refuted as a whole, until
        reconciliation finds that something has answered for all of them.
        """
        if self.damage_id is None:
            return (self.span,)
        return subtract((self.span,), normalise(grant.span for grant in grants if grant.id > self.after_grant))


def refute(
    connection: sa.Connection,
    found: Iterable[tuple[Series, Span, Values | None, str]],
    now: int,
    *,
    damage_id: int | None = None,
) -> None:
    """Puts refutations on record; `evidence_records.renew` then takes the coverage back.

    Args:
        connection: A transaction that writes.
        found: Series, span, what stood there as one candle, and what refutes it.
        now: The moment, in seconds since the epoch.
        damage_id: The damage that took the evidence away, where it is that.
    """
    newest = [connection.scalar(sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0))) for table in _DATED]
    rows = [
        {
            "pair": series.pair,
            "interval": series.interval.value,
            "start": span.start,
            "end": span.end,
            "refuted": None if values is None else list(values),
            "reason": reason,
            "after_grant": newest[0],
            "after_attempt": newest[1],
            "damage_id": damage_id,
            "made_at": now,
            "ended_at": None,
        }
        for series, span, values, reason in found
    ]
    if rows:
        connection.execute(sa.insert(refutations), [sealed(refutations, row) for row in rows])
        trade_counts.void(connection, _by_series(rows))


def _by_series(rows: Iterable[Mapping[str, Any]]) -> dict[Series, Spans]:
    spans: dict[Series, list[Span]] = {}
    for row in rows:
        spans.setdefault(Series(row["pair"], Interval(row["interval"])), []).append(Span(row["start"], row["end"]))
    return {series: normalise(found) for series, found in spans.items()}


_DATED = (schema.grants, schema.attempts)


def active(connection: sa.Connection, pairs: Collection[str] | None = None) -> dict[Series, list[Refutation]]:
    """The refutations that have not ended, by series and in order of time; of some pairs or of all."""
    found: dict[Series, list[Refutation]] = {}
    for refutation in matching(connection, of_pairs(refutations.c.pair, pairs)):
        found.setdefault(refutation.series, []).append(refutation)
    return found


def matching(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[Refutation]:
    """The refutations that have not ended and meet a condition on their table, in order of time."""
    query = sa.select(refutations).where(refutations.c.ended_at.is_(None), condition).order_by(refutations.c.start)
    return [_record(row) for row in connection.execute(query).mappings()]


def of_series(connection: sa.Connection, series: Series, span: Span) -> list[tuple[Refutation, int | None]]:
    """Every refutation of a series that overlaps a span, ended or not, the oldest first, each with when it ended."""
    query = (
        sa.select(refutations)
        .where(
            refutations.c.pair == series.pair,
            refutations.c.interval == series.interval.value,
            refutations.c.start < span.end,
            refutations.c.end > span.start,
        )
        .order_by(refutations.c.id)
    )
    return [(_record(row), row["ended_at"]) for row in connection.execute(query).mappings()]


def _record(row: sa.RowMapping) -> Refutation:
    """The record of a row; one that is damaged refutes all of its series, since nobody knows what it was about."""
    return Refutation(
        row["id"],
        Series(row["pair"], Interval(row["interval"])),
        Span(row["start"], row["end"]) if is_intact(refutations, row) else EVER,
        values_of(row["refuted"]),
        row["reason"],
        row["after_grant"],
        row["after_attempt"],
        row["made_at"],
        row["damage_id"],
    )


def values_of(found: Sequence[float] | None) -> Values | None:
    """A candle's values as a column of JSON has them."""
    if found is None:
        return None
    opened, high, low, close, volume, trades = found
    return float(opened), float(high), float(low), float(close), float(volume), int(trades)


def end(connection: sa.Connection, ids: Sequence[int], now: int) -> None:
    """Ends refutations; `evidence_records.renew` then gives the coverage back."""
    change(connection, ids, ended_at=now)


def change(connection: sa.Connection, ids: Sequence[int], **values: int) -> None:
    """Changes columns of some refutations, and their checksums with them."""
    for start in range(0, len(ids), _IDS):
        is_one = refutations.c.id.in_(ids[start : start + _IDS])
        rows = connection.execute(sa.select(refutations).where(is_one)).mappings().all()
        changed = [{"of_id": row["id"], "seal": checksum(refutations, {**row, **values})} for row in rows]
        if changed:
            connection.execute(
                sa.update(refutations)
                .where(refutations.c.id == sa.bindparam("of_id"))
                .values(checksum=sa.bindparam("seal"), **values),
                changed,
            )


def answered_since(connection: sa.Connection, each: Refutation) -> list[tuple[Span, str]]:
    """What has answered for a refuted span since, each with its source; of one-minute candles trades at any time.

    Minutes that were paged through before are never refuted: trades are what all else is measured by.
    """
    table = schema.grants
    query = sa.select(table.c.start, table.c.end, table.c.source).where(
        table.c.pair == each.series.pair,
        table.c.interval == each.series.interval.value,
        table.c.start < each.span.end,
        table.c.end > each.span.start,
        table.c.id > each.after_grant,
    )
    return [(Span(start, end_), source) for start, end_, source in connection.execute(query)]


def is_doubted(connection: sa.Connection, series: Series) -> bool:
    """Whether anything of a series is refuted: then each answer is kept by itself, to tell what came since."""
    query = sa.select(refutations.c.id).where(
        refutations.c.pair == series.pair,
        refutations.c.interval == series.interval.value,
        refutations.c.ended_at.is_(None),
    )
    return connection.execute(query.limit(1)).first() is not None
