"""Compression of archives: formats that are not supported and why, and limits on what is unpacked.

Whatever an archive says about itself, only a little of it is in memory at a time.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass
from typing import IO, Any, cast

from kraken_pipeline.archive_path import ArchivePath
from kraken_pipeline.errors import UnreadableArchive

FREE_BYTES = 16 << 20
"""The unpacked size that is allowed at any ratio: a block of reading."""
DIRECTORY_BYTES = 8 << 20
"""The largest directory of a ZIP. That of Kraken's largest has 1 MiB for 9,793 files; each takes 1 KiB of memory."""
_DICTIONARY_BYTES = 64 << 20
"""The largest dictionary of LZMA, which is held in memory; that of 7-Zip's strongest compression."""
_PACKED = 1 << 14
MOST_DEPTH = 2
"""The depth to which ZIPs may be nested: people pack a folder of ZIPs, and browsers pack several such files again."""
_BLOCK = 1 << 20
_BY_HAND = "unpack it, and name the folder of its files"
_METHODS = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 96: "JPEG", 98: "PPMd", 99: "AES encryption"}
_READ = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_OTHERS = {
    ".7z": "a 7z archive",
    ".rar": "a RAR archive",
    ".tar": "a tar archive",
    ".tgz": "a tar archive",
    ".gz": "a gzip file without a CSV",
    ".bz2": "a bzip2 file",
    ".xz": "an XZ file",
    ".zst": "a Zstandard file",
}
_MAGIC = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x1f\x8b": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
}
_PIECE = re.compile(r"(?P<whole>.+\.zip)\.(?P<number>[0-9]{3})|(?P<stem>.+)\.z(?P<disk>[0-9]{2})", re.IGNORECASE)


def foreign(name: str) -> str | None:
    """Return why a file in another format than ZIP is not read, by its name; None for other files."""
    base = name.lower()
    ending = next((ending for ending in _OTHERS if base.endswith(ending)), None)
    if ending is None or base.endswith(".csv.gz"):
        return None
    return f"it is {_OTHERS[ending]}, which cannot be read; {_BY_HAND}"


def disguised(head: bytes) -> str | None:
    """Return why a file named as a ZIP is not one, by its first bytes; None if they are of no known format."""
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    return None if kind is None else f"it is {kind} in spite of its name, which cannot be read; {_BY_HAND}"


def piece_of(path: ArchivePath) -> tuple[ArchivePath, int] | None:
    """Return the ZIP that a file is a piece of, and the piece's number; None if it is not a piece.

    The number is above zero for `.zip.001`, and below zero for `.z01`.
    """
    if (found := _PIECE.fullmatch(path.name)) is None:
        return None
    if found["whole"]:
        return path.with_name(found["whole"]), int(found["number"])
    return path.with_name(f"{found['stem']}.zip"), -int(found["disk"])


def split(whole: ArchivePath, numbers: Iterable[int]) -> str:
    """Return why a ZIP in pieces is not read, and how to join the pieces.

    Args:
        whole: The path without the piece's ending.
        numbers: The numbers of the pieces present, as from `piece_of`; those of `.z01` are below zero.
    """
    there = sorted(numbers, key=abs)
    missing = sorted(set(range(1, abs(there[-1]) + 1)) - {abs(number) for number in there})
    form = ".z{:02d}" if there[0] < 0 else ".{:03d}"
    lost = [form.format(number) for number in missing] + ([] if there[0] > 0 or whole.exists() else [".zip"])
    if lost:
        return (
            f"it was split, and pieces are missing ({', '.join(lost)}); put all pieces into one folder, and join them"
        )
    how = f"zip -s 0 {whole.name} --out whole.zip" if there[0] < 0 else f"cat {whole.name}.[0-9]* > {whole.name}"
    return f"it was split into {len(there) + (there[0] < 0)} pieces, which cannot be read; join them: {how}"


@dataclass(frozen=True, slots=True)
class UnpackedLimits:
    """The limits on the unpacked size of a file in an archive.

    Attributes:
        size: The largest size, in bytes.
        ratio: The largest ratio of unpacked to packed size; for files of more than `FREE_BYTES`.
    """

    size: int
    ratio: int

    def of(self, packed: int) -> int:
        """Return the largest unpacked size allowed for a packed size, both in bytes."""
        return min(self.size, max(FREE_BYTES, self.ratio * packed))

    def exceeded(self, packed: int) -> str:
        """Return why a file of a packed size is not unpacked to its end."""
        most = self.of(packed)
        setting = "KRAKEN_UNPACKED_GIB" if most == self.size else "KRAKEN_UNPACKED_RATIO"
        return (
            f"it unpacks to more than {most:,} bytes out of {packed:,}, which no archive of Kraken does; download it "
            f"again, or raise {setting} if that is its true size"
        )


ORDINARY = UnpackedLimits(size=16 << 30, ratio=200)
"""The limits by default. The largest file of Kraken's archives, all trades of XBTUSD, has several GB at a ratio of 10;
candles pack to a tenth, too."""


def fault_of(member: zipfile.ZipInfo, limits: UnpackedLimits) -> str | None:
    """Return why a member of a ZIP cannot be read, without reading it; None if it may be readable."""
    if member.flag_bits & 1 or member.compress_type == 99:
        return "it is encrypted; unpack it with its password, and name the folder of its files"
    if member.compress_type not in _READ:
        method = _METHODS.get(member.compress_type, f"method {member.compress_type}")
        return f"it is compressed with {method}, which cannot be read; {_BY_HAND}, or compress it as an ordinary ZIP"
    if member.file_size > limits.of(member.compress_size):
        return limits.exceeded(member.compress_size)
    return None


class _ShortReads:
    """A stream that refuses to read more than a directory at once, whatever size a ZIP states for its directory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def read(self, size: int = -1) -> bytes:
        most = DIRECTORY_BYTES + 1
        data = self._stream.read(most if size < 0 else min(size, most))
        if len(data) == most:
            raise UnreadableArchive(
                f"its directory has more than {DIRECTORY_BYTES:,} bytes, for more than 100,000 files, which that of no "
                f"archive of Kraken has; {_BY_HAND}"
            )
        return data


class SmallZip(zipfile.ZipFile):
    """A ZIP whose directory is small enough to be held in memory.

    Raises:
        UnreadableArchive: Its directory is too large.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        """Read the directory of a ZIP."""
        super().__init__(cast("IO[bytes]", _ShortReads(stream)))
        self.fp = stream


def open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    """Open a member of a ZIP; `fault_of` must have found no fault.

    `zipfile` unpacks bzip2 and LZMA as far as the bytes that it has read go, which can be gigabytes.
    """
    if member.compress_type not in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        return archive.open(member)
    packed = copy(member)
    packed.compress_type, packed.file_size = zipfile.ZIP_STORED, member.compress_size
    del packed.CRC  # it is that of the unpacked bytes
    return io.BufferedReader(_Unpacked(archive.open(packed), member), _BLOCK)


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a member that is packed with bzip2 or LZMA."""

    def __init__(self, packed: IO[bytes], member: zipfile.ZipInfo) -> None:
        self._packed = packed
        self._member = member
        self._left = member.file_size
        self._crc = 0
        is_lzma = member.compress_type == zipfile.ZIP_LZMA
        self._decompressor = _lzma(packed, member) if is_lzma else bz2.BZ2Decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        most = min(len(buffer), self._left)
        while most and not data:
            more = self._packed.read(_PACKED) if self._decompressor.needs_input else b""
            if self._decompressor.eof or (self._decompressor.needs_input and not more):
                raise EOFError(f"it ends {self._left:,} bytes too early")
            data = self._decompressor.decompress(more, most)
        self._left -= len(data)
        self._crc = zlib.crc32(data, self._crc)
        if not self._left and self._crc != self._member.CRC:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {self._member.filename!r}")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._packed.close()
        super().close()


def _lzma(packed: IO[bytes], member: zipfile.ZipInfo) -> lzma.LZMADecompressor:
    """Return the decompressor that the header of a member's packed bytes describes."""
    (size,) = struct.unpack("<2xH", packed.read(4))
    code, dictionary = struct.unpack_from("<BI", packed.read(size))
    needed = max(_PACKED, min(dictionary, member.file_size))
    if needed > _DICTIONARY_BYTES:
        raise UnreadableArchive(
            f"{member.filename} is compressed with LZMA and a dictionary of {needed:,} bytes, and no more than "
            f"{_DICTIONARY_BYTES:,} can be read; {_BY_HAND}, or compress it as an ordinary ZIP"
        )
    coder = {"id": lzma.FILTER_LZMA1, "dict_size": needed, "lc": code % 9, "lp": code // 9 % 5, "pb": code // 45}
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[coder])


def unpacked_size(path: ArchivePath, limits: UnpackedLimits) -> int:
    """Return the approximate unpacked size of a gzip file in bytes, from its trailer, which may be wrong."""
    with path.open("rb") as stream:
        packed = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, packed - 4))
        end = stream.read(4)
    said = int(struct.unpack("<I", end)[0]) if len(end) == 4 else 0
    return max(packed, min(said, limits.of(packed)))


class Gunzipped(io.RawIOBase):
    """The unpacked bytes of a gzip file, up to the size limit."""

    def __init__(self, stream: IO[bytes], name: str, packed: int, limits: UnpackedLimits) -> None:
        """Prepare a stream; nothing is read yet.

        Args:
            stream: The packed bytes; it is closed together with this stream.
            name: The file's name, for messages.
            packed: The number of packed bytes.
            limits: The limits on the unpacked size.
        """
        self._stream = stream
        self._name = name
        self._packed = packed
        self._limits = limits
        self._left = limits.of(packed)
        self._gzip = gzip.GzipFile(fileobj=stream)

    def readable(self) -> bool:
        """Return True: the stream can be read, but not seek."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of the packed file."""
        return self._stream.fileno()

    def readinto(self, buffer: Any) -> int:
        """Unpack some bytes.

        Raises:
            UnreadableArchive: The bytes are damaged, or exceed the size limit.
        """
        try:
            read = self._gzip.read(len(buffer))
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise UnreadableArchive(f"{self._name} cannot be read ({error}); download it again") from error
        self._left -= len(read)
        if self._left < 0:
            raise UnreadableArchive(f"{self._name}: {self._limits.exceeded(self._packed)}")
        buffer[: len(read)] = read
        return len(read)

    def close(self) -> None:
        """Close this stream and the packed one."""
        self._gzip.close()
        self._stream.close()
        super().close()


class _Window(io.RawIOBase):
    """A range of a file's bytes, as a file."""

    def __init__(self, stream: IO[bytes], start: int, size: int) -> None:
        self._stream = stream
        self._start = start
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._stream.seek(self._start + self._at)
        read = self._stream.read(min(len(buffer), max(0, self._size - self._at)))
        buffer[: len(read)] = read
        self._at += len(read)
        return len(read)


def inner_stream(stream: IO[bytes], names: Sequence[str], opened: ExitStack, limits: UnpackedLimits) -> IO[bytes]:
    """Return the bytes of a ZIP nested in another ZIP, at any depth.

    A stored ZIP, as nearly all nested ones are, is read in place. A compressed one is unpacked into a temporary file
    without a name.

    Args:
        stream: The outermost ZIP; it must stay open.
        names: The members that lead to the ZIP, from the outermost on.
        opened: Closes the streams that are opened on the way.
        limits: The limits on the unpacked size.

    Raises:
        UnreadableArchive: A member is encrypted, packed with an unsupported method, or too large.
    """
    for name in names:
        with SmallZip(stream) as archive:
            member = archive.getinfo(name)
            if (fault := fault_of(member, limits)) is not None:
                raise UnreadableArchive(f"{name}: {fault}")
            if member.compress_type == zipfile.ZIP_STORED:
                stream = opened.enter_context(_stored(stream, member))
            else:
                stream = _unpacked(archive, member, opened)
    return stream


def _stored(stream: IO[bytes], member: zipfile.ZipInfo) -> io.BufferedReader:
    stream.seek(member.header_offset + 26)
    name, extra = struct.unpack("<HH", stream.read(4))
    return io.BufferedReader(_Window(stream, member.header_offset + 30 + name + extra, member.file_size), _BLOCK)


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo, opened: ExitStack) -> IO[bytes]:
    folder = tempfile.gettempdir()
    if member.file_size * 2 > shutil.disk_usage(folder).free:
        raise UnreadableArchive(
            f"{member.filename} is compressed once more, and {folder} has no space for its {member.file_size:,} "
            f"bytes; {_BY_HAND}"
        )
    beside: IO[bytes] = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (`opened` closes it)
    with open_member(archive, member) as packed:
        shutil.copyfileobj(packed, beside, _BLOCK)
    beside.seek(0)
    return beside
