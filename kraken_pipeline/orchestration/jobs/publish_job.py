"""The job `publish_candles`: publishes pending changes to QuestDB; started by the command line or a sensor."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.orchestration.config import mapping
from kraken_pipeline.orchestration.events import published_changes
from kraken_pipeline.orchestration.jobs.groups import Dealt, GroupedWork, job_of_groups
from kraken_pipeline.orchestration.progress import NOTES
from kraken_pipeline.orchestration.run_records import PUBLISH_JOB
from kraken_pipeline.orchestration.steps import conclude, log_events
from kraken_pipeline.storage.questdb.tables import TABLES
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.table_groups import PublishedTables, publish_tables, table_groups, together


class PublishConfig(dg.Config):
    """The options of the job `publish_candles`."""

    rebuild: bool = Field(default=False, description="Empty QuestDB's tables and fill them from the lake.")
    verify: bool = Field(default=False, description="Compare every series with the lake afterwards.")


def find_pending_tables(_: dg.OpExecutionContext, stores: Stores, config: Mapping[str, Any], __: RunContext) -> Dealt:
    """Find the tables to publish to, and distribute them over the steps."""
    groups = table_groups(stores, are_all=config["rebuild"] or config["verify"])
    return Dealt([(TABLES[intervals[0]], intervals) for intervals in groups])


def publish_to_tables(
    stores: Stores, config: Mapping[str, Any], intervals: list[Interval], run: RunContext
) -> PublishedTables:
    """Publish to the tables of one step, each in order of time."""
    return publish_tables(stores, run, intervals, is_rebuilding=config["rebuild"], is_comparing=config["verify"])


def publish_pending(
    context: dg.OpExecutionContext,
    stores: Stores,
    config: Mapping[str, Any],
    run: RunContext,
    published: list[PublishedTables] | None,
) -> None:
    """Publish pending ranges to QuestDB, or rebuild its tables from the lake."""
    is_whole = published is None
    left = publish_tables(
        stores, run, is_rebuilding=is_whole and config["rebuild"], is_comparing=is_whole and config["verify"]
    )
    found = together([*(published or ()), left])
    done, different = found.outcome, found.different
    for failure in done.failed:
        context.log.error(failure)
    log_events(context, published_changes(stores, done))
    for difference in different:
        context.log.error(str(difference))
    outcome = {
        "candles_published": done.candles,
        "publications_owed": done.pending,
        "series_different": len(different) if config["verify"] and not done.failed else None,
        "errors": [*done.failed, *map(str, different)][:NOTES],
        "notes": [],
    }
    conclude(context, stores, run, outcome)


publish_job = job_of_groups(
    PUBLISH_JOB,
    GroupedWork(find_pending_tables, publish_to_tables, publish_pending, None, is_retried=True),
    config=mapping(find_pending_tables.__name__, PublishConfig.to_fields_dict(), dict),
    description="Publishes pending changes to QuestDB; can also rebuild its tables from the lake, and compare the two.",
)
"""Publishes candles to QuestDB; ranges that cannot be published stay pending."""
