"""Replies of the exchange that serve again for a while: in this process, then on disk for all of them, then the source.

A region of dogpile.cache over a small SQLite file, with a level in memory above it. One process fetches a cold key
while the others wait for it, and what has expired can still be had when the source fails. (dogpile's own
`get_or_create` gives what has expired also while another process is fetching, which here would pass for fresh.) A reply
is evidence only of what it says itself, up to the moment when it was made.

Nothing fails because of the cache: what cannot be read from it is a miss, and what cannot be written is not kept.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from cachetools import TTLCache
from dogpile.cache import CacheRegion, make_region, register_backend
from dogpile.cache.api import NO_VALUE, BytesBackend, CacheMutex, NoValue, SerializedReturnType
from filelock import FileLock

from kraken_pipeline.errors import ExchangeUnavailable
from kraken_pipeline.storage.counters import Counters

LONGEST_KEY = 200
MEMORY_BYTES = 16 << 20
_LONGEST_MEMORY_SECONDS = 60.0
_STRIPES = 64
_BACKEND = "kraken_pipeline.sqlite"
_TABLE = "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, made REAL NOT NULL, value BLOB NOT NULL)"
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Entry:
    """What the cache holds under a key.

    Attributes:
        value: A value of JSON.
        made_at: When the source gave it, in seconds since the epoch.
        is_stale: Whether it has expired, and is given because the source failed.
    """

    value: Any
    made_at: float
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class CacheStats:
    """How large the cache on disk is.

    Attributes:
        keys: How many keys it has, also of what has expired.
        size: How many bytes their values take.
    """

    keys: int
    size: int


class Cache:
    """A cache of JSON values.

    Args:
        folder: Where its file and its locks lie.
        environment: What every key begins with.
        largest: How many bytes of values are kept on disk.
        counters: Told of hits, misses and stale values.
        clock: The moment in seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        environment: str,
        largest: int,
        counters: Counters,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._environment = environment
        self._counters = counters
        self._clock = clock
        self._store = SqliteStore(folder / "cache.sqlite", largest)
        self._region: CacheRegion = make_region(
            serializer=_serialized, deserializer=_deserialized, key_mangler=None
        ).configure(_BACKEND, arguments={"store": self._store, "locks": folder / "locks"})
        self._memory: TTLCache[str, Entry] = TTLCache(MEMORY_BYTES, _LONGEST_MEMORY_SECONDS, getsizeof=_size_of)
        self._guard = threading.Lock()

    def key(self, *parts: str) -> str:
        """The key of some parts: the environment first, and hashed where it would be too long."""
        key = ":".join((self._environment, *parts))
        if len(key) <= LONGEST_KEY:
            return key
        return f"{key[: LONGEST_KEY - 65]}:{hashlib.sha256(key.encode()).hexdigest()}"

    def get_or_make(
        self,
        parts: Sequence[str],
        seconds: float,
        make: Callable[[], Any],
        is_enough: Callable[[Any], bool] = lambda _: True,
        *,
        in_memory: bool = True,
    ) -> Entry:
        """The value under a key, made by the source where there is none.

        A lookup of a key that was never there counts as `cold` and neither as a hit nor as a miss: replies with the
        newest candles and pages of trades are asked for once by their nature, and say nothing of how the cache serves.

        Args:
            parts: The key.
            seconds: How old a value may be.
            make: Asks the source. What it raises is never kept.
            is_enough: Whether a value serves; where a known one does not, the source is asked anew, and what it gives
                is kept only if it does.
            in_memory: Whether it is kept in this process as well; not what is large and hardly asked for twice.

        Raises:
            ExchangeUnavailable: The source failed, and not even an old value serves.
        """
        key = self.key(*parts)

        def serving(entry: Entry | None) -> Entry | None:
            is_young = entry is not None and self._clock() - entry.made_at < seconds
            return entry if entry is not None and is_young and is_enough(entry.value) else None

        if (found := serving(self._remembered(key)) or serving(self._kept(key))) is not None:
            self._counters.add("cache.hits")
            return self._remember(key, found) if in_memory else found
        with _held(self._region.backend.get_mutex(key)):
            known = self._kept(key)  # another process may have fetched it in the meantime
            if (found := serving(known)) is not None:
                self._counters.add("cache.hits")
                return self._remember(key, found) if in_memory else found
            self._counters.add("cache.cold" if known is None else "cache.misses")
            try:
                value = make()
            except ExchangeUnavailable:
                if known is None or not is_enough(known.value):
                    raise
                self._counters.add("cache.stale")
                return replace(known, is_stale=True)
            return self.put(parts, value, in_memory=in_memory) if is_enough(value) else Entry(value, self._clock())

    def put(self, parts: Sequence[str], value: Any, *, in_memory: bool = True) -> Entry:
        """Keeps a value that the source has just given."""
        key, made_at = self.key(*parts), self._clock()
        self._region.set(key, {"value": value, "made_at": made_at})
        entry = Entry(value, made_at)
        return self._remember(key, entry) if in_memory else entry

    def _kept(self, key: str) -> Entry | None:
        """What is on disk, however old."""
        try:
            found = self._region.get(key, ignore_expiration=True)
        except (zlib.error, ValueError):
            return None  # damaged: what takes its place will not be
        return None if isinstance(found, NoValue) else Entry(found["value"], found["made_at"])

    def _remembered(self, key: str) -> Entry | None:
        with self._guard:
            return self._memory.get(key)

    def _remember(self, key: str, entry: Entry) -> Entry:
        with self._guard:
            self._memory.pop(key, None)
            if _size_of(entry) <= MEMORY_BYTES:
                self._memory[key] = entry
        return entry

    def clear(self, prefix: str = "") -> int:
        """Forgets the keys of this environment that begin like that; returns how many there were.

        What another process has in memory serves there for another minute at the most.
        """
        with self._guard:
            self._memory.clear()
        return self._store.clear(f"{self._environment}:{prefix}")

    def stats(self) -> CacheStats:
        """How large it is."""
        return self._store.stats()


def _size_of(entry: Entry) -> int:
    value = entry.value
    parts = value.values() if isinstance(value, dict) else [value]
    rows = sum(len(each) for each in parts if isinstance(each, (list, dict)))
    return 200 + 300 * rows  # a row of OHLC or Trades as Python objects, measured with pympler: 250 to 400 bytes


def _serialized(value: Any) -> bytes:
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 1)


def _deserialized(content: bytes) -> Any:
    return json.loads(zlib.decompress(content))


class SqliteStore:
    """The level on disk: one small SQLite file, which may be deleted at any time.

    It is not in the catalog, because what can be fetched again need not survive a power cut, nor go into a backup.
    A file that is no database any more is deleted, and whatever fails otherwise (a full disk) is as if it were empty.
    """

    def __init__(self, path: Path, largest: int) -> None:
        self._path = path
        self._largest = largest

    def _do(self, work: Callable[[sqlite3.Connection], _Result], otherwise: _Result) -> _Result:
        """Does something in a transaction, or gives what stands for its failure."""
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
        """The value of a key."""
        query = "SELECT value FROM entries WHERE key = ?"
        row = self._do(lambda connection: connection.execute(query, (key,)).fetchone(), None)
        return row[0] if row else None

    def set(self, key: str, value: bytes) -> None:
        """Keeps a value, and makes room for it by forgetting the oldest."""

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
        """Forgets some keys."""
        query = "DELETE FROM entries WHERE key = ?"
        self._do(lambda connection: connection.executemany(query, [(key,) for key in keys]), None)

    def clear(self, prefix: str) -> int:
        """Forgets the keys that begin like that."""
        query = "DELETE FROM entries WHERE substr(key, 1, ?) = ?"
        return self._do(lambda connection: connection.execute(query, (len(prefix), prefix)).rowcount, 0)

    def stats(self) -> CacheStats:
        """How large it is."""
        query = "SELECT count(*), total(length(value)) FROM entries"
        keys, size = self._do(lambda connection: connection.execute(query).fetchone(), (0, 0))
        return CacheStats(int(keys), int(size))


class SqliteBackend(BytesBackend):
    """What dogpile.cache needs of the level on disk."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._store: SqliteStore = arguments["store"]
        self._locks: Path = arguments["locks"]

    def get_mutex(self, key: str) -> CacheMutex:
        """One of a few locks that work across processes; which one, the key says."""
        stripe = zlib.crc32(key.encode()) % _STRIPES
        return _Mutex(self._locks / f"{stripe}.lock")

    def get_serialized(self, key: str) -> SerializedReturnType:
        """The bytes of a key."""
        return self._store.get(key) or NO_VALUE

    def get_serialized_multi(self, keys: Iterable[str]) -> Sequence[SerializedReturnType]:
        """The bytes of several keys."""
        return [self.get_serialized(key) for key in keys]

    def set_serialized(self, key: str, value: bytes) -> None:
        """Keeps the bytes of a key."""
        self._store.set(key, value)

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        """Keeps the bytes of several keys."""
        for key, value in mapping.items():
            self._store.set(key, value)

    def delete(self, key: str) -> None:
        """Forgets a key."""
        self._store.delete([key])

    def delete_multi(self, keys: Iterable[str]) -> None:
        """Forgets several keys."""
        self._store.delete(list(keys))


@contextmanager
def _held(mutex: CacheMutex | None) -> Iterator[None]:
    if mutex is None:
        yield
        return
    mutex.acquire()
    try:
        yield
    finally:
        mutex.release()


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


register_backend(_BACKEND, __name__, "SqliteBackend")  # type: ignore[no-untyped-call]
