"""Kraken's own files, from the folder to the export."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import pytest

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.resample import resample
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records.evidence_records import coverage_of
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.support.homes import settings_of, values
from kraken_pipeline_tests.support.samples import REAL_FILES, real_file
from kraken_pipeline_tests.support.shell import Said, shell

pytestmark = [pytest.mark.slow, pytest.mark.real_files]
COUNTS = {"STORJUSD_60": 1_508, "ADAUSD_1440": 916, "XBTCAD_720": 6_937, "XBTCAD_1440": 3_509}


@dataclass(frozen=True, slots=True)
class Real:
    """A home with the real files in it, and what the two runs said that read them."""

    home: Path
    first: Said
    second: Said


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    real_file("BCHEUR.csv")
    home = tmp_path_factory.mktemp("real") / "home"
    command = ("ingest", "--archive-dir", str(REAL_FILES), "--no-api-backfill", "--json")
    return Real(home, shell(home, *command), shell(home, *command))


def exported(real: Real, pair: str, minutes: str, path: Path) -> list[list[str]]:
    said = shell(real.home, "export", pair, minutes, "--to", str(path))
    assert said.code == 0, said.err
    header, *rows = csv.reader(path.read_text().splitlines())
    told = ["vwap", "quote_volume", "buy_volume"] if len(header) > 8 else []  # by trades, and not by candles
    assert header == ["time", "open", "high", "low", "close", "volume", "trade_count", "source", *told]
    return rows


@pytest.mark.process
@pytest.mark.parametrize("name", COUNTS)
def test_every_value_of_a_file_is_exported_as_it_was_published(real: Real, tmp_path: Path, name: str) -> None:
    pair, minutes = name.split("_")
    rows = exported(real, pair, minutes, tmp_path / "out.csv")
    published = [
        [float(field) for field in row] for row in csv.reader(real_file(f"{name}.csv").read_text().splitlines())
    ]
    assert [[float(field) for field in row[:7]] for row in rows if row[7] == "CSV"] == published
    assert len(published) == COUNTS[name]
    assert len(rows) == COUNTS[name]


def test_the_run_says_what_it_took_and_why_it_passed_over_the_rest(real: Real) -> None:
    told = real.first.json
    assert real.first.code == 0
    assert (told["status"], told["files_total"], told["files_ingested"]) == ("SUCCESS", 5, 5)
    outcome = told["outcome"]
    others = sorted(path.name for path in REAL_FILES.iterdir() if path.suffix != ".csv")
    assert outcome["not_archives"] == len(others) >= 7
    passed_over = {note.partition(": ")[0]: note.partition(": ")[2] for note in outcome["notes"]}
    assert passed_over == dict.fromkeys(others, "not a CSV file")
    assert (outcome["rows_rejected"], outcome["files_failed"]) == (0, 0)


def test_a_second_run_stores_none_and_says_why(real: Real) -> None:
    told = real.second.json
    assert real.second.code == 0
    assert (told["files_total"], told["candles_ingested"]) == (0, 0)
    assert told["outcome"]["files_taken_before"] == 5
    notes = [note for note in told["outcome"]["notes"] if "read before" in note]
    assert len(notes) == 5
    assert all(f"read before: ingested by run {real.first.json['run_id'][:8]}" in note for note in notes)


def test_trades_become_minutes_that_count_all_but_those_of_the_two_cut_ones(real: Real, tmp_path: Path) -> None:
    trades = [int(line.split(",")[0]) // 60 for line in real_file("BCHEUR.csv").read_text().splitlines()]
    whole = [minute for minute in trades if minute not in (trades[0], trades[-1])]
    rows = exported(real, "BCHEUR", "1", tmp_path / "out.csv")
    assert sum(int(row[6]) for row in rows) == len(whole) > 0
    assert [int(row[0]) // 60 for row in rows] == sorted(set(whole))
    assert {row[7] for row in rows} == {"TRADES"}


@pytest.mark.parametrize("interval", [Interval.M5, Interval.M15, Interval.H1])
def test_candles_resampled_from_the_minutes_agree_with_them(real: Real, interval: Interval) -> None:
    with opened(settings_of(real.home)) as stores:
        minutes = stores.lake.read(Series("BCHEUR", Interval.M1))
        coarser = stores.lake.read(Series("BCHEUR", interval))
        with stores.catalog.read() as connection:
            (covered,) = coverage_of(connection, [Interval.M1], ["BCHEUR"])[Series("BCHEUR", Interval.M1)]
    # Only those that lie whole in what the trades span.
    start, end = interval.ceil(covered.span.start), interval.floor(covered.span.end)
    expected = [row for row in values(resample(minutes, interval)) if start <= row[0] < end]
    assert values(coarser) == expected != []
    assert set(coarser["source"]) == {"RESAMPLED"}


def test_the_two_files_of_xbtcad_reconcile(real: Real) -> None:
    with opened(settings_of(real.home)) as stores:
        halves = stores.lake.read(Series("XBTCAD", Interval.H12))
        days = stores.lake.read(Series("XBTCAD", Interval.D1))
    shared = {row[0]: row for row in values(resample(halves, Interval.D1))}
    agreeing = [row for row in values(days) if row[0] in shared]
    assert len(agreeing) > 3_000
    for row in agreeing:
        assert (*row[:5], row[6]) == (*shared[row[0]][:5], shared[row[0]][6])
        assert row[5] == pytest.approx(shared[row[0]][5], abs=1e-6)
