"""What the UI shows of an asset before anything was materialised."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from kraken_pipeline.definitions import build_definitions
from kraken_pipeline.market.candle import CANDLE_SCHEMA
from kraken_pipeline.market.tier import TIERS
from kraken_pipeline.orchestration.assets.sources import SOURCES
from kraken_pipeline.orchestration.labels import Step
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.questdb import tables as questdb_schema

COLUMNS = {
    "candles": CANDLE_SCHEMA.names(),
    "backfilled_candles": CANDLE_SCHEMA.names(),
    "coverage": schema.coverage.columns.keys(),
    "gaps": schema.gaps.columns.keys(),
    "questdb_candles": list(questdb_schema.COLUMNS),
}
STEPS = {
    "candles": "archives",
    "coverage": "evidence",
    "gaps": "evidence",
    "backfilled_candles": "filling",
    "questdb_candles": "publication",
    "completeness_report": "report",
}


@pytest.fixture
def specs(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], dg.AssetSpec]:
    """Every asset that a run can materialise: (tier, name) → what is said of it."""
    monkeypatch.setenv("KRAKEN_QUESTDB_URL", "http://questdb.invalid:9000")
    monkeypatch.setenv("KRAKEN_QUESTDB_PG_URL", "postgresql://questdb.invalid:8812/qdb")
    found = {(spec.key.path[0], spec.key.path[-1]): spec for spec in build_definitions().resolve_all_asset_specs()}
    for source in SOURCES:
        del found["sources", source.key.path[-1]]
    assert len(found) == len(TIERS) * len(STEPS) + 1
    return found


def test_each_says_in_three_sentences_what_it_holds_what_a_partition_is_and_where_it_lies(
    specs: dict[tuple[str, str], dg.AssetSpec],
) -> None:
    for spec in specs.values():
        _, partition, place = (spec.description or "").split(". ")
        word = "A partition is one pair at one interval" if spec.partitions_def else "It has no partitions"
        assert partition.startswith(word)
        assert any(word in place for word in ("lake", "catalog's table", "table of its interval", "home", "results")), (
            place
        )
        assert place.endswith(".")


def test_each_has_an_owner_and_at_most_three_kinds(specs: dict[tuple[str, str], dg.AssetSpec]) -> None:
    for spec in specs.values():
        assert list(spec.owners) == ["team:data"]
        assert 1 <= len(spec.kinds) <= 3


def test_a_source_has_an_owner_a_kind_and_a_description_that_names_its_setting() -> None:
    for source in SOURCES:
        name = source.key.path[-1]
        assert (source.key.path[0], source.group_name) == ("sources", f"source_{name}")
        assert list(source.owners) == ["team:data"]
        assert len(source.kinds) == 1
        assert "KRAKEN_" in (source.description or "")


def test_each_can_be_found_by_its_tier_and_by_the_store_that_it_lies_in(
    specs: dict[tuple[str, str], dg.AssetSpec],
) -> None:
    for (tier, name), spec in specs.items():
        own = {key: value for key, value in spec.tags.items() if key.startswith("kraken/")}
        layer = {
            "candles": "lake",
            "backfilled_candles": "lake",
            "coverage": "catalog",
            "gaps": "catalog",
            "questdb_candles": "questdb",
        }.get(name, "history")
        of_tier = {} if name == "health" else {"kraken/tier": tier}
        assert own == {"kraken/layer": layer, **of_tier}


def test_groups_follow_the_path_of_the_data_in_the_graph_and_in_a_list_by_name(
    specs: dict[tuple[str, str], dg.AssetSpec],
) -> None:
    assert [*Step] == sorted(Step)
    assert specs.pop(("operations", "health")).group_name == "operations"
    for (tier, name), spec in specs.items():
        assert spec.group_name == f"{tier}_{STEPS[name]}"
        # No group is behind another that it is before: the graph of collapsed groups has no circle.
        for dep in spec.deps:
            if dep.asset_key.path[0] == "sources":
                continue
            parent = specs[tier, dep.asset_key.path[-1]]
            assert str(parent.group_name) <= spec.group_name


def test_tables_show_every_column_of_their_schema_with_its_type_and_a_sentence(
    specs: dict[tuple[str, str], dg.AssetSpec],
) -> None:
    for (_, name), spec in specs.items():
        shown = spec.metadata.get("dagster/column_schema")
        assert (shown is not None) == (name in COLUMNS)
        if shown is not None:
            assert [column.name for column in shown.columns] == list(COLUMNS[name])
            assert all(column.type and (column.description or "").endswith(".") for column in shown.columns)
            assert [each.split("unique by ")[0] for each in shown.constraints.other] == [""]


def test_a_time_says_its_zone_and_a_number_of_seconds_its_beginning(
    specs: dict[tuple[str, str], dg.AssetSpec],
) -> None:
    candles = {each.name: each for each in specs["tier1", "candles"].metadata["dagster/column_schema"].columns}
    assert (candles["time"].type, candles["time"].description) == ("timestamp[us, UTC]", "The candle's start, UTC.")
    assert candles["source"].description == "The source of the candle: CSV, TRADES, RESAMPLED, OHLC."
    for name in ("coverage", "gaps"):
        for column in specs["tier1", name].metadata["dagster/column_schema"].columns:
            if column.name in ("start", "end") or column.name.endswith("_at"):
                assert "in seconds since 1970-01-01 UTC" in column.description


def test_each_leads_to_the_line_of_the_source_where_it_is_made(specs: dict[tuple[str, str], dg.AssetSpec]) -> None:
    for (_, name), spec in specs.items():
        (reference,) = spec.metadata["dagster/code_references"].code_references
        lines = Path(reference.file_path).read_text(encoding="utf-8").splitlines()[reference.line_number - 1 :]
        assert lines[0].lstrip().startswith("@")
        assert next(line.strip() for line in lines if "def " in line).startswith(f"def {name}(")
