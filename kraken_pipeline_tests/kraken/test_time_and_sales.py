from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.density import AbsentIds, Density
from kraken_pipeline.coverage.ranges import Span, Spans, intersect, normalise
from kraken_pipeline.market.interval import Interval
from kraken_pipeline_tests.kraken.reading import (
    BLOCK_SIZES,
    HORIZON,
    NOW,
    Reading,
    damaged,
    lines_of,
    read_trades,
)
from kraken_pipeline_tests.support.samples import at

T = at("2024-01-01")
HEADER = "Price,Volume,Timestamp,Type,OrderType,Misc\n"


def trade(seconds: float, price: float = 10.0, volume: float = 0.5) -> str:
    return f"{T + seconds},{price:.6f},{volume:.8f}\n"


def named(seconds: float, trade_id: int | str, price: float = 10.0, misc: str = "") -> str:
    return f"{price},0.5,{T + seconds},b,l,{misc},{trade_id}\n"


def minutes(start: int, end: int) -> Span:
    return Span(T + start * 60, T + end * 60)


def counts(reading: Reading) -> dict[int, float]:
    """Minute since T → trade count."""
    return {int(candle[0] - T) // 60: candle[6] for candle in reading.candles}


# --- held against ids


THIRTY = [named(31 * index, 100 + index, price=10.0 + index) for index in range(30)]


def test_ids_that_are_absent_take_out_the_minutes_around_them() -> None:
    for block_bytes in BLOCK_SIZES:
        reading = read_trades(HEADER + "".join([*THIRTY[:10], *THIRTY[15:]]), block_bytes=block_bytes)
        assert reading.facts.unanswered == (minutes(9 * 31 // 60, 15 * 31 // 60 + 1),)
        whole = read_trades(HEADER + "".join(THIRTY)).candles
        assert reading.candles == [row for row in whole if int(row[0]) not in reading.facts.unanswered[0]]


def test_ids_that_are_known_not_to_exist_and_those_before_2021_take_nothing_out() -> None:
    holed = HEADER + "".join([*THIRTY[:10], *THIRTY[15:]])
    known = Density(sparse=(AbsentIds(105, 120, 0, 0),))
    assert read_trades(holed, density=known).facts.unanswered == ()
    old = HEADER + "".join(f"1,1,{at('2014-06-01') + 31 * number},b,l,,{100 + 7 * number}\n" for number in range(30))
    assert read_trades(old).facts.unanswered == ()
    tested = Density(tested=(Span(at("2014-01-01"), at("2015-01-01")),))
    assert read_trades(old, density=tested).facts.unanswered != ()


def test_trades_are_taken_in_the_order_of_their_ids() -> None:
    data = HEADER + named(10, 3, 3.0) + named(10, 1, 1.0) + named(5, 0, 9.0) + named(10, 2, 2.0) + named(70, 4)
    reading = read_trades(data)
    assert reading.candles[0] == (T, 9.0, 9.0, 1.0, 3.0, 2.0, 4)
    assert (reading.rejects, reading.facts.unanswered) == ([], ())


def test_trades_whose_ids_and_times_contradict_each_other_are_not_answered_for() -> None:
    data = HEADER + named(10, 1) + named(70, 3) + named(130, 2) + named(190, 4) + named(310, 5)
    for block_bytes in BLOCK_SIZES:
        reading = read_trades(data, block_bytes=block_bytes)
        assert intersect((minutes(1, 4),), reading.facts.unanswered) == (minutes(1, 4),)
        assert 5 in counts(reading)


@pytest.mark.slow
@given(st.sets(st.integers(0, 29), max_size=12), st.sampled_from(BLOCK_SIZES))
def test_whatever_a_file_lacks_no_minute_that_lacks_it_is_answered_for(absent: set[int], block_bytes: int) -> None:
    rows = [row for number, row in enumerate(THIRTY) if number not in absent]
    reading = read_trades(HEADER + "".join(rows), block_bytes=block_bytes)
    given_out = [number for number in range(30) if number not in absent]
    inner = [number for number in absent if given_out[0] < number < given_out[-1]]
    lacking = normalise(minutes(31 * number // 60, 31 * number // 60 + 1) for number in inner)
    assert intersect(lacking, reading.facts.unanswered) == lacking


# --- what a good file gives


def test_trades_become_the_minutes_that_hold_them() -> None:
    data = trade(0, 10, 1) + trade(30, 12, 2) + trade(59.9999, 9, 0.25) + trade(60, 11, 1) + trade(600, 8, 1)
    reading = read_trades(data)
    assert reading.candles == [
        (T, 10.0, 12.0, 9.0, 9.0, 3.25, 3),
        (T + 60, 11.0, 11.0, 11.0, 11.0, 1.0, 1),
        (T + 600, 8.0, 8.0, 8.0, 8.0, 1.0, 1),
    ]
    facts = reading.facts
    assert (facts.lines, facts.rows, facts.trades, facts.unanswered) == (5, 5, 5, ())
    assert (facts.first_time, facts.last_time) == (T, T + 600)
    assert facts.sha256 == hashlib.sha256(data.encode()).hexdigest()


def test_identical_rows_are_separate_fills() -> None:
    reading = read_trades(trade(10) * 3)
    assert reading.candles == [(T, 10.0, 10.0, 10.0, 10.0, 1.5, 3)]
    assert reading.rejects == []


def test_the_minutes_that_the_file_is_cut_in_are_not_whole() -> None:
    data = trade(30) + trade(45) + trade(61) + trade(62) + trade(200) + trade(210)
    for block_bytes in BLOCK_SIZES:
        reading = read_trades(data, edges_are_whole=False, block_bytes=block_bytes)
        assert counts(reading) == {1: 2}
        assert reading.facts.trades == 2
        assert reading.facts.rows == 6
        assert reading.facts.unanswered == (minutes(0, 1), minutes(3, 4))


def test_a_loose_file_of_one_minute_answers_for_nothing() -> None:
    reading = read_trades(trade(1) + trade(2), edges_are_whole=False)
    assert reading.candles == []
    assert reading.facts.unanswered == (minutes(0, 1),)
    assert reading.error == ""


def test_the_file_of_2026_has_seven_fields_under_a_header_of_six_names() -> None:
    data = HEADER + named(0, 71, 10) + named(0, 72, 12, misc="x") + named(61.25, 73, 9)
    for block_bytes in (130, 1 << 20):
        reading = read_trades(data, block_bytes=block_bytes)
        assert reading.candles == [(T, 10.0, 12.0, 10.0, 12.0, 1.0, 2), (T + 60, 9.0, 9.0, 9.0, 9.0, 0.5, 1)]
        assert reading.rejects == []
        assert (reading.facts.lines, reading.facts.rows) == (4, 3)


@pytest.mark.parametrize(
    "header", ["timestamp,price,volume\n", "Time,Price,Volume\r\n", '"timestamp","price","volume"\n']
)
def test_a_header_over_three_fields_is_passed_over(header: str) -> None:
    reading = read_trades(header + trade(5))
    assert counts(reading) == {0: 1}
    assert reading.rejects == []


def test_a_byte_order_mark_does_not_hide_the_header() -> None:
    assert counts(read_trades("\ufeff" + HEADER + named(5, 1))) == {0: 1}


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("volume,price,timestamp", "0.5,10,{0}"),
        ("timestamp,price,volume,side", "{0},10,0.5,b"),
        ("TradeID,Timestamp,Price,Volume", "{0},{0},10,0.5"),
        ("price,volume,timestamp,type,ordertype,misc,tradeid", "10,0.5,{0},b,l,,{0}"),
        ("timestamp,price,volume,", "{0},10,0.5,"),
        ('"time","price","volume"', '"{0}","10","0.5"'),
    ],
)
def test_a_header_is_followed_in_any_order(header: str, row: str) -> None:
    reading = read_trades("".join(f"{line}\n" for line in (header, row.format(T + 1), row.format(T + 2))))
    assert (reading.candles, reading.rejects, reading.facts.lines) == ([(T, 10.0, 10.0, 10.0, 10.0, 1.0, 2)], [], 3)


def test_sides_give_the_volume_that_takers_bought_where_every_trade_has_one() -> None:
    rows = [("b", 5), ("s", 6), ("b", 7), ("s", 65), ("b", 130), ("?", 131)]
    named_rows = [f"10,0.5,{T + second},{side},l,,{index}\n" for index, (side, second) in enumerate(rows)]
    for block_bytes in BLOCK_SIZES:
        reading = read_trades(HEADER + "".join(named_rows), block_bytes=block_bytes)
        assert reading.flows == [(10.0, 15.0, 1.0), (10.0, 5.0, 0.0), (10.0, 10.0, None)]
    assert read_trades(trade(5) + trade(6, price=20.0)).flows == [(15.0, 15.0, None)]


def test_a_header_with_a_word_that_is_not_known_is_refused() -> None:
    error = read_trades(f"time,price,amount,volume\n{T},10,0.5,5\n").error
    assert error.startswith("its header says time, price, amount, volume: 'amount' is unknown; a trade has time")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (HEADER + "1,2,3\n", "its header names 6 columns and its lines have 3 fields"),
        ("price,volume\n1,2\n", "its header says price, volume: time is missing"),
        (named(1, 1) + named(2, 2) + named(3, 3), "its lines have 7 fields and no header names them"),
        ("1704067200000,1,1\n1704067200001,1,1\n", "its times are milliseconds (1704067200000)"),
        ("1704067200;1,5;1\n1704067201;1,5;1\n", "its fields are separated by ';'"),
    ],
)
def test_an_unknown_layout_is_refused_by_what_it_says(data: str, why: str) -> None:
    assert read_trades(data).error.startswith(why)


def test_an_empty_file_and_one_without_a_trade_are_unreadable() -> None:
    assert read_trades(b"").error == "the file is empty; download it again"
    reading = read_trades(b"<html>\n502")
    assert reading.error == "none of its 2 lines is a trade; see its dead letters"
    assert sorted(reading.reasons) == [1, 2]


# --- what is rejected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("", "the line is empty"),
        (f"{T},1", "the line does not have 3 fields"),
        (f"{T},1,1,b", "the line does not have 3 fields"),
        (f"{T},x,1", "price is not a number"),
        (f"{T},,1", "price is not a number"),
        (f"{T},nan,1", "price is not a finite number"),
        (f"{T},0,1", "price is not positive"),
        (f"{T},-1,1", "price is not positive"),
        (f"{T},1,inf", "volume is not a finite number"),
        (f"{T},1,0", "volume is not positive"),
        (f"{T},1,-1", "volume is not positive"),
        ("x,1,1", "time is not a number"),
        ("nan,1,1", "time is not a finite number"),
        ("inf,1,1", "time is not a finite number"),
        ("5,1,1", "time is before 2011"),
        (f"{NOW + 1},1,1", "time is in the future"),
    ],
)
def test_a_bad_row_is_rejected_with_its_line_and_reason_and_the_others_stay(row: str, reason: str) -> None:
    for block_bytes in BLOCK_SIZES:
        reading = read_trades(trade(-300) + f"{row}\n" + trade(300), block_bytes=block_bytes)
        assert reading.reasons == {2: reason}
        assert (reading.facts.lines, reading.facts.rows) == (3, 2)


def test_a_bad_row_takes_its_whole_minute_out_because_other_trades_are_in_it() -> None:
    for block_bytes in BLOCK_SIZES:
        reading = read_trades(
            trade(0) + trade(60) + f"{T + 70},0,1\n" + trade(80) + trade(120), block_bytes=block_bytes
        )
        assert counts(reading) == {0: 1, 2: 1}
        assert reading.facts.unanswered == (minutes(1, 2),)


@pytest.mark.parametrize("row", ["x,1,1", "nan,0,1", "inf,-1,1", "5,0,1", "", f"{NOW + 1},0,1"])
def test_a_row_whose_time_cannot_be_believed_takes_out_its_neighbours_minutes_and_all_between(row: str) -> None:
    for block_bytes in BLOCK_SIZES:
        reading = read_trades(trade(0) + trade(60) + f"{row}\n" + trade(300) + trade(360), block_bytes=block_bytes)
        assert counts(reading) == {0: 1, 6: 1}
        assert reading.facts.unanswered == (minutes(1, 6),)


def test_at_the_ends_of_a_file_there_is_only_one_neighbour() -> None:
    assert read_trades("x\n" + trade(60)).unanswered == (Span(0, T + 120),)
    assert read_trades(trade(60) + "x").unanswered == (Span(T + 60, HORIZON.end),)


@pytest.mark.parametrize(("first", "second"), [(100, 99), (100.9, 100.2)])
def test_time_that_runs_backwards_is_rejected_and_its_neighbours_minutes_are_not_whole(
    first: float, second: float
) -> None:
    data = trade(0) + trade(50) + trade(first) + trade(second) + trade(200) + trade(300)
    for block_bytes in BLOCK_SIZES:
        reading = read_trades(data, block_bytes=block_bytes)
        assert reading.reasons == {4: "time runs backwards"}
        assert reading.facts.unanswered == (minutes(0, 4),)
        assert {minute: count for minute, count in counts(reading).items() if minute > 3} == {5: 1}


def test_the_trade_that_others_run_back_behind_may_be_the_wrong_one() -> None:
    # The trade of second 130 says that it is of second 900.
    data = "".join(map(trade, [0, 61, 900, 185, 250, 310, 910, 1_000, 1_100]))
    for block_bytes in BLOCK_SIZES:
        reading = read_trades(data, block_bytes=block_bytes)
        assert set(reading.reasons) == {4, 5, 6}
        assert reading.facts.unanswered == (minutes(1, 16),)


@st.composite
def misdated(draw: st.DrawFn) -> tuple[list[int], list[str]]:
    """The seconds of trades, and their lines with some times damaged so that it can be seen."""
    true = sorted(draw(st.lists(st.integers(60, 3_000), min_size=2, max_size=40)))
    wrong = draw(st.sets(st.sampled_from(range(len(true))), max_size=min(4, len(true) - 1)))
    lines = []
    for index, second in enumerate(true):
        told: float | str = second
        if index in wrong:
            before = max((true[each] for each in range(index) if each not in wrong), default=0)
            after = min((true[each] for each in range(index, len(true)) if each not in wrong), default=3_001)
            elsewhere = st.one_of(
                *([st.integers(0, before - 1)] if before else []),
                *([st.integers(after + 1, 4_000)] if after <= 3_000 else []),
            )
            told = draw(st.one_of(elsewhere, st.sampled_from(["x", "5", "inf", str(NOW + 60)])))
        lines.append(trade(told) if isinstance(told, int) else f"{told},10,1\n")
    return true, lines


@given(misdated(), st.sampled_from(BLOCK_SIZES))
def test_whatever_times_are_damaged_nothing_false_is_answered(
    file: tuple[list[int], list[str]], block_bytes: int
) -> None:
    true, lines = file
    reading = read_trades("".join(lines), block_bytes=block_bytes)
    said = {int(candle[0] - T) // 60: int(candle[6]) for candle in answered(reading)}
    gone = reading.unanswered
    for minute in range(80):
        if not any(T + minute * 60 in span for span in gone):
            assert said.get(minute, 0) == sum(second // 60 == minute for second in true), minute


def test_a_repeated_id_is_rejected_and_its_minute_is_not_whole() -> None:
    data = HEADER + named(0, 1) + named(61, 2) + named(62, 3) + named(62, 3) + named(121, 4)
    for block_bytes in (130, 1 << 20):
        reading = read_trades(data, block_bytes=block_bytes)
        assert reading.reasons == {5: "the trade id is repeated"}
        assert counts(reading) == {0: 1, 2: 1}
        assert reading.facts.unanswered == (minutes(1, 2),)


def test_an_id_repeated_over_the_edge_of_blocks_is_found() -> None:
    lines = [named(index, f"{7_000_000 + index}") for index in range(40)]
    data = HEADER + "".join(line for line in lines for _ in range(2))
    for block_bytes in (130, 1 << 20):
        reading = read_trades(data, block_bytes=block_bytes)
        assert reading.facts.rows == 40
        assert set(reading.reasons.values()) == {"the trade id is repeated"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"10,0.5,{T}", "the line does not have 7 fields"),
        (f"10,0.5,{T},b,l,", "the line does not have 7 fields"),
        (f"10,0.5,{T},b,l,,", "trade_id is not a number"),
        (f"10,0.5,{T},b,l,,x", "trade_id is not a number"),
    ],
)
def test_a_row_without_its_id_is_rejected(row: str, reason: str) -> None:
    assert read_trades(HEADER + named(-60, 1) + f"{row}\n").reasons == {3: reason}
    assert read_trades(HEADER + named(-60, 1) + f"{row}\nx\n").reasons[3] == reason


# --- any bytes at all


def assert_every_line_comes_out_once(data: bytes, reading: Reading) -> None:
    if "with the header" in reading.error:
        return
    lines = lines_of(data)
    if not reading.facts.lines and lines:  # refused as a whole, by its first lines
        assert reading.error
        assert not reading.candles
        return
    assert reading.facts.lines == lines
    names = lines - reading.facts.rows - len(reading.reasons)
    if names:  # a line that names the fields
        assert names == 1
        assert 1 not in reading.reasons
        assert any(name in data.partition(b"\n")[0].lower() for name in (b"price", b"time"))
    assert all(1 <= line <= lines and reason for line, reason in reading.reasons.items())
    assert reading.facts.sha256 == hashlib.sha256(data).hexdigest()
    assert sum(candle[6] for candle in reading.candles) == reading.facts.trades <= reading.facts.rows
    times = [candle[0] for candle in reading.candles]
    assert times == sorted(set(times))


@given(st.one_of(st.binary(max_size=200), st.text("0123456789.,-e\n\r", max_size=200).map(str.encode)))
def test_of_any_bytes_every_line_comes_out_once(data: bytes) -> None:
    assert_every_line_comes_out_once(data, read_trades(data))


SECONDS = st.lists(st.sampled_from([0, 0, 0.5, 1, 59, 60, 61, 3600, -5]), max_size=12)


def running(steps: Sequence[float]) -> list[float]:
    """The times that steps lead to."""
    return [sum(steps[: index + 1]) for index in range(len(steps))]


PLAIN_FILES = SECONDS.map(lambda steps: "".join(trade(time) for time in running(steps)).encode())
NAMED_FILES = SECONDS.map(
    lambda steps: (HEADER + "".join(named(time, index // 2) for index, time in enumerate(running(steps)))).encode()
)


@pytest.mark.slow
@given(damaged(PLAIN_FILES), st.booleans())
def test_of_a_damaged_file_every_line_comes_out_once_whatever_the_size_of_blocks(data: bytes, whole: bool) -> None:
    readings = [read_trades(data, edges_are_whole=whole, block_bytes=size) for size in BLOCK_SIZES]
    for reading in readings:
        assert_every_line_comes_out_once(data, reading)
        assert reading.rejects == readings[-1].rejects
        assert reading.unanswered == readings[-1].unanswered
        assert reading.error == readings[-1].error
        assert answered(reading) == answered(readings[-1])


@given(damaged(NAMED_FILES))
def test_of_a_damaged_file_with_ids_every_line_comes_out_once(data: bytes) -> None:
    assert_every_line_comes_out_once(data, read_trades(data))


def answered(reading: Reading) -> list[tuple[float, ...]]:
    """The candles that the file answers for."""
    return [candle for candle in reading.candles if not any(int(candle[0]) in each for each in reading.unanswered)]


# Lines of which the meaning is known beforehand: (text, its second, whether it is good); the second may be None.
Known = tuple[str, int | None, bool]


@st.composite
def known_lines(draw: st.DrawFn) -> list[Known]:
    lines: list[Known] = []
    time = 0
    for step, kind in draw(
        st.lists(st.tuples(st.sampled_from([0, 0, 7, 61, 200]), st.sampled_from("ggggpfxe")), max_size=14)
    ):
        time += step
        lines.append(
            {
                "g": (trade(time), time, True),
                "p": (f"{T + time},0,1\n", time, False),
                "f": (f"{T + time},1\n", time, False),
                "x": ("x,1,1\n", None, False),
                "e": ("\n", None, False),
            }[kind]
        )
    return lines


def expected_unanswered(lines: list[Known], *, whole: bool) -> Spans:
    spans = []
    good = [(index, T + time) for index, (_, time, is_good) in enumerate(lines) if is_good and time is not None]
    for index, (_, time, is_good) in enumerate(lines):
        if is_good:
            continue
        if time is not None:
            spans.append(Span(Interval.M1.floor(T + time), Interval.M1.floor(T + time) + 60))
            continue
        before = [at_ for place, at_ in good if place < index]
        after = [at_ for place, at_ in good if place > index]
        start = Interval.M1.floor(before[-1]) if before else 0
        end = Interval.M1.floor(after[0]) + 60 if after else HORIZON.end
        spans.append(Span(start, end))
    if not whole and good:
        spans += [Span(Interval.M1.floor(at_), Interval.M1.floor(at_) + 60) for _, at_ in (good[0], good[-1])]
    return normalise(spans)


@given(known_lines(), st.booleans(), st.sampled_from(BLOCK_SIZES))
def test_the_minutes_of_a_file_are_those_that_no_bad_row_touches(
    lines: list[Known], whole: bool, block_bytes: int
) -> None:
    reading = read_trades("".join(line[0] for line in lines), edges_are_whole=whole, block_bytes=block_bytes)
    if reading.error.startswith("its lines have 2 fields"):  # most of them
        return
    gone = expected_unanswered(lines, whole=whole)
    assert reading.unanswered == intersect(gone, (HORIZON,))
    expected: dict[int, int] = {}
    for _, time, is_good in lines:
        if is_good and time is not None and not any(T + time in each for each in gone):
            expected[time // 60] = expected.get(time // 60, 0) + 1
    assert counts(reading) == expected
    assert sorted(reading.reasons) == [number for number, line in enumerate(lines, 1) if not line[2]]
