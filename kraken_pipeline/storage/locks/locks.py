"""Locks across processes: on a series, a table, a fetch, a run, and the slots that limit parallel work.

With an embedded catalog, a lock is a file under `<home>/locks`, locked by the operating system. With a catalog on
PostgreSQL, it is an advisory lock of that database, and works across machines. Either is released as soon as its
process ends, even if the process was killed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

import sqlalchemy as sa

from kraken_pipeline.errors import Busy, StoreUnavailable
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.paths import make_folder, spelled
from kraken_pipeline.storage.postgresql import PostgreSQL, going_away

RUN_SECONDS = 60.0
"""The time that a run waits for a lock that only its own earlier process can hold."""
_POLL_SECONDS = 0.05


class LockKind(IntEnum):
    """The kind of thing that a lock protects. The number is part of an advisory lock's key, so it never changes."""

    SERIES = 1
    RUNS = 2
    SLOTS = 3
    FETCHES = 4
    TABLES = 5
    MIGRATIONS = 6
    RECORDS = 7

    @property
    def folder(self) -> str:
        """The name of the folder with its lock files."""
        return self.name.lower()


class LockHeld(Exception):
    """Another process or thread holds a lock.

    Attributes:
        name: The name of the lock.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class LockBackend(Protocol):
    """The mechanism that implements locks."""

    def hold(self, kind: LockKind, names: Iterable[str], timeout: float) -> AbstractContextManager[Callable[[], bool]]:
        """Hold several locks for the duration of a block; yield a function that checks whether they are still held.

        Raises:
            LockHeld: One of them was held elsewhere for longer than `timeout` seconds.
        """

    def is_held(self, kind: LockKind, name: str) -> bool:
        """Check whether a lock is held, by this process or another."""

    def is_any_held(self, kind: LockKind) -> bool:
        """Check whether any lock of a kind is held."""

    def close(self) -> None:
        """Close the resources that the backend itself keeps open."""


class Locks:
    """The locks of one home."""

    def __init__(self, backend: LockBackend) -> None:
        self._backend = backend
        # The checks of the series locks that this process holds: two for a series whose lock was lost and reacquired.
        self._series: dict[Series, list[Callable[[], bool]]] = {}
        self._guard = threading.Lock()
        self._runs: dict[str, _RunLock] = {}
        self._slot_of_driver: str | None = None

    def close(self) -> None:
        """Close the backend; locks are released by the blocks that hold them."""
        self._backend.close()

    @contextmanager
    def series(self, names: Iterable[Series], timeout: float = 600) -> Iterator[None]:
        """Hold the locks of several series; they are acquired in sorted order, which prevents deadlocks.

        Raises:
            Busy: Another process held one of them for longer than `timeout` seconds.
        """
        wanted = {f"{series.pair}.{series.interval.value}": series for series in sorted(set(names))}
        self.renew_runs()
        with ExitStack() as stack:
            try:
                is_held = stack.enter_context(self._backend.hold(LockKind.SERIES, wanted, timeout))
            except LockHeld as busy:
                raise Busy(
                    f"another process has been writing {wanted[busy.name]} for {timeout:.0f} s; try again later"
                ) from None
            with self._guard:
                for series in wanted.values():
                    self._series.setdefault(series, []).append(is_held)
            try:
                yield
            finally:
                with self._guard:
                    for series in wanted.values():
                        self._series[series].remove(is_held)
                        if not self._series[series]:
                            del self._series[series]

    def require(self, names: Iterable[Series]) -> None:
        """Check that this process still holds the locks of some series, right before it writes them.

        An advisory lock ends with its connection. After a restart of the database, another process may have acquired
        the lock and written the series, and a write based on an earlier read would undo that.

        Raises:
            StoreUnavailable: One of the locks was lost.
        """
        with self._guard:
            holds = {is_held for series in names for is_held in self._series[series]}
        for is_held in holds:
            if not is_held():
                raise StoreUnavailable(
                    "the locks were lost with the connection to the catalog's server: nothing was written; try again"
                )

    @contextmanager
    def slot(self, kind: str, count: int) -> Iterator[None]:
        """Hold one of `count` slots; wait while all are in use. A step uses that of whoever drives its run."""
        if kind == self._slot_of_driver:
            yield
            return
        with ExitStack() as stack:
            while True:
                for number in range(count):
                    try:
                        stack.enter_context(self._backend.hold(LockKind.SLOTS, [f"{kind}.{number}"], 0))
                    except LockHeld:
                        continue
                    yield
                    return
                time.sleep(_POLL_SECONDS)

    @contextmanager
    def fetch(self, name: str) -> Iterator[None]:
        """Hold the lock of a fetch, so that no two processes send the same requests to the exchange.

        Raises:
            Busy: Another process holds it.
        """
        with self._held(LockKind.FETCHES, name, 0, f"another run is fetching {name}"):
            yield

    @contextmanager
    def table(self, name: str, timeout: float = 600) -> Iterator[Callable[[], bool]]:
        """Hold the lock of a QuestDB table while publishing to it; yield a function that checks that it is still held.

        Raises:
            Busy: Another process held it for longer than `timeout` seconds.
        """
        with self._held(LockKind.TABLES, name, timeout, f"another run is publishing to {name}") as is_held:
            yield is_held

    @contextmanager
    def gap_records(self) -> Iterator[None]:
        """Hold the lock of the gap records, from reading the coverage until the gaps are recorded.

        Without it, gaps of an older read could overwrite those of a newer one.

        Raises:
            Busy: Another process held it for ten minutes.
        """
        with self._held(LockKind.RECORDS, "gaps", 600, "another run is recording gaps"):
            yield

    @contextmanager
    def alerts(self) -> Iterator[None]:
        """Hold the lock of the alerts, from looking up who knows what until it is recorded who was told.

        Raises:
            Busy: Another process held it for a minute.
        """
        with self._held(LockKind.RECORDS, "alerts", 60, "another process is sending alerts"):
            yield

    @contextmanager
    def migration(self) -> Iterator[None]:
        """Hold the lock of the catalog's migration.

        Raises:
            Busy: Another process held it for a minute.
        """
        with self._held(LockKind.MIGRATIONS, "catalog", 60, "another process is migrating the catalog"):
            yield

    @contextmanager
    def _held(self, kind: LockKind, name: str, timeout: float, sentence: str) -> Iterator[Callable[[], bool]]:
        with ExitStack() as stack:
            try:
                is_held = stack.enter_context(self._backend.hold(kind, [name], timeout))
            except LockHeld:
                raise Busy(sentence) from None
            yield is_held

    def renew_runs(self) -> None:
        """Reacquire the locks of runs that this process has lost, as after a restart of the catalog's server."""
        for run in tuple(self._runs.values()):
            run.renew()

    def step(self, run_id: str, slot: str | None) -> AbstractContextManager[None]:
        """Hold a lock of its own for one step of a run that another process drives, so that both count as running.

        Args:
            run_id: The id of the run.
            slot: The kind of slot that the other process holds for the whole run; None if it holds none.
        """
        self._slot_of_driver = slot
        return self.run(f"{run_id}.{uuid.uuid4().hex}")

    @contextmanager
    def run(self, run_id: str, timeout: float = RUN_SECONDS) -> Iterator[None]:
        """Hold the lock of a run for as long as its process lives; a lost lock is reacquired with the next series.

        Raises:
            Busy: Another process held it for longer than `timeout` seconds.
        """
        lock = _RunLock(self._backend, run_id)
        try:
            lock.acquire(timeout)
        except LockHeld:
            raise Busy(f"another process is executing run {run_id}") from None
        self._runs[run_id] = lock
        try:
            yield
        finally:
            del self._runs[run_id]
            lock.release()

    def is_running(self, run_id: str) -> bool:
        """Check whether a process holds the lock of this run."""
        return self._backend.is_held(LockKind.RUNS, run_id)

    def is_any_running(self) -> bool:
        """Check whether a process holds the lock of any run."""
        return self._backend.is_any_held(LockKind.RUNS)


class _RunLock:
    """The lock of a run, reacquired after a loss, so that a running run does not look like one that was killed.

    Any thread that locks series renews it.
    """

    def __init__(self, backend: LockBackend, run_id: str) -> None:
        self._backend = backend
        self._run_id = run_id
        self._guard = threading.Lock()
        self._stack = ExitStack()
        self._is_held: Callable[[], bool] = _always

    def acquire(self, timeout: float) -> None:
        with ExitStack() as stack:
            self._is_held = stack.enter_context(self._backend.hold(LockKind.RUNS, [self._run_id], timeout))
            self._stack = stack.pop_all()

    def renew(self) -> None:
        with self._guard:
            if not self._is_held():
                self._stack.close()
                with suppress(LockHeld):  # held by the lost connection, as the server sees it
                    self.acquire(0)

    def release(self) -> None:
        with self._guard:
            self._stack.close()


# --- files


class FileLocks:
    """Locks as files under a folder, locked by the operating system."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for kind in LockKind:
            make_folder(folder / kind.folder)

    def _path(self, kind: LockKind, name: str) -> str:
        return f"{self._folder}/{kind.folder}/{spelled(name)}.lock"

    @contextmanager
    def hold(self, kind: LockKind, names: Iterable[str], timeout: float) -> Iterator[Callable[[], bool]]:
        """Hold several locks; they are never lost while the process lives."""
        with ExitStack() as held:
            for name in names:
                until = time.monotonic() + timeout  # for each lock, as its holder is what the error names
                path = self._path(kind, name)
                while (descriptor := _locked(path)) is None:
                    if time.monotonic() >= until:
                        raise LockHeld(name)
                    time.sleep(_POLL_SECONDS)
                held.callback(os.close, descriptor)
                if kind is LockKind.RUNS:  # every run adds a file
                    # The file is deleted while its lock is held, so no other holder's file is deleted.
                    held.callback(Path(path).unlink, missing_ok=True)
            yield _always

    def is_held(self, kind: LockKind, name: str) -> bool:
        """Check whether a lock is held."""
        path = self._path(kind, name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _lock_at_once(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def is_any_held(self, kind: LockKind) -> bool:
        """Check whether any lock of a kind is held."""
        return any(self.is_held(kind, unquote(path.stem)) for path in (self._folder / kind.folder).glob("*.lock"))

    def close(self) -> None:
        """Do nothing: file locks keep nothing open."""


def _locked(path: str) -> int | None:
    """Lock a file for this process alone, and return its descriptor; None if it is locked elsewhere.

    Two descriptors of one process exclude each other as two processes do. This is `fcntl.flock` and not `filelock`,
    whose checks cost 0.3 ms for each lock instead of 0.01 ms: as much as storing the candles of a small file.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        is_kept = False
        try:
            if not _lock_at_once(descriptor, fcntl.LOCK_EX):
                return None
            is_kept = bool(os.fstat(descriptor).st_nlink)  # 0: its holder deleted it before this process locked it
            if is_kept:
                return descriptor
        finally:
            if not is_kept:
                os.close(descriptor)


def _lock_at_once(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _always() -> bool:
    return True


# --- advisory locks


class AdvisoryLocks:
    """Advisory locks of a PostgreSQL database.

    Each hold uses a connection of its own, because a session may acquire the same lock twice. The locks are bound to
    the connection, so the server releases them when the process ends. The connections do not come from the catalog's
    pool: a run whose locks used up that pool could not write.

    Args:
        server: The server, with autocommit connections; closed by `close`.
    """

    def __init__(self, server: PostgreSQL) -> None:
        self._server = server

    @contextmanager
    def hold(self, kind: LockKind, names: Iterable[str], timeout: float) -> Iterator[Callable[[], bool]]:
        """Hold several locks for as long as the connection lasts."""
        by_key = {_key(kind, name): name for name in names}
        with self._server.connect() as connection:
            try:
                # Sorted by key, so that two sessions never deadlock.
                for key in sorted(by_key):
                    if not _acquire(connection, key, timeout):
                        raise LockHeld(by_key[key])
                yield lambda: _is_alive(connection)
            finally:
                _let_go(connection)

    def is_held(self, kind: LockKind, name: str) -> bool:
        """Check whether a lock is held."""
        high, low = divmod(_key(kind, name), 1 << 32)
        return self._is_any("classid = :high AND objid = :low", high=high, low=low)

    def is_any_held(self, kind: LockKind) -> bool:
        """Check whether any lock of a kind is held."""
        return self._is_any("classid >> 24 = :kind", kind=kind.value)

    def _is_any(self, condition: str, **values: int) -> bool:
        query = (
            "SELECT EXISTS (SELECT 1 FROM (SELECT classid::bigint AS classid, objid::bigint AS objid FROM pg_locks "
            "WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND database = "
            f"(SELECT oid FROM pg_database WHERE datname = current_database())) AS held WHERE {condition})"
        )
        with going_away(), self._server.connect() as connection:
            return bool(connection.scalar(sa.text(query), values))

    def close(self) -> None:
        """Close the server's connections."""
        self._server.close()


def _key(kind: LockKind, name: str) -> int:
    """Return a lock's key: its kind in the highest byte, then 56 bits of a hash of its name."""
    digest = hashlib.sha256(name.encode()).digest()[:7]
    return kind.value << 56 | int.from_bytes(digest, "big")


def _acquire(connection: sa.Connection, key: int, timeout: float) -> bool:
    with going_away():
        if not timeout:
            return bool(connection.scalar(sa.select(sa.func.pg_try_advisory_lock(key))))
        milliseconds = max(1, round(timeout * 1_000))  # 0 would mean no time-out
        connection.execute(sa.select(sa.func.set_config("lock_timeout", str(milliseconds), sa.false())))
        try:
            connection.execute(sa.select(sa.func.pg_advisory_lock(key)))
        except sa.exc.OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            return False
    return True


_LOCK_NOT_AVAILABLE = "55P03"


def _is_alive(connection: sa.Connection) -> bool:
    try:
        connection.execute(sa.select(1))
    except sa.exc.SQLAlchemyError:
        return False
    return True


def _let_go(connection: sa.Connection) -> None:
    try:
        connection.execute(sa.select(sa.func.pg_advisory_unlock_all()))
    except sa.exc.SQLAlchemyError:
        connection.invalidate()  # its locks end with it
