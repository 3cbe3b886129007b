"""Archives that are replaced or written to between the look at them and their reading: nothing of it is believed."""

from __future__ import annotations

import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.demo.archives import write_quarterly_zip
from kraken_pipeline.kraken.archive import ArchiveReader
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.ingest import read_file
from kraken_pipeline.workflow.ingest.ingest import ingest
from kraken_pipeline.workflow.ingest.outcome import FileOutcome
from kraken_pipeline.workflow.ingest.scan import scan
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import (
    HOURS_AND_DAYS,
    NOW,
    Q3,
    SPRING,
    Shelf,
    covered,
    evidence_of,
    lake_of,
    lines_of,
    rows_of,
    settings_of,
    write_lines,
)

pytestmark = pytest.mark.slow

EARLIER = Q3.start + 3 * 86_400
"""When the shorter archive of the third quarter was made."""


@pytest.fixture(scope="module")
def shorter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of the third quarter as it was three days before; of the same name."""
    return write_quarterly_zip(tmp_path_factory.mktemp("shorter"), SPRING, Q3, HOURS_AND_DAYS, cut=EARLIER)


def ingested(stores: Stores, *paths: Path, run_id: str = "run-one") -> dict[str, FileOutcome]:
    spec = run_spec(archive_dirs=list(paths))
    tasks = scan(stores, spec, NOW).tasks
    return {each.name: each for each in ingest(stores, spec, tasks, RunContext(run_id, NOW))}


def believed(stores: Stores) -> dict[str, Any]:
    """What the home holds and claims."""
    evidence = evidence_of(stores)
    return {"lake": lake_of(stores), "coverage": evidence["coverage"], "grants": evidence["grants"]}


def undisturbed(home: Path, path: Path) -> dict[str, Any]:
    with opened(settings_of(home)) as stores:
        ingested(stores, path)
        return believed(stores)


def statuses(stores: Stores) -> set[str]:
    return {str(status) for (status,) in rows_of(stores, schema.files, "status")}


def replaced(path: Path, by: Path) -> None:
    """Puts another file in the place of one, at once."""
    beside = path.with_name(f".{path.name}.new")
    shutil.copy(by, beside)
    beside.replace(path)


def overwritten(path: Path, by: Path) -> None:
    """Writes another file's bytes into one."""
    path.write_bytes(by.read_bytes())


def overwritten_unseen(path: Path, by: Path) -> None:
    """The same, with the time of change that it had."""
    before = path.stat()
    overwritten(path, by)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


WAYS = pytest.mark.parametrize("way", [replaced, overwritten, overwritten_unseen])


@WAYS
def test_a_release_that_gives_way_to_a_shorter_one_after_the_scan_claims_no_more_than_that_one(
    stores: Stores, tmp_path: Path, shelf: Shelf, shorter: Path, way: Callable[[Path, Path], None]
) -> None:
    path = Path(shutil.copy(shelf.q3, tmp_path))
    spec = run_spec(archive_dirs=[path])
    tasks = scan(stores, spec, NOW).tasks
    way(path, shorter)
    outcomes = ingest(stores, spec, tasks, RunContext("run-one", NOW))
    assert {each.status for each in outcomes} == {FileStatus.COMPLETED}
    assert believed(stores) == undisturbed(tmp_path / "other", shorter)
    assert max(span.end for span in covered(stores, "XBTUSD", 60)) == EARLIER
    # All that is on record is of the file that is there now.
    assert ingested(stores, path, run_id="run-two") == {}


def when_first_read(patch: pytest.MonkeyPatch, change: Callable[[], None], *, always: bool = False) -> None:
    """Lets something happen when the first file has been opened, before anything of it was read."""
    original = read_file._rows
    done: list[Any] = []
    changing = threading.Lock()  # files are read in several threads, and the change is whole before any goes on

    def rows(stores: Stores, task: Any, stream: Any, reader: ArchiveReader, run: RunContext, **how: Any) -> Any:
        with changing:
            if always or not done:
                done.append(task)
                change()
        return original(stores, task, stream, reader, run, **how)

    patch.setattr(read_file, "_rows", rows)


@WAYS
def test_a_release_that_is_changed_while_it_is_read_is_read_again(
    stores: Stores,
    tmp_path: Path,
    shelf: Shelf,
    shorter: Path,
    way: Callable[[Path, Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = Path(shutil.copy(shelf.q3, tmp_path))
    when_first_read(monkeypatch, lambda: way(path, shorter))
    outcomes = ingested(stores, path)
    assert {each.status for each in outcomes.values()} == {FileStatus.COMPLETED}
    assert believed(stores) == undisturbed(tmp_path / "other", shorter)


@WAYS
def test_a_loose_file_that_is_changed_while_it_is_read_is_read_again(
    stores: Stores, tmp_path: Path, shelf: Shelf, way: Callable[[Path, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = lines_of(shelf.minutes)
    path = write_lines(tmp_path / "XBTUSD_1.csv", lines)
    other = write_lines(tmp_path / "other" / "XBTUSD_1.csv", [*lines[:100], *lines[300:]])
    when_first_read(monkeypatch, lambda: way(path, other))
    outcomes = ingested(stores, path)
    assert outcomes["XBTUSD_1.csv"].status is FileStatus.COMPLETED
    assert believed(stores) == undisturbed(tmp_path / "another", other)


def test_a_file_that_never_stays_the_same_waits_for_the_next_run(stores: Stores, tmp_path: Path, shelf: Shelf) -> None:
    path = Path(shutil.copy(shelf.minutes, tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        when_first_read(patch, lambda: overwritten(path, shelf.minutes), always=True)
        outcome = ingested(stores, path)["XBTUSD_1.csv"]
    assert outcome.status is FileStatus.PENDING
    assert outcome.reason == "XBTUSD_1.csv was changed while it was read; nothing of it was stored"
    assert rows_of(stores, schema.files, "status", "reason") == [(FileStatus.PENDING, outcome.reason)]
    assert covered(stores, "XBTUSD", 1) == ()
    assert ingested(stores, path, run_id="run-two")["XBTUSD_1.csv"].status is FileStatus.COMPLETED
    assert statuses(stores) == {"COMPLETED"}


def test_a_member_that_is_gone_fails_alone(stores: Stores, tmp_path: Path, shelf: Shelf) -> None:
    path = Path(shutil.copy(shelf.q3, tmp_path))
    fewer = tmp_path / "fewer.zip"
    with zipfile.ZipFile(shelf.q3) as whole, zipfile.ZipFile(fewer, "w") as rest:
        for member in whole.namelist():
            if member != "ADAEUR_60.csv":
                rest.writestr(member, whole.read(member))
    spec = run_spec(archive_dirs=[path])
    tasks = scan(stores, spec, NOW).tasks
    overwritten(path, fewer)
    outcomes = {each.name.partition(":")[2]: each for each in ingest(stores, spec, tasks, RunContext("run-one", NOW))}
    assert outcomes.pop("ADAEUR_60.csv").status is FileStatus.FAILED
    assert {each.status for each in outcomes.values()} == {FileStatus.COMPLETED}
    assert statuses(stores) == {"COMPLETED", "FAILED"}
    assert covered(stores, "ADAEUR", 60) == ()
    assert covered(stores, "ADAEUR", 1440) != ()


def test_an_archive_that_is_gone_or_broken_after_the_scan_leaves_no_file_at_work(
    stores: Stores, tmp_path: Path, shelf: Shelf
) -> None:
    changes: list[Callable[[Path], Any]] = [Path.unlink, lambda path: path.write_bytes(b"PK nonsense")]
    for number, change in enumerate(changes):
        path = Path(shutil.copy(shelf.q3, tmp_path))
        spec = run_spec(archive_dirs=[path, shelf.minutes])
        tasks = scan(stores, spec, NOW).tasks
        change(path)
        outcomes = ingest(stores, spec, tasks, RunContext(f"run-{number}", NOW))
        assert {each.status for each in outcomes if ":" in each.name} == {FileStatus.FAILED}
        assert not statuses(stores) & {"PENDING", "INGESTING"}
    assert covered(stores, "XBTUSD", 1) != ()
