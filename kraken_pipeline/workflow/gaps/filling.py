"""The archives that fill gaps: those at hand, those to be fetched, and those that are not published yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kraken_pipeline.coverage.ranges import Spans, clip, normalise
from kraken_pipeline.coverage.routing import Leg, Route
from kraken_pipeline.kraken.release import Kind, published
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.quarter import Quarter
from kraken_pipeline.market.series import Series
from kraken_pipeline.workflow.gaps.snapshot import CatalogSnapshot


@dataclass(frozen=True, slots=True)
class Filling:
    """The archives that fill a gap.

    Attributes:
        files: The files with its candles, joined by a comma: those at hand as their offers name them, others as
            `RELEASE.zip:PAIR_MINUTES.csv`.
        wanted: The published archives that would fill it and are not at hand.
        awaited: The archives of ended quarters that would fill it and are not published yet.
    """

    files: str
    wanted: tuple[str, ...]
    awaited: tuple[str, ...]


_NO_ARCHIVE = Filling("", (), ())
_NONE_FAILED: frozenset[str] = frozenset()


class Archives:
    """The archives that fill gaps; those that have already answered are left out.

    Most pairs lack the same time, so what is missing of a range is looked up once for all of them.

    Args:
        snapshot: The snapshot, for its containers and their failed members.
    """

    def __init__(self, snapshot: CatalogSnapshot) -> None:
        candles = [container for container in snapshot.containers if container.kind == Kind.OHLCVT]
        self._complete = [container for container in candles if container.quarter is None]
        self._quarterly: dict[str, list[str]] = {}
        for container in candles:
            if container.quarter is not None:
                self._quarterly.setdefault(container.quarter, []).append(container.sha256)
        self._failed: dict[tuple[str, int], frozenset[str]] = {}
        for sha256, pair, interval in snapshot.failed:
            self._failed[pair, interval] = self._failed.get((pair, interval), frozenset()) | {sha256}
        self._lacking: dict[tuple[Spans, frozenset[str]], tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._snapshot = snapshot

    def filling(self, series: Series, own: Sequence[Leg], unreached: Spans) -> Filling:
        """Return the archives that fill a gap.

        Args:
            series: The series of the gap.
            own: The legs of the gap.
            unreached: The legs of the series that are out of reach.
        """
        offered = [leg for leg in own if leg.route is Route.ARCHIVE]
        far: Spans = ()
        if series.interval.in_archives:
            far = tuple([leg.span for leg in own if leg.route is not Route.ARCHIVE and _lies_in(leg, unreached)])
        if not (offered or far):
            return _NO_ARCHIVE
        failed = self._failed.get(series, _NONE_FAILED)
        member = f":{series.pair}_{series.interval.value}.csv"
        wanted, awaited = self._not_answered(far, failed)
        if not offered:
            return Filling(f"{member},".join(wanted) + member if wanted else "", wanted, awaited)
        files: list[str] = []
        for leg in own:
            if leg.route is Route.ARCHIVE:
                files += leg.files
            elif leg.span in far:
                files += [archive + member for archive in self._not_answered((leg.span,), failed)[0]]
        at_hand = {name.partition(":")[0] for leg in offered for name in leg.files}
        wanted = tuple(archive for archive in wanted if archive not in at_hand)
        return Filling(",".join(dict.fromkeys(files)), wanted, awaited)

    def _not_answered(self, spans: Spans, failed: frozenset[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the archives of some ranges that have not answered: the published ones, and those that are not yet.

        Args:
            spans: The ranges, in order of time.
            failed: The containers whose member for the series could not be read: they have answered for nothing.
        """
        if (known := self._lacking.get((spans, failed))) is not None:
            return known
        found: list[str] = []
        awaited: list[str] = []
        for span in spans:
            for archive, quarter in published(span.start, span.end, self._snapshot.now):
                if self._holding(quarter, max(span.start, quarter.start)) <= failed:
                    (awaited if quarter.end > self._snapshot.published_until else found).append(archive)
        known = self._lacking[spans, failed] = tuple(dict.fromkeys(found)), tuple(dict.fromkeys(awaited))
        return known

    def _holding(self, quarter: Quarter, start: int) -> set[str]:
        """Return the containers of a quarter, and the complete ones that hold a moment in it."""
        complete = (
            container.sha256
            for container in self._complete
            if container.end is not None and (container.start or 0) <= start < container.end
        )
        return {*self._quarterly.get(str(quarter), ()), *complete}


def _lies_in(leg: Leg, unreached: Spans) -> bool:
    return leg.span in unreached or bool(clip(unreached, leg.span))  # most are one of these spans themselves


def out_of_reach(routes: Mapping[Interval, Sequence[Leg]]) -> dict[Interval, Spans]:
    """Return the legs of each interval that have, or are resampled from what has, no route but TRADES, or none."""
    found: dict[Interval, Spans] = {}
    for interval, legs in sorted(routes.items()):  # what a leg is resampled from is finer
        found[interval] = normalise(
            leg.span
            for leg in legs
            if leg.route in (Route.TRADES, Route.NONE)
            or (
                leg.route is Route.RESAMPLE
                and not leg.is_ready
                and leg.resampled_from is not None
                and clip(found.get(leg.resampled_from, ()), leg.span)
            )
        )
    return found
