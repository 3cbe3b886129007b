"""The current path of a file that was read before: its old one, or one in the drop folder's `ingested`."""

from __future__ import annotations

import glob
from collections.abc import Iterator

from kraken_pipeline.archive_path import ArchivePath, archive_path
from kraken_pipeline.kraken.archive import ArchiveFile
from kraken_pipeline.kraken.discovery import INGESTED_FOLDER, discover
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.records.file_records import FileRecord
from kraken_pipeline.workflow.ingest.scan import limits_of


def find_again(settings: Settings, record: FileRecord) -> ArchiveFile | None:
    """Return the file of a record, matched by name and size; None if it no longer exists."""
    for path in _places(settings, record):
        where = [path, *_parts(path)] if path.exists() else _parts(path)
        for file in discover(where, limits=limits_of(settings)).files:
            if file.name.rpartition(":")[2] == record.name.rpartition(":")[2] and file.size == record.size:
                return file
    return None


def _places(settings: Settings, record: FileRecord) -> Iterator[ArchivePath]:
    path = _outermost(_path(record))
    yield path
    if path.is_relative_to(settings.drop):
        moved = settings.drop / INGESTED_FOLDER / path.relative_to(settings.drop)
        yield moved
        # A file whose name was already in use there got a number.
        numbered: list[ArchivePath] = sorted(
            moved.parent.glob(f"{glob.escape(moved.stem)}.*{glob.escape(moved.suffix)}")
        )
        yield from numbered


def _path(record: FileRecord) -> ArchivePath:
    """Return the recorded path of the file, or of its container."""
    if record.container is None:
        return archive_path(record.location)
    container = record.name.rpartition(":")[0]
    at = record.location.find(f"/{container}:")
    return archive_path(record.location[: at + 1 + len(container)])


def _outermost(path: ArchivePath) -> ArchivePath:
    """Return the outermost ZIP that a container lies in; the path itself if there is none."""
    zips = [parent for parent in (path, *path.parents) if parent.suffix.lower() == ".zip" and not parent.is_dir()]
    return zips[-1] if zips else path


def _parts(path: ArchivePath) -> list[ArchivePath]:
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.part*")) if path.suffix.lower() == ".zip" else []
