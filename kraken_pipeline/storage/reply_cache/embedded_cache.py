"""The embedded level of the cache: a small SQLite file, with lock files, for all processes of one machine."""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from dogpile.cache import register_backend
from dogpile.cache.api import NO_VALUE, BytesBackend, CacheMutex, SerializedReturnType
from filelock import FileLock

from kraken_pipeline.storage.reply_cache.cache_stats import CacheStats

EMBEDDED = "kraken_pipeline.sqlite"
_STRIPES = 64
_TABLE = "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, made REAL NOT NULL, value BLOB NOT NULL)"
_Result = TypeVar("_Result")


class SqliteStore:
    """The SQLite file of the cache, which may be deleted at any time.

    The cache is not part of the catalog: values that can be fetched again need not survive a power cut, and do not
    belong in a backup. A file that is not a database any more is deleted. On any other error, such as a full disk, the
    cache behaves as if it were empty.
    """

    def __init__(self, path: Path, largest: int) -> None:
        self._path = path
        self._largest = largest

    def _do(self, work: Callable[[sqlite3.Connection], _Result], otherwise: _Result) -> _Result:
        """Run some work in a transaction; return `otherwise` if it fails."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=60)) as connection, connection:
                connection.execute("PRAGMA synchronous=OFF")
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(_TABLE)  # each time, because the file may have been deleted
                return work(connection)
        except (sqlite3.OperationalError, OSError):
            return otherwise
        except sqlite3.DatabaseError:
            with suppress(OSError):
                self._path.unlink()
            return otherwise

    def get(self, key: str) -> bytes | None:
        """Return the value of a key; None if there is none."""
        query = "SELECT value FROM entries WHERE key = ?"
        row = self._do(lambda connection: connection.execute(query, (key,)).fetchone(), None)
        return row[0] if row else None

    def set(self, key: str, value: bytes) -> None:
        """Store a value, and delete the oldest values to make room."""

        def put(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", (key, time.time(), value))
            size = connection.execute("SELECT total(length(value)) FROM entries").fetchone()[0]
            if size > self._largest:
                self._forget_oldest(connection, size)

        self._do(put, None)

    def _forget_oldest(self, connection: sqlite3.Connection, size: float) -> None:
        oldest = connection.execute("SELECT key, length(value) FROM entries ORDER BY made").fetchall()
        for key, length in oldest[:-1]:
            if size <= self._largest * 0.9:
                return
            connection.execute("DELETE FROM entries WHERE key = ?", (key,))
            size -= length

    def delete(self, keys: Sequence[str]) -> None:
        """Delete some keys."""
        query = "DELETE FROM entries WHERE key = ?"
        self._do(lambda connection: connection.executemany(query, [(key,) for key in keys]), None)

    def clear(self, prefix: str) -> int:
        """Delete the keys with this prefix; return their number."""
        query = "DELETE FROM entries WHERE substr(key, 1, ?) = ?"
        return self._do(lambda connection: connection.execute(query, (len(prefix), prefix)).rowcount, 0)

    def stats(self, prefix: str) -> CacheStats:
        """Return the number of keys with this prefix, and the size of their values."""
        query = "SELECT count(*), total(length(value)) FROM entries WHERE substr(key, 1, ?) = ?"
        keys, size = self._do(lambda connection: connection.execute(query, (len(prefix), prefix)).fetchone(), (0, 0))
        return CacheStats(int(keys), int(size))


class SqliteBackend(BytesBackend):
    """The dogpile.cache backend of the level on disk."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._store: SqliteStore = arguments["store"]
        self._locks: Path = arguments["locks"]

    def get_mutex(self, key: str) -> CacheMutex:
        """Return the lock of a key, which works across processes: one of a few, chosen by a hash of the key."""
        stripe = zlib.crc32(key.encode()) % _STRIPES
        return _Mutex(self._locks / f"{stripe}.lock")

    def get_serialized(self, key: str) -> SerializedReturnType:
        """Return the bytes of a key."""
        return self._store.get(key) or NO_VALUE

    def get_serialized_multi(self, keys: Iterable[str]) -> Sequence[SerializedReturnType]:
        """Return the bytes of several keys."""
        return [self.get_serialized(key) for key in keys]

    def set_serialized(self, key: str, value: bytes) -> None:
        """Store the bytes of a key."""
        self._store.set(key, value)

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        """Store the bytes of several keys."""
        for key, value in mapping.items():
            self._store.set(key, value)

    def delete(self, key: str) -> None:
        """Delete a key."""
        self._store.delete([key])

    def delete_multi(self, keys: Iterable[str]) -> None:
        """Delete several keys."""
        self._store.delete(list(keys))

    def clear(self, prefix: str) -> int:
        """Delete the keys with this prefix; return their number."""
        return self._store.clear(prefix)

    def stats(self, prefix: str) -> CacheStats:
        """Return the number and the size of the values whose keys have this prefix."""
        return self._store.stats(prefix)


class _Mutex(CacheMutex):
    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path, is_singleton=False, thread_local=False)

    def acquire(self, wait: bool = True) -> bool:
        try:
            self._lock.acquire(timeout=-1 if wait else 0)
        except TimeoutError:
            return False
        return True

    def release(self) -> None:
        self._lock.release()

    def locked(self) -> bool:
        return bool(self._lock.is_locked)


register_backend(EMBEDDED, __name__, "SqliteBackend")  # type: ignore[no-untyped-call]
