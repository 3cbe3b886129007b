"""Jobs whose steps are groups of pairs or series, wherever KRAKEN_EXECUTOR distributes the steps of a run.

The first op deals the work out, an op for each group does that group, and the last op does what is left, together with
what crosses groups. In one process nothing is dealt out: the last op does everything, with processes of its own. What a
group does is on record when it ends, so that the same command goes on from there after a failure.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from kraken_pipeline.orchestration.delivery.starts import require_few_starts
from kraken_pipeline.orchestration.executors import executor_by_setting, require_same_code, steps_are_groups
from kraken_pipeline.orchestration.failures import explained
from kraken_pipeline.orchestration.resources import StoresOfRun
from kraken_pipeline.orchestration.steps import begin, begin_part
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.progress import DEALING, Progress, RunContext
from kraken_pipeline.workflow.run_spec import RunSpec

_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9_]")


@dataclass(frozen=True, slots=True)
class Dealt:
    """The work of a run, dealt out.

    Attributes:
        groups: The groups, each with the name of its first member.
        done: The results of the work that was done while it was dealt out, as if of a group.
    """

    groups: Sequence[tuple[str, Any]]
    done: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """The beginning of a run, for the steps after the first.

    Attributes:
        config: The config of the run.
        now: The time that the run uses as the present, in seconds since the epoch.
        progress: The progress at the end of the first step, with the totals of the work.
        done: The results of the first step; None where nothing is dealt out, so that the last step does everything.
    """

    config: Mapping[str, Any]
    now: int
    progress: Progress
    done: Sequence[Any] | None


@dataclass(frozen=True, slots=True)
class DealtGroup:
    """The work of one group.

    Attributes:
        start: The beginning of the run.
        name: The name of the first member.
        members: The files, pairs or series of the group.
    """

    start: Start
    name: str
    members: Any


@dataclass(frozen=True, slots=True)
class GroupedWork:
    """The work of a job in three functions, each of which gives an op its name and its description.

    Attributes:
        deal: Deals the work out, and expects the work of the run. It is called only where steps are groups.
        work: Does the work of a group, and returns its result. It may be repeated for the same group.
        finish: Does what is left, reports it, and concludes the run; it receives the results of the groups, or None
            where nothing was dealt out.
        spec: Returns the run spec in a config; None for a job without one.
        is_retried: Whether the first and the last op may be repeated after a passing error.
    """

    deal: Callable[[dg.OpExecutionContext, Stores, Mapping[str, Any], RunContext], Dealt]
    work: Callable[[Stores, Mapping[str, Any], Any, RunContext], Any]
    finish: Callable[[dg.OpExecutionContext, Stores, Mapping[str, Any], RunContext, list[Any] | None], None]
    spec: Callable[[Mapping[str, Any]], RunSpec] | None
    is_retried: bool


def key_of(number: int, name: str) -> str:
    """Return the mapping key of a group, by which the UI shows its step: its number, and the name of its first pair."""
    return f"{number:03d}_{_NOT_IN_KEYS.sub('_', name)}"


def job_of_groups(name: str, work: GroupedWork, *, config: dg.ConfigMapping, description: str) -> dg.JobDefinition:
    """Return a job whose steps are groups where KRAKEN_EXECUTOR distributes them.

    Args:
        name: The name of the job.
        work: Its work.
        config: Its config mapping, onto the op of `work.deal`.
        description: Its description.
    """
    first, of_group, last = _first(work), _of_group(work), _last(work)

    @dg.job(name=name, config=config, executor_def=executor_by_setting, description=description)
    def of_groups() -> None:
        start, groups = first()
        last(start, groups.map(of_group).collect())

    return of_groups


def _first(work: GroupedWork) -> dg.OpDefinition:
    @dg.op(
        name=_name(work.deal),
        description=work.deal.__doc__,
        config_schema=dict,
        out={"start": dg.Out(Start), "groups": dg.DynamicOut(DealtGroup)},
    )
    def deal(
        context: dg.OpExecutionContext, stores: StoresOfRun
    ) -> Iterator[dg.Output[Start] | dg.DynamicOutput[DealtGroup]]:
        config, dealt = context.op_config, Dealt(())
        is_dealt_out = steps_are_groups(stores.settings, context.job_name)
        with explained(retried=work.is_retried):
            require_same_code(context)
            run = begin(context, None if work.spec is None else work.spec(config))
            if is_dealt_out:
                run.report(phase=DEALING)
                dealt = work.deal(context, stores, config, run)
                run.report()
        start = Start(config, run.now, run.progress, dealt.done if is_dealt_out else None)
        for number, (first_member, members) in enumerate(dealt.groups, 1):
            key = key_of(number, first_member)
            yield dg.DynamicOutput(DealtGroup(start, first_member, members), mapping_key=key, output_name="groups")
        yield dg.Output(start, "start")

    return deal


def _of_group(work: GroupedWork) -> dg.OpDefinition:
    @dg.op(name=_name(work.work), description=work.work.__doc__, out=dg.Out(dg.Any))
    def of_group(context: dg.OpExecutionContext, stores: StoresOfRun, group: DealtGroup) -> Any:
        with explained(retried=True):
            require_same_code(context)
            require_few_starts(context, [group.name])
            part = begin_part(context, stores, group.start.now, phases=group.start.progress.work)
            result = work.work(part.stores, group.start.config, group.members, part.run)
            part.finish()
        return result

    return of_group


def _last(work: GroupedWork) -> dg.OpDefinition:
    @dg.op(name=_name(work.finish), description=work.finish.__doc__, out=dg.Out(dg.Nothing))
    def finish(context: dg.OpExecutionContext, stores: StoresOfRun, start: Start, results: list[Any]) -> None:
        with explained(retried=work.is_retried):
            require_same_code(context)
            require_few_starts(context, [_name(work.finish)])
            run = begin(context, now=start.now, progress=start.progress)
            found = None if start.done is None else [*start.done, *results]
            work.finish(context, stores, start.config, run, found)

    return finish


def _name(function: Callable[..., Any]) -> str:
    return function.__name__
