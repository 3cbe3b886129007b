"""Reconciliation on small worlds: six hours of trades, whose candles are then told wrongly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.contradictions import Findings, IntervalEvidence, Side, one_candle
from kraken_pipeline.coverage.equality import differences
from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Span, Spans, clip, normalise, subtract
from kraken_pipeline.coverage.reconcile import reconcile
from kraken_pipeline.market.candle import CANDLE_SCHEMA, Source, finished
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.resample import fold_trades, resample
from kraken_pipeline_tests.support.samples import DAY, candle, frame, real_file

pytestmark = pytest.mark.slow

M1, M5, M15, H1, H4, H12, D1 = (Interval(each) for each in (1, 5, 15, 60, 240, 720, 1440))
CHAIN = (M1, M5, M15, H1)
NOTHING = Proven()
START = 1_700_006_400  # a midnight
WHOLE = Span(START, START + 6 * 3_600)
RECONCILED, VERIFIED = Proven((WHOLE,)), Proven((WHOLE,), (WHOLE,))
World = dict[Interval, pl.DataFrame]
TRADES = st.lists(
    st.tuples(st.integers(0, WHOLE.seconds - 1), st.integers(1, 50), st.integers(1, 9)), min_size=1, max_size=60
)


def world(trades: Iterable[tuple[int, int, int]], source: Source = Source.CSV) -> World:
    """The candles of some trades: second, price, volume."""
    rows = sorted(trades)
    ticks = pl.DataFrame(
        {
            "time": [(START + second) * 1_000_000 for second, _, _ in rows],
            "price": [float(price) for _, price, _ in rows],
            "volume": [volume / 8 for _, _, volume in rows],
        }
    ).with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")))
    minutes = pl.concat(list(fold_trades([ticks])))
    return {each: finished(minutes if each is M1 else resample(minutes, each), source) for each in CHAIN}


def steady(every: int = 60) -> World:
    """A trade a minute, or less often, of a price that never comes back."""
    return world((second, 1 + second // every, 1) for second in range(0, WHOLE.seconds, every))


def told(
    candles: Mapping[Interval, pl.DataFrame],
    *,
    voices: Mapping[Interval, IntervalEvidence] | None = None,
    tried: Mapping[tuple[Interval, Interval, int], object] | None = None,
    doubted: Spans = (WHOLE,),
    proven: Mapping[Interval, Proven] | None = None,
) -> Findings:
    known = {each: IntervalEvidence((WHOLE,), (WHOLE,)) for each in candles} | dict(voices or {})

    def read(interval: Interval, start: int, end: int) -> pl.DataFrame:
        seconds = candles[interval]["time"].dt.epoch("s")
        return candles[interval].filter((seconds >= start) & (seconds < end))

    return reconcile(known, read, doubted, tried or {}, proven or {})  # type: ignore[arg-type]


def without(candles: pl.DataFrame, time: int) -> pl.DataFrame:
    return candles.filter(pl.col("time").dt.epoch("s") != time)


def changed(candles: pl.DataFrame, time: int, **values: pl.Expr) -> pl.DataFrame:
    is_one = pl.col("time").dt.epoch("s") == time
    return candles.with_columns(
        pl.when(is_one).then(value).otherwise(pl.col(name)).alias(name) for name, value in values.items()
    ).cast(CANDLE_SCHEMA)


def refuted(found: Findings) -> dict[Interval, Spans]:
    spans: dict[Interval, list[Span]] = {}
    for _, parts in found.refuted:
        for interval, span in parts:
            spans.setdefault(interval, []).append(span)
    return {interval: normalise(each) for interval, each in spans.items()}


@given(TRADES)
def test_candles_of_the_same_trades_prove_each_other_and_nothing_contradicts(
    trades: list[tuple[int, int, int]],
) -> None:
    found = told(world(trades))
    assert (found.contradictions, found.stale) == ([], {})
    assert found.proven == {M1: RECONCILED} | dict.fromkeys(CHAIN[1:], VERIFIED)


@given(TRADES, st.sampled_from(CHAIN), st.integers(0, 10_000))
def test_a_candle_that_is_missing_anywhere_is_noticed_where_it_is(
    trades: list[tuple[int, int, int]], interval: Interval, number: int
) -> None:
    true = world(trades)
    times = true[interval]["time"].dt.epoch("s").to_list()
    time = times[number % len(times)]
    found = told({**true, interval: without(true[interval], time)})
    (only,) = found.contradictions
    assert time in only.span
    assert interval in (only.fine, only.coarse)
    assert only.short is (Side.FINE if only.fine is interval else Side.COARSE)
    spans = refuted(found)
    assert all(time in span for each in spans.values() for span in each)
    # The coarser candle alone where it is short; where minutes are, they and nothing else, as nothing is below them.
    assert set(spans) == {interval}


@given(TRADES, st.data())
def test_what_is_healed_bottom_up_ends_where_nothing_contradicts(
    trades: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    """Several coarser candles are lost at once; each round takes back what is short and makes it of finer ones."""
    true = world(trades)
    candles = dict(true)
    for interval in CHAIN[1:]:
        times = true[interval]["time"].dt.epoch("s").to_list()
        for time in data.draw(st.lists(st.sampled_from(times), max_size=4, unique=True)):
            candles[interval] = without(candles[interval], time)
    for _ in range(2 * len(CHAIN)):
        found = told(candles)
        for interval, spans in {**refuted(found), **found.stale}.items():
            finer = CHAIN[CHAIN.index(interval) - 1]
            made = finished(resample(candles[finer], interval), Source.RESAMPLED)
            seconds = pl.col("time").dt.epoch("s")
            within = pl.any_horizontal(seconds.is_between(each.start, each.end, closed="left") for each in spans)
            candles[interval] = pl.concat([candles[interval].filter(~within), made.filter(within)]).sort("time")
    assert told(candles).contradictions == []
    assert all(candles[each].drop("source").equals(true[each].drop("source")) for each in CHAIN)


def test_a_coarser_candle_with_fewer_trades_is_refuted_alone() -> None:
    candles = steady()
    candles[M15] = changed(candles[M15], START + 900, trade_count=pl.col("trade_count") - 3)
    found = told(candles)
    assert refuted(found) == {M15: (Span(START + 900, START + 1_800),)}
    ((each, _),) = found.refuted
    assert (each.fine, each.coarse, each.short, each.fine_trades, each.coarse_trades) == (M5, M15, Side.COARSE, 15, 12)


def test_where_all_finer_ones_are_short_they_are_refuted_together_within_the_coarser_candle() -> None:
    candles = steady()
    hole = pl.col("time").dt.epoch("s").is_between(START + 3_900, START + 4_499)
    short = {each: candles[each].filter(~hole) for each in (M1, M5)}
    short[M15] = finished(resample(short[M5], M15), Source.CSV)
    found = told({**candles, **short})
    hour = Span(START + 3_600, START + 7_200)
    assert refuted(found) == {M1: (hour,), M5: (hour,), M15: (hour,)}


def test_what_is_refuted_below_is_healed_first_and_takes_nothing_else_with_it() -> None:
    """As of XBTUSD on 2024-03-31: several intervals lack the same time, and the one above them lacks nothing."""
    candles = steady()
    for each in (M5, M15):
        candles[each] = without(candles[each], START + 3_600)
    assert refuted(told(candles)) == {M5: (Span(START + 3_600, START + 3_900),)}


def test_minutes_that_trades_were_paged_for_are_never_refuted() -> None:
    candles = steady()
    candles[M5] = changed(candles[M5], START + 300, trade_count=pl.col("trade_count") + 2)
    by_trades = {M1: IntervalEvidence((WHOLE,), (WHOLE,), (WHOLE,))}
    found = told(candles, voices=by_trades)
    assert refuted(found) == {}
    assert [(each.fine, each.coarse, each.short) for each in found.conflicts] == [
        (M1, M5, Side.FINE),
        (M5, M15, Side.COARSE),
    ]
    assert [each.outlier for each in found.conflicts] == [M5, M5]


def test_a_spike_is_a_conflict_of_which_the_others_name_the_outlier() -> None:
    candles = steady()
    candles[M15] = changed(candles[M15], START + 900, high=pl.col("high") * 10)
    found = told(candles)
    assert refuted(found) == {}
    assert {(each.fine, each.coarse, each.outlier) for each in found.conflicts} == {(M5, M15, M15), (M15, H1, M15)}
    assert {each.short for each in found.conflicts} == {None}


def test_a_coarser_candle_is_not_refuted_on_the_word_of_one_in_conflict() -> None:
    candles = steady()
    candles[M5] = changed(candles[M5], START + 300, trade_count=pl.col("trade_count") + 2)
    found = told(candles, voices={M1: IntervalEvidence((WHOLE,), (WHOLE,), (WHOLE,))})
    assert M15 not in refuted(found)


def test_the_same_contradiction_is_refuted_once_and_a_conflict_after_that() -> None:
    candles = steady()
    candles[M15] = changed(candles[M15], START + 900, trade_count=pl.col("trade_count") - 3)
    ((each, _),) = told(candles).refuted
    key = (each.fine, each.coarse, each.span.start)
    again = told(candles, tried={key: each.values})
    assert (again.refuted, [other.values for other in again.conflicts][:1]) == ([], [each.values])
    candles[M15] = changed(candles[M15], START + 900, trade_count=pl.col("trade_count") + 1)
    assert len(told(candles, tried={key: each.values}).refuted) == 1


def resampled(candles: World, interval: Interval) -> tuple[World, dict[Interval, IntervalEvidence]]:
    made = candles[interval].with_columns(pl.lit(Source.RESAMPLED.value, CANDLE_SCHEMA["source"]).alias("source"))
    return {**candles, interval: made}, {interval: IntervalEvidence((WHOLE,), ())}


def test_what_was_resampled_is_proven_as_far_as_what_it_was_made_of() -> None:
    two, voices = resampled({M1: steady()[M1], M5: steady()[M5]}, M5)
    assert told(two, voices=voices).proven == {M1: NOTHING, M5: NOTHING}
    # A third that has a voice of its own is verified by both of them, whose own prices nothing compares.
    three = {**two, M15: steady()[M15]}
    assert told(three, voices=voices).proven == {M1: RECONCILED, M5: RECONCILED, M15: VERIFIED}
    by_trades = {**voices, M1: IntervalEvidence((WHOLE,), (WHOLE,), (WHOLE,))}
    made_of_trades = {**two, M1: finished(two[M1].drop("source", "release"), Source.TRADES)}
    assert told(made_of_trades, voices=by_trades).proven == dict.fromkeys((M1, M5), VERIFIED)


def test_a_wrong_low_that_is_not_the_lowest_is_reconciled_and_not_verified() -> None:
    candles = steady()
    first, last = START + 3_600, START + 4_500
    candles[M15] = changed(candles[M15], last, low=pl.col("open") - 7)  # that of the hour's first quarter is lower
    found = told({M15: candles[M15], H1: candles[H1]})
    assert found.contradictions == []
    assert found.proven == {M15: RECONCILED, H1: VERIFIED}
    # With the five minutes it is found, and with the hour of them the quarters around it are verified.
    found = told({each: candles[each] for each in (M5, M15, H1)})
    (only,) = (each for each in found.contradictions if each.fine is M5)
    assert (only.coarse, only.span.start) == (M15, last)
    assert Span(first, last) in found.proven[M15].verified or Span(START, last) in found.proven[M15].verified
    assert subtract((Span(last, last + 900),), found.proven[M15].verified) == (Span(last, last + 900),)


def test_minutes_of_another_source_are_not_verified_by_the_trades_that_they_were_not_made_of() -> None:
    minutes = steady()[M1]
    voices = {M1: IntervalEvidence((WHOLE,), (WHOLE,), (WHOLE,))}
    assert told({M1: minutes}, voices=voices).proven == {M1: RECONCILED}
    made = minutes.with_columns(
        pl.when(pl.col("time").dt.epoch("s") == START + 60)
        .then(pl.lit(Source.CSV.value))
        .otherwise(pl.lit(Source.TRADES.value))
        .cast(CANDLE_SCHEMA["source"])
        .alias("source")
    )
    other = Span(START + 60, START + 120)
    assert told({M1: made}, voices=voices).proven == {M1: Proven((WHOLE,), subtract((WHOLE,), (other,)))}
    # What trades were compared with, and found to be the same, is.
    voices = {M1: IntervalEvidence((WHOLE,), (WHOLE,), (WHOLE,), (other,))}
    assert told({M1: made}, voices=voices).proven == {M1: VERIFIED}


def test_what_a_second_source_says_as_well_is_verified_where_it_is_covered() -> None:
    candles = {H1: steady()[H1]}
    first, third = Span(START, START + 3_600), Span(START + 7_200, START + 10_800)
    voices = {H1: IntervalEvidence((Span(START, START + 7_200),), (WHOLE,), (), (first, third))}
    assert told(candles, voices=voices).proven == {H1: Proven((first,), (first,))}


def test_what_two_sources_say_and_another_interval_contradicts_is_not_verified() -> None:
    candles = steady()
    candles[M15] = changed(candles[M15], START + 900, high=pl.col("high") * 10)
    voices = {each: IntervalEvidence((WHOLE,), (WHOLE,), (), (WHOLE,)) for each in (M15, H1)}
    found = told({M15: candles[M15], H1: candles[H1]}, voices=voices)
    assert len(found.conflicts) == 1
    rest = subtract((WHOLE,), (Span(START, START + 3_600),))
    assert found.proven == dict.fromkeys((M15, H1), Proven(rest, rest))


def test_what_was_resampled_from_verified_candles_is_verified_beyond_what_any_other_interval_reaches() -> None:
    candles, voices = resampled(steady(), H1)
    assert told(candles, voices=voices).proven == {M1: RECONCILED} | dict.fromkeys(CHAIN[1:], VERIFIED)
    # Of candles that are reconciled only, it holds prices that nothing compared.
    found = told(
        {M15: candles[M15], H1: candles[H1]}, voices=voices, doubted=(), proven={M15: RECONCILED, H1: RECONCILED}
    )
    assert found.proven == {M15: RECONCILED, H1: RECONCILED}
    found = told({M15: candles[M15], H1: candles[H1]}, voices=voices, proven={M15: VERIFIED})
    assert found.proven == {M15: NOTHING, H1: NOTHING}, "both are compared anew, and nothing else has a voice"


@given(TRADES, st.sampled_from(CHAIN), st.integers(0, 10_000))
def test_no_candle_with_a_wrong_value_is_verified(
    trades: list[tuple[int, int, int]], interval: Interval, number: int
) -> None:
    """Whatever is wrong with one candle in any interval, by as much as hides within its coarser one or by more."""
    true = world(trades)
    times = true[interval]["time"].dt.epoch("s").to_list()
    time = times[number % len(times)]
    low = pl.col("low") * (0.5 if number % 2 else 0.999)
    found = told({**true, interval: changed(true[interval], time, low=low)})
    wrong = Span(time, time + interval.seconds)
    assert subtract((wrong,), found.proven[interval].verified) == (wrong,)
    for each in CHAIN:
        assert subtract(found.proven[each].verified, found.proven[each].reconciled) == ()


def test_what_was_resampled_from_candles_that_have_changed_since_is_stale_and_no_contradiction() -> None:
    candles, voices = resampled(steady(), M15)
    candles[M15] = changed(candles[M15], START + 900, trade_count=pl.col("trade_count") + 5)
    found = told(candles, voices=voices)
    assert (found.contradictions, found.stale) == ([], {M15: (Span(START + 900, START + 1_800),)})


def test_a_row_of_a_file_has_a_voice_also_where_the_file_does_not_answer() -> None:
    """The last row of a loose file: only resampling covers it, but it says what it says."""
    candles = steady()
    candles[M15] = changed(candles[M15], START + 900, trade_count=pl.col("trade_count") + 5)
    found = told(candles, voices={M15: IntervalEvidence((WHOLE,), ())})
    assert found.stale == {}
    assert [(each.fine, each.coarse) for each in found.contradictions][:1] == [(M5, M15)]


def test_quiet_time_is_proven_like_any_other() -> None:
    candles = steady(7_200)
    assert told(candles).proven == {M1: RECONCILED} | dict.fromkeys(CHAIN[1:], VERIFIED)


def test_only_what_both_cover_whole_is_compared() -> None:
    candles = steady()
    part = Span(START + 600, START + 4_500)
    candles[M1] = candles[M1].filter(pl.col("time").dt.epoch("s").is_between(part.start, part.end - 1))
    found = told({M1: candles[M1], H1: candles[H1]}, voices={M1: IntervalEvidence((part,), (part,))})
    assert (found.tested, found.contradictions) == ({}, [])
    found = told({M1: candles[M1], M5: candles[M5]}, voices={M1: IntervalEvidence((part,), (part,))})
    assert (found.tested, found.contradictions) == ({M5: (part,)}, [])


def test_where_the_next_finer_interval_has_nothing_a_still_finer_one_is_asked() -> None:
    candles = steady()
    found = told({M1: candles[M1], H1: without(candles[H1], START + 3_600)})
    assert refuted(found) == {H1: (Span(START + 3_600, START + 7_200),)}


def test_what_was_proven_before_stays_and_counts_where_only_a_part_is_compared_again() -> None:
    candles, voices = resampled(steady(), H1)
    before = {M1: RECONCILED} | dict.fromkeys(CHAIN[1:], VERIFIED)
    part = (Span(START + 3_600, START + 3_900),)
    assert told(candles, voices=voices, doubted=part, proven=before).proven == before


# --- shifted times


def moved(candles: pl.DataFrame, hours: int) -> pl.DataFrame:
    return candles.with_columns(pl.col("time") + pl.duration(hours=hours))


@pytest.mark.parametrize(("interval", "hours"), [(M15, 1), (M15, -1), (M5, 1), (M1, 1)])
def test_a_file_whose_times_are_shifted_is_one_conflict_and_nothing_is_refuted(interval: Interval, hours: int) -> None:
    candles = steady()
    candles[interval] = moved(candles[interval], hours)
    found = told(candles)
    assert (refuted(found), found.stale) == ({}, {})
    assert {interval} == {each.outlier for each in found.conflicts if each.shifted is not None}
    sign = {-hours if each.fine is interval else hours for each in found.conflicts if each.shifted is not None}
    assert {each.shifted for each in found.conflicts if each.shifted is not None} == {next(iter(sign)) * 3_600} or len(
        sign
    ) == 2


DAYS = Span(START, START + 10 * DAY)


def days_of(every: int, price: int | None = None) -> World:
    """Ten days with a trade every so many seconds, of a price that never comes back or of one that never changes."""
    made = world((second, price or 1 + second // every, 1) for second in range(0, DAYS.seconds, every))
    return {**made, H4: finished(resample(made[H1], H4), Source.CSV), D1: finished(resample(made[H1], D1), Source.CSV)}


def without_span(candles: pl.DataFrame, span: Span) -> pl.DataFrame:
    return candles.filter(~pl.col("time").dt.epoch("s").is_between(span.start, span.end - 1))


def told_of_days(candles: World, **more: object) -> Findings:
    voices = {each: IntervalEvidence((DAYS,), (DAYS,)) for each in candles}
    return told(candles, voices=voices, doubted=(DAYS,), **more)  # type: ignore[arg-type]


def within(start: int, count: int) -> pl.Expr:
    """Whether a candle starts in so many hours."""
    return pl.col("time").dt.epoch("s").is_between(start, start + count * 3_600 - 1)


def late(candles: pl.DataFrame, start: int, count: int) -> pl.DataFrame:
    """Hours of which so many are the candles of an hour before."""
    later = moved(candles, 1).filter(within(start, count))
    return pl.concat([candles.filter(~within(start, count)), later]).sort("time")


def wrong(candles: pl.DataFrame, start: int, count: int) -> pl.DataFrame:
    """Hours of which so many have a price that no other has."""
    high = pl.when(within(start, count)).then(pl.col("high") + 0.5).otherwise(pl.col("high"))
    return candles.with_columns(high.alias("high"))


@pytest.mark.parametrize(("shifted", "others", "is_run"), [(11, 0, False), (12, 0, True), (6, 6, False), (8, 6, True)])
def test_twelve_candles_that_differ_are_a_shifted_file_if_most_agree_once_they_are_moved(
    shifted: int, others: int, is_run: bool
) -> None:
    candles = days_of(900)
    begin = START + 50 * 3_600
    hours = wrong(late(candles[H1], begin, shifted), begin + shifted * 3_600, others)
    found = told_of_days({M15: candles[M15], H1: hours})
    assert [each.shifted for each in found.conflicts if each.shifted is not None] == ([3_600] if is_run else [])


@pytest.mark.parametrize("first_hour", [0, 100, 240 - 40])
@pytest.mark.parametrize("hours", [12, 13, 24, 40])
@pytest.mark.parametrize("lacking", [M15, H1])
@pytest.mark.parametrize("price", [None, 7])
def test_a_hole_is_no_shifted_file_wherever_it_is_and_is_refuted_and_nothing_else(
    first_hour: int, hours: int, lacking: Interval, price: int | None
) -> None:
    """Also where each candle is like the next, so that those from beside the hole would fit into it."""
    candles = days_of(900, price)
    hole = Span(START + first_hour * 3_600, START + (first_hour + hours) * 3_600)
    found = told_of_days({**candles, lacking: without_span(candles[lacking], hole)})
    assert found.conflicts == []
    assert refuted(found) == {lacking: (hole,)}


def test_absent_against_absent_is_no_agreement_where_minutes_are_known_of_the_hole_only() -> None:
    """As after the trades of a day that a file lacks: shifted by 20 hours, most of both would be absent."""
    candles = days_of(300)
    hole = Span(START + 3 * DAY, START + 4 * DAY)
    minutes = candles[M1].filter(pl.col("time").dt.epoch("s").is_between(hole.start, hole.end - 1))
    voices = {H1: IntervalEvidence((DAYS,), (DAYS,)), M1: IntervalEvidence((hole,), (hole,), (hole,))}
    lacking = without_span(candles[H1], hole)
    found = told({M1: minutes, H1: lacking}, voices=voices, doubted=(DAYS,))
    assert found.conflicts == []
    assert refuted(found) == {H1: (hole,)}


@pytest.mark.parametrize("hours", [3, -20])
def test_a_shifted_file_of_a_market_that_is_mostly_quiet_is_one_too(hours: int) -> None:
    seconds = [number * number * 700 for number in range(40) if number * number * 700 < DAYS.seconds]
    candles = world((second, 1 + number, 1) for number, second in enumerate(seconds))
    found = told_of_days({M15: candles[M15], H1: moved(candles[H1], hours)})
    assert refuted(found) == {}
    assert [each.shifted for each in found.conflicts] == [hours * 3_600]


def test_a_shifted_file_with_a_hole_in_it_is_shifted() -> None:
    candles = days_of(900)
    hole = Span(START + 100 * 3_600, START + 124 * 3_600)
    found = told_of_days({M15: candles[M15], H1: moved(without_span(candles[H1], hole), 3)})
    assert [(each.shifted, clip((each.span,), DAYS)) for each in found.conflicts] == [(3 * 3_600, (DAYS,))]


def test_a_side_without_a_candle_is_refuted_as_often_as_something_answers_for_it() -> None:
    """It is a gap until something fills it: two accounts that a person could choose between there are none."""
    candles = steady()
    candles[M15] = without(candles[M15], START + 900)
    ((each, _),) = told(candles).refuted
    again = told(candles, tried={(each.fine, each.coarse, each.span.start): each.values})
    assert (refuted(again), again.conflicts) == ({M15: (each.span,)}, [])


def test_a_candle_that_is_missing_is_no_conflict_also_where_the_finer_ones_are_in_one() -> None:
    candles = steady()
    candles[M5] = changed(candles[M5], START + 300, high=pl.col("high") * 10)
    candles[M15] = without(candles[M15], START)
    found = told(candles)
    assert refuted(found) == {M15: (Span(START, START + 900),)}
    assert {(each.fine, each.coarse) for each in found.conflicts} == {(M1, M5)}


# --- comparing


def test_frames_differ_where_any_price_or_count_does_and_volume_by_more_than_a_millionth() -> None:
    left = frame([candle(START), candle(START + 60), candle(START + 120, volume=1e6), candle(START + 240)])
    right = frame([candle(START), candle(START + 60, 10.1), candle(START + 120, volume=1e6 + 0.9), candle(START + 180)])
    found = differences(left, right)
    assert found["time"].dt.epoch("s").to_list() == [START + 60, START + 180, START + 240]
    assert found["open"].to_list() == [10.0, None, 10.0]
    assert found["open_right"].to_list() == [10.1, 10.0, None]
    more = differences(
        left, frame([*[candle(START), candle(START + 60)], candle(START + 120, volume=1e6 + 1.1), candle(START + 240)])
    )
    assert more["time"].dt.epoch("s").to_list() == [START + 120]


@pytest.mark.parametrize("name", ["open", "high", "low", "close", "volume", "trade_count", None])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_frames_of_the_same_times_differ_in_the_candles_of_which_one_value_does(name: str | None, count: int) -> None:
    left = frame([candle(START + 60 * number, 7.5, volume=0.1 + 0.2, trades=4) for number in range(count)])
    right = left.with_columns(volume=left["volume"] - 5e-17)  # the noise of addition
    if name is not None and count:
        last = pl.int_range(pl.len()) == count - 1
        right = right.with_columns(
            pl.when(last).then(pl.col(name) * 3).otherwise(pl.col(name)).cast(left.schema[name]).alias(name)
        )
    found = differences(left, right)
    expected = [START + 60 * (count - 1)] if name is not None and count else []
    assert found["time"].dt.epoch("s").to_list() == expected
    assert found.schema == differences(left, right.clear()).schema, "whether there is a difference or none"


def test_a_value_that_is_missing_on_both_sides_is_a_difference() -> None:
    rows = frame([candle(START)]).with_columns(volume=pl.lit(None, pl.Float64))
    assert differences(rows, rows).height == 1


def test_candles_as_one() -> None:
    assert one_candle(frame([])) is None
    assert one_candle(frame([candle(START, 3.0, trades=2), candle(START + 60, 5.0, volume=0.5)])) == (
        3.0,
        5.0,
        3.0,
        5.0,
        1.5,
        7,
    )


# --- Kraken's own files


def read_csv(name: str) -> pl.DataFrame:
    names = ["time", "open", "high", "low", "close", "volume", "trade_count"]
    rows = pl.read_csv(
        real_file(name), has_header=False, new_columns=names, schema_overrides=[pl.Int64] + [pl.Float64] * 6
    )
    candles = rows.with_columns(
        (pl.col("time") * 1_000_000).cast(pl.Datetime("us", "UTC")), pl.col("trade_count").cast(pl.Int32)
    )
    return finished(candles, Source.CSV)


@pytest.mark.real_files
def test_any_half_day_that_is_deleted_from_a_real_file_contradicts_exactly_its_day() -> None:
    halves, days = read_csv("XBTCAD_720.csv"), read_csv("XBTCAD_1440.csv")
    seconds = halves["time"].dt.epoch("s").to_list()
    reach = Span(D1.ceil(seconds[0]), D1.floor(seconds[-1]))
    voices = {each: IntervalEvidence((reach,), (reach,)) for each in (H12, D1)}
    found = told({H12: halves, D1: days}, voices=voices, doubted=(reach,))
    assert found.proven == {H12: Proven((reach,)), D1: Proven((reach,), (reach,))}
    for time in seconds[1:-1:40]:
        found = told({H12: without(halves, time), D1: days}, voices=voices, doubted=(reach,))
        day = Span(D1.floor(time), D1.floor(time) + DAY)
        assert [(each.span, each.short) for each in found.contradictions] == [(day, Side.FINE)]
        rest = subtract((reach,), (day,))
        assert found.proven[D1] == Proven(rest, rest)
