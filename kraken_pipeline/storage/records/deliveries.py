"""Catalog records of deliveries: the content of lake files that QuestDB has applied in full."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.schema import deliveries, lake_files, publications
from kraken_pipeline.storage.catalog.seals import is_intact, sealed
from kraken_pipeline.storage.records import manifest
from kraken_pipeline.storage.records.manifest import LakeFile


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """The content of a lake file that QuestDB has applied.

    Attributes:
        path: The path of the file, relative to the home.
        rows: The number of candles.
        digest: The digest of the candles, as computed by `row_digest`.
    """

    path: str
    rows: int
    digest: str


def record(connection: sa.Connection, series: Collection[Series], now: int) -> None:
    """Record that QuestDB has all candles of some series, skipping series with pending ranges."""
    pending = {
        (pair, interval)
        for pair, interval in connection.execute(sa.select(publications.c.pair, publications.c.interval).distinct())
    }
    settled = [one_series for one_series in series if (one_series.pair, one_series.interval.value) not in pending]
    _insert(
        connection,
        (
            file
            for files in (manifest.files_of(connection, settled).values() if settled else ())
            for file in files
            if file.is_candles and not file.is_announced
        ),
        now,
    )


def _insert(connection: sa.Connection, files: Iterable[LakeFile], now: int) -> None:
    rows = [
        {
            "path": file.path,
            "pair": file.series.pair,
            "interval": file.series.interval.value,
            "year": file.year,
            "rows": file.rows,
            "digest": file.digest,
            "delivered_at": now,
        }
        for file in files
    ]
    if rows:
        is_one = deliveries.c.path == sa.bindparam("of_path")
        connection.execute(sa.delete(deliveries).where(is_one), [{"of_path": row["path"]} for row in rows])
        connection.execute(sa.insert(deliveries), [sealed(deliveries, row) for row in rows])


def replace_with_same(
    connection: sa.Connection, replaced: Collection[str], files: Iterable[LakeFile], now: int
) -> None:
    """Record that QuestDB has the content of files that hold together what other files held, if it has all of that.

    Args:
        connection: The catalog.
        replaced: The paths of the other files.
        files: The files that hold it now.
        now: The current time, in seconds since the epoch.
    """
    is_replaced = lake_files.c.path.in_(replaced) & lake_files.c.is_announced.is_(False)
    held = set(connection.scalars(sa.select(lake_files.c.path).where(is_replaced)))
    rows = connection.execute(sa.select(deliveries).where(deliveries.c.path.in_(held))).mappings()
    if held and held == {row["path"] for row in rows if is_intact(deliveries, row)}:
        _insert(connection, files, now)


def forget(connection: sa.Connection, paths: Collection[str]) -> None:
    """Delete the deliveries of files that hold no candles any more."""
    connection.execute(sa.delete(deliveries).where(deliveries.c.path.in_(paths)))


def of_path(connection: sa.Connection, path: str) -> DeliveryRecord | None:
    """Return the content of a file in QuestDB, as last written; None where QuestDB does not have all of it."""
    row = connection.execute(sa.select(deliveries).where(deliveries.c.path == path)).mappings().first()
    if row is None or not is_intact(deliveries, row):
        return None
    return DeliveryRecord(row["path"], row["rows"], row["digest"])
