from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import kraken_pipeline
from kraken_pipeline import read_candles
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import TIME
from kraken_pipeline.market.moment import as_datetime
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reading.export import write
from kraken_pipeline.workflow.releases.create import create_release
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import (
    CUT,
    NOW,
    Q1,
    Q3,
    START,
    Shelf,
    covered,
    oracle,
    run,
    settings_of,
    values,
    write_lines,
)
from kraken_pipeline_tests.support.samples import csv_row

pytestmark = pytest.mark.slow

HOUR = 3_600


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Settings:
    """A home with the first and the third quarter, only to read."""
    settings = settings_of(tmp_path_factory.mktemp("read"))
    with opened(settings) as stores:
        run(stores, shelf.q1, shelf.q3, resampling=False)
    return settings


def read(settings: Settings, pair: str = "XBTUSD", interval: int | str = 60, **options: Any) -> pl.DataFrame:
    return read_candles(pair, interval, settings=settings, **options)


def times(candles: pl.DataFrame) -> list[int]:
    return [int(row[0]) for row in values(candles)]


def test_a_notebook_gets_what_was_traded(settings: Settings) -> None:
    candles = read(settings)
    assert candles.schema == {
        "time": TIME,
        **dict.fromkeys(("open", "high", "low", "close", "volume"), pl.Float64()),
        "trade_count": pl.Int32(),
        "source": candles.schema["source"],
        **dict.fromkeys(("vwap", "quote_volume", "buy_volume"), pl.Float64()),
    }
    assert values(candles) == [*oracle("XBTUSD", 60, START, Q1.end), *oracle("XBTUSD", 60, Q3.start, CUT)]
    assert set(candles["source"]) == {"CSV"}


def test_it_is_pandas_in_one_call(settings: Settings) -> None:
    frame = read(settings).to_pandas()
    assert str(frame["time"].dt.tz) == "UTC"
    assert len(frame) == read(settings).height


def test_a_pair_may_be_named_as_people_name_it(settings: Settings) -> None:
    assert read(settings, "BTC/USD").equals(read(settings, "XXBTZUSD"))
    assert read(settings, "XBT/USD").height > 0


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2023-03-27", "2023-03-28T06:00"),
        (datetime(2023, 3, 27, tzinfo=UTC), datetime(2023, 3, 28, 6)),  # noqa: DTZ001 - naive ones are UTC
        (START + DAY, START + 2 * DAY + 6 * HOUR),
        ("2023-03-27T00:00:00Z", "2023-03-28T08:00:00+02:00"),
    ],
)
def test_a_window_is_half_open_however_it_is_written(settings: Settings, start: Any, end: Any) -> None:
    candles = read(settings, start=start, end=end)
    assert values(candles) == oracle("XBTUSD", 60, START + DAY, START + 2 * DAY + 6 * HOUR)


def test_the_settings_of_the_environment_say_where_to_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KRAKEN_PIPELINE_HOME", str(settings.home))
    assert read_candles("XBTUSD", 1440).equals(read(settings, interval=1440))


def test_nothing_stored_is_an_empty_frame_and_a_wrong_name_an_error(settings: Settings) -> None:
    with pytest.raises(InvalidRequest, match="ETHUSD is unknown: neither the lake nor the exchange's list has it"):
        read(settings, "ETHUSD")
    with pytest.raises(InvalidRequest, match=r"XBTUSDT is unknown.*; similar names are XBTUSD"):
        read(settings, "XBTUSDT")
    with pytest.raises(InvalidRequest, match="interval 0 is not between a minute and 366 days"):
        read(settings, interval=0)
    with pytest.raises(InvalidRequest, match="is not the name of a pair"):
        read(settings, "?")
    with pytest.raises(InvalidRequest, match="end must be later than start"):
        read(settings, start="2023-04-01", end="2023-04-01")
    with pytest.raises(InvalidRequest, match="'yesterday' is not a time"):
        read(settings, start="yesterday")
    with pytest.raises(AttributeError, match="has no attribute 'write_candles'"):
        _ = kraken_pipeline.write_candles


# --- quiet time


def test_quiet_time_is_filled_where_coverage_proves_it_and_nowhere_else(settings: Settings) -> None:
    filled = read(settings, "ADAEUR", fill_quiet=True)
    with opened(settings) as stores:
        proven = covered(stores, "ADAEUR", 60)
    first = times(read(settings, "ADAEUR"))[0]
    slots = [at for span in proven for at in range(span.start, span.end, HOUR) if at >= first]
    assert times(filled) == slots
    assert Span(Q1.end, Q3.start) not in proven
    quiet = filled.filter(pl.col("trade_count") == 0)
    # Nobody trades ADAEUR from two to four at night.
    assert {2, 3} <= {at // HOUR % 24 for at in times(quiet)}
    assert quiet["source"].null_count() == quiet.height > 20
    assert quiet["volume"].sum() == 0
    close = 0.0
    for row in filled.iter_rows(named=True):
        if row["trade_count"] == 0:
            assert [row[name] for name in ("open", "high", "low", "close")] == [close] * 4
        close = row["close"]
    assert filled.filter(pl.col("trade_count") > 0).equals(read(settings, "ADAEUR"))


def test_quiet_time_at_the_start_of_a_window_takes_the_close_from_before_it(settings: Settings) -> None:
    night = START + 3 * DAY + 2 * HOUR
    whole = read(settings, "ADAEUR", fill_quiet=True)
    part = read(settings, "ADAEUR", fill_quiet=True, start=night, end=night + 2 * HOUR)
    assert times(part) == [night, night + HOUR]
    assert part.equals(whole.filter(pl.col("time").is_in(part["time"].implode())))
    assert set(part["trade_count"]) == {0}


def test_a_window_that_begins_within_a_candle_is_filled_on_the_grid(settings: Settings) -> None:
    whole = read(settings, "ADAEUR", fill_quiet=True, start=START + DAY + HOUR, end=START + 2 * DAY)
    part = read(settings, "ADAEUR", fill_quiet=True, start=START + DAY + 1_800, end=START + 2 * DAY - 1_800)
    assert part.equals(whole)


def test_the_last_row_of_a_loose_file_is_there_and_does_not_make_time_quiet(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home")
    with opened(settings) as stores:
        path = write_lines(tmp_path / "XBTUSD_60.csv", [csv_row(START + n * HOUR).strip() for n in (0, 3)])
        run(stores, path, resampling=False)
    assert times(read(settings, fill_quiet=True)) == [START + n * HOUR for n in range(4)]


# --- any width, several pairs, and what is known


def test_a_width_that_is_not_stored_is_made_of_what_is(settings: Settings) -> None:
    hours = read(settings, start="2023-03-27", end="2023-03-28")
    made = read(settings, interval="3h", start="2023-03-27", end="2023-03-28")
    assert made.height == 8
    assert set(made["source"]) == {"RESAMPLED"}
    for at, count, close in zip(times(made), made["trade_count"], made["close"], strict=True):
        parts = [row for row in values(hours) if at <= row[0] < at + 3 * HOUR]
        assert count == sum(row[6] for row in parts)
        assert close == parts[-1][4]


def test_days_of_a_zone_start_at_its_midnight(settings: Settings) -> None:
    days = read(settings, interval="1d", timezone="Europe/Berlin", start="2023-03-26", end="2023-03-30")
    assert [at // HOUR % 24 for at in times(days)] == [22] * 4


def test_several_pairs_are_one_long_frame_or_a_wide_one(settings: Settings) -> None:
    window: dict[str, Any] = {"start": "2023-03-27", "end": "2023-03-29"}
    long = read_candles(["BTC/USD", "ADAEUR"], "1h", settings=settings, **window)
    assert long.columns[:2] == ["pair", "time"]
    assert list(dict.fromkeys(long["pair"])) == ["XBTUSD", "ADAEUR"]
    assert long.filter(pl.col("pair") == "ADAEUR").drop("pair").equals(read(settings, "ADAEUR", **window))
    wide = read_candles(["XBTUSD", "ADAEUR"], "1h", settings=settings, pivot="close", **window)
    assert wide.columns == ["time", "XBTUSD", "ADAEUR"]
    assert wide["ADAEUR"].drop_nulls().to_list() == read(settings, "ADAEUR", **window)["close"].to_list()
    assert wide["time"].to_list() == sorted(wide["time"].to_list())


def test_columns_are_what_was_asked_for(settings: Settings) -> None:
    assert read(settings, columns=["close", "time"]).columns == ["close", "time"]
    with pytest.raises(InvalidRequest, match="there is no column 'state'; the columns are time, open"):
        read(settings, columns=["state"])
    assert read(settings, columns=["state"], with_state=True, end="2023-03-28").columns == ["state"]
    with pytest.raises(InvalidRequest, match="columns must be named once each"):
        read(settings, columns=["time", "time"])
    with pytest.raises(InvalidRequest, match="columns and pivot exclude each other"):
        read(settings, columns=["time"], pivot="close")
    with pytest.raises(InvalidRequest, match="there is no column 'time'"):
        read(settings, pivot="time")


def test_what_must_be_complete_is_an_error_that_lists_the_gaps(settings: Settings) -> None:
    assert read(settings, start="2023-03-26", end="2023-03-31", require_complete=True).height
    with pytest.raises(
        kraken_pipeline.Incomplete, match=r"not complete: 1 gap \(XBTUSD 2023-04-01 to 2023-07-01\)"
    ) as no:
        read(settings, start="2023-03-26", end="2023-07-02", require_complete=True)
    assert no.value.gaps == (("XBTUSD", Q1.end, Q3.start),)
    assert no.value.suspicious == ()


def test_coverage_gaps_and_the_condition_of_days_are_frames(settings: Settings) -> None:
    window: dict[str, Any] = {"start": "2023-03-26", "end": "2023-07-03", "settings": settings}
    ranges = kraken_pipeline.covered("BTCUSD", "1h", **window)
    assert ranges["start"].dt.epoch("s").to_list() == [START, Q3.start]
    assert ranges["end"].dt.epoch("s").to_list()[0] == Q1.end
    missing = kraken_pipeline.gaps("BTCUSD", "1h", **window)
    assert missing.row(0) == (as_datetime(Q1.end), as_datetime(Q3.start), (Q3.start - Q1.end) // HOUR)
    days = kraken_pipeline.condition("BTCUSD", "1h", **window)
    assert days.height == 99
    conditions = dict(zip(days["day"].dt.to_string(), days["condition"], strict=True))
    assert (conditions["2023-03-27"], conditions["2023-05-01"], conditions["2023-07-01"]) == (
        "complete",
        "missing",
        "complete",
    )
    known = days.filter(pl.col("condition") == "complete")
    assert known["covered"].to_list() == [1.0] * known.height
    assert known["last_change"].null_count() == 0
    assert days.filter(pl.col("condition") == "missing")["last_change"].null_count() > 0


def test_the_day_that_is_not_over_is_pending_and_one_that_is_cut_is_degraded(settings: Settings) -> None:
    days = kraken_pipeline.condition("XBTUSD", "1h", settings=settings)
    assert days["condition"][-1] == "pending"
    cut = days.filter(pl.col("day") == as_datetime(CUT).date())
    assert CUT % DAY
    assert cut["condition"].to_list() == ["degraded"]
    assert cut["covered"].to_list() == [CUT % DAY // HOUR / 24]


def test_a_renamed_pair_is_joined_with_its_former_name_only_on_request(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home")
    with opened(settings) as stores:
        old = write_lines(tmp_path / "MATICUSD_60.csv", [csv_row(START + n * HOUR).strip() for n in range(4)])
        new = write_lines(tmp_path / "POLUSD_60.csv", [csv_row(START + n * HOUR).strip() for n in (3, 4, 5)])
        run(stores, old, new, resampling=False)
    with pytest.warns(UserWarning, match="MATICUSD became POLUSD, joined by the candles, because its date is unknown"):
        joined = read(settings, "POLUSD", continuous=True)
    assert joined.columns == ["pair", *read(settings, "POLUSD").columns]
    assert joined["pair"].to_list() == ["MATICUSD"] * 3 + ["POLUSD"] * 3
    assert times(joined.drop("pair")) == [START + n * HOUR for n in range(6)]
    assert read(settings, "POLUSD").height == 3
    assert read(settings, "POLUSD", continuous=True, columns=["close"], start=START + 4 * HOUR).columns == ["close"]
    with pytest.raises(InvalidRequest, match="continuous reads the candles of one pair"):
        read_candles(["POLUSD"], 60, continuous=True, settings=settings)


# --- a release of a dataset


def test_a_release_is_read_as_the_lake_was_when_it_was_made(tmp_path: Path, shelf: Shelf) -> None:
    settings = settings_of(tmp_path / "home")
    window: dict[str, Any] = {"start": "2023-03-27", "end": "2023-04-03"}
    with opened(settings) as stores:
        run(stores, shelf.q1, resampling=False)
        create_release(stores, "spring", run_spec(pairs=["XBTUSD", "ADAEUR"], intervals=[60]), RunContext("test", NOW))
        before = read(settings, "ADAEUR", **window)
        run(stores, shelf.q3, resampling=False)
    assert read(settings, "ADAEUR").height > before.height
    assert read(settings, "ADAEUR", **window, release="spring").equals(before)
    assert (
        read(settings, "ADAEUR", release=settings.home / "releases" / "spring").height < read(settings, "ADAEUR").height
    )
    made = read(settings, "ADAEUR", "3h", release="spring", with_state=True)
    assert made.columns[-2:] == ["state", "proof"]
    assert {"traded", "quiet"} <= set(made["state"])
    assert times(made)[-1] < Q1.end
    with pytest.raises(InvalidRequest, match="the release spring does not have XBTEUR"):
        read(settings, "XBTEUR", release="spring")
    with pytest.raises(InvalidRequest, match=r"there is no release 'sprung' in .*; similar names are spring"):
        read(settings, release="sprung")
    with pytest.raises(kraken_pipeline.Incomplete):
        read(settings, release="spring", start="2023-01-01", require_complete=True)


# --- lazy reading


def test_a_lazy_frame_reads_what_is_stored(settings: Settings) -> None:
    pairs = ["XBTUSD", "ADAEUR"]
    lazy = kraken_pipeline.scan_candles(pairs, "1h", settings=settings)
    assert lazy.collect().equals(read_candles(pairs, "1h", settings=settings))
    window: dict[str, Any] = {"start": "2023-03-27", "end": "2023-03-29"}
    part = kraken_pipeline.scan_candles(pairs, 60, settings=settings, columns=["time", "close"], **window)
    assert part.collect().equals(read_candles(pairs, 60, settings=settings, columns=["time", "close"], **window))
    with pytest.raises(InvalidRequest, match="interval '2h' does not exist"):
        kraken_pipeline.scan_candles("XBTUSD", "2h", settings=settings)


def test_a_lazy_frame_reads_only_the_files_and_columns_that_are_needed(settings: Settings) -> None:
    lazy = kraken_pipeline.scan_candles(["XBTUSD", "ADAEUR"], "1h", start="2023-03-27", settings=settings)
    plan = lazy.filter(pl.col("pair") == "ADAEUR").select("close").explain()
    assert "pair=ADAEUR" in plan
    assert "PROJECT 2/" in plan or "PROJECT 3/" in plan, plan
    assert "SELECTION" in plan


# --- files for others


def test_an_exported_csv_has_seconds_and_every_value_of_the_lake(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "out" / "xbtusd.csv"
    write(read(settings), path)
    header, *rows = csv.reader(path.read_text().splitlines())
    assert ",".join(header) == "time,open,high,low,close,volume,trade_count,source"
    assert [(int(row[0]), *map(float, row[1:6]), int(row[6])) for row in rows] == values(read(settings))
    assert {row[7] for row in rows} == {"CSV"}


def test_quiet_rows_of_an_exported_csv_have_no_source(settings: Settings, tmp_path: Path) -> None:
    night = START + 3 * DAY + 2 * HOUR
    write(read(settings, "ADAEUR", fill_quiet=True, start=night, end=night + HOUR), tmp_path / "quiet.csv")
    row = (tmp_path / "quiet.csv").read_text().splitlines()[1].split(",")
    assert (row[0], row[5:]) == (str(night), ["0.0", "0", ""])


def test_an_exported_parquet_file_is_what_was_read(settings: Settings, tmp_path: Path) -> None:
    write(read(settings), tmp_path / "xbtusd.parquet")
    assert pl.read_parquet(tmp_path / "xbtusd.parquet").equals(read(settings))


def test_an_export_says_what_it_can_write(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"must end in \.csv, \.parquet or \.feather"):
        write(read(settings), tmp_path / "xbtusd.xlsx")
