from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

import kraken_pipeline.storage.migrations
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.errors import StoreError
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage import schema
from kraken_pipeline.storage.catalog import Catalog, open_catalog
from kraken_pipeline.storage.publications import owe
from kraken_pipeline_tests.storage.counting import count_up
from kraken_pipeline_tests.storage.processes import process, result

HOURS = Series("XBTUSD", Interval.H1)


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'catalog.sqlite'}"


def publications(catalog: Catalog) -> list[int]:
    with catalog.read() as connection:
        return list(connection.scalars(sa.select(schema.publications.c.made_at)))


# --- migrations


def migrate(catalog: Catalog, to: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(kraken_pipeline.storage.migrations.__file__).parent))
    with catalog.write() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if to == "base" else command.upgrade)(config, to)


def differences(catalog: Catalog) -> list[object]:
    with catalog.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, schema.metadata))


def test_the_migrations_lead_to_the_tables_that_the_program_knows_and_back(tmp_path: Path) -> None:
    catalog = open_catalog(url(tmp_path))
    assert differences(catalog) == []
    migrate(catalog, "base")
    assert catalog.revision() is None
    assert sa.inspect(catalog.engine).get_table_names() == ["alembic_version"]
    migrate(catalog, "head")
    assert differences(catalog) == []
    catalog.close()


def test_the_comparison_would_notice_a_column_that_no_migration_brings(tmp_path: Path) -> None:
    catalog = open_catalog(url(tmp_path))
    with catalog.write() as connection:
        connection.execute(sa.text("ALTER TABLE gaps DROP COLUMN error"))
    assert differences(catalog) != []
    catalog.close()


def test_opening_again_keeps_what_is_there(tmp_path: Path) -> None:
    for made_at in (1, 2):
        catalog = open_catalog(url(tmp_path))
        with catalog.write() as connection:
            owe(connection, [(HOURS, Span(made_at * 7200, made_at * 7200 + 3600))], made_at)
        catalog.close()
    catalog = open_catalog(url(tmp_path))
    assert publications(catalog) == [1, 2]
    catalog.close()


def test_the_folder_of_the_catalog_is_made_where_there_is_none(tmp_path: Path) -> None:
    catalog = open_catalog(url(tmp_path / "a" / "100% new"))
    assert catalog.revision() is not None
    catalog.close()


def test_a_catalog_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    catalog = open_catalog(url(tmp_path))
    with catalog.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    catalog.close()
    with pytest.raises(StoreError) as refusal:
        open_catalog(url(tmp_path))
    assert str(refusal.value) == (
        "the catalog is at migration 9999, which this version of kraken_pipeline does not know; "
        "install the version that wrote it, or a newer one"
    )


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\x00" + b"\xff" * 2_000])
def test_a_file_that_is_no_database_is_refused_with_its_place(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "catalog.sqlite").write_bytes(content)
    with pytest.raises(StoreError, match=r"the catalog at sqlite:///.*catalog\.sqlite cannot be opened"):
        open_catalog(url(tmp_path))


@pytest.mark.parametrize("wrong", ["nonsense", "mysql://me:secret@host/d", "oracle+nothing://me:secret@host/d", ""])
def test_what_names_no_database_that_can_be_used_is_refused_without_its_password(wrong: str) -> None:
    with pytest.raises(StoreError, match="KRAKEN_CATALOG_URL names no database that can be used") as refusal:
        open_catalog(wrong)
    assert "secret" not in str(refusal.value)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(StoreError, match="cannot be opened"):
        open_catalog(url(tmp_path / "file"))


# --- transactions


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    catalog = open_catalog(url(tmp_path))

    def fail() -> None:
        with catalog.write() as connection:
            owe(connection, [(HOURS, Span(0, 3600))], 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert publications(catalog) == []
    catalog.close()


def test_a_reader_sees_one_state_and_does_not_hold_up_writers(tmp_path: Path) -> None:
    catalog = open_catalog(url(tmp_path))
    count = sa.select(sa.func.count()).select_from(schema.publications)
    with catalog.read() as reading:
        assert reading.scalar(count) == 0
        with catalog.write() as connection:
            owe(connection, [(HOURS, Span(0, 3600))], 1)
        assert reading.scalar(count) == 0
    assert publications(catalog) == [1]
    catalog.close()


def test_what_is_committed_survives_a_power_cut_and_references_hold(tmp_path: Path) -> None:
    catalog = open_catalog(url(tmp_path))
    with catalog.read() as connection:
        assert connection.scalar(sa.text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(sa.text("PRAGMA synchronous")) == 2  # FULL
    with pytest.raises(sa.exc.IntegrityError), catalog.write() as connection:
        connection.execute(
            sa.insert(schema.grants).values(
                pair="XBTUSD", interval=60, start=0, end=1, source="CSV", file_id=7, trades=0, verified_at=0
            )
        )
    catalog.close()


def test_four_processes_that_create_and_write_one_catalog_lose_nothing(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for running in [stack.enter_context(process(count_up, url(tmp_path), 25)) for _ in range(4)]:
            result(running)
    catalog = open_catalog(url(tmp_path))
    assert publications(catalog) == list(range(100))
    catalog.close()


def test_threads_that_write_one_catalog_lose_nothing(tmp_path: Path) -> None:
    open_catalog(url(tmp_path)).close()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda times: count_up(url(tmp_path), times), [10] * 4))
    catalog = open_catalog(url(tmp_path))
    assert publications(catalog) == list(range(40))
    catalog.close()


def test_a_catalog_can_be_read_by_any_sqlite(tmp_path: Path) -> None:
    catalog = open_catalog(url(tmp_path))
    with catalog.write() as connection:
        owe(connection, [(HOURS, Span(0, 3600))], 1)
    catalog.close()
    found = sqlite3.connect(tmp_path / "catalog.sqlite")
    assert found.execute('SELECT pair, interval, start, "end" FROM publications').fetchall() == [
        ("XBTUSD", 60, 0, 3600)
    ]
    found.close()
