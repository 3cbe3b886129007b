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
from kraken_pipeline.cli.output import is_held
from kraken_pipeline.market.moment import duration
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.workflow.progress import Progress

_REDRAWS_A_SECOND = 10
_BAR_WIDTHS = (10, 40)
_PLAIN_SECONDS = 5.0


@contextmanager
def progress_bar(
    console: Console, phase: str = "starting", counted: str = "candle"
) -> Iterator[Callable[[Progress], None]]:
    """Show a run's progress until the block ends: a bar with rate and time left on a terminal, else plain lines.

    Args:
        console: The console to show it on.
        phase: The phase that is shown before the first progress.
        counted: The noun, in the singular, for what the progress counts.
    """
    if is_held(console):
        yield lambda _: None
        return
    if not console.file.isatty() or console.is_dumb_terminal:
        yield _plain_lines(console, counted)
        return
    with os.fdopen(os.dup(console.file.fileno()), "w", encoding=console.encoding) as stream:
        frame = _Frame(phase, counted)
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


class _Pace:
    """The candles a second of the current phase, counted from its first report."""

    def __init__(self) -> None:
        self._phase = ""
        self._began, self._before = 0.0, 0

    def rate(self, progress: Progress) -> float:
        """Return the candles that the phase stores or publishes in a second; 0 at its first report."""
        now, candles = time.monotonic(), progress.candles + progress.published
        if progress.phase != self._phase:
            self._phase, self._began, self._before = progress.phase, now, candles
        return (candles - self._before) / max(now - self._began, 0.001)


class _Frame:
    """A renderable of a run's progress, computed anew for each frame."""

    def __init__(self, phase: str, counted: str) -> None:
        self._began = time.monotonic()
        self._counted = counted
        self._pace = _Pace()
        self._progress = Progress(phase)
        self._sentence = ""

    def show(self, progress: Progress) -> None:
        """Set the progress that the next frames show."""
        self._progress = progress
        self._sentence = _sentence(progress, self._pace.rate(progress), self._counted)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        progress, sentence = self._progress, self._sentence
        least, most = _BAR_WIDTHS
        room = options.max_width - len(progress.phase) - 1
        is_beside = room - len(sentence) - 1 >= least
        bar = ProgressBar(
            total=100 if progress.seconds_left else None,
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


def _sentence(progress: Progress, rate: float, counted: str) -> str:
    """Return a sentence about the work done and left, with an estimate of the time left.

    Args:
        progress: The progress.
        rate: The candles a second of the current phase.
        counted: The noun, in the singular, for what the progress counts.
    """
    left = progress.seconds_left
    time_left = duration(left if progress.is_done else max(1.0, left)) if left is not None else None
    if progress.requests_total:
        about = f", about {time_left}" if time_left else ""
        return (
            f"{progress.requests_done:,} of about {quantity(progress.requests_total, 'request')}, "
            f"{progress.requests_left:,} left{about}"
        )
    estimate = f", {progress.percent:.0f} %, {time_left} left" if time_left and not progress.is_done else ""
    if estimate and (of_phase := progress.phase_seconds_left) and duration(max(1.0, of_phase)) != time_left:
        estimate += f", {duration(max(1.0, of_phase))} of it {progress.phase}"
    pace = f", {rate:,.0f}/s" if rate else ""
    if progress.published:
        return f"{quantity(progress.published, 'candle')} published{pace}{estimate}"
    done = quantity(progress.candles, counted)
    if progress.files_total:
        done = f"{progress.files_done:,} of {quantity(progress.files_total, 'file')}, {done}"
    return f"{done}{pace}{estimate}"


def _plain_lines(console: Console, counted: str) -> Callable[[Progress], None]:
    pace = _Pace()
    said_at, phase = -_PLAIN_SECONDS, ""

    def report(progress: Progress) -> None:
        nonlocal said_at, phase
        now, rate = time.monotonic(), pace.rate(progress)
        if progress.phase == phase and now - said_at < _PLAIN_SECONDS:
            return
        said_at, phase = now, progress.phase
        say(console, f"{progress.phase}: {_sentence(progress, rate, counted)}")

    return report
