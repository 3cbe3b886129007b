"""The command that lists runs."""

from __future__ import annotations

from typing import Annotated

import typer

from kraken_pipeline.cli import health_tables, run_tables
from kraken_pipeline.cli.options import MOST, AsJson
from kraken_pipeline.cli.output import out, print_json
from kraken_pipeline.orchestration import runs
from kraken_pipeline.orchestration.instance import instance_of
from kraken_pipeline.settings import load_settings
from kraken_pipeline.storage.stores import opened, opened_locks
from kraken_pipeline.workflow.health.exchange_health import check_exchange


def status(
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="The most runs to list, the newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List runs with their progress and errors."""
    settings = load_settings()
    with instance_of(settings) as instance, opened_locks(settings) as locks:
        found = runs.statuses(instance, locks, limit)
    if as_json:
        print_json([run.as_json() for run in found])
    else:
        run_tables.status(out, [run.as_json() for run in found])
    with opened(settings) as stores:
        if found and not as_json:
            health_tables.health(out, check_exchange(stores))
