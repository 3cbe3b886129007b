"""The dialect of a CSV file: the columns of its lines, their order, and whether a header names them.

Kraken's own files have no header, and their first line is enough to recognise them. Files that people edited have
headers, quotes, columns in another order or an extra comma. Such a file is read as its header says, or refused with
a message that quotes it and lists the columns needed. Columns are never guessed.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import IO

from kraken_pipeline.errors import UnreadableArchive, plain
from kraken_pipeline.kraken.manifest import ReleaseManifest

HEAD_BYTES = 1 << 16
"""The number of bytes at a file's beginning that are examined."""
_SAMPLE_LINES = 50
_PREAMBLE_LINES = 5
_LIKE_LINES = 3
_TEXT = 120
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UNITS = ((1e17, "nanoseconds", "1,000,000,000"), (1e14, "microseconds", "1,000,000"), (1e11, "milliseconds", "1,000"))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The known column names of one kind of file.

    Attributes:
        thing: The word for a row, for messages.
        names: A name as people write it, in lower case with `_` between its words → the column that it means.
        needed: The columns that every row must have, in Kraken's order.
        usual: The columns of a file that has no header.
    """

    thing: str
    names: Mapping[str, str]
    needed: tuple[str, ...]
    usual: tuple[str, ...]

    @property
    def optional(self) -> tuple[str, ...]:
        """The columns that a file may have beside the needed ones."""
        return tuple(name for name in dict.fromkeys(self.names.values()) if name not in self.needed)

    def columns(self, names: Sequence[str], where: str) -> tuple[str, ...]:
        """Return the columns that names stand for, in the same order; a column without a name is `_` and its place.

        Args:
            names: The names as written.
            where: Where they are written, for the message: `header`, `manifest`.

        Raises:
            UnreadableArchive: A name is unknown or repeated, or a needed column is missing.
        """
        said = [re.sub("[^a-z0-9]+", "_", name.strip().lower()).strip("_") for name in names]
        columns = [
            f"_{place}" if not name or name.startswith("unnamed") else self.names.get(name, "")
            for place, name in enumerate(said)
        ]
        unknown = [names[place].strip() for place, column in enumerate(columns) if not column]
        twice = sorted({column for column in columns if column and columns.count(column) > 1})
        missing = [name for name in self.needed if name not in columns]
        problems = [
            *([f"{', '.join(map(repr, unknown))} is unknown"] if unknown else []),
            *([f"{', '.join(twice)} is there twice"] if twice else []),
            *([f"{', '.join(missing)} is missing"] if missing else []),
        ]
        if problems:
            text = plain(", ".join(name.strip() for name in names))[:_TEXT]
            raise UnreadableArchive(
                f"its {where} says {text}: {'; '.join(problems)}; a {self.thing} has {', '.join(self.needed)}, and "
                f"may have {', '.join(self.optional)}; rename the columns, in any order, and remove others"
            )
        return tuple(columns)


_TIMES = dict.fromkeys(
    ("time", "timestamp", "unix", "unix_time", "unixtime", "unix_timestamp", "open_time", "date", "datetime"), "time"
)
_VOLUMES = {"volume": "volume", "vol": "volume"}
CANDLES = Vocabulary(
    "candle",
    {
        **_TIMES,
        **{name: name for name in ("open", "high", "low", "close", "vwap")},
        **_VOLUMES,
        **dict.fromkeys(("trades", "count", "trade_count", "num_trades", "number_of_trades"), "trades"),
    },
    ("time", "open", "high", "low", "close", "volume"),
    ("time", "open", "high", "low", "close", "volume", "trades"),
)
TRADES = Vocabulary(
    "trade",
    {
        **_TIMES,
        "price": "price",
        **_VOLUMES,
        **dict.fromkeys(("type", "side"), "side"),
        **dict.fromkeys(("ordertype", "order_type"), "order_type"),
        **dict.fromkeys(("misc", "miscellaneous"), "misc"),
        **dict.fromkeys(("tradeid", "trade_id", "id"), "trade_id"),
    },
    ("time", "price", "volume"),
    ("time", "price", "volume"),
)
_SIX_NAMES = ("price", "volume", "time", "side", "order_type", "misc")
"""The header of Kraken's trades of 2026Q1. Their lines have seven fields; the seventh is the trade's id."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The format of a file's lines.

    Attributes:
        columns: The names of a line's fields, in order. Names of fields to ignore begin with `_`.
        header_lines: The number of lines at the beginning that hold names.
        is_quoted: Whether fields may be in quotation marks.
        is_named: Whether a header or a manifest names the columns.
    """

    columns: tuple[str, ...]
    header_lines: int = 0
    is_quoted: bool = False
    is_named: bool = False


class Headed:
    """A stream whose beginning can be examined before it is read from the start.

    Attributes:
        head: The first bytes, at most `HEAD_BYTES`.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        """Read the beginning of a stream."""
        self._stream = stream
        self.head = stream.read(HEAD_BYTES)
        self._at = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`."""
        data = self.head[self._at : self._at + size]
        self._at += len(data)
        return data + self._stream.read(size - len(data)) if len(data) < size else data

    def readline(self, size: int) -> bytes:
        """Return the rest of the current line, at most `size` bytes."""
        end = self.head.find(b"\n", self._at) + 1
        line = self.head[self._at : min(end or len(self.head), self._at + size)]
        self._at += len(line)
        is_done = line.endswith(b"\n") or len(line) == size
        return line if is_done else line + self._stream.readline(size - len(line))


def dialect_of(head: bytes, vocabulary: Vocabulary, manifest: ReleaseManifest | None = None) -> Dialect:
    """Return the dialect of a file, determined from its beginning.

    Args:
        head: The file's first bytes; `HEAD_BYTES` are enough.
        vocabulary: The column names of its kind of file.
        manifest: The manifest of its release, if there is one. A header in the file takes precedence over it.

    Raises:
        UnreadableArchive: The file's format is not supported; the message says what to do.
    """
    head = head.removeprefix(codecs.BOM_UTF8)
    is_named, has_header = (bool(manifest.columns), manifest.has_header) if manifest is not None else (False, False)
    usual = vocabulary.columns(manifest.columns, "manifest") if manifest is not None and is_named else vocabulary.usual
    if not has_header and _is_plain(head, usual):
        return Dialect(usual, is_named=is_named)
    _require_encoding(head)
    lines = _sample(head)
    _require_separator(lines, len(vocabulary.needed) - 1)
    # Each line is parsed by itself, so that an unclosed quotation mark does not affect the next line.
    rows = [next(csv.reader([line]), []) for line in lines]
    is_quoted = any('"' in line for line in lines)
    _require_points(rows if is_quoted else [])
    if rows and _is_header(rows[0], vocabulary):
        dialect = _under_header(rows, vocabulary, is_quoted=is_quoted)
    elif has_header:
        dialect = Dialect(usual, 1, is_quoted, is_named)
    else:
        _require_no_preamble(rows, vocabulary)
        dialect = Dialect(_headerless(rows, usual, vocabulary), 0, is_quoted, is_named)
    _require_seconds([row for row in rows[dialect.header_lines :] if row], dialect.columns.index("time"))
    return dialect


def _is_plain(head: bytes, usual: tuple[str, ...]) -> bool:
    """Return whether the first line is as Kraken writes it; then no further checks are needed, as for most files."""
    fields = head[: head.find(b"\n") + 1 or len(head)].rstrip(b"\r\n").split(b",")
    if len(fields) != len(usual) or not all(field and field[0] in b"0123456789" for field in fields):
        return False
    seconds = fields[usual.index("time")].partition(b".")[0]
    return seconds.isdigit() and len(seconds) <= 10


def _sample(head: bytes) -> list[str]:
    lines = head.split(b"\n")
    whole = lines if len(head) < HEAD_BYTES else lines[:-1]
    return [line.rstrip(b"\r").replace(b"\r", b" ").decode("utf-8", "replace") for line in whole[:_SAMPLE_LINES]]


def _require_encoding(head: bytes) -> None:
    # Without a byte order mark, every other byte of Western text in UTF-16 is zero.
    some = head[:128]
    zeros = (some[::2].count(0), some[1::2].count(0))
    half = len(some) // 2
    is_wide = half >= 8 and min(zeros) * 10 <= half and max(zeros) * 10 >= 8 * half
    if head.startswith(_UTF16) or is_wide:
        raise UnreadableArchive("its text is UTF-16; save it as UTF-8, or download it again")


def _require_separator(lines: Sequence[str], least: int) -> None:
    for separator, name in ((";", "';'"), ("\t", "tabs")):
        if lines and lines[0].count(separator) >= max(least, lines[0].count(",") + 1):
            raise UnreadableArchive(
                f"its fields are separated by {name}: {plain(lines[0])[:_TEXT]}; save it with commas between fields "
                "and points in numbers, or download it again"
            )


def _require_points(rows: Sequence[Sequence[str]]) -> None:
    for row in rows:
        for field in row:
            if re.fullmatch(r"\s*-?[0-9.]+,[0-9]+\s*", field):
                raise UnreadableArchive(
                    f"its numbers have a decimal comma: {plain(field)!r}; save it with points, or download it again"
                )


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _is_header(fields: Sequence[str], vocabulary: Vocabulary) -> bool:
    """Return whether a line holds names: all words, and either one is known or there are enough of them for a row."""
    words = [field for field in fields if field.strip()]
    if len(words) < 2 or any(_is_number(word) or not any(map(str.isalpha, word)) for word in words):
        return False
    return len(words) >= len(vocabulary.needed) or any(word.strip().lower() in vocabulary.names for word in words)


def _require_no_preamble(rows: Sequence[Sequence[str]], vocabulary: Vocabulary) -> None:
    for place, row in enumerate(rows[:_PREAMBLE_LINES]):
        if row and _is_number(row[0]):
            return
        if place and _is_header(row, vocabulary):
            raise UnreadableArchive(f"its columns are named in line {place + 1}; remove the lines before it")


def _under_header(rows: Sequence[Sequence[str]], vocabulary: Vocabulary, *, is_quoted: bool) -> Dialect:
    names = list(rows[0])
    first = next((row for row in rows[1:] if any(field.strip() for field in row)), None)
    if first is not None and len(first) == len(names) - 1 and not names[-1].strip():
        names.pop()
    columns = vocabulary.columns(names, "header")
    if first is not None and len(first) == len(columns) + 1:
        if columns == _SIX_NAMES:
            columns = (*columns, "trade_id")
        elif not first[-1].strip():
            columns = (*columns, f"_{len(columns)}")
    if first is not None and len(first) != len(columns):
        raise UnreadableArchive(
            f"its header names {len(columns)} columns and its lines have {len(first)} fields: "
            f"{plain(','.join(first))[:_TEXT]}; name each of them, or download it again"
        )
    return Dialect(columns, 1, is_quoted, is_named=True)


def _headerless(rows: Sequence[Sequence[str]], usual: tuple[str, ...], vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return the columns of a file without a header: the usual ones, and possibly one more, which is ignored.

    Raises:
        UnreadableArchive: Most lines begin with a number and have a different number of fields.
    """
    numbers = [row for row in rows if len(row) > 1 and _is_number(row[0])]
    counts = [len(row) for row in numbers]
    most = max(set(counts), key=counts.count, default=len(usual))
    if most == len(usual) or counts.count(most) * 2 <= sum(bool(row) for row in rows):
        return usual
    if most == len(usual) + 1 and not any(row[-1].strip() for row in numbers if len(row) == most):
        return (*usual, f"_{len(usual)}")
    if most == len(usual) + 1 and vocabulary is CANDLES and usual == vocabulary.usual and _is_trailing(numbers):
        return (*usual, f"_{len(usual)}")
    if counts.count(most) < _LIKE_LINES:  # so few lines may just be damaged
        return usual
    example = next(row for row in numbers if len(row) == most)
    raise UnreadableArchive(
        f"its lines have {most} fields and no header names them: {plain(','.join(example))[:_TEXT]}; a "
        f"{vocabulary.thing} has {', '.join(usual)}: add a header with the names of its columns, or download it "
        "again"
    )


def _is_trailing(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the extra field is the eighth, and not a vwap before the volume, as in Kraken's replies.

    A vwap always lies between low and high; a volume does not. With a vwap, the seventh field is a volume, which is
    not always a whole number as a trade count is.
    """
    values = [[float(field) if _is_number(field) else nan for field in row[:7]] for row in rows if len(row) == 8]
    is_vwap = all(row[3] <= row[5] <= row[2] or row[5] == 0 for row in values)
    return not is_vwap and all(row[6].is_integer() for row in values)


def _require_seconds(rows: Sequence[Sequence[str]], place: int) -> None:
    texts = [row[place].strip() for row in rows if len(row) > place and row[place].strip()]
    times = [float(text) for text in texts if _is_number(text)]
    for least, unit, divisor in _UNITS:
        if sum(least <= time < 1e20 for time in times) * 2 > len(texts):
            raise UnreadableArchive(
                f"its times are {unit} ({texts[0]}) and Kraken's are seconds since 1970: divide them by {divisor}, or "
                "download it again"
            )
    dates = [text for text in texts if re.match(r"[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}(?:[T ,]|$)", text)]
    if len(dates) * 2 > len(texts):
        raise UnreadableArchive(
            f"its times are dates ({plain(dates[0])}) and Kraken's are seconds since 1970, in UTC: convert them, or "
            "download it again"
        )
