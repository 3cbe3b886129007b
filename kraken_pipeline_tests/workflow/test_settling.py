"""Settling all that has one cause: releases that count other trades, what is being filled, and shifted files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kraken_pipeline.coverage.causes import CauseKind
from kraken_pipeline.demo.archives import write_complete_zip, write_csv, write_quarterly_zip
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.verdicts import Remedy, contradicted
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.withdraw.resolve import Resolved, resolve
from kraken_pipeline.workflow.withdraw.settling import Grouped, grouped, withdrawal_of
from kraken_pipeline_tests.support.homes import NOW, Q1, SPRING, START, oracle, run, stored

pytestmark = pytest.mark.slow

H1, H4, H12, D1 = Interval.H1, Interval.H4, Interval.H12, Interval.D1
PAIR = "XBTUSD"


def groups(stores: Stores) -> list[Grouped]:
    return grouped(contradicted(stores, run_spec(), NOW))


def settle(stores: Stores, cause: str, **which: str) -> Resolved:
    what = withdrawal_of(contradicted(stores, run_spec(), NOW), cause, "a test", **which)
    return resolve(stores, what, RunContext("by hand", NOW))


@pytest.mark.parametrize(("order", "remedy"), [((0, 1), Remedy.WITHDRAW), ((1, 0), Remedy.PROVE)])
def test_a_release_that_counts_other_trades_is_one_cause_of_all_its_series(
    stores: Stores, tmp_path: Path, order: tuple[int, int], remedy: Remedy
) -> None:
    fewer = [Defect(DefectKind.FEWER_TRADES, pair, H1) for pair in (PAIR, "ADAEUR")]
    archives = [
        write_quarterly_zip(tmp_path, SPRING, Q1, [H1], pairs=[PAIR, "ADAEUR"]),
        write_complete_zip(tmp_path, SPRING, Q1.end + DAY, [H1], defects=fewer, pairs=[PAIR, "ADAEUR"]),
    ]
    for index in order:
        run(stores, archives[index], run_id=f"run-{index}", api_backfill=False)
    (group,) = groups(stores)
    assert (group.cause.kind, group.pairs, len(group.of(remedy))) == (CauseKind.RELEASE, ["ADAEUR", PAIR], 2)
    assert group.cause.name == archives[order[1]].name
    if remedy is Remedy.PROVE:  # what came last is what is kept: there is nothing to take back
        assert "the greater trade count is kept" in group.action
        with pytest.raises(InvalidRequest, match="can be withdrawn: of 2 the greater trade count is kept"):
            settle(stores, group.cause.id)
        return
    assert re.fullmatch(r"withdraw what is suspected: kraken-pipeline resolve --cause \S+ --reason …", group.action)
    assert settle(stores, group.cause.id).files == tuple(
        f"{archives[1].name}:{pair}_60.csv" for pair in ("ADAEUR", PAIR)
    )
    assert groups(stores) == []


def test_what_is_a_gap_by_now_is_filled_by_one_command(stores: Stores, tmp_path: Path) -> None:
    days = [START + number * DAY for number in (1, 3)]
    missing = [Defect(DefectKind.MISSING_CANDLE, PAIR, H12, day + 12 * 3_600) for day in days]
    for interval in (H12, D1):
        write_csv(tmp_path / "archives", SPRING, PAIR, interval, start=START, end=Q1.end, defects=missing)
    run(stores, tmp_path / "archives", api_backfill=False)
    (group,) = groups(stores)
    assert (group.cause.kind, len(group.of(Remedy.FILL))) == (CauseKind.FILE, 2)
    assert group.as_json()["conflicts"] == 0
    command = "kraken-pipeline backfill --pairs XBTUSD --intervals 720 --start 2023-03-27 --end 2023-03-30 --complete"
    assert group.action == f"2 are gaps now, which are filled by {command}"
    with pytest.raises(InvalidRequest, match="can be withdrawn: 2 are gaps now"):
        settle(stores, group.cause.id)


def test_a_shifted_file_is_taken_back_as_a_whole(stores: Stores, tmp_path: Path) -> None:
    shifted = Defect(DefectKind.SHIFTED, PAIR, H4, hours=4)
    for interval in (H1, H4, D1):
        write_csv(tmp_path / "archives", SPRING, PAIR, interval, start=START, end=Q1.end, defects=[shifted])
    run(stores, tmp_path / "archives", api_backfill=False)
    shift = next(group for group in groups(stores) if group.cause.kind is CauseKind.SHIFT)
    with pytest.raises(InvalidRequest, match="no source can decide which is wrong"):
        settle(stores, shift.cause.id)
    done = settle(stores, shift.cause.id, interval="240")
    assert done.files == (f"{PAIR}_240.csv",)
    assert [group.cause.kind for group in groups(stores) if group.cause.kind is CauseKind.SHIFT] == []
    assert stored(stores, PAIR, 240, START, Q1.end - DAY) == oracle(PAIR, 240, START, Q1.end - DAY)
