"""The output of commands: two consoles for sentences and tables, and JSON to standard output."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

out = Console()
err = Console(stderr=True)


class _Held(io.StringIO):
    """The output of a command with `--quiet`, which is shown only if the command fails."""


def hold() -> None:
    """Hold back what is printed to both consoles from now on, until `let_go`; JSON is not held back."""
    out.file = err.file = _Held()


def is_held(console: Console) -> bool:
    """Return whether what is printed to a console is held back."""
    return isinstance(console.file, _Held)


def let_go(*, is_shown: bool) -> None:
    """End what `hold` began, and show what was held back, on standard error, or forget it."""
    held = err.file
    out.file = err.file = None  # type: ignore[assignment]  # Rich then takes the standard streams again
    if is_shown and isinstance(held, _Held):
        sys.stderr.write(held.getvalue())


def print_rows(rows: Sequence[Mapping[str, str | int | None]]) -> None:
    """Write the JSON of a list of flat objects to standard output, as `print_json` does.

    With an indent, `json` encodes each value in Python. Here its encoder in C writes all rows at once. The line breaks
    are in its separators; within a text there are none, so that the ends of the rows can be found.
    """
    inner = json.dumps(rows, separators=(",\n    ", ": "))[2:-2].replace("},\n    {", "\n  },\n  {\n    ")
    sys.stdout.write("[\n  {\n    " + inner + "\n  }\n]\n" if rows else "[]\n")


def print_json(value: Any) -> None:
    """Write JSON to standard output; the command must write nothing else there."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
