"""The sensors: they ingest dropped files, follow with a backfill, publish pending ranges, and end lost runs."""

from __future__ import annotations

import json
import time

import dagster as dg

from kraken_pipeline.market.tier import load_tiers
from kraken_pipeline.orchestration.jobs.ingest_job import REQUESTS_LEFT_TAG, ingest_job
from kraken_pipeline.orchestration.jobs.maintenance_jobs import backfill_job
from kraken_pipeline.orchestration.jobs.publish_job import publish_job
from kraken_pipeline.orchestration.partitions import PAIRS, by_tier
from kraken_pipeline.orchestration.run_records import SPEC_TAG
from kraken_pipeline.orchestration.runs import at_work, without_process
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.locks.locks import Locks
from kraken_pipeline.storage.stores import opened_locks
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.triggers.dropped_files import look_into_drop_folder
from kraken_pipeline.workflow.triggers.pending_ranges import reason_not_to_publish

BACKFILL_LATER_TAG = "kraken/backfill_later"
"""The tag of an ingest that makes no requests because `auto_gap_fill` follows it, not because a user asked for none."""

_LOST = "the process of the run is gone; the same command, or a retry, goes on with what it left"


def evaluate(settings: Settings, cursor: str | None) -> dg.SensorResult:
    """Return the result of a tick of the drop folder's sensor; the cursor is that of the tick before."""
    found = look_into_drop_folder(settings, cursor)
    if found.run_key is None:
        return dg.SensorResult(skip_reason=found.reason, cursor=found.cursor)
    requests = [
        PAIRS[tier].build_add_request(list(names))
        for tier, names in by_tier(load_tiers(settings.kraken_tiers_file), found.pairs).items()
    ]
    return dg.SensorResult(
        run_requests=[
            # The files are stored at once; `auto_gap_fill` makes the requests to the exchange afterwards.
            dg.RunRequest(
                run_key=found.run_key,
                job_name=ingest_job.name,
                run_config={"api_backfill": False},
                tags={BACKFILL_LATER_TAG: "true"},
            )
        ],
        dynamic_partitions_requests=requests,
        cursor=found.cursor,
    )


def drop_folder_sensor() -> dg.SensorDefinition:
    """Return the sensor that ingests the files in the drop folder; it is on by default."""

    @dg.sensor(
        name="drop_folder",
        job=ingest_job,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Watches the drop folder: new files are ingested in one run.",
    )
    def drop_folder(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return evaluate(load_settings(), context.cursor)

    return drop_folder


def follow_up(run: dg.DagsterRun) -> dg.RunRequest | dg.SkipReason:
    """Return the request for a backfill after an ingest, with the same pairs and intervals.

    It follows every ingest except a dry run, one that was asked for with `--no-api-backfill`, and one after which a
    backfill would request nothing.
    """
    spec = run_spec(json.loads(run.tags.get(SPEC_TAG, "{}")))
    if spec.dry_run:
        return dg.SkipReason("the ingest was a dry run")
    if not spec.api_backfill and BACKFILL_LATER_TAG not in run.tags:
        return dg.SkipReason("the ingest was started without a backfill: api_backfill is off")
    if spec.api_backfill and run.tags.get(REQUESTS_LEFT_TAG) == "0":
        return dg.SkipReason("the ingest made requests itself, and left none for a backfill")
    given = spec.as_config()
    config = {name: value for name, value in given.items() if name in {"tier", "intervals", "pairs"}}
    return dg.RunRequest(run_key=f"after-{run.run_id}", run_config=config)


def auto_gap_fill_sensor(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor that starts a backfill after each ingest; it is off unless KRAKEN_AUTO_GAP_FILL is set."""
    status = dg.DefaultSensorStatus.RUNNING if settings.kraken_auto_gap_fill else dg.DefaultSensorStatus.STOPPED

    @dg.run_status_sensor(
        name="auto_gap_fill",
        run_status=dg.DagsterRunStatus.SUCCESS,
        monitored_jobs=[ingest_job],
        request_job=backfill_job,
        default_status=status,
        description="Fills the gaps of the same series after each ingest, except one without api_backfill.",
    )
    def auto_gap_fill(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
        return follow_up(context.dagster_run)

    return auto_gap_fill


def delivery(settings: Settings, instance: dg.DagsterInstance, now: float) -> dg.RunRequest | dg.SkipReason:
    """Return the result of a tick of the outbox's sensor."""
    reason = reason_not_to_publish(settings, now, lambda locks: at_work(instance, locks, publish_job.name))
    return dg.RunRequest() if reason is None else dg.SkipReason(reason)


def deliver_publications_sensor(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor that publishes ranges that earlier runs could not publish; it is on by default."""

    @dg.sensor(
        name="deliver_publications",
        job=publish_job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Publishes changes that have been pending for more than a minute, as soon as QuestDB answers.",
    )
    def deliver_publications(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        return delivery(settings, context.instance, time.time())

    return deliver_publications


def end_lost_runs(instance: dg.DagsterInstance, locks: Locks, cursor: str | None) -> dg.SensorResult:
    """Report runs whose process was gone at this tick and at the one before as failed, or as cancelled.

    Dagster notices the end of a run's process itself, except where the code location that started it ended too. Such
    runs would count as running for ever, and keep their places in the queue.
    """
    before = set(json.loads(cursor or "[]"))
    gone = {run.run_id: run for run in without_process(instance, locks)}
    ended = sorted(before & set(gone))
    for run_id in ended:
        if gone[run_id].status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(gone[run_id], message=_LOST)
        else:
            instance.report_run_failed(gone[run_id], message=_LOST)
    waiting = sorted(set(gone) - set(ended))
    reason = f"ended: {', '.join(ended)}" if ended else "every run that has begun has its process"
    return dg.SensorResult(skip_reason=reason, cursor=json.dumps(waiting))


def lost_runs_sensor(interval_seconds: int = 60) -> dg.SensorDefinition:
    """Return the sensor that ends runs whose process is gone; it is on by default.

    Args:
        interval_seconds: The time between two ticks. A run that has begun and holds no lock yet must have it by then.
    """

    @dg.sensor(
        name="lost_runs",
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports runs as failed whose process is gone, for example with the code location that started it.",
    )
    def lost_runs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        with opened_locks(load_settings()) as locks:
            return end_lost_runs(context.instance, locks, context.cursor)

    return lost_runs
