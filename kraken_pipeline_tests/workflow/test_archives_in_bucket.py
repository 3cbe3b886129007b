"""Archives in a bucket are read there, as those in a folder are."""

from __future__ import annotations

import gzip
import pickle
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import obstore
import pytest
from obstore.store import from_url

from kraken_pipeline import archive_path as paths
from kraken_pipeline.archive_path import BucketPath, archive_path, archive_paths
from kraken_pipeline.errors import InvalidRequest, InvalidSettings, SourceChanged, StoreUnavailable
from kraken_pipeline.kraken.archive import ArchiveReader
from kraken_pipeline.kraken.discovery import discover
from kraken_pipeline.market.moment import iso
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow import pipeline
from kraken_pipeline.workflow.explain.explain import explain
from kraken_pipeline.workflow.gaps.plan import make_plan
from kraken_pipeline.workflow.ingest.scan import require_folders, scan
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec
from kraken_pipeline.workflow.triggers.dropped_files import look_into_drop_folder
from kraken_pipeline_tests.support.buckets import Bucket
from kraken_pipeline_tests.support.homes import (
    NOW,
    START,
    Shelf,
    evidence_of,
    files_of,
    lake_of,
    rows_of,
    run,
    settings_of,
    stored,
    write_lines,
)
from kraken_pipeline_tests.support.samples import csv_row

pytestmark = pytest.mark.slow

PAIRS = ["XBTUSD", "ADAEUR"]
HOUR = 3_600


class Killed(BaseException):
    """What a test ends a run with."""


def killing(*_: Any) -> None:
    raise Killed


def put(bucket: Bucket, *files: Path, below: str = "archives") -> BucketPath:
    """Puts files below a prefix, and gives that prefix."""
    store = from_url(bucket.url, client_options={"allow_http": True})
    for file in files:
        obstore.put(store, f"{below}/{file.name}", file)
    return BucketPath(f"{bucket.url}/{below}")


def state(stores: Stores) -> dict[str, Any]:
    """What a home holds, without ids, runs and moments."""
    return {
        **evidence_of(stores),
        "lake": lake_of(stores),
        "files": [row for row in files_of(stores) if "SKIPPED" not in row],
        "ids": rows_of(stores, schema.assets, "asset_id", "pair"),
    }


def hours(path: Path, count: int = 24, first: int = 0) -> Path:
    """Writes a file of hours."""
    write_lines(path, [csv_row(START + hour * HOUR) for hour in range(first, first + count)])
    return path


def test_archives_in_a_bucket_leave_what_they_leave_from_a_folder(
    stores: Stores, bucket: Bucket, shelf: Shelf, tmp_path: Path
) -> None:
    files = (shelf.q1, shelf.q2, shelf.minutes)
    there = put(bucket, *files)
    with opened(settings_of(tmp_path / "local")) as local:
        planned = [
            make_plan(one, run_spec(archive_dirs=what, pairs=PAIRS), NOW)
            for one, what in ((stores, [there]), (local, files))
        ]
        assert planned[0].as_json() == planned[1].as_json()
        assert run(stores, there, pairs=PAIRS).candles_stored > 0
        run(local, *files, pairs=PAIRS)
        assert state(stores) == state(local)
    before = len(bucket.requests())
    assert run(stores, there, pairs=PAIRS).scanned.tasks == []
    # Whether the prefix is an object, one page of the list, and one range of each ZIP, which is small.
    assert bucket.since(before) == {"s3_HeadObject": 1, "s3_ListObjectsV2": 1, "s3_GetObject": 2}


def packed(folder: Path, form: str) -> list[Path]:
    """Writes hours in a form in which archives come."""
    plain = hours(folder / "plain" / "XBTUSD_60.csv")
    if form == "gzip":
        (folder / "XBTUSD_60.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
        return [folder / "XBTUSD_60.csv.gz"]
    inner = folder / "Kraken_OHLCVT_Q1_2023.zip"
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(plain, plain.name)
    if form == "a ZIP in a ZIP":
        with zipfile.ZipFile(folder / "outer.zip", "w") as archive:
            archive.write(inner, inner.name)
        return [folder / "outer.zip"]
    content, parts = inner.read_bytes(), []
    for number, start in enumerate(range(0, len(content), 300)):
        parts.append(folder / f"{inner.name}.part{number:02d}")
        parts[-1].write_bytes(content[start : start + 300])
    return parts


@pytest.mark.parametrize("form", ["gzip", "a ZIP in a ZIP", "a ZIP in parts"])
def test_every_form_of_an_archive_is_read_in_a_bucket(
    stores: Stores, bucket: Bucket, tmp_path: Path, form: str
) -> None:
    files = packed(tmp_path, form)
    run(stores, put(bucket, *files))
    with opened(settings_of(tmp_path / "local")) as local:
        run(local, *files)
        assert len(stored(local, "XBTUSD", 60)) == 24
        assert state(stores) == state(local)


def test_what_was_ingested_is_left_out_and_a_single_object_can_be_named(bucket: Bucket, tmp_path: Path) -> None:
    one, other = hours(tmp_path / "XBTUSD_60.csv"), hours(tmp_path / "ADAEUR_60.csv")
    there = put(bucket, one)
    put(bucket, other, below="archives/ingested")
    put(bucket, other, below="archives-of-others")
    assert [file.name for file in discover([there]).files] == [one.name]
    assert [file.location for file in discover([there / one.name]).files] == [f"{bucket.url}/archives/{one.name}"]


def test_a_member_is_read_without_the_rest_of_its_zip(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = tmp_path / "large.bin", hours(tmp_path / "XBTUSD_60.csv")
    large.write_bytes(Random(1).randbytes(6 << 20))
    with zipfile.ZipFile(tmp_path / "mixed.zip", "w") as archive:
        for content in (small, large):
            archive.write(content, content.name)
    there = put(bucket, tmp_path / "mixed.zip")
    real, sizes = obstore.get, []

    def get(*given: Any, options: Any) -> Any:
        sizes.append(options["range"][1] - options["range"][0])
        return real(*given, options=options)

    monkeypatch.setattr(obstore, "get", get)
    (file,) = discover([there]).files
    with ArchiveReader() as reader, reader.open(file) as stream:
        assert stream.read() == small.read_bytes()
    assert len(sizes) == 4  # the beginning and the directory, to list the members and to read one
    assert sum(sizes) <= 4 * (256 << 10)


def test_a_path_that_another_process_gets_keeps_what_was_listed(bucket: Bucket, tmp_path: Path) -> None:
    there = put(bucket, hours(tmp_path / "XBTUSD_60.csv"))
    before = len(bucket.requests())
    (file,) = pickle.loads(pickle.dumps(discover([there]).files))  # noqa: S301 - our own
    with ArchiveReader() as reader, reader.open(file) as stream:
        assert stream.read() == (tmp_path / "XBTUSD_60.csv").read_bytes()
    assert bucket.since(before) == {"s3_HeadObject": 1, "s3_ListObjectsV2": 1, "s3_GetObject": 1}
    assert str(pickle.loads(pickle.dumps(there))) == str(there)  # noqa: S301 - our own


@pytest.mark.parametrize("seed", range(4))
def test_ranges_of_an_object_are_its_bytes_wherever_they_are_read(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random = Random(seed)
    content = random.randbytes(random.randrange(3_000))
    (tmp_path / "object").write_bytes(content)
    for name, value in (("_FIRST_BYTES", 64), ("_MOST_BYTES", 256), ("_WINDOWS", 2)):
        monkeypatch.setattr(paths, name, value)
    with (put(bucket, tmp_path / "object") / "object").open().detach() as stream:
        for _ in range(30):
            at, size = random.randrange(len(content) + 10), random.randrange(1, 400)
            stream.seek(at - len(content), 2) if at <= len(content) else stream.seek(at)
            found = b""
            while len(found) < size and (more := stream.read(size - len(found))):
                found += more
            assert found == content[at : at + size]


def test_an_object_that_changes_while_it_is_read_is_scanned_again(
    stores: Stores, bucket: Bucket, tmp_path: Path
) -> None:
    name = "XBTUSD_60.csv"
    there = put(bucket, hours(tmp_path / name))
    with (there / name).open() as stream:
        put(bucket, hours(tmp_path / name, count=36))
        with pytest.raises(SourceChanged, match="was changed while it was read"):
            stream.read()
    spec = run_spec(archive_dirs=[there])
    tasks = scan(stores, spec, NOW).tasks
    put(bucket, hours(tmp_path / name, count=48))
    pipeline.ingest_archives(stores, spec, tasks, RunContext("run-one", NOW), is_whole_run=False)
    assert len(stored(stores, "XBTUSD", 60)) == 48
    tasks = scan(stores, run_spec(archive_dirs=[there]), NOW).tasks
    assert tasks == []


@pytest.mark.parametrize("form", ["gzip", "a ZIP in a ZIP", "a ZIP in parts"])
def test_an_object_that_changes_after_it_was_listed_waits_for_the_next_scan(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    files = packed(tmp_path, form)
    there, real = put(bucket, *files), BucketPath.rglob

    def listed(path: BucketPath, pattern: str) -> Any:
        found = list(real(path, pattern))
        for file in files:
            file.write_bytes(file.read_bytes() + b" ")
        put(bucket, *files)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(BucketPath, "rglob", listed)
        found = discover([there])
    assert (len(found.waiting), found.files, found.broken) == (1, [], [])
    assert "was changed while it was read" in found.waiting[0].reason


def test_an_object_that_is_deleted_after_the_scan_is_a_failed_file(
    stores: Stores, bucket: Bucket, tmp_path: Path
) -> None:
    there = put(bucket, hours(tmp_path / "XBTUSD_60.csv"), hours(tmp_path / "ADAEUR_60.csv"))
    spec = run_spec(archive_dirs=[there])
    tasks = scan(stores, spec, NOW).tasks
    (bucket.place / "archives" / "XBTUSD_60.csv").unlink()
    done = pipeline.ingest_archives(stores, spec, tasks, RunContext("run-one", NOW), is_whole_run=False)
    became = {outcome.name: (str(outcome.status), outcome.reason) for outcome in done.files}
    assert became["ADAEUR_60.csv"][0] == "COMPLETED"
    assert became["XBTUSD_60.csv"][0] == "FAILED"
    assert "does not exist any more" in str(became["XBTUSD_60.csv"][1])


# --- the drop folder


@pytest.fixture
def dropping(bucket: Bucket, home: Path) -> Iterator[Stores]:
    """An empty home whose drop folder is a prefix."""
    with opened(settings_of(home, kraken_drop_url=f"{bucket.url}/drop")) as stores:
        yield stores


def test_what_is_dropped_into_a_bucket_is_ingested_and_moved(
    dropping: Stores, bucket: Bucket, shelf: Shelf, tmp_path: Path
) -> None:
    assert run(dropping).scanned.tasks == [], "an empty prefix is an empty folder"
    damaged = tmp_path / "ADAEUR_1.csv"
    write_lines(damaged, ["rubbish"])
    deep = hours(tmp_path / "ETHUSD_60.csv")
    put(bucket, shelf.q1, shelf.minutes, damaged, below="drop")
    put(bucket, deep, below="drop/from kraken/2023")
    run(dropping)
    moved = {f"drop/ingested/{name}" for name in (shelf.q1.name, "XBTUSD_1.csv", "from kraken/2023/ETHUSD_60.csv")}
    assert bucket.objects("drop") == {"drop/ADAEUR_1.csv", *moved}
    assert (bucket.place / "drop" / "ingested" / shelf.q1.name).read_bytes() == shelf.q1.read_bytes()
    put(bucket, hours(tmp_path / "again" / "ETHUSD_60.csv", count=30), below="drop/from kraken/2023")
    run(dropping)
    assert len(stored(dropping, "ETHUSD", 60)) == 30
    assert "drop/ingested/from kraken/2023/ETHUSD_60.1.csv" in bucket.objects("drop")
    explained = str(explain(dropping, "XBTUSD", 1, iso(stored(dropping, "XBTUSD", 1)[0][0]), NOW))
    assert "XBTUSD_1.csv" in explained
    assert "no longer" not in explained, "it is found where it was moved to"


def test_a_move_that_was_killed_between_its_copy_and_its_deletion_is_finished(
    dropping: Stores, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, hours(tmp_path / "XBTUSD_60.csv"), below="drop")
    with monkeypatch.context() as patch:
        patch.setattr("kraken_pipeline.object_store.ObjectStore.delete", killing)
        with pytest.raises(Killed):
            run(dropping)
    assert bucket.objects("drop") == {"drop/XBTUSD_60.csv", "drop/ingested/XBTUSD_60.csv"}
    assert run(dropping).candles_stored == 0
    assert "drop/XBTUSD_60.csv" not in bucket.objects("drop")
    assert len(stored(dropping, "XBTUSD", 60)) == 24


def test_what_replaces_a_dropped_object_before_it_is_moved_stays_to_be_ingested(bucket: Bucket, tmp_path: Path) -> None:
    name = "XBTUSD_60.csv"
    (path,) = put(bucket, hours(tmp_path / name), below="drop").rglob("*")
    put(bucket, hours(tmp_path / name, count=30), below="drop")
    with pytest.raises(FileNotFoundError, match="it was replaced"):
        path.rename(BucketPath(f"{bucket.url}/drop/ingested/{name}"))
    assert bucket.objects("drop") == {f"drop/{name}"}


def test_the_sensor_sees_new_objects_once(dropping: Stores, bucket: Bucket, tmp_path: Path) -> None:
    settings = dropping.settings
    empty = look_into_drop_folder(settings, None)
    assert empty.run_key is None
    put(bucket, hours(tmp_path / "XBTUSD_60.csv"), below="drop")
    first = look_into_drop_folder(settings, empty.cursor)
    assert first.run_key is not None
    assert look_into_drop_folder(settings, first.cursor).run_key is None
    put(bucket, hours(tmp_path / "XBTUSD_60.csv", count=30), below="drop")
    assert look_into_drop_folder(settings, first.cursor).run_key not in (None, first.run_key)


# --- errors


def test_what_is_not_there_or_not_allowed_is_a_sentence(
    home: Path, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, hours(tmp_path / "XBTUSD_60.csv"))
    settings = settings_of(home)

    def refusal(url: str) -> str:
        with pytest.raises(InvalidRequest) as refused:
            require_folders(settings, run_spec(archive_dirs=[url]))
        assert bucket.server.password not in str(refused.value)
        return str(refused.value)

    assert f"there is no file or folder {bucket.url}/typo" in refusal(f"{bucket.url}/typo")
    assert "there is no bucket for s3://no-such-bucket" in refusal("s3://no-such-bucket/archives")
    paths._store.cache_clear()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-password")
    assert "that they allow to list and read" in refusal(f"{bucket.url}/archives")
    paths._store.cache_clear()


def test_a_bucket_that_does_not_answer_passes_and_is_no_empty_folder(
    stores: Stores, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = put(bucket, hours(tmp_path / "XBTUSD_60.csv"))
    monkeypatch.setattr(paths, "PATIENCE_SECONDS", 0.3)
    tasks = scan(stores, run_spec(archive_dirs=[there]), NOW).tasks
    bucket.server.kill()
    with pytest.raises(StoreUnavailable, match=r"has not answered for 0\.3 s"):
        scan(stores, run_spec(archive_dirs=[there]), NOW)
    with pytest.raises(StoreUnavailable, match=r"has not answered for 0\.3 s"):
        pipeline.ingest_archives(stores, run_spec(), tasks, RunContext("run-one", NOW), is_whole_run=False)
    bucket.server.start()
    run(stores, there)
    assert len(stored(stores, "XBTUSD", 60)) == 24


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    paths._store.cache_clear()
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    monkeypatch.delitem(sys.modules, "kraken_pipeline.object_store", raising=False)
    with pytest.raises(InvalidSettings, match=r"pip install 'kraken_pipeline\[s3\]'"):
        archive_path("s3://bucket/archives").exists()


# --- how they are named


def test_a_list_of_folders_may_have_buckets() -> None:
    found = archive_paths("/one:s3://bucket/prefix/:two::gs://other")
    assert [str(path) for path in found] == ["/one", "s3://bucket/prefix", "two", "gs://other"]
    assert [isinstance(path, BucketPath) for path in found] == [False, True, False, True]


def test_a_bucket_in_options_keeps_its_name() -> None:
    spec = run_spec(archive_dirs=["s3://bucket/a b/2023:Q1", "/srv"])
    assert [str(path) for path in spec.archive_dirs] == ["s3://bucket/a b/2023:Q1", "/srv"]
    assert RunSpec.model_validate_json(spec.model_dump_json()).archive_dirs == spec.archive_dirs
    assert spec.archive_dirs[0] / "x" == BucketPath("s3://bucket/a b/2023:Q1/x")
