"""Validation: compares stored candles of the last days with fresh OHLC replies and records the differences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kraken_pipeline.coverage.equality import differences
from kraken_pipeline.coverage.ranges import Span, Spans, intersect, normalise, slots, subtract, whole_candles
from kraken_pipeline.errors import CircuitOpen, Maintenance, PipelineError, Throttled
from kraken_pipeline.kraken.exchange import Exchange
from kraken_pipeline.market.candle import seconds_in
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import evidence_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.exchange import connected
from kraken_pipeline.workflow.backfill.fetch import Budget
from kraken_pipeline.workflow.gaps.snapshot import CatalogSnapshot, load_snapshot
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import RunSpec


@dataclass(frozen=True, slots=True)
class SeriesValidation:
    """The result of comparing a series' stored candles with a fresh reply.

    Attributes:
        series: The series.
        compared: The number of slots that both answer for.
        different: The starts of the candles that differ, in seconds since the epoch.
    """

    series: Series
    compared: int
    different: tuple[int, ...]

    @property
    def reason(self) -> str:
        """The recorded reason of a difference."""
        return "OHLC, asked again, says otherwise than what is kept"


@dataclass(frozen=True, slots=True)
class ValidationOutcome:
    """The result of a validation.

    Attributes:
        series: The result for each compared series.
        requests: The number of requests made.
        failed: The failed requests, with their errors.
        notes: The reasons why requests were skipped, and warnings of the exchange.
    """

    series: tuple[SeriesValidation, ...]
    requests: int = 0
    failed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def different(self) -> int:
        """The number of candles that differ."""
        return sum(len(validation.different) for validation in self.series)


def validate_recent(stores: Stores, spec: RunSpec, run: RunContext) -> ValidationOutcome:
    """Compare the covered candles of the last `lookback_days` with fresh replies, series by series.

    The lake does not change. Candles that differ are recorded as conflicts, for a person or for reconciliation.

    Raises:
        InvalidRequest: The catalog knows nothing of the selection.
    """
    snapshot = load_snapshot(stores, spec, run.now)
    found: list[SeriesValidation] = []
    failed: list[str] = []
    notes: list[str] = []
    with stores.locks.slot("api", stores.settings.kraken_parallel_runs), connected(stores) as exchange:
        allowed = stores.settings.kraken_max_requests_per_run if spec.budget is None else spec.budget
        budget = Budget(exchange, allowed)
        try:
            exchange.require_online()
            for series, spans in _recent(snapshot, spec):
                if budget.is_spent:
                    notes.append("The budget of requests is spent; the rest is left to the next run.")
                    break
                run.report(phase="validating", requests_done=exchange.requests)
                try:
                    found.append(_validate(stores, exchange, series, spans, run))
                except (CircuitOpen, Maintenance, Throttled):
                    raise
                except PipelineError as error:
                    failed.append(f"OHLC of {series}: {error}")
        except PipelineError as error:
            notes.append(f"The rest is left to the next run: {error}")
        requests = exchange.requests
        notes += exchange.warnings
    return ValidationOutcome(tuple(found), requests, tuple(failed), tuple(notes))


def _recent(snapshot: CatalogSnapshot, spec: RunSpec) -> Iterator[tuple[Series, Spans]]:
    """Yield the selected series that OHLC offers, each with its coverage of the last days."""
    since = snapshot.now - spec.lookback_days * 86_400
    for pair in snapshot.pairs:
        for interval in spec.intervals:
            series = Series(pair, interval)
            if interval.in_rest and snapshot.may_be_asked(pair):
                window = whole_candles((Span(since, snapshot.now),), interval)
                if covered := intersect(snapshot.covered(series), window):
                    yield series, covered


def _validate(stores: Stores, exchange: Exchange, series: Series, spans: Spans, run: RunContext) -> SeriesValidation:
    if not stores.lake.is_sound(series):
        return SeriesValidation(series, 0, ())
    reply = exchange.ohlc(series, spans[0].start, until=spans[-1].end, is_fresh=True)
    both = intersect(spans, reply.listed)
    different: list[int] = []
    for span in both:
        kept = stores.lake.read(series, span.start, span.end)
        seconds = reply.candles["time"].dt.epoch("s")
        said = reply.candles.filter(seconds.is_between(span.start, span.end - 1))
        different += seconds_in(differences(kept, said)).to_list()
    outcome = SeriesValidation(series, slots(both, series.interval), tuple(different))
    if different:
        _record(stores, outcome, run)
    return outcome


def _record(stores: Stores, outcome: SeriesValidation, run: RunContext) -> None:
    """Record the differences, without those that an earlier run has recorded already."""
    series, reason = outcome.series, outcome.reason
    spans = normalise(Span(time, time + series.interval.seconds) for time in outcome.different)
    with stores.catalog.write() as connection:
        known = evidence_records.conflicting(connection, [series.pair], series.interval, reason)
        for span in subtract(spans, known.get(series.pair, ())):
            count = slots((span,), series.interval)
            evidence_records.record_conflict(
                connection, series, span, candles=count, reason=reason, file_id=None, now=run.now
            )
