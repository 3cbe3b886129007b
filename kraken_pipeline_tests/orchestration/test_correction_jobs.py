"""The jobs `reconcile` and `resolve`: runs like any other, which report what they changed and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from kraken_pipeline.cli.commands import keep_commands
from kraken_pipeline.demo.archives import write_csv
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.orchestration import events
from kraken_pipeline.orchestration.jobs.correction_jobs import resolve_job
from kraken_pipeline.orchestration.progress import collecting, outcome_of
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.withdraw.resolve import Resolved
from kraken_pipeline_tests.orchestration.conftest import definitions
from kraken_pipeline_tests.support.homes import Q1, SPRING, START, covered, run
from kraken_pipeline_tests.support.shell import shell

pytestmark = pytest.mark.slow

SPIKE = Defect(DefectKind.SPIKE, "XBTUSD", Interval.H4, START + DAY)


@pytest.fixture
def spoilt(settings: Settings, tmp_path: Path) -> Settings:
    """A home with three intervals of a pair, of which one has a candle that the others contradict."""
    for interval in (Interval.H1, Interval.H4, Interval.D1):
        write_csv(tmp_path / "in", SPRING, "XBTUSD", interval, start=START, end=Q1.end, defects=[SPIKE])
    with opened(settings) as stores:
        run(stores, tmp_path / "in", intervals="60,240,1440", api_backfill=False)
    return settings


def ran(instance: dg.DagsterInstance, settings: Settings, job: str, **config: Any) -> tuple[Any, list[object]]:
    with collecting() as results:
        done = (
            definitions(settings)
            .resolve_job_def(job)
            .execute_in_process(instance=instance, run_config=config, raise_on_error=False)
        )
    return done, results


def reported(done: Any) -> tuple[set[tuple[str, str | None]], set[str]]:
    """The assets with their partitions that a run materialised, and the checks that it evaluated."""
    materialised = [
        event.step_materialization_data.materialization for event in done.all_events if event.is_step_materialization
    ]
    evaluated = {
        event.asset_check_evaluation_data.check_name
        for event in done.all_events
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
    }
    return {
        (each.asset_key.path[-1], None if each.partition is None else str(each.partition)) for each in materialised
    }, evaluated


def outcome(instance: dg.DagsterInstance, done: Any) -> dict[str, Any]:
    stored = instance.get_run_by_id(done.run_id)
    assert stored is not None
    return outcome_of(dict(stored.tags))


def test_a_reconciliation_reports_the_series_that_it_compared_and_reads_no_candle_for_the_rules(
    instance: dg.DagsterInstance, spoilt: Settings
) -> None:
    done, results = ran(instance, spoilt, "reconcile", full=True)
    assert done.success
    assert results == [], "the command reads the outcome, because the last step may be in another process"
    assert outcome(instance, done)["pairs_compared"] == 1
    materialised, evaluated = reported(done)
    assert {("coverage", f"XBTUSD|{minutes}") for minutes in (60, 240, 1440)} <= materialised
    assert ("completeness_report", None) in materialised
    assert not {asset for asset, _ in materialised} & {"candles", "backfilled_candles"}
    assert evaluated == {"intervals_agree", "few_gaps"}, "the rules pass only for candles that were examined"


def test_beyond_a_number_of_compared_series_their_tier_alone_is_reported(
    instance: dg.DagsterInstance, spoilt: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "FULL_REPORT_SERIES", 2)
    done, _ = ran(instance, spoilt, "reconcile", full=True)
    assert done.success
    assert reported(done) == ({("completeness_report", None)}, {"intervals_agree", "few_gaps"})


def test_a_withdrawal_reports_what_left_and_what_took_its_place(instance: dg.DagsterInstance, spoilt: Settings) -> None:
    done, results = ran(instance, spoilt, "resolve", file="XBTUSD_240.csv", reason="a spike")
    assert done.success
    (handed_over,) = results
    assert isinstance(handed_over, Resolved)
    assert outcome(instance, done)["candles_withdrawn"] == handed_over.candles > 0
    materialised, evaluated = reported(done)
    assert {("coverage", "XBTUSD|240"), ("backfilled_candles", "XBTUSD|240")} <= materialised
    assert "candle_rules" in evaluated
    with opened(spoilt) as stores:
        assert covered(stores, "XBTUSD", 240) != (), "its hours are there"


def test_a_withdrawal_of_what_is_not_there_changes_nothing_and_says_so(
    instance: dg.DagsterInstance, spoilt: Settings
) -> None:
    done, results = ran(instance, spoilt, "resolve", file="absent.csv", reason="a spike")
    assert (done.success, results) == (False, [])
    done, results = ran(instance, spoilt, "resolve", cause="spike-00000000", reason="a spike")
    assert (done.success, results) == (False, [])
    assert reported(done) == (set(), set())


@pytest.mark.parametrize(
    "config",
    [
        {"file": "a.csv"},
        {"cause": "era-1", "reason": " "},
        {"cause": "era-1", "reason": "why", "release": "a.zip"},
        {"file": "a.csv", "release": "a.zip", "reason": "why"},
        {"is_span": True, "reason": "why", "pair": "XBTUSD"},
        {"reason": "why"},
    ],
)
def test_a_withdrawal_that_names_too_little_or_too_much_is_refused_before_there_is_a_run(
    config: dict[str, Any],
) -> None:
    mapping = resolve_job.config_mapping
    assert mapping is not None
    with pytest.raises((InvalidRequest, dg.DagsterConfigMappingFunctionError)):
        mapping.resolve_from_unvalidated_config(config)


def test_a_reconcile_that_fails_says_why_and_lists_nothing(spoilt: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from kraken_pipeline.workflow import pipeline

    def failing(*_: Any, **__: Any) -> Any:
        raise InvalidRequest("the disk is gone: a test")

    monkeypatch.setattr(pipeline, "reconcile_changes", failing)
    said = shell(spoilt.home, "reconcile", "--full")
    assert (said.code, "the disk is gone: a test" in said.err) == (1, True)
    assert "Reconciled" not in said.out
    assert shell(spoilt.home, "reconcile", "--full", "--json").out.strip() == ""


def test_a_reconcile_with_nothing_to_compare_starts_no_run(spoilt: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_commands, "_reconciled", None)
    assert shell(spoilt.home, "reconcile", "--json").code == 0
