"""Routes: the sources that can fill gaps, the cheapest first.

An archive in the folder → resampling from complete finer candles → OHLC (the newest 720) → Trades (of any age,
1,000 per request). Finer intervals are routed first, because coarser ones can be resampled from them for free.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from itertools import chain
from typing import TypeVar

from kraken_pipeline.coverage.gaps import OHLC_CANDLES
from kraken_pipeline.coverage.ranges import (
    Span,
    Spans,
    clip,
    intersect,
    normalise,
    span,
    subtract,
    touched_candles,
    whole_candles,
)
from kraken_pipeline.market.interval import Interval

TRADES_A_REQUEST = 1_000
Key = TypeVar("Key")


class Route(StrEnum):
    """The source that fills a leg."""

    ARCHIVE = "ARCHIVE"
    RESAMPLE = "RESAMPLE"
    OHLC = "OHLC"
    TRADES = "TRADES"
    NONE = "NONE"

    @property
    def uses_api(self) -> bool:
        """Whether the route costs requests."""
        return self in (Route.OHLC, Route.TRADES)


@dataclass(frozen=True, slots=True)
class Offer:
    """An available archive that has not been ingested yet.

    Attributes:
        name: The name to display.
        span: The span that it can answer for.
    """

    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of a gap with its route.

    Attributes:
        span: The part, on the interval's grid.
        route: The source that fills it.
        files: The available archives, for ARCHIVE.
        resampled_from: The finer interval, for RESAMPLE.
        fetched: The interval to request, for OHLC and TRADES; a finer one is resampled afterwards.
        requests: The number of requests; an OHLC reply serves all legs of its interval and counts for the first one.
        is_ready: Whether its input exists now; not so for a RESAMPLE of candles that are still to be fetched.
        expires_at: The time at which its first candle leaves the reach of OHLC, in seconds since the epoch.
    """

    span: Span
    route: Route
    files: tuple[str, ...] = ()
    resampled_from: Interval | None = None
    fetched: Interval | None = None
    requests: int = 0
    is_ready: bool = True
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The input of the router for a pair; everything by interval, all sets on the interval's grid.

    Attributes:
        gaps: The gaps to fill. Ranges may be adjacent: the cost of each is computed separately.
        covered: The coverage.
        offers: The available archives; archives of trades are listed at one minute.
        exhausted: The time that a route has already answered for without filling it, by the requested interval.
        trades_a_second: The pair's trades per second, for the cost of paging its trades.
    """

    gaps: Mapping[Interval, Spans]
    covered: Mapping[Interval, Spans]
    offers: Mapping[Interval, Sequence[Offer]] = field(default_factory=dict)
    exhausted: Mapping[tuple[Interval, Route], Spans] = field(default_factory=dict)
    trades_a_second: float = 0.02


def asked_of(interval: Interval) -> Interval:
    """Return the interval to request from OHLC: it has no 720 minutes, but three candles of 240 make one."""
    return interval if interval.in_rest else next(finer for finer in interval.finer if finer.in_rest)


def trades_requests(gap: Span, trades_a_second: float) -> int:
    """Return an estimate of the requests to page through the trades of a span; the last one finds its end."""
    return 1 + int(gap.seconds * trades_a_second) // TRADES_A_REQUEST


@dataclass(frozen=True, slots=True)
class _Routed:
    """The routes of a situation, without the costs of trades.

    Attributes:
        legs: The legs of each interval.
        judged: The ranges that trades could fill, and whether the limit allowed them.
    """

    legs: Mapping[Interval, tuple[Leg, ...]]
    judged: Mapping[Span, bool]


class Router:
    """Finds the routes of the gaps of pairs, one pair after another.

    Most pairs are in one situation: they lack the same time, and nothing of it is covered. Only the costs of their
    trades differ, so the routes of a situation are found once for all pairs whose costs keep within the same limits.

    Args:
        now: The current time, in seconds since the epoch.
        max_requests_per_gap: The most requests that paging one range through Trades may cost; None for no limit.
    """

    def __init__(self, *, now: int, max_requests_per_gap: int | None) -> None:
        self._now = now
        self._limit = max_requests_per_gap
        self._known: dict[Hashable, list[_Routed]] = {}

    def route(self, known: Knowledge, *, with_api: bool = True) -> dict[Interval, tuple[Leg, ...]]:
        """Return the routes of one pair's gaps: for each interval, legs in order of time that add up to its gaps.

        Args:
            known: The pair's gaps and the sources that could fill them.
            with_api: Whether requests are allowed.
        """
        rate = known.trades_a_second
        near = _near_gaps(known)
        alike = self._known.setdefault((*_situation(near), with_api), [])
        for routed in alike:
            if all(self._is_allowed(span, rate) is was_allowed for span, was_allowed in routed.judged.items()):
                return _priced(routed.legs, rate)
        judged: dict[Span, bool] = {}

        def may_page(span: Span) -> bool:
            judged[span] = self._is_allowed(span, rate)
            return judged[span]

        routed = _Routed(_routes(near, self._now, may_page, with_api=with_api), judged)
        alike.append(routed)
        return _priced(routed.legs, rate)

    def _is_allowed(self, gap: Span, trades_a_second: float) -> bool:
        return self._limit is None or trades_requests(gap, trades_a_second) <= self._limit


def _near_gaps(known: Knowledge) -> Knowledge:
    """Return what is known of the time from the first gap to the last, on which alone the routes depend."""
    gaps = [span for spans in known.gaps.values() for span in spans]
    if not gaps:
        return replace(known, covered={}, exhausted={})
    time = Span(min([span.start for span in gaps]), max([span.end for span in gaps]))
    return replace(known, covered=_clipped(known.covered, time), exhausted=_clipped(known.exhausted, time))


def _clipped(sets: Mapping[Key, Spans], time: Span) -> dict[Key, Spans]:
    return {
        key: near for key, spans in sets.items() if spans and spans[-1].end > time.start and (near := clip(spans, time))
    }


def _situation(near: Knowledge) -> tuple[Hashable, ...]:
    """Return all that routes depend on, without the rate of trades."""
    offers = tuple((interval, tuple(offers)) for interval, offers in near.offers.items() if offers)
    return tuple(near.gaps.items()), tuple(near.covered.items()), offers, tuple(near.exhausted.items())


def _priced(routes: Mapping[Interval, tuple[Leg, ...]], trades_a_second: float) -> dict[Interval, tuple[Leg, ...]]:
    return {
        interval: tuple(
            [
                replace(leg, requests=trades_requests(leg.span, trades_a_second)) if leg.route is Route.TRADES else leg
                for leg in legs
            ]
        )
        for interval, legs in routes.items()
    }


def _routes(
    known: Knowledge, now: int, may_page: Callable[[Span], bool], *, with_api: bool
) -> dict[Interval, tuple[Leg, ...]]:
    having = dict(known.covered)  # covered, or covered after resampling
    promised = dict(known.covered)  # covered once every leg has run
    routes: dict[Interval, tuple[Leg, ...]] = {}
    replies: set[Interval] = set()  # intervals whose OHLC request is already counted
    for interval in sorted(known.gaps):
        rest = known.gaps[interval]
        legs: list[Leg] = []
        steps = _free_steps(known, interval, having, promised)
        if with_api:
            steps = chain(steps, _api_steps(known, interval, now, may_page, is_paid=asked_of(interval) in replies))
        for step in steps:
            if not rest:
                break
            if found := step(rest):
                legs += found
                rest = subtract(rest, normalise(leg.span for leg in found))
        _add(having, interval, [leg for leg in legs if leg.route is Route.RESAMPLE and leg.is_ready])
        _add(promised, interval, legs)
        replies |= {leg.fetched for leg in legs if leg.route is Route.OHLC and leg.fetched is not None}
        for asked in {leg.fetched for leg in legs if leg.fetched not in (None, interval)}:
            _add(promised, asked, [leg for leg in legs if leg.fetched is asked])
        legs += [Leg(span, Route.NONE) for span in rest]
        routes[interval] = tuple(_joined(legs))
    return routes


def _joined(legs: Iterable[Leg]) -> Iterator[Leg]:
    """Yield the legs in order of time, adjacent ones of one kind joined, except Trades legs, each with its own cost."""
    before: Leg | None = None
    for leg in sorted(legs, key=lambda leg: leg.span.start):  # they are disjoint
        if before is not None and before.span.end == leg.span.start and _kind(before) == _kind(leg):
            requests, span_ = before.requests + leg.requests, Span(before.span.start, leg.span.end)
            before = replace(before, span=span_, requests=requests)
            continue
        if before is not None:
            yield before
        before = leg
    if before is not None:
        yield before


def _kind(leg: Leg) -> tuple[object, ...]:
    return leg.route, leg.files, leg.resampled_from, leg.is_ready, leg.span if leg.route is Route.TRADES else None


def _add(sets: dict[Interval, Spans], interval: Interval, legs: Sequence[Leg]) -> None:
    if legs:
        sets[interval] = normalise((*sets.get(interval, ()), *(leg.span for leg in legs)))


def _free_steps(
    known: Knowledge, interval: Interval, having: Mapping[Interval, Spans], promised: Mapping[Interval, Spans]
) -> Iterator[Callable[[Spans], list[Leg]]]:
    """Yield the sources that cost no request, the best first; each returns legs within the rest that it is given."""
    for offer in sorted(known.offers.get(interval, ()), key=lambda offer: (offer.span, offer.name)):
        yield partial(_from_archive, interval, offer)
    for spans, is_ready in ((having, True), (promised, False)):
        for finer in interval.finer:
            found = spans.get(finer, ())
            # A promise that adds nothing to what there is has nothing that the first round left.
            if found and (is_ready or found != having.get(finer, ())):
                leg = partial(Leg, route=Route.RESAMPLE, resampled_from=finer, is_ready=is_ready)
                yield partial(_from_finer, interval, found, known, leg)


def _api_steps(
    known: Knowledge, interval: Interval, now: int, may_page: Callable[[Span], bool], *, is_paid: bool
) -> Iterator[Callable[[Spans], list[Leg]]]:
    """Yield the sources that cost requests, the cheaper first; another interval may have paid for the OHLC reply."""
    yield partial(_from_ohlc, interval, known, now, is_paid)
    yield partial(_from_trades, interval, known, may_page)


def _untried(rest: Spans, interval: Interval, by: Route, known: Knowledge) -> Spans:
    return subtract(rest, known.exhausted.get((interval, by), ()))


def _from_archive(interval: Interval, offer: Offer, rest: Spans) -> list[Leg]:
    reach = whole_candles((offer.span,), interval)
    return [Leg(span, Route.ARCHIVE, files=(offer.name,)) for span in intersect(rest, reach)]


def _from_finer(
    interval: Interval, spans: Spans, known: Knowledge, leg: Callable[[Span], Leg], rest: Spans
) -> list[Leg]:
    untried = _untried(rest, interval, Route.RESAMPLE, known)
    # Both lie on grids, so that the whole candles of the few shared ranges are those of all.
    return [leg(span) for span in whole_candles(intersect(untried, spans), interval)]


def _from_ohlc(interval: Interval, known: Knowledge, now: int, is_paid: bool, rest: Spans) -> list[Leg]:
    asked = asked_of(interval)
    closed = asked.floor(now)
    reach = span(closed - OHLC_CANDLES * asked.seconds, closed)
    tried = touched_candles(known.exhausted.get((asked, Route.OHLC), ()), interval)
    spans = intersect(subtract(rest, tried), whole_candles(reach, interval))
    return [
        Leg(
            span,
            Route.OHLC,
            fetched=asked,
            requests=int(not index and not is_paid),
            expires_at=span.start + (OHLC_CANDLES + 1) * asked.seconds,
        )
        for index, span in enumerate(spans)
    ]


def _from_trades(interval: Interval, known: Knowledge, may_page: Callable[[Span], bool], rest: Spans) -> list[Leg]:
    tried = touched_candles(known.exhausted.get((Interval.M1, Route.TRADES), ()), interval)
    return [Leg(span, Route.TRADES, fetched=Interval.M1) for span in subtract(rest, tried) if may_page(span)]
