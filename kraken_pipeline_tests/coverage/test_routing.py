from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.ranges import Span, Spans, normalise, whole_candles
from kraken_pipeline.coverage.routing import Knowledge, Leg, Offer, Route, route, trades_requests
from kraken_pipeline.market.interval import Interval
from kraken_pipeline_tests.coverage.models import LOOSE_SPANS, instants, is_a_set, model
from kraken_pipeline_tests.samples import DAY, at, between

NOW = at("2024-06-01T12:34:56")
OLD = between("2023-01-01", "2023-02-01")
NEW = between("2024-06-01T06:00", "2024-06-01T12:00")


def routes(
    interval: Interval,
    gaps: Spans,
    *,
    covered: Mapping[Interval, Spans] | None = None,
    offers: Mapping[Interval, list[Offer]] | None = None,
    exhausted: Mapping[Route, Spans] | None = None,
    budget: int | None = None,
) -> tuple[Leg, ...]:
    known = Knowledge(
        gaps={interval: gaps},
        covered=covered or {},
        offers=offers or {},
        exhausted={(interval, by): spans for by, spans in (exhausted or {}).items()},
    )
    return route(known, now=NOW, max_requests_per_gap=budget)[interval]


def brief(legs: tuple[Leg, ...]) -> list[tuple[Span, Route]]:
    return [(leg.span, leg.route) for leg in legs]


def test_an_archive_at_hand_is_the_first_choice() -> None:
    offer = Offer("Kraken_OHLCVT_Q1_2023.zip:XBTUSD_60.csv", between("2023-01-01", "2023-04-01"))
    (leg,) = routes(Interval.H1, (OLD,), covered={Interval.M1: (OLD,)}, offers={Interval.H1: [offer]})
    assert leg == Leg(OLD, Route.ARCHIVE, files=(offer.name,))
    assert not leg.route.uses_api


def test_an_archive_is_even_better_than_the_newest_candles_of_the_api() -> None:
    assert brief(routes(Interval.H1, (NEW,), offers={Interval.H1: [Offer("f", NEW)]})) == [(NEW, Route.ARCHIVE)]


def test_an_archive_takes_the_whole_candles_that_it_spans() -> None:
    offer = Offer("XBTUSD_60.csv", between("2023-01-10T10:30", "2023-01-20T10:30"))
    taken = between("2023-01-10T11:00", "2023-01-20T10:00")
    legs = routes(Interval.H1, (OLD,), offers={Interval.H1: [offer]}, budget=0)
    assert brief(legs) == [
        (Span(OLD.start, taken.start), Route.NONE),
        (taken, Route.ARCHIVE),
        (Span(taken.end, OLD.end), Route.NONE),
    ]


def test_several_archives_share_a_gap_in_order_of_time() -> None:
    first = Offer("first.csv", between("2022-01-01", "2023-01-15"))
    second = Offer("second.csv", between("2023-01-10", "2024-01-01"))
    legs = routes(Interval.H1, (OLD,), offers={Interval.H1: [second, first]})
    assert [leg.files for leg in legs] == [("first.csv",), ("second.csv",)]
    assert normalise(leg.span for leg in legs) == (OLD,)


def test_complete_finer_candles_are_the_second_choice() -> None:
    (leg,) = routes(Interval.H1, (NEW,), covered={Interval.M15: (NEW,)})
    assert leg == Leg(NEW, Route.RESAMPLE, resampled_from=Interval.M15)


def test_the_coarsest_of_the_finer_intervals_is_resampled_because_it_has_the_fewest_rows() -> None:
    (leg,) = routes(Interval.D1, (OLD,), covered=dict.fromkeys((Interval.M1, Interval.H4, Interval.M30), (OLD,)))
    assert leg.resampled_from is Interval.H4


def test_weeks_are_never_resampled_into_fifteen_days() -> None:
    legs = routes(Interval.D15, (Span(0, Interval.D15.seconds * 7),), covered={Interval.W1: (Span(0, NOW),)}, budget=0)
    assert {leg.route for leg in legs} == {Route.NONE}


def test_only_whole_candles_are_resampled() -> None:
    gap = between("2021-01-01", "2021-02-01")
    covered = between("2021-01-01", "2021-01-31T23:00")
    legs = routes(Interval.D1, (gap,), covered={Interval.H1: (covered,)}, budget=0)
    assert brief(legs) == [
        (between("2021-01-01", "2021-01-31"), Route.RESAMPLE),
        (between("2021-01-31", "2021-02-01"), Route.NONE),
    ]


def test_the_newest_720_candles_come_from_ohlc_and_older_ones_from_trades() -> None:
    gap = between("2024-04-01", "2024-06-01T12:00")
    reach = Span(at("2024-06-01T12:00") - 720 * 3600, gap.end)
    older, newer = routes(Interval.H1, (gap,))
    assert (older.span, older.route) == (Span(gap.start, reach.start), Route.TRADES)
    assert (newer.span, newer.route, newer.requests) == (reach, Route.OHLC, 1)
    assert older.route.uses_api
    assert newer.route.uses_api


def test_an_ohlc_leg_expires_when_its_first_candle_leaves_the_reach() -> None:
    gap = between("2024-06-01T10:00", "2024-06-01T11:00")
    (leg,) = routes(Interval.M1, (gap,))
    assert leg.expires_at is not None
    for now, wanted in ((leg.expires_at - 1, Route.OHLC), (leg.expires_at, Route.TRADES)):
        known = Knowledge(gaps={Interval.M1: (gap,)}, covered={})
        assert route(known, now=now, max_requests_per_gap=None)[Interval.M1][0].route is wanted
    assert leg.expires_at == gap.start + 12 * 3600 + 60


def test_one_ohlc_reply_serves_all_gaps_of_its_series() -> None:
    gaps = (between("2024-06-01T01:00", "2024-06-01T02:00"), between("2024-06-01T05:00", "2024-06-01T06:00"))
    assert [leg.requests for leg in routes(Interval.H1, gaps)] == [1, 0]


def test_twelve_hours_have_no_ohlc() -> None:
    gap = between("2024-05-30", "2024-06-01")
    assert brief(routes(Interval.H12, (gap,))) == [(gap, Route.TRADES)]
    assert brief(routes(Interval.H12, (gap,), covered={Interval.H1: (gap,)})) == [(gap, Route.RESAMPLE)]


def test_what_costs_more_than_the_budget_has_no_route() -> None:
    cost = trades_requests(OLD, Knowledge({}, {}).trades_a_second)
    assert brief(routes(Interval.H1, (OLD,), budget=cost)) == [(OLD, Route.TRADES)]
    assert brief(routes(Interval.H1, (OLD,), budget=cost - 1)) == [(OLD, Route.NONE)]
    assert brief(routes(Interval.H1, (OLD,), budget=None)) == [(OLD, Route.TRADES)]


@pytest.mark.parametrize(
    ("trades", "requests"), [(0, 1), (999, 1), (1_000, 2), (1_001, 2), (2_000, 3), (55_000_000, 55_001)]
)
def test_trades_are_paged_a_thousand_at_a_time_and_one_request_finds_the_end(trades: int, requests: int) -> None:
    assert trades_requests(Span(0, DAY), (trades + 0.5) / DAY) == requests


@pytest.mark.parametrize("tried", [Route.RESAMPLE, Route.OHLC, Route.TRADES])
def test_a_route_that_has_answered_already_is_not_taken_again(tried: Route) -> None:
    legs = routes(Interval.H1, (NEW,), covered={Interval.M1: (NEW,)}, exhausted={tried: (NEW,)})
    assert tried not in {leg.route for leg in legs}
    assert normalise(leg.span for leg in legs) == (NEW,)


def test_when_every_route_is_exhausted_there_is_none() -> None:
    tried = dict.fromkeys((Route.RESAMPLE, Route.OHLC, Route.TRADES), (NEW,))
    legs = routes(Interval.H1, (NEW,), covered={Interval.M1: (NEW,)}, exhausted=tried)
    assert brief(legs) == [(NEW, Route.NONE)]


def test_a_route_exhausted_in_part_is_taken_for_the_rest() -> None:
    tried = between("2024-06-01T06:00", "2024-06-01T07:00")
    legs = routes(Interval.H1, (NEW,), exhausted={Route.OHLC: (tried,)})
    assert brief(legs) == [(tried, Route.TRADES), (Span(tried.end, NEW.end), Route.OHLC)]


def test_what_finer_intervals_will_have_makes_coarser_ones_free() -> None:
    known = Knowledge(
        gaps=dict.fromkeys((Interval.D1, Interval.M1, Interval.H1), (OLD,)),
        covered={},
        offers={Interval.M1: [Offer("XBTUSD.csv", OLD)]},
    )
    found = route(known, now=NOW, max_requests_per_gap=0)
    assert list(found) == [Interval.M1, Interval.H1, Interval.D1]
    assert brief(found[Interval.M1]) == [(OLD, Route.ARCHIVE)]
    assert [(leg.route, leg.resampled_from) for leg in found[Interval.H1]] == [(Route.RESAMPLE, Interval.M1)]
    assert [(leg.route, leg.resampled_from) for leg in found[Interval.D1]] == [(Route.RESAMPLE, Interval.H1)]
    assert not any(leg.is_ready for interval in (Interval.H1, Interval.D1) for leg in found[interval])


def test_what_can_be_resampled_at_once_is_not_put_off_for_what_is_still_to_come() -> None:
    known = Knowledge(
        gaps=dict.fromkeys((Interval.H1, Interval.H4, Interval.D1), (OLD,)),
        covered={Interval.M1: (OLD,)},
        offers={Interval.H4: [Offer("XBTUSD_240.csv", OLD)]},
    )
    found = route(known, now=NOW, max_requests_per_gap=0)
    assert [(leg.resampled_from, leg.is_ready) for leg in found[Interval.H1]] == [(Interval.M1, True)]
    assert [leg.route for leg in found[Interval.H4]] == [Route.ARCHIVE]
    assert [(leg.resampled_from, leg.is_ready) for leg in found[Interval.D1]] == [(Interval.H1, True)]


def test_trades_paged_for_one_interval_serve_the_coarser_ones_too() -> None:
    known = Knowledge(gaps=dict.fromkeys((Interval.H4, Interval.H1), (OLD,)), covered={})
    found = route(known, now=NOW, max_requests_per_gap=None)
    assert [leg.route for leg in found[Interval.H1]] == [Route.TRADES]
    assert [leg.route for leg in found[Interval.H4]] == [Route.RESAMPLE]


def test_what_has_no_route_makes_nothing_free() -> None:
    known = Knowledge(gaps=dict.fromkeys((Interval.H4, Interval.H1), (OLD,)), covered={})
    found = route(known, now=NOW, max_requests_per_gap=0)
    assert {leg.route for legs in found.values() for leg in legs} == {Route.NONE}


def test_no_gaps_need_no_routes() -> None:
    assert routes(Interval.H1, ()) == ()
    assert route(Knowledge({}, {}), now=NOW, max_requests_per_gap=None) == {}


# --- against a model that decides candle by candle

MINUTE = 60
SMALL = (Interval.M1, Interval.M5, Interval.M15)


def in_seconds(spans: list[Span]) -> list[Span]:
    return [Span(each.start * MINUTE, each.end * MINUTE) for each in spans]


def on_grid(interval: Interval) -> st.SearchStrategy[Spans]:
    return LOOSE_SPANS.map(lambda spans: whole_candles(normalise(in_seconds(spans)), interval))


@st.composite
def worlds(draw: st.DrawFn) -> Knowledge:
    names = st.sampled_from(["a.csv", "b.csv", "c.csv"])
    offers = LOOSE_SPANS.map(in_seconds).flatmap(
        lambda spans: st.tuples(*(names for _ in spans)).map(
            lambda called: [Offer(name, each) for name, each in zip(called, spans, strict=True)][:2]
        )
    )
    wanted = draw(st.sets(st.sampled_from(SMALL), min_size=1))
    return Knowledge(
        gaps={interval: draw(on_grid(interval)) for interval in wanted},
        covered={interval: draw(on_grid(interval)) for interval in SMALL},
        offers={interval: draw(offers) for interval in SMALL},
        exhausted={
            (interval, by): draw(on_grid(interval))
            for interval in SMALL
            for by in (Route.RESAMPLE, Route.OHLC, Route.TRADES)
        },
        trades_a_second=draw(st.sampled_from([0.02, 1.0, 5.0])),
    )


def expected(known: Knowledge, now: int, budget: int | None) -> dict[Interval, dict[Route, set[int]]]:
    """For each interval and route the seconds that it should take."""
    having = {interval: instants(spans) for interval, spans in known.covered.items()}  # once every leg has run
    found: dict[Interval, dict[Route, set[int]]] = {}
    for interval in sorted(known.gaps):

        def whole(held: set[int], interval: Interval = interval) -> set[int]:
            return instants(whole_candles(model(held), interval))

        def untried(rest: set[int], by: Route, interval: Interval = interval) -> set[int]:
            return rest - instants(known.exhausted[interval, by])

        rest = instants(known.gaps[interval])
        taken: dict[Route, set[int]] = {}
        offered = set().union(*(whole(instants([offer.span])) for offer in known.offers[interval]))
        taken[Route.ARCHIVE] = rest & offered
        rest -= taken[Route.ARCHIVE]
        finer = set().union(*(whole(having[each]) for each in interval.finer if each in having))
        taken[Route.RESAMPLE] = untried(rest, Route.RESAMPLE) & finer
        rest -= taken[Route.RESAMPLE]
        closed = interval.floor(now)
        taken[Route.OHLC] = {
            time for time in untried(rest, Route.OHLC) if closed - 720 * interval.seconds <= time < closed
        }
        rest -= taken[Route.OHLC]
        taken[Route.TRADES] = {
            time
            for each in model(untried(rest, Route.TRADES))
            if budget is None or trades_requests(each, known.trades_a_second) <= budget
            for time in range(each.start, each.end)
        }
        taken[Route.NONE] = rest - taken[Route.TRADES]
        found[interval] = taken
        having[interval] = having[interval].union(*(taken[by] for by in Route if by is not Route.NONE))
        having[Interval.M1] |= taken[Route.TRADES]
    return found


@given(worlds(), st.integers(700, 800), st.sampled_from([None, 0, 1, 2, 5]))
def test_legs_add_up_exactly_to_the_gaps_and_each_takes_the_cheapest_route(
    known: Knowledge, now_minutes: int, budget: int | None
) -> None:
    now = now_minutes * MINUTE + 17
    found = route(known, now=now, max_requests_per_gap=budget)
    wanted = expected(known, now, budget)
    assert found.keys() == known.gaps.keys()
    for interval, legs in found.items():
        for leg in legs:
            assert leg.span.start % interval.seconds == leg.span.end % interval.seconds == 0
        assert sum(leg.span.seconds for leg in legs) == len(instants(leg.span for leg in legs)), "no leg twice"
        assert list(legs) == sorted(legs, key=lambda leg: leg.span)
        assert normalise(leg.span for leg in legs) == known.gaps[interval]
        assert is_a_set(normalise(leg.span for leg in legs))
        for by in Route:
            assert instants(leg.span for leg in legs if leg.route is by) == wanted[interval][by], (interval, by)
        for leg in legs:
            assert bool(leg.files) == (leg.route is Route.ARCHIVE)
            assert (leg.resampled_from is not None) == (leg.route is Route.RESAMPLE)
            assert (leg.expires_at is not None) == (leg.route is Route.OHLC)
            assert leg.is_ready or leg.route is Route.RESAMPLE
        assert sum(leg.requests for leg in legs if leg.route is Route.OHLC) == any(
            leg.route is Route.OHLC for leg in legs
        )


@given(worlds(), st.integers(700, 800))
def test_a_leg_that_is_ready_needs_nothing_that_is_still_to_come(known: Knowledge, now_minutes: int) -> None:
    found = route(known, now=now_minutes * MINUTE, max_requests_per_gap=None)
    having = {interval: instants(spans) for interval, spans in known.covered.items()}
    for interval in sorted(found):
        ready = {leg for leg in found[interval] if leg.route is Route.RESAMPLE and leg.is_ready}
        for leg in ready:
            assert leg.resampled_from is not None
            assert instants([leg.span]) <= having[leg.resampled_from]
        having[interval] |= instants(leg.span for leg in ready)
