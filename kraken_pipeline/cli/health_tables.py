"""Prints health checks and the statistics of the reply cache."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from kraken_pipeline.cli.layout import say
from kraken_pipeline.workflow.health.check import Check
from kraken_pipeline.workflow.health.exchange_health import CacheState

_HEALTH = 24
"""The column at which the sentences of `health` begin."""
_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def health(console: Console, checks: Sequence[Check]) -> None:
    """Print the health checks, one line each."""
    for check in checks:
        line = f"{check.verdict:8} {check.name:14} {check.sentence}"
        say(console, line, first=_COLOURS[str(check.verdict)], hang=_HEALTH)


def cache(console: Console, state: CacheState) -> None:
    """Print the statistics of the reply cache."""
    lookups = state.lookups
    rate = "no lookups" if lookups.hit_rate is None else f"{lookups.hit_rate:.0%} hits"
    say(
        console,
        f"{rate} in the last day: {lookups.hits:,} hits, {lookups.misses:,} misses, {lookups.cold:,} requested for "
        f"the first time, {lookups.stale:,} served stale; {state.keys:,} keys with {state.size / 2**20:.1f} MiB on "
        "disk.",
    )
