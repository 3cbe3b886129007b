"""Two runs that put the same thing on record at the same moment leave what one after the other would."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.kraken.archive import ArchiveFile
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.exchange_state import listings
from kraken_pipeline.storage.records import dead_letters, file_records, gap_records
from kraken_pipeline.storage.records.file_records import ContainerRecord
from kraken_pipeline.storage.records.gap_records import GapRow
from kraken_pipeline.storage.stores import Stores

pytestmark = pytest.mark.slow

HOURS = Series("XBTUSD", Interval.H1)
FILE = ArchiveFile(Path("/drop/XBTUSD_60.csv"), None, Kind.OHLCVT, parse_pair("XBTUSD"), Interval.H1, 100)
A_WHILE = 0.3
"""Long enough for the second to do what it can before the first commits; if it is too short, nothing is found out."""

Work = Callable[[sa.Connection], object]


def overlap(stores: Stores, first: Work, second: Work) -> None:
    """Does the second while the first has done its work and not committed it."""

    def do_second() -> None:
        with stores.catalog.write() as connection:
            second(connection)

    with ThreadPoolExecutor(1) as pool:
        with stores.catalog.write() as connection:
            first(connection)
            other = pool.submit(do_second)
            wait([other], timeout=A_WHILE)
        other.result()


def enlist(run_id: str) -> Work:
    return lambda connection: file_records.enlist(connection, [(FILE, None, "stamp")], run_id, 7)


def statuses(stores: Stores) -> list[FileStatus]:
    with stores.catalog.read() as connection:
        return [each.status for each in file_records.by_location(connection, [FILE.location])[FILE.location]]


def test_a_file_that_two_find_is_on_record_once(stores: Stores) -> None:
    overlap(stores, enlist("one"), enlist("two"))
    assert statuses(stores) == [FileStatus.PENDING]


def test_a_file_that_is_being_completed_stays_completed(stores: Stores) -> None:
    with stores.catalog.write() as connection:
        ids = file_records.enlist(connection, [(FILE, None, "stamp")], "one", 7)
    done = {"id": ids[FILE.location], "status": FileStatus.COMPLETED}
    overlap(stores, lambda connection: file_records.finish(connection, [done]), enlist("two"))
    assert statuses(stores) == [FileStatus.COMPLETED, FileStatus.PENDING]


def test_a_container_that_two_cannot_open_is_on_record_once(stores: Stores) -> None:
    def fail(run_id: str) -> Work:
        given = {"run_id": run_id, "now": 7}
        return lambda connection: file_records.fail_container(connection, "/a.zip", "a.zip", "no ZIP", **given)  # type: ignore[arg-type]

    overlap(stores, fail("one"), fail("two"))
    with stores.catalog.read() as connection:
        assert file_records.counts(connection) == {"FAILED": 1}


def test_a_container_that_two_look_into_is_on_record_once(stores: Stores) -> None:
    record = ContainerRecord("ab", "first.zip", "OHLCVT", 0, 86_400, "2023Q2", ("XBTUSD_60",))

    def keep(connection: sa.Connection) -> None:
        file_records.keep_container(connection, record, "stamp", 7)

    overlap(stores, keep, keep)
    with stores.catalog.read() as connection:
        assert file_records.all_containers(connection) == [record]


def test_a_pair_that_two_find_absent_is_told_of_once(stores: Stores) -> None:
    told: list[str] = []

    def record(connection: sa.Connection) -> None:
        new, _ = listings.record_listed(connection, [], ["LUNAUSD"], 7)
        told.extend(new)

    overlap(stores, record, record)
    assert told == ["LUNAUSD"]


def test_a_first_trade_that_two_ask_for_is_on_record_once(stores: Stores) -> None:
    overlap(
        stores,
        lambda connection: listings.record_first_trade(connection, "XBTUSD", 1_200, 7),
        lambda connection: listings.record_first_trade(connection, "XBTUSD", 1_200, 8),
    )
    with stores.catalog.read() as connection:
        assert listings.listings_of(connection)["XBTUSD"].first_trade == 1_200


def test_a_gap_that_two_find_is_open_once(stores: Stores) -> None:
    gap = GapRow(HOURS, Span(0, 3_600), 1, 0, "ARCHIVE", None, GapStatus.DETECTED, 0, None, 7)

    def replace(connection: sa.Connection) -> None:
        gap_records.replace_open(connection, [HOURS], [gap])

    overlap(stores, replace, replace)
    with stores.catalog.read() as connection:
        assert gap_records.open_gaps(connection, None) == {HOURS: [gap]}


def test_an_operation_that_two_give_up_is_one_dead_letter(stores: Stores) -> None:
    def give_up(connection: sa.Connection) -> None:
        dead_letters.give_up(connection, HOURS, Span(0, 3_600), Route.OHLC, "time-out", run_id="one", now=7)

    overlap(stores, give_up, give_up)
    with stores.catalog.read() as connection:
        assert dead_letters.count(connection) == 1
