from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from kraken_pipeline.market.listed_state import ListedState, PairChange, PairList
from kraken_pipeline.storage.catalog.schema import pair_changes, pair_lists
from kraken_pipeline.storage.exchange_state.pair_list_records import changes_of, is_news, lists_of, record_list
from kraken_pipeline.storage.stores import Stores

XBT = ListedState("XXBTZUSD", "XBTUSD", "XBT/USD", "XBT", "USD", "online", is_tokenized=False)
MATIC = ListedState("MATICUSD", "MATICUSD", "MATIC/USD", "MATIC", "USD", "online", is_tokenized=False)
POL = ListedState("POLUSD", "POLUSD", "POL/USD", "POL", "USD", "online", is_tokenized=False)
FIRST = {"XBTUSD": XBT, "MATICUSD": MATIC}


@pytest.fixture
def connection(stores: Stores) -> Iterator[sa.Connection]:
    with stores.catalog.write() as connection:
        yield connection


def test_of_the_first_list_every_pair_is_kept_as_new(connection: sa.Connection) -> None:
    assert is_news(connection, 7)
    told = [PairChange("MATICUSD", 7, None, MATIC), PairChange("XBTUSD", 7, None, XBT)]
    assert record_list(connection, FIRST, (), 7) == told
    assert changes_of(connection) == told
    assert lists_of(connection) == [PairList(7, 7, 2)]


def test_a_list_that_equals_the_last_one_only_moves_when_it_was_last_seen(connection: sa.Connection) -> None:
    record_list(connection, FIRST, (), 7)
    for moment in (8, 9, 100):
        assert record_list(connection, FIRST, (), moment) == []
    assert lists_of(connection) == [PairList(7, 100, 2)]
    assert len(changes_of(connection)) == 2
    assert not is_news(connection, 100)
    assert is_news(connection, 101)


def test_of_a_later_list_only_what_changed_is_kept(connection: sa.Connection) -> None:
    record_list(connection, FIRST, (), 7)
    halted = replace(XBT, status="cancel_only", wsname="BTC/USD")
    told = [
        PairChange("MATICUSD", 20, MATIC, None),
        PairChange("POLUSD", 20, None, POL),
        PairChange("XBTUSD", 20, XBT, halted),
    ]
    assert record_list(connection, {"XBTUSD": halted, "POLUSD": POL}, (), 20) == told
    assert changes_of(connection)[2:] == told
    assert lists_of(connection) == [PairList(7, 7, 2), PairList(20, 20, 2)]
    back = record_list(connection, {**FIRST, "POLUSD": POL}, (), 30)
    assert back == [PairChange("MATICUSD", 30, None, MATIC), PairChange("XBTUSD", 30, halted, XBT)]


@pytest.mark.parametrize("moment", [6, 7])
def test_a_list_that_is_not_newer_says_nothing(connection: sa.Connection, moment: int) -> None:
    record_list(connection, FIRST, (), 7)
    assert record_list(connection, {"XBTUSD": XBT}, (), moment) == []
    assert lists_of(connection) == [PairList(7, 7, 2)]
    assert len(changes_of(connection)) == 2


@pytest.mark.parametrize("name", ["XBTUSD", "XXBTZUSD"])
def test_a_pair_whose_entry_cannot_be_read_keeps_its_state(connection: sa.Connection, name: str) -> None:
    record_list(connection, FIRST, (), 7)
    assert record_list(connection, {"MATICUSD": MATIC}, {name}, 8) == []
    (change,) = record_list(connection, {"MATICUSD": MATIC}, (), 9)
    assert (change.pair, change.after) == ("XBTUSD", None)


def test_a_damaged_change_says_nothing_and_the_next_list_says_it_again(connection: sa.Connection) -> None:
    record_list(connection, FIRST, (), 7)
    is_one = pair_changes.c.pair == "MATICUSD"
    connection.execute(sa.update(pair_changes).where(is_one).values(after={**MATIC.as_json(), "status": "?"}))
    assert [change.pair for change in changes_of(connection)] == ["XBTUSD"]
    assert record_list(connection, FIRST, (), 8) == [PairChange("MATICUSD", 8, None, MATIC)]


def test_a_pair_is_compared_with_its_last_state_however_many_it_has_had(connection: sa.Connection) -> None:
    words = ["online", "cancel_only", "online", "post_only"]
    for moment, word in enumerate(words, start=7):
        record_list(connection, {"XBTUSD": replace(XBT, status=word)}, (), moment)
    assert record_list(connection, {"XBTUSD": replace(XBT, status="post_only")}, (), 20) == []
    (gone,) = record_list(connection, {}, (), 21)
    assert (gone.before, gone.after) == (replace(XBT, status="post_only"), None)
    assert record_list(connection, {}, (), 22) == []
    assert [change.listed_at for change in changes_of(connection)] == [7, 8, 9, 10, 21]


def test_a_damaged_list_says_nothing(connection: sa.Connection) -> None:
    record_list(connection, FIRST, (), 7)
    connection.execute(sa.update(pair_lists).values(seen_at=5))
    assert lists_of(connection) == []
    assert record_list(connection, FIRST, (), 8) == []
    assert lists_of(connection) == [PairList(8, 8, 2)]
