from __future__ import annotations

import polars as pl

from kraken_pipeline.coverage.evidence import RECOVERED, Grant
from kraken_pipeline.coverage.ranges import Span, Spans
from kraken_pipeline.coverage.recovered import Spoken, own_grants
from kraken_pipeline.market.candle import SOURCE, Source, time_from_seconds
from kraken_pipeline.market.interval import Interval

DAY, HOUR = 86_400, 3_600
MONDAY = 19_541 * DAY  # 3 July 2023
FAR = 30_000
Row = tuple[int, Source, int]


def rows(*given: Row) -> pl.DataFrame:
    """Candles: start, source, release; each of two trades."""
    frame = pl.DataFrame(
        given, schema={"start": pl.Int64(), "source": pl.String(), "release": pl.Int32()}, orient="row"
    )
    return frame.select(
        time_from_seconds(pl.col("start")).alias("time"),
        pl.col("source").cast(SOURCE),
        "release",
        pl.lit(2, pl.Int32).alias("trade_count"),
    )


def granted(
    *given: Row, interval: Interval = Interval.H1, known: Spans = (), spoken: tuple[Spoken, ...] = ()
) -> list[Grant]:
    return own_grants(rows(*given), interval, known, spoken, 7)


def hours(first: int, last: int, source: Source = Source.CSV, release: int = FAR) -> list[Row]:
    return [(MONDAY + hour * HOUR, source, release) for hour in range(first, last)]


def span(first: int, last: int) -> Span:
    return Span(MONDAY + first * HOUR, MONDAY + last * HOUR)


def test_a_candle_speaks_for_its_own_slot_and_not_for_the_one_beside_it() -> None:
    assert granted(*hours(0, 3), *hours(5, 6)) == [
        Grant(span(0, 3), "CSV", 7, 6),
        Grant(span(5, 6), "CSV", 7, 2),
    ]


def test_nothing_grants_nothing() -> None:
    assert granted() == []


def test_each_source_speaks_for_itself() -> None:
    found = granted(*hours(0, 2), *hours(2, 3, Source.OHLC, 0), *hours(3, 5, Source.RESAMPLED, 0))
    assert [(grant.span, grant.source) for grant in found] == [
        (span(0, 2), "CSV"),
        (span(2, 3), "OHLC"),
        (span(3, 5), "RESAMPLED"),
    ]


def test_what_says_to_be_made_of_trades_does_not_prove_itself_any_more() -> None:
    (grant,) = granted(*hours(0, 2, Source.TRADES, 0))
    assert grant.source == RECOVERED != Source.TRADES


def test_what_a_release_holds_of_the_day_in_which_it_was_made_may_be_cut() -> None:
    until = MONDAY // DAY + 1
    assert [grant.span for grant in granted(*hours(22, 26, release=until))] == [span(22, 24)]
    days = [(MONDAY, Source.CSV, until), (MONDAY + DAY, Source.CSV, until)]
    assert [grant.span for grant in granted(*days, interval=Interval.D1)] == [span(0, 24)]


def test_the_last_candle_of_a_loose_file_may_be_cut() -> None:
    assert [grant.span for grant in granted(*hours(0, 3, release=0))] == [span(0, 2)]
    # Also where another source goes on.
    found = granted(*hours(0, 3, release=0), *hours(3, 4))
    assert [grant.span for grant in found] == [span(0, 2), span(3, 4)]


def test_a_week_over_the_end_of_a_quarter_may_be_cut() -> None:
    week = 7 * DAY
    thursday = MONDAY - 4 * DAY  # 29 June
    given = [(thursday + number * week, Source.CSV, FAR) for number in range(-1, 2)]
    assert [grant.span.start for grant in granted(*given, interval=Interval.W1)] == [thursday - week, thursday + week]
    made = [(start, Source.RESAMPLED, 0) for start, _, _ in given]
    assert [grant.span.seconds for grant in granted(*made, interval=Interval.W1)] == [3 * week]


def test_what_is_known_is_left_as_it_is() -> None:
    found = granted(*hours(0, 6), known=(span(1, 2), span(4, 5)))
    assert [grant.span for grant in found] == [span(0, 1), span(2, 4), span(5, 6)]


def test_where_an_archive_has_spoken_its_rows_add_nothing() -> None:
    given = [*hours(0, 4), *hours(4, 6, Source.OHLC, 0), *hours(6, 8, release=FAR + 90)]
    found = granted(*given, spoken=(Spoken(Source.CSV, FAR, span(1, 8)),))
    assert [grant.span for grant in found] == [span(0, 1), span(4, 6), span(6, 8)]
