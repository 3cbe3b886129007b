"""The trigger of a publication: decides whether ranges have been pending for long and QuestDB answers again."""

from __future__ import annotations

from collections.abc import Callable

from kraken_pipeline.errors import PipelineError
from kraken_pipeline.market.moment import iso
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.locks.locks import Locks
from kraken_pipeline.storage.questdb.client import open_questdb
from kraken_pipeline.storage.records import publications
from kraken_pipeline.storage.stores import opened

PENDING_SECONDS = 60.0
"""The age of a pending range after which the sensor publishes it: runs publish their own changes, and one pending for
longer could not be published."""


def reason_not_to_publish(settings: Settings, now: float, publishing: Callable[[Locks], str | None]) -> str | None:
    """Return why no run should publish now; None where one should. Of QuestDB, it only checks that it answers.

    Args:
        settings: The settings of the home.
        now: The current time, in seconds since the epoch.
        publishing: Returns the id of the run that is publishing, if any.
    """
    with opened(settings) as stores:
        with stores.catalog.read() as connection:
            backlog = publications.backlog(connection)
        if backlog.oldest is None or now - backlog.oldest < PENDING_SECONDS:
            return f"{backlog.count} ranges are pending, none of them for long"
        if (run_id := publishing(stores.locks)) is not None:
            return f"run {run_id[:8]} is publishing"
    try:
        with open_questdb(settings) as questdb:
            questdb.ping()
    except PipelineError as error:
        return f"{backlog.count} ranges have been pending since {iso(backlog.oldest)}, and stay pending: {error}"
    return None
