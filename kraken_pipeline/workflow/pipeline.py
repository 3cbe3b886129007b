"""The pipeline: the one sequence of a run, which assets, jobs and commands share.

    find archives → ingest them → resample, reconcile, record gaps, backfill → publish → report what changed

`reconcile` and `resolve` change what is stored without archives; they are published and reported like the rest.

An asset or a job calls the steps that it is about, in this order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import Tier
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.records import evidence_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import costs, publish
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome, SeriesOutcome, together
from kraken_pipeline.workflow.backfill.work import Asked
from kraken_pipeline.workflow.expected_work import expect_filling, expect_report, settling
from kraken_pipeline.workflow.gaps.kept_intervals import filled_intervals
from kraken_pipeline.workflow.gaps.plan import nothing_to_do
from kraken_pipeline.workflow.gaps.series_snapshot import SeriesSnapshot, series_snapshots
from kraken_pipeline.workflow.gaps.snapshot import selected_pairs
from kraken_pipeline.workflow.ingest import drop_folder, ingest
from kraken_pipeline.workflow.ingest.ingest import Following
from kraken_pipeline.workflow.ingest.outcome import FileOutcome
from kraken_pipeline.workflow.ingest.scan import Scan, Task, scan
from kraken_pipeline.workflow.progress import READING, RunContext
from kraken_pipeline.workflow.proof.counting import of_all_intervals
from kraken_pipeline.workflow.proof.prove import prove
from kraken_pipeline.workflow.publish import PublishOutcome
from kraken_pipeline.workflow.reconcile import groups as reconcile_groups
from kraken_pipeline.workflow.reconcile.quiet_search import QuietSearch
from kraken_pipeline.workflow.reconcile.reconcile import Reconciled, mark_everything, reconcile_changes
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec
from kraken_pipeline.workflow.settling import settle
from kraken_pipeline.workflow.settling import together as settled_together
from kraken_pipeline.workflow.verify.verify import Broken
from kraken_pipeline.workflow.withdraw.resolve import Resolved
from kraken_pipeline.workflow.withdraw.resolve import resolve as withdraw
from kraken_pipeline.workflow.withdraw.withdrawal import Withdrawal

ABANDONED_SECONDS = 86_400
"""The age in seconds at which a temporary file of the lake counts as left behind by a killed run."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes that a run made.

    Attributes:
        files: The outcomes of the files that it read.
        filled: The outcome of its backfill: the series filled, and the gaps left.
        published: The series that it published to QuestDB.
        evidence: The series whose evidence it changed otherwise: their trades were counted, or their coverage was
            reconciled, refuted or withdrawn.
        searched: The searches of pairs for quiet time of which nothing is recorded yet.
        rules: Series → the rules that its candles break, of the series that were checked after they were stored.
        reported: The series that the run has materialised.
    """

    files: tuple[FileOutcome, ...] = ()
    filled: BackfillOutcome = field(default_factory=BackfillOutcome)
    published: PublishOutcome = field(default_factory=PublishOutcome)
    evidence: frozenset[Series] = frozenset()
    searched: tuple[QuietSearch, ...] = ()
    rules: Mapping[Series, Sequence[Broken]] = field(default_factory=dict)
    reported: frozenset[Series] = frozenset()

    @property
    def candles_stored(self) -> dict[Series, int]:
        """The number of candles stored by the backfill, of each series that it filled."""
        return {outcome.series: outcome.candles_stored for outcome in self.filled.filled}

    @property
    def ingested(self) -> dict[Series, list[FileOutcome]]:
        """The ingested files, by series."""
        found: dict[Series, list[FileOutcome]] = {}
        for outcome in self.files:
            if outcome.status is FileStatus.COMPLETED:
                found.setdefault(outcome.series, []).append(outcome)
        return found


@dataclass(frozen=True, slots=True)
class SeriesChange:
    """The change of one series, and its state after the run.

    Attributes:
        series: The series.
        tier: The tier of its pair.
        files: The files ingested into it.
        filled: The number of candles that the backfill stored; None if it filled nothing.
        snapshot: The state after the run.
        is_selected: Whether the run is about the interval of the series, so that its gaps are recorded.
    """

    series: Series
    tier: Tier
    files: Sequence[FileOutcome]
    filled: int | None
    snapshot: SeriesSnapshot
    is_selected: bool


def find_archives(stores: Stores, spec: RunSpec, run: RunContext, *, is_whole_run: bool = False) -> Scan:
    """Find the selected archives that are not ingested yet, and record that this run reads them.

    Args:
        stores: The stores.
        spec: The selection.
        run: The context of the run.
        is_whole_run: Whether the run fills gaps and reports afterwards, which its progress then includes.

    Raises:
        InvalidRequest: There is no archive for the selection, and nothing is known of it.
    """
    stores.lake.sweep(run.now - ABANDONED_SECONDS)
    found = scan(stores, spec, run.now, patience=True)
    pairs = [task.file.pair for task in found.tasks]
    if not selected_pairs(stores, spec, also=pairs) and not found.broken:
        raise nothing_to_do(stores, spec, found)
    ingest.fail_broken(stores, found.broken, run)
    ingest.enlist(stores, found.tasks, run)
    # All at once, for each time all ids are written anew: groups that find new pairs would wait for one another.
    stores.lake.asset_ids.register(pairs)
    files = [task.file for task in found.tasks]
    size = sum(file.size for file in files)
    workers = stores.settings.kraken_workers
    are_settled = is_whole_run and (
        stores.settings.kraken_executor != "in_process" or ingest.is_dealt_out(files, workers)
    )
    settled = settling(filled_intervals(stores, spec), workers, files) if are_settled else 0.0
    run.expect("ingesting", costs.ingesting(len(files), size, workers) + settled)
    if is_whole_run:
        expect_filling(stores, spec, run, files, are_settled=are_settled)
    run.report(phase=READING, files_total=len(found.tasks), bytes_total=size)
    return found


def ingest_group(stores: Stores, spec: RunSpec, tasks: Sequence[Task], run: RunContext) -> Changes:
    """Ingest one of several groups of archives that are ingested at the same time, and settle its series.

    Whoever drives the run has waited until fewer than KRAKEN_PARALLEL_RUNS others are driven.
    """
    following = _following(stores, spec, is_step=True)
    files = ingest.ingest(stores, spec, tasks, run, following)
    return _ingested(files, following)


def ingest_archives(
    stores: Stores, spec: RunSpec, tasks: Sequence[Task], run: RunContext, *, is_whole_run: bool = False
) -> Changes:
    """Ingest archives, each on its own, as soon as fewer than KRAKEN_PARALLEL_RUNS other runs do.

    Args:
        stores: The stores.
        spec: The selection.
        tasks: The archives.
        run: The context of the run.
        is_whole_run: Whether the run fills gaps and reports afterwards. Series whose archives are dealt out to several
            processes are then settled by the process that ingested them.

    Raises:
        Busy: Other runs have been ingesting for too long.
    """
    following = _following(stores, spec) if is_whole_run else None
    with stores.locks.slot("ingest", stores.settings.kraken_parallel_runs):
        files = ingest.ingest(stores, spec, tasks, run, following)
    return _ingested(files, following)


def _following(stores: Stores, spec: RunSpec, *, is_step: bool = False) -> Following:
    return Following(
        settle,
        partial(settling, filled_intervals(stores, spec), stores.settings.kraken_workers),
        attrgetter("candles_stored"),
        is_step,
    )


def _ingested(files: Sequence[FileOutcome], following: Following | None) -> Changes:
    settled = settled_together(following.results if following else ())
    return Changes(tuple(files), settled.filled, searched=settled.searched, rules=settled.rules)


def complete(stores: Stores, spec: RunSpec, ingested: Sequence[Changes], run: RunContext) -> Changes:
    """Fill the gaps that are left after archives were ingested, and return the changes of all of it.

    Args:
        stores: The stores.
        spec: The selection, and the limits.
        ingested: The changes of the groups of archives.
        run: The context of the run.

    Raises:
        InvalidRequest: Nothing is known of the selection.
    """
    done = fill_gaps(stores, spec, run, searched=[search for group in ingested for search in group.searched])
    rewritten = {outcome.series for outcome in done.filled}
    return Changes(
        tuple(outcome for group in ingested for outcome in group.files),
        together([*(group.filled for group in ingested), done], done.gaps),
        rules={series: rules for group in ingested for series, rules in group.rules.items() if series not in rewritten},
        reported=frozenset(
            series for group in ingested for series in group.reported if series.pair not in done.changed
        ),
    )


def tidy(stores: Stores) -> None:
    """Move the archives that are fully ingested out of the drop folder."""
    drop_folder.tidy(stores)


def fill_gaps(
    stores: Stores,
    spec: RunSpec,
    run: RunContext,
    earlier: Sequence[Asked] = (),
    searched: Sequence[QuietSearch] = (),
) -> BackfillOutcome:
    """Resample, reconcile, fill gaps within the limits of the run, and record those left.

    With `complete`, the candles are proven by the ids of their trades in the end.

    Args:
        stores: The stores.
        spec: The selection, and the limits.
        run: The context of the run.
        earlier: The parts of the backfill that earlier steps of the run have done.
        searched: The searches of pairs for quiet time that earlier steps have made.

    Raises:
        InvalidRequest: Nothing is known of the selection.
    """
    run.finish("ingesting")  # also what others have ingested meanwhile
    done = backfill(stores, spec, run, earlier, searched)
    if not (spec.complete and spec.api_backfill):
        return done
    allowed = None if spec.budget is None else max(0, spec.budget - done.requests)
    proof = prove(stores, of_all_intervals(spec), run, allowed=allowed)
    proven = BackfillOutcome(
        proof.filled,
        (),
        proof.requests,
        proof.failed,
        proof.notes,
        proof.refuted,
        changed=frozenset(selected_pairs(stores, spec)),
    )
    return together([done, proven], done.gaps)


def groups_to_compare(stores: Stores, spec: RunSpec, run: RunContext, *, full: bool = False) -> list[list[str]]:
    """Return groups of selected pairs that can be compared at the same time, and expect the work of the run.

    Args:
        stores: The stores.
        spec: The selected pairs.
        run: The context of the run.
        full: Whether everything is to be compared instead of only what has changed.

    Raises:
        InvalidRequest: A named pair is unknown.
    """
    pairs = selected_pairs(stores, spec)
    if full:
        mark_everything(stores, pairs, run.now)
    expect_report(stores, run, set(), others=len(pairs) * len(Interval))
    return reconcile_groups.groups_to_compare(stores, pairs, run)


def reconcile(
    stores: Stores, spec: RunSpec, run: RunContext, *, full: bool = False, compared: Sequence[Reconciled] = ()
) -> tuple[Reconciled, Changes]:
    """Compare what has changed with the other intervals of its pair, and refute what is short.

    Args:
        stores: The stores.
        spec: The selected pairs.
        run: The context of the run.
        full: Whether to compare everything instead of only what has changed.
        compared: The results of groups of pairs that were compared before.

    Returns:
        The result, and the series of the compared pairs as changes.

    Raises:
        InvalidRequest: A named pair is unknown.
    """
    pairs = selected_pairs(stores, spec)
    if full:
        mark_everything(stores, pairs, run.now)
    expect_report(stores, run, set(), others=len(pairs) * len(Interval))
    before = reconcile_groups.together(compared)
    done = reconcile_groups.together([before, reconcile_changes(stores, pairs, run, before.searched)])
    with stores.catalog.read() as connection:
        extents = evidence_records.extents(connection, sorted(done.changed))
    return done, Changes(evidence=frozenset(extents))


def resolve(stores: Stores, what: Withdrawal, run: RunContext) -> tuple[Resolved, Changes]:
    """Withdraw files or candles and what was derived from them, and refill from finer candles.

    Raises:
        InvalidRequest: The name matches nothing, or several different things.
        Busy: Another process has held one of the series for too long.
    """
    done = withdraw(stores, what, run)
    refilled = tuple(SeriesOutcome(series, candles, ()) for series, candles in sorted(done.refilled.items()))
    return done, Changes(
        filled=BackfillOutcome(refilled), evidence=frozenset(withdrawn.series for withdrawn in done.series)
    )


def deliver(stores: Stores, changes: Changes, run: RunContext) -> Changes:
    """Publish what is pending to QuestDB, if there is one, and return the changes with the published series.

    A failure is part of the outcome, and what could not be published stays pending.
    """
    return replace(changes, published=publish.deliver(stores, run))


def changed_series(stores: Stores, spec: RunSpec, changes: Changes, now: int) -> Iterator[SeriesChange]:
    """Yield every series whose candles or evidence a run has changed and not reported yet, sorted.

    The snapshot of a series is of all of its time: with the window and the limits of each run, its numbers would jump
    between runs.
    """
    files, filled = changes.ingested, changes.candles_stored
    changed = sorted({*files, *filled, *changes.evidence} - changes.reported)
    if not changed:
        return
    pairs, intervals = {series.pair for series in changed}, {series.interval for series in changed}
    snapshots = series_snapshots(stores, run_spec(pairs=sorted(pairs), intervals=sorted(intervals)), now)
    for series in changed:
        snapshot = snapshots[series]
        yield SeriesChange(
            series,
            snapshot.measured.tier,
            files.get(series, ()),
            filled.get(series),
            snapshot,
            is_selected=series.interval in spec.intervals,
        )
