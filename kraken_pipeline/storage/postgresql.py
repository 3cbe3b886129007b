"""Connections to a PostgreSQL server: pooled, checked before use, and retried while the server restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from kraken_pipeline.errors import StoreUnavailable
from kraken_pipeline.storage.pools import PoolStats

_CONNECT_SECONDS = 5
_RETRY_SECONDS = 0.2
# Each side notices within a minute, not after two hours, that the other has vanished: the client notices the server
# even while data it sent is unacknowledged, and the server notices the client, whose locks it holds until then.
_KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
_SERVERS_KEEPALIVE = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
_FIRST_CONNECTIONS = 2
# The server answers but rejects the login: waiting does not help.
_REFUSALS = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "is not permitted to log in",
    "permission denied",
)


@dataclass(frozen=True, slots=True)
class PoolSizes:
    """The size and the time-outs of a connection pool.

    Attributes:
        kept: The number of connections that stay open.
        overflow: The number of additional connections that may be open for a moment.
        recycle_seconds: The maximum age of a connection.
        patience_seconds: The time to wait for a connection, also while the server restarts.
    """

    kept: int = 20
    overflow: int = 10
    recycle_seconds: float = 3_600.0
    patience_seconds: float = 30.0


class PostgreSQL:
    """The connections to one database.

    Args:
        url: An SQLAlchemy URL; `postgresql://` means psycopg 3.
        sizes: The size and the time-outs of the pool.
        options: Further options of the SQLAlchemy engine.
    """

    def __init__(self, url: sa.URL, sizes: PoolSizes, **options: Any) -> None:
        self._sizes = sizes
        self._waiting = 0
        self._peak = 0
        self._guard = threading.Lock()
        own_options = url.query.get("options", ())
        spoken = (*((own_options,) if isinstance(own_options, str) else own_options), _SERVERS_KEEPALIVE)
        self.engine = sa.create_engine(
            url,
            poolclass=sa.QueuePool,
            pool_size=sizes.kept,
            max_overflow=sizes.overflow,
            pool_timeout=sizes.patience_seconds,
            pool_recycle=sizes.recycle_seconds,
            pool_pre_ping=True,
            connect_args={"connect_timeout": _CONNECT_SECONDS, "options": " ".join(spoken), **_KEEPALIVE},
            **options,
        )

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def warm(self) -> None:
        """Open the first connections."""
        with ExitStack() as opened:
            for _ in range(min(_FIRST_CONNECTIONS, self._sizes.kept)):
                opened.enter_context(self.connect())

    @property
    def statistics(self) -> PoolStats:
        """The number of connections in use, idle and waited for."""
        pool = self.engine.pool
        assert isinstance(pool, sa.QueuePool)  # noqa: S101 - for the type checker; it was made so
        idle, in_use = pool.checkedin(), pool.checkedout()
        return PoolStats(
            size=idle + in_use,
            in_use=in_use,
            idle=idle,
            overflow=max(0, pool.overflow()),
            waiting=self._waiting,
            limit=self._sizes.kept + self._sizes.overflow,
            peak=self._peak,
        )

    def connect(self) -> sa.Connection:
        """Return a connection; retry for `patience_seconds` if the server does not answer.

        Raises:
            StoreUnavailable: The server does not answer or rejects the login, or all connections are in use.
        """
        until = time.monotonic() + self._sizes.patience_seconds
        with self._guard:
            self._waiting += 1
        try:
            while True:
                try:
                    connection = self.engine.connect()
                except sa.exc.TimeoutError:
                    raise StoreUnavailable(
                        f"all {self._sizes.kept + self._sizes.overflow} connections to the catalog's server have been "
                        f"in use for {self._sizes.patience_seconds:g} s; see KRAKEN_CATALOG_POOL"
                    ) from None
                except sa.exc.OperationalError as error:
                    if time.monotonic() > until or any(refusal in str(error.orig) for refusal in _REFUSALS):
                        raise StoreUnavailable(f"the catalog's server does not answer: {_sentence(error)}") from None
                else:
                    self._measure()
                    return connection
                time.sleep(_RETRY_SECONDS)
        finally:
            with self._guard:
                self._waiting -= 1

    def _measure(self) -> None:
        pool = self.engine.pool
        assert isinstance(pool, sa.QueuePool)  # noqa: S101 - for the type checker; it was made so
        with self._guard:
            self._peak = max(self._peak, pool.checkedout())


@contextmanager
def going_away() -> Iterator[None]:
    """Turn the loss of a server in the middle of a block into an error; pass other errors of statements on.

    Raises:
        StoreUnavailable: The server went away.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        if not (error.connection_invalidated or isinstance(error, sa.exc.OperationalError)):
            raise
        raise StoreUnavailable(f"the catalog's server closed the connection: {_sentence(error)}") from error


def alone(connection: sa.Connection, table: sa.Table) -> None:
    """Lock a table against other writers until the transaction ends, so that what is read of it stays valid.

    SQLite does that by itself. Call it before the transaction does anything else with the table.
    """
    if connection.dialect.name == "postgresql":
        name = connection.dialect.identifier_preparer.format_table(table)
        connection.execute(sa.text(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE"))


def _sentence(error: sa.exc.DBAPIError) -> str:
    lines = str(error.orig).strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__
