"""Materialisations stored in batches: Dagster's history is as if each had been logged by itself."""

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


def one_by_one(events: Sequence[dg.AssetMaterialization]) -> Callable[[dg.OpExecutionContext], None]:
    def log(context: dg.OpExecutionContext) -> None:
        for event in events:
            context.log_event(event)

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
