"""The demo exchange's replies beside recorded ones of Kraken: the same keys, the same types."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.listing import DAY, demo_listings
from kraken_pipeline.demo.world import World
from kraken_pipeline_tests.demo.asking import ask_for_reply

RECORDINGS = Path(__file__).resolve().parents[2].parent / "shared" / "kraken"
NOW = 1_762_820_224

pytestmark = [
    pytest.mark.real_files,
    pytest.mark.skipif(not RECORDINGS.is_dir(), reason="Kraken's recorded replies are not in ../shared/kraken"),
]


@pytest.fixture(scope="module")
def exchange() -> Iterator[DemoExchange]:
    with DemoExchange(World(3, demo_listings(NOW - 30 * DAY), NOW)) as running:
        yield running


def recorded(name: str) -> Any:
    return json.loads((RECORDINGS / f"rest_{name}.json").read_text(encoding="utf-8"))


def shape(value: Any) -> Any:
    """Keys and types; of lists, the shapes of what is in them."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], list):
        return {tuple(type(each).__name__ for each in row) for row in value}
    return type(value).__name__


def rows_of(reply: Any) -> list[list[Any]]:
    (rows,) = (value for key, value in reply["result"].items() if key != "last")
    assert isinstance(rows, list)
    return rows


@pytest.mark.parametrize("endpoint", ["Time", "SystemStatus"])
def test_time_and_status_look_like_the_recorded_ones(exchange: DemoExchange, endpoint: str) -> None:
    assert shape(ask_for_reply(exchange, endpoint)) == shape(recorded(endpoint))


@pytest.mark.parametrize(
    ("recording", "aclass", "theirs", "ours"),
    [
        ("AssetPairs", "currency", "XBTUSDT", "XXBTZUSD"),
        ("AssetPairs_tokenized", "tokenized_asset", "AAPLxUSD", "AAPLxUSD"),
    ],
)
def test_a_pairs_entry_looks_like_a_recorded_one(
    exchange: DemoExchange, recording: str, aclass: str, theirs: str, ours: str
) -> None:
    known = recorded(recording)["result"][theirs]
    made = ask_for_reply(exchange, "AssetPairs", aclass_base=aclass)["result"][ours]
    for fees in ("fees", "fees_maker"):
        # A number without a fraction is written as either type.
        assert {len(step) for step in known.pop(fees)} == {len(step) for step in made.pop(fees)}
    assert shape(made) == shape(known)
    assert list(made) == list(known)


def test_ohlc_looks_like_the_recorded_one(exchange: DemoExchange) -> None:
    known, made = recorded("OHLC_XBTUSDT_1"), ask_for_reply(exchange, "OHLC", pair="XBTUSD")
    assert shape(rows_of(made)) == shape(rows_of(known))
    assert shape(made["result"]["last"]) == shape(known["result"]["last"])
    for reply in (known, made):
        rows = rows_of(reply)
        assert len(rows) == 721
        assert reply["result"]["last"] == rows[-2][0]
        assert {len(text.split(".")[1]) for row in rows for text in row[1:6]} == {1}
        assert {len(row[6].split(".")[1]) for row in rows} == {8}
        quiet = [row for row in rows if row[7] == 0]
        assert {(row[5], row[6]) for row in quiet} == {("0.0", "0.00000000")}
        assert all(len(set(row[1:5])) == 1 for row in quiet)


def test_trades_look_like_the_recorded_ones(exchange: DemoExchange) -> None:
    known, made = recorded("Trades_XBTUSDT"), ask_for_reply(exchange, "Trades", pair="XBTUSD", since=0)
    assert shape(rows_of(made)) == shape(rows_of(known))
    for reply in (known, made):
        rows = rows_of(reply)
        assert len(rows) == 1_000
        assert {len(row[0].split(".")[1]) for row in rows} == {5}
        assert {len(row[1].split(".")[1]) for row in rows} == {8}
        assert int(reply["result"]["last"]) / 10**9 == rows[-1][2]
        assert [row[6] for row in rows] == list(range(rows[0][6], rows[0][6] + 1_000))


def test_trades_share_their_time_about_as_often_as_recorded_ones(exchange: DemoExchange) -> None:
    shares = []
    for reply in (recorded("Trades_XBTUSDT"), ask_for_reply(exchange, "Trades", pair="XBTUSD", since=0)):
        times = [row[2] for row in rows_of(reply)]
        shares.append(sum(one == next_one for one, next_one in itertools.pairwise(times)) / len(times))
    assert shares[0] == pytest.approx(shares[1], abs=0.1)
