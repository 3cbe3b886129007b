"""The job `verify_lake`: compares files with the manifest, a part each night, and repairs them on request."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.orchestration import checks
from kraken_pipeline.orchestration.config import mapping, spec_fields
from kraken_pipeline.orchestration.failures import explained
from kraken_pipeline.orchestration.progress import NOTES
from kraken_pipeline.orchestration.resources import StoresOfRun
from kraken_pipeline.orchestration.steps import begin, conclude, log_events, outcome_of_changes, report
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import pipeline
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec
from kraken_pipeline.workflow.verify.repair import Repair, repair
from kraken_pipeline.workflow.verify.verification import Verification, verify

_OF_SPEC = ("tier", "intervals", "pairs", "archive_dirs", "api_backfill", "budget")


class VerifyConfig(dg.Config):
    """The options of the job `verify_lake` beside those of a `RunSpec`."""

    quick: bool = Field(default=False, description="Compare sizes and footers only, instead of all bytes.")
    repair: bool = Field(default=False, description="Set damaged files aside, and restore their candles.")
    part: float | None = Field(
        default=None, description="Read only this share of all bytes: the files that were read least recently."
    )


_OWN = VerifyConfig.to_fields_dict()


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the op, validated before the run exists."""
    own = {name: values[name] for name in _OWN if values.get(name) is not None}
    if not 0 < own.get("part", 1) <= 1:
        raise InvalidRequest(f"part={own['part']}: write a share between 0 and 1, such as 0.04 for a twenty-fifth")
    if "part" in own and own.get("repair"):
        raise InvalidRequest("a repair examines everything that is selected; leave part out")
    spec = run_spec({name: value for name, value in values.items() if name not in _OWN})
    return {**spec.as_config(), **own}


@dg.op(config_schema=dict, out=dg.Out(dg.Nothing))
def verify_files(context: dg.OpExecutionContext, stores: StoresOfRun) -> None:
    """Compare files with the manifest; repair damaged files on request."""
    with explained():
        config = dict(context.op_config)
        own = {name: config.pop(name) for name in _OWN if name in config}
        spec = run_spec(config)
        run = begin(context, spec)
        if own.get("repair"):
            done = repair(stores, spec, run, quick=own.get("quick", False))
        else:
            found = verify(stores, spec, run, quick=own.get("quick", False), part=own.get("part"))
            done = Repair(found, {})
        outcome = _outcome(done.verification)
        outcome |= _reported(context, stores, spec, done, run)
    for damage in done.verification.damaged:
        context.log.error(f"{damage}: {damage.action}")
    for path, target in done.moved.items():
        context.log.warning(f"{path} is damaged, and was moved to {target}")
    conclude(context, run, outcome)


def _outcome(found: Verification) -> dict[str, Any]:
    names = [f"{damage}: {damage.action}" for damage in found.damaged]
    return {
        "verification": found.status,
        "files_verified": found.files,
        "bytes_verified": found.bytes,
        "verify_seconds": round(found.seconds, 3),
        "files_damaged": len(found.damaged),
        "files_set_aside": len(found.repaired),
        "errors": names[:NOTES],
        "notes": [],
    }


def _reported(
    context: dg.OpExecutionContext, stores: Stores, spec: RunSpec, done: Repair, run: RunContext
) -> dict[str, Any]:
    """Publish the repaired ranges, report the changed partitions, and return the additions to the outcome."""
    log_events(context, checks.lake_intact_events(stores, done.verification))
    if done.backfilled is None:
        return {}
    changes = pipeline.deliver(stores, pipeline.Changes(done.files, done.backfilled), run)
    report(context, stores, spec, changes, run)
    return {
        **outcome_of_changes(changes, errors=_outcome(done.verification)["errors"], notes=done.notes),
        "series_restored": len(done.restored),
        "gaps_left": len(done.backfilled.gaps),
    }


@dg.job(
    name="verify_lake",
    config=mapping("verify_files", {**spec_fields(_OF_SPEC), **_OWN}, _checked),
    executor_def=dg.in_process_executor,
    description="Compares every file of the lake with what was written; repairs damaged files if repair is set.",
)
def verify_job() -> None:
    """Compare files with the manifest; what a damaged file held is a gap from then on."""
    verify_files()
