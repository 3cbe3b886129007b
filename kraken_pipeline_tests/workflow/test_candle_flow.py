"""The flow of candles through a run: archives of trades, paged trades, OHLC, and what a home with it goes through."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.demo.world import SECOND_NS
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import evidence_records, proof_records, publications, refutations
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.explain.explain import explain
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.proof.prove import prove
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.verify.recovery import recover
from kraken_pipeline.workflow.verify.verification import verify
from kraken_pipeline_tests.support.homes import NOW, Q3, SPRING, Shelf, lake_of, run, settings_of

pytestmark = pytest.mark.slow

MINUTES = Series("XBTUSD", Interval.M1)
TRADED = Span(Q3.start + 3_600, Q3.start + 2 * DAY - 3_600)
"""Whole minutes of the archive of trades."""


def assert_flow_is_true(candles: pl.DataFrame, *, sides: bool) -> None:
    """Compares each candle with the trades of the small world."""
    start, end = (int(candles["time"][place].timestamp()) for place in (0, -1))
    trades = SPRING.trades("XBTUSD", start * SECOND_NS, (end + 60) * SECOND_NS)
    price, lots = pl.col("ticks").cast(pl.Float64) / 10, pl.col("lots").cast(pl.Float64) / 1e8
    true = (
        trades.group_by((pl.col("time") // (60 * SECOND_NS) * 60).alias("time"), maintain_order=True)
        .agg(
            quote_volume=(price * lots).sum(),
            volume=lots.sum(),
            buy_volume=lots.filter(pl.col("side") == "b").sum(),
        )
        .select((pl.col("quote_volume") / pl.col("volume")).alias("vwap"), "quote_volume", "buy_volume")
    )
    assert true.height == candles.height > 100
    for name in FLOW if sides else FLOW[:2]:
        assert candles[name].to_list() == pytest.approx(true[name].to_list(), rel=1e-9, abs=1e-9)
    if not sides:
        assert candles["buy_volume"].null_count() == candles.height


def minutes(stores: Stores, span: Span = TRADED) -> pl.DataFrame:
    return stores.lake.read(MINUTES, span.start, span.end)


@pytest.mark.parametrize("order", [("minutes", "trades"), ("trades", "minutes"), ("both",)], ids="-".join)
def test_minutes_of_an_archive_have_the_flow_of_the_archive_of_trades(
    home: Path, shelf: Shelf, order: tuple[str, ...]
) -> None:
    with opened(settings_of(home)) as stores:
        for number, what in enumerate(order):
            paths = [shelf.minutes, shelf.trades] if what == "both" else [getattr(shelf, what)]
            run(stores, *paths, run_id=f"run-{number}", api_backfill=False, resampling=False)
        assert set(minutes(stores)["source"]) == {"CSV"}
        assert_flow_is_true(minutes(stores), sides=False)
        beyond = stores.lake.read(MINUTES, TRADED.end + DAY)
        assert beyond.height
        assert all(beyond[name].null_count() == beyond.height for name in FLOW)
        if order == ("minutes", "trades"):
            assert stores.lake.replaced(MINUTES).is_empty(), "what is only filled in is no correction"


def test_what_is_only_filled_in_is_published_and_ends_no_proof(home: Path, shelf: Shelf) -> None:
    with opened(settings_of(home)) as stores:
        run(stores, shelf.minutes, api_backfill=False, resampling=False)
        with stores.catalog.write() as connection:
            found = publications.pending(connection, Interval.M1)[MINUTES]
            publications.deliver(connection, [each.id for each in found], NOW)
        done = run(stores, shelf.trades, run_id="run-two", api_backfill=False, resampling=False)
        assert done.candles_stored == 0
        with stores.catalog.read() as connection:
            (pending,) = publications.pending(connection, Interval.M1)[MINUTES]
            confirmed = proof_records.confirmed(connection)[MINUTES]
        assert TRADED.start >= pending.span.start
        assert TRADED.end <= pending.span.end
        assert sum(span.seconds for span in confirmed) > DAY, "trades and candles agree"


def test_resampled_candles_have_the_sums(home: Path, shelf: Shelf) -> None:
    with opened(settings_of(home)) as stores:
        run(stores, shelf.trades, api_backfill=False)
        fine = minutes(stores, Span(Q3.start + 3_600, Q3.start + DAY))
        coarse = stores.lake.read(Series("XBTUSD", Interval.H1), Q3.start + 3_600, Q3.start + DAY)
        assert set(coarse["source"]) == {"RESAMPLED"}
        assert coarse["quote_volume"].sum() == pytest.approx(fine["quote_volume"].sum(), rel=1e-9)
        assert coarse["vwap"].to_list() == pytest.approx(
            (coarse["quote_volume"] / coarse["volume"]).to_list(), rel=1e-11
        )


def test_a_home_with_and_without_a_flow_is_sound_and_can_be_recovered(home: Path, shelf: Shelf) -> None:
    with opened(settings_of(home)) as stores:
        run(stores, shelf.q1, shelf.minutes, shelf.trades, api_backfill=False)
        before = lake_of(stores)
        checked = verify(stores, run_spec(), RunContext("run-verify", NOW))
        assert (checked.damaged, checked.files > 3) == ((), True)
    for path in home.glob("catalog.sqlite*"):
        path.unlink()
    with opened(settings_of(home), is_recovering=True) as stores:
        recover(stores, run_spec(), RunContext("run-recover", NOW))
        assert lake_of(stores) == before


def test_candles_of_an_archive_get_a_flow_where_a_proof_pages_their_trades(tmp_path: Path, shelf: Shelf) -> None:
    with DemoExchange(SPRING) as exchange, opened(settings_of(tmp_path, kraken_api_url=exchange.url)) as stores:
        run(stores, shelf.minutes, api_backfill=False, resampling=False)
        paged = Span(Q3.start + DAY, Q3.start + 2 * DAY)
        times = {MINUTES: stores.lake.times(MINUTES)}
        with stores.catalog.write() as connection:
            refutations.refute(connection, [(MINUTES, paged, None, "ids of trades count others")], NOW)
            evidence_records.renew(connection, times)
        prove(stores, run_spec(pairs="XBTUSD", intervals="1"), RunContext("run-prove", NOW))
        found = minutes(stores, paged)
        assert set(found["source"]) == {"CSV"}
        assert_flow_is_true(found, sides=True)
        before = minutes(stores, Span(Q3.start, Q3.start + DAY))
        assert before["vwap"].null_count() == before.height
        assert stores.lake.replaced(MINUTES).is_empty()


def test_candles_of_an_ohlc_reply_have_the_average_price_alone(tmp_path: Path) -> None:
    with DemoExchange(SPRING) as exchange, opened(settings_of(tmp_path, kraken_api_url=exchange.url)) as stores:
        run(stores, intervals="60", pairs="XBTUSD", lookback_days=3)
        found = stores.lake.read(Series("XBTUSD", Interval.H1))
        told = found.filter(pl.col("source") == "OHLC")
        assert told.height > 20
        assert told["vwap"].null_count() == 0
        assert told["quote_volume"].null_count() == told["buy_volume"].null_count() == told.height
        assert (told["vwap"] * 10 == (told["vwap"] * 10).round()).all(), "cut to the pair's decimals"


def test_an_average_price_that_finer_candles_contradict_is_told_and_refutes_nothing(
    home: Path, shelf: Shelf, tmp_path: Path
) -> None:
    hours = SPRING.candles("XBTUSD", Interval.H1, Q3.start, Q3.start + DAY)
    lines = [
        f"{int(time.timestamp())},{open_},{high},{low},{close},{high},{volume},{count}\n"
        for time, open_, high, low, close, volume, count in hours.iter_rows()
    ]
    path = tmp_path / "XBTUSD_60.csv"
    path.write_text("time,open,high,low,close,vwap,volume,trades\n" + "".join(lines))
    with opened(settings_of(home)) as stores:
        run(stores, path, shelf.trades, api_backfill=False)
        found = explain(stores, "XBTUSD", 60, iso(Q3.start + 12 * 3_600), NOW)
        assert any(sentence.endswith("but not in vwap, which decides nothing") for sentence in found.proof.by)
        assert str(found.proof.state) == "VERIFIED"
        assert not found.contradictions
        assert not found.refutations
