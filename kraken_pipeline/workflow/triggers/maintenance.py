"""The trigger of maintenance: decides whether a scheduled job has anything to work on."""

from __future__ import annotations

from collections.abc import Callable

from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.locks.locks import Locks
from kraken_pipeline.storage.stores import opened, opened_locks


def reason_not_to_maintain(settings: Settings, working: Callable[[Locks], str | None]) -> str | None:
    """Return why a scheduled job should not start now; None where it should.

    Args:
        settings: The settings of the home.
        working: Returns the id of the unfinished run of the same job, if any.
    """
    with opened_locks(settings) as locks:
        run_id = working(locks)
    if run_id is not None:
        return f"run {run_id[:8]} is still at work"
    with opened(settings) as stores:
        is_empty = not stores.lake.asset_ids.pairs()
    if is_empty:
        return "the lake is empty: ingest archives, or name pairs: kraken-pipeline backfill --pairs …"
    return None
