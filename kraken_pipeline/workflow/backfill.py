"""Backfilling: gaps are filled from where their routes lead.

RESAMPLE is done here; ARCHIVE is `ingest`; OHLC and TRADES come with the API and are planned until then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import Span, Spans, intersect, normalise, whole_candles
from kraken_pipeline.coverage.routing import Leg, Route
from kraken_pipeline.market.candle import CANDLE_SCHEMA, SOURCE, Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.resample import resample
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage import evidence_records, gap_records
from kraken_pipeline.storage.gap_records import Attempt
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps import Gap, find_gaps, record_gaps, survey
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline.workflow.progress import Run
from kraken_pipeline.workflow.run_spec import RunSpec


@dataclass(frozen=True, slots=True)
class SeriesOutcome:
    """What became of a series' gaps.

    Attributes:
        series: Which.
        candles_stored: How many candles are new or changed.
        spans: What was filled.
    """

    series: Series
    candles_stored: int
    spans: Spans


@dataclass(frozen=True, slots=True)
class BackfillOutcome:
    """What a backfill did.

    Attributes:
        filled: The series in which something was filled.
        gaps: The gaps that are left, with their routes; all of them are on record.
    """

    filled: tuple[SeriesOutcome, ...]
    gaps: tuple[Gap, ...]


def backfill(stores: Stores, spec: RunSpec, run: Run) -> BackfillOutcome:
    """Fills what can be filled without requests, and puts on record what is left.

    Raises:
        InvalidRequest: Nothing is known of what was asked for.
    """
    run.report(phase="resampling")
    gaps = find_gaps(stores, spec, survey(stores, spec, run.now))
    filled = [_resample(stores, series, legs, run) for series, legs in _by_series(gaps, Route.RESAMPLE)]
    run.report(phase="looking for gaps", candles=run.progress.candles + sum(each.candles_stored for each in filled))
    holdings = survey(stores, spec, run.now)
    left = find_gaps(stores, spec, holdings)
    record_gaps(stores, spec, holdings, left)
    return BackfillOutcome(tuple(filled), tuple(left))


def _by_series(gaps: Iterable[Gap], wanted: Route) -> list[tuple[Series, list[Leg]]]:
    """The legs of one route, finer intervals of a pair first: coarser ones are made of what these become."""
    legs: dict[Series, list[Leg]] = {}
    for gap in gaps:
        for leg in gap.legs:
            if leg.route is wanted and leg.is_ready:
                legs.setdefault(gap.series, []).append(leg)
    return sorted(legs.items())


def _resample(stores: Stores, series: Series, legs: Sequence[Leg], run: Run) -> SeriesOutcome:
    with stores.locks.series([series]):
        writer = stores.lake.writer(series)
        grants: list[Grant] = []
        try:
            whole = _still_whole(stores, series, legs)
            for finer, span in whole:
                trades = 0
                for candles in stores.lake.batches(finer, (span,), series.interval):
                    coarser = resample(candles, series.interval)
                    trades += int(coarser["trade_count"].sum())
                    writer.add(_finished(coarser))
                grants.append(Grant(span, Source.RESAMPLED, run.now, trades))
        except BaseException:
            writer.discard()
            raise
        staged = writer.finish()
        made = [Attempt(span, Route.RESAMPLE, str(finer.interval.value), None, run.now) for finer, span in whole]
        stored = staged.changed
        commit(
            stores,
            [LakeWrite(staged, tuple(grants), "resampling")],
            run.now,
            lambda connection: gap_records.add_attempts(connection, series, made, run.run_id),
        )
    return SeriesOutcome(series, stored, normalise(each.span for each in grants))


def _finer(series: Series, leg: Leg) -> Series:
    return Series(series.pair, leg.resampled_from or Interval.M1)


def _still_whole(stores: Stores, series: Series, legs: Sequence[Leg]) -> list[tuple[Series, Span]]:
    """The finer series and the spans to resample, in order of time, as far as they are covered at this moment."""
    with stores.catalog.read() as connection:
        covered = evidence_records.coverage_of(connection, pairs=[series.pair])
    spans: list[tuple[Series, Span]] = []
    for leg in sorted(legs, key=lambda leg: leg.span):
        finer = _finer(series, leg)
        whole = whole_candles(tuple(record.span for record in covered.get(finer, ())), series.interval)
        spans += [(finer, each) for each in intersect((leg.span,), whole)]
    return spans


def _finished(candles: pl.DataFrame) -> pl.DataFrame:
    return candles.with_columns(
        pl.lit(Source.RESAMPLED.value, dtype=SOURCE).alias("source"), pl.lit(0, dtype=pl.Int32).alias("release")
    ).select(CANDLE_SCHEMA.names())
