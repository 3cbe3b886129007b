"""Verdicts of reconciliation on candles, with the action for each contradiction."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import polars as pl

from kraken_pipeline.coverage.causes import Cause
from kraken_pipeline.coverage.completeness import percentage
from kraken_pipeline.coverage.equality import Rounding, differences, equal_within
from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.proof import NOTHING_PROVEN, Proven
from kraken_pipeline.coverage.ranges import Span, Spans, intersect, lies_in, seconds, subtract, whole_candles
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.candle import seconds_of
from kraken_pipeline.market.interval import INTERVALS, Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.resample import resample
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import ContradictionState
from kraken_pipeline.storage.records import dispute_records, evidence_records, file_records, proof_records, withdrawals
from kraken_pipeline.storage.records.evidence_records import CoverageRecord
from kraken_pipeline.storage.records.file_records import FileRecord
from kraken_pipeline.storage.records.proof_records import ContradictionRecord
from kraken_pipeline.storage.records.source_records import Disagreement, disagreements
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps.gaps import Gap, expected, find_gaps
from kraken_pipeline.workflow.gaps.snapshot import CatalogSnapshot, load_snapshot
from kraken_pipeline.workflow.reconcile.causes import Origins, of_disagreement, of_dispute, of_records, suspects_of
from kraken_pipeline.workflow.report.report import unsettled
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec

_MOST = 100_000
"""The maximum number of disagreements read: one row per file and series."""
_RUN = 1_000


class VerdictState(StrEnum):
    """The degree of proof of a candle."""

    VERIFIED = "verified"
    RECONCILED = "reconciled"
    CONTRADICTED = "contradicted"
    UNTESTED = "untested"


class Remedy(StrEnum):
    """The way to settle a contradiction."""

    FILL = "fill"  # the short side is a gap already
    WITHDRAW = "take back"  # a person decides which side is wrong
    PROVE = "prove"  # the stored candle is the better one as far as is known, but not proven


@dataclass(frozen=True, slots=True)
class CandleVerdict:
    """The verdict on a candle of the coarser of two intervals.

    Attributes:
        pair: The pair.
        fine: The finer interval; None if sources of the same interval contradict each other, or nothing is finer.
        coarse: The coarser interval.
        span: The time of the candle; of several candles if the times of a file are shifted or two archives disagree.
        proof: The degree of proof.
        short_side: The side that counts fewer trades: fine or coarse; None if the counts do not show it.
        fine_trades: The trade count of the finer candles; None if they are not covered completely.
        coarse_trades: The trade count of the coarser candle; None if it is not covered.
        action: The action that is under way or recommended.
        cause: The cause it shares with other contradictions; None without a contradiction.
        suspects: The intervals that may be wrong: one where it is known.
        files: The files that differ; one of them is wrong.
        wholes: For each suspect with a file that is wrong as a whole: the interval and the file.
        remedy: The way to settle it; None without a contradiction.
    """

    pair: str
    fine: Interval | None
    coarse: Interval
    span: Span
    proof: VerdictState
    short_side: str | None
    fine_trades: int | None
    coarse_trades: int | None
    action: str
    cause: Cause | None = None
    suspects: tuple[Interval, ...] = ()
    files: tuple[str, ...] = ()
    wholes: tuple[tuple[Interval, str], ...] = ()
    remedy: Remedy | None = None

    def as_json(self) -> dict[str, object]:
        """Return the verdict as `reconcile --json` shows it."""
        return {
            "pair": self.pair,
            "fine": None if self.fine is None else self.fine.value,
            "coarse": self.coarse.value,
            "time": iso(self.span.start),
            "end": iso(self.span.end),
            "verdict": str(self.proof),
            "short_side": self.short_side,
            "fine_trades": self.fine_trades,
            "coarse_trades": self.coarse_trades,
            "cause": None if self.cause is None else self.cause.id,
            "action": self.action,
        }


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of a series with the other intervals of its pair.

    Attributes:
        proven_pct: The reconciled share of the coverage, verified included, in percent, rounded down; None without
            coverage.
        verified_pct: The verified share of the coverage, in the same form.
        contradictions: The open contradictions: refuted and being filled, or conflicts.
        disputed: The disputed candles, without those that are verified.
    """

    proven_pct: float | None
    verified_pct: float | None
    contradictions: tuple[ContradictionRecord, ...]
    disputed: Spans


def agreements(stores: Stores, series: Collection[Series]) -> dict[Series, Agreement]:
    """Return the agreement of each series with the other intervals of its pair, as last reconciled."""
    pairs = sorted({one_series.pair for one_series in series})
    with stores.catalog.read() as connection:
        records = proof_records.contradictions_of(
            connection, pairs, (ContradictionState.REFUTED, ContradictionState.CONFLICT)
        )
        proven = proof_records.proofs_of(connection, pairs)
        coverage = evidence_records.coverage_of(connection, pairs=pairs)
        disputes = dispute_records.disputed(connection, pairs)
    sides: dict[Series, list[ContradictionRecord]] = {}
    for record in records:
        for interval in (record.fine, record.coarse):
            sides.setdefault(Series(record.pair, interval), []).append(record)
    return {
        one_series: Agreement(
            _percentage(proven.get(one_series, NOTHING_PROVEN).reconciled, coverage.get(one_series, ())),
            _percentage(proven.get(one_series, NOTHING_PROVEN).verified, coverage.get(one_series, ())),
            tuple(sides.get(one_series, ())),
            subtract(disputes.get(one_series, ()), proven.get(one_series, NOTHING_PROVEN).verified),
        )
        for one_series in series
    }


def _percentage(proven: Spans, records: Sequence[CoverageRecord]) -> float | None:
    covered = tuple(record.span for record in records)
    return percentage(seconds(intersect(proven, covered)), seconds(covered))


def contradicted(stores: Stores, spec: RunSpec, now: int) -> list[CandleVerdict]:
    """Return the current contradictions, sorted by pair, interval and time.

    Raises:
        InvalidRequest: The catalog knows nothing of the selection.
    """
    snapshot = load_snapshot(stores, spec, now)
    names = sorted(snapshot.pairs)
    with stores.catalog.read() as connection:
        records = proof_records.contradictions_of(
            connection, names, (ContradictionState.REFUTED, ContradictionState.CONFLICT)
        )
        sources, _ = disagreements(connection, names, _MOST)
        proven = proof_records.proofs_of(connection, names)
        disputed = dispute_records.disputed(connection, names)
        files = file_records.completed(connection, names) if records or disputed or sources else []
        ends = withdrawals.release_ends(connection)
        containers = file_records.all_containers(connection)
    # Of all intervals: the short side may be an interval outside the selection.
    gaps = find_gaps(stores, spec.model_copy(update={"intervals": INTERVALS}), snapshot) if records else []
    origins = Origins(stores, files, containers)
    # Of all times: a cause must not depend on the selection.
    causes = zip(records, of_records(records, origins), strict=True)
    found = [
        replace(_of_intervals(contradiction, records, gaps, files), cause=cause)
        for contradiction, cause in causes
        if _is_wanted(spec, contradiction.coarse, contradiction.span)
    ]
    found += [
        replace(_of_sources(source), cause=of_disagreement(source, origins))
        for source in sources
        if _is_wanted(spec, source.series.interval, source.span)
        and subtract((source.span,), _settling(source, proven.get(source.series, NOTHING_PROVEN)))
    ]
    for series, spans in unsettled(spec, disputed, proven).items():
        of_series = [file for file in files if file.series == series]
        found += (replace(file, cause=of_dispute(series)) for file in _of_files(series, spans, of_series, ends))
    return sorted(found, key=lambda verdict: (verdict.pair, verdict.coarse, verdict.span.start, verdict.fine or 0))


def _is_wanted(spec: RunSpec, interval: Interval, span: Span) -> bool:
    return interval in spec.intervals and span.overlaps(spec.window)


def _of_intervals(
    contradiction: ContradictionRecord,
    records: Iterable[ContradictionRecord],
    gaps: Iterable[Gap],
    files: Sequence[FileRecord],
) -> CandleVerdict:
    action = (
        _healing(contradiction, gaps)
        if contradiction.state is ContradictionState.REFUTED
        else _resolving(contradiction, records, files)
    )
    return CandleVerdict(
        contradiction.pair,
        contradiction.fine,
        contradiction.coarse,
        contradiction.span,
        VerdictState.CONTRADICTED,
        contradiction.short_side,
        contradiction.fine_trades,
        contradiction.coarse_trades,
        f"{contradiction.reason}: {action}",
        suspects=suspects_of(contradiction),
        wholes=tuple(
            (interval, name)
            for interval in suspects_of(contradiction)
            if (name := _shifted_file(contradiction, interval, files)) is not None
        ),
        remedy=Remedy.WITHDRAW if contradiction.state is ContradictionState.CONFLICT else Remedy.FILL,
    )


def _healing(contradiction: ContradictionRecord, gaps: Iterable[Gap]) -> str:
    """Return the action that fills the refuted side, with its command."""
    series = Series(
        contradiction.pair, contradiction.coarse if contradiction.short_side == "coarse" else contradiction.fine
    )
    gap = next((gap for gap in gaps if gap.series == series and gap.span.overlaps(contradiction.span)), None)
    if gap is None:
        return f"{series} was refuted; kraken-pipeline reconcile compares it again"
    start, end = series.interval.floor(contradiction.span.start), series.interval.ceil(contradiction.span.end)
    only_it = run_spec(pairs=[contradiction.pair], intervals=[series.interval], start=start, end=end, complete=True)
    command = only_it.as_command("backfill")
    if gap.status is GapStatus.UNFILLABLE:
        fetch = f"fetch {gap.required_csv_file}, or " if gap.required_csv_file else ""
        return f"{series} is a gap: {fetch}{command}"
    return f"{series} is a gap, filled by {gap.route}: {command}"


def _resolving(
    contradiction: ContradictionRecord, records: Iterable[ContradictionRecord], files: Sequence[FileRecord]
) -> str:
    """Return the action for a person when no route is left."""
    suspects = (
        [contradiction.outlier] if contradiction.outlier is not None else [contradiction.fine, contradiction.coarse]
    )
    # A wrong candle usually contradicts finer candles as well as coarser ones. The finer contradiction locates it.
    closest = next(
        (
            other
            for other in records
            if other.pair == contradiction.pair
            and other.coarse is contradiction.outlier
            and other.span.overlaps(contradiction.span)
        ),
        contradiction,
    )
    commands = [_withdrawing(closest, interval, files) for interval in suspects]
    return f"find out which is wrong, then run {' or '.join(commands)}"


def _withdrawing(contradiction: ContradictionRecord, interval: Interval, files: Sequence[FileRecord]) -> str:
    """Return the command that withdraws the file with shifted times, or the candles."""
    if (name := _shifted_file(contradiction, interval, files)) is not None:
        return f"kraken-pipeline resolve --file {shlex.quote(name)} --reason …"
    start, end = interval.floor(contradiction.span.start), interval.ceil(contradiction.span.end)
    return (
        f"kraken-pipeline resolve --span --pair {contradiction.pair} --interval {interval.value} "
        f"--start {iso(start)} --end {iso(end)} --reason …"
    )


def _shifted_file(contradiction: ContradictionRecord, interval: Interval, files: Sequence[FileRecord]) -> str | None:
    """Return the name of the one file of an interval whose times are shifted; None if there is none or several."""
    if contradiction.span.seconds <= contradiction.coarse.seconds:
        return None
    there = [
        file.name
        for file in files
        if (file.pair, file.interval) == (contradiction.pair, interval)
        and file.start is not None
        and file.end is not None
        and min(file.end, contradiction.span.end) - max(file.start, contradiction.span.start)
        > contradiction.span.seconds // 2
    ]
    return there[0] if len(there) == 1 else None


def _settling(disagreement: Disagreement, proven: Proven) -> Spans:
    """Return the spans that settle a disagreement: reconciled for trade counts, verified for prices."""
    return proven.reconciled if disagreement.is_of_counts else proven.verified


def _of_sources(disagreement: Disagreement) -> CandleVerdict:
    lacks = "reconciled" if disagreement.is_of_counts else "verified"
    action = f"{disagreement.reason}, on {disagreement.candles:,} candles: the greater trade count is kept, not {lacks}"
    return CandleVerdict(
        disagreement.series.pair,
        None,
        disagreement.series.interval,
        disagreement.span,
        VerdictState.CONTRADICTED,
        None,
        None,
        None,
        action,
        suspects=(disagreement.series.interval,),
        wholes=() if disagreement.file is None else ((disagreement.series.interval, disagreement.file),),
        remedy=Remedy.PROVE if disagreement.is_outdoing else Remedy.WITHDRAW,
    )


def _of_files(
    series: Series, spans: Spans, files: Sequence[FileRecord], ends: Mapping[str, int | None]
) -> Iterator[CandleVerdict]:
    """Yield a verdict for each disputed candle of a series.

    More than a thousand disputed candles in a row give one verdict: two files without anything in common would
    otherwise give a list as long as the files.
    """
    length = series.interval.seconds
    for span in spans:
        step = length if span.seconds <= _RUN * length else span.seconds
        for time in range(span.start, span.end, step):
            part = Span(time, time + step)
            names = differing(part, files, ends)
            commands = [f"kraken-pipeline resolve --file {shlex.quote(name)} --reason …" for name in names]
            action = (
                f"{' and '.join(names) or 'two files of one release'} differ at the same trade count, in "
                f"{step // length:,} candles: see both with kraken-pipeline explain {series.pair} "
                f"{series.interval.value} {iso(time)}, then run {' or '.join(commands)}"
            )
            yield CandleVerdict(
                series.pair,
                None,
                series.interval,
                part,
                VerdictState.CONTRADICTED,
                None,
                None,
                None,
                action,
                suspects=(series.interval,),
                files=tuple(names),
                remedy=Remedy.WITHDRAW,
            )


def differing(candle: Span, files: Sequence[FileRecord], ends: Mapping[str, int | None]) -> list[str]:
    """Return the names of the files of one release that overlap a candle, where there are several.

    A name that several of them share is replaced by the location.

    Args:
        candle: The span of the disputed candle.
        files: The ingested files of the series.
        ends: The end of each container's release, in seconds since the epoch, by the container's SHA-256.
    """
    by_release: dict[int, list[FileRecord]] = {}
    for file in files:
        if file.kind == Kind.OHLCVT and file.span is not None and file.span.overlaps(candle):
            by_release.setdefault(ends.get(file.container or "") or 0, []).append(file)
    several = [file for same in by_release.values() if len(same) > 1 for file in same]
    names = Counter(file.name for file in several)
    return [file.name if names[file.name] == 1 else file.location for file in several]


def every_candle(stores: Stores, spec: RunSpec, now: int) -> Iterator[CandleVerdict]:
    """Yield the verdict on every expected candle of the selected series, except those of the finest interval.

    Each candle is compared with the coarsest finer interval of the selection that covers it completely.

    Raises:
        InvalidRequest: The catalog knows nothing of the selection.
    """
    snapshot = load_snapshot(stores, spec, now)
    bad: dict[Series, list[CandleVerdict]] = {}
    for verdict in contradicted(stores, spec, now):
        if verdict.fine is not None:
            bad.setdefault(Series(verdict.pair, verdict.coarse), []).append(verdict)
    for pair in snapshot.pairs:
        with stores.catalog.read() as connection:
            proven = proof_records.proofs_of(connection, [pair])
        for coarse in spec.intervals:
            series = Series(pair, coarse)
            if any(finer in spec.intervals for finer in coarse.finer):
                yield from _of_series(
                    stores, spec, snapshot, series, proven.get(series, NOTHING_PROVEN), bad.get(series, ())
                )


def _of_series(
    stores: Stores,
    spec: RunSpec,
    snapshot: CatalogSnapshot,
    series: Series,
    proven: Proven,
    bad: Sequence[CandleVerdict],
) -> Iterator[CandleVerdict]:
    rest = expected(snapshot, spec, series)
    for fine in (interval for interval in series.interval.finer if interval in spec.intervals):
        finer = Series(series.pair, fine)
        domain = intersect(rest, whole_candles(snapshot.covered(finer), series.interval))
        yield from _compared(stores, snapshot, series, finer, domain, proven, bad)
        rest = subtract(rest, domain)
    yield from _compared(stores, snapshot, series, None, rest, proven, bad)


def _compared(
    stores: Stores,
    snapshot: CatalogSnapshot,
    series: Series,
    finer: Series | None,
    domain: Spans,
    proven: Proven,
    bad: Sequence[CandleVerdict],
) -> Iterator[CandleVerdict]:
    coarse = series.interval
    for span in domain:
        times = pl.int_range(span.start, span.end, coarse.seconds, dtype=pl.Int64, eager=True)
        candles = stores.lake.read(series, span.start, span.end)
        counts = _counts(candles)
        fine_counts: Mapping[int, int] = {}
        units: Mapping[int, float] = {}
        if finer is not None:
            made = resample(stores.lake.read(finer, span.start, span.end), coarse)
            fine_counts, units = _counts(made), _rounding(stores, finer, coarse).within(differences(made, candles))
        is_covered = lies_in(snapshot.covered(series), times).to_list()
        is_reconciled, is_verified = (lies_in(spans, times).to_list() for spans in (proven.reconciled, proven.verified))
        for index, time in enumerate(times):
            known = next((verdict for verdict in bad if time in verdict.span), None)
            if known is not None:
                yield known
                continue
            proof = VerdictState.RECONCILED if is_reconciled[index] else VerdictState.UNTESTED
            within = equal_within(units[time]) if time in units else ""
            yield CandleVerdict(
                series.pair,
                None if finer is None else finer.interval,
                coarse,
                Span(time, time + coarse.seconds),
                VerdictState.VERIFIED if is_verified[index] else proof,
                None,
                None if finer is None else fine_counts.get(time, 0),
                counts.get(time, 0) if is_covered[index] else None,
                within if is_covered[index] else "a gap: kraken-pipeline gaps shows its route",
            )


def _rounding(stores: Stores, finer: Series, coarse: Interval) -> Rounding:
    def read(interval: Interval, start: int, end: int) -> pl.DataFrame:
        return stores.lake.read(Series(finer.pair, interval), start, end)

    return Rounding(read, finer.interval, coarse)


def _counts(candles: pl.DataFrame) -> Mapping[int, int]:
    return dict(candles.select(seconds_of(pl.col("time")), "trade_count").iter_rows())
