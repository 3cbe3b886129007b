"""What is particular to locks in PostgreSQL; what all locks do is in `contract`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.coverage.contradictions import Findings
from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.coverage.reconcile import reconcile as compare
from kraken_pipeline.errors import Busy, StoreUnavailable
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.lake.files import LakeFiles
from kraken_pipeline.storage.lake.staged import Staged, move_all
from kraken_pipeline.storage.lake.writer import CandleWriter
from kraken_pipeline.storage.locks.locks import LockKind, Locks
from kraken_pipeline.storage.postgresql import PoolSizes
from kraken_pipeline.storage.records import publications
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow import lake_write
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile import reconcile
from kraken_pipeline_tests.support.fixtures import need
from kraken_pipeline_tests.support.homes import NOW, START, evidence_of, lake_of, run, settings_of, write_lines
from kraken_pipeline_tests.support.samples import csv_row
from kraken_pipeline_tests.support.servers import PostgreSQL, wait_for

pytestmark = pytest.mark.slow

HOURS = Series("XBTUSD", Interval.H1)
DAYS = Series("XBTUSD", Interval.D1)
SOON = 10.0
LOST = "the locks were lost with the connection to the catalog's server: nothing was written; try again"


@pytest.fixture
def locks(postgresql_url: str) -> Iterator[Locks]:
    with closing(Catalog(postgresql_url).locks()) as found:
        yield found


def keys(server: PostgreSQL, url: str) -> set[tuple[int, int]]:
    """The advisory locks that are held in a database: the halves of their keys."""
    held = server.execute(
        "SELECT classid::bigint, objid::bigint FROM pg_locks JOIN pg_database ON oid = database "
        "WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND datname = current_database()",
        url,
    )
    return {(int(high), int(low)) for high, low in held}


def sessions(server: PostgreSQL, url: str) -> int:
    """How many connections others have to a database."""
    name = url.rpartition("/")[2]
    return int(server.execute(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'")[0][0])


def terminate(server: PostgreSQL, url: str) -> None:
    """Ends every connection to a database."""
    name = url.rpartition("/")[2]
    server.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'")


# --- keys


def test_the_keys_of_locks_are_those_of_every_version(
    locks: Locks, postgresql: PostgreSQL, postgresql_url: str
) -> None:
    """Programs of two versions exclude each other: a change of these numbers is a change that no two may bridge."""
    with locks.series([HOURS]):
        assert keys(postgresql, postgresql_url) == {(0x01_F7A072, 0xA20091E6)}
    with locks.run("run-1"):
        assert keys(postgresql, postgresql_url) == {(0x02_4E65D3, 0xFBE8AD65)}
    assert keys(postgresql, postgresql_url) == set()
    assert {kind.name: kind.value for kind in LockKind} == {
        "SERIES": 1,
        "RUNS": 2,
        "SLOTS": 3,
        "FETCHES": 4,
        "TABLES": 5,
        "MIGRATIONS": 6,
        "RECORDS": 7,
    }


def test_locks_of_two_databases_of_one_server_have_nothing_to_do_with_each_other(
    locks: Locks, postgresql: PostgreSQL
) -> None:
    url = postgresql.database()
    with closing(Catalog(url).locks()) as others, locks.series([HOURS]), locks.run("run-1"):
        assert not others.is_running("run-1")
        assert not others.is_any_running()
        with others.series([HOURS], timeout=0), others.run("run-1"):
            assert others.is_running("run-1")
        assert locks.is_running("run-1")
    postgresql.drop(url)


def test_a_foreign_advisory_lock_is_none_of_ours(locks: Locks, postgresql: PostgreSQL, postgresql_url: str) -> None:
    with closing(Catalog(postgresql_url)) as catalog, catalog.write() as connection:
        connection.exec_driver_sql("SELECT pg_advisory_lock(2, 7), pg_advisory_lock(33554432, 7)")
        assert not locks.is_any_running()
        connection.exec_driver_sql("SELECT pg_advisory_unlock_all()")


# --- connections


def test_a_lock_that_is_let_go_gives_its_connection_back_also_after_an_error(
    locks: Locks, postgresql: PostgreSQL, postgresql_url: str
) -> None:
    for _ in range(5):
        with locks.series([HOURS]), pytest.raises(Busy), locks.series([DAYS, HOURS], timeout=0):
            pass
        with pytest.raises(ZeroDivisionError), locks.run("run-1"), locks.fetch("one"):
            raise ZeroDivisionError
        assert keys(postgresql, postgresql_url) == set()
    assert sessions(postgresql, postgresql_url) == 2
    locks.close()
    wait_for(lambda: sessions(postgresql, postgresql_url) == 0, "the end of all connections", SOON)


def test_as_many_locks_can_be_held_as_are_needed_however_few_connections_are_kept(postgresql_url: str) -> None:
    """Whoever holds some and waits for the connection of the next, would wait for himself."""
    sizes = PoolSizes(kept=1, overflow=0, patience_seconds=0.2)
    with closing(Catalog(postgresql_url, sizes).locks()) as locks, ExitStack() as stack:
        for number in range(5):
            stack.enter_context(locks.fetch(f"trades.{number}"))
        assert not locks.is_any_running()


def test_many_series_are_one_connection(locks: Locks, postgresql: PostgreSQL, postgresql_url: str) -> None:
    many = [Series(f"COIN{number}USD", Interval.H1) for number in range(1_500)]
    with locks.series(many):
        assert len(keys(postgresql, postgresql_url)) == 1_500
        assert sessions(postgresql, postgresql_url) == 1
        locks.require(many)


def test_a_server_lets_go_within_a_minute_of_what_a_machine_held_that_is_gone(postgresql_url: str) -> None:
    with closing(Catalog(postgresql_url)) as catalog, catalog.read() as connection:
        idle, interval, count = (
            int(connection.exec_driver_sql(f"SHOW tcp_keepalives_{name}").scalar_one())
            for name in ("idle", "interval", "count")
        )
    assert 0 < idle + interval * count <= 60


def test_own_options_of_a_url_are_kept(postgresql_url: str) -> None:
    with closing(Catalog(f"{postgresql_url}?options=-c%20work_mem%3D5MB")) as catalog, catalog.read() as connection:
        assert connection.exec_driver_sql("SHOW work_mem").scalar_one() == "5MB"


# --- what is lost


def test_a_lock_whose_connection_was_ended_is_known_to_be_lost(
    locks: Locks, postgresql: PostgreSQL, postgresql_url: str
) -> None:
    with locks.series([HOURS]):
        locks.require([HOURS])
        terminate(postgresql, postgresql_url)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=f"^{LOST}$"):
                locks.require([HOURS])
        with locks.series([DAYS], timeout=0):
            locks.require([DAYS])
    with locks.series([HOURS], timeout=0):
        locks.require([HOURS])


def test_whoever_lost_a_lock_that_another_thread_of_the_process_then_took_is_told(
    locks: Locks, postgresql: PostgreSQL, postgresql_url: str
) -> None:
    with ExitStack() as first:
        first.enter_context(locks.series([HOURS]))
        terminate(postgresql, postgresql_url)
        with locks.series([HOURS], timeout=0):
            with pytest.raises(StoreUnavailable):
                locks.require([HOURS])
            first.close()
            locks.require([HOURS])


def test_whoever_waits_for_a_lock_when_the_server_goes_is_told(
    locks: Locks, postgresql: PostgreSQL, postgresql_url: str
) -> None:
    def wait() -> None:
        with locks.series([HOURS]):
            pass

    waiting = "FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with ThreadPoolExecutor(1) as pool, locks.series([HOURS]):
        other = pool.submit(wait)
        wait_for(lambda: postgresql.execute(f"SELECT count(*) {waiting}") == [(1,)], "somebody who waits")
        postgresql.execute(f"SELECT pg_terminate_backend(pid, 5000) {waiting}")
        with pytest.raises(StoreUnavailable, match="the catalog's server closed the connection"):
            other.result(timeout=SOON)


def test_a_run_whose_lock_was_lost_takes_it_again_with_its_next_series(
    locks: Locks, postgresql: PostgreSQL, postgresql_url: str
) -> None:
    """Otherwise it would look like one that was killed, and another would be started beside it."""
    with closing(Catalog(postgresql_url).locks()) as others:
        with locks.run("run-1"):
            terminate(postgresql, postgresql_url)
            assert not others.is_running("run-1")
            for _ in range(2):
                with locks.series([HOURS]):
                    assert others.is_running("run-1")
            assert others.is_running("run-1")
        assert not others.is_running("run-1")
        with locks.series([HOURS]):
            assert not others.is_any_running()


def staged(stores: Stores, folder: Path) -> Callable[[], LakeWrite]:
    """Candles that lie ready beside the lake, of a series that has others."""
    run(
        stores,
        write_lines(folder / "XBTUSD_60.csv", [csv_row(START).strip(), csv_row(START + 3_600).strip()]),
        resampling=False,
    )
    candles = stores.lake.read(HOURS)

    def stage() -> LakeWrite:
        writer = CandleWriter(stores.lake, HOURS, origin="a test", now=7)
        writer.add(candles.with_columns(time=candles["time"].dt.offset_by("1d")))
        return LakeWrite(writer.finish(), (Grant(Span(START + 86_400, START + 90_000), "CSV", 7),))

    return stage


@pytest.fixture
def stores(postgresql_url: str, tmp_path: Path) -> Iterator[Stores]:
    with opened(settings_of(tmp_path / "home", kraken_catalog_url=postgresql_url)) as found:
        yield found


def test_nothing_is_written_under_locks_that_were_lost(
    stores: Stores, postgresql: PostgreSQL, postgresql_url: str, tmp_path: Path
) -> None:
    stage = staged(stores, tmp_path)
    before = lake_of(stores), evidence_of(stores)
    with stores.locks.series([HOURS]):
        write = stage()
        terminate(postgresql, postgresql_url)
        with stores.locks.series([DAYS]), pytest.raises(StoreUnavailable, match=LOST):
            commit(stores, [write], 7)
    write.staged.discard()
    assert (lake_of(stores), evidence_of(stores)) == before
    with stores.locks.series([HOURS]):
        commit(stores, [stage()], 7)
    assert len(lake_of(stores)[HOURS]) == 4


def test_nothing_is_covered_under_locks_that_were_lost_once_the_candles_lay_in_the_lake(
    stores: Stores, postgresql: PostgreSQL, postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = staged(stores, tmp_path)
    before = evidence_of(stores)["coverage"]
    real = move_all

    def interrupted(files: LakeFiles, stages: Sequence[Staged]) -> None:
        real(files, stages)
        terminate(postgresql, postgresql_url)

    with stores.locks.series([HOURS]), monkeypatch.context() as patched:
        patched.setattr(lake_write, "move_all", interrupted)
        with pytest.raises(StoreUnavailable, match=LOST):
            commit(stores, [stage()], 7)
    assert evidence_of(stores)["coverage"] == before
    with stores.locks.series([HOURS]):
        commit(stores, [stage()], 7)
    assert evidence_of(stores)["coverage"] != before
    assert len(lake_of(stores)[HOURS]) == 4


def test_what_was_compared_under_locks_that_were_lost_is_compared_again(
    stores: Stores, postgresql: PostgreSQL, postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged(stores, tmp_path)
    real = compare

    def interrupted(*given: Any) -> Findings:
        found = real(*given)
        terminate(postgresql, postgresql_url)
        return found

    def waiting() -> tuple[set[str], set[str]]:
        with stores.catalog.read() as connection:
            return set(publications.marked(connection)), set(publications.to_search(connection))

    assert waiting() == ({"XBTUSD"}, set())
    with monkeypatch.context() as patched:
        patched.setattr(reconcile, "reconcile", interrupted)
        with pytest.raises(StoreUnavailable, match=LOST):
            reconcile.reconcile_changes(stores, ["XBTUSD"], RunContext("run-1", NOW))
    assert waiting() == ({"XBTUSD"}, set())
    assert reconcile.reconcile_changes(stores, ["XBTUSD"], RunContext("run-1", NOW)).pairs == ("XBTUSD",)
    assert waiting() == (set(), set())


def test_a_restart_of_the_server_loses_the_locks_and_hinders_nobody_after_it(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    need(PostgreSQL)
    with (
        PostgreSQL(tmp_path_factory.mktemp("own")) as server,
        opened(settings_of(tmp_path / "home", kraken_catalog_url=server.url)) as stores,
    ):
        stage = staged(stores, tmp_path)
        before = lake_of(stores)
        for interrupt in (server.restart, server.kill):
            with stores.locks.run("run-1"), stores.locks.series([HOURS]):
                write = stage()
                interrupt()
                server.start()
                with pytest.raises(StoreUnavailable, match=LOST):
                    commit(stores, [write], 7)
                write.staged.discard()
            assert not stores.locks.is_any_running()
            assert lake_of(stores) == before
        with stores.locks.series([HOURS], timeout=0):
            commit(stores, [stage()], 7)


def test_threads_that_hold_locks_share_no_connection(locks: Locks) -> None:
    inside = threading.Barrier(4)

    def work(number: int) -> None:
        with locks.series([Series(f"COIN{number}USD", Interval.H1)]):
            inside.wait(SOON)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
