"""Resampling: fills gaps from whole finer candles, which costs no request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby

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
from kraken_pipeline.storage.records.manifest import SeriesFiles
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import costs
from kraken_pipeline.workflow.backfill.outcome import SeriesOutcome
from kraken_pipeline.workflow.gaps.gaps import Gap
from kraken_pipeline.workflow.heed import heeding
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.side_by_side import side_by_side

BATCH_SERIES = 64
"""The number of series that are resampled in parallel and committed together, as in ingesting."""

LARGE_SERIES = 400
"""The number of series from which on several processes share the work: with fewer, it takes two seconds or less."""

_Work = dict[Series, list[Leg]]
"""The legs that can be resampled now, by series, the finest interval first."""


def resample_gaps(stores: Stores, gaps: Iterable[Gap], run: RunContext) -> list[SeriesOutcome]:
    """Fill the parts of gaps that finer candles cover whole."""
    work = _ready(gaps)
    processes = stores.settings.kraken_workers if len(work) >= LARGE_SERIES else 1
    threads = 1 if processes > 1 else stores.settings.kraken_workers
    filled: list[SeriesOutcome] = []
    run.expect("resampling", costs.resampling(len(work), processes))
    resampled = partial(_resample_group, run_id=run.run_id, now=run.now, threads=threads)
    with closing(side_by_side(stores, resampled, _groups(work), processes)) as results:
        for outcomes in results:
            filled += outcomes
            run.did("resampling", costs.resampling(len(outcomes), processes))
            run.report()
    run.finish("resampling")
    return filled


def _ready(gaps: Iterable[Gap]) -> _Work:
    legs: _Work = {}
    for gap in gaps:
        for leg in gap.legs:
            if leg.route is Route.RESAMPLE and leg.is_ready:
                legs.setdefault(gap.series, []).append(leg)
    return dict(sorted(legs.items(), key=lambda item: (item[0].interval, item[0].pair)))


def _groups(work: _Work) -> list[_Work]:
    """Return the work in groups of `BATCH_SERIES` pairs: coarser candles are made of finer ones of the same pair."""
    pairs = sorted({series.pair for series in work})
    number = {pair: index // BATCH_SERIES for index, pair in enumerate(pairs)}
    groups: list[_Work] = [{} for _ in range(0, len(pairs), BATCH_SERIES)]
    for series, legs in work.items():
        groups[number[series.pair]][series] = legs
    return groups


def _resample_group(stores: Stores, work: _Work, run_id: str, now: int, threads: int) -> list[SeriesOutcome]:
    filled: list[SeriesOutcome] = []
    # Finer intervals first, because coarser ones are resampled from them.
    for _, of_interval in groupby(work, key=lambda series: series.interval):
        waiting = list(of_interval)
        for start in range(0, len(waiting), BATCH_SERIES):
            some = {series: work[series] for series in waiting[start : start + BATCH_SERIES]}
            filled += heeding(partial(_resample, stores, some, RunContext(run_id, now), threads))
    return filled


@dataclass(frozen=True, slots=True)
class _Resampled:
    """A series with its staged coarser candles, and the finer series that each span was made from."""

    write: LakeWrite
    made_from: tuple[tuple[Series, Span], ...]

    @property
    def series(self) -> Series:
        return self.write.staged.series


def _resample(
    stores: Stores, work: Mapping[Series, Sequence[Leg]], run: RunContext, threads: int
) -> list[SeriesOutcome]:
    """Resample some series of one interval in parallel, and commit them together."""
    with stores.locks.series(work), ThreadPoolExecutor(threads) as pool:
        wanted = _still_wanted(stores, work)
        finer = {finer for spans in wanted.values() for finer, _ in spans}
        known = stores.lake.manifest.reread_all({*work, *finer})
        staged = list(pool.map(lambda series: _stage(stores, series, known[series], wanted[series], run), work))

        def record(connection: sa.Connection) -> None:
            made = {
                resampled.series: [
                    Attempt(span, Route.RESAMPLE, str(finer.interval.value), None, run.now)
                    for finer, span in resampled.made_from
                ]
                for resampled in staged
            }
            gap_records.add_attempts(connection, made, run.run_id)

        outcomes = [
            SeriesOutcome(
                resampled.series, resampled.write.staged.changed, normalise(span for _, span in resampled.made_from)
            )
            for resampled in staged
        ]
        commit(stores, [resampled.write for resampled in staged], run.now, record)
    return outcomes


def _stage(
    stores: Stores, series: Series, known: SeriesFiles, spans: Sequence[tuple[Series, Span]], run: RunContext
) -> _Resampled:
    remade = normalise(span for _, span in spans)
    writer = CandleWriter(stores.lake, series, origin="resampling", now=run.now, remade=remade, known=known)
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
