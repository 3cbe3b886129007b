"""The job `recover_catalog`: builds a catalog from the lake and the available archives, or copies another catalog."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.orchestration.config import mapping, spec_fields
from kraken_pipeline.orchestration.failures import explained
from kraken_pipeline.orchestration.progress import NOTES
from kraken_pipeline.orchestration.resources import StoresOfRun
from kraken_pipeline.orchestration.steps import begin, conclude, report
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.workflow import pipeline
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.verify.recovery import Recovery, copy_from, recover

_FROM = "copied_from"


class RecoverConfig(dg.Config):
    """The options of the job `recover_catalog` beside the archives."""

    copied_from: str | None = Field(
        default=None, description="The URL of a complete catalog to copy, without a password."
    )


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the op, validated before the run exists."""
    archives = values.get("archive_dirs")
    url = values.get(_FROM)
    if url is not None and archives:
        raise InvalidRequest(f"{_FROM} copies a complete catalog and reads no archives; leave archive_dirs out")
    return {"archive_dirs": [str(path) for path in run_spec(archive_dirs=archives).archive_dirs], _FROM: url}


@dg.op(config_schema=dict, out=dg.Out(dg.Nothing))
def build_catalog(context: dg.OpExecutionContext, stores_to_recover: StoresOfRun) -> None:
    """Build the catalog, add its pairs to the partitions, and report the changed partitions."""
    with explained():
        stores, config = stores_to_recover, dict(context.op_config)
        run = begin(context)
        if config[_FROM] is not None:
            run.report(phase="copying the catalog")
            done = copy_from(stores, config[_FROM])
        else:
            done = recover(stores, run_spec(archive_dirs=config["archive_dirs"]), run)
        for filled in done.backfilled:
            its = {gap.series for gap in filled.gaps} | {outcome.series for outcome in filled.filled}
            files = tuple(file for file in done.files if file.series in its)
            report(context, stores, run_spec(), pipeline.Changes(files, filled), run)
    for note in done.notes:
        context.log.warning(note)
    conclude(context, stores, run, _outcome(done))


def _outcome(done: Recovery) -> dict[str, Any]:
    failed = [f"{file.name}: {file.reason}" for file in done.files if file.status is FileStatus.FAILED]
    damaged = [f"{damage}: {damage.action}" for damage in (done.verification.damaged if done.verification else ())]
    return {
        "files_adopted": done.adopted,
        "candles_found": done.candles,
        "candles_on_their_own": done.granted,
        "files_failed": len(failed),
        "files_damaged": len(damaged),
        "gaps_left": sum(len(filled.gaps) for filled in done.backfilled),
        "rows_copied": None if done.copied is None else sum(done.copied.values()),
        "errors": [*damaged, *failed][:NOTES],
        "notes": list(done.notes[:NOTES]),
    }


@dg.job(
    name="recover_catalog",
    config=mapping("build_catalog", {**spec_fields(["archive_dirs"]), **RecoverConfig.to_fields_dict()}, _checked),
    executor_def=dg.in_process_executor,
    description="Rebuilds a lost catalog from the lake and the archives at hand, or copies another catalog.",
)
def recover_job() -> None:
    """Build or copy the catalog; time whose evidence is lost becomes a gap, never quiet time."""
    build_catalog()
