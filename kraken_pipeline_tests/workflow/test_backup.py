from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from kraken_pipeline.errors import CatalogLost, InvalidRequest, StoreError
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.catalog import dumps
from kraken_pipeline.storage.stores import Stores, create_stores, opened
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.verify import backup
from kraken_pipeline.workflow.verify.backup import back_up, restore
from kraken_pipeline.workflow.verify.verification import Verification
from kraken_pipeline_tests.support import homes
from kraken_pipeline_tests.support.homes import Shelf, digest_of, evidence_of, files_of, lake_of, settings_of
from kraken_pipeline_tests.support.servers import PostgreSQL

pytestmark = pytest.mark.slow


def restored(settings: Settings, saved: Path) -> Verification:
    return restore(settings, saved, RunContext("restore", 1))[1]


def everything(stores: Stores) -> dict[str, object]:
    return {**evidence_of(stores), "lake": lake_of(stores), "files": files_of(stores)}


def test_a_backup_has_all_of_a_home_and_nothing_of_its_settings(stores: Stores, shelf: Shelf, tmp_path: Path) -> None:
    home, saved = stores.lake.home, tmp_path / "saved"
    homes.run(stores, shelf.q1, shelf.q2, shelf.complete)
    (home / ".env").write_text("KRAKEN_CATALOG_URL=postgresql://me:hunter2@db/kraken")
    for name in ("damaged", "reports"):
        (home / name).mkdir(exist_ok=True)
        (home / name / "something").write_text(name)

    done = back_up(stores, saved)

    assert {path.name for path in saved.iterdir()} == {
        *("backup.json", "catalog.sqlite", "lake", "replaced", "damaged", "reports")
    }
    for name in backup.FOLDERS:
        assert digest_of(saved / name) == digest_of(home / name)
    assert json.loads((saved / "backup.json").read_text()) == done.as_json()
    assert (done.catalog, done.migration, done.home) == ("catalog.sqlite", stores.catalog.revision(), str(home))
    count = sum(1 for name in backup.FOLDERS for path in (saved / name).rglob("*") if path.is_file())
    assert (done.files, done.linked) == (count, count)

    there = settings_of(tmp_path / "there")
    assert restored(there, saved).status == "ok"
    with opened(there) as found:
        assert everything(found) == everything(stores)


def test_where_links_cannot_be_files_are_copied(
    stores: Stores, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes.run(stores, shelf.q1)
    assert back_up(stores, tmp_path / "copies", links=False).linked == 0

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert back_up(stores, tmp_path / "elsewhere").linked == 0
    for name in ("copies", "elsewhere"):
        assert digest_of(tmp_path / name / "lake") == digest_of(stores.lake.home / "lake")
        path = next((tmp_path / name / "lake").rglob("candles.parquet"))
        assert path.stat().st_nlink == 1


@pytest.mark.parametrize("links", [True, False])
def test_an_earlier_backup_is_brought_up_to_date(stores: Stores, shelf: Shelf, tmp_path: Path, *, links: bool) -> None:
    home, saved = stores.lake.home, tmp_path / "saved"
    homes.run(stores, shelf.q1)
    back_up(stores, saved, links=links)
    inodes = {path: path.stat().st_ino for path in saved.rglob("*.parquet")}
    homes.run(stores, shelf.minutes, intervals=[1])

    back_up(stores, saved, links=links)

    assert digest_of(saved / "lake") == digest_of(home / "lake")
    kept = [path for path, inode in inodes.items() if path.stat().st_ino == inode]
    assert len(kept) >= 5, "what had not changed is not written again"
    assert restored(settings_of(tmp_path / "there"), saved).status == "ok"
    with opened(settings_of(tmp_path / "there")) as found:
        assert everything(found) == everything(stores)


def test_an_earlier_backup_keeps_its_catalog_until_all_files_are_there(
    stores: Stores, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes.run(stores, shelf.q1)
    back_up(stores, tmp_path / "saved")
    before = (tmp_path / "saved" / "catalog.sqlite").read_bytes()
    homes.run(stores, shelf.q2)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(backup, "_copy", fail)
        with pytest.raises(OSError, match="No space left"):
            back_up(stores, tmp_path / "saved")
    assert (tmp_path / "saved" / "catalog.sqlite").read_bytes() == before
    assert restored(settings_of(tmp_path / "there"), tmp_path / "saved").status == "ok"


def test_a_first_backup_that_was_stopped_is_none(
    stores: Stores, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes.run(stores, shelf.q1)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(backup, "_copy", fail)
        with pytest.raises(OSError, match="No space left"):
            back_up(stores, tmp_path / "saved")
    with pytest.raises(InvalidRequest, match="has no complete backup"):
        restored(settings_of(tmp_path / "there"), tmp_path / "saved")
    back_up(stores, tmp_path / "saved")  # it goes on where it was
    assert restored(settings_of(tmp_path / "there"), tmp_path / "saved").status == "ok"


def test_a_folder_that_holds_something_else_is_left_alone(stores: Stores, tmp_path: Path) -> None:
    home = stores.lake.home
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    for folder, sentence in {
        tmp_path / "other": "is not empty and has no backup",
        tmp_path / "file": "is not a folder",
        home: "is a part of the home",
        home / "lake" / "saved": "is a part of the home",
    }.items():
        with pytest.raises(InvalidRequest, match=sentence):
            back_up(stores, folder)
    back_up(stores, tmp_path / "saved")
    with (
        opened(settings_of(tmp_path / "second")) as second,
        pytest.raises(InvalidRequest, match=f"has a backup of {home}, not of"),
    ):
        back_up(second, tmp_path / "saved")


def test_a_folder_that_cannot_be_listed_is_an_error_and_no_folder_without_files(
    stores: Stores, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes.run(stores, shelf.q1)
    closed = stores.lake.home / "lake" / "interval=60"
    lists = os.scandir

    def scandir(path: str | Path) -> object:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return lists(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        with pytest.raises(PermissionError):
            back_up(stores, tmp_path / "saved")
    assert back_up(stores, tmp_path / "saved").files > 0


def test_a_home_that_holds_something_is_left_alone(stores: Stores, shelf: Shelf, tmp_path: Path) -> None:
    homes.run(stores, shelf.q1)
    back_up(stores, tmp_path / "saved")
    before = everything(stores)
    with pytest.raises(InvalidRequest, match="already has candles"):
        restored(stores.settings, tmp_path / "saved")
    assert everything(stores) == before
    with opened(settings_of(tmp_path / "known")) as known:
        homes.run(known, shelf.q1)
    for path in (tmp_path / "known" / "lake").rglob("candles.parquet"):
        path.unlink()
    with pytest.raises(InvalidRequest, match=r"the catalog .* is not empty"):
        restored(settings_of(tmp_path / "known"), tmp_path / "saved")


def test_an_empty_catalog_is_in_the_way_of_nothing_nor_is_a_damaged_one(
    stores: Stores, shelf: Shelf, tmp_path: Path
) -> None:
    homes.run(stores, shelf.q1)
    back_up(stores, tmp_path / "saved")
    with opened(settings_of(tmp_path / "empty")):
        pass
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "catalog.sqlite").write_bytes(b"nonsense" * 1_000)
    for name in ("empty", "damaged"):
        assert restored(settings_of(tmp_path / name), tmp_path / "saved").status == "ok"
        assert len(list((tmp_path / name).glob("catalog.sqlite.0*"))) == 1, "it is set aside"


def test_a_restore_that_was_stopped_goes_on(
    stores: Stores, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes.run(stores, shelf.q1)
    saved, there = tmp_path / "saved", settings_of(tmp_path / "there")
    back_up(stores, saved)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(backup, "_restore_catalog", fail)
        with pytest.raises(OSError, match="No space left"):
            restored(there, saved)
    with pytest.raises(CatalogLost, match=f"kraken-pipeline restore {saved} is at work in .*, or was stopped"):
        create_stores(there)
    assert restored(there, saved).status == "ok"
    with opened(there) as found:
        assert everything(found) == everything(stores)


def test_a_catalog_that_is_damaged_is_not_saved(stores: Stores, tmp_path: Path) -> None:
    path = tmp_path / "broken.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 500,)] * 200)
        connection.commit()
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 3 + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"cannot be saved|is damaged"):
        dumps._save_sqlite(path, tmp_path / "copy.sqlite")


# --- PostgreSQL


def test_postgresqls_catalog_is_dumped_and_brought_back(
    shelf: Shelf, tmp_path: Path, postgresql_url: str, postgresql: PostgreSQL
) -> None:
    saved = tmp_path / "saved"
    home = settings_of(tmp_path / "home", kraken_catalog_url=postgresql_url)
    with opened(home) as stores:
        homes.run(stores, shelf.q1)
        before = everything(stores)
        assert back_up(stores, saved).catalog == "catalog.dump"
    with pytest.raises(InvalidRequest, match="has a catalog of PostgreSQL: set KRAKEN_CATALOG_URL"):
        restored(settings_of(tmp_path / "there"), saved)
    url = postgresql.database()
    there = settings_of(tmp_path / "there", kraken_catalog_url=url)
    with opened(there):
        pass  # its tables are there, and empty
    assert restored(there, saved).status == "ok"
    with opened(there) as found:
        assert everything(found) == before
        homes.run(found, shelf.q2)  # ids go on
    with pytest.raises(InvalidRequest, match="already has candles"):
        restored(there, saved)
    postgresql.drop(url)


def test_a_backup_of_sqlites_is_brought_back_into_postgresql(
    stores: Stores, shelf: Shelf, tmp_path: Path, postgresql_url: str
) -> None:
    homes.run(stores, shelf.q1)
    back_up(stores, tmp_path / "saved")
    there = settings_of(tmp_path / "there", kraken_catalog_url=postgresql_url)
    assert restored(there, tmp_path / "saved").status == "ok"
    with opened(there) as found:
        assert everything(found) == everything(stores)


def test_a_server_that_does_not_let_us_in_is_named_without_the_password(postgresql_url: str, tmp_path: Path) -> None:
    with opened(settings_of(tmp_path / "home", kraken_catalog_url=postgresql_url)) as stores:
        stores.catalog.engine.url = stores.catalog.engine.url.set(password="hunter2")  # noqa: S106
        with pytest.raises(StoreError, match=r"pg_dump failed on the catalog .* authentication failed") as caught:
            back_up(stores, tmp_path / "saved")
    assert "hunter2" not in str(caught.value)


def test_a_program_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dumps, "_DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreError, match="pg_dump is not installed"):
        dumps._program("pg_dump")
    for version in (9, 15, 8):
        (tmp_path / str(version) / "bin").mkdir(parents=True)
        (tmp_path / str(version) / "bin" / "pg_dump").touch()
    assert dumps._program("pg_dump") == str(tmp_path / "15" / "bin" / "pg_dump")
