"""What is known of the time of a pair, as frames: its coverage, its gaps, and the condition of each day."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import polars as pl

from kraken_pipeline.coverage.ranges import Span, Spans, clip, normalise, seconds
from kraken_pipeline.market.bars import Bars
from kraken_pipeline.market.candle import TIME
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.catalog.states import ContradictionState
from kraken_pipeline.storage.records import evidence_records, proof_records
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.reading.assembly import Assembly, judged, sources_of
from kraken_pipeline.workflow.reading.candles import named
from kraken_pipeline.workflow.reading.evidence import evidence_of
from kraken_pipeline.workflow.reading.request import Moment, ReadRequest, seconds_of_moment

CONDITION = pl.Enum(["complete", "degraded", "pending", "missing"])
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class _Judgement:
    """The bars of one pair that have ended, without their candles, and what speaks against them.

    Attributes:
        pair: The pair.
        window: The expected time; None if nothing is expected.
        bars: The bars.
        doubtful: Suspicious quiet time, and candles of different intervals that do not agree.
        now: The current time, in seconds since the epoch.
    """

    pair: str
    window: Span | None
    bars: Assembly
    doubtful: Spans
    now: int


def covered(
    pair: str,
    interval: int | str,
    start: Moment | None = None,
    end: Moment | None = None,
    *,
    offset: int | str | None = None,
    timezone: str | None = None,
    settings: Settings | None = None,
) -> pl.DataFrame:
    """Return the time of a pair for which every candle is known, as traded or as quiet.

    The arguments are those of `read_candles`.

    Returns:
        One row for each range, in order of time: `start`, `end` (datetime[us, UTC], end excluded), `candles` (the
        number of candles that the range has room for).

    Raises:
        InvalidRequest: A name, the interval or a time is wrong, or the pair is unknown.
    """
    with opened(settings or load_settings()) as stores:
        judgement = _judge(stores, pair, _request(interval, start, end, offset, timezone))
    return _ranges(judgement.bars, judgement.bars.whole())


def gaps(
    pair: str,
    interval: int | str,
    start: Moment | None = None,
    end: Moment | None = None,
    *,
    offset: int | str | None = None,
    timezone: str | None = None,
    settings: Settings | None = None,
) -> pl.DataFrame:
    """Return the time of a pair that is expected and not covered, from its first known trade, or `start`, until now.

    The arguments are those of `read_candles`.

    Returns:
        One row for each gap, in order of time: `start`, `end` (datetime[us, UTC], end excluded), `candles` (the number
        of candles that may be missing).

    Raises:
        InvalidRequest: A name, the interval or a time is wrong, or the pair is unknown.
    """
    with opened(settings or load_settings()) as stores:
        judgement = _judge(stores, pair, _request(interval, start, end, offset, timezone))
    return _ranges(judgement.bars, judgement.bars.missing())


def condition(
    pair: str,
    interval: int | str,
    start: Moment | None = None,
    end: Moment | None = None,
    *,
    settings: Settings | None = None,
) -> pl.DataFrame:
    """Return the condition of each day (UTC) of the expected time of a pair.

    The arguments are those of `read_candles`.

    Returns:
        One row for each day, in order: `day` (date); `condition`: complete, degraded (a part is not covered, quiet time
        is under suspicion, or candles of different intervals do not agree), pending (the day is not over), missing
        (nothing is covered); `covered` (the share of the day's expected time that is covered, 0 to 1); `last_change`
        (datetime[us, UTC]): when something was last learnt about the day; null if nothing ever was.

    Raises:
        InvalidRequest: A name, the interval or a time is wrong, or the pair is unknown.
    """
    request = _request(interval, start, end, None, None)
    with opened(settings or load_settings()) as stores:
        judgement = _judge(stores, pair, request)
        with stores.catalog.read() as connection:
            changes = evidence_records.changes_of(connection, judgement.pair, sources_of(request.bars)[0])
    return _days(judgement, changes)


def _request(
    interval: int | str, start: Moment | None, end: Moment | None, offset: int | str | None, timezone: str | None
) -> ReadRequest:
    bars = Bars.parse(interval, offset, timezone)
    return ReadRequest(bars, seconds_of_moment(start), seconds_of_moment(end))


def _judge(stores: Stores, name: str, request: ReadRequest) -> _Judgement:
    pair = named(name, stores)[0]
    now = int(time.time())
    evidence = evidence_of(stores, [pair], with_proof=True)[pair]
    with stores.catalog.read() as connection:
        conflicts = proof_records.contradictions_of(connection, [pair], [ContradictionState.CONFLICT])
    sources = sources_of(request.bars)
    disagreeing = [conflict.span for conflict in conflicts if {conflict.fine, conflict.coarse} & set(sources)]
    window = request.expected(evidence, now)
    bars = judged(request.bars, window or Span(0, 1), evidence, now)
    return _Judgement(pair, window, bars, normalise([*evidence.suspicious, *disagreeing]), now)


def _ranges(bars: Assembly, spans: Spans) -> pl.DataFrame:
    starts = np.array([span.start for span in spans], np.int64)
    ends = np.array([span.end for span in spans], np.int64)
    counts = bars.edges.searchsorted(ends) - bars.edges.searchsorted(starts)
    return pl.DataFrame(
        {"start": _moments(starts), "end": _moments(ends), "candles": pl.Series(counts, dtype=pl.Int64())}
    )


def _days(judgement: _Judgement, changes: list[tuple[Span, int]]) -> pl.DataFrame:
    window = judgement.window
    first = 0 if window is None else window.start // _DAY
    last = 0 if window is None else -(-window.end // _DAY)
    changed = np.zeros(last - first, np.int64)
    for span, moment in changes:
        begin, end = max(span.start // _DAY - first, 0), max(-(-span.end // _DAY) - first, 0)
        changed[begin:end] = np.maximum(changed[begin:end], moment)
    whole, missing = judgement.bars.whole(), judgement.bars.missing()
    conditions, shares = [], []
    for day in range(first, last):
        span = Span(day * _DAY, (day + 1) * _DAY)
        known, unknown = seconds(clip(whole, span)), seconds(clip(missing, span))
        if span.end > judgement.now:
            conditions.append("pending")
        elif not known:
            conditions.append("missing")
        else:
            conditions.append("degraded" if unknown or clip(judgement.doubtful, span) else "complete")
        shares.append(known / (known + unknown) if known else 0.0)
    moments = _moments(changed)
    return pl.DataFrame(
        {
            "day": pl.Series(range(first, last), dtype=pl.Int32()).cast(pl.Date()),
            "condition": pl.Series(conditions, dtype=CONDITION),
            "covered": pl.Series(shares, dtype=pl.Float64()),
            "last_change": moments.zip_with(pl.Series(changed > 0, dtype=pl.Boolean()), pl.Series([None], dtype=TIME)),
        }
    )


def _moments(times: np.typing.NDArray[np.int64]) -> pl.Series:
    return pl.Series(times * 1_000_000, dtype=pl.Int64()).cast(TIME)
