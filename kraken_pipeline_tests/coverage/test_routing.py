from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.ranges import Span, Spans, normalise, split, whole_candles
from kraken_pipeline.coverage.routing import Knowledge, Leg, Offer, Route, Router, asked_of, trades_requests
from kraken_pipeline.market.interval import Interval
from kraken_pipeline_tests.coverage.models import LOOSE_SPANS, is_a_set, model
from kraken_pipeline_tests.support.samples import DAY, at, between

NOW = at("2024-06-01T12:34:56")
OLD = between("2023-01-01", "2023-02-01")
NEW = between("2024-06-01T06:00", "2024-06-01T12:00")


def route(
    known: Knowledge, *, now: int, max_requests_per_gap: int | None, with_api: bool = True
) -> dict[Interval, tuple[Leg, ...]]:
    return Router(now=now, max_requests_per_gap=max_requests_per_gap).route(known, with_api=with_api)


def routes(
    interval: Interval,
    gaps: Spans,
    *,
    covered: Mapping[Interval, Spans] | None = None,
    offers: Mapping[Interval, list[Offer]] | None = None,
    exhausted: Mapping[Route, Spans] | None = None,
    budget: int | None = None,
    with_api: bool = True,
) -> tuple[Leg, ...]:
    asked = {Route.RESAMPLE: interval, Route.OHLC: asked_of(interval), Route.TRADES: Interval.M1}
    known = Knowledge(
        gaps={interval: gaps},
        covered=covered or {},
        offers=offers or {},
        exhausted={(asked[by], by): spans for by, spans in (exhausted or {}).items()},
    )
    return route(known, now=NOW, max_requests_per_gap=budget, with_api=with_api)[interval]


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


@pytest.mark.parametrize("interval", Interval)
def test_every_interval_is_asked_for_as_itself_but_twelve_hours_as_four(interval: Interval) -> None:
    assert asked_of(interval) is (Interval.H4 if interval is Interval.H12 else interval)
    assert asked_of(interval).in_rest


def test_twelve_hours_come_from_ohlc_of_four_as_far_as_that_reaches() -> None:
    # At 12:34 the newest 720 candles of four hours begin on 2 February at 12:00.
    gap = between("2024-01-30", "2024-06-01T12:00")
    older, newer = routes(Interval.H12, (gap,))
    assert (older.span, older.route, older.fetched) == (
        between("2024-01-30", "2024-02-02T12:00"),
        Route.TRADES,
        Interval.M1,
    )
    assert (newer.span, newer.route, newer.fetched) == (Span(older.span.end, gap.end), Route.OHLC, Interval.H4)
    assert newer.requests == 1
    assert brief(routes(Interval.H12, (gap,), covered={Interval.H1: (gap,)})) == [(gap, Route.RESAMPLE)]


def test_twelve_hours_expire_when_their_first_four_leave_the_reach() -> None:
    gap = between("2024-05-30", "2024-06-01")
    (leg,) = routes(Interval.H12, (gap,))
    assert leg.expires_at == gap.start + 721 * 4 * 3600
    for now, wanted in ((leg.expires_at - 1, Route.OHLC), (leg.expires_at, Route.TRADES)):
        known = Knowledge(gaps={Interval.H12: (gap,)}, covered={})
        assert route(known, now=now, max_requests_per_gap=None)[Interval.H12][0].route is wanted


def test_what_is_asked_for_is_told_of_every_leg_that_costs_requests() -> None:
    gap = between("2024-04-01", "2024-06-01T12:00")
    assert [leg.fetched for leg in routes(Interval.H1, (gap,))] == [Interval.M1, Interval.H1]
    assert [leg.fetched for leg in routes(Interval.H1, (gap,), covered={Interval.M1: (gap,)})] == [None]
    assert [leg.fetched for leg in routes(Interval.H1, (OLD,), budget=0)] == [None]


def test_four_hours_asked_for_on_behalf_of_twelve_are_there_for_whatever_is_coarser() -> None:
    day = between("2024-05-31", "2024-06-01")
    known = Knowledge(
        gaps={Interval.H12: (Span(day.start, day.start + DAY // 2),), Interval.D1: (day,)},
        covered={Interval.H4: (Span(day.start + DAY // 2, day.end),)},
    )
    found = route(known, now=NOW, max_requests_per_gap=0)
    assert [(leg.route, leg.fetched) for leg in found[Interval.H12]] == [(Route.OHLC, Interval.H4)]
    assert [(leg.route, leg.resampled_from, leg.is_ready) for leg in found[Interval.D1]] == [
        (Route.RESAMPLE, Interval.H4, False)
    ]


def test_without_the_api_nothing_costs_requests() -> None:
    legs = routes(Interval.H1, (OLD, NEW), covered={Interval.M1: (NEW,)}, with_api=False)
    assert brief(legs) == [(OLD, Route.NONE), (NEW, Route.RESAMPLE)]


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


def test_a_minute_whose_trades_cannot_be_had_closes_the_candles_that_hold_it_to_trades() -> None:
    lost = between("2023-01-10T10:17", "2023-01-10T10:18")
    hour = between("2023-01-10T10:00", "2023-01-10T11:00")
    assert brief(routes(Interval.H1, (OLD,), exhausted={Route.TRADES: (lost,)})) == [
        (Span(OLD.start, hour.start), Route.TRADES),
        (hour, Route.NONE),
        (Span(hour.end, OLD.end), Route.TRADES),
    ]


def test_four_hours_that_ohlc_did_not_give_close_the_twelve_that_hold_them_to_ohlc() -> None:
    gap = between("2024-05-30", "2024-06-01")
    tried = between("2024-05-30T16:00", "2024-05-30T20:00")
    assert brief(routes(Interval.H12, (gap,), exhausted={Route.OHLC: (tried,)})) == [
        (between("2024-05-30", "2024-05-30T12:00"), Route.OHLC),
        (between("2024-05-30T12:00", "2024-05-31"), Route.TRADES),
        (between("2024-05-31", "2024-06-01"), Route.OHLC),
    ]


def test_what_a_coarser_interval_was_answered_of_ohlc_says_nothing_of_trades_or_of_a_finer_one() -> None:
    exhausted = {(Interval.H4, Route.OHLC): (NEW,), (Interval.H1, Route.TRADES): (NEW,)}
    known = Knowledge(gaps={Interval.H1: (NEW,)}, covered={}, exhausted=exhausted)
    assert brief(route(known, now=NOW, max_requests_per_gap=None)[Interval.H1]) == [(NEW, Route.OHLC)]


def test_what_touches_and_is_alike_is_one_leg_again_but_for_trades() -> None:
    def legs(gap: Span, **more: Any) -> list[Leg]:
        cut = gap.start + gap.seconds // 2
        return list(routes(Interval.H1, split((gap,), cut), **more))

    assert legs(NEW) == list(routes(Interval.H1, (NEW,)))
    assert legs(NEW, covered={Interval.M1: (NEW,)}) == list(routes(Interval.H1, (NEW,), covered={Interval.M1: (NEW,)}))
    assert legs(OLD, budget=0) == [Leg(OLD, Route.NONE)]
    assert [leg.route for leg in legs(OLD)] == [Route.TRADES, Route.TRADES]
    offers = {Interval.H1: [Offer("a.csv", Span(OLD.start, OLD.start + DAY)), Offer("b.csv", OLD)]}
    assert [leg.files for leg in legs(OLD, offers=offers)] == [("a.csv",), ("b.csv",)]


def test_gaps_that_touch_are_priced_one_by_one() -> None:
    cut = at("2023-01-28")
    parts = split((OLD,), cut)
    budget = trades_requests(parts[1], Knowledge({}, {}).trades_a_second)
    assert brief(routes(Interval.H1, (OLD,), budget=budget)) == [(OLD, Route.NONE)]
    assert brief(routes(Interval.H1, parts, budget=budget)) == [(parts[0], Route.NONE), (parts[1], Route.TRADES)]


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


@dataclass(frozen=True)
class Scale:
    """How long an instant of the model is, which intervals there are, and when the end of OHLC's reach is near."""

    unit: int
    intervals: tuple[Interval, ...]
    now: tuple[int, int]

    def cells(self, spans: Iterable[Span]) -> set[int]:
        """The instants of some spans on the unit's grid."""
        return {cell for each in spans for cell in range(each.start // self.unit, each.end // self.unit)}

    def in_seconds(self, spans: Iterable[Span]) -> list[Span]:
        return [Span(each.start * self.unit, each.end * self.unit) for each in spans]

    def candle(self, cell: int, interval: Interval) -> range:
        """The cells of the candle that holds one; a candle shorter than a cell counts as one."""
        length = max(1, interval.seconds // self.unit)
        return range(cell // length * length, cell // length * length + length)

    def whole(self, held: set[int], interval: Interval) -> set[int]:
        return {cell for cell in held if held.issuperset(self.candle(cell, interval))}

    def touched(self, held: set[int], interval: Interval) -> set[int]:
        return {each for cell in held for each in self.candle(cell, interval)}

    def on_grid(self, interval: Interval) -> st.SearchStrategy[Spans]:
        return LOOSE_SPANS.map(lambda spans: whole_candles(normalise(self.in_seconds(spans)), interval))


MINUTES = Scale(60, (Interval.M1, Interval.M5, Interval.M15), (700, 800))
HOURS = Scale(3_600, (Interval.M1, Interval.H1, Interval.H4, Interval.H12), (2_860, 2_960))
SCALES = pytest.mark.parametrize("scale", [MINUTES, HOURS], ids=["minutes", "hours"])


@st.composite
def worlds(draw: st.DrawFn, scale: Scale) -> Knowledge:
    names = st.sampled_from(["a.csv", "b.csv", "c.csv"])
    offers = LOOSE_SPANS.map(scale.in_seconds).flatmap(
        lambda spans: st.tuples(*(names for _ in spans)).map(
            lambda called: [Offer(name, each) for name, each in zip(called, spans, strict=True)][:2]
        )
    )
    wanted = draw(st.sets(st.sampled_from(scale.intervals), min_size=1))
    gaps = {interval: draw(scale.on_grid(interval)) for interval in wanted}
    for moment in draw(st.lists(st.integers(0, 50), max_size=2)):
        gaps = {interval: split(spans, interval.floor(moment * scale.unit)) for interval, spans in gaps.items()}
    return Knowledge(
        gaps=gaps,
        covered={interval: draw(scale.on_grid(interval)) for interval in scale.intervals},
        offers={interval: draw(offers) for interval in scale.intervals},
        exhausted={
            (interval, by): draw(scale.on_grid(interval))
            for interval in scale.intervals
            for by in (Route.RESAMPLE, Route.OHLC, Route.TRADES)
        },
        trades_a_second=draw(st.sampled_from([0.02, 1.0, 5.0])),
    )


def expected(known: Knowledge, scale: Scale, now: int, budget: int | None) -> dict[Interval, dict[Route, set[int]]]:
    """For each interval and route the cells that it should take."""
    cells = scale.cells
    having = {interval: cells(spans) for interval, spans in known.covered.items()}  # once every leg has run
    found: dict[Interval, dict[Route, set[int]]] = {}
    for interval in sorted(known.gaps):
        asked = Interval.H4 if interval is Interval.H12 else interval
        rest = cells(known.gaps[interval])
        taken: dict[Route, set[int]] = {}
        offered = set().union(*(scale.whole(cells([offer.span]), interval) for offer in known.offers[interval]))
        taken[Route.ARCHIVE] = rest & offered
        rest -= taken[Route.ARCHIVE]
        finer = set().union(*(scale.whole(having[each], interval) for each in interval.finer if each in having))
        taken[Route.RESAMPLE] = (rest - cells(known.exhausted[interval, Route.RESAMPLE])) & finer
        rest -= taken[Route.RESAMPLE]
        closed = asked.floor(now) // scale.unit
        reach = set(range(closed - 720 * asked.seconds // scale.unit, closed))
        tried = scale.touched(cells(known.exhausted[asked, Route.OHLC]), interval)
        taken[Route.OHLC] = (rest - tried) & scale.whole(reach, interval)
        rest -= taken[Route.OHLC]
        tried = scale.touched(cells(known.exhausted[Interval.M1, Route.TRADES]), interval)
        taken[Route.TRADES] = {
            cell
            for gap in known.gaps[interval]
            for part in scale.in_seconds(model((rest - tried) & cells([gap])))
            if budget is None or trades_requests(part, known.trades_a_second) <= budget
            for cell in cells([part])
        }
        taken[Route.NONE] = rest - taken[Route.TRADES]
        found[interval] = taken
        having[interval] = having[interval].union(*(taken[by] for by in Route if by is not Route.NONE))
        having[asked] = having[asked] | taken[Route.OHLC]
        having[Interval.M1] = having[Interval.M1] | taken[Route.TRADES]
    return found


@pytest.mark.slow
@SCALES
@given(data=st.data())
def test_legs_add_up_exactly_to_the_gaps_and_each_takes_the_cheapest_route(scale: Scale, data: st.DataObject) -> None:
    known = data.draw(worlds(scale))
    now = data.draw(st.integers(*scale.now)) * scale.unit + 17
    budget = data.draw(st.sampled_from([None, 0, 1, 2, 5]))
    found = route(known, now=now, max_requests_per_gap=budget)
    wanted = expected(known, scale, now, budget)
    assert found.keys() == known.gaps.keys()
    for interval, legs in found.items():
        for leg in legs:
            assert leg.span.start % interval.seconds == leg.span.end % interval.seconds == 0
            # Parts that are alike are one leg again, but for trades: each part has a price of its own.
            if leg.route is Route.TRADES:
                assert any(gap.start <= leg.span.start and leg.span.end <= gap.end for gap in known.gaps[interval])
                assert leg.requests == trades_requests(leg.span, known.trades_a_second)
        for left, right in pairwise(legs):
            assert left.span.end <= right.span.start, "in order, and nothing twice"
            is_alike = replace(left, span=right.span, requests=0, expires_at=None) == replace(
                right, requests=0, expires_at=None
            )
            assert left.span.end < right.span.start or left.route is Route.TRADES or not is_alike
        assert normalise(leg.span for leg in legs) == normalise(known.gaps[interval])
        assert is_a_set(normalise(leg.span for leg in legs))
        for by in Route:
            assert scale.cells(leg.span for leg in legs if leg.route is by) == wanted[interval][by], (interval, by)
        for leg in legs:
            assert bool(leg.files) == (leg.route is Route.ARCHIVE)
            assert (leg.resampled_from is not None) == (leg.route is Route.RESAMPLE)
            assert (leg.expires_at is not None) == (leg.route is Route.OHLC)
            assert leg.expires_at is None or leg.expires_at > now
            assert leg.fetched is {Route.OHLC: asked_of(interval), Route.TRADES: Interval.M1}.get(leg.route)
            assert leg.is_ready or leg.route is Route.RESAMPLE
    replies = [leg for legs in found.values() for leg in legs if leg.route is Route.OHLC]
    # Half-days and four hours are of the same reply.
    assert sum(leg.requests for leg in replies) == len({leg.fetched for leg in replies})


@pytest.mark.slow
@SCALES
@given(data=st.data())
def test_a_leg_that_is_ready_needs_nothing_that_is_still_to_come(scale: Scale, data: st.DataObject) -> None:
    known = data.draw(worlds(scale))
    found = route(known, now=data.draw(st.integers(*scale.now)) * scale.unit, max_requests_per_gap=None)
    having = {interval: scale.cells(spans) for interval, spans in known.covered.items()}
    for interval in sorted(found):
        ready = {leg for leg in found[interval] if leg.route is Route.RESAMPLE and leg.is_ready}
        for leg in ready:
            assert leg.resampled_from is not None
            assert scale.cells([leg.span]) <= having[leg.resampled_from]
        having[interval] |= scale.cells(leg.span for leg in ready)


@pytest.mark.slow
@SCALES
@given(data=st.data())
def test_pairs_that_were_routed_before_change_no_route(scale: Scale, data: st.DataObject) -> None:
    now = data.draw(st.integers(*scale.now)) * scale.unit
    budget = data.draw(st.sampled_from([None, 0, 1, 2, 5]))
    router = Router(now=now, max_requests_per_gap=budget)
    known = data.draw(worlds(scale))
    rates = st.sampled_from([0.0, 0.02, 0.5, 1.0, 5.0])
    for pair in (
        known,
        *(replace(known, trades_a_second=data.draw(rates)) for _ in range(3)),
        data.draw(worlds(scale)),
    ):
        for with_api in (True, False):
            alone = route(pair, now=now, max_requests_per_gap=budget, with_api=with_api)
            assert router.route(pair, with_api=with_api) == alone


def test_pairs_in_one_situation_are_priced_one_by_one() -> None:
    router = Router(now=NOW, max_requests_per_gap=1_000)
    quiet, busy, busiest = (
        Knowledge(gaps=dict.fromkeys((Interval.M1, Interval.H1), (OLD,)), covered={}, trades_a_second=rate)
        for rate in (0.01, 0.1, 10.0)
    )
    for known in (quiet, busy, busiest, quiet):
        found = router.route(known)
        requests = trades_requests(OLD, known.trades_a_second)
        if known is busiest:
            assert [leg.route for legs in found.values() for leg in legs] == [Route.NONE, Route.NONE]
        else:
            assert [(leg.route, leg.requests) for leg in found[Interval.M1]] == [(Route.TRADES, requests)]
            assert [(leg.route, leg.resampled_from) for leg in found[Interval.H1]] == [(Route.RESAMPLE, Interval.M1)]


def test_coverage_far_from_the_gaps_makes_no_other_situation() -> None:
    router = Router(now=NOW, max_requests_per_gap=None)
    before = Span(OLD.start - DAY, OLD.start)
    legs = [
        router.route(Knowledge(gaps={Interval.H1: (OLD,)}, covered=covered))[Interval.H1]
        for covered in ({}, {Interval.M1: (before,)}, {Interval.M1: (before, NEW)})
    ]
    assert legs[0] == legs[1] == legs[2] == routes(Interval.H1, (OLD,))
