"""Layout of tables and sentences at any width of the terminal: cells and words are moved to further lines, never cut.

Without a terminal there is no width limit: a row or a sentence is one line, however long, which suits `grep`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

_SPACE = "  "
_INDENT = 4
_PIECES = re.compile(
    r"kraken-pipeline .*?(?= or kraken-pipeline |$)"
    r"|(?:\d{4}-\d\d-\d\d (?=\d\d:\d\d)|[\d,.]+ (?=(?:%|s|min|h)(?:\W|$)))?(?:`[^`]*`|[^ ])+"
    r"|(?<= )(?= )"
)
"""Matches the pieces within which no line is broken: a command with its arguments, a time, a number with its unit, or a
word."""
_COMMAND = "kraken-pipeline "


class TextTable:
    """A table of rows under headings, with each column as wide as its widest cell.

    If the rows are wider than the terminal, the most important columns stay in the line. The others follow on indented
    lines, each value with its heading. A value shared by all rows is printed once, above them, and so are the names of
    the columns left out. No number, time, name or command is broken, unless it alone is wider than the terminal.
    """

    def __init__(self, title: str, *headings: str, least: Sequence[str] = (), spare: Sequence[str] = ()) -> None:
        """Make a table without rows.

        Args:
            title: The title of the table.
            headings: The headings of the columns; a leading `>` aligns the column to the right, as for numbers.
            least: The columns that leave the line first, the least important first. The other columns leave after
                them, from right to left.
            spare: The columns of `least` that are left out instead of moved to further lines.
        """
        self._title = title
        self._headings = [heading.removeprefix(">") for heading in headings]
        self._is_right = [heading.startswith(">") for heading in headings]
        spared = [index for index, heading in enumerate(self._headings) if heading not in least]
        self._by_importance = spared + [self._headings.index(heading) for heading in reversed(least)]
        self._spare = spare
        self._rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: str) -> None:
        """Add a row; unprintable characters are escaped."""
        self._rows.append(tuple(map(printable, cells)))

    def print(self, console: Console) -> None:
        """Print the table, followed by an empty line."""
        width = width_of(console)
        columns = list(zip(self._headings, *self._rows, strict=True))
        widths = [max(map(cell_len, column)) for column in columns]
        inline = self._inline(widths, [any(cells) for _, *cells in columns], width)
        outside = [index for index in range(len(widths)) if index not in inline]
        below = [index for index in outside if self._headings[index] not in self._spare]
        shared = [index for index in below if len(self._rows) > 1 and len({row[index] for row in self._rows}) == 1]
        write(console, printable(self._title), "bold")
        if left_out := [self._headings[index] for index in outside if index not in below]:
            say(console, f"left out for lack of width: {', '.join(left_out)}", "dim")
        below = [index for index in below if index not in shared]
        if common := self._labelled(self._rows[0], shared) if shared else []:
            for line in _filled([f"in all rows: {common[0]}", *common[1:]], width, 0):
                write(console, line, "dim")
        write(console, self._line(self._headings, inline, widths), "dim")
        write(console, "─" * (sum(widths[index] for index in inline) + len(_SPACE) * (len(inline) - 1)), "dim")
        for row in self._rows:
            write(console, self._line(row, inline, widths))
            for line in _filled(self._labelled(row, below), width, _INDENT):
                write(console, line)
        write(console, "")

    def _inline(self, widths: Sequence[int], is_filled: Sequence[bool], width: int | None) -> list[int]:
        """Return the columns that fit on one line, in their order: the most important first, empty ones last."""
        found: list[int] = []
        used = -len(_SPACE)
        for index in sorted(self._by_importance, key=lambda index: not is_filled[index]):
            if not found or width is None or used + len(_SPACE) + widths[index] <= width:
                found.append(index)
                used += len(_SPACE) + widths[index]
        return sorted(found)

    def _line(self, cells: Sequence[str], inline: Iterable[int], widths: Sequence[int]) -> str:
        padded = []
        for index in inline:
            space = " " * (widths[index] - cell_len(cells[index]))
            padded.append(space + cells[index] if self._is_right[index] else cells[index] + space)
        return _SPACE.join(padded).rstrip()

    def _labelled(self, cells: Sequence[str], indices: Iterable[int]) -> list[str]:
        return [f"{self._headings[index]}: {cells[index]}" for index in indices if cells[index]]


def say(console: Console, text: str, style: str | None = None, *, hang: int = 2, first: str | None = None) -> None:
    """Print a sentence; one wider than the terminal is wrapped between words, with commands on lines of their own.

    Args:
        console: The console to print to.
        text: The sentence; leading spaces indent all of its lines.
        style: The style of the sentence.
        hang: The additional indentation of the lines after the first.
        first: The style of the first word.
    """
    width = width_of(console)
    for sentence in text.splitlines():
        bare = printable(sentence.lstrip(" "))
        indent = len(sentence) - len(sentence.lstrip(" "))
        for number, line in enumerate(wrapped(bare, width, indent, hang)):
            shown = Text(line, style or "")
            if first and not number:
                shown.stylize(first, indent, indent + len(bare.split(" ", 1)[0]))
            console.print(shown, soft_wrap=True)


def write(console: Console, line: str, style: str | None = None) -> None:
    """Print a line as it is; the terminal itself wraps one that is too wide, so that it is copied as one line."""
    console.print(Text(line, style or ""), soft_wrap=True)


def printable(text: str) -> str:
    """Return a text on one line, with unprintable characters as Python escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def width_of(console: Console) -> int | None:
    """Return the width of the terminal in columns; None without a terminal, which means no limit."""
    return console.width if console.is_terminal else None


def _filled(pieces: Iterable[str], width: int | None, indent: int) -> Iterator[str]:
    """Yield the lines of labelled values, as few as possible; a value that fits on one line is not broken."""
    line = ""
    for piece in pieces:
        joined = f"{line} · {piece}" if line else piece
        if _fits(" " * indent + joined, width):
            line = joined
            continue
        if line:
            yield " " * indent + line
        *whole, line = wrapped(piece, width, indent, 2)
        yield from whole
        line = line.removeprefix(" " * indent)
        if whole:  # nothing follows a wrapped value on its last line
            yield " " * indent + line
            line = ""
    if line:
        yield " " * indent + line


def wrapped(text: str, width: int | None, indent: int, hang: int) -> list[str]:
    """Return the lines of a sentence; if it is wrapped, each command is on a line of its own, however long."""
    lines = [" " * indent + text]
    if _fits(lines[0], width):
        return lines
    further = " " * (indent + hang)
    lines, is_empty, is_command = [" " * indent], True, False
    for piece in _PIECES.findall(text):
        joined = lines[-1] + piece if is_empty else f"{lines[-1]} {piece}"
        if is_empty or not (is_command or piece.startswith(_COMMAND) or not _fits(joined, width)):
            lines[-1] = joined
        else:
            lines.append(further + piece)
        is_empty, is_command = False, piece.startswith(_COMMAND)
    return lines


def _fits(line: str, width: int | None) -> bool:
    return width is None or cell_len(line) <= width
