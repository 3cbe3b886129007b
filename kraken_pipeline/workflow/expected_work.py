"""The work that a run expects of its later phases, before each of them knows more and sets its own anew."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence, Set

from kraken_pipeline.kraken.archive import ArchiveFile
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import evidence_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import costs
from kraken_pipeline.workflow.backfill.ask import allowed_requests
from kraken_pipeline.workflow.costs import Change
from kraken_pipeline.workflow.gaps.kept_intervals import filled_intervals
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import RunSpec

FULL_REPORT_SERIES = 2_000
"""The number of changed series above which a run reports their candles only; later backfills report `coverage` and
`gaps`, and their agreement is one check for each tier. The three further events of a series cost 2 ms of CPU on
SQLite, so that they would take half a minute for all series of the complete archive."""


def settling(intervals: Collection[Interval], workers: int, files: Iterable[ArchiveFile]) -> float:
    """Return the cost of `workflow.settling` for the series of some files, in seconds.

    Args:
        intervals: The intervals whose gaps the run fills.
        workers: The number of processes or threads that share the work.
        files: The files.
    """
    found = list(files)
    changes = _changes(found)
    derived = len(_derived(intervals, changes, found))
    return (
        costs.resampling(derived, workers)
        + costs.comparing(changes.values(), workers)
        + costs.searching(changes.values(), workers)
        + costs.checking(sum(change.candles for change in changes.values()), workers)
    )


def _derived(intervals: Collection[Interval], pairs: Iterable[str], files: Iterable[ArchiveFile]) -> list[Series]:
    """Return the series of some pairs that none of some files has candles of."""
    there = {file.series for file in files}
    wanted = (Series(pair, interval) for pair in pairs for interval in intervals)
    return [series for series in wanted if series not in there]


def is_reported_in_full(stores: Stores, spec: RunSpec, files: Sequence[ArchiveFile]) -> bool:
    """Return whether a run that ingests some files reports everything of each of their series.

    It is decided before the files are ingested, so that all steps of a run decide alike.
    """
    derived = _derived(filled_intervals(stores, spec), {file.pair.name for file in files}, files)
    return len({file.series for file in files}) + len(derived) <= FULL_REPORT_SERIES


def expect_filling(
    stores: Stores, spec: RunSpec, run: RunContext, files: Sequence[ArchiveFile] = (), *, are_settled: bool = False
) -> None:
    """Expect the work that follows the ingesting of some files: resampling, reconciling, requesting, reporting.

    Of each series that the exchange may be asked for, one request is expected.

    Args:
        stores: The stores.
        spec: The spec of the run.
        run: The run.
        files: The files.
        are_settled: Whether their series are settled while the files are ingested.
    """
    workers = stores.settings.kraken_workers
    there = [*stores.lake.asset_ids.pairs(), *(file.pair for file in files)]
    pairs = {*spec.pairs, *(pair.name for pair in there if spec.selects(pair, stores.tiers))}
    intervals = filled_intervals(stores, spec)
    known = len(pairs) * len(intervals)
    changed = {file.series for file in files}
    changes = _changes(files)
    derived = len(_derived(intervals, changes, files))
    run.expect("resampling", costs.planning(known) + (0.0 if are_settled else costs.resampling(derived, workers)))
    of_markets = costs.comparing_markets(changes.values())
    run.expect("reconciling", of_markets if are_settled else costs.reconciling(changes.values(), workers))
    requests = 0
    if spec.api_backfill:
        allowed = allowed_requests(stores, spec)
        requests = known if allowed is None else min(known, allowed)
        run.expect("requesting candles", costs.requesting(requests, stores.settings.kraken_api_rate), is_remote=True)
    run.expect("finding gaps", costs.recording(known))
    candles = sum(change.candles for change in changes.values())
    if stores.settings.has_questdb:
        run.expect("publishing", costs.publishing(candles))
    checked = changed if are_settled else frozenset[Series]()
    expect_report(stores, run, changed, checked, others=derived + requests, candles=0.0 if are_settled else candles)


def _changes(files: Iterable[ArchiveFile]) -> dict[str, Change]:
    """Return the size of the change that files make, by pair, as if there was a trade in every candle."""
    found: dict[str, Change] = {}
    for file in files:
        rows, before = file.size / costs.BYTES_OF_ROW, found.get(file.pair.name, Change())
        years = max(before.years, rows * file.interval.seconds / costs.YEAR)
        found[file.pair.name] = Change(before.candles + rows, years)
    return found


def expect_report(
    stores: Stores,
    run: RunContext,
    rewritten: Set[Series],
    checked: Set[Series] = frozenset(),
    reported: Set[Series] = frozenset(),
    *,
    others: int = 0,
    candles: float = 0.0,
) -> None:
    """Expect the work of a report.

    Args:
        stores: The stores.
        run: The run that reports.
        rewritten: The series whose candles have changed; all of theirs are checked.
        checked: Those of them that are checked by then.
        reported: Those of them that are materialised by then.
        others: The number of other series that it reports.
        candles: The number of candles that it adds until then.
    """
    with stores.catalog.read() as connection:
        extents = evidence_records.extents(connection)
    changed = len(rewritten) + others
    events = 4 * changed - 3 * len(reported) if changed <= FULL_REPORT_SERIES else len(rewritten - reported)
    candles += sum(extents[series].candles for series in rewritten - checked if series in extents)
    workers = stores.settings.kraken_workers
    reporting = costs.reporting(len(extents.keys() | rewritten))
    run.expect("reporting", costs.logging(events) + reporting + costs.checking(candles, workers))
