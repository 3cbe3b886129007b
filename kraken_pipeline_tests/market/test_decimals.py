from __future__ import annotations

from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.market.decimals import MOST_DECIMALS, decimals, most_decimals
from kraken_pipeline_tests.support.samples import candle, frame


@given(st.lists(st.tuples(st.integers(1, 10**11), st.integers(0, 10)), min_size=1, max_size=30))
def test_the_decimals_of_a_price_are_those_of_its_text_without_zeros_at_the_end(written: list[tuple[int, int]]) -> None:
    texts = [Decimal(digits).scaleb(-places).normalize() for digits, places in written]
    found = decimals(pl.Series([float(str(text)) for text in texts]))
    assert found.to_list() == [max(0, -int(text.as_tuple().exponent)) for text in texts]


@pytest.mark.parametrize(
    ("price", "expected"),
    [(500.0, 0), (123456789.0, 0), (0.1, 1), (9185.7, 1), (1e-8, 8), (0.0000104512, 10), (64123.12345, 5)],
)
def test_prices_of_dear_and_cheap_pairs(price: float, expected: int) -> None:
    assert decimals(pl.Series([price])).to_list() == [expected]


def test_the_noise_of_computing_has_as_many_decimals_as_there_are() -> None:
    assert decimals(pl.Series([0.1 + 0.2, 1 / 3])).to_list() == [MOST_DECIMALS, MOST_DECIMALS]


def test_a_candle_has_the_decimals_of_the_price_that_has_most() -> None:
    time, *_, volume, trades, source, release = candle(0)
    row = (time, 1.5, 1.75, 1.0, 1.125, volume, trades, source, release)
    assert most_decimals(frame([row, candle(60, 3.0)])).to_list() == [3, 0]
