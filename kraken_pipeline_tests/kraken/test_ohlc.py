from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.ranges import seconds
from kraken_pipeline.errors import ExchangeUnavailable
from kraken_pipeline.kraken.ohlc import Ohlc, read_ohlc
from kraken_pipeline.kraken.replies import OhlcRow, parse_ohlc
from kraken_pipeline.market.interval import INTERVALS, Interval
from kraken_pipeline_tests.support.homes import spans, values
from kraken_pipeline_tests.support.samples import at, real_file

ASKED = "OHLC of XBTUSDT 1"
T0 = at("2025-11-11")


def row(minute: int, price: float = 10.0, *, volume: float = 2.5, count: int = 3, offset: int = 0) -> OhlcRow:
    """A row that begins so many minutes after T0."""
    return (T0 + 60 * minute + offset, price, price + 1, price - 1, price, price, volume, count)


def quiet(minute: int, price: float = 10.0) -> OhlcRow:
    return (T0 + 60 * minute, price, price, price, price, 0.0, 0.0, 0)


def read(*rows: OhlcRow, last: int | None = None) -> Ohlc:
    """Rows of which the last one is the current candle, unless `last` (in minutes) says otherwise."""
    minute = (rows[-1][0] - T0) // 60 - 1 if last is None else last
    return read_ohlc(rows, T0 + 60 * minute, Interval.M1, ASKED)


def minutes(reply: Ohlc) -> list[tuple[int, int]]:
    """What is listed, in minutes after T0."""
    return [((span.start - T0) // 60, (span.end - T0) // 60) for span in reply.listed]


def times(reply: Ohlc) -> list[int]:
    """When the candles begin, in minutes after T0."""
    return [int(value[0] - T0) // 60 for value in values(reply.candles)]


def reasons(reply: Ohlc) -> list[tuple[str, int | None]]:
    return [(reject.reason, None if reject.time is None else (reject.time - T0) // 60) for reject in reply.rejects]


@pytest.fixture(scope="module")
def result() -> Any:
    return json.loads(real_file("rest_OHLC_XBTUSDT_1.json").read_text(encoding="utf-8"))["result"]


@pytest.fixture(scope="module")
def reply(result: Any) -> Ohlc:
    return read_ohlc(*parse_ohlc(result, ASKED, ["XBTUSDT"]), Interval.M1, ASKED)


class TestTheRecording:
    pytestmark = pytest.mark.real_files

    def test_720_committed_candles_are_listed_and_the_current_one_is_not(self, reply: Ohlc, result: Any) -> None:
        rows = result["XBTUSDT"]
        assert reply.listed == spans((rows[0][0], rows[-1][0]))
        assert seconds(reply.listed) == 720 * 60
        assert reply.committed == rows[-1][0] == result["last"] + 60

    def test_its_candles_are_the_rows_with_trades(self, reply: Ohlc, result: Any) -> None:
        traded = [each for each in result["XBTUSDT"][:-1] if each[7]]
        assert len(traded) == 720 - 215  # 216 quiet rows, the last of which is the current one
        assert values(reply.candles) == [(each[0], *map(float, (*each[1:5], each[6])), each[7]) for each in traded]
        assert int(reply.candles["trade_count"].sum()) == sum(each[7] for each in traded)

    def test_none_of_its_rows_is_rejected(self, reply: Ohlc) -> None:
        assert reply.rejects == ()

    def test_what_is_asked_for_from_within_is_a_part_of_it(self, reply: Ohlc, result: Any) -> None:
        # `since` is exclusive: a reply that begins behind row 300 lists what is behind row 300.
        rows, last = parse_ohlc(result, ASKED)
        part = read_ohlc(rows[301:], last, Interval.M1, ASKED)
        assert part.listed == spans((rows[301][0], reply.committed))
        assert values(part.candles) == [each for each in values(reply.candles) if each[0] > rows[300][0]]


class TestWhatIsListed:
    def test_the_last_row_is_never_given_out(self) -> None:
        reply = read(row(0), row(1), row(2))
        assert (minutes(reply), times(reply)) == ([(0, 2)], [0, 1])
        assert reply.committed == T0 + 120
        assert int(reply.candles["trade_count"].sum()) == 6

    def test_the_current_row_alone_answers_for_nothing(self) -> None:
        reply = read(row(5))
        assert (reply.listed, reply.candles.height, int(reply.candles["trade_count"].sum()), reply.rejects) == (
            (),
            0,
            0,
            (),
        )
        assert reply.committed == T0 + 300

    def test_a_reply_without_rows_is_an_error_whatever_it_says(self) -> None:
        for last in (0, T0):
            with pytest.raises(ExchangeUnavailable, match=f"{ASKED}: the reply has no row"):
                read_ohlc([], last, Interval.M1, ASKED)

    def test_quiet_rows_are_listed_and_are_no_candles(self) -> None:
        reply = read(quiet(0), row(1), quiet(2), quiet(3), row(4))
        assert (minutes(reply), times(reply)) == ([(0, 4)], [1])

    def test_nothing_but_quiet_rows_is_listed_all_the_same(self) -> None:
        reply = read(quiet(0), quiet(1), quiet(2))
        assert (minutes(reply), reply.candles.height, int(reply.candles["trade_count"].sum())) == ([(0, 2)], 0, 0)

    def test_a_row_that_is_missing_is_not_listed(self) -> None:
        assert minutes(read(row(0), row(1), row(4), row(5))) == [(0, 2), (4, 5)]

    @pytest.mark.parametrize("interval", [each for each in INTERVALS if each.in_rest])
    def test_a_candle_is_as_long_as_its_interval(self, interval: Interval) -> None:
        start = interval.floor(T0)
        rows = [(start + number * interval.seconds, *row(0)[1:]) for number in range(3)]
        reply = read_ohlc(rows, rows[1][0], interval, ASKED)
        assert reply.listed == spans((start, start + 2 * interval.seconds))


class TestLast:
    @pytest.mark.parametrize("last", [0, 59])
    def test_a_last_of_zero_answers_for_nothing(self, last: int) -> None:
        reply = read_ohlc([row(0), row(1), row(2)], last, Interval.M1, ASKED)
        assert (reply.listed, reply.candles.height) == ((), 0)
        assert reply.committed <= 60

    def test_what_is_later_than_last_is_not_committed(self) -> None:
        reply = read(row(0), row(1), row(2), row(3), last=0)
        assert (minutes(reply), reply.committed) == ([(0, 1)], T0 + 60)

    @pytest.mark.parametrize("last", [T0 + 120, T0 + 86_400, T0 * 1_000, T0 * 10**9, 10**30])
    def test_a_last_behind_the_last_row_does_not_make_that_one_or_what_follows_committed(self, last: int) -> None:
        reply = read_ohlc([row(0), row(1), row(2)], last, Interval.M1, ASKED)
        assert (minutes(reply), times(reply), reply.committed) == ([(0, 2)], [0, 1], T0 + 120)

    def test_a_last_off_the_grid_commits_only_whole_candles(self) -> None:
        reply = read_ohlc([row(0), row(1), row(2), row(3)], T0 + 30, Interval.M1, ASKED)
        assert (minutes(reply), reply.committed) == ([(0, 1)], T0 + 60)


BAD = [
    ((T0 + 60, 10.0, 9.0, 8.0, 10.0, 9.0, 1.0, 1), "high is below open or close"),
    ((T0 + 60, 10.0, 11.0, 10.5, 11.0, 9.0, 1.0, 1), "low is above open, high or close"),
    ((T0 + 60, 0.0, 11.0, 0.0, 11.0, 9.0, 1.0, 1), "a price is not positive"),
    ((T0 + 60, 10.0, float("inf"), 9.0, 10.0, 9.0, 1.0, 1), "a price is not a finite number"),
    ((T0 + 60, float("nan"), 11.0, 9.0, 10.0, 9.0, 1.0, 1), "a price is not a finite number"),
    ((T0 + 60, 10.0, 11.0, 9.0, 10.0, 9.0, -1.0, 1), "volume is negative"),
    ((T0 + 60, 10.0, 11.0, 9.0, 10.0, 9.0, float("nan"), 1), "volume is not a finite number"),
    ((T0 + 60, 10.0, 11.0, 9.0, 10.0, 9.0, 1.0, -1), "trade count is not a whole number from 0 to 2147483647"),
    ((T0 + 60, 10.0, 11.0, 9.0, 10.0, 9.0, 1.0, 2**31), "trade count is not a whole number from 0 to 2147483647"),
    ((T0 + 61, 10.0, 11.0, 9.0, 10.0, 9.0, 1.0, 1), "time is not a multiple of 60 s"),
]


class TestBadRows:
    @pytest.mark.parametrize(("bad", "reason"), BAD)
    def test_a_bad_row_is_rejected_and_its_time_is_not_answered_for(self, bad: OhlcRow, reason: str) -> None:
        reply = read(row(0), bad, row(2), row(3))
        assert (minutes(reply), times(reply), int(reply.candles["trade_count"].sum())) == ([(0, 1), (2, 3)], [0, 2], 6)
        assert reasons(reply) == [(reason, 1)]
        assert reply.rejects[0].text.startswith(f"{bad[0]},")

    def test_a_time_before_kraken_is_rejected(self) -> None:
        reply = read_ohlc([(60, *row(0)[1:]), row(0), row(1)], T0, Interval.M1, ASKED)
        assert [(reject.reason, reject.time) for reject in reply.rejects] == [("time is before 2011", 60)]
        assert minutes(reply) == [(0, 1)]

    @pytest.mark.parametrize(
        "liar",
        [
            (T0 + 60, 10.0, 10.0, 10.0, 10.0, 0.0, 5.0, 0),
            (T0 + 60, 10.0, 11.0, 9.0, 10.0, 0.0, 0.0, 0),
        ],
    )
    def test_a_row_without_trades_that_moves_is_not_taken_for_quiet(self, liar: OhlcRow) -> None:
        reply = read(row(0), liar, row(2), row(3))
        assert minutes(reply) == [(0, 1), (2, 3)]
        assert reasons(reply) == [("a trade count of 0 has a volume, or prices that differ", 1)]

    def test_a_row_that_is_earlier_than_one_before_is_rejected(self) -> None:
        reply = read(row(0), row(2), row(1), row(3), row(4))
        assert (minutes(reply), times(reply)) == ([(0, 1), (2, 4)], [0, 2, 3])
        assert reasons(reply) == [("the time is not later than that of the previous row", 1)]

    def test_two_rows_of_one_time_are_both_rejected(self) -> None:
        reply = read(row(0), row(1, 10.0), row(1, 20.0), row(2), row(3))
        assert (minutes(reply), times(reply)) == ([(0, 1), (2, 3)], [0, 2])
        assert reasons(reply) == [("the reply has two rows for the same time", 1)] * 2

    def test_rows_the_wrong_way_round_answer_for_nothing_that_could_be_current(self) -> None:
        reply = read_ohlc([row(3), row(2), row(1), row(0)], T0 + 120, Interval.M1, ASKED)
        assert (reply.listed, reply.candles.height, reply.committed) == ((), 0, T0)

    def test_rejects_are_told_in_the_order_of_the_reply(self) -> None:
        reply = read(row(0), row(1, -5.0), row(2), row(3, offset=7), row(4), row(5))
        assert [minute for _, minute in reasons(reply)] == [1, 3]
        assert minutes(reply) == [(0, 1), (2, 3), (4, 5)]


@given(
    rows=st.lists(
        st.tuples(
            st.integers(-2, 12).map(lambda minute: T0 + 60 * minute) | st.integers(T0 - 100, T0 + 700),
            *[st.sampled_from([10.0, 10.0, 10.0, 11.0, 0.0, float("nan"), float("inf")])] * 5,
            st.sampled_from([0.0, 2.5, -1.0, float("nan")]),
            st.sampled_from([0, 1, 3, -1, 2**40]),
        ),
        min_size=1,
        max_size=12,
    ),
    last=st.integers(T0 - 120, T0 + 800) | st.sampled_from([0, T0 * 1_000]),
)
def test_whatever_a_reply_says_only_good_rows_before_the_last_one_are_answered_for(
    rows: list[OhlcRow], last: int
) -> None:
    reply = read_ohlc(rows, last, Interval.M1, ASKED)
    listed = {start for span in reply.listed for start in range(span.start, span.end, 60)}
    assert reply.committed <= rows[-1][0]
    assert reply.committed % 60 == 0
    assert listed <= {each[0] for each in rows[:-1] if each[0] + 60 <= reply.committed}
    assert listed.isdisjoint(Interval.M1.floor(reject.time or 0) for reject in reply.rejects if reject.time in listed)
    assert {value[0] for value in values(reply.candles)} <= listed
    assert int(reply.candles["trade_count"].sum()) == sum(value[-1] for value in values(reply.candles))
    said = {each[0]: each for each in rows}
    for time, *prices, volume, count in values(reply.candles):
        assert (*prices, volume, count) == (*said[int(time)][1:5], said[int(time)][6], said[int(time)][7])
