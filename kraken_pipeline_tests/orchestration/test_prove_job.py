from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.orchestration.jobs.prove_job import prove_job
from kraken_pipeline.orchestration.progress import outcome_of
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.orchestration.conftest import definitions
from kraken_pipeline_tests.support.homes import SPRING, Shelf, run, settings_of


@pytest.fixture
def exchange() -> Iterator[DemoExchange]:
    with DemoExchange(SPRING) as found:
        yield found


@pytest.fixture
def asking(settings: Settings, exchange: DemoExchange, shelf: Shelf) -> Settings:
    """A home with a quarter of hours, and an exchange that can be asked."""
    with opened(settings) as stores:
        run(stores, shelf.q2, intervals="60", api_backfill=False)
    return settings_of(settings.home, kraken_api_url=exchange.url)


@pytest.mark.slow
def test_a_proof_is_a_run_that_says_what_it_counted_of_each_partition(
    instance: dg.DagsterInstance, asking: Settings, exchange: DemoExchange
) -> None:
    job = definitions(asking).resolve_job_def("prove")
    assert job.execute_in_process(instance=instance, run_config={"pairs": "XBTUSD", "dry_run": True}).success
    assert exchange.requests == ()
    done = job.execute_in_process(instance=instance, run_config={"pairs": "XBTUSD", "every": "3mo", "budget": 50})
    assert done.success
    stored = instance.get_run_by_id(done.run_id)
    assert stored is not None
    outcome = outcome_of(dict(stored.tags))
    assert (outcome["counts_proven"] > 0, outcome["counts_short"], outcome["errors"]) == (True, 0, [])
    assert outcome["requests"] == len(exchange.requests)
    filter_ = dg.AssetRecordsFilter(asset_key=dg.AssetKey(["tier1", "coverage"]), asset_partitions=["XBTUSD|60"])
    said = instance.fetch_materializations(filter_, limit=1).records[0].asset_materialization
    assert said is not None
    counted = said.metadata["counted"].value
    assert isinstance(counted, str)
    assert counted.startswith("counted: ")
    assert counted.endswith(" trades by ids and by candles")


@pytest.mark.parametrize("config", [{"every": "2mo"}, {"depth": "hour"}, {"tier": "TIER9"}])
def test_what_cannot_be_asked_for_is_refused_before_there_is_a_run(config: dict[str, str]) -> None:
    mapping = prove_job.config_mapping
    assert mapping is not None
    with pytest.raises((InvalidRequest, dg.DagsterConfigMappingFunctionError, dg.DagsterInvalidConfigError)):
        mapping.resolve_from_unvalidated_config(config)
