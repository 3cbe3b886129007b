from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.kraken.archive import ArchiveFile, Container
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.records import file_records
from kraken_pipeline.storage.records.file_records import ContainerRecord, FileRecord
from kraken_pipeline.storage.stores import Stores

ZIP = Container(Path("/drop/Kraken_OHLCVT_Q2_2023.zip"), (Path("/drop/Kraken_OHLCVT_Q2_2023.zip"),), None)


def loose(pair: str = "XBTUSD") -> ArchiveFile:
    path = Path(f"/drop/{pair}_60.csv")
    return ArchiveFile(path, None, Kind.OHLCVT, parse_pair(pair), Interval.H1, 100)


def member(pair: str = "XBTUSD") -> ArchiveFile:
    return ArchiveFile(ZIP.path, f"data/{pair}_60.csv", Kind.OHLCVT, parse_pair(pair), Interval.H1, 100, ZIP)


@pytest.fixture
def connection(stores: Stores) -> Iterator[sa.Connection]:
    with stores.catalog.write() as connection:
        yield connection


def enlist(connection: sa.Connection, *files: ArchiveFile, run_id: str = "one") -> list[int]:
    wanted = [(file, "ab" if file.container else None, None if file.container else "stamp") for file in files]
    ids = file_records.enlist(connection, wanted, run_id, now=1_000)
    return [ids[file.location] for file in files]


def records(connection: sa.Connection, file: ArchiveFile) -> list[FileRecord]:
    return file_records.by_location(connection, [file.location]).get(file.location, [])


def complete(connection: sa.Connection, file_id: int, **values: Any) -> None:
    file_records.finish(connection, [{"id": file_id, "status": FileStatus.COMPLETED, **values}])


def test_a_file_is_pending_from_the_moment_it_is_enlisted(connection: sa.Connection) -> None:
    first, second = enlist(connection, loose(), member())
    assert first != second
    (record,) = records(connection, loose())
    assert (record.id, record.status, record.run_id) == (first, FileStatus.PENDING, "one")
    assert (record.location, record.name, record.kind) == ("/drop/XBTUSD_60.csv", "XBTUSD_60.csv", "OHLCVT")
    assert (record.pair, record.interval, record.size) == ("XBTUSD", 60, 100)
    assert (record.stamp, record.container) == ("stamp", None)
    (record,) = records(connection, member())
    assert record.location == "/drop/Kraken_OHLCVT_Q2_2023.zip:data/XBTUSD_60.csv"
    assert record.name == "Kraken_OHLCVT_Q2_2023.zip:XBTUSD_60.csv"
    assert (record.stamp, record.container) == (None, "ab")


@pytest.mark.parametrize("status", [FileStatus.PENDING, FileStatus.INGESTING, FileStatus.FAILED])
def test_a_file_that_no_run_brought_to_a_good_end_keeps_its_record(
    connection: sa.Connection, status: FileStatus
) -> None:
    ids = enlist(connection, loose())
    file_records.finish(connection, [{"id": ids[0], "status": status, "reason": "killed"}])
    assert enlist(connection, loose(), run_id="two") == ids
    (record,) = records(connection, loose())
    assert (record.status, record.run_id, record.reason) == (FileStatus.PENDING, "two", None)


@pytest.mark.parametrize("status", file_records.DONE)
def test_a_file_that_was_brought_to_a_good_end_gets_a_new_record(connection: sa.Connection, status: FileStatus) -> None:
    (first,) = enlist(connection, loose())
    file_records.finish(connection, [{"id": first, "status": status}])
    (second,) = enlist(connection, loose(), run_id="two")
    assert [(record.id, record.status) for record in records(connection, loose())] == [
        (first, status),
        (second, FileStatus.PENDING),
    ]


def test_ids_come_back_with_their_own_files(connection: sa.Connection) -> None:
    files = [loose(f"COIN{number}USD") for number in range(1_200)]
    complete(connection, enlist(connection, files[7])[0])
    file_records.finish(connection, [{"id": enlist(connection, files[11])[0], "status": FileStatus.FAILED}])
    ids = enlist(connection, *files)
    assert len(set(ids)) == len(files)
    found = file_records.by_location(connection, [file.location for file in files])
    assert [found[file.location][-1].id for file in files] == ids
    assert len(found[files[7].location]) == 2


def test_more_files_than_one_statement_takes_are_found(
    connection: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_records, "_VARIABLES", 3)
    files = [loose(f"COIN{number}USD") for number in range(10)]
    for file_id in enlist(connection, *files):
        complete(connection, file_id)
    assert len(file_records.by_location(connection, [file.location for file in files])) == 10
    assert len(file_records.completed(connection, [file.pair.name for file in files])) == 10


def test_only_completed_files_of_the_wanted_pairs_are_listed(connection: sa.Connection) -> None:
    ids = enlist(connection, loose("XBTUSD"), loose("ADAEUR"), loose("ETHUSD"), member("XBTUSD"))
    complete(connection, ids[0], sha256="12", start=0, end=3600, first_time=0, last_time=0)
    complete(connection, ids[1])
    file_records.finish(connection, [{"id": ids[3], "status": FileStatus.SKIPPED}])
    (record,) = file_records.completed(connection, ["XBTUSD", "ETHUSD"])
    assert (record.id, record.sha256, record.start, record.end) == (ids[0], "12", 0, 3600)


def test_the_window_that_was_taken_has_no_limits_unless_it_was_given_some(connection: sa.Connection) -> None:
    whole, part = enlist(connection, loose("XBTUSD"), loose("ADAEUR"))
    complete(connection, whole)
    complete(connection, part, taken_start=10, taken_end=20)
    everything, some = (
        file_records.completed(connection, ["XBTUSD"])[0],
        file_records.completed(connection, ["ADAEUR"])[0],
    )
    assert some.window == Span(10, 20)
    assert everything.window.start < -(1 << 50)
    assert everything.window.end > 1 << 50


def test_statuses_are_counted_of_one_run_or_of_all(connection: sa.Connection) -> None:
    first, second = enlist(connection, loose("XBTUSD"), loose("ADAEUR"))
    file_records.set_status(connection, [first], FileStatus.INGESTING, "two", 1_001)
    complete(connection, second)
    assert file_records.counts(connection) == {"INGESTING": 1, "COMPLETED": 1}
    assert file_records.counts(connection, "two") == {"INGESTING": 1}
    assert file_records.counts(connection, "three") == {}


def test_a_container_that_cannot_be_opened_fails_on_one_record(connection: sa.Connection) -> None:
    first = file_records.fail_container(connection, "/drop/a.zip", "a.zip", "no ZIP", run_id="one", now=1)
    second = file_records.fail_container(connection, "/drop/a.zip", "a.zip", "cut short", run_id="two", now=2)
    other = file_records.fail_container(connection, "/drop/b.zip", "b.zip", "no ZIP", run_id="two", now=2)
    assert first == second != other
    rows = connection.execute(sa.select(schema.files.c.reason, schema.files.c.run_id).order_by(schema.files.c.id)).all()
    assert [tuple(row) for row in rows] == [("cut short", "two"), ("no ZIP", "two")]
    assert file_records.counts(connection) == {"FAILED": 2}
    assert file_records.by_location(connection, ["/drop/a.zip"]) == {}


def container(sha256: str, name: str) -> ContainerRecord:
    return ContainerRecord(sha256, name, "OHLCVT", 0, 86_400, "2023Q2", ("XBTUSD_60", "ADAEUR_60"))


def test_a_container_is_known_by_its_content_and_by_its_stamp(connection: sa.Connection) -> None:
    release = container("ab", "Kraken_OHLCVT_Q2_2023.zip")
    bundle = ContainerRecord("cd", "backup.zip", "", None, None, None, ())
    file_records.keep_container(connection, release, "stamp-1", 1)
    file_records.keep_container(connection, bundle, "stamp-2", 1)
    assert file_records.container_by_digest(connection, "ab") == release
    assert file_records.container_by_stamp(connection, "stamp-2") == bundle
    assert file_records.container_by_stamp(connection, "stamp-3") is None
    assert file_records.container_by_digest(connection, "ef") is None
    assert sorted(each.name for each in file_records.all_containers(connection)) == [release.name, bundle.name]


def test_the_same_content_under_another_name_takes_the_place_of_the_first(connection: sa.Connection) -> None:
    file_records.keep_container(connection, container("ab", "first.zip"), "stamp-1", 1)
    file_records.keep_container(connection, container("ab", "second.zip"), "stamp-2", 2)
    assert [each.name for each in file_records.all_containers(connection)] == ["second.zip"]
    assert file_records.container_by_stamp(connection, "stamp-1") is None
