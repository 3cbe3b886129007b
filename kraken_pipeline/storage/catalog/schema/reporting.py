"""The tables of numbers that reports are made of, and of the alerts that were sent."""

from __future__ import annotations

import sqlalchemy as sa

from kraken_pipeline.storage.catalog.columns import Json, Minutes
from kraken_pipeline.storage.catalog.schema.parts import ID, checksum_column, metadata, series_columns

extents = sa.Table(
    "extents",  # the candles of a series in the lake: derived, so that reports need not open its files
    metadata,
    *series_columns(),
    sa.Column("candles", sa.BigInteger, nullable=False),
    sa.Column("first_time", sa.BigInteger, nullable=False),
    sa.Column("last_time", sa.BigInteger, nullable=False),
    checksum_column(),
    sa.PrimaryKeyConstraint("pair", "interval"),
)

candle_counts = sa.Table(
    "candle_counts",  # candles in the lake by month: derived, so that reports need not open its files
    metadata,
    *series_columns(),
    sa.Column("year", sa.Integer, nullable=False),
    sa.Column("months", Json(is_sealed=True), nullable=False),  # twelve numbers
    checksum_column(),
    sa.PrimaryKeyConstraint("pair", "interval", "year"),
)

reports = sa.Table(
    "reports",  # the headline numbers of each report, for the trend
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("tier", sa.String(8), nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("numbers", Json(), nullable=False),
    sa.Index(None, "tier", "made_at"),
)

asked_intervals = sa.Table(
    "asked_intervals",  # the intervals that runs named: reports are about these and those of archives
    metadata,
    sa.Column("interval", Minutes, primary_key=True, autoincrement=False),
    sa.Column("asked_at", sa.BigInteger, nullable=False),  # when it was first named
)

alerts = sa.Table(
    "alerts",  # what an alert was sent about, or is to be; a row goes when its end was told
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("began_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("told", Json(), nullable=False),  # the digests of the addresses that know that it has begun
)
