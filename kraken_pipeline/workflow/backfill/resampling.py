"""Resampling: fills gaps from whole finer candles, which costs no request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import Span, intersect, normalise, subtract, whole_candles
from kraken_pipeline.coverage.routing import Leg, Route
from kraken_pipeline.market.candle import Source, finished
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.resample import resample
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake.writer import CandleWriter
from kraken_pipeline.storage.records import evidence_records, gap_records
from kraken_pipeline.storage.records.gap_records import Attempt
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.outcome import SeriesOutcome
from kraken_pipeline.workflow.gaps.gaps import Gap
from kraken_pipeline.workflow.heed import heeding
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline.workflow.progress import RunContext

BATCH_SERIES = 64
"""The number of series that are resampled in parallel and committed together, as in ingesting."""


def resample_gaps(stores: Stores, gaps: Iterable[Gap], run: RunContext) -> list[SeriesOutcome]:
    """Fill the parts of gaps that finer candles cover whole."""
    filled: list[SeriesOutcome] = []
    # Finer intervals first, because coarser ones are resampled from them.
    for work in _by_interval(gaps):
        for start in range(0, len(work), BATCH_SERIES):
            filled += heeding(partial(_resample, stores, dict(work[start : start + BATCH_SERIES]), run))
    return filled


def _by_interval(gaps: Iterable[Gap]) -> list[list[tuple[Series, list[Leg]]]]:
    """Return the legs that can be resampled now, by interval (the finest first) and series."""
    legs: dict[Interval, dict[Series, list[Leg]]] = {}
    for gap in gaps:
        for leg in gap.legs:
            if leg.route is Route.RESAMPLE and leg.is_ready:
                legs.setdefault(gap.series.interval, {}).setdefault(gap.series, []).append(leg)
    return [sorted(legs[interval].items()) for interval in sorted(legs)]


@dataclass(frozen=True, slots=True)
class _Resampled:
    """A series with its staged coarser candles, and the finer series that each span was made from."""

    write: LakeWrite
    made_from: tuple[tuple[Series, Span], ...]

    @property
    def series(self) -> Series:
        return self.write.staged.series


def _resample(stores: Stores, work: Mapping[Series, Sequence[Leg]], run: RunContext) -> list[SeriesOutcome]:
    """Resample some series of one interval in parallel, and commit them together."""
    with stores.locks.series(work), ThreadPoolExecutor(stores.settings.kraken_workers) as pool:
        wanted = _still_wanted(stores, work)
        staged = list(pool.map(lambda series: _stage(stores, series, wanted[series], run), work))

        def record(connection: sa.Connection) -> None:
            for resampled in staged:
                made = [
                    Attempt(span, Route.RESAMPLE, str(finer.interval.value), None, run.now)
                    for finer, span in resampled.made_from
                ]
                gap_records.add_attempts(connection, resampled.series, made, run.run_id)

        outcomes = [
            SeriesOutcome(
                resampled.series, resampled.write.staged.changed, normalise(span for _, span in resampled.made_from)
            )
            for resampled in staged
        ]
        commit(stores, [resampled.write for resampled in staged], run.now, record)
    return outcomes


def _stage(stores: Stores, series: Series, spans: Sequence[tuple[Series, Span]], run: RunContext) -> _Resampled:
    remade = normalise(span for _, span in spans)
    writer = CandleWriter(stores.lake, series, origin="resampling", now=run.now, remade=remade)
    grants: list[Grant] = []
    try:
        for finer, span in spans:
            trades = 0
            for candles in stores.lake.batches(finer, (span,), series.interval):
                coarser = resample(candles, series.interval)
                trades += int(coarser["trade_count"].sum())
                writer.add(finished(coarser, Source.RESAMPLED))
            grants.append(Grant(span, Source.RESAMPLED, run.now, trades))
    except BaseException:
        writer.discard()
        raise
    return _Resampled(LakeWrite(writer.finish(), tuple(grants)), tuple(spans))


def _still_wanted(stores: Stores, work: Mapping[Series, Sequence[Leg]]) -> dict[Series, list[tuple[Series, Span]]]:
    """Return for each series the finer series and the spans to resample, in order of time, as things stand.

    Others may have filled some of the spans since they were planned, or refuted the candles to resample.
    """
    with stores.catalog.read() as connection:
        records = evidence_records.coverage_of(connection, pairs=sorted({series.pair for series in work}))
    covered = {series: tuple(record.span for record in found) for series, found in records.items()}
    wanted: dict[Series, list[tuple[Series, Span]]] = {}
    for series, legs in work.items():
        spans = wanted.setdefault(series, [])
        for leg in sorted(legs, key=lambda leg: leg.span):
            finer = Series(series.pair, leg.resampled_from or Interval.M1)
            whole = whole_candles(covered.get(finer, ()), series.interval)
            missing = subtract((leg.span,), covered.get(series, ()))
            spans += [(finer, span) for span in intersect(missing, whole)]
    return wanted
