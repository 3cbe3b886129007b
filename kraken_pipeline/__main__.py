"""Where the command line begins: before anything that takes time to import.

So Ctrl-C is always a sentence, and something moves on the terminal while the shell is loaded, which takes seconds.
"""

from __future__ import annotations

import signal
import sys

from kraken_pipeline.errors import STOPPED, STOPPED_CODE


def main() -> None:
    """Runs `kraken-pipeline`; being asked to end (SIGTERM) is the same as Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from rich.console import Console  # noqa: PLC0415

        from kraken_pipeline.cli.terminal import progress_bar  # noqa: PLC0415

        # Where the output is read by a program, or by a pager, nothing is drawn beside it.
        with progress_bar(Console(stderr=sys.stdout.isatty()), 1):
            from kraken_pipeline.cli.app import main as run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:  # within an import
        sys.stderr.write(f"kraken-pipeline: {STOPPED}\n")
        sys.exit(STOPPED_CODE)
    finally:
        # Threads that finish their work are waited for; another Ctrl-C would only leave a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if __name__ == "__main__":
    main()
