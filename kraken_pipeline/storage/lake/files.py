"""The place of the lake's files: a local folder, or a bucket of an object store (`storage.lake.bucket`).

A path is relative to that place, with slashes, as the manifest has it: `lake/interval=60/pair=XBTUSD/candles.parquet`
and `replaced/…` for the ledger, `damaged/…` for files that were set aside. Both kinds of place offer the same: a reader
finds either the old or the new file in full, and a written file is durable as soon as `put` returns. They differ in
what is cheap. A folder is listed by each read, which detects files that nobody recorded. A bucket is listed by
verification, recovery and cleanup alone.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.paths import (
    CANDLES,
    Layout,
    layout_of,
    linked,
    make_folder,
    series_folder,
    sync_file,
    sync_folder,
    year_in,
)

OpenFile = BufferedReader | BytesIO
"""A file that is open for reading: of a folder, or an object in memory."""


@dataclass(frozen=True, slots=True)
class Version:
    """The version of an object, as its store names it, on which a write is made to depend.

    Attributes:
        e_tag: The e-tag, which changes with the content.
        number: The generation, in stores that compare it instead; None in others.
    """

    e_tag: str | None
    number: str | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """A written local file and its destination.

    Attributes:
        written: The local file.
        path: The destination.
        sha256: The SHA-256 of its bytes.
        replaces: The version of the object that it replaces; None where there is none, and in a folder.
    """

    written: Path
    path: str
    sha256: str
    replaces: Version | None = None


class LakeFiles(Protocol):
    """The files of a lake, its ledger and what was set aside of them.

    Attributes:
        place: The folder or the URL, for messages.
        is_listed_by_readers: Whether each read lists the folder of its series.
        is_read_whole: Whether opening a file reads all of it, so that all its bytes can be compared.
        at_once: The number of files that are best read or written at the same time.
    """

    place: str
    is_listed_by_readers: bool
    is_read_whole: bool
    at_once: int

    def prepare(self) -> None:
        """Create what has to exist before the first write."""

    def require_any(self) -> None:
        """Check that there is a lake at all, given that the catalog has files on record.

        Raises:
            StoreError: There is none.
        """

    def location(self, path: str) -> str:
        """Return the absolute path or the URL of a file, for other readers."""

    def open(self, path: str) -> OpenFile:
        """Open a file for reading; what is read is of one version.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: It cannot be read.
            PipelineError: The place cannot be reached.
        """

    def kept(self, path: str) -> OpenFile | None:
        """Return a file as this process has last read or put it, without a request; None where it is not kept.

        Another process may have replaced it since: the caller compares it with the present manifest.
        """

    def version_of(self, stream: OpenFile) -> Version | None:
        """Return the version of an opened object; None for a file."""

    def version(self, path: str) -> Version | None:
        """Return the present version of an object; None where there is none, and for a file."""

    def exists(self, path: str) -> bool:
        """Return whether there is a file."""

    def modified_at(self, path: str) -> int:
        """Return when a file was last written, in seconds since the epoch."""

    def sha256(self, path: str) -> str:
        """Return the SHA-256 of a file's bytes, as hexadecimal digits."""

    def end(self, path: str, length: int) -> tuple[int, bytes]:
        """Return the size of a file and as many bytes of its end."""

    def candle_paths(self, series: Series) -> list[str]:
        """Return the path of each file that exists where a layout has candles of a series."""

    def series(self) -> set[Series]:
        """Return every series that has a file or a folder in the lake."""

    def below(self, folder: str) -> Iterator[str]:
        """Yield the paths of all files below a folder."""

    def sync(self, written: Path) -> None:
        """Make a written local file as durable as `put` requires."""

    def put(self, groups: Iterable[Sequence[Put]]) -> None:
        """Move written local files to their destinations, those of one group in order; they are then durable.

        Raises:
            WriteConflict: A destination does not have the version to be replaced; it is left as it is.
        """

    def remove(self, paths: Collection[str]) -> None:
        """Delete files; those that do not exist are skipped."""

    def set_aside(self, path: str, target: str) -> bool:
        """Move a file; return False where there is none."""

    def link(self, path: str, target: Path) -> bool:
        """Make a hard link to a file, as a local file; return False where there can be none.

        A file is never written to in place, so that the link keeps its content.
        """


class LocalFiles:
    """A lake in a folder: the home.

    Args:
        home: The folder.
    """

    is_listed_by_readers = True
    is_read_whole = False
    at_once = os.cpu_count() or 2

    def __init__(self, home: Path) -> None:
        self._home = home
        self._prefix = str(home)
        self.place = self._prefix

    def prepare(self) -> None:
        """Create the folder of the lake."""
        make_folder(self._home / "lake")

    def require_any(self) -> None:
        """Accept a folder without a lake: its files are missing one by one, which is damage."""

    def location(self, path: str) -> str:
        """Return the absolute path of a file."""
        return f"{self._home.absolute()}/{path}"

    def open(self, path: str) -> OpenFile:
        """Open a file; its content stays what it is while another one is renamed over it."""
        return open(f"{self._prefix}/{path}", "rb")  # noqa: PTH123 - a Path costs as much as opening the file

    def kept(self, path: str) -> OpenFile | None:
        """Return None: opening a file costs no request."""
        del path
        return None

    def version_of(self, stream: OpenFile) -> Version | None:
        """Return None: the lock of the series suffices in a folder, where no request is sent twice."""
        del stream
        return None

    def version(self, path: str) -> Version | None:
        """Return None, likewise."""
        del path
        return None

    def exists(self, path: str) -> bool:
        """Return whether there is a file."""
        return (self._home / path).exists()

    def modified_at(self, path: str) -> int:
        """Return when a file was last written, in seconds since the epoch."""
        return int((self._home / path).stat().st_mtime)

    def sha256(self, path: str) -> str:
        """Return the SHA-256 of a file's bytes, as hexadecimal digits."""
        with open(f"{self._prefix}/{path}", "rb", buffering=0) as stream:  # noqa: PTH123 - as above
            return file_digest(stream, "sha256").hexdigest()

    def end(self, path: str, length: int) -> tuple[int, bytes]:
        """Return the size of a file and as many bytes of its end."""
        with open(f"{self._prefix}/{path}", "rb") as stream:  # noqa: PTH123 - as above
            size = os.fstat(stream.fileno()).st_size
            return size, os.pread(stream.fileno(), length, max(0, size - length))

    def candle_paths(self, series: Series) -> list[str]:
        """Return the path of each file that exists where a layout has candles of a series."""
        folder = series_folder(series)
        try:
            names = os.listdir(self._home / folder)  # noqa: PTH208 - each read lists a folder, and needs only names
        except (FileNotFoundError, NotADirectoryError):
            return []
        files = [name for name in names if name == CANDLES or (name.endswith(".parquet") and year_in(name) is not None)]
        former = (f"{name}/{CANDLES}" for name in names if name.startswith("year=") and year_in(name) is not None)
        return [f"{folder}/{name}" for name in files] + [
            path for name in former if (self._home / (path := f"{folder}/{name}")).exists()
        ]

    def series(self) -> set[Series]:
        """Return every series that has a folder in the lake."""
        return {Series(pair, interval) for interval in Interval for pair in self._spelled_pairs(interval)}

    def _spelled_pairs(self, interval: Interval) -> Iterator[str]:
        folder = self._home / "lake" / f"interval={interval.value}"
        if folder.is_dir():
            for path in folder.iterdir():
                yield unquote(path.name.removeprefix("pair="))

    def below(self, folder: str) -> Iterator[str]:
        """Yield the paths of all files below a folder."""
        waiting = [folder]
        while waiting:
            at = waiting.pop()
            try:
                entries = list(os.scandir(self._home / at))
            except FileNotFoundError:
                continue
            for entry in entries:
                name = f"{at}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                else:
                    yield name

    def sync(self, written: Path) -> None:
        """Sync a written file to disk, which a rename does not do."""
        sync_file(written)

    def put(self, groups: Iterable[Sequence[Put]]) -> None:
        """Rename written files, which are synced, into their places; each is then there and durable.

        All renames come before the syncs: the first folder that is synced then writes the journal entries of the others
        as well, so that each folder costs half of what it costs alone (0.2 ms instead of 0.5 ms).
        """
        changed: set[Path] = set()
        for put in (put for group in groups for put in group):
            final = self._home / put.path
            folder = final.parent
            changed |= {folder, folder.parent}
            try:
                put.written.rename(final)
            except FileNotFoundError:
                while not folder.exists():
                    folder = folder.parent
                    changed.add(folder)
                final.parent.mkdir(parents=True, exist_ok=True)
                put.written.rename(final)
        for folder in changed:
            sync_folder(folder)

    def remove(self, paths: Collection[str]) -> None:
        """Delete files, and the folders of the former layout that are empty without them."""
        folders = set()
        for path in paths:
            file = self._home / path
            file.unlink(missing_ok=True)
            folders.add(file.parent)
            if layout_of(path) is Layout.FORMER:
                folders.discard(file.parent)
                folders.add(file.parent.parent)
                with suppress(OSError):  # somebody put another file into it
                    file.parent.rmdir()
        for folder in folders:
            with suppress(FileNotFoundError):
                sync_folder(folder)

    def set_aside(self, path: str, target: str) -> bool:
        """Move a file; return False where there is none."""
        file, moved = self._home / path, self._home / target
        if not file.exists():
            return False
        moved.parent.mkdir(parents=True, exist_ok=True)
        file.rename(moved)
        sync_folder(file.parent)
        sync_folder(moved.parent)
        return True

    def link(self, path: str, target: Path) -> bool:
        """Make a hard link to a file; return False on another file system, or on one without links."""
        return linked(self._home / path, target)


def lake_files(home: Path, url: str | None, patience: float) -> LakeFiles:
    """Return the place of the lake's files.

    Args:
        home: The home, which has the lake where no URL is set.
        url: The URL of the bucket: `s3://bucket/prefix`.
        patience: The time to wait for a bucket that does not answer, in seconds.

    Raises:
        InvalidSettings: The library for buckets is not installed.
    """
    if url is None:
        return LocalFiles(home)
    from kraken_pipeline.storage.lake.bucket import BucketFiles  # noqa: PLC0415 - an extra, which a folder does without

    return BucketFiles(url, patience)
