from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal, assert_series_equal

from kraken_pipeline.demo.listing import DAY, Listing, demo_listings
from kraken_pipeline.demo.world import DAY_NS, SECOND_NS, Burst, Outage, World
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import CANDLE_SCHEMA, seconds_of
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import INTERVALS, Interval
from kraken_pipeline.market.pair import PairBook, parse_pair
from kraken_pipeline.market.resample import fold_trades, resample
from kraken_pipeline.market.tier import load_tiers

START = 1_735_819_200  # 2025-01-02 12:00 UTC, a Thursday
NOW = START + 40 * DAY
BURST = Burst("ETHUSD", (START + 3 * DAY) * SECOND_NS + 123_456_789, 1_500)
PAIRS = [listing.name for listing in demo_listings(START)]


@pytest.fixture(scope="module")
def world() -> World:
    return World(7, demo_listings(START), NOW, bursts=[BURST])


def all_trades(world: World, pair: str) -> pl.DataFrame:
    return world.trades(pair, START * SECOND_NS, NOW * SECOND_NS)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_world_of_the_same_seed_has_the_same_trades_whatever_is_asked_for_first(world: World, pair: str) -> None:
    other = World(7, demo_listings(START), NOW + 999 * DAY, bursts=[BURST])
    from_behind = [
        other.trades(pair, day * DAY_NS, (day + 1) * DAY_NS) for day in range(NOW // DAY, START // DAY - 1, -1)
    ]
    assert_frame_equal(
        pl.concat(reversed(from_behind)), world.trades(pair, 0, (NOW // DAY + 1) * DAY_NS), check_exact=True
    )


def test_another_seed_gives_other_trades(world: World) -> None:
    other = World(8, demo_listings(START), NOW)
    assert not all_trades(other, "XBTUSD").equals(all_trades(world, "XBTUSD"))


@pytest.mark.parametrize("pair", PAIRS)
def test_ids_count_from_one_and_the_first_trade_is_at_the_listing_time(world: World, pair: str) -> None:
    trades = all_trades(world, pair)
    assert trades["id"].to_list() == list(range(1, trades.height + 1))
    assert trades["time"][0] == world.listing(pair).first_trade * SECOND_NS
    assert trades["time"].is_sorted()


def test_a_span_holds_the_trades_from_its_start_up_to_but_not_at_its_end(world: World) -> None:
    trades = all_trades(world, "XBTUSD")
    start, end = trades["time"][100], trades["time"][5_000]
    inside = trades.filter(pl.col("time").is_between(start, end, closed="left"))
    assert_frame_equal(world.trades("XBTUSD", start, end), inside)


@pytest.mark.parametrize("pair", PAIRS)
def test_prices_and_volumes_are_the_floats_nearest_to_their_decimals(world: World, pair: str) -> None:
    decimals = world.listing(pair).pair_decimals
    for row in all_trades(world, pair).head(2_000).iter_rows(named=True):
        assert row["price"] == float(Decimal(row["ticks"]).scaleb(-decimals))
        assert row["volume"] == float(Decimal(row["lots"]).scaleb(-8))
        assert row["ticks"] > 0
        assert row["lots"] > 0


@pytest.mark.parametrize("pair", PAIRS)
def test_prices_walk_on_from_day_to_day(world: World, pair: str) -> None:
    steps = all_trades(world, pair)["price"].pct_change().abs()
    # 60 trades a day make longer steps than 1,500.
    assert steps.max() < 0.03  # type: ignore[operator]


def test_many_trades_share_their_time_and_some_are_equal_in_everything_but_the_id(world: World) -> None:
    trades = all_trades(world, "XBTUSD")
    together = (trades["time"].diff() == 0).mean()
    assert isinstance(together, float)
    assert 0.3 < together < 0.5
    without_id = trades.drop("id")
    assert without_id.n_unique() < 0.97 * trades.height
    assert set(trades["side"]) == {"b", "s"}
    assert set(trades["order_type"]) == {"m", "l"}


def test_some_milliseconds_are_crowded(world: World) -> None:
    crowded = all_trades(world, "XBTUSD").group_by(pl.col("time") // 1_000_000).len()["len"].max()
    assert isinstance(crowded, int)
    assert crowded > 50


def test_pairs_differ_in_how_much_they_trade_and_hours_in_how_busy_they_are(world: World) -> None:
    heights = [all_trades(world, pair).height for pair in PAIRS]
    assert heights == sorted(heights, reverse=True)
    hours = all_trades(world, "XBTUSD").group_by(pl.col("time") // (3_600 * SECOND_NS) % 24).len().sort("time")
    assert hours["len"].max() > 2 * hours["len"].min()  # type: ignore[operator]


def test_nobody_trades_an_illiquid_pair_at_night(world: World) -> None:
    hours = all_trades(world, "AAPLxUSD")["time"] // (3_600 * SECOND_NS) % 24
    assert set(hours) == {0, *range(8, 24)}


def test_a_planted_burst_is_at_one_nanosecond_and_comes_on_top(world: World) -> None:
    plain = World(7, demo_listings(START), NOW)
    at = world.trades("ETHUSD", BURST.time, BURST.time + 1)
    assert at.height == 1_500
    assert at["id"].to_list() == list(range(at["id"][0], at["id"][0] + 1_500))
    assert all_trades(world, "ETHUSD").height == all_trades(plain, "ETHUSD").height + 1_500
    before = (0, BURST.time // DAY_NS * DAY_NS)
    assert_frame_equal(world.trades("ETHUSD", *before), plain.trades("ETHUSD", *before))


def test_a_burst_outside_the_life_of_its_market_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="outside the time in which ETHUSD trades"):
        World(7, demo_listings(START), NOW, bursts=[Burst("ETHUSD", (START - 1) * SECOND_NS, 10)])


def test_in_an_outage_nobody_trades_anywhere(world: World) -> None:
    outage = Outage(START + 25 * DAY + 1_800, START + 26 * DAY + 11_000)
    down = World(7, demo_listings(START), NOW, outages=[outage])
    for pair in PAIRS:
        assert world.trades(pair, outage.start * SECOND_NS, outage.end * SECOND_NS).height > 0
        assert down.trades(pair, outage.start * SECOND_NS, outage.end * SECOND_NS).is_empty()
        assert down.trades(pair, (outage.end) * SECOND_NS, (outage.end + 9 * 3_600) * SECOND_NS).height > 0


def test_a_delisted_pair_has_no_trade_from_then_on() -> None:
    delisted = START + 5 * DAY + 1_234
    listing = Listing("LUNAUSD", "LUNAUSD", "LUNA/USD", "LUNA", "ZUSD", 4, 80.0, 3.0, 500, START, delisted=delisted)
    world = World(7, [listing], NOW)
    trades = all_trades(world, "LUNAUSD")
    assert (delisted - 3_600) * SECOND_NS < trades["time"][-1] < delisted * SECOND_NS
    assert world.candles("LUNAUSD", Interval.H1, delisted + 3_600, NOW).is_empty()


def test_before_its_first_trade_a_pair_has_none(world: World) -> None:
    first = world.listing("AAPLxUSD").first_trade
    assert world.trades("AAPLxUSD", 0, first * SECOND_NS).is_empty()
    assert world.candles("AAPLxUSD", Interval.D1, 0, first // DAY * DAY).is_empty()
    assert world.last_price("AAPLxUSD", first * SECOND_NS) is None


def test_the_last_price_is_that_of_the_trade_before_even_days_before(world: World) -> None:
    trades = all_trades(world, "AAPLxUSD")
    monday_morning = (START // DAY + 32) * DAY + 7 * 3_600
    before = trades.filter(pl.col("time") < monday_morning * SECOND_NS)
    assert world.last_price("AAPLxUSD", monday_morning * SECOND_NS) == before["ticks"][-1]
    assert world.last_price("AAPLxUSD", trades["time"][1]) == trades["ticks"][0]


def test_an_unknown_pair_is_refused_with_those_there_are(world: World) -> None:
    with pytest.raises(InvalidRequest, match="'XBTEUR' is not traded in this world; its pairs are XBTUSD"):
        world.trades("XBTEUR", 0, 1)


def fold(trades: Iterable[dict[str, Any]], interval: Interval, decimals: int) -> list[tuple[Any, ...]]:
    """Candles as one makes them by hand: (start, open, high, low, close, volume, count)."""
    candles: dict[int, list[Any]] = {}
    for trade in trades:
        start = interval.floor(trade["time"] // SECOND_NS)
        price, volume = Decimal(trade["ticks"]).scaleb(-decimals), Decimal(trade["lots"]).scaleb(-8)
        if start in candles:
            candle = candles[start]
            candle[1:] = [
                max(candle[1], price),
                min(candle[2], price),
                price,
                candle[4] + volume,
                candle[5] + 1,
            ]
        else:
            candles[start] = [price, price, price, price, volume, 1]
    return [(start, *map(float, values[:5]), values[5]) for start, values in candles.items()]


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("pair", ["ETHUSD", "AAPLxUSD"])
def test_the_oracle_equals_a_fold_by_hand(world: World, pair: str, interval: Interval) -> None:
    start, end = interval.floor(START + 2 * DAY), interval.floor(START + 26 * DAY)
    whole = interval.ceil(end)
    trades = world.trades(pair, start * SECOND_NS, whole * SECOND_NS).iter_rows(named=True)
    candles = world.candles(pair, interval, start, end).with_columns(seconds_of(pl.col("time")))
    assert candles.rows() == fold(trades, interval, world.listing(pair).pair_decimals)


def test_the_oracle_has_the_columns_of_a_candle_also_where_there_is_none(world: World) -> None:
    schema = [(name, dtype) for name, dtype in CANDLE_SCHEMA.items() if name not in ("source", "release", *FLOW)]
    some, none = (world.candles("XBTUSD", Interval.H1, *span) for span in ((START, NOW), (START, START)))
    assert list(some.schema.items()) == list(none.schema.items()) == schema


@pytest.mark.parametrize("pair", PAIRS)
def test_what_the_project_folds_and_resamples_equals_the_oracle(world: World, pair: str) -> None:
    trades = all_trades(world, pair).with_columns((pl.col("time") // 1_000).cast(CANDLE_SCHEMA["time"]))
    minutes = pl.concat(fold_trades(trades.iter_slices(1_000)))
    end = NOW // DAY * DAY
    assert_frame_equal(
        minutes.filter(seconds_of(pl.col("time")) < end).drop(FLOW),
        world.candles(pair, Interval.M1, START, end),
        check_exact=True,
    )
    for interval in INTERVALS:
        end = interval.floor(NOW)
        resampled = resample(minutes, interval).filter(seconds_of(pl.col("time")) < end)
        assert_frame_equal(resampled.drop(FLOW), world.candles(pair, interval, 0, end), check_exact=True)
        unit = 10.0 ** (world.listing(pair).pair_decimals + 8)
        paid = pl.concat(world.tallies(pair, interval, 0, end))["value"].cast(pl.Float64) / unit
        assert_series_equal(resampled["quote_volume"], paid.alias("quote_volume"), rel_tol=1e-11, abs_tol=0.0)
        average = paid / resampled["volume"]
        assert_series_equal(resampled["vwap"], average.alias("vwap"), rel_tol=1e-11, abs_tol=0.0)


def test_a_span_of_candles_is_half_open_and_its_last_candle_whole(world: World) -> None:
    all_of_them = world.candles("XBTUSD", Interval.D1, START, NOW)
    times = all_of_them.select(seconds_of(pl.col("time")))["time"].to_list()
    assert times == list(range(Interval.D1.ceil(START), NOW, DAY))
    assert_frame_equal(world.candles("XBTUSD", Interval.D1, times[3], times[5] - 1), all_of_them[3:5])


def test_the_five_pairs_are_in_more_than_one_tier_and_resolve_by_all_their_names() -> None:
    listings = demo_listings(START)
    book = PairBook({listing.key: listing.asset_pair() for listing in listings})
    tiers = load_tiers()
    assert len({tiers.tier_of(book.resolve(listing.name)) for listing in listings}) == 2
    for listing in listings:
        assert {book.resolve(name).name for name in (listing.name, listing.key, listing.wsname)} == {listing.name}
        assert parse_pair(listing.name).name == listing.name


def test_a_world_may_skip_ids_and_may_keep_trades_to_itself() -> None:
    span = "XBTUSD", START * SECOND_NS, (START + 2 * DAY) * SECOND_NS
    whole = World(7, demo_listings(START), NOW).trades(*span)
    sparse = World(7, demo_listings(START), NOW, skips_ids={"XBTUSD": 10}).trades(*span)
    assert_frame_equal(sparse.drop("id"), whole.drop("id"))
    assert sparse["id"].to_list()[8:13] == [9, 10, 12, 13, 14]
    lacking = World(7, demo_listings(START), NOW, lacks={"XBTUSD": [5, 7]})
    assert lacking.trades(*span)["id"].to_list()[:6] == [1, 2, 3, 4, 6, 8]
    for interval in (Interval.M1, Interval.M5):
        candles = lacking.candles("XBTUSD", interval, interval.floor(START), START + 2 * DAY)
        assert candles["trade_count"].sum() == whole.height - 2
