"""Inspection: checks that a file of the lake or the ledger is the one that was written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from hashlib import file_digest
from typing import Protocol

import polars as pl

from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.lake.files import LakeFiles, OpenFile
from kraken_pipeline.storage.paths import named_in
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.records.manifest import Manifest, SeriesFiles

WRITE_ID, ROWS, DIGEST = "kraken_pipeline.write_id", "kraken_pipeline.rows", "kraken_pipeline.digest"
"""The keys in a file's footer for the id of the write, the number of rows, and their digest."""
FOOTER_BYTES = 16_384
"""The number of bytes at the end of a file that are searched for the id of its write."""


class WrittenFile(Protocol):
    """What is on record of a file of the lake, the ledger or the trade lake, as it was written."""

    @property
    def path(self) -> str:
        """The path relative to the place of the lake, with slashes."""

    @property
    def rows(self) -> int:
        """The number of rows."""

    @property
    def bytes(self) -> int:
        """The size in bytes."""

    @property
    def sha256(self) -> str:
        """The SHA-256 of its bytes, as hexadecimal digits."""

    @property
    def write_id(self) -> str:
        """The id of the write."""


class Inspector:
    """An inspector that compares files with the manifest.

    Args:
        files: The place of the lake and the ledger.
        manifest: The manifest of the files in that place.
    """

    def __init__(self, files: LakeFiles, manifest: Manifest) -> None:
        self._files = files
        self._manifest = manifest

    def open(self, series: Series, path: str, *, is_whole: bool = False) -> tuple[OpenFile | None, Damage | None]:
        """Open a file if it is the one on record or an announced one.

        The manifest is read again before damage is reported, because a writer may have replaced the file since.

        Args:
            series: The series of the file.
            path: The path of the file.
            is_whole: Whether to compare all its bytes, and not only its size and its footer; an object of a bucket is
                always compared whole.

        Returns:
            The open file, or its damage; neither where there is no file and none is expected.
        """
        known = self._manifest.of(series)
        while True:
            stream, damage = self._compared(series, path, known, is_whole=is_whole)
            if damage is None:
                return stream, None
            newer = self._manifest.reread(series)
            if newer == known:
                return None, damage
            known = newer

    def kept(self, series: Series, path: str) -> OpenFile | None:
        """Return a file that this process has read or written before, if it is the only one on record at this moment.

        While another one is announced, either of both may be in place, so that the place has to be asked.
        """
        stream = self._files.kept(path)
        if stream is None:
            return None
        known = self._manifest.reread(series)
        files = known.files.get(path, ())
        is_only_one = len(files) == 1 and path not in known.damaged
        if not is_only_one or difference(stream, files, is_trusted=False, is_whole=True) is not None:
            return None
        stream.seek(0)
        return stream

    def _compared(
        self, series: Series, path: str, known: SeriesFiles, *, is_whole: bool
    ) -> tuple[OpenFile | None, Damage | None]:
        files = known.files.get(path, ())
        if not is_whole and (recorded := known.damaged.get(path)) is not None:
            return None, self.damage(series, path, DamageKind(recorded[0]), recorded[1])
        try:
            stream = self._files.open(path)
        except FileNotFoundError:
            is_gone = any(not file.is_announced for file in files)
            return None, self.damage(series, path, DamageKind.MISSING, "does not exist") if is_gone else None
        except OSError as error:
            return None, self.damage(series, path, DamageKind.UNREADABLE, unreadable(error))
        try:
            is_whole = is_whole or self._files.is_read_whole
            wrong = difference(stream, files, is_trusted=known.is_unadopted, is_whole=is_whole)
        except (OSError, pl.exceptions.PolarsError) as error:
            wrong = DamageKind.UNREADABLE, unreadable(error)
        if wrong is not None:
            stream.close()
            return None, self.damage(series, path, *wrong)
        stream.seek(0)
        return stream, None

    def damage(self, series: Series, path: str, kind: DamageKind, detail: str) -> Damage:
        """Return the damage of a file, with what the manifest has on record of it."""
        known = self._manifest.of(series).files.get(path, ())
        _, year = named_in(path)
        rows = max((file.rows for file in known), default=0)
        first = min((file.first_time for file in known if file.first_time is not None), default=None)
        return Damage(path, series, year, kind, detail, rows, first)


def difference(
    stream: OpenFile, files: Sequence[WrittenFile], *, is_trusted: bool, is_whole: bool
) -> tuple[DamageKind, str] | None:
    """Return the difference between an open file and those in the manifest; None where it is one of them.

    Args:
        stream: The open file.
        files: What is on record.
        is_trusted: Whether a file without a record may be one from before the manifest.
        is_whole: Whether to compare all bytes, and not only size and footer.

    Raises:
        OSError: The file cannot be read.
        PolarsError: Its footer cannot be read.
    """
    if not files:
        # Files from before the manifest have no write id in their footer; `verify` records them.
        if is_trusted and said_by(stream) is None:
            return None
        return DamageKind.UNKNOWN, "is not in the manifest"
    size = stream.seek(0, 2)
    stream.seek(0)
    of_size = [file for file in files if file.bytes == size]
    if not of_size:
        return DamageKind.CHANGED, f"has {size:,} bytes instead of {files[-1].bytes:,}"
    if is_whole:
        sha256 = file_digest(stream, "sha256").hexdigest()
        return None if sha256 in {file.sha256 for file in of_size} else (DamageKind.CHANGED, "has other bytes")
    if is_said(os.pread(stream.fileno(), FOOTER_BYTES, max(0, size - FOOTER_BYTES)), of_size):
        return None
    said = said_by(stream)
    # A file from before the manifest has nothing in its footer to compare, so its size has to suffice.
    if said is not None and said not in {(file.write_id, file.rows) for file in of_size}:
        return (
            DamageKind.CHANGED,
            f"has the footer of write {said[0]} with {said[1]:,} candles, which is not in the manifest",
        )
    return None


def is_said(end: bytes, files: Iterable[WrittenFile]) -> bool:
    """Return whether the end of a file has the id of the write of one of some files.

    The footer ends with that id: searching for it costs a tenth of parsing the footer. False proves nothing.
    """
    return end.endswith(b"PAR1") and any(file.write_id.encode() in end for file in files)


def said_by(stream: OpenFile) -> tuple[str, int] | None:
    """Return the write id and the number of rows in a file's footer; None for a file from before the manifest.

    Raises:
        PolarsError: The footer cannot be read.
    """
    footer = pl.read_parquet_metadata(stream)
    try:
        return (footer[WRITE_ID], int(footer[ROWS])) if WRITE_ID in footer else None
    except (KeyError, ValueError) as error:
        raise pl.exceptions.ComputeError(f"the footer has no number of rows: {error}") from error


def unreadable(error: Exception) -> str:
    """Return a library's error about an unreadable file as one line of text."""
    return f"cannot be read ({str(error).strip().partition(chr(10))[0]})"
