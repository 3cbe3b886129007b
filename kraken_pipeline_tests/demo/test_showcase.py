from __future__ import annotations

import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kraken_pipeline.demo.defects import DefectKind
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.demo.showcase import Showcase, build_showcase
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.quarter import Quarter

pytestmark = pytest.mark.slow

NOW = 1_762_820_224  # 2025-11-11 00:17:04 UTC


@pytest.fixture(scope="module")
def showcase(tmp_path_factory: pytest.TempPathFactory) -> Showcase:
    return build_showcase(tmp_path_factory.mktemp("showcase"), NOW)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_covers_the_four_quarters_that_ended_last_but_one_and_the_running_one(showcase: Showcase) -> None:
    assert [path.name for path in showcase.quarters] == [
        "Kraken_OHLCVT_Q4_2024.zip",
        "Kraken_OHLCVT_Q2_2025.zip",
        "Kraken_OHLCVT_Q3_2025.zip",
    ]
    assert showcase.missing == "Kraken_OHLCVT_Q1_2025.zip"
    assert showcase.missing_quarter == Quarter(2025, 1)
    assert {path.name for path in showcase.loose} == {
        f"{pair}_{interval}.csv" for pair in showcase.world.listings for interval in (60, 240, 1440)
    }
    assert len(showcase.world.listings) == 5


def test_the_folder_holds_what_it_says_and_nothing_else(showcase: Showcase) -> None:
    said = {*showcase.quarters, *showcase.loose, *showcase.strays, showcase.corrupt}
    assert set(showcase.folder.iterdir()) == said
    assert len(said) == 3 + 15 + len(showcase.strays) + 1


def test_the_corrupt_file_cannot_be_opened_and_the_others_can(showcase: Showcase) -> None:
    assert not zipfile.is_zipfile(showcase.corrupt)
    assert all(zipfile.is_zipfile(path) for path in showcase.quarters)


def test_the_rows_to_be_rejected_are_in_the_file_they_are_said_to_be_in(showcase: Showcase) -> None:
    (pair,) = {defect.pair for defect in showcase.rejected}
    (release,) = {defect.release for defect in showcase.rejected}
    with zipfile.ZipFile(showcase.folder / str(release)) as archive:
        lines = archive.read(f"{pair}_60.csv").decode().splitlines()
    rows = {line.split(",")[0]: line.split(",")[1:] for line in lines}
    times = {defect.kind: str(defect.time) for defect in showcase.rejected}
    assert float(rows[times[DefectKind.HIGH_BELOW_LOW]][1]) < float(rows[times[DefectKind.HIGH_BELOW_LOW]][2])
    assert rows[times[DefectKind.NEGATIVE_VOLUME]][4].startswith("-")
    assert rows[times[DefectKind.UNREADABLE]][3] == "n/a"
    assert times[DefectKind.MISALIGNED] not in rows


def test_loose_files_hold_closed_candles_up_to_now(showcase: Showcase) -> None:
    lines = (showcase.folder / "XBTUSD_60.csv").read_text().splitlines()
    candles = showcase.world.candles("XBTUSD", Interval.H1, Quarter(2025, 4).start, NOW // 3_600 * 3_600)
    assert len(lines) == candles.height
    assert [int(line.rsplit(",", 1)[1]) for line in lines] == candles["trade_count"].to_list()


def test_the_same_moment_and_seed_give_the_same_bytes(showcase: Showcase, tmp_path: Path) -> None:
    assert content(build_showcase(tmp_path, NOW).folder) == content(showcase.folder)


@pytest.mark.parametrize("days", [0, 45])
def test_it_can_be_built_on_any_day_with_any_seed_and_intervals(tmp_path: Path, days: int) -> None:
    now = int(datetime(2026, 7, 1, 0, 30, tzinfo=UTC).timestamp()) + days * DAY
    showcase = build_showcase(tmp_path, now, seed=days, intervals=[Interval.D1])
    assert [path.name for path in showcase.quarters][-1] == "Kraken_OHLCVT_2026Q2.zip"
    assert all(path.stat().st_size for path in showcase.loose)
    assert bool(showcase.loose) is (days > 0), "half an hour into a quarter no day of it is over"
