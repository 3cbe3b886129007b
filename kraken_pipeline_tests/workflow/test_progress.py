"""The time that a run still needs: the arithmetic, and what a run adds to it."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import costs
from kraken_pipeline.workflow.pair_groups import changes_of
from kraken_pipeline.workflow.progress import Progress, RunContext, Work, seconds_left
from kraken_pipeline_tests.support.homes import Q3, Shelf, stored
from kraken_pipeline_tests.support.homes import run as ingested

SECONDS = st.floats(0.01, 1e6)


@st.composite
def works(draw: st.DrawFn) -> Work:
    """Any work, some of it finished at any pace."""
    total = draw(SECONDS)
    done = total * draw(st.floats(0, 1))
    return Work(total, done, done * draw(st.floats(0.01, 100)), is_remote=draw(st.booleans()))


LISTS = st.lists(works(), min_size=1, max_size=6)


@given(LISTS)
def test_as_long_as_work_is_left_time_is_left_and_never_otherwise(some: list[Work]) -> None:
    assert (seconds_left(some) > 0) == any(work.done < work.total for work in some)
    assert seconds_left([replace(work, done=work.total) for work in some]) == 0
    assert seconds_left([]) == 0


@given(LISTS, st.sampled_from([Work(), Work(5, 5, 7)]))
def test_the_time_of_the_phases_adds_up_and_nothing_expected_or_left_of_one_takes_none(
    some: list[Work], over: Work
) -> None:
    every = {str(number): work for number, work in enumerate([*some, over])}
    rests = [Progress(phase, work=every).phase_seconds_left or 0.0 for phase in every]
    assert rests[-1] == 0
    assert sum(rests) == pytest.approx(Progress(work=every).seconds_left or 0.0)
    assert Progress("another", work=every).phase_seconds_left is None


@given(LISTS, SECONDS)
def test_more_work_takes_more_time(some: list[Work], more: float) -> None:
    longer = [replace(some[0], total=some[0].total + more), *some[1:]]
    assert seconds_left(longer) > seconds_left(some)
    assert seconds_left([*some, Work(more)]) > seconds_left(some)


@given(LISTS, st.floats(0, 1))
def test_the_more_is_finished_in_the_same_time_the_less_is_left(some: list[Work], share: float) -> None:
    first = some[0]
    further = replace(first, done=first.done + share * (first.total - first.done))
    assert seconds_left([further, *some[1:]]) <= seconds_left(some) * (1 + 1e-9)


@given(LISTS)
def test_where_all_has_taken_as_long_as_expected_the_rest_will_too(some: list[Work]) -> None:
    as_expected = [replace(work, taken=work.done) for work in some]
    assert seconds_left(as_expected) == pytest.approx(sum(work.total - work.done for work in some))


@given(st.floats(0.3, 3), st.floats(0.3, 0.9))
def test_a_machine_of_another_pace_is_known_from_the_work_done(pace: float, share: float) -> None:
    first = Work(1_000, share * 1_000, share * 1_000 * pace)
    assert seconds_left([first, Work(500)]) == pytest.approx(pace * ((1 - share) * 1_000 + 500), rel=0.05)


def test_a_phase_has_a_pace_of_its_own() -> None:
    before, slow = Work(1_000, 1_000, 1_000), Work(100, 80, 320)
    assert seconds_left([before, slow]) == pytest.approx(20 * 4, rel=0.2)
    assert seconds_left([before, slow, Work(100)]) == pytest.approx(20 * 4 + 100, rel=0.3)


def test_the_pace_of_the_exchange_says_nothing_of_that_of_the_machine() -> None:
    asking = Work(100, 100, 900, is_remote=True)
    assert seconds_left([asking, Work(50)]) == 50
    assert seconds_left([Work(100, 100, 900), replace(asking, done=0, taken=0)]) == 100


@given(LISTS)
def test_a_run_is_at_a_hundred_per_cent_when_it_is_done_and_never_before(some: list[Work]) -> None:
    work = {f"phase {number}": one for number, one in enumerate(some)}
    assert 0 <= Progress("reporting", work=work).percent <= 99
    assert Progress("reporting", work=work).seconds_left != 0
    done = Progress("done", work=work)
    assert (done.percent, done.seconds_left) == (100, 0)


# --- what a run adds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by the clock, as the only element of a list."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def begun() -> RunContext:
    """A run that has begun at the second 0."""
    return RunContext("run-one", 0, _began=0.0, _accounted=0.0)


def test_finished_work_gets_the_time_since_the_last_report(clock: list[float]) -> None:
    run = begun()
    run.expect("ingesting", 10)
    run.expect("reporting", 5)
    clock[0] = 3  # the search for files, of whose work nothing was expected
    run.report(phase="reading archives")
    clock[0] = 11
    run.did("ingesting", 4)
    run.report(phase="ingesting")
    assert run.progress.work == {"ingesting": Work(10, 4, 8), "reporting": Work(5)}
    clock[0] = 12
    run.finish("ingesting")
    assert run.progress.work["ingesting"] == Work(10, 10, 9)
    run.report(phase="reporting")
    clock[0] = 15
    run.report(candles=7)
    assert run.progress.work["reporting"] == Work(5, 0, 3)


def test_what_is_expected_anew_replaces_only_what_is_left(clock: list[float]) -> None:
    run = begun()
    run.expect("reconciling", 10)
    clock[0] = 2
    run.did("reconciling", 3)
    run.expect("reconciling", 20)
    assert run.progress.work["reconciling"] == Work(23, 3, 2)
    run.did("reconciling", 30)
    assert run.progress.work["reconciling"] == Work(33, 33, 2)


def test_a_phase_of_which_nothing_is_expected_has_no_work(clock: list[float]) -> None:
    run = begun()
    run.did("ingesting", 5)
    run.finish("reconciling")
    clock[0] = 9
    run.report(phase="adopting")
    assert (run.progress.work, run.progress.seconds_left, run.progress.percent) == ({}, None, 0)


# --- what a change costs


def test_the_size_of_a_change_is_the_share_of_the_candles_in_its_time(stores: Stores, shelf: Shelf) -> None:
    ingested(stores, shelf.minutes, resampling=False)
    minutes, end = Series("XBTUSD", Interval.M1), Q3.start + 4 * DAY
    (whole,) = changes_of(stores, {minutes: (Span(0, 2 * end),)}).values()
    (half,) = changes_of(stores, {minutes: (Span(Q3.start, Q3.start + 2 * DAY),)}).values()
    assert whole.candles == pytest.approx(len(stored(stores, "XBTUSD", 1)))
    assert whole.years == pytest.approx(4 * DAY / costs.YEAR, rel=0.01)
    assert half.candles == pytest.approx(whole.candles / 2, rel=0.01)
    unknown = Series("ETHUSD", Interval.H1)
    assert changes_of(stores, {unknown: (Span(0, DAY),)}) == {"ETHUSD": costs.Change()}


def test_more_processes_and_fewer_changes_cost_less() -> None:
    changes = [costs.Change(1_000_000, 3), costs.Change(10, 1)]
    assert 0 < costs.reconciling(changes[1:], 2) < costs.reconciling(changes, 2) < costs.reconciling(changes, 1)
