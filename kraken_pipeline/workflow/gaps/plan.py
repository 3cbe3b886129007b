"""The plan: the source of every gap and what filling it costs. Planning writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.coverage.routing import Leg, Offer
from kraken_pipeline.errors import InvalidRequest, UnreadableArchive
from kraken_pipeline.kraken.archive import ArchiveFile, ArchiveReader
from kraken_pipeline.kraken.discovery import PassedOver
from kraken_pipeline.kraken.edges import first_time, last_time
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps.gaps import Gap, find_gaps
from kraken_pipeline.workflow.gaps.selection import estimated, selected
from kraken_pipeline.workflow.gaps.snapshot import load_snapshot
from kraken_pipeline.workflow.gaps.wanted_archives import awaited_archives, missing_archives
from kraken_pipeline.workflow.ingest.scan import UNKNOWN, Scan, Task, folders, scan
from kraken_pipeline.workflow.run_spec import RunSpec


@dataclass(frozen=True, slots=True)
class Planned:
    """A leg of a gap with the time that it takes.

    Attributes:
        series: The series of the gap.
        leg: The part of the gap, its route, and its cost.
        seconds: The approximate time of its requests at the rate of the settings.
    """

    series: Series
    leg: Leg
    seconds: float

    def as_json(self) -> dict[str, object]:
        """Return the JSON of `plan --json`."""
        return {
            "pair": self.series.pair,
            "interval": self.series.interval.value,
            "start": iso(self.leg.span.start),
            "end": iso(self.leg.span.end),
            "source": str(self.leg.route),
            "files": list(self.leg.files),
            "requests": self.leg.requests,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a run.

    Attributes:
        routes: Every leg of every gap.
        missing_archives: The fewest archives not at hand that would fill what has no route or costs many requests.
        awaited: The archives that would fill gaps and are not published yet.
        scanned: The content of the folders.
        gaps: The gaps.
        run_requests: The approximate number of requests of the run itself, within its lookback and limits.
    """

    routes: tuple[Planned, ...]
    missing_archives: tuple[str, ...]
    awaited: tuple[str, ...]
    scanned: Scan
    gaps: tuple[Gap, ...]
    run_requests: int

    @property
    def requests(self) -> int:
        """The number of requests that filling every gap takes."""
        return sum(planned.leg.requests for planned in self.routes)

    @property
    def seconds(self) -> float:
        """The approximate time of the requests."""
        return sum(planned.seconds for planned in self.routes)

    def as_json(self) -> dict[str, object]:
        """Return the JSON of `plan --json`."""
        return {
            "routes": [planned.as_json() for planned in self.routes],
            "missing_archives": list(self.missing_archives),
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
        }


def make_plan(stores: Stores, spec: RunSpec, now: int) -> Plan:
    """Return the plan of a run as things stand.

    Raises:
        InvalidRequest: A folder does not exist, or nothing is known of the selection.
    """
    scanned = scan(stores, spec, now)
    offers, first_known = offered(scanned, now)
    snapshot = load_snapshot(stores, spec, now, also=[task.file.pair for task in scanned.tasks])
    if not snapshot.pairs and not scanned.broken:
        raise nothing_to_do(stores, spec, scanned)
    snapshot.containers = [*snapshot.containers, *scanned.containers]
    for pair, first in first_known.items():
        snapshot.first_known[pair] = min(first, snapshot.first_known.get(pair, first))
    gaps = find_gaps(stores, spec, snapshot, offers, with_api=spec.api_backfill)
    rate = stores.settings.kraken_api_rate
    routes = tuple(Planned(gap.series, leg, round(leg.requests / rate, 3)) for gap in gaps for leg in gap.legs)
    asked = selected(stores, spec, snapshot, gaps)
    return Plan(
        routes=routes,
        missing_archives=tuple(missing_archives(gaps, snapshot.published_until)),
        awaited=tuple(awaited_archives(gaps)),
        scanned=scanned,
        gaps=tuple(gaps),
        run_requests=estimated(chain(*asked)),
    )


def nothing_to_do(stores: Stores, spec: RunSpec, scanned: Scan) -> InvalidRequest:
    """Return the error for a selection that nothing matches; it names files whose pair is unknown."""
    places = ", ".join(str(folder) for folder in folders(stores, spec))
    unknown = [f"{skipped.name}: {skipped.reason}" for skipped in scanned.skipped if skipped.reason.endswith(UNKNOWN)]
    return InvalidRequest(
        f"nothing to work on for tier {spec.tier}: the lake has nothing for it, and no archive in {places} matches; "
        "put Kraken's archives into the first of these folders, or name their "
        f"folder{''.join(f'; {skipped}' for skipped in unknown[:3])}"
    )


def offered(scanned: Scan, now: int) -> tuple[Mapping[Series, list[Offer]], Mapping[str, int]]:
    """Return the offers of the files at hand by series, and each pair's first time in them in seconds."""
    offers: dict[Series, list[Offer]] = {}
    firsts: dict[str, int] = {}
    with ArchiveReader() as reader:
        for task in scanned.tasks:
            try:
                first = first_time(task.file, reader, now)
                reach = _reach(task, reader, first, now)
            except (UnreadableArchive, OSError, EOFError, ValueError) as error:
                scanned.broken.append(PassedOver(task.file.name, str(error)))
                continue
            if first is None or reach is None:
                continue
            pair, start = task.file.pair.name, task.file.interval.floor(first)
            firsts[pair] = min(start, firsts.get(pair, start))
            offers.setdefault(task.file.series, []).append(Offer(task.file.name, reach))
    return offers, firsts


def _reach(task: Task, reader: ArchiveReader, first: int | None, now: int) -> Span | None:
    if task.container is not None and task.container.start is not None and task.container.end is not None:
        return Span(task.container.start, task.container.end)
    last = last_time(task.file, reader, now)
    if first is None or last is None:
        return None
    start, end = _loose_reach(task.file, first, last)
    return Span(start, end) if start < end else None


def _loose_reach(file: ArchiveFile, first: int, last: int) -> tuple[int, int]:
    """Return the reach of a loose file: from its first candle to its last one's start.

    For trades, the incomplete minutes at both ends are left out.
    """
    start = file.interval.floor(first)
    return (start + file.interval.seconds if file.kind == "TRADES" else start), file.interval.floor(last)
