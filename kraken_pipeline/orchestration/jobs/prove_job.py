"""The job `prove`: counts trades by their ids and heals short candles; started by the command line or a schedule."""

from collections.abc import Mapping
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from kraken_pipeline.coverage.anchors import CountVerdict, Depth, Spacing
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.orchestration import metadata
from kraken_pipeline.orchestration.config import mapping, spec_fields
from kraken_pipeline.orchestration.jobs.groups import Dealt, GroupedWork, job_of_groups
from kraken_pipeline.orchestration.progress import NOTES
from kraken_pipeline.orchestration.run_records import PROVE_JOB
from kraken_pipeline.orchestration.steps import conclude, outcome_of_publication, report
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import pipeline
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome
from kraken_pipeline.workflow.backfill.work import of_pairs
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.proof.counting import cost, said
from kraken_pipeline.workflow.proof.groups import groups_to_prove, together
from kraken_pipeline.workflow.proof.prove import ProveOutcome, judged, prove, prove_pairs
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec

_OF_SPEC = ("tier", "pairs", "start", "end", "budget", "dry_run")


class ProveConfig(dg.Config):
    """The options of the job `prove` beside those of a `RunSpec`."""

    every: Literal["1d", "1mo", "3mo"] = Field(
        default="3mo", description="The distance between the first anchors: 1d, 1mo, or 3mo."
    )
    depth: Literal["minute", "day"] = Field(
        default="minute", description="The span down to which a difference is searched: minute, or day."
    )


_OWN = ProveConfig.to_fields_dict()


def how(values: Mapping[str, Any]) -> tuple[Spacing, Depth]:
    """Return the spacing and the depth of a proof, from a run's config.

    Raises:
        InvalidRequest: A value is not one of the allowed ones.
    """
    found: list[Any] = []
    for name, kind, default in (("every", Spacing, Spacing.QUARTER), ("depth", Depth, Depth.MINUTE)):
        value = values.get(name)
        if value is not None and value not in set(kind):
            raise InvalidRequest(f"{name}={value!r}: write {', '.join(kind)}")
        found.append(default if value is None else kind(value))
    return found[0], found[1]


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the op, validated before the run exists."""
    how(values)
    own = {name: values[name] for name in _OWN if values.get(name) is not None}
    spec = run_spec({name: value for name, value in values.items() if name not in _OWN})
    return {**spec.as_config(), **own}


def _spec_of(config: Mapping[str, Any]) -> RunSpec:
    return run_spec({name: value for name, value in config.items() if name not in _OWN})


def find_pairs_to_prove(_: dg.OpExecutionContext, stores: Stores, config: Mapping[str, Any], run: RunContext) -> Dealt:
    """Distribute the pairs over the steps."""
    spec, (spacing, _depth) = _spec_of(config), how(config)
    groups = [] if spec.dry_run else groups_to_prove(stores, spec, spacing, run.now)
    return Dealt([(pairs[0], pairs) for pairs in groups])


def count_trades_of_pairs(stores: Stores, config: Mapping[str, Any], pairs: list[str], run: RunContext) -> ProveOutcome:
    """Compare the number of trades by their ids with the trade counts of candles, for the pairs of one step."""
    spacing, depth = how(config)
    return prove_pairs(stores, of_pairs(_spec_of(config), pairs), run, spacing, depth, None)


def count_trades(
    context: dg.OpExecutionContext,
    stores: Stores,
    config: Mapping[str, Any],
    run: RunContext,
    proven: list[ProveOutcome] | None,
) -> None:
    """Compare the number of trades by their ids with the trade counts of candles, within the budget."""
    spacing, depth = how(config)
    spec = _spec_of(config)
    if proven:
        done = judged(stores, spec, spacing, run, together(proven))
    else:
        context.log.info(said(cost(stores, spec, spacing, run.now), stores.settings.kraken_api_rate))
        if spec.dry_run:
            conclude(context, stores, run, _outcome(ProveOutcome(now=run.now), pipeline.Changes()))
            return
        done = prove(stores, spec, run, spacing=spacing, depth=depth, allowed=spec.budget)
    context.log.info(_table(done))
    changes = pipeline.Changes(
        filled=BackfillOutcome(done.filled, requests=done.requests, failed=done.failed, notes=done.notes),
        evidence=frozenset(count.series for count in done.counts if count.run_id == run.run_id),
    )
    changes = pipeline.deliver(stores, changes, run)
    report(context, stores, spec, changes, run)
    conclude(context, stores, run, _outcome(done, changes))


def _table(done: ProveOutcome) -> str:
    differing = [count for count in done.counts if count.verdict is not CountVerdict.PROVEN]
    header = ("series", "from", "to", "by ids", "counted", "verdict", "what to do")
    rows = [
        (
            count.series,
            *count.when.removeprefix("from ").split(" to "),
            "" if count.by_ids is None else count.by_ids,
            "" if count.counted is None else count.counted,
            count.verdict,
            count.action,
        )
        for count in differing
    ]
    proven = len(done.counts) - len(differing)
    return f"{proven} counts are proven\n{metadata.table(header, rows)}"


def _outcome(done: ProveOutcome, changes: pipeline.Changes) -> dict[str, Any]:
    of_verdict = {
        verdict: sum(count.verdict is verdict for count in done.counts)
        for verdict in (CountVerdict.PROVEN, CountVerdict.SHORT, CountVerdict.OVER, CountVerdict.UNANCHORED)
    }
    return {
        "made_at": done.now,
        **{f"counts_{verdict}": count for verdict, count in of_verdict.items()},
        "requests": done.requests,
        "fetches_failed": len(done.failed),
        "spans_refuted": done.refuted,
        **outcome_of_publication(changes.published),
        "errors": list(done.failed[:NOTES]),
        "notes": [*done.notes, *changes.published.failed][:NOTES],
    }


prove_job = job_of_groups(
    PROVE_JOB,
    GroupedWork(find_pairs_to_prove, count_trades_of_pairs, count_trades, _spec_of, is_retried=True),
    config=mapping(find_pairs_to_prove.__name__, {**spec_fields(_OF_SPEC), **_OWN}, _checked),
    description="Counts the trades of candles by the ids that the exchange gives them, and fills what is missing.",
)
"""Counts trades by their ids; a recorded anchor is not requested again."""
