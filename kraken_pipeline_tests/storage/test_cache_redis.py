"""Redis as the shared level: what it holds, and that the embedded level takes over where it is away, and back again."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from kraken_pipeline.storage.exchange_state.counters import Counters
from kraken_pipeline.storage.pools import PoolPeak
from kraken_pipeline.storage.reply_cache import redis_cache
from kraken_pipeline.storage.reply_cache.cache import Cache, Entry
from kraken_pipeline.storage.reply_cache.redis_cache import KEPT_SECONDS, Presence, redis_pool
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.exchange import open_cache
from kraken_pipeline_tests.storage.caches import KEY, NOW, PATIENT, Caches, Clock, Source
from kraken_pipeline_tests.support.fixtures import need
from kraken_pipeline_tests.support.homes import settings_of
from kraken_pipeline_tests.support.servers import HOST, Redis, wait_for

pytestmark = pytest.mark.servers

LONG = 3_600.0
"""A pause that no test outlives."""


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
def server(tmp_path: Path) -> Iterator[Redis]:
    """A Redis of the test's own, to kill."""
    need(Redis)
    with Redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def client(server: Redis) -> Iterator[redis.Redis]:
    """An operator at that Redis."""
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def made(server: Redis, tmp_path: Path, counts: Counters, clock: Clock) -> Iterator[Caches]:
    with closing(Caches(tmp_path / "cache", counts, clock, server.url)) as caches:
        yield caches


@pytest.fixture
def cache(made: Caches) -> Cache:
    return made()


@pytest.fixture
def embedded(tmp_path: Path, counts: Counters, clock: Clock) -> Cache:
    """The level that takes over, by itself."""
    return Caches(tmp_path / "cache", counts, clock)()


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Says for how long Redis is left alone after a failure."""
    return lambda seconds: monkeypatch.setattr(redis_cache, "PAUSE_SECONDS", seconds)


@pytest.fixture
def no_pause(pause: Callable[[float], None]) -> None:
    """Has Redis tried again by each call."""
    pause(0)


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in log.records if each.levelno >= logging.WARNING]


class TestKeeping:
    def test_the_keys_are_those_of_the_cache_and_go_after_a_week(
        self, cache: Cache, client: redis.Redis, source: Source
    ) -> None:
        for parts in (KEY, ("history", "x" * 300)):
            cache.get_or_make(parts, 60, source)
            key = cache.key(*parts)
            assert KEPT_SECONDS - PATIENT < int(client.ttl(key)) <= KEPT_SECONDS
        assert sorted(client.keys()) == sorted([cache.key(*KEY).encode(), key.encode()]), "and no lock is left"

    def test_it_says_how_much_there_is_and_how_many_connections(
        self, cache: Cache, client: redis.Redis, source: Source
    ) -> None:
        for number in range(3):
            cache.get_or_make((str(number),), 60, source)
        client.set("somebody:else", b"x" * 1_000)
        stats = cache.stats()
        assert (stats.keys, stats.level) == (3, "redis")
        assert stats.size == sum(int(client.strlen(cache.key(str(number)))) for number in range(3))
        assert stats.pool is not None
        assert (stats.pool.size, stats.pool.in_use, stats.pool.idle, stats.pool.limit) == (1, 0, 1, 100)

    def test_more_keys_than_one_scan_gives_are_counted_and_cleared(self, cache: Cache, client: redis.Redis) -> None:
        client.mset({f"test:history:{number}": b"1234" for number in range(2_500)})
        client.mset({f"test2:history:{number}": b"1234" for number in range(2_500)})
        assert (cache.stats().keys, cache.stats().size) == (2_500, 10_000)
        assert cache.clear("history") == 2_500
        assert cache.stats().keys == 0
        assert client.dbsize() == 2_500

    def test_what_is_no_value_of_ours_is_a_miss_and_gets_one(
        self, made: Caches, client: redis.Redis, source: Source
    ) -> None:
        client.rpush(made().key(*KEY), "a list")
        assert (made().stats().keys, made().stats().size) == (1, 0)
        assert made().get_or_make(KEY, 60, source).value == {"rows": [1]}
        assert made().get_or_make(KEY, 60, source).value == {"rows": [1]}
        assert made().stats().level == "redis"

    def test_a_value_that_has_expired_is_still_to_be_had(self, made: Caches, clock: Clock, source: Source) -> None:
        made().get_or_make(KEY, 60, source)
        clock.now += 6 * 86_400
        assert made().get_or_make(KEY, 7 * 86_400, source) == Entry({"rows": [1]}, NOW)

    def test_two_installations_share_it_and_no_values(
        self, tmp_path: Path, server: Redis, counts: Counters, clock: Clock, source: Source
    ) -> None:
        one, other = (Caches(tmp_path / name, counts, clock, server.url) for name in ("one", "other"))
        with closing(one), closing(other):
            assert one("first").get_or_make(KEY, 60, source).value == {"rows": [1]}
            assert other("second").get_or_make(KEY, 60, source).value == {"rows": [2]}
            assert other("first").get_or_make(KEY, 60, source).value == {"rows": [1]}
            assert one("first").clear() == 1
            assert other("second").stats().keys == 1

    def test_a_closed_cache_leaves_no_connection(self, made: Caches, client: redis.Redis, source: Source) -> None:
        alone = len(client.client_list())
        cache = made()
        cache.get_or_make(KEY, 60, source)
        assert len(client.client_list()) == alone + 1
        cache.close()
        wait_for(lambda: len(client.client_list()) == alone, "the end of a connection")
        assert cache.get_or_make(KEY, 0, source).value == {"rows": [2]}, "it may be used again"

    def test_the_settings_name_it(self, home: Path, stores: Stores, server: Redis, source: Source) -> None:
        settings = settings_of(home, kraken_cache_url=server.url, kraken_cache_pool=7, kraken_cache_timeout_seconds=60)
        with closing(open_cache(settings, Counters(stores.catalog))) as cache:
            cache.get_or_make(KEY, 60, source)
            stats = cache.stats()
        assert (stats.keys, stats.level) == (1, "redis")
        assert stats.pool is not None
        assert stats.pool.limit == 7
        with closing(open_cache(settings_of(home), Counters(stores.catalog))) as cache:
            assert (cache.stats().level, cache.stats().pool) == ("embedded", None)

    def test_the_pool_is_as_it_should_be(self) -> None:
        pool = redis_pool("rediss://me:hunter2@cache.example:6380/3", 100, 0.5)
        found = pool.connection_kwargs
        assert pool.max_connections == 100
        assert (found["health_check_interval"], found["socket_keepalive"]) == (30, True)
        assert (found["socket_timeout"], found["socket_connect_timeout"]) == (0.5, 0.5)
        assert found["retry"].get_retries() == 0
        assert issubclass(pool.connection_class, redis.SSLConnection)
        assert redis_cache.redis_name(pool) == "cache.example:6380/3"


class TestFallingOver:
    @pytest.mark.usefixtures("no_pause")
    def test_where_it_is_killed_the_same_call_is_served_and_where_it_is_back_the_next_one(
        self,
        server: Redis,
        made: Caches,
        embedded: Cache,
        source: Source,
    ) -> None:
        cache = made()
        assert cache.get_or_make(("a",), 60, source).value == {"rows": [1]}
        server.kill()
        for _ in range(3):
            assert cache.get_or_make(("b",), 60, source, in_memory=False).value == {"rows": [2]}
        assert made().get_or_make(("b",), 60, source).value == {"rows": [2]}, "another process finds it as well"
        assert cache.stats().level == "embedded"
        assert (embedded.stats().keys, source.calls) == (1, 2)
        server.start()
        assert cache.get_or_make(("c",), 60, source).value == {"rows": [3]}
        assert (cache.stats().level, cache.stats().keys, embedded.stats().keys) == ("redis", 1, 1)

    @pytest.mark.usefixtures("no_pause")
    def test_it_is_warned_of_once_when_it_goes_and_once_when_it_is_back(
        self,
        server: Redis,
        cache: Cache,
        source: Source,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        for _ in range(2):
            caplog.clear()
            server.kill()
            for _ in range(3):
                cache.get_or_make(KEY, 0, source)
            server.start()
            for _ in range(3):
                cache.get_or_make(KEY, 0, source)
            name = f"{HOST}:{server.port()}/0"
            gone, back = warnings(caplog)
            assert gone.startswith(f"Redis at {name} is down, the embedded cache is used: ")
            assert back == f"Redis at {name} answers again"
            assert server.password not in caplog.text

    def test_after_a_failure_it_is_left_alone_for_a_while(
        self, server: Redis, cache: Cache, source: Source, pause: Callable[[float], None]
    ) -> None:
        pause(LONG)
        server.kill()
        cache.get_or_make(KEY, 60, source)
        server.start()
        assert cache.stats().level == "embedded"

    def test_a_second_later_it_is_tried_again(self, server: Redis, cache: Cache, source: Source) -> None:
        server.kill()
        cache.get_or_make(KEY, 60, source)
        server.start()
        wait_for(lambda: cache.stats().level == "redis", "Redis to be tried again")

    def test_a_restart_between_two_calls_is_not_even_noticed(
        self, server: Redis, cache: Cache, source: Source, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache.get_or_make(KEY, 60, source)
        server.restart()
        cache.get_or_make(KEY, 0, source)
        assert (cache.stats().level, cache.stats().keys) == ("redis", 1)
        assert warnings(caplog) == []

    def test_one_that_was_never_there_costs_nothing_either(self, made: Caches, server: Redis, source: Source) -> None:
        server.kill()
        cache = made()
        assert cache.get_or_make(KEY, 60, source) == Entry({"rows": [1]}, NOW)
        assert made().get_or_make(KEY, 60, source) == Entry({"rows": [1]}, NOW)

    @pytest.mark.parametrize(
        ("harm", "mend"),
        [
            (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
            (("REPLICAOF", HOST, "1"), ("REPLICAOF", "NO", "ONE")),
        ],
        ids=["full", "a replica"],
    )
    @pytest.mark.usefixtures("no_pause")
    def test_one_that_only_reads_is_away_until_it_can_be_written(
        self,
        made: Caches,
        client: Any,
        source: Source,
        caplog: pytest.LogCaptureFixture,
        harm: tuple[str, ...],
        mend: tuple[str, ...],
    ) -> None:
        cache = made()
        cache.get_or_make(("a",), 60, source)
        client.execute_command(*harm)
        for _ in range(5):
            assert cache.get_or_make(("b",), 60, source, in_memory=False).value == {"rows": [2]}
        assert len(warnings(caplog)) == 1
        assert cache.stats().level == "embedded"
        client.execute_command(*mend)
        assert cache.stats().level == "redis"
        assert len(warnings(caplog)) == 2

    @pytest.mark.usefixtures("no_pause")
    def test_a_wrong_password_is_as_if_it_were_away(
        self,
        server: Redis,
        made: Caches,
        source: Source,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        cache = made(pool=redis_pool(f"redis://:hunter2@{HOST}:{server.port()}/0", 100, PATIENT))
        for _ in range(2):
            assert cache.get_or_make(KEY, 60, source, in_memory=False).value == {"rows": [1]}
        assert cache.stats().level == "embedded"
        (warning,) = warnings(caplog)
        assert "password" in warning
        assert "hunter2" not in caplog.text
        health = cache.redis_health()
        assert health is not None
        assert not health.answers
        assert "hunter2" not in repr(health)

    @pytest.mark.usefixtures("no_pause")
    def test_more_callers_than_connections_are_served_by_the_other_level(self, made: Caches, source: Source) -> None:
        pool = redis_pool(str(made.url), 1, PATIENT)
        cache = made(pool=pool)
        cache.get_or_make(("a",), 60, source)
        taken = pool.get_connection()
        stats = cache.stats()
        assert stats.level == "embedded"
        assert stats.pool is not None
        assert PoolPeak(stats.pool.peak, stats.pool.limit).is_busy
        assert cache.get_or_make(("b",), 60, source).value == {"rows": [2]}
        pool.release(taken)
        assert cache.stats().level == "redis"

    @pytest.mark.usefixtures("no_pause")
    def test_both_levels_are_cleared(self, server: Redis, made: Caches, embedded: Cache, source: Source) -> None:
        cache = made()
        server.kill()
        cache.get_or_make(("prices", "a"), 60, source)
        server.start()
        cache.get_or_make(("prices", "b"), 60, source)
        cache.get_or_make(("history",), 60, source)
        assert cache.clear("prices") == 2
        assert (cache.stats().keys, embedded.stats().keys) == (1, 0)

    def test_where_it_is_away_the_other_level_is_cleared_alone_and_that_is_warned_of(
        self, server: Redis, cache: Cache, embedded: Cache, source: Source, caplog: pytest.LogCaptureFixture
    ) -> None:
        embedded.get_or_make(KEY, 60, source)
        server.kill()
        assert cache.clear() == 1
        assert len(warnings(caplog)) == 1


class TestLocks:
    @pytest.mark.usefixtures("no_pause")
    def test_one_that_dies_while_its_lock_is_held_harms_nothing(
        self, server: Redis, made: Caches, embedded: Cache, source: Source
    ) -> None:
        def make() -> Any:
            server.kill()
            return source()

        assert made().get_or_make(KEY, 60, make).value == {"rows": [1]}
        assert embedded.get_or_make(KEY, 60, source).value == {"rows": [1]}

    def test_one_that_forgets_the_lock_harms_nothing(
        self, server: Redis, made: Caches, source: Source, caplog: pytest.LogCaptureFixture
    ) -> None:
        def make() -> Any:
            server.restart()
            return source()

        assert made().get_or_make(KEY, 60, make).value == {"rows": [1]}
        assert made().get_or_make(KEY, 60, source).value == {"rows": [1]}
        assert warnings(caplog) == []

    def test_a_lock_is_given_back_also_to_one_that_is_left_alone(
        self, made: Caches, client: redis.Redis, source: Source, pause: Callable[[float], None]
    ) -> None:
        pause(LONG)
        pool = redis_pool(str(made.url), 1, PATIENT)
        cache = made(pool=pool)

        def make() -> Any:
            taken = pool.get_connection()
            assert cache.stats().level == "embedded"  # which from here on it is
            pool.release(taken)
            return source()

        cache.get_or_make(KEY, 60, make)
        assert client.keys() == []

    def test_the_lock_of_a_killed_process_is_free_after_a_while(
        self, made: Caches, client: redis.Redis, source: Source
    ) -> None:
        cache = made()
        lock = f"_lock{cache.key(*KEY)}"
        asked: list[int] = []

        def make() -> Any:
            asked.append(int(client.pttl(lock)))
            return source()

        client.set(lock, b"somebody who is no more", px=300)
        assert cache.get_or_make(KEY, 60, make).value == {"rows": [1]}
        (left,) = asked
        assert 0 < left <= redis_cache.LOCK_SECONDS * 1_000, "and so will be this one"

    def test_a_lock_that_nobody_gives_back_is_not_waited_for_for_ever(
        self, made: Caches, client: redis.Redis, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_cache, "LOCK_SECONDS", 0.2)
        cache = made()
        client.set(f"_lock{cache.key(*KEY)}", b"somebody else's")
        assert cache.get_or_make(KEY, 60, source).value == {"rows": [1]}
        assert client.get(f"_lock{cache.key(*KEY)}") == b"somebody else's"

    @pytest.mark.usefixtures("no_pause")
    def test_who_waits_while_it_dies_goes_on(
        self, server: Redis, made: Caches, client: redis.Redis, source: Source
    ) -> None:
        cache = made()
        client.set(f"_lock{cache.key(*KEY)}", b"somebody else's")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(cache.get_or_make, KEY, 60, source)
            wait_for(lambda: client.info("commandstats")["cmdstat_set"]["calls"] > 2, "a second try of the lock")
            server.kill()
            assert waiting.result(PATIENT).value == {"rows": [1]}


class BlackHole:
    """Takes connections and never says a word; counts them."""

    def __init__(self) -> None:
        self.taken: list[socket.socket] = []
        self._socket = socket.create_server((HOST, 0))
        self.url = f"redis://:hunter2@{HOST}:{self._socket.getsockname()[1]}/0"
        self._is_closing = False
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        while not self._is_closing:
            self.taken.append(self._socket.accept()[0])

    def close(self) -> None:
        self._is_closing = True
        socket.create_connection(self._socket.getsockname()).close()  # the last one, for which the thread waits
        self._thread.join()
        for each in (self._socket, *self.taken):
            each.close()


@pytest.fixture
def hole() -> Iterator[BlackHole]:
    with closing(BlackHole()) as hole:
        yield hole


@pytest.fixture
def silent(hole: BlackHole, tmp_path: Path, counts: Counters, clock: Clock) -> Iterator[Caches]:
    with closing(Caches(tmp_path / "cache", counts, clock, hole.url)) as caches:
        yield caches


class TestSilence:
    def test_one_that_does_not_answer_costs_a_single_time_out(
        self, hole: BlackHole, silent: Caches, source: Source, pause: Callable[[float], None]
    ) -> None:
        pause(LONG)
        cache = silent(pool=redis_pool(hole.url, 100, 0.1))
        for number in range(20):
            assert cache.get_or_make((str(number % 10),), 60, source, in_memory=False).value["rows"] == [
                number % 10 + 1
            ]
        assert len(hole.taken) == 1
        assert (cache.stats().level, cache.stats().keys) == ("embedded", 10)

    def test_it_costs_one_more_after_each_pause(
        self, hole: BlackHole, silent: Caches, source: Source, pause: Callable[[float], None]
    ) -> None:
        pause(0.2)
        cache = silent(pool=redis_pool(hole.url, 100, 0.05))
        began = time.monotonic()
        while len(hole.taken) < 3:
            cache.get_or_make(KEY, 60, source, in_memory=False)
            assert len(hole.taken) <= 1 + (time.monotonic() - began) / 0.2
            assert time.monotonic() - began < PATIENT
        assert source.calls == 1

    @pytest.mark.usefixtures("no_pause")
    def test_one_tries_it_while_the_others_go_on(self) -> None:
        trying, going_on = threading.Event(), threading.Event()

        def probe() -> None:
            trying.set()
            assert going_on.wait(PATIENT)

        presence = Presence("here", probe)

        def ask() -> str:
            return presence.call(lambda: "redis", lambda: "embedded")

        assert ask() == "redis"
        presence.fail(RedisTimeoutError("too late"))
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(ask)
            assert trying.wait(PATIENT)
            assert [ask() for _ in range(3)] == ["embedded"] * 3
            going_on.set()
            assert first.result(PATIENT) == "redis"
        assert ask() == "redis"

    @pytest.mark.usefixtures("no_pause")
    def test_a_trial_that_was_interrupted_is_followed_by_another(self) -> None:
        ends: list[BaseException | None] = [KeyboardInterrupt(), RedisError("still away"), None]

        def probe() -> None:
            if (end := ends.pop(0)) is not None:
                raise end

        presence = Presence("here", probe)
        presence.fail(RedisError("away"))
        with pytest.raises(KeyboardInterrupt):
            presence.call(lambda: "redis", lambda: "embedded")
        assert [presence.call(lambda: "redis", lambda: "embedded") for _ in "12"] == ["embedded", "redis"]


class TestHealth:
    def test_without_one_there_is_nothing_to_say(self, embedded: Cache) -> None:
        assert embedded.redis_health() is None

    def test_it_says_how_it_is(self, server: Redis, cache: Cache, client: redis.Redis) -> None:
        client.ping()
        health = cache.redis_health()
        assert health is not None
        assert health.answers
        assert health.error is None
        assert health.name == f"{HOST}:{server.port()}/0"
        assert f"Redis {health.version}" == server.version()
        assert health.used_memory is not None
        assert health.used_memory > 100_000
        assert (health.clients, health.max_clients) == (2, 10_000)
        assert health.pool.limit == 100

    def test_where_it_is_away_it_says_why(self, server: Redis, cache: Cache) -> None:
        server.kill()
        health = cache.redis_health()
        assert health is not None
        assert not health.answers
        assert health.error is not None
        assert health.error.startswith(f"Redis at {HOST}:{server.port()}/0: ")
        assert "refused" in health.error
        assert server.password not in repr(health)

    def test_where_it_does_not_answer_it_says_so(self, hole: BlackHole, silent: Caches) -> None:
        health = silent(pool=redis_pool(hole.url, 100, 0.1)).redis_health()
        assert health is not None
        assert not health.answers
        assert health.error is not None
        assert "imeout" in health.error

    def test_where_it_tells_nothing_of_itself_it_answers_all_the_same(
        self, server: Redis, made: Caches, client: Any
    ) -> None:
        rule = ("on", ">hunter2", "~*", "+@all", "-info")
        client.execute_command("ACL", "SETUSER", "pipeline", *rule)
        cache = made(pool=redis_pool(f"redis://pipeline:hunter2@{HOST}:{server.port()}/0", 100, PATIENT))
        health = cache.redis_health()
        assert health is not None
        assert health.answers
        assert health.error is not None
        assert health.version is None
        assert cache.stats().level == "redis"
