"""The command that checks the disk, the servers, the exchange and the data."""

from __future__ import annotations

import typer

from kraken_pipeline.cli import health_tables
from kraken_pipeline.cli.options import AsJson
from kraken_pipeline.cli.output import out, print_json
from kraken_pipeline.orchestration.instance import state_now
from kraken_pipeline.settings import load_settings
from kraken_pipeline.workflow.health.check import HealthStatus, worst
from kraken_pipeline.workflow.health.health import check_health


def health(as_json: AsJson = False) -> None:
    """Check the disk, the servers, the exchange and the data; the exit code is 1 if a check has failed."""
    settings = load_settings()
    checks = check_health(settings, lambda: state_now(settings))
    verdict = worst(checks)
    if as_json:
        print_json(
            {
                "status": str(verdict),
                "checks": [
                    {"name": check.name, "status": str(check.verdict), "detail": check.sentence} for check in checks
                ],
            }
        )
    else:
        health_tables.health(out, checks)
    raise typer.Exit(int(verdict is HealthStatus.FAILED))
