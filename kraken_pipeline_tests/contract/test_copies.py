"""A catalog is copied from either kind into either kind, and nothing of it is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.errors import InvalidRequest, StoreError
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import copies, schema, seals
from kraken_pipeline.storage.catalog.database import Catalog, open_catalog
from kraken_pipeline.storage.records import publications
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline_tests.support import homes
from kraken_pipeline_tests.support.databases import copy_of_template
from kraken_pipeline_tests.support.homes import Shelf, write_lines
from kraken_pipeline_tests.support.servers import PostgreSQL

pytestmark = pytest.mark.slow


@pytest.fixture(params=["into SQLite", pytest.param("into PostgreSQL", marks=pytest.mark.servers)])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    """An empty catalog, at the newest migration."""
    with ExitStack() as used:
        if request.param == "into SQLite":
            url = f"sqlite:///{tmp_path / 'target.sqlite'}"
        else:
            server: PostgreSQL = request.getfixturevalue("postgresql")
            server.start()
            url = copy_of_template(server)
            used.callback(server.drop, url)
        yield used.enter_context(closing(open_catalog(url)))


def rows(catalog: Catalog) -> dict[str, list[Any]]:
    """Every row of every table."""
    with catalog.read() as connection:
        return {
            table.name: [
                tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns))
            ]
            for table in schema.metadata.sorted_tables
        }


def test_every_row_of_every_table_is_there(
    stores: Stores, target: Catalog, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_ROWS", 7)
    bad = write_lines(
        tmp_path / "XBTUSD_60.csv", ["1680310800,1,2,1,2,3,4", "nonsense \\x00 ünï", "1680314400,1,2,1,2,3,4"]
    )
    homes.run(stores, shelf.q1, shelf.q2, bad)

    counts = copies.copy_catalog(stores.catalog, target)

    before, after = rows(stores.catalog), rows(target)
    assert after == before
    assert counts == {name: len(found) for name, found in before.items()}
    filled = {name for name, count in counts.items() if count}
    assert filled >= {
        "lake_files",
        "grants",
        "coverage",
        "extents",
        "files",
        "containers",
        "gaps",
        "dead_letters",
        "proofs",
    }
    with target.read() as connection:
        for table in (schema.grants, schema.coverage, schema.extents, schema.lake_files):
            assert seals.broken(connection, table) == []


def test_ids_that_were_given_are_not_given_again(stores: Stores, target: Catalog, shelf: Shelf) -> None:
    homes.run(stores, shelf.q1, resampling=False)
    with stores.catalog.write() as connection:  # what was owed, and has been delivered since
        last = connection.scalar(sa.select(sa.func.max(schema.publications.c.id)))
        connection.execute(sa.delete(schema.publications))
    copies.copy_catalog(stores.catalog, target)

    with target.write() as connection:
        publications.enqueue(connection, [(Series("XBTUSD", Interval.H1), Span(0, 3_600))], 1)
        grant = {"pair": "XBTUSD", "interval": 60, "start": 0, "end": 3_600, "source": "CSV", "trades": 1}
        before = connection.scalar(sa.select(sa.func.max(schema.grants.c.id)))
        row = seals.sealed(schema.grants, {**grant, "verified_at": 1, "file_id": None})
        made = connection.execute(sa.insert(schema.grants).values(row).returning(schema.grants.c.id)).scalar_one()
        owed = connection.scalar(sa.select(schema.publications.c.id))
    assert owed is not None
    assert last is not None
    assert owed > last
    assert before is not None
    assert made == before + 1


def test_a_catalog_that_knows_something_is_not_copied_into(stores: Stores, target: Catalog, shelf: Shelf) -> None:
    homes.run(stores, shelf.q1, resampling=False)
    with target.write() as connection:
        publications.enqueue(connection, [(Series("XBTUSD", Interval.H1), Span(0, 3_600))], 1)
    before = rows(target)
    with pytest.raises(
        InvalidRequest, match="already has rows in publications; a catalog can only be copied into an empty"
    ):
        copies.copy_catalog(stores.catalog, target)
    assert rows(target) == before


def test_what_any_command_leaves_in_an_empty_catalog_is_in_the_way_of_nothing(stores: Stores, target: Catalog) -> None:
    with target.write() as connection:
        connection.execute(sa.insert(schema.counters).values(name="requests", hour=0, value=1))
    with stores.catalog.write() as connection:
        connection.execute(sa.insert(schema.counters).values(name="requests", hour=0, value=5))
    copies.copy_catalog(stores.catalog, target)
    assert rows(target)["counters"] == [("requests", 0, 5)]


def test_a_row_that_is_not_taken_leaves_the_other_catalog_empty(stores: Stores, target: Catalog, shelf: Shelf) -> None:
    if not stores.catalog.is_sqlite or target.is_sqlite:
        pytest.skip("only PostgreSQL minds how long a text is")
    homes.run(stores, shelf.q1, resampling=False)
    with stores.catalog.write() as connection:
        connection.execute(sa.update(schema.files).values(run_id="x" * 99))
    before = rows(target)
    with pytest.raises(StoreError, match=r"does not accept the contents of .*, and nothing was copied: .*too long"):
        copies.copy_catalog(stores.catalog, target)
    assert rows(target) == before
