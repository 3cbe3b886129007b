"""The trigger of an ingest: decides whether the drop folder holds files that no run was asked to ingest yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from kraken_pipeline.archive_path import edges_of
from kraken_pipeline.errors import plain
from kraken_pipeline.kraken.archive import ArchiveFile
from kraken_pipeline.kraken.discovery import Discovery, PassedOver
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.ingest.scan import drop_folder, look_into, pass_over_unknown

_EDGE = 1 << 16
_REASONS = 5


@dataclass(frozen=True, slots=True)
class DroppedFiles:
    """The result of one look into the drop folder.

    Attributes:
        cursor: The state for the next look: a digest of the files, and the number of runs requested so far, as JSON.
        run_key: The key of the run to request; None where there is nothing to ingest.
        pairs: The pairs of the files to ingest.
        reason: Why there is nothing to ingest; empty where there is.
    """

    cursor: str
    run_key: str | None = None
    pairs: tuple[Pair, ...] = ()
    reason: str = ""


def look_into_drop_folder(settings: Settings, cursor: str | None) -> DroppedFiles:
    """Look into the drop folder, and create it where there is none.

    The number of runs is part of the run key, because Dagster never runs the same key twice: a file that is dropped
    again after it was moved away is ingested again.

    Args:
        settings: The settings of the home.
        cursor: The cursor of the look before; None at the first.
    """
    settings.drop.mkdir(parents=True, exist_ok=True)
    found = look_into(settings, drop_folder(settings))
    if any(file.is_doubtful for file in found.files):
        with opened(settings) as stores:
            pass_over_unknown(stores, found)
    seen, count = json.loads(cursor) if cursor else ("", 0)
    digest = content_digest(found.files, found.broken) if found.files or found.broken else ""
    if digest == seen or not digest:
        return DroppedFiles(json.dumps([digest, count]), reason=_nothing_new(settings, found))
    pairs = {file.pair.name: file.pair for file in found.files}
    return DroppedFiles(json.dumps([digest, count + 1]), f"{digest}-{count + 1}", tuple(pairs.values()))


def content_digest(files: Sequence[ArchiveFile], broken: Sequence[PassedOver] = ()) -> str:
    """Return a digest of files: their names, their sizes, and the first and last bytes of each.

    The files are not read whole, because a tick has 60 seconds. For containers that cannot be opened, the digest covers
    the reasons, so that a run records them.
    """
    digest = hashlib.sha256("".join(sorted(f"{skipped.name}: {skipped.reason}\n" for skipped in broken)).encode())
    for path in sorted({part for file in files for part in (file.container.parts if file.container else (file.path,))}):
        with suppress(FileNotFoundError):  # a run may have moved it in the meantime
            digest.update(f"{plain(path.name)}:".encode() + edges_of(path, _EDGE))
    return digest.hexdigest()[:16]


def _nothing_new(settings: Settings, found: Discovery) -> str:
    """Return the reason why nothing is ingested, with the first files that cannot be."""
    waiting = f", {len(found.waiting)} still grow" if found.waiting else ""
    unread = [f"{skipped.name}: {skipped.reason}" for skipped in (*found.broken, *found.skipped)]
    reasons = "; ".join([f"nothing new in {settings.drop}{waiting}", *unread[:_REASONS]])
    more = f"; and {len(unread) - _REASONS} more" if len(unread) > _REASONS else ""
    return f"{reasons}{more}"
