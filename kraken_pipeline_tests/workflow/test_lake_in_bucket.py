"""With its lake in a bucket the pipeline leaves, reads, checks and repairs what it does with one in a folder."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import obstore
import polars as pl
import pytest
import sqlalchemy as sa
from obstore.store import from_url

from kraken_pipeline.errors import (
    DamagedFile,
    InvalidRequest,
    InvalidSettings,
    LakeRefused,
    StoreError,
    StoreUnavailable,
    WriteConflict,
)
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.lake import stored_series
from kraken_pipeline.storage.lake.asset_ids import ASSET_IDS_FILE
from kraken_pipeline.storage.lake.bucket import BucketFiles
from kraken_pipeline.storage.lake.kept_objects import KEPT_BYTES, LARGEST_BYTES, KeptObjects
from kraken_pipeline.storage.lake.staged import move_all
from kraken_pipeline.storage.lake.writer import CandleWriter
from kraken_pipeline.storage.records import manifest
from kraken_pipeline.storage.records.manifest import confirm
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow import lake_write
from kraken_pipeline.workflow.cleanup import clean_up
from kraken_pipeline.workflow.health.health import check_health
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reading.candles import read_candles
from kraken_pipeline.workflow.reading.scan import scan_candles
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.verify.backup import back_up, restore
from kraken_pipeline.workflow.verify.recovery import recover
from kraken_pipeline.workflow.verify.repair import Repair, repair
from kraken_pipeline.workflow.verify.verification import Verification, verify
from kraken_pipeline.workflow.withdraw.resolve import resolve
from kraken_pipeline.workflow.withdraw.withdrawal import withdrawal
from kraken_pipeline_tests.support import damaging
from kraken_pipeline_tests.support.buckets import Bucket
from kraken_pipeline_tests.support.homes import (
    NO_DAEMON,
    NOW,
    START,
    Shelf,
    covered,
    evidence_of,
    files_of,
    lake_of,
    rows_of,
    run,
    settings_of,
    stored,
    write_lines,
)
from kraken_pipeline_tests.support.processes import process, result
from kraken_pipeline_tests.support.samples import candle, csv_row, frame

pytestmark = pytest.mark.slow

HOURS = Series("XBTUSD", Interval.H1)
HOURS_PATH = "lake/interval=60/pair=XBTUSD/candles.parquet"
HOUR, DAY = 3_600, 86_400
PAIRS = ["XBTUSD", "ADAEUR"]


class Killed(BaseException):
    """What a test ends a write with."""


def state(stores: Stores) -> dict[str, Any]:
    """What a home holds, without ids, runs and moments."""
    return {
        **evidence_of(stores),
        "lake": lake_of(stores),
        "files": [row for row in files_of(stores) if "SKIPPED" not in row],
        "ids": rows_of(stores, schema.assets, "asset_id", "pair"),
    }


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Path:
    """A home with hours, days and minutes in a folder."""
    home = tmp_path_factory.mktemp("filled") / "home"
    with opened(settings_of(home)) as stores:
        run(stores, shelf.q1, shelf.q2, shelf.minutes, pairs=PAIRS)
    return home


@pytest.fixture(scope="module")
def expected(filled: Path) -> dict[str, Any]:
    """What that home holds."""
    with opened(settings_of(filled)) as stores:
        return state(stores)


@pytest.fixture
def there(bucket: Bucket, home: Path) -> Iterator[Stores]:
    """An empty home with its lake in a bucket."""
    with opened(settings_of(home, kraken_lake_url=bucket.url)) as stores:
        yield stores


@pytest.fixture
def full(bucket: Bucket, filled: Path, tmp_path: Path) -> Iterator[Stores]:
    """That home, of the test's own, with its lake copied into a bucket."""
    home = Path(shutil.copytree(filled, tmp_path / "full"))
    move(home, bucket)
    with opened(settings_of(home, kraken_lake_url=bucket.url)) as stores:
        yield stores


def store_of(bucket: Bucket) -> Any:
    """A client that is not the pipeline's."""
    return from_url(bucket.url, client_options={"allow_http": True})


def move(home: Path, bucket: Bucket) -> None:
    """Puts the lake of a home into a bucket, as `aws s3 sync` does, and deletes it in the home."""
    store = store_of(bucket)
    for folder in ("lake", "replaced"):
        for path in (home / folder).rglob("*.parquet"):
            obstore.put(store, path.relative_to(home).as_posix(), path)
        shutil.rmtree(home / folder, ignore_errors=True)


def verified(stores: Stores, **options: Any) -> Verification:
    return verify(stores, run_spec(), RunContext("verify", NOW), **options)


def lost(stores: Stores) -> list[Any]:
    return stores.lake.replaced(HOURS).drop("at").rows()


def repaired(stores: Stores, *archives: Path) -> Repair:
    spec = run_spec(api_backfill=False, archive_dirs=list(archives) or None)
    return repair(stores, spec, RunContext("repair", NOW))


def write(stores: Stores, *candles: Any, series: Series = HOURS) -> None:
    with stores.locks.series([series]):
        writer = CandleWriter(stores.lake, series, origin="a test", now=NOW)
        writer.add(frame(candles))
        staged = writer.finish()
        try:
            commit(stores, [LakeWrite(staged, ())], NOW)
        finally:
            staged.discard()


# --- the same as in a folder


def test_an_ingest_leaves_in_a_bucket_what_it_leaves_in_a_folder(
    there: Stores, bucket: Bucket, filled: Path, shelf: Shelf, expected: dict[str, Any]
) -> None:
    run(there, shelf.q1, shelf.q2, shelf.minutes, pairs=PAIRS)
    assert state(there) == expected
    in_folder = {path.relative_to(filled).as_posix() for path in (filled / "lake").rglob("*.parquet")}
    assert bucket.objects("lake") == in_folder
    assert len(bucket.objects("replaced")) == len(list((filled / "replaced").rglob("*.parquet")))
    home = there.settings.home
    assert not list(home.rglob("*.parquet"))
    assert list((home / "tmp").iterdir()) == []
    assert verified(there).status == "ok"
    again = run(there, shelf.q1, shelf.q2, shelf.minutes, pairs=PAIRS)
    assert again.candles_stored == 0
    assert state(there) == expected


def test_polars_and_read_candles_read_it_there(full: Stores, bucket: Bucket, expected: dict[str, Any]) -> None:
    settings = full.settings
    found = read_candles("XBTUSD", 60, settings=settings)
    assert found.height == len(expected["lake"][HOURS])
    glob = f"{bucket.url}/lake/interval=60/**/*.parquet"
    scanned = pl.scan_parquet(glob, hive_partitioning=True).filter(pl.col("pair") == "XBTUSD").collect()
    assert scanned["close"].to_list() == found["close"].to_list()
    lazy = scan_candles(["XBTUSD", "ADAEUR"], "1h", settings=settings)
    assert lazy.filter(pl.col("pair") == "XBTUSD").drop("pair").collect().equals(found)
    ids = pl.read_parquet(f"{bucket.url}/{ASSET_IDS_FILE}")
    assert list(ids.select("asset_id", "pair").iter_rows()) == expected["ids"]


def test_a_home_whose_lake_was_copied_into_a_bucket_goes_on_there(
    full: Stores, shelf: Shelf, expected: dict[str, Any]
) -> None:
    assert state(full) == expected
    assert verified(full).status == "ok"
    run(full, shelf.q3, pairs=PAIRS)
    assert verified(full).status == "ok"
    with opened(settings_of(full.settings.home.parent / "other")) as other:
        run(other, shelf.q1, shelf.q2, shelf.minutes, pairs=PAIRS)
        run(other, shelf.q3, pairs=PAIRS)
        assert state(full) == state(other)


def test_candles_are_withdrawn_and_explained_as_in_a_folder(full: Stores, filled: Path, tmp_path: Path) -> None:
    what = withdrawal(
        reason="it's wrong", is_span=True, pair="XBTUSD", interval=60, start=iso(START), end=iso(START + DAY)
    )
    with opened(settings_of(Path(shutil.copytree(filled, tmp_path / "copy")))) as local:
        states = []
        for stores in (full, local):
            done = resolve(stores, what, RunContext("resolve-one", NOW + 60))
            states.append((done.as_json()["candles"], state(stores), lost(stores)))
    assert states[0] == states[1]
    assert states[0][0] >= 24


@pytest.mark.parametrize(("before", "after"), [(2, 100), (100, 2)])
def test_a_series_changes_its_layout_in_a_bucket(
    there: Stores, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    years = [START, START + 366 * DAY, START + 732 * DAY]
    monkeypatch.setattr(stored_series, "WHOLE_ROWS", before)
    write(there, *(candle(year) for year in years))
    monkeypatch.setattr(stored_series, "WHOLE_ROWS", after)
    folder = "lake/interval=60/pair=XBTUSD/"
    apart, whole = {f"{folder}{year}.parquet" for year in (2023, 2024, 2025)}, {HOURS_PATH}
    assert bucket.objects(folder) == (apart if before < after else whole)
    # A write that is killed before it is confirmed leaves both; the next one replaces what it has not read.
    monkeypatch.setattr(manifest, "confirm", killing)
    with pytest.raises(Killed):
        write(there, candle(years[0] + HOUR))
    monkeypatch.setattr(manifest, "confirm", confirm)
    assert bucket.objects(folder) == apart | whole
    write(there, candle(years[0] + HOUR))
    assert bucket.objects(folder) == (whole if before < after else apart)
    assert [row[0] for row in stored(there, "XBTUSD", 60)] == [years[0], years[0] + HOUR, *years[1:]]
    assert verified(there).status == "ok"


# --- requests


def killing(*_: Any, **__: Any) -> None:
    raise Killed


def test_a_batch_of_small_series_makes_few_requests_and_lists_nothing(
    there: Stores, bucket: Bucket, tmp_path: Path
) -> None:
    names = [f"A{first}{second}USD" for first in "ABCDEFGH" for second in "ABCDEFGH"]
    for name in names:
        write_lines(tmp_path / "archives" / f"{name}_60.csv", [csv_row(START + hour * HOUR) for hour in range(24)])
    before = len(bucket.requests())
    run(there, tmp_path / "archives", intervals="60")
    # Comparing the intervals and looking for quiet time and outages read every series again, without a request.
    ids = {"s3_HeadObject": 1, "s3_PutObject": 1}
    assert bucket.since(before) == {**ids, "s3_PutObject": len(names) + ids["s3_PutObject"]}
    before = len(bucket.requests())
    assert len(stored(there, names[0], 60)) == 24
    assert bucket.since(before) == {}

    for name in names:
        lines = [csv_row(START + (24 + hour) * HOUR) for hour in range(24)]
        write_lines(tmp_path / "more" / f"{name}_60.csv", lines)
    with opened(there.settings) as another:
        before = len(bucket.requests())
        run(another, tmp_path / "more", intervals="60")
        assert bucket.since(before) == {"s3_GetObject": len(names), "s3_PutObject": len(names)}
        before = len(bucket.requests())
        assert verified(another).status == "ok"
        read = [key for what, key in bucket.requests()[before:] if what == "s3_GetObject"]
        assert {f"lake/interval=60/pair={name}/candles.parquet" for name in names} <= set(read)


def test_what_a_process_keeps_of_an_object_is_not_read_once_another_one_has_replaced_it(
    there: Stores, bucket: Bucket
) -> None:
    write(there, candle(START))
    with opened(there.settings) as other:
        for hour in range(1, 4):
            before = len(bucket.requests())
            assert len(there.lake.read(HOURS)) == hour
            assert len(there.lake.read(HOURS)) == hour
            assert bucket.since(before) == ({} if hour == 1 else {"s3_GetObject": 1})
            write(other, candle(START + hour * HOUR))
    with there.catalog.write() as connection:
        manifest.strike(connection, [HOURS_PATH])
    there.lake.files.remove([HOURS_PATH])
    there.lake.manifest.forget([HOURS])
    assert there.lake.read(HOURS).is_empty()


def test_while_a_write_is_announced_the_bucket_is_asked_which_object_is_in_place(
    there: Stores, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(there, candle(START))
    monkeypatch.setattr(manifest, "confirm", killing)
    with opened(there.settings) as other, pytest.raises(Killed):
        write(other, candle(START + HOUR))
    before = len(bucket.requests())
    assert len(there.lake.read(HOURS)) == 2
    assert bucket.since(before) == {"s3_GetObject": 1}


def test_objects_are_kept_up_to_a_number_of_bytes_and_the_least_recently_used_goes_first() -> None:
    kept = KeptObjects()
    content = bytes(LARGEST_BYTES)
    names = [str(number) for number in range(KEPT_BYTES // LARGEST_BYTES)]
    for name in names:
        kept.keep(name, content)
    assert kept.get(names[0]) is content
    kept.keep(names[2], content)  # instead of itself, which takes no more
    kept.keep("one more", b"x")
    assert [name for name in names if kept.get(name) is None] == [names[1]]
    kept.keep(names[0], content + b"x")
    assert kept.get(names[0]) is None
    kept.drop([names[2], "unknown"])
    assert kept.get(names[2]) is None
    assert kept.get("one more") == b"x"


# --- conflicts and crashes


def test_a_write_whose_object_was_replaced_since_it_was_read_overwrites_nothing(there: Stores, bucket: Bucket) -> None:
    write(there, candle(START))
    with opened(there.settings) as other, there.locks.series([HOURS]):
        writer = CandleWriter(there.lake, HOURS, origin="a test", now=NOW)
        writer.add(frame([candle(START + HOUR)]))
        late = LakeWrite(writer.finish(), ())
        first = CandleWriter(other.lake, HOURS, origin="another machine", now=NOW)  # without any lock
        first.add(frame([candle(START + 2 * HOUR)]))
        commit_without_locks(other, LakeWrite(first.finish(), ()))
        kept = (bucket.place / HOURS_PATH).read_bytes()
        with pytest.raises(WriteConflict, match=r"another writer replaced it.*nothing was overwritten"):
            commit(there, [late], NOW)
        late.staged.discard()
    assert (bucket.place / HOURS_PATH).read_bytes() == kept
    assert [row[0] for row in stored(there, "XBTUSD", 60)] == [START, START + 2 * HOUR]
    write(there, candle(START + HOUR))
    assert [row[0] for row in stored(there, "XBTUSD", 60)] == [START, START + HOUR, START + 2 * HOUR]
    assert verified(there).status == "ok"


def commit_without_locks(stores: Stores, write: LakeWrite) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(stores.locks), "require", lambda *_: None)
        commit(stores, [write], NOW)


def test_two_first_writes_to_a_series_do_not_overwrite_each_other(there: Stores) -> None:
    with opened(there.settings) as other, there.locks.series([HOURS]):
        writers = []
        for stores, time_ in ((there, START), (other, START + HOUR)):
            writer = CandleWriter(stores.lake, HOURS, origin="a test", now=NOW)
            writer.add(frame([candle(time_)]))
            writers.append(LakeWrite(writer.finish(), ()))
        commit(there, writers[:1], NOW)
        with pytest.raises(WriteConflict):
            commit_without_locks(other, writers[1])
        writers[1].staged.discard()
    assert [row[0] for row in stored(there, "XBTUSD", 60)] == [START]


def test_a_put_that_is_repeated_after_it_was_done_is_done(there: Stores, bucket: Bucket) -> None:
    with there.locks.series([HOURS]):
        writer = CandleWriter(there.lake, HOURS, origin="a test", now=NOW)
        writer.add(frame([candle(START)]))
        staged = writer.finish()
        (put,) = [move.put for move in staged.moves]
        obstore.put(store_of(bucket), put.path, put.written.read_bytes())  # done, and its answer lost
        commit(there, [LakeWrite(staged, ())], NOW)
    assert len(stored(there, "XBTUSD", 60)) == 1


@pytest.mark.parametrize(
    ("owner", "name"),
    [(lake_write, "move_all"), (manifest, "confirm")],
    ids=["announced and not put", "put and not confirmed"],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_writer_that_dies_leaves_the_recorded_or_the_announced_object(
    there: Stores, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, is_first: bool
) -> None:
    if not is_first:
        write(there, candle(START))
    monkeypatch.setattr(owner, name, killing)
    with pytest.raises(Killed):
        write(there, candle(START + HOUR))
    monkeypatch.undo()
    for variable, value in bucket.server.environment.items():
        monkeypatch.setenv(variable, value)
    times = ([] if is_first else [START]) + ([START + HOUR] if name == "confirm" else [])
    with opened(there.settings) as another:
        for stores in (there, another):
            assert [row[0] for row in stored(stores, "XBTUSD", 60)] == times
            assert stores.lake.damaged(HOURS) == []
            assert verified(stores).status == "ok"
    write(there, candle(START + HOUR), candle(START + 2 * HOUR))
    assert len(stored(there, "XBTUSD", 60)) == (2 if is_first else 3)
    assert verified(there).status == "ok"
    assert bucket.objects("lake") - {ASSET_IDS_FILE} == {HOURS_PATH}


# --- a server that goes away


def test_an_ingest_whose_server_dies_waits_for_it_and_leaves_what_it_would_have(
    there: Stores, bucket: Bucket, shelf: Shelf, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = move_all, []

    def dying(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            bucket.server.kill()
            threading.Timer(1, bucket.server.start).start()
        real(*arguments)

    monkeypatch.setattr(lake_write, "move_all", dying)
    run(there, shelf.q1, shelf.q2, shelf.minutes, pairs=PAIRS)
    assert len(calls) > 2
    assert state(there) == expected
    assert verified(there).status == "ok"


def test_an_ingest_whose_server_stays_away_fails_with_a_sentence_and_the_same_command_completes_it(
    bucket: Bucket, home: Path, shelf: Shelf, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(home, kraken_lake_url=bucket.url, kraken_lake_patience_seconds=0.5)
    real, calls = move_all, []

    def dying(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            bucket.server.kill()
        real(*arguments)

    with opened(settings) as stores:
        with monkeypatch.context() as patch:
            patch.setattr(lake_write, "move_all", dying)
            with pytest.raises(StoreUnavailable, match=r"has not answered for 0\.5 s.*run the same command again"):
                run(stores, shelf.q1, shelf.q2, shelf.minutes, pairs=PAIRS)
        with pytest.raises(StoreUnavailable):
            stores.lake.damaged(min(stores.lake.manifest.series()))
        assert stores.lake.manifest.series()
        assert rows_of(stores, schema.damages, "path") == []
    with pytest.raises(StoreUnavailable, match="has not answered"):
        opened(settings).__enter__()  # never an empty lake
    bucket.server.start()
    with opened(settings) as stores:
        for series in stores.lake.manifest.series():
            for span in covered(stores, series.pair, series.interval.value):
                own = [row for row in expected["coverage"] if row[:2] == (series.pair, series.interval.value)]
                assert any(start <= span.start and span.end <= end for _, _, start, end, *_ in own), "no false claim"
        run(stores, shelf.q1, shelf.q2, shelf.minutes, pairs=PAIRS)
        assert state(stores) == expected
        assert verified(stores).status == "ok"


@contextmanager
def killed_after(bucket: Bucket, requests: int, *, away: float | None) -> Iterator[None]:
    """Kills the server once it has answered a number of requests; starts it again after some seconds, or at the end."""
    known, is_over = len(bucket.requests()), threading.Event()

    def kill() -> None:
        while len(bucket.requests()) < known + requests and not is_over.wait(0.002):
            pass
        bucket.server.kill()
        if away is not None:
            is_over.wait(away)
            bucket.server.start()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        is_over.set()
        killer.join()
        bucket.server.start()


@pytest.mark.parametrize("seed", range(6))
def test_an_ingest_whose_server_is_killed_at_any_moment_ends_as_an_undisturbed_one(
    bucket: Bucket, home: Path, filled: Path, shelf: Shelf, expected: dict[str, Any], seed: int
) -> None:
    if not bucket.server.is_atomic:
        pytest.skip("the file system has no extended attributes, without which a killed versitygw breaks objects")
    puts = sum(1 for folder in ("lake", "replaced") for _ in (filled / folder).rglob("*.parquet"))
    requests, is_back_in_time = Random(seed).randint(1, puts), seed % 2 == 0
    patience = 30 if is_back_in_time else 0.3
    archives = (shelf.q1, shelf.q2, shelf.minutes)
    with opened(settings_of(home, kraken_lake_url=bucket.url, kraken_lake_patience_seconds=patience)) as stores:
        with killed_after(bucket, requests, away=0.3 if is_back_in_time else None):
            failure = ""
            try:
                run(stores, *archives, pairs=PAIRS)
            except StoreUnavailable as error:
                failure = str(error)
        assert not failure or (not is_back_in_time and "run the same command again" in failure)
        for series in stores.lake.manifest.series():
            own = [row for row in expected["coverage"] if row[:2] == (series.pair, series.interval.value)]
            for span in covered(stores, series.pair, series.interval.value):
                assert any(start <= span.start and span.end <= end for _, _, start, end, *_ in own), "no false claim"
        if not is_back_in_time:
            run(stores, *archives, pairs=PAIRS)
        assert state(stores) == expected
        # A put that the kill met can leave the server's own temporary file, which it then lists as an object.
        assert [damage for damage in verified(stores).damaged if ".sgwtmp." not in damage.path] == []
        assert bucket.objects("damaged") == set()


class BreaksOff(BaseHTTPRequestHandler):
    """An answer that ends before it is whole."""

    def do_GET(self) -> None:
        self.send_response(200)
        for name, value in (("Content-Length", "1000"), ("ETag", '"tag"'), ("Last-Modified", formatdate(usegmt=True))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"the beginning")
        self.close_connection = True

    def log_message(self, format: str, *_: Any) -> None:
        """Says nothing."""


def test_an_answer_that_breaks_off_is_no_damage(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BreaksOff) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(StoreUnavailable, match="has not answered"):
            BucketFiles(bucket.url, 0.5).open(HOURS_PATH)
        server.shutdown()


# --- damage


@pytest.mark.parametrize("way", damaging.WAYS)
def test_damage_of_an_object_is_met_by_readers_and_heals_from_the_archives(
    full: Stores, bucket: Bucket, shelf: Shelf, expected: dict[str, Any], way: str
) -> None:
    if way == "deleted":
        obstore.delete(store_of(bucket), HOURS_PATH)
    else:
        damaging.WAYS[way](bucket.place / HOURS_PATH)
    with pytest.raises(DamagedFile, match=HOURS_PATH):
        full.lake.read(HOURS)
    assert covered(full, "XBTUSD", 60) == ()
    (damage,) = verified(full).damaged
    assert (damage.path, damage.kind) == (
        HOURS_PATH,
        DamageKind.MISSING if way == "deleted" else DamageKind.CHANGED,
    )
    done = repaired(full, shelf.q1, shelf.q2)
    assert done.verification.status == "repaired"
    assert verified(full).status == "ok"
    assert lake_of(full) == expected["lake"]
    aside = bucket.objects("damaged")
    assert len(aside) == (0 if way == "deleted" else 1)
    assert set(done.moved.values()) == aside
    settings = full.settings.model_copy(update={"kraken_aside_retention_days": 1})
    with opened(settings) as stores:
        clean_up(stores, 90, int(time.time()) + 2 * DAY)
    assert bucket.objects("damaged") == set()


def test_an_object_of_a_later_write_without_a_record_is_adopted_and_a_strange_one_is_named(
    full: Stores, bucket: Bucket
) -> None:
    with full.catalog.write() as connection:
        manifest.strike(connection, [HOURS_PATH])
    stray = bucket.place / "lake" / "interval=60" / "notes.txt"
    stray.write_text("not ours", encoding="utf-8")
    full.lake.manifest.forget([HOURS])
    found = verified(full)
    assert found.adopted == 1
    assert [damage.path for damage in found.damaged] == ["lake/interval=60/notes.txt"]
    assert stored(full, "XBTUSD", 60)


def test_an_object_that_is_not_on_record_is_not_overwritten(there: Stores, bucket: Bucket) -> None:
    obstore.put(store_of(bucket), HOURS_PATH, b"not ours")
    with pytest.raises(WriteConflict, match="run the same command again"):
        write(there, candle(START))
    assert (bucket.place / HOURS_PATH).read_bytes() == b"not ours"
    write(there, candle(START))  # the path is on record by now, so that what is there is read
    assert len(stored(there, "XBTUSD", 60)) == 1
    (aside,) = bucket.objects("damaged")
    assert (bucket.place / aside).read_bytes() == b"not ours"
    assert verified(there).status == "ok"


# --- a bucket that is not the right one


def test_a_url_without_the_lake_is_refused_and_costs_no_coverage(
    full: Stores, bucket: Bucket, expected: dict[str, Any]
) -> None:
    wrong = full.settings.model_copy(update={"kraken_lake_url": f"{bucket.url}/typo"})
    with pytest.raises(StoreError, match=r"there is no lake at s3://.*/typo.*correct KRAKEN_LAKE_URL"):
        opened(wrong).__enter__()
    nowhere = full.settings.model_copy(update={"kraken_lake_url": "s3://no-such-bucket/lake"})
    with pytest.raises(LakeRefused, match="there is no bucket for s3://no-such-bucket/lake"):
        opened(nowhere).__enter__()
    assert evidence_of(full)["coverage"] == expected["coverage"]


def test_a_key_that_is_refused_is_a_sentence_without_it(
    full: Stores, monkeypatch: pytest.MonkeyPatch, bucket: Bucket
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-password")
    with pytest.raises(LakeRefused, match=r"refuses a request \([\w ]+\): check the credentials") as refused:
        opened(full.settings).__enter__()
    said = repr(refused.value) + str(refused.value.__cause__)
    assert "not-the-password" not in said
    assert bucket.server.password not in said
    assert rows_of(full, schema.damages, "path") == []


def test_without_the_library_the_setting_is_refused_with_what_to_install(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    for name in ("object_store", "storage.lake.bucket"):
        monkeypatch.delitem(sys.modules, f"kraken_pipeline.{name}", raising=False)
    with pytest.raises(InvalidSettings, match=r"pip install 'kraken_pipeline\[s3\]'"):
        opened(settings_of(home, kraken_lake_url="s3://bucket/lake")).__enter__()


# --- recovery, backup, health


def test_a_catalog_that_was_lost_is_recovered_from_the_bucket_as_from_a_folder(
    full: Stores, filled: Path, shelf: Shelf, tmp_path: Path, expected: dict[str, Any]
) -> None:
    full.close()
    local = settings_of(Path(shutil.copytree(filled, tmp_path / "copy")))
    found = []
    for settings in (full.settings, local):
        for path in settings.home.glob("catalog.sqlite*"):
            path.unlink()
        with pytest.raises(StoreError, match=r"is empty, and the lake in (s3:/)?/.* is not"):
            opened(settings).__enter__()
        with opened(settings, is_recovering=True) as stores:
            spec = run_spec(archive_dirs=[shelf.q1, shelf.q2, shelf.minutes])
            done = recover(stores, spec, RunContext("run-recover", NOW))
            assert done.adopted > 0
        with opened(settings) as stores:
            assert verified(stores).status == "ok"
            found.append(state(stores))
    assert found[0] == found[1]
    assert found[0]["lake"] == expected["lake"]


def test_a_backup_copies_the_bucket_and_is_restored_into_an_empty_one(
    full: Stores, bucket: Bucket, tmp_path: Path, expected: dict[str, Any]
) -> None:
    done = back_up(full, tmp_path / "backup")
    assert done.files == len(bucket.objects("lake") | bucket.objects("replaced"))
    before = len(bucket.requests())
    back_up(full, tmp_path / "backup")
    asked = dict(bucket.since(before))
    assert asked.pop("s3_GetObject") == 1, "the copy of the ids; what has not changed is not read again"
    assert set(asked) == {"s3_ListObjectsV2"}
    other = Bucket(bucket.server, bucket.server.bucket())
    settings = settings_of(tmp_path / "restored", kraken_lake_url=other.url)
    _, found = restore(settings, tmp_path / "backup", RunContext("restore", NOW))
    assert found.status == "ok"
    assert other.objects() == bucket.objects()
    with opened(settings) as stores:
        assert state(stores) == expected
    with pytest.raises(InvalidRequest, match=r"s3://.* already has candles"):
        restore(settings_of(tmp_path / "third", kraken_lake_url=other.url), tmp_path / "backup", RunContext("r", NOW))


def test_health_says_whether_the_bucket_can_be_used(
    bucket: Bucket, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(home, kraken_lake_url=bucket.url, kraken_lake_patience_seconds=0.5)
    lake = check_health(settings, lambda: NO_DAEMON)[0]
    assert (lake.about, lake.verdict) == ("lake", "ok")
    assert f"{bucket.url} can be read and written" in lake.sentence
    assert bucket.objects() == set()
    bucket.server.kill()
    lake = check_health(settings, lambda: NO_DAEMON)[0]
    assert (lake.verdict, "has not answered" in lake.sentence) == ("failed", True)
    bucket.server.start()


@pytest.mark.parametrize("ignored", ["If-None-Match", "If-Match"])
def test_health_refuses_a_store_that_ignores_a_condition_of_a_put(
    bucket: Bucket, home: Path, monkeypatch: pytest.MonkeyPatch, ignored: str
) -> None:
    real = obstore.put

    def put(*given: Any, mode: Any, **more: Any) -> Any:
        is_ignored = (mode == "create") is (ignored == "If-None-Match")
        return real(*given, mode="overwrite" if is_ignored else mode, **more)

    monkeypatch.setattr(obstore, "put", put)
    lake = check_health(settings_of(home, kraken_lake_url=bucket.url), lambda: NO_DAEMON)[0]
    assert (lake.verdict, "use a store that keeps the conditions of a put" in lake.sentence) == ("failed", True)
    assert bucket.objects() == set()


# --- two machines


def ingest_all(home: str, catalog: str, url: str, folder: str, run_id: str) -> None:
    with opened(settings_of(Path(home), kraken_catalog_url=catalog, kraken_lake_url=url)) as stores:
        run(stores, Path(folder), run_id=run_id)


@pytest.mark.process
def test_two_machines_on_one_bucket_leave_what_one_does_and_give_no_id_twice(
    bucket: Bucket, postgresql_url: str, tmp_path: Path
) -> None:
    names = [f"A{first}{second}USD" for first in "ABCD" for second in "ABCD"]
    folders = [tmp_path / "one", tmp_path / "two"]
    for number, name in enumerate(names):
        for folder in folders if number % 3 == 0 else [folders[number % 2]]:
            lines = [csv_row(START + hour * HOUR) for hour in range(24 + number)]
            write_lines(folder / f"{name}_60.csv", lines)
    homes = [tmp_path / "home-one", tmp_path / "home-two"]
    for home in homes:  # the first creates the tables of the catalog
        with opened(settings_of(home, kraken_catalog_url=postgresql_url, kraken_lake_url=bucket.url)):
            pass
    with (
        process(ingest_all, str(homes[0]), postgresql_url, bucket.url, str(folders[0]), "run-one") as one,
        process(ingest_all, str(homes[1]), postgresql_url, bucket.url, str(folders[1]), "run-two") as two,
    ):
        result(one)
        result(two)
    with (
        opened(settings_of(homes[0], kraken_catalog_url=postgresql_url, kraken_lake_url=bucket.url)) as stores,
        opened(settings_of(tmp_path / "alone")) as alone,
    ):
        assert verified(stores).status == "ok"
        run(alone, *folders)
        assert lake_of(stores) == lake_of(alone)
        assert evidence_of(stores)["coverage"] == evidence_of(alone)["coverage"]
        ids = rows_of(stores, schema.assets, "asset_id", "pair")
        assert [asset_id for asset_id, _ in ids] == list(range(1, len(names) + 1))
        with stores.lake.files.open(ASSET_IDS_FILE) as stream:
            assert list(pl.read_parquet(stream).select("asset_id", "pair").iter_rows()) == ids


def test_copies_of_ids_by_two_machines_end_with_all_of_them(there: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    there.lake.asset_ids.register([parse_pair("XBTUSD")])
    with opened(there.settings.model_copy(update={"kraken_pipeline_home": there.settings.home})) as other:
        real = other.lake.asset_ids.all

        def meanwhile() -> pl.DataFrame:
            found = real()
            monkeypatch.undo()
            with there.catalog.write() as connection:
                row = {"asset_id": 2, "pair": "ADAEUR", "base": "ADA", "quote": "EUR"}
                connection.execute(sa.insert(schema.assets), [row])
            there.lake.asset_ids._replace()
            return found

        monkeypatch.setattr(other.lake.asset_ids, "all", meanwhile)
        other.lake.asset_ids.copy()
        with other.lake.files.open(ASSET_IDS_FILE) as stream:
            assert pl.read_parquet(stream)["pair"].to_list() == ["XBTUSD", "ADAEUR"]
        assert verified(other).status == "ok"


@pytest.mark.parametrize("moment", ["before it is announced", "before it is put", "before it is confirmed"])
@pytest.mark.parametrize("is_in_bucket", [True, False])
def test_ids_whose_copy_was_not_written_by_a_killed_run_are_copied_by_the_next_one(
    there: Stores, home: Path, monkeypatch: pytest.MonkeyPatch, is_in_bucket: bool, moment: str
) -> None:
    with opened(there.settings if is_in_bucket else settings_of(home.parent / "local")) as stores:
        for pairs in (["XBTUSD"], ["XBTUSD", "ADAEUR"]):
            with monkeypatch.context() as patch:
                if moment == "before it is put":
                    patch.setattr(type(stores.lake.files), "put", killing)
                else:
                    step = "record_assets" if moment == "before it is announced" else "confirm_assets"
                    patch.setattr(manifest, step, killing)
                with pytest.raises(Killed):
                    stores.lake.asset_ids.register(map(parse_pair, pairs))
            assert stores.lake.asset_ids.register([parse_pair("XBTUSD")]) == []
            with stores.lake.files.open(ASSET_IDS_FILE) as stream:
                assert pl.read_parquet(stream)["pair"].to_list() == pairs
            with monkeypatch.context() as patch:
                patch.setattr(stores.lake.asset_ids, "copy", killing)
                assert stores.lake.asset_ids.register([parse_pair("XBTUSD")]) == [], "it is not copied again"
