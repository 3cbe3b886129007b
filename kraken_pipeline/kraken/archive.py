"""Kraken's downloadable archives: loose CSV files, folders of them, and ZIPs that are read in place.

`discover` finds the files in folders; `ArchiveReader` opens them. Nothing here reads rows.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any

from kraken_pipeline.archive_path import ArchivePath, identity_while_open
from kraken_pipeline.errors import SourceChanged, UnreadableArchive, plain
from kraken_pipeline.kraken.dialect import CANDLES, HEAD_BYTES, TRADES, Dialect, dialect_of
from kraken_pipeline.kraken.manifest import MANIFEST, ReleaseManifest, parse_manifest
from kraken_pipeline.kraken.packing import (
    ORDINARY,
    Gunzipped,
    SmallZip,
    UnpackedLimits,
    disguised,
    fault_of,
    inner_stream,
    open_member,
)
from kraken_pipeline.kraken.release import Kind, Release
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.market.series import Series

_BLOCK = 1 << 20
_BEGINNING = 1 << 16
"""The most bytes that the first read of a member unpacks. A plan looks only at the beginning of every member."""
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
        path: Its path. For a ZIP in parts, the path without `.partNN`, which does not exist. For a nested ZIP, the
            outermost's path followed by the names in `inside`, which does not exist either.
        parts: The files that hold its bytes, in order; for a nested ZIP, those of the outermost.
        release: The release that its name promises; None for a ZIP that is not a release.
        seen: The `identity_of` its parts when it was found; empty if it does not matter.
        inside: For a ZIP in another ZIP, the members that lead to it.
        limits: The limits on the unpacked size of its members.
    """

    path: ArchivePath
    parts: tuple[ArchivePath, ...]
    release: Release | None
    seen: str = ""
    inside: tuple[str, ...] = ()
    limits: UnpackedLimits = ORDINARY

    @property
    def name(self) -> str:
        """The name to show."""
        return plain(self.path.name)


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A file of one series: a loose CSV, or a member of a container.

    Attributes:
        path: The CSV, or the container.
        member: Its name in the container; None for a loose file.
        kind: Candles or trades.
        pair: Its pair, by the rules for names alone.
        interval: Its interval; one minute for trades, which are folded to that.
        size: The uncompressed size in bytes.
        container: The container that it is a member of; None for a loose file.
        stood: The `identity_of` a loose file when it was found; empty if it does not matter.
        limits: The limits on the unpacked size of a file in gzip.
    """

    path: ArchivePath
    member: str | None
    kind: Kind
    pair: Pair
    interval: Interval
    size: int
    container: Container | None = None
    stood: str = ""
    limits: UnpackedLimits = ORDINARY

    @property
    def seen(self) -> str:
        """The identity of the file, or of its container, when it was found."""
        return self.container.seen if self.container is not None else self.stood

    @property
    def location(self) -> str:
        """The location for the catalog, unique on one machine."""
        return plain(f"{self.path}:{self.member}" if self.member else str(self.path))

    @property
    def name(self) -> str:
        """The name to show: `XBTUSD_60.csv`, `Kraken_OHLCVT_Q2_2023.zip:XBTUSD_60.csv`."""
        return plain(f"{self.path.name}:{self.member.rsplit('/', 1)[-1]}" if self.member else self.path.name)

    @property
    def is_doubtful(self) -> bool:
        """Whether only the file's name suggests that the pair exists, and its quote is not a known currency."""
        is_krakens = self.container is not None and self.container.release is not None
        return not (self.pair.quote or is_krakens)

    @property
    def series(self) -> Series:
        """The series that its candles belong to."""
        return Series(self.pair.name, self.interval)


class _Joined(io.RawIOBase):
    """The bytes of several files, one after the other, as one seekable file."""

    def __init__(self, parts: Sequence[io.BufferedReader]) -> None:
        self._files = parts
        self._starts = [0]
        for file in self._files:
            self._starts.append(self._starts[-1] + file.seek(0, io.SEEK_END))
        self._at = 0

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
                read = part.readinto(buffer)
                self._at += read
                return read
        return 0


def _open_bytes(container: Container, opened: ExitStack) -> tuple[IO[bytes], list[io.BufferedReader]]:
    """Return a container's bytes, and the streams of the parts that hold them; `opened` closes them."""
    parts = [opened.enter_context(part.open("rb")) for part in container.parts]
    whole: IO[bytes] = parts[0]
    if len(parts) > 1:
        whole = opened.enter_context(io.BufferedReader(_Joined(parts), _BLOCK))
    return inner_stream(whole, container.inside, opened, container.limits), parts


class OpenedZip(SmallZip):
    """A ZIP that closes the streams that it reads from.

    Args:
        stream: Its bytes.
        parts: The streams of the parts that hold them.
    """

    def __init__(self, stream: IO[bytes], parts: Sequence[IO[bytes]]) -> None:
        self.parts = parts
        self.opened = ExitStack()
        super().__init__(stream)

    def close(self) -> None:
        """Close the ZIP and the streams that it reads from."""
        super().close()
        self.opened.close()


class _Member(io.RawIOBase):
    """The bytes of a member of a ZIP. Damage raises UnreadableArchive."""

    def __init__(self, archive: zipfile.ZipFile, name: str, limits: UnpackedLimits) -> None:
        self._name = name
        self._is_begun = False
        try:
            with _unreadable(name):
                member = archive.getinfo(name)
                if (fault := fault_of(member, limits)) is not None:
                    raise UnreadableArchive(f"{name} cannot be read: {fault}")
                self._stream = open_member(archive, member)
        except KeyError:
            raise SourceChanged(f"{name} is no longer in its archive; download the archive again") from None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _unreadable(self._name):
            read = self._stream.read(len(buffer) if self._is_begun else min(len(buffer), _BEGINNING))
        self._is_begun = True
        buffer[: len(read)] = read
        return len(read)

    def close(self) -> None:
        self._stream.close()
        super().close()


@contextmanager
def _unreadable(name: str) -> Iterator[None]:
    """Turn the errors that zipfile raises for damaged, encrypted and unknown formats into UnreadableArchive."""
    try:
        yield
    except _DAMAGE as error:
        raise UnreadableArchive(f"{name} cannot be read ({error}); download its archive again") from error


def open_zip(container: Container) -> OpenedZip:
    """Open a container.

    Raises:
        UnreadableArchive: The container is not a ZIP, or is truncated.
    """
    with ExitStack() as opened:
        head = b""
        try:
            stream, parts = _open_bytes(container, opened)
            head = stream.read(_MAGIC_BYTES)
            archive = OpenedZip(stream, parts)
        except (UnreadableArchive, FileNotFoundError):
            raise
        except _DAMAGE as error:
            reason = f"{container.path.name} is not a ZIP that can be read ({error}); download it again"
            raise UnreadableArchive(disguised(head) or _cut_off(container, head) or reason) from error
        archive.opened = opened.pop_all()
        return archive


def _cut_off(container: Container, head: bytes) -> str | None:
    """Return why a ZIP in consecutive parts cannot be read: its end is missing. None if that is not the reason."""
    if container.parts[0] == container.path or container.inside or not head.startswith(b"PK"):
        return None
    last = container.parts[-1].name.rpartition(".")[2]
    return f"the parts after {last} are missing, or {last} is cut short; put all complete parts into one folder"


def container_digest(container: Container, sums: Mapping[str, str]) -> str:
    """Return the SHA-256 of a container's bytes, all parts joined.

    Args:
        container: The container to read.
        sums: The expected SHA-256 of its parts, by file name; a part that is not named is not checked.

    Raises:
        UnreadableArchive: A part does not match its sum.
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
            raise UnreadableArchive(f"{path.name} does not match its SHA-256 checksum; download it again")
    return whole.hexdigest()


class ArchiveReader:
    """A reader that opens files of archives, and each container only once. It serves one run and is thread-safe."""

    def __init__(self) -> None:
        self._zips: dict[ArchivePath, OpenedZip] = {}
        self._manifests: dict[ArchivePath, ReleaseManifest | None] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> ArchiveReader:
        return self

    def __exit__(self, *_: object) -> None:
        for archive in self._zips.values():
            archive.close()

    def open(self, file: ArchiveFile) -> IO[bytes]:
        """Open a file and return its bytes as a stream.

        Raises:
            UnreadableArchive: The file or its container cannot be read. Damage raises it only when it is reached.
            SourceChanged: The file was changed since it was found.
        """
        stream: IO[bytes]
        if file.container is None or file.member is None:
            stream = file.path.open("rb")
            self.require_same(file, stream)
        else:
            stream = io.BufferedReader(_Member(self._zip(file.container), file.member, file.limits), _BLOCK)
        if (file.member or file.path.name).lower().endswith(".gz"):
            packed = file.size if file.member else file.path.stat().st_size
            return io.BufferedReader(Gunzipped(stream, file.name, packed, file.limits), _BLOCK)
        return stream

    def require_same(self, file: ArchiveFile, stream: IO[bytes]) -> None:
        """Require that a file was neither replaced nor written to since it was found.

        Raises:
            SourceChanged: It was.
        """
        if file.container is None:
            _require(file.path, file.seen, (file.path,), (stream,))
        else:
            _require(file.path, file.seen, file.container.parts, self._zip(file.container).parts)

    def dialect(self, file: ArchiveFile, head: bytes | None = None) -> Dialect:
        """Return the dialect of a file, from its first lines and its container's manifest.

        Args:
            file: The file.
            head: Its first bytes, if they were read already.

        Raises:
            UnreadableArchive: The file cannot be read, or its format is not supported.
        """
        if head is None:
            with self.open(file) as stream:
                head = stream.read(HEAD_BYTES)
        if file.kind is Kind.TRADES:
            return dialect_of(head, TRADES)
        manifest = self.manifest(file.container) if file.container is not None else None
        return dialect_of(head, CANDLES, manifest)

    def manifest(self, container: Container) -> ReleaseManifest | None:
        """Return a container's MANIFEST.json, from inside it or beside its parts; None if there is none.

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
            with io.BufferedReader(_Member(archive, inside[0], container.limits)) as stream:
                manifest = parse_manifest(stream, container.path.name)
        elif container.parts != (container.path,) and beside.is_file():
            with beside.open("rb") as stream:
                manifest = parse_manifest(stream, container.path.name)
        else:
            return None
        files = sum(name.lower().endswith(".csv") and not name.startswith("__MACOSX/") for name in names)
        if manifest.files is not None and manifest.files != files:
            raise UnreadableArchive(
                f"{container.path.name} has {files} CSV files, but its {MANIFEST} lists {manifest.files}; download "
                "it again"
            )
        return manifest

    def _zip(self, container: Container) -> OpenedZip:
        with self._lock:
            archive = self._zips.get(container.path)
            if archive is None:
                archive = open_zip(container)
                try:
                    _require(container.path, container.seen, container.parts, archive.parts)
                except SourceChanged:
                    archive.close()
                    raise
                self._zips[container.path] = archive
            return archive


def _require(path: ArchivePath, seen: str, files: Sequence[ArchivePath], streams: Sequence[IO[bytes]]) -> None:
    if seen and identity_while_open(files, streams) != seen:
        raise SourceChanged(f"{path.name} was changed while it was read; nothing of it was stored")
