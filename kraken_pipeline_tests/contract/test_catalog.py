from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress

import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.errors import PipelineError
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.database import Catalog, open_catalog
from kraken_pipeline.storage.records.publications import enqueue
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline_tests.support.processes import process, result

HOURS = Series("XBTUSD", Interval.H1)
COUNT = sa.select(sa.func.count()).select_from(schema.publications)


@pytest.fixture
def catalog(stores: Stores) -> Catalog:
    return stores.catalog


def publications(catalog: Catalog) -> list[int]:
    with catalog.read() as connection:
        return sorted(connection.scalars(sa.select(schema.publications.c.made_at)))


def add(connection: sa.Connection, made_at: int) -> None:
    enqueue(connection, [(HOURS, Span(made_at * 7_200, made_at * 7_200 + 3_600))], made_at)


def test_opening_again_keeps_what_is_there(url: str) -> None:
    for made_at in (1, 2):
        with closing(open_catalog(url)) as catalog, catalog.write() as connection:
            add(connection, made_at)
    with closing(open_catalog(url)) as catalog:
        assert publications(catalog) == [1, 2]


def test_a_transaction_that_fails_leaves_nothing(catalog: Catalog) -> None:
    def fail() -> None:
        with catalog.write() as connection:
            add(connection, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert publications(catalog) == []
    with catalog.write() as connection:
        add(connection, 2)
    assert publications(catalog) == [2]


def test_a_reader_sees_one_state_and_does_not_hold_up_writers(catalog: Catalog) -> None:
    with catalog.read() as reading:
        assert reading.scalar(COUNT) == 0
        with catalog.write() as connection:
            add(connection, 1)
        assert reading.scalar(COUNT) == 0
    assert publications(catalog) == [1]


def test_what_a_reader_writes_stays_nowhere(catalog: Catalog) -> None:
    with suppress(sa.exc.DBAPIError), catalog.read() as connection:
        add(connection, 1)
    assert publications(catalog) == []
    with catalog.write() as connection:  # perhaps on the same connection
        add(connection, 2)
    assert publications(catalog) == [2]


def test_references_hold(catalog: Catalog) -> None:
    grant = {
        "pair": "XBTUSD",
        "interval": 60,
        "start": 0,
        "end": 1,
        "source": "CSV",
        "trades": 0,
        "verified_at": 0,
        "checksum": 0,
    }
    with pytest.raises(sa.exc.IntegrityError), catalog.write() as connection:
        connection.execute(sa.insert(schema.grants).values(**grant, file_id=7))
    with pytest.raises(sa.exc.IntegrityError), catalog.write() as connection:
        connection.execute(sa.insert(schema.grants).values(**{**grant, "pair": None}))


def test_a_mistake_in_a_statement_is_no_error_of_the_pipelines(catalog: Catalog) -> None:
    """What is wrong with the program keeps its traceback, and is not tried again."""
    for transaction in (catalog.read, catalog.write):
        with pytest.raises(sa.exc.DBAPIError) as error, transaction() as connection:
            connection.execute(sa.text("SELECT nothing FROM nowhere"))
        assert not isinstance(error.value, PipelineError)


def insert(database: str, first: int, times: int) -> None:
    with closing(open_catalog(database)) as catalog:
        for number in range(first, first + times):
            with catalog.write() as connection:
                row = {"pair": "XBTUSD", "interval": 60, "start": 0, "end": 3600, "made_at": number}
                connection.execute(sa.insert(schema.publications).values(**row))


@pytest.mark.process
def test_processes_that_write_at_the_same_time_lose_nothing(stores: Stores) -> None:
    with ExitStack() as stack:
        url = stores.settings.catalog_url
        for running in [stack.enter_context(process(insert, url, 25 * number, 25)) for number in range(3)]:
            result(running)
    assert publications(stores.catalog) == list(range(75))


def test_threads_that_write_at_the_same_time_lose_nothing(catalog: Catalog) -> None:
    def count(number: int) -> None:
        with catalog.write() as connection:
            add(connection, number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(40)))
    assert publications(catalog) == list(range(40))
