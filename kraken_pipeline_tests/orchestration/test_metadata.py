"""The numbers that the UI plots: one name, one type and one meaning, whoever materialises a partition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import pytest

from kraken_pipeline.orchestration import steps
from kraken_pipeline.orchestration.metadata import table
from kraken_pipeline.settings import Settings
from kraken_pipeline_tests.orchestration.conftest import definitions
from kraken_pipeline_tests.support.exchanges import stop_clock
from kraken_pipeline_tests.support.homes import NOW, START, Shelf

pytestmark = pytest.mark.slow

SERIES_ASSETS = ("candles", "coverage", "gaps", "backfilled_candles")
NUMBERS = {
    "candles": {
        "dagster/partition_row_count": int,
        "coverage_pct": float,
        "gaps": int,
        "rows_read": int,
        "rows_rejected": int,
        "candles_stored": int,
        "rows_per_second": int,
    },
    "backfilled_candles": {
        "dagster/partition_row_count": int,
        "coverage_pct": float,
        "gaps": int,
        "candles_stored": int,
        "planned_requests": int,
    },
    "coverage": {
        "coverage_pct": float,
        "expected_candles": int,
        "covered_candles": int,
        "candles": int,
        "quiet_candles": int,
    },
    "gaps": {"gaps": int, "missing_candles": int, "unfillable_gaps": int},
    "completeness_report": {
        "completeness_pct": float,
        "proven_pct": float,
        "verified_pct": float,
        "pairs": int,
        "candles": int,
        "gaps": int,
        "unfillable_gaps": int,
        "conflicts": int,
    },
}


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    stop_clock(monkeypatch, NOW, steps)


def ran(instance: dg.DagsterInstance, settings: Settings, job: str, **config: Any) -> None:
    found = definitions(settings).resolve_job_def(job)
    assert found.execute_in_process(instance=instance, run_config={"api_backfill": False, **config}).success


def materialise(instance: dg.DagsterInstance, settings: Settings, key: str) -> None:
    job = definitions(settings).resolve_implicit_global_asset_job_def()
    selection = [dg.AssetKey(["tier1", name]) for name in SERIES_ASSETS]
    assert job.execute_in_process(instance=instance, asset_selection=selection, partition_key=key).success


def history(
    instance: dg.DagsterInstance, name: str, partition: str | None = None
) -> Iterator[Mapping[str, dg.MetadataValue]]:
    """What each materialisation of an asset of TIER1 said, the newest first."""
    wanted = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey(["tier1", name]), asset_partitions=[partition] if partition else None
    )
    for record in instance.fetch_materializations(wanted, limit=1_000).records:
        assert record.asset_materialization is not None
        yield record.asset_materialization.metadata


def numbers(said: Mapping[str, dg.MetadataValue]) -> dict[str, int | float | None]:
    return {
        name: value.value
        for name, value in said.items()
        if isinstance(value, dg.IntMetadataValue | dg.FloatMetadataValue)
    }


def test_every_number_is_said_by_every_materialisation_with_the_same_type(
    instance: dg.DagsterInstance, settings: Settings, shelf: Shelf
) -> None:
    ran(instance, settings, "ingest", archive_dirs=[str(shelf.q1)], intervals="60,1440", start=START + 86_400)
    ran(instance, settings, "backfill_gaps_incremental", intervals="720")
    ran(instance, settings, "report_data_completeness")
    for key in ("XBTUSD|60", "XBTUSD|240", "XBTUSD|240"):
        materialise(instance, settings, key)
    ran(instance, settings, "ingest", archive_dirs=[str(shelf.q2)], intervals="60,240,1440")
    for name, types in NUMBERS.items():
        said = list(history(instance, name))
        assert len(said) > 2
        for each in said:
            assert {key: type(value) for key, value in numbers(each).items()} == types


def test_what_a_run_says_of_a_partition_does_not_depend_on_the_part_of_it_that_the_run_was_about(
    instance: dg.DagsterInstance, settings: Settings, shelf: Shelf
) -> None:
    ran(instance, settings, "ingest", archive_dirs=[str(shelf.q1)], intervals="60", start=START + 86_400, complete=True)
    by_job = {name: next(history(instance, name, "XBTUSD|60")) for name in ("candles", "coverage", "gaps")}
    materialise(instance, settings, "XBTUSD|60")
    by_asset = {name: next(history(instance, name, "XBTUSD|60")) for name in ("candles", "coverage", "gaps")}
    assert by_asset["coverage"] == by_job["coverage"]
    assert by_asset["gaps"] == by_job["gaps"]
    for name in ("dagster/partition_row_count", "coverage_pct", "gaps", "first_candle", "last_candle"):
        assert by_asset["candles"][name] == by_job["candles"][name]


def test_an_empty_table_is_not_shown(instance: dg.DagsterInstance, settings: Settings, shelf: Shelf) -> None:
    ran(instance, settings, "ingest", archive_dirs=[str(shelf.q1)], intervals="60")
    assert "files" in next(history(instance, "candles", "XBTUSD|60"))
    materialise(instance, settings, "XBTUSD|60")
    assert "files" not in next(history(instance, "candles", "XBTUSD|60"))


def test_a_long_table_is_cut_and_says_so() -> None:
    text = table(("number",), [(number,) for number in range(60)])
    assert text.splitlines()[:3] == ["| number |", "| --- |", "| 0 |"]
    assert text.endswith("| 49 |\n\n… and 10 more")
