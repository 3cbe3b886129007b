"""The selection of fetches from the exchange: which gaps, in which order, and which of them one request serves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kraken_pipeline.coverage.ranges import Span, Spans, normalise
from kraken_pipeline.coverage.routing import Leg, Route
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import Tier
from kraken_pipeline.storage.records import file_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps.gaps import Gap, lookback_start, without_limits
from kraken_pipeline.workflow.gaps.snapshot import CatalogSnapshot
from kraken_pipeline.workflow.run_spec import RunSpec


@dataclass(frozen=True, slots=True)
class Fetch:
    """A fetch from the exchange, with the parts of gaps that it serves.

    Attributes:
        route: OHLC, or TRADES.
        series: The series to ask for; for trades, the one-minute candles.
        spans: The spans to ask for. One reply of OHLC serves them all; trades are paged through span by span.
        serves: The parts of gaps that it fills, some of them by resampling.
        requests: The approximate number of requests.
        expires_at: The time at which OHLC no longer reaches its start, in seconds since the epoch.
    """

    route: Route
    series: Series
    spans: Spans
    serves: tuple[tuple[Series, Span], ...]
    requests: int
    expires_at: int | None = None

    def __str__(self) -> str:
        return f"{self.route} of {self.series}"

    def as_json(self) -> dict[str, object]:
        """Return the JSON of `backfill --dry-run --json`."""
        return {
            "pair": self.series.pair,
            "interval": self.series.interval.value,
            "source": str(self.route),
            "start": iso(self.spans[0].start),
            "end": iso(self.spans[-1].end),
            "spans": len(self.spans),
            "requests": self.requests,
            "serves": sorted({series.interval.value for series, _ in self.serves}),
            "expires_at": None if self.expires_at is None else iso(self.expires_at),
        }


def selected(
    stores: Stores, spec: RunSpec, snapshot: CatalogSnapshot, gaps: Iterable[Gap]
) -> tuple[list[Fetch], list[Fetch]]:
    """Return the fetches of a run as things stand.

    The run, its dry run and the texts about both use this one selection.

    Args:
        stores: The stores, for tiers and archived pairs.
        spec: The spec of the run.
        snapshot: The snapshot of its pairs.
        gaps: The gaps of these pairs, with the routes under this spec.
    """
    with stores.catalog.read() as connection:
        archived = file_records.archived_pairs(connection)
    return select(
        [gap for gap in gaps if snapshot.may_be_asked(gap.series.pair)],
        spec,
        snapshot.now,
        unarchived=snapshot.pairs.keys() - archived,
        tier_of=lambda pair: stores.tiers.tier_of(snapshot.pairs[pair]),
    )


def unprobed(snapshot: CatalogSnapshot, spec: RunSpec) -> list[str]:
    """Return the pairs whose first trade a run asks for, because completeness counts from there on."""
    return [
        pair
        for pair in snapshot.pairs
        if (spec.complete or pair not in snapshot.first_known)
        and spec.start is None
        and snapshot.may_be_asked(pair)
        and (pair not in snapshot.listings or snapshot.listings[pair].first_trade is None)
    ]


@dataclass(frozen=True, slots=True)
class Outlook:
    """The cost of a run that fills all gaps through the exchange.

    Attributes:
        command: The command of the run.
        requests: The approximate number of requests, as its dry run shows it.
        gaps: The number of gaps that it fills.
        unprobed: The number of pairs whose first trade it asks for first; what that adds is known only then.
    """

    command: str
    requests: int
    gaps: int
    unprobed: int


def outlook(stores: Stores, spec: RunSpec, snapshot: CatalogSnapshot, found: Iterable[Gap]) -> Outlook:
    """Return the cost of filling all gaps of a selection through the exchange.

    Args:
        stores: The stores.
        spec: The pairs, intervals and time; its limits are ignored.
        snapshot: The snapshot of the pairs.
        found: All gaps of the selection, as `find_gaps` returns them.
    """
    whole = spec.selecting(complete=True)
    gaps = without_limits(found, snapshot)
    replies, trades = selected(stores, whole, snapshot, gaps)
    return Outlook(
        command=whole.as_command("backfill"),
        requests=estimated((*replies, *trades)),
        gaps=sum(any(leg.route.uses_api or not leg.is_ready for leg in gap.legs) for gap in gaps),
        unprobed=len(unprobed(snapshot, whole)),
    )


def select(
    gaps: Iterable[Gap],
    spec: RunSpec,
    now: int,
    *,
    unarchived: Collection[str],
    tier_of: Callable[[str], Tier],
) -> tuple[list[Fetch], list[Fetch]]:
    """Return the fetches of OHLC and those of trades, each in the order of asking.

    OHLC is ordered by tier and then by expiry, because its routes expire; trades by tier and then from new to old. Gaps
    that failed too often wait until their next try, unless the run is to be complete.

    Args:
        gaps: The gaps with their routes.
        spec: The spec of the run.
        now: The current time, in seconds since the epoch.
        unarchived: The pairs without any archive. The lookback does not apply to them, because only the exchange can
            fill them from their first trade on.
        tier_of: Returns the tier of a pair.
    """
    wanted: dict[tuple[Route, Series], list[tuple[Series, Leg]]] = {}
    for series, own in _by_series(gaps).items():
        since = 0 if series.pair in unarchived else lookback_start(spec, series.interval, now)
        chosen = 0
        for gap in sorted(own, key=lambda gap: gap.span, reverse=True):
            legs = [leg for leg in gap.legs if leg.fetched is not None and leg.span.end > since]
            is_waiting = gap.next_try > now and not spec.complete
            if not legs or is_waiting or (chosen == spec.max_gaps_per_asset and not spec.complete):
                continue
            chosen += 1
            for leg in legs:
                asked = Series(series.pair, leg.fetched or series.interval)
                wanted.setdefault((leg.route, asked), []).append((series, leg))
    fetches = [_fetch(route, asked, legs) for (route, asked), legs in wanted.items()]
    replies = sorted(
        (fetch for fetch in fetches if fetch.route is Route.OHLC),
        key=lambda fetch: (tier_of(fetch.series.pair), fetch.expires_at, fetch.series),
    )
    trades = sorted(
        (fetch for fetch in fetches if fetch.route is Route.TRADES),
        key=lambda fetch: (tier_of(fetch.series.pair), -fetch.spans[-1].end, fetch.series),
    )
    return replies, trades


def requests_left(stores: Stores, gaps: Collection[Gap], spec: RunSpec, now: int) -> int:
    """Return the approximate number of requests that another backfill of the same series makes for the gaps left.

    It has the default limits.

    Args:
        stores: The stores, for the pairs without any archive, to which the lookback does not apply.
        gaps: The gaps that the run has left.
        spec: The spec of that run.
        now: The current time, in seconds since the epoch.
    """
    with stores.catalog.read() as connection:
        unarchived = {gap.series.pair for gap in gaps} - file_records.archived_pairs(connection)
    replies, trades = select(gaps, spec.selecting(), now, unarchived=unarchived, tier_of=lambda _: Tier.ALL)
    return estimated((*replies, *trades))


def _by_series(gaps: Iterable[Gap]) -> Mapping[Series, list[Gap]]:
    found: dict[Series, list[Gap]] = {}
    for gap in gaps:
        found.setdefault(gap.series, []).append(gap)
    return found


def _fetch(route: Route, asked: Series, legs: Sequence[tuple[Series, Leg]]) -> Fetch:
    expiries = [leg.expires_at for _, leg in legs if leg.expires_at is not None]
    return Fetch(
        route,
        asked,
        normalise(leg.span for _, leg in legs),
        tuple((series, leg.span) for series, leg in legs),
        1 if route is Route.OHLC else sum(leg.requests for _, leg in legs),
        min(expiries, default=None),
    )


def estimated(fetches: Iterable[Fetch]) -> int:
    """Return the approximate number of requests of some fetches."""
    return sum(fetch.requests for fetch in fetches)
