"""Copies of a lake in a bucket: its files in a folder for a backup, and back."""

from __future__ import annotations

import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from hashlib import file_digest
from itertools import islice
from pathlib import Path

from kraken_pipeline.storage.lake.files import LakeFiles, Put
from kraken_pipeline.storage.paths import sync_file
from kraken_pipeline.storage.records import manifest
from kraken_pipeline.storage.stores import Stores

LAKE_FOLDERS = ("lake", "replaced", "trades", "damaged")
"""The folders of a lake, its ledger, its trades and what was set aside of them."""
_AT_ONCE = 256


def download(stores: Stores, target: Path, scratch: Path) -> dict[str, int]:
    """Copy the files of a lake into a folder, and return path → size.

    A file of an earlier copy stays where it is the one on record: it costs no request, and damage in the bucket does
    not reach it.

    Args:
        stores: The stores with the lake.
        target: The folder.
        scratch: A folder of the same file system, for files that are not complete yet.
    """
    files = stores.lake.files
    with stores.catalog.read() as connection:
        recorded = {path: {file.sha256 for file in its} for path, its in manifest.all_files(connection).items()}

    def copy(path: str) -> tuple[str, int] | None:
        there = target / path
        if not (there.is_file() and _sha256(there) in recorded.get(path, ())):
            try:
                with files.open(path) as stream:
                    content = stream.read()
            except FileNotFoundError:
                return None
            _write(there, scratch / uuid.uuid4().hex, content)
        return path, there.stat().st_size

    with ThreadPoolExecutor(files.at_once) as pool:
        while True:
            copied = list(pool.map(copy, (path for folder in LAKE_FOLDERS for path in files.below(folder))))
            # What vanished was replaced by a write in another layout, whose files may have been listed too early.
            if None not in copied:
                return dict(one for one in copied if one is not None)


def _write(path: Path, written: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        written.write_bytes(content)
        sync_file(written)
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)


def upload(source: Path, files: LakeFiles, scratch: Path) -> None:
    """Put the files of a folder into a lake; those that an earlier call has put there stay.

    Args:
        source: The folder.
        files: The lake.
        scratch: A folder for the files that are about to be put.

    Raises:
        WriteConflict: The lake has another file at the path of one of them.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    paths = (path for folder in LAKE_FOLDERS for path in sorted((source / folder).rglob("*")) if path.is_file())
    while some := list(islice(paths, _AT_ONCE)):
        groups = []
        for path in some:
            written = scratch / uuid.uuid4().hex
            shutil.copyfile(path, written)
            groups.append([Put(written, path.relative_to(source).as_posix(), _sha256(written))])
        files.put(groups)


def _sha256(path: Path) -> str:
    with path.open("rb", buffering=0) as stream:
        return file_digest(stream, "sha256").hexdigest()
