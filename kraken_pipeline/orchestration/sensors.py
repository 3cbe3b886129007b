"""The sensors: they ingest dropped files in one run, start a backfill after it, and publish pending ranges."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress

import dagster as dg

from kraken_pipeline.errors import PipelineError, plain
from kraken_pipeline.kraken.archive import ArchiveFile
from kraken_pipeline.kraken.discovery import PassedOver, discover
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.tier import load_tiers
from kraken_pipeline.orchestration.jobs.ingest_job import REQUESTS_LEFT_TAG, ingest_job
from kraken_pipeline.orchestration.jobs.maintenance_jobs import backfill_job, publish_job
from kraken_pipeline.orchestration.partitions import PAIRS, by_tier
from kraken_pipeline.orchestration.runs import at_work
from kraken_pipeline.orchestration.steps import SPEC_TAG
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.questdb.client import open_questdb
from kraken_pipeline.storage.records import publications
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.ingest.scan import pass_over_unknown
from kraken_pipeline.workflow.run_spec import run_spec

BACKFILL_LATER_TAG = "kraken/backfill_later"
"""The tag of an ingest that makes no requests because `auto_gap_fill` follows it, not because a user asked for none."""
_EDGE = 1 << 16
_REASONS = 5


def content_digest(files: Sequence[ArchiveFile], broken: Sequence[PassedOver] = ()) -> str:
    """Return a digest of files: their names, their sizes, and the first and last bytes of each.

    The files are not read whole, because a tick has 60 seconds. For containers that cannot be opened, the digest covers
    the reasons, so that a run records them.
    """
    digest = hashlib.sha256("".join(sorted(f"{each.name}: {each.reason}\n" for each in broken)).encode())
    for path in sorted({part for file in files for part in (file.container.parts if file.container else (file.path,))}):
        with suppress(FileNotFoundError), path.open("rb") as stream:  # a run may have moved it in the meantime
            size = path.stat().st_size
            digest.update(f"{plain(path.name)}:{size}:".encode())
            digest.update(stream.read(_EDGE))
            stream.seek(max(0, size - _EDGE))
            digest.update(stream.read(_EDGE))
    return digest.hexdigest()[:16]


def evaluate(settings: Settings, cursor: str | None) -> dg.SensorResult:
    """Return the result of a tick of the drop folder's sensor.

    The cursor holds a digest of the folder's files and the number of runs requested so far. The number is part of the
    run key, because Dagster never runs the same key twice: a file that is dropped again after it was moved away is
    ingested again.
    """
    settings.drop.mkdir(parents=True, exist_ok=True)
    found = discover([settings.drop], settle_seconds=settings.kraken_settle_seconds)
    if any(file.is_doubtful for file in found.files):
        with opened(settings) as stores:
            pass_over_unknown(stores, found)
    seen, count = json.loads(cursor) if cursor else ("", 0)
    digest = content_digest(found.files, found.broken) if found.files or found.broken else ""
    if digest == seen or not digest:
        waiting = f", {len(found.waiting)} still grow" if found.waiting else ""
        unread = [f"{each.name}: {each.reason}" for each in (*found.broken, *found.skipped)]
        reasons = "; ".join([f"nothing new in {settings.drop}{waiting}", *unread[:_REASONS]])
        more = f"; and {len(unread) - _REASONS} more" if len(unread) > _REASONS else ""
        return dg.SensorResult(skip_reason=f"{reasons}{more}", cursor=json.dumps([digest, count]))
    pairs = {file.pair.name: file.pair for file in found.files}
    requests = [
        PAIRS[tier].build_add_request(list(names))
        for tier, names in by_tier(load_tiers(settings.kraken_tiers_file), pairs.values()).items()
    ]
    return dg.SensorResult(
        run_requests=[
            # The files are stored at once; `auto_gap_fill` makes the requests to the exchange afterwards.
            dg.RunRequest(
                run_key=f"{digest}-{count + 1}",
                job_name=ingest_job.name,
                run_config={"api_backfill": False},
                tags={BACKFILL_LATER_TAG: "true"},
            )
        ],
        dynamic_partitions_requests=requests,
        cursor=json.dumps([digest, count + 1]),
    )


def drop_folder_sensor() -> dg.SensorDefinition:
    """Return the sensor that ingests the files in the drop folder; it is on by default."""

    @dg.sensor(
        name="drop_folder",
        job=ingest_job,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Looks into the drop folder: what is new there is ingested in one run.",
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
        return dg.SkipReason("the ingest was asked for without a backfill: api_backfill is off")
    if spec.api_backfill and run.tags.get(REQUESTS_LEFT_TAG) == "0":
        return dg.SkipReason("the ingest asked the exchange itself, and left nothing that a backfill would ask for")
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


OWED_SECONDS = 60.0
"""The age of a pending range after which the sensor publishes it: runs publish their own changes, and one pending for
longer could not be published."""


def delivery(settings: Settings, instance: dg.DagsterInstance, now: float) -> dg.RunRequest | dg.SkipReason:
    """Return the result of a tick of the outbox's sensor; of QuestDB, it only checks that it answers."""
    with opened(settings) as stores:
        with stores.catalog.read() as connection:
            backlog = publications.backlog(connection)
        if backlog.oldest is None or now - backlog.oldest < OWED_SECONDS:
            return dg.SkipReason(f"{backlog.count} ranges are owed, none of them for long")
        if (run_id := at_work(instance, stores.locks, publish_job.name)) is not None:
            return dg.SkipReason(f"run {run_id[:8]} is delivering")
    try:
        with open_questdb(settings) as questdb:
            questdb.ping()
    except PipelineError as error:
        return dg.SkipReason(f"{backlog.count} ranges are owed since {iso(backlog.oldest)}, and stay owed: {error}")
    return dg.RunRequest()


def deliver_publications_sensor(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor that publishes ranges that earlier runs could not publish; it is on by default."""

    @dg.sensor(
        name="deliver_publications",
        job=publish_job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Delivers to QuestDB what it has been owed for more than a minute, as soon as it answers.",
    )
    def deliver_publications(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        return delivery(settings, context.instance, time.time())

    return deliver_publications
