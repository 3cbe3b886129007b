"""`kraken-pipeline` in a process of its own, at the moment at which the small world ends; to be killed.

It makes the file that CHAOS_READY names when everything is imported, so that whoever kills it can wait for that.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kraken_pipeline import definitions
from kraken_pipeline.cli import app as cli
from kraken_pipeline.cli import options
from kraken_pipeline.orchestration import steps
from kraken_pipeline_tests.support.exchanges import stop_clock
from kraken_pipeline_tests.support.homes import NOW

if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        stop_clock(patch, NOW, options, steps)
        Path(os.environ["CHAOS_READY"]).write_text(definitions.__name__)
        cli.main()
