"""What the cache promises, whichever level serves: one suite for the embedded one and for Redis."""

from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from dogpile.cache import make_region
from dogpile.cache.api import NO_VALUE
from redis import Redis

from kraken_pipeline.errors import CircuitOpen, ExchangeUnavailable, PipelineError, Throttled, UnusableReply
from kraken_pipeline.storage.catalog.database import open_catalog
from kraken_pipeline.storage.exchange_state.counters import Counters
from kraken_pipeline.storage.reply_cache.cache import LONGEST_KEY, Cache, Entry
from kraken_pipeline.storage.reply_cache.embedded_cache import EMBEDDED, SqliteStore
from kraken_pipeline.storage.reply_cache.redis_cache import REDIS_FIRST, redis_pool
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline_tests.storage.caches import (
    KEY,
    LARGEST,
    NOW,
    PATIENT,
    Caches,
    Clock,
    Source,
    at_least,
    counted,
    make_slowly,
)
from kraken_pipeline_tests.support.processes import process, result


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def counts(stores: Stores, clock: Clock) -> Counters:
    return Counters(stores.catalog, clock=clock)


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.servers)])
def made(
    request: pytest.FixtureRequest, tmp_path: Path, counts: Counters, clock: Clock, caplog: pytest.LogCaptureFixture
) -> Iterator[Caches]:
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None
    with closing(Caches(tmp_path / "cache", counts, clock, url)) as caches:
        yield caches
    assert [each for each in caplog.get_records("call") if "is down" in each.getMessage()] == []


@pytest.fixture
def cache(made: Caches) -> Cache:
    return made()


@pytest.fixture
def spoil(made: Caches) -> Callable[[bytes], None]:
    """Puts something else where there is a value."""

    def spoil(content: bytes) -> None:
        if made.url is None:
            with closing(sqlite3.connect(made.folder / "cache.sqlite")) as connection, connection:
                connection.execute("UPDATE entries SET value = ?", (content,))
        else:
            with Redis.from_url(made.url) as client:
                client.mset(dict.fromkeys(client.keys(), content))

    return spoil


class TestServingAgain:
    def test_a_value_serves_again_until_it_has_expired(
        self, stores: Stores, counts: Counters, cache: Cache, clock: Clock, source: Source
    ) -> None:
        assert cache.get_or_make(KEY, 60, source) == Entry({"rows": [1]}, NOW)
        clock.now += 59.9
        assert cache.get_or_make(KEY, 60, source) == Entry({"rows": [1]}, NOW)
        assert counted(stores, counts) == (1, 0, 1, 0)
        clock.now += 0.1
        assert cache.get_or_make(KEY, 60, source) == Entry({"rows": [2]}, NOW + 60)
        assert counted(stores, counts) == (1, 1, 1, 0)

    def test_what_a_clock_made_that_has_stepped_back_since_does_not_serve_until_it_is_there_again(
        self, cache: Cache, clock: Clock, source: Source
    ) -> None:
        cache.get_or_make(KEY, 60, source)
        clock.now -= 7_200
        assert cache.get_or_make(KEY, 60, source).made_at == NOW - 7_200
        clock.now += 59
        assert cache.get_or_make(KEY, 60, source).made_at == NOW - 7_200

    def test_each_asks_for_an_age_of_its_own(self, cache: Cache, clock: Clock, source: Source) -> None:
        cache.get_or_make(KEY, 60, source)
        clock.now += 100
        assert cache.get_or_make(KEY, 200, source).made_at == NOW
        assert cache.get_or_make(KEY, 100, source).made_at == NOW + 100

    def test_no_age_at_all_means_that_nothing_serves_again(self, cache: Cache, source: Source) -> None:
        assert [cache.get_or_make(KEY, 0, source).value["rows"] for _ in range(3)] == [[1], [2], [3]]

    def test_another_process_finds_what_one_has_fetched(
        self, stores: Stores, counts: Counters, made: Caches, source: Source
    ) -> None:
        made().get_or_make(KEY, 60, source)
        assert made().get_or_make(KEY, 60, source) == Entry({"rows": [1]}, NOW)
        assert counted(stores, counts) == (1, 0, 1, 0)

    def test_what_is_not_for_memory_serves_from_below(
        self, made: Caches, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = made()
        remembered: list[str] = []

        def remember(_: Cache, key: str, entry: Entry) -> Entry:
            remembered.append(key)
            return entry

        monkeypatch.setattr(Cache, "_remember", remember)
        for _ in range(2):
            assert cache.get_or_make(KEY, 60, source, in_memory=False) == Entry({"rows": [1]}, NOW)
        assert remembered == []
        cache.get_or_make(KEY, 60, source)
        assert len(remembered) == 1

    def test_what_was_put_serves_everybody(self, made: Caches, clock: Clock, source: Source) -> None:
        one, other = made(), made()
        one.get_or_make(KEY, 60, source)
        clock.now += 1
        assert one.put(KEY, {"rows": [7]}) == Entry({"rows": [7]}, NOW + 1)
        assert one.get_or_make(KEY, 60, source) == Entry({"rows": [7]}, NOW + 1)
        assert other.get_or_make(KEY, 60, source) == Entry({"rows": [7]}, NOW + 1)

    def test_what_is_known_and_not_enough_is_asked_for_anew(
        self, stores: Stores, counts: Counters, made: Caches, source: Source
    ) -> None:
        one, other = made(), made()
        one.get_or_make(KEY, 60, source)
        for each, wanted in ((one, 2), (other, 3)):  # one has it in memory, the other below
            found = each.get_or_make(KEY, 60, source, at_least(wanted))
            assert found.value == {"rows": [wanted]}
        assert counted(stores, counts) == (0, 2, 1, 0)

    def test_what_the_source_gives_is_given_also_where_it_is_not_enough(self, cache: Cache, source: Source) -> None:
        assert cache.get_or_make(KEY, 60, source, lambda _: False).value == {"rows": [1]}

    @pytest.mark.parametrize(
        "value", [{}, [], [1, 2.5, "½"], "text", 0, None, True, {"rows": [["1", 2]], "last": 3}, {"a": {"b": None}}]
    )
    def test_any_value_of_json_can_be_kept(self, made: Caches, source: Source, value: object) -> None:
        one, other = made(), made()
        assert one.get_or_make(KEY, 60, lambda: value).value == value
        assert one.get_or_make(KEY, 60, source).value == value
        assert other.get_or_make(KEY, 60, source).value == value
        assert source.calls == 0


class TestFailures:
    @pytest.mark.parametrize(
        "error", [ExchangeUnavailable("HTTP 503"), Throttled("429"), CircuitOpen("left alone", NOW), UnusableReply("?")]
    )
    def test_an_error_is_never_kept(self, cache: Cache, source: Source, error: PipelineError) -> None:
        source.error = error
        for _ in range(2):
            with pytest.raises(type(error)):
                cache.get_or_make(KEY, 60, source)
        assert source.calls == 2
        assert cache.stats().keys == cache.stats().size == 0
        source.error = None
        assert cache.get_or_make(KEY, 60, source) == Entry({"rows": [3]}, NOW)

    @pytest.mark.parametrize("error", [ExchangeUnavailable("HTTP 503"), CircuitOpen("left alone", NOW)])
    def test_what_has_expired_is_given_as_stale_where_the_source_does_not_answer(
        self,
        stores: Stores,
        counts: Counters,
        made: Caches,
        clock: Clock,
        source: Source,
        error: PipelineError,
    ) -> None:
        one, other = made(), made()
        one.get_or_make(KEY, 60, source)
        clock.now += 86_400
        source.error = error
        for each in (one, one, other):
            assert each.get_or_make(KEY, 60, source) == Entry({"rows": [1]}, NOW, is_stale=True)
        assert source.calls == 4, "what is stale does not serve again"
        assert counted(stores, counts) == (0, 3, 1, 3)
        source.error = None
        assert one.get_or_make(KEY, 60, source) == Entry({"rows": [5]}, NOW + 86_400)

    def test_what_is_stale_and_not_enough_is_not_given(self, cache: Cache, clock: Clock, source: Source) -> None:
        cache.get_or_make(KEY, 60, source)
        clock.now += 60
        source.error = ExchangeUnavailable("HTTP 503")
        with pytest.raises(ExchangeUnavailable):
            cache.get_or_make(KEY, 60, source, at_least(2))

    def test_what_is_fresh_and_not_enough_is_not_given_either(self, cache: Cache, source: Source) -> None:
        cache.get_or_make(KEY, 60, source)
        source.error = ExchangeUnavailable("HTTP 503")
        with pytest.raises(ExchangeUnavailable):
            cache.get_or_make(KEY, 60, source, at_least(2))

    def test_an_error_that_stays_is_an_error_also_where_there_is_an_old_value(
        self, cache: Cache, clock: Clock, source: Source
    ) -> None:
        cache.get_or_make(KEY, 60, source)
        clock.now += 60
        source.error = UnusableReply("no rows")
        with pytest.raises(UnusableReply):
            cache.get_or_make(KEY, 60, source)


class TestKeys:
    def test_a_key_begins_with_the_environment(self, cache: Cache) -> None:
        assert cache.key("prices", "OHLC", "XBTUSD", "1") == "test:prices:OHLC:XBTUSD:1"

    def test_a_long_key_is_hashed_and_still_says_what_it_is_of(self, cache: Cache) -> None:
        assert len(cache.key("history", "x" * (LONGEST_KEY - len("test:history:")))) == LONGEST_KEY
        first, second = (cache.key("history", "x" * 300 + end) for end in "ab")
        assert len(first) == len(second) == LONGEST_KEY
        assert first != second
        assert first.startswith("test:history:xxx")

    def test_a_value_under_a_long_key_serves_again(self, made: Caches, source: Source) -> None:
        parts = ("history", "x" * 300)
        made().get_or_make(parts, 60, source)
        other = made()
        assert other.get_or_make(parts, 60, source).value == {"rows": [1]}
        assert other.clear("history") == 1

    def test_environments_share_a_level_and_no_values(self, made: Caches, source: Source) -> None:
        one, other = made("one"), made("other")
        assert one.get_or_make(KEY, 60, source).value == {"rows": [1]}
        assert other.get_or_make(KEY, 60, source).value == {"rows": [2]}
        assert one.stats().keys == other.stats().keys == 1


class TestClearing:
    def test_only_what_begins_like_that_is_forgotten_in_memory_and_below(self, cache: Cache, source: Source) -> None:
        for parts in (("prices", "a"), ("prices", "b"), ("history", "a")):
            cache.get_or_make(parts, 60, source)
        assert cache.clear("prices") == 2
        assert cache.clear("prices") == 0
        assert cache.stats().keys == 1
        cache.get_or_make(("history", "a"), 60, source)
        assert source.calls == 3
        cache.get_or_make(("prices", "a"), 60, source)
        assert source.calls == 4

    def test_another_environment_keeps_its_own_whatever_it_is_called(self, made: Caches, source: Source) -> None:
        caches = [made(name) for name in ("test", "test2", "TEST")]
        for each in caches:
            each.get_or_make(KEY, 60, source)
        assert caches[0].clear() == 1
        assert [each.stats().keys for each in caches] == [0, 1, 1]

    def test_a_prefix_is_no_pattern(self, cache: Cache, source: Source) -> None:
        cache.get_or_make(KEY, 60, source)
        assert [cache.clear(prefix) for prefix in ("%", "_rices", "*", "?rices", "[p]rices", "\\prices", "PRICES")] == [
            0
        ] * 7
        assert cache.clear("price") == 1


class TestMemory:
    def test_what_is_in_memory_serves_by_itself(self, made: Caches, source: Source) -> None:
        one, other = made(), made()
        one.get_or_make(KEY, 60, source)
        assert other.clear() == 1
        assert one.get_or_make(KEY, 60, source).value == {"rows": [1]}
        assert other.get_or_make(KEY, 60, source).value == {"rows": [2]}

    def test_what_came_from_below_is_in_memory_from_then_on(self, made: Caches, source: Source) -> None:
        one, other = made(), made()
        one.get_or_make(KEY, 60, source)
        other.get_or_make(KEY, 60, source)
        one.clear()
        assert other.get_or_make(KEY, 60, source).value == {"rows": [1]}

    def test_what_is_in_memory_expires_as_below(self, cache: Cache, clock: Clock, source: Source) -> None:
        cache.get_or_make(KEY, 60, source)
        clock.now += 60
        assert cache.get_or_make(KEY, 60, source).value == {"rows": [2]}

    def test_what_is_too_large_for_memory_is_below_only(self, made: Caches, source: Source) -> None:
        one, other = made(), made()
        large = {"rows": [0] * 60_000}
        one.get_or_make(KEY, 60, lambda: large)
        assert one.get_or_make(KEY, 60, source).value == large
        other.clear()
        assert one.get_or_make(KEY, 60, source).value == {"rows": [1]}


class TestDamage:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"nonsense",
            b"{}|nonsense",
            b'{"ct": 1, "v": 1}|x\x9c\x03',
            b"\xff|\xff",
            b"7|" + zlib.compress(b"{}"),
            *(b'{"ct": 1, "v": 1}|' + zlib.compress(json) for json in (b"{}", b"7", b'{"value": 1, "made_at": "x"}')),
        ],
    )
    def test_a_damaged_value_is_a_miss(
        self, made: Caches, spoil: Callable[[bytes], None], source: Source, content: bytes
    ) -> None:
        made().get_or_make(KEY, 60, source)
        spoil(content)
        assert made().get_or_make(KEY, 60, source).value == {"rows": [2]}
        assert made().get_or_make(KEY, 60, source).value == {"rows": [2]}

    def test_a_damaged_value_is_no_stale_one(
        self, made: Caches, spoil: Callable[[bytes], None], source: Source
    ) -> None:
        made().get_or_make(KEY, 60, source)
        spoil(b"nonsense")
        source.error = ExchangeUnavailable("HTTP 503")
        with pytest.raises(ExchangeUnavailable):
            made().get_or_make(KEY, 60, source)


# --- several at once


PROCESSES = 4


def ask_cold(folder: str, database: str, url: str) -> Any:
    pool = redis_pool(url, 10, PATIENT) if url else None
    with (
        closing(open_catalog(database)) as catalog,
        closing(Cache(Path(folder), "test", LARGEST, Counters(catalog), pool=pool)) as cache,
    ):
        return cache.get_or_make(KEY, PATIENT, lambda: make_slowly(Path(folder) / "log")).value


def ask_in_processes(folder: str, database: str, url: str) -> None:
    with get_context("fork").Pool(PROCESSES) as pool:
        print(json.dumps(pool.starmap(ask_cold, [(folder, database, url)] * PROCESSES, chunksize=1)))  # noqa: T201


@pytest.mark.process
class TestSingleFlight:
    def test_of_several_processes_one_asks_and_all_have_the_answer(
        self, tmp_path: Path, stores: Stores, made: Caches
    ) -> None:
        with process(ask_in_processes, str(tmp_path), stores.settings.catalog_url, made.url or "") as running:
            assert json.loads(result(running)) == [{"rows": [1]}] * PROCESSES
        assert (tmp_path / "log").read_text(encoding="utf-8") == "asked\n"

    @pytest.mark.parametrize("caches", [1, 6])
    def test_of_several_threads_one_asks_and_all_have_the_answer(
        self, tmp_path: Path, made: Caches, caches: int
    ) -> None:
        several = [made() for _ in range(caches)]
        start = threading.Barrier(6)

        def ask(number: int) -> Entry:
            start.wait(PATIENT)
            return several[number % caches].get_or_make(KEY, 60, lambda: make_slowly(tmp_path / "log"))

        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(ask, range(6))) == [Entry({"rows": [1]}, NOW)] * 6
        assert (tmp_path / "log").read_text(encoding="utf-8") == "asked\n"

    def test_another_key_is_not_waited_for(self, made: Caches, source: Source) -> None:
        cache = made()

        def make() -> Any:
            return cache.get_or_make(("another",), 60, source).value

        assert cache.get_or_make(KEY, 60, make).value == {"rows": [1]}

    def test_where_the_first_fails_the_next_one_asks(self, made: Caches, source: Source) -> None:
        cache = made()
        asking, going_on = threading.Event(), threading.Event()

        def fail() -> Any:
            asking.set()
            assert going_on.wait(PATIENT)
            raise ExchangeUnavailable("HTTP 503")

        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(cache.get_or_make, KEY, 60, fail)
            assert asking.wait(PATIENT)
            second = pool.submit(cache.get_or_make, KEY, 60, source)
            assert source.calls == 0
            going_on.set()
            assert isinstance(first.exception(PATIENT), ExchangeUnavailable)
            assert second.result(PATIENT).value == {"rows": [1]}


def test_it_is_a_backend_of_dogpile_as_any_other(tmp_path: Path, made: Caches) -> None:
    arguments: dict[str, Any] = {"store": SqliteStore(tmp_path / "some.sqlite", LARGEST), "locks": tmp_path / "locks"}
    if made.url is not None:
        arguments |= {"pool": redis_pool(made.url, 10, PATIENT), "environment": "test"}
    region: Any = make_region().configure(REDIS_FIRST if made.url else EMBEDDED, arguments=arguments)
    region.set_multi({"a": 1, "b": [2]})
    assert region.get_multi(["a", "b", "c"]) == [1, [2], NO_VALUE]
    region.delete("a")
    region.delete_multi(["b", "c"])
    assert region.get_multi(["a", "b"]) == [NO_VALUE, NO_VALUE]
    assert region.get_or_create("a", lambda: 7) == 7
    assert region.get("a") == 7
    one, other = (region.backend.get_mutex("key") for _ in "12")
    assert one.acquire()
    assert one.locked()
    assert not other.acquire(wait=False)
    other.release()
    assert one.locked()
    one.release()
    assert other.acquire(wait=False)
    other.release()
    if "pool" in arguments:
        arguments["pool"].close()
