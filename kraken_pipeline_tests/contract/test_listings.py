from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from kraken_pipeline.storage.listings import ListingRecord, listings_of, record_first_trade, record_listed
from kraken_pipeline.storage.schema import listings
from kraken_pipeline.storage.stores import Stores


@pytest.fixture
def connection(stores: Stores) -> Iterator[sa.Connection]:
    with stores.catalog.write() as connection:
        yield connection


def test_a_pair_that_is_found_absent_is_told_of_once(connection: sa.Connection) -> None:
    assert record_listed(connection, ["XBTUSD"], ["LUNAUSD", "FTTEUR"], 7) == ["FTTEUR", "LUNAUSD"]
    assert record_listed(connection, ["XBTUSD"], ["LUNAUSD", "FTTEUR"], 8) == []
    assert listings_of(connection) == {"FTTEUR": ListingRecord(7, None), "LUNAUSD": ListingRecord(7, None)}


def test_a_pair_that_comes_back_is_listed_and_may_go_again(connection: sa.Connection) -> None:
    record_listed(connection, [], ["LUNAUSD"], 7)
    assert record_listed(connection, ["LUNAUSD"], [], 8) == []
    assert listings_of(connection) == {"LUNAUSD": ListingRecord(None, None)}
    assert record_listed(connection, [], ["LUNAUSD"], 9) == ["LUNAUSD"]
    assert listings_of(connection) == {"LUNAUSD": ListingRecord(9, None)}


def test_the_first_trade_outlives_the_listing(connection: sa.Connection) -> None:
    record_first_trade(connection, "LUNAUSD", 1_200, 5)
    assert listings_of(connection) == {"LUNAUSD": ListingRecord(None, 1_200)}
    assert record_listed(connection, [], ["LUNAUSD"], 7) == ["LUNAUSD"]
    assert listings_of(connection) == {"LUNAUSD": ListingRecord(7, 1_200)}
    record_first_trade(connection, "LUNAUSD", 600, 8)
    assert listings_of(connection) == {"LUNAUSD": ListingRecord(7, 600)}
    assert connection.scalar(sa.select(listings.c.seen_at)) == 8


def test_some_can_be_asked_for(connection: sa.Connection) -> None:
    record_listed(connection, [], ["LUNAUSD", "FTTEUR"], 7)
    assert set(listings_of(connection, ["LUNAUSD", "XBTUSD"])) == {"LUNAUSD"}
    assert listings_of(connection, []) == {}


def test_nothing_listed_and_nothing_absent_is_nothing_new(connection: sa.Connection) -> None:
    assert record_listed(connection, [], [], 7) == []
    assert listings_of(connection) == {}
