"""The open gaps of a run: looked for once, and again only where something has changed, by whomever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import evidence_records, file_records, gap_records
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.gaps import open_gaps
from kraken_pipeline.workflow.gaps.gaps import Gap, find_gaps
from kraken_pipeline.workflow.gaps.open_gaps import OpenGaps
from kraken_pipeline.workflow.gaps.selection import requests_left
from kraken_pipeline.workflow.gaps.snapshot import load_snapshot
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import NOW, Shelf, closed_gaps, run, settings_of
from kraken_pipeline_tests.support.homes import open_gaps as recorded

pytestmark = pytest.mark.slow

HOURS = run_spec(intervals="60")
PAIRS = ("XBTUSD", "ADAEUR", "ZORKUSD")


@pytest.fixture
def stores(tmp_path: Path, shelf: Shelf) -> Iterator[Stores]:
    """A home with a quarter of hours of each pair, and nothing after it."""
    with opened(settings_of(tmp_path / "home")) as found:
        run(found, shelf.q2, intervals="60", resampling=False)
        yield found


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """The pairs of each reading of the catalog, and of each search for gaps."""
    seen: dict[str, list[list[str]]] = {"read": [], "searched": []}

    def reading(stores: Stores, spec: Any, now: int) -> Any:
        found = load_snapshot(stores, spec, now)
        seen["read"].append(sorted(found.pairs))
        return found

    def searching(stores: Stores, spec: Any, snapshot: Any) -> list[Gap]:
        seen["searched"].append(sorted(snapshot.pairs))
        return find_gaps(stores, spec, snapshot)

    monkeypatch.setattr(open_gaps, "load_snapshot", reading)
    monkeypatch.setattr(open_gaps, "find_gaps", searching)
    return seen


def fill(stores: Stores, pair: str, span: Span) -> None:
    """A source answers for a span: nobody traded."""
    series = Series(pair, Interval.H1)
    with stores.locks.series([series]):
        times = stores.lake.times(series)
        with stores.catalog.write() as connection:
            evidence_records.grant(connection, [(series, (Grant(span, Source.CSV, NOW),), None)])
            evidence_records.renew(connection, {series: times})


def expected_now(stores: Stores) -> list[Gap]:
    return find_gaps(stores, HOURS, load_snapshot(stores, HOURS, NOW))


def test_what_has_not_changed_is_neither_read_nor_searched_again(
    stores: Stores, looks: dict[str, list[list[str]]]
) -> None:
    gaps = OpenGaps(stores, HOURS, NOW)
    first = gaps.gaps
    assert gaps.gaps == first == expected_now(stores)
    assert gaps.snapshot.pairs.keys() == set(PAIRS)
    assert looks == {"read": [sorted(PAIRS)], "searched": [sorted(PAIRS)]}


def test_a_pair_that_has_changed_is_read_and_searched_by_itself(
    stores: Stores, looks: dict[str, list[list[str]]]
) -> None:
    gaps = OpenGaps(stores, HOURS, NOW)
    (before,) = (gap for gap in gaps.gaps if gap.series.pair == PAIRS[0])
    fill(stores, PAIRS[0], Span(before.span.start, before.span.end - 3_600))
    assert before in gaps.gaps, "this run has not been told of it"
    gaps.change([PAIRS[0], "NOBODYUSD"])
    assert gaps.gaps == expected_now(stores)
    assert (looks["read"][1:], looks["searched"][1:]) == ([[PAIRS[0]]], [[PAIRS[0]]])


def test_what_another_run_has_filled_meanwhile_is_never_recorded_as_a_gap(stores: Stores) -> None:
    gaps = OpenGaps(stores, HOURS, NOW)
    for gap in gaps.gaps:
        fill(stores, gap.series.pair, gap.span)
    assert gaps.record() == [] == expected_now(stores)
    assert [recorded(stores, pair, 60) for pair in PAIRS] == [[], [], []]


def test_the_last_look_sees_what_another_run_has_changed(stores: Stores, looks: dict[str, list[list[str]]]) -> None:
    gaps = OpenGaps(stores, HOURS, NOW)
    gaps.record()
    (other,) = (gap for gap in gaps.gaps if gap.series.pair == PAIRS[1])
    fill(stores, PAIRS[1], other.span)
    assert other in gaps.record(), "nothing that this run changed"
    searches = len(looks["searched"])
    assert gaps.record(anew=True) == expected_now(stores)
    assert PAIRS[1] in looks["searched"][searches]
    assert recorded(stores, PAIRS[1], 60) == []
    (closed,) = closed_gaps(stores, PAIRS[1], 60)
    assert (closed.span, closed.status) == (other.span, GapStatus.FILLED)


def test_a_mark_of_a_fetch_that_was_not_made_is_taken_back_by_the_next_record(stores: Stores) -> None:
    gaps = OpenGaps(stores, HOURS, NOW)
    (gap,) = (gap for gap in gaps.record() if gap.series.pair == PAIRS[0])
    with stores.catalog.write() as connection:
        gap_records.mark(connection, gap.series, [gap.span], GapStatus.BACKFILLING)
    gaps.change([PAIRS[0]])
    gaps.record()
    assert [row.status for row in recorded(stores, PAIRS[0], 60)] == [GapStatus.DETECTED]


def test_a_pair_that_the_lake_has_got_since_is_seen(stores: Stores, shelf: Shelf, tmp_path: Path) -> None:
    one = run_spec(intervals="60")
    with opened(settings_of(tmp_path / "empty")) as there:
        gaps = OpenGaps(there, one, NOW)
        assert gaps.record() == []
        run(there, shelf.q2, intervals="60", resampling=False)
        assert gaps.snapshot.pairs.keys() == set(PAIRS)
        assert {gap.series.pair for gap in gaps.record()} == set(PAIRS)


def test_an_archive_that_was_examined_since_changes_the_gaps_of_every_pair(tmp_path: Path, shelf: Shelf) -> None:
    with opened(settings_of(tmp_path / "first")) as stores:
        run(stores, shelf.q1, intervals="60", resampling=False)
        gaps = OpenGaps(stores, HOURS, NOW)
        (before,) = (gap for gap in gaps.gaps if gap.series.pair == "ZORKUSD")
        run(stores, shelf.q2, intervals="60", pairs="XBTUSD", resampling=False)
        gaps.change(["XBTUSD"])
        assert gaps.gaps == expected_now(stores)
        (after,) = (gap for gap in gaps.gaps if gap.series.pair == "ZORKUSD")
    assert before.required_csv_file == f"{shelf.q2.name}:ZORKUSD_60.csv"
    assert after.required_csv_file is None, "that archive was examined, and answered for nothing more"


def test_a_reading_of_one_pair_leaves_the_rates_of_the_others(stores: Stores) -> None:
    older, newer = load_snapshot(stores, HOURS, NOW), load_snapshot(stores, run_spec(pairs=PAIRS[0]), NOW)
    newer.rates = dict.fromkeys(PAIRS, 7.0)
    rates = older.updated(newer).rates
    assert rates == {**older.rates, PAIRS[0]: 7.0}


def test_what_is_left_is_estimated_as_the_next_run_selects_it(stores: Stores) -> None:
    """The lookback does not apply to pairs without an archive: only the exchange can fill them."""
    long_ago = expected_now(stores)
    assert long_ago != []
    later = NOW + 400 * 86_400
    limited = requests_left(stores, long_ago, HOURS, later)
    with stores.catalog.write() as connection:
        file_records.finish(
            connection,
            [
                {"id": record.id, "status": "FAILED", "reason": "a test", "updated_at": NOW}
                for record in file_records.completed(connection, list(PAIRS))
            ],
        )
    assert limited == 0 < requests_left(stores, long_ago, HOURS, later)
