"""Ordinary faults are one sentence and an exit code: a full disk, a home that is only to read, damage, Ctrl-C."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.workflow.reading.candles import read_candles
from kraken_pipeline_tests.support.homes import Shelf, settings_of
from kraken_pipeline_tests.support.ingests import assert_same, home_beside, state
from kraken_pipeline_tests.support.mounts import mount, mounted
from kraken_pipeline_tests.support.shell import Said, ended, shell, start

pytestmark = pytest.mark.slow

READING = [
    ("gaps", "--json"),
    ("report", "--json"),
    ("report", "--html", "page.html"),
    ("explain", "XBTUSD", "60", "2023-03-30T12:00"),
    ("export", "XBTUSD", "60", "--to", "candles.csv"),
    ("status", "--json"),
    ("plan", "--json"),
    ("dead-letters", "list", "--json"),
    ("cache", "stats", "--json"),
    ("health", "--json"),
    ("verify", "--json"),
    ("resolve", "--dry-run", "--reason", "why", "--release", "Kraken_OHLCVT_Q1_2023.zip"),
]
WRITING = [
    ("ingest",),
    ("backfill",),
    ("reconcile",),
    ("resolve", "--reason", "why", "--file", "XBTUSD_60.csv"),
    ("cache", "clear"),
]
NOISE = ("Traceback", "sqlalche.me", "[SQL", "sqlite://", "sqlite3.")


def assert_one_sentence(said: Said, code: int, *words: str) -> None:
    """One line on standard error that holds the words, and nothing that is for programmers."""
    assert said.code == code, said
    assert said.err.startswith("kraken-pipeline: "), said.err
    assert said.err.count("\n") == 1, said.err
    assert not any(noise in said.out + said.err for noise in NOISE), said
    assert all(word in said.err for word in words), said.err


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Path:
    """A home with a run behind it; only to read."""
    home = tmp_path_factory.mktemp("stocked") / "home"
    said = shell(home, "ingest", "--no-api-backfill", "--archive-dir", str(shelf.q1))
    assert said.code == 0, said
    return home


# --- a disk that is full


@pytest.mark.parametrize("size", ["60k", "450k", "1000k"])
def test_a_full_disk_is_a_sentence_and_with_room_the_same_command_goes_on(
    tmp_path: Path, archives: Path, undisturbed: dict[str, Any], size: str
) -> None:
    # By size it is Dagster's history, the catalog or the lake that finds no room first.
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={size}", "none") as disk:
        home = disk / "home"
        command = ("ingest", "--intervals", "60,1440", "--archive-dir", str(archives))
        full = ended(start(home, *command, program="kraken_pipeline"))
        # A run that could still put its end on record says it there.
        assert full.code == 1, full
        assert "run the same command again to continue" in full.out + full.err, full
        assert not any(noise in full.out + full.err for noise in NOISE), full
        mount("-o", "remount,size=200m", str(disk))
        again = shell(home, *command)
        assert (again.code, "SUCCESS" in again.out) == (1, True), again
        assert_same(state(home), undisturbed)


@pytest.mark.parametrize("kilobytes", [60, 200])
def test_a_file_that_may_not_grow_is_a_sentence_without_any_privilege(
    tmp_path: Path, shelf: Shelf, kilobytes: int
) -> None:
    home = tmp_path / "home"
    program = "kraken_pipeline_tests.support.limited"
    process = start(home, str(kilobytes << 10), "ingest", "--archive-dir", str(shelf.q1), program=program)
    said = ended(process)
    assert said.code == 1, said
    assert "run the same command again to continue" in said.out + said.err, said
    assert not any(noise in said.out + said.err for noise in NOISE), said
    assert shell(home, "ingest", "--no-api-backfill", "--archive-dir", str(shelf.q1)).code == 0


# --- a home that is only to read


@contextmanager
def only_to_read(home: Path, at: Path) -> Iterator[Path]:
    with mounted(at, "--bind", str(home)) as seen:
        mount("-o", "remount,ro,bind", str(seen))
        yield seen


def test_what_only_reads_works_in_a_home_that_is_only_to_read(tmp_path: Path, stocked: Path) -> None:
    written = {arguments: shell(stocked, *arguments) for arguments in READING}
    with only_to_read(stocked, tmp_path / "home") as home:
        for arguments, before in written.items():
            said = shell(home, *arguments)
            assert said.code == (1 if arguments[0] == "health" else 0), said
            assert not any(noise in said.out + said.err for noise in NOISE), said
            if arguments[0] in ("explain", "status", "dead-letters"):
                assert said.out == before.out
        checks = {check["name"]: check["status"] for check in shell(home, "health", "--json").json["checks"]}
        assert (checks["lake"], checks["catalog"]) == ("failed", "ok")
        candles = read_candles("XBTUSD", 60, settings=settings_of(home), fill_quiet=True)
        assert candles.equals(read_candles("XBTUSD", 60, settings=settings_of(stocked), fill_quiet=True))


def test_a_verification_of_a_home_that_is_only_to_read_tells_the_damage(tmp_path: Path, stocked: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(stocked, damaged)
    gone, changed, stray = (
        damaged / "lake" / f"interval={name}" / "candles.parquet"
        for name in ("60/pair=XBTUSD", "1440/pair=XBTUSD", "60/pair=NONEUSD")
    )
    gone.unlink()
    content = bytearray(changed.read_bytes())
    content[len(content) // 3] ^= 1
    changed.write_bytes(content)
    stray.parent.mkdir(parents=True)
    stray.write_text("no candles")
    misplaced = damaged / "lake" / "interval=60" / "pair=ADAEUR" / "copy.parquet"
    shutil.copy(misplaced.with_name("candles.parquet"), misplaced)  # whole, and no file that a reader would read
    with only_to_read(damaged, tmp_path / "home") as home:
        for _ in range(2):
            said = shell(home, "verify", "--json")
            assert (said.code, said.json["status"]) == (1, "damaged"), said
            assert {(found["path"], found["kind"]) for found in said.json["damaged"]} == {
                (str(gone.relative_to(damaged)), "MISSING"),
                (str(changed.relative_to(damaged)), "CHANGED"),
                (str(stray.relative_to(damaged)), "UNKNOWN"),
                (str(misplaced.relative_to(damaged)), "UNKNOWN"),
            }


@pytest.mark.parametrize("arguments", WRITING, ids=lambda arguments: arguments[0])
def test_what_writes_says_that_the_home_is_only_to_read(
    tmp_path: Path, stocked: Path, arguments: tuple[str, ...]
) -> None:
    with only_to_read(stocked, tmp_path / "home") as home:
        assert_one_sentence(shell(home, *arguments), 1, f"KRAKEN_PIPELINE_HOME: {home} cannot be written", "read-only")


def test_what_was_committed_last_and_cannot_be_read_is_not_passed_over(tmp_path: Path, stocked: Path) -> None:
    home = tmp_path / "used"
    shutil.copytree(stocked, home)
    with closing(sqlite3.connect(home / "catalog.sqlite")) as connection:
        connection.execute("DELETE FROM coverage")
        connection.commit()
        used = tmp_path / "copy"
        shutil.copytree(home, used, ignore=shutil.ignore_patterns("*-shm"))
    assert (used / "catalog.sqlite-wal").stat().st_size > 0
    with only_to_read(used, tmp_path / "home") as seen:
        assert_one_sentence(
            shell(seen, "gaps"), 1, "catalog.sqlite-wal", "cannot be read without writing", "copy the home"
        )


# --- damage


@pytest.mark.parametrize("damage", ["no database", "cut short", "other tables"])
def test_a_catalog_that_is_none_is_a_sentence_that_names_it_and_what_to_do(
    tmp_path: Path, stocked: Path, damage: str
) -> None:
    home = tmp_path / "home"
    shutil.copytree(stocked, home)
    path = home / "catalog.sqlite"
    if damage == "no database":
        path.write_bytes(b"this is no database" * 1_000)
    elif damage == "cut short":
        path.write_bytes(path.read_bytes()[:9_000])
    else:
        path.unlink()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE files (name TEXT)")
    for arguments in (("gaps",), ("report",), ("plan",), ("explain", "XBTUSD", "60", "2023-03-30"), ("cache", "stats")):
        said = shell(home, *arguments)
        assert_one_sentence(said, 1, str(path), "damaged", "kraken-pipeline recover")
    run = shell(home, "ingest", "--no-api-backfill")
    assert run.code == 1
    assert "kraken-pipeline recover" in run.out + run.err
    assert "sqlite3." not in run.out + run.err


@pytest.mark.parametrize("kept", [0, 7, 500])
def test_a_lake_file_that_is_cut_short_is_a_sentence(tmp_path: Path, stocked: Path, kept: int) -> None:
    home = tmp_path / "home"
    shutil.copytree(stocked, home)
    path = home / "lake" / "interval=60" / "pair=XBTUSD" / "candles.parquet"
    path.write_bytes(path.read_bytes()[:kept])
    assert_one_sentence(
        shell(home, "export", "XBTUSD", "60", "--to", "candles.csv"), 1, f"has {kept} bytes instead", "--repair"
    )


# --- wrong use


def test_a_folder_that_does_not_exist_is_wrong_use_and_starts_no_run(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for arguments, variables in [
        (("ingest", "--archive-dir", "/nope"), {}),
        (("ingest",), {"KRAKEN_ARCHIVE_DIRS": "/nope"}),
        (("plan",), {"KRAKEN_ARCHIVE_DIRS": "/nope"}),
    ]:
        assert_one_sentence(shell(home, *arguments, **variables), 2, "there is no file or folder /nope")
    assert shell(home, "status", "--json").json == []


# --- Ctrl-C


@pytest.mark.parametrize(
    ("appeared", "signal_"),
    [
        ("*", signal.SIGINT),
        ("catalog.sqlite", signal.SIGTERM),
        ("dagster", signal.SIGINT),
        ("lake/*/*/candles.parquet", signal.SIGTERM),
    ],
)
def test_ctrl_c_is_a_sentence_at_any_moment(
    archives: Path, undisturbed: dict[str, Any], appeared: str, signal_: signal.Signals
) -> None:
    home = home_beside(archives, f"stopped-{signal_.name}-{len(appeared)}")
    home.parent.mkdir()
    command = ("ingest", "--intervals", "60,1440", "--archive-dir", str(archives))
    process = start(home, *command, program="kraken_pipeline")
    while not any(home.glob(appeared)):
        assert process.poll() is None, "it ended before the moment came"
        time.sleep(0.01)
    process.send_signal(signal_)
    assert_one_sentence(ended(process), 130, "stopped; run the same command to go on")
    assert {run["status"] for run in shell(home, "status", "--json").json} <= {"CANCELED"}
    assert shell(home, *command).code == 1, "a file of the archives is damaged"
    assert_same(state(home), undisturbed)
