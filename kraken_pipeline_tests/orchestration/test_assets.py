from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from kraken_pipeline.demo.archives import write_csv
from kraken_pipeline.demo.clock import FixedClock
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import Fault, Refusal
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.orchestration import steps
from kraken_pipeline.orchestration.assets.tier_assets import CODE_VERSION
from kraken_pipeline.orchestration.runs import statuses
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.locks.locks import FileLocks, Locks
from kraken_pipeline.storage.records.evidence_records import coverage_of
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.orchestration.conftest import definitions
from kraken_pipeline_tests.support.exchanges import (
    NOW,
    REACH,
    SUMMER,
    UNCONTRADICTED,
    asked,
    happened,
    stop_clock,
    write_home,
    write_hours,
)
from kraken_pipeline_tests.support.homes import (
    Q1,
    SPRING,
    START,
    Shelf,
    oracle,
    rows_of,
    run,
    settings_of,
    stored,
    write_lines,
)
from kraken_pipeline_tests.support.lakes import rewritten
from kraken_pipeline_tests.support.pages import parsed
from kraken_pipeline_tests.support.samples import csv_row

pytestmark = pytest.mark.slow

SERIES_ASSETS = ("candles", "coverage", "gaps", "backfilled_candles")
HOUR = 3_600


def register(instance: dg.DagsterInstance, *pairs: str, tier: str = "tier1") -> None:
    instance.add_dynamic_partitions(f"{tier}_assets", list(pairs))


def materialise(
    instance: dg.DagsterInstance,
    settings: Settings,
    names: Sequence[str] = SERIES_ASSETS,
    *,
    tier: str = "tier1",
    key: str | None = None,
    corners: tuple[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    """A run of assets, over one partition or the rectangle between two."""
    tags = {}
    if corners is not None:
        tags = {
            "dagster/asset_partition_range_start": corners[0],
            "dagster/asset_partition_range_end": corners[1],
        }
    return (
        definitions(settings)
        .resolve_implicit_global_asset_job_def()
        .execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey([tier, name]) for name in names],
            partition_key=key,
            tags=tags,
            raise_on_error=False,
        )
    )


def metadata_of(result: dg.ExecuteInProcessResult, tier: str = "tier1") -> dict[tuple[str, str | None], dict[str, Any]]:
    """Asset and partition → metadata as plain values."""
    found = {}
    for event in result.get_asset_materialization_events():
        materialisation = event.step_materialization_data.materialization
        assert materialisation.asset_key.path[0] == tier
        values = {name: value.value for name, value in materialisation.metadata.items()}
        found[materialisation.asset_key.path[-1], materialisation.partition] = values
    return found


def checks_of(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {each.check_name: each for each in result.get_asset_check_evaluations()}


def error_of(instance: dg.DagsterInstance, settings: Settings) -> str:
    return str(statuses(instance, Locks(FileLocks(settings.home / "locks")), 1)[0].error)


def test_one_partition_is_materialised_with_what_it_holds(
    instance: dg.DagsterInstance, home: Path, shelf: Shelf
) -> None:
    settings = settings_of(home, kraken_archive_dirs=(shelf.q1,))
    register(instance, "XBTUSD")
    result = materialise(instance, settings, key="XBTUSD|60")
    assert result.success
    found = metadata_of(result)
    assert set(found) == {(name, "XBTUSD|60") for name in SERIES_ASSETS}
    true = oracle("XBTUSD", 60, START, Q1.end)

    candles = found["candles", "XBTUSD|60"]
    assert candles["rows_read"] == candles["candles_stored"] == candles["dagster/partition_row_count"] == len(true)
    assert (candles["first_candle"], candles["last_candle"]) == ("2023-03-26T00:00:00Z", "2023-03-31T23:00:00Z")
    assert candles["rows_rejected"] == 0
    assert candles["rows_per_second"] > 0
    assert "| Kraken_OHLCVT_Q1_2023.zip:XBTUSD_60.csv | COMPLETED |" in candles["files"]

    coverage = found["coverage", "XBTUSD|60"]
    assert coverage["covered_candles"] == 6 * 24
    assert coverage["candles"] == len(true)
    assert coverage["quiet_candles"] == 6 * 24 - len(true)
    assert 0 < coverage["coverage_pct"] < 1
    assert "| 2023-01-01 | 2023-04-01 | CSV |" in coverage["ranges"]

    gaps = found["gaps", "XBTUSD|60"]
    assert (gaps["gaps"], gaps["unfillable_gaps"]) == (1, 0)
    assert gaps["missing_candles"] == coverage["expected_candles"] - coverage["covered_candles"]
    assert "Kraken_OHLCVT_Q2_2023.zip:XBTUSD_60.csv" in gaps["spans"]

    backfilled = found["backfilled_candles", "XBTUSD|60"]
    assert backfilled["candles_stored"] == 0
    assert backfilled["planned_requests"] > 0
    shared = ("dagster/partition_row_count", "coverage_pct", "gaps", "first_candle", "last_candle")
    assert [backfilled[name] for name in shared] == [candles[name] for name in shared]
    assert (candles["coverage_pct"], candles["gaps"]) == (coverage["coverage_pct"], gaps["gaps"])


def test_a_run_that_repeats_another_counts_as_new_data_of_the_same_code(
    instance: dg.DagsterInstance, home: Path, shelf: Shelf
) -> None:
    settings = settings_of(home, kraken_archive_dirs=(shelf.q1,))
    register(instance, "XBTUSD")
    versions = []
    for _ in range(2):
        result = materialise(instance, settings, key="XBTUSD|60")
        assert result.success
        for event in result.get_asset_materialization_events():
            made = event.step_materialization_data.materialization
            assert made.tags is not None
            assert made.tags["dagster/code_version"] == CODE_VERSION
            versions.append((made.asset_key, made.tags["dagster/data_version"]))
    assert len(set(versions)) == len(versions) == 2 * len(SERIES_ASSETS)


def test_coverage_that_does_not_follow_from_its_evidence_is_derived_again(
    instance: dg.DagsterInstance, home: Path, shelf: Shelf
) -> None:
    settings = settings_of(home, kraken_archive_dirs=(shelf.q1,))
    register(instance, "XBTUSD")
    assert materialise(instance, settings, key="XBTUSD|60").success
    with opened(settings) as stores:
        with stores.catalog.read() as connection:
            true = coverage_of(connection)
        with stores.catalog.write() as connection:
            connection.execute(schema.coverage.delete())
        for key, left in (("XBTUSD|1440", {}), ("XBTUSD|60", true)):
            result = materialise(instance, settings, ["coverage"], key=key)
            assert result.success
            with stores.catalog.read() as connection:
                assert coverage_of(connection) == left
    found = metadata_of(result)["coverage", "XBTUSD|60"]
    assert found["covered_candles"] == 6 * 24


def test_a_rectangle_is_one_run_and_every_partition_has_metadata_of_its_own(
    instance: dg.DagsterInstance, home: Path, shelf: Shelf
) -> None:
    settings = settings_of(home, kraken_archive_dirs=(shelf.q1,))
    register(instance, "ADAEUR", "XBTUSD")
    result = materialise(instance, settings, corners=("ADAEUR|60", "XBTUSD|1440"))
    assert result.success
    found = metadata_of(result)
    series = [Series(pair, Interval(minutes)) for pair in ("ADAEUR", "XBTUSD") for minutes in (60, 240, 720, 1440)]
    assert set(found) == {(name, f"{each.pair}|{each.interval.value}") for name in SERIES_ASSETS for each in series}
    for pair in ("ADAEUR", "XBTUSD"):
        for minutes in (60, 1440):
            count = len(oracle(pair, minutes, START, Q1.end))
            assert found["candles", f"{pair}|{minutes}"]["candles_stored"] == count
            assert found["coverage", f"{pair}|{minutes}"]["candles"] == count
        # No archive has these; they were resampled.
        four_hours = len(oracle(pair, 240, START, Q1.end))
        assert found["candles", f"{pair}|240"]["candles_stored"] == 0
        assert found["backfilled_candles", f"{pair}|240"]["candles_stored"] == four_hours
    checks = checks_of(result)
    assert {name: check.passed for name, check in checks.items()} == {
        "files_readable": True,
        "candle_rules": True,
        "lake_intact": True,
        "few_gaps": True,
        "intervals_agree": True,
    }
    with opened(settings) as stores:
        assert {each for each in stores.lake.series() if each.pair == "ZORKUSD"} == set()


def test_a_range_with_reversed_corners_fails_with_a_sentence(
    instance: dg.DagsterInstance, home: Path, shelf: Shelf
) -> None:
    settings = settings_of(home, kraken_archive_dirs=(shelf.q1,))
    register(instance, "ADAEUR", "XBTUSD")
    result = materialise(instance, settings, corners=("XBTUSD|1440", "ADAEUR|60"))
    assert not result.success
    sentence = "the run selects no partition; name the corners of its range in the order of the partitions"
    assert error_of(instance, settings).splitlines()[0] == sentence
    with opened(settings) as stores:
        assert stores.lake.series() == []


def test_a_partition_of_which_nothing_is_known_fails_with_a_sentence(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    register(instance, "ETHUSD")
    assert not materialise(instance, settings, key="ETHUSD|60").success
    first = error_of(instance, settings).splitlines()[0]
    assert first.startswith("ETHUSD is unknown: neither the lake nor an archive in the folders has it")


def test_the_same_partition_again_reads_nothing(instance: dg.DagsterInstance, home: Path, shelf: Shelf) -> None:
    settings = settings_of(home, kraken_archive_dirs=(shelf.q1,))
    register(instance, "XBTUSD")
    materialise(instance, settings, key="XBTUSD|60")
    found = metadata_of(materialise(instance, settings, key="XBTUSD|60"))["candles", "XBTUSD|60"]
    assert (found["rows_read"], found["candles_stored"], found["rows_per_second"]) == (0, 0, 0)
    assert "files" not in found
    assert found["dagster/partition_row_count"] == len(oracle("XBTUSD", 60, START, Q1.end))


def test_a_dropped_file_moves_and_a_broken_archive_is_on_record(
    instance: dg.DagsterInstance, settings: Settings, shelf: Shelf
) -> None:
    (settings.home / "drop").mkdir(exist_ok=True)
    shutil.copy(shelf.minutes, settings.home / "drop")
    (settings.home / "drop" / "Kraken_OHLCVT_Q2_2023.zip").write_bytes(b"broken")
    register(instance, "XBTUSD")
    result = materialise(instance, settings, ["candles"], key="XBTUSD|1")
    assert result.success
    check = checks_of(result)["files_readable"]
    assert not check.passed
    assert "| Kraken_OHLCVT_Q2_2023.zip | " in str(check.metadata["failed"].value)
    assert instance.get_runs()[0].tags["kraken/failed_files"] == "1"
    assert (settings.home / "drop" / "ingested" / "XBTUSD_1.csv").is_file()
    with opened(settings) as stores:
        records = {row[0]: row[1] for row in rows_of(stores, schema.files, "name", "status")}
    assert records == {"XBTUSD_1.csv": "COMPLETED", "Kraken_OHLCVT_Q2_2023.zip": "FAILED"}


def test_a_run_of_assets_tells_its_progress_as_an_ingest_does(
    instance: dg.DagsterInstance, home: Path, shelf: Shelf
) -> None:
    settings = settings_of(home, kraken_archive_dirs=(shelf.q1,))
    register(instance, "ADAEUR", "XBTUSD")
    materialise(instance, settings, corners=("ADAEUR|60", "XBTUSD|1440"))
    with opened(settings) as stores:
        total = sum(len(stored(stores, each.pair, each.interval)) for each in stores.lake.series())
    (status,) = statuses(instance, Locks(FileLocks(settings.home / "locks")), None)
    shown = status.as_json()
    assert (shown["job"], shown["tier"], shown["intervals"]) == ("assets", "TIER1", [60, 240, 720, 1440])
    assert (shown["files_total"], shown["files_ingested"]) == (4, 4)
    assert shown["candles_ingested"] == total


# --- through the API


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[DemoExchange]:
    stop_clock(monkeypatch, NOW, steps)
    with DemoExchange(SUMMER, clock=FixedClock(NOW)) as exchange:
        yield exchange


@pytest.fixture
def hours(home: Path, tmp_path: Path, exchange: DemoExchange) -> Settings:
    """A home with the hours of five days, which can ask the exchange."""
    write_home(home, write_hours(tmp_path / "archives"))
    return settings_of(home, kraken_api_url=exchange.url)


def test_gaps_are_filled_through_the_api_those_of_the_partitions_alone(
    instance: dg.DagsterInstance, hours: Settings, exchange: DemoExchange
) -> None:
    register(instance, "ADAEUR", "XBTUSD")
    result = materialise(instance, hours, ["gaps", "backfilled_candles"], key="XBTUSD|60")
    assert result.success
    assert asked(exchange) == ["AssetPairs", "AssetPairs", "OHLC XBTUSD 60", "SystemStatus"]
    newest = happened("XBTUSD", 60, REACH)
    told = metadata_of(result)["backfilled_candles", "XBTUSD|60"]
    assert told["candles_stored"] == len(newest)
    # What lies before is older than the lookback, and planned.
    assert told["planned_requests"] == 1
    assert "| TRADES | 1 |" in told["plan"]
    with opened(hours) as stores:
        assert stored(stores, "XBTUSD", 60)[-len(newest) :] == newest
    (status,) = statuses(instance, Locks(FileLocks(hours.home / "locks")), None)
    assert status.outcome == {"requests": 4, "fetches_failed": 0, **UNCONTRADICTED, "errors": [], "notes": []}
    assert (status.progress.requests_done, status.progress.candles) == (4, len(newest))


def test_a_rectangle_of_partitions_is_asked_for_with_one_request_a_pair(
    instance: dg.DagsterInstance, hours: Settings, exchange: DemoExchange
) -> None:
    register(instance, "ADAEUR", "XBTUSD")
    result = materialise(instance, hours, ["backfilled_candles"], corners=("ADAEUR|60", "XBTUSD|1440"))
    assert [each for each in asked(exchange) if "OHLC" in each] == ["OHLC ADAEUR 60", "OHLC XBTUSD 60"]
    found = metadata_of(result)
    for pair in ("ADAEUR", "XBTUSD"):
        for minutes in (60, 240, 720, 1440):
            newest = happened(pair, minutes, REACH)
            assert found["backfilled_candles", f"{pair}|{minutes}"]["candles_stored"] >= len(newest)
            with opened(hours) as stores:
                assert stored(stores, pair, minutes)[-len(newest) :] == newest


def test_a_fetch_that_fails_is_logged_and_shown_by_status_while_the_run_succeeds(
    instance: dg.DagsterInstance, hours: Settings, exchange: DemoExchange
) -> None:
    exchange.inject(Fault(Refusal("EQuery:Unknown asset pair"), endpoint="OHLC"))
    register(instance, "ADAEUR", "XBTUSD")
    result = materialise(instance, hours, ["backfilled_candles"], key="XBTUSD|60")
    assert result.success
    assert metadata_of(result)["backfilled_candles", "XBTUSD|60"]["candles_stored"] == 0
    error = error_of(instance, hours)
    assert error.startswith("OHLC of XBTUSD 60: Kraken refused OHLC pair=XBTUSD interval=60")
    assert error in [entry.user_message for entry in instance.all_logs(result.run_id)]


# --- checks


def broken_candle(settings: Settings) -> None:
    """Puts a candle into the lake whose high is below its low, by hand."""
    with opened(settings) as stores:
        wrong = pl.when(pl.int_range(pl.len()) == 5).then(pl.col("low") / 2).otherwise(pl.col("high"))
        series = Series("XBTUSD", Interval.H1)
        rewritten(stores.lake, series, lambda candles: candles.with_columns(wrong.alias("high")))


def test_a_broken_candle_in_the_lake_fails_the_check_of_the_candle_rules(
    instance: dg.DagsterInstance, home: Path, shelf: Shelf
) -> None:
    settings = settings_of(home, kraken_archive_dirs=(shelf.q1,))
    register(instance, "XBTUSD")
    assert checks_of(materialise(instance, settings, ["candles"], key="XBTUSD|60"))["candle_rules"].passed
    broken_candle(settings)
    check = checks_of(materialise(instance, settings, ["candles"], key="XBTUSD|60"))["candle_rules"]
    assert not check.passed
    assert check.asset_key == dg.AssetKey(["tier1", "candles"])
    assert "| XBTUSD 60 | low is above open, high or close | 1 |" in str(check.metadata["broken"].value)


@pytest.mark.parametrize(("limit", "passes"), [(2, False), (3, True)])
def test_more_gaps_than_the_settings_allow_fail_the_check_of_the_gaps(
    instance: dg.DagsterInstance, home: Path, tmp_path: Path, limit: int, passes: bool
) -> None:
    settings = settings_of(home, kraken_max_gaps=limit)
    with opened(settings) as stores:
        for number in range(3):
            rows = [csv_row(START + number * 100 * HOUR).strip(), csv_row(START + (number * 100 + 2) * HOUR).strip()]
            run(stores, write_lines(tmp_path / str(number) / "XBTUSD_60.csv", rows), resampling=False)
    register(instance, "XBTUSD")
    check = checks_of(materialise(instance, settings, ["coverage", "gaps"], key="XBTUSD|60"))["few_gaps"]
    assert check.passed is passes
    assert check.severity is dg.AssetCheckSeverity.WARN
    if not passes:
        assert "| XBTUSD 60 | 3 |" in str(check.metadata["series"].value)


def test_each_series_is_checked_against_the_other_intervals_of_its_pair(
    instance: dg.DagsterInstance, home: Path, tmp_path: Path
) -> None:
    spike = Defect(DefectKind.SPIKE, "XBTUSD", Interval.H4, START + DAY, release="XBTUSD_240.csv")
    for minutes in (60, 240):
        write_csv(tmp_path, SPRING, "XBTUSD", Interval(minutes), start=START, end=Q1.end, defects=[spike])
    register(instance, "XBTUSD")
    settings = settings_of(home, kraken_archive_dirs=(tmp_path,))
    result = materialise(instance, settings, corners=("XBTUSD|60", "XBTUSD|1440"))
    assert result.success
    evaluations = [each for each in result.get_asset_check_evaluations() if each.check_name == "intervals_agree"]
    assert {each.partition: each.passed for each in evaluations} == {
        "XBTUSD|60": False,
        "XBTUSD|240": False,
        "XBTUSD|720": True,
        "XBTUSD|1440": True,
        None: False,  # all of them
    }
    (spiked,) = (each for each in evaluations if each.partition == "XBTUSD|240")
    assert spiked.severity is dg.AssetCheckSeverity.ERROR
    told = {name: value.value for name, value in spiked.metadata.items()}
    assert (told["contradictions"], told["conflicts"]) == (1, 1)
    assert isinstance(told["proven_pct"], float)
    assert "60 and 240 count the same trades and differ in high" in str(told["listed"])


# --- the report


def test_the_report_is_an_asset_without_partitions(instance: dg.DagsterInstance, home: Path, shelf: Shelf) -> None:
    settings = settings_of(home)
    with opened(settings) as stores:
        run(stores, shelf.q1, shelf.q3, resampling=False)
    result = materialise(instance, settings, ["completeness_report"])
    found = metadata_of(result)["completeness_report", None]
    assert (found["pairs"], found["unfillable_gaps"]) == (2, 0)
    assert 0 < found["completeness_pct"] < 100
    assert found["recommendations"].startswith("- Fetch Kraken_OHLCVT_")
    assert "kraken-pipeline backfill --tier TIER1 --intervals 60,1440 --complete" in found["recommendations"]
    assert "| 60 |" in found["intervals"]
    path = home / "reports" / "completeness-tier1.html"
    assert Path(found["page"]) == path
    assert parsed(path.read_text(encoding="utf-8")).headline["complete"] == f"{found['completeness_pct']:.2f} %"
    assert found["picture"].startswith("![Shares of the states of TIER1 at ")
    assert len(found["picture"]) < 80_000  # it lies in Dagster's history


def test_the_report_of_an_empty_tier_says_how_to_begin(instance: dg.DagsterInstance, settings: Settings) -> None:
    found = metadata_of(materialise(instance, settings, ["completeness_report"], tier="tier3"), "tier3")
    assert found["completeness_report", None]["recommendations"].startswith("- Put Kraken's archives")
