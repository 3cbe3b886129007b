"""A catalog on PostgreSQL: its pool, its patience, and what it says when the server is not there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from kraken_pipeline.errors import StoreError, StoreUnavailable
from kraken_pipeline.storage import stores
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.database import Catalog, new_catalog, open_catalog
from kraken_pipeline.storage.pools import PoolStats
from kraken_pipeline.storage.postgresql import PoolSizes
from kraken_pipeline_tests.support.databases import copy_of_template
from kraken_pipeline_tests.support.fixtures import need
from kraken_pipeline_tests.support.homes import settings_of
from kraken_pipeline_tests.support.servers import HOST, Port, PostgreSQL, wait_for

pytestmark = pytest.mark.servers

SMALL = PoolSizes(kept=2, overflow=1, patience_seconds=0.3)
PATIENT = PoolSizes(kept=2, overflow=1, patience_seconds=60.0)
LISTING = sa.insert(schema.listings)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """A server of these tests alone, for them to stop."""
    need(PostgreSQL)
    with PostgreSQL(tmp_path_factory.mktemp("own")) as server:
        yield server


@pytest.fixture
def url(own: PostgreSQL) -> str:
    """A catalog without records."""
    own.start()
    return copy_of_template(own)


def opened(url: str, sizes: PoolSizes) -> closing[Catalog]:
    return closing(open_catalog(url, sizes))


def add(catalog: Catalog, pair: str) -> None:
    with catalog.write() as connection:
        connection.execute(LISTING, {"pair": pair, "seen_at": 7, "checksum": 0})


def pairs(catalog: Catalog) -> list[str]:
    with catalog.read() as connection:
        return sorted(connection.scalars(sa.select(schema.listings.c.pair)))


def session(catalog: Catalog) -> int:
    """The server's number of the connection that it gives now."""
    with catalog.read() as connection:
        return int(connection.scalar(sa.select(sa.func.pg_backend_pid())) or 0)


def end_sessions(server: PostgreSQL, url: str) -> None:
    name = url.rpartition("/")[2]
    server.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'")


# --- the pool


def test_two_connections_are_there_from_the_start(url: str) -> None:
    with opened(url, PoolSizes()) as catalog:
        assert catalog.statistics == PoolStats(size=2, in_use=0, idle=2, overflow=0, waiting=0, limit=30, peak=2)


def test_statistics_say_who_has_connections_and_who_waits(url: str) -> None:
    with opened(url, PATIENT) as catalog, ThreadPoolExecutor(1) as pool:
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(catalog.read())
            assert catalog.statistics == PoolStats(size=2, in_use=2, idle=0, overflow=0, waiting=0, limit=3, peak=2)
            stack.enter_context(catalog.read())
            assert catalog.statistics == PoolStats(size=3, in_use=3, idle=0, overflow=1, waiting=0, limit=3, peak=3)
            waiting = pool.submit(pairs, catalog)
            wait_for(lambda: catalog.statistics is not None and catalog.statistics.waiting == 1, "one who waits")
        assert waiting.result() == []
        assert catalog.statistics == PoolStats(size=2, in_use=0, idle=2, overflow=0, waiting=0, limit=3, peak=3)


def test_who_gets_no_connection_in_time_is_told_which_setting_to_raise(url: str) -> None:
    with opened(url, SMALL) as catalog, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(catalog.read())
        with pytest.raises(StoreUnavailable) as refusal:
            pairs(catalog)
        assert str(refusal.value) == (
            "all 3 connections to the catalog's server have been in use for 0.3 s; see KRAKEN_CATALOG_POOL"
        )
        assert catalog.statistics is not None
        assert catalog.statistics.waiting == 0


def test_settings_say_how_connections_are_kept(url: str, tmp_path: Path) -> None:
    given = {"kraken_catalog_pool": 3, "kraken_catalog_overflow": 4, "kraken_catalog_url": url}
    with stores.opened(settings_of(tmp_path / "home", **given)) as found:
        assert found.catalog.statistics is not None
        assert found.catalog.statistics.limit == 7


def test_a_connection_is_used_again_until_it_is_old(url: str) -> None:
    with opened(url, PoolSizes(kept=1, overflow=0)) as catalog:
        assert len({session(catalog) for _ in range(3)}) == 1
    with opened(url, PoolSizes(kept=1, overflow=0, recycle_seconds=1e-9)) as catalog:
        assert len({session(catalog) for _ in range(3)}) == 3


def test_a_catalog_that_is_closed_leaves_no_connection(own: PostgreSQL, url: str) -> None:
    name = url.rpartition("/")[2]
    left = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
    with opened(url, PoolSizes()) as catalog:
        add(catalog, "XBTUSD")
        assert own.execute(left) == [(2,)]
    wait_for(lambda: own.execute(left) == [(0,)], "the end of its connections")


def test_sqlite_has_no_pool_to_tell_of(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path / 'catalog.sqlite'}", PoolSizes()) as catalog:
        assert catalog.statistics is None


# --- transactions


def test_a_reader_cannot_write_and_leaves_the_connection_as_it_was(url: str) -> None:
    with opened(url, PoolSizes(kept=1, overflow=0)) as catalog:
        before = session(catalog)
        with pytest.raises(sa.exc.InternalError, match="read-only transaction"), catalog.read() as connection:
            connection.execute(LISTING, {"pair": "XBTUSD", "seen_at": 7, "checksum": 0})
        add(catalog, "ADAEUR")
        with catalog.write() as connection:
            assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "read committed"
        assert (session(catalog), pairs(catalog)) == (before, ["ADAEUR"])


# --- a server that goes


def test_after_a_restart_nobody_notices_the_connections_that_were_open(own: PostgreSQL, url: str) -> None:
    with opened(url, PATIENT) as catalog:
        add(catalog, "XBTUSD")
        for interrupt in (own.restart, own.kill):
            interrupt()
            own.start()
            assert pairs(catalog) == ["XBTUSD"]


def test_a_write_that_is_begun_while_the_server_restarts_is_done_when_it_is_back(own: PostgreSQL, url: str) -> None:
    with opened(url, PATIENT) as catalog, ThreadPoolExecutor(1) as pool:
        own.stop()
        waiting = pool.submit(add, catalog, "XBTUSD")
        wait_for(lambda: catalog.statistics is not None and catalog.statistics.waiting == 1, "one who waits")
        own.start()
        waiting.result()
        assert pairs(catalog) == ["XBTUSD"]


def test_a_catalog_is_opened_when_its_server_is_back(own: PostgreSQL, url: str) -> None:
    own.stop()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(open_catalog, url, PATIENT)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        own.start()
        waiting.result().close()


def test_a_server_that_stays_away_is_told_of_when_patience_ends(own: PostgreSQL, url: str) -> None:
    with opened(url, SMALL) as catalog:
        own.stop()
        for action in (lambda: add(catalog, "XBTUSD"), lambda: pairs(catalog), lambda: open_catalog(url, SMALL)):
            with pytest.raises(StoreUnavailable, match=r"^the catalog's server does not answer: ") as refusal:
                action()
            assert own.password not in str(refusal.value)
            assert "refused" in str(refusal.value)


@pytest.mark.parametrize("moment", ["between two statements", "before the commit"])
def test_a_connection_that_is_ended_in_the_middle_leaves_nothing_and_is_no_mistake_of_the_programs(
    own: PostgreSQL, url: str, moment: str
) -> None:
    def write() -> None:
        with catalog.write() as connection:
            connection.execute(LISTING, {"pair": "XBTUSD", "seen_at": 7, "checksum": 0})
            end_sessions(own, url)
            if moment == "between two statements":
                connection.execute(LISTING, {"pair": "ADAEUR", "seen_at": 7, "checksum": 0})

    def read() -> None:
        with catalog.read() as connection:
            connection.execute(sa.select(schema.listings))
            end_sessions(own, url)
            connection.execute(sa.select(schema.listings))

    with opened(url, PATIENT) as catalog:
        for action in (write, read):
            with pytest.raises(StoreUnavailable, match=r"^the catalog's server closed the connection: "):
                action()
        assert pairs(catalog) == []
        add(catalog, "ADAEUR")
        assert pairs(catalog) == ["ADAEUR"]


def test_a_statement_that_is_at_work_when_the_server_is_killed_is_told(own: PostgreSQL, url: str) -> None:
    def wait() -> None:
        with catalog.read() as connection:
            connection.exec_driver_sql("SELECT pg_sleep(60)")

    with opened(url, PATIENT) as catalog, ThreadPoolExecutor(1) as pool:
        working = pool.submit(wait)
        asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        wait_for(lambda: own.execute(asleep) == [(1,)], "a statement at work")
        own.kill()
        with pytest.raises(StoreUnavailable, match=r"^the catalog's server closed the connection: "):
            working.result()
        own.start()
        assert pairs(catalog) == []


# --- a server that does not let us in


def test_what_waiting_does_not_change_is_told_at_once_and_without_the_password(own: PostgreSQL, url: str) -> None:
    wrong = url.replace(own.password, "a-wrong-secret")
    unknown = f"{url}_unknown"
    somebody = url.replace("//kraken:", "//nobody_here:")
    for refused, why in ((wrong, "authentication failed"), (unknown, "does not exist"), (somebody, "nobody_here")):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=f"^the catalog's server does not answer: .*{why}") as refusal:
            open_catalog(refused, PATIENT)
        assert time.monotonic() - began < PATIENT.patience_seconds / 2
        assert not any(secret in str(refusal.value) for secret in (own.password, "a-wrong-secret"))
        assert "\n" not in str(refusal.value)


def test_who_may_make_no_tables_is_told_so_without_the_password(own: PostgreSQL, url: str) -> None:
    own.execute("DROP ROLE IF EXISTS reader")
    own.execute("CREATE ROLE reader LOGIN PASSWORD 'a-secret'")
    empty = own.database().replace(f"kraken:{own.password}", "reader:a-secret")
    with pytest.raises(StoreError, match=r"cannot be opened: .*permission denied for schema public") as refusal:
        open_catalog(empty)
    assert "a-secret" not in str(refusal.value)
    own.drop(empty)


def test_a_url_that_cannot_be_understood_is_refused_without_its_password() -> None:
    for wrong in (
        "postgresql://me:secret@host:port/d",
        "postgresql://me:secret",
        "postgresql://me:secret@[::1/d",
        "postgresql+x://me:secret@h/d",
    ):
        with pytest.raises(StoreError, match="KRAKEN_CATALOG_URL names no database that can be used") as refusal:
            new_catalog(wrong)
        assert "secret" not in str(refusal.value)


def test_an_option_that_nobody_knows_is_refused_without_the_password(url: str) -> None:
    with pytest.raises(StoreError) as refusal:
        open_catalog(f"{url}?nonsense=1", PATIENT)
    assert "nonsense" in str(refusal.value)
    assert url.partition("@")[0].rpartition(":")[2] not in str(refusal.value)


def test_a_host_that_does_not_answer_costs_no_more_than_patience() -> None:
    with closing(Port()) as port:
        catalog = new_catalog(f"postgresql://me:secret@{HOST}:{port.number}/d", SMALL)
        with pytest.raises(StoreUnavailable), closing(catalog):
            catalog.revision()
