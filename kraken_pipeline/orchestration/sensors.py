"""Sensors: dropped files become one run of `ingest`, a backfill follows it, and what QuestDB is owed is delivered."""

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
from kraken_pipeline.orchestration.jobs.ingest_job import SPEC_TAG, ingest_job
from kraken_pipeline.orchestration.jobs.maintenance_jobs import backfill_job, publish_job
from kraken_pipeline.orchestration.partitions import PAIRS, by_tier
from kraken_pipeline.orchestration.runs import at_work
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.questdb.client import open_questdb
from kraken_pipeline.storage.records import publications
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.ingest.scan import pass_over_unknown
from kraken_pipeline.workflow.run_spec import run_spec

_EDGE = 1 << 16
_REASONS = 5


def content_digest(files: Sequence[ArchiveFile], broken: Sequence[PassedOver] = ()) -> str:
    """What the files are: names, sizes, and both ends of each; not all of it, because a tick has 60 seconds.

    Of containers that cannot be opened, what is wrong with them: a run puts them on record.
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
    """What a tick does about the drop folder.

    The cursor holds a digest of what lay there, and how often a run was asked for: the same file, dropped again after
    it was moved away, is asked for again, although Dagster never runs the same key twice.
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
            # What lies in the folder is stored at once; `auto_gap_fill` asks the exchange afterwards.
            dg.RunRequest(run_key=f"{digest}-{count + 1}", job_name=ingest_job.name, run_config={"api_backfill": False})
        ],
        dynamic_partitions_requests=requests,
        cursor=json.dumps([digest, count + 1]),
    )


def drop_folder_sensor() -> dg.SensorDefinition:
    """The sensor that ingests what is dropped into the folder; on from the start."""

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
    """The backfill that comes after an ingest: of the same pairs and intervals."""
    spec = run_spec(json.loads(run.tags.get(SPEC_TAG, "{}")))
    if spec.dry_run or spec.api_backfill:
        return dg.SkipReason("the ingest itself asked the exchange, or was a dry run")
    given = spec.as_config()
    config = {name: value for name, value in given.items() if name in {"tier", "intervals", "pairs"}}
    return dg.RunRequest(run_key=f"after-{run.run_id}", run_config=config)


def auto_gap_fill_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that backfills after each ingest; off unless KRAKEN_AUTO_GAP_FILL is set."""
    status = dg.DefaultSensorStatus.RUNNING if settings.kraken_auto_gap_fill else dg.DefaultSensorStatus.STOPPED

    @dg.run_status_sensor(
        name="auto_gap_fill",
        run_status=dg.DagsterRunStatus.SUCCESS,
        monitored_jobs=[ingest_job],
        request_job=backfill_job,
        default_status=status,
        description="After each ingest that did not ask the exchange itself, fills the gaps of the same series.",
    )
    def auto_gap_fill(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
        return follow_up(context.dagster_run)

    return auto_gap_fill


OWED_SECONDS = 60.0
"""Runs deliver what they change themselves; what is owed for longer, they could not."""


def delivery(settings: Settings, instance: dg.DagsterInstance, now: float) -> dg.RunRequest | dg.SkipReason:
    """What a tick does about the outbox; QuestDB is only asked whether it is there."""
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
    """The sensor that delivers what QuestDB could not take when it was owed; on from the start."""

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
