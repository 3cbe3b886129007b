"""The tables on the files of the lake, and on what QuestDB has of them."""

from __future__ import annotations

import sqlalchemy as sa

from kraken_pipeline.storage.catalog.columns import Json, Minutes, Word
from kraken_pipeline.storage.catalog.schema.parts import (
    ID,
    checksum_column,
    content_columns,
    metadata,
    plain_series_columns,
    series_columns,
    span_columns,
)
from kraken_pipeline.storage.catalog.states import DamageKind

lake_files = sa.Table(
    "lake_files",  # the manifest: each file of the lake and of the ledger, as it was written
    metadata,
    sa.Column("path", sa.Text, nullable=False),  # relative to the home, with slashes
    sa.Column("pair", sa.String(64), nullable=False),
    sa.Column("interval", sa.Integer, nullable=False),
    *content_columns(),
    sa.Column("first_time", sa.BigInteger),  # null where it has no rows
    sa.Column("last_time", sa.BigInteger),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("write_id", sa.String(64), nullable=False),  # begins with the time of writing: later ones sort last
    sa.Column("written_at", sa.BigInteger, nullable=False),
    sa.Column("scrubbed_at", sa.BigInteger),  # when it was last read in full and found correct; null before
    sa.Column("version", sa.String(64), nullable=False),  # of an object in a store that has versions; empty for a file
    checksum_column(),
    # Besides the existing file, one may be announced: about to be renamed to its place, or renamed just now.
    sa.Column("is_announced", sa.Boolean, nullable=False),
    sa.PrimaryKeyConstraint("path", "write_id"),
    sa.Index(None, "pair", "interval"),
)

lake_commits = sa.Table(
    "lake_commits",  # what each write added to the candles of a series, for reading the lake as of an earlier moment
    metadata,
    sa.Column("id", ID, primary_key=True),
    *series_columns(),
    sa.Column("made_at", sa.BigInteger, nullable=False),  # in microseconds since the epoch, before the first rename
    # The ranges [start, end) in which all candles that there are after the write were added by it.
    sa.Column("added", Json(is_sealed=True), nullable=False),
    sa.Column("ledger", Json(is_sealed=True), nullable=False),  # the paths of the ledger files of the write
    checksum_column(),
    sa.Index(None, "pair", "interval"),
    sqlite_autoincrement=True,
)

history_starts = sa.Table(
    "history_starts",  # the moment from which on writes are on record: of all series (empty pair), or later of one
    metadata,
    sa.Column("pair", sa.String(64), primary_key=True),
    sa.Column("interval", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("starts_at", sa.BigInteger, nullable=False),  # in microseconds since the epoch
    checksum_column(),
)

trade_files = sa.Table(
    "trade_files",  # the manifest of the trade lake: each of its files, as it was written, with what it claims
    metadata,
    sa.Column("path", sa.Text, primary_key=True),  # relative to the place of the lake, with slashes
    sa.Column("pair", sa.String(64), nullable=False),
    sa.Column("month", sa.Integer, nullable=False),  # 202501
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("claims", sa.Text, nullable=False),  # `storage.trades.kept.claims_text`
    sa.Column("write_id", sa.String(64), nullable=False),
    sa.Column("written_at", sa.BigInteger, nullable=False),
    sa.Column("scrubbed_at", sa.BigInteger),  # when it was last read in full and found correct; null before
    checksum_column(),
    # About to be moved to its place, or replaced and about to be deleted: it claims nothing.
    sa.Column("is_announced", sa.Boolean, nullable=False),
    sa.Index(None, "pair", "month"),
)

unadopted = sa.Table(
    "unadopted",  # series written before there was a manifest, and not yet checked by `verify`
    metadata,
    *plain_series_columns(),
    sa.PrimaryKeyConstraint("pair", "interval"),
)

damages = sa.Table(
    "damages",  # files of the lake that are not the ones that were written
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("pair", sa.String(64)),  # null where the path names no series
    sa.Column("interval", Minutes),
    sa.Column("year", sa.Integer),
    sa.Column("kind", Word(DamageKind), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("candles", sa.BigInteger, nullable=False),  # that it held, as far as known
    sa.Column("first_time", sa.BigInteger),  # of these; null where resampled: no trade may have occurred by then
    sa.Column("noticed_at", sa.BigInteger, nullable=False),
    sa.Column("settled_at", sa.BigInteger),  # null while the file is still in place
    sa.Column("moved_to", sa.Text),  # the new path of what was left of it, relative to the home
    sa.Index(None, "path"),
)

verifications = sa.Table(
    "verifications",  # one row for each comparison of the lake with the manifest, with its extent
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("finished_at", sa.BigInteger, nullable=False),
    sa.Column("is_quick", sa.Boolean, nullable=False),
    sa.Column("is_all", sa.Boolean, nullable=False),
    sa.Column("files", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("damaged", sa.BigInteger, nullable=False),
)

assets = sa.Table(
    "assets",  # the ids of pairs; `lake/assets.parquet` is a copy beside the candles
    metadata,
    sa.Column("asset_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("pair", sa.String(64), nullable=False, unique=True),
    sa.Column("base", sa.String(64), nullable=False),
    sa.Column("quote", sa.String(64), nullable=False),
)

deliveries = sa.Table(
    "deliveries",  # the content of lake files that QuestDB has applied, and from which they can be restored
    metadata,
    sa.Column("path", sa.Text, primary_key=True),
    *series_columns(),
    *content_columns(),
    sa.Column("delivered_at", sa.BigInteger, nullable=False),
    checksum_column(),
)

publications = sa.Table(
    "publications",  # the outbox: ranges that QuestDB has not confirmed yet
    metadata,
    sa.Column("id", ID, primary_key=True),
    *plain_series_columns(),
    *span_columns(),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Index(None, "pair", "interval"),
    # SQLite reuses the highest id once its row is gone: a publisher of the old range would delete the new one.
    sqlite_autoincrement=True,
)
