"""The jobs `reconcile` and `resolve`: comparing what is stored, and withdrawing what is wrong. Commands start them."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.orchestration.config import mapping, spec_fields
from kraken_pipeline.orchestration.failures import explained
from kraken_pipeline.orchestration.jobs.groups import Dealt, GroupedWork, job_of_groups
from kraken_pipeline.orchestration.progress import NOTES, hand_over
from kraken_pipeline.orchestration.resources import StoresOfRun
from kraken_pipeline.orchestration.run_records import RECONCILE_JOB
from kraken_pipeline.orchestration.steps import begin, conclude, outcome_of_publication, report
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import pipeline
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.groups import compare_and_search
from kraken_pipeline.workflow.reconcile.reconcile import Reconciled
from kraken_pipeline.workflow.reconcile.verdicts import contradicted
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec
from kraken_pipeline.workflow.withdraw.settling import withdrawal_of
from kraken_pipeline.workflow.withdraw.withdrawal import withdrawal

_OF_SPEC = ("tier", "pairs")


class ReconcileConfig(dg.Config):
    """The options of the job `reconcile` beside those of a `RunSpec`."""

    full: bool = Field(default=False, description="Compare everything again, not only what has changed.")


_FULL = ReconcileConfig.to_fields_dict()


def _reconcile_config(values: Mapping[str, Any]) -> dict[str, Any]:
    spec = run_spec({name: value for name, value in values.items() if name not in _FULL})
    return {**spec.as_config(), "full": bool(values.get("full"))}


def _spec_of(config: Mapping[str, Any]) -> RunSpec:
    return run_spec({name: value for name, value in config.items() if name not in _FULL})


def find_changed_pairs(_: dg.OpExecutionContext, stores: Stores, config: Mapping[str, Any], run: RunContext) -> Dealt:
    """Find the pairs that have changed, and distribute them over the steps."""
    groups = pipeline.groups_to_compare(stores, _spec_of(config), run, full=config["full"])
    return Dealt([(pairs[0], pairs) for pairs in groups])


def compare_pairs(stores: Stores, _: Mapping[str, Any], pairs: list[str], run: RunContext) -> Reconciled:
    """Compare the intervals of the pairs of one step, and search them for quiet time."""
    return compare_and_search(stores, pairs, run)


def compare_intervals(
    context: dg.OpExecutionContext,
    stores: Stores,
    config: Mapping[str, Any],
    run: RunContext,
    compared: list[Reconciled] | None,
) -> None:
    """Compare changed candles with the other intervals of their pair, and report the series of the compared pairs."""
    spec = _spec_of(config)
    is_full = config["full"] and compared is None  # otherwise everything was marked before it was dealt out
    done, changes = pipeline.reconcile(stores, spec, run, full=is_full, compared=compared or ())
    changes = pipeline.deliver(stores, changes, run)
    report(context, stores, spec, changes, run)
    for note in done.notes:
        context.log.warning(note)
    outcome = {
        "pairs_compared": len(done.pairs),
        "spans_refuted": done.refuted,
        "contradictions_healed": done.healed,
        "new_conflicts": done.conflicts,
        "comparisons_left": len(done.notes),
        **outcome_of_publication(changes.published),
        "errors": [],
        "notes": [*done.notes, *changes.published.failed][:NOTES],
    }
    conclude(context, stores, run, outcome)


reconcile_job = job_of_groups(
    RECONCILE_JOB,
    GroupedWork(find_changed_pairs, compare_pairs, compare_intervals, _spec_of, is_retried=False),
    config=mapping(find_changed_pairs.__name__, {**spec_fields(_OF_SPEC), **_FULL}, _reconcile_config),
    description="Compares the intervals of each pair with each other, and refutes candles that are short. Makes no "
    "requests.",
)
"""Compares intervals; what is refuted becomes a gap."""


class ResolveConfig(dg.Config):
    """The options of the job `resolve`: a reason, and one of a cause, a file, a release and a span."""

    reason: str = Field(default="", description="The reason, for the record; a run without one is refused.")
    cause: str | None = Field(default=None, description="The id of a cause, as `reconcile` lists it.")
    file: str | None = Field(default=None, description="A file: its name, its location or its SHA-256.")
    release: str | None = Field(default=None, description="A release: its name or its SHA-256.")
    is_span: bool = Field(default=False, description="Withdraw a span: pair and interval, from start to end.")
    pair: str | None = Field(default=None, description="The pair of the span.")
    interval: str | None = Field(
        default=None, description="The interval of the span in minutes, or the wrong side of a cause."
    )
    start: str | None = Field(default=None, description="The start of the span, as an ISO date or time (UTC).")
    end: str | None = Field(default=None, description="The end of the span, in the same form, excluded.")
    source: str | None = Field(
        default=None, description="Withdraw only candles of this source: CSV, TRADES, RESAMPLED or OHLC."
    )


def _withdrawal_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the op, validated before the run exists as far as it can be without the stores."""
    given = {name: value for name, value in values.items() if value is not None}
    if "cause" not in given:
        withdrawal(**given)
    elif not given.get("reason", "").strip():
        raise InvalidRequest("the reason is empty; say why the candles are withdrawn")
    elif beside := sorted(name for name in given.keys() - {"reason", "cause", "interval", "file"} if given[name]):
        raise InvalidRequest(f"{beside[0]} cannot be given beside cause; interval or file name the side that is wrong")
    return given


@dg.op(config_schema=dict, out=dg.Out(dg.Nothing))
def withdraw_candles(context: dg.OpExecutionContext, stores: StoresOfRun) -> None:
    """Withdraw files or candles and what was derived from them, refill from finer candles, and report the series."""
    with explained():
        config = dict(context.op_config)
        run = begin(context)
        if (cause := config.pop("cause", None)) is None:
            what = withdrawal(**config)
        else:
            sides = {name: config.get(name) for name in ("interval", "file")}
            what = withdrawal_of(contradicted(stores, run_spec(), run.now), cause, config["reason"], **sides)
        done, changes = pipeline.resolve(stores, what, run)
        changes = pipeline.deliver(stores, changes, run)
        report(context, stores, run_spec(), changes, run)
    hand_over(done)
    outcome = {
        "candles_withdrawn": done.candles,
        "files_withdrawn": len(done.files),
        "gaps_left": len(done.gaps),
        **outcome_of_publication(changes.published),
        "errors": [],
        "notes": [*done.actions, *changes.published.failed][:NOTES],
    }
    conclude(context, stores, run, outcome)


@dg.job(
    name="resolve",
    config=mapping("withdraw_candles", ResolveConfig.to_fields_dict(), _withdrawal_config),
    executor_def=dg.in_process_executor,
    description="Withdraws a file, a release, a span or all that has one cause, and everything derived from it.",
)
def resolve_job() -> None:
    """Withdraw what is wrong; what nothing else answers for becomes a gap."""
    withdraw_candles()
