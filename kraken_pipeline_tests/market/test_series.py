from __future__ import annotations

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series


def test_a_series_is_called_by_its_pair_and_its_minutes() -> None:
    assert str(Series("XBTUSD", Interval.H1)) == "XBTUSD 60"


def test_series_sort_by_pair_then_by_length_and_not_by_the_text_of_it() -> None:
    series = [Series("XBTUSD", Interval.M1), Series("ADAEUR", Interval.H4), Series("ADAEUR", Interval.H1)]
    assert sorted(series) == [series[2], series[1], series[0]]
