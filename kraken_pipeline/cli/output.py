"""Where commands write: sentences and tables to one of two consoles, or JSON to standard output."""

from __future__ import annotations

import json
import sys
from typing import Any

from kraken_pipeline.cli import tables

out = tables.console()
err = tables.console(stderr=True)


def print_json(value: Any) -> None:
    """Write JSON to standard output, which then has nothing else."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
