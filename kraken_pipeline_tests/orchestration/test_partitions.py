from __future__ import annotations

from collections.abc import Sequence

import dagster as dg
import pytest

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import Tier, load_tiers
from kraken_pipeline.orchestration.partitions import by_tier, key_of, register, series_of


def test_a_key_reads_asset_then_interval() -> None:
    assert str(key_of(Series("XBTUSD", Interval.H1))) == "XBTUSD|60"


@pytest.mark.parametrize("pair", ["XBTUSD", "AAPLxUSD", "1INCHUSD", "ETH2.SETH"])
@pytest.mark.parametrize("interval", list(Interval))
def test_a_key_tells_its_series(pair: str, interval: Interval) -> None:
    series = Series(pair, interval)
    assert series_of(str(key_of(series))) == series


def test_pairs_become_partitions_of_their_tier_once(instance: dg.DagsterInstance) -> None:
    pairs = [parse_pair(name) for name in ("XBTUSD", "ADAEUR", "ZORKUSD", "XBTUSD", "TRXUSD")]
    assert register(instance, load_tiers(), pairs) == ["ADAEUR", "XBTUSD", "TRXUSD", "ZORKUSD"]
    assert register(instance, load_tiers(), [*pairs, parse_pair("ETHUSD")]) == ["ETHUSD"]
    listed = {tier: list(instance.get_dynamic_partitions(f"{tier.value.lower()}_assets")) for tier in Tier}
    assert listed == {
        Tier.TIER1: ["ADAEUR", "XBTUSD", "ETHUSD"],
        Tier.TIER2: ["TRXUSD"],
        Tier.TIER3: [],
        Tier.TIER4: ["ZORKUSD"],
        Tier.ALL: [],
    }


def test_what_another_process_adds_in_the_same_moment_is_no_error_and_another_fault_is_one(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = instance.add_dynamic_partitions
    meanwhile = ["ADAEUR"]

    def hindered(partitions: str, names: Sequence[str]) -> None:
        """Fails once for each name that another process adds after Dagster has looked, as SQLite does."""
        if meanwhile:
            add(partitions, [meanwhile.pop()])
            raise RuntimeError("UNIQUE constraint failed: dynamic_partitions.partition")
        add(partitions, names)

    monkeypatch.setattr(instance, "add_dynamic_partitions", hindered)
    pairs = [parse_pair(name) for name in ("XBTUSD", "ADAEUR")]
    assert register(instance, load_tiers(), pairs) == ["ADAEUR", "XBTUSD"]
    assert instance.get_dynamic_partitions("tier1_assets") == ["ADAEUR", "XBTUSD"]

    def full(partitions: str, names: Sequence[str]) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(instance, "add_dynamic_partitions", full)
    with pytest.raises(OSError, match="the disk is full"):
        register(instance, load_tiers(), [parse_pair("ETHUSD")])


def test_tiers_group_pairs_by_name() -> None:
    pairs = [parse_pair(name) for name in ("XBTUSD", "ADAEUR", "ZORKUSD", "ADAUSD")]
    assert by_tier(load_tiers(), pairs) == {Tier.TIER1: ["ADAEUR", "ADAUSD", "XBTUSD"], Tier.TIER4: ["ZORKUSD"]}
