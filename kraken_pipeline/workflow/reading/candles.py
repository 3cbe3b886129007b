"""Reading candles for notebooks: of one pair or of several, of any interval, with the state of the time between."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from kraken_pipeline.coverage.ranges import Span, intersect
from kraken_pipeline.errors import Incomplete, InvalidRequest
from kraken_pipeline.market.bars import Bars
from kraken_pipeline.market.candle import CANDLE_SCHEMA, TIME, seconds_in
from kraken_pipeline.market.continuous import continuous_candles
from kraken_pipeline.market.flow import with_flow
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso, short
from kraken_pipeline.market.series import Series
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.lake.history import candles_as_of
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.known_pairs import known_pairs
from kraken_pipeline.workflow.reading.assembly import (
    NO_ROWS,
    RECONCILED,
    UNTESTED,
    VERIFIED,
    Assembly,
    Read,
    assemble,
    is_all_stored,
    judged,
    known_window,
)
from kraken_pipeline.workflow.reading.evidence import TimeEvidence, evidence_of
from kraken_pipeline.workflow.reading.from_release import claimed_evidence, end_of, pairs_in, release_reader
from kraken_pipeline.workflow.reading.request import (
    COLUMNS,
    PAIR,
    STATE_COLUMNS,
    Moment,
    ReadRequest,
    chosen_columns,
    require_pair,
    seconds_of_moment,
)
from kraken_pipeline.workflow.releases.dataset import open_release
from kraken_pipeline.workflow.releases.folder import find_anywhere

ReadAll = Callable[[Sequence[str]], dict[str, pl.DataFrame]]
"""A function that returns the candles of some pairs, by name."""
STATE = pl.Enum(["traded", "quiet", "gap"])
PROOF = pl.Enum(["untested", "reconciled", "verified"])
_PROOF_NAMES = {UNTESTED: "untested", RECONCILED: "reconciled", VERIFIED: "verified"}
_PRICES = ("open", "high", "low", "close")
_SHOWN = 3


def read_candles(
    pair: str | Sequence[str],
    interval: int | str,
    start: Moment | None = None,
    end: Moment | None = None,
    *,
    offset: int | str | None = None,
    timezone: str | None = None,
    columns: Sequence[str] | None = None,
    fill_quiet: bool = False,
    incomplete: bool = False,
    require_complete: bool = False,
    with_state: bool = False,
    pivot: str | None = None,
    continuous: bool = False,
    release: str | Path | None = None,
    as_of: Moment | None = None,
    settings: Settings | None = None,
) -> pl.DataFrame:
    """Return the candles of one pair or of several, of any interval.

    Candles of the ten stored intervals are read. All others are made of the coarsest stored candles that add up to
    them, and so are candles that a stored interval lacks where a finer one has all of their time.

    Args:
        pair: Any name of the pair: XBTUSD, XBT/USD, BTCUSD. With a list of names, the candles of all are returned.
        interval: Minutes, or a length with a unit: `3m`, `2h`, `8h`, `1d`, `1w`.
        start: The earliest start of a candle: an ISO date or time, a datetime, or seconds since the epoch.
        end: The end, in the same forms; a candle that starts then is left out. All times are UTC.
        offset: The time between midnight and the start of a candle: `5h`, `90m`, or minutes.
        timezone: The zone whose midnights count, such as `Europe/Berlin`, where days have 23 and 25 hours when the
            clock changes. UTC by default.
        columns: The columns to return, in this order; all by default.
        fill_quiet: Whether candles without a trade are filled in where coverage proves that there was none: open,
            high, low and close are the previous close, volume and trade count are 0, all other columns are null.
        incomplete: Whether candles are returned of which a part is not covered, made of what is known.
        require_complete: Whether an error is raised if a candle of the time may be missing.
        with_state: Whether there is a row for each candle between the start (or the first known trade) and the end
            (or now), with two more columns: `state` (traded, quiet, or gap: not covered) and `proof` (verified,
            reconciled, untested; null in a gap). Where nothing was traded or nothing is known, prices are null.
        pivot: A column, such as `close`: the frame then has one row for each time and one column for each pair.
        continuous: Whether the candles of a renamed pair begin with those under its former names. A first column
            `pair` has the name under which each was traded, and a warning says where one name ends, where the next
            begins, and what is left out because both have candles.
        release: The name or the folder of a dataset release: its candles are read, with what it claims of them, and
            nothing of the lake. It ends where its selection does.
        as_of: A moment of the past, to the second: the stored candles are returned as the lake held them then. What was
            known of the time between them is not kept, so that no option that goes by it can be used.
        settings: The settings; those from the environment by default.

    Returns:
        One row for each candle, sorted by time: `time` (datetime[us, UTC], the candle's start), `open`, `high`, `low`,
        `close` (in the quote currency), `volume` (in the base asset), `trade_count`, `source` (CSV, TRADES,
        RESAMPLED or OHLC), `vwap` (the average price, weighted by volume), `quote_volume` (the volume in the quote
        currency) and `buy_volume` (the part of the volume that takers bought). The last three are null where the
        source does not tell them, as most archives of candles do not. With a list of pairs, a first column `pair`, by
        which rows are sorted first. Empty if nothing is stored. `.to_pandas()` and `.to_arrow()` convert it.

    Raises:
        InvalidRequest: A name, the interval, a time or a column is wrong, or a pair is unknown.
        Incomplete: `require_complete` is set, and there is a gap or quiet time under suspicion; both are listed.
        DamagedFile: A file to be read is not the one that was written.
    """
    request = ReadRequest(
        Bars.parse(interval, offset, timezone),
        seconds_of_moment(start),
        seconds_of_moment(end),
        fill_quiet=fill_quiet,
        incomplete=incomplete,
        require_complete=require_complete,
        with_state=with_state,
        as_of=seconds_of_moment(as_of),
    )
    if as_of is not None and release is not None:
        raise InvalidRequest("as_of and release exclude each other: a release never changes")
    is_one = isinstance(pair, str)
    if continuous and (not is_one or pivot or with_state or require_complete):
        raise InvalidRequest(
            "continuous reads the candles of one pair: leave pivot, with_state and require_complete out, which would "
            "count the time of the former name after its end as missing"
        )
    available = [*([] if is_one and not continuous else [PAIR]), *COLUMNS, *(STATE_COLUMNS if with_state else ())]
    wanted = chosen_columns(columns, available)
    if pivot is not None:
        chosen_columns([pivot], [name for name in available if name not in ("time", PAIR)])
        if columns is not None:
            raise InvalidRequest("columns and pivot exclude each other: a pivot has one column for each pair")
    with _source([pair] if isinstance(pair, str) else pair, request, release, settings) as (names, read_all):
        if continuous:
            return _continuous(names[0], read_all).select(wanted)
        frames = read_all(names)
    if is_one and pivot is None:
        return frames[names[0]].select(wanted)
    return _pivoted(frames, pivot) if pivot is not None else long_frame(frames).select(wanted)


@contextmanager
def _source(
    pairs: Sequence[str], request: ReadRequest, release: str | Path | None, settings: Settings | None
) -> Iterator[tuple[list[str], ReadAll]]:
    """Yield the names of known pairs, and the function that reads some of them from the lake or from a release."""
    settings = settings or load_settings()
    if release is None:
        with opened(settings) as stores:
            yield named(pairs, stores), partial(read_pairs, stores, request=request)
        return
    opened_release = open_release(find_anywhere(settings.home, str(release)))

    def read_all(names: Sequence[str]) -> dict[str, pl.DataFrame]:
        evidence = {name: claimed_evidence(opened_release, name) for name in names}
        return _frames(request, evidence, partial(release_reader, opened_release), end_of(opened_release))

    yield pairs_in(opened_release, pairs), read_all


def _continuous(pair: str, read_all: ReadAll) -> pl.DataFrame:
    """Return the candles of a pair and of its former names, and warn of each seam."""
    joined, seams = continuous_candles(pair, lambda name: read_all([name])[name])
    for seam in seams:
        if seam.gap is not None or seam.overlap is not None:
            warnings.warn(seam.sentence(), stacklevel=3)
    return joined


def named(pairs: str | Sequence[str], stores: Stores) -> list[str]:
    """Return the names of known pairs, each once, given one name or several.

    Raises:
        InvalidRequest: No pair is named, or one is unknown.
    """
    if not pairs:
        raise InvalidRequest("no pair is named")
    known = known_pairs(stores)
    wanted = [pairs] if isinstance(pairs, str) else pairs
    return list(dict.fromkeys(require_pair(name, known) for name in wanted))


def read_pairs(stores: Stores, pairs: Sequence[str], request: ReadRequest) -> dict[str, pl.DataFrame]:
    """Return the candles of some pairs, by name, as `read_candles` does.

    Raises:
        Incomplete: The request requires it, and a candle of one of the pairs may be missing.
    """
    if request.as_of is not None:
        return {pair: _as_of(stores, pair, request, request.as_of) for pair in pairs}
    found = evidence_of(stores, pairs, with_proof=request.with_state or request.require_complete)
    return _frames(request, {pair: found[pair] for pair in pairs}, partial(_reader, stores), int(time.time()))


def _as_of(stores: Stores, pair: str, request: ReadRequest, moment: int) -> pl.DataFrame:
    """Return the stored candles of a pair as the lake held them at the end of a second.

    Raises:
        InvalidRequest: That second is not over, so that the answer could still change, or it is too early.
    """
    if moment + 1 > time.time():
        raise InvalidRequest(f"{iso(moment)} is not over: as_of names a moment of the past")
    series = Series(pair, Interval.parse(request.bars.minutes))
    last_microsecond = moment * 1_000_000 + 999_999
    return candles_as_of(stores.lake, series, last_microsecond, request.start, request.end).select(COLUMNS)


def _frames(
    request: ReadRequest, found: Mapping[str, TimeEvidence], reader: Callable[[str], Read], now: int
) -> dict[str, pl.DataFrame]:
    if request.require_complete:
        require_complete(request, found, now)
    return {pair: rows_of(request, evidence, reader(pair), now) for pair, evidence in found.items()}


def require_complete(request: ReadRequest, found: Mapping[str, TimeEvidence], now: int) -> None:
    """Check that nothing is missing of the time that a request expects.

    Raises:
        Incomplete: There is a gap or suspicious quiet time.
    """
    gaps: list[tuple[str, int, int]] = []
    suspicious: list[tuple[str, int, int]] = []
    for pair, evidence in found.items():
        if (window := request.expected(evidence, now)) is None:
            raise Incomplete(f"nothing is known of {pair} in this time; `kraken-pipeline gaps` says how to fill it")
        bars = judged(request.bars, window, evidence, now)
        gaps += [(pair, part.start, part.end) for part in bars.missing()]
        suspicious += [(pair, part.start, part.end) for part in intersect(evidence.suspicious, (window,))]
    if gaps or suspicious:
        raise Incomplete(_why(gaps, suspicious), gaps, suspicious)


def _why(gaps: Sequence[tuple[str, int, int]], suspicious: Sequence[tuple[str, int, int]]) -> str:
    parts = [
        f"{len(ranges):,} {what if len(ranges) == 1 else several} ({_listed(ranges)})"
        for what, several, ranges in (
            ("gap", "gaps", gaps),
            ("range of quiet time is under suspicion", "ranges of quiet time are under suspicion", suspicious),
        )
        if ranges
    ]
    pairs = ",".join(sorted({pair for pair, _, _ in (*gaps, *suspicious)}))
    return f"not complete: {'; '.join(parts)}; `kraken-pipeline gaps --pairs {pairs}` says how to fill them"


def _listed(ranges: Sequence[tuple[str, int, int]]) -> str:
    shown = [f"{pair} {short(start)} to {short(end)}" for pair, start, end in ranges[:_SHOWN]]
    more = [f"{len(ranges) - _SHOWN:,} more"] if len(ranges) > _SHOWN else []
    return ", ".join([*shown, *more])


def _reader(stores: Stores, pair: str) -> Read:
    def read(interval: Interval, start: int, end: int) -> pl.DataFrame:
        return stores.lake.read(Series(pair, interval), start, end)

    return read


def rows_of(request: ReadRequest, evidence: TimeEvidence, read: Read, now: int) -> pl.DataFrame:
    """Return the rows of one pair, with the columns of `read_candles` and perhaps `state` and `proof`.

    Args:
        request: What is wanted.
        evidence: The evidence about the pair.
        read: The function that reads its stored candles.
        now: The current time, in seconds since the epoch.
    """
    bars = request.bars
    known = known_window(bars, evidence)
    if request.with_state:
        window = request.expected(evidence, now)
    elif known is None:
        window = None
    else:
        # What is known later than the last stored candle is quiet time.
        last = max([known.end, *(spans[-1].end for spans in evidence.covered.values() if spans)])
        end = last if request.end is None else min(request.end, last)
        start = known.start if request.start is None else max(request.start, known.start)
        window = Span(start, end) if start < end else None
    if window is None:
        return _columns(NO_ROWS, with_state=request.with_state)
    if request.is_plain and bars.stored_as is not None and is_all_stored(bars, evidence, window):
        return _columns(read(bars.stored_as, window.start, window.end), with_state=False)
    edges = bars.edges(window.start, window.end)
    if not len(edges):
        return _columns(NO_ROWS, with_state=request.with_state)
    assembly = assemble(bars, edges, evidence, read, with_partial=request.incomplete or request.fill_quiet)
    rows = _columns(assembly.known if request.incomplete else assembly.candles, with_state=False)
    if request.fill_quiet:
        close = _close_before(bars, evidence, read, int(edges[0]))
        rows = pl.concat([rows, _filled(assembly, rows, close)]).sort("time")
    return _with_state(assembly, rows, now) if request.with_state else rows


def _columns(rows: pl.DataFrame, *, with_state: bool) -> pl.DataFrame:
    plain = rows.select(COLUMNS)
    if not with_state:
        return plain
    return plain.with_columns(pl.lit(None, STATE).alias("state"), pl.lit(None, PROOF).alias("proof"))


def _filled(assembly: Assembly, rows: pl.DataFrame, close: float | None) -> pl.DataFrame:
    """Return a row for every whole bar without a candle, from the first candle ever on.

    Args:
        assembly: The bars, with the candles of those that are not whole, whose close is known as well.
        rows: The candles.
        close: The close of the last candle before the bars; None if there is none.
    """
    is_quiet = assembly.is_whole.copy()
    is_quiet[assembly.starts.searchsorted(seconds_in(rows).to_numpy())] = False
    times = assembly.starts[is_quiet]
    known = assembly.known
    closes = np.concatenate(([np.nan if close is None else close], known["close"].to_numpy()))
    previous = closes[seconds_in(known).to_numpy().searchsorted(times)]
    has_close = ~np.isnan(previous)
    quiet = pl.DataFrame({"time": _times(times[has_close]), "close": previous[has_close]}).select(
        "time",
        *(pl.col("close").alias(name) for name in _PRICES),
        pl.lit(0.0).alias("volume"),
        pl.lit(0, dtype=pl.Int32).alias("trade_count"),
        pl.lit(None, dtype=CANDLE_SCHEMA["source"]).alias("source"),
    )
    return with_flow(quiet)


def _close_before(bars: Bars, evidence: TimeEvidence, read: Read, start: int) -> float | None:
    """Return the close of the last candle that starts before a bar; None if there is none.

    It looks back from the bar, each time twice as far, because most bars have a candle not long before.
    """
    if (known := known_window(bars, evidence)) is None:
        return None
    end, length = start, 64 * bars.seconds
    while end > known.start:
        begin = bars.floor(max(end - length, known.start))
        before = assemble(bars, bars.edges(begin, end), evidence, read, with_partial=True).known
        if before.height:
            return float(before["close"][-1])
        end, length = begin, 2 * length
    return None


def _with_state(assembly: Assembly, rows: pl.DataFrame, now: int) -> pl.DataFrame:
    """Return a row for each bar that has ended or has a candle, with its state and its proof."""
    has_trades = np.zeros(len(assembly.starts), np.bool_)
    traded = rows.filter(pl.col("trade_count") > 0)
    has_trades[assembly.starts.searchsorted(seconds_in(traded).to_numpy())] = True
    state = np.where(assembly.is_whole, np.where(has_trades, "traded", "quiet"), "gap")
    proof = pl.Series(assembly.proof).replace_strict(_PROOF_NAMES, return_dtype=PROOF)
    grid = pl.DataFrame(
        {
            "time": _times(assembly.starts),
            "state": pl.Series(state, dtype=pl.String()).cast(STATE),
            "proof": proof.zip_with(pl.Series(assembly.is_whole), pl.Series([None], dtype=PROOF)),
            "_is_shown": (assembly.edges[1:] <= now) | has_trades,
        }
    )
    is_quiet = pl.col("state") == "quiet"
    return (
        grid.join(rows, on="time", how="left", maintain_order="left")
        .filter("_is_shown")
        .with_columns(
            pl.when(is_quiet).then(pl.col("volume").fill_null(0.0)).otherwise(pl.col("volume")).alias("volume"),
            pl.when(is_quiet)
            .then(pl.col("trade_count").fill_null(0))
            .otherwise(pl.col("trade_count"))
            .alias("trade_count"),
        )
        .select(*COLUMNS, *STATE_COLUMNS)
    )


def _times(seconds: np.typing.NDArray[np.int64]) -> pl.Series:
    return pl.Series("time", seconds * 1_000_000, dtype=pl.Int64()).cast(TIME)


def long_frame(frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return one frame of those of several pairs, with a first column `pair`."""
    return pl.concat([frame.select(pl.lit(pair).alias(PAIR), pl.all()) for pair, frame in frames.items()])


def _pivoted(frames: Mapping[str, pl.DataFrame], column: str) -> pl.DataFrame:
    """Return one column of several pairs side by side, by time."""
    wide = pl.concat(
        [frame.select("time", pl.col(column).alias(pair)) for pair, frame in frames.items()], how="align_full"
    )
    return wide.sort("time").select("time", *frames)
