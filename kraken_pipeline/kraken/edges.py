"""The first and the last time in a file, without reading its rows: what an archive spans, and where a release ends."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import IO

from kraken_pipeline.errors import UnreadableArchive
from kraken_pipeline.kraken.archive import ArchiveFile, ArchiveReader
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.candle import EARLIEST_TIME

_TAIL = 1 << 16
_BLOCK = 1 << 20


def first_time(file: ArchiveFile, reader: ArchiveReader, now: int) -> int | None:
    """The first time that can be read near the file's beginning; None where there is none."""
    with reader.open(file) as stream:
        return next(iter(_times(stream.read(_TAIL).split(b"\n"), file, now)), None)


def last_time(file: ArchiveFile, reader: ArchiveReader, now: int) -> int | None:
    """The last time that can be read near the file's end; None where there is none."""
    with reader.open(file) as stream:
        tail = _tail(stream, loose=file.container is None)
    return next(iter(_times(reversed(tail.split(b"\n")), file, now)), None)


def release_end(files: Iterable[ArchiveFile], reader: ArchiveReader, now: int, nominal: int | None) -> int | None:
    """Where a release really ends: with the latest candle among its members of the finest interval.

    A release that was cut at 23:00 is cut in every interval alike. The largest members come first, because an
    active pair usually reaches the nominal end, and then nothing more needs to be read.

    Args:
        files: The release's members.
        reader: Opens them.
        now: The moment of asking; times are seconds since the epoch.
        nominal: Where its name says that it ends; None where it does not.
    """
    members = sorted(files, key=lambda file: (file.interval, -file.size))
    latest: int | None = None
    for member in members:
        if member.interval != members[0].interval or (nominal is not None and latest is not None and latest >= nominal):
            break
        try:
            last = last_time(member, reader, now)
        except (UnreadableArchive, OSError, EOFError, ValueError):
            continue  # it will fail by itself, with its own record
        if last is not None:
            latest = max(latest or 0, member.interval.floor(last) + member.interval.seconds)
    if latest is None or nominal is None:
        return latest
    return min(latest, nominal)


def _tail(stream: IO[bytes], *, loose: bool) -> bytes:
    if loose:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _TAIL))
        return stream.read()
    tail = b""
    while block := stream.read(_BLOCK):
        tail = (tail + block)[-_TAIL:]
    return tail


def _times(lines: Iterable[bytes], file: ArchiveFile, now: int) -> Iterable[int]:
    step = file.interval.seconds if file.kind is Kind.OHLCVT else 1
    for line in lines:
        fields = line.split(b",")
        # A trades archive of 2026 has its time in the third field.
        for field in (fields[0], fields[2] if len(fields) == 7 else b""):
            try:
                time = int(float(field))
            except (ValueError, OverflowError):
                continue
            if EARLIEST_TIME <= time <= now and time % step == 0:
                yield time
                break
