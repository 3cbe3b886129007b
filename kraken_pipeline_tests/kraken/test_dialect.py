"""Files as people have them: read as they say, or refused with what they say and what is needed; never guessed."""

from __future__ import annotations

import codecs
import random
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kraken_pipeline.kraken.dialect import CANDLES
from kraken_pipeline.market.interval import Interval
from kraken_pipeline_tests.kraken.reading import BLOCK_SIZES, read_candles, read_candles_in_any_order
from kraken_pipeline_tests.support.samples import at

T = at("2024-01-01")
HOUR = 3_600
COLUMNS = CANDLES.usual
Row = dict[str, str]


def walk(count: int, seed: int = 1) -> list[Row]:
    """Candles as a market makes them: each opens near where the last one closed."""
    chance = random.Random(seed)
    price, rows = 100.0, []
    for hour in range(count):
        moves = [price, *(price + chance.uniform(-2, 2) for _ in range(5))]
        price = moves[-1] + chance.uniform(-0.1, 0.1)
        rows.append(
            {
                "time": str(T + hour * HOUR),
                "open": f"{moves[0]:.4f}",
                "high": f"{max(moves):.4f}",
                "low": f"{min(moves):.4f}",
                "close": f"{moves[-1]:.4f}",
                "volume": f"{chance.uniform(0.1, 500):.8f}",
                "trades": str(chance.randint(1, 90)),
                "vwap": f"{sum(moves) / 6:.4f}",
            }
        )
    return rows


def candles(rows: list[Row]) -> list[tuple[float, ...]]:
    return [(int(row["time"]), *(float(row[name]) for name in COLUMNS[1:])) for row in rows]


def written(rows: list[Row], columns: list[str] | tuple[str, ...], header: str = "", end: str = "\n") -> bytes:
    lines = [*([header] if header else []), *(",".join(row.get(name, "x") for name in columns) for row in rows)]
    return "".join(f"{line}{end}" for line in lines).encode()


WALK = walk(40)
FEW = WALK[:5]
QUOTED = "".join(
    ",".join(f'"{field}"' for field in line.split(",")) + "\n" for line in written(FEW, COLUMNS).decode().splitlines()
).encode()
SPELLINGS = {
    "time": ["time", "Timestamp", "unix", "open_time", "date", " TIME "],
    "open": ["open", "Open"],
    "high": ["high", "HIGH"],
    "low": ["low"],
    "close": ["close"],
    "volume": ["volume", "Vol"],
    "trades": ["trades", "count", "trade_count", "Trade Count", "num_trades"],
    "vwap": ["vwap", "VWAP"],
    "": ["", "Unnamed: 0"],
}


@pytest.mark.slow
@given(st.permutations([*COLUMNS, "vwap", ""]), st.booleans(), st.booleans(), st.booleans(), st.data())
def test_a_header_is_followed_in_any_order_and_spelling(
    order: list[str], has_vwap: bool, is_odd: bool, is_windows: bool, data: st.DataObject
) -> None:
    columns = [name for name in order if (name != "vwap" or has_vwap) and (name or is_odd)]
    header = ",".join(data.draw(st.sampled_from(SPELLINGS[name])) for name in columns)
    content = written(FEW, columns, header, "\r\n" if is_windows else "\n")
    if is_windows:  # as spreadsheets of it write
        content = (
            codecs.BOM_UTF8
            + "\r\n".join(
                ",".join(f'"{field}"' for field in line.split(",")) for line in content.decode().splitlines()
            ).encode()
        )
    for block_bytes in BLOCK_SIZES:
        reading = read_candles(content, block_bytes=block_bytes)
        assert (reading.candles, reading.rejects, reading.error) == (candles(FEW), [], "")
        assert reading.flows == [(float(row["vwap"]) if has_vwap else None, None, None) for row in FEW]
        assert reading.facts.lines == len(FEW) + 1


@pytest.mark.parametrize("vwap", ["", "n/a", "nan", "0", "-1", "1e9"])
def test_a_candle_whose_average_price_is_none_is_a_candle_without_it(vwap: str) -> None:
    rows = [*FEW[:2], {**FEW[2], "vwap": vwap}]
    reading = read_candles(written(rows, (*COLUMNS, "vwap"), ",".join((*COLUMNS, "vwap"))))
    assert (reading.candles, reading.rejects, reading.error) == (candles(rows), [], "")
    assert [flow[0] for flow in reading.flows] == [float(FEW[0]["vwap"]), float(FEW[1]["vwap"]), None]


@pytest.mark.parametrize(
    ("columns", "header", "why"),
    [
        (COLUMNS, "time,open,high,low,close,volume,funding", "'funding' is unknown"),
        (COLUMNS[:5], "time,open,high,low,close", "volume is missing"),
        (COLUMNS, "time,open,high,low,low,volume,trades", "low is there twice; close is missing"),
        (COLUMNS, "Zeit,Anfang,Hoch,Tief,Ende,Menge,Zahl", "'Zeit', 'Anfang', 'Hoch', 'Tief', 'Ende', 'Menge'"),
        (COLUMNS[:6], "time,open,high,low,close,volume,trades", "its lines have 6 fields"),
        ((*COLUMNS, "vwap"), "time,open,high,low,close,volume,trades", "its lines have 8 fields"),
    ],
)  # fmt: skip
def test_a_header_that_cannot_be_followed_is_refused_by_what_it_says(
    columns: tuple[str, ...], header: str, why: str
) -> None:
    reading = read_candles(written(FEW, columns, header))
    assert reading.candles == []
    assert why in reading.error
    if "fields" not in why:
        assert f"its header says {header.replace(',', ', ')}: " in reading.error
        assert "a candle has time, open, high, low, close, volume, and may have vwap, trades" in reading.error


def test_a_file_without_counts_says_that_there_was_a_trade_where_there_is_a_volume() -> None:
    rows = [*FEW[:2], {**FEW[2], "volume": "0"}, *FEW[3:]]
    reading = read_candles(written(rows, COLUMNS[:6], ",".join(COLUMNS[:6])))
    assert [candle[:6] for candle in reading.candles] == [row[:6] for row in candles(rows) if row[5]]
    assert {candle[6] for candle in reading.candles} == {1}
    assert reading.facts.quiet == 1


@pytest.mark.parametrize("extra", ["", "0", "7.5", "some text"])
def test_a_trailing_comma_or_column_is_passed_over(extra: str) -> None:
    rows = [{**row, "extra": extra} for row in WALK]
    reading = read_candles(written(rows, (*COLUMNS, "extra")))
    assert (reading.candles, reading.rejects) == (candles(WALK), [])


def test_newest_first_is_an_order_too(tmp_path: Path) -> None:
    reading = read_candles_in_any_order(written(WALK[::-1], COLUMNS), tmp_path)
    assert (reading.candles, reading.rejects, reading.unanswered) == (candles(WALK), [], ())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (written(FEW, COLUMNS).decode().encode("utf-16"), "its text is UTF-16; save it as UTF-8"),
        (written(FEW, COLUMNS).decode().encode("utf-16-be"), "its text is UTF-16; save it as UTF-8"),
        (written(FEW, COLUMNS).decode().encode("utf-16-le"), "its text is UTF-16; save it as UTF-8"),
        (written(FEW, COLUMNS).replace(b",", b";").replace(b".", b","), "its fields are separated by ';': 17"),
        (written(FEW, COLUMNS, ",".join(COLUMNS)).replace(b",", b";"), "its fields are separated by ';': time;open"),
        (written(FEW, COLUMNS).replace(b",", b"\t"), "its fields are separated by tabs"),
        (QUOTED.replace(b".", b","), "its numbers have a decimal comma"),
        (b"https://www.example.org\n" + written(FEW, COLUMNS, ",".join(COLUMNS)), "its columns are named in line 2"),
    ],
)  # fmt: skip
def test_what_programs_export_is_refused_with_what_to_do(content: bytes, why: str) -> None:
    reading = read_candles(content)
    assert reading.error.startswith(why)
    assert reading.candles == []


@pytest.mark.parametrize(("factor", "unit"), [(1e3, "milliseconds"), (1e6, "microseconds"), (1e9, "nanoseconds")])
@pytest.mark.parametrize("header", ["", ",".join(COLUMNS)])
def test_times_in_another_unit_are_refused_by_its_name(factor: float, unit: str, header: str) -> None:
    rows = [{**row, "time": str(int(row["time"]) * int(factor))} for row in FEW]
    error = read_candles(written(rows, COLUMNS, header)).error
    assert error.startswith(f"its times are {unit} ({rows[0]['time']}) and Kraken's are seconds since 1970: divide")


@pytest.mark.parametrize("text", ["2024-01-01 00:00:00", "2024-01-01T00:00:00Z", "01/02/2024"])
def test_times_as_dates_are_refused(text: str) -> None:
    rows = [{**row, "time": text} for row in FEW]
    assert read_candles(written(rows, COLUMNS, ",".join(COLUMNS))).error.startswith(f"its times are dates ({text})")


# --- columns that cannot be what they are taken for

SWAPS = [
    ("volume", "trades"),
    ("high", "low"),
    ("open", "close"),
    ("open", "high"),
    ("close", "volume"),
    ("low", "trades"),
]


@pytest.mark.parametrize(("one", "other"), SWAPS)
def test_columns_that_changed_places_are_told_by_their_values(one: str, other: str) -> None:
    columns = [{one: other, other: one}.get(name, name) for name in COLUMNS]
    for block_bytes in BLOCK_SIZES:
        reading = read_candles(written(WALK, columns), block_bytes=block_bytes)
        assert reading.error.startswith("its columns cannot be time, open, high, low, close, volume, trades: ")


@given(st.permutations(COLUMNS), st.integers(0, 1_000))
def test_in_whatever_order_columns_stand_without_a_header_values_are_right_or_the_file_is_refused(
    columns: list[str], seed: int
) -> None:
    rows = walk(40, seed)
    with tempfile.TemporaryDirectory() as folder:
        reading = read_candles_in_any_order(written(rows, columns), Path(folder))
    assert reading.error or reading.candles == candles(rows)


@given(st.permutations([*COLUMNS, "vwap"]), st.integers(0, 1_000))
def test_eight_columns_without_a_header_are_read_right_or_refused(columns: list[str], seed: int) -> None:
    rows = walk(40, seed)
    with tempfile.TemporaryDirectory() as folder:
        reading = read_candles_in_any_order(written(rows, columns), Path(folder))
    assert reading.error or reading.candles == candles(rows)


@pytest.mark.parametrize("count", [2, 3, 5, 6])
def test_another_number_of_fields_is_refused_by_it(count: int) -> None:
    error = read_candles(written(WALK, COLUMNS[:count])).error
    assert error.startswith(f"its lines have {count} fields and no header names them: {WALK[0]['time']},")


# --- coarser rows than the name says


@pytest.mark.parametrize(
    ("interval", "step"),
    [(Interval.M1, 60), (Interval.M1, 5), (Interval.M5, 1440), (Interval.M30, 60), (Interval.H12, 1440)],
)
def test_hours_in_a_file_of_minutes_are_told_by_their_distances_from_24_rows_on(interval: Interval, step: int) -> None:
    rows = [{**row, "time": str(T + place * step * 60)} for place, row in enumerate(WALK)]
    for block_bytes in BLOCK_SIZES:
        reading = read_candles(written(rows[:24], COLUMNS), interval, block_bytes=block_bytes)
        assert reading.error == (
            f"its name says candles of {interval.value} min, and all of its 24 rows are multiples of {step} min apart: "
            f"if they are candles of {step} min, name it ..._{step}.csv"
        )
    assert read_candles(written(rows[:23], COLUMNS), interval).error == ""


@given(st.sets(st.integers(0, 500), min_size=24, max_size=60), st.sampled_from([1, 5, 15]))
def test_a_file_with_one_row_off_the_coarser_grid_is_of_its_own_interval(places: set[int], minutes: int) -> None:
    times = sorted(places)
    assume(any((after - before) % 3 and (after - before) % 2 for before, after in pairwise(times)))
    rows = [{**WALK[0], "time": str(T + place * minutes * 60)} for place in times]
    assert read_candles(written(rows, COLUMNS), Interval(minutes)).error == ""


def test_a_stock_that_trades_for_half_of_each_day_is_no_file_of_days() -> None:
    rows = [{**row, "time": str(T + 12 * HOUR + place * 24 * HOUR)} for place, row in enumerate(WALK)]
    assert read_candles(written(rows, COLUMNS), Interval.H12).error == ""
