"""Metrics of Dagster's storage: runs, jobs and daemons."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
from prometheus_client.metrics_core import Metric

from kraken_pipeline.orchestration.instance import state_of
from kraken_pipeline.orchestration.run_records import JOBS
from kraken_pipeline.workflow.metrics.family import gauge, gauges
from kraken_pipeline.workflow.metrics.page import MetricsPart
from kraken_pipeline.workflow.metrics.parts import QUICK_SECONDS


def part_of_runs(instance: dg.DagsterInstance) -> MetricsPart:
    """Return the part of the page about runs and daemons."""
    return MetricsPart("runs", lambda: run_metrics(instance), QUICK_SECONDS)


def run_metrics(instance: dg.DagsterInstance) -> Iterator[Metric]:
    """Yield the metrics of runs and daemons."""
    state = state_of(instance)
    yield gauge("kraken_runs_queued", "Runs that wait to be started.", state.queued + state.not_started)
    yield gauge("kraken_runs_in_progress", "Runs that Dagster has as started.", state.at_work)
    ends = {(job,): end for job in JOBS if (end := last_success(instance, job)) is not None}
    yield gauges("kraken_job_last_success_timestamp_seconds", "When a job last succeeded.", ("job",), ends)
    beats = {(name.lower(),): beat for name, beat in state.heartbeats.items()}
    text = "When a daemon of Dagster last reported."
    yield gauges("kraken_daemon_heartbeat_timestamp_seconds", text, ("daemon",), beats)


def last_success(instance: dg.DagsterInstance, job: str) -> float | None:
    """Return the end of a job's last successful run, in seconds since the epoch; None if there is none."""
    wanted = dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS])
    records = instance.get_run_records(wanted, limit=1)
    return records[0].end_time if records else None
