"""Claims: what a home says of a world whose every candle is known, and whether that is so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import polars as pl

from kraken_pipeline.coverage.ranges import Span, Spans, clip, intersect, lies_in, normalise, slots, subtract
from kraken_pipeline.errors import PipelineError
from kraken_pipeline.market.candle import seconds_of
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import evidence_records, proof_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps.gaps import find_gaps
from kraken_pipeline.workflow.gaps.snapshot import load_snapshot
from kraken_pipeline.workflow.report.report import make_report
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import NOW, SPRING, START

_VALUES = ("open", "high", "low", "close", "volume", "trade_count")
_TOLERANCE = 1e-9
"""Relative: a sum of volumes depends on the order in which it was made."""


@dataclass(frozen=True, slots=True)
class HomeState:
    """What a home holds.

    Attributes:
        candles: Series → its candles.
        covered: Series → what is covered of it.
    """

    candles: dict[Series, pl.DataFrame]
    covered: dict[Series, Spans]

    def differs(self, other: HomeState) -> dict[Series, Spans]:
        """Return where the other covers less than this; everywhere, where its candles there are others."""
        found: dict[Series, Spans] = {}
        for series, spans in self.covered.items():
            theirs = other.covered.get(series, ())
            lacking = clip(subtract(spans, theirs), Span(_begins(series), NOW))
            if not lacking and not _same(self.candles.get(series), other.candles.get(series), spans):
                lacking = spans
            if lacking:
                found[series] = lacking
        return found


def _same(left: pl.DataFrame | None, right: pl.DataFrame | None, spans: Spans) -> bool:
    if left is None or right is None:
        return left is right
    return not wrong_times(_within(right, spans), _within(left, spans), _VALUES)


def state_of(stores: Stores) -> HomeState:
    """Read what a home holds."""
    with stores.catalog.read() as connection:
        records = evidence_records.coverage_of(connection)
    covered = {series: tuple(record.span for record in found) for series, found in records.items()}
    return HomeState({series: _rows(stores.lake.read(series)) for series in stores.lake.series()}, covered)


def _rows(candles: pl.DataFrame) -> pl.DataFrame:
    return candles.select(
        seconds_of(pl.col("time")).alias("time"), *(pl.col(name).cast(pl.Float64) for name in _VALUES)
    )


@cache
def truth(series: Series) -> pl.DataFrame:
    """Return every candle that there was."""
    return _rows(SPRING.candles(series.pair, series.interval, START, series.interval.floor(NOW)))


def _begins(series: Series) -> int:
    """When its first candle begins; before it nothing is expected, and so nothing is missing."""
    return int(truth(series)["time"][0])


def _within(candles: pl.DataFrame, spans: Spans) -> pl.DataFrame:
    return candles.filter(lies_in(spans, candles["time"]))


def wrong_times(said: pl.DataFrame, true: pl.DataFrame, names: tuple[str, ...]) -> list[int]:
    """Return the times at which two tables of candles differ: one lacks a candle, or has other values."""
    both = true.join(said, on="time", how="full", coalesce=True, suffix="_said")
    differs = [pl.col("open").is_null() | pl.col("open_said").is_null()]
    for name in names:
        value, other = pl.col(name), pl.col(f"{name}_said")
        differs.append((value - other).abs() > _TOLERANCE * pl.max_horizontal(value.abs(), other.abs(), 1e-6))
    return sorted(both.filter(pl.any_horizontal(differs))["time"].to_list())


def gaps_of(stores: Stores) -> dict[Series, Spans]:
    """Return everything that a home says is missing."""
    spec = run_spec()
    found: dict[Series, list[Span]] = {}
    for gap in find_gaps(stores, spec, load_snapshot(stores, spec, NOW)):
        found.setdefault(gap.series, []).append(gap.span)
    return {series: normalise(spans) for series, spans in found.items()}


def false_claims(stores: Stores, said_by_sources: frozenset[str] = frozenset()) -> list[str]:
    """Compare everything that a home claims with what happened; return what is not so, a sentence each.

    Args:
        stores: The home's.
        said_by_sources: Pairs of which a source was falsified in a way that nothing but a second source can notice: of
            them only what is verified, and whether there was a candle at all, has to be true.
    """
    return list(_claims(stores, said_by_sources))


def _claims(stores: Stores, falsified: frozenset[str]) -> Iterator[str]:
    with stores.catalog.read() as connection:
        records = evidence_records.coverage_of(connection)
        proven = proof_records.proofs_of(connection)
    covered = {series: tuple(record.span for record in found) for series, found in records.items()}
    for series, spans in covered.items():
        if (rows := _readable(stores, series)) is None:
            if spans:
                yield f"{series} is covered, and its file is damaged"
            continue
        names = () if series.pair in falsified else _VALUES
        yield from _compare(series, "covered", rows, spans, names)
        if series in proven:
            yield from _compare(series, "verified", rows, intersect(proven[series].verified, spans), _VALUES)
    yield from _percentages(stores, covered)


def _readable(stores: Stores, series: Series) -> pl.DataFrame | None:
    try:
        return _rows(stores.lake.read(series))
    except PipelineError:
        return None


def _compare(series: Series, word: str, rows: pl.DataFrame, spans: Spans, names: tuple[str, ...]) -> Iterator[str]:
    known = intersect(spans, (Span(0, series.interval.floor(NOW)),))
    times = wrong_times(_within(rows, known), _within(truth(series), known), names)
    if times:
        yield f"{series} is {word} at {times[0]} and {len(times) - 1} other times, which is not what happened"


def _percentages(stores: Stores, covered: dict[Series, Spans]) -> Iterator[str]:
    """What a report says beyond what the spans on record allow."""
    report = make_report(stores, run_spec(), NOW)
    for line in report.series:
        most = slots(covered.get(line.series, ()), line.series.interval)
        if line.covered > most:
            yield f"{line.series} is reported to have {line.covered} candles covered, and {most} are on record"
        if not line.verified <= line.proven <= line.covered:
            yield f"{line.series}: {line.verified} verified, {line.proven} reconciled, {line.covered} covered"
