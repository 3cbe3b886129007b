from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.market.candle import TIME, seconds_of, time_from_seconds
from kraken_pipeline.market.continuous import continuous, continuous_candles
from kraken_pipeline.market.pair_history import Rename
from kraken_pipeline_tests.support.samples import at

HOUR = 3_600
DATE = at("2024-09-04")
UNDATED = Rename("MATICUSD", "POLUSD", None, 1.0, "a test")
DATED = replace(UNDATED, moment=DATE)

FAR = 10_000
Hours = Sequence[int]


def candles(hours: Hours, price: float = 2.0) -> pl.DataFrame:
    """Candles that start so many hours after the date."""
    starts = pl.DataFrame({"time": [DATE + hour * HOUR for hour in hours]}, schema={"time": pl.Int64})
    return starts.select(
        time_from_seconds(pl.col("time")),
        *(pl.lit(price).alias(name) for name in ("open", "high", "low", "close", "vwap")),
        *(pl.lit(10.0).alias(name) for name in ("volume", "buy_volume")),
        pl.lit(20.0).alias("quote_volume"),
        pl.lit(3, dtype=pl.Int32).alias("trade_count"),
    )


def rows(joined: pl.DataFrame) -> list[tuple[str, int]]:
    """The name and the hour of each row."""
    table = joined.select("pair", (seconds_of(pl.col("time")) - DATE) // HOUR)
    return [(row[0], row[1]) for row in table.rows()]


def old(*hours: int) -> list[tuple[str, int]]:
    return [("MATICUSD", hour) for hour in hours]


def new(*hours: int) -> list[tuple[str, int]]:
    return [("POLUSD", hour) for hour in hours]


def test_a_rename_with_a_date_is_joined_at_it() -> None:
    joined, seam = continuous(candles([-3, -2, 0, 1]), candles([-1, 0, 2]), DATED)
    assert rows(joined) == old(-3, -2) + new(0, 2)
    assert joined.columns[:2] == ["pair", "time"]
    assert joined.schema["time"] == TIME
    assert (seam.moment, seam.old_last, seam.new_first) == (DATE, DATE - 2 * HOUR, DATE)
    assert (seam.gap, seam.old_left_out, seam.new_left_out) == (2 * HOUR, 2, 1)
    assert seam.overlap == (DATE - HOUR, DATE + HOUR)
    assert seam.sentence() == (
        "MATICUSD became POLUSD, joined by its date: the last candle of MATICUSD is of 2024-09-03T22:00:00Z, the first "
        "one of POLUSD of 2024-09-04T00:00:00Z; both names have candles from 2024-09-03T23:00:00Z to "
        "2024-09-04T01:00:00Z; left out are 2 of MATICUSD and 1 of POLUSD"
    )


def test_a_rename_without_a_date_is_joined_where_the_new_name_begins() -> None:
    joined, seam = continuous(candles([-3, -1]), candles([2, 3]), UNDATED)
    assert rows(joined) == old(-3, -1) + new(2, 3)
    assert (seam.moment, seam.gap, seam.overlap) == (DATE + 2 * HOUR, 3 * HOUR, None)
    assert (seam.old_left_out, seam.new_left_out) == (0, 0)
    assert "joined by the candles, because its date is unknown" in seam.sentence()
    assert "left out" not in seam.sentence()


def test_an_overlap_without_a_date_is_told_and_never_mixed() -> None:
    joined, seam = continuous(candles([-3, 1, 4, 6]), candles([0, 2, 5]), UNDATED)
    assert rows(joined) == old(-3) + new(0, 2, 5)
    assert (seam.overlap, seam.old_left_out, seam.new_left_out) == ((DATE, DATE + 5 * HOUR), 3, 0)


def test_a_ratio_is_applied_to_prices_and_volumes_of_the_old_name_alone() -> None:
    joined, seam = continuous(candles([-1], 3_000.0), candles([0], 1.5), replace(DATED, ratio=2_000.0))
    assert seam.ratio == 2_000
    assert joined["close"].to_list() == [1.5, 1.5]
    assert joined["vwap"].to_list() == [1.5, 1.5]
    assert joined["volume"].to_list() == joined["buy_volume"].to_list() == [20_000.0, 10.0]
    assert joined["quote_volume"].to_list() == [20.0, 20.0], "the quote asset stays what it was"
    assert joined["trade_count"].to_list() == [3, 3]
    assert "prices of MATICUSD are divided by 2000, volumes multiplied" in seam.sentence()


def test_columns_that_are_not_there_are_not_needed() -> None:
    few = ["time", "close"]
    joined, _ = continuous(candles([-1], 3.0).select(few), candles([0], 3.0).select(few), replace(DATED, ratio=2.0))
    assert joined["close"].to_list() == [1.5, 3.0]
    assert joined.columns == ["pair", *few]


@pytest.mark.parametrize("rename", [DATED, UNDATED])
@pytest.mark.parametrize(
    ("before", "after", "told"),
    [([-1], [], "only candles of MATICUSD"), ([], [0], "only candles of POLUSD"), ([], [], "no candle of either")],
)
def test_a_name_without_candles_leaves_those_of_the_other(
    rename: Rename, before: Hours, after: Hours, told: str
) -> None:
    joined, seam = continuous(candles(before), candles(after), rename)
    assert rows(joined) == old(*before) + new(*after)
    assert (seam.gap, seam.overlap) == (None, None)
    assert told in seam.sentence()


def test_several_renames_are_joined_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Rename("AAAUSD", "BBBUSD", None, 1.0, "a test")
    second = Rename("BBBUSD", "CCCUSD", DATE, 2.0, "a test")
    monkeypatch.setattr("kraken_pipeline.market.continuous.predecessors", lambda _: (second, first))
    stored = {"AAAUSD": candles([-9, -8], 8.0), "BBBUSD": candles([-5, -4, 1], 8.0), "CCCUSD": candles([0], 4.0)}
    joined, seams = continuous_candles("CCCUSD", stored.__getitem__)
    assert rows(joined) == [("AAAUSD", -9), ("AAAUSD", -8), ("BBBUSD", -5), ("BBBUSD", -4), ("CCCUSD", 0)]
    assert joined["close"].to_list() == [4.0] * 5
    assert [(seam.rename, seam.old_left_out) for seam in seams] == [(first, 0), (second, 1)]


def test_a_pair_that_was_never_renamed_is_returned_with_its_name_and_no_seam() -> None:
    joined, seams = continuous_candles("ADAUSD", lambda _: candles([0, 1]))
    assert rows(joined) == [("ADAUSD", 0), ("ADAUSD", 1)]
    assert seams == ()


some_hours = st.lists(st.integers(-20, 20), unique=True, max_size=12).map(sorted)


@given(before=some_hours, after=some_hours, dated=st.booleans())
def test_every_candle_is_in_the_series_or_counted_as_left_out(before: list[int], after: list[int], dated: bool) -> None:
    joined, seam = continuous(candles(before), candles(after), DATED if dated else UNDATED)
    cut = 0 if dated else min(after, default=FAR)
    assert rows(joined) == old(*(hour for hour in before if hour < cut)) + new(*(hour for hour in after if hour >= cut))
    assert joined.height + seam.old_left_out + seam.new_left_out == len(before) + len(after)
    assert joined["time"].is_sorted()
    assert joined["time"].is_unique().all()
    common = [hour for hour in range(-20, 21) if before and after and before[0] <= hour <= before[-1]]
    common = [hour for hour in common if after[0] <= hour <= after[-1]]
    assert seam.overlap == ((DATE + common[0] * HOUR, DATE + common[-1] * HOUR) if common else None)
