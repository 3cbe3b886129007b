"""Quiet time of single pairs, searched before the outages are known: what is found is what a search of all finds."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from kraken_pipeline.coverage.ranges import Span, Spans, normalise, subtract
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import proof_records, publications
from kraken_pipeline.storage.records.publications import Publication
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.quiet_search import (
    Found,
    PairSearch,
    QuietSearch,
    days_of,
    places_of,
    search,
    search_changes,
    still_found,
)
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import Q1, run, write_lines

pytestmark = pytest.mark.slow

HOUR = 3_600
DAYS = 50
NOW = Q1.start + DAYS * DAY
PAIRS = [f"K{number:02d}USD" for number in range(8)]


def holes(chance: random.Random) -> Spans:
    """Hours without a candle: alone, for hours, and for days."""
    found = []
    for longest in (1, 1, 4, 4, 12, 30, 60):
        start = Q1.start + chance.randrange(24 * DAYS) * HOUR
        found.append(Span(start, start + chance.randint(1, longest) * HOUR))
    return normalise(found)


@pytest.fixture
def searched(stores: Stores, tmp_path: Path) -> Mapping[str, list[Publication]]:
    """Pairs with quiet time of any kind, in hours and in halves of hours, and their ranges to be searched."""
    chance = random.Random(7)
    for pair in PAIRS:
        missing = holes(chance)
        for interval in (Interval.M30, Interval.H1):
            times = range(Q1.start, NOW, interval.seconds)
            there = [time for time in times if not any(time in span for span in missing)]
            lines = [f"{time},1,1,1,1,2,{chance.choice((1, 3, 9, 30))}" for time in there]
            write_lines(tmp_path / "in" / f"{pair}_{interval.value}.csv", lines)
    run(stores, tmp_path / "in", now=NOW, resampling=False)
    with stores.catalog.write() as connection:
        marks = [mark for found in publications.marked(connection).values() for mark in found]
        publications.reconciled(connection, marks, NOW)
        return publications.to_search(connection)


def of_some(stores: Stores, checks: Mapping[str, list[Publication]], down: Spans) -> QuietSearch:
    """A search that knew some outages."""
    changed = publications.ranges_of(check for found in checks.values() for check in found)
    _, found, silent = search(stores, PairSearch(places_of(days_of(changed)), changed), down)
    ids = {pair: frozenset(check.id for check in some) for pair, some in checks.items()}
    return QuietSearch(ids, tuple(found), silent, down)


def test_outages_that_are_found_later_leave_what_a_search_that_knows_them_finds(
    stores: Stores, searched: Mapping[str, list[Publication]]
) -> None:
    changed = publications.ranges_of(check for found in searched.values() for check in found)
    places = places_of(days_of(changed))
    found_at_all: set[Found] = set()
    saved = 0
    for seed in range(12):
        chance = random.Random(seed)
        before, after = (holes(chance) if chance.random() < 0.8 else () for _ in range(2))
        early = of_some(stores, searched, before)
        ended = subtract(before, after) if chance.random() < 0.5 else ()
        _, expected, _ = search(stores, PairSearch(places, changed), after)
        still, rest = still_found([early], searched, places, after, ended)
        _, again, _ = search(stores, PairSearch(rest, changed), after)
        assert {*still, *again} == set(expected), seed
        found_at_all |= set(expected)
        saved += len(places.keys() - rest.keys())
    assert len(found_at_all) > len(PAIRS)
    assert saved, "what no outage touches is not searched again"


def test_a_pair_that_has_changed_since_it_was_searched_is_searched_anew(
    stores: Stores, searched: Mapping[str, list[Publication]]
) -> None:
    early = search_changes(stores, PAIRS)
    places = dict.fromkeys(PAIRS, (Span(Q1.start, NOW),))
    still, rest = still_found([early], searched, places, (), ())
    assert (sorted(still), rest) == (sorted(early.found), {})
    with stores.catalog.write() as connection:
        publications.mark_for_reconciliation(connection, [(Series(PAIRS[0], Interval.H1), Span(NOW, NOW + DAY))], NOW)
        publications.reconciled(connection, publications.marked(connection)[PAIRS[0]], NOW)
        changed = publications.to_search(connection)
    still, rest = still_found([early], changed, places, (), ())
    assert rest.keys() == {PAIRS[0]}
    assert PAIRS[0] not in {pair for pair, *_ in still}
    assert still


def test_a_search_that_is_lost_is_made_by_the_run(stores: Stores, searched: Mapping[str, list[Publication]]) -> None:
    found = {(one[0], one[2]) for one in search_changes(stores, searched).found}
    assert found
    with stores.catalog.read() as connection:
        assert publications.to_search(connection) == searched
    backfill(stores, run_spec(intervals="30,60", api_backfill=False), RunContext("run-two", NOW))
    with stores.catalog.read() as connection:
        assert publications.to_search(connection) == {}
        assert {(one.pair, one.span) for one in proof_records.suspicions_of(connection)} == found
