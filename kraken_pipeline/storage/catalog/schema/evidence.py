"""The tables on coverage: the answers of sources, and the gaps that they leave."""

from __future__ import annotations

import sqlalchemy as sa

from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.storage.catalog.columns import Json, Word
from kraken_pipeline.storage.catalog.schema.parts import (
    ID,
    checksum_column,
    metadata,
    plain_series_columns,
    series_columns,
    span_columns,
)

grants = sa.Table(
    "grants",  # spans that a source has answered for
    metadata,
    sa.Column("id", ID, primary_key=True),
    *series_columns(),
    *span_columns(),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("file_id", ID, sa.ForeignKey("files.id")),
    sa.Column("trades", sa.BigInteger, nullable=False),  # in the span, as the source counts them
    sa.Column("verified_at", sa.BigInteger, nullable=False),
    checksum_column(),
    sa.Index(None, "pair", "interval"),
)

refutations = sa.Table(
    "refutations",  # answers that turned out to be wrong; a row ends once all of it is answered for again
    metadata,
    sa.Column("id", ID, primary_key=True),
    *series_columns(),
    *span_columns(),
    sa.Column("refuted", Json(is_sealed=True, none_as_null=True)),  # the refuted values, as one candle; null: absent
    sa.Column("reason", sa.Text, nullable=False),
    # The newest grant and attempt at that time: earlier ones do not count as answers.
    sa.Column("after_grant", ID, nullable=False),
    sa.Column("after_attempt", ID, nullable=False),
    # The damage that removed the evidence, if any: later answers then count for the part that they cover.
    sa.Column("damage_id", ID, sa.ForeignKey("damages.id")),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    checksum_column(),
    sa.Index(None, "pair", "interval"),
)

coverage = sa.Table(
    "coverage",  # grants less refutations, merged: derived anew for a series whenever they change
    metadata,
    *series_columns(),
    *span_columns(),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("candles", sa.BigInteger, nullable=False),
    sa.Column("verified_at", sa.BigInteger, nullable=False),
    checksum_column(),
    sa.PrimaryKeyConstraint("pair", "interval", "start"),
)

attempts = sa.Table(
    "attempts",  # attempts to fill a span; they outlive gap records, whose spans grow, split and return
    metadata,
    sa.Column("id", ID, primary_key=True),
    *plain_series_columns(),
    *span_columns(),
    sa.Column("route", Word(Route), nullable=False),
    sa.Column("origin", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Index(None, "pair", "interval"),
)

gaps = sa.Table(
    "gaps",
    metadata,
    sa.Column("id", ID, primary_key=True),
    *plain_series_columns(),
    *span_columns(),
    sa.Column("missing_candles", sa.BigInteger, nullable=False),
    sa.Column("overflow_candles", sa.BigInteger, nullable=False),
    sa.Column("route", Word(Route), nullable=False),
    sa.Column("required_csv_file", sa.Text),
    sa.Column("status", Word(GapStatus), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("detected_at", sa.BigInteger, nullable=False),
    sa.Column("closed_at", sa.BigInteger),
    sa.Index(None, "pair", "interval", "closed_at"),
)
