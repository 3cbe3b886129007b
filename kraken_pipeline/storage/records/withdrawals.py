"""Catalog records of withdrawals: of files, releases and spans, and of the evidence that is removed with them.

`workflow.withdraw.resolve` defines the order of a withdrawal: evidence is removed before candles.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span, Spans, intersect, subtract
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.schema import attempts, conflicts, containers, files, grants, withdrawals
from kraken_pipeline.storage.catalog.seals import sealed
from kraken_pipeline.storage.catalog.states import ContradictionState, FileStatus
from kraken_pipeline.storage.records import file_records, proof_records, refutations
from kraken_pipeline.storage.records.file_records import ContainerRecord, FileRecord

_IDS = 500


@dataclass(frozen=True, slots=True)
class WithdrawalRecord:
    """A withdrawal from a series; see `schema.withdrawals` for the columns."""

    series: Series
    span: Span
    file_id: int | None
    candles: int
    reason: str
    made_at: int


# --- files and containers


def files_called(connection: sa.Connection, name: str) -> list[FileRecord]:
    """Return the files with this name, location or SHA-256."""
    condition = sa.or_(files.c.name == name, files.c.location == name, files.c.sha256 == name)
    return file_records.matching(connection, condition)


def same_files(connection: sa.Connection, records: Iterable[FileRecord]) -> list[FileRecord]:
    """Return these files, and those of the same series with the same content, whatever their names."""
    found = {record.id: record for record in records}
    sums = sorted({record.sha256 for record in found.values() if record.sha256 is not None})
    what = {(record.kind, record.series, record.sha256) for record in found.values()}
    for start in range(0, len(sums), _IDS):
        for record in file_records.matching(connection, files.c.sha256.in_(sums[start : start + _IDS])):
            if (record.kind, record.series, record.sha256) in what:
                found[record.id] = record
    return [found[file_id] for file_id in sorted(found)]


def containers_called(connection: sa.Connection, name: str) -> list[ContainerRecord]:
    """Return the containers with this name or SHA-256."""
    return [
        container for container in file_records.all_containers(connection) if name in (container.name, container.sha256)
    ]


def release_ends(connection: sa.Connection) -> dict[str, int | None]:
    """Return SHA-256 → the end of the container's release, in seconds since the epoch; None where it is no release."""
    query = sa.select(containers.c.sha256, containers.c.end)
    return {row.sha256: row.end for row in connection.execute(query)}


def members(connection: sa.Connection, sha256: str, pair: str | None = None) -> list[FileRecord]:
    """Return the files of a container that are on record; of one pair or of all."""
    condition = files.c.container == sha256
    return file_records.matching(connection, condition if pair is None else condition & (files.c.pair == pair))


def some_names(connection: sa.Connection, count: int) -> tuple[list[str], list[str]]:
    """Return up to `count` names of ingested files, and as many of containers."""
    loose = sa.select(files.c.name).where(files.c.status == FileStatus.COMPLETED).distinct()
    return (
        list(connection.scalars(loose.order_by(files.c.name).limit(count))),
        list(connection.scalars(sa.select(containers.c.name).distinct().order_by(containers.c.name).limit(count))),
    )


def withdraw_files(connection: sa.Connection, ids: Sequence[int], reason: str, now: int) -> None:
    """Withdraw files: they are not ingested again, and their grants and conflicts are deleted."""
    for start in range(0, len(ids), _IDS):
        some = ids[start : start + _IDS]
        values: dict[str, Any] = {"status": FileStatus.WITHDRAWN, "reason": reason, "updated_at": now}
        # A withdrawn file has no ingested window.
        values |= {"taken_start": None, "taken_end": None}
        connection.execute(sa.update(files).where(files.c.id.in_(some)).values(**values))
        connection.execute(sa.delete(grants).where(grants.c.file_id.in_(some)))
        connection.execute(sa.delete(conflicts).where(conflicts.c.file_id.in_(some)))


def withdraw_container(connection: sa.Connection, record: ContainerRecord, reason: str, run_id: str, now: int) -> None:
    """Withdraw a container with all its members, including those that were never read."""
    if record.sha256 in file_records.withdrawn_containers(connection):
        return
    connection.execute(
        sa.insert(files).values(
            location=record.name,
            name=record.name,
            container=record.sha256,
            kind=record.kind,
            status=FileStatus.WITHDRAWN,
            reason=reason,
            size=0,
            rows=0,
            candles_stored=0,
            rows_rejected=0,
            run_id=run_id,
            updated_at=now,
        )
    )


def read_again(
    connection: sa.Connection, series: Series, spans: Spans, reason: str, now: int, *, without: Collection[Kind] = ()
) -> list[FileRecord]:
    """Reset to PENDING the files that have answered for any of some spans, and their duplicates.

    Args:
        connection: A write transaction.
        series: The series.
        spans: The spans that have to be answered for again.
        reason: The reason, as text.
        now: The current time, in seconds since the epoch.
        without: The kinds of files that are not read again.

    Returns:
        The files that had been ingested.
    """
    is_series = (files.c.pair == series.pair) & (files.c.interval == series.interval.value)
    known = [record for record in file_records.matching(connection, is_series) if record.kind not in without]
    again = [
        record
        for record in known
        if record.status is FileStatus.COMPLETED and any(intersect((span,), spans) for span in _reach(record))
    ]
    places = {record.location for record in again}
    sums = {record.sha256 for record in again}
    # Only one of several equal files was ingested, and another one may be the one that still exists.
    duplicates = [
        record.id
        for record in known
        if record.status is FileStatus.SKIPPED and (record.sha256 in sums or record.location in places)
    ]
    ids = [*(record.id for record in again), *duplicates]
    for start in range(0, len(ids), _IDS):
        is_one = files.c.id.in_(ids[start : start + _IDS])
        values = {"status": FileStatus.PENDING, "reason": reason, "updated_at": now}
        connection.execute(sa.update(files).where(is_one).values(**values))
    return again


def _reach(record: FileRecord) -> list[Span]:
    """Return the span of a file's rows and the span it answers for; a loose file does not answer for its last row."""
    spans = [] if record.span is None else [record.span]
    if record.start is not None and record.end is not None and record.start < record.end:
        spans.append(Span(record.start, record.end))
    return spans


# --- evidence


def trim_grants(
    connection: sa.Connection, series: Series, spans: Spans, source: str | None = None, file_id: int | None = None
) -> None:
    """Cut some spans out of the grants of a series; call `evidence_records.renew` afterwards to update the coverage.

    A grant that is cut into pieces keeps its id for the first piece. The others get new ids, which would look like
    answers later than the refutations there. These refutations therefore count from now on.

    Args:
        connection: A write transaction.
        series: The series.
        spans: The spans to cut out.
        source: Only grants of this source; all where it is None.
        file_id: Only grants of this file; all where it is None.
    """
    if not spans:
        return
    query = sa.select(grants).where(_overlaps(grants, series, spans))
    if source is not None:
        query = query.where(grants.c.source == source)
    if file_id is not None:
        query = query.where(grants.c.file_id == file_id)
    gone: list[int] = []
    shorter: list[dict[str, Any]] = []
    pieces: list[dict[str, Any]] = []
    for row in connection.execute(query).mappings():
        whole = Span(row["start"], row["end"])
        rest = subtract((whole,), spans)
        if not rest:
            gone.append(row["id"])
        elif rest != (whole,):
            first, *others = (sealed(grants, _piece(row, part, whole)) for part in rest)
            shorter.append(
                {"of_id": row["id"], **{name: first[name] for name in ("start", "end", "trades", "checksum")}}
            )
            pieces += others
    for start in range(0, len(gone), _IDS):
        connection.execute(sa.delete(grants).where(grants.c.id.in_(gone[start : start + _IDS])))
    if shorter:
        connection.execute(sa.update(grants).where(grants.c.id == sa.bindparam("of_id")), shorter)
    if pieces:
        connection.execute(sa.insert(grants), pieces)
        _count_refutations_from_now(connection, series, [Span(piece["start"], piece["end"]) for piece in pieces])


def _piece(row: Mapping[Any, Any], part: Span, whole: Span) -> dict[str, Any]:
    kept = {name: row[name] for name in ("pair", "interval", "source", "file_id", "verified_at")}
    return {
        **kept,
        "start": part.start,
        "end": part.end,
        "trades": row["trades"] * part.seconds // whole.seconds,
    }


def _count_refutations_from_now(connection: sa.Connection, series: Series, pieces: Sequence[Span]) -> None:
    active = refutations.active(connection, {series.pair}).get(series, [])
    ids = [refutation.id for refutation in active if any(refutation.span.overlaps(piece) for piece in pieces)]
    newest = connection.scalar(sa.select(sa.func.coalesce(sa.func.max(grants.c.id), 0)))
    refutations.change(connection, ids, after_grant=int(newest or 0))


def forget_conflicts(connection: sa.Connection, series: Series, spans: Spans) -> None:
    """Delete the conflicts between replies of the exchange and candles of some spans, which are gone."""
    query = sa.select(conflicts).where(_overlaps(conflicts, series, spans), conflicts.c.file_id.is_(None))
    ids = [
        row["id"]
        for row in connection.execute(query).mappings()
        if not subtract((Span(row["start"], row["end"]),), spans)
    ]
    for start in range(0, len(ids), _IDS):
        connection.execute(sa.delete(conflicts).where(conflicts.c.id.in_(ids[start : start + _IDS])))


def forget_answers(connection: sa.Connection, touched: Mapping[Series, Spans]) -> None:
    """Delete the answered attempts at some spans, so that every route can be tried again."""
    for series, spans in touched.items():
        query = sa.select(attempts).where(_overlaps(attempts, series, spans), attempts.c.error.is_(None))
        ids = [row["id"] for row in connection.execute(query).mappings() if _meets(row, spans)]
        for start in range(0, len(ids), _IDS):
            connection.execute(sa.delete(attempts).where(attempts.c.id.in_(ids[start : start + _IDS])))


def reopen(connection: sa.Connection, pair: str, touched: Mapping[Series, Spans], now: int) -> None:
    """Revert the results of comparisons: end refutations, settle contradictions and delete proofs.

    The spans are marked for reconciliation, which finds again what still holds.
    """
    ended = [
        refutation.id
        for series, found in refutations.active(connection, {pair}).items()
        for refutation in found
        if intersect((refutation.span,), touched.get(series, ()))
    ]
    refutations.end(connection, ended, now)
    by_interval = {series.interval: spans for series, spans in touched.items()}
    open_ = [ContradictionState.REFUTED, ContradictionState.CONFLICT]
    records = proof_records.contradictions_of(connection, [pair], open_)
    proof_records.keep_contradictions(
        connection,
        [
            proof_records.settled(contradiction, now)
            for contradiction in records
            if any(
                intersect((contradiction.span,), by_interval.get(interval, ()))
                for interval in (contradiction.fine, contradiction.coarse)
            )
        ],
    )
    proven = proof_records.added_up(connection, [pair])
    proof_records.replace_proofs(
        connection,
        {series: proven[series].without(touched[series]) for series in proven.keys() & touched.keys()},
    )
    proof_records.unconfirm(connection, touched)


def _overlaps(table: sa.Table, series: Series, spans: Spans) -> sa.ColumnElement[bool]:
    """Return the condition for rows of a series that overlap the hull of some spans."""
    return sa.and_(
        table.c.pair == series.pair,
        table.c.interval == series.interval.value,
        table.c.start < (spans[-1].end if spans else 0),
        table.c.end > (spans[0].start if spans else 0),
    )


def _meets(row: Mapping[Any, Any], spans: Spans) -> bool:
    return bool(intersect((Span(row["start"], row["end"]),), spans))


# --- withdrawals


def record(connection: sa.Connection, records: Iterable[WithdrawalRecord]) -> None:
    """Record withdrawals; this is the last step of a withdrawal."""
    rows = [
        {
            "pair": withdrawal.series.pair,
            "interval": withdrawal.series.interval.value,
            "start": withdrawal.span.start,
            "end": withdrawal.span.end,
            "file_id": withdrawal.file_id,
            "candles": withdrawal.candles,
            "reason": withdrawal.reason,
            "made_at": withdrawal.made_at,
        }
        for withdrawal in records
    ]
    if rows:
        connection.execute(sa.insert(withdrawals), rows)


def complete(connection: sa.Connection, ids: Collection[int]) -> set[int]:
    """Return the ids of those files whose withdrawal is complete."""
    wanted = sorted(ids)
    found: set[int] = set()
    for start in range(0, len(wanted), _IDS):
        is_one = withdrawals.c.file_id.in_(wanted[start : start + _IDS])
        found.update(connection.scalars(sa.select(withdrawals.c.file_id).where(is_one)))
    return found


def of_series(connection: sa.Connection, series: Series, span: Span) -> list[WithdrawalRecord]:
    """Return the withdrawals from a series that overlap a span, oldest first."""
    query = sa.select(withdrawals).where(_overlaps(withdrawals, series, (span,))).order_by(withdrawals.c.id)
    return [
        WithdrawalRecord(
            series,
            Span(row["start"], row["end"]),
            row["file_id"],
            row["candles"],
            row["reason"],
            row["made_at"],
        )
        for row in connection.execute(query).mappings()
    ]
