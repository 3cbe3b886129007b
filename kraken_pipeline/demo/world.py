"""Trades generated from a seed, and the true candles computed from them, which everything else is compared with.

A day of a pair depends only on the seed, the pair and the day. So any span can be generated at any time, in any order,
by several processes, and a server's clock may run without end. Prices are whole ticks and volumes whole lots (1e-8 of
the base asset) until the final conversion, so that no sum is ever rounded.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kraken_pipeline.demo.listing import DAY, LOT_DECIMALS, Listing
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import CANDLE_SCHEMA, time_from_seconds
from kraken_pipeline.market.interval import Interval

SECOND_NS = 1_000_000_000
DAY_NS = DAY * SECOND_NS
_MILLISECOND_NS = 1_000_000
_LOTS_PER_UNIT = 10**LOT_DECIMALS
# A day takes about 25 kB; a year of the five demo markets has 1,825 of them.
_DAYS_KEPT = 2_048
# The days that are folded at once if a long span is requested.
_CHUNK_DAYS = 60

# The shape of a day. In Kraken's XBTUSDT, 41 % of neighbouring trades share their time (recording of 2025-11-11).
_SAME_INSTANT = 0.4
_SAME_TRADE = 0.15
_BURST_CHANCE = 0.05
_ROUND_VOLUME = 0.12
_DAILY_MOVE = 0.025
_INTRADAY_MOVE = 0.02
_WEEKEND = 0.25

# One random stream per purpose, so that drawing more numbers from one never changes another.
_COUNTS, _LEVELS, _HOURS, _TRADES = range(4)


@dataclass(frozen=True, slots=True)
class Burst:
    """Many trades at one nanosecond, in addition to those from the seed. A burst can stall paging.

    Attributes:
        pair: The market's altname.
        time: The instant, in nanoseconds since the epoch.
        trades: The number of trades.
    """

    pair: str
    time: int
    trades: int


@dataclass(frozen=True, slots=True)
class Outage:
    """A span without a trade in any market, as the exchange was down: `[start, end)` in seconds since the epoch."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Course:
    """A market's days since its first trade.

    Day `i` has `counts[i]` trades, numbered from `first_ids[i]` on. The price moves from `exp(levels[i])` to
    `exp(levels[i + 1])`.
    """

    counts: NDArray[np.int64]
    first_ids: NDArray[np.int64]
    levels: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Day:
    """The trades of a day, in order: time in ns since the epoch, ticks, lots, whether sold, whether at market."""

    time: NDArray[np.int64]
    ticks: NDArray[np.int64]
    lots: NDArray[np.int64]
    sold: NDArray[np.bool_]
    at_market: NDArray[np.bool_]


class World:
    """Some markets, with all their past and future trades.

    Attributes:
        listings: The markets by altname.
        now: The present, in seconds since the epoch: archives end at it, and a server's clock stands at it. Later
            trades can be requested; they are the future.
        start: The time of the first trade in any market, in seconds since the epoch.
    """

    def __init__(
        self,
        seed: int,
        listings: Sequence[Listing],
        now: int,
        *,
        bursts: Sequence[Burst] = (),
        outages: Sequence[Outage] = (),
        skips_ids: Mapping[str, int] | None = None,
        lacks: Mapping[str, Collection[int]] | None = None,
    ) -> None:
        """Create a world; no trade is generated yet.

        Args:
            seed: The seed of all random numbers.
            listings: The markets.
            now: The present, in seconds since the epoch.
            bursts: Instants with many trades.
            outages: Spans without trades.
            skips_ids: Pairs whose ids are not dense, each with the number of trades after which one id is left out.
            lacks: Pair → the places of trades (1 for its first) that are hidden. Archives made from such a world lack
                them at all intervals alike. The ids of other trades do not change.

        Raises:
            InvalidRequest: A burst lies outside its market's life.
        """
        self.listings = {listing.name: listing for listing in listings}
        self.now = now
        self.start = min(listing.first_trade for listing in listings)
        self._seed = seed
        self._outages = tuple(outages)
        self._skips_ids = dict(skips_ids or {})
        self._lacks = {pair: sorted(places) for pair, places in (lacks or {}).items()}
        self._bursts: dict[tuple[str, int], list[Burst]] = {}
        for burst in bursts:
            listing = self.listing(burst.pair)
            second = burst.time // SECOND_NS
            if second < listing.first_trade or not listing.is_listed(second):
                raise InvalidRequest(f"{burst} is outside the time in which {burst.pair} trades")
            self._bursts.setdefault((burst.pair, burst.time // DAY_NS), []).append(burst)
        self._day = lru_cache(maxsize=_DAYS_KEPT)(self._make_day)
        self._course = lru_cache(maxsize=None)(self._make_course)

    def listing(self, pair: str) -> Listing:
        """Return the market with an altname.

        Raises:
            InvalidRequest: There is no such market.
        """
        try:
            return self.listings[pair]
        except KeyError:
            known = ", ".join(self.listings)
            raise InvalidRequest(f"{pair!r} is not traded in this world; its pairs are {known}") from None

    def trades(self, pair: str, start_ns: int, end_ns: int) -> pl.DataFrame:
        """Return the trades of a span, in the order of trading.

        Args:
            pair: The altname.
            start_ns: Nanoseconds since the epoch, inclusive.
            end_ns: Nanoseconds since the epoch, exclusive.

        Returns:
            `id` (1 for the pair's first trade, then consecutive, unless the world skips some for the pair), `time`
            (nanoseconds since the epoch), `price` and `volume` (the nearest floats), `side` (b or s), `order_type`
            (m or l), and the exact price and volume: `ticks` (of `pair_decimals`) and `lots` (of 1e-8).
        """
        listing = self.listing(pair)
        trades = self._span(listing, start_ns, end_ns)
        skipped = self._skips_ids.get(pair)
        return trades.select(
            pl.col("id") if skipped is None else pl.col("id") + (pl.col("id") - 1) // skipped,
            "time",
            _divided(trades["ticks"], 10**listing.pair_decimals).alias("price"),
            _divided(trades["lots"], _LOTS_PER_UNIT).alias("volume"),
            pl.when("sold").then(pl.lit("s")).otherwise(pl.lit("b")).alias("side"),
            pl.when("at_market").then(pl.lit("m")).otherwise(pl.lit("l")).alias("order_type"),
            "ticks",
            "lots",
        )

    def candles(self, pair: str, interval: Interval, start: int, end: int) -> pl.DataFrame:
        """Return the true candles whose start lies in `[start, end)`, the oracle for tests.

        Args:
            pair: The altname.
            interval: The length of the candles.
            start: Seconds since the epoch.
            end: Seconds since the epoch. The last candle is whole, even if it extends beyond `end`.

        Returns:
            The columns of `CANDLE_SCHEMA` up to `trade_count`; only candles with a trade. Volume is the
            float nearest to the exact sum.
        """
        listing = self.listing(pair)
        nothing = tally(self._span(listing, 0, 0), interval)
        tallies = pl.concat([nothing, *self.tallies(pair, interval, interval.ceil(start), interval.ceil(end))])
        return tallies.select(
            time_from_seconds(pl.col("time")).alias("time"),
            *(_divided(tallies[name], 10**listing.pair_decimals) for name in ("open", "high", "low", "close")),
            # Unlike a trade's, a candle's lots may exceed what a float holds exactly; Python divides integers of any
            # size with one rounding.
            pl.Series("volume", [lots / _LOTS_PER_UNIT for lots in tallies["lots"].to_list()], pl.Float64),
            pl.col("trade_count").cast(CANDLE_SCHEMA["trade_count"]),
        )

    def tallies(self, pair: str, interval: Interval, start: int, end: int) -> Iterator[pl.DataFrame]:
        """Yield the trades of `[start, end)` (seconds since the epoch) as exact candles, in frames of about two months.

        A candle that `start` or `end` cuts holds only the trades within the range. The columns are those of `tally`.
        """
        listing = self.listing(pair)
        step = interval.ceil(_CHUNK_DAYS * DAY)
        at = max(start, interval.floor(listing.first_trade))
        while at < end:
            until = min(interval.floor(at) + step, end)
            yield tally(self._span(listing, at * SECOND_NS, until * SECOND_NS), interval)
            at = until

    def last_price(self, pair: str, before_ns: int) -> int | None:
        """Return the price in ticks of the last trade before an instant (ns since the epoch); None if there is none."""
        listing = self.listing(pair)
        for day in range((before_ns - 1) // DAY_NS, listing.first_trade // DAY - 1, -1):
            found = self._span(listing, day * DAY_NS, min((day + 1) * DAY_NS, before_ns))["ticks"]
            if len(found):
                return int(found[-1])
        return None

    def _span(self, listing: Listing, start_ns: int, end_ns: int) -> pl.DataFrame:
        first = max(start_ns // DAY_NS, listing.first_trade // DAY)
        last = (end_ns - 1) // DAY_NS
        if listing.delisted is not None:
            last = min(last, (listing.delisted - 1) // DAY)
        days = [self._day(listing.name, day) for day in range(first, last + 1)]
        if not days:
            days = [_NO_TRADES]
        time = np.concatenate([day.time for day in days])
        low, high = np.searchsorted(time, [start_ns, end_ns])
        first_id = self._first_id(listing, first) if last >= first else 0
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(day, name) for day in days])[low:high]
            for name in ("ticks", "lots", "sold", "at_market")
        }
        trades = pl.DataFrame({"id": np.arange(first_id + low, first_id + high), "time": time[low:high], **columns})
        lacking = self._lacks.get(listing.name)
        return trades if not lacking else trades.filter(~pl.col("id").is_in(lacking))

    def _first_id(self, listing: Listing, day: int) -> int:
        index = day - listing.first_trade // DAY
        return int(self._course_to(listing, index).first_ids[index])

    def _random(self, listing: Listing, purpose: int, day: int = 0) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(listing.name.encode()), purpose, day])

    def _course_to(self, listing: Listing, index: int) -> _Course:
        # Lengths are powers of two, so that few courses are made as time passes; each begins like the shorter ones.
        return self._course(listing.name, 1 << max(9, (index + 1).bit_length()))

    def _make_course(self, pair: str, days: int) -> _Course:
        listing = self.listing(pair)
        first = listing.first_trade // DAY
        day = first + np.arange(days)
        rate = listing.trades_per_day * np.exp(self._random(listing, _COUNTS).normal(0, 0.25, days))
        if listing.tokenized:
            rate[np.isin((day + 3) % 7, (5, 6))] *= _WEEKEND  # day 0 was a Thursday, so Monday is 0 here
        for special in self._special_days(listing):
            if first <= special < first + days:
                rate[special - first] *= self._activity(listing, special)[1][-1]
        counts = np.floor(rate).astype(np.int64)
        counts[0] = max(1, counts[0])
        if listing.delisted is not None:
            counts[day * DAY >= listing.delisted] = 0
        for (name, at), bursts in self._bursts.items():
            if name == pair and at < first + days:
                counts[at - first] += sum(burst.trades for burst in bursts)
        moves = self._random(listing, _LEVELS).normal(0, _DAILY_MOVE, days)
        levels = np.log(listing.price) + np.concatenate([[0.0], np.cumsum(moves)])
        return _Course(counts, np.concatenate([[1], 1 + np.cumsum(counts)[:-1]]), levels)

    def _special_days(self, listing: Listing) -> set[int]:
        """Return the days on which trading is impossible for some of the time, apart from the nights."""
        days = {listing.first_trade // DAY}
        if listing.delisted is not None:
            days.add(listing.delisted // DAY)
        for outage in self._outages:
            days.update(range(outage.start // DAY, (outage.end - 1) // DAY + 1))
        return days

    def _activity(self, listing: Listing, day: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the spread of a day's trades: instants (ns since the epoch), and the share of a usual day before each.

        A usual day is one without an outage, and neither the first nor the last of its market.
        """
        hours = np.arange(24)
        shape = 1 + 0.6 * np.sin((hours - 9) * np.pi / 12)  # busiest in the afternoon (UTC), as New York opens
        shape *= np.exp(self._random(listing, _HOURS, day).normal(0, 0.5, 24))
        shape[(hours >= listing.night[0]) & (hours < listing.night[1])] = 0
        closed = [Outage(0, listing.first_trade), *self._outages]
        if listing.delisted is not None:
            closed.append(Outage(listing.delisted, (day + 2) * DAY))
        start, end = day * DAY, (day + 1) * DAY
        bounds = [bound for span in closed for bound in (span.start, span.end) if start < bound < end]
        knots = np.unique([*(start + np.arange(25) * 3_600), *bounds])
        mass = shape[(knots[:-1] - start) // 3_600] / shape.sum() * np.diff(knots) / 3_600
        for span in closed:
            mass[(knots[:-1] >= span.start) & (knots[:-1] < span.end)] = 0
        return knots * SECOND_NS, np.concatenate([[0.0], np.cumsum(mass)])

    def _make_day(self, pair: str, day: int) -> _Day:
        listing = self.listing(pair)
        index = day - listing.first_trade // DAY
        course = self._course_to(listing, index)
        count = int(course.counts[index])
        if count == 0:
            return _NO_TRADES
        random = self._random(listing, _TRADES, day)
        time = self._times(listing, day, count, random)
        leads = np.concatenate([[True], time[1:] != time[:-1]])
        order = _leader(leads)
        # A taker's order that matches several makers' makes several trades at one time; some of these are equal.
        leader = _leader(leads | (random.random(count) >= _SAME_TRADE))
        return _Day(
            time=time,
            ticks=_ticks(listing, course.levels[index : index + 2], count, random)[leader],
            lots=_lots(listing, count, random)[leader],
            sold=(random.random(count) < 0.5)[order],
            at_market=(random.random(count) < 0.3)[order],
        )

    def _times(self, listing: Listing, day: int, count: int, random: np.random.Generator) -> NDArray[np.int64]:
        bursts = self._bursts.get((listing.name, day), [])
        planted = [np.full(burst.trades, burst.time, np.int64) for burst in bursts]
        free = count - sum(burst.trades for burst in bursts)
        instants, share = self._activity(listing, day)
        # The offset within the day is small enough for a float to hold it to the nanosecond.
        offset = np.interp(random.random(free) * share[-1], share, (instants - instants[0]).astype(np.float64))
        time = np.sort(offset.astype(np.int64)) + day * DAY_NS
        if day == listing.first_trade // DAY:
            time[:1] = listing.first_trade * SECOND_NS
        if free:
            leads = random.random(free) >= _SAME_INSTANT
            leads[0] = True
            time = time[_leader(leads)]
        if free > 100 and random.random() < _BURST_CHANCE:
            first = int(random.integers(1, free // 2))
            burst = slice(first, first + free // 10)
            within = random.integers(0, _MILLISECOND_NS, free // 10)
            time[burst] = time[first] // _MILLISECOND_NS * _MILLISECOND_NS + within
        return np.sort(np.concatenate([time, *planted]))


_NO_TRADES = _Day(
    np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.bool_), np.empty(0, np.bool_)
)


def _divided(units: pl.Series, per_whole: int) -> pl.Series:
    """Return whole units as the nearest floats; Polars multiplies by the reciprocal, which can give another float."""
    return pl.Series(units.name, units.to_numpy() / per_whole)


def _leader(leads: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each place the last place up to it that is a leader."""
    return np.maximum.accumulate(np.where(leads, np.arange(len(leads)), 0))


def _ticks(listing: Listing, levels: NDArray[np.float64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return a random walk of prices in ticks that starts at one level and ends at the next."""
    way = np.arange(1, count + 1) / count
    walk = np.cumsum(random.standard_normal(count)) * _INTRADAY_MOVE / np.sqrt(count)
    level = levels[0] + (levels[1] - levels[0]) * way + walk - walk[-1] * way
    ticks: NDArray[np.float64] = np.rint(np.exp(level) * 10**listing.pair_decimals)
    return np.maximum(1, ticks).astype(np.int64)


def _lots(listing: Listing, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return volumes of all sizes; some are round numbers, as people type them."""
    lots: NDArray[np.float64] = np.exp(random.normal(0, 1.3, count)) * listing.volume * _LOTS_PER_UNIT
    unit = 10.0 ** np.floor(np.log10(lots))
    lots = np.where(random.random(count) < _ROUND_VOLUME, np.rint(lots / unit) * unit, lots)
    return np.maximum(1, np.rint(lots)).astype(np.int64)


def tally(trades: pl.DataFrame, interval: Interval) -> pl.DataFrame:
    """Fold trades to candles, exactly.

    Args:
        trades: Columns `time` (ns since the epoch), `ticks` and `lots`, in the order of trading.
        interval: The length of a candle.

    Returns:
        `time` (the start, seconds since the epoch), `open`, `high`, `low`, `close` (ticks), `lots`, `value` (the sum
        of ticks times lots) and `trade_count`, sorted by time; only candles with a trade.
    """
    seconds = interval.seconds
    return trades.group_by((pl.col("time") // (seconds * SECOND_NS) * seconds).alias("time"), maintain_order=True).agg(
        pl.col("ticks").first().alias("open"),
        pl.col("ticks").max().alias("high"),
        pl.col("ticks").min().alias("low"),
        pl.col("ticks").last().alias("close"),
        pl.col("lots").sum(),
        # A busy fortnight of bitcoin would overflow 64 bits.
        (pl.col("ticks").cast(pl.Int128) * pl.col("lots")).sum().alias("value"),
        pl.len().cast(pl.Int64).alias("trade_count"),
    )
