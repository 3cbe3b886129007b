"""The tables of the page, and the templates that they and the page are made with."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its name, and whether it holds numbers, or sentences that may take several lines."""

    name: str
    is_number: bool = False
    is_long: bool = False

    @property
    def kind(self) -> str:
        """The CSS class of its cells."""
        return "n" if self.is_number else "l" if self.is_long else ""


@dataclass(frozen=True, slots=True)
class HtmlTable:
    """A table of the page; the first cell of each row is its header.

    Attributes:
        name: The name of its element.
        caption: The caption.
        columns: The columns.
        rows: The cells, as text.
        is_open: Whether it is open at first.
        note: The note below it.
        packed: Further rows, as `packed_rows` returns them.
        more: The number of further rows.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    is_open: bool = False
    note: str = ""
    packed: str = ""
    more: int = 0

    @property
    def count(self) -> int:
        """The number of all rows."""
        return len(self.rows) + self.more


def columns_of(*names: str) -> list[Column]:
    """Return columns by name; the prefix > marks numbers, the prefix ~ sentences."""
    return [Column(name.lstrip(">~"), name.startswith(">"), name.startswith("~")) for name in names]


def packed_rows(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Return rows of a table as HTML, gzipped, in base64: the browser unpacks them when the table is opened.

    9,000 rows as they are take half of a page, and most of the time until it is shown.
    """
    html = environment().get_template("tables.html.j2").module.rows_of(columns, rows)  # type: ignore[attr-defined]
    return base64.b64encode(gzip.compress(str(html).encode(), 9, mtime=0)).decode()


def environment() -> Environment:
    """Return the templates of this folder, which escape all values."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415

    return Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
