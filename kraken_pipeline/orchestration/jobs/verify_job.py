"""The job `verify_lake`: compares files with the manifest, a part each night, and repairs them on request."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.orchestration import checks
from kraken_pipeline.orchestration.config import mapping, spec_fields
from kraken_pipeline.orchestration.jobs.groups import Dealt, GroupedWork, job_of_groups
from kraken_pipeline.orchestration.progress import NOTES
from kraken_pipeline.orchestration.run_records import VERIFY_JOB
from kraken_pipeline.orchestration.steps import conclude, log_events, outcome_of_changes, report
from kraken_pipeline.storage.records.manifest import LakeFile
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import pipeline
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec
from kraken_pipeline.workflow.verify.groups import compare_group, groups_to_verify
from kraken_pipeline.workflow.verify.repair import Repair, repair
from kraken_pipeline.workflow.verify.verification import Compared, Verification, verify

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


def _spec_of(config: Mapping[str, Any]) -> RunSpec:
    return run_spec({name: value for name, value in config.items() if name not in _OWN})


def find_files(_: dg.OpExecutionContext, stores: Stores, config: Mapping[str, Any], run: RunContext) -> Dealt:
    """Find the selected files, and distribute them over the steps."""
    is_quick = config.get("quick", False)
    groups = groups_to_verify(stores, _spec_of(config), run, quick=is_quick, part=config.get("part"))
    return Dealt([(files[0].series.pair, files) for files in groups])


def compare_files(stores: Stores, config: Mapping[str, Any], files: list[LakeFile], run: RunContext) -> Compared:
    """Compare the files of one step with the manifest, and record nothing."""
    return compare_group(stores, files, run, quick=config.get("quick", False))


def verify_files(
    context: dg.OpExecutionContext,
    stores: Stores,
    config: Mapping[str, Any],
    run: RunContext,
    compared: list[Compared] | None,
) -> None:
    """Compare files with the manifest; repair damaged files on request."""
    spec, is_quick, before = _spec_of(config), config.get("quick", False), compared or ()
    if config.get("repair"):
        done = repair(stores, spec, run, quick=is_quick, compared=before)
    else:
        found = verify(stores, spec, run, quick=is_quick, part=config.get("part"), compared=before)
        done = Repair(found, {})
    outcome = _outcome(done.verification)
    outcome |= _reported(context, stores, spec, done, run)
    for damage in done.verification.damaged:
        context.log.error(f"{damage}: {damage.action}")
    for path, target in done.moved.items():
        context.log.warning(f"{path} is damaged, and was moved to {target}")
    for sentence in done.trades_lost:
        context.log.warning(sentence)
    if done.trades_lost:
        outcome["trades_lost"] = list(done.trades_lost[:NOTES])
    conclude(context, stores, run, outcome)


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


verify_job = job_of_groups(
    VERIFY_JOB,
    GroupedWork(find_files, compare_files, verify_files, _spec_of, is_retried=False),
    config=mapping(find_files.__name__, {**spec_fields(_OF_SPEC), **_OWN}, _checked),
    description="Compares every file of the lake with what was written; repairs damaged files if repair is set.",
)
"""Compares files with the manifest; what a damaged file held is a gap from then on."""
