"""Publishing in groups of tables: each table of QuestDB is published to by one process, in order of time.

A group holds all pairs of its tables. If each process sent pairs of its own, QuestDB would rewrite the same partitions
again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kraken_pipeline.coverage.ranges import normalise
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.questdb.tables import TABLES
from kraken_pipeline.storage.records import evidence_records, publications
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import costs, publish
from kraken_pipeline.workflow.pair_groups import step_groups
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.publish import Difference, Published, PublishOutcome


@dataclass(frozen=True, slots=True)
class PublishedTables:
    """The outcome of publishing to some tables.

    Attributes:
        outcome: What was published.
        different: The series that differ between QuestDB and the lake; empty where that was not examined.
    """

    outcome: PublishOutcome
    different: tuple[Difference, ...] = ()


def table_groups(stores: Stores, *, are_all: bool) -> list[list[Interval]]:
    """Return the intervals whose tables are published to, in groups.

    Args:
        stores: The stores.
        are_all: Whether all tables are emptied or compared, instead of those with pending ranges only.
    """
    seconds: dict[str, float] = {}
    with stores.catalog.read() as connection:
        extents = evidence_records.extents(connection)
        for interval in Interval:
            pending = publications.pending(connection, interval)
            if are_all or pending:
                candles = sum(
                    extent.candles
                    for series, extent in extents.items()
                    if series.interval is interval and (are_all or series in pending)
                )
                seconds[TABLES[interval]] = costs.publishing(candles)
    of_table = {TABLES[interval]: interval for interval in Interval}
    return [[of_table[table] for table in group] for group in step_groups(seconds, stores.settings.kraken_workers)]


def publish_tables(
    stores: Stores,
    run: RunContext,
    intervals: Sequence[Interval] = tuple(Interval),
    *,
    is_rebuilding: bool,
    is_comparing: bool,
) -> PublishedTables:
    """Publish the pending ranges of some tables.

    Args:
        stores: The stores.
        run: The context of the run.
        intervals: The intervals of the tables.
        is_rebuilding: Whether to empty the tables first, and to fill them from the lake.
        is_comparing: Whether to compare them with the lake afterwards, if everything was published.

    Raises:
        InvalidRequest: QuestDB is off.
        StoreUnavailable: QuestDB does not answer.
    """
    if is_rebuilding:
        done = publish.rebuild(stores, run, intervals)
    else:
        done = publish.publish(stores, run, intervals=intervals)
    is_compared = is_comparing and not done.failed
    return PublishedTables(done, tuple(publish.differences(stores, intervals=intervals)) if is_compared else ())


def together(parts: Sequence[PublishedTables]) -> PublishedTables:
    """Return the outcomes of several groups as one; what is pending is as the last one found it."""
    published: dict[Series, Published] = {}
    for part in parts:
        for found in part.outcome.series:
            known = published.get(found.series, Published(found.series, 0, ()))
            spans = normalise((*known.spans, *found.spans))
            published[found.series] = Published(found.series, known.candles + found.candles, spans)
    failed = tuple(dict.fromkeys(failure for part in parts for failure in part.outcome.failed))
    outcome = PublishOutcome(
        tuple(published[series] for series in sorted(published)), failed, parts[-1].outcome.pending
    )
    return PublishedTables(outcome, () if failed else tuple(found for part in parts for found in part.different))
