from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.kraken.release import (
    FORMS,
    FULL_NAME,
    Form,
    Kind,
    Release,
    archive_name,
    fewest,
    published,
    release_of,
    without_copy_mark,
)
from kraken_pipeline.market.candle import EARLIEST_TIME
from kraken_pipeline.market.quarter import Quarter
from kraken_pipeline_tests.support.samples import at

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


COPIES = ["", " (1)", "(2)", " (12)", "-copy", " - Copy", " copy", "_copy", " copy 2", " - Copy (3)", ".1"]


@pytest.mark.parametrize("mark", COPIES)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.example)
def test_each_form_promises_the_same_whatever_a_browser_adds(form: Form, mark: str) -> None:
    stem = form.example.removesuffix(".zip")
    release = release_of(form.example)
    assert release is not None
    assert release_of(f"{stem}{mark}.zip") == release_of(f"{stem.lower()}{mark}.ZIP") == release
    assert (release.kind, release.quarter is None) == (form.kind, form.is_complete)


@pytest.mark.parametrize(
    "name",
    [
        "{}_fully", "{}_incomplete", "{}_up_to", "{}_up_to_2023", "{}_2013-2023Q4", "{}_Q1_2023-Q4_2023", "{}_part",
        "{}_Q1_2023_Q2_2023", "{}_Full_2013-2023Q4", "{}_Fullish", "{}_Complete", "{}_Q1", "{}_2023", "{}_Q5_2023",
        "{}_Full_Q2", "{}_not_Full_2023Q2", "{}_2023Q2_and_more", "{}_2023Q22", "{}_12023Q2", "{}{}", "my_{}",
        "{}-2", "{} copy of some", "{}.part00", "{}_Q2_2023_XBT_only", "{} from 2013", "Copy of {}_sample", "{} (a)",
        "{}_\N{ARABIC-INDIC DIGIT TWO}023Q2",
    ],
)  # fmt: skip
@pytest.mark.parametrize("whole", ["Kraken_OHLCVT", "Kraken_Trading_History", "TimeAndSales_Combined"])
def test_a_name_that_says_more_or_less_than_a_form_promises_nothing(whole: str, name: str) -> None:
    assert release_of(f"{name.replace('{}', whole)}.zip") is None


WORDS = st.sampled_from(
    ["Kraken", "OHLCVT", "Full", "Complete", "fully", "incomplete", "up_to", "Q1", "Q4", "2013", "2023", "2023Q2", "-",
     "Q2_2023", "_", " ", "Trading", "History", "TimeAndSales", "Combined", "to", "(1)", "copy", ".", "part", "XBTUSD"]
)  # fmt: skip
BEGINNINGS = st.sampled_from(["", "Kraken_OHLCVT", "Kraken_OHLCVT_Full_2023Q1", "Kraken_OHLCVT_Q2_2023"])


@given(st.lists(WORDS, max_size=9), BEGINNINGS)
def test_whatever_words_a_name_has_it_promises_no_more_than_the_form_it_is(words: list[str], begin: str) -> None:
    stem = begin + "".join(words)
    release = release_of(f"{stem}.zip")
    said = without_copy_mark(stem)
    if release is None:
        assert not any(form.whole.fullmatch(said) for form in FORMS)
        return
    (form,) = (each for each in FORMS if each.whole.fullmatch(said))
    quarters = re.findall(r"20\d\dQ\d|Q\d_20\d\d", said)
    assert len(quarters) <= 1, "a range is no quarter"
    if form.is_complete:
        assert release.start == EARLIEST_TIME
        assert (release.end is None) == (not quarters)
    else:
        assert release.end is not None
        assert release.end - release.start <= 92 * 86_400


def test_the_table_of_the_documentation_is_that_of_the_program() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "archives.md").read_text(encoding="utf-8")
    for form in FORMS:
        assert re.search(
            rf"^\| `{re.escape(form.example)}` \|.*\| {re.escape(form.promise)} \|$", text, re.MULTILINE
        ), form


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
    assert published(at("2017-05-01"), at("2018-01-01"), at("2024-01-01")) == (("Kraken_OHLCVT.zip", Quarter(2017, 2)),)


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
