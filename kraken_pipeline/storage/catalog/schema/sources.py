"""The tables on archives: their files, what was rejected, and what was withdrawn."""

from __future__ import annotations

import sqlalchemy as sa

from kraken_pipeline.storage.catalog.columns import Json, Minutes, Word
from kraken_pipeline.storage.catalog.schema.parts import (
    ID,
    checksum_column,
    metadata,
    plain_series_columns,
    series_columns,
    span_columns,
)
from kraken_pipeline.storage.catalog.states import FileStatus

containers = sa.Table(
    "containers",  # archives that hold many files, identified by their content, whatever their names
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("start", sa.BigInteger),  # the range of the release; null where it is no release
    sa.Column("end", sa.BigInteger),
    sa.Column("quarter", sa.String(8)),  # 2023Q2; null for complete releases
    sa.Column("series", Json(), nullable=False),  # ["XBTUSD_60", …]: no gap is routed here in vain
    sa.Column(
        "stamp", sa.Text, nullable=False
    ),  # path, size and modification time: an unchanged container is not hashed again
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    sa.Index(None, "stamp"),
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("location", sa.Text, nullable=False),  # absolute path, with :member for one in a container
    sa.Column("name", sa.Text, nullable=False),  # the display name: XBTUSD_60.csv, Release.zip:XBTUSD_60.csv
    sa.Column("container", sa.String(64)),  # the container's SHA-256
    sa.Column("stamp", sa.Text),  # of a loose file, like a container's
    sa.Column("kind", sa.String(16)),  # kind, pair and interval are null for a container that cannot be opened
    sa.Column("pair", sa.String(64)),
    sa.Column("interval", Minutes),
    sa.Column("status", Word(FileStatus), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("sha256", sa.String(64)),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("start", sa.BigInteger),  # the range that the file answers for
    sa.Column("end", sa.BigInteger),
    sa.Column("taken_start", sa.BigInteger),  # the window that a run was asked to ingest; null: no limit
    sa.Column("taken_end", sa.BigInteger),
    sa.Column("first_time", sa.BigInteger),
    sa.Column("last_time", sa.BigInteger),
    sa.Column("rows", sa.BigInteger, nullable=False, default=0),
    sa.Column("candles_stored", sa.BigInteger, nullable=False, default=0),
    sa.Column("rows_rejected", sa.BigInteger, nullable=False, default=0),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Index(None, "location"),
    sa.Index(None, "pair", "interval", "sha256"),
    sa.Index(None, "container"),
)

dead_letters = sa.Table(
    "dead_letters",  # rows of files and of replies that were rejected, and operations that failed for good
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("file_id", ID, sa.ForeignKey("files.id")),  # null for rows and failures of requests
    sa.Column("pair", sa.String(64)),  # set where there is no file record
    sa.Column("interval", Minutes),
    sa.Column(
        "operation", Json(none_as_null=True)
    ),  # {"route": "OHLC", "start": …, "end": …}: what `dead-letters retry` repeats
    sa.Column("retried_at", sa.BigInteger),  # when the operation succeeded on a retry
    sa.Column("location", sa.Text, nullable=False),
    sa.Column("line", sa.BigInteger),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("rows", sa.BigInteger),  # the number of rejected rows of a file that it counts; null: it is one itself
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Index(None, "file_id"),
)

conflicts = sa.Table(
    "conflicts",  # sources with fewer or more trades than the stored candles, one row a file and series
    metadata,
    sa.Column("id", ID, primary_key=True),
    *plain_series_columns(),
    *span_columns(),
    sa.Column("candles", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("file_id", ID, sa.ForeignKey("files.id")),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Index(None, "pair", "interval"),
)

disputes = sa.Table(
    "disputes",  # candles in which two files of one release differ at one trade count
    metadata,
    *series_columns(),
    *span_columns(),
    checksum_column(),
    sa.PrimaryKeyConstraint("pair", "interval", "start"),
)

withdrawals = sa.Table(
    "withdrawals",  # what a person has withdrawn: a file, a release, or a span of a series
    metadata,
    sa.Column("id", ID, primary_key=True),
    *plain_series_columns(),
    *span_columns(),
    sa.Column("file_id", ID, sa.ForeignKey("files.id")),
    sa.Column("candles", sa.BigInteger, nullable=False),  # that left the lake
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Index(None, "pair", "interval"),
)

earlier_archives = sa.Table(
    "earlier_archives",  # pairs whose archives were read before 0010, until `ingest.earlier_archives` is done
    metadata,
    sa.Column("pair", sa.String(64), primary_key=True),
)
