"""Catalog records of proof: proven and confirmed spans, contradictions, suspicions, and candle counts by month."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from kraken_pipeline.coverage.proof import NOTHING_PROVEN, Proven
from kraken_pipeline.coverage.ranges import Span, Spans, intersect, normalise, subtract, touched_candles, union
from kraken_pipeline.market.candle import Values
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.schema import (
    candle_counts,
    confirmations,
    contradictions,
    of_pairs,
    proofs,
    suspicions,
)
from kraken_pipeline.storage.catalog.seals import intact, is_intact, sealed
from kraken_pipeline.storage.catalog.states import ContradictionState, ProofLevel, SuspicionState
from kraken_pipeline.storage.records import trade_counts
from kraken_pipeline.storage.records.refutations import values_of
from kraken_pipeline.storage.records.series_rows import by_series

_KEYS = 500
_VERIFIED = str(ProofLevel.VERIFIED)

# --- proofs and confirmations


def proofs_of(connection: sa.Connection, pairs: Collection[str] | None = None) -> dict[Series, Proven]:
    """Return what is proven of every series, or of those of some pairs, without what rests on suspicious quiet time.

    Two intervals that lack the same time agree that there was no trade, and can both be wrong. Time that was counted by
    ids of trades is reconciled despite any suspicion, because no trade is missing there.
    """
    found = added_up(connection, pairs)
    suspected = suspicious(connection, found, pairs)
    found |= {series: found[series].without(spans) for series, spans in suspected.items()}
    for series, counts in trade_counts.proven(connection, pairs).items():
        spans = normalise(count.span for count in counts)
        found[series] = found.get(series, NOTHING_PROVEN).and_reconciled(spans)
    return found


def added_up(connection: sa.Connection, pairs: Collection[str] | None = None) -> dict[Series, Proven]:
    """Return where intervals agree, including on quiet time that is under suspicion."""
    query = sa.select(proofs).where(of_pairs(proofs.c.pair, pairs))
    query = query.order_by(proofs.c.pair, proofs.c.interval, proofs.c.start)
    found: dict[Series, Proven] = {}
    for series, rows in by_series(intact(proofs, connection.execute(query).all())):
        spans = [(Span(start, end), level) for _, _, start, end, level, _ in rows]
        verified = tuple(span for span, level in spans if level == _VERIFIED)
        every = verified if len(verified) == len(spans) else normalise(span for span, _ in spans)
        found[series] = Proven(every, verified)
    return found


def proven(connection: sa.Connection, pairs: Collection[str] | None = None) -> dict[Series, Spans]:
    """Return the spans of `proofs_of` that are at least reconciled, of every series or of those of some pairs."""
    return {series: found.reconciled for series, found in proofs_of(connection, pairs).items()}


def suspicious(
    connection: sa.Connection, wanted: Iterable[Series], pairs: Collection[str] | None = None
) -> dict[Series, Spans]:
    """Return the suspicious quiet time of some series that is not checked yet, extended to whole candles.

    A suspicion about one interval applies to every interval with a candle there, because candles made from that
    interval lack the same trades.
    """
    times: dict[str | None, list[Span]] = {}
    for suspicion in suspicions_of(connection, pairs):
        if suspicion.state is SuspicionState.UNPROVEN:
            times.setdefault(suspicion.pair, []).append(suspicion.span)
    found = {
        series: touched_candles(normalise((*times.get(series.pair, ()), *times.get(None, ()))), series.interval)
        for series in (wanted if times else ())
        if series.pair in times or None in times
    }
    return {series: spans for series, spans in found.items() if spans}


def replace_proofs(connection: sa.Connection, found: Mapping[Series, Proven]) -> None:
    """Replace the proofs of some series."""
    if found:
        is_series = (proofs.c.pair == sa.bindparam("of_pair")) & (proofs.c.interval == sa.bindparam("of_interval"))
        keys = [{"of_pair": series.pair, "of_interval": series.interval.value} for series in found]
        connection.execute(sa.delete(proofs).where(is_series), keys)
    rows = []
    for series, proven in found.items():
        levels = {
            ProofLevel.VERIFIED: proven.verified,
            ProofLevel.RECONCILED: subtract(proven.reconciled, proven.verified),
        }
        rows += [
            sealed(proofs, {**_key(series), "start": span.start, "end": span.end, "level": str(level)})
            for level, spans in levels.items()
            for span in spans
        ]
    if rows:
        connection.execute(sa.insert(proofs), rows)


def _key(series: Series) -> dict[str, object]:
    return {"pair": series.pair, "interval": series.interval.value}


def confirmed(connection: sa.Connection, pairs: Collection[str] | None = None) -> dict[Series, Spans]:
    """Return the spans confirmed by a second source, of every series or of those of some pairs."""
    table = confirmations
    query = (
        sa.select(table).where(of_pairs(table.c.pair, pairs)).order_by(table.c.pair, table.c.interval, table.c.start)
    )
    found: dict[Series, list[Span]] = {}
    for row in connection.execute(query).mappings():
        if is_intact(table, row):
            span = Span(row["start"], row["end"])
            found.setdefault(Series(row["pair"], Interval(row["interval"])), []).append(span)
    return {series: tuple(spans) for series, spans in found.items()}


def confirm(connection: sa.Connection, found: Mapping[Series, Spans]) -> None:
    """Record the spans confirmed by a second source."""
    pairs = {series.pair for series, spans in found.items() if spans}
    known = confirmed(connection, pairs) if pairs else {}
    for series, spans in found.items():
        if subtract(spans, known.get(series, ())):
            _replace_confirmed(connection, series, union(known.get(series, ()), spans))


def unconfirm(connection: sa.Connection, changing: Mapping[Series, Spans]) -> None:
    """Delete the confirmations and proven counts of some spans before their candles or their evidence change."""
    trade_counts.void(connection, changing)
    for series, known in confirmed(connection, {series.pair for series in changing}).items():
        if intersect(known, changing.get(series, ())):
            _replace_confirmed(connection, series, subtract(known, changing[series]))


def _replace_confirmed(connection: sa.Connection, series: Series, spans: Spans) -> None:
    table = confirmations
    is_one = (table.c.pair == series.pair) & (table.c.interval == series.interval.value)
    connection.execute(sa.delete(table).where(is_one))
    rows = [sealed(table, {**_key(series), "start": span.start, "end": span.end}) for span in spans]
    if rows:
        connection.execute(sa.insert(table), rows)


# --- contradictions


@dataclass(frozen=True, slots=True)
class ContradictionRecord:
    """A contradiction between two intervals of a pair; see `schema.contradictions` for the columns."""

    pair: str
    fine: Interval
    coarse: Interval
    span: Span
    short_side: str | None
    fine_candle: Values | None
    coarse_candle: Values | None
    fine_trades: int
    coarse_trades: int
    outlier: Interval | None
    state: ContradictionState
    reason: str
    made_at: int
    changed_at: int

    @property
    def key(self) -> tuple[Interval, Interval, int]:
        """The key that is unique among the contradictions of a pair."""
        return self.fine, self.coarse, self.span.start

    @property
    def values(self) -> tuple[Span, Values | None, Values | None, int, int]:
        """The span and the contradicting values; equal values mean the same contradiction."""
        return self.span, self.fine_candle, self.coarse_candle, self.fine_trades, self.coarse_trades


def contradictions_of(
    connection: sa.Connection,
    pairs: Collection[str] | None = None,
    states: Collection[ContradictionState] = tuple(ContradictionState),
) -> list[ContradictionRecord]:
    """Return contradictions by pair, interval and time, settled ones included by default; of some pairs or of all."""
    table = contradictions
    query = (
        sa.select(table)
        .where(table.c.state.in_([str(state) for state in states]))
        .order_by(table.c.pair, table.c.coarse, table.c.fine, table.c.start)
    )
    query = query.where(of_pairs(table.c.pair, pairs))
    return [_contradiction(row) for row in connection.execute(query).mappings()]


def _contradiction(row: sa.RowMapping) -> ContradictionRecord:
    return ContradictionRecord(
        pair=row["pair"],
        fine=Interval(row["fine"]),
        coarse=Interval(row["coarse"]),
        span=Span(row["start"], row["end"]),
        short_side=row["short_side"],
        fine_candle=values_of(row["fine_candle"]),
        coarse_candle=values_of(row["coarse_candle"]),
        fine_trades=row["fine_trades"],
        coarse_trades=row["coarse_trades"],
        outlier=None if row["culprit"] is None else Interval(row["culprit"]),
        state=ContradictionState(row["state"]),
        reason=row["reason"],
        made_at=row["made_at"],
        changed_at=row["changed_at"],
    )


def keep_contradictions(connection: sa.Connection, records: Iterable[ContradictionRecord]) -> None:
    """Record contradictions, replacing earlier records of the same buckets."""
    rows = [
        {
            "pair": record.pair,
            "fine": record.fine.value,
            "coarse": record.coarse.value,
            "start": record.span.start,
            "end": record.span.end,
            "short_side": record.short_side,
            "fine_candle": None if record.fine_candle is None else list(record.fine_candle),
            "coarse_candle": None if record.coarse_candle is None else list(record.coarse_candle),
            "fine_trades": record.fine_trades,
            "coarse_trades": record.coarse_trades,
            "culprit": None if record.outlier is None else record.outlier.value,
            "state": record.state,
            "reason": record.reason,
            "made_at": record.made_at,
            "changed_at": record.changed_at,
        }
        for record in records
    ]
    if not rows:
        return
    table = contradictions
    keys = [{f"_{name}": row[name] for name in ("pair", "fine", "coarse", "start")} for row in rows]
    is_one = [table.c[name] == sa.bindparam(f"_{name}") for name in ("pair", "fine", "coarse", "start")]
    connection.execute(sa.delete(table).where(*is_one), keys)
    connection.execute(sa.insert(table), rows)


def settled(record: ContradictionRecord, now: int) -> ContradictionRecord:
    """Return the record of a contradiction as settled."""
    return replace(record, state=ContradictionState.SETTLED, changed_at=now)


# --- suspicions


@dataclass(frozen=True, slots=True)
class SuspicionRecord:
    """A suspicion about quiet time; see `schema.suspicions`. The pair is None for an outage of all pairs."""

    pair: str | None
    interval: Interval
    span: Span
    reason: str
    state: SuspicionState
    made_at: int
    changed_at: int
    id: int = 0


def suspicions_of(connection: sa.Connection, pairs: Collection[str] | None = None) -> list[SuspicionRecord]:
    """Return suspicions in order of time: those of some pairs and the outages of all pairs, or all of them."""
    query = sa.select(suspicions).order_by(suspicions.c.start, suspicions.c.id)
    query = query.where(suspicions.c.pair.is_(None) | of_pairs(suspicions.c.pair, pairs))
    return [
        SuspicionRecord(
            row["pair"],
            Interval(row["interval"]),
            Span(row["start"], row["end"]),
            row["reason"],
            SuspicionState(row["state"]),
            row["made_at"],
            row["changed_at"],
            row["id"],
        )
        for row in connection.execute(query).mappings()
    ]


def suspect(connection: sa.Connection, found: Iterable[SuspicionRecord]) -> None:
    """Record suspicions."""
    rows = [
        {
            "pair": suspicion.pair,
            "interval": suspicion.interval.value,
            "start": suspicion.span.start,
            "end": suspicion.span.end,
            "reason": suspicion.reason,
            "state": suspicion.state,
            "made_at": suspicion.made_at,
            "changed_at": suspicion.changed_at,
        }
        for suspicion in found
    ]
    if rows:
        connection.execute(sa.insert(suspicions), rows)


def judge(connection: sa.Connection, ids: Collection[int], state: SuspicionState, now: int) -> None:
    """Set the state of some suspicions."""
    connection.execute(sa.update(suspicions).where(suspicions.c.id.in_(list(ids))).values(state=state, changed_at=now))


def dispel(connection: sa.Connection, ids: Sequence[int]) -> None:
    """Delete suspicions about time that is no longer quiet or no longer covered."""
    for start in range(0, len(ids), _KEYS):
        connection.execute(sa.delete(suspicions).where(suspicions.c.id.in_(list(ids[start : start + _KEYS]))))


# --- candles by month


def counts_of(connection: sa.Connection, pairs: Collection[str] | None = None) -> dict[Series, dict[int, list[int]]]:
    """Return series → year → the number of candles in the lake in each of the twelve months."""
    query = sa.select(candle_counts)
    query = query.where(of_pairs(candle_counts.c.pair, pairs))
    found: dict[Series, dict[int, list[int]]] = {}
    for pair, interval, year, months, _ in intact(candle_counts, connection.execute(query).all()):
        found.setdefault(Series(pair, Interval(interval)), {})[year] = months
    return found


def forget_counts(connection: sa.Connection, series: Series) -> None:
    """Delete the candle counts of a series, until reconciliation counts again."""
    table = candle_counts
    is_one = (table.c.pair == series.pair) & (table.c.interval == series.interval.value)
    connection.execute(sa.delete(table).where(is_one))


def keep_counts(connection: sa.Connection, counts: Mapping[Series, Mapping[int, Sequence[int]]]) -> None:
    """Record the candle counts of some years of some series, by month; earlier counts of these years are replaced."""
    table = candle_counts
    keys = [{"of_pair": s.pair, "of_interval": s.interval.value, "of_year": year} for s in counts for year in counts[s]]
    if keys:
        is_series = (table.c.pair == sa.bindparam("of_pair")) & (table.c.interval == sa.bindparam("of_interval"))
        connection.execute(sa.delete(table).where(is_series, table.c.year == sa.bindparam("of_year")), keys)
    rows = [
        {**_key(series), "year": year, "months": list(months)}
        for series, years in counts.items()
        for year, months in years.items()
        if any(months)
    ]
    if rows:
        connection.execute(sa.insert(table), [sealed(table, row) for row in rows])
