"""Parser of CSV rows in blocks: by Polars if a whole block is well-formed, else line by line.

Whatever the bytes are, every line comes out once: as a row of a frame or as a `Reject` with its number, its text and
the reason. The two archive formats (`ohlcvt`, `time_and_sales`) define the columns and the rules.
"""

from __future__ import annotations

import codecs
import hashlib
from bisect import bisect
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Protocol

import numpy as np
import polars as pl

from kraken_pipeline.coverage.ranges import Span, Spans, coarsened, normalise
from kraken_pipeline.errors import UnreadableArchive
from kraken_pipeline.kraken.order import FOREVER
from kraken_pipeline.market.interval import Interval

BLOCK_BYTES = 16 << 20
"""The block size; 16 MiB is fastest on a file of 287 MB (0.88 s; 8: 1.08 s, 32: 1.04 s), and memory stays small."""
LINE_BYTES = 4 << 10
"""The longest line that can be a row. A row has 60 bytes, and without a limit a file without line feeds would be read
into memory whole."""
REJECTS_TOGETHER = 20_000
"""The number of rejected rows from which on the lines of a block are yielded as several blocks, to bound memory."""
MOST_REJECTS = 1_000_000
"""The number of rejected rows above which a file is refused if most of its rows were rejected."""
MOST_SPANS = 50_000
"""The most spans that one file does not answer for; above that, the shortest times between them are not answered for
either. Each span that remains between two others becomes a grant in the catalog."""
_SLICE_BYTES = 1 << 20
_SLICE_LINES = 1 << 16
TEXT_CHARACTERS = 500
LINE = "line"

ColumnType = pl.Int64 | pl.Float64 | pl.String


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that is neither a candle nor a trade.

    Attributes:
        line: Its number in the file, from 1; 0 stands for the file as a whole.
        text: Its text, cut to 500 characters; bytes that are not UTF-8 are escaped.
        reason: Why it was rejected.
        time: Its time in seconds since the epoch; None if it cannot be read or believed.
    """

    line: int
    text: str
    reason: str
    time: int | None


@dataclass(frozen=True, slots=True)
class Block:
    """Some consecutive lines of a file.

    Attributes:
        rows: The good rows: the wanted columns and `line` (UInt32 numbers from 1), in the order of the file.
        rejects: The rejected rows.
    """

    rows: pl.DataFrame
    rejects: tuple[Reject, ...]


class StreamDigest:
    """The SHA-256 of a stream, computed while it is read."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.size = 0

    def update(self, data: bytes) -> None:
        """Add bytes."""
        self.size += len(data)
        self._digest.update(data)

    def hexdigest(self) -> str:
        """Return the SHA-256 of all bytes added."""
        return self._digest.hexdigest()


class ByteStream(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return the next `size` bytes; fewer at the end."""
        ...

    def readline(self, size: int, /) -> bytes:
        """Return the rest of the current line, at most `size` bytes."""
        ...


def line_blocks(stream: ByteStream, digest: StreamDigest) -> Generator[bytes, None, None]:
    """Yield the stream's bytes in blocks of whole lines, each ending in a line feed, without a byte order mark.

    Of a line that is too long to be a row, and reaches beyond its block, at least `LINE_BYTES` + 1 bytes are yielded
    and the rest is skipped.

    In a file of several blocks, the next block is read, unpacked and hashed while the caller processes the current
    one. This takes a third of the time of the processing.
    """
    blocks = _line_blocks(stream, digest)
    block = next(blocks, None)
    if block is None or len(block) < BLOCK_BYTES:  # there is no next one
        yield from () if block is None else (block, *blocks)
        return
    with ThreadPoolExecutor(1) as beside:
        while block is not None:
            coming = beside.submit(next, blocks, None)
            yield block
            block = coming.result()


def _line_blocks(stream: ByteStream, digest: StreamDigest) -> Iterator[bytes]:
    while data := stream.read(BLOCK_BYTES):
        if not data.endswith(b"\n"):
            data += stream.readline(LINE_BYTES + 1)
        is_first = not digest.size
        digest.update(data)
        while not data.endswith(b"\n") and (skipped := stream.readline(BLOCK_BYTES)):
            digest.update(skipped)
            if skipped.endswith(b"\n"):
                break
        if is_first:
            data = data.removeprefix(codecs.BOM_UTF8)
        if data:
            yield data if data.endswith(b"\n") else data + b"\n"


@dataclass(frozen=True)
class Format:
    """The columns and rules for the lines of an archive.

    Attributes:
        columns: Field name → type, in the order of the fields; `time` is in seconds since the epoch. Names that begin
            with `_` are ignored.
        rules: Reason → expression that is true for the rows that break the rule, as from `market.candle.broken_rules`.
        time_rules: The reasons that mean that a row's time cannot be believed.
        is_sound: Returns whether rows without nulls break no rule; faster than evaluating `rules`.
        quiet: Expression that is true for rows of quiet time. These are good, whatever else they hold. None if the
            format has no such rows.
        derived: Columns that are computed from the others.
        is_quoted: Whether fields may be in quotation marks.
    """

    columns: Mapping[str, ColumnType]
    rules: Mapping[str, pl.Expr]
    time_rules: frozenset[str]
    is_sound: Callable[[pl.DataFrame], bool]
    quiet: pl.Expr | None = None
    derived: tuple[pl.Expr, ...] = ()
    is_quoted: bool = False

    @cached_property
    def wanted(self) -> list[str]:
        """The columns of the result."""
        derived = (column.meta.output_name() for column in self.derived)
        return [*(name for name in self.columns if not name.startswith("_")), *derived]


def parse_block(data: bytes, first_line: int, form: Format) -> Iterator[Block]:
    """Parse a block of whole lines, each ending in a line feed; the first has the number `first_line`.

    Yields:
        All lines in order: as one block, or as several if more than `REJECTS_TOGETHER` of them are rejected.
    """
    height = data.count(b"\n")
    unquoted = data.replace(b'"', b"") if form.is_quoted else data
    rows = None if _has_long_line(data) else _parse_well_formed(unquoted, form)
    if rows is None or rows.height != height or not _are_good(rows, form):
        yield from _joined(_parse_slices(data, first_line, form))
    else:
        yield Block(rows.hstack([_numbers(first_line, height)]), ())


def _has_long_line(data: bytes) -> bool:
    """Return whether a line is too long to be a row, in a thousandth of the time that parsing takes."""
    at = 0
    while len(data) - at > LINE_BYTES + 1:
        if (found := data.rfind(b"\n", at, at + LINE_BYTES + 1)) < 0:
            return True
        at = found + 1
    return False


def _joined(blocks: Iterable[Block]) -> Iterator[Block]:
    """Join consecutive blocks as long as they have few rejects."""
    joined: list[Block] = []
    for block in blocks:
        joined.append(block)
        if sum(len(some.rejects) for some in joined) >= REJECTS_TOGETHER:
            yield _join(joined)
            joined = []
    if joined:
        yield _join(joined)


def _join(blocks: list[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    return Block(pl.concat([block.rows for block in blocks]), tuple(chain(*(block.rejects for block in blocks))))


def _are_good(rows: pl.DataFrame, form: Format) -> bool:
    return form.is_sound(rows) or (form.quiet is not None and form.is_sound(rows.filter(~form.quiet)))


def _numbers(first_line: int, height: int) -> pl.Series:
    return pl.Series(LINE, np.arange(first_line, first_line + height, dtype=np.uint32))


def _parse_well_formed(data: bytes, form: Format) -> pl.DataFrame | None:
    """Parse all lines at once; return None if one of them does not match the format."""
    if data.startswith(codecs.BOM_UTF8):  # within a file it is damage, which Polars would ignore
        return None
    try:
        rows = pl.read_csv(data, has_header=False, schema=dict(form.columns), quote_char=None)
    except (pl.exceptions.PolarsError, ValueError):
        return None
    numbers = [name for name, kind in form.columns.items() if not isinstance(kind, pl.String)]
    if any(rows[name].null_count() for name in numbers):
        return None
    return (
        rows.with_columns(form.derived).select(form.wanted) if len(form.wanted) != rows.width or form.derived else rows
    )


def _parse_slices(data: bytes, first_line: int, form: Format) -> Iterator[Block]:
    at = 0
    while at < len(data):
        end = data.rfind(b"\n", at, at + _SLICE_BYTES) + 1 or data.index(b"\n", at) + 1
        lines = data[at : end - 1].split(b"\n")
        for start in range(0, len(lines), _SLICE_LINES):
            yield _parse_lines(lines[start : start + _SLICE_LINES], first_line + start, form)
        at, first_line = end, first_line + len(lines)


def _parse_lines(raw: list[bytes], first_line: int, form: Format) -> Block:
    cut = [line[:LINE_BYTES] for line in raw]
    unquoted = [line.replace(b'"', b"") for line in cut] if form.is_quoted else cut
    texts = [line.decode("utf-8", "backslashreplace").rstrip("\r") for line in unquoted]
    lines = pl.DataFrame({"text": texts}, schema={"text": pl.String()}).with_columns(
        _numbers(first_line, len(texts)), pl.Series("_long", [len(line) > LINE_BYTES for line in raw], pl.Boolean())
    )
    fields = pl.col("text").str.split(",")
    read = lines.with_columns(
        fields.list.len().alias("_fields"),
        *(
            _field(fields.list.get(index, null_on_oob=True).str.strip_chars(), name, kind)
            for index, (name, kind) in enumerate(form.columns.items())
        ),
    ).with_columns(form.derived)
    reasons: dict[str, pl.Expr] = {
        f"the line is longer than {LINE_BYTES:,} bytes": pl.col("_long"),
        "the line is empty": pl.col("text").str.strip_chars() == "",
        f"the line does not have {len(form.columns)} fields": pl.col("_fields") != len(form.columns),
        **{f"{name} is not a number": pl.col(name).is_null() for name in form.columns},
        **form.rules,
    }
    reason = pl.coalesce(pl.when(rule.fill_null(value=True)).then(pl.lit(text)) for text, rule in reasons.items())
    if form.quiet is not None:
        is_quiet = form.quiet.fill_null(value=False) & (pl.col("_fields") == len(form.columns)) & ~pl.col("_long")
        reason = pl.when(~is_quiet).then(reason)
    # Another reason may come first, but it does not make the time believable. A line that is too long, or has too many
    # fields, or NUL bytes from a failed disk, may be the remains of several rows.
    unbelievable = pl.any_horizontal(
        pl.col("_long"),
        pl.col("_fields") > len(form.columns),
        pl.col("text").str.contains("\0", literal=True),
        *(form.rules[rule].fill_null(value=True) for rule in form.time_rules),
    )
    read = read.with_columns(reason.alias("_reason"), pl.when(~unbelievable).then(pl.col("time")).alias("_believed"))
    rejects = tuple(
        Reject(
            row[LINE],
            row["text"][:TEXT_CHARACTERS],
            row["_reason"],
            None if row["_believed"] is None else int(row["_believed"]),
        )
        for row in read.filter(pl.col("_reason").is_not_null()).iter_rows(named=True)
    )
    return Block(read.filter(pl.col("_reason").is_null()).select(*form.wanted, LINE), rejects)


def _field(text: pl.Expr, name: str, kind: ColumnType) -> pl.Expr:
    if isinstance(kind, pl.String):
        return text.alias(name)
    number = text.cast(pl.Float64, strict=False)
    if isinstance(kind, pl.Float64):
        return number.alias(name)
    # 1594818000.0 is a valid time; 1594818000.5 is not. Whole floats below 2^53 are exact.
    whole = pl.when((number == number.floor()) & (number.abs() < 2**53)).then(number.cast(pl.Int64, strict=False))
    return pl.coalesce(text.cast(pl.Int64, strict=False), whole).alias(name)


class Unanswered:
    """The spans that a file does not answer for because rows of it were rejected.

    A rejected row excludes its own candle. If its time cannot be read, breaks a rule or lies outside those of its
    neighbours in the file, everything between the neighbours is excluded, because the row may belong anywhere there.
    """

    def __init__(self, interval: Interval, *, neighbours_too: bool) -> None:
        """Start with no spans.

        Args:
            interval: The length of a candle.
            neighbours_too: Whether the neighbours' own candles are excluded too; so for trades, as a minute holds many.
        """
        self._interval = interval
        self._neighbours_too = neighbours_too
        self._spans: Spans = ()
        self._last = 0  # the time of the last good row
        self._has_pending = False  # whether rows were rejected since
        self._reached: int | None = 0  # the time of the last row, good or not; None if it has none
        self._is_in_order = True  # whether the rows since the last good one have times, in order
        self._since = FOREVER  # the time from which on everything is doubtful, up to the next good row

    def collect(self, block: Block, since: Mapping[int, int] | None = None) -> None:
        """Process the rejects of the next block of a file, with its good rows as their neighbours.

        Args:
            block: The block, in order of time.
            since: Rejected line → the time from which on the rows before it are doubtful, too.
        """
        rows = block.rows
        lines = rows[LINE].to_list() if block.rejects else []
        spans: list[Span] = []
        index = 0  # the index of the next good row
        for reject in block.rejects:
            found = bisect(lines, reject.line, index)
            if found > index:
                spans += self._meet(int(rows["time"][index]), int(rows["time"][found - 1]))
                index = found
            self._is_in_order = self._is_in_order and self._follows(reject.time)
            self._has_pending, self._reached = True, reject.time
            self._since = min(self._since, (since or {}).get(reject.line, FOREVER))
            spans += [] if reject.time is None else [self._candle(reject.time)]
        if rows.height > index:
            spans += self._meet(int(rows["time"][index]), int(rows["time"][-1]))
        if spans:
            self.add_spans(spans)

    def add(self, *times: int) -> None:
        """Exclude the candles that contain some times."""
        self.add_spans(map(self._candle, times))

    def add_between(self, *bounds: tuple[int, int]) -> None:
        """Exclude the time between two rows; their own candles too only if `neighbours_too` was given."""
        self.add_spans(span for pair in bounds for span in self._between(*pair))

    def add_spans(self, spans: Iterable[Span]) -> None:
        """Exclude some spans."""
        self._spans = normalise((*self._spans, *spans))
        if len(self._spans) > MOST_SPANS:
            self._spans = coarsened(self._spans, MOST_SPANS // 2)

    def spans(self) -> Spans:
        """Return the spans excluded so far. They extend beyond the file's ends if rows there cannot be placed."""
        return normalise((*self._spans, *self._rest(FOREVER)))

    def _meet(self, after: int, last: int) -> list[Span]:
        """Return the spans that the rejects since the last good row exclude, now that the next good rows are known."""
        spans = self._rest(after)
        self._has_pending, self._is_in_order, self._since = False, True, FOREVER
        self._last = self._reached = last
        return spans

    def _rest(self, after: int) -> list[Span]:
        if not self._has_pending:
            return []
        start = min(self._last, self._since)
        is_believed = start == self._last and self._is_in_order and self._follows(after)
        return [] if is_believed else self._between(start, after)

    def _follows(self, time: int | None) -> bool:
        """Return whether a time and the one before it can be read and are in order; trades may share a time."""
        step = 0 if self._neighbours_too else 1
        return self._reached is not None and time is not None and self._reached + step <= time

    def _candle(self, time: int) -> Span:
        return Span(self._interval.floor(time), self._interval.floor(time) + self._interval.seconds)

    def _between(self, before: int, after: int) -> list[Span]:
        before, after = min(before, after), max(before, after)
        start, end = self._interval.floor(before), self._interval.floor(after)
        if self._neighbours_too:
            return [Span(start, end + self._interval.seconds)]
        start += self._interval.seconds if before else 0
        return [Span(start, end)] if start < end else []


@dataclass(slots=True)
class Facts:
    """The facts about a file that are known once it has been read to its end.

    Attributes:
        lines: The number of lines.
        rows: The number of good rows.
        quiet: The number of rows for quiet time; they are not candles.
        first_time: The start of the first candle (or the time of the first trade), in seconds since the epoch.
        last_time: The start of the last candle (or the time of the last trade).
        trades: The number of trades that its candles count.
        rejected: The number of rejected rows.
        unanswered: The spans that it does not answer for, because rows were rejected.
        contradicted: The candles that it contradicts itself about: several of its rows for one differ.
        sha256: The SHA-256 of all its bytes.
    """

    lines: int = 0
    rows: int = 0
    quiet: int = 0
    first_time: int | None = None
    last_time: int | None = None
    trades: int = 0
    rejected: int = 0
    unanswered: Spans = ()
    contradicted: Spans = ()
    sha256: str = ""


def require_some_good(facts: Facts, lines: int, what: str) -> None:
    """Refuse a file, while it is read, of which a million rows were rejected, and most of its rows so far.

    Args:
        facts: The facts so far.
        lines: The number of lines so far.
        what: The word for a row.

    Raises:
        UnreadableArchive: It is such a file.
    """
    if facts.rejected > MOST_REJECTS and facts.rejected * 2 > lines:
        raise UnreadableArchive(
            f"{facts.rejected:,} of its first {lines:,} lines were rejected, so nothing of it is stored; see its dead "
            f"letters for the reasons, and download it again if it should hold a {what} a line"
        )


def require_rows(facts: Facts, what: str) -> None:
    """Refuse a file without a good row.

    Raises:
        UnreadableArchive: The file is empty, or none of its lines is good.
    """
    if not facts.lines:
        raise UnreadableArchive("the file is empty; download it again")
    if not facts.rows and facts.quiet:
        raise UnreadableArchive(
            f"none of its {facts.lines} lines has a trade: {facts.quiet} say that nobody traded, which is no "
            f"evidence without a {what} beside them"
        )
    if not facts.rows:
        raise UnreadableArchive(f"none of its {facts.lines} lines is a {what}; see its dead letters")
