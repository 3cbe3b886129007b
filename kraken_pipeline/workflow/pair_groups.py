"""Groups of pairs: the units of work that the processes of a run reconcile and search side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kraken_pipeline.coverage.ranges import Span, Spans, clip
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import evidence_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import costs
from kraken_pipeline.workflow.costs import Change

LARGE_CANDLES = 3_000_000
"""The number of candles from which on several processes share the work: with fewer, it takes two seconds or less."""
GROUP_CANDLES = 2_000_000
GROUP_PAIRS = 16
"""The greatest group, unless one pair has more candles. What the catalog says of its pairs is read together, and what
is found of them recorded together; progress is reported after each group."""
LEAST_SECONDS = 1.0
"""The least work of a group that is a step of its own, whose process takes more than a second to start."""
STEPS_OF_WORKER = 4
"""The number of steps that each process has: as few as let all processes end at about the same time."""


def pair_groups(stores: Stores, pairs: Collection[str]) -> tuple[list[list[str]], int]:
    """Return pairs in groups, the largest first, and the number of processes to work on them."""
    candles = dict.fromkeys(sorted(pairs), 0)
    with stores.catalog.read() as connection:
        for series, extent in evidence_records.extents(connection, sorted(pairs)).items():
            candles[series.pair] += extent.candles
    groups: list[list[str]] = []
    size = 0
    for pair in sorted(candles, key=lambda pair: -candles[pair]):
        if not groups or size + candles[pair] > GROUP_CANDLES or len(groups[-1]) >= GROUP_PAIRS:
            groups.append([])
            size = 0
        groups[-1].append(pair)
        size += candles[pair]
    return groups, stores.settings.kraken_workers if sum(candles.values()) >= LARGE_CANDLES else 1


def step_groups(costs_of: Mapping[str, float], workers: int) -> list[list[str]]:
    """Return names in groups that are steps of their own, the costliest first.

    Args:
        costs_of: The expected time of each, in seconds of one process.
        workers: The number of processes that take steps.
    """
    least = max(LEAST_SECONDS, sum(costs_of.values()) / (STEPS_OF_WORKER * workers))
    groups: list[list[str]] = []
    size = least
    for name in sorted(costs_of, key=lambda name: (-costs_of[name], name)):
        if size >= least:
            groups.append([])
            size = 0.0
        groups[-1].append(name)
        size += costs_of[name]
    return groups


def changes_of(stores: Stores, ranges: Mapping[Series, Spans]) -> dict[str, Change]:
    """Return the size of each pair's change, as if the candles of a series were evenly spread over its time."""
    found: dict[str, Change] = {}
    with stores.catalog.read() as connection:
        extents = evidence_records.extents(connection, sorted({series.pair for series in ranges}))
    for series, spans in ranges.items():
        before = found.setdefault(series.pair, Change())
        if (extent := extents.get(series)) is not None:
            whole = Span(extent.first_time, extent.last_time + series.interval.seconds)
            changed = sum(span.seconds for span in clip(spans, whole))
            candles = before.candles + extent.candles * changed / whole.seconds
            found[series.pair] = Change(candles, max(before.years, changed / costs.YEAR))
    return found
