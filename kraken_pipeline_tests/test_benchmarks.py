"""The benchmarks run, and say what they measured; how fast anything is, no test asks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kraken_pipeline_tests.support.servers import QuestDB, reason_without

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.process
def test_a_small_round_measures_every_kind_of_figure(tmp_path: Path) -> None:
    served = ["publish-6"] if reason_without(QuestDB) is None else []
    figures = [
        "file-5m",
        "zip-2000",
        "trades-5m",
        "fold-5m",
        "pages-500k",
        "gaps-1000",
        "reconcile-5y",
        "verify-2000",
        "quick-10000",
        "page-200",
        *served,
    ]
    only = [argument for name in figures for argument in ("--only", name)]
    told = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--small", "--json", str(told), *only],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,  # it starts servers, on machines that are busy
        check=False,
    )
    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout.splitlines()
    assert header.split()[:4] == ["figure", "ours", "bare", "ratio"]
    assert [line.split()[0] for line in lines[: len(figures)]] == figures
    whole, quick, page, *published = lines[len(figures) :]
    assert re.fullmatch(r"verify-2000: \d+ MiB in \d+\.\d\d s", whole)
    assert re.fullmatch(r"quick-10000: \d+ MiB in \d+\.\d\d s", quick)
    assert re.fullmatch(r"page-200: the page has \d+ kB", page)
    for name, line in zip(served, published, strict=True):
        assert re.fullmatch(rf"{name}: \d+ bytes a candle in the lake, \d+ in QuestDB", line)
    assert {name: figure["ratio"] > 0 for name, figure in json.loads(told.read_text()).items()} == dict.fromkeys(
        figures, True
    )
