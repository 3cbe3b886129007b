"""Withdrawal requests of a person (a file, a release or a span), resolved to their candles and records."""

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
    """A request to withdraw exactly one of a file, a release, a span, and everything with one cause.

    Attributes:
        reason: The reason, for the record.
        file: A file's name, location or SHA-256.
        release: A container's name or SHA-256.
        series: The series of a span.
        span: The span, on the interval's grid.
        source: The source to which a span is limited; None for all.
        claims: For a cause: spans of several series, on their grids.
        files: For a cause: several files.
        label: The name of claims and files together, for people.
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
        """The name of what is withdrawn, for people."""
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
    """Return the withdrawal of a file, a release or a span, checked as far as possible without the stores.

    Args:
        reason: The reason.
        file: A file's name, location or SHA-256.
        release: A container's name or SHA-256.
        is_span: Whether a span is withdrawn.
        pair: The pair of the span.
        interval: The interval of the span, in minutes.
        start: The start of the span, as an ISO date or time (UTC).
        end: The end of the span, in the same form, not included.
        source: The source to which the span is limited.

    Raises:
        InvalidRequest: The reason is empty, not exactly one of the three is given, or a part of it is wrong.
    """
    if not reason.strip():
        raise InvalidRequest("the reason is empty; say why the candles are withdrawn")
    if (file is not None) + (release is not None) + is_span != 1:
        raise InvalidRequest(
            "name exactly one of --file, --release, and --span with --pair, --interval, --start, --end"
        )
    of_span = {"pair": pair, "interval": interval, "start": start, "end": end}
    if not is_span and (given := [name for name, value in {**of_span, "source": source}.items() if value is not None]):
        raise InvalidRequest(f"--{given[0]} is for --span; a file or a release is withdrawn as a whole")
    text = plain(reason.strip())
    if not is_span:
        return Withdrawal(text, file=file and plain(file), release=release and plain(release))
    if pair is None or interval is None or start is None or end is None:
        missing = ", ".join(f"--{name}" for name, value in of_span.items() if value is None)
        raise InvalidRequest(f"a span needs {missing} as well")
    series = Series(parse_pair(pair).name, Interval.parse(interval))
    return Withdrawal(text, series=series, span=_whole(series, start, end), source=_source(source))


def _whole(series: Series, start: str, end: str) -> Span:
    first, last = parse_moment(start), parse_moment(end)
    if first >= last:
        raise InvalidRequest("end must be later than start; the range is half-open, so end itself is excluded")
    for moment in (first, last):
        if moment % series.interval.seconds:
            raise InvalidRequest(
                f"{iso(moment)} is within a candle of {series}; whole candles are withdrawn: from "
                f"{iso(series.interval.floor(first))} to {iso(series.interval.ceil(last))}"
            )
    return Span(first, last)


def _source(name: str | None) -> Source | None:
    if name is None:
        return None
    try:
        return Source(name.strip().upper())
    except ValueError:
        raise InvalidRequest(f"there is no source {name!r}; there are {', '.join(Source)}") from None


# --- claims


@dataclass(frozen=True, slots=True)
class Claim:
    """The candles of one series to withdraw.

    Attributes:
        series: The series.
        span: The span of the candles; None if there are none.
        source: Their source; None for any.
        release: The day on which their release ends, in days since the epoch; 0 for none, None for any.
        file: The file they came from, if a file is withdrawn.
    """

    series: Series
    span: Span | None
    source: Source | None
    release: int | None = None
    file: FileRecord | None = None

    @property
    def reach(self) -> list[Span]:
        """The span of its candles, and the span its file answered for."""
        spans = [] if self.span is None else [self.span]
        if self.file is not None and self.file.start is not None and self.file.end is not None:
            spans.append(Span(self.file.start, self.file.end))
        return spans

    def rows(self, lake: Lake) -> pl.DataFrame:
        """Return its candles in the lake."""
        if self.span is None:
            return pl.DataFrame(schema=CANDLE_SCHEMA)
        found = lake.read(self.series, self.span.start, self.span.end)
        return found.filter(*self.is_one())

    def is_one(self) -> list[pl.Expr]:
        """Return the conditions that distinguish its candles from others of the same time."""
        source = [] if self.source is None else [pl.col("source") == self.source.value]
        return source + ([] if self.release is None else [pl.col("release") == self.release])


def find_release(connection: sa.Connection, what: Withdrawal) -> ContainerRecord | None:
    """Return the container to withdraw; None if the withdrawal names none.

    Raises:
        InvalidRequest: No container, or several, have that name.
    """
    if what.release is None:
        return None
    found = withdrawals.containers_called(connection, what.release)
    if not found:
        raise InvalidRequest(f"no archive is called {what.release}; {_there_is(connection)}")
    if len(found) > 1:
        raise InvalidRequest(
            f"{len(found)} archives are called {what.release}; "
            f"name one by its SHA-256: {', '.join(container.sha256 for container in found)}"
        )
    return found[0]


def find_claims(
    connection: sa.Connection, what: Withdrawal, release: ContainerRecord | None, pair: str | None = None
) -> list[Claim]:
    """Return the claims of a withdrawal, without files whose withdrawal is already complete.

    Args:
        connection: The catalog.
        what: The withdrawal.
        release: The container, if the withdrawal names one.
        pair: The pair to which the claims are limited; None for all.

    Raises:
        InvalidRequest: No file, or several different files, have that name; or nothing is known of the span.
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
    """Return the files with a name, location or SHA-256, and all files with the same content.

    Raises:
        InvalidRequest: No file, or several different files, have that name.
    """
    named = withdrawals.files_called(connection, name)
    if not named:
        raise InvalidRequest(f"no file is called {name}; {_there_is(connection)}")
    contents = {(record.series, record.sha256): record for record in named if record.sha256 is not None}
    if len(contents) > 1:
        text = ", ".join(f"{record.location} ({record.sha256})" for record in contents.values())
        raise InvalidRequest(
            f"{len(contents)} different files are called {name}; name one by its location or SHA-256: {text}"
        )
    return withdrawals.same_files(connection, named)


def _there_is(connection: sa.Connection) -> str:
    """Return a sentence that names some of the ingested files and containers."""
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
        f"there is no candle and no coverage of {series} from {iso(span.start)} to {iso(span.end)}: the lake has "
        f"{there}"
    )
