from __future__ import annotations

import sqlalchemy as sa

from kraken_pipeline.coverage.anchors import Anchor
from kraken_pipeline.coverage.density import Absence, AbsentIds, Density
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.storage.catalog.schema import absent_ids
from kraken_pipeline.storage.records.anchors import anchors_of, keep_anchors
from kraken_pipeline.storage.records.density_records import (
    absences_of,
    density_of,
    forget_absent,
    forget_answered,
    record_absent,
)
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline_tests.support.samples import at

HOLE = AbsentIds(101, 140, 1_000, 1_060)
HOUR = 3_600


def record(stores: Stores, absent: AbsentIds, run_id: str, now: int, pair: str = "XBTUSD") -> list[AbsentIds]:
    with stores.catalog.write() as connection:
        return record_absent(connection, pair, [absent], run_id, now)


def density(stores: Stores, pair: str = "XBTUSD") -> Density:
    with stores.catalog.read() as connection:
        return density_of(connection, pair)


def test_the_same_ids_absent_in_two_runs_an_hour_apart_do_not_exist(stores: Stores) -> None:
    assert record(stores, HOLE, "one", 5_000) == [HOLE]
    assert density(stores).sparse == ()
    assert record(stores, HOLE, "two", 5_000 + HOUR) == []
    assert density(stores).sparse == (HOLE,)
    assert density(stores, "ADAEUR").sparse == ()


def test_neither_one_run_nor_two_soon_after_each_other_nor_another_pair_prove_it(stores: Stores) -> None:
    record(stores, HOLE, "one", 5_000)
    assert record(stores, HOLE, "one", 5_000 + 2 * HOUR) == [HOLE]
    assert record(stores, HOLE, "two", 5_000 + HOUR - 1) == [HOLE]
    assert record(stores, HOLE, "two", 5_000 + 2 * HOUR, "ADAEUR") == [HOLE]
    assert record(stores, HOLE, "three", 5_000 + HOUR) == [], "the first of them counts, not the latest"


def test_of_ids_that_came_in_part_only_those_that_did_not_come_are_the_same(stores: Stores) -> None:
    record(stores, HOLE, "one", 5_000)
    rest = AbsentIds(110, 140, 1_020, 1_060)
    more = AbsentIds(110, 150, 1_020, 1_070)
    assert record(stores, more, "two", 5_000 + HOUR) == [more]
    assert record(stores, rest, "two", 5_000 + HOUR) == []
    assert density(stores).sparse == (rest,)


def test_what_was_given_in_the_meantime_is_forgotten_and_what_is_proven_is_not(stores: Stores) -> None:
    record(stores, HOLE, "one", 5_000)
    with stores.catalog.write() as connection:
        forget_answered(connection, "XBTUSD", (Span(960, 1_060),))
        assert len(absences_of(connection, "XBTUSD")) == 1, "not all of the time was answered for"
        forget_answered(connection, "XBTUSD", (Span(960, 1_080),))
        assert absences_of(connection, "XBTUSD") == []
    record(stores, HOLE, "one", 5_000)
    record(stores, HOLE, "two", 5_000 + HOUR)
    with stores.catalog.write() as connection:
        forget_answered(connection, "XBTUSD", (Span(0, 9_000),))
    assert density(stores).sparse == (HOLE,)


def test_what_was_confirmed_stays_so_whoever_misses_it_again_and_when(stores: Stores) -> None:
    record(stores, HOLE, "one", 5_000)
    record(stores, HOLE, "two", 5_000 + HOUR)
    assert record(stores, HOLE, "two", 5_000 + HOUR + 1) == []
    with stores.catalog.read() as connection:
        assert absences_of(connection, "XBTUSD") == [Absence(HOLE, "two", 5_000 + HOUR, 5_000 + HOUR)]


def test_each_gap_of_a_page_is_confirmed_by_itself(stores: Stores) -> None:
    odd = [AbsentIds(number, number, number, number + 1, 500) for number in range(1, 1_001, 2)]
    even = AbsentIds(500, 500, 500, 501)
    for run_id, now, left in (("one", 5_000, odd), ("two", 5_000 + HOUR, [even])):
        page = odd if run_id == "one" else sorted([*odd, even])
        with stores.catalog.write() as connection:
            assert record_absent(connection, "XBTUSD", page, run_id, now) == left, "another id is a trade"
    assert density(stores).sparse == tuple(odd)
    assert density(stores).holes(odd) == []


def test_what_the_exchange_gave_after_all_goes_with_the_anchors_that_lie_in_it(stores: Stores) -> None:
    record(stores, HOLE, "one", 5_000)
    with stores.catalog.write() as connection:
        keep_anchors(connection, "XBTUSD", [Anchor(moment, 141, 1_060, 5_000) for moment in (960, 1_020, 1_080)])
        forget_absent(connection, "XBTUSD", HOLE)
    with stores.catalog.read() as connection:
        assert absences_of(connection, "XBTUSD") == []
        assert list(anchors_of(connection, "XBTUSD")) == [960, 1_080]


def test_years_that_prove_has_tested_are_held_against_their_ids(stores: Stores) -> None:
    start, end = at("2019-01-01"), at("2020-01-01")
    with stores.catalog.write() as connection:
        dense = [Anchor(moment, 7, moment, end, 1_000, 1_000) for moment in (start, end)]
        keep_anchors(connection, "XBTUSD", dense)
        keep_anchors(connection, "ADAEUR", [dense[0], Anchor(end, 7, end, end, 1_000, 1_003)])
    assert density(stores).tested == (Span(start, end),)
    assert density(stores, "ADAEUR").tested == ()
    absent = AbsentIds(101, 101, at("2019-06-01"), at("2019-06-02"))
    record(stores, absent, "one", end)
    assert density(stores).holes([absent]) == [absent], "not settled yet"
    record(stores, absent, "two", end + HOUR)
    assert density(stores).tested == (), "one that is absent for good speaks against its year"


def test_a_damaged_record_proves_nothing(stores: Stores) -> None:
    record(stores, HOLE, "one", 5_000)
    record(stores, HOLE, "two", 5_000 + HOUR)
    with stores.catalog.write() as connection:
        connection.execute(sa.update(absent_ids).values(last=1_000_000))
    assert density(stores).sparse == ()
