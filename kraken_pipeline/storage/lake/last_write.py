"""The last write: a note in the home of the newest file that was moved into the lake.

The note lies in the home, so that a catalog that is older than the lake, such as one restored by itself, is
detected when it is opened. A write is announced in the catalog before its file is moved, and noted here afterwards.
The catalog that the lake was written with therefore knows the noted write, or a later one of that file.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import sqlalchemy as sa

from kraken_pipeline.storage.catalog.schema import lake_files
from kraken_pipeline.storage.lake.files import LakeFiles
from kraken_pipeline.storage.lake.inspection import said_by
from kraken_pipeline.storage.records.manifest import LakeFile

_NAME = "last_write"


@dataclass(frozen=True, slots=True)
class LastWrite:
    """The write that is noted.

    Attributes:
        path: The path of its file, relative to the home, with slashes.
        write_id: The id of the write of that file.
    """

    path: str
    write_id: str


def note(home: Path, files: Iterable[LakeFile]) -> None:
    """Note the newest of some files that were moved into the lake just now.

    If the note cannot be written, the note of an earlier write stays, which is still correct.
    """
    newest = max((file for file in files if file.is_candles), key=lambda file: file.write_id, default=None)
    if newest is None:
        return
    written = home / "tmp" / f"{uuid.uuid4().hex}.{_NAME}"
    with suppress(OSError):
        written.write_text(json.dumps({"path": newest.path, "write_id": newest.write_id}), encoding="utf-8")
        written.rename(home / _NAME)


def noted(home: Path) -> LastWrite | None:
    """Return the noted write; None where there is none, or where the note cannot be read."""
    try:
        said = json.loads((home / _NAME).read_text(encoding="utf-8"))
        return LastWrite(str(said["path"]), str(said["write_id"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget(home: Path) -> None:
    """Delete the note, because the home is about to get another lake."""
    (home / _NAME).unlink(missing_ok=True)


def unknown(home: Path, files: LakeFiles, connection: sa.Connection) -> LastWrite | None:
    """Return the noted write if the catalog does not know it; None where it does, or where this is uncertain.

    The file itself is checked as well: one that was replaced, set aside or damaged since is no sign of an old catalog.
    """
    last = noted(home)
    if last is None:
        return None
    known = set(connection.scalars(sa.select(lake_files.c.write_id).where(lake_files.c.path == last.path)))
    if any(write_id >= last.write_id for write_id in known):
        return None
    try:
        with files.open(last.path) as stream:
            said = said_by(stream)
    except (OSError, pl.exceptions.PolarsError):
        return None
    return last if said is not None and said[0] not in known else None
