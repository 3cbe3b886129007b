"""Reading kept trades for notebooks, and the time for which all of them are there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import polars as pl

from kraken_pipeline.coverage.ranges import EVER, Span, Spans, clip, normalise, subtract
from kraken_pipeline.errors import Incomplete, InvalidRequest
from kraken_pipeline.market.candle import TIME, time_from_seconds
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import short
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.trade import TRADE_SCHEMA
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.records import damage as damages
from kraken_pipeline.storage.records import refutations
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.storage.trades import manifest
from kraken_pipeline.storage.trades.files import opened_trades, read_file
from kraken_pipeline.storage.trades.kept import TradeClaim
from kraken_pipeline.storage.trades.manifest import TradeFile
from kraken_pipeline.storage.trades.months import by_month, month_span
from kraken_pipeline.workflow.reading.candles import named
from kraken_pipeline.workflow.reading.request import Moment, chosen_columns, seconds_of_moment

_SHOWN = 3
_FEW_SECONDS = 366 * 86_400
"""The time up to which the catalog is asked for single months: `read_bars` reads one after another."""
_COVERED_SCHEMA = pl.Schema({"start": TIME, "end": TIME, "sources": pl.List(pl.String())})


def read_trades(
    pair: str,
    start: Moment | None = None,
    end: Moment | None = None,
    *,
    columns: Sequence[str] | None = None,
    require_complete: bool = False,
    settings: Settings | None = None,
) -> pl.DataFrame:
    """Return the kept trades of a pair (`KRAKEN_KEEP_TRADES`).

    No trade at some time means that nobody traded, or that the store does not know: `covered_trades` tells which.

    Args:
        pair: Any name of the pair: XBTUSD, XBT/USD, BTCUSD.
        start: The earliest time of a trade: an ISO date or time, a datetime, or seconds since the epoch.
        end: The end, in the same forms; a trade at that time is left out. All times are UTC.
        columns: The columns to return, in this order; all by default.
        require_complete: Whether an error is raised if a trade of the time may be missing. Without a start or an end,
            the time begins or ends with the time that is covered.
        settings: The settings; those from the environment by default.

    Returns:
        One row for each trade, sorted by time and id: `time` (datetime[us, UTC]), `price` (in the quote currency),
        `volume` (in the base asset), `side` (buy or sell, of the taker), `order_type` (market or limit), `trade_id`
        and `source` (API, or the beginning of the SHA-256 of an archive's file). Side, type and id are null where the
        source does not tell them. Equal rows are separate trades.

    Raises:
        InvalidRequest: A name, a time or a column is wrong, or a pair is unknown.
        Incomplete: `require_complete` is set, and the trades of some time are not there; it is listed.
        DamagedFile: A file to be read is not the one that was written.
    """
    wanted = chosen_columns(columns, TRADE_SCHEMA.names())
    span = wanted_span(start, end)
    with opened(settings or load_settings()) as stores:
        (name,) = named(pair, stores)
        if require_complete:
            require_covered(name, span, covered_time(stores, name))
        return trades_within(stores, name, span, wanted)


def scan_trades(
    pair: str,
    start: Moment | None = None,
    end: Moment | None = None,
    *,
    columns: Sequence[str] | None = None,
    settings: Settings | None = None,
) -> pl.LazyFrame:
    """Return the kept trades of a pair as a lazy frame, which reads nothing until it is collected.

    The files are those of this moment: collect the frame before the next run of the pipeline, or scan again.

    Args:
        pair: Any name of the pair.
        start: The earliest time of a trade, as in `read_trades`.
        end: The end, in the same forms; a trade at that time is left out.
        columns: The columns, in this order; all by default.
        settings: The settings; those from the environment by default.

    Returns:
        The columns of `read_trades`. Rows have no fixed order: sort them by `time` and `trade_id` if it matters.

    Raises:
        InvalidRequest: A name, a time or a column is wrong, or a pair is unknown.
        DamagedFile: A file of a folder is not the one that was written.
    """
    wanted = chosen_columns(columns, TRADE_SCHEMA.names())
    span = wanted_span(start, end)
    with opened(settings or load_settings()) as stores:
        (name,) = named(pair, stores)
        files = _files(stores, name, span)
        if not stores.lake.files.is_read_whole:
            _require_sound(stores, files)
        paths = [stores.lake.files.location(file.path) for file in files]
    if not paths:
        return pl.LazyFrame(schema=TRADE_SCHEMA).select(wanted)
    return pl.scan_parquet(paths, hive_partitioning=False).filter(_is_in(span)).select(wanted)


def covered_trades(pair: str, *, settings: Settings | None = None) -> pl.DataFrame:
    """Return the time for which all trades of a pair are kept: within it, no trade means that nobody traded.

    Args:
        pair: Any name of the pair.
        settings: The settings; those from the environment by default.

    Returns:
        One row for each span with the same sources, in order of time: `start`, `end` (not included), and `sources`,
        the best one first: API, or the beginning of the SHA-256 of an archive's file.

    Raises:
        InvalidRequest: The pair is unknown.
    """
    with opened(settings or load_settings()) as stores:
        (name,) = named(pair, stores)
        claims, refuted = _claims(stores, name)
    # The files of neighbouring months, and of the pages of a month, claim adjacent spans.
    rows: list[tuple[int, int, list[str]]] = []
    for claim in claims:
        sources = [source.name for source in claim.sources]
        for span in subtract((claim.span,), refuted):
            if rows and rows[-1][1] == span.start and rows[-1][2] == sources:
                rows[-1] = rows[-1][0], span.end, sources
            else:
                rows.append((span.start, span.end, sources))
    frame = pl.DataFrame(rows, schema={**_COVERED_SCHEMA, "start": pl.Int64(), "end": pl.Int64()}, orient="row")
    return frame.with_columns(time_from_seconds(pl.col("start", "end")))


# --- for other readers


def wanted_span(start: Moment | None, end: Moment | None) -> Span:
    """Return the time that is asked for; all of it where there is no limit.

    Raises:
        InvalidRequest: A text is not a time, or the end is not later than the start.
    """
    first, last = seconds_of_moment(start), seconds_of_moment(end)
    span = (EVER.start if first is None else first), (EVER.end if last is None else last)
    if span[0] >= span[1]:
        raise InvalidRequest("end must be later than start; the range is half-open, so end itself is excluded")
    return Span(*span)


def covered_time(stores: Stores, pair: str) -> Spans:
    """Return the time for which all trades of a pair are kept."""
    claims, refuted = _claims(stores, pair)
    return subtract(normalise(claim.span for claim in claims), refuted)


def _claims(stores: Stores, pair: str) -> tuple[list[TradeClaim], Spans]:
    """Return the claims of a pair's files, and the minutes that another source has refuted since.

    A refuted minute lacks a trade by the account of another interval, or by the ids. It is paged again, and until then
    nobody knows whether it is the kept trades that are short.
    """
    minutes = Series(pair, Interval.M1)
    with stores.catalog.read() as connection:
        claims = manifest.claims_of(connection, pair)
        found = refutations.active(connection, [pair]).get(minutes, [])
    return claims, normalise(one.span for one in found if one.damage_id is None)


def pairs_with_trades(stores: Stores) -> list[str]:
    """Return the pairs of which trades are kept, sorted."""
    with stores.catalog.read() as connection:
        return manifest.kept_pairs(connection)


def rows_by_month(stores: Stores, pairs: Collection[str], span: Span) -> dict[str, dict[int, int]]:
    """Return the months with kept trades that a span meets, in order, with the number of trades of each, by pair."""
    with stores.catalog.read() as connection:
        files = manifest.trade_files_of(connection, pairs)
    found: dict[str, dict[int, int]] = {}
    for file in files:
        if file.rows and not file.is_announced and month_span(file.month).overlaps(span):
            of_pair = found.setdefault(file.pair, {})
            of_pair[file.month] = of_pair.get(file.month, 0) + file.rows
    return found


def require_covered(pair: str, wanted: Span, covered: Spans) -> None:
    """Check that the trades of all of a time are kept.

    Raises:
        Incomplete: They are not; the error lists what is missing.
    """
    if not covered and EVER.start == wanted.start:
        raise Incomplete(f"no trades of {pair} are kept: KRAKEN_KEEP_TRADES keeps those that are paged or read")
    first = covered[0].start if wanted.start == EVER.start and covered else wanted.start
    last = covered[-1].end if wanted.end == EVER.end and covered else wanted.end
    missing = subtract((Span(first, last),), covered) if first < last else ()
    if missing:
        shown = ", ".join(f"{short(span.start)} to {short(span.end)}" for span in missing[:_SHOWN])
        more = f", and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise Incomplete(
            f"the trades of {pair} are not all kept: {shown}{more}",
            gaps=[(pair, span.start, span.end) for span in missing],
        )


def trades_within(stores: Stores, pair: str, span: Span, columns: Sequence[str]) -> pl.DataFrame:
    """Return columns of the kept trades of a pair that were made in a span, sorted by time and id.

    Raises:
        DamagedFile: A file to be read is not the one that was written.
    """
    needed = list(dict.fromkeys(("time", "trade_id", *columns)))
    while True:
        files = _files(stores, pair, span)
        parts = [read_file(stores.lake.files, file, needed) for file in files]
        found = [part for part in parts if isinstance(part, Damage)]
        if not found:
            break
        # A writer may have replaced a file since.
        if {file.path for file in _files(stores, pair, span)} >= {damage.path for damage in found}:
            damages.notice(stores.catalog, stores.lake, found)
            raise damages.refusal(found)
    frames = [part.filter(_is_in(span)).select(needed) for part in parts if isinstance(part, pl.DataFrame)]
    empty = pl.DataFrame(schema={name: TRADE_SCHEMA[name] for name in needed})
    return pl.concat([*frames, empty]).sort("time", "trade_id", maintain_order=True).select(columns)


def _is_in(span: Span) -> pl.Expr:
    first, last = (time_from_seconds(pl.lit(edge)) for edge in (span.start, span.end))
    return pl.col("time").is_between(first, last, closed="left")


def _files(stores: Stores, pair: str, span: Span) -> list[TradeFile]:
    """Return the files that may have trades in a span.

    Raises:
        DamagedFile: The damage of one of them is on record.
    """
    months = [month for month, _ in by_month((span,))] if span.seconds <= _FEW_SECONDS else None
    with stores.catalog.read() as connection:
        files = [
            file
            for file in manifest.trade_files_of(connection, [pair], months)
            if not file.is_announced and any(claim.span.overlaps(span) for claim in file.claims)
        ]
        damaged = manifest.damaged_paths(connection)
        if any(file.path in damaged for file in files):
            known = damages.open_damages(connection)
            raise damages.refusal([damage for damage in known if damage.path in {file.path for file in files}])
    return files


def _require_sound(stores: Stores, files: Iterable[TradeFile]) -> None:
    found: list[Damage] = []
    for file in files:
        with opened_trades(stores.lake.files, file, is_whole=False) as stream:
            if isinstance(stream, Damage):
                found.append(stream)
    if found:
        damages.notice(stores.catalog, stores.lake, found)
        raise damages.refusal(found)


def months_within(spans: Spans) -> Iterable[tuple[Span, Span]]:
    """Yield the parts of each span that lie in one month, in order, each with the span."""
    for whole in spans:
        for month, _ in by_month((whole,)):
            (part,) = clip((whole,), month_span(month))
            yield whole, part
