"""The display of progress: an animated bar on a terminal, else a line every few seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from kraken_pipeline.cli.layout import say, wrapped
from kraken_pipeline.market.moment import duration
from kraken_pipeline.workflow.progress import Progress

_REDRAWS_A_SECOND = 10
_BAR_WIDTHS = (10, 40)
_PLAIN_SECONDS = 5.0


@contextmanager
def progress_bar(
    console: Console, requests_a_second: float, phase: str = "starting"
) -> Iterator[Callable[[Progress], None]]:
    """Show a run's progress until the block ends: a bar with rate and time left on a terminal, else plain lines."""
    if not console.file.isatty() or console.is_dumb_terminal:
        yield _plain_lines(console, requests_a_second)
        return
    with os.fdopen(os.dup(console.file.fileno()), "w", encoding=console.encoding) as stream:
        frame = _Frame(requests_a_second, phase)
        screen = _Screen(file=stream, force_terminal=True)
        # The output of a step belongs in its compute log: it must not be redirected here.
        with Live(
            frame,
            console=screen,
            refresh_per_second=_REDRAWS_A_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ):
            yield frame.show


class _Screen(Console):
    """A console on the terminal with a file descriptor of its own.

    Dagster replaces descriptors 1 and 2 by a file while a step runs. Rich asks these whether there is a terminal and
    how wide it is, so it would draw nothing until the step ends, or draw into the file.
    """

    @property  # type: ignore[misc]  # Rich's can be set, too
    def size(self) -> ConsoleDimensions:
        """The current size of the terminal; 80 by 25 if it is unknown."""
        columns, lines = os.get_terminal_size(self.file.fileno())
        return ConsoleDimensions(columns or 80, lines or 25)


class _Frame:
    """A renderable of a run's progress, computed anew for each frame."""

    def __init__(self, requests_a_second: float, phase: str) -> None:
        self._requests_a_second = requests_a_second
        self._began = time.monotonic()
        self._progress = Progress(phase)
        self._sentence = ""

    def show(self, progress: Progress) -> None:
        """Set the progress that the next frames show."""
        self._progress = progress
        self._sentence = _sentence(progress, time.monotonic() - self._began, self._requests_a_second)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        progress, sentence = self._progress, self._sentence
        least, most = _BAR_WIDTHS
        room = options.max_width - len(progress.phase) - 1
        is_beside = room - len(sentence) - 1 >= least
        bar = ProgressBar(
            total=100 if (progress.requests_total or progress.bytes_total) and progress.percent < 100 else None,
            completed=progress.percent,
            width=max(least, min(most, room - len(sentence) - 1 if is_beside else room)),
            animation_time=time.monotonic() - self._began,
        )
        grid = Grid.grid(padding=(0, 1, 0, 0))
        grid.add_row(progress.phase, bar, *([sentence] if is_beside else []))
        yield grid
        if not is_beside:
            for line in wrapped(sentence, options.max_width, 2, 0):
                yield Text(line)


def _sentence(progress: Progress, seconds: float, requests_a_second: float) -> str:
    """Return a sentence about the work done and left, with an estimate of the time left."""
    if progress.requests_total:
        return (
            f"{progress.requests_done:,} of about {progress.requests_total:,} requests, "
            f"{progress.requests_left:,} left, about {duration(progress.requests_left / requests_a_second)}"
        )
    if progress.published:
        return f"{progress.published:,} candles published"
    if not progress.files_total:
        return f"{progress.candles:,} candles"
    done = f"{progress.files_done:,} of {progress.files_total:,} files, {progress.candles:,} candles"
    if progress.percent == 100:  # the percentage of the files: the time for the rest is unknown
        return done
    rate = progress.candles / max(seconds, 0.001)
    left = f", {duration(seconds * (100 / progress.percent - 1))} left" if progress.percent else ""
    return f"{done}, {rate:,.0f}/s, {progress.percent:.0f} %{left}"


def _plain_lines(console: Console, requests_a_second: float) -> Callable[[Progress], None]:
    began = time.monotonic()
    said_at, phase = -_PLAIN_SECONDS, ""

    def report(progress: Progress) -> None:
        nonlocal said_at, phase
        now = time.monotonic()
        if progress.phase == phase and now - said_at < _PLAIN_SECONDS:
            return
        said_at, phase = now, progress.phase
        sentence = _sentence(progress, now - began, requests_a_second)
        say(console, f"{progress.phase}: {sentence}")

    return report
