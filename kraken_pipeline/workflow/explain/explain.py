"""Explains one candle: its state, its evidence, the candles it replaced, and what it was compared with.

Makes no requests to the exchange and writes nothing, except records of damage that it meets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from kraken_pipeline.coverage.equality import Rounding, differences, equal_within, flow_apart
from kraken_pipeline.coverage.evidence import RECOVERED
from kraken_pipeline.coverage.proof import NOTHING_PROVEN, Proven
from kraken_pipeline.coverage.ranges import Span, Spans, intersect, normalise, subtract
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.errors import DamagedFile, InvalidRequest, UnreadableArchive
from kraken_pipeline.kraken.archive import ArchiveReader
from kraken_pipeline.kraken.incidents import Incident
from kraken_pipeline.kraken.lines import find_lines
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.candle import CANDLE_SCHEMA, EARLIEST_TIME, Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso, parse_moment
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.resample import resample
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import ContradictionState, SuspicionState
from kraken_pipeline.storage.exchange_state import incident_records
from kraken_pipeline.storage.lake.staged import LEDGER_SCHEMA
from kraken_pipeline.storage.records import (
    candle_records,
    dispute_records,
    file_records,
    proof_records,
    refutations,
    trade_counts,
    withdrawals,
)
from kraken_pipeline.storage.records.candle_records import GrantRecord
from kraken_pipeline.storage.records.evidence_records import CoverageRecord
from kraken_pipeline.storage.records.file_records import FileRecord
from kraken_pipeline.storage.records.proof_records import ContradictionRecord, SuspicionRecord
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.explain.explanation import (
    VALUES,
    CandleProof,
    CandleState,
    Evidence,
    Explanation,
    Loser,
    ProofState,
    Stored,
    legs_over,
)
from kraken_pipeline.workflow.gaps.gaps import Gap, find_gaps
from kraken_pipeline.workflow.gaps.snapshot import CatalogSnapshot, load_snapshot
from kraken_pipeline.workflow.ingest.whereabouts import find_again
from kraken_pipeline.workflow.reconcile.verdicts import differing
from kraken_pipeline.workflow.run_spec import run_spec


def explain(stores: Stores, pair: str, interval: str | int, moment: str, now: int) -> Explanation:
    """Return the explanation of the candle that contains a moment.

    Args:
        stores: The stores to read from.
        pair: Any name of the pair.
        interval: The interval in minutes.
        moment: An ISO date or time (UTC) within the candle.
        now: The present, in seconds since the epoch.

    Raises:
        InvalidRequest: The catalog knows nothing of the pair, or the interval or the moment is wrong.
    """
    series = Series(parse_pair(pair).name, Interval.parse(interval))
    span = _candle(series.interval, moment, now)
    spec = run_spec(pairs=[series.pair], intervals=[series.interval])
    # Before the catalog is read: damage found by this read removes coverage.
    lost = _losses(stores, series, span)
    rows = _read(stores, series, span)
    snapshot = load_snapshot(stores, spec, now)
    gaps = tuple(gap for gap in find_gaps(stores, spec, snapshot) if gap.series == series and gap.span.overlaps(span))
    covered = next((coverage for coverage in snapshot.coverage.get(series, ()) if coverage.span.overlaps(span)), None)
    with stores.catalog.read() as connection:
        grants = candle_records.grants_over(connection, series, span)
        minutes = candle_records.grants_over(connection, Series(series.pair, Interval.M1), span)
        without = candle_records.files_over(connection, series, span)
        refuted = refutations.of_series(connection, series, span)
        contradictions = proof_records.contradictions_of(connection, [series.pair])
        proven = proof_records.proofs_of(connection, [series.pair])
        counts = trade_counts.proven(connection, [series.pair]).get(series, ())
        confirmed = proof_records.confirmed(connection, [series.pair]).get(series, ())
        conflicts = candle_records.conflicts_over(connection, series, span)
        is_disputed = bool(intersect(dispute_records.disputed(connection, [series.pair]).get(series, ()), (span,)))
        known = file_records.completed(connection, [series.pair]) if is_disputed else []
        ends = withdrawals.release_ends(connection) if is_disputed else {}
        suspicions = proof_records.suspicions_of(connection, [series.pair])
        letters = candle_records.letters_about(connection, series, span.start)
        withdrawn = withdrawals.of_series(connection, series, span)
        incidents = [incident for incident in incident_records.incidents_of(connection) if incident.stops_trading]
        ids = [*(grant.file_id for grant in grants), *(withdrawal.file_id for withdrawal in withdrawn)]
        files = candle_records.files_of(connection, {file_id for file_id in ids if file_id is not None})
    contradicting = tuple(
        contradiction
        for contradiction in contradictions
        if series.interval in (contradiction.fine, contradiction.coarse) and contradiction.span.overlaps(span)
    )
    suspected = tuple(
        suspicion for suspicion in suspicions if _is_about(suspicion, series) and suspicion.span.overlaps(span)
    )
    candle = _stored(rows.row(0, named=True)) if rows.height else None
    by_trades = _is_by_trades(series, span, rows, minutes) and not conflicts
    compared = (
        *_accounts(rows, by_trades=by_trades, is_confirmed=not subtract((span,), confirmed)),
        *_compared(stores, snapshot, series, span, rows, minutes, proven),
        *(f"{count}: none is missing there" for count in counts if not subtract((span,), (count.span,))),
    )
    level = proven.get(series, NOTHING_PROVEN)
    level = level.and_verified((span,)) if by_trades else level  # also before it is reconciled
    dispute = _dispute(differing(span, [file for file in known if file.series == series], ends)) if is_disputed else ""
    proof = _proof(contradicting, dispute, compared, level.within(snapshot.covered(series)), span)
    standing, sentence = _standing(snapshot, series, span, candle, covered, gaps, proof, suspected)
    if standing is CandleState.QUIET:
        sentence = f"{sentence}{_downtime(span, incidents)}"
    return Explanation(
        series=series,
        span=span,
        standing=standing,
        sentence=sentence,
        candle=candle,
        coverage=covered,
        proof=proof,
        evidence=tuple(_evidence(stores, snapshot, series, span, grants, files, without)),
        losers=tuple(_losers(lost)),
        gaps=gaps,
        refutations=tuple(refuted),
        contradictions=contradicting,
        conflicts=tuple(conflicts),
        suspicions=suspected,
        letters=tuple(letters),
        withdrawals=tuple(
            (withdrawal, files[withdrawal.file_id].name if withdrawal.file_id is not None else None)
            for withdrawal in withdrawn
        ),
    )


def _is_about(suspicion: SuspicionRecord, series: Series) -> bool:
    """Return whether a suspicion concerns a series: it is about all pairs, or about the same or a finer interval."""
    return suspicion.pair is None or suspicion.interval <= series.interval


def _candle(interval: Interval, moment: str, now: int) -> Span:
    """Return the span of the candle that contains a moment.

    Raises:
        InvalidRequest: The moment is malformed, or no candle can be there.
    """
    time = parse_moment(moment.strip())
    if not EARLIEST_TIME <= time <= now:
        raise InvalidRequest(f"{moment} is not between 2011, before which nothing was traded, and now, {iso(now)}")
    return Span(interval.floor(time), interval.floor(time) + interval.seconds)


def _read(stores: Stores, series: Series, span: Span) -> pl.DataFrame:
    """Return the candles of a span; none if their file is damaged, which the lake has then recorded."""
    try:
        return stores.lake.read(series, span.start, span.end)
    except DamagedFile:
        return pl.DataFrame(schema=CANDLE_SCHEMA)


def _losses(stores: Stores, series: Series, span: Span) -> pl.DataFrame:
    """Return the rows of the ledger in a span; none if a file of it is damaged."""
    try:
        return stores.lake.replaced(series, span.start, span.end)
    except DamagedFile:
        return pl.DataFrame(schema=LEDGER_SCHEMA)


def _stored(row: Mapping[str, Any]) -> Stored:
    opened, high, low, close, volume, trades = (row[name] for name in VALUES)
    return Stored((opened, high, low, close, volume, trades), row["source"], row["release"])


def _losers(ledger: pl.DataFrame) -> Iterator[Loser]:
    for row in ledger.iter_rows(named=True):
        yield Loser(_stored(row), row["lost"], row["by"], row["at"])


# --- the state


def _standing(
    snapshot: CatalogSnapshot,
    series: Series,
    span: Span,
    candle: Stored | None,
    covered: CoverageRecord | None,
    gaps: Sequence[Gap],
    proof: CandleProof,
    suspicions: Sequence[SuspicionRecord],
) -> tuple[CandleState, str]:
    if candle is not None:
        beside = "" if covered else ", for which no source answers"
        missing = f"; it is part of a gap: {_routes(gaps, span)}" if gaps else ""
        return CandleState.CANDLE, f"a candle from {candle.source}{beside}{missing}"
    if covered is not None:
        return CandleState.QUIET, f"no candle: nobody traded, {_how_quiet(span, proof, suspicions)}"
    if finer := _made_on_reading(snapshot, series, span, gaps):
        return CandleState.GAP, f"no candle is stored; reading makes it of those of {finer.value} minutes"
    if gaps:
        return CandleState.GAP, f"no candle, and no source answers for it: {_routes(gaps, span)}"
    return CandleState.NOT_EXPECTED, f"no candle, and none is expected: {_why_not_expected(snapshot, series, span)}"


def _made_on_reading(snapshot: CatalogSnapshot, series: Series, span: Span, gaps: Sequence[Gap]) -> Interval | None:
    """Return the finer interval of which reading makes a candle; None if the series is stored, or nothing covers it."""
    if snapshot.is_wanted(run_spec(), series):
        return None
    legs = [leg for gap in gaps for leg in legs_over(gap, span)]
    found = {leg.resampled_from if leg.route is Route.RESAMPLE and leg.is_ready else None for leg in legs}
    return found.pop() if len(found) == 1 else None


def _how_quiet(span: Span, proof: CandleProof, suspicions: Sequence[SuspicionRecord]) -> str:
    unproven = [suspicion for suspicion in suspicions if suspicion.state is SuspicionState.UNPROVEN]
    checked = normalise(suspicion.span for suspicion in suspicions if suspicion.state is SuspicionState.PROVEN_QUIET)
    if proof.state is ProofState.VERIFIED:
        return "and that is verified"
    if proof.state is ProofState.RECONCILED or not (unproven or subtract((span,), checked)):
        return "and that is reconciled: no trade is missing around it"
    if not unproven:
        return "as the source says; it was not compared with anything"
    return f"as the source says; that is hard to believe ({unproven[-1].state}: {unproven[-1].reason})"


def _downtime(span: Span, incidents: Sequence[Incident]) -> str:
    """Return the note on incidents that overlap a quiet time; empty if there is none."""
    found = [incident for incident in incidents if incident.span.overlaps(span)]
    if not found:
        return ""
    is_all = not subtract((span,), normalise(incident.span for incident in found))
    return (
        f"; exchange down{'' if is_all else ' for a part of it'}, as its status reported: {'; '.join(map(str, found))}"
    )


def _routes(gaps: Sequence[Gap], span: Span) -> str:
    routes = dict.fromkeys(str(leg.route) for gap in gaps for leg in legs_over(gap, span))
    files = dict.fromkeys(gap.required_csv_file for gap in gaps if gap.required_csv_file)
    fetch = f"; archives with it: {', '.join(files)}" if files else ""
    return f"route {', then '.join(routes) or 'NONE'}{fetch}"


def _why_not_expected(snapshot: CatalogSnapshot, series: Series, span: Span) -> str:
    if span.end > series.interval.floor(snapshot.now):
        return "it has not ended yet"
    first = snapshot.first_known.get(series.pair)
    if first is None:
        return f"the first trade of {series.pair} is unknown"
    if span.end <= first:
        return f"the first known trade of {series.pair} is at {iso(first)}"
    return f"{series.pair} is delisted; its last evidence ends at {iso(snapshot.last_evidence(series.pair))}"


# --- the proof


def _proof(
    contradictions: Sequence[ContradictionRecord], dispute: str, compared: tuple[str, ...], proven: Proven, span: Span
) -> CandleProof:
    open_ = {contradiction.state: contradiction.reason for contradiction in contradictions}
    for state, state_ in (
        (ContradictionState.CONFLICT, ProofState.CONFLICT),
        (ContradictionState.REFUTED, ProofState.REFUTED),
    ):
        if state in open_:
            return CandleProof(state_, (open_[state],))
    if not subtract((span,), proven.verified):
        return CandleProof(ProofState.VERIFIED, compared)
    if dispute:
        return CandleProof(ProofState.CONFLICT, (dispute,))
    if not subtract((span,), proven.reconciled):
        return CandleProof(ProofState.RECONCILED, compared)
    return CandleProof(ProofState.NOT_TESTED)


def _dispute(names: Sequence[str]) -> str:
    """Return the sentence about a disputed candle."""
    return (
        f"{' and '.join(names) or 'two files of one release'} differ at the same trade count; which of the two is "
        "kept follows from a fixed order of values, and proves nothing"
    )


def _is_by_trades(series: Series, span: Span, rows: pl.DataFrame, minutes: Sequence[GrantRecord]) -> bool:
    """Return whether trades prove a minute: its candle was made of them, or it has none and they cover it."""
    is_made = rows.is_empty() or rows["source"][0] == Source.TRADES.value
    return series.interval is Interval.M1 and is_made and not subtract((span,), _trades(minutes))


def _accounts(rows: pl.DataFrame, *, by_trades: bool, is_confirmed: bool) -> Iterator[str]:
    """Yield sentences on agreeing accounts of the same interval: the trades of a minute, and a second source."""
    if by_trades:
        yield f"it was made of the trades themselves: {_what(rows)}"
    if is_confirmed:
        yield f"a second, independent source has the same values: {_what(rows)}"


def _trades(minutes: Sequence[GrantRecord]) -> Spans:
    return normalise(minute.span for minute in minutes if minute.source == Source.TRADES)


def _compared(
    stores: Stores,
    snapshot: CatalogSnapshot,
    series: Series,
    span: Span,
    rows: pl.DataFrame,
    minutes: Sequence[GrantRecord],
    proven: Mapping[Series, Proven],
) -> Iterator[str]:
    """Yield sentences on agreement with trades and with the nearest finer and the nearest coarser interval."""
    interval = series.interval
    if interval is not Interval.M1 and not subtract((span,), _trades(minutes)):
        how = _adding_up(stores, Series(series.pair, Interval.M1), span, interval, rows)
        if how is not None:
            yield f"all trades within it were requested, and add up to it: {_what(rows)}{how}"
    for fine in interval.finer:
        finer = Series(series.pair, fine)
        if _is_covered(snapshot, finer, span):
            how = _adding_up(stores, finer, span, interval, rows)
            if how is not None:
                is_verified = not subtract((span,), proven.get(finer, NOTHING_PROVEN).verified)
                yield f"{_of_finer(fine, rows, is_verified=is_verified)}{how}"
            break
    yield from _of_coarser(stores, snapshot, series, span)


def _of_coarser(stores: Stores, snapshot: CatalogSnapshot, series: Series, span: Span) -> Iterator[str]:
    """Yield a sentence if the nearest coarser candle agrees with the candles within it."""
    interval = series.interval
    for coarse in Interval:
        coarser = Series(series.pair, coarse)
        bucket = Span(coarse.floor(span.start), coarse.floor(span.start) + coarse.seconds)
        if interval not in coarse.finer or not _is_covered(snapshot, coarser, bucket):
            continue
        candles = _read(stores, coarser, bucket)
        if Source.RESAMPLED.value in candles["source"]:  # made of these candles, so it is no independent account
            continue
        if not _is_covered(snapshot, series, bucket):
            break
        how = _adding_up(stores, series, bucket, coarse, candles)
        if how is not None:
            yield (
                f"it adds up, with the others, to the {coarse.value}-minute candle of {iso(bucket.start)}{how}: "
                "trades and volume were compared, and no trade is missing; its own open, high, low and close were "
                "not compared"
            )
        break


def _of_finer(fine: Interval, rows: pl.DataFrame, *, is_verified: bool) -> str:
    """Return the sentence on the finer candles within a candle."""
    if rows.height and rows["source"][0] == Source.RESAMPLED.value:
        theirs = "were compared" if is_verified else "were not compared"
        return f"it was made of the {fine.value}-minute candles within it, whose own open, high, low and close {theirs}"
    return f"the {fine.value}-minute candles within it add up to it: {_what(rows)}"


def _what(rows: pl.DataFrame) -> str:
    """Return the clause that names the compared values."""
    return "open, high, low, close, volume and trades were compared" if rows.height else "none has a trade"


def _adding_up(stores: Stores, finer: Series, span: Span, interval: Interval, candle: pl.DataFrame) -> str | None:
    """Return a note on how the finer candles of a span add up to a candle; None if they do not.

    The note is empty if they add up exactly, and names the rounding and a different flow otherwise. Without a candle,
    they add up if they have none either.
    """
    made = resample(_read(stores, finer, span), interval)
    different = differences(made, candle)
    apart = flow_apart(made, candle)
    flow = f", but not in {' and '.join(apart)}, which decides nothing" if apart else ""
    if different.is_empty():
        return flow

    def read(interval: Interval, start: int, end: int) -> pl.DataFrame:
        return _read(stores, Series(finer.pair, interval), Span(start, end))

    units = Rounding(read, finer.interval, interval).within(different)
    if len(units) < different.height:
        return None
    return f", {equal_within(max(units.values()))}, one side is rounded{flow}"


def _is_covered(snapshot: CatalogSnapshot, series: Series, span: Span) -> bool:
    return intersect(snapshot.covered(series), (span,)) == (span,)


# --- the evidence


def _evidence(
    stores: Stores,
    snapshot: CatalogSnapshot,
    series: Series,
    span: Span,
    grants: Sequence[GrantRecord],
    files: Mapping[int, FileRecord],
    without: Sequence[FileRecord],
) -> Iterator[Evidence]:
    with ArchiveReader() as reader:
        for grant in grants:
            if grant.file_id is not None:
                yield _of_file(stores, files[grant.file_id], span, grant, reader)
            else:
                yield _of_answer(snapshot, series, span, grant)
        known = {grant.file_id for grant in grants}
        for record in without:
            if record.id not in known and (found := _of_file(stores, record, span, None, reader)).lines:
                yield found


def _of_file(
    stores: Stores, record: FileRecord, span: Span, grant: GrantRecord | None, reader: ArchiveReader
) -> Evidence:
    source = Source.TRADES if record.kind == Kind.TRADES else Source.CSV
    where = grant.span if grant is not None else None
    verified_at = grant.verified_at if grant is not None else record.updated_at
    file = find_again(stores.settings, record)
    if file is None:
        gone = f"the file is no longer at {record.location}, nor in {stores.settings.drop}"
        return Evidence(source, where, verified_at, record, note=gone)
    try:
        lines = find_lines(file, span, reader)
    except (UnreadableArchive, OSError) as error:
        return Evidence(source, where, verified_at, record, note=f"the file cannot be read any more: {error}")
    if record.sha256 is not None and lines.sha256 != record.sha256:
        return Evidence(source, where, verified_at, record, note=f"{file.location} is another file now")
    note = None if lines.count else "the file has no line of that time: nobody traded"
    return Evidence(source, where, verified_at, record, lines.first, lines.count, note)


def _of_answer(snapshot: CatalogSnapshot, series: Series, span: Span, grant: GrantRecord) -> Evidence:
    request = made_of = note = None
    if grant.source in (Source.CSV, RECOVERED):  # a grant of an archive normally names its file
        note = "only by its row in the lake: the catalog with its origin was lost"
    elif grant.source == Source.OHLC:
        # `since` is exclusive on the candle's start.
        minutes = series.interval.value
        request = f"GET /0/public/OHLC?pair={series.pair}&interval={minutes}&since={span.start - 1}"
    elif grant.source == Source.TRADES:
        request = f"GET /0/public/Trades?pair={series.pair}&since={span.start * 10**9}"
    elif grant.source == Source.RESAMPLED:
        tried = [
            attempt
            for attempt in snapshot.attempts.get(series, ())
            if attempt.route == Route.RESAMPLE and attempt.error is None and attempt.span.overlaps(span)
        ]
        of_then = [attempt for attempt in tried if attempt.made_at <= grant.verified_at]
        made_of = (of_then or tried)[-1].origin if tried else None
    return Evidence(grant.source, grant.span, grant.verified_at, note=note, request=request, made_of=made_of)
