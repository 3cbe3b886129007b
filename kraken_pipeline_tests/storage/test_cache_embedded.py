"""What only the embedded level of the cache does: it bounds its file, and outlives what happens to it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kraken_pipeline.storage.exchange_state.counters import Counters
from kraken_pipeline.storage.reply_cache.cache import Cache
from kraken_pipeline.storage.reply_cache.cache_stats import CacheStats
from kraken_pipeline.storage.reply_cache.embedded_cache import SqliteBackend, SqliteStore
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline_tests.storage.caches import KEY, LARGEST, Caches, Clock, Source


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def counts(stores: Stores, clock: Clock) -> Counters:
    return Counters(stores.catalog, clock=clock)


@pytest.fixture
def made(tmp_path: Path, counts: Counters, clock: Clock) -> Caches:
    return Caches(tmp_path / "cache", counts, clock)


@pytest.fixture
def cache(made: Caches) -> Cache:
    return made()


class TestSize:
    def test_the_oldest_make_room(self, made: Caches, source: Source) -> None:
        cache = made(largest=20_000)
        for number in range(50):
            cache.put((str(number),), os.urandom(500).hex())
            assert cache.stats().size <= 20_000
        kept = cache.stats().keys
        assert 15 < kept < 50
        fresh = made()
        for number in range(50 - kept, 50):
            assert isinstance(fresh.get_or_make((str(number),), 60, source).value, str)
        assert source.calls == 0
        fresh.get_or_make((str(49 - kept),), 60, source)
        assert source.calls == 1

    def test_what_was_put_again_is_not_the_oldest(self, made: Caches, source: Source) -> None:
        cache = made(largest=3_000)
        for name in "abac":
            cache.put((name,), os.urandom(1_000).hex())
        fresh = made()
        fresh.get_or_make(("c",), 60, source)
        assert source.calls == 0
        fresh.get_or_make(("b",), 60, source)
        assert source.calls == 1

    def test_a_value_that_is_larger_than_all_room_is_kept_alone(self, made: Caches) -> None:
        cache = made(largest=1_000)
        cache.put(("small",), "x")
        cache.put(("large",), os.urandom(5_000).hex())
        assert cache.stats().keys == 1
        cache.put(("small",), "x")
        assert cache.stats().keys == 1
        assert cache.stats().size < 1_000


# --- a file that cannot be read


def overwrite(path: Path) -> None:
    path.write_bytes(b"no database, and never was one" * 1_000)


def damage(path: Path) -> None:
    """Leaves the first page, which says that it is a database and what it holds."""
    content = path.read_bytes()
    path.write_bytes(content[:4_096] + b"\xff" * (len(content) - 4_096))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5_000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path) -> None:
    path.unlink()


def delete_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


class TestDamage:
    @pytest.mark.parametrize("harm", [overwrite, damage, cut, empty, delete, delete_folder])
    @pytest.mark.parametrize("is_running", [True, False], ids=["running", "starting"])
    def test_a_file_that_cannot_be_read_is_a_miss_and_then_works_again(
        self,
        tmp_path: Path,
        made: Caches,
        source: Source,
        harm: Callable[[Path], None],
        is_running: bool,
    ) -> None:
        cache = made()
        for number in range(20):
            cache.put((str(number),), os.urandom(2_000).hex())
        harm(tmp_path / "cache" / "cache.sqlite")
        cache = cache if is_running else made()
        for _ in range(2):  # the first may find out that it is damaged only when it writes
            assert cache.get_or_make(KEY, 0, source).value["rows"] == [source.calls]
        calls = source.calls
        assert made().get_or_make(KEY, 60, source).value == {"rows": [calls]}
        assert source.calls == calls, "it was kept"

    @pytest.mark.parametrize("ask", [Cache.stats, Cache.clear])
    def test_a_damaged_file_is_empty_to_whoever_counts_or_clears(
        self, tmp_path: Path, cache: Cache, source: Source, ask: Callable[[Cache], object]
    ) -> None:
        cache.get_or_make(KEY, 60, source)
        overwrite(tmp_path / "cache" / "cache.sqlite")
        assert ask(cache) in (CacheStats(0, 0), 0)
        assert cache.stats() == CacheStats(0, 0)

    def test_where_nothing_can_be_written_nothing_is_kept_and_nothing_fails(
        self, tmp_path: Path, made: Caches, source: Source
    ) -> None:
        (tmp_path / "cache" / "cache.sqlite").mkdir(parents=True)
        for call in (1, 2):
            assert made().get_or_make(KEY, 60, source).value == {"rows": [call]}
        assert made().stats() == CacheStats(0, 0)


def test_a_lock_excludes_others_whoever_they_are(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "cache.sqlite", LARGEST)
    one, other = (SqliteBackend({"store": store, "locks": tmp_path / "locks"}).get_mutex("key") for _ in "12")
    assert one.acquire()
    assert one.locked()
    assert not other.acquire(wait=False)
    assert not other.locked()
    one.release()
    assert other.acquire(wait=False)
    other.release()
