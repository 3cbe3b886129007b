"""Metrics that take longer to measure: completeness as the report has it, and the lag of QuestDB."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from kraken_pipeline.coverage.completeness import by_tier
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.storage.questdb.client import open_questdb
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.metrics.family import gauge, gauges
from kraken_pipeline.workflow.report.report import make_report
from kraken_pipeline.workflow.run_spec import run_spec


def completeness(stores: Stores) -> Iterator[Metric]:
    """Yield the metrics of a report on everything; nothing for an empty lake."""
    now = int(time.time())
    try:
        report = make_report(stores, run_spec(), now)
    except InvalidRequest:
        return
    totals = {
        (str(tier).lower(), str(interval.value)): total
        for tier, intervals in by_tier(report.series).items()
        for interval, total in intervals.items()
        if total.expected
    }
    labels = ("tier", "interval")
    for name, text, part in (
        ("kraken_completeness_ratio", "The share of expected candles that are covered.", "covered"),
        ("kraken_reconciled_ratio", "The share of expected candles that are at least reconciled.", "proven"),
        ("kraken_verified_ratio", "The share of expected candles that are verified.", "verified"),
    ):
        values = {key: getattr(total, part) / total.expected for key, total in totals.items()}
        yield gauges(name, text, labels, values)
    yield gauge("kraken_conflicts", "Contradictions that no source settles.", report.conflict_count)
    yield gauge("kraken_completeness_timestamp_seconds", "When completeness was computed.", now)


def questdb(stores: Stores) -> Iterator[Metric]:
    """Yield the lag of each table of QuestDB; nothing without a QuestDB."""
    if not stores.settings.has_questdb:
        return
    with open_questdb(stores.settings) as client:
        lags = client.lags()
    lag = {(one.table,): one.transactions for one in lags}
    stopped = {(one.table,): float(one.error is not None) for one in lags}
    text = "Transactions that QuestDB has not applied to a table."
    yield gauges("kraken_questdb_lag_transactions", text, ("table",), lag)
    text = "Whether QuestDB has stopped applying transactions to a table."
    yield gauges("kraken_questdb_table_suspended", text, ("table",), stopped)
