"""The output of commands: two consoles for sentences and tables, and JSON to standard output."""

from __future__ import annotations

import json
import sys
from typing import Any

from kraken_pipeline.cli import tables

out = tables.console()
err = tables.console(stderr=True)


def print_json(value: Any) -> None:
    """Write JSON to standard output; the command must write nothing else there."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
