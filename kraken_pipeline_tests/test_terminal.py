"""Progress in a real terminal, while Dagster has descriptors 1 and 2, and where there is none."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from kraken_pipeline.cli.terminal import progress_bar
from kraken_pipeline.workflow.progress import Progress, Work
from kraken_pipeline_tests.support.homes import Shelf
from kraken_pipeline_tests.support.shell import ended, start, start_on

BAR = "━"
FRAMES_A_SECOND = 3
"""Ten are drawn on a machine that has time for it."""


@contextmanager
def terminal(columns: int) -> Iterator[tuple[int, int]]:
    """A terminal of 24 lines: the descriptor that sees what is shown, and the one that a program has."""
    seen, given = pty.openpty()
    fcntl.ioctl(given, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    try:
        yield seen, given
    finally:
        os.close(seen)
        os.close(given)


def text_of(data: bytes) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace"))


def is_readable(descriptor: int, seconds: float) -> bool:
    return bool(select.select([descriptor], [], [], seconds)[0])


@dataclass(frozen=True, slots=True)
class Recording:
    """What a program showed.

    Attributes:
        code: Its exit code.
        chunks: What it wrote at which second.
    """

    code: int
    chunks: list[tuple[float, str]]

    @property
    def frames(self) -> list[tuple[float, str]]:
        return [(at, text) for at, text in self.chunks if BAR in text]

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.chunks)


def recorded(home: Path, *arguments: str, columns: int) -> Recording:
    """`kraken-pipeline ARGUMENTS` in a terminal, from its start to its end."""
    with terminal(columns) as (seen, given):
        # An empty variable is no width: the terminal tells its own.
        variables = {"TERM": "xterm", "COLUMNS": "", "LINES": "", "KRAKEN_LOG_LEVEL": "CRITICAL"}
        process = start_on(given, home, *arguments, **variables)
        began = time.monotonic()
        chunks = []
        while process.poll() is None or is_readable(seen, 0):
            if is_readable(seen, 0.05):
                chunks.append((time.monotonic() - began, os.read(seen, 1 << 16)))
    return Recording(process.returncode, [(at, text_of(data)) for at, data in chunks])


# --- an ingest


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> tuple[Path, Recording]:
    """A home, and what its first ingest showed on a terminal of 80 columns."""
    home = tmp_path_factory.mktemp("terminal") / "home"
    archives = shelf.q1.parent
    return home, recorded(home, "ingest", "--archive-dir", str(archives), "--no-api-backfill", columns=80)


@pytest.mark.process
def test_progress_moves_as_long_as_the_run_takes(ingested: tuple[Path, Recording]) -> None:
    _, seen = ingested
    assert seen.code == 0, seen.text
    moments = [at for at, _ in seen.frames]
    assert len(moments) >= FRAMES_A_SECOND * (moments[-1] - moments[0])
    # All of the silence but that before the first frame and after the last one; loading Dagster blocks for a moment.
    assert max(after - before for before, after in pairwise(moments)) < 3
    assert moments[-1] - moments[0] > 0.7 * seen.chunks[-1][0]
    phases = {phase for _, text in seen.frames for phase in re.findall(rf"([a-z ]+) [{BAR}╸╺]", text)}
    assert {"starting", "reporting"} < phases


@pytest.mark.process
def test_a_frame_is_no_wider_than_the_terminal(ingested: tuple[Path, Recording]) -> None:
    _, seen = ingested
    lines = [line for _, text in seen.frames for line in re.split(r"[\r\n]+", text) if BAR in line]
    assert lines
    assert max(map(len, lines)) <= 80


@pytest.mark.process
def test_the_last_frame_makes_room_for_the_report(ingested: tuple[Path, Recording]) -> None:
    _, seen = ingested
    assert re.search(r"\rSUCCESS run ", seen.text)
    assert seen.text[seen.text.rindex(BAR) :].strip(f"{BAR} \r\n").startswith("Completeness")


@pytest.mark.process
def test_no_frame_gets_into_the_compute_log(ingested: tuple[Path, Recording]) -> None:
    home, _ = ingested
    logs = [path for path in home.parent.rglob("compute_logs/*") if path.suffix in (".out", ".err")]
    assert logs
    assert [path.name for path in logs if re.search(rf"{BAR}|\x1b", path.read_text())] == []


@pytest.mark.process
def test_without_a_terminal_there_are_no_frames(tmp_path: Path, shelf: Shelf) -> None:
    arguments = ("ingest", "--archive-dir", str(shelf.minutes), "--no-api-backfill")
    done = ended(start(tmp_path / "home", *arguments, program="kraken_pipeline", TTY_COMPATIBLE="1"))
    assert done.code == 0
    assert BAR not in done.out + done.err
    assert "ingesting: 1 of 1 file" in done.out


# --- what it says


def drawn(progress: Progress, columns: int, *, before: Progress | None = None) -> list[str]:
    """The lines of the last frame that shows some progress, perhaps after an earlier one."""
    with terminal(columns) as (seen, given), os.fdopen(os.dup(given), "w") as stream:
        with progress_bar(Console(file=stream)) as show:
            for each in (before or progress, progress):
                show(each)
        data = b""
        while is_readable(seen, 0.2):
            data += os.read(seen, 1 << 16)
    frames = [frame for frame in text_of(data).split("\r") if progress.phase in frame]
    return text_of(data)[text_of(data).rindex(frames[-1].strip()[:10]) :].split("\r\n")


def test_progress_is_a_bar_with_rate_and_time_left_on_a_terminal() -> None:
    began = Progress("ingesting", 10, work={"ingesting": Work(20)})
    later = Progress("ingesting", 10, 4, 4, 1_000, 200, 80, work={"ingesting": Work(20, 8, 8)})
    line, *_ = drawn(later, 132, before=began)
    assert re.match(rf"ingesting [{BAR}╸╺ ]+ 4 of 10 files, 1,000 candles, [\d,]+/s, 40 %, 12 s left", line)


def test_the_rate_is_that_of_the_phase_and_so_is_a_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("kraken_pipeline.cli.terminal.time.monotonic", lambda: clock[0])
    text = io.StringIO()
    work = {"ingesting": Work(40, 10, 10), "reconciling": Work(80)}
    with progress_bar(Console(file=text, width=132)) as show:
        show(Progress("ingesting", 10, 0, 0, 5_000, work=work))
        clock[0] += 10
        show(Progress("ingesting", 10, 4, 4, 25_000, work=work))
        show(Progress("reconciling", 10, 10, 10, 90_000, work=work))
        clock[0] += 10
        show(Progress("reconciling", 10, 10, 10, 90_000, work=work))
        show(Progress("publishing", 10, 10, 10, 90_000, published=1, work=work))
        clock[0] += 10
        show(Progress("publishing", 10, 10, 10, 90_000, published=40_001, work=work))
    assert text.getvalue().splitlines() == [
        "ingesting: 0 of 10 files, 5,000 candles, 8 %, 2 min left, 30 s of it ingesting",
        "ingesting: 4 of 10 files, 25,000 candles, 2,000/s, 8 %, 2 min left, 30 s of it ingesting",
        "reconciling: 10 of 10 files, 90,000 candles, 8 %, 2 min left, 80 s of it reconciling",
        "reconciling: 10 of 10 files, 90,000 candles, 8 %, 2 min left, 80 s of it reconciling",
        "publishing: 1 candle published, 8 %, 2 min left",
        "publishing: 40,001 candles published, 4,000/s, 8 %, 2 min left",
    ]


def test_what_does_not_fit_beside_the_bar_stands_below_it() -> None:
    work = {"requesting candles": Work(1_580, 40, 40, is_remote=True)}
    bar, told, *_ = drawn(Progress("requesting candles", 60, 60, 60, 12_046_168, 200, 200, 1_580, 40, work=work), 60)
    assert re.match(rf"requesting candles [{BAR}╸╺]+ *$", bar)
    assert told == "  40 of about 1,580 requests, 1,540 left, about 26 min"


def test_once_the_files_are_read_it_says_how_long_the_rest_takes() -> None:
    work = {"ingesting": Work(30, 30, 30), "reconciling": Work(90)}
    line, *_ = drawn(Progress("resampling", 10, 10, 10, 9_000, 200, 200, work=work), 132)
    assert line.rstrip().endswith("10 of 10 files, 9,000 candles, 25 %, 2 min left")


def test_where_nothing_is_known_of_the_work_no_time_is_said() -> None:
    line, *_ = drawn(Progress("adopting", candles=9_000), 132)
    assert line.rstrip().endswith("9,000 candles")


def test_progress_is_a_line_for_each_phase_where_there_is_no_terminal() -> None:
    text = io.StringIO()
    with progress_bar(Console(file=text)) as show:
        for done in range(3):
            show(Progress("ingesting", 10, done, done, 1_000 * done, 200, 20 * done, work={"ingesting": Work(40)}))
        show(Progress("resampling", 10, 10, 10, 9_000, 200, 200))
    assert text.getvalue().splitlines() == [
        "ingesting: 0 of 10 files, 0 candles, 0 %, 40 s left",
        "resampling: 10 of 10 files, 9,000 candles",
    ]


def test_progress_of_trades_counts_trades() -> None:
    text = io.StringIO()
    with progress_bar(Console(file=text), "exporting", "trade") as show:
        show(Progress("exporting", candles=9_000, work={"exporting": Work(40, 10, 10)}))
    assert text.getvalue() == "exporting: 9,000 trades, 25 %, 30 s left\n"


def test_of_requests_it_says_how_many_are_left_and_for_how_long() -> None:
    text = io.StringIO()
    work = {"paging through trades": Work(200, 20, 20, is_remote=True)}
    with progress_bar(Console(file=text)) as show:
        show(Progress("paging through trades", requests_done=40, requests_total=400, work=work))
        show(Progress("done", requests_done=400, requests_total=400, work=work))
    assert text.getvalue().splitlines() == [
        "paging through trades: 40 of about 400 requests, 360 left, about 3 min",
        "done: 400 of about 400 requests, 0 left, about 0 s",
    ]


def test_as_long_as_work_is_left_there_is_at_least_a_second_and_less_than_a_hundred_per_cent() -> None:
    text = io.StringIO()
    with progress_bar(Console(file=text)) as show:
        show(Progress("reporting", 10, 10, 10, 9_000, work={"reporting": Work(500, 499.9, 500)}))
    assert text.getvalue() == "reporting: 10 of 10 files, 9,000 candles, 99 %, 1 s left\n"
