"""Events stored in batches: Dagster's history is as if each had been logged by itself."""

# Dagster reads the annotation of an op's context as it is, so they are not postponed here.
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from kraken_pipeline.orchestration import steps
from kraken_pipeline.orchestration.event_batches import BATCH_EVENTS

pytestmark = pytest.mark.slow

KEYS = ("tier1/candles", "tier2/candles")
Event = dg.AssetMaterialization | dg.AssetCheckEvaluation


@pytest.fixture(params=["sqlite", "postgresql"])
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance that stores its history in a database."""
    overrides: dict[str, Any] = {"storage": {"sqlite": {"base_dir": str(tmp_path / "dagster")}}}
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_url").replace("postgresql://", "postgresql+psycopg2://")
        overrides = {"storage": {"postgres": {"postgres_url": url}}}
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster"), overrides=overrides) as instance:
        yield instance


def materialisations(count: int, key: str = KEYS[0]) -> list[dg.AssetMaterialization]:
    return [
        dg.AssetMaterialization(
            dg.AssetKey(key.split("/")),
            partition=dg.MultiPartitionKey({"asset": f"Q{number:04}USD", "interval": "60"}),
            metadata={"candles": number},
        )
        for number in range(count)
    ]


def logged(instance: dg.DagsterInstance, log: Callable[[dg.OpExecutionContext], None]) -> dg.ExecuteInProcessResult:
    @dg.op
    def reports(context: dg.OpExecutionContext) -> None:
        log(context)

    @dg.job
    def a_job() -> None:
        reports()

    return a_job.execute_in_process(instance=instance, raise_on_error=False)


def history(instance: dg.DagsterInstance, key: str) -> list[tuple[Any, ...]]:
    """What the instance knows of an asset: every event, in order, with its run, step, partition, metadata and tags."""
    asset = dg.AssetKey(key.split("/"))
    records = instance.fetch_materializations(asset, limit=10_000, ascending=True).records
    found = []
    for record in records:
        materialisation = record.asset_materialization
        assert materialisation is not None
        event = record.event_log_entry
        found.append(
            (
                event.step_key,
                event.job_name,
                record.partition_key,
                materialisation.metadata["candles"].value,
                sorted((materialisation.tags or {}).items()),
            )
        )
    return found


def state(instance: dg.DagsterInstance, key: str) -> tuple[Any, ...]:
    asset = dg.AssetKey(key.split("/"))
    last = instance.get_latest_materialization_event(asset)
    assert last is not None
    partitions = sorted(instance.get_materialized_partitions(asset))
    of_one = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=partitions[3:4])
    records = instance.fetch_materializations(of_one, limit=5).records
    return partitions, last.dagster_event and last.dagster_event.partition, [one.partition_key for one in records]


def one_by_one(events: Sequence[Event]) -> Callable[[dg.OpExecutionContext], None]:
    def log(context: dg.OpExecutionContext) -> None:
        for event in events:
            context.log_event(event)  # type: ignore[arg-type]

    return log


def test_a_batch_leaves_the_same_history_as_single_events(recorded: dg.DagsterInstance) -> None:
    some = [*materialisations(20), *materialisations(BATCH_EVENTS + 9, KEYS[1])]
    # The same events under other keys, one by one, to compare with.
    others = [
        dg.AssetMaterialization(
            dg.AssetKey(["single", *event.asset_key.path]), partition=event.partition, metadata=dict(event.metadata)
        )
        for event in some
    ]
    assert logged(recorded, lambda context: steps.log_events(context, some)).success
    assert logged(recorded, one_by_one(others)).success
    for key in KEYS:
        assert history(recorded, key) == history(recorded, f"single/{key}")
        assert state(recorded, key) == state(recorded, f"single/{key}")
    assert len(history(recorded, KEYS[1])) == BATCH_EVENTS + 9


def test_what_was_made_before_an_error_is_stored(recorded: dg.DagsterInstance) -> None:
    def failing() -> Iterator[Event]:
        yield from materialisations(12)
        raise ValueError("no more")

    assert not logged(recorded, lambda context: steps.log_events(context, failing())).success
    assert len(history(recorded, KEYS[0])) == 12


def test_a_batch_that_fails_is_logged_one_by_one(recorded: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise OSError("the history is away")

    monkeypatch.setattr(steps, "store_batch", failing)
    assert logged(recorded, lambda context: steps.log_events(context, materialisations(12))).success
    assert len(history(recorded, KEYS[0])) == 12


def test_a_few_events_are_logged_by_dagster_itself(recorded: dg.DagsterInstance) -> None:
    result = logged(recorded, lambda context: steps.log_events(context, materialisations(3)))
    assert len(result.get_asset_materialization_events()) == 3
    assert len(history(recorded, KEYS[0])) == 3


def evaluations(count: int, key: str, *, failing: int = 0) -> list[dg.AssetCheckEvaluation]:
    """Evaluations of partitions, the first of which failed, and one of the whole asset in the end."""
    partitions = [f"Q{number:04}USD|60" for number in range(count)]
    return [
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(key.split("/")),
            check_name="agrees",
            passed=number >= failing,
            metadata={"number": number},
            severity=dg.AssetCheckSeverity.WARN,
            partition=partition,
        )
        for number, partition in enumerate([*partitions, None])
    ]


def results(instance: dg.DagsterInstance, key: str) -> list[tuple[Any, ...]]:
    """What the instance knows of a check, newest first: its results, each with its metadata, step and message."""
    check = dg.AssetCheckKey(dg.AssetKey(key.split("/")), "agrees")
    found = []
    for record in instance.event_log_storage.get_asset_check_execution_history(check, limit=10_000):
        event = record.event
        assert event is not None
        assert event.dagster_event is not None
        assert event.dagster_event.message is not None
        evaluation = event.dagster_event.asset_check_evaluation_data
        found.append(
            (
                record.partition,
                record.status,
                evaluation.passed,
                evaluation.metadata,
                evaluation.severity,
                event.step_key,
                event.dagster_event.message.replace("single/", "").replace("single", ""),
            )
        )
    return found


def test_a_batch_of_evaluations_leaves_the_same_history_as_single_ones(recorded: dg.DagsterInstance) -> None:
    count = BATCH_EVENTS + 20
    assert logged(recorded, lambda context: steps.log_events(context, evaluations(count, KEYS[0], failing=3))).success
    single = evaluations(count, f"single/{KEYS[0]}", failing=3)
    assert logged(recorded, one_by_one(single)).success
    found = results(recorded, KEYS[0])
    assert len(found) == count + 1
    assert found == results(recorded, f"single/{KEYS[0]}")
    assert found[0][0] is None  # the UI shows the last one
    check = dg.AssetCheckKey(dg.AssetKey(KEYS[0].split("/")), "agrees")
    latest = recorded.event_log_storage.get_latest_asset_check_execution_by_key([check])[check]
    assert latest.partition is None
    run = recorded.get_runs()[1]
    assert len(recorded.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)) == count + 1


def test_an_evaluation_that_a_run_repeats_replaces_its_own(recorded: dg.DagsterInstance) -> None:
    def twice(context: dg.OpExecutionContext) -> None:
        steps.log_events(context, evaluations(10, KEYS[0], failing=10))
        steps.log_events(context, evaluations(12, KEYS[0]))

    assert logged(recorded, twice).success
    found = results(recorded, KEYS[0])
    assert len(found) == 13
    assert all(passed for _, _, passed, *_ in found)
