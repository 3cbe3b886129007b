"""Where a file that was read before lies now: where it was, or in the drop folder's `ingested`."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from kraken_pipeline.kraken.archive import ArchiveFile
from kraken_pipeline.kraken.discovery import INGESTED_FOLDER, discover
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.records.file_records import FileRecord


def find_again(settings: Settings, record: FileRecord) -> ArchiveFile | None:
    """The file that a record is about, as long as one of its name and size is there; None where it is not any more."""
    for path in _places(settings, record):
        for file in discover([path, *_parts(path)] if path.exists() else _parts(path)).files:
            if file.name.rpartition(":")[2] == record.name.rpartition(":")[2] and file.size == record.size:
                return file
    return None


def _places(settings: Settings, record: FileRecord) -> Iterator[Path]:
    path = _outermost(_path(record))
    yield path
    if path.is_relative_to(settings.drop):
        moved = settings.drop / INGESTED_FOLDER / path.relative_to(settings.drop)
        yield moved
        # One that found its name taken there got a number.
        yield from sorted(moved.parent.glob(f"{glob.escape(moved.stem)}.*{glob.escape(moved.suffix)}"))


def _path(record: FileRecord) -> Path:
    """Where the file lay, or its container."""
    if record.container is None:
        return Path(record.location)
    container = record.name.rpartition(":")[0]
    at = record.location.find(f"/{container}:")
    return Path(record.location[: at + 1 + len(container)])


def _outermost(path: Path) -> Path:
    """The file that a container lies in, where that is another one; the path itself otherwise."""
    zips = [each for each in (path, *path.parents) if each.suffix.lower() == ".zip" and not each.is_dir()]
    return zips[-1] if zips else path


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.part*")) if path.suffix.lower() == ".zip" else []
