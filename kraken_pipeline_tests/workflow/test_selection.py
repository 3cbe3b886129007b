"""What a run asks for, decided on values alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.coverage.routing import Leg, Route
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import Tier
from kraken_pipeline.workflow.gaps.gaps import Gap
from kraken_pipeline.workflow.gaps.selection import Fetch, estimated, select
from kraken_pipeline.workflow.run_spec import run_spec

DAY = 86_400
HOUR = 3_600
NOW = 1_700_006_400 + 500
H1, H12, M1 = Interval.H1, Interval.H12, Interval.M1


def ago(days: float, length: float = 0.25) -> Span:
    """A span that begins so many days ago, on the grid of hours."""
    start = H1.floor(NOW - int(days * DAY))
    return Span(start, start + int(length * DAY))


def ohlc(span: Span, asked: Interval = H1) -> Leg:
    return Leg(span, Route.OHLC, fetched=asked, requests=1, expires_at=span.start + 721 * asked.seconds)


def trades(span: Span, requests: int = 5) -> Leg:
    return Leg(span, Route.TRADES, fetched=M1, requests=requests)


def gap(pair: str, interval: Interval, *legs: Leg, next_try: int = 0, failures: int = 0) -> Gap:
    span = Span(legs[0].span.start, legs[-1].span.end)
    return Gap(
        Series(pair, interval),
        span,
        0,
        legs,
        None,
        GapStatus.DETECTED,
        0,
        None,
        failures=failures,
        next_try=next_try,
    )


def chosen(
    gaps: Sequence[Gap], unarchived: Sequence[str] = (), now: int = NOW, **options: Any
) -> tuple[list[Fetch], list[Fetch]]:
    return select(gaps, run_spec(**options), now, unarchived=unarchived, tier_of=tier_of)


def tier_of(pair: str) -> Tier:
    return Tier.TIER1 if pair.startswith("X") else Tier.TIER4


def test_gaps_of_one_series_share_a_reply_and_each_is_served() -> None:
    old, new = ago(5), ago(2)
    (fetch,), none = chosen([gap("XBTUSD", H1, ohlc(old)), gap("XBTUSD", H1, ohlc(new))])
    assert none == []
    assert (fetch.series, fetch.spans, fetch.requests) == (Series("XBTUSD", H1), (old, new), 1)
    assert set(fetch.serves) == {(Series("XBTUSD", H1), old), (Series("XBTUSD", H1), new)}
    assert fetch.expires_at == old.start + 721 * HOUR


def test_half_days_and_four_hours_share_the_reply_of_four_hours() -> None:
    span = ago(3, 0.5)
    (fetch,), _ = chosen(
        [gap("XBTUSD", Interval.H4, ohlc(span, Interval.H4)), gap("XBTUSD", H12, ohlc(span, Interval.H4))]
    )
    assert (fetch.series.interval, fetch.spans) == (Interval.H4, (span,))
    assert [series.interval for series, _ in fetch.serves] == [Interval.H4, H12]


def test_gaps_of_several_intervals_share_the_trades_where_they_overlap() -> None:
    minutes, hours = ago(3, 1), Span(ago(3).start, ago(1).start)
    _, (fetch,) = chosen([gap("XBTUSD", M1, trades(minutes)), gap("XBTUSD", H1, trades(hours))])
    assert fetch.series == Series("XBTUSD", M1)
    assert fetch.spans == (hours,)
    assert {series.interval for series, _ in fetch.serves} == {M1, H1}


def test_what_costs_no_request_is_not_fetched() -> None:
    span = ago(2)
    free = [
        Leg(span, Route.ARCHIVE, files=("a.csv",)),
        Leg(span, Route.RESAMPLE, resampled_from=M1),
        Leg(span, Route.NONE),
    ]
    assert chosen([gap("XBTUSD", H1, leg) for leg in free]) == ([], [])


def test_a_gap_is_left_out_where_its_part_within_the_lookback_is_free() -> None:
    mixed = gap("XBTUSD", H1, trades(ago(9)), Leg(ago(2), Route.RESAMPLE, resampled_from=M1))
    assert chosen([mixed]) == ([], [])
    _, (fetch,) = chosen([mixed], lookback_days=10)
    assert fetch.spans == (ago(9),)


def test_the_lookback_is_measured_at_the_end_of_a_part_and_on_the_grid() -> None:
    edge = H1.floor(NOW - 7 * DAY)
    outside, across = Span(edge - HOUR, edge), Span(edge - HOUR, edge + HOUR)
    assert chosen([gap("XBTUSD", H1, ohlc(outside))]) == ([], [])
    assert len(chosen([gap("XBTUSD", H1, ohlc(across))])[0]) == 1


@pytest.mark.parametrize("options", [{"complete": True}, {"lookback_days": 30}])
def test_old_gaps_are_chosen_by_who_asks_for_them(options: dict[str, Any]) -> None:
    old = gap("XBTUSD", H1, ohlc(ago(20)))
    assert chosen([old]) == ([], [])
    assert len(chosen([old], **options)[0]) == 1


def test_the_lookback_is_not_for_pairs_that_no_archive_has() -> None:
    old = gap("XBTUSD", M1, trades(ago(300)))
    assert chosen([old]) == ([], [])
    assert len(chosen([old], unarchived=["XBTUSD"])[1]) == 1


def test_the_newest_gaps_are_chosen_and_the_limit_is_one_of_a_series() -> None:
    spans = [ago(days) for days in (6, 5, 4, 3, 2)]
    gaps = [gap(pair, H1, ohlc(span)) for pair in ("XBTUSD", "XDGUSD") for span in spans]
    replies, _ = chosen(gaps, max_gaps_per_asset=2)
    assert [(each.series.pair, each.spans) for each in replies] == [
        ("XBTUSD", tuple(spans[-2:])),
        ("XDGUSD", tuple(spans[-2:])),
    ]
    assert all(len(each.spans) == 5 for each in chosen(gaps, max_gaps_per_asset=2, complete=True)[0])


def test_gaps_that_ask_for_nothing_do_not_use_up_the_limit() -> None:
    free = gap("XBTUSD", H1, Leg(ago(1), Route.NONE))
    waiting = gap("XBTUSD", H1, ohlc(ago(2)), next_try=NOW + 1)
    (fetch,), _ = chosen([gap("XBTUSD", H1, ohlc(ago(3))), waiting, free], max_gaps_per_asset=1)
    assert fetch.spans == (ago(3),)


@pytest.mark.parametrize(("now", "is_chosen"), [(NOW, False), (NOW + 899, False), (NOW + 900, True)])
def test_what_failed_too_often_waits_for_its_next_try(now: int, is_chosen: bool) -> None:
    failed = gap("XBTUSD", H1, ohlc(ago(2)), failures=3, next_try=NOW + 900)
    assert bool(chosen([failed], now=now)[0]) is is_chosen
    assert len(chosen([failed], now=now, complete=True)[0]) == 1


def test_replies_go_by_tier_and_then_by_what_is_lost_first() -> None:
    gaps = [
        gap("ADAEUR", H1, ohlc(ago(6))),
        gap("XBTUSD", H1, ohlc(ago(2))),
        gap("XDGUSD", H1, ohlc(ago(4))),
        gap("XBTUSD", M1, ohlc(ago(0.4, 0.1), M1)),
    ]
    replies, _ = chosen(gaps)
    assert [str(each.series) for each in replies] == ["XBTUSD 1", "XDGUSD 60", "XBTUSD 60", "ADAEUR 60"]


def test_trades_go_by_tier_and_then_by_what_is_newest() -> None:
    gaps = [
        gap("ADAEUR", M1, trades(ago(1))),
        gap("XBTUSD", M1, trades(ago(5))),
        gap("XDGUSD", M1, trades(ago(2))),
    ]
    _, paged = chosen(gaps)
    assert [each.series.pair for each in paged] == ["XDGUSD", "XBTUSD", "ADAEUR"]


def test_the_order_does_not_depend_on_that_of_the_gaps() -> None:
    gaps = [gap(pair, H1, ohlc(ago(days))) for pair in ("XBTUSD", "XDGUSD", "ADAEUR") for days in (1, 3, 5)]
    forward, backward = chosen(gaps)[0], chosen(gaps[::-1])[0]
    assert [(each.series, each.spans) for each in forward] == [(each.series, each.spans) for each in backward]


def test_what_it_costs_is_a_request_a_reply_and_the_pages_of_trades() -> None:
    replies, paged = chosen(
        [
            gap("XBTUSD", H1, ohlc(ago(5)), ohlc(ago(3))),
            gap("XBTUSD", M1, trades(ago(4), 7), trades(ago(2), 4)),
        ]
    )
    assert [each.requests for each in (*replies, *paged)] == [1, 11]
    assert estimated([*replies, *paged]) == 12
    assert estimated([]) == 0
