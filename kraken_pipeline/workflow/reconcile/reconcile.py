"""Reconciliation: compares changed ranges of the lake with the other intervals of the pair and records the result.

A contradiction refutes the coverage of the short side, which becomes a gap with a route like any other. The same run or
the next one fills it, and the comparison is repeated. This always terminates: the same values are refuted once, and
merging only raises trade counts. What remains is a conflict: covered, not proven, and for a person to resolve.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import polars as pl

from kraken_pipeline.coverage.contradictions import Contradiction, Findings, one_candle
from kraken_pipeline.coverage.proof import NOTHING_PROVEN, Proven
from kraken_pipeline.coverage.ranges import (
    Span,
    Spans,
    clip,
    normalise,
)
from kraken_pipeline.coverage.reconcile import reconcile
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.errors import Busy
from kraken_pipeline.market.candle import VOLUME_TOLERANCE, Values, seconds_in
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import ContradictionState
from kraken_pipeline.storage.records import evidence_records, proof_records, publications, refutations
from kraken_pipeline.storage.records.proof_records import ContradictionRecord
from kraken_pipeline.storage.records.refutations import Refutation
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import costs
from kraken_pipeline.workflow.gaps.gaps import find_gaps
from kraken_pipeline.workflow.gaps.snapshot import CatalogSnapshot
from kraken_pipeline.workflow.heed import heeding
from kraken_pipeline.workflow.ingest import earlier_archives
from kraken_pipeline.workflow.pair_groups import changes_of, pair_groups
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile import suspicion
from kraken_pipeline.workflow.reconcile.known_pairs import KnownPair, known_pairs, series_of
from kraken_pipeline.workflow.reconcile.monthly_counts import monthly_counts
from kraken_pipeline.workflow.reconcile.quiet_search import QuietSearch
from kraken_pipeline.workflow.reconcile.stored_candles import StoredCandles
from kraken_pipeline.workflow.run_spec import RunSpec
from kraken_pipeline.workflow.side_by_side import side_by_side

STALE = "made of finer candles that have changed since"
_YEAR = 366 * 86_400
OPEN = (ContradictionState.REFUTED, ContradictionState.CONFLICT)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """The result of a reconciliation.

    Attributes:
        pairs: The pairs that were compared.
        refuted: The number of spans that were refuted, to be filled again.
        conflicts: The number of new conflicts.
        healed: The number of contradictions that no longer exist.
        given_back: The number of refuted spans that are covered again, so that coarser candles can be made of them.
        notes: The work that was skipped, with the reason.
        changed: The pairs whose evidence may have changed: those compared, and those of a refuted outage.
        searched: The searches of pairs for quiet time of which nothing is recorded yet.
    """

    pairs: tuple[str, ...] = ()
    refuted: int = 0
    conflicts: int = 0
    healed: int = 0
    given_back: int = 0
    notes: tuple[str, ...] = ()
    changed: frozenset[str] = frozenset()
    searched: tuple[QuietSearch, ...] = ()


def reconcile_changes(
    stores: Stores, pairs: Iterable[str], run: RunContext, searched: Sequence[QuietSearch] = ()
) -> Reconciled:
    """Reconcile the ranges of some pairs that have changed since the last reconciliation, and search their quiet time.

    A pair whose locks another process holds for too long is skipped until the next run.

    Args:
        stores: The stores.
        pairs: The pairs.
        run: The context of the run.
        searched: The searches that earlier steps of the run have made of some of the pairs.
    """
    wanted = set(pairs)
    done = compare_changes(stores, wanted, run)
    try:
        silent = suspicion.search_for_quiet(stores, wanted, run, searched)
    except Busy as error:
        done = replace(done, notes=(*done.notes, f"Quiet time was not checked; the next run checks it: {error}"))
    else:
        if silent:  # an outage concerns every pair
            done = replace(done, refuted=done.refuted + silent, changed=frozenset(wanted))
    run.finish("reconciling")
    return done


def compare_changes(stores: Stores, pairs: Iterable[str], run: RunContext) -> Reconciled:
    """Reconcile what has changed of some pairs, and leave their quiet time, with the outages of all, to the run."""
    wanted = set(pairs)
    notes: list[str] = []
    corrected: Collection[str] = wanted
    try:
        corrected = earlier_archives.correct(stores, wanted, run.now)
    except Busy as error:
        notes.append(f"The correction of an earlier version's coverage is left to the next run: {error}")
    with stores.catalog.read() as connection:
        marked = publications.marked(connection, wanted)
    to_compare = sorted(marked.keys() & wanted)
    done: list[_Outcome] = []
    groups, processes = pair_groups(stores, to_compare)
    changes = changes_of(stores, publications.ranges_of(mark for pair in to_compare for mark in marked[pair]))
    run.expect("reconciling", costs.reconciling(changes.values(), processes))
    run.report(phase="reconciling")
    with closing(side_by_side(stores, partial(_reconcile_pairs, now=run.now), groups, processes)) as results:
        for some, outcomes, busy in results:
            run.did("reconciling", costs.comparing([changes[pair] for pair in some], processes))
            run.report(phase="reconciling")
            done += outcomes
            notes += busy
    return Reconciled(
        tuple(to_compare),
        sum(outcome.refuted for outcome in done),
        sum(outcome.conflicts for outcome in done),
        sum(outcome.healed for outcome in done),
        sum(outcome.given_back for outcome in done),
        tuple(notes),
        changed=frozenset({*to_compare, *corrected}),
    )


def _reconcile_pairs(stores: Stores, pairs: Sequence[str], now: int) -> tuple[Sequence[str], list[_Outcome], list[str]]:
    """Reconcile some pairs; return them, their outcomes, and a note for each that another process holds."""
    stores.lake.manifest.reread_all(series_of(pairs))  # in one query
    try:
        with stores.locks.series(series_of(pairs), timeout=0):
            return pairs, _reconcile_together(stores, pairs, now), []
    except Busy:
        pass  # another process has one of them; to wait for it while the others are locked could last for ever
    done: list[_Outcome] = []
    busy: list[str] = []
    for pair in pairs:
        try:
            with stores.locks.series(series_of([pair])):
                done += _reconcile_together(stores, [pair], now)
        except Busy as error:
            busy.append(f"{pair} was not reconciled: {error}")
    return pairs, done, busy


def _reconcile_together(stores: Stores, pairs: Sequence[str], now: int) -> list[_Outcome]:
    """Compare the changes of some pairs and record the findings; the caller holds the locks of all their series."""
    return heeding(lambda: _compared(stores, pairs, now))


def has_changes(stores: Stores, pairs: Iterable[str]) -> bool:
    """Return whether anything of some pairs has changed since the last reconciliation."""
    wanted = set(pairs)
    with stores.catalog.read() as connection:
        return bool(
            publications.marked(connection, wanted)
            or publications.to_search(connection, wanted)
            or earlier_archives.waiting(connection, wanted)
        )


def mark_everything(stores: Stores, pairs: Iterable[str], now: int) -> None:
    """Mark all coverage of some pairs for reconciliation."""
    wanted = sorted(pairs)
    with stores.catalog.write() as connection:
        records = evidence_records.coverage_of(connection, pairs=wanted)
        changes = [(series, record.span) for series, found in records.items() for record in found]
        publications.mark_for_reconciliation(connection, changes, now)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The result for one pair."""

    refuted: int = 0
    conflicts: int = 0
    healed: int = 0
    given_back: int = 0


def _compared(stores: Stores, pairs: Sequence[str], now: int) -> list[_Outcome]:
    # Of a pair without marks, another run has compared the changes meanwhile.
    found = [_findings(stores, pair, now) for pair in known_pairs(stores, pairs) if pair.marks]
    if found:
        _record(stores, found, now)
    return [_outcome(one) for one in found]


@dataclass(frozen=True, slots=True)
class _PairFindings:
    """The findings of the comparison of a pair, ready to be recorded.

    Attributes:
        pair: The catalog's records of the pair.
        refuted: The newly refuted spans: series, span, its stored candles as one candle, and the reason.
        times: Series → the start of each stored candle, of the series with a new refutation or one that ends.
        contradictions: The new and changed contradictions.
        proven: Series → its proofs, of the series whose proofs have changed.
        counts: Series → year → the number of candles of each month.
    """

    pair: KnownPair
    refuted: Sequence[tuple[Series, Span, Values | None, str]]
    times: Mapping[Series, pl.Series]
    contradictions: Sequence[ContradictionRecord]
    proven: Mapping[Series, Proven]
    counts: Mapping[Series, Mapping[int, Sequence[int]]]


def _findings(stores: Stores, pair: KnownPair, now: int) -> _PairFindings:
    known = {series.interval: pair.evidence(series) for series in pair.series}
    tried = {record.key: record.values for record in pair.records if record.state in OPEN}
    to_compare = pair.to_compare()
    proven = {interval: pair.proven.get(Series(pair.name, interval), NOTHING_PROVEN) for interval in known}
    candles = StoredCandles(stores, pair.name, to_compare)
    found = reconcile(known, candles.read, to_compare, tried, proven, candles.most)

    refuted = list(_refuted_spans(stores, pair.name, found))
    changed = {series for series, *_ in refuted} | {refutation.series for refutation in pair.answered}
    renewed = {series: found.proven.get(series.interval, NOTHING_PROVEN) for series in series_of([pair.name])}
    return _PairFindings(
        pair,
        refuted,
        {series: stores.lake.times(series) for series in changed},
        _records(pair, found, now),
        {series: one for series, one in renewed.items() if one != pair.proven.get(series, NOTHING_PROVEN)},
        monthly_counts(candles.times, ((mark.series, mark.span) for mark in pair.marks)),
    )


def _record(stores: Stores, found: Sequence[_PairFindings], now: int) -> None:
    """Record the findings in one transaction; the caller holds the locks of the pairs."""
    answered = [refutation.id for one in found for refutation in one.pair.answered]
    times = {series: its for one in found for series, its in one.times.items()}
    with stores.catalog.write() as connection:
        stores.locks.require(series_of(one.pair.name for one in found))
        refutations.end(connection, answered, now)
        refutations.refute(connection, [refuted for one in found for refuted in one.refuted], now)
        if times:
            evidence_records.renew(connection, times)
        proof_records.keep_contradictions(connection, [record for one in found for record in one.contradictions])
        proof_records.replace_proofs(connection, {key: value for one in found for key, value in one.proven.items()})
        proof_records.keep_counts(connection, {key: value for one in found for key, value in one.counts.items()})
        publications.reconciled(connection, [mark for one in found for mark in one.pair.marks], now)


def _outcome(found: _PairFindings) -> _Outcome:
    before = {record.key: record for record in found.pair.records}
    return _Outcome(
        len(found.refuted),
        sum(
            record.state is ContradictionState.CONFLICT
            and (record.key not in before or before[record.key].state is not ContradictionState.CONFLICT)
            for record in found.contradictions
        ),
        sum(record.state is ContradictionState.SETTLED for record in found.contradictions),
        len(found.pair.answered),
    )


def _refuted_spans(stores: Stores, pair: str, found: Findings) -> Iterator[tuple[Series, Span, Values | None, str]]:
    """Yield each refuted span: series, span, its stored candles as one candle (None without any), and the reason."""
    reasons: dict[Series, dict[Span, str]] = {}
    for contradiction, parts in found.refuted:
        for interval, span in parts:
            reasons.setdefault(Series(pair, interval), {})[span] = _reason(pair, contradiction)
    for interval, outdated in found.stale.items():
        reasons.setdefault(Series(pair, interval), {}).update(dict.fromkeys(outdated, STALE))
    for series, spans in reasons.items():
        standing = _standing(stores, series, sorted(spans))
        for span, reason in spans.items():
            yield series, span, standing.get(span), reason


def _standing(stores: Stores, series: Series, spans: Sequence[Span]) -> dict[Span, Values]:
    """Return the stored candles of each span, in order of time, as one candle; spans without a candle are left out.

    The lake is read a year at a time, because there can be as many spans as candles.
    """
    found: dict[Span, Values] = {}
    waiting = list(spans)
    while waiting:
        first = waiting[0].start
        some = [part for part in waiting if part.start < first + _YEAR]
        waiting = waiting[len(some) :]
        candles = stores.lake.read(series, first, max(part.end for part in some))
        times = seconds_in(candles)
        starts, ends = (
            pl.Series([getattr(part, edge) for part in some], dtype=pl.Int64()) for edge in ("start", "end")
        )
        begins, past = times.search_sorted(starts).to_list(), times.search_sorted(ends).to_list()
        for part, begin, end in zip(some, begins, past, strict=True):
            if (value := one_candle(candles.slice(begin, end - begin))) is not None:
                found[part] = value
    return found


def _records(pair: KnownPair, found: Findings, now: int) -> list[ContradictionRecord]:
    """Return the new and changed contradictions of a pair; those that were compared and now agree are settled."""
    before = {record.key: record for record in pair.records}
    current = [
        *((contradiction, ContradictionState.REFUTED) for contradiction, _ in found.refuted),
        *((conflict, ContradictionState.CONFLICT) for conflict in found.conflicts),
    ]
    records = []
    for contradiction, state in current:
        key = contradiction.fine, contradiction.coarse, contradiction.span.start
        known = before.get(key)
        is_same = known is not None and known.values == contradiction.values and known.state is state
        if not is_same or (known is not None and known.reason != _reason(pair.name, contradiction)):
            began = known.made_at if known is not None and known.state in OPEN else now
            records.append(_as_record(pair.name, contradiction, state, began, now))
    keys = {(contradiction.fine, contradiction.coarse, contradiction.span.start) for contradiction, _ in current}
    records += [
        proof_records.settled(record, now)
        for record in pair.records
        if record.state in OPEN
        and record.key not in keys
        and clip(found.tested.get(record.coarse, ()), record.span) == (record.span,)
    ]
    return records


def _as_record(
    pair: str, contradiction: Contradiction, state: ContradictionState, began: int, now: int
) -> ContradictionRecord:
    return ContradictionRecord(
        pair=pair,
        fine=contradiction.fine,
        coarse=contradiction.coarse,
        span=contradiction.span,
        short_side=contradiction.short,
        fine_candle=contradiction.fine_candle,
        coarse_candle=contradiction.coarse_candle,
        fine_trades=contradiction.fine_trades,
        coarse_trades=contradiction.coarse_trades,
        outlier=contradiction.outlier,
        state=state,
        reason=_reason(pair, contradiction),
        made_at=began,
        changed_at=now,
    )


def _reason(pair: str, contradiction: Contradiction) -> str:
    """Return the description of a contradiction as a sentence."""
    fine, coarse = contradiction.fine.value, contradiction.coarse.value
    who = f"; the others contradict {pair} {contradiction.outlier.value}" if contradiction.outlier is not None else ""
    if contradiction.shifted is not None:
        hours = abs(contradiction.shifted) // 3_600
        late = f"{fine} is {hours} h {'late' if contradiction.shifted < 0 else 'early'} against {coarse}"
        return f"times are shifted: {late} from {iso(contradiction.span.start)} to {iso(contradiction.span.end)}{who}"
    if contradiction.short is None:
        return f"{fine} and {coarse} count the same trades and differ in {_differing(contradiction)}{who}"
    short, full = (fine, coarse) if contradiction.fine_trades < contradiction.coarse_trades else (coarse, fine)
    return (
        f"{short} lacks {abs(contradiction.fine_trades - contradiction.coarse_trades):,} trades that {full} counts{who}"
    )


def _differing(contradiction: Contradiction) -> str:
    names = ("open", "high", "low", "close", "volume")
    if contradiction.fine_candle is None or contradiction.coarse_candle is None:
        return "whether there is a candle"
    pairs = zip(names, contradiction.fine_candle, contradiction.coarse_candle, strict=False)
    return " and ".join(name for name, fine, coarse in pairs if _differs(name, fine, coarse))


def _differs(name: str, fine: float, coarse: float) -> bool:
    return abs(fine - coarse) > (VOLUME_TOLERANCE * max(fine, coarse) if name == "volume" else 0)


def give_up(stores: Stores, spec: RunSpec, snapshot: CatalogSnapshot, run: RunContext) -> frozenset[str]:
    """End the refutations for which no route is left at any cost, and return their pairs.

    They become conflicts: their coverage comes back, because the sources still answer the same, but it is not proven. A
    refutation that only exceeds the limits of this run stays a gap, which shows what it would cost. A refutation
    without a candle where others count trades also stays a gap: it is known that something is missing. A refutation
    made by a suspicion ends as well; its coverage comes back and stays unproven.
    """
    refuted = {series: found for series, found in snapshot.refutations.items() if series.interval in spec.intervals}
    if not refuted:
        return frozenset()
    none: dict[Series, list[Span]] = {}
    its = snapshot.only({series.pair for series in refuted})
    for gap in find_gaps(stores, spec.model_copy(update={"complete": True}), its):
        if gap.series in refuted:
            none.setdefault(gap.series, []).extend(leg.span for leg in gap.legs if leg.route is Route.NONE)
    without = {series: normalise(spans) for series, spans in none.items()}
    ended = {
        series: hopeless
        for series, found in refuted.items()
        if (hopeless := [refutation for refutation in found if _is_hopeless(refutation, without.get(series, ()))])
    }
    if not ended:
        return frozenset()
    with stores.locks.series(ended):
        times = {series: stores.lake.times(series) for series in ended}
        with stores.catalog.write() as connection:
            refutations.end(connection, [refutation.id for found in ended.values() for refutation in found], run.now)
            evidence_records.renew(connection, times)
            changes = [(series, refutation.span) for series, found in ended.items() for refutation in found]
            publications.mark_for_reconciliation(connection, changes, run.now)
    return frozenset(series.pair for series in ended)


def _is_hopeless(refutation: Refutation, without: Spans) -> bool:
    is_hole = refutation.refuted is None and refutation.reason not in suspicion.REASONS
    return not is_hole and clip(without, refutation.span) == (refutation.span,)
