"""The program `kraken-pipeline`: something moves on the terminal while the shell is loaded, which takes seconds."""

from __future__ import annotations

import sys

from rich.console import Console

from kraken_pipeline.terminal import progress_bar


def main() -> None:
    """Load the shell, and run it."""
    try:
        # Where the output is read by a program, or by a pager, nothing is drawn beside it.
        with progress_bar(Console(stderr=sys.stdout.isatty()), 1):
            from kraken_pipeline import cli  # noqa: PLC0415 - what takes the seconds
    except KeyboardInterrupt:
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
