from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from kraken_pipeline.errors import DamagedFile, StoreError
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.lake.asset_ids import ASSET_IDS_FILE
from kraken_pipeline.storage.records import evidence_records, manifest
from kraken_pipeline.storage.records.damage import open_damages
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.explain.explain import explain
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.report.report import make_report
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.verify.repair import Repair, repair
from kraken_pipeline.workflow.verify.verification import Verification, verify
from kraken_pipeline_tests.support import damaging
from kraken_pipeline_tests.support.homes import (
    NOW,
    Shelf,
    covered,
    evidence_of,
    lake_of,
    oracle,
    rows_of,
    run,
    settings_of,
    stored,
)
from kraken_pipeline_tests.support.lakes import into_former_layout

pytestmark = pytest.mark.slow

HOURS = Series("XBTUSD", Interval.H1)
HOURS_PATH = "lake/interval=60/pair=XBTUSD/candles.parquet"
MINUTES_PATH = "lake/interval=1/pair=XBTUSD/candles.parquet"
FORMER_PATH = "lake/interval=1/pair=XBTUSD/year=2023/candles.parquet"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Path:
    """A home with hours, days and minutes, and what follows from them; its archives lie elsewhere."""
    home = tmp_path_factory.mktemp("filled") / "home"
    with opened(settings_of(home)) as stores:
        run(stores, shelf.q1, shelf.q2, shelf.minutes, pairs=["XBTUSD", "ADAEUR"])
    return home


@pytest.fixture
def there(filled: Path, tmp_path: Path) -> Iterator[Stores]:
    """That home, of the test's own."""
    with opened(settings_of(Path(shutil.copytree(filled, tmp_path / "home")))) as stores:
        yield stores


def verified(stores: Stores, **options: Any) -> Verification:
    return verify(stores, run_spec(), RunContext("verify", NOW), **options)


def repaired(stores: Stores, **options: Any) -> Repair:
    return repair(stores, run_spec(api_backfill=False, **options), RunContext("repair", NOW))


def no_false_claim(stores: Stores, pair: str, interval: int) -> None:
    """Wherever a series is covered, the lake has what happened, and nothing else."""
    for span in covered(stores, pair, interval):
        # An archive's candle is the truth, and stored ones are never others.
        assert stored(stores, pair, interval, span.start, span.end) == oracle(pair, interval, span.start, span.end)


def test_an_undamaged_lake_is_said_to_be_so_and_nothing_of_it_changes(there: Stores) -> None:
    before = lake_of(there), evidence_of(there)
    found = verified(there)
    assert (found.status, found.damaged, found.adopted) == ("ok", (), 0)
    assert (
        found.files
        == sum(1 for folder in ("lake", "replaced") for _ in (there.lake.home / folder).rglob("*.parquet")) - 1
    )
    assert found.bytes > 0
    assert (lake_of(there), evidence_of(there)) == before
    assert verified(there, quick=True).status == "ok"


@pytest.mark.parametrize("way", damaging.WAYS)
@pytest.mark.parametrize("path", [HOURS_PATH, MINUTES_PATH])
def test_damage_is_named_uncovers_what_the_file_held_and_heals_from_the_archives(
    there: Stores, way: str, path: str
) -> None:
    before = lake_of(there), evidence_of(there)
    series = Series("XBTUSD", Interval.H1 if path == HOURS_PATH else Interval.M1)
    damaging.WAYS[way](there.lake.home / path)
    found = verified(there)
    (damage,) = found.damaged
    kinds = {"deleted": DamageKind.MISSING, "flipped": DamageKind.CHANGED, "overwritten": DamageKind.CHANGED}
    assert (damage.path, damage.series, damage.kind) == (path, series, kinds.get(way, DamageKind.CHANGED))
    assert covered(there, series.pair, series.interval.value) == ()
    assert "verify --repair" in damage.action
    done = repaired(there)
    assert done.verification.status == "repaired"
    assert verified(there).status == "ok"
    assert (lake_of(there), evidence_of(there)["coverage"]) == (before[0], before[1]["coverage"])
    assert (there.lake.home / "damaged").exists() is (way != "deleted")


@pytest.mark.parametrize("seed", range(30))
def test_any_flipped_bit_is_found(there: Stores, seed: int) -> None:
    damaging.flip(there.lake.home / HOURS_PATH, seed)
    (damage,) = verified(there).damaged
    assert damage.path == HOURS_PATH


@pytest.mark.parametrize("way", ["truncated", "emptied", "overwritten", "deleted"])
def test_a_reader_refuses_a_damaged_file_says_what_to_do_and_puts_it_on_record(there: Stores, way: str) -> None:
    damaging.WAYS[way](there.lake.home / HOURS_PATH)
    with pytest.raises(DamagedFile, match=r"candles\.parquet .*kraken-pipeline verify --repair") as error:
        there.lake.read(HOURS)
    assert error.value.paths == (HOURS_PATH,)
    assert covered(there, "XBTUSD", 60) == ()
    with there.catalog.read() as connection:
        assert [damage.path for damage in open_damages(connection)] == [HOURS_PATH]
    # Others are read as ever.
    assert stored(there, "ADAEUR", 60) != []


def test_a_file_of_another_write_is_refused_by_its_footer_where_all_else_is_equal(
    there: Stores, tmp_path: Path, shelf: Shelf
) -> None:
    own = there.lake.home / HOURS_PATH
    with opened(settings_of(tmp_path / "other")) as other:
        run(other, shelf.q1, shelf.q2, shelf.minutes, pairs=["XBTUSD", "ADAEUR"])
        foreign = other.lake.home / HOURS_PATH
    assert foreign.stat().st_size == own.stat().st_size
    shutil.copy(foreign, own)
    with pytest.raises(DamagedFile, match="has the footer of write"):
        there.lake.read(HOURS)
    assert covered(there, "XBTUSD", 60) == ()


def test_a_flipped_bit_that_no_reader_can_see_is_answered_as_data_no_longer_once_it_was_found(there: Stores) -> None:
    path = there.lake.home / HOURS_PATH
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1  # among the values: size and footer stay what they were
    path.write_bytes(content)
    before = there.lake.times(HOURS).len()
    assert verified(there, quick=True).status == "ok"
    assert verified(there).status == "damaged"
    with pytest.raises(DamagedFile, match="has other bytes"):
        there.lake.read(HOURS)
    assert verified(there, quick=True).status == "damaged", "size and footer prove nothing"
    assert covered(there, "XBTUSD", 60) == ()
    with there.catalog.read() as connection:
        assert HOURS not in evidence_records.extents(connection)
    assert repaired(there).verification.status == "repaired"
    assert there.lake.times(HOURS).len() == before


def test_explain_says_gap_and_why(there: Stores) -> None:
    moment = "2023-05-02T13:00"
    assert explain(there, "XBTUSD", 60, moment, NOW).candle is not None
    damaging.delete(there.lake.home / HOURS_PATH)
    told = explain(there, "XBTUSD", 60, moment, NOW)
    assert (told.standing, told.candle) == ("GAP", None)
    assert any("does not exist" in refutation.reason for refutation, _ in told.refutations)


def test_what_was_damaged_is_neither_quiet_nor_proven_in_the_report(there: Stores) -> None:
    damaging.delete(there.lake.home / HOURS_PATH)
    verified(there)
    (hours,) = make_report(there, run_spec(pairs=["XBTUSD"], intervals=[60]), NOW).series
    assert (hours.covered, hours.candles, hours.quiet, hours.proven) == (0, 0, 0, 0)


def test_a_file_that_comes_back_is_believed_again(there: Stores) -> None:
    before = lake_of(there), evidence_of(there)["coverage"]
    path = there.lake.home / HOURS_PATH
    content = path.read_bytes()
    path.unlink()
    verified(there)
    assert covered(there, "XBTUSD", 60) == ()
    path.write_bytes(content)
    assert verified(there).status == "ok"
    assert (lake_of(there), evidence_of(there)["coverage"]) == before


@pytest.mark.parametrize("way", damaging.WAYS)
def test_a_write_carries_nothing_of_a_damaged_file_on(there: Stores, shelf: Shelf, way: str) -> None:
    damaging.WAYS[way](there.lake.home / HOURS_PATH)
    # The same command as ever: what the damaged file had covered is read again with it.
    run(there, shelf.q3, pairs=["XBTUSD"])
    assert verified(there).status == "ok"
    no_false_claim(there, "XBTUSD", 60)
    run(there, shelf.q1, shelf.q2, shelf.q3, pairs=["XBTUSD", "ADAEUR"])
    assert stored(there, "XBTUSD", 60) == oracle("XBTUSD", 60, 0, NOW)[: len(stored(there, "XBTUSD", 60))]
    no_false_claim(there, "XBTUSD", 60)


def test_without_the_archives_what_finer_candles_have_comes_back_and_the_rest_is_a_gap(
    tmp_path: Path, shelf: Shelf
) -> None:
    with opened(settings_of(tmp_path / "home")) as stores:
        archives = [Path(shutil.copy(path, tmp_path)) for path in (shelf.q1, shelf.q2)]
        run(stores, *archives, pairs=["XBTUSD"])
        for path in archives:
            path.unlink()
        damaging.delete(stores.lake.home / "lake/interval=1440/pair=XBTUSD/candles.parquet")
        damaging.flip(stores.lake.home / HOURS_PATH)
        done = repaired(stores)
        assert done.verification.status == "repaired"
        assert stored(stores, "XBTUSD", 60) == []
        no_false_claim(stores, "XBTUSD", 240)
        gaps = {gap.series: gap for gap in done.backfilled.gaps} if done.backfilled else {}
        assert HOURS in gaps
        assert "Kraken_OHLCVT_Q2_2023.zip" in (gaps[HOURS].required_csv_file or "")


def test_a_file_that_nobody_wrote_is_unknown_and_set_aside(there: Stores) -> None:
    stray = there.lake.home / "lake/interval=60/pair=XBTUSD/notes.parquet"
    pl.DataFrame({"a": [1]}).write_parquet(stray)
    elsewhere = there.lake.home / "lake/README"
    elsewhere.write_text("mine")
    found = verified(there)
    assert {(damage.path, damage.kind) for damage in found.damaged} == {
        ("lake/interval=60/pair=XBTUSD/notes.parquet", DamageKind.UNKNOWN),
        ("lake/README", DamageKind.UNKNOWN),
    }
    assert covered(there, "XBTUSD", 60) != ()
    done = repaired(there)
    assert sorted(done.moved) == ["lake/README", "lake/interval=60/pair=XBTUSD/notes.parquet"]
    assert not stray.exists()
    assert (there.lake.home / done.moved["lake/README"]).read_text() == "mine"
    assert verified(there).status == "ok"


@pytest.mark.parametrize("way", damaging.WAYS)
def test_the_copy_of_the_ids_is_written_anew_and_ids_stay_what_they_are(there: Stores, way: str) -> None:
    before = there.lake.asset_ids.all()
    damaging.WAYS[way](there.lake.home / ASSET_IDS_FILE)
    assert there.lake.asset_ids.all().equals(before)
    (damage,) = verified(there).damaged
    assert damage.path == "lake/assets.parquet"
    assert repaired(there).verification.status == "repaired"
    assert pl.read_parquet(there.lake.home / ASSET_IDS_FILE).equals(before)


# --- homes from before there was a manifest


@pytest.fixture
def before(there: Stores) -> Stores:
    """The home as an earlier version left it: no manifest, a folder a year, files that say nothing of themselves."""
    assert into_former_layout(there.lake)
    for path in (there.lake.home / "lake").rglob("candles.parquet"):
        pl.read_parquet(path, hive_partitioning=False).write_parquet(path)
    with there.catalog.write() as connection:
        connection.execute(sa.delete(schema.lake_files))
        known = sa.select(schema.extents.c.pair, schema.extents.c.interval)
        connection.execute(sa.insert(schema.unadopted).from_select(["pair", "interval"], known))
    there.lake.manifest.forget(there.lake.series())
    return there


def test_a_home_without_a_manifest_is_read_and_written_as_ever_and_adopted_by_the_first_verification(
    before: Stores, shelf: Shelf
) -> None:
    was = lake_of(before), evidence_of(before)["coverage"]
    assert stored(before, "XBTUSD", 60) != []
    files = list((before.lake.home / "lake").rglob("candles.parquet"))
    assert before.lake.home / FORMER_PATH in files
    found = verified(before)
    assert (found.status, found.adopted) == ("ok", len(files))
    assert before.lake.home / FORMER_PATH not in set((before.lake.home / "lake").rglob("candles.parquet")), (
        "what is on record is stored anew"
    )
    assert (lake_of(before), evidence_of(before)["coverage"]) == was
    assert rows_of(before, schema.unadopted, "pair") == []
    damaging.flip(before.lake.home / HOURS_PATH)
    assert [damage.path for damage in verified(before).damaged] == [HOURS_PATH]


def test_a_write_puts_the_file_on_record_that_it_replaces(before: Stores, shelf: Shelf) -> None:
    run(before, shelf.q3, pairs=["XBTUSD"])
    assert HOURS_PATH in before.lake.manifest.reread(HOURS).files
    assert verified(before).status == "ok"
    no_false_claim(before, "XBTUSD", 60)


@pytest.mark.parametrize("path", [HOURS_PATH, FORMER_PATH])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_file_that_lacks_candles_is_not_adopted(before: Stores, path: str, is_there: bool) -> None:
    file = before.lake.home / path
    pl.read_parquet(file, hive_partitioning=False).head(-100).write_parquet(file)
    if not is_there:
        file.unlink()
    (damage,) = verified(before).damaged
    assert (damage.path, damage.kind) == (path, DamageKind.CHANGED if is_there else DamageKind.MISSING)
    assert covered(before, "XBTUSD", 60 if path == HOURS_PATH else 1) == ()
    assert repaired(before).verification.status == "repaired"
    no_false_claim(before, "XBTUSD", 60)
    assert covered(before, "XBTUSD", 60) != ()


# --- a lake that is newer than the catalog, as from a backup


def test_a_later_write_than_the_catalog_knows_is_adopted_as_rows_without_coverage(
    filled: Path, there: Stores, shelf: Shelf, tmp_path: Path
) -> None:
    home = there.lake.home
    run(there, shelf.q3, pairs=["XBTUSD"])
    newer = stored(there, "XBTUSD", 60)
    there.close()
    for path in home.glob("catalog.sqlite*"):
        path.unlink()
    for path in filled.glob("catalog.sqlite*"):
        shutil.copy(path, home)
    with opened(settings_of(home), is_recovering=True) as stores:
        was = covered(stores, "XBTUSD", 60)
        with pytest.raises(DamagedFile):
            stores.lake.read(HOURS)
        found = verified(stores)
        assert found.status == "ok"
        assert stored(stores, "XBTUSD", 60) == newer
        assert covered(stores, "XBTUSD", 60) == was
        no_false_claim(stores, "XBTUSD", 60)
        run(stores, shelf.q3, pairs=["XBTUSD"])
        assert covered(stores, "XBTUSD", 60) != was


# --- the catalog's evidence


@pytest.mark.parametrize(
    ("table", "column"),
    [
        (schema.grants, "end"),
        (schema.coverage, "end"),
        (schema.extents, "candles"),
        (schema.candle_counts, "year"),
        (schema.lake_files, "rows"),
    ],
)
def test_a_row_of_evidence_that_was_changed_claims_nothing_and_is_answered_again(
    there: Stores, table: sa.Table, column: str
) -> None:
    before = evidence_of(there)["coverage"], evidence_of(there)["extents"]
    key = [(table.c.pair == "XBTUSD"), (table.c.interval == 60)]
    with there.catalog.write() as connection:
        connection.execute(sa.update(table).where(*key).values({column: table.c[column] + 86_400}))
    if table is not schema.lake_files:  # which has it that nothing is read at all
        no_false_claim(there, "XBTUSD", 60)
    repaired(there)
    assert (evidence_of(there)["coverage"], evidence_of(there)["extents"]) == before
    assert verified(there).status == "ok"


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (schema.disputes, {"pair": "XBTUSD", "interval": 60, "start": 0, "end": 3_600}),
        (schema.anchors, {"pair": "XBTUSD", "moment": 0, "trade_id": 7, "asked_at": NOW}),
        (
            schema.absent_ids,
            {"pair": "XBTUSD", "first": 1, "last": 2, "start": 0, "end": 9, "parts": 1, "run_id": "one", "seen_at": 9},
        ),
        (schema.absences, {"pair": "XBTUSD", "listed_at": 7}),
    ],
)
def test_a_record_that_was_changed_is_taken_out_and_what_the_files_say_is_kept(
    there: Stores, table: sa.Table, row: dict[str, Any]
) -> None:
    before = lake_of(there), evidence_of(there)["coverage"]
    with there.catalog.write() as connection:
        connection.execute(sa.insert(table).values(checksum=1, **row))
    assert repaired(there).verification.damaged == ()
    assert rows_of(there, table, "pair") == []
    assert (lake_of(there), evidence_of(there)["coverage"]) == before
    assert verified(there).status == "ok"


def test_coverage_that_does_not_follow_from_grants_is_derived_again(there: Stores) -> None:
    before = evidence_of(there)["coverage"]
    with there.catalog.write() as connection:
        connection.execute(sa.delete(schema.coverage).where(schema.coverage.c.pair == "XBTUSD"))
    verified(there)
    assert evidence_of(there)["coverage"] == before


def test_a_part_is_what_was_read_least_recently_and_all_is_read_in_time(there: Stores) -> None:
    with there.catalog.read() as connection:
        count = len(manifest.all_files(connection))
    seen = 0
    for _ in range(5):
        seen += verified(there, part=0.2).files
    assert seen >= count
    with there.catalog.read() as connection:
        files = [file for files in manifest.all_files(connection).values() for file in files]
    assert all(file.scrubbed_at is not None for file in files)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("asked_intervals", "interval", "61"),
        ("attempts", "route", "CAST(x'5452414445c1' AS TEXT)"),
        ("gaps", "status", "'DETECTER'"),
        ("reports", "numbers", "'{'"),
        ("publications", "interval", "'sixty'"),
    ],
)
def test_a_row_in_which_no_such_value_can_stand_is_named_and_taken_out(
    there: Stores, table: str, column: str, value: str
) -> None:
    fill = {
        "asked_intervals": "(interval, asked_at) VALUES (60, 1)",
        "attempts": '(pair, interval, start, "end", route, run_id, made_at) '
        "VALUES ('XBTUSD', 60, 0, 3600, 'OHLC', 'run', 1)",
        "gaps": '(pair, interval, start, "end", missing_candles, overflow_candles, route, status, attempts, '
        "detected_at) VALUES ('XBTUSD', 60, 0, 3600, 1, 0, 'OHLC', 'DETECTED', 0, 1)",
        "reports": "(tier, made_at, numbers) VALUES ('ALL', 1, '{}')",
        "publications": "(pair, interval, start, \"end\", made_at) VALUES ('XBTUSD', 60, 0, 3600, 1)",
    }
    before = lake_of(there), evidence_of(there)["coverage"]
    with there.catalog.write() as connection:
        connection.execute(sa.text(f"DELETE FROM {table}"))
        connection.execute(sa.text(f"INSERT INTO {table} {fill[table]}"))
        connection.execute(sa.text(f"UPDATE {table} SET {column} = {value}"))
    with pytest.raises(StoreError, match=r"damaged .*verify --repair"):
        rows_of(there, schema.metadata.tables[table], column)
    assert repaired(there).verification.damaged == ()
    rows_of(there, schema.metadata.tables[table], column)
    assert (lake_of(there), evidence_of(there)["coverage"]) == before


def test_a_text_of_evidence_that_cannot_be_decoded_fails_its_checksum_and_heals(there: Stores) -> None:
    before = evidence_of(there)["coverage"]
    with there.catalog.write() as connection:
        connection.execute(sa.text("UPDATE grants SET source = CAST(x'43ff56' AS TEXT) WHERE id = 1"))
    assert "rows of grants" in verified(there).damaged[0].detail
    assert repaired(there).verification.damaged == ()
    assert evidence_of(there)["coverage"] == before


def test_the_ids_of_pairs_come_back_from_the_file_beside_the_candles(there: Stores) -> None:
    before = there.lake.asset_ids.all().rows(), lake_of(there)
    with there.catalog.write() as connection:
        connection.execute(sa.text("UPDATE assets SET pair = 'XBTUSE' WHERE pair = 'XBTUSD'"))
    (damage,) = verified(there).damaged
    assert damage.path == "lake/assets.parquet"
    assert repaired(there).verification.damaged == ()
    assert (there.lake.asset_ids.all().rows(), lake_of(there)) == before
    assert verified(there).status == "ok"
