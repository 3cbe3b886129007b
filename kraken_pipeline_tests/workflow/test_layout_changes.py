"""Changes of the layout in a home: killed at any step, by verification, in recoveries and in backups."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.errors import StoreUnavailable
from kraken_pipeline.market.candle import Source, seconds_of
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.lake import last_write, stored_series
from kraken_pipeline.storage.lake.lake import Lake
from kraken_pipeline.storage.lake.writer import CandleWriter, stage_removal
from kraken_pipeline.storage.records import deliveries, evidence_records, manifest
from kraken_pipeline.storage.records.damage import open_damages
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow import lake_write
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.verify import backup
from kraken_pipeline.workflow.verify.recovery import recover
from kraken_pipeline.workflow.verify.repair import repair
from kraken_pipeline.workflow.verify.verification import Verification, verify
from kraken_pipeline_tests.support import damaging
from kraken_pipeline_tests.support.homes import NOW, covered, settings_of
from kraken_pipeline_tests.support.lakes import into_former_layout
from kraken_pipeline_tests.support.samples import CandleRow, at, candle, frame

pytestmark = pytest.mark.slow

MINUTES = Series("XBTUSD", Interval.M1)
FOLDER = "lake/interval=1/pair=XBTUSD"
ALL_YEARS = (2020, 2021, 2022)
WHOLE = {f"{FOLDER}/candles.parquet"}
YEARS = {f"{FOLDER}/{year}.parquet" for year in ALL_YEARS}
FORMER = {f"{FOLDER}/year={year}/candles.parquet" for year in ALL_YEARS}
ROWS = [candle(at(f"{year}-06-01") + 60 * minute, 1.0 + minute) for year in ALL_YEARS for minute in range(3)]
SPAN = Span(at("2020-01-01"), at("2022-12-01"))
MORE = [candle(at("2022-12-01") + 60 * minute) for minute in range(2)]
MORE_SPAN = Span(at("2022-12-01"), at("2022-12-02"))
WAYS = ["whole to years", "years to whole", "former to years", "former to whole"]


class Killed(BaseException):
    """What ends a writer that a test kills."""


def limit(patch: pytest.MonkeyPatch, rows: int) -> None:
    patch.setattr(stored_series, "WHOLE_ROWS", rows)


def write(stores: Stores, candles: list[CandleRow], span: Span | None = None) -> None:
    grants = () if span is None else (Grant(span, Source.CSV, NOW, sum(row[6] for row in candles)),)
    with stores.locks.series([MINUTES]):
        writer = CandleWriter(stores.lake, MINUTES, origin="a test", now=NOW)
        writer.add(frame(candles))
        commit(stores, [LakeWrite(writer.finish(), grants)], NOW)


def rows(stores: Stores) -> list[CandleRow]:
    return stores.lake.read(MINUTES).drop(FLOW).with_columns(seconds_of(pl.col("time"))).rows()


def files(home: Path) -> set[str]:
    return {path.relative_to(home).as_posix() for path in (home / FOLDER).rglob("*") if path.is_file()}


def verified(stores: Stores) -> Verification:
    return verify(stores, run_spec(), RunContext("verify", NOW))


def evidence(stores: Stores) -> object:
    with stores.catalog.read() as connection:
        records = evidence_records.coverage_of(connection, [MINUTES.interval], [MINUTES.pair])
        return records, evidence_records.extents(connection)


def prepared(patch: pytest.MonkeyPatch, home: Path, way: str) -> None:
    """A home whose next write changes the layout of its series."""
    limit(patch, 100 if way == "whole to years" else 0)
    with opened(settings_of(home)) as stores:
        stores.lake.asset_ids.register([parse_pair(MINUTES.pair)])
        write(stores, ROWS, SPAN)
        if way.startswith("former"):
            into_former_layout(stores.lake)
    limit(patch, 0 if way.endswith("years") else 100)


def wanted(way: str) -> set[str]:
    return YEARS if way.endswith("years") else WHOLE


# --- killed


def kill_before(patch: pytest.MonkeyPatch, owner: Any, name: str, calls: int = 0) -> None:
    left = [calls]
    real: Callable[..., Any] = getattr(owner, name)

    def killing(*arguments: Any, **options: Any) -> Any:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return real(*arguments, **options)

    patch.setattr(owner, name, killing)


STEPS: dict[str, tuple[Any, str, int]] = {
    "before it is announced": (manifest, "announce", 0),
    "announced": (lake_write, "move_all", 0),
    "one file renamed": (Path, "rename", 1),
    "all renamed": (last_write, "note", 0),
    "before it is confirmed": (manifest, "confirm", 0),
    "confirmed and not retired": (manifest, "retire", 0),
    "coverage not granted": (evidence_records, "grant", 0),
    "committed": (Lake, "clear", 0),
    "no file deleted": (Path, "unlink", 0),
    "one file deleted": (Path, "unlink", 1),
    "all deleted": (manifest, "strike", 0),
}
COMMITTED = ("committed", "no file deleted", "one file deleted", "all deleted")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", STEPS)
def test_a_write_that_is_killed_at_any_step_leaves_all_candles_once_and_the_evidence_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, step: str
) -> None:
    home = tmp_path / "cleared by a write"
    prepared(monkeypatch, home, way)
    with opened(settings_of(home)) as stores:
        before = evidence(stores)
        with monkeypatch.context() as patch, suppress(Killed):
            kill_before(patch, *STEPS[step])
            write(stores, MORE, MORE_SPAN)
    shutil.copytree(home, tmp_path / "cleared by a verification")
    is_in = step in COMMITTED
    expected, span = ([*ROWS, *MORE], Span(SPAN.start, MORE_SPAN.end)) if is_in else (ROWS, SPAN)
    for found in tmp_path.iterdir():
        with opened(settings_of(found)) as stores:
            assert rows(stores) == expected
            assert stores.lake.times(MINUTES).to_list() == [row[0] for row in expected]
            assert stores.lake.damaged(MINUTES) == []
            assert covered(stores, "XBTUSD", 1) == (span,)
            assert is_in or evidence(stores) == before
            if found == home:
                write(stores, ROWS[:1])
            else:
                assert verified(stores).status == "ok"
            assert files(found) == set(stores.lake.manifest.reread(MINUTES).files) == wanted(way)
            assert rows(stores) == expected
            assert is_in or evidence(stores) == before
            write(stores, MORE, MORE_SPAN)
            assert rows(stores) == [*ROWS, *MORE]
            assert covered(stores, "XBTUSD", 1) == (Span(SPAN.start, MORE_SPAN.end),)
            assert verified(stores).status == "ok"
            assert files(found) == wanted(way)


def test_every_step_comes_in_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (owner, name, calls) in enumerate(STEPS.values()):
        home = tmp_path / f"{number}"
        prepared(monkeypatch, home, "former to years")
        with opened(settings_of(home)) as stores, monkeypatch.context() as patch:
            kill_before(patch, owner, name, calls)
            with pytest.raises(Killed):
                write(stores, MORE, MORE_SPAN)


def test_of_a_first_write_that_is_killed_before_its_files_are_there_a_verification_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, 0)
    with opened(settings_of(tmp_path)) as stores:
        with monkeypatch.context() as patch, suppress(Killed):
            kill_before(patch, lake_write, "move_all")
            write(stores, ROWS, SPAN)
        limit(monkeypatch, 100)
        assert verified(stores).status == "ok"
        assert files(tmp_path) == set()
        write(stores, ROWS, SPAN)
        assert files(tmp_path) == set(stores.lake.manifest.reread(MINUTES).files) == WHOLE


def test_on_postgresql_a_write_that_lost_its_locks_deletes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgresql_url: str
) -> None:
    with opened(settings_of(tmp_path, kraken_catalog_url=postgresql_url)) as stores:
        write(stores, ROWS, SPAN)
        for most, layout, other in ((0, YEARS, WHOLE), (100, WHOLE, YEARS)):
            limit(monkeypatch, most)
            asked = 0
            require = stores.locks.require

            def lost_at_last(names: Iterable[Series], require: Callable[[Iterable[Series]], None] = require) -> None:
                nonlocal asked
                asked += 1
                if asked == 3:  # before the renames, before the files are confirmed, and before others are deleted
                    raise StoreUnavailable("lost")
                require(names)

            with monkeypatch.context() as patch:
                patch.setattr(stores.locks, "require", lost_at_last)
                write(stores, ROWS[:1])
            assert asked == 3
            assert files(tmp_path) == layout | other
            assert rows(stores) == ROWS
            assert verified(stores).status == "ok"
            assert files(tmp_path) == set(stores.lake.manifest.reread(MINUTES).files) == layout
            assert (rows(stores), covered(stores, "XBTUSD", 1)) == (ROWS, (SPAN,))


# --- verification


@pytest.mark.parametrize("way", WAYS)
def test_a_verification_stores_a_series_anew_that_nothing_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    prepared(monkeypatch, tmp_path, way)
    with opened(settings_of(tmp_path)) as stores:
        before = evidence(stores)
        found = verified(stores)
        assert (found.status, found.adopted, found.damaged) == ("ok", 0, ())
        assert files(tmp_path) == set(stores.lake.manifest.reread(MINUTES).files) == wanted(way)
        assert not list((tmp_path / FOLDER).glob("year=*"))
        assert (rows(stores), evidence(stores)) == (ROWS, before)
        inodes = {path: (tmp_path / path).stat().st_ino for path in files(tmp_path)}
        assert verified(stores).status == "ok"
        assert {path: (tmp_path / path).stat().st_ino for path in files(tmp_path)} == inodes


def test_a_verification_leaves_a_damaged_series_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(monkeypatch, tmp_path, "years to whole")
    flipped = f"{FOLDER}/2021.parquet"
    damaging.flip(tmp_path / flipped, 1)
    with opened(settings_of(tmp_path)) as stores:
        # A quick one compares no bytes, and finds the damage when it reads the file.
        found = verify(stores, run_spec(), RunContext("verify", NOW), quick=True)
        assert [(damage.path, damage.kind) for damage in found.damaged] == [(flipped, DamageKind.CHANGED)]
        assert files(tmp_path) == YEARS
        assert not any(span.overlaps(Span(at("2021-01-01"), at("2022-01-01"))) for span in covered(stores, "XBTUSD", 1))
        done = repair(stores, run_spec(api_backfill=False), RunContext("repair", NOW))
        assert list(done.moved) == [flipped]
        assert verified(stores).status == "ok"
        assert files(tmp_path) == WHOLE
        assert rows(stores) == [*ROWS[:3], *ROWS[6:]]


@pytest.mark.parametrize("way", ["whole to years", "years to whole"])
def test_a_file_of_another_layout_is_unknown_costs_no_coverage_and_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    prepared(monkeypatch, tmp_path / "home", way)
    shutil.copytree(tmp_path / "home", tmp_path / "other")
    with opened(settings_of(tmp_path / "home")) as stores:
        write(stores, ROWS[:1])
        strays = files(tmp_path / "other")
        for path in strays:
            shutil.copy(tmp_path / "other" / path, tmp_path / "home" / path)
        before = evidence(stores)
        assert rows(stores) == ROWS
        assert stores.lake.damaged(MINUTES) == []
        found = verified(stores)
        assert {(damage.path, damage.kind) for damage in found.damaged} == {
            (path, DamageKind.UNKNOWN) for path in strays
        }
        assert (rows(stores), evidence(stores)) == (ROWS, before)
        assert set(repair(stores, run_spec(api_backfill=False), RunContext("repair", NOW)).moved) == strays
        assert (rows(stores), evidence(stores)) == (ROWS, before)
        assert verified(stores).status == "ok"
        assert files(tmp_path / "home") == wanted(way)


# --- what QuestDB has


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("has_all", [True, False])
def test_what_questdb_has_of_a_series_it_has_in_any_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, has_all: bool
) -> None:
    prepared(monkeypatch, tmp_path, way)
    with opened(settings_of(tmp_path)) as stores:
        with stores.catalog.write() as connection:
            connection.execute(sa.delete(schema.publications))
            deliveries.record(connection, [MINUTES], NOW)
            if not has_all:
                deliveries.forget(connection, [min(files(tmp_path))])
        verified(stores)
        with stores.catalog.read() as connection:
            delivered = {path: deliveries.of_path(connection, path) for path in WHOLE | YEARS | FORMER}
        recorded = stores.lake.manifest.reread(MINUTES).files
        assert {path: (record.rows, record.digest) for path, record in delivered.items() if record is not None} == (
            {path: (its[0].rows, its[0].digest) for path, its in recorded.items()} if has_all else {}
        )
        write(stores, MORE, MORE_SPAN)
        with stores.catalog.read() as connection:
            left = {path for path in WHOLE | YEARS if deliveries.of_path(connection, path) is not None}
        assert left == (set(recorded) - {f"{FOLDER}/2022.parquet"} - WHOLE if has_all else set())


# --- without the catalog that the lake was written with


def lose(home: Path) -> None:
    for path in home.glob("catalog.sqlite*"):
        path.unlink()
    last_write.forget(home)


def recovered(home: Path) -> tuple[str, ...]:
    with opened(settings_of(home), is_recovering=True) as stores:
        done = recover(stores, run_spec(api_backfill=False), RunContext("recover", NOW))
    assert done.verification is not None
    assert done.verification.damaged == ()
    return done.notes


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", ["one file renamed", "all renamed", "committed", "one file deleted", "all deleted"])
def test_a_recovery_records_the_layout_that_is_complete_and_sets_the_other_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, step: str
) -> None:
    home = tmp_path / "home"
    prepared(monkeypatch, home, way)
    with opened(settings_of(home)) as stores, monkeypatch.context() as patch, suppress(Killed):
        kill_before(patch, *STEPS[step])
        write(stores, MORE, MORE_SPAN)
    lose(home)
    there = files(home)
    notes = recovered(home)
    with opened(settings_of(home)) as stores:
        found = rows(stores)
        assert found[: len(ROWS)] == ROWS
        assert found[len(ROWS) :] in ([], MORE)
        if step in COMMITTED:
            assert found == [*ROWS, *MORE]
        assert files(home) == set(stores.lake.manifest.reread(MINUTES).files) == wanted(way)
        assert verified(stores).status == "ok"
    aside = [path for path in (home / "damaged").rglob("*") if path.is_file()] if (home / "damaged").exists() else []
    assert len([note for note in notes if "was left by a write that was killed" in note]) == len(aside)
    layouts = [there & layout for layout in (WHOLE, YEARS, FORMER) if there & layout]
    assert (len(aside) > 0) is (len(layouts) > 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("brings", [0, 2])
def test_a_catalog_that_is_older_than_the_layout_takes_up_the_files_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, brings: int
) -> None:
    home = tmp_path / "home"
    prepared(monkeypatch, home, way)
    shutil.copytree(home, tmp_path / "saved")
    with opened(settings_of(home)) as stores:
        write(stores, [*ROWS[:1], *MORE[:brings]], SPAN)
        expected = rows(stores)
    lose(home)
    for path in (tmp_path / "saved").glob("catalog.sqlite*"):
        shutil.copy(path, home)
    with opened(settings_of(home)) as stores:
        found = verified(stores)
        assert (found.status, found.adopted) == ("ok", len(wanted(way)))
        assert rows(stores) == expected
        assert covered(stores, "XBTUSD", 1) == (SPAN,)
        with stores.catalog.read() as connection:
            assert evidence_records.extents(connection)[MINUTES].candles == len(expected)
            assert open_damages(connection) == []
        assert verified(stores).status == "ok"
        assert files(home) == wanted(way)


@pytest.mark.parametrize("way", WAYS)
def test_an_older_catalog_claims_nothing_where_later_files_have_fewer_candles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    home = tmp_path / "home"
    prepared(monkeypatch, home, way)
    shutil.copytree(home, tmp_path / "saved")
    with opened(settings_of(home)) as stores:
        write(stores, ROWS[:1])
        gone = stores.lake.read(MINUTES)[4:5]
        with stores.locks.series([MINUTES]):
            commit(stores, [LakeWrite(stage_removal(stores.lake, MINUTES, gone, origin="wrong", now=NOW), ())], NOW)
    lose(home)
    for path in (tmp_path / "saved").glob("catalog.sqlite*"):
        shutil.copy(path, home)
    with opened(settings_of(home)) as stores:
        verified(stores)
        assert rows(stores) == [*ROWS[:4], *ROWS[5:]]
        assert covered(stores, "XBTUSD", 1) == ()
        assert verified(stores).status == "ok"


# --- backups


def saved_while(patch: pytest.MonkeyPatch, stores: Stores, to: Path, number: int) -> bool:
    """Backs a home up, while a write changes the layout right before one of its files is copied."""
    left = list(range(number + 1))
    copies = backup._copy

    def copying(path: Path, target: Path, scratch: Path, others: Any, *, links: bool) -> bool:
        if left:
            left.pop()
            if not left:
                write(stores, MORE, MORE_SPAN)
        return copies(path, target, scratch, others, links=links)

    with patch.context() as inner:
        inner.setattr(backup, "_copy", copying)
        backup.back_up(stores, to)
    return not left


@pytest.mark.parametrize("way", WAYS)
def test_a_backup_has_all_candles_at_whatever_moment_the_layout_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    number = 0
    while True:
        here = tmp_path / f"{number}"
        prepared(monkeypatch, here / "home", way)
        with opened(settings_of(here / "home")) as stores:
            is_done = not saved_while(monkeypatch, stores, here / "saved", number)
        backed_up, found = backup.restore(settings_of(here / "there"), here / "saved", RunContext("restore", NOW))
        assert backed_up.files == len([path for path in (here / "saved" / "lake").rglob("*") if path.is_file()])
        assert found.status == "ok"
        with opened(settings_of(here / "there")) as stores:
            assert rows(stores)[: len(ROWS)] == ROWS
            assert rows(stores)[len(ROWS) :] in ([], MORE)
            assert covered(stores, "XBTUSD", 1) == (SPAN,)
            assert verified(stores).status == "ok"
            assert files(here / "there") == wanted(way)
        if is_done:
            break
        number += 1
    assert number >= (2 if way == "whole to years" else 4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("links", [True, False])
def test_an_earlier_backup_follows_the_layout_and_loses_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, *, links: bool
) -> None:
    home, saved = tmp_path / "home", tmp_path / "saved"
    prepared(monkeypatch, home, way)
    with opened(settings_of(home)) as stores:
        before = files(home)
        backup.back_up(stores, saved, links=links)
        assert files(saved) == before
        others = [saved / "lake/interval=60/pair=XBTUSD/candles.parquet", saved / FOLDER / "notes", saved / "mine"]
        for path in others:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("something else")
        write(stores, MORE, MORE_SPAN)
        with monkeypatch.context() as patch:
            kill_before(patch, backup, "_remove_replaced")
            with pytest.raises(Killed):
                backup.back_up(stores, saved, links=links)
        assert files(saved) - {f"{FOLDER}/notes"} == before | wanted(way)
        done = backup.back_up(stores, saved, links=links)
        expected = rows(stores), covered(stores, "XBTUSD", 1)
    assert files(saved) - {f"{FOLDER}/notes"} == wanted(way)
    assert all(path.read_text() == "something else" for path in others)
    for path in others:
        path.unlink()
    assert (done.files, done.linked) == (len(wanted(way)) + 1, (len(wanted(way)) + 1) * links)
    assert backup.restore(settings_of(tmp_path / "there"), saved, RunContext("restore", NOW))[1].status == "ok"
    with opened(settings_of(tmp_path / "there")) as stores:
        assert (rows(stores), covered(stores, "XBTUSD", 1)) == expected


@pytest.mark.parametrize("way", WAYS)
def test_an_earlier_backup_that_was_not_brought_up_to_date_in_full_can_be_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    home, saved = tmp_path / "home", tmp_path / "saved"
    prepared(monkeypatch, home, way)
    with opened(settings_of(home)) as stores:
        backup.back_up(stores, saved)
        write(stores, ROWS[:1])
        with monkeypatch.context() as patch:
            patch.setattr(backup, "_copy_folders", copied_and_killed(backup._copy_folders))
            with pytest.raises(Killed):
                backup.back_up(stores, saved)
    assert backup.restore(settings_of(tmp_path / "there"), saved, RunContext("restore", NOW))[1].status == "ok"
    with opened(settings_of(tmp_path / "there")) as stores:
        assert (rows(stores), covered(stores, "XBTUSD", 1)) == (ROWS, (SPAN,))
        assert files(tmp_path / "there") == wanted(way)


def copied_and_killed(copies: Callable[..., Any]) -> Callable[..., Any]:
    def copying(*arguments: Any, **options: Any) -> Any:
        copies(*arguments, **options)
        raise Killed

    return copying
