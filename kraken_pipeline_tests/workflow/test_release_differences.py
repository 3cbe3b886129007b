"""What differs in two releases is named candle by candle, with the reason that the home knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.demo.archives import candles_name, write_quarterly_zip
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.market.candle import seconds_of
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.releases.dataset import DatasetRelease, open_release
from kraken_pipeline.workflow.releases.differences import ReleaseDifference, differences
from kraken_pipeline.workflow.withdraw.resolve import resolve
from kraken_pipeline.workflow.withdraw.withdrawal import withdrawal
from kraken_pipeline_tests.support.datasets import released
from kraken_pipeline_tests.support.homes import HOURS_AND_DAYS, NOW, Q1, Q2, SPRING, Shelf, run

pytestmark = pytest.mark.slow

HOUR, DAY = 3_600, 86_400
HOURS = Series("XBTUSD", Interval.H1)
NAME = candles_name(Q2)
COLUMNS = ("open", "high", "low", "close", "volume", "trade_count")


def opened_release(stores: Stores, name: str) -> DatasetRelease:
    released(stores, name, intervals="60,1440")
    return open_release(stores.settings.home / "releases" / name)


def compared(stores: Stores | None, *releases: DatasetRelease, limit: int = 100_000) -> ReleaseDifference:
    return differences(releases[0], releases[1], stores, limit)


def rows(release: DatasetRelease) -> Mapping[tuple[Series, int], tuple[float, ...]]:
    """Every candle of a release."""
    return {
        (series, row[0]): row[1:]
        for series in release.series
        for row in release.read(series).select(seconds_of(pl.col("time")), *COLUMNS).rows()
    }


def test_after_a_quarter_was_released_again_exactly_the_changed_candles_are_listed(
    stores: Stores, tmp_path: Path, shelf: Shelf
) -> None:
    busy = SPRING.candles("XBTUSD", Interval.H1, Q2.start + 12 * DAY, Q2.start + 20 * DAY)
    short, missing = busy.filter(pl.col("trade_count") > 1).select(seconds_of(pl.col("time"))).to_series()[[3, 40]]
    defects = [
        Defect(DefectKind.SHORT_CANDLE, "XBTUSD", Interval.H1, short),
        Defect(DefectKind.FEWER_TRADES, "ADAEUR", Interval.D1, Q2.start + 3 * DAY, until=Q2.start + 5 * DAY),
        Defect(DefectKind.MISSING_CANDLE, "XBTUSD", Interval.H1, missing),
    ]
    bad = write_quarterly_zip(tmp_path / "bad", SPRING, Q2, HOURS_AND_DAYS, defects=defects)
    run(stores, shelf.q1, bad, intervals="60,1440", resampling=False)
    first = opened_release(stores, "first")
    run(stores, shelf.q2, now=NOW + 100, run_id="run-two", intervals="60,1440", resampling=False)
    second = opened_release(stores, "second")

    found = compared(stores, first, second)

    before, after = rows(first), rows(second)
    different = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    assert len(different) == 4
    assert [(candle.series, candle.time) for candle in found.candles] == different
    for candle in found.candles:
        key = candle.series, candle.time
        assert (candle.before and candle.before.values) == before.get(key)
        assert (candle.after and candle.after.values) == after.get(key)
    assert found.count == 4
    counts = {one.series: (one.added, one.removed, one.changed) for one in found.series}
    assert counts[HOURS] == (1, 0, 1)
    assert counts[Series("ADAEUR", Interval.D1)] == (0, 0, 2)

    whys = {(candle.change, candle.series.interval): candle.why for candle in found.candles}
    member = f"{NAME}:XBTUSD_60.csv"
    assert whys["changed", Interval.H1].startswith(f"replaced by {member} ({iso(NOW + 100)}); B has it from CSV (")
    assert whys["added", Interval.H1].startswith("A has quiet time there; B has it from CSV (")
    assert member in whys["added", Interval.H1]
    assert [candle.change for candle in compared(stores, second, first).candles].count("removed") == 1
    limited = compared(stores, first, second, limit=2)
    assert (limited.candles, limited.count, limited.series) == (found.candles[:2], 4, found.series)


def test_withdrawn_candles_and_new_coverage_are_explained(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, intervals="60,1440")
    first = opened_release(stores, "first")
    run(stores, shelf.q2, now=NOW + 1, run_id="run-two", intervals="60,1440")
    second = opened_release(stores, "second")
    grown = compared(stores, first, second)
    day, end = iso(Q1.end + DAY), iso(Q1.end + DAY + 2 * HOUR)
    span = withdrawal(is_span=True, pair="XBTUSD", interval=60, start=day, end=end, reason="a test")
    resolve(stores, span, RunContext("resolve", NOW + 2))
    third = opened_release(stores, "third")

    assert {candle.change for candle in grown.candles} == {"added"}
    whys = {candle.why for candle in grown.candles if candle.series == HOURS}
    assert whys == {f"it lies outside the time of A; B has it from CSV ({NAME}:XBTUSD_60.csv)"}
    hours = next(one for one in grown.series if one.series == HOURS)
    assert hours.spans["covered"] == ((), (Span(Q1.end, Q2.end),))

    shrunk = compared(stores, second, third)
    assert [(candle.series, candle.time, candle.change) for candle in shrunk.candles] == [
        (HOURS, Q1.end + DAY, "removed"),
        (HOURS, Q1.end + DAY + HOUR, "removed"),
    ]
    assert {candle.why for candle in shrunk.candles} == {f"withdrawn: a test ({iso(NOW + 2)})"}
    (covered, _) = next(one for one in shrunk.series if one.series == HOURS).spans["covered"]
    assert covered == (Span(Q1.end + DAY, Q1.end + DAY + 2 * HOUR),)

    back = compared(stores, third, second).candles
    assert {candle.why.partition(" (")[0] for candle in back} == {"A does not cover it; B has it from CSV"}
    unknown = compared(None, second, third).candles
    assert {candle.why for candle in unknown} == {"the ledger of this home has no record of it"}


def test_releases_with_the_same_claims_do_not_differ(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, intervals="60,1440")
    first, second = opened_release(stores, "first"), opened_release(stores, "second")
    found = compared(stores, first, second)
    assert (found.series, found.candles, found.count, found.as_json()["same"]) == ((), (), 0, True)


def test_a_series_that_only_one_release_has_is_named(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, intervals="60,1440")
    whole = opened_release(stores, "whole")
    released(stores, "part", intervals="60", pairs="XBTUSD")
    part = open_release(stores.settings.home / "releases" / "part")
    found = compared(stores, whole, part)
    assert {(one.series, one.only_in) for one in found.series} == {
        (series, "A") for series in whole.series if series != HOURS
    }
    back = compared(stores, part, whole)
    assert {one.only_in for one in back.series} == {"B"}
    assert {(one.added, one.removed) for one in back.series} == {(one.removed, 0) for one in found.series}
    assert (found.candles, found.count) == ((), 0)
    assert sum(one.removed for one in found.series) == sum(whole.read(one.series).height for one in found.series)


def test_candles_outside_of_a_selection_are_explained_by_it(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, intervals="60,1440")
    run(stores, shelf.complete, run_id="run-two", now=NOW + 1, intervals="60,1440")  # the same candles, released later
    whole = opened_release(stores, "whole")
    released(stores, "part", intervals="60,1440", end=iso(Q1.end - DAY))
    part = open_release(stores.settings.home / "releases" / "part")
    assert {candle.why for candle in compared(stores, whole, part).candles} == {"it lies outside the time of B"}
    whys = {candle.why for candle in compared(stores, part, whole).candles}
    assert {why.partition("; ")[0] for why in whys} == {"it lies outside the time of A"}
