"""Damage: files of the lake that are not the ones that were written, and the claims that they invalidate."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import polars as pl
import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import EVER, Span, Spans, intersect, normalise, subtract
from kraken_pipeline.errors import DamagedFile, PipelineError
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.paths import layout_of
from kraken_pipeline.storage.records import (
    evidence_records,
    manifest,
    proof_records,
    publications,
    refutations,
    withdrawals,
)
from kraken_pipeline.storage.records.manifest import Manifest

REPAIR = "kraken-pipeline verify --repair"


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not the one that was written.

    Attributes:
        path: The path relative to the home, with slashes.
        series: The series of its candles; None where the path names no series.
        year: The year of its candles; None for a file of all years, and outside the lake.
        kind: The kind of difference.
        detail: The expected and the actual state, worded to follow the path.
        candles: The number of candles that it held, as far as known.
        first_time: The start of its first candle, in seconds since the epoch; None where unknown.
    """

    path: str
    series: Series | None
    year: int | None
    kind: DamageKind
    detail: str
    candles: int = 0
    first_time: int | None = None

    @property
    def is_candles(self) -> bool:
        """Whether the path is one of candles in the lake, in any layout, and not one of the ledger."""
        return layout_of(self.path) is not None

    @property
    def span(self) -> Span:
        """The longest time that the file can have covered."""
        if self.year is None:
            return EVER
        start, end = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (self.year, self.year + 1))
        return Span(start, end)

    @property
    def action(self) -> str:
        """The recommended repair, as text."""
        what = "trades from the archives" if self.path.startswith("trades/") else "candles from the sources"
        return f"{REPAIR} sets it aside and restores its {what} that are left"

    def __str__(self) -> str:
        return f"{self.path} {self.detail}"


def refusal(found: Sequence[Damage]) -> DamagedFile:
    """Return the error for a request for candles in damaged files."""
    more = f"; and {len(found) - 1:,} more files" if len(found) > 1 else ""
    return DamagedFile(f"{found[0]}{more}: {found[0].action}", tuple(damage.path for damage in found))


class DamagedLake(Protocol):
    """The part of a lake that damage handling uses: the manifest, and the candles in undamaged files."""

    manifest: Manifest

    def sound_times(self, series: Series, without: Collection[str] = ()) -> pl.Series:
        """Return the start of every candle in the undamaged files, in seconds (Int64), sorted."""


def notice(catalog: Catalog, lake: DamagedLake, found: Iterable[Damage]) -> None:
    """Record damage and invalidate what depends on the files: coverage, proof, and the publication to QuestDB.

    Damage that is already on record is skipped. Where the catalog cannot be written, as in a read-only home, nothing is
    recorded, and the caller raises the same error.
    """
    fresh = list(found)
    if not fresh:
        return
    now = int(time.time())
    try:
        with catalog.read() as connection:
            known = open_paths(connection)
        fresh = [damage for damage in fresh if damage.path not in known]
        if not fresh:
            return
        paths = {damage.path for damage in fresh}
        times = {damage.series: lake.sound_times(damage.series, paths) for damage in fresh if damage.series is not None}
        with catalog.write() as connection:
            for damage in fresh:
                _record(connection, damage, now)
            evidence_records.renew(connection, times)
        lake.manifest.forget(times)
    except (sa.exc.SQLAlchemyError, PipelineError, OSError):
        return


def _record(connection: sa.Connection, damage: Damage, now: int) -> None:
    if damage.path in open_paths(connection):
        return
    row = {
        "path": damage.path,
        "pair": damage.series.pair if damage.series else None,
        "interval": damage.series.interval.value if damage.series else None,
        "year": damage.year,
        "kind": damage.kind,
        "detail": damage.detail,
        "candles": damage.candles,
        "first_time": _first_traded(connection, damage),
        "noticed_at": now,
    }
    made = connection.execute(sa.insert(schema.damages).values(row).returning(schema.damages.c.id))
    damage_id = int(made.scalar_one())
    if damage.is_candles and damage.series is not None and _is_read(connection, damage, damage.series):
        reason = f"{damage} (it had {damage.candles:,} candles)"
        uncover(connection, damage.series, damage.span, reason, now, damage_id)
        # What was lost is in no write: an earlier moment would look as if it had never been there.
        manifest.begin_history(connection, damage.series, time.time_ns() // 1_000)


def _is_read(connection: sa.Connection, damage: Damage, series: Series) -> bool:
    """Return whether coverage rests on a candle file: not if the candles of its series are in another layout."""
    return manifest.layout_among(manifest.files_of(connection, [series])) in (None, layout_of(damage.path))


def _first_traded(connection: sa.Connection, damage: Damage) -> int | None:
    """Return the start of a file's first candle; None where it was resampled, as no trade may have occurred by then."""
    if damage.series is None or damage.first_time is None:
        return None
    records = evidence_records.coverage_of(connection, [damage.series.interval], [damage.series.pair])
    is_made = any(
        damage.first_time in record.span and record.source == Source.RESAMPLED
        for record in records.get(damage.series, ())
    )
    return None if is_made else damage.first_time


def first_lost(connection: sa.Connection, pairs: Collection[str]) -> dict[str, int]:
    """Return the earliest first candle of each pair among files that were lost and not replaced yet (seconds)."""
    table, refuted = schema.damages, schema.refutations
    query = (
        sa.select(refuted.c.pair, sa.func.min(table.c.first_time))
        .join(table, refuted.c.damage_id == table.c.id)
        .where(refuted.c.ended_at.is_(None), table.c.first_time.is_not(None), schema.of_pairs(refuted.c.pair, pairs))
        .group_by(refuted.c.pair)
    )
    return {pair: int(first) for pair, first in connection.execute(query)}


def uncover(connection: sa.Connection, series: Series, within: Span, reason: str, now: int, damage_id: int) -> None:
    """Refute the covered part of a span and what depends on it; call `evidence_records.renew` afterwards."""
    grants = evidence_records.grants_of(connection, [series])
    standing = evidence_records.refuted(connection, [series], grants)
    granted = tuple(grant.span for grant in grants.get(series, ()))
    spans = subtract(intersect(normalise(granted), (within,)), standing.get(series, ()))
    if not spans:
        return
    refutations.refute(connection, [(series, span, None, reason) for span in spans], now, damage_id=damage_id)
    _unprove(connection, series, spans)
    hull = Span(spans[0].start, spans[-1].end)
    publications.enqueue(connection, [(series, hull)], now)
    withdrawals.read_again(connection, series, spans, f"to be read again: {reason}", now)


def uncover_lost(connection: sa.Connection, series: Series, reason: str, now: int) -> None:
    """Refute all coverage of a series because of damage to the catalog itself."""
    row = {"path": "catalog", "pair": series.pair, "interval": series.interval.value, "kind": DamageKind.CHANGED}
    details = {"detail": reason, "candles": 0, "noticed_at": now, "settled_at": now}
    made = connection.execute(sa.insert(schema.damages).values({**row, **details}).returning(schema.damages.c.id))
    uncover(connection, series, EVER, reason, now, int(made.scalar_one()))


def _unprove(connection: sa.Connection, series: Series, spans: Spans) -> None:
    proven = proof_records.added_up(connection, [series.pair])
    if series in proven:
        proof_records.replace_proofs(connection, {series: proven[series].without(spans)})
    proof_records.unconfirm(connection, {series: spans})
    proof_records.forget_counts(connection, series)


def settle(connection: sa.Connection, damage: Damage, moved_to: str | None = None) -> None:
    """Record that a damaged file is out of the way, and where it was moved to, relative to the home."""
    table = schema.damages
    is_open = (table.c.path == damage.path) & table.c.settled_at.is_(None)
    connection.execute(sa.update(table).where(is_open).values(settled_at=int(time.time()), moved_to=moved_to))


def lift(catalog: Catalog, lake: DamagedLake, damage: Damage, now: int) -> None:
    """Restore the coverage of a file that is back in place and whole, and mark it for reconciliation."""
    table = schema.damages
    with catalog.write() as connection:
        settle(connection, damage)
    times = {}
    if damage.series is not None:
        lake.manifest.forget([damage.series])
        times[damage.series] = lake.sound_times(damage.series)
    with catalog.write() as connection:
        ids = connection.scalars(sa.select(table.c.id).where(table.c.path == damage.path)).all()
        ended = refutations.matching(connection, schema.refutations.c.damage_id.in_(ids))
        refutations.end(connection, [refutation.id for refutation in ended], now)
        evidence_records.renew(connection, times)
        publications.mark_for_reconciliation(
            connection, [(refutation.series, refutation.span) for refutation in ended], now
        )


def waiting(connection: sa.Connection) -> dict[Series, list[refutations.Refutation]]:
    """Return the refutations caused by damage that have not been answered in full again, by series."""
    found: dict[Series, list[refutations.Refutation]] = {}
    for refutation in refutations.matching(connection, schema.refutations.c.damage_id.is_not(None)):
        found.setdefault(refutation.series, []).append(refutation)
    return found


def open_paths(connection: sa.Connection) -> set[str]:
    """Return the paths of the damage that is not settled."""
    table = schema.damages
    return set(connection.scalars(sa.select(table.c.path).where(table.c.settled_at.is_(None))))


def open_damages(connection: sa.Connection, pairs: Collection[str] | None = None) -> list[Damage]:
    """Return the damage that is not settled, by path; of some pairs or of all."""
    table = schema.damages
    query = sa.select(table).where(table.c.settled_at.is_(None)).order_by(table.c.path)
    if pairs is not None:
        query = query.where(schema.of_pairs(table.c.pair, pairs))
    return [_damage(row) for row in connection.execute(query).mappings()]


def settled_since(connection: sa.Connection, moment: int) -> list[Damage]:
    """Return the damage settled at or after a moment (seconds since the epoch), by path."""
    table = schema.damages
    query = sa.select(table).where(table.c.settled_at >= moment).order_by(table.c.path)
    return [_damage(row) for row in connection.execute(query).mappings()]


def numbered(connection: sa.Connection, ids: Collection[int | None]) -> list[Damage]:
    """Return the damage with these ids, settled or not, by path."""
    wanted = sorted(id_ for id_ in ids if id_ is not None)
    query = sa.select(schema.damages).where(schema.damages.c.id.in_(wanted)).order_by(schema.damages.c.path)
    return [_damage(row) for row in connection.execute(query).mappings()]


def _damage(row: sa.RowMapping) -> Damage:
    series = None if row["pair"] is None else Series(row["pair"], Interval(row["interval"]))
    names = ("detail", "candles", "first_time")
    return Damage(row["path"], series, row["year"], DamageKind(row["kind"]), *(row[name] for name in names))
