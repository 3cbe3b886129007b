"""The benchmarks run, and say what they measured; how fast anything is, no test asks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import polars as pl
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import measure, whole
from kraken_pipeline_tests.support.processes import Program, started
from kraken_pipeline_tests.support.servers import QuestDB, reason_without
from kraken_pipeline_tests.support.shell import ended

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


def forked(module: str, *arguments: str) -> str:
    """What a side of a figure prints, from a process of its own that needs no time to load the project."""
    done = ended(started(Program(module, arguments, ROOT, dict(os.environ))))
    assert done.code == 0, done.err
    return done.out


@pytest.mark.process
def test_a_small_round_measures_every_kind_of_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
        "gaps-json",
        "report",
        "startup-help",
        "startup-status",
        *served,
    ]
    only = [argument for name in figures for argument in ("--only", name)]
    told = tmp_path / "figures.json"
    monkeypatch.setattr(measure, "_python", forked)
    assert benchmarks.main(["--small", "--json", str(told), *only]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["figure", "ours", "bare", "ratio"]
    assert [line.split()[0] for line in lines[: len(figures)]] == figures
    verified, quick, page, gaps, report, *published = lines[len(figures) :]
    assert re.fullmatch(r"verify-2000: \d+ MiB in \d+\.\d\d s", verified)
    assert re.fullmatch(r"quick-10000: \d+ MiB in \d+\.\d\d s", quick)
    assert re.fullmatch(r"page-200: the page has \d+ kB", page)
    assert re.fullmatch(r"gaps-json: \d+ kB of output", gaps)
    assert re.fullmatch(r"report: \d+ kB of output", report)
    for name, line in zip(served, published, strict=True):
        assert re.fullmatch(rf"{name}: \d+ bytes a candle in the lake, \d+ in QuestDB", line)
    assert {name: figure["ratio"] > 0 for name, figure in json.loads(told.read_text()).items()} == dict.fromkeys(
        figures, True
    )


@pytest.mark.process
def test_each_side_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--small", "--only", "fold-1m"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("fold-1m ")


def test_the_whole_archive_is_consistent_and_has_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "_BUSY", 0.001)
    path = tmp_path / "Kraken_OHLCVT.zip"
    rows = whole.write_archive(path, 2, is_whole=True)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        members = [name for name in names if not name.startswith("__MACOSX/")]
        frames = {name: pl.read_csv(archive.read(name), has_header=False) for name in members}
    assert len(frames) == 2 * 8
    assert len(names) == 2 * len(frames)
    assert sum(frame.height for frame in frames.values()) == rows
    for pair in ("QAAAUSD", "QAABUSD"):
        trades = {frame.to_series(-1).sum() for name, frame in frames.items() if f"/{pair}_" in name}
        assert len(trades) == 1, "every interval counts the same trades"


@pytest.mark.process
def test_a_command_is_measured_with_all_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = tmp_path / "seen", whole._resident

    def resident(pid: int) -> int:
        if (size := real(pid)) > 100 << 20:
            seen.touch()  # so that the command ends
        return size

    monkeypatch.setattr(whole, "_resident", resident)
    waits = f"any(time.sleep(0.01) or pathlib.Path({str(seen)!r}).exists() for _ in range(6_000)) or sys.exit(4)"
    child = f"import pathlib, sys, time; held = bytes(range(256)) * 450_000; {waits}"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    cost = whole._run("a name", (sys.executable, "-c", code), {})
    assert cost.name == "a name"
    assert 0 < cost.cpu <= 2 * cost.wall
    assert cost.peak_mib > 100
    assert cost.left_at_half is None
    assert "a name" in whole.table([cost])
    with pytest.raises(RuntimeError, match="ended with 3: said"):
        whole._run("a name", (sys.executable, "-c", "print('said'); raise SystemExit(3)"), {})


def test_the_time_left_at_half_of_the_time_is_a_multiple_of_the_true_one() -> None:
    lines = [
        (10.0, "ingesting: 1 of 4 files, 10 candles, 1/s, 10 %, 3 min left\n"),
        (20.0, "ingesting: 2 of 4 files, 20 candles, 1/s, 10 %, 2 min left, 70 s of it ingesting\n"),
        (40.0, "requesting candles: 3 of about 9 requests, 6 left, about 30 s\n"),
        (49.0, "a note that says nothing of the time\n"),
        (70.0, "reporting: 4 of 4 files, 40 candles, 99 %, 1 s left\n"),
    ]
    assert whole.left_at_half(lines, 100) == 30 / 60
    assert whole.left_at_half(lines, 30) == 180 / 20
    assert whole.left_at_half(lines, 60) == 120 / 40
    assert whole.left_at_half(lines, 15) is None
