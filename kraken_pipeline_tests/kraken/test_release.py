from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.kraken.release import FULL_NAME, Kind, Release, archive_name, fewest, published, release_of
from kraken_pipeline.market.candle import EARLIEST_TIME
from kraken_pipeline.market.quarter import Quarter
from kraken_pipeline_tests.samples import at

Q2_2023 = Release(Kind.OHLCVT, at("2023-04-01"), at("2023-07-01"), Quarter(2023, 2))
Q2_2026 = Release(Kind.OHLCVT, at("2026-04-01"), at("2026-07-01"), Quarter(2026, 2))


@pytest.mark.parametrize(
    ("name", "release"),
    [
        ("Kraken_OHLCVT.zip", Release(Kind.OHLCVT, EARLIEST_TIME, None)),
        ("Kraken_OHLCVT (1).zip", Release(Kind.OHLCVT, EARLIEST_TIME, None)),
        ("Kraken_OHLCVT_Full.zip", Release(Kind.OHLCVT, EARLIEST_TIME, None)),
        ("Kraken_OHLCVT_Q2_2023.zip", Q2_2023),
        ("kraken_ohlcvt_q2_2023.ZIP", Q2_2023),
        ("Kraken_OHLCVT_Q2_2023 (2).zip", Q2_2023),
        ("Kraken_OHLCVT_Q4_2025.zip", Release(Kind.OHLCVT, at("2025-10-01"), at("2026-01-01"), Quarter(2025, 4))),
        ("Kraken_OHLCVT_2026Q2.zip", Q2_2026),
        ("Kraken_OHLCVT_2026_Q2.zip", Q2_2026),
        ("Kraken_OHLCVT_Full_2026Q2.zip", Release(Kind.OHLCVT, EARLIEST_TIME, at("2026-07-01"))),
        ("Kraken_Trading_History.zip", Release(Kind.TRADES, EARLIEST_TIME, None)),
        ("TimeAndSales_Combined.zip", Release(Kind.TRADES, EARLIEST_TIME, None)),
        (
            "Kraken_Trading_History_Q1_2026.zip",
            Release(Kind.TRADES, at("2026-01-01"), at("2026-04-01"), Quarter(2026, 1)),
        ),
    ],
)
def test_a_releases_name_says_what_it_holds(name: str, release: Release) -> None:
    assert release_of(name) == release


@pytest.mark.parametrize("name", ["backup.zip", "XBTUSD_60.zip", "Q2_2023.zip", "2026Q2.zip", ""])
def test_another_zip_is_no_release(name: str) -> None:
    assert release_of(name) is None


@pytest.mark.parametrize(
    "name",
    ["Kraken_OHLCVT_2023.zip", "Kraken_OHLCVT_Q2-2023.zip", "Kraken_OHLCVT_Q5_2023.zip", "Kraken_OHLCVT_January.zip"],
)
def test_a_name_that_says_something_unknown_is_not_taken_for_a_complete_release(name: str) -> None:
    assert release_of(name) is None


@given(st.integers(1_293_840_000, 4_000_000_000))
def test_a_moment_lies_in_its_quarter_and_quarters_follow_each_other(time: int) -> None:
    quarter = Quarter.of(time)
    assert quarter.start <= time < quarter.end
    assert quarter < quarter.next
    assert quarter.next.start == quarter.end
    assert 89 <= (quarter.end - quarter.start) // 86_400 <= 92


@given(st.integers(2023, 2040), st.integers(1, 4))
def test_a_published_name_says_its_own_quarter(year: int, number: int) -> None:
    quarter = Quarter(year, number)
    release = release_of(archive_name(quarter))
    assert release is not None
    assert (release.start, release.end, release.quarter) == (quarter.start, quarter.end, quarter)


def names(start: str, end: str, now: str) -> list[str]:
    return [name for name, _ in published(at(start), at(end), at(now))]


def test_each_quarter_since_2023_is_published_by_itself_under_the_names_of_its_time() -> None:
    assert names("2025-08-15", "2026-08-01", "2026-12-01") == [
        "Kraken_OHLCVT_Q3_2025.zip",
        "Kraken_OHLCVT_Q4_2025.zip",
        "Kraken_OHLCVT_Q1_2026.zip",
        "Kraken_OHLCVT_2026Q2.zip",
        "Kraken_OHLCVT_2026Q3.zip",
    ]


def test_what_is_older_is_in_the_complete_archive_which_stands_once() -> None:
    assert names("2017-05-01", "2023-02-01", "2024-01-01") == ["Kraken_OHLCVT.zip", "Kraken_OHLCVT_Q1_2023.zip"]
    assert published(at("2017-05-01"), at("2018-01-01"), at("2024-01-01")) == [("Kraken_OHLCVT.zip", Quarter(2017, 2))]


def test_a_quarter_that_has_not_ended_has_no_archive() -> None:
    assert names("2024-01-01", "2024-06-01", "2024-06-01") == ["Kraken_OHLCVT_Q1_2024.zip"]
    assert names("2024-05-01", "2024-06-01", "2024-06-01") == []
    assert names("2024-05-01", "2024-06-01", "2024-07-01") == ["Kraken_OHLCVT_Q2_2024.zip"]


def test_the_end_of_a_quarter_is_not_in_the_next() -> None:
    assert names("2023-04-01", "2023-07-01", "2024-01-01") == ["Kraken_OHLCVT_Q2_2023.zip"]
    assert names("2023-04-01", "2023-04-01", "2024-01-01") == []


QUARTERS = [archive_name(Quarter(2024 + number // 4, number % 4 + 1)) for number in range(12)]
"""Those of 2024, 2025 and 2026."""
LATE = at("2027-02-01")


def test_few_archives_are_fetched_each_by_itself_in_order_of_time() -> None:
    wanted = [QUARTERS[3], QUARTERS[9], QUARTERS[0], "Kraken_OHLCVT.zip"]
    assert list(fewest(wanted, LATE)) == ["Kraken_OHLCVT.zip", QUARTERS[0], QUARTERS[3], QUARTERS[9]]
    assert fewest([], LATE) == {}


def test_the_complete_archive_stands_for_more_than_it_has_parts() -> None:
    assert list(fewest(QUARTERS[:5], LATE)) == QUARTERS[:5]
    assert fewest(QUARTERS[5::-1], LATE) == {FULL_NAME: tuple(QUARTERS[:6])}
    # Of what came after it, each is fetched by itself.
    assert fewest(QUARTERS, LATE) == {
        FULL_NAME: tuple(QUARTERS[:10]),
        QUARTERS[10]: (QUARTERS[10],),
        QUARTERS[11]: (QUARTERS[11],),
    }


def test_a_complete_archive_that_is_not_out_is_not_named() -> None:
    assert list(fewest(QUARTERS[:9], at("2026-06-30"))) == QUARTERS[:9]
