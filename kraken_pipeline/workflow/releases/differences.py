"""The differences of two dataset releases: which series and candles changed, from what to what, and why.

The reasons come from the home in which both were made: its ledger has each candle that was replaced or withdrawn, and
its evidence names the sources that answer for a candle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from kraken_pipeline.coverage.batches import batches
from kraken_pipeline.coverage.claims import SPAN_SETS, SeriesClaims
from kraken_pipeline.coverage.ranges import Span, Spans, subtract, whole_candles
from kraken_pipeline.errors import DamagedFile
from kraken_pipeline.market.candle import seconds_of
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake.staged import LEDGER_SCHEMA, Lost
from kraken_pipeline.storage.records import candle_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.explain.explanation import VALUES, Stored
from kraken_pipeline.workflow.releases.dataset import DatasetRelease

_AFTER = "_after"
_KEPT = (*VALUES, "source", "release")


@dataclass(frozen=True, slots=True)
class CandleChange:
    """A candle that differs in two releases.

    Attributes:
        series: The series.
        time: The start of the candle, in seconds since the epoch.
        before: The candle in the first release; None where it has none.
        after: The candle in the second release, likewise.
        why: The reason, as far as the home knows it.
    """

    series: Series
    time: int
    before: Stored | None
    after: Stored | None
    why: str

    @property
    def change(self) -> str:
        """The kind of change: `added`, `removed` or `changed`."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"

    def as_json(self) -> dict[str, Any]:
        """Return the change as `release diff --json` shows it."""
        return {
            "pair": self.series.pair,
            "interval": self.series.interval.value,
            "time": iso(self.time),
            "change": self.change,
            "from": self.before and self.before.as_json(),
            "to": self.after and self.after.as_json(),
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class SeriesDifference:
    """The differences of one series in two releases.

    Attributes:
        series: The series.
        only_in: The release that alone has the series, `A` or `B`; empty where both have it.
        added: The number of candles that only the second release has.
        removed: The number of candles that only the first release has.
        changed: The number of candles with other values.
        spans: The name of each claim that is a list of spans → the time that it lost, and the time that it gained.
    """

    series: Series
    only_in: str
    added: int
    removed: int
    changed: int
    spans: Mapping[str, tuple[Spans, Spans]]

    def as_json(self) -> dict[str, Any]:
        """Return the differences as `release diff --json` shows them."""
        return {
            "pair": self.series.pair,
            "interval": self.series.interval.value,
            "only_in": self.only_in or None,
            "added": self.added,
            "removed": self.removed,
            "changed": self.changed,
            **{
                name: {"lost": [_bounds(span) for span in lost], "gained": [_bounds(span) for span in gained]}
                for name, (lost, gained) in self.spans.items()
            },
        }


@dataclass(frozen=True, slots=True)
class ReleaseDifference:
    """The differences of two releases.

    Attributes:
        digests: The digests of both.
        selections: The selections of both, as RELEASE.json has them.
        series: The series that differ, by pair and interval.
        candles: The first of the candles that differ, of the series that both have, by series and time.
    """

    digests: tuple[str, str]
    selections: tuple[Mapping[str, Any], Mapping[str, Any]]
    series: tuple[SeriesDifference, ...]
    candles: tuple[CandleChange, ...]

    @property
    def count(self) -> int:
        """The number of candles that differ, of the series that both have."""
        return sum(one.added + one.removed + one.changed for one in self.series if not one.only_in)

    def as_json(self) -> dict[str, Any]:
        """Return the differences as `release diff --json` shows them."""
        (before, after), (first, second) = self.digests, self.selections
        return {
            "a": {"digest": before, "selection": dict(first)},
            "b": {"digest": after, "selection": dict(second)},
            "same": before == after,
            "series": [series.as_json() for series in self.series],
            "candles_in_all": self.count,
            "candles": [candle.as_json() for candle in self.candles],
        }


def _bounds(span: Span) -> dict[str, str]:
    return {"start": iso(span.start), "end": iso(span.end)}


def differences(first: DatasetRelease, second: DatasetRelease, stores: Stores | None, limit: int) -> ReleaseDifference:
    """Return the differences of two releases.

    Args:
        first: The release that is taken as the earlier one.
        second: The other release.
        stores: The stores of the home with the reasons; None where there are none.
        limit: The most candles to return; all are counted.
    """
    changed: list[SeriesDifference] = []
    candles: list[CandleChange] = []
    for series in sorted({*first.series, *second.series}):
        before, after = _claims(first, series), _claims(second, series)
        if before == after:
            continue
        counts = dict.fromkeys(("added", "removed", "changed"), 0)
        if before is None or after is None:  # the series itself is the difference, and its candles need no reasons
            counts |= {"added": after.rows if after else 0, "removed": before.rows if before else 0}
        elif before.rows_sha256 != after.rows_sha256:
            for part in _changes(first, second, series):
                for how, count in part["change"].value_counts().iter_rows():
                    counts[how] += count
                candles += _explained(stores, (first, second), series, part.head(limit - len(candles)))
        only_in = "B" if before is None else "A" if after is None else ""
        changed.append(SeriesDifference(series, only_in, **counts, spans=_spans(before, after)))
    pair = (first.certificate, second.certificate)
    return ReleaseDifference(
        (pair[0].digest, pair[1].digest),
        (pair[0].selection.as_json(), pair[1].selection.as_json()),
        tuple(changed),
        tuple(candles),
    )


def _claims(release: DatasetRelease, series: Series) -> SeriesClaims | None:
    return release.claims(series) if series in release.series else None


def _spans(before: SeriesClaims | None, after: SeriesClaims | None) -> dict[str, tuple[Spans, Spans]]:
    found = {}
    for name in SPAN_SETS:
        old, new = (() if claims is None else getattr(claims, name) for claims in (before, after))
        found[name] = (subtract(old, new), subtract(new, old))
    return found


def _changes(first: DatasetRelease, second: DatasetRelease, series: Series) -> Iterator[pl.DataFrame]:
    """Yield the candles that differ, in order of time, a year of minutes at a time.

    Returns:
        `time` (seconds), `change`, and the values, source and release in both; null where one has no candle.
    """
    files = [file for release in (first, second) for file in release.files(series)]
    if not files:
        return
    whole = Span(min(file.start for file in files), max(file.end for file in files))
    for part in batches((whole,), series.interval, series.interval):
        old, new = (_rows(release, series, part[0]) for release in (first, second))
        both = old.join(new, on="time", how="full", coalesce=True, suffix=_AFTER)
        had, has = pl.col("open").is_not_null(), pl.col(f"open{_AFTER}").is_not_null()
        how = pl.when(~had).then(pl.lit("added")).when(~has).then(pl.lit("removed")).otherwise(pl.lit("changed"))
        is_other = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}{_AFTER}")) for name in VALUES)
        if (found := both.filter(is_other)).height:
            yield found.with_columns(how.alias("change")).sort("time")


def _rows(release: DatasetRelease, series: Series, span: Span) -> pl.DataFrame:
    return release.read(series, span.start, span.end).select(seconds_of(pl.col("time")), *_KEPT)


# --- reasons


def _explained(
    stores: Stores | None, releases: Sequence[DatasetRelease], series: Series, changes: pl.DataFrame
) -> Iterator[CandleChange]:
    """Yield the changes of one series with their reasons."""
    if changes.is_empty():
        return
    reason = _reasons(stores, releases, series, changes)
    for row in changes.iter_rows(named=True):
        before, after = (_stored(row, suffix) for suffix in ("", _AFTER))
        yield CandleChange(series, row["time"], before, after, reason(row["time"], before, after))


def _stored(row: Mapping[str, Any], suffix: str) -> Stored | None:
    opened, high, low, close, volume, trades = (row[f"{name}{suffix}"] for name in VALUES)
    if opened is None:
        return None
    return Stored((opened, high, low, close, volume, trades), row[f"source{suffix}"], row[f"release{suffix}"])


Reason = Callable[[int, Stored | None, Stored | None], str]


def _reasons(
    stores: Stores | None, releases: Sequence[DatasetRelease], series: Series, changes: pl.DataFrame
) -> Reason:
    """Return a function that gives the reason of a change: its time, the candle before, and the candle after."""
    span = Span(changes["time"][0], changes["time"][-1] + series.interval.seconds)
    lost = _lost(stores, series, span)
    answers = _Answers(stores, series, span)
    was_covered = releases[0].coverage(series)
    windows = [whole_candles((release.certificate.selection.window,), series.interval) for release in releases]

    def reason(time: int, before: Stored | None, after: Stored | None) -> str:
        candle = (Span(time, time + series.interval.seconds),)
        if after is None and subtract(candle, windows[1]):
            return "it lies outside the time of B"
        if before is None and subtract(candle, windows[0]):
            said = ["it lies outside the time of A"]
        elif before is None:
            said = ["A does not cover it" if subtract(candle, was_covered) else "A has quiet time there"]
        else:
            said = _from_ledger(lost.get(time, ()), before, after) or ["the ledger of this home has no record of it"]
        if after is not None:
            said.append(f"B has it from {after.source}{answers.over(time, after)}")
        return "; ".join(said)

    return reason


def _from_ledger(rows: Sequence[Mapping[str, Any]], before: Stored, after: Stored | None) -> list[str]:
    """Return what became of a candle: how it was lost, and how each of its successors was, up to the one after it."""
    found: list[str] = []
    for row in rows:
        values = tuple(row[name] for name in VALUES)
        if values == tuple(before.values):
            found = []  # so far it was only replaced by the same values of another source
        elif not found:
            continue
        elif after is not None and values == tuple(after.values):
            break
        how = "withdrawn:" if row["lost"] == Lost.WITHDRAWN else "replaced by"
        found.append(f"{how} {row['by']} ({iso(row['at'])})")
    return found


def _lost(stores: Stores | None, series: Series, span: Span) -> dict[int, list[Mapping[str, Any]]]:
    """Return the stored candles that the ledger has of a span, by time, in the order in which they were lost."""
    try:
        found = (
            pl.DataFrame(schema=LEDGER_SCHEMA) if stores is None else stores.lake.replaced(series, span.start, span.end)
        )
    except DamagedFile:
        found = pl.DataFrame(schema=LEDGER_SCHEMA)
    found = found.filter(pl.col("lost") != Lost.REFUSED.value).with_columns(seconds_of(pl.col("time")))
    by_time: dict[int, list[Mapping[str, Any]]] = {}
    for row in found.iter_rows(named=True):
        by_time.setdefault(row["time"], []).append(row)
    return by_time


class _Answers:
    """The files that answer for the candles of a span now."""

    def __init__(self, stores: Stores | None, series: Series, span: Span) -> None:
        self._grants: Iterable[candle_records.GrantRecord] = ()
        self._names: Mapping[int, str] = {}
        if stores is not None:
            with stores.catalog.read() as connection:
                self._grants = candle_records.grants_over(connection, series, span)
                ids = {grant.file_id for grant in self._grants if grant.file_id is not None}
                self._names = {id_: record.name for id_, record in candle_records.files_of(connection, ids).items()}

    def over(self, time: int, candle: Stored) -> str:
        """Return the clause that names the files of a candle's source that cover it; empty if there are none."""
        names = [
            self._names[grant.file_id]
            for grant in self._grants
            if grant.file_id is not None and grant.source == candle.source and time in grant.span
        ]
        return f" ({', '.join(dict.fromkeys(names))})" if names else ""
