"""Search for the lines of an archive's file that a candle was made of, by their time, without parsing the others."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.errors import plain
from kraken_pipeline.kraken.archive import ArchiveFile, ArchiveReader
from kraken_pipeline.kraken.dialect import Dialect
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.kraken.rows import LINE_BYTES, StreamDigest, line_blocks

MOST = 20
"""The number of lines shown at most: a minute can have thousands of trades."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file; the first one is number 1."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a file that belong to one candle.

    Attributes:
        first: The first of these lines, at most `MOST`.
        count: The number of these lines.
        sha256: The SHA-256 of all bytes of the file.
    """

    first: tuple[Line, ...]
    count: int
    sha256: str


def find_lines(file: ArchiveFile, candle: Span, reader: ArchiveReader) -> Lines:
    """Find the lines of a file that belong to a candle: its row, or the trades within it.

    Args:
        file: The file to search.
        candle: The span of the candle, in seconds since the epoch; for a file of trades, a minute.
        reader: Opens the file.

    Raises:
        UnreadableArchive: The file cannot be read.
        OSError: The file cannot be read.
    """
    dialect = reader.dialect(file)
    pattern = _trades(candle, dialect) if file.kind is Kind.TRADES else _row(candle, dialect)
    digest = StreamDigest()
    first: list[Line] = []
    count = lines = 0
    with reader.open(file) as stream:
        for block in line_blocks(stream, digest):
            for match in pattern.finditer(block):
                if len(match[0]) > LINE_BYTES:
                    continue  # it was rejected
                count += 1
                if len(first) < MOST:
                    number = lines + block.count(b"\n", 0, match.start()) + 1
                    first.append(Line(number, plain(match[0].decode("utf-8", "backslashreplace").rstrip("\r"))))
            lines += block.count(b"\n")
    return Lines(tuple(first), count, digest.hexdigest())


def _row(candle: Span, dialect: Dialect) -> re.Pattern[bytes]:
    mark = b'"?' if dialect.is_quoted else b""
    before = rb"^(?:[^,\n]*,){%d} *%b" % (dialect.columns.index("time"), mark)
    return re.compile(before + rb"%d(?:\.0*)?%b *(?:[,\r][^\n]*)?$" % (candle.start, mark), re.MULTILINE)


def _trades(candle: Span, dialect: Dialect) -> re.Pattern[bytes]:
    seconds = b"|".join(b"%d" % second for second in range(candle.start, candle.end))
    mark = b'"?' if dialect.is_quoted else b""
    before = rb"^(?:[^,\n]*,){%d}%b" % (dialect.columns.index("time"), mark)
    return re.compile(before + rb"(?:%b)(?:\.[0-9]*)?%b(?:[,\r][^\n]*)?$" % (seconds, mark), re.MULTILINE)
