"""A backup that is made while an ingest is at work is whole: restored into an empty home, it lacks nothing it claims.

The catalog is saved first, then the lake. What the lake gets in between is in it without being claimed, and is taken
again; the other way round, coverage would be claimed whose candles are not there.
"""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.lake.lake import Lake
from kraken_pipeline.storage.records import evidence_records
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.ingest import batches
from kraken_pipeline.workflow.publish import differences
from kraken_pipeline.workflow.verify import backup
from kraken_pipeline_tests.support import homes
from kraken_pipeline_tests.support.homes import Shelf, evidence_of, files_of, lake_of, settings_of
from kraken_pipeline_tests.support.lakes import lake_at
from kraken_pipeline_tests.support.processes import Running, process, result
from kraken_pipeline_tests.support.servers import PostgreSQL, QuestDB
from kraken_pipeline_tests.support.shell import TIMEOUT, shell

pytestmark = pytest.mark.slow
SERIES, PARTS = 6, 10
MEMBERS = SERIES * PARTS
HELD = Series("HELDUSD", Interval.H1)
"""The series that the test holds, so that the ingest cannot come to its end while the backup is made.

It is in the last batch: there are as many others before it as a batch takes here, and several files of each.
"""
WANTED: dict[str, Any] = {"intervals": "60,1440", "api_backfill": False}
COMMAND = ("ingest", "--intervals", "60,1440", "--no-api-backfill")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Path:
    """A ZIP of many members, the last of them of `HELD`; and a release.

    The ZIP is no release: each member speaks for its own time alone, as those of a series do that are several.
    """
    folder = tmp_path_factory.mktemp("archives")
    with zipfile.ZipFile(shelf.q2) as release:
        lines = release.read("XBTUSD_60.csv").splitlines(keepends=True)
    length = len(lines) // PARTS
    with zipfile.ZipFile(folder / "parts.zip", "w", zipfile.ZIP_DEFLATED) as made:
        for part in range(PARTS):
            text = b"".join(lines[part * length : (part + 1) * length])
            for number in range(SERIES):
                made.writestr(f"{part:02d}/K{number:02d}USD_60.csv", text)
        made.writestr(f"{HELD.pair}_60.csv", b"".join(lines))
    shutil.copy(shelf.q1, folder)
    return folder


# --- the two catalogs


@dataclass(frozen=True, slots=True)
class Catalogs:
    """The settings that name a home's catalog, and those that name the empty one of another home."""

    own: dict[str, str]
    other: dict[str, str]


@pytest.fixture(params=["SQLite", pytest.param("PostgreSQL", marks=pytest.mark.servers)])
def catalogs(request: pytest.FixtureRequest) -> Iterator[Catalogs]:
    if request.param == "SQLite":
        yield Catalogs({}, {})
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    url: str = request.getfixturevalue("postgresql_url")
    new_url = server.database()
    yield Catalogs({"KRAKEN_CATALOG_URL": url}, {"KRAKEN_CATALOG_URL": new_url})
    server.drop(new_url)


# --- a home, and what it claims


@contextmanager
def stores_of(home: Path, variables: dict[str, str]) -> Iterator[Stores]:
    given = {name.lower(): value for name, value in variables.items() if value}
    with opened(settings_of(home, **given)) as stores:
        yield stores


def taken(stores: Stores) -> int:
    """How many files are COMPLETED."""
    query = sa.select(sa.func.count()).where(schema.files.c.status == "COMPLETED")
    with stores.catalog.read() as connection:
        return int(connection.scalar(query) or 0)


def ingest_in_small_batches(home: str, archives: str, catalog: str) -> None:
    """What the other process does: it brings a few files at a time into lake and catalog."""
    batches.BATCH_FILES = SERIES
    with stores_of(Path(home), {"KRAKEN_CATALOG_URL": catalog}) as stores:
        done = homes.run(stores, Path(archives), now=int(time.time()), **WANTED)
    assert {each.status for each in done.files.values()} == {"COMPLETED"}


def until(happened: Callable[[], bool], ingesting: Running) -> None:
    """Waits for something that an ingest does."""
    deadline = time.monotonic() + TIMEOUT
    while not happened():
        assert ingesting.poll() is None, ingesting.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def claimed(stores: Stores) -> dict[Series, tuple[Any, ...]]:
    """What the catalog says is covered."""
    with stores.catalog.read() as connection:
        found = evidence_records.coverage_of(connection, list(Interval))
    return {series: tuple(record.span for record in records) for series, records in found.items()}


def claimed_in_vain(claims: dict[Series, tuple[Any, ...]], lake: Lake, whole: Lake) -> dict[Series, int]:
    """How many candles are covered by these claims, and are not in a lake; by series."""
    found: dict[Series, int] = {}
    for series, spans in claims.items():
        there = set(lake.times(series))
        missing = [time for time in whole.times(series) if time not in there and any(time in span for span in spans)]
        if missing:
            found[series] = len(missing)
    return found


def state(stores: Stores) -> dict[str, Any]:
    """What a home holds, without ids, runs and moments; the newest gaps reach up to the moment of asking."""
    evidence = evidence_of(stores)
    return {
        "lake": lake_of(stores),
        "coverage": evidence["coverage"],
        "extents": evidence["extents"],
        "grants": evidence["grants"],
        "gaps": {gap[:3] for gap in evidence["gaps"]},
        "files": files_of(stores),
    }


def test_a_backup_made_in_the_middle_of_an_ingest_is_restored_whole_and_gone_on_with(
    tmp_path: Path, archives: Path, catalogs: Catalogs, questdb: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, restored = tmp_path / "original" / "home", tmp_path / "restored" / "home"
    saved, too_soon = tmp_path / "backup", tmp_path / "too-soon"
    restored.parent.mkdir()
    with stores_of(home, catalogs.own) as stores:
        shutil.copytree(home / "lake", too_soon / "lake")  # for the other way round, which is wrong
        catalog = catalogs.own.get("KRAKEN_CATALOG_URL", "")
        with process(ingest_in_small_batches, str(home), str(archives), catalog) as ingesting:

            def copy_later(*arguments: Any, **named: Any) -> Any:
                """Lets the lake go on before it is copied, unless nothing is left but what is held."""
                at_save = taken(stores)
                until(lambda: taken(stores) > at_save or at_save >= MEMBERS, ingesting)
                return copy_folders(*arguments, **named)

            copy_folders = backup._copy_folders
            monkeypatch.setattr(backup, "_copy_folders", copy_later)
            with stores.locks.series([HELD]):
                until(lambda: taken(stores) > 0, ingesting)
                done = shell(home, "backup", str(saved), "--json", **catalogs.own)
                assert ingesting.poll() is None, "it was over before the backup was made"
            monkeypatch.undo()
            result(ingesting)
        assert done.code == 0, done.err
        assert done.json["files"] == done.json["linked"] > 0
        undisturbed, whole = state(stores), stores.lake
        assert taken(stores) == MEMBERS + 1 + 6

        back = shell(restored, "restore", str(saved), "--json", **catalogs.other)
        assert (back.code, back.json["verification"]["status"]) == (0, "ok"), back.out + back.err
        with stores_of(restored, catalogs.other) as found:
            assert 0 < taken(found) < taken(stores), "it is one from the middle"
            claims = claimed(found)
            assert claimed_in_vain(claims, found.lake, whole) == {}
            assert claims
            assert claimed_in_vain(claims, lake_at(too_soon), whole) != {}, "the order matters, and is looked at"

    served = {
        **catalogs.other,
        "KRAKEN_QUESTDB_URL": questdb.http_url,
        "KRAKEN_QUESTDB_PG_URL": questdb.pg_url,
        "KRAKEN_QUESTDB_POOL_MIN": "1",
    }
    rebuilt = shell(restored, "publish", "--rebuild", "--verify", "--json", **served)
    assert (rebuilt.code, rebuilt.json["outcome"]["series_different"]) == (0, 0), rebuilt.out
    assert rebuilt.json["outcome"]["candles_published"] > 0

    again = shell(restored, *COMMAND, "--archive-dir", str(archives), "--json", **served)
    assert (again.code, again.json["outcome"]["publications_owed"]) == (0, 0), again.out
    assert again.json["outcome"]["files_taken_before"] > 0
    with stores_of(restored, served) as found:
        assert claimed_in_vain(claimed(found), found.lake, found.lake) == {}
        after = state(found)
        for what, value in undisturbed.items():
            assert after[what] == value, what
        assert differences(found) == [], "QuestDB has it too"


def test_what_is_claimed_and_not_there_is_seen(stores: Stores, tmp_path: Path, shelf: Shelf) -> None:
    homes.run(stores, shelf.q1, resampling=False)
    claims = claimed(stores)
    assert claimed_in_vain(claims, stores.lake, stores.lake) == {}
    (tmp_path / "empty").mkdir()
    missing = claimed_in_vain(claims, lake_at(tmp_path / "empty"), stores.lake)
    assert missing == {series: stores.lake.times(series).len() for series in stores.lake.series()}
