"""A lake in a bucket of an object store (`object_store`).

An object is written under its final key by one put that names the version to be replaced, or that there must be none
(`If-Match`, `If-None-Match: *`). It is never sent in parts. So an object is the old or the new one in full, and of two
writers that read the same version one is refused, whatever became of their locks. A crash between the announcement of
a write and its confirmation leaves the recorded or the announced object, exactly as a rename does in a folder. The
bucket needs no versions of its own for that.

An object is read by one request and in full, because requests cost more than bytes: nearly all objects have less than
3 MB, a year of minutes has 14 MB. Parts of different versions therefore cannot mix, and each reader compares the
SHA-256 of what it got.

A run reads what it has just written, to compare intervals and to look for quiet time and outages. So small objects that
this process has put or read stay in memory (`storage.lake.kept_objects`), and a reader gets them without a request if
the manifest of that moment names the very bytes. Writers and verification read from the bucket.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kraken_pipeline.errors import LakeRefused, StoreError, WriteConflict
from kraken_pipeline.market.series import Series
from kraken_pipeline.object_store import ConditionFailed, ObjectStore
from kraken_pipeline.storage.lake.files import OpenFile, Put, Version
from kraken_pipeline.storage.lake.kept_objects import KeptObjects
from kraken_pipeline.storage.paths import layout_of, named_in, series_folder

import obstore  # isort: skip - `object_store` says how to install it

if TYPE_CHECKING:
    from obstore import UpdateVersion

_AT_ONCE = 16


class _Object(io.BytesIO):
    """The content of an object, with the version that was read."""

    def __init__(self, content: bytes, version: Version) -> None:
        super().__init__(content)
        self.version = version


class BucketFiles:
    """A lake in a bucket.

    Args:
        url: The URL of the bucket, with a prefix for all keys: `s3://bucket/prefix`.
        patience: The time to wait for a store that does not answer, in seconds.
    """

    is_listed_by_readers = False
    is_read_whole = True
    at_once = _AT_ONCE

    def __init__(self, url: str, patience: float) -> None:
        self._store = ObjectStore(
            url,
            patience,
            what="the lake",
            needs="list, read, write and delete",
            setting="KRAKEN_LAKE_URL",
            refused=LakeRefused,
        )
        self.place = self._store.place
        self._kept = KeptObjects()

    def prepare(self) -> None:
        """Do nothing: a bucket has no folders."""

    def require_any(self) -> None:
        """Check that there is a lake at all: a URL with a wrong name must not pass for a lake that was deleted."""
        if not self.exists("lake/assets.parquet") and next(self.below("lake"), None) is None:
            raise StoreError(
                f"there is no lake at {self.place}, and the catalog has one on record: correct KRAKEN_LAKE_URL, or "
                "copy the folders lake and replaced there; if they are lost, kraken-pipeline recover records that"
            )

    # --- reading

    def location(self, path: str) -> str:
        """Return the URL of an object."""
        return f"{self.place}/{path}"

    def open(self, path: str) -> OpenFile:
        """Read an object."""
        meta, content = self._store.get(path)
        self._kept.keep(path, content)
        return _Object(content, _version(meta))

    def kept(self, path: str) -> OpenFile | None:
        """Return an object as this process has last read or put it; None where it is not kept."""
        content = self._kept.get(path)
        return None if content is None else io.BytesIO(content)

    def version_of(self, stream: OpenFile) -> Version | None:
        """Return the version of an object that was read."""
        return stream.version if isinstance(stream, _Object) else None

    def version(self, path: str) -> Version | None:
        """Return the present version of an object; None where there is none."""
        try:
            return _version(self._store.head(path))
        except FileNotFoundError:
            return None

    def exists(self, path: str) -> bool:
        """Return whether there is an object."""
        return self.version(path) is not None

    def modified_at(self, path: str) -> int:
        """Return when an object was last written, in seconds since the epoch."""
        return int(self._store.head(path)["last_modified"].timestamp())

    def sha256(self, path: str) -> str:
        """Return the SHA-256 of an object's bytes, as hexadecimal digits."""
        return sha256(self._store.get(path)[1]).hexdigest()

    def end(self, path: str, length: int) -> tuple[int, bytes]:
        """Return the size of an object and as many bytes of its end."""
        meta, content = self._store.get(path, {"range": {"suffix": length}})
        return int(meta["size"]), content

    # --- listing

    def candle_paths(self, series: Series) -> list[str]:
        """Return the key of each object where a layout has candles of a series."""
        return [path for path in self.below(series_folder(series)) if layout_of(path) is not None]

    def series(self) -> set[Series]:
        """Return every series that has an object in the lake."""
        return {series for path in self.below("lake") if (series := named_in(path)[0]) is not None}

    def below(self, folder: str) -> Iterator[str]:
        """Yield the keys of all objects below a folder."""
        return (str(found["path"]) for found in self.objects(folder))

    def objects(self, folder: str) -> Iterator[Any]:
        """Yield what the store says of each object below a folder: `path`, `size` and `last_modified`."""
        return self._store.below(folder)

    # --- writing

    def sync(self, written: Path) -> None:
        """Do nothing: a staged file that is lost is staged again, and an object is durable once it is put."""

    def put(self, groups: Iterable[Sequence[Put]]) -> None:
        """Put written local files under their keys, several groups at once, and delete the local files."""
        waiting = [group for group in groups if group]
        if len(waiting) < 2:
            for group in waiting:
                self._put_group(group)
            return
        with ThreadPoolExecutor(min(_AT_ONCE, len(waiting))) as pool:
            for done in [pool.submit(self._put_group, group) for group in waiting]:
                done.result()

    def _put_group(self, group: Sequence[Put]) -> None:
        for put in group:
            self._put(put)
            put.written.unlink()

    def _put(self, put: Put) -> None:
        content = put.written.read_bytes()
        self._kept.drop([put.path])  # whatever becomes of the put, what was read before it is no longer of use
        if self._store.repeated(lambda: self._is_put(put.path, content, put.replaces)):
            self._kept.keep(put.path, content)
            return
        try:
            is_ours = self.sha256(put.path) == put.sha256
        except FileNotFoundError:
            is_ours = False
        if not is_ours:  # a put whose answer was lost is repeated, although it was done
            raise WriteConflict(
                f"{self.place}/{put.path} is not the object that this write has read: another writer replaced it, or "
                "one that is not on record is there; nothing was overwritten; run the same command again, and if that "
                "does not help, kraken-pipeline verify"
            )

    def _is_put(self, path: str, content: bytes, replaces: Version | None) -> bool:
        """Put an object if the present one is of a version; return whether it is."""
        try:
            with self._store.explained():
                obstore.put(self._store.client, path, content, use_multipart=False, mode=_mode(replaces))
        except ConditionFailed:
            return False
        return True

    def remove(self, paths: Collection[str]) -> None:
        """Delete objects; those that do not exist are skipped."""
        if paths:
            self._kept.drop(paths)
            self._store.delete(paths)

    def set_aside(self, path: str, target: str) -> bool:
        """Copy an object within the store and delete the original; return False where there is none."""
        try:
            self._store.copy(path, target)
        except FileNotFoundError:
            return False
        self.remove([path])
        return True

    def link(self, path: str, target: Path) -> bool:
        """Return False: an object has no hard links."""
        del path, target
        return False

    def probe(self) -> None:
        """Check that objects can be written, read and deleted, and that the store keeps both conditions of a put.

        Raises:
            LakeRefused: It does not.
        """
        path = f"probe/{uuid.uuid4().hex}"
        try:
            is_kept = self._is_put(path, b"first", None) and not self._is_put(path, b"second", None)
            with self.open(path) as stream:
                is_kept &= stream.read() == b"first"
                first = self.version_of(stream)
            is_kept = is_kept and self._is_put(path, b"second", first) and not self._is_put(path, b"third", first)
        finally:
            self.remove([path])
        if not is_kept:
            raise LakeRefused(
                f"{self.place} overwrites an object although a put forbids it (If-None-Match, If-Match), so that two "
                "writers could destroy each other's candles: use a store that keeps the conditions of a put"
            )


def _version(said: Any) -> Version:
    return Version(said["e_tag"], said["version"])


def _mode(replaces: Version | None) -> Literal["create"] | UpdateVersion:
    if replaces is None:
        return "create"
    update: UpdateVersion = {}
    if replaces.e_tag is not None:
        update["e_tag"] = replaces.e_tag
    if replaces.number is not None:
        update["version"] = replaces.number
    return update
