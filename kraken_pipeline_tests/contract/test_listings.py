from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from kraken_pipeline.storage.catalog.schema import absences, listings
from kraken_pipeline.storage.exchange_state.listings import (
    DAY,
    ListingRecord,
    absences_of,
    listings_of,
    record_first_trade,
    record_listed,
)
from kraken_pipeline.storage.stores import Stores


@pytest.fixture
def connection(stores: Stores) -> Iterator[sa.Connection]:
    with stores.catalog.write() as connection:
        yield connection


def delist(connection: sa.Connection, *pairs: str, at: int) -> None:
    record_listed(connection, [], pairs, at - DAY)
    record_listed(connection, [], pairs, at)


def test_a_pair_is_listed_no_more_when_two_lists_a_day_apart_lack_it(connection: sa.Connection) -> None:
    assert record_listed(connection, ["XBTUSD"], ["LUNAUSD", "FTTEUR"], 7) == (["FTTEUR", "LUNAUSD"], [])
    assert record_listed(connection, ["XBTUSD"], ["LUNAUSD", "FTTEUR"], 7 + DAY - 1) == ([], [])
    assert (listings_of(connection), absences_of(connection)) == ({}, {"FTTEUR": 7, "LUNAUSD": 7})
    assert record_listed(connection, ["XBTUSD"], ["LUNAUSD", "FTTEUR"], 7 + DAY) == ([], ["FTTEUR", "LUNAUSD"])
    gone = ListingRecord(7 + DAY, None)
    assert (listings_of(connection), absences_of(connection)) == ({"FTTEUR": gone, "LUNAUSD": gone}, {})
    assert record_listed(connection, ["XBTUSD"], ["LUNAUSD", "FTTEUR"], 9 * DAY) == ([], []), "it is said once"


def test_a_pair_that_a_list_between_them_has_is_listed(connection: sa.Connection) -> None:
    record_listed(connection, [], ["LUNAUSD"], 7)
    assert record_listed(connection, ["LUNAUSD"], [], 8) == ([], [])
    assert record_listed(connection, [], ["LUNAUSD"], 7 + DAY) == (["LUNAUSD"], [])
    assert (listings_of(connection), absences_of(connection)) == ({}, {"LUNAUSD": 7 + DAY})


def test_a_pair_that_comes_back_is_listed_and_may_go_again(connection: sa.Connection) -> None:
    delist(connection, "LUNAUSD", at=7)
    assert record_listed(connection, ["LUNAUSD"], [], 8) == ([], [])
    assert listings_of(connection) == {"LUNAUSD": ListingRecord(None, None)}
    delist(connection, "LUNAUSD", at=2 * DAY)
    assert listings_of(connection) == {"LUNAUSD": ListingRecord(2 * DAY, None)}


def test_a_damaged_record_of_an_absence_says_nothing(connection: sa.Connection) -> None:
    record_listed(connection, [], ["LUNAUSD"], 5 * DAY)
    connection.execute(sa.update(absences).values(listed_at=7))
    assert record_listed(connection, [], ["LUNAUSD"], 5 * DAY + 1) == (["LUNAUSD"], [])
    assert absences_of(connection) == {"LUNAUSD": 5 * DAY + 1}


def test_the_first_trade_outlives_the_listing(connection: sa.Connection) -> None:
    record_first_trade(connection, "LUNAUSD", 1_200, 5)
    assert listings_of(connection) == {"LUNAUSD": ListingRecord(None, 1_200)}
    delist(connection, "LUNAUSD", at=7)
    assert listings_of(connection) == {"LUNAUSD": ListingRecord(7, 1_200)}
    record_first_trade(connection, "LUNAUSD", 600, 8)
    assert listings_of(connection) == {"LUNAUSD": ListingRecord(7, 600)}
    assert connection.scalar(sa.select(listings.c.seen_at)) == 8


def test_some_can_be_asked_for(connection: sa.Connection) -> None:
    delist(connection, "LUNAUSD", "FTTEUR", at=7)
    assert set(listings_of(connection, ["LUNAUSD", "XBTUSD"])) == {"LUNAUSD"}
    assert listings_of(connection, []) == {}


def test_nothing_listed_and_nothing_absent_is_nothing_new(connection: sa.Connection) -> None:
    assert record_listed(connection, [], [], 7) == ([], [])
    assert listings_of(connection) == {}
