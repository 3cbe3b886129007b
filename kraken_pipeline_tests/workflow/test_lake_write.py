"""Where a second source says the same as a first one: what the catalog holds of it after writes in any order."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import Span, Spans
from kraken_pipeline.market.candle import Source, are_independent, seconds_of
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake import stored_series
from kraken_pipeline.storage.lake.writer import CandleWriter
from kraken_pipeline.storage.records import proof_records, publications
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline_tests.support.homes import settings_of, spans
from kraken_pipeline_tests.support.lakes import move_and_die
from kraken_pipeline_tests.support.samples import CandleRow, at, candle, frame

pytestmark = pytest.mark.slow

HOUR = 3_600
START = at("2024-01-01")
HOURS, MINUTES = Series("XBTUSD", Interval.H1), Series("XBTUSD", Interval.M1)
WHOLE = Span(START, START + 10 * HOUR)
QUIET = 4
CSV, TRADES, RESAMPLED, OHLC = Source


def hours(source: Source, *, but: Iterable[int] = (), closing: dict[int, float] | None = None) -> list[CandleRow]:
    """A candle an hour from `source`, but for some, and with another price in some."""
    prices = closing or {}
    return [
        candle(START + number * HOUR, prices.get(number, 10.0 + number), source=source)
        for number in range(10)
        if number not in {QUIET, *but}
    ]


def says(
    stores: Stores, rows: Sequence[CandleRow], source: Source, *, series: Series = HOURS, span: Span = WHOLE
) -> None:
    """A source answers for a span."""
    with stores.locks.series([series]):
        writer = CandleWriter(stores.lake, series, origin=str(source), now=START)
        if rows:
            writer.add(frame(rows))
        commit(stores, [LakeWrite(writer.finish(), (Grant(span, source, START),))], START)


def confirmed(stores: Stores, series: Series = HOURS) -> Spans:
    with stores.catalog.read() as connection:
        return proof_records.confirmed(connection).get(series, ())


def hour(*bounds: tuple[int, int]) -> Spans:
    return spans(*((START + first * HOUR, START + last * HOUR) for first, last in bounds))


@pytest.mark.parametrize("order", [(OHLC, CSV), (CSV, OHLC)])
def test_what_two_sources_say_alike_is_confirmed_with_the_quiet_in_between(
    stores: Stores, order: Sequence[Source]
) -> None:
    first = hours(order[0], but=(1,))
    second = hours(order[1], but=(9,), closing={6: 3.0})
    says(stores, first, order[0])
    assert confirmed(stores) == ()
    says(stores, second, order[1])
    # Not the hour that either lacks, nor the one of which they say different prices with as many trades.
    assert confirmed(stores) == hour((0, 1), (2, 6), (7, 9))
    with stores.catalog.read() as connection:
        (doubt,) = publications.marked(connection)["XBTUSD"]
    assert doubt.span == WHOLE, "so that reconciliation sees what was confirmed"


@pytest.mark.parametrize("source", [CSV, OHLC, RESAMPLED])
def test_the_same_source_again_confirms_nothing_and_no_more_does_resampling(stores: Stores, source: Source) -> None:
    says(stores, hours(CSV), CSV)
    if source is OHLC:
        says(stores, hours(OHLC, closing=dict.fromkeys(range(10), 1.0)), OHLC)
        assert confirmed(stores) == ()
    says(stores, hours(source, closing={2: 1.0}) if source is OHLC else hours(source), source)
    assert confirmed(stores) == (hour((0, 2), (3, 10)) if source is OHLC else ())


def test_only_what_both_answer_for_is_confirmed(stores: Stores) -> None:
    says(stores, hours(CSV), CSV, span=Span(START, START + 6 * HOUR))
    says(stores, hours(OHLC), OHLC, span=Span(START + 2 * HOUR, START + 10 * HOUR))
    assert confirmed(stores) == hour((2, 6))


def test_a_candle_that_changes_is_confirmed_no_more(stores: Stores) -> None:
    says(stores, hours(OHLC), OHLC)
    says(stores, hours(CSV), CSV)
    assert confirmed(stores) == (WHOLE,)
    more = [candle(START + 3 * HOUR, 13.0, trades=6, source=TRADES)]
    says(stores, more, TRADES, span=Span(START + 3 * HOUR, START + 4 * HOUR))
    assert confirmed(stores) == hour((0, 3), (4, 10))


def test_a_file_that_was_moved_before_its_writer_died_does_not_confirm_itself(stores: Stores) -> None:
    says(stores, hours(OHLC), OHLC)
    better = [candle(row[0], 20.0, trades=9) for row in hours(CSV)]
    with stores.locks.series([HOURS]):
        writer = CandleWriter(stores.lake, HOURS, origin="CSV", now=START)
        writer.add(frame(better))
        move_and_die(stores.lake, writer.finish())
    says(stores, better, CSV)
    assert confirmed(stores) == ()


@pytest.mark.parametrize("most_in_one_file", [0, 100])
def test_minutes_that_a_source_has_none_of_are_not_confirmed_by_it(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, most_in_one_file: int
) -> None:
    monkeypatch.setattr(stored_series, "WHOLE_ROWS", most_in_one_file)
    turn = at("2025-01-01")
    span = Span(turn - 300, turn + 300)

    def minutes(source: Source, *numbers: int) -> list[CandleRow]:
        return [candle(turn + 60 * number, 10.0 + number, source=source) for number in numbers]

    says(stores, minutes(OHLC, -3, -2, 0, 1, 3), OHLC, series=MINUTES, span=span)
    says(stores, minutes(CSV, 0, 1, 3), CSV, series=MINUTES, span=span)
    # Files of years are compared one by one, and in this one of the year before there is no candle that both have.
    start = turn if most_in_one_file == 0 else turn - 60
    assert confirmed(stores, MINUTES) == (Span(start, turn + 300),)


ANSWERS = st.lists(
    st.tuples(
        st.sampled_from([CSV, TRADES, OHLC]),
        st.lists(st.tuples(st.integers(0, 5), st.sampled_from([1.0, 2.0]), st.integers(1, 2)), max_size=6),
        st.tuples(st.integers(0, 5), st.integers(1, 6)),
    ),
    min_size=2,
    max_size=4,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answers=ANSWERS)
def test_whatever_is_confirmed_was_said_by_two_that_know_nothing_of_each_other(
    answers: Sequence[tuple[Source, list[tuple[int, float, int]], tuple[int, int]]],
    empty_home: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = Path(shutil.copytree(empty_home, tmp_path_factory.mktemp("any") / "home"))
    told: list[tuple[Source, dict[int, CandleRow], Span]] = []
    with opened(settings_of(home)) as stores:
        for source, listed, (first, length) in answers:
            rows = {
                START + number * HOUR: candle(START + number * HOUR, price, trades=trades, source=source)
                for number, price, trades in sorted(listed)
            }
            span = Span(START + first * HOUR, START + (first + length) * HOUR)
            says(stores, list(rows.values()), source, span=span)
            told.append((source, rows, span))
        found = confirmed(stores)
        kept = {row[0]: row[1:7] for row in stores.lake.read(HOURS).with_columns(seconds_of(pl.col("time"))).rows()}
    for time in (time for span in found for time in range(span.start, span.end, HOUR)):
        alike = {
            source
            for source, rows, span in told
            if (rows[time][1:7] == kept.get(time) if time in rows else time not in kept and time in span)
        }
        assert any(are_independent((one, 0), (other, 0)) for one in alike for other in alike), (time, told)


def test_confirmed_spans_hold_a_candle_that_both_have(stores: Stores) -> None:
    """Where two differ in every candle, the quiet in between is no agreement, and no record a spell."""
    says(stores, hours(CSV), CSV)
    says(stores, hours(OHLC, closing={number: 1.0 for number in range(10) if number != 7}), OHLC)
    assert confirmed(stores) == hour((7, 8))
