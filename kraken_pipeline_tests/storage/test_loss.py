from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from kraken_pipeline.errors import Busy, CatalogLost
from kraken_pipeline.storage.lake import loss
from kraken_pipeline.storage.stores import create_stores, opened
from kraken_pipeline_tests.support import homes
from kraken_pipeline_tests.support.homes import Shelf, settings_of

pytestmark = pytest.mark.slow


@pytest.fixture
def filled(home: Path, shelf: Shelf) -> Path:
    """A home with candles, whose catalog is one file."""
    with opened(settings_of(home)) as stores:
        homes.run(stores, shelf.q1, resampling=False)
    with closing(sqlite3.connect(home / "catalog.sqlite")) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    return home


def refusal(home: Path) -> str:
    with pytest.raises(CatalogLost) as caught:
        create_stores(settings_of(home))
    return str(caught.value)


def test_a_home_with_candles_and_its_catalog_is_opened(filled: Path) -> None:
    with opened(settings_of(filled)) as stores:
        assert stores.lake.series() != []


def test_an_empty_catalog_beside_a_lake_that_is_not_is_lost(filled: Path) -> None:
    (filled / "catalog.sqlite").unlink()
    for _ in range(2):  # the first one makes an empty catalog, which is no better
        assert "is empty, and the lake in" in refusal(filled)
        assert "kraken-pipeline recover" in refusal(filled)


def test_an_empty_home_has_lost_nothing(home: Path) -> None:
    (home / "lake" / "interval=60").mkdir()
    (home / "lake" / "interval=60" / ".DS_Store").touch()
    create_stores(settings_of(home)).close()


def test_a_catalog_that_is_older_than_the_lake_is_lost(filled: Path, shelf: Shelf) -> None:
    shutil.copy(filled / "catalog.sqlite", filled / "earlier")
    with opened(settings_of(filled)) as stores:
        homes.run(stores, shelf.q2, resampling=False)
    for path in filled.glob("catalog.sqlite*"):
        path.unlink()
    (filled / "earlier").rename(filled / "catalog.sqlite")
    assert "is older than the lake: it has no record of the last write of lake/interval=" in refusal(filled)


def overwritten(path: Path) -> None:
    path.write_bytes(b"nonsense " * 5_000)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def garbled(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:4096] + bytes(len(data) - 4096))


DAMAGES = [overwritten, truncated, garbled]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_catalog_is_lost_and_set_aside_to_be_recovered(filled: Path, damage: Callable[[Path], None]) -> None:
    catalog = filled / "catalog.sqlite"
    damage(catalog)
    damaged = catalog.read_bytes()
    assert f"the catalog {catalog} is damaged (" in refusal(filled)
    assert "kraken-pipeline recover sets it aside" in refusal(filled)
    with opened(settings_of(filled), is_recovering=True) as stores:
        assert loss.is_empty(stores.catalog)
    (aside,) = [path for path in filled.glob("catalog.sqlite.*") if path.suffix[1:].isdecimal()]
    assert aside.read_bytes() == damaged, "nothing of it is lost"


def test_a_catalog_that_is_whole_is_not_set_aside(filled: Path) -> None:
    assert loss.set_malformed_aside(filled / "catalog.sqlite", filled / "locks" / "test.lock") is None
    with opened(settings_of(filled), is_recovering=True) as stores:
        assert not loss.is_empty(stores.catalog)


def test_nothing_is_recovered_while_a_run_is_at_work(filled: Path) -> None:
    overwritten(filled / "catalog.sqlite")
    (filled / "elsewhere").mkdir()
    with (
        opened(
            settings_of(filled, kraken_catalog_url=f"sqlite:///{filled}/elsewhere/catalog.sqlite"), is_recovering=True
        ) as busy,
        busy.locks.run("another"),
        pytest.raises(Busy, match="a run is at work in this home"),
    ):
        create_stores(settings_of(filled), is_recovering=True)
    assert (filled / "catalog.sqlite").read_bytes().startswith(b"nonsense")


def test_what_was_begun_and_not_brought_to_its_end_is_to_be_run_again(filled: Path) -> None:
    with ExitStack() as killed:
        killed.enter_context(loss.unfinished(filled, "restore /backups"))
        assert "kraken-pipeline restore /backups is at work" in refusal(filled)
        killed.pop_all()
    assert "or was stopped before its end" in refusal(filled)
    with pytest.raises(CatalogLost):
        create_stores(settings_of(filled), is_recovering=True)
    loss.require_finished(filled, "restore /backups")
    with loss.unfinished(filled, loss.RECOVER), opened(settings_of(filled), is_recovering=True):
        pass
    create_stores(settings_of(filled)).close()
