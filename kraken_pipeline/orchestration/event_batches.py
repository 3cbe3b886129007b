"""Stores many materialisations of one asset at once, as Dagster's history of a run.

Dagster stores the events of an op one by one, with a connection and an engine for each on SQLite. Measured on two busy
cores: 11 ms of CPU for an event on SQLite and on PostgreSQL; in a batch 0.9 ms and 0.5 ms. Dagster's storage of
PostgreSQL has such a method; its storage of SQLite does not, so this module does the same there with private methods of
that class. A test fails when one of them is gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import dagster as dg
from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

BATCH_EVENTS = 200


def store_batch(context: dg.OpExecutionContext, materialisations: Sequence[dg.AssetMaterialization]) -> None:
    """Store materialisations of partitions of one asset, in order, as if the op had logged each of them.

    The asset's record, of which the UI shows the last materialisation, is updated for the last one only.
    """
    storage = context.instance.event_log_storage
    entries = [_entry(context, materialisation) for materialisation in materialisations]
    if isinstance(storage, SqliteEventLogStorage):
        _store_in_sqlite(storage, entries)
    else:
        storage.store_event_batch(entries)


def _entry(context: dg.OpExecutionContext, materialisation: dg.AssetMaterialization) -> EventLogEntry:
    step = context.get_step_execution_context()
    event = DagsterEvent(
        event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
        job_name=step.job_name,
        step_handle=step.step.handle,
        node_handle=step.step.node_handle,
        step_kind_value=step.step.kind.value,
        logging_tags=step.event_tags,
        event_specific_data=StepMaterializationData(materialisation),
        message=f"Materialized value {materialisation.label}.",
        pid=os.getpid(),
    )
    return EventLogEntry(  # type: ignore[no-untyped-call]
        error_info=None,
        level="debug",
        user_message="",
        run_id=context.run_id,
        timestamp=time.time(),
        step_key=event.step_key,
        job_name=event.job_name,
        dagster_event=event,
    )


def _store_in_sqlite(storage: SqliteEventLogStorage, entries: Sequence[EventLogEntry]) -> None:
    """Store events in the database of their run and in that of all assets, each in one transaction."""
    rows = [storage._event_to_row(entry) for entry in entries]
    with storage.run_connection(entries[0].run_id) as connection:
        connection.execute(SqlEventLogStorageTable.insert().values(rows))
    with storage.index_transaction() as connection:
        # SQLite returns the rows in the order of their insertion.
        inserted = SqlEventLogStorageTable.insert().values(rows).returning(SqlEventLogStorageTable.c.id)
        ids = list(connection.scalars(inserted))
        storage._store_asset_event_tags(connection, entries, ids)
        storage._store_asset_event(connection, entries[-1], ids[-1])
