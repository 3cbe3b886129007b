from __future__ import annotations

import hashlib
import random
import tempfile
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.ranges import Span, Spans, intersect, normalise, subtract
from kraken_pipeline.kraken.manifest import ReleaseManifest
from kraken_pipeline.kraken.ohlcvt import COLUMNS, OutOfOrder
from kraken_pipeline.kraken.order import FOREVER, holes
from kraken_pipeline.market.interval import Interval
from kraken_pipeline_tests.kraken.reading import (
    BLOCK_SIZES,
    HORIZON,
    NOW,
    Reading,
    damaged,
    lines_of,
    read_candles,
    read_candles_in_any_order,
)
from kraken_pipeline_tests.support.samples import at, csv_row

T = at("2024-01-01")
HOUR = 3600


def file(*lines: str) -> bytes:
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines).encode()


def good(hours: int) -> str:
    return csv_row(T + hours * HOUR)


def hours(start: int, end: int) -> Span:
    return Span(T + start * HOUR, T + end * HOUR)


# --- what a good file gives


def test_rows_become_candles() -> None:
    data = file(f"{T},1.5,2.5,0.5,2.0,12.25,3", f"{T + HOUR},1,1,1,1,0.5,1")
    reading = read_candles(data)
    assert reading.candles == [(T, 1.5, 2.5, 0.5, 2.0, 12.25, 3), (T + HOUR, 1.0, 1.0, 1.0, 1.0, 0.5, 1)]
    assert reading.rejects == []
    facts = reading.facts
    assert (facts.lines, facts.rows, facts.quiet, facts.trades) == (2, 2, 0, 4)
    assert (facts.first_time, facts.last_time) == (T, T + HOUR)
    assert facts.sha256 == hashlib.sha256(data).hexdigest()
    assert facts.unanswered == ()


@pytest.mark.parametrize(
    ("row", "candle"),
    [
        (f"{T},3.811e-05,3.9E-5,3.8e-05,3.811e-05,1e3,1", (T, 3.811e-05, 3.9e-05, 3.8e-05, 3.811e-05, 1000.0, 1)),
        (f"{T},2,3,1,2,5,4", (T, 2.0, 3.0, 1.0, 2.0, 5.0, 4)),
        (f"{T},1,1,1,1,0.5,1.0", (T, 1.0, 1.0, 1.0, 1.0, 0.5, 1)),
        (f"{T}.0,1,1,1,1,0.5,1", (T, 1.0, 1.0, 1.0, 1.0, 0.5, 1)),
        (f" {T} , 1, 1 ,1,1,0.5, 1 ", (T, 1.0, 1.0, 1.0, 1.0, 0.5, 1)),
        (f"{T},1,1,1,1,0.1000000000000001,1", (T, 1.0, 1.0, 1.0, 1.0, 0.1000000000000001, 1)),
    ],
)
def test_the_odd_spellings_of_real_files_are_numbers(row: str, candle: tuple[float, ...]) -> None:
    assert read_candles(file(row)).candles == [candle]


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_line_ends_do_not_matter(ending: str) -> None:
    reading = read_candles(good(0).rstrip() + (ending or "\n") + good(1).rstrip() + ending)
    assert [candle[0] for candle in reading.candles] == [T, T + HOUR]
    assert reading.facts.lines == 2


def test_a_manifest_can_name_other_columns_and_a_header() -> None:
    names = ("Close", "Timestamp", "Open", "High", "Low", "Volume", "Count")
    for header in ("close,timestamp,open,high,low,volume,count", "some words that nobody knows"):
        data = file(header, f"2.0,{T},1.5,2.5,0.5,12.25,3")
        for block_bytes in BLOCK_SIZES:
            reading = read_candles(
                data, manifest=ReleaseManifest(columns=names, has_header=True), block_bytes=block_bytes
            )
            assert reading.candles == [(T, 1.5, 2.5, 0.5, 2.0, 12.25, 3)]
            assert reading.rejects == []
            assert (reading.facts.lines, reading.facts.rows, reading.facts.unanswered) == (2, 1, ())


def test_a_manifest_without_columns_means_the_usual_ones() -> None:
    assert len(read_candles(file(good(0), good(1)), manifest=ReleaseManifest()).candles) == 2


@pytest.mark.parametrize(
    "names", [("time",), (*COLUMNS, "funding"), ("vwap", *COLUMNS[1:]), ("time", *COLUMNS)], ids=lambda names: names[-1]
)
def test_a_manifest_whose_columns_are_not_those_of_a_candle_is_refused(names: tuple[str, ...]) -> None:
    error = read_candles(file(good(0)), manifest=ReleaseManifest(columns=names)).error
    assert error.startswith(f"its manifest says {', '.join(names)}: ")
    assert "a candle has time, open, high, low, close, volume, and may have vwap, trades" in error


# --- rows without a trade


def quiet(hours: int, price: float = 2.0) -> str:
    return f"{T + hours * HOUR},{price},{price},{price},{price},0,0"


def test_a_row_without_a_trade_is_no_candle_and_quiet_time_between_two_of_them() -> None:
    for block_bytes in BLOCK_SIZES:
        reading = read_candles(file(good(0), quiet(1), quiet(2), good(3)), block_bytes=block_bytes)
        assert [candle[0] for candle in reading.candles] == [T, T + 3 * HOUR]
        assert (reading.facts.lines, reading.facts.rows, reading.facts.quiet) == (4, 2, 2)
        assert (reading.rejects, reading.unanswered) == ([], ())


def test_rows_without_a_trade_before_the_first_candle_and_after_the_last_say_nothing() -> None:
    for block_bytes in BLOCK_SIZES:
        lines = [quiet(hour) for hour in (-4, -3, -1)], [good(0), quiet(1), good(2)], [quiet(3), quiet(4)]
        reading = read_candles(file(*chain(*lines)), block_bytes=block_bytes)
        assert (reading.facts.first_time, reading.facts.last_time) == (T, T + 2 * HOUR)
        assert reading.unanswered == (hours(-4, -2), hours(-1, 0), hours(3, 5))
        assert reading.rejects == []


@pytest.mark.parametrize(
    "row",
    [
        f"{T + HOUR},1,1,1,1,0,0",
        f"{T + HOUR},1,1,1,1,0.00000000,0.0",
        f"{T + HOUR},0,0,0,0,0,0",
        f"{T + HOUR},nan,nan,nan,nan,0,0",
        f"{T + HOUR},,,,,0,0",
        f"{T + HOUR},1,1,1,1,0,",
        f"{T + HOUR},1,1,1,1,,0",
    ],
)
def test_however_a_row_without_a_trade_is_filled_in_it_is_no_candle_and_no_dead_letter(row: str) -> None:
    reading = read_candles(file(good(0), row, good(2)))
    assert (len(reading.candles), reading.facts.quiet, reading.rejects, reading.unanswered) == (2, 1, [], ())


@pytest.mark.parametrize("row", [f"{T + HOUR},,,,,,", f"{T + HOUR + 1},1,1,1,1,0,0", f"{NOW + HOUR},1,1,1,1,0,0"])
def test_a_row_that_says_nothing_or_of_no_time_is_a_bad_one(row: str) -> None:
    assert len(read_candles(file(good(0), row, good(2))).rejects) == 1


def test_a_thousand_rows_from_before_the_exchange_are_nothing() -> None:
    before = [f"{at('2007-01-01') + day * 86_400},0,0,0,0,0,0" for day in range(2_000)]
    reading = read_candles(file(*before, csv_row(T), csv_row(T + 86_400)), Interval.D1)
    assert (reading.facts.first_time, reading.facts.quiet, reading.rejects) == (T, 2_000, [])


def test_a_file_of_rows_without_a_trade_is_no_evidence() -> None:
    error = read_candles(file(quiet(0), quiet(1))).error
    assert error.startswith(
        "none of its 2 lines has a trade: 2 say that nobody traded, which is no evidence without a candle beside them"
    )


@given(st.lists(st.sampled_from("gq."), max_size=40), st.sampled_from(BLOCK_SIZES))
def test_whatever_rows_are_filled_in_a_file_answers_for_no_more_than_the_sparse_one(
    kinds: list[str], size: int
) -> None:
    filled = file(*({"g": good, "q": quiet}[kind](hour) for hour, kind in enumerate(kinds) if kind != "."))
    sparse = file(*(good(hour) for hour, kind in enumerate(kinds) if kind == "g"))
    one, other = (read_candles(data, block_bytes=size) for data in (filled, sparse))
    assert one.candles == other.candles
    assert (one.facts.first_time, one.facts.last_time) == (other.facts.first_time, other.facts.last_time)
    outer = [hours(hour, hour + 1) for hour, kind in enumerate(kinds) if kind == "q" and other.candles]
    first, last = other.facts.first_time or 0, other.facts.last_time or 0
    assert one.unanswered == subtract(normalise(outer), (Span(first, last),) if first < last else ())


def test_a_filled_file_out_of_order_says_the_same_as_in_order(tmp_path: Path) -> None:
    lines = [quiet(-1), good(0), quiet(1), good(2), quiet(3)]
    reading = sort(tmp_path, *reversed(lines))
    assert [candle[0] for candle in reading.candles] == [T, T + 2 * HOUR]
    assert (reading.facts.quiet, reading.unanswered) == (3, (hours(-1, 0), hours(3, 4)))


def test_a_file_that_says_quiet_and_traded_of_one_candle_does_not_answer_for_it(tmp_path: Path) -> None:
    reading = sort(tmp_path, good(0), quiet(1), good(1), good(2))
    assert reading.unanswered == reading.facts.contradicted == (hours(1, 2),)


# --- what is rejected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("", "the line is empty"),
        (f"{T + 60},1,1,1,1,1,1", "time is not a multiple of 3600 s"),
        (f"{at('2010-12-31')},1,1,1,1,1,1", "time is before 2011"),
        (f"{NOW + HOUR},1,1,1,1,1,1", "time is in the future"),
        (f"{T},nan,1,1,1,1,1", "a price is not a finite number"),
        (f"{T},1,inf,1,1,1,1", "a price is not a finite number"),
        (f"{T},0,1,0,1,1,1", "a price is not positive"),
        (f"{T},1,1,-1,1,1,1", "a price is not positive"),
        (f"{T},1,2,1.5,2,1,1", "low is above open, high or close"),
        (f"{T},1,1,1,2,1,1", "high is below open or close"),
        (f"{T},1,1,1,1,-1,1", "volume is negative"),
        (f"{T},1,1,1,1,nan,1", "volume is not a finite number"),
        (f"{T},1,1,1,1,1,-1", "trade count is not a whole number from 0 to 2147483647"),
        (f"{T},1,1,1,1,1,1.5", "trade count is not a whole number from 0 to 2147483647"),
        (f"{T},1,1,1,1,1,2147483648", "trade count is not a whole number from 0 to 2147483647"),
        (f"{T},1,1,1,1,1,", "trades is not a number"),
        (f"{T},1,1,1,1,one,1", "volume is not a number"),
        (f"{T},1,1,1,1,1", "the line does not have 7 fields"),
        (f"{T},1,1,1,1,1,1,1", "the line does not have 7 fields"),
        (f'"{T}",1,1,1,1,1,1', "time is not a number"),
        (f"{T},1,1,1,1,1,0", "volume without a trade"),
        (f"{T},1;1;1;1;1;1", "the line does not have 7 fields"),
    ],
)
def test_a_bad_row_is_rejected_with_its_line_and_reason_and_the_others_stay(row: str, reason: str) -> None:
    for block_bytes in BLOCK_SIZES:
        reading = read_candles(file(good(-1), row, good(5)), block_bytes=block_bytes)
        assert reading.reasons == {2: reason}
        assert [candle[0] for candle in reading.candles] == [T - HOUR, T + 5 * HOUR]
        assert (reading.facts.lines, reading.facts.rows) == (3, 2)


def test_a_rejected_row_takes_its_slot_out_of_coverage() -> None:
    reading = read_candles(file(good(0), f"{T + 3 * HOUR},-1,1,1,1,1,1", good(9)))
    assert reading.facts.unanswered == (hours(3, 4),)


@pytest.mark.parametrize(
    "row",
    [
        "x",
        "",
        "5,1,1,1,1,1,1",
        "16,1,1",
        f"{NOW + HOUR},-1,1,1,1,1,1",
        f"{T + 3 * HOUR + 60},1,1,1,1,1,1",
        f"{T + 3 * HOUR + 60},-1,1,1,1,1,1",
        f"{T + 10 * HOUR},-1,1,1,1,1,1",
        f"{T + 3 * HOUR},1,1,1,1,1,1{T + 4 * HOUR},1,1,1,1,1,1",
        f"{T + 3 * HOUR},1,1,\x00\x00\x00\x00,1",
    ],
)
def test_a_row_whose_time_cannot_be_believed_takes_out_everything_between_its_neighbours(row: str) -> None:
    for block_bytes in BLOCK_SIZES:
        reading = read_candles(file(good(0), row, good(9)), block_bytes=block_bytes)
        own = (hours(10, 11),) if row.startswith(f"{T + 10 * HOUR}") else ()
        assert reading.facts.unanswered == (hours(1, 9), *own)


def test_at_the_ends_of_a_file_there_is_only_one_neighbour() -> None:
    assert read_candles(file("x", good(2))).unanswered == (Span(0, T + 2 * HOUR),)
    assert read_candles(file(good(2), "x")).unanswered == (Span(T + 3 * HOUR, HORIZON.end),)


def test_a_file_that_is_cut_within_its_last_row_does_not_answer_for_it() -> None:
    cut = file(good(0), good(1))[:-12]
    assert read_candles(cut).unanswered == (hours(1, 2),)
    cut_in_its_time = file(good(0), good(1))[: len(good(0)) + 6]
    assert read_candles(cut_in_its_time).unanswered == (Span(T + HOUR, HORIZON.end),)


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_is_unreadable(data: bytes) -> None:
    assert read_candles(data).error == "the file is empty; download it again"


def test_a_file_without_one_good_row_is_unreadable_and_all_of_it_rejected() -> None:
    reading = read_candles(b"<html>\n<body>\n502 Bad Gateway")
    assert reading.error == "none of its 3 lines is a candle; see its dead letters"
    assert sorted(reading.reasons) == [1, 2, 3]
    assert reading.unanswered == (HORIZON,)


# --- files out of order


@pytest.mark.parametrize(
    "order", [(1, 0), (0, 0), (0, 1, 1, 2), (0, 2, 1), (0, 1, 0)], ids=lambda order: ",".join(map(str, order))
)
def test_rows_that_are_not_strictly_ascending_are_out_of_order(order: tuple[int, ...]) -> None:
    for block_bytes in BLOCK_SIZES:
        with pytest.raises(OutOfOrder):
            read_candles(file(*(good(hour) for hour in order)), block_bytes=block_bytes)


def sort(tmp_path: Path, *lines: str, block_bytes: int = 1 << 20) -> Reading:
    return read_candles(file(*lines), sort_in=tmp_path, block_bytes=block_bytes)


def test_a_file_out_of_order_is_sorted_over_years_and_leaves_nothing_behind(tmp_path: Path) -> None:
    times = [at(text) for text in ("2024-01-01", "2022-06-01", "2023-12-31T23:00", "2022-05-31", "2024-01-01T01:00")]
    for block_bytes in BLOCK_SIZES:
        reading = sort(tmp_path, *(csv_row(time) for time in times), block_bytes=block_bytes)
        assert [candle[0] for candle in reading.candles] == sorted(times)
        assert reading.rejects == []
        assert (reading.facts.first_time, reading.facts.last_time) == (min(times), max(times))
        assert (reading.facts.lines, reading.facts.rows, reading.facts.trades) == (5, 5, 15)
    assert list(tmp_path.iterdir()) == []


def test_of_a_repeated_time_the_last_row_counts_and_the_others_are_rejected(tmp_path: Path) -> None:
    for block_bytes in BLOCK_SIZES:
        reading = sort(
            tmp_path,
            csv_row(T, trades=1),
            csv_row(T + HOUR, trades=2),
            csv_row(T, trades=3),
            csv_row(T, trades=4),
            block_bytes=block_bytes,
        )
        assert [(candle[0], candle[6]) for candle in reading.candles] == [(T, 4), (T + HOUR, 2)]
        reason = "the time is repeated with other values; the last row of that time is used"
        assert reading.reasons == {1: reason, 3: reason}
        assert {reject.time for reject in reading.rejects} == {T}
        assert reading.facts.lines == reading.facts.rows + len(reading.rejects) == 4


def test_identical_repeats_keep_their_coverage_and_differing_ones_lose_it(tmp_path: Path) -> None:
    reading = sort(
        tmp_path, good(0), good(0), csv_row(T + 5 * HOUR, trades=1), csv_row(T + 5 * HOUR, trades=2), good(9)
    )
    # Either of the two at 5 may be of another hour, up to its neighbours'.
    assert reading.facts.unanswered == (hours(1, 9),)
    assert reading.reasons == {
        1: "the time is repeated; the last row of that time is used",
        3: "the time is repeated with other values; the last row of that time is used",
    }


def test_numbers_spelled_differently_are_identical_repeats(tmp_path: Path) -> None:
    reading = sort(tmp_path, f"{T},1.50,2,1,2e0,3,4.0", f"{T}.0,1.5,2.0,1,2,3.000,4")
    assert reading.facts.unanswered == ()
    assert len(reading.candles) == 1


def test_bad_rows_of_a_file_out_of_order_are_rejected_as_in_any_other(tmp_path: Path) -> None:
    reading = sort(tmp_path, good(5), "x", good(0), f"{T + 2 * HOUR},0,1,1,1,1,1")
    assert reading.reasons == {2: "the line does not have 7 fields", 4: "a price is not positive"}
    assert reading.facts.unanswered == (Span(0, T), hours(1, 5)), "the newest comes first, and hour 2 is not before 0"


def test_a_file_whose_newest_row_comes_first_says_the_same_as_in_order(tmp_path: Path) -> None:
    times = [0, 1, 4, 5, 9]
    assert sort(tmp_path, *(good(time) for time in reversed(times))).facts.unanswered == ()
    reading = sort(tmp_path, good(9), good(5), "x", good(1), good(0))
    assert reading.facts.unanswered == (hours(2, 5),)


def test_a_row_that_stands_in_another_place_uncovers_where_it_stands_and_where_it_says_it_belongs(
    tmp_path: Path,
) -> None:
    # The row of hour 100 says that it is of hour 250, far behind its neighbours.
    lines = [good(250 if hour == 100 else hour) for hour in range(0, 400, 2) if hour != 250]
    reading = sort(tmp_path, *lines)
    assert reading.facts.unanswered == (hours(99, 102), hours(249, 252))
    # Of a few rows in between, it may as well be those that are wrong.
    near = sort(tmp_path, *(good(106 if hour == 100 else hour) for hour in range(0, 400, 2) if hour != 106))
    assert near.facts.unanswered == (hours(99, 108),)


def test_files_that_were_joined_in_another_order_answer_each_for_its_own_time(tmp_path: Path) -> None:
    earlier, later = ([good(hour) for hour in range(start, start + 80, 2)] for start in (0, 90))
    assert sort(tmp_path, *later, *earlier).unanswered == (hours(79, 90), Span(T + 169 * HOUR, HORIZON.end))


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=40, unique=True), st.integers(1, 7))
def test_there_is_room_for_a_candle_between_all_rows_but_neighbours(hours: list[int], together: int) -> None:
    times = [hour * HOUR for hour in sorted(hours)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kraken_pipeline.kraken.order._BOUNDS_TOGETHER", together)
        found = list(holes(np.array(times), HOUR))
    assert [*chain(*found)] == [(one, two) for one, two in pairwise([0, *times, FOREVER]) if two - one > HOUR]
    assert all(0 < len(bounds) <= together for bounds in found)


def test_where_a_row_stands_in_a_shuffled_file_says_nothing(tmp_path: Path) -> None:
    shuffled = [good(hour) for hour in random.Random(7).sample(range(0, 500, 5), 100)]
    assert sort(tmp_path, *shuffled).facts.unanswered == ()
    # What cannot be placed may belong anywhere.
    lost = sort(tmp_path, *shuffled, "x")
    assert subtract((hours(0, 496),), lost.facts.unanswered) == tuple(hours(at, at + 1) for at in range(0, 500, 5))


Rows = list[tuple[int, int]]
"""The hour that a row says it is of, and the one that it is of."""


@st.composite
def misdated(draw: st.DrawFn) -> tuple[set[int], list[str]]:
    """A good file's hours, and its lines with some times damaged so that it can be seen; a row's price is its hour."""
    true = sorted(draw(st.sets(st.integers(1, 90), min_size=8, max_size=60)))
    wrong = draw(st.sets(st.sampled_from(true), max_size=min(6, len(true) // 4)))
    lines = []
    for hour in true:
        price = f"{hour},{hour},{hour},{hour},1,1"
        if hour not in wrong:
            lines.append(f"{T + hour * HOUR},{price}")
            continue
        right = [each for each in true if each not in wrong]
        before = max((each for each in right if each < hour), default=0)
        after = min((each for each in right if each > hour), default=91)
        elsewhere = [each for each in range(1, 91) if not before < each < after]
        seconds = T + draw(st.sampled_from(elsewhere)) * HOUR
        lines.append(draw(st.sampled_from([f"{seconds},{price}", f"{seconds},{price}", f"{seconds + 1800},{price}",
            f"x,{price}", f"5,{price}", f"{NOW + HOUR},{price}", f"{seconds},-1,1,1,1,1,1"])))  # fmt: skip
    return set(true), [f"{line}\n" for line in (reversed(lines) if draw(st.booleans()) else lines)]


@given(misdated())
def test_whatever_times_are_damaged_nothing_false_is_answered(file: tuple[set[int], list[str]]) -> None:
    true, lines = file
    with tempfile.TemporaryDirectory() as folder:
        reading = read_candles_in_any_order("".join(lines).encode(), Path(folder))
    said = {int(candle[0] - T) // HOUR: int(candle[1]) for candle in reading.candles}
    answered = subtract((hours(0, 100),), reading.unanswered)
    for hour in range(100):
        if any(T + hour * HOUR in span for span in answered):
            assert said.get(hour) == (hour if hour in true else None), hour


# --- any bytes at all

ROWS = st.lists(st.integers(0, 9), max_size=10).map(lambda times: file(*(good(time) for time in times)))
ORDERED = st.sets(st.integers(0, 40), max_size=10).map(lambda times: file(*(good(time) for time in sorted(times))))


def assert_every_line_comes_out_once(data: bytes, reading: Reading) -> None:
    lines = lines_of(data)
    if not reading.facts.lines and lines:  # refused as a whole, by its first lines
        assert reading.error
        assert not reading.candles
        return
    assert reading.facts.lines == lines
    assert len(reading.candles) + len(reading.reasons) == reading.facts.rows + len(reading.rejects)
    assert 0 <= lines - reading.facts.rows - len(reading.rejects) - reading.facts.quiet <= 1, "but for a header"
    assert all(1 <= line <= lines and reason for line, reason in reading.reasons.items())
    assert reading.facts.sha256 == hashlib.sha256(data).hexdigest()
    times = [candle[0] for candle in reading.candles]
    assert times == sorted(set(times))
    assert bool(reading.error) == (not times)


@given(st.one_of(st.binary(max_size=200), st.text("0123456789.,-e\n\r", max_size=200).map(str.encode)))
def test_of_any_bytes_every_line_comes_out_once(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert_every_line_comes_out_once(data, read_candles_in_any_order(data, Path(folder)))


def everything(reading: Reading) -> tuple[object, ...]:
    """All that must not depend on how a file is cut into blocks; rejects may come in another order."""
    return (
        reading.candles,
        sorted(reading.rejects, key=lambda reject: reject.line),
        reading.facts,
        reading.error,
    )


@pytest.mark.slow
@given(damaged(st.one_of(ROWS, ORDERED)))
def test_of_a_damaged_file_every_line_comes_out_once_whatever_the_size_of_blocks(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        readings = [read_candles_in_any_order(data, Path(folder), block_bytes=size) for size in BLOCK_SIZES]
    for reading in readings:
        assert_every_line_comes_out_once(data, reading)
        assert everything(reading) == everything(readings[-1])


# Lines of which the meaning is known beforehand: (text, whether it is good, its hour or None).
Known = tuple[str, bool, int | None]
KNOWN = st.integers(0, 40).flatmap(
    lambda hour: st.sampled_from(
        [
            (good(hour), True, hour),
            (good(hour), True, hour),
            (f"{T + hour * HOUR},0,1,1,1,1,1\n", False, hour),
            (f"{T + hour * HOUR},1\n", False, hour),
            (f"{T + hour * HOUR + 7},1,1,1,1,1,1\n", False, None),
            (f"{NOW + HOUR},0,1,1,1,1,1\n", False, None),
            ("\n", False, None),
            ("x,1,1,1,1,1,1\n", False, None),
        ]
    )
)


def in_order(lines: list[Known]) -> list[Known]:
    """The lines, without the good ones that would be out of order."""
    reached, kept = -1, []
    for line in lines:
        if line[1]:
            assert line[2] is not None
            if line[2] <= reached:
                continue
            reached = line[2]
        kept.append(line)
    return kept


def expected_unanswered(lines: list[Known]) -> Spans:
    """A bad row's own slot; what lies between its good neighbours where its time is unknown or not among theirs."""
    spans = []
    for index, (_, is_good, hour) in enumerate(lines):
        if is_good:
            continue
        if hour is not None:
            spans.append(hours(hour, hour + 1))
        first = max((place for place in range(index) if lines[place][1]), default=-1)
        last = min((place for place in range(index, len(lines)) if lines[place][1]), default=len(lines))
        told = [-1 if line[2] is None else line[2] for line in lines[max(first, 0) : last + 1]]
        if min(told) >= 0 and all(before < after for before, after in pairwise(told)):
            continue
        start = T + (told[0] + 1) * HOUR if first >= 0 else 0
        end = T + told[-1] * HOUR if last < len(lines) else HORIZON.end
        spans += [Span(start, end)] if start < end else []
    return normalise(spans)


@given(st.lists(KNOWN, max_size=14).map(in_order), st.sampled_from(BLOCK_SIZES))
def test_what_a_file_does_not_answer_for_follows_from_its_bad_rows(lines: list[Known], block_bytes: int) -> None:
    reading = read_candles("".join(text for text, _, _ in lines), block_bytes=block_bytes)
    assert [candle[0] for candle in reading.candles] == [
        T + hour * HOUR for _, is_good, hour in lines if is_good and hour is not None
    ]
    assert sorted(reading.reasons) == [number for number, line in enumerate(lines, 1) if not line[1]]
    assert reading.unanswered == intersect(expected_unanswered(lines), (HORIZON,))


def test_an_interval_has_its_own_grid() -> None:
    reading = read_candles(file(csv_row(T), csv_row(T + HOUR)), Interval.D1)
    assert reading.reasons == {2: "time is not a multiple of 86400 s"}
