"""Kraken's downloadable archives: loose CSV files, folders of them, and ZIPs that are read in place.

`discover` looks at folders and says what is there; `ArchiveReader` opens what it found. Nothing here reads rows.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from kraken_pipeline.errors import SourceChanged, UnreadableArchive, plain
from kraken_pipeline.kraken.dialect import CANDLES, HEAD_BYTES, TRADES, Dialect, dialect_of
from kraken_pipeline.kraken.manifest import MANIFEST, ReleaseManifest, parse_manifest
from kraken_pipeline.kraken.packing import (
    Gunzipped,
    disguised,
    fault_of,
    inner_stream,
)
from kraken_pipeline.kraken.release import Kind, Release
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.market.series import Series

_BLOCK = 1 << 20
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    IndexError,
)
_MAGIC_BYTES = 8


@dataclass(frozen=True, slots=True)
class Container:
    """A ZIP, whole or in parts.

    Attributes:
        path: Where it lies; of one in parts, the path without `.partNN` (which does not exist).
        parts: The files that hold its bytes, in order.
        release: What its name promises; None for a ZIP that is no release.
        seen: What its parts were when it was found, as `identity_of` says it; empty where that does not matter.
        inside: Of one in another ZIP, the members that lead to it; its path is then that of the outermost with their
            names behind it (which does not exist), and its parts are the outermost's.
    """

    path: Path
    parts: tuple[Path, ...]
    release: Release | None
    seen: str = ""
    inside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What people call it."""
        return plain(self.path.name)


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A file of one series: a loose CSV, or a member of a container.

    Attributes:
        path: The CSV, or the container.
        member: Its name in the container; None for a loose file.
        kind: Candles or trades.
        pair: Whose; by the rules for names alone.
        interval: One minute for trades, which are folded to that.
        size: In bytes, uncompressed.
        container: Where it is a member of one.
        stood: What a loose file was when it was found, as `identity_of` says it; empty where that does not matter.
    """

    path: Path
    member: str | None
    kind: Kind
    pair: Pair
    interval: Interval
    size: int
    container: Container | None = None
    stood: str = ""

    @property
    def seen(self) -> str:
        """What the file, or its container, was when it was found."""
        return self.container.seen if self.container is not None else self.stood

    @property
    def location(self) -> str:
        """Where it is, for the catalog: unique on one machine."""
        return plain(f"{self.path}:{self.member}" if self.member else str(self.path))

    @property
    def name(self) -> str:
        """What people call it: `XBTUSD_60.csv`, `Kraken_OHLCVT_Q2_2023.zip:XBTUSD_60.csv`."""
        return plain(f"{self.path.name}:{self.member.rsplit('/', 1)[-1]}" if self.member else self.path.name)

    @property
    def is_doubtful(self) -> bool:
        """Whether its name alone says that there is such a pair, and names no currency that is known."""
        is_krakens = self.container is not None and self.container.release is not None
        return not (self.pair.quote or is_krakens)

    @property
    def series(self) -> Series:
        """The series that its candles belong to."""
        return Series(self.pair.name, self.interval)


def identity_of(*files: Path | int) -> str:
    """Return what changes whenever a file is replaced or written to; of several, as a ZIP in parts is, of all.

    Args:
        files: Paths, or descriptors of files that are open.
    """
    stats = [file.stat() if isinstance(file, Path) else os.fstat(file) for file in files]
    return "|".join(
        f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}" for stat in stats
    )


class _Joined(io.RawIOBase):
    """The bytes of several files, one after the other, as one file that can be read and sought."""

    def __init__(self, parts: tuple[Path, ...]) -> None:
        self._files: list[BinaryIO] = [path.open("rb") for path in parts]
        self._starts = [0]
        for file in self._files:
            self._starts.append(self._starts[-1] + os.fstat(file.fileno()).st_size)
        self._at = 0

    @property
    def descriptors(self) -> tuple[int, ...]:
        return tuple(part.fileno() for part in self._files)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        for index, part in enumerate(self._files):
            if self._starts[index] <= self._at < self._starts[index + 1]:
                part.seek(self._at - self._starts[index])
                read = part.readinto(buffer)  # type: ignore[attr-defined]
                self._at += read
                return int(read)
        return 0

    def close(self) -> None:
        for part in self._files:
            part.close()
        super().close()


def _open_bytes(container: Container, opened: ExitStack) -> tuple[IO[bytes], tuple[int, ...]]:
    """A container's bytes, and the descriptors of the files that these are in; `opened` closes them."""
    stream: IO[bytes]
    if len(container.parts) == 1:
        stream = opened.enter_context(container.parts[0].open("rb"))
        descriptors: tuple[int, ...] = (stream.fileno(),)
    else:
        joined = _Joined(container.parts)
        stream, descriptors = opened.enter_context(io.BufferedReader(joined, _BLOCK)), joined.descriptors
    return inner_stream(stream, container.inside, opened), descriptors


class OpenedZip(zipfile.ZipFile):
    """A ZIP that closes what it reads from.

    Args:
        stream: Its bytes.
        descriptors: The files that these are in.
    """

    def __init__(self, stream: IO[bytes], descriptors: tuple[int, ...]) -> None:
        self.descriptors = descriptors
        self.opened = ExitStack()
        super().__init__(stream)

    def close(self) -> None:
        """Closes what it reads from, too."""
        super().close()
        self.opened.close()


class _Member(io.RawIOBase):
    """The bytes of a member of a ZIP; damage in them is an UnreadableArchive."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._name = name
        try:
            with _unreadable(name):
                member = archive.getinfo(name)
                if (fault := fault_of(member)) is not None:
                    raise UnreadableArchive(f"{name} cannot be read: {fault}")
                self._stream = archive.open(member)
        except KeyError:
            raise SourceChanged(f"{name} is not in its archive any more; download that again") from None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _unreadable(self._name):
            read = self._stream.read(len(buffer))
        buffer[: len(read)] = read
        return len(read)

    def close(self) -> None:
        self._stream.close()
        super().close()


@contextmanager
def _unreadable(name: str) -> Iterator[None]:
    """Takes what zipfile raises for damaged, encrypted and unknown formats for what it means."""
    try:
        yield
    except _DAMAGE as error:
        raise UnreadableArchive(f"{name} cannot be read ({error}); download its archive again") from error


def open_zip(container: Container) -> OpenedZip:
    """The container, opened.

    Raises:
        UnreadableArchive: It is no ZIP, or one cut short.
    """
    with ExitStack() as opened:
        head = b""
        try:
            stream, descriptors = _open_bytes(container, opened)
            head = stream.read(_MAGIC_BYTES)
            archive = OpenedZip(stream, descriptors)
        except (UnreadableArchive, FileNotFoundError):
            raise
        except _DAMAGE as error:
            reason = f"{container.path.name} is not a ZIP that can be read ({error}); download it again"
            raise UnreadableArchive(disguised(head) or _cut_off(container, head) or reason) from error
        archive.opened = opened.pop_all()
        return archive


def _cut_off(container: Container, head: bytes) -> str | None:
    """What is missing of a ZIP in parts, each of which up to the last is there."""
    if container.parts[0] == container.path or container.inside or not head.startswith(b"PK"):
        return None
    last = container.parts[-1].name.rpartition(".")[2]
    return f"what comes after its {last} is missing, or {last} is cut short; put all parts into one folder"


def container_digest(container: Container, sums: Mapping[str, str]) -> str:
    """The SHA-256 of a container's bytes, all parts joined.

    Args:
        container: What to read.
        sums: The sums that its parts should have, by file name; a part that is not named is not checked.

    Raises:
        UnreadableArchive: A part is not what its sum says.
    """
    whole = hashlib.sha256()
    if container.inside:
        with ExitStack() as opened, _unreadable(container.name):
            stream, _ = _open_bytes(container, opened)
            while block := stream.read(_BLOCK):
                whole.update(block)
        return whole.hexdigest()
    for path in container.parts:
        part = hashlib.sha256()
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                whole.update(block)
                if path.name in sums:
                    part.update(block)
        if path.name in sums and part.hexdigest() != sums[path.name]:
            raise UnreadableArchive(f"{path.name} is not what its SHA-256 sum says; download it again")
    return whole.hexdigest()


class ArchiveReader:
    """Opens files of archives, each container once; for one run, from several threads."""

    def __init__(self) -> None:
        self._zips: dict[Path, OpenedZip] = {}
        self._manifests: dict[Path, ReleaseManifest | None] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> ArchiveReader:
        return self

    def __exit__(self, *_: object) -> None:
        for archive in self._zips.values():
            archive.close()

    def open(self, file: ArchiveFile) -> IO[bytes]:
        """The file's bytes, as a stream.

        Raises:
            UnreadableArchive: Its container or itself cannot be read; of damage, when it is come to.
            SourceChanged: It is not the file that was found any more.
        """
        stream: IO[bytes]
        if file.container is None or file.member is None:
            stream = file.path.open("rb")
            self.require_same(file, stream)
        else:
            stream = io.BufferedReader(_Member(self._zip(file.container), file.member), _BLOCK)
        if (file.member or file.path.name).lower().endswith(".gz"):
            packed = file.size if file.member else file.path.stat().st_size
            return io.BufferedReader(Gunzipped(stream, file.name, packed), _BLOCK)
        return stream

    def require_same(self, file: ArchiveFile, stream: IO[bytes]) -> None:
        """Makes sure that a file is what was found, and was neither replaced nor written to since.

        Raises:
            SourceChanged: It is not.
        """
        if file.container is None:
            _require(file.path, file.seen, (stream.fileno(),))
        else:
            _require(file.path, file.seen, self._zip(file.container).descriptors)

    def dialect(self, file: ArchiveFile, head: bytes | None = None) -> Dialect:
        """How the file is written, by its first lines and its container's manifest.

        Args:
            file: Which.
            head: Its first bytes, where they were read already.

        Raises:
            UnreadableArchive: It cannot be read, or is written in a way that is not read here.
        """
        if head is None:
            with self.open(file) as stream:
                head = stream.read(HEAD_BYTES)
        if file.kind is Kind.TRADES:
            return dialect_of(head, TRADES)
        manifest = self.manifest(file.container) if file.container is not None else None
        return dialect_of(head, CANDLES, manifest)

    def manifest(self, container: Container) -> ReleaseManifest | None:
        """What a container's MANIFEST.json says; in it, or beside its parts.

        Raises:
            UnreadableArchive: The container or its manifest cannot be read.
        """
        with self._lock:
            if container.path not in self._manifests:
                self._manifests[container.path] = self._read_manifest(container)
            return self._manifests[container.path]

    def _read_manifest(self, container: Container) -> ReleaseManifest | None:
        archive = self._zip(container)
        names = archive.namelist()
        inside = [name for name in names if name.rsplit("/", 1)[-1] == MANIFEST]
        beside = container.path.with_name(MANIFEST)
        if inside:
            with io.BufferedReader(_Member(archive, inside[0])) as stream:
                manifest = parse_manifest(stream.read(), container.path.name)
        elif container.parts != (container.path,) and beside.is_file():
            manifest = parse_manifest(beside.read_bytes(), container.path.name)
        else:
            return None
        files = sum(name.lower().endswith(".csv") and not name.startswith("__MACOSX/") for name in names)
        if manifest.files is not None and manifest.files != files:
            raise UnreadableArchive(
                f"{container.path.name} holds {files} CSV files where its {MANIFEST} says {manifest.files}; "
                "download it again"
            )
        return manifest

    def _zip(self, container: Container) -> OpenedZip:
        with self._lock:
            archive = self._zips.get(container.path)
            if archive is None:
                archive = open_zip(container)
                try:
                    _require(container.path, container.seen, archive.descriptors)
                except SourceChanged:
                    archive.close()
                    raise
                self._zips[container.path] = archive
            return archive


def _require(path: Path, seen: str, descriptors: tuple[int, ...]) -> None:
    if seen and identity_of(*descriptors) != seen:
        raise SourceChanged(f"{path.name} was changed since it was looked at; what was read of it does not count")
