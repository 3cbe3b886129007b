"""Withdrawals: withdraws a file, a release or a span of a series, and everything that was derived from it.

Pair by pair, under the locks of all its series::

    remove evidence and coverage → remove candles from the lake, the coarsest first → record the withdrawal

A crash therefore never leaves coverage without candles, nor a coarser candle that outlives those it was made of.
Repeating the withdrawal completes it. Resampling then fills what it can; the rest are gaps like any other.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import sqlalchemy as sa

from kraken_pipeline.archive_path import ArchivePath
from kraken_pipeline.coverage.evidence import coverage
from kraken_pipeline.coverage.ranges import (
    Span,
    Spans,
    intersect,
    lies_in,
    normalise,
    of_candles,
    subtract,
    touched_candles,
    union,
)
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.candle import CANDLE_SCHEMA, Source, seconds_in
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.lake.lake import Lake
from kraken_pipeline.storage.lake.staged import Lost
from kraken_pipeline.storage.lake.writer import stage_removal
from kraken_pipeline.storage.records import dispute_records, evidence_records, proof_records, publications, withdrawals
from kraken_pipeline.storage.records.file_records import ContainerRecord, FileRecord
from kraken_pipeline.storage.records.withdrawals import WithdrawalRecord
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.storage.trades import writer as trade_writer
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome
from kraken_pipeline.workflow.gaps.gaps import Gap
from kraken_pipeline.workflow.ingest.whereabouts import find_again
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.withdraw.trades import WithdrawnTrades, stage_withdrawn
from kraken_pipeline.workflow.withdraw.withdrawal import Claim, Withdrawal, find_claims, find_release

FRAGMENTS = 10_000
"""The maximum number of pieces of a set of withdrawn candles; beyond it, the hull is used instead."""
_NAMES = 5
_PAIRS_NAMED = 10


@dataclass(frozen=True, slots=True)
class WithdrawnCandles:
    """The candles of one series that left the lake.

    Attributes:
        series: The series.
        span: The span from the first candle to the end of the last.
        candles: The number of candles.
    """

    series: Series
    span: Span
    candles: int

    def as_json(self) -> dict[str, Any]:
        """Return it as `resolve --json` shows it."""
        return {
            "pair": self.series.pair,
            "interval": self.series.interval.value,
            "start": iso(self.span.start),
            "end": iso(self.span.end),
            "candles": self.candles,
        }


@dataclass(frozen=True, slots=True)
class ReadAgain:
    """A file to read again, because it had answered for what is missing now.

    Attributes:
        name: The name of the file.
        path: The path of the file or its container; None if it no longer exists.
    """

    name: str
    path: ArchivePath | None


@dataclass(frozen=True, slots=True)
class Resolved:
    """The result of a withdrawal, or its preview.

    Attributes:
        what: The name of what was withdrawn.
        reason: The reason.
        dry_run: Whether it is a preview and nothing was changed.
        files: The withdrawn files.
        series: The candles that left the lake, by series.
        read_again: The files that the next ingest reads again.
        refilled: Series → the number of candles resampled again from finer ones.
        gaps: The gaps of the touched series.
        actions: The recommended next steps, in sentences.
    """

    what: str
    reason: str
    dry_run: bool
    files: tuple[str, ...] = ()
    series: tuple[WithdrawnCandles, ...] = ()
    read_again: tuple[ReadAgain, ...] = ()
    refilled: Mapping[Series, int] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()
    actions: tuple[str, ...] = ()

    @property
    def candles(self) -> int:
        """The number of candles that left the lake."""
        return sum(withdrawn.candles for withdrawn in self.series)

    def as_json(self) -> dict[str, Any]:
        """Return it as `resolve --json` shows it."""
        return {
            "what": self.what,
            "reason": self.reason,
            "dry_run": self.dry_run,
            "files": list(self.files),
            "candles": self.candles,
            "series": [withdrawn.as_json() for withdrawn in self.series],
            "read_again": [
                {"name": file.name, "path": None if file.path is None else str(file.path)} for file in self.read_again
            ],
            "refilled": [
                {"pair": series.pair, "interval": series.interval.value, "candles": count}
                for series, count in self.refilled.items()
            ],
            "gaps": [gap.as_json() for gap in self.gaps],
            "actions": list(self.actions),
        }


def preview(stores: Stores, what: Withdrawal) -> Resolved:
    """Return what a withdrawal would take out of the lake, and change nothing.

    Raises:
        InvalidRequest: The name matches nothing, or several different things; the message lists what exists.
    """
    _, claims = find(stores, what)
    found = [
        _gone(stores.lake, pair, [claim for claim in claims if claim.series.pair == pair]) for pair in _pairs(claims)
    ]
    return Resolved(what.name, what.reason, dry_run=True, files=_names(claims), series=_counted(found))


def resolve(stores: Stores, what: Withdrawal, run: RunContext) -> Resolved:
    """Withdraw files or candles, refill from finer candles, and return what is left to do.

    Args:
        stores: The stores.
        what: The withdrawal.
        run: The context of the run.

    Raises:
        InvalidRequest: The name matches nothing, or several different things; the message lists what exists.
        Busy: Another process has held one of the series for too long; the pairs before it are done.
    """
    release, claims = find(stores, what)
    pairs = _pairs(claims)
    if release is not None:
        with stores.catalog.write() as connection:
            withdrawals.withdraw_container(connection, release, what.reason, run.run_id, run.now)
    work = _Withdrawing(stores, what, run, release)
    for pair in pairs:
        run.report(phase=f"withdrawing {pair}")
        work.withdraw(pair)
    return _resolved(stores, work, _names(claims), _heal(stores, pairs, run))


def _pairs(claims: Iterable[Claim]) -> list[str]:
    return sorted({claim.series.pair for claim in claims})


def _names(claims: Iterable[Claim]) -> tuple[str, ...]:
    """Return the names of the claimed files."""
    return tuple(sorted({claim.file.name for claim in claims if claim.file is not None}))


def find(stores: Stores, what: Withdrawal) -> tuple[ContainerRecord | None, Sequence[Claim]]:
    """Return the release and the claims that a withdrawal is about.

    Raises:
        InvalidRequest: The name matches nothing, or several different things; the message lists what exists.
    """
    with stores.catalog.read() as connection:
        release = find_release(connection, what)
        return release, find_claims(connection, what, release)


def _heal(stores: Stores, pairs: Sequence[str], run: RunContext) -> BackfillOutcome | None:
    """Resample from finer candles and reconcile the changes, without requests to the exchange."""
    if not pairs:
        return None
    return backfill(stores, run_spec(pairs=list(pairs), api_backfill=False), run)


# --- withdrawing


def _gone(lake: Lake, pair: str, claims: Iterable[Claim]) -> dict[Series, pl.DataFrame]:
    """Return the candles that leave the lake: the claimed ones and those resampled from them, the finest first."""
    by_series: dict[Series, list[Claim]] = {}
    for claim in claims:
        by_series.setdefault(claim.series, []).append(claim)
    found: dict[Series, pl.DataFrame] = {}
    finer: Spans = ()
    for interval in Interval:
        series = Series(pair, interval)
        parts = [claim.rows(lake) for claim in by_series.get(series, ())]
        made = touched_candles(finer, interval)
        resampled = _resampled(lake, series, made)
        if rows := [part for part in (*parts, resampled) if part.height]:
            found[series] = pl.concat(rows).unique("time").sort("time")
        finer = union(finer, *(_slots(part, interval) for part in parts))
    return found


def _resampled(lake: Lake, series: Series, spans: Spans) -> pl.DataFrame:
    """Return the resampled candles in some spans."""
    if not spans:
        return pl.DataFrame(schema=CANDLE_SCHEMA)
    candles = lake.read(series, spans[0].start, spans[-1].end)
    is_there = lies_in(spans, seconds_in(candles))
    return candles.filter(is_there & (candles["source"] == Source.RESAMPLED.value))


def _slots(candles: pl.DataFrame, interval: Interval) -> Spans:
    """Return the spans of candles, or their hull if there would be too many pieces."""
    times = seconds_in(candles)
    if (times.diff() != interval.seconds).sum() >= FRAGMENTS:
        return (Span(times[0], times[-1] + interval.seconds),)
    return of_candles(times, interval)


def _counted(found: Iterable[Mapping[Series, pl.DataFrame]]) -> tuple[WithdrawnCandles, ...]:
    return tuple(
        WithdrawnCandles(series, Span(times[0], times[-1] + series.interval.seconds), candles.height)
        for gone in found
        for series, candles in sorted(gone.items())
        if (times := seconds_in(candles)).len()
    )


@dataclass(slots=True)
class _Withdrawing:
    """The state of a withdrawal in progress."""

    stores: Stores
    what: Withdrawal
    run: RunContext
    release: ContainerRecord | None
    gone: list[dict[Series, pl.DataFrame]] = field(default_factory=list)
    touched: dict[Series, Spans] = field(default_factory=dict)
    again: list[FileRecord] = field(default_factory=list)

    def withdraw(self, pair: str) -> None:
        """Withdraw the claims of one pair."""
        stores, now = self.stores, self.run.now
        series = [Series(pair, interval) for interval in Interval]
        with stores.locks.series(series):
            with stores.catalog.read() as connection:  # again: another process may have ingested more until now
                claims = find_claims(connection, self.what, self.release, pair)
            gone = _gone(stores.lake, pair, claims)
            records = list(self._records(claims, gone))
            trades = stage_withdrawn(stores, pair, claims, now)
            trade_writer.begin(stores.lake, [trades.staged])
            times = {one_series: stores.lake.times(one_series) for one_series in series}
            with stores.catalog.write() as connection:
                self._remove_evidence(connection, pair, claims, gone)
                self._remove_trades(connection, pair, trades)
                evidence_records.renew(connection, times)
            trade_writer.clear(stores.lake, [trades.staged])
            stages = [
                stage_removal(stores.lake, series, gone[series], origin=self.what.reason, now=now)
                for series in sorted(gone, reverse=True)  # the coarsest first
            ]
            commit(
                stores,
                [LakeWrite(staged, ()) for staged in stages],
                now,
                lambda connection: withdrawals.record(connection, records),
            )
        self.gone.append(gone)

    def _records(self, claims: Sequence[Claim], gone: Mapping[Series, pl.DataFrame]) -> Iterator[WithdrawalRecord]:
        """Yield the records of the withdrawal: the claims, each candle counted once, and the candles made of them."""
        rest = dict(gone)
        for claim in claims:
            if claim.span is None:
                continue
            rows = claim.rows(self.stores.lake)
            if claim.series in rest:
                rows = rows.join(rest[claim.series].select("time"), on="time", how="semi")
                rest[claim.series] = rest[claim.series].join(rows.select("time"), on="time", how="anti")
            count = rows.height + self._gone_before(claim)
            file_id = claim.file.id if claim.file else None
            yield WithdrawalRecord(claim.series, claim.span, file_id, count, self.what.reason, self.run.now)
        reason = f"made of what was withdrawn: {self.what.reason}"
        for withdrawn in _counted([rest]):
            yield WithdrawalRecord(withdrawn.series, withdrawn.span, None, withdrawn.candles, reason, self.run.now)

    def _gone_before(self, claim: Claim) -> int:
        """Return the number of a file's candles that left the lake in an earlier, interrupted withdrawal."""
        if claim.file is None or claim.file.status is not FileStatus.WITHDRAWN or claim.span is None:
            return 0
        is_one = [
            *claim.is_one(),
            pl.col("lost") == Lost.WITHDRAWN.value,
            pl.col("by") == (claim.file.reason or ""),
        ]
        return self.stores.lake.replaced(claim.series, claim.span.start, claim.span.end).filter(*is_one).height

    def _remove_evidence(
        self, connection: sa.Connection, pair: str, claims: Sequence[Claim], gone: Mapping[Series, pl.DataFrame]
    ) -> None:
        """Remove the evidence for the candles and what was derived from it; mark all of it for reconciliation."""
        now = self.run.now
        ids = [claim.file.id for claim in claims if claim.file is not None]
        before = _covered(connection, pair)
        slots = {series: _slots(candles, series.interval) for series, candles in gone.items()}
        withdrawals.withdraw_files(connection, ids, self.what.reason, now)
        finer: Spans = ()  # withdrawn from finer intervals: candles made of it are removed as well
        touched: dict[Series, Spans] = {}
        confirmed = proof_records.confirmed(connection, [pair])
        lost: dict[Series, Spans] = {}  # confirmed by a withdrawn file, whichever source's candle is stored
        for interval in Interval:
            series = Series(pair, interval)
            own = [claim for claim in claims if claim.series == series]
            made = touched_candles(finer, interval)
            withdrawals.trim_grants(connection, series, slots.get(series, ()))
            dispute_records.settle(connection, {series: slots.get(series, ())})
            withdrawals.forget_conflicts(connection, series, slots.get(series, ()))
            withdrawals.trim_grants(connection, series, made, Source.RESAMPLED)
            for claim in own:
                if claim.file is None and claim.span is not None:
                    withdrawals.trim_grants(connection, series, (claim.span,), claim.source)
            lost[series] = intersect(
                confirmed.get(series, ()), normalise(span for claim in own for span in claim.reach)
            )
            left = _covered_now(connection, series)
            touched[series] = union(made, slots.get(series, ()), subtract(before.get(series, ()), left))
            if own:
                finer = union(finer, touched[series])
            self._read_again(connection, series, slots.get(series, ()), own)
        touched = {series: spans for series, spans in touched.items() if spans}
        withdrawals.forget_answers(connection, touched)
        # Refutations of finer intervals may have been caused by what is withdrawn.
        compared = {Series(pair, interval): touched_candles(finer, interval) for interval in Interval}
        compared = {series: union(spans, touched.get(series, ()), lost[series]) for series, spans in compared.items()}
        withdrawals.reopen(connection, pair, compared, now)
        changes = [(series, Span(spans[0].start, spans[-1].end)) for series, spans in compared.items() if spans]
        publications.mark_for_reconciliation(connection, changes, now)
        self.touched |= touched

    def _remove_trades(self, connection: sa.Connection, pair: str, trades: WithdrawnTrades) -> None:
        """End the claims of withdrawn trades in the transaction that removes the evidence for their candles."""
        minutes = Series(pair, Interval.M1)
        self.stores.locks.require([minutes])
        trade_writer.confirm(connection, [trades.staged])
        if trades.again:
            reason = f"to be read again: {self.what.name} was withdrawn"
            self.again += withdrawals.read_again(
                connection, minutes, trades.again, reason, self.run.now, without={Kind.OHLCVT}
            )

    def _read_again(self, connection: sa.Connection, series: Series, slots: Spans, own: Sequence[Claim]) -> None:
        """Make files that had answered for removed candles be read again, except kinds of file withdrawn themselves."""
        sources = {claim.source for claim in own if claim.file is None}
        without = [
            kind
            for kind, source in ((Kind.OHLCVT, Source.CSV), (Kind.TRADES, Source.TRADES))
            if sources & {None, source}
        ]
        reason = f"to be read again: {self.what.name} was withdrawn"
        self.again += withdrawals.read_again(connection, series, slots, reason, self.run.now, without=without)


def _covered(connection: sa.Connection, pair: str) -> dict[Series, Spans]:
    found = evidence_records.coverage_of(connection, pairs=[pair])
    return {series: tuple(record.span for record in records) for series, records in found.items()}


def _covered_now(connection: sa.Connection, series: Series) -> Spans:
    """Return the coverage of a series from its grants and refutations as they stand in a transaction."""
    grants = evidence_records.grants_of(connection, [series])
    refuted = evidence_records.refuted(connection, [series], grants)
    return tuple(covered.span for covered in coverage(grants.get(series, ()), refuted.get(series, ())))


# --- next steps


def _resolved(stores: Stores, work: _Withdrawing, names: tuple[str, ...], healed: BackfillOutcome | None) -> Resolved:
    gaps = [gap for gap in (healed.gaps if healed else ()) if intersect((gap.span,), work.touched.get(gap.series, ()))]
    refilled = {
        outcome.series: outcome.candles_stored
        for outcome in (healed.filled if healed else ())
        if outcome.candles_stored
    }
    again = [_found_again(stores, record) for record in work.again]
    series = _counted(work.gone)
    return Resolved(
        work.what.name,
        work.what.reason,
        dry_run=False,
        files=names,
        series=series,
        read_again=tuple(again),
        refilled=refilled,
        gaps=tuple(gaps),
        actions=tuple(_actions(stores, again, gaps, is_shown=bool(series))),
    )


def _found_again(stores: Stores, record: FileRecord) -> ReadAgain:
    file = find_again(stores.settings, record)
    return ReadAgain(record.name, file.path if file is not None else None)


def _actions(stores: Stores, again: Sequence[ReadAgain], gaps: Sequence[Gap], *, is_shown: bool) -> Iterator[str]:
    """Yield the next steps: what fills the remaining gaps, and what else is to be done."""
    paths = sorted({file.path for file in again if file.path is not None})
    if paths:
        given = " ".join(f"--archive-dir {shlex.quote(str(path))}" for path in paths)
        yield f"kraken-pipeline ingest {given} reads the files again that had also answered for it"
    if lost := list(dict.fromkeys(file.name for file in again if file.path is None)):
        more = f" and {len(lost) - _NAMES} more" if len(lost) > _NAMES else ""
        yield f"fetch {', '.join(lost[:_NAMES])}{more} again: they had answered for it, and do not exist any more"
    # Everything that can be resampled already was. The rest depends on what the exchange has of finer intervals.
    asked = [gap for gap in gaps if any(leg.route is not Route.NONE for leg in gap.legs)]
    if asked:
        pairs = sorted({gap.series.pair for gap in asked})
        command = run_spec(
            pairs=pairs if len(pairs) <= _PAIRS_NAMED else None,
            intervals=sorted({gap.series.interval for gap in asked}),
            # For several pairs, a start would include the time before some of them were traded.
            start=min(gap.span.start for gap in asked) if len(pairs) == 1 else None,
            end=max(gap.span.end for gap in asked),
            complete=True,
        ).as_command("backfill")
        yield f"{command} fills {len(asked)} of the gaps from the exchange"
    files = {gap.required_csv_file for gap in gaps if gap.required_csv_file and gap.route is Route.NONE}
    if files:
        yield f"fetch {', '.join(sorted(files)[:_NAMES])}: nothing else can fill some gaps within the limits"
    if is_shown and stores.settings.has_questdb:
        yield (
            "kraken-pipeline publish --rebuild --verify removes the withdrawn candles from QuestDB, which deletes "
            "no rows itself and keeps those that nothing has replaced"
        )
