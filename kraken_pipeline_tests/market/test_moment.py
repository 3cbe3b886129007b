from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.moment import as_datetime, iso, parse_moment, short

MIDNIGHT = 1_696_118_400


@pytest.mark.parametrize(
    "text",
    ["2023-10-01", "2023-10-01T00:00", "2023-10-01 00:00:00", "2023-10-01T00:00:00Z", "2023-10-01T02:00+02:00"],
)
def test_a_moment_is_utc_unless_it_says_otherwise(text: str) -> None:
    assert parse_moment(text) == MIDNIGHT


@pytest.mark.parametrize("text", ["", "yesterday", "2023-13-01", "01.10.2023", "2023-02-30"])
def test_what_is_no_time_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(InvalidRequest, match="write 2023-10-01 or 2023-10-01T12:00"):
        parse_moment(text)


@given(st.integers(0, 4_000_000_000))
def test_a_moment_is_read_as_it_is_written(seconds: int) -> None:
    assert parse_moment(iso(seconds)) == seconds
    assert int(as_datetime(seconds).timestamp()) == seconds


def test_a_midnight_is_shown_as_its_date_alone() -> None:
    assert short(MIDNIGHT) == "2023-10-01"
    assert short(MIDNIGHT + 90 * 60) == "2023-10-01 01:30"
