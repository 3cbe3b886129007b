"""Tables, sentences and quantities that are whole at any width: what does not fit goes onto lines of its own.

Where there is no terminal there is no width: a row, and a sentence, is one line however long, as `grep` wants it.
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
"""What a line is not broken within: a command with all that follows it, a time, a number with its unit, a word."""
_COMMAND = "kraken-pipeline "


class TextTable:
    """Rows under headings, each column as wide as its widest cell.

    Where a row is wider than the terminal, its most important columns stay in the line, and the others follow on
    indented lines, each value with its heading; a value that all rows share is said once, above them, and so is which
    columns are left out. No number, time, name or command is broken, unless it is wider than the terminal by itself.
    """

    def __init__(self, title: str, *headings: str, least: Sequence[str] = (), spare: Sequence[str] = ()) -> None:
        """Make a table without rows.

        Args:
            title: What is listed.
            headings: Of the columns; `>` before one aligns its column to the right, as numbers are.
            least: The columns that leave the line first, the least important of all first; then the last ones do.
            spare: Those of them that are left out instead.
        """
        self._title = title
        self._headings = [heading.removeprefix(">") for heading in headings]
        self._is_right = [heading.startswith(">") for heading in headings]
        spared = [index for index, heading in enumerate(self._headings) if heading not in least]
        self._by_importance = spared + [self._headings.index(heading) for heading in reversed(least)]
        self._spare = spare
        self._rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: str) -> None:
        """Add a row; what cannot be printed in a cell is written as its escape."""
        self._rows.append(tuple(map(printable, cells)))

    def print(self, console: Console) -> None:
        """Print the table, and an empty line behind it."""
        width = width_of(console)
        columns = list(zip(self._headings, *self._rows, strict=True))
        widths = [max(map(cell_len, column)) for column in columns]
        inline = self._inline(widths, [any(cells) for _, *cells in columns], width)
        outside = [index for index in range(len(widths)) if index not in inline]
        below = [index for index in outside if self._headings[index] not in self._spare]
        shared = [index for index in below if len(self._rows) > 1 and len({row[index] for row in self._rows}) == 1]
        write(console, printable(self._title), "bold")
        if left_out := [self._headings[index] for index in outside if index not in below]:
            say(console, f"left out, for want of width: {', '.join(left_out)}", "dim")
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
        """The columns that fit beside each other, in their order: by importance, and empty ones if there is room."""
        found: list[int] = []
        taken = -len(_SPACE)
        for index in sorted(self._by_importance, key=lambda index: not is_filled[index]):
            if not found or width is None or taken + len(_SPACE) + widths[index] <= width:
                found.append(index)
                taken += len(_SPACE) + widths[index]
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
    """Print a sentence: one wider than the terminal is wrapped between words, its commands on lines of their own.

    Args:
        console: Where to.
        text: The sentence; spaces before it indent all of its lines.
        style: Of all of it.
        hang: How much further its later lines stand in.
        first: The style of its first word.
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
    """Print a line as it is: one wider than the terminal is wrapped by that, which copies as one line and is whole."""
    console.print(Text(line, style or ""), soft_wrap=True)


def printable(text: str) -> str:
    """A text in which everything can be seen, on one line: what cannot be printed is written as Python writes it."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def width_of(console: Console) -> int | None:
    """How many columns there are; None where there is no terminal, and so no limit."""
    return console.width if console.is_terminal else None


def _filled(pieces: Iterable[str], width: int | None, indent: int) -> Iterator[str]:
    """Values with their headings on as few lines as they fit on, none of them broken if it fits on one."""
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
        if whole:  # nothing is put behind the end of a sentence
            yield " " * indent + line
            line = ""
    if line:
        yield " " * indent + line


def wrapped(text: str, width: int | None, indent: int, hang: int) -> list[str]:
    """Return the lines of a sentence; where it takes several, a command stands on one by itself, however long."""
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
