"""Refutations: answers of a source that turned out to be wrong.

A refuted span is not covered, so it is a gap with a route. Only later answers count, so each record holds the ids of
the newest grant and attempt at that time.
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
        id: The id of its record.
        series: The series.
        span: The span.
        refuted: The refuted values, as one candle of the span's length; None where there was none.
        reason: The reason, as text.
        after_grant: The id of the newest grant at that time.
        after_attempt: The id of the newest attempt at that time.
        made_at: The time of the refutation, in seconds since the epoch.
        damage_id: The id of the damage that removed the evidence; None where another source refuted it.
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
        """Return the part of the span that is still refuted, given all grants of the series.

        Lost evidence is replaced piece by piece. Refuted values stay refuted as a whole, until reconciliation finds
        that the whole span has been answered for.
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
    """Record refutations; call `evidence_records.renew` afterwards to remove the coverage.

    Args:
        connection: A write transaction.
        found: Series, span, the refuted values as one candle, and the reason.
        now: The current time, in seconds since the epoch.
        damage_id: The id of the damage that removed the evidence; None for any other cause.
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
    """Return the refutations that have not ended, by series and in order of time; of some pairs or of all."""
    found: dict[Series, list[Refutation]] = {}
    for refutation in matching(connection, of_pairs(refutations.c.pair, pairs)):
        found.setdefault(refutation.series, []).append(refutation)
    return found


def matching(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[Refutation]:
    """Return the refutations that have not ended and meet a condition on their table, in order of time."""
    query = sa.select(refutations).where(refutations.c.ended_at.is_(None), condition).order_by(refutations.c.start)
    return [_record(row) for row in connection.execute(query).mappings()]


def of_series(connection: sa.Connection, series: Series, span: Span) -> list[tuple[Refutation, int | None]]:
    """Return the refutations of a series that overlap a span, oldest first, each with its end time or None."""
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
    """Return the record of a row; a damaged row refutes all of its series, because its span is unknown."""
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
    """Return a candle's values from a JSON column."""
    if found is None:
        return None
    opened, high, low, close, volume, trades = found
    return float(opened), float(high), float(low), float(close), float(volume), int(trades)


def end(connection: sa.Connection, ids: Sequence[int], now: int) -> None:
    """End refutations; call `evidence_records.renew` afterwards to restore the coverage."""
    change(connection, ids, ended_at=now)


def change(connection: sa.Connection, ids: Sequence[int], **values: int) -> None:
    """Change columns of some refutations and update their checksums."""
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


def answered_since(connection: sa.Connection, refutation: Refutation) -> list[tuple[Span, str]]:
    """Return the spans granted since a refutation that overlap it, each with its source."""
    table = schema.grants
    query = sa.select(table.c.start, table.c.end, table.c.source).where(
        table.c.pair == refutation.series.pair,
        table.c.interval == refutation.series.interval.value,
        table.c.start < refutation.span.end,
        table.c.end > refutation.span.start,
        table.c.id > refutation.after_grant,
    )
    return [(Span(start, end_), source) for start, end_, source in connection.execute(query)]


def has_refutations(connection: sa.Connection, series: Series) -> bool:
    """Return whether anything of a series is refuted: its answers are then kept apart, to show which came later."""
    query = sa.select(refutations.c.id).where(
        refutations.c.pair == series.pair,
        refutations.c.interval == series.interval.value,
        refutations.c.ended_at.is_(None),
    )
    return connection.execute(query.limit(1)).first() is not None
