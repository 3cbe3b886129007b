"""A catalog that was lost is built again: with the archives as it was, without them with gaps and no false claim."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.evidence import RECOVERED
from kraken_pipeline.errors import CatalogLost, InvalidRequest
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.records import proof_records, publications
from kraken_pipeline.storage.stores import Stores, create_stores, opened
from kraken_pipeline.workflow.explain.explain import explain
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.verify import recovery
from kraken_pipeline.workflow.verify.recovery import Recovery, copy_from, recover
from kraken_pipeline.workflow.verify.verification import verify
from kraken_pipeline.workflow.withdraw.resolve import resolve
from kraken_pipeline.workflow.withdraw.withdrawal import withdrawal
from kraken_pipeline_tests.support import homes
from kraken_pipeline_tests.support.homes import (
    NOW,
    SPRING,
    START,
    Shelf,
    covered,
    evidence_of,
    files_of,
    lake_of,
    oracle,
    rows_of,
    settings_of,
)

pytestmark = pytest.mark.slow

INTERVALS = (60, 1440)
MINUTES = Series("XBTUSD", Interval.M1)


@contextmanager
def recovering(home: Path, **more: Any) -> Iterator[Stores]:
    with opened(settings_of(home, **more), is_recovering=True) as stores:
        yield stores


def recovered(home: Path, *archives: Path) -> Recovery:
    with recovering(home) as stores:
        return recover(stores, run_spec(archive_dirs=list(archives)), RunContext("run-recover", NOW))


def lose(home: Path) -> None:
    """Deletes the catalog."""
    for path in home.glob("catalog.sqlite*"):
        path.unlink()


def ingested(home: Path, *archives: Path, **options: Any) -> dict[str, Any]:
    """Ingests archives without asking the exchange; returns what the home holds then."""
    with opened(settings_of(home)) as stores:
        homes.run(stores, *archives, api_backfill=False, **{"intervals": INTERVALS, **options})
        return state(stores)


def state(stores: Stores) -> dict[str, Any]:
    """What a home holds; of gaps those that are open."""
    evidence = evidence_of(stores)
    gaps = [gap for gap in evidence["gaps"] if gap[-1] != "FILLED"]
    return {**evidence, "gaps": gaps, "lake": lake_of(stores), "files": files_of(stores)}


def state_of(home: Path) -> dict[str, Any]:
    with opened(settings_of(home)) as stores:
        return state(stores)


def assert_nothing_false(stores: Stores) -> None:
    """Compares all that is covered with what really happened: candles with their values, and quiet time."""
    for series in stores.lake.series():
        there = {row[0]: row for row in homes.stored(stores, series.pair, series.interval.value)}
        for span in covered(stores, series.pair, series.interval.value):
            start = max(span.start, START)
            happened = oracle(series.pair, series.interval.value, start, span.end)
            claimed = [row for time, row in sorted(there.items()) if start <= time < span.end]
            assert [row[0] for row in claimed] == [row[0] for row in happened], (series, span)
            assert pl.DataFrame(claimed, orient="row").equals(pl.DataFrame(happened, orient="row")), (series, span)


# --- with the archives at hand


def test_with_the_archives_at_hand_all_is_as_it_was(home: Path, shelf: Shelf) -> None:
    before = ingested(home, shelf.q1, shelf.q2, shelf.q3)
    files = homes.digest_of(home / "lake")
    lose(home)

    done = recovered(home, shelf.q1, shelf.q2, shelf.q3)

    assert state_of(home) == before
    assert homes.digest_of(home / "lake") == files, "nothing is written that is there already"
    assert (done.granted, done.verification.damaged if done.verification else None) == (0, ())
    assert done.adopted == len(files_below(home / "lake")) - 1  # without the ids of pairs
    assert done.candles == sum(len(rows) for rows in before["lake"].values())
    assert ingested(home, shelf.q1, shelf.q2, shelf.q3) == before


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_lies_in_the_drop_folder_and_was_ingested_is_at_hand(home: Path, shelf: Shelf) -> None:
    shutil.copy(shelf.q2, home / "drop")
    before = ingested(home)
    assert (home / "drop" / "ingested" / shelf.q2.name).exists()
    lose(home)
    recovered(home)
    assert state_of(home) == before


def test_ids_of_pairs_are_those_that_they_were(home: Path, shelf: Shelf) -> None:
    ingested(home, shelf.q2)
    ingested(home, shelf.q1)
    with opened(settings_of(home)) as stores:
        before = stores.lake.asset_ids.all()
        with stores.catalog.write() as connection:  # an id is not what comes of the order of names
            connection.execute(sa.update(schema.assets).values(asset_id=schema.assets.c.asset_id + 40))
        stores.lake.asset_ids.copy()
        before = stores.lake.asset_ids.all()
    lose(home)
    recovered(home)
    with opened(settings_of(home)) as stores:
        assert stores.lake.asset_ids.all().equals(before)


@pytest.mark.parametrize("text", [None, b"nonsense"])
def test_pairs_get_ids_where_nothing_has_them_any_more(home: Path, shelf: Shelf, text: bytes | None) -> None:
    ingested(home, shelf.q1)
    lose(home)
    ids = home / "lake" / "assets.parquet"
    if text is None:
        ids.unlink()
    else:
        ids.write_bytes(text)
    done = recovered(home)
    assert [("pairs have new ids" in note) for note in done.notes] == ([] if text is None else [True])
    with opened(settings_of(home)) as stores:
        assert {pair.name for pair in stores.lake.asset_ids.pairs()} == set(SPRING.listings)
        assert pl.read_parquet(ids).equals(stores.lake.asset_ids.all())


# --- without them


def test_without_archives_each_candle_covers_its_own_time_and_nothing_is_quiet(home: Path, shelf: Shelf) -> None:
    before = ingested(home, shelf.q1, shelf.q2, shelf.q3)
    lose(home)

    done = recovered(home)

    assert done.files == ()
    with opened(settings_of(home)) as stores:
        assert lake_of(stores) == before["lake"]
        assert_nothing_false(stores)
        for series in stores.lake.series():
            times = set(stores.lake.times(series))
            slots = {
                time
                for span in covered(stores, series.pair, series.interval.value)
                for time in range(span.start, span.end, series.interval.seconds)
            }
            assert slots <= times, "nothing is quiet"
            # What an archive that was made at 23:00 has of its day is not all of it.
            assert len(times - slots) <= 24
        assert done.granted > 0.9 * done.candles


def test_then_the_same_ingest_leaves_what_it_left_at_first(home: Path, shelf: Shelf) -> None:
    before = ingested(home, shelf.q1, shelf.q2, shelf.q3)
    lose(home)
    recovered(home)
    after = ingested(home, shelf.q1, shelf.q2, shelf.q3)
    for what in ("lake", "coverage", "extents", "gaps"):
        assert after[what] == before[what], what
    assert after["grants"] >= before["grants"]


def test_it_is_told_that_a_candle_answers_for_itself(home: Path, shelf: Shelf) -> None:
    ingested(home, shelf.q2)
    lose(home)
    recovered(home)
    with opened(settings_of(home)) as stores:
        told = explain(stores, "XBTUSD", "60", iso(int(stores.lake.times(Series("XBTUSD", Interval.H1))[0])), NOW)
    assert [(found.source, found.file) for found in told.evidence] == [("CSV", None)]
    assert "only by its row in the lake" in str(told.evidence[0].note)


def test_minutes_of_trades_do_not_prove_themselves_any_more(home: Path, shelf: Shelf) -> None:
    ingested(home, shelf.trades, intervals=(1, 5))
    with opened(settings_of(home)) as stores, stores.catalog.read() as connection:
        assert proof_records.proven(connection, ["XBTUSD"]).get(MINUTES)
    lose(home)
    recovered(home)
    with opened(settings_of(home)) as stores:
        assert_nothing_false(stores)
        with stores.catalog.read() as connection:
            assert not proof_records.proven(connection, ["XBTUSD"]).get(MINUTES)
        assert {row[0] for row in rows_of(stores, schema.grants, "source") if row} >= {RECOVERED}


def test_everything_is_owed_and_compared_again(home: Path, shelf: Shelf) -> None:
    ingested(home, shelf.q1)
    lose(home)
    recovered(home, shelf.q1)
    with opened(settings_of(home)) as stores, stores.catalog.read() as connection:
        owed = {series for interval in Interval for series in publications.pending(connection, interval)}
        assert owed == set(stores.lake.series())
        assert publications.marked(connection) == {}
        assert proof_records.proven(connection, ["XBTUSD"])


def test_files_of_the_time_before_there_was_a_manifest_are_taken_up(home: Path, shelf: Shelf) -> None:
    ingested(home, shelf.q1)
    for path in files_below(home / "lake"):
        pl.read_parquet(path, hive_partitioning=False).write_parquet(path)
    lose(home)
    done = recovered(home, shelf.q1)
    assert done.verification is not None
    assert done.verification.damaged == ()
    with opened(settings_of(home)) as stores:
        assert verify(stores, run_spec(), RunContext("again", NOW)).status == "ok"
        assert_nothing_false(stores)


def test_a_damaged_file_is_named_and_answers_nothing(home: Path, shelf: Shelf) -> None:
    ingested(home, shelf.q1, shelf.q2)
    lose(home)
    path = home / "lake/interval=60/pair=XBTUSD/candles.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(data)
    done = recovered(home)
    assert done.verification is not None
    assert [damage.path for damage in done.verification.damaged] == ["lake/interval=60/pair=XBTUSD/candles.parquet"]
    with opened(settings_of(home)) as stores:
        assert covered(stores, "XBTUSD", 60) == ()
        assert covered(stores, "ADAEUR", 60) != ()


def test_a_folder_that_is_no_series_is_passed_over(home: Path, shelf: Shelf) -> None:
    before = ingested(home, shelf.q1)
    (home / "lake/interval=60/.DS_Store").touch()
    lose(home)
    recovered(home, shelf.q1)
    with opened(settings_of(home)) as stores:
        assert state(stores) == {**before, "lake": lake_of(stores)}


# --- a catalog that is older than the lake


def test_an_older_catalog_keeps_what_it_says_and_takes_up_what_came_since(home: Path, shelf: Shelf) -> None:
    ingested(home, shelf.q1)
    shutil.copytree(home, home.parent / "saved")
    before = ingested(home, shelf.q2, shelf.q3)
    lose(home)
    for path in (home.parent / "saved").glob("catalog.sqlite*"):
        shutil.copy(path, home)
    with pytest.raises(CatalogLost, match="is older than the lake"):
        create_stores(settings_of(home))

    recovered(home)

    with opened(settings_of(home)) as stores:
        assert lake_of(stores) == before["lake"]
        assert_nothing_false(stores)
        assert [row for row in files_of(stores) if row[4] == "COMPLETED"] == [
            row for row in before["files"] if row[0].startswith(shelf.q1.name)
        ]
        assert verify(stores, run_spec(), RunContext("again", NOW)).status == "ok"
    after = ingested(home, shelf.q2, shelf.q3)
    for what in ("lake", "coverage", "extents", "gaps"):
        assert after[what] == before[what], what


def test_pairs_that_an_older_catalog_never_heard_of_keep_their_ids(home: Path, shelf: Shelf) -> None:
    ingested(home, shelf.q1, pairs="XBTUSD")
    shutil.copytree(home, home.parent / "saved")
    ingested(home, shelf.q1, pairs="ZORKUSD")
    ingested(home, shelf.q1)
    with opened(settings_of(home)) as stores:
        ids = stores.lake.asset_ids.all()
    lose(home)
    for path in (home.parent / "saved").glob("catalog.sqlite*"):
        shutil.copy(path, home)

    done = recovered(home)

    assert done.verification is not None
    assert done.verification.damaged == ()
    with opened(settings_of(home)) as stores:
        assert stores.lake.asset_ids.all().equals(ids)
        assert_nothing_false(stores)
        assert covered(stores, "ZORKUSD", 60) != ()


# --- stopped, and wrong use


def test_a_recovery_that_was_stopped_goes_on(home: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ingested(home, shelf.q1, shelf.q2)
    lose(home)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for stage in ("verify", "_read_again", "_grant_own"):
        with monkeypatch.context() as patch:
            patch.setattr(recovery, stage, stop)
            with pytest.raises(KeyboardInterrupt):
                recovered(home, shelf.q1, shelf.q2)
        with pytest.raises(CatalogLost, match="kraken-pipeline recover is at work"):
            create_stores(settings_of(home))
    recovered(home, shelf.q1, shelf.q2)
    assert state_of(home) == before


def test_a_home_that_has_lost_nothing_stays_as_it_is(home: Path, shelf: Shelf) -> None:
    before = ingested(home, shelf.q1, shelf.q3)
    done = recovered(home)
    assert (done.adopted, done.granted) == (0, 0)
    assert state_of(home) == before


def test_a_folder_that_does_not_exist_is_refused_and_leaves_no_mark(home: Path, shelf: Shelf) -> None:
    ingested(home, shelf.q1)
    with pytest.raises(InvalidRequest, match="there is no file or folder"):
        recovered(home, home / "nowhere")
    state_of(home)


def test_candles_that_were_taken_back_are_spoken_of(home: Path, shelf: Shelf) -> None:
    ingested(home, shelf.q1)
    name = f"{shelf.q1.name}:XBTUSD_60.csv"
    with opened(settings_of(home)) as stores:
        resolve(stores, withdrawal(reason="a spike", file=name), RunContext("resolve", NOW))
    lose(home)
    notes = recovered(home, shelf.q1).notes
    assert any("candles of XBTUSD 60 were withdrawn once (a spike)" in note for note in notes)


# --- another catalog


def test_a_catalog_is_copied_whole_and_the_lake_is_known_then(home: Path, shelf: Shelf, postgresql_url: str) -> None:
    before = ingested(home, shelf.q1, shelf.q3)
    moved = settings_of(home, kraken_catalog_url=postgresql_url)
    with pytest.raises(CatalogLost, match="is empty, and the lake in"):
        create_stores(moved)
    url = f"sqlite:///{home / 'catalog.sqlite'}"

    with recovering(home, kraken_catalog_url=postgresql_url) as stores:
        copied = copy_from(stores, url).copied

    assert copied is not None
    assert copied["lake_files"] > 0
    with opened(moved) as stores:
        assert state(stores) == before
        assert verify(stores, run_spec(), RunContext("again", NOW)).status == "ok"
        homes.run(stores, shelf.q2, api_backfill=False, intervals=INTERVALS)
        assert_nothing_false(stores)
    with recovering(home, kraken_catalog_url=postgresql_url) as stores, pytest.raises(InvalidRequest, match="already"):
        copy_from(stores, url)


@pytest.mark.parametrize("url", ["sqlite:////nowhere/catalog.sqlite", "sqlite:///nowhere.sqlite"])
def test_a_catalog_that_is_not_there_is_not_made(home: Path, url: str) -> None:
    with recovering(home) as stores, pytest.raises(InvalidRequest, match="there is no file"):
        copy_from(stores, url)
    assert not Path("nowhere.sqlite").exists()
