"""What is SQLite's alone; what every catalog does is in `contract`."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.errors import StoreError
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.database import Catalog, open_catalog
from kraken_pipeline.storage.records.publications import enqueue
from kraken_pipeline_tests.storage.counting import count_up
from kraken_pipeline_tests.support.processes import process, result

pytestmark = pytest.mark.slow

HOURS = Series("XBTUSD", Interval.H1)


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'catalog.sqlite'}"


def publications(catalog: Catalog) -> list[int]:
    with catalog.read() as connection:
        return list(connection.scalars(sa.select(schema.publications.c.made_at)))


def test_the_folder_of_the_catalog_is_made_where_there_is_none(tmp_path: Path) -> None:
    catalog = open_catalog(url(tmp_path / "a" / "100% new"))
    assert catalog.revision() is not None
    catalog.close()


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\x00" + b"\xff" * 2_000])
def test_a_file_that_is_no_database_is_refused_with_its_place(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "catalog.sqlite").write_bytes(content)
    with pytest.raises(StoreError, match=r"the catalog /.*catalog\.sqlite is damaged .*: kraken-pipeline recover"):
        open_catalog(url(tmp_path))


def test_a_page_that_is_malformed_is_named_when_it_is_come_to(tmp_path: Path) -> None:
    open_catalog(url(tmp_path)).close()
    path = tmp_path / "catalog.sqlite"
    size = path.stat().st_size
    with path.open("r+b") as stream:
        stream.seek(4_096)  # behind the list of tables, which is in the first page
        stream.write(b"\xff" * (size - 4_096))
    with (
        pytest.raises(StoreError, match=r"catalog\.sqlite is damaged .*malformed.*kraken-pipeline recover"),
        closing(open_catalog(url(tmp_path))) as catalog,
        catalog.read() as connection,
    ):
        connection.execute(sa.select(schema.grants)).all()


def test_a_catalog_without_its_tables_is_damaged(tmp_path: Path) -> None:
    with closing(open_catalog(url(tmp_path))) as catalog:
        with catalog.write() as connection:
            connection.execute(sa.text("DROP TABLE gaps"))
        with pytest.raises(StoreError, match=r"is damaged \(no such table: gaps\)"), catalog.read() as connection:
            connection.execute(sa.select(schema.gaps))


def test_a_mistake_in_a_statement_keeps_its_own_error(tmp_path: Path) -> None:
    with closing(open_catalog(url(tmp_path))) as catalog, pytest.raises(sa.exc.StatementError), catalog.read() as read:
        read.execute(sa.text("SELECT :x"), {})


@pytest.mark.parametrize("wrong", ["nonsense", "mysql://me:secret@host/d", "oracle+nothing://me:secret@host/d", ""])
def test_what_names_no_database_that_can_be_used_is_refused_without_its_password(wrong: str) -> None:
    with pytest.raises(StoreError, match="KRAKEN_CATALOG_URL names no database that can be used") as refusal:
        open_catalog(wrong)
    assert "secret" not in str(refusal.value)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(StoreError, match="cannot be opened"):
        open_catalog(url(tmp_path / "file"))


def test_what_is_committed_survives_a_power_cut_and_references_hold(tmp_path: Path) -> None:
    catalog = open_catalog(url(tmp_path))
    with catalog.read() as connection:
        assert connection.scalar(sa.text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(sa.text("PRAGMA synchronous")) == 2  # FULL
    with pytest.raises(sa.exc.IntegrityError), catalog.write() as connection:
        connection.execute(
            sa.insert(schema.grants).values(
                pair="XBTUSD", interval=60, start=0, end=1, source="CSV", file_id=7, trades=0, verified_at=0, checksum=0
            )
        )
    catalog.close()


@pytest.mark.process
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
        enqueue(connection, [(HOURS, Span(0, 3600))], 1)
    catalog.close()
    found = sqlite3.connect(tmp_path / "catalog.sqlite")
    assert found.execute('SELECT pair, interval, start, "end" FROM publications').fetchall() == [
        ("XBTUSD", 60, 0, 3600)
    ]
    found.close()
