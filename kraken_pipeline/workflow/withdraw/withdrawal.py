"""What a person means to take back: a file, a release or a span, and the candles and records that each of them is."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.errors import InvalidRequest, plain
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.candle import CANDLE_SCHEMA, Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso, parse_moment
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.lake.lake import Lake
from kraken_pipeline.storage.records import evidence_records, withdrawals
from kraken_pipeline.storage.records.file_records import ContainerRecord, FileRecord

_NAMES = 5


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """What a person takes back: exactly one of a file, a release, a span, and what has one cause.

    Attributes:
        reason: Why, for whoever asks later.
        file: A file's name, location or SHA-256.
        release: A container's name or SHA-256.
        series: Whose candles, of a span.
        span: Which, on the interval's grid.
        source: Only candles of this source, of a span; all where it is None.
        claims: Instead of these, spans of several series, on their grids: what has one cause.
        files: Or several files, for the same reason.
        label: What claims and files are called together, for people.
    """

    reason: str
    file: str | None = None
    release: str | None = None
    series: Series | None = None
    span: Span | None = None
    source: Source | None = None
    claims: tuple[tuple[Series, Span], ...] = ()
    files: tuple[str, ...] = ()
    label: str = ""

    @property
    def name(self) -> str:
        """What is taken back, for people."""
        if self.label:
            return self.label
        if self.series is None or self.span is None:
            return self.file or self.release or ""
        what = f"{self.source} candles of " if self.source else ""
        return f"{what}{self.series} from {iso(self.span.start)} to {iso(self.span.end)}"


def withdrawal(
    *,
    reason: str,
    file: str | None = None,
    release: str | None = None,
    is_span: bool = False,
    pair: str | None = None,
    interval: str | int | None = None,
    start: str | None = None,
    end: str | None = None,
    source: str | None = None,
) -> Withdrawal:
    """What is to be taken back, checked as far as it can be without looking.

    Args:
        reason: Why.
        file: A file's name, location or SHA-256.
        release: A container's name or SHA-256.
        is_span: Whether it is a span.
        pair: Of a span, with `interval` (minutes), `start` and `end` (ISO, UTC, half-open).
        interval: The same.
        start: The same.
        end: The same.
        source: Only candles of this source, of a span.

    Raises:
        InvalidRequest: It is not exactly one of them, or part of it is wrong.
    """
    if not reason.strip():
        raise InvalidRequest("the reason is empty; say why, for whoever asks later")
    if (file is not None) + (release is not None) + is_span != 1:
        raise InvalidRequest(
            "name exactly one of --file, --release, and --span with --pair, --interval, --start, --end"
        )
    of_span = {"pair": pair, "interval": interval, "start": start, "end": end}
    if not is_span and (given := [name for name, value in {**of_span, "source": source}.items() if value is not None]):
        raise InvalidRequest(f"--{given[0]} is for --span: of a file or a release everything is taken back")
    told = plain(reason.strip())
    if not is_span:
        return Withdrawal(told, file=file and plain(file), release=release and plain(release))
    if pair is None or interval is None or start is None or end is None:
        missing = ", ".join(f"--{name}" for name, value in of_span.items() if value is None)
        raise InvalidRequest(f"a span needs {missing} as well")
    series = Series(parse_pair(pair).name, Interval.parse(interval))
    return Withdrawal(told, series=series, span=_whole(series, start, end), source=_source(source))


def _whole(series: Series, start: str, end: str) -> Span:
    first, last = parse_moment(start), parse_moment(end)
    if first >= last:
        raise InvalidRequest("end must be later than start; the range is half-open, so end itself is left out")
    for moment in (first, last):
        if moment % series.interval.seconds:
            raise InvalidRequest(
                f"{iso(moment)} is within a candle of {series}; whole candles are taken back: "
                f"from {iso(series.interval.floor(first))} to {iso(series.interval.ceil(last))}"
            )
    return Span(first, last)


def _source(name: str | None) -> Source | None:
    if name is None:
        return None
    try:
        return Source(name.strip().upper())
    except ValueError:
        raise InvalidRequest(f"there is no source {name!r}; there are {', '.join(Source)}") from None


# --- what is meant


@dataclass(frozen=True, slots=True)
class Claim:
    """Something to take back of one series.

    Attributes:
        series: Whose.
        span: Where its candles lie; None where there are none.
        source: Their source; any where it is None.
        release: Their release; any where it is None.
        file: The file that they came from, where it is one.
    """

    series: Series
    span: Span | None
    source: Source | None
    release: int | None = None
    file: FileRecord | None = None

    @property
    def reach(self) -> list[Span]:
        """Where its candles lie, and what its file answered for."""
        spans = [] if self.span is None else [self.span]
        if self.file is not None and self.file.start is not None and self.file.end is not None:
            spans.append(Span(self.file.start, self.file.end))
        return spans

    def rows(self, lake: Lake) -> pl.DataFrame:
        """The candles that the lake has of it."""
        if self.span is None:
            return pl.DataFrame(schema=CANDLE_SCHEMA)
        found = lake.read(self.series, self.span.start, self.span.end)
        return found.filter(*self.is_one())

    def is_one(self) -> list[pl.Expr]:
        """What tells its candles from others of the same time."""
        source = [] if self.source is None else [pl.col("source") == self.source.value]
        return source + ([] if self.release is None else [pl.col("release") == self.release])


def find_release(connection: sa.Connection, what: Withdrawal) -> ContainerRecord | None:
    """The container that is meant; None where none is.

    Raises:
        InvalidRequest: None or several have that name.
    """
    if what.release is None:
        return None
    found = withdrawals.containers_called(connection, what.release)
    if not found:
        raise InvalidRequest(f"no archive is called {what.release}; {_there_is(connection)}")
    if len(found) > 1:
        raise InvalidRequest(
            f"{len(found)} archives are called {what.release}; "
            f"name one by its SHA-256: {', '.join(each.sha256 for each in found)}"
        )
    return found[0]


def find_claims(
    connection: sa.Connection, what: Withdrawal, release: ContainerRecord | None, pair: str | None = None
) -> list[Claim]:
    """What is to be taken back, of one pair or of all; without what was taken back to the end before.

    Args:
        connection: The catalog.
        what: What is meant.
        release: The container, where one is meant.
        pair: Only of this pair.

    Raises:
        InvalidRequest: No file has that name, or several different ones; nothing is known of the span.
    """
    if what.claims:
        return [Claim(series, span, None) for series, span in what.claims if pair in (None, series.pair)]
    if what.series is not None and what.span is not None:
        _require_something(connection, what.series, what.span)
        return [Claim(what.series, what.span, what.source)]
    records = _files(connection, what, release, pair)
    done = withdrawals.complete(connection, [record.id for record in records])
    ends = withdrawals.release_ends(connection)
    return [
        Claim(
            record.series,
            record.span,
            Source.TRADES if record.kind == Kind.TRADES else Source.CSV,
            (ends.get(record.container or "") or 0) // 86_400,
            record,
        )
        for record in records
        if not (record.status is FileStatus.WITHDRAWN and record.id in done) and (pair is None or record.pair == pair)
    ]


def _files(
    connection: sa.Connection, what: Withdrawal, release: ContainerRecord | None, pair: str | None
) -> list[FileRecord]:
    if release is not None:
        return withdrawals.same_files(connection, withdrawals.members(connection, release.sha256, pair))
    found = (record for name in what.files or (what.file or "",) for record in _called(connection, name))
    return list({record.id: record for record in found}.values())


def _called(connection: sa.Connection, name: str) -> list[FileRecord]:
    """The files of a name, location or SHA-256, with those that are the same."""
    named = withdrawals.files_called(connection, name)
    if not named:
        raise InvalidRequest(f"no file is called {name}; {_there_is(connection)}")
    contents = {(record.series, record.sha256): record for record in named if record.sha256 is not None}
    if len(contents) > 1:
        told = ", ".join(f"{record.location} ({record.sha256})" for record in contents.values())
        raise InvalidRequest(
            f"{len(contents)} different files are called {name}; name one by its location or SHA-256: {told}"
        )
    return withdrawals.same_files(connection, named)


def _there_is(connection: sa.Connection) -> str:
    """What there is, as a sentence."""
    names, archives = withdrawals.some_names(connection, _NAMES)
    if not names and not archives:
        return "nothing was ingested yet"
    return f"there are {', '.join([*names, *archives])}, … (`kraken-pipeline explain` names the files of a candle)"


def _require_something(connection: sa.Connection, series: Series, span: Span) -> None:
    covered = evidence_records.coverage_of(connection, [series.interval], [series.pair]).get(series, [])
    extent = evidence_records.extents(connection, [series.pair]).get(series)
    if any(record.span.overlaps(span) for record in covered):
        return
    if extent is not None and span.overlaps(Span(extent.first_time, extent.last_time + series.interval.seconds)):
        return
    there = "nothing" if extent is None else f"candles from {iso(extent.first_time)} to {iso(extent.last_time)}"
    raise InvalidRequest(
        f"nothing is known of {series} from {iso(span.start)} to {iso(span.end)}: the lake has {there} of it"
    )
