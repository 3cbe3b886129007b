"""Old eras: trades with one decimal beside archives with five, and the other way round."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest

from kraken_pipeline.coverage.causes import CauseKind
from kraken_pipeline.demo.archives import write_csv, write_trades_csv
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import World
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.storage.catalog.states import ContradictionState
from kraken_pipeline.storage.records import proof_records
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.explain.explain import explain
from kraken_pipeline.workflow.reconcile.verdicts import VerdictState, contradicted, every_candle
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import lake_of, lines_of, oracle, run, settings_of, write_lines
from kraken_pipeline_tests.support.samples import at

pytestmark = pytest.mark.slow

PAIR = "XBTEUR"
START, END = at("2014-01-10"), at("2014-02-20")
NOW = END + 30 * DAY
WORLD = World(
    14, (Listing(PAIR, "XXBTZEUR", "XBT/EUR", "XXBT", "ZEUR", 5, 612.34567, 0.3, 60, START, night=(1, 4)),), NOW
)
M1, M30, H1, H4, D1 = (Interval(each) for each in (1, 30, 60, 240, 1440))


def rounded(path: Path, *fields: int) -> Path:
    """A file whose prices have one decimal."""
    rows = [line.split(",") for line in lines_of(path)]
    for row in rows:
        for field in fields:
            row[field] = f"{float(row[field]):.1f}"
    return write_lines(path, [",".join(row) for row in rows])


def trades(folder: Path, end: int = END) -> Path:
    return write_trades_csv(folder, WORLD, PAIR, START, end)


def candles(folder: Path, *intervals: Interval, end: int = END) -> list[Path]:
    return [write_csv(folder, WORLD, PAIR, interval, start=START, end=end) for interval in intervals]


def trades_with_one_decimal(folder: Path) -> None:
    rounded(trades(folder), 1)
    candles(folder, H1, H4, D1)


def archives_with_one_decimal(folder: Path) -> None:
    trades(folder)
    for path in candles(folder, H1, H4, D1):
        rounded(path, 1, 2, 3, 4)


def fine_archives_with_one_decimal(folder: Path) -> None:
    for path in candles(folder, M30):
        rounded(path, 1, 2, 3, 4)
    candles(folder, H1, H4, D1)


ERAS = [trades_with_one_decimal, archives_with_one_decimal, fine_archives_with_one_decimal]


def contradictions(stores: Stores) -> list[tuple[Interval, Interval, str]]:
    with stores.catalog.read() as connection:
        found = proof_records.contradictions_of(
            connection, None, (ContradictionState.CONFLICT, ContradictionState.REFUTED)
        )
    return [(each.fine, each.coarse, iso(each.span.start)) for each in found]


def spoiled(path: Path, time: int, field: int, by: float) -> None:
    """Moves a price of one candle."""
    lines = lines_of(path)
    for number, line in enumerate(lines):
        row = line.split(",")
        if int(row[0]) == time:
            row[field] = f"{float(row[field]) + by:.5f}"
            lines[number] = ",".join(row)
    write_lines(path, lines)


@pytest.mark.parametrize("era", ERAS)
def test_what_was_rounded_contradicts_nothing_and_is_said_to_be_equal_within_a_unit(
    stores: Stores, tmp_path: Path, era: Callable[[Path], None]
) -> None:
    era(tmp_path / "archives")
    run(stores, tmp_path / "archives", now=NOW, api_backfill=False)
    assert contradictions(stores) == []
    hour = iso(oracle(PAIR, 60, START, END, WORLD)[400][0])
    told = [sentence for sentence in explain(stores, PAIR, 60, hour, NOW).proof.by if "within 0.1" in sentence]
    assert told
    assert all("equal within 0.1, one side is rounded" in sentence for sentence in told)
    verdicts = list(
        every_candle(stores, run_spec(pairs=[PAIR], intervals=[30, 60], start="2014-01-11", end="2014-02-19"), NOW)
    )
    of_hours = [each for each in verdicts if each.coarse is H1]
    assert {each.proof for each in of_hours} == {VerdictState.VERIFIED}
    said = [each.action for each in of_hours if each.coarse_trades]
    assert said.count("equal within 0.1") > len(said) * 0.9


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("field", "by"), [(2, 0.2), (3, -0.2)])
def test_a_spike_of_two_units_is_found_in_a_rounded_era(
    stores: Stores, tmp_path: Path, era: Callable[[Path], None], field: int, by: float
) -> None:
    era(tmp_path / "archives")
    wrong = oracle(PAIR, 60, START, END, WORLD)[400][0]
    spoiled(tmp_path / "archives" / f"{PAIR}_60.csv", wrong, field, by)
    run(stores, tmp_path / "archives", now=NOW, api_backfill=False)
    found = contradictions(stores)
    assert (M30, H1, iso(wrong)) in found
    assert {(fine, coarse) for fine, coarse, _ in found} <= {(M30, H1), (H1, H4)}
    assert len(found) <= 2


def test_where_both_sides_have_as_many_decimals_a_single_unit_is_a_contradiction(
    stores: Stores, tmp_path: Path
) -> None:
    for path in candles(tmp_path / "archives", M30, H1):
        rounded(path, 1, 2, 3, 4)
    wrong = oracle(PAIR, 60, START, END, WORLD)[400][0]
    spoiled(tmp_path / "archives" / f"{PAIR}_60.csv", wrong, 2, 0.1)
    run(stores, tmp_path / "archives", now=NOW, api_backfill=False)
    assert contradictions(stores) == [(M30, H1, iso(wrong))]


def test_what_too_few_prices_tell_is_of_one_cause_and_settled_when_the_rest_of_the_month_comes(
    stores: Stores, tmp_path: Path
) -> None:
    rounded(trades(tmp_path / "trades"), 1)
    (hours,) = candles(tmp_path / "hours", H1)
    write_lines(tmp_path / "few" / hours.name, lines_of(hours)[:2])
    run(stores, tmp_path / "trades", tmp_path / "few", now=NOW, api_backfill=False)
    (found,) = contradicted(stores, run_spec(intervals=[60]), NOW)
    assert found.cause is not None
    assert found.cause.kind is CauseKind.PRECISION
    run(stores, tmp_path / "hours", now=NOW, run_id="two", api_backfill=False)
    assert contradictions(stores) == []


def test_in_every_order_of_ingestion_the_lake_keeps_the_prices_that_have_more_decimals(
    tmp_path: Path, empty_home: Path
) -> None:
    parts = {name: tmp_path / name for name in ("trades", "minutes", "rounded")}
    end = START + DAY
    rounded(trades(parts["trades"], end), 1)
    candles(parts["minutes"], M1, H1, end=end)
    for path in candles(parts["rounded"], M1, H1, D1, end=end):
        rounded(path, 1, 2, 3, 4)
    lakes = []
    for order in permutations(parts):
        home = Path(shutil.copytree(empty_home, tmp_path / "-".join(order)))
        with opened(settings_of(home)) as stores:
            for name in order:
                run(stores, parts[name], now=NOW, run_id=name, api_backfill=False)
            assert contradictions(stores) == []
            lakes.append({series: [row[:7] for row in rows] for series, rows in lake_of(stores).items()})
    assert all(lake == lakes[0] for lake in lakes)
