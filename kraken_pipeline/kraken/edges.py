"""The first and the last time in a file, found without reading all rows, and the end of a release.

Rows for quiet time are skipped: outside the candles of a file they are no evidence.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import IO

from kraken_pipeline.errors import UnreadableArchive
from kraken_pipeline.kraken.archive import ArchiveFile, ArchiveReader
from kraken_pipeline.kraken.dialect import Dialect, Headed
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.kraken.rows import LINE_BYTES
from kraken_pipeline.market.candle import EARLIEST_TIME

_TAIL = 1 << 16
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Places:
    """The places of a line's fields: of the time, and of the counts that are 0 in quiet time."""

    time: int
    counts: tuple[int, ...]
    is_quoted: bool


def first_time(file: ArchiveFile, reader: ArchiveReader, now: int) -> int | None:
    """Return the first time near the file's beginning, in seconds since the epoch; None if there is none.

    Raises:
        UnreadableArchive: The file cannot be read, or its format is not supported.
    """
    with reader.open(file) as opened:
        stream = Headed(opened)
        places = _places(file, reader.dialect(file, stream.head))
        for block in _blocks(stream):
            if (found := next(iter(_times(block.split(b"\n"), places, file, now)), None)) is not None:
                return found
            if not _has_quiet(block, places):
                return None
    return None


def last_time(file: ArchiveFile, reader: ArchiveReader, now: int) -> int | None:
    """Return the last time near the file's end, in seconds since the epoch; None if there is none.

    Raises:
        UnreadableArchive: The file cannot be read, or its format is not supported.
    """
    with reader.open(file) as opened:
        stream = Headed(opened)
        places = _places(file, reader.dialect(file, stream.head))
        tail = _end(opened) if opened.seekable() else _tail(stream)
    found = next(iter(_times(reversed(tail.split(b"\n")), places, file, now)), None)
    if found is not None or not _has_quiet(tail, places):
        return found
    with reader.open(file) as opened:  # there are more quiet rows than the tail holds
        lasts = (next(iter(_times(reversed(block.split(b"\n")), places, file, now)), None) for block in _blocks(opened))
        return max((last for last in lasts if last is not None), default=None)


def release_end(
    files: Iterable[ArchiveFile], reader: ArchiveReader, now: int, nominal: int | None, *, threads: int
) -> int | None:
    """Return the actual end of a release: the end of the latest candle among its members of the finest interval.

    A release that was cut at 23:00 is cut at all intervals alike. The largest members are read first, because an
    active pair usually reaches the nominal end, and then nothing more needs to be read. Of a release whose name states
    no end, all members of the finest interval are unpacked. If none of them can be read, the release ends with the
    start of the latest candle of the next coarser interval.

    Args:
        files: The release's members.
        reader: Opens them.
        now: The current time; times are seconds since the epoch.
        nominal: The end that the release's name states; None if it states none.
        threads: The number of members that are read at the same time.

    Returns:
        The end, not later than the nominal one; None if no member has a time that can be read.
    """
    members = sorted(files, key=lambda file: (file.interval, -file.size))
    for interval, some in groupby(members, key=lambda file: file.interval):
        if (latest := _latest(some, reader, now, nominal, threads)) is not None:
            # The release ends with a candle of the finest interval. A coarser candle may have been cut short by the
            # end of the release, so only its start counts.
            end = latest + (interval.seconds if interval is members[0].interval else 0)
            return end if nominal is None else min(end, nominal)
    return None


def _latest(
    members: Iterable[ArchiveFile], reader: ArchiveReader, now: int, nominal: int | None, threads: int
) -> int | None:
    """Return the start of the latest candle of some members of one interval; None if none can be read."""
    latest: int | None = None
    waiting = iter(members)
    with ThreadPoolExecutor(threads) as pool:
        while some := list(islice(waiting, threads)):
            starts = pool.map(partial(_last_start, reader=reader, now=now), some)
            latest = max((start for start in (latest, *starts) if start is not None), default=None)
            if nominal is not None and latest is not None and latest + some[0].interval.seconds >= nominal:
                break
    return latest


def _last_start(member: ArchiveFile, *, reader: ArchiveReader, now: int) -> int | None:
    """Return the start of the last candle of a member; None if there is none, or it cannot be read."""
    try:
        last = last_time(member, reader, now)
    except (UnreadableArchive, OSError, EOFError, ValueError):
        return None  # reading it later fails again, and is recorded then
    return None if last is None else member.interval.floor(last)


def _places(file: ArchiveFile, dialect: Dialect) -> _Places:
    columns = dialect.columns
    counts = tuple(columns.index(name) for name in ("trades", "volume") if name in columns)
    return _Places(columns.index("time"), counts if file.kind is Kind.OHLCVT else (), dialect.is_quoted)


def _end(stream: IO[bytes]) -> bytes:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _TAIL))
    return stream.read()


def _tail(stream: Headed) -> bytes:
    tail = b""
    while block := stream.read(_BLOCK):
        tail = (tail + block)[-_TAIL:]
    return tail


def _blocks(stream: IO[bytes] | Headed) -> Iterator[bytes]:
    rest, size = b"", _TAIL
    while block := stream.read(size):
        is_last = len(block) < size
        whole, _, rest = (rest + block, b"", b"") if is_last else (rest + block).rpartition(b"\n")
        yield whole
        rest = rest[: LINE_BYTES + 1]  # of a line that is too long the beginning is enough to tell
        size = _BLOCK
    if rest:
        yield rest


def _has_quiet(block: bytes, places: _Places) -> bool:
    lines = (line for line in block.split(b"\n") if len(line) <= LINE_BYTES)
    return any(_is_quiet(line.split(b","), places) for line in lines)


def _is_quiet(fields: list[bytes], places: _Places) -> bool:
    if not places.counts or max(places.counts) >= len(fields):
        return False
    counts = [fields[place].strip(b'\r " ') for place in places.counts]
    return any(counts) and all(not count or _number(count) == 0 for count in counts)


def _number(field: bytes) -> float | None:
    try:
        return float(field)
    except ValueError:
        return None


def _times(lines: Iterable[bytes], places: _Places, file: ArchiveFile, now: int) -> Iterable[int]:
    step = file.interval.seconds if file.kind is Kind.OHLCVT else 1
    for line in lines:
        if len(line) > LINE_BYTES:
            continue
        fields = line.split(b",")
        if places.time >= len(fields) or _is_quiet(fields, places):
            continue
        time = _number(fields[places.time].strip(b'" ') if places.is_quoted else fields[places.time])
        if time is not None and EARLIEST_TIME <= time <= now and int(time) % step == 0:
            yield int(time)
