from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import dagster as dg
import pytest
import yaml  # type: ignore[import-untyped]

from kraken_pipeline.coverage.anchors import Depth, Spacing
from kraken_pipeline.definitions import bound_publish, build_definitions, defs
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.tier import TIERS
from kraken_pipeline.orchestration.jobs.prove_job import ProveConfig
from kraken_pipeline.orchestration.partitions import SERIES
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ("candles", "coverage", "gaps", "backfilled_candles", "completeness_report")

_WATCHED = """
import socket, sys
import dagster  # what it does for itself is not ours to judge
import alembic.command, polars, sqlalchemy.dialects.sqlite

def refuse(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    others = ("socket.connect", "sqlite3.connect", "os.mkdir", "os.rename", "os.remove", "subprocess.Popen")
    if writes or event in others:
        raise SystemExit(f"while definitions load: {event} {arguments}")

sys.addaudithook(refuse)
from kraken_pipeline.definitions import defs
assert defs.resolve_job_def("ingest").name == "ingest"
"""


def loaded(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    return subprocess.run(
        [sys.executable, "-c", _WATCHED], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.process
def test_they_load_without_touching_disk_or_network(tmp_path: Path) -> None:
    done = loaded(tmp_path, KRAKEN_PIPELINE_HOME="/nowhere/that/exists")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


SERVERS = {
    "KRAKEN_CATALOG_URL": "postgresql://me:hunter2@db.invalid/kraken",
    "KRAKEN_CACHE_URL": "redis://:hunter2@cache.invalid",
    "KRAKEN_QUESTDB_URL": "http://me:hunter2@questdb.invalid:9000",
    "KRAKEN_QUESTDB_PG_URL": "postgresql://me:hunter2@questdb.invalid:8812/qdb",
}


@pytest.mark.process
def test_so_they_do_with_servers_that_nobody_can_reach(tmp_path: Path) -> None:
    done = loaded(tmp_path, KRAKEN_PIPELINE_HOME="/nowhere/that/exists", **SERVERS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_what_belongs_to_questdb_is_there_where_questdb_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_questdb() -> set[str]:
        found = build_definitions()
        dg.Definitions.validate_loadable(found)
        repository = found.get_repository_def()
        assets = {key.path[-1] for key in found.resolve_asset_graph().get_all_asset_keys()}
        sensors = {each.name for each in repository.sensor_defs}
        return (assets | sensors | set(repository.job_names)) & {
            *("questdb_candles", "deliver_publications", "publish_candles")
        }

    assert of_questdb() == set()
    for name, url in SERVERS.items():
        monkeypatch.setenv(name, url)
    assert of_questdb() == {"questdb_candles", "deliver_publications", "publish_candles"}
    # Also where the module was imported before that.
    assert bound_publish().name == "publish_candles"


@pytest.mark.process
def test_a_wrong_setting_stops_the_loading_with_a_sentence_that_names_it(tmp_path: Path) -> None:
    done = loaded(tmp_path, KRAKEN_BACKFILL_CRON="often")
    assert done.returncode == 1
    assert "KRAKEN_BACKFILL_CRON='often'" in done.stderr.splitlines()[-1]


def test_every_way_of_loading_them_names_the_same_module_and_code_location() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    (served,) = yaml.safe_load((ROOT / "workspace.yaml").read_text(encoding="utf-8"))["load_from"]
    project = tools["dg"]["project"]
    named = {
        (tools["dagster"]["module_name"], tools["dagster"]["code_location_name"]),
        (project["code_location_target_module"], project["code_location_name"]),
        (served["python_module"]["module_name"], served["python_module"]["location_name"]),
    }
    assert named == {("kraken_pipeline.definitions", "kraken_pipeline")}


def test_they_are_valid() -> None:
    dg.Definitions.validate_loadable(defs)


def test_each_tier_has_its_five_assets_on_one_path() -> None:
    graph = defs.resolve_asset_graph()
    wanted = {dg.AssetKey([tier.value.lower(), name]) for tier in TIERS for name in ASSETS}
    assert {key for key in graph.get_all_asset_keys() if key.path[0] not in ("operations", "sources")} == wanted
    for key in wanted:
        node = graph.get(key)
        parents = {parent.path[-1] for parent in node.parent_keys}
        assert parents == {
            "candles": {"archives"},
            "coverage": {"candles"},
            "gaps": {"coverage"},
            "backfilled_candles": {"gaps", "rest_api"},
            "completeness_report": {"coverage", "gaps", "backfilled_candles"},
        }.get(key.path[-1])


def test_the_sources_of_the_graph_are_the_archives_and_the_rest_api_which_no_run_materialises() -> None:
    graph = defs.resolve_asset_graph()
    roots = {key for key in graph.get_all_asset_keys() if not graph.get(key).parent_keys}
    sources = {dg.AssetKey(["sources", name]) for name in ("archives", "rest_api")}
    assert roots == {*sources, dg.AssetKey(["operations", "health"])}
    assert {key for key in graph.get_all_asset_keys() if graph.get(key).is_external} == sources


def test_what_has_to_be_repeated_is_stale_after_a_while() -> None:
    graph = defs.resolve_asset_graph()
    policies = {key.path[-1]: graph.get(key).freshness_policy for key in graph.get_all_asset_keys()}
    assert {name for name, policy in policies.items() if policy is not None} == {
        "candles",
        "completeness_report",
        "health",
    }


def test_series_assets_are_partitioned_by_asset_and_interval_and_backfilled_in_one_run() -> None:
    graph = defs.resolve_asset_graph()
    for tier in TIERS:
        for name in ASSETS:
            node = graph.get(dg.AssetKey([tier.value.lower(), name]))
            if name == "completeness_report":
                assert node.partitions_def is None
                continue
            partitions = node.partitions_def
            assert isinstance(partitions, dg.MultiPartitionsDefinition)
            assert partitions == SERIES[tier]
            assert [dimension.name for dimension in partitions.partitions_defs] == ["asset", "interval"]
            intervals = partitions.get_partitions_def_for_dimension("interval")
            assert intervals.get_partition_keys() == [str(interval.value) for interval in Interval]
            assert node.backfill_policy == dg.BackfillPolicy.single_run()


def test_candles_and_gaps_are_checked() -> None:
    checks = {(key.asset_key.path[-1], key.name) for key in defs.resolve_asset_graph().asset_check_keys}
    assert {each for each in checks if each[0] != "health"} == {
        ("candles", "candle_rules"),
        ("candles", "files_readable"),
        ("candles", "lake_intact"),
        ("gaps", "few_gaps"),
        ("backfilled_candles", "intervals_agree"),
    }


def test_the_launchpad_shows_the_options_of_a_run_and_no_others() -> None:
    mapping = defs.resolve_job_def("ingest").config_mapping
    assert mapping is not None
    shown = mapping.config_schema.config_type
    assert isinstance(shown, dg.Shape)
    assert set(shown.fields) == set(RunSpec.model_fields)
    assert all(field.description for field in shown.fields.values())
    assert {name for name, field in shown.fields.items() if field.default_provided} == set(RunSpec.model_fields)


def test_every_option_that_the_launchpad_shows_has_a_type() -> None:
    for name in defs.get_repository_def().job_names:
        mapping = defs.resolve_job_def(name).config_mapping
        if mapping is None:
            continue
        shown = mapping.config_schema.config_type
        assert isinstance(shown, dg.Shape)
        for option, field in shown.fields.items():
            assert field.description, (name, option)
            assert not field.is_required
            if option not in ("start", "end"):  # text or seconds, for which Dagster has no type
                assert not (
                    {"Any"} & {field.config_type.key, *(inner.key for inner in field.config_type.type_iterator())}
                )


@pytest.mark.parametrize(
    "config",
    [
        {"intervals": "60,1440", "pairs": "XBTUSD, ETHUSD", "tier": "tier1", "start": "2023-07-01T12:00"},
        {"intervals": [60, 1440], "pairs": ["XBTUSD", "ETHUSD"], "end": "2023-10-01", "archive_dirs": ["/archives"]},
        dict.fromkeys(RunSpec.model_fields),
    ],
)
def test_lists_may_be_text_and_null_is_not_given(config: dict[str, object]) -> None:
    mapping = defs.resolve_job_def("ingest").config_mapping
    assert mapping is not None
    inner = mapping.resolve_from_unvalidated_config(config)["ops"]["look_at_folders"]["config"]
    assert run_spec(inner) == run_spec(config)


def test_the_choices_of_a_proof_are_those_that_the_command_knows() -> None:
    annotations = {name: get_args(field.annotation) for name, field in ProveConfig.model_fields.items()}
    assert annotations == {"every": tuple(Spacing), "depth": tuple(Depth)}


def test_the_folder_sensor_is_on_from_the_start() -> None:
    sensor = defs.resolve_sensor_def("drop_folder")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.job_name == "ingest"


def test_resources_can_be_overridden() -> None:
    twin = dg.ResourceDefinition.hardcoded_resource("twin")
    resources = build_definitions(resource_overrides={"stores": twin}).resources
    assert resources is not None
    assert resources["stores"] is twin
