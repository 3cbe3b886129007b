"""The tables on the exchange: its pairs and incidents, and the state of requests to it."""

from __future__ import annotations

import sqlalchemy as sa

from kraken_pipeline.storage.catalog.columns import Json
from kraken_pipeline.storage.catalog.schema.parts import checksum_column, metadata

listings = sa.Table(
    "listings",  # Kraken's AssetPairs on each pair that the lake has or a run asked for
    metadata,
    sa.Column("pair", sa.String(64), primary_key=True),
    sa.Column("delisted_at", sa.BigInteger),  # when it was first found to be no longer listed
    sa.Column("first_trade", sa.BigInteger),  # the start of the minute of its first trade; null until requested
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    checksum_column(),
)

absences = sa.Table(
    "absences",  # pairs missing from one AssetPairs reply, which another one may confirm as delisted
    metadata,
    sa.Column("pair", sa.String(64), primary_key=True),
    sa.Column("listed_at", sa.BigInteger, nullable=False),  # when the exchange sent the first list without it
    checksum_column(),
)

pair_lists = sa.Table(
    "pair_lists",  # the AssetPairs replies that differed from the one before
    metadata,
    sa.Column("listed_at", sa.BigInteger, primary_key=True, autoincrement=False),  # when the exchange sent it
    sa.Column("seen_at", sa.BigInteger, nullable=False),  # when the exchange sent the last one equal to it
    sa.Column("pairs", sa.Integer, nullable=False),
    checksum_column(),
)

pair_changes = sa.Table(
    "pair_changes",  # what such a reply says of a pair that the one before said otherwise; of the first one, all pairs
    metadata,
    sa.Column("listed_at", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("pair", sa.String(64), primary_key=True),
    sa.Column("before", Json(is_sealed=True, none_as_null=True)),  # a `ListedState`; null: not in the list
    sa.Column("after", Json(is_sealed=True, none_as_null=True)),
    checksum_column(),
)

incidents = sa.Table(
    "incidents",  # outages and maintenance, past and announced, as the exchange's SystemStatus reported
    metadata,
    sa.Column("name", sa.String(160), primary_key=True),  # the key by which the exchange distinguishes incidents
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("start", sa.BigInteger, nullable=False),
    sa.Column("end", sa.BigInteger, nullable=False),  # as announced; or when it was last reported to continue
    sa.Column("is_open", sa.Boolean, nullable=False),  # whether its end has not been reported yet
    sa.Column("stops_trading", sa.Boolean, nullable=False),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    checksum_column(),
)

limits = sa.Table(
    "limits",  # the request rate shared by all processes: a row for all requests, and one an endpoint
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("next_at", sa.Float, nullable=False),  # the time of the next permit, in seconds since the epoch
    sa.Column("slowness", sa.Float, nullable=False),  # 1 at the full rate, 2 at half of it
)

breakers = sa.Table(
    "breakers",  # whether the exchange answers, as all processes see it
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),  # one after another
    sa.Column("opened_at", sa.Float),  # null while it is closed
    sa.Column("probe_until", sa.Float),  # until when one process may probe
)

counters = sa.Table(
    "counters",  # requests, errors and hits by hour, so that rates are recent and old counts can be dropped
    metadata,
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("hour", sa.BigInteger, nullable=False),  # its start, in seconds since the epoch
    sa.Column("value", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("name", "hour"),
)
