"""Two files of one release that differ at the same trade count."""

from __future__ import annotations

import json
import shutil
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kraken_pipeline.coverage.ranges import Span, Spans, of_candles, seconds
from kraken_pipeline.demo.archives import candles_name, write_csv
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake.writer import CandleWriter
from kraken_pipeline.storage.records import dispute_records
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.explain.explain import explain
from kraken_pipeline.workflow.explain.explanation import ProofState
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.verdicts import CandleVerdict, contradicted
from kraken_pipeline.workflow.report.report import make_report
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.withdraw.resolve import resolve
from kraken_pipeline.workflow.withdraw.withdrawal import withdrawal
from kraken_pipeline_tests.support.homes import NOW, Q1, SPRING, START, lake_of, run, settings_of, stored, write_lines
from kraken_pipeline_tests.support.lakes import bring_in, lake_at
from kraken_pipeline_tests.support.samples import candle, frame, write_zip

pytestmark = pytest.mark.slow

HOURS = Series("XBTUSD", Interval.H1)
TIMES = [START + 3_600 * hour for hour in range(48)]


def hours(price: float, *, trades: int = 7, times: list[int] = TIMES) -> list[str]:
    return [f"{time},{price},{price},{price},{price},2.5,{trades}" for time in times]


def release(folder: Path, **members: list[str]) -> Path:
    return write_zip(
        folder / candles_name(Q1), {f"{name}.csv": "\n".join(rows) + "\n" for name, rows in members.items()}
    )


def disputed(stores: Stores) -> Spans:
    with stores.catalog.read() as connection:
        return dispute_records.disputed(connection).get(HOURS, ())


def conflicts(stores: Stores) -> int:
    return make_report(stores, run_spec(intervals=[60]), NOW).conflict_count


def listed(stores: Stores) -> list[CandleVerdict]:
    return contradicted(stores, run_spec(intervals=[60]), NOW)


ONE, OTHER = hours(100), [*hours(100, times=TIMES[:20]), *hours(200, times=TIMES[20:23]), *hours(100, times=TIMES[23:])]
DIFFERENT = (Span(TIMES[20], TIMES[23]),)


def loose(folder: Path) -> list[Path]:
    return [
        write_lines(folder / "one" / "XBTUSD_60.csv", ONE),
        write_lines(folder / "other" / "XBTUSD_60.csv", OTHER),
    ]


def under_two_names(folder: Path) -> list[Path]:
    return [
        write_lines(folder / "one" / "XBTUSD_60.csv", ONE),
        write_lines(folder / "other" / "BTCUSD_60.csv", OTHER),
    ]


def in_one_archive(folder: Path) -> list[Path]:
    return [release(folder, XBTUSD_60=ONE, BTCUSD_60=OTHER)]


def in_two_archives(folder: Path) -> list[Path]:
    return [release(folder / "one", XBTUSD_60=ONE), release(folder / "other", XBTUSD_60=OTHER)]


@pytest.mark.parametrize("archives", [loose, under_two_names, in_one_archive, in_two_archives])
def test_files_of_one_release_that_differ_are_one_conflict_a_series_and_listed_candle_by_candle(
    stores: Stores, tmp_path: Path, archives: object
) -> None:
    paths = archives(tmp_path)  # type: ignore[operator]
    for number, path in enumerate(paths):
        run(stores, path, run_id=f"run-{number}", api_backfill=False)
    assert disputed(stores) == DIFFERENT
    report = make_report(stores, run_spec(intervals=[60]), NOW)
    assert (report.conflict_count, json.loads(json.dumps(report.as_json()))["conflicts"]) == (1, 1)
    assert {each.series: each.conflicts for each in report.series} == {HOURS: 1}
    found = listed(stores)
    assert [each.span.start for each in found] == TIMES[20:23]
    for each in found:
        assert each.action.count("kraken-pipeline resolve --file") == 2
        assert each.action.count("differ at the same trade count") == 1
    told = explain(stores, "XBTUSD", 60, iso(TIMES[21]), NOW)
    assert told.proof.state is ProofState.CONFLICT
    assert {loser.candle.values[0] for loser in told.losers} ^ {told.candle.values[0]} == {100, 200}  # type: ignore[union-attr]
    assert explain(stores, "XBTUSD", 60, iso(TIMES[19]), NOW).proof.state is ProofState.NOT_TESTED


def test_reading_the_same_files_again_adds_nothing(stores: Stores, tmp_path: Path) -> None:
    paths = loose(tmp_path)
    run(stores, *paths, api_backfill=False)
    before = disputed(stores), [each.as_json() for each in listed(stores)], lake_of(stores)
    for number in range(2):
        again = Path(shutil.copytree(tmp_path / "other", tmp_path / f"again-{number}"))
        run(stores, *paths, again, run_id=f"again-{number}", api_backfill=False)
    assert (disputed(stores), [each.as_json() for each in listed(stores)], lake_of(stores)) == before


@pytest.mark.parametrize("taken_back", [0, 1])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_taking_either_file_back_settles_it_and_the_other_one_is_what_is_kept(
    stores: Stores, tmp_path: Path, taken_back: int, order: tuple[int, int]
) -> None:
    paths = under_two_names(tmp_path)
    for index in order:
        run(stores, paths[index], run_id=f"run-{index}", api_backfill=False)
    assert conflicts(stores) == 1
    done = resolve(stores, withdrawal(reason="a test", file=paths[taken_back].name), RunContext("by hand", NOW))
    assert [each.name for each in done.read_again] == [paths[1 - taken_back].name]
    assert disputed(stores) == ()
    run(stores, *paths, run_id="again", api_backfill=False)
    assert (disputed(stores), conflicts(stores), listed(stores)) == ((), 0, [])
    kept = {row[0]: row[1] for row in stored(stores, "XBTUSD", 60)}
    assert [kept[time] for time in TIMES[20:23]] == [(200, 100)[taken_back]] * 3


def test_of_three_files_the_two_that_are_left_still_differ(stores: Stores, tmp_path: Path) -> None:
    third = [*hours(100, times=TIMES[:20]), *hours(300, times=TIMES[20:21]), *hours(100, times=TIMES[21:])]
    paths = [*under_two_names(tmp_path), write_lines(tmp_path / "third" / "XXBTZUSD_60.csv", third)]
    run(stores, *paths, api_backfill=False)
    assert disputed(stores) == DIFFERENT
    resolve(stores, withdrawal(reason="a test", file="BTCUSD_60.csv"), RunContext("by hand", NOW))
    run(stores, *paths, run_id="again", api_backfill=False)
    assert disputed(stores) == (Span(TIMES[20], TIMES[21]),)


def test_what_is_kept_of_a_greater_trade_count_or_a_later_release_is_disputed_by_nobody(
    tmp_path: Path, empty_home: Path
) -> None:
    files = {
        "one": write_lines(tmp_path / "one" / "XBTUSD_60.csv", ONE),
        "other": write_lines(tmp_path / "other" / "BTCUSD_60.csv", OTHER),
        "more": write_lines(
            tmp_path / "more" / "XBT_60.csv".replace("XBT", "XXBTZUSD"), hours(150, trades=8, times=TIMES[20:22])
        ),
        "later": release(tmp_path / "later", XBTUSD_60=hours(100, times=TIMES[22:23])),
    }
    for order in permutations(files):
        home = Path(shutil.copytree(empty_home, tmp_path / "-".join(order)))
        with opened(settings_of(home)) as stores:
            for name in order:
                run(stores, files[name], run_id=name, api_backfill=False, resampling=False)
            assert disputed(stores) == (), order


@pytest.mark.parametrize(("factor", "left"), [(0.5, 0), (2.0, 2)])
def test_finer_candles_settle_it_where_what_is_kept_is_right_and_contradict_it_where_it_is_wrong(
    stores: Stores, tmp_path: Path, factor: float, left: int
) -> None:
    paths = [
        write_csv(tmp_path / name, SPRING, "XBTUSD", Interval.H1, start=START, end=START + 2 * DAY)
        for name in ("one", "two")
    ]
    lines = paths[1].read_text().splitlines()
    *values, volume, trades = lines[30].split(",")
    lines[30] = ",".join([*values, f"{float(volume) * factor:.8f}", trades])  # the greater volume is kept
    write_lines(paths[1], lines)
    finer = write_csv(tmp_path / "finer", SPRING, "XBTUSD", Interval.M30, start=START, end=START + 2 * DAY)
    run(stores, *paths, api_backfill=False)
    assert (seconds(disputed(stores)), conflicts(stores)) == (3_600, 1)
    run(stores, finer, run_id="finer", api_backfill=False)
    assert conflicts(stores) == left
    resolve(stores, withdrawal(reason="a test", file=str(paths[1])), RunContext("by hand", NOW))
    run(stores, paths[0], run_id="again", api_backfill=False)
    assert conflicts(stores) == 0


def test_files_that_differ_by_rounding_alone_do_not_differ(stores: Stores, tmp_path: Path) -> None:
    exact = [
        f"{time},{100 + n / 97:.5f},{200 + n / 97:.5f},{50 + n / 97:.5f},{100 + n / 89:.5f},2,3"
        for n, time in enumerate(TIMES)
    ]
    rough = [
        f"{time},{100 + n / 97:.1f},{200 + n / 97:.1f},{50 + n / 97:.1f},{100 + n / 89:.1f},2,3"
        for n, time in enumerate(TIMES)
    ]
    run(stores, write_lines(tmp_path / "one" / "XBTUSD_60.csv", exact), api_backfill=False)
    run(stores, write_lines(tmp_path / "two" / "BTCUSD_60.csv", rough), run_id="two", api_backfill=False)
    assert disputed(stores) == ()


ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([10.0, 20.0]), st.sampled_from([5, 6]), st.sampled_from([0, 19_000])),
    max_size=4,
    unique_by=lambda row: row[0],
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.lists(ROWS, min_size=2, max_size=4), data=st.data())
def test_what_is_disputed_in_the_end_does_not_depend_on_the_order(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[tuple[int, float, int, int]]], data: st.DataObject
) -> None:
    """Each file is of one release; a candle is disputed where another says otherwise of what the kept one is."""
    told = [[(hour, price, trades, rows[0][3]) for hour, price, trades, _ in sorted(rows)] for rows in files if rows]
    expected = set()
    for hour in range(4):
        said = {row[1:] for rows in told for row in rows if row[0] == hour}
        if said:
            most = max((trades, rel) for _, trades, rel in said)
            if len({price for price, *what in said if tuple(what) == most}) > 1:
                expected.add(TIMES[hour])
    lake = lake_at(tmp_path_factory.mktemp("lake"))
    for rows in data.draw(st.permutations(told)):
        writer = CandleWriter(lake, HOURS, origin="a file", now=NOW)
        writer.add(
            frame(
                candle(TIMES[hour], price, trades=trades, release=rel, source=Source.CSV)
                for hour, price, trades, rel in rows
            )
        )
        staged = writer.finish()
        bring_in(lake, staged)
        with lake.catalog.write() as connection:
            dispute_records.settle(connection, {HOURS: of_candles(staged.undisputed, Interval.H1)})
            dispute_records.dispute(connection, {HOURS: of_candles(staged.disputed, Interval.H1)})
    with lake.catalog.read() as connection:
        found = dispute_records.disputed(connection).get(HOURS, ())
    assert {time for span in found for time in range(span.start, span.end, 3_600)} == expected
