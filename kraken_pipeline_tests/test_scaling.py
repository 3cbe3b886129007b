"""The model of how long a run takes with more workers, and the benchmark that it rests on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.scaling_model import ARCHIVES, MEASURED, WORKERS, Archive, duration, lines
from kraken_pipeline_tests.support.fixtures import need
from kraken_pipeline_tests.support.servers import PostgreSQL

ROOT = Path(__file__).resolve().parents[1]
SMALL = Archive("small", files=800, rows=1_000_000, largest=100_000)


def test_more_workers_shorten_the_groups_and_nothing_else() -> None:
    one, four = (duration(SMALL, MEASURED, workers, server_processors=64) for workers in (1, 4))
    assert (one.first, one.last) == (four.first, four.last)
    assert one.groups - 4 * MEASURED.start == pytest.approx(4 * (four.groups - 4 * MEASURED.start))
    assert one.bound == four.bound == "their own work"


def test_the_largest_pair_is_a_bound() -> None:
    one_pair = Archive("one pair", files=8, rows=100_000_000, largest=100_000_000)
    found = duration(one_pair, MEASURED, 64, server_processors=64)
    assert found.bound == "the largest pair"
    assert found.groups > MEASURED.of_row * one_pair.rows


def test_the_database_is_a_bound_that_more_processors_move() -> None:
    slow = replace(MEASURED, of_server=10.0)
    found = [duration(SMALL, slow, 64, server_processors=processors).groups for processors in (1, 4)]
    assert found == [8_000.0, 2_000.0]


def test_the_page_has_the_table_that_the_model_makes() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    made = list(lines())
    assert len(made) == len(ARCHIVES) * len(WORKERS)
    assert [line for line in made if line not in page] == []


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.process
def test_writers_do_to_the_catalog_what_groups_of_files_do(tmp_path: Path) -> None:
    need(PostgreSQL)
    told = tmp_path / "figures.json"
    options = ("writers", "--counts", "2", "--groups", "2", "--rounds", "1", "--json", str(told))
    subprocess.run([sys.executable, "-m", "benchmarks.scaling", *options], cwd=ROOT, check=True, capture_output=True)
    (found,) = json.loads(told.read_text())
    assert (found["writers"], found["files"], found["deadlocks"]) == (2, 128, 0)
    assert found["transactions"] > found["writes"] > 20, "ten and more for each group"
    assert min(found["clients"], found["server"], found["log_bytes"]) > 0
