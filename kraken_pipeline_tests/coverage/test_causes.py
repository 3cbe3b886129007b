from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.causes import FEW, CauseKind, Contradicted, Origin, causes_of
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.candle import Values
from kraken_pipeline.market.interval import Interval

M30, H1, H4, D1 = (Interval(each) for each in (30, 60, 240, 1440))
START = 1_388_534_400  # 2014-01-01
RELEASE = Origin(CauseKind.RELEASE, "16161", "Kraken_OHLCVT_Q1_2014.zip")
FILE = Origin(CauseKind.FILE, "XBTUSD 60 ab12", "XBTUSD_60.csv")


def candle(high: float, *, trades: int = 5, opened: float = 100.0) -> Values:
    return opened, high, 90.0, 95.0, 3.5, trades


def found(
    number: int,
    one: Values | None,
    other: Values | None,
    *,
    fine: Interval = M30,
    coarse: Interval = H1,
    suspects: tuple[Interval, ...] = (H1,),
    origin: Origin | None = None,
    pair: str = "XBTUSD",
) -> Contradicted:
    start = coarse.floor(START + number * H1.seconds)
    span = Span(start, start + coarse.seconds)
    return Contradicted(pair, (fine, coarse), suspects, span, candles=(one, other), origin=origin)


def kinds(*contradictions: Contradicted) -> list[str]:
    return [str(each.kind) for each in causes_of(contradictions)]


def test_a_wrong_candle_is_one_spike_with_what_it_contradicts_below_and_above() -> None:
    spike = candle(900.0), candle(110.0)
    below, above = found(7, *spike), found(4, *spike, fine=H1, coarse=H4)
    far = found(2_000, *spike)
    causes = causes_of([below, above, far])
    assert {cause.kind for cause in causes} == {CauseKind.SPIKE}
    assert causes[0] == causes[1] != causes[2]


def test_many_wrong_prices_side_by_side_are_no_spikes_and_belong_to_where_they_came_from() -> None:
    several = [found(number, candle(900.0), candle(110.0), origin=FILE) for number in range(FEW)]
    assert set(kinds(*several)) == {"file"}
    assert set(kinds(*several[1:])) == {"spike"}
    assert {cause.name for cause in causes_of(several)} == {"XBTUSD_60.csv"}


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (110.1, 110.12345, "precision"),
        (110.12345, 110.2, "precision"),
        (110.12345, 110.3, "spike"),
        (0.00001234, 0.00001, "precision"),
        (110.1, 110.2, "spike"),  # as many decimals: nothing is rounded
    ],
)
def test_what_the_two_candles_may_be_rounded_to_is_told_from_a_spike(one: float, other: float, kind: str) -> None:
    assert kinds(found(0, candle(one), candle(other))) == [kind]


def test_missing_trades_are_of_a_release_a_file_or_an_era() -> None:
    short = candle(110.0, trades=3), candle(110.0)
    assert kinds(
        found(0, *short, origin=RELEASE), found(0, *short, origin=FILE), found(0, *short), found(0, None, candle(110.0))
    ) == ["release", "file", "era", "era"]


def test_eras_are_years_of_a_pair_and_an_interval() -> None:
    short = candle(110.0, trades=3), candle(110.0)
    causes = causes_of(
        [
            found(0, *short),
            found(5_000, *short),
            found(9_000, *short),
            found(1, *short, pair="ETHUSD"),
            found(2, *short, suspects=(M30, H1)),
        ]
    )
    assert [cause.name for cause in causes] == [
        "XBTUSD 60 in 2014",
        "XBTUSD 60 in 2014",
        "XBTUSD 60 in 2015",
        "ETHUSD 60 in 2014",
        "XBTUSD 30 or 60 in 2014",
    ]


def test_a_file_with_shifted_times_is_one_cause_against_all_it_contradicts() -> None:
    def shifted(start: int, hours: int, fine: Interval, coarse: Interval) -> Contradicted:
        span = Span(START + start, START + start + hours * 3_600)
        return Contradicted("XBTUSD", (fine, coarse), (H1,), span, is_shifted=True)

    causes = causes_of([shifted(0, 240, M30, H1), shifted(14_400, 248, H1, H4), shifted(86_400 * 90, 240, M30, H1)])
    assert {cause.kind for cause in causes} == {CauseKind.SHIFT}
    assert causes[0] == causes[1] != causes[2]


CONTRADICTIONS = st.lists(
    st.builds(
        found,
        st.integers(0, 300),
        st.one_of(st.none(), st.builds(candle, st.sampled_from([110.0, 110.12345, 900.0]), trades=st.integers(4, 5))),
        st.builds(candle, st.sampled_from([110.1, 111.0])),
        suspects=st.sampled_from([(H1,), (M30, H1)]),
        origin=st.sampled_from([None, FILE, RELEASE]),
        pair=st.sampled_from(["XBTUSD", "ETHUSD"]),
    ),
    max_size=40,
)


@given(CONTRADICTIONS, st.randoms(use_true_random=False))
def test_each_has_one_cause_whose_id_is_the_same_in_every_order_and_unlike_that_of_any_other(
    contradictions: list[Contradicted], order: random.Random
) -> None:
    causes = dict(zip(contradictions, causes_of(contradictions), strict=True))
    shuffled = order.sample(contradictions, len(contradictions))
    assert dict(zip(shuffled, causes_of(shuffled), strict=True)) == causes
    assert len({cause.id for cause in causes.values()}) == len(set(causes.values()))


def test_an_id_is_the_same_in_every_version() -> None:
    assert causes_of([found(0, candle(110.0, trades=3), candle(110.0), origin=RELEASE)])[0].id == "release-35e950d4"
