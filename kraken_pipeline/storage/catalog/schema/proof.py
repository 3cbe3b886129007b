"""The tables on what was reconciled, verified, counted, contradicted or suspected."""

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
from kraken_pipeline.storage.catalog.states import ContradictionState, SuspicionState

proofs = sa.Table(
    "proofs",  # reconciled or verified spans, derived by reconciliation; no two rows of a series overlap
    metadata,
    *series_columns(),
    *span_columns(),
    sa.Column("level", sa.String(16), nullable=False),
    checksum_column(),
    sa.PrimaryKeyConstraint("pair", "interval", "start"),
)

confirmations = sa.Table(
    "confirmations",  # spans in which a second source, independent of the lake's, has the same candles
    metadata,
    *series_columns(),
    *span_columns(),
    checksum_column(),
    sa.PrimaryKeyConstraint("pair", "interval", "start"),
)

doubts = sa.Table(
    "doubts",  # ranges marked for reconciliation, as the outbox is for QuestDB
    metadata,
    sa.Column("id", ID, primary_key=True),
    *plain_series_columns(),
    *span_columns(),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Index(None, "pair", "interval"),
    sqlite_autoincrement=True,
)

quiet_checks = sa.Table(
    "quiet_checks",  # ranges that were compared and are still to be searched for quiet time
    metadata,
    sa.Column("id", ID, primary_key=True),
    *plain_series_columns(),
    *span_columns(),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Index(None, "pair", "interval"),
    sqlite_autoincrement=True,
)

contradictions = sa.Table(
    "contradictions",  # candles of two intervals that do not agree, and their state
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("pair", sa.String(64), nullable=False),
    sa.Column("fine", Minutes, nullable=False),
    sa.Column("coarse", Minutes, nullable=False),
    *span_columns(),  # one candle of the coarser interval, or many of a file with shifted times
    sa.Column("short_side", sa.String(8)),  # fine or coarse; null where trade counts do not decide
    sa.Column("fine_candle", Json(none_as_null=True)),  # [open, high, low, close, volume, trades]; null: absent
    sa.Column("coarse_candle", Json(none_as_null=True)),
    sa.Column("fine_trades", sa.BigInteger, nullable=False),
    sa.Column("coarse_trades", sa.BigInteger, nullable=False),
    sa.Column("culprit", Minutes),  # the interval that contradicts the others; null where unknown
    sa.Column("state", Word(ContradictionState), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("changed_at", sa.BigInteger, nullable=False),
    sa.Index(None, "pair", "fine", "coarse", "start", unique=True),
)

suspicions = sa.Table(
    "suspicions",  # suspicions about quiet time: of one series, or of all pairs at once
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("pair", sa.String(64)),  # null: all pairs, an outage of the exchange
    sa.Column("interval", Minutes, nullable=False),  # of the candles that are absent
    *span_columns(),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("state", Word(SuspicionState), nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("changed_at", sa.BigInteger, nullable=False),
    sa.Index(None, "pair", "interval"),
)

anchors = sa.Table(
    "anchors",  # the first trade at or after a moment, as the exchange numbers it: requested once
    metadata,
    sa.Column("pair", sa.String(64), nullable=False),
    sa.Column("moment", sa.BigInteger, nullable=False),
    sa.Column("trade_id", sa.BigInteger, nullable=False),
    sa.Column("trade_time", sa.BigInteger),  # null where no trade followed: the id is then the newest one plus one
    sa.Column("asked_at", sa.BigInteger, nullable=False),
    sa.Column("listed", sa.Integer),  # the number of trades in a full page from there; null where one was requested
    sa.Column("numbered", sa.BigInteger),  # the number of ids between the first and the last of them
    checksum_column(),
    sa.PrimaryKeyConstraint("pair", "moment"),
)

absent_ids = sa.Table(
    "absent_ids",  # ids between two trades of a pair that the exchange left out of two replies
    metadata,
    sa.Column("pair", sa.String(64), nullable=False),
    sa.Column("first", sa.BigInteger, nullable=False),
    sa.Column("last", sa.BigInteger, nullable=False),
    *span_columns(),  # from the second of the trade before them to that of the trade after them
    sa.Column("parts", sa.Integer, nullable=False),  # the number of places in the page where they are absent
    sa.Column("run_id", sa.String(64), nullable=False),  # the run that found them absent first
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    sa.Column("confirmed_at", sa.BigInteger),  # when another run confirmed it: they do not exist
    checksum_column(),
    sa.PrimaryKeyConstraint("pair", "first", "last"),
)

trade_counts = sa.Table(
    "trade_counts",  # trades counted by ids and by candles; a proven count is deleted with its evidence
    metadata,
    *series_columns(),
    *span_columns(),
    sa.Column("by_ids", sa.BigInteger),  # null where ids say nothing
    sa.Column("counted", sa.BigInteger),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    checksum_column(),
    sa.PrimaryKeyConstraint("pair", "interval", "start", "end"),
)
