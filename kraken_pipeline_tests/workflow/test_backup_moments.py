"""Backups whose catalog is saved in the middle of a write, and whose lake is copied after that write and later ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.storage.catalog import dumps
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.verify import backup
from kraken_pipeline.workflow.verify.repair import repair
from kraken_pipeline.workflow.verify.verification import verify
from kraken_pipeline_tests.support import damaging
from kraken_pipeline_tests.support.homes import NOW, covered, settings_of
from kraken_pipeline_tests.support.samples import at, candle
from kraken_pipeline_tests.workflow.test_layout_changes import (
    FOLDER,
    MINUTES,
    ROWS,
    SPAN,
    STEPS,
    WAYS,
    WHOLE,
    YEARS,
    Killed,
    evidence,
    files,
    kill_before,
    limit,
    prepared,
    rows,
    verified,
    write,
)

pytestmark = pytest.mark.slow

DAYS = [Span(at(f"2022-12-0{day}"), at(f"2022-12-0{day + 1}")) for day in (1, 2, 3)]
"""The spans of three writes, one after the other."""
FIRST = ["first, whole", "first, years"]
SAME = ["whole", "years"]


def home_before(patch: pytest.MonkeyPatch, home: Path, way: str) -> None:
    """A home without candles, or with some; its next write leaves their layout or changes it."""
    if way in WAYS:
        prepared(patch, home, way)
        return
    limit(patch, 0 if "years" in way else 100)
    with opened(settings_of(home)) as stores:
        stores.lake.asset_ids.register([parse_pair(MINUTES.pair)])
        if way in SAME:
            write(stores, ROWS, SPAN)


def write_of(stores: Stores, day: int, way: str) -> None:
    """One of three writes; the first of them is the first of all where the home had no candles."""
    if day == 0 and way in FIRST:
        write(stores, ROWS, SPAN)
    else:
        write(stores, [candle(DAYS[day].start + 60 * minute) for minute in range(2)], DAYS[day])


def save_before(patch: pytest.MonkeyPatch, stores: Stores, step: str, to: Path) -> None:
    """Saves the catalog when a write comes to a step."""
    owner, name, _ = STEPS[step]
    real: Callable[..., Any] = getattr(owner, name)

    def saving(*arguments: Any, **options: Any) -> Any:
        if not to.exists():
            dumps.save(stores.catalog, to)
        return real(*arguments, **options)

    patch.setattr(owner, name, saving)


def restored(patch: pytest.MonkeyPatch, stores: Stores, catalog: Path, at_folder: Path) -> Path:
    """Backs a home up with a catalog that was saved earlier, restores it, and returns the new home."""
    with patch.context() as inner:
        inner.setattr(dumps, "save", lambda _, path: shutil.copy(catalog, path))
        backup.back_up(stores, at_folder / "saved")
    home = at_folder / "home"
    _, found = backup.restore(settings_of(home), at_folder / "saved", RunContext("restore", NOW))
    assert (found.status, found.damaged) == ("ok", ())
    return home


@pytest.mark.parametrize(
    ("step", "way"),
    [*(("announced", way) for way in (*FIRST, *SAME, *WAYS)), *(("committed", way) for way in WAYS)],
)
def test_a_catalog_that_is_saved_in_the_middle_of_a_write_takes_up_what_came_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, way: str
) -> None:
    home, catalog = tmp_path / "home", tmp_path / "early.sqlite"
    home_before(monkeypatch, home, way)
    with opened(settings_of(home)) as stores:
        was = covered(stores, "XBTUSD", 1)
        with monkeypatch.context() as patch:
            save_before(patch, stores, step, catalog)
            write_of(stores, 0, way)
        assert catalog.exists()
        claimed = covered(stores, "XBTUSD", 1) if step == "committed" else was
        for later in range(3):
            if later:
                write_of(stores, later, way)
            expected, there = rows(stores), files(home)
            with opened(settings_of(restored(monkeypatch, stores, catalog, tmp_path / f"{later}"))) as found:
                # The verification after a restore reads files in another way than whoever reads candles.
                assert found.lake.damaged(MINUTES) == []
                assert rows(found) == expected
                assert covered(found, "XBTUSD", 1) == claimed, "of what came later nothing is claimed"
                assert verified(found).status == "ok"
                assert rows(found) == expected
                for day in range(later + 1):
                    write_of(found, day, way)
                assert (rows(found), files(found.lake.home)) == (expected, there)
                assert evidence(found) == evidence(stores)
                assert verified(found).status == "ok"


# --- what a killed write announced


def killed(patch: pytest.MonkeyPatch, home: Path, way: str, step: str) -> None:
    home_before(patch, home, way)
    with opened(settings_of(home)) as stores, patch.context() as inner, suppress(Killed):
        kill_before(inner, *STEPS[step])
        write_of(stores, 0, way)


def test_an_announced_layout_is_taken_up_where_it_alone_has_all_candles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(monkeypatch, tmp_path, "whole to years", "before it is confirmed")
    assert files(tmp_path) == WHOLE | YEARS
    (tmp_path / FOLDER / "candles.parquet").unlink()
    with opened(settings_of(tmp_path)) as stores:
        assert verified(stores).status == "ok"
        assert rows(stores)[: len(ROWS)] == ROWS
        assert covered(stores, "XBTUSD", 1) == (SPAN,)
        assert files(tmp_path) == set(stores.lake.manifest.reread(MINUTES).files) == YEARS


def test_an_announced_layout_that_lacks_a_file_claims_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(monkeypatch, tmp_path, "whole to years", "one file renamed")
    assert files(tmp_path) > WHOLE
    assert len(files(tmp_path) & YEARS) == 1
    (tmp_path / FOLDER / "candles.parquet").unlink()
    with opened(settings_of(tmp_path)) as stores:
        (damage,) = verified(stores).damaged
        assert (damage.path, damage.kind) == (f"{FOLDER}/candles.parquet", DamageKind.MISSING)
        assert covered(stores, "XBTUSD", 1) == ()


@pytest.mark.parametrize("quick", [True, False])
def test_damage_of_an_announced_file_is_found_before_somebody_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, quick: bool
) -> None:
    killed(monkeypatch, tmp_path, "first, years", "before it is confirmed")
    path = f"{FOLDER}/2021.parquet"
    damaging.flip(tmp_path / path, 1)
    with opened(settings_of(tmp_path)) as stores:
        found = verify(stores, run_spec(), RunContext("verify", NOW), quick=quick)
        assert [damage.path for damage in found.damaged] == [path]
        assert list(repair(stores, run_spec(api_backfill=False), RunContext("repair", NOW)).moved) == [path]
        assert verified(stores).status == "ok"
        write_of(stores, 0, "first, years")
        assert (rows(stores), covered(stores, "XBTUSD", 1)) == (ROWS, (SPAN,))


def test_a_verification_that_writes_nothing_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(monkeypatch, tmp_path, "first, years", "before it is confirmed")
    with opened(settings_of(tmp_path)) as stores:
        monkeypatch.setattr(stores.catalog, "is_read_only", True)
        assert verified(stores).status == "ok"
        damaging.flip(tmp_path / FOLDER / "2021.parquet", 1)
        assert [damage.path for damage in verified(stores).damaged] == [f"{FOLDER}/2021.parquet"]
