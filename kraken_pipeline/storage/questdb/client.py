"""The QuestDB client: writes candles over ILP/HTTP and queries them over PGWire, always with parameters.

QuestDB's tables can be rebuilt from the lake at any time. QuestDB appends rows to a log (WAL) before it applies them to
a table. Rows count as written once they are applied: pass the `Receipt` of a `send` to `wait_until_applied`.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from kraken_pipeline.errors import InvalidRequest, StoreError, StoreUnavailable
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.pools import PoolStats
from kraken_pipeline.storage.questdb import tables as schema
from kraken_pipeline.storage.questdb.ilp import IlpConnection
from kraken_pipeline.storage.questdb.values import (
    READ_SCHEMA,
    ROW_SCHEMA,
    Lag,
    RangeDigest,
    Receipt,
    bounds,
    checked_interval,
    checked_series,
    frame_of,
    parts_of,
    seconds_of_value,
)

_READ = "time, open, high, low, close, volume, trade_count, source, vwap, quote_volume, buy_volume"
"""The columns of `READ_SCHEMA`, as a text of the source, which no value can reach."""
_SYMBOLS = [name for name, kind in schema.COLUMNS.items() if kind == "SYMBOL"]
_FIRST_POLL, _LONGEST_POLL = 0.002, 0.1
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)


class QuestDB:
    """A QuestDB server.

    Queries take typed values and send them as parameters. A value of the wrong type is rejected before anything is
    sent. PGWire connections are pooled, and opened on first use.

    Args:
        http_url: `http://user:password@host:9000`.
        pg_url: `postgresql://user:password@host:8812/qdb`.
        pool: The minimum and maximum number of connections.
        recycle_seconds: The maximum age of a connection.
        timeout: The time-out for a connection or an answer, in seconds.
        apply_seconds: The time-out for applying the rows sent, and for reading a whole table.
    """

    def __init__(
        self,
        http_url: str,
        pg_url: str,
        *,
        pool: tuple[int, int] = (5, 50),
        recycle_seconds: float = 1_800.0,
        timeout: float = 10.0,
        apply_seconds: float = 300.0,
    ) -> None:
        self._ilp = IlpConnection(http_url, timeout)
        self._pgwire = urlsplit(pg_url).netloc.rpartition("@")[2]
        self._timeout = timeout
        self._apply_seconds = apply_seconds
        self._is_ready = False
        self._in_use = self._peak = 0
        self._guard = threading.Lock()
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # the caller gets its warnings as errors
        self._pool = ConnectionPool(
            pg_url,
            min_size=pool[0],
            max_size=pool[1],
            max_lifetime=recycle_seconds,
            timeout=timeout,
            check=self._check,
            kwargs={"autocommit": True, "connect_timeout": max(2, round(timeout))},
            open=False,
        )

    def __enter__(self) -> QuestDB:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._ilp.close()
        self._pool.close()

    @property
    def statistics(self) -> PoolStats:
        """The number of connections in use, idle and waited for."""
        if self._pool.closed:
            return PoolStats(
                size=0, in_use=0, idle=0, overflow=0, waiting=0, limit=self._pool.max_size, peak=self._peak
            )
        found = self._pool.get_stats()
        size, idle = found.get("pool_size", 0), found.get("pool_available", 0)
        return PoolStats(
            size=size,
            in_use=size - idle,
            idle=idle,
            overflow=max(0, size - self._pool.min_size),
            waiting=found.get("requests_waiting", 0),
            limit=self._pool.max_size,
            peak=self._peak,
        )

    # --- the schema

    def prepare(self, intervals: Collection[Interval] = tuple(Interval)) -> None:
        """Create the tables and the view, and upgrade those of an earlier version.

        The first call does this. Later calls only check that the tables of `intervals` still have the expected shape:
        on a write to a dropped table, QuestDB would create the table anew, with a schema of its own.

        Args:
            intervals: The intervals whose tables are needed. Errors in other tables are ignored.

        Raises:
            StoreUnavailable: QuestDB does not answer.
            StoreError: A table has another schema than this program creates.
        """
        known = {
            name: (kind, partition, is_log, is_dedup)
            for name, kind, partition, is_log, is_dedup in self._fetch(
                "SELECT table_name, table_type, partitionBy, walEnabled, dedup FROM tables()"
            )
        }
        made = {interval: ("T", schema.partitioning(interval), True, True) for interval in intervals}
        if self._is_ready and all(known.get(schema.TABLES[interval]) == made[interval] for interval in made):
            return
        wrong: dict[Interval, StoreError] = {}
        for interval, table in schema.TABLES.items():
            try:
                if table in known:
                    self._upgrade(interval, *known[table])
                else:
                    self._make(schema.create_table(interval))
            except StoreError as error:
                wrong[interval] = error
        if not wrong:
            self._prepare_view(known)
        self._is_ready = not wrong
        for interval in intervals:
            if interval in wrong:
                raise wrong[interval]

    def _upgrade(self, interval: Interval, kind: str, partition: str, is_log: bool, is_dedup: bool) -> None:
        table, wanted = schema.TABLES[interval], schema.partitioning(interval)
        if kind != "T" or partition != wanted or not is_log:
            raise StoreError(
                f"QuestDB's {table} is not partitioned by {wanted} with a log (WAL), as this program creates it; "
                f"drop it (DROP TABLE {table}) and run kraken-pipeline publish --rebuild"
            )
        columns = {name: (type_, is_key) for name, type_, *_, is_key in self._fetch(f"SHOW COLUMNS FROM {table}")}
        has_changed = False
        for name, type_ in schema.COLUMNS.items():
            if name not in columns:
                self._make(schema.add_column(interval, name))
                has_changed = True
            elif columns[name][0] != type_:
                raise StoreError(
                    f"QuestDB's {table}.{name} is {columns[name][0]}, not {type_}; drop the table (DROP TABLE "
                    f"{table}) and run kraken-pipeline publish --rebuild"
                )
        if not is_dedup or {name for name, (_, is_key) in columns.items() if is_key} != set(schema.KEYS):
            self._make(schema.enable_dedup(interval))
            has_changed = True
        if has_changed:  # schema changes go through the log too
            self.wait_until_applied(Receipt(interval, self._log(table)[1]))

    def _prepare_view(self, known: Mapping[str, tuple[str, str, bool, bool]]) -> None:
        query = schema.view_query()
        if schema.VIEW in known:
            if known[schema.VIEW][0] != "V":
                raise StoreError(f"QuestDB has a table with the name of the view {schema.VIEW}; rename it")
            found = self._fetch("SELECT view_sql, view_status FROM views() WHERE view_name = %s", (schema.VIEW,))
            if found == [(query, "valid")]:
                return
        self._make(f"CREATE OR REPLACE VIEW {schema.VIEW} AS ({query})")

    def _make(self, statement: str) -> None:
        """Run an idempotent statement, with retries: QuestDB rejects it while another client runs the same one."""
        for pause in _PAUSES:
            try:
                self._fetch(statement)
            except StoreError as error:
                if "busy" not in str(error) and "already exists" not in str(error):
                    raise
                time.sleep(pause)
            else:
                return
        self._fetch(statement)

    def drop(self, interval: Interval) -> None:
        """Drop the table of an interval, with every candle; `prepare` creates it again."""
        self._fetch(f"DROP TABLE IF EXISTS {schema.TABLES[interval]}")

    # --- writing

    def send(self, interval: Interval, rows: pl.DataFrame) -> Receipt:
        """Send candles; each replaces a stored candle with the same time and asset.

        Args:
            interval: The interval whose table is written.
            rows: The candles, with the columns of `ROW_SCHEMA`, sorted by time.

        Raises:
            InvalidRequest: The rows have another schema.
            StoreUnavailable: QuestDB does not answer, or the connection was lost midway: some rows may have arrived.
            StoreError: QuestDB rejects the rows.
        """
        if rows.schema != ROW_SCHEMA:
            raise InvalidRequest(f"rows for QuestDB have the columns {ROW_SCHEMA}, not {rows.schema}")
        table = schema.TABLES[Interval.parse(interval)]
        before = self._log(table)[1]
        if not rows.height:
            return Receipt(interval, before)
        with self._ilp.lent(f"did not accept {rows.height:,} candles into {table}") as sender:
            # The client accepts pandas frames only; numeric columns convert without a copy. A column that is not sent
            # is null.
            told = rows.drop(name for name in FLOW if rows[name].null_count() == rows.height)
            sender.dataframe(told.to_pandas(), table_name=table, symbols=_SYMBOLS, at="time")
            sender.flush()
            # A connection stays bound to the table it wrote to, and QuestDB accepts rows even after that was dropped.
            if (transaction := self._log(table)[1]) <= before:
                raise StoreUnavailable(
                    f"QuestDB accepted {rows.height:,} candles into a {table} that was dropped and created again in "
                    "the meantime"
                )
        return Receipt(interval, transaction)

    def _log(self, table: str) -> tuple[int, int, str | None]:
        """Return a table's last applied transaction, its last logged one, and the reason if applying is suspended."""
        found = self._fetch(
            "SELECT writerTxn, sequencerTxn, suspended, errorMessage FROM wal_tables() WHERE name = %s", (table,)
        )
        if not found:
            raise StoreError(f"QuestDB has no table {table} any more: it was dropped; the next run creates it again")
        applied, transaction, is_suspended, error = found[0]
        return int(applied), int(transaction), (error or "without an error message") if is_suspended else None

    def wait_until_applied(self, receipt: Receipt) -> None:
        """Wait until the rows sent can be queried and survive a restart.

        Raises:
            StoreUnavailable: QuestDB does not answer, or is too slow.
            StoreError: QuestDB has suspended applying, and resuming it failed.
        """
        table = schema.TABLES[receipt.interval]
        until, pause, has_resumed = time.monotonic() + self._apply_seconds, _FIRST_POLL, False
        while True:
            applied, _, error = self._log(table)
            if applied >= receipt.transaction:
                return
            if error is not None:
                if has_resumed:
                    raise StoreError(
                        f"QuestDB has stopped applying changes to {table} ({error}); remove the cause, often a full "
                        f"disk, then run in QuestDB: ALTER TABLE {table} RESUME WAL"
                    )
                self._fetch(f"ALTER TABLE {table} RESUME WAL")
                has_resumed = True
            if time.monotonic() > until:
                raise StoreUnavailable(
                    f"QuestDB has not applied the changes of {table} within {self._apply_seconds:g} s "
                    "(KRAKEN_QUESTDB_APPLY_SECONDS): they stay pending"
                )
            time.sleep(pause)
            pause = min(_LONGEST_POLL, 2 * pause)

    # --- reading

    def candles(self, series: Series, start: int | None = None, end: int | None = None) -> pl.DataFrame:
        """Return the candles of a series that start in `[start, end)`, sorted by time, in the `READ_SCHEMA` columns.

        Args:
            series: The series.
            start: The start of the range, in seconds since the epoch, UTC.
            end: The end of the range, not included, in seconds since the epoch, UTC.

        Raises:
            InvalidRequest: An argument has the wrong type.
            StoreUnavailable: QuestDB does not answer.
        """
        table, low, high = schema.TABLES[checked_series(series).interval], *bounds(start, end)
        rows = self._fetch(
            f"SELECT {_READ} FROM {table} WHERE pair = %s AND time >= %s AND time < %s ORDER BY time",
            (series.pair, low, high),
            self._apply_seconds,
        )
        return frame_of(rows, READ_SCHEMA)

    def latest(self, interval: Interval, pairs: Collection[str] | None = None) -> pl.DataFrame:
        """Return the newest candle of every pair, or of some: `pair` and the `READ_SCHEMA` columns, sorted by pair.

        Raises:
            InvalidRequest: An argument has the wrong type.
            StoreUnavailable: QuestDB does not answer.
        """
        table = schema.TABLES[checked_interval(interval)]
        rows: list[tuple[Any, ...]] = []
        for names in parts_of(pairs):
            rows += self._fetch(
                f"SELECT pair, {_READ} FROM {table} {_among(names)}LATEST ON time PARTITION BY asset_id",
                names or (),
                self._apply_seconds,
            )
        return frame_of(rows, pl.Schema({"pair": pl.String(), **READ_SCHEMA})).sort("pair")

    def counts(self, interval: Interval, start: int | None = None, end: int | None = None) -> dict[str, int]:
        """Return the number of candles of each pair that start in `[start, end)` (seconds since the epoch).

        Raises:
            InvalidRequest: An argument has the wrong type.
            StoreUnavailable: QuestDB does not answer.
        """
        table = schema.TABLES[checked_interval(interval)]
        rows = self._fetch(
            f"SELECT pair, count() FROM {table} WHERE time >= %s AND time < %s GROUP BY pair",
            bounds(start, end),
            self._apply_seconds,
        )
        return {pair or "": int(count) for pair, count in sorted(rows, key=lambda row: row[0] or "")}

    def ranges(self, interval: Interval, pairs: Collection[str] | None = None) -> dict[str, RangeDigest]:
        """Return the count, first time, last time and checksum of the candles of every pair, or of some, by name.

        Raises:
            InvalidRequest: An argument has the wrong type.
            StoreUnavailable: QuestDB does not answer.
        """
        table = schema.TABLES[checked_interval(interval)]
        found: dict[str, RangeDigest] = {}
        for names in parts_of(pairs):
            for pair, count, first, last, checksum in self._fetch(
                f"SELECT pair, count(), min(time), max(time), {schema.checksum_sql()} FROM {table} {_among(names)}"
                "GROUP BY pair",
                names or (),
                self._apply_seconds,
            ):
                # A column added by an upgrade is null in older rows.
                found[pair or ""] = RangeDigest(
                    int(count), seconds_of_value(first), seconds_of_value(last), int(checksum or 0)
                )
        return dict(sorted(found.items()))

    def lags(self) -> list[Lag]:
        """Return the lag of each table: the number of logged transactions that are not applied yet.

        Raises:
            StoreUnavailable: QuestDB does not answer.
        """
        ours = set(schema.TABLES.values())
        rows = self._fetch("SELECT name, sequencerTxn - writerTxn, suspended, errorMessage FROM wal_tables()")
        return [
            Lag(name, int(behind), (error or "without an error message") if is_suspended else None)
            for name, behind, is_suspended, error in sorted(rows)
            if name in ours
        ]

    def sizes(self) -> dict[Interval, int]:
        """Return the size of each table on QuestDB's disk, in bytes.

        Raises:
            StoreUnavailable: QuestDB does not answer.
        """
        found = dict(self._fetch("SELECT tableName, diskSize FROM table_storage()"))
        return {interval: int(found[table]) for interval, table in schema.TABLES.items() if table in found}

    def ping(self) -> None:
        """Check that QuestDB answers over PGWire and over HTTP, with a cheap request to each.

        Raises:
            StoreUnavailable: One of them does not answer; the message names it.
            StoreError: QuestDB rejects the credentials.
        """
        self._fetch("SELECT 1")
        self._ilp.ping()

    def _fetch(
        self, statement: str, parameters: Sequence[object] = (), seconds: float | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement, and return its rows.

        The text of a statement is built from the names in `questdb.tables` alone; all values are parameters. Parameters
        are passed even where there are none, because only then the driver reads %% as one percent sign.

        Args:
            statement: The SQL text.
            parameters: The values of its placeholders.
            seconds: The time-out of the answer; None for the client's own.
        """
        try:
            self._pool.open()
            with (
                self._pool.connection() as connection,
                self._measured(),
                _within(connection, seconds or self._timeout),
            ):
                cursor = connection.execute(statement.encode(), parameters)
                return cursor.fetchall() if cursor.description else []
        except PoolTimeout:
            raise StoreUnavailable(
                f"QuestDB at {self._pgwire} does not answer over PGWire within {self._timeout:g} s; check that it "
                "is running, and the user and the password of KRAKEN_QUESTDB_PG_URL"
            ) from None
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise StoreUnavailable(f"QuestDB at {self._pgwire} does not answer over PGWire: {error}") from error
        except psycopg.Error as error:
            raise StoreError(f"QuestDB at {self._ilp.where} refuses: {error}") from error

    @contextmanager
    def _measured(self) -> Iterator[None]:
        """Count a connection as in use for the duration of a block."""
        with self._guard:
            self._in_use += 1
            self._peak = max(self._peak, self._in_use)
        try:
            yield
        finally:
            with self._guard:
                self._in_use -= 1

    def _check(self, connection: psycopg.Connection[Any]) -> None:
        """Check that an idle connection still works; the pool replaces one that does not."""
        with _within(connection, self._timeout):
            ConnectionPool.check_connection(connection)


@contextmanager
def _within(connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
    """Close the connection if the server takes longer to answer: the driver itself would wait for ever."""

    def hang_up() -> None:
        with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as doubled:
            doubled.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def open_questdb(settings: Settings) -> Iterator[QuestDB]:
    """Open the QuestDB of the settings for the duration of a block.

    Raises:
        InvalidRequest: The settings name no QuestDB.
    """
    with QuestDB(
        *require_questdb(settings),
        pool=(settings.kraken_questdb_pool_min, settings.kraken_questdb_pool),
        recycle_seconds=settings.kraken_questdb_recycle_seconds,
        timeout=settings.kraken_questdb_timeout_seconds,
        apply_seconds=settings.kraken_questdb_apply_seconds,
    ) as found:
        yield found


def require_questdb(settings: Settings) -> tuple[str, str]:
    """Return the HTTP URL and the PGWire URL, with their passwords.

    Raises:
        InvalidRequest: The settings name no QuestDB.
    """
    if settings.kraken_questdb_url is None or settings.kraken_questdb_pg_url is None:
        raise InvalidRequest(
            "QuestDB is not configured: set KRAKEN_QUESTDB_URL (http://user:password@host:9000) and "
            "KRAKEN_QUESTDB_PG_URL (postgresql://user:password@host:8812/qdb)"
        )
    return settings.kraken_questdb_url.get_secret_value(), settings.kraken_questdb_pg_url.get_secret_value()


def _among(names: tuple[str, ...] | None) -> str:
    """Return a WHERE clause with a placeholder for each name."""
    return "" if names is None else f"WHERE pair IN ({', '.join(['%s'] * len(names))}) "
