from __future__ import annotations

from pathlib import Path

import pytest

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.lake import last_write
from kraken_pipeline.storage.lake.last_write import LastWrite
from kraken_pipeline.storage.records import manifest
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.records.manifest import LakeFile
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline_tests.support import homes
from kraken_pipeline_tests.support.homes import Shelf

pytestmark = pytest.mark.slow

HOURS = Series("XBTUSD", Interval.H1)


def file(path: str, write_id: str) -> LakeFile:
    return LakeFile(path, HOURS, None, 1, 0, 0, 1, "", "", write_id, 0)


def unknown(stores: Stores) -> LastWrite | None:
    with stores.catalog.read() as connection:
        return last_write.unknown(stores.lake.home, stores.lake.files, connection)


def test_the_newest_file_of_candles_is_noted(home: Path) -> None:
    assert last_write.noted(home) is None
    last_write.note(home, [file("lake/a", "2"), file("replaced/b", "9"), file("lake/c", "3"), file("lake/d", "1")])
    assert last_write.noted(home) == LastWrite("lake/c", "3")
    last_write.note(home, [file("replaced/b", "10")])
    assert last_write.noted(home) == LastWrite("lake/c", "3")
    last_write.forget(home)
    assert last_write.noted(home) is None


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"path": "lake/a"}', "\x00"])
def test_a_note_that_cannot_be_read_is_none(home: Path, text: str) -> None:
    (home / "last_write").write_text(text)
    assert last_write.noted(home) is None


def test_a_write_is_noted_and_known(stores: Stores, shelf: Shelf) -> None:
    homes.run(stores, shelf.q1, resampling=False)
    noted = last_write.noted(stores.lake.home)
    assert noted is not None
    with stores.catalog.read() as connection:
        assert noted.write_id in {each.write_id for each in manifest.all_files(connection)[noted.path]}
    assert unknown(stores) is None


def test_a_write_that_the_catalog_never_heard_of_is_unknown(stores: Stores, shelf: Shelf) -> None:
    homes.run(stores, shelf.q1, resampling=False)
    noted = last_write.noted(stores.lake.home)
    assert noted is not None
    with stores.catalog.write() as connection:
        manifest.strike(connection, [noted.path])
    assert unknown(stores) == noted


def test_a_write_that_was_announced_and_not_confirmed_is_known(stores: Stores, shelf: Shelf) -> None:
    homes.run(stores, shelf.q1, resampling=False)
    noted = last_write.noted(stores.lake.home)
    assert noted is not None
    with stores.catalog.write() as connection:
        (recorded,) = manifest.all_files(connection)[noted.path]
        manifest.strike(connection, [noted.path])
        manifest.announce(connection, [recorded])
    assert unknown(stores) is None


def test_a_file_that_was_set_aside_is_no_sign_of_an_old_catalog(stores: Stores, shelf: Shelf) -> None:
    homes.run(stores, shelf.q1, resampling=False)
    noted = last_write.noted(stores.lake.home)
    assert noted is not None
    stores.lake.set_aside(Damage(noted.path, None, None, DamageKind.CHANGED, "a test"))
    assert unknown(stores) is None


def test_a_file_that_is_damaged_or_gone_is_no_sign_either(stores: Stores, shelf: Shelf) -> None:
    homes.run(stores, shelf.q1, resampling=False)
    noted = last_write.noted(stores.lake.home)
    assert noted is not None
    with stores.catalog.write() as connection:
        manifest.strike(connection, [noted.path])
    path = stores.lake.home / noted.path
    path.write_bytes(path.read_bytes()[:-9])
    assert unknown(stores) is None
    path.unlink()
    assert unknown(stores) is None


def test_a_note_of_a_write_that_was_replaced_since_is_no_sign_either(stores: Stores, shelf: Shelf) -> None:
    homes.run(stores, shelf.q1, resampling=False)
    before = (stores.lake.home / "last_write").read_bytes()
    homes.run(stores, shelf.q2, resampling=False)
    # As after a crash between the rename and the note.
    (stores.lake.home / "last_write").write_bytes(before)
    assert unknown(stores) is None
