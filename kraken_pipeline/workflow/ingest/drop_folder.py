"""The drop folder: archives that are fully ingested move to its folder `ingested`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import sqlalchemy as sa

from kraken_pipeline.archive_path import ArchivePath
from kraken_pipeline.coverage.ranges import ALWAYS
from kraken_pipeline.kraken.archive import ArchiveFile
from kraken_pipeline.kraken.discovery import INGESTED_FOLDER
from kraken_pipeline.storage.records import file_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.ingest.scan import (
    IngestHistory,
    Task,
    container_stamp,
    drop_folder,
    look_into,
    stamp,
)


def tidy(stores: Stores) -> list[ArchivePath]:
    """Move fully ingested archives from the drop folder to its folder `ingested`; return their new paths.

    A file is moved once everything about it is durable. The catalog decides that, so the next run catches up if a run
    was killed before this step. What another run moves at the same time is left to that run.
    """
    settings = stores.settings
    if settings.kraken_keep_dropped_files:
        return []
    found = look_into(settings, drop_folder(settings))
    by_parts: dict[tuple[ArchivePath, ...], dict[ArchivePath, list[ArchiveFile]]] = {}
    for file in found.files:
        by_parts.setdefault(_parts(file), {}).setdefault(file.path, []).append(file)
    unread = {skipped.path for skipped in found.broken}
    with stores.catalog.read() as connection:
        done = [
            parts
            for parts, containers in sorted(by_parts.items())
            if unread.isdisjoint(parts) and all(_is_ingested_whole(connection, files) for files in containers.values())
        ]
    moved: list[ArchivePath] = []
    for part in (part for parts in done for part in parts):
        with suppress(FileNotFoundError):
            moved.append(_move(part, settings.drop))
    return moved


def _parts(file: ArchiveFile) -> tuple[ArchivePath, ...]:
    return file.container.parts if file.container else (file.path,)


def _is_ingested_whole(connection: sa.Connection, files: Sequence[ArchiveFile]) -> bool:
    try:
        container = None
        if files[0].container is not None:
            container = file_records.container_by_stamp(connection, container_stamp(files[0].container))
            if container is None:
                return False
        tasks = [Task(file, container, None if container else stamp(file.path)) for file in files]
    except FileNotFoundError:  # another run has moved it in the meantime
        return False
    known = IngestHistory(connection, tasks)
    return all(known.earlier_result(task, ALWAYS) is not None for task in tasks)


def _move(path: ArchivePath, drop: ArchivePath) -> ArchivePath:
    target = drop / INGESTED_FOLDER / path.relative_to(drop)
    number = 1
    while target.exists():
        target = target.with_name(f"{path.stem}.{number}{path.suffix}")
        number += 1
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    return target
