"""Paths of archives: in a local folder, or in a bucket, where keys are read as files and prefixes as folders.

What reads archives uses the methods that both kinds of path have, and the functions here where they differ.
"""

from __future__ import annotations

import io
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from errno import ENOENT
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Annotated, Any

from pydantic import PlainSerializer, PlainValidator

from kraken_pipeline.errors import InvalidRequest, SourceChanged

if TYPE_CHECKING:
    from kraken_pipeline.object_store import ObjectStore

PATIENCE_SECONDS = 30.0
"""The time in seconds that a bucket with archives may take to answer. A run that fails then is continued by the same
command."""
_FIRST_BYTES = 256 << 10
"""The size in bytes of the first request of a file: it holds the directory of a ZIP of 2,000 files, or a small file."""
_MOST_BYTES = 2 << 20
"""The largest size in bytes of a request, up to which each doubles the one before: with 20 ms a request, 100 MB/s."""
_WINDOWS = 8
"""The number of places of one file that are read at the same time without reading anything twice."""
_URL = re.compile(r"(?:s3|gs|az)://")
_BUCKET = re.compile(r"(?:s3|gs|az):")


@dataclass(frozen=True, slots=True)
class ObjectState:
    """The state of an object, with the attribute names of `os.stat_result`.

    Attributes:
        st_size: The size in bytes.
        st_mtime: The time of its last write, in seconds since the epoch.
        e_tag: The e-tag, which changes with the content.
    """

    st_size: int
    st_mtime: float
    e_tag: str

    def __str__(self) -> str:
        return f"{self.st_size}:{self.st_mtime:.3f}:{self.e_tag}"


class BucketPath(PurePosixPath):
    """The path of an object, or of the prefix of some, in a bucket: `s3://bucket/prefix/name`.

    An object that was found by listing keeps the state that it had then. It is read in that state or not at all, so
    that nothing of it has to be asked again.
    """

    _state: ObjectState | None = None

    def __str__(self) -> str:
        text = super().__str__()
        return text.replace(":/", "://", 1) if _BUCKET.match(text) else text

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.parts, self._state)

    @property
    def key(self) -> str:
        """The key in its bucket; empty for the bucket itself."""
        return "/".join(self.parts[2:])

    def stat(self) -> ObjectState:
        """Return the state of the object, as it was when it was found.

        Raises:
            FileNotFoundError: There is no such object.
        """
        if self._state is None:
            self._state = _state_of(_store_of(self).head(self.key))
        return self._state

    def fresh(self) -> BucketPath:
        """Return the path without what is known of the object."""
        return BucketPath(self)

    def is_file(self) -> bool:
        """Return whether there is an object of that key."""
        try:
            return bool(self.key) and self.stat() is not None
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Return whether there is an object below that prefix."""
        return next(self._listed(), None) is not None

    def exists(self) -> bool:
        """Return whether there is an object of that key, or below it."""
        return self.is_file() or self.is_dir()

    def rglob(self, pattern: str) -> Iterator[BucketPath]:
        """Yield the objects at any depth whose names match a pattern; they are listed in pages of a thousand."""
        return (path for path in self._listed() if fnmatchcase(path.name, pattern))

    def glob(self, pattern: str) -> Iterator[BucketPath]:
        """Yield the objects directly below that prefix whose names match a pattern."""
        found = _store_of(self).directly_below(self.key)
        return (path for path in map(self._found, found) if fnmatchcase(path.name, pattern))

    def _listed(self) -> Iterator[BucketPath]:
        return map(self._found, _store_of(self).below(self.key))

    def _found(self, said: Any) -> BucketPath:
        return _restored((*self.parts[:2], said["path"]), _state_of(said))

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """Open the object for reading, in the state in which it was found.

        Raises:
            FileNotFoundError: There is no such object.
        """
        if mode != "rb":
            raise ValueError(f"{self} can only be read")
        return io.BufferedReader(_Ranges(self, self.stat()), 1 << 16)

    def read_text(self, encoding: str, errors: str) -> str:
        """Return the content of the object as a text."""
        with self.open() as stream:
            return stream.read().decode(encoding, errors)

    def mkdir(self, *, parents: bool, exist_ok: bool) -> None:
        """Do nothing: a bucket has no folders."""

    def rename(self, target: ArchivePath) -> None:
        """Copy the object to another key of its bucket, and delete it.

        Raises:
            FileNotFoundError: It does not exist, or is no longer the one that was found.
        """
        if self.fresh().stat() != self.stat():
            raise FileNotFoundError(ENOENT, "it was replaced", str(self))
        store = _store_of(self)
        store.copy(self.key, BucketPath(target).key)
        store.delete([self.key])

    def expanduser(self) -> BucketPath:
        """Return the path: a bucket has no home."""
        return self

    def absolute(self) -> BucketPath:
        """Return the path, which is absolute."""
        return self

    def resolve(self) -> BucketPath:
        """Return the path: a bucket has no links."""
        return self


ArchivePath = Path | BucketPath
"""The path of a file or a folder of archives."""


class _Ranges(io.RawIOBase):
    """An object as a seekable file, of which only what is read is requested.

    Reading on from where a request ended makes requests of twice the size. Each one names the e-tag, so that parts of
    different versions cannot mix.
    """

    def __init__(self, path: BucketPath, state: ObjectState) -> None:
        self._path = path
        self._state = state
        self._store = _store_of(path)
        self._at = 0
        self._windows: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._state.st_size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._state.st_size:
            return 0
        start = next((start for start, its in self._windows.items() if 0 <= self._at - start < len(its)), None)
        if start is None:
            start = self._read_ahead()
        self._windows.move_to_end(start)
        data = memoryview(self._windows[start])[self._at - start :][: len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _read_ahead(self) -> int:
        """Request what follows, or the end of the file with what precedes it, and return where that begins."""
        from kraken_pipeline.object_store import ConditionFailed  # noqa: PLC0415 - an extra

        size = self._state.st_size
        before = next((start for start, its in self._windows.items() if start + len(its) == self._at), None)
        if before is not None:
            start, length = self._at, min(_MOST_BYTES, 2 * len(self._windows.pop(before)))
        else:
            start, length = min(self._at, max(0, size - _FIRST_BYTES)), _FIRST_BYTES
        options: Any = {"range": (start, min(size, start + length)), "if_match": self._state.e_tag}
        try:
            _, self._windows[start] = self._store.get(self._path.key, options)
        except (ConditionFailed, FileNotFoundError):
            raise SourceChanged(f"{self._path.name} was changed while it was read; nothing of it was stored") from None
        if len(self._windows) > _WINDOWS:
            self._windows.popitem(last=False)
        return start


def archive_path(path: str | ArchivePath) -> ArchivePath:
    """Return the path of a file or a folder, or of an object or a prefix where it is a URL: `s3://bucket/prefix`."""
    if isinstance(path, BucketPath):
        return path
    if not isinstance(path, str | Path):
        raise ValueError("Input is not a valid path")  # noqa: TRY004 - as validators say so
    return BucketPath(path) if _URL.match(str(path)) else Path(path)


ArchiveFolder = Annotated[ArchivePath, PlainValidator(archive_path), PlainSerializer(str)]
"""A path of archives in settings and options."""


def archive_paths(value: str) -> tuple[ArchivePath, ...]:
    """Return the paths of a list that is separated as `PATH` is: by `:`, which in `s3://` separates nothing."""
    parts = re.split(rf"{re.escape(os.pathsep)}(?!//)", value)
    return tuple(archive_path(part) for part in parts if part)


def as_found_now(path: ArchivePath) -> ArchivePath:
    """Return a path whose file is looked at anew."""
    return path.fresh() if isinstance(path, BucketPath) else path


def changed_at(path: ArchivePath) -> float:
    """Return when a file was last written to, in seconds since the epoch; 0 for what no longer exists or cannot grow.

    An object is there when it is whole.
    """
    if isinstance(path, BucketPath):
        return 0.0
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def edges_of(path: ArchivePath, length: int) -> bytes:
    """Return the size of a file with its first and last bytes; of an object its size and e-tag, which is as good.

    Raises:
        FileNotFoundError: It does not exist.
    """
    if isinstance(path, BucketPath):
        status = path.stat()
        return f"{status.st_size}:{status.e_tag}".encode()
    with path.open("rb") as stream:
        size = path.stat().st_size
        start = stream.read(length)
        stream.seek(max(0, size - length))
        return f"{size}:".encode() + start + stream.read(length)


def state_of(path: ArchivePath) -> str:
    """Return the size and the modification time of a file, and the e-tag of an object.

    Raises:
        FileNotFoundError: It does not exist.
    """
    if isinstance(path, BucketPath):
        return str(path.stat())
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}"


def identity_of(*files: ArchivePath) -> str:
    """Return a string that changes whenever one of the files is replaced or written to; several for a ZIP in parts.

    Raises:
        FileNotFoundError: One of them does not exist.
    """
    return "|".join(str(file.stat()) if isinstance(file, BucketPath) else _identity(file.stat()) for file in files)


def identity_while_open(files: Sequence[ArchivePath], streams: Sequence[IO[bytes]]) -> str:
    """Return the `identity_of` files that are open for reading.

    An object's stream has nothing but the bytes of the version that was found.
    """
    return "|".join(
        str(file.stat()) if isinstance(file, BucketPath) else _identity(os.fstat(stream.fileno()))
        for file, stream in zip(files, streams, strict=True)
    )


def _identity(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def _restored(parts: Sequence[str], state: ObjectState | None) -> BucketPath:
    path = BucketPath(*parts)
    path._state = state
    return path


def _state_of(said: Any) -> ObjectState:
    return ObjectState(int(said["size"]), said["last_modified"].timestamp(), said["e_tag"] or "")


def _store_of(path: BucketPath) -> ObjectStore:
    if len(path.parts) < 2:
        raise InvalidRequest(f"{path} names no bucket: write s3://bucket/prefix")
    return _store(f"{path.parts[0]}//{path.parts[1]}")


@lru_cache(maxsize=16)
def _store(url: str) -> ObjectStore:
    from kraken_pipeline.object_store import ObjectStore  # noqa: PLC0415 - an extra, which a folder does without

    return ObjectStore(
        url,
        PATIENCE_SECONDS,
        what="the bucket of archives",
        needs="list and read, and below KRAKEN_DROP_URL to write and delete",
        setting=None,
        refused=InvalidRequest,
    )
