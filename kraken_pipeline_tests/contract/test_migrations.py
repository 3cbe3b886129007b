from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import kraken_pipeline.storage.catalog.migrations
from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.errors import StoreError
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.database import Catalog, new_catalog, open_catalog
from kraken_pipeline.storage.records import proof_records
from kraken_pipeline.storage.records.publications import backlog, enqueue, marked
from kraken_pipeline_tests.support.processes import process, result

pytestmark = pytest.mark.slow

HOURS = Series("XBTUSD", Interval.H1)


def config() -> Config:
    found = Config()
    found.set_main_option("script_location", str(Path(kraken_pipeline.storage.catalog.migrations.__file__).parent))
    return found


REVISIONS = [each.revision for each in reversed(list(ScriptDirectory.from_config(config()).walk_revisions()))]
STEPS = list(zip(["base", *REVISIONS], REVISIONS, strict=False))
"""From which migration each leads to which."""


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    """A database without tables."""
    with closing(new_catalog(url)) as found:
        yield found


def migrate(catalog: Catalog, to: str, *, back: bool = False) -> None:
    given = config()
    with catalog.write() as connection:
        given.attributes["connection"] = connection
        (command.downgrade if back else command.upgrade)(given, to)


def differences(catalog: Catalog) -> list[object]:
    with catalog.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, schema.metadata))


def tables(catalog: Catalog) -> dict[str, tuple[list[Any], ...]]:
    """Every table with its columns, keys and indexes, as the database tells them."""
    inspector = sa.inspect(catalog.engine)
    return {
        name: (
            [(each["name"], str(each["type"]), each["nullable"]) for each in inspector.get_columns(name)],
            inspector.get_pk_constraint(name)["constrained_columns"],
            sorted(str(each) for each in inspector.get_foreign_keys(name)),
            sorted(str(each["name"]) for each in inspector.get_indexes(name)),
        )
        for name in inspector.get_table_names()
    }


def test_each_migration_can_be_taken_back_and_done_again(catalog: Catalog) -> None:
    for before, after in STEPS:
        found = tables(catalog)
        migrate(catalog, after)
        made = tables(catalog)
        assert catalog.revision() == after
        migrate(catalog, before, back=True)
        assert catalog.revision() == (None if before == "base" else before)
        assert tables(catalog) == found | {"alembic_version": made["alembic_version"]}
        migrate(catalog, after)
        assert (tables(catalog), catalog.revision()) == (made, after)


def test_a_new_catalog_has_the_tables_to_which_the_migrations_lead(catalog: Catalog) -> None:
    def without_order() -> dict[str, object]:  # a migration adds columns at the end
        return {name: (sorted(columns), *rest) for name, (columns, *rest) in tables(catalog).items()}

    catalog.upgrade()
    made = without_order()
    assert differences(catalog) == []
    migrate(catalog, "base", back=True)
    catalog.upgrade()
    assert without_order() == made, "after the first migration was taken back, which leaves Alembic's own table"
    migrate(catalog, "base", back=True)
    migrate(catalog, "head")
    assert (without_order(), catalog.revision()) == (made, REVISIONS[-1])


def test_a_catalog_that_has_lost_its_tables_is_not_taken_for_a_new_one(catalog: Catalog) -> None:
    catalog.upgrade()
    with catalog.write() as connection:
        schema.metadata.drop_all(connection)
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :older"), {"older": "0005"})
    with pytest.raises((sa.exc.SQLAlchemyError, StoreError)):
        catalog.upgrade()
    assert list(tables(catalog)) == ["alembic_version"]
    assert catalog.revision() == "0005"


def test_the_migrations_lead_to_the_tables_that_the_program_knows_and_back(catalog: Catalog) -> None:
    migrate(catalog, "head")
    assert differences(catalog) == []
    migrate(catalog, "base", back=True)
    assert list(tables(catalog)) == ["alembic_version"]
    catalog.upgrade()
    assert differences(catalog) == []
    assert catalog.revision() == REVISIONS[-1]


def test_the_comparison_would_notice_a_column_that_no_migration_brings(catalog: Catalog) -> None:
    catalog.upgrade()
    with catalog.write() as connection:
        connection.execute(sa.text("ALTER TABLE gaps DROP COLUMN error"))
    assert differences(catalog) != []


def test_a_migration_that_fails_leaves_the_catalog_as_it_was(catalog: Catalog) -> None:
    migrate(catalog, REVISIONS[0])
    with catalog.write() as connection:
        connection.execute(sa.text("CREATE TABLE counters (mine INTEGER)"))  # what a later migration makes as well
    before = tables(catalog)
    with pytest.raises((sa.exc.SQLAlchemyError, StoreError), match="already exists"):
        catalog.upgrade()
    assert tables(catalog) == before
    assert catalog.revision() == REVISIONS[0]


def test_what_was_on_record_before_a_migration_is_on_record_after_it(catalog: Catalog) -> None:
    migrate(catalog, REVISIONS[0])
    with catalog.write() as connection:
        enqueue(connection, [(HOURS, Span(0, 3_600))], 7)
        row = {"location": "/drop/a.csv", "line": 3, "text": "x", "reason": "y", "run_id": "one", "made_at": 7}
        letters = sa.table("dead_letters", *(sa.column(name) for name in row))
        connection.execute(sa.insert(letters).values(**row))
    catalog.upgrade()
    with catalog.read() as connection:
        assert backlog(connection).count == 1
        (letter,) = connection.execute(sa.select(schema.dead_letters)).mappings()
    assert {name: letter[name] for name in row} == row
    assert letter["operation"] is None


def test_what_was_proven_before_there_were_levels_is_reconciled_and_compared_anew(catalog: Catalog) -> None:
    migrate(catalog, "0004")
    span = {"pair": "XBTUSD", "interval": 60, "start": 0, "end": 3_600}
    with catalog.write() as connection:
        proofs = sa.table("proofs", *(sa.column(name) for name in span))
        connection.execute(sa.insert(proofs).values(**span))
        covered = {**span, "end": 7_200, "source": "CSV", "candles": 2, "verified_at": 7}
        connection.execute(sa.insert(schema.coverage).values(**covered))
    catalog.upgrade()
    with catalog.read() as connection:
        assert proof_records.proofs_of(connection) == {HOURS: Proven((Span(0, 3_600),))}
        assert proof_records.confirmed(connection) == {}
        (doubt,) = marked(connection)["XBTUSD"]
    assert (doubt.series, doubt.span, doubt.made_at) == (HOURS, Span(0, 7_200), 7)


def test_names_that_promise_nothing_are_no_releases_any_more_and_their_pairs_are_corrected(catalog: Catalog) -> None:
    migrate(catalog, "0007")
    names = {
        "Kraken_OHLCVT_Q2_2023 (1).zip": 5,
        "Kraken_OHLCVT_incomplete.zip": None,
        "Kraken_OHLCVT_2013-2023Q4.zip": None,
    }
    with catalog.write() as connection:
        for name in names:
            row = {"sha256": name, "name": name, "kind": "OHLCVT", "start": 5, "end": 9, "series": [], "stamp": name}
            connection.execute(sa.insert(schema.containers).values(**row, seen_at=7))
        for pair, kind, status in (("XBTUSD", "OHLCVT", "COMPLETED"), ("ADAUSD", "OHLCVT", "FAILED")):
            row = {"location": pair, "name": pair, "kind": kind, "pair": pair, "interval": 60, "status": status}
            counts = {"size": 1, "rows": 1, "candles_stored": 1, "rows_rejected": 0, "run_id": "one", "updated_at": 7}
            connection.execute(sa.insert(schema.files).values(**row, **counts))
    catalog.upgrade()
    with catalog.read() as connection:
        found = {row.name: row.start for row in connection.execute(sa.select(schema.containers))}
        assert connection.scalars(sa.select(schema.earlier_archives.c.pair)).all() == ["XBTUSD"]
    assert found == names


def upgrade(database: str) -> None:
    open_catalog(database).close()


def upgrade_in_processes(database: str) -> None:
    """Forks them from one that has imported everything, so that they begin together."""
    with get_context("fork").Pool(4) as pool:
        pool.map(upgrade, [database] * 4, chunksize=1)


def test_processes_that_find_no_tables_make_them_once(url: str) -> None:
    with process(upgrade_in_processes, url) as running:
        result(running)
    with closing(new_catalog(url)) as catalog:
        assert differences(catalog) == []
        with catalog.read() as connection:
            assert connection.scalars(sa.text("SELECT version_num FROM alembic_version")).all() == REVISIONS[-1:]


def test_a_catalog_of_a_newer_program_is_refused(catalog: Catalog, url: str) -> None:
    catalog.upgrade()
    with catalog.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError) as refusal:
        open_catalog(url)
    assert str(refusal.value) == (
        "the catalog is at migration 9999, which this version of kraken_pipeline does not know; install the "
        "version that wrote it, or a newer one; if there is none, the catalog is damaged, and `kraken-pipeline "
        "recover` builds a new one from the lake"
    )
