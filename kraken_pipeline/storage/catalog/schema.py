"""The catalog's tables.

Times are seconds since the epoch, ranges half-open `[start, end)`, intervals minutes. `storage/migrations` brings a
database to this state; a test compares the two.
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


# SQLite gives ids by itself to INTEGER keys only, PostgreSQL needs BIGINT for the outbox of years.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


_PAIRS = 10_000
"""From how many pairs on a query does not name them: SQLite allows 32,766 variables."""


def of_pairs(column: sa.Column[str], pairs: Collection[str] | None) -> sa.ColumnElement[bool]:
    """The condition that narrows a query to some pairs; to none, where all are asked for or more than can be named."""
    return sa.true() if pairs is None or len(pairs) >= _PAIRS else column.in_(list(pairs))


def _series() -> list[sa.Column[str] | sa.Column[int]]:
    return [
        sa.Column("pair", sa.String(64), nullable=False),
        sa.Column("interval", sa.Integer, nullable=False),
    ]


def _plain_series() -> list[sa.Column[str] | sa.Column[int]]:
    """The same in a table without checksums, where an interval that is none is found when it is read."""
    return [sa.Column("pair", sa.String(64), nullable=False), sa.Column("interval", Minutes, nullable=False)]


def _span() -> list[sa.Column[int]]:
    return [
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("end", sa.BigInteger, nullable=False),
    ]


def _checksum() -> sa.Column[int]:
    """The column of `storage.seals`: a row whose values do not add up to it claims nothing."""
    return sa.Column("checksum", sa.BigInteger, nullable=False)


def _rows() -> list[sa.Column[str] | sa.Column[int]]:
    """What tells the candles of one file of the lake: where they lie, how many, and a digest of their values."""
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
    sa.Column("write_id", sa.String(64), nullable=False),  # begins with the time of writing: later ones sort behind
    sa.Column("written_at", sa.BigInteger, nullable=False),
    sa.Column("scrubbed_at", sa.BigInteger),  # when all of it was last read and found right; null before the first time
    sa.Column("version", sa.String(64), nullable=False),  # of an object in a store that has versions; empty for a file
    _checksum(),
    # Beside the file that is there, one may be announced: about to be renamed to its place, or renamed just now.
    sa.Column("is_announced", sa.Boolean, nullable=False),
    sa.PrimaryKeyConstraint("path", "write_id"),
    sa.Index(None, "pair", "interval"),
)

unadopted = sa.Table(
    "unadopted",  # series written before there was a manifest, and not yet looked at by `verify`
    metadata,
    *_plain_series(),
    sa.PrimaryKeyConstraint("pair", "interval"),
)

damages = sa.Table(
    "damages",  # files of the lake that were found not to be what was written
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("pair", sa.String(64)),  # null where the path names no series
    sa.Column("interval", Minutes),
    sa.Column("year", sa.Integer),
    sa.Column("kind", Word(DamageKind), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("candles", sa.BigInteger, nullable=False),  # that it held, as far as is known
    sa.Column("first_time", sa.BigInteger),  # of these, where it was no resampled one: the pair was traded by then
    sa.Column("noticed_at", sa.BigInteger, nullable=False),
    sa.Column("settled_at", sa.BigInteger),  # null while the file is still in the way
    sa.Column("moved_to", sa.Text),  # where what was left of it lies, relative to the home
    sa.Index(None, "path"),
)

verifications = sa.Table(
    "verifications",  # how often the lake was read and compared with the manifest, and how much of it
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
    "deliveries",  # which content of which file of the lake QuestDB has applied: what it can give back
    metadata,
    sa.Column("path", sa.Text, primary_key=True),
    *_series(),
    *_rows(),
    sa.Column("delivered_at", sa.BigInteger, nullable=False),
    _checksum(),
)

assets = sa.Table(
    "assets",  # the ids of pairs; `lake/assets.parquet` is their copy that lies with the candles
    metadata,
    sa.Column("asset_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("pair", sa.String(64), nullable=False, unique=True),
    sa.Column("base", sa.String(64), nullable=False),
    sa.Column("quote", sa.String(64), nullable=False),
)

containers = sa.Table(
    "containers",  # archives that hold many files: what is known of them by their content, whatever their name
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("start", sa.BigInteger),  # what it covers; null where it is no release
    sa.Column("end", sa.BigInteger),
    sa.Column("quarter", sa.String(8)),  # 2023Q2; null for complete archives
    sa.Column("series", Json(), nullable=False),  # ["XBTUSD_60", …]: so that no gap is sent to look here in vain
    sa.Column(
        "stamp", sa.Text, nullable=False
    ),  # path, size and time of change: what has not changed is not hashed again
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    sa.Index(None, "stamp"),
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("location", sa.Text, nullable=False),  # absolute path, with :member for one in a container
    sa.Column("name", sa.Text, nullable=False),  # what people call it: XBTUSD_60.csv, Release.zip:XBTUSD_60.csv
    sa.Column("container", sa.String(64)),  # the container's SHA-256
    sa.Column("stamp", sa.Text),  # of a loose file, as a container's
    sa.Column("kind", sa.String(16)),  # kind, pair and interval are null for a container that cannot be opened
    sa.Column("pair", sa.String(64)),
    sa.Column("interval", Minutes),
    sa.Column("status", Word(FileStatus), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("sha256", sa.String(64)),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("start", sa.BigInteger),  # what the file answers for
    sa.Column("end", sa.BigInteger),
    sa.Column("taken_start", sa.BigInteger),  # the window that a run was asked to take of it; null: no limit
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
    "grants",  # what something answered for
    metadata,
    sa.Column("id", _ID, primary_key=True),
    *_series(),
    *_span(),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("file_id", _ID, sa.ForeignKey("files.id")),
    sa.Column("trades", sa.BigInteger, nullable=False),  # made in the span, as the source counts them
    sa.Column("verified_at", sa.BigInteger, nullable=False),
    _checksum(),
    sa.Index(None, "pair", "interval"),
)

refutations = sa.Table(
    "refutations",  # what turned out not to be so; ends once something has answered for all of it again
    metadata,
    sa.Column("id", _ID, primary_key=True),
    *_series(),
    *_span(),
    sa.Column("refuted", Json(is_sealed=True, none_as_null=True)),  # what stood there, as one candle; null: absent
    sa.Column("reason", sa.Text, nullable=False),
    # The newest grant and attempt of that moment: what came before does not count as an answer.
    sa.Column("after_grant", _ID, nullable=False),
    sa.Column("after_attempt", _ID, nullable=False),
    # What took the evidence away, where that was damage: then later answers count for the part they are about.
    sa.Column("damage_id", _ID, sa.ForeignKey("damages.id")),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    _checksum(),
    sa.Index(None, "pair", "interval"),
)

proofs = sa.Table(
    "proofs",  # what is reconciled or verified; no two rows of a series overlap: derived by reconciliation
    metadata,
    *_series(),
    *_span(),
    sa.Column("level", sa.String(16), nullable=False),
    _checksum(),
    sa.PrimaryKeyConstraint("pair", "interval", "start"),
)

confirmations = sa.Table(
    "confirmations",  # where a second source, independent of what the lake has, said the same candle for candle
    metadata,
    *_series(),
    *_span(),
    _checksum(),
    sa.PrimaryKeyConstraint("pair", "interval", "start"),
)

disputes = sa.Table(
    "disputes",  # candles of which two files of one release say different things at one trade count
    metadata,
    *_series(),
    *_span(),
    _checksum(),
    sa.PrimaryKeyConstraint("pair", "interval", "start"),
)

anchors = sa.Table(
    "anchors",  # the first trade at or after a moment, as the exchange numbers them: asked for once
    metadata,
    sa.Column("pair", sa.String(64), nullable=False),
    sa.Column("moment", sa.BigInteger, nullable=False),
    sa.Column("trade_id", sa.BigInteger, nullable=False),
    sa.Column("trade_time", sa.BigInteger),  # null where no trade had followed: then the id is the newest one plus one
    sa.Column("asked_at", sa.BigInteger, nullable=False),
    sa.Column("listed", sa.Integer),  # how many trades a full page from there had; null where only the first was asked
    sa.Column("numbered", sa.BigInteger),  # how many ids lie between the first and the last of them
    _checksum(),
    sa.PrimaryKeyConstraint("pair", "moment"),
)

absent_ids = sa.Table(
    "absent_ids",  # ids between two trades of a pair that the exchange has left out though it was asked twice
    metadata,
    sa.Column("pair", sa.String(64), nullable=False),
    sa.Column("first", sa.BigInteger, nullable=False),
    sa.Column("last", sa.BigInteger, nullable=False),
    *_span(),  # from the second of the trade before them to that of the trade after them
    sa.Column("parts", sa.Integer, nullable=False),  # in how many places of the page they are absent
    sa.Column("run_id", sa.String(64), nullable=False),  # that was the first to find them absent
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    sa.Column("confirmed_at", sa.BigInteger),  # when another run found the same: they do not exist
    _checksum(),
    sa.PrimaryKeyConstraint("pair", "first", "last"),
)

trade_counts = sa.Table(
    "trade_counts",  # what ids of trades say of the trades that candles count; a proven one goes with its evidence
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
    "doubts",  # what has changed since it was reconciled, as the outbox is for QuestDB
    metadata,
    sa.Column("id", _ID, primary_key=True),
    *_plain_series(),
    *_span(),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Index(None, "pair", "interval"),
    sqlite_autoincrement=True,
)

contradictions = sa.Table(
    "contradictions",  # candles of two intervals that do not agree, and what is done about it
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("pair", sa.String(64), nullable=False),
    sa.Column("fine", Minutes, nullable=False),
    sa.Column("coarse", Minutes, nullable=False),
    *_span(),  # a candle of the coarser, or many of a file whose times are shifted
    sa.Column("short_side", sa.String(8)),  # fine or coarse; null where their trade counts do not tell
    sa.Column("fine_candle", Json(none_as_null=True)),  # [open, high, low, close, volume, trades]; null: absent
    sa.Column("coarse_candle", Json(none_as_null=True)),
    sa.Column("fine_trades", sa.BigInteger, nullable=False),
    sa.Column("coarse_trades", sa.BigInteger, nullable=False),
    sa.Column("culprit", Minutes),  # the interval that the others speak against; null where nobody can say
    sa.Column("state", Word(ContradictionState), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("changed_at", sa.BigInteger, nullable=False),
    sa.Index(None, "pair", "fine", "coarse", "start", unique=True),
)

suspicions = sa.Table(
    "suspicions",  # quiet time that is hard to believe: of one series, or of all pairs at once
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
    "withdrawals",  # what a person has taken back: a file, a release, or a span of a series
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
    "candle_counts",  # how many candles the lake has of each month: derived, so that reports need not open its files
    metadata,
    *_series(),
    sa.Column("year", sa.Integer, nullable=False),
    sa.Column("months", Json(is_sealed=True), nullable=False),  # twelve numbers
    _checksum(),
    sa.PrimaryKeyConstraint("pair", "interval", "year"),
)

reports = sa.Table(
    "reports",  # the headline numbers of each report that was made, for the trend
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("tier", sa.String(8), nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("numbers", Json(), nullable=False),
    sa.Index(None, "tier", "made_at"),
)

coverage = sa.Table(
    "coverage",  # grants less refutations, merged: derived, and made anew for a series whenever they change
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
    "extents",  # a series' candles as the lake holds them: derived, so that reports need not open its files
    metadata,
    *_series(),
    sa.Column("candles", sa.BigInteger, nullable=False),
    sa.Column("first_time", sa.BigInteger, nullable=False),
    sa.Column("last_time", sa.BigInteger, nullable=False),
    _checksum(),
    sa.PrimaryKeyConstraint("pair", "interval"),
)

attempts = sa.Table(
    "attempts",  # a try to fill a span; outlives the gap record, whose span grows, splits and comes back
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
    sa.Column("file_id", _ID, sa.ForeignKey("files.id")),  # null for what a request brought or tried to bring
    sa.Column("pair", sa.String(64)),  # where there is no file that says it
    sa.Column("interval", Minutes),
    sa.Column(
        "operation", Json(none_as_null=True)
    ),  # {"route": "OHLC", "start": …, "end": …}: what `dead-letters retry` does again
    sa.Column("retried_at", sa.BigInteger),  # when the operation succeeded after all
    sa.Column("location", sa.Text, nullable=False),
    sa.Column("line", sa.BigInteger),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Index(None, "file_id"),
)

conflicts = sa.Table(
    "conflicts",  # a source that says fewer or more trades than what is kept, one row a file and series
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
    "publications",  # the outbox: what QuestDB is still owed
    metadata,
    sa.Column("id", _ID, primary_key=True),
    *_plain_series(),
    *_span(),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Index(None, "pair", "interval"),
    # SQLite gives the highest id again once its row is gone: whoever delivered the old one would take out the new one.
    sqlite_autoincrement=True,
)

listings = sa.Table(
    "listings",  # what Kraken's AssetPairs said of each pair that the lake has or a run asked for
    metadata,
    sa.Column("pair", sa.String(64), primary_key=True),
    sa.Column("delisted_at", sa.BigInteger),  # when it was first found to be listed no more
    sa.Column("first_trade", sa.BigInteger),  # the start of the minute of its first trade; null until it was asked for
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    _checksum(),
)

absences = sa.Table(
    "absences",  # pairs that AssetPairs has left out, and that another list of it may show to be listed no more
    metadata,
    sa.Column("pair", sa.String(64), primary_key=True),
    sa.Column("listed_at", sa.BigInteger, nullable=False),  # when the exchange gave the first list without it
    _checksum(),
)

incidents = sa.Table(
    "incidents",  # when the exchange was down or was to be, as its SystemStatus has told
    metadata,
    sa.Column("name", sa.String(160), primary_key=True),  # what tells one from another, as the exchange does
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("start", sa.BigInteger, nullable=False),
    sa.Column("end", sa.BigInteger, nullable=False),  # as announced; or when it was last told that it goes on
    sa.Column("is_open", sa.Boolean, nullable=False),  # whether nobody has told yet that it is over
    sa.Column("stops_trading", sa.Boolean, nullable=False),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    _checksum(),
)

asked_intervals = sa.Table(
    "asked_intervals",  # the intervals that a run named: reports are about these and those of archives
    metadata,
    sa.Column("interval", Minutes, primary_key=True, autoincrement=False),
    sa.Column("asked_at", sa.BigInteger, nullable=False),  # when it was first named
)

earlier_archives = sa.Table(
    "earlier_archives",  # pairs whose archives a version before 0010 read, until `workflow.earlier_archives` is done
    metadata,
    sa.Column("pair", sa.String(64), primary_key=True),
)

limits = sa.Table(
    "limits",  # the request rate that all processes share: a row for all requests, and one an endpoint
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("next_at", sa.Float, nullable=False),  # the moment of the next permit, in seconds since the epoch
    sa.Column("slowness", sa.Float, nullable=False),  # 1 at the full rate, 2 at half of it
)

breakers = sa.Table(
    "breakers",  # whether the exchange answers, as all processes see it
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),  # one after another
    sa.Column("opened_at", sa.Float),  # null while it is closed
    sa.Column("probe_until", sa.Float),  # until when one process has the right to try
)

counters = sa.Table(
    "counters",  # requests, errors, hits: by hour, so that rates are those of today and old ones can be dropped
    metadata,
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("hour", sa.BigInteger, nullable=False),  # its start, in seconds since the epoch
    sa.Column("value", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("name", "hour"),
)
