from __future__ import annotations

import zipfile
from pathlib import Path

import polars as pl
import pytest

from kraken_pipeline.demo.archives import candles_name, write_complete_zip, write_csv, write_quarterly_zip
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.listing import DAY, demo_listings
from kraken_pipeline.demo.world import SECOND_NS, World
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import broken_rules, seconds_of
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.quarter import Quarter

QUARTER = Quarter(2025, 1)
START = QUARTER.end - 20 * DAY
NOW = QUARTER.end + DAY
TIME = QUARTER.end - 10 * DAY
PAIR = "XBTUSD"


@pytest.fixture(scope="module")
def world() -> World:
    return World(5, demo_listings(START), NOW)


def lines_with(
    tmp_path: Path, world: World, *defects: Defect, interval: Interval = Interval.D1, pair: str = PAIR
) -> list[list[str]]:
    """The fields of a loose file with these defects."""
    path = write_csv(tmp_path, world, pair, interval, start=START, end=QUARTER.end, defects=defects)
    return [line.split(",") for line in path.read_text().splitlines()]


def without(lines: list[list[str]], time: int) -> list[list[str]]:
    return [line for line in lines if line[0] != str(time)]


def at(lines: list[list[str]], time: int) -> list[str]:
    (line,) = (line for line in lines if line[0] == str(time))
    return line


@pytest.mark.parametrize("interval", [Interval.H12, Interval.D1])
def test_a_missing_candle_is_the_only_thing_that_is_missing(tmp_path: Path, world: World, interval: Interval) -> None:
    right = lines_with(tmp_path, world, interval=interval)
    wrong = lines_with(tmp_path, world, Defect(DefectKind.MISSING_CANDLE, PAIR, interval, TIME), interval=interval)
    assert wrong == without(right, TIME) != right


def test_a_span_of_candles_can_be_missing(tmp_path: Path, world: World) -> None:
    hole = Defect(DefectKind.MISSING_CANDLE, PAIR, Interval.D1, TIME, until=TIME + 3 * DAY)
    assert len(lines_with(tmp_path, world, hole)) == len(lines_with(tmp_path, world)) - 3


def test_a_short_candle_holds_the_first_half_of_its_trades(tmp_path: Path, world: World) -> None:
    last_day = QUARTER.end - DAY
    right = lines_with(tmp_path, world)
    wrong = lines_with(tmp_path, world, Defect(DefectKind.SHORT_CANDLE, PAIR, Interval.D1, last_day))
    trades = world.trades(PAIR, last_day * SECOND_NS, QUARTER.end * SECOND_NS)
    half = trades.head(trades.height // 2)
    assert wrong[:-1] == right[:-1]
    assert wrong[-1][1] == right[-1][1]
    assert float(wrong[-1][4]) == half["price"][-1]
    assert float(wrong[-1][5]) == half["lots"].sum() / 10**8
    assert int(wrong[-1][6]) == half.height < int(right[-1][6])


def test_releases_can_disagree_on_volume_and_count_but_not_on_prices(tmp_path: Path, world: World) -> None:
    fewer = Defect(DefectKind.FEWER_TRADES, PAIR, Interval.D1, release=candles_name(QUARTER))
    quarterly = write_quarterly_zip(tmp_path, world, QUARTER, [Interval.D1], pairs=[PAIR], defects=[fewer])
    complete = write_complete_zip(tmp_path, world, NOW, [Interval.D1], pairs=[PAIR], defects=[fewer])
    with zipfile.ZipFile(quarterly) as one, zipfile.ZipFile(complete) as other:
        wrong = [line.split(",") for line in one.read(f"{PAIR}_1440.csv").decode().splitlines()]
        right = [line.split(",") for line in other.read(f"master_q4/{PAIR}_1440.csv").decode().splitlines()]
    assert right[: len(wrong)] == lines_with(tmp_path, world)
    for less, whole in zip(wrong, right, strict=False):
        assert less[:5] == whole[:5]
        assert 0.995 * float(whole[5]) < float(less[5]) < float(whole[5])
        assert 0.99 * int(whole[6]) < int(less[6]) < int(whole[6])


def test_a_repeated_time_has_the_short_row_second(tmp_path: Path, world: World) -> None:
    right = lines_with(tmp_path, world)
    wrong = lines_with(tmp_path, world, Defect(DefectKind.REPEATED_TIME, PAIR, Interval.D1, TIME))
    place = right.index(at(right, TIME))
    assert wrong[: place + 1] + wrong[place + 2 :] == right
    assert wrong[place + 1][0] == str(TIME)
    assert int(wrong[place + 1][6]) == int(right[place][6]) // 2


def test_a_spike_keeps_the_rules_for_rows_but_is_ten_times_the_price(tmp_path: Path, world: World) -> None:
    right = at(lines_with(tmp_path, world), TIME)
    wrong = at(lines_with(tmp_path, world, Defect(DefectKind.SPIKE, PAIR, Interval.D1, TIME)), TIME)
    assert float(wrong[2]) == pytest.approx(10 * float(right[2]))
    assert wrong[:2] + wrong[3:] == right[:2] + right[3:]


def test_a_shifted_file_tells_everything_some_hours_late(tmp_path: Path, world: World) -> None:
    right = lines_with(tmp_path, world, interval=Interval.H1)
    shifted = Defect(DefectKind.SHIFTED, PAIR, Interval.H1, hours=3)
    wrong = lines_with(tmp_path, world, shifted, interval=Interval.H1)
    assert wrong == [[str(int(time) + 3 * 3_600), *values] for time, *values in right]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (DefectKind.HIGH_BELOW_LOW, "low is above open, high or close"),
        (DefectKind.MISALIGNED, "time is not a multiple of 86400 s"),
        (DefectKind.NEGATIVE_VOLUME, "volume is negative"),
    ],
)
def test_a_row_to_be_rejected_breaks_the_rule_it_is_to_break(
    tmp_path: Path, world: World, kind: DefectKind, reason: str
) -> None:
    right = lines_with(tmp_path, world)
    wrong = lines_with(tmp_path, world, Defect(kind, PAIR, Interval.D1, TIME))
    (changed,) = (line for line in wrong if line not in right)
    names = ("time", "open", "high", "low", "close", "volume", "trades")
    row = pl.DataFrame([dict(zip(names, map(float, changed), strict=True))]).cast({"time": pl.Int64})
    broken = [why for why, rule in broken_rules(Interval.D1, NOW).items() if row.select(rule).item()]
    assert broken[0] == reason
    assert len(wrong) == len(right)


@pytest.mark.parametrize(("kind", "fields"), [(DefectKind.UNREADABLE, "tohl?vc"), (DefectKind.CUT_LINE, "tohlc")])
def test_a_line_can_be_unreadable(tmp_path: Path, world: World, kind: DefectKind, fields: str) -> None:
    right = at(lines_with(tmp_path, world), TIME)
    wrong = at(lines_with(tmp_path, world, Defect(kind, PAIR, Interval.D1, TIME)), TIME)
    assert len(wrong) == len(fields)
    assert [new == old for new, old in zip(wrong, right, strict=False)] == [field != "?" for field in fields]


def test_volumes_in_scientific_notation_have_the_same_value(tmp_path: Path, world: World) -> None:
    right = lines_with(tmp_path, world, interval=Interval.M1)
    wrong = lines_with(tmp_path, world, Defect(DefectKind.SCIENTIFIC, PAIR, Interval.M1), interval=Interval.M1)
    assert all("e" in line[5] for line in wrong)
    assert [float(line[5]) for line in wrong] == [float(line[5]) for line in right]
    small = [line[5] for line in wrong if float(line[5]) < 1e-4]
    assert small
    assert all(volume == repr(float(volume)) for volume in small), "as Python writes it: 3.811e-05"


def test_whole_volumes_without_decimals_have_the_same_value(tmp_path: Path, world: World) -> None:
    defect = Defect(DefectKind.INTEGER_VOLUME, "XDGUSD")
    right = lines_with(tmp_path, world, interval=Interval.M1, pair="XDGUSD")
    wrong = lines_with(tmp_path, world, defect, interval=Interval.M1, pair="XDGUSD")
    changed = [(new[5], old[5]) for new, old in zip(wrong, right, strict=True) if new != old]
    assert changed
    assert all(new.isdigit() and old == f"{new}.0" for new, old in changed)


def test_counts_with_decimals_have_the_same_value(tmp_path: Path, world: World) -> None:
    right = lines_with(tmp_path, world)
    wrong = lines_with(tmp_path, world, Defect(DefectKind.COUNT_AS_FLOAT))
    assert [line[6] for line in wrong] == [f"{line[6]}.0" for line in right]


def test_noise_is_below_the_twelfth_digit(tmp_path: Path, world: World) -> None:
    right = lines_with(tmp_path, world, interval=Interval.H1)
    wrong = lines_with(tmp_path, world, Defect(DefectKind.NOISY_VOLUME), interval=Interval.H1)
    for new, old in zip(wrong, right, strict=True):
        assert float(new[5]) != float(old[5])
        assert float(new[5]) == pytest.approx(float(old[5]), rel=1e-12)
        assert new[:5] + new[6:] == old[:5] + old[6:]
    assert any(len(line[5]) >= 17 for line in wrong)


def test_formats_can_be_combined_and_be_in_some_rows_only(tmp_path: Path, world: World) -> None:
    right = lines_with(tmp_path, world)
    wrong = lines_with(
        tmp_path,
        world,
        Defect(DefectKind.SCIENTIFIC, PAIR, Interval.D1, TIME),
        Defect(DefectKind.COUNT_AS_FLOAT, PAIR, Interval.D1, TIME),
    )
    assert without(wrong, TIME) == without(right, TIME)
    assert "e" in at(wrong, TIME)[5]
    assert at(wrong, TIME)[6].endswith(".0")


def test_a_member_can_be_missing_from_an_archive(tmp_path: Path, world: World) -> None:
    missing = Defect(DefectKind.MISSING_MEMBER, PAIR, Interval.H12)
    path = write_quarterly_zip(tmp_path, world, QUARTER, [Interval.H1, Interval.H12], pairs=[PAIR], defects=[missing])
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["XBTUSD_60.csv"]


def test_a_member_can_be_garbage_in_an_archive_that_is_whole(tmp_path: Path, world: World) -> None:
    garbage = Defect(DefectKind.GARBAGE, PAIR, Interval.H12)
    path = write_quarterly_zip(tmp_path, world, QUARTER, [Interval.H1, Interval.H12], pairs=[PAIR], defects=[garbage])
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        archive.read("XBTUSD_60.csv").decode("ascii")
        with pytest.raises(UnicodeDecodeError):
            archive.read("XBTUSD_720.csv").decode()


@pytest.mark.parametrize("kind", [DefectKind.GARBAGE, DefectKind.TRUNCATED])
def test_an_archive_can_be_damaged_as_a_whole(tmp_path: Path, world: World, kind: DefectKind) -> None:
    damage = Defect(kind, release=candles_name(QUARTER))
    path = write_quarterly_zip(tmp_path, world, QUARTER, [Interval.H1], pairs=[PAIR], defects=[damage])
    assert not zipfile.is_zipfile(path)


def test_a_loose_file_can_end_in_the_middle(tmp_path: Path, world: World) -> None:
    right = lines_with(tmp_path, world)
    wrong = lines_with(tmp_path, world, Defect(DefectKind.TRUNCATED, PAIR, Interval.D1))
    assert 0 < len(wrong) < len(right)
    assert wrong[:-1] == right[: len(wrong) - 1]


@pytest.mark.parametrize(
    "elsewhere",
    [
        Defect(DefectKind.SPIKE, "ETHUSD", Interval.D1, TIME),
        Defect(DefectKind.SPIKE, PAIR, Interval.H12, TIME),
        Defect(DefectKind.SPIKE, PAIR, Interval.D1, TIME, release=candles_name(QUARTER)),
        Defect(DefectKind.FALSE_QUIET, PAIR, Interval.D1, TIME),
    ],
)
def test_a_defect_elsewhere_changes_nothing_here(tmp_path: Path, world: World, elsewhere: Defect) -> None:
    assert lines_with(tmp_path, world, elsewhere) == lines_with(tmp_path, world)


@pytest.mark.parametrize(
    ("impossible", "reason"),
    [
        (Defect(DefectKind.MISSING_CANDLE, PAIR, Interval.D1, START - DAY), "no candle with at least 1 trade"),
        (Defect(DefectKind.SPIKE, PAIR, Interval.D1), "must name the pair, the interval and the time"),
    ],
)
def test_a_defect_that_cannot_be_planted_is_refused(
    tmp_path: Path, world: World, impossible: Defect, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        lines_with(tmp_path, world, impossible)


def test_half_a_candle_of_one_trade_is_refused(tmp_path: Path, world: World) -> None:
    minutes = world.candles(PAIR, Interval.M1, TIME, TIME + DAY).filter(pl.col("trade_count") == 1)
    alone = minutes.select(seconds_of(pl.col("time"))).item(0, 0)
    with pytest.raises(InvalidRequest, match="no candle with at least 2 trade"):
        lines_with(tmp_path, world, Defect(DefectKind.SHORT_CANDLE, PAIR, Interval.M1, alone))
