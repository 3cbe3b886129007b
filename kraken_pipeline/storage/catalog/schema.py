"""The catalog's tables.

Times are in seconds since the epoch, ranges are half-open `[start, end)`, intervals are in minutes. The migrations in
`storage/catalog/migrations` bring a database to this state; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.storage.catalog.columns import Json, Minutes, Word
from kraken_pipeline.storage.catalog.states import ContradictionState, DamageKind, FileStatus, SuspicionState

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)


# SQLite generates ids for INTEGER keys only; PostgreSQL needs BIGINT for years of outbox ids.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_PAIRS = 10_000
"""The number of pairs from which on a query does not name them: SQLite allows 32,766 variables."""


def of_pairs(column: sa.Column[str], pairs: Collection[str] | None) -> sa.ColumnElement[bool]:
    """Return the condition that selects some pairs; it is always true for None, or for more pairs than can be named."""
    return sa.true() if pairs is None or len(pairs) >= _PAIRS else column.in_(list(pairs))


def _series() -> list[sa.Column[str] | sa.Column[int]]:
    return [
        sa.Column("pair", sa.String(64), nullable=False),
        sa.Column("interval", sa.Integer, nullable=False),
    ]


def _plain_series() -> list[sa.Column[str] | sa.Column[int]]:
    """Return the columns of a series in a table without checksums, where reading detects an invalid interval."""
    return [sa.Column("pair", sa.String(64), nullable=False), sa.Column("interval", Minutes, nullable=False)]


def _span() -> list[sa.Column[int]]:
    return [
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("end", sa.BigInteger, nullable=False),
    ]


def _checksum() -> sa.Column[int]:
    """Return the checksum column of `storage.catalog.seals`: a row that does not match it claims nothing."""
    return sa.Column("checksum", sa.BigInteger, nullable=False)


def _rows() -> list[sa.Column[str] | sa.Column[int]]:
    """Return the columns that identify the candles of one lake file: their year, number and digest."""
    return [
        sa.Column("year", sa.Integer),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(160), nullable=False),
    ]


lake_files = sa.Table(
    "lake_files",  # the manifest: each file of the lake and of the ledger, as it was written
    metadata,
    sa.Column("path", sa.Text, nullable=False),  # relative to the home, with slashes
    sa.Column("pair", sa.String(64), nullable=False),
    sa.Column("interval", sa.Integer, nullable=False),
    *_rows(),
    sa.Column("first_time", sa.BigInteger),  # null where it has no rows
    sa.Column("last_time", sa.BigInteger),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("write_id", sa.String(64), nullable=False),  # begins with the time of writing: later ones sort last
    sa.Column("written_at", sa.BigInteger, nullable=False),
    sa.Column("scrubbed_at", sa.BigInteger),  # when it was last read in full and found correct; null before
    sa.Column("version", sa.String(64), nullable=False),  # of an object in a store that has versions; empty for a file
    _checksum(),
    # Besides the existing file, one may be announced: about to be renamed to its place, or renamed just now.
    sa.Column("is_announced", sa.Boolean, nullable=False),
    sa.PrimaryKeyConstraint("path", "write_id"),
    sa.Index(None, "pair", "interval"),
)

unadopted = sa.Table(
    "unadopted",  # series written before there was a manifest, and not yet checked by `verify`
    metadata,
    *_plain_series(),
    sa.PrimaryKeyConstraint("pair", "interval"),
)

damages = sa.Table(
    "damages",  # files of the lake that are not the ones that were written
    metadata,
    sa.Column("id", _ID, primary_key=True),
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
    sa.Column("id", _ID, primary_key=True),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("finished_at", sa.BigInteger, nullable=False),
    sa.Column("is_quick", sa.Boolean, nullable=False),
    sa.Column("is_all", sa.Boolean, nullable=False),
    sa.Column("files", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("damaged", sa.BigInteger, nullable=False),
)

deliveries = sa.Table(
    "deliveries",  # the content of lake files that QuestDB has applied, and from which they can be restored
    metadata,
    sa.Column("path", sa.Text, primary_key=True),
    *_series(),
    *_rows(),
    sa.Column("delivered_at", sa.BigInteger, nullable=False),
    _checksum(),
)

assets = sa.Table(
    "assets",  # the ids of pairs; `lake/assets.parquet` is a copy beside the candles
    metadata,
    sa.Column("asset_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("pair", sa.String(64), nullable=False, unique=True),
    sa.Column("base", sa.String(64), nullable=False),
    sa.Column("quote", sa.String(64), nullable=False),
)

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
    sa.Column("id", _ID, primary_key=True),
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

grants = sa.Table(
    "grants",  # spans that a source has answered for
    metadata,
    sa.Column("id", _ID, primary_key=True),
    *_series(),
    *_span(),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("file_id", _ID, sa.ForeignKey("files.id")),
    sa.Column("trades", sa.BigInteger, nullable=False),  # in the span, as the source counts them
    sa.Column("verified_at", sa.BigInteger, nullable=False),
    _checksum(),
    sa.Index(None, "pair", "interval"),
)

refutations = sa.Table(
    "refutations",  # answers that turned out to be wrong; a row ends once all of it is answered for again
    metadata,
    sa.Column("id", _ID, primary_key=True),
    *_series(),
    *_span(),
    sa.Column("refuted", Json(is_sealed=True, none_as_null=True)),  # the refuted values, as one candle; null: absent
    sa.Column("reason", sa.Text, nullable=False),
    # The newest grant and attempt at that time: earlier ones do not count as answers.
    sa.Column("after_grant", _ID, nullable=False),
    sa.Column("after_attempt", _ID, nullable=False),
    # The damage that removed the evidence, if any: later answers then count for the part that they cover.
    sa.Column("damage_id", _ID, sa.ForeignKey("damages.id")),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    _checksum(),
    sa.Index(None, "pair", "interval"),
)

proofs = sa.Table(
    "proofs",  # reconciled or verified spans, derived by reconciliation; no two rows of a series overlap
    metadata,
    *_series(),
    *_span(),
    sa.Column("level", sa.String(16), nullable=False),
    _checksum(),
    sa.PrimaryKeyConstraint("pair", "interval", "start"),
)

confirmations = sa.Table(
    "confirmations",  # spans in which a second source, independent of the lake's, has the same candles
    metadata,
    *_series(),
    *_span(),
    _checksum(),
    sa.PrimaryKeyConstraint("pair", "interval", "start"),
)

disputes = sa.Table(
    "disputes",  # candles in which two files of one release differ at one trade count
    metadata,
    *_series(),
    *_span(),
    _checksum(),
    sa.PrimaryKeyConstraint("pair", "interval", "start"),
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
    _checksum(),
    sa.PrimaryKeyConstraint("pair", "moment"),
)

absent_ids = sa.Table(
    "absent_ids",  # ids between two trades of a pair that the exchange left out of two replies
    metadata,
    sa.Column("pair", sa.String(64), nullable=False),
    sa.Column("first", sa.BigInteger, nullable=False),
    sa.Column("last", sa.BigInteger, nullable=False),
    *_span(),  # from the second of the trade before them to that of the trade after them
    sa.Column("parts", sa.Integer, nullable=False),  # the number of places in the page where they are absent
    sa.Column("run_id", sa.String(64), nullable=False),  # the run that found them absent first
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    sa.Column("confirmed_at", sa.BigInteger),  # when another run confirmed it: they do not exist
    _checksum(),
    sa.PrimaryKeyConstraint("pair", "first", "last"),
)

trade_counts = sa.Table(
    "trade_counts",  # trades counted by ids and by candles; a proven count is deleted with its evidence
    metadata,
    *_series(),
    *_span(),
    sa.Column("by_ids", sa.BigInteger),  # null where ids say nothing
    sa.Column("counted", sa.BigInteger),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    _checksum(),
    sa.PrimaryKeyConstraint("pair", "interval", "start", "end"),
)

doubts = sa.Table(
    "doubts",  # ranges marked for reconciliation, as the outbox is for QuestDB
    metadata,
    sa.Column("id", _ID, primary_key=True),
    *_plain_series(),
    *_span(),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Index(None, "pair", "interval"),
    sqlite_autoincrement=True,
)

contradictions = sa.Table(
    "contradictions",  # candles of two intervals that do not agree, and their state
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("pair", sa.String(64), nullable=False),
    sa.Column("fine", Minutes, nullable=False),
    sa.Column("coarse", Minutes, nullable=False),
    *_span(),  # one candle of the coarser interval, or many of a file with shifted times
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
    sa.Column("id", _ID, primary_key=True),
    sa.Column("pair", sa.String(64)),  # null: all pairs, an outage of the exchange
    sa.Column("interval", Minutes, nullable=False),  # of the candles that are absent
    *_span(),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("state", Word(SuspicionState), nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("changed_at", sa.BigInteger, nullable=False),
    sa.Index(None, "pair", "interval"),
)

withdrawals = sa.Table(
    "withdrawals",  # what a person has withdrawn: a file, a release, or a span of a series
    metadata,
    sa.Column("id", _ID, primary_key=True),
    *_plain_series(),
    *_span(),
    sa.Column("file_id", _ID, sa.ForeignKey("files.id")),
    sa.Column("candles", sa.BigInteger, nullable=False),  # that left the lake
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Index(None, "pair", "interval"),
)

candle_counts = sa.Table(
    "candle_counts",  # candles in the lake by month: derived, so that reports need not open its files
    metadata,
    *_series(),
    sa.Column("year", sa.Integer, nullable=False),
    sa.Column("months", Json(is_sealed=True), nullable=False),  # twelve numbers
    _checksum(),
    sa.PrimaryKeyConstraint("pair", "interval", "year"),
)

reports = sa.Table(
    "reports",  # the headline numbers of each report, for the trend
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("tier", sa.String(8), nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("numbers", Json(), nullable=False),
    sa.Index(None, "tier", "made_at"),
)

coverage = sa.Table(
    "coverage",  # grants less refutations, merged: derived anew for a series whenever they change
    metadata,
    *_series(),
    *_span(),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("candles", sa.BigInteger, nullable=False),
    sa.Column("verified_at", sa.BigInteger, nullable=False),
    _checksum(),
    sa.PrimaryKeyConstraint("pair", "interval", "start"),
)

extents = sa.Table(
    "extents",  # the candles of a series in the lake: derived, so that reports need not open its files
    metadata,
    *_series(),
    sa.Column("candles", sa.BigInteger, nullable=False),
    sa.Column("first_time", sa.BigInteger, nullable=False),
    sa.Column("last_time", sa.BigInteger, nullable=False),
    _checksum(),
    sa.PrimaryKeyConstraint("pair", "interval"),
)

attempts = sa.Table(
    "attempts",  # attempts to fill a span; they outlive gap records, whose spans grow, split and return
    metadata,
    sa.Column("id", _ID, primary_key=True),
    *_plain_series(),
    *_span(),
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
    sa.Column("id", _ID, primary_key=True),
    *_plain_series(),
    *_span(),
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

dead_letters = sa.Table(
    "dead_letters",  # rows of files and of replies that were rejected, and operations that failed for good
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("file_id", _ID, sa.ForeignKey("files.id")),  # null for rows and failures of requests
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
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Index(None, "file_id"),
)

conflicts = sa.Table(
    "conflicts",  # sources with fewer or more trades than the stored candles, one row a file and series
    metadata,
    sa.Column("id", _ID, primary_key=True),
    *_plain_series(),
    *_span(),
    sa.Column("candles", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("file_id", _ID, sa.ForeignKey("files.id")),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Index(None, "pair", "interval"),
)

publications = sa.Table(
    "publications",  # the outbox: ranges that QuestDB has not confirmed yet
    metadata,
    sa.Column("id", _ID, primary_key=True),
    *_plain_series(),
    *_span(),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Index(None, "pair", "interval"),
    # SQLite reuses the highest id once its row is gone: a publisher of the old range would delete the new one.
    sqlite_autoincrement=True,
)

listings = sa.Table(
    "listings",  # Kraken's AssetPairs on each pair that the lake has or a run asked for
    metadata,
    sa.Column("pair", sa.String(64), primary_key=True),
    sa.Column("delisted_at", sa.BigInteger),  # when it was first found to be no longer listed
    sa.Column("first_trade", sa.BigInteger),  # the start of the minute of its first trade; null until requested
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    _checksum(),
)

absences = sa.Table(
    "absences",  # pairs missing from one AssetPairs reply, which another one may confirm as delisted
    metadata,
    sa.Column("pair", sa.String(64), primary_key=True),
    sa.Column("listed_at", sa.BigInteger, nullable=False),  # when the exchange sent the first list without it
    _checksum(),
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
    _checksum(),
)

asked_intervals = sa.Table(
    "asked_intervals",  # the intervals that runs named: reports are about these and those of archives
    metadata,
    sa.Column("interval", Minutes, primary_key=True, autoincrement=False),
    sa.Column("asked_at", sa.BigInteger, nullable=False),  # when it was first named
)

earlier_archives = sa.Table(
    "earlier_archives",  # pairs whose archives were read before 0010, until `ingest.earlier_archives` is done
    metadata,
    sa.Column("pair", sa.String(64), primary_key=True),
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
