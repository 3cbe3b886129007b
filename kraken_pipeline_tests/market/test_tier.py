from __future__ import annotations

from pathlib import Path

import pytest

from kraken_pipeline.errors import InvalidSettings
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.tier import TIERS, Tier, load_tiers

DEFAULTS = {
    Tier.TIER1: "XBT ETH XRP SOL LTC ADA XDG DOT LINK USDT USDC",
    Tier.TIER2: "AVAX BCH XLM TRX ATOM UNI XMR ETC ZEC SUI HBAR PEPE SHIB BNB TON NEAR TAO ONDO PAXG AAVE",
    Tier.TIER3: "ALGO FIL ICP INJ APT ARB OP POL CRV GRT LDO MKR SNX COMP SAND MANA XTZ BONK WIF TIA HYPE DAI",
}


def written(folder: Path, text: str) -> Path:
    path = folder / "tiers.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("quote", ["USD", "EUR"])
@pytest.mark.parametrize("tier", DEFAULTS)
def test_the_default_table_is_the_documented_one(tier: Tier, quote: str) -> None:
    table = load_tiers()
    assert {table.tier_of(parse_pair(f"{base}/{quote}")) for base in DEFAULTS[tier].split()} == {tier}


def test_the_default_table_names_nothing_else() -> None:
    assert set(load_tiers().tiers) == {base for bases in DEFAULTS.values() for base in bases.split()}


@pytest.mark.parametrize("name", ["DOGUSD", "AAPLxUSD", "XBTGBP", "ETHXBT", "FOOBARBAZ", "XBTUSDT"])
def test_every_other_pair_is_of_the_last_tier(name: str) -> None:
    assert load_tiers().tier_of(parse_pair(name)) is Tier.TIER4


def test_all_covers_every_tier_and_a_tier_covers_itself_alone() -> None:
    assert all(Tier.ALL.covers(tier) for tier in TIERS)
    assert [tier for tier in TIERS if Tier.TIER2.covers(tier)] == [Tier.TIER2]


def test_a_table_of_ones_own_takes_the_place_of_the_default(tmp_path: Path) -> None:
    table = load_tiers(written(tmp_path, 'quotes = ["BTC", "GBP"]\n[tiers]\nTIER2 = ["DOGE", "FOO"]\n'))
    assert table.tier_of(parse_pair("XDGXBT")) is Tier.TIER2
    assert table.tier_of(parse_pair("FOO/GBP")) is Tier.TIER2
    assert table.tier_of(parse_pair("XBTUSD")) is Tier.TIER4


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("quotes = [", "is not a table of tiers"),
        ('[tiers]\nTIER1 = ["XBT"]', "quotes"),
        ('quotes = ["USD"]', "tiers"),
        ('quotes = "USD"\n[tiers]\nTIER1 = ["XBT"]', "'USD' is not a list of assets"),
        ('quotes = ["USD"]\n[tiers]\nTIER1 = "XBT"', "'XBT' is not a list of assets"),
        ('quotes = ["USD"]\n[tiers]\nTIER1 = [1]', "is not a list of assets"),
        ('quotes = ["USD"]\n[tiers]\nTIER9 = ["XBT"]', "'TIER9' is not a valid Tier"),
        ('quotes = ["USD"]\n[tiers]\nALL = ["XBT"]', "ALL is not the tier of a pair"),
        ('quotes = ["USD"]\ntiers = 3', "is not a table of tiers"),
        ('quotes = ["USD"]\n[tiers]\nTIER1 = ["XBT"]\nTIER2 = ["BTC"]', "has XBT in two tiers"),
    ],
)
def test_a_wrong_table_is_refused_with_what_is_wrong(tmp_path: Path, text: str, what: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidSettings) as refusal:
        load_tiers(path)
    assert str(refusal.value).startswith(f"KRAKEN_TIERS_FILE: {path}")
    assert what in str(refusal.value)


def test_a_table_that_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "binary.toml", tmp_path / "absent.toml", tmp_path):
        with pytest.raises(InvalidSettings, match="KRAKEN_TIERS_FILE"):
            load_tiers(path)
