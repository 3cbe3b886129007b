"""The drop folder's sensor: new files become one run of `ingest`, new pairs become partitions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress

import dagster as dg

from kraken_pipeline.kraken.archive import ArchiveFile, PassedOver, discover
from kraken_pipeline.market.tier import load_tiers
from kraken_pipeline.orchestration.jobs import ingest_job
from kraken_pipeline.orchestration.partitions import PAIRS, by_tier
from kraken_pipeline.settings import Settings, load_settings

_EDGE = 1 << 16


def content_digest(files: Sequence[ArchiveFile], broken: Sequence[PassedOver] = ()) -> str:
    """What the files are: names, sizes, and both ends of each; not all of it, because a tick has 60 seconds.

    Of containers that cannot be opened, what is wrong with them: a run puts them on record.
    """
    digest = hashlib.sha256("".join(sorted(f"{each.name}: {each.reason}\n" for each in broken)).encode())
    for path in sorted({part for file in files for part in (file.container.parts if file.container else (file.path,))}):
        with suppress(FileNotFoundError), path.open("rb") as stream:  # a run may have moved it in the meantime
            size = path.stat().st_size
            digest.update(f"{path.name}:{size}:".encode())
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
    seen, count = json.loads(cursor) if cursor else ("", 0)
    digest = content_digest(found.files, found.broken) if found.files or found.broken else ""
    if digest == seen or not digest:
        waiting = f", {len(found.waiting)} still grow" if found.waiting else ""
        return dg.SensorResult(
            skip_reason=f"nothing new in {settings.drop}{waiting}", cursor=json.dumps([digest, count])
        )
    pairs = {file.pair.name: file.pair for file in found.files}
    requests = [
        PAIRS[tier].build_add_request(list(names))
        for tier, names in by_tier(load_tiers(settings.kraken_tiers_file), pairs.values()).items()
    ]
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=f"{digest}-{count + 1}", job_name=ingest_job.name)],
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
