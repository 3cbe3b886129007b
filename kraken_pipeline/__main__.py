"""The entry point of the command line, which runs before any slow import.

So Ctrl-C always prints a sentence instead of a traceback.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

from kraken_pipeline.collector import collect_seldom
from kraken_pipeline.errors import STOPPED, STOPPED_CODE


def main() -> None:
    """Run `kraken-pipeline`; SIGTERM is handled like Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    collect_seldom()
    # Pydantic would read the metadata of every installed package to find plugins, of which this program uses none.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        from kraken_pipeline.cli.app import main as run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:  # during an import
        sys.stderr.write(f"kraken-pipeline: {STOPPED}\n")
        sys.exit(STOPPED_CODE)
    finally:
        # The exit waits for threads that finish their work; another Ctrl-C would only print a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # To look for cycles among all that was imported would take the exit a third of a second.
        gc.freeze()


if __name__ == "__main__":
    main()
