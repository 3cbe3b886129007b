from __future__ import annotations

from pathlib import Path

import pytest

from kraken_pipeline.market.interval import INTERVALS, INTERVALS_OF_ARCHIVES, Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.gaps.kept_intervals import kept_intervals, of_kept_intervals, record_asked
from kraken_pipeline.workflow.page.contents import gather
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.report.report import make_report
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.withdraw.resolve import resolve
from kraken_pipeline.workflow.withdraw.withdrawal import withdrawal
from kraken_pipeline_tests.support.homes import NOW, Shelf, run, settings_of, stored

pytestmark = pytest.mark.slow

ARCHIVED = (Interval.H1, Interval.D1)


def test_until_there_is_anything_those_of_krakens_archives_are_kept(stores: Stores) -> None:
    assert kept_intervals(stores) == INTERVALS_OF_ARCHIVES


def test_those_of_archives_are_kept_and_not_what_is_resampled_from_them(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1)
    assert stored(stores, "XBTUSD", 240)
    assert kept_intervals(stores) == ARCHIVED


def test_archives_of_trades_single_out_no_interval(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.trades)
    assert stored(stores, "XBTUSD", 1)
    assert kept_intervals(stores) == INTERVALS_OF_ARCHIVES
    run(stores, shelf.q1, run_id="run-two")
    assert kept_intervals(stores) == ARCHIVED


def test_those_that_a_run_names_are_kept_as_well(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1)
    repair = run_spec(intervals="5", start="2023-04-01", end="2023-04-02")
    for spec in (run_spec(), run_spec(pairs="XBTUSD"), run_spec(intervals="5", dry_run=True), repair):
        record_asked(stores, spec, NOW)
        assert kept_intervals(stores) == ARCHIVED
    record_asked(stores, run_spec(intervals="1440,10080"), NOW)
    assert kept_intervals(stores) == (*ARCHIVED, Interval.W1)
    record_asked(stores, run_spec(intervals=list(INTERVALS)), NOW)
    assert kept_intervals(stores) == INTERVALS


def test_those_of_an_archive_that_was_withdrawn_are_kept_no_longer(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1)
    run(stores, shelf.minutes, run_id="run-two")
    assert kept_intervals(stores) == (Interval.M1, *ARCHIVED)
    resolve(stores, withdrawal(reason="of another exchange", file=shelf.minutes.name), RunContext("resolve", NOW))
    assert kept_intervals(stores) == ARCHIVED


@pytest.mark.parametrize("value", ["240", "1440, 240,240", "4h, 1d", "1w"])
def test_the_setting_says_it_alone(home: Path, shelf: Shelf, value: str) -> None:
    with opened(settings_of(home, kraken_intervals=value)) as stores:
        run(stores, shelf.q1)
        record_asked(stores, run_spec(intervals="5"), NOW)
        assert kept_intervals(stores) == tuple(sorted({Interval.parse(each) for each in value.split(",")}))


def test_a_report_and_its_page_are_about_them_unless_others_are_named(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1)
    for options, intervals in (({}, ARCHIVED), ({"intervals": "720"}, (Interval.H12,))):
        spec = run_spec(pairs="XBTUSD", **options)
        wanted = [Series("XBTUSD", interval) for interval in intervals]
        made, page = make_report(stores, spec, NOW), gather(stores, spec, NOW)
        assert [each.series for each in made.series] == [each.series for each in page.report.series] == wanted
        assert [each.interval for each in page.maps] == list(intervals)
        assert page.spec == of_kept_intervals(stores, spec)
    every = run_spec(pairs="XBTUSD", intervals=list(INTERVALS))
    assert len(make_report(stores, every, NOW).series) == len(INTERVALS)
