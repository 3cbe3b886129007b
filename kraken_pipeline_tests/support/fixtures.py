"""The real servers that tests ask for: one of each for a worker, started by the first test that wants it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from kraken_pipeline_tests.support import servers
from kraken_pipeline_tests.support.browsers import Chromium, chromium
from kraken_pipeline_tests.support.buckets import Bucket
from kraken_pipeline_tests.support.servers import S3, Needed, PostgreSQL, QuestDB, Redis, reason_without


def need(kind: Needed) -> None:
    """Skips the test where this cannot be had; fails it where servers are required, as in CI."""
    reason = reason_without(kind)
    if reason is None:
        return
    if servers.REQUIRED:
        pytest.fail(f"{reason} (KRAKEN_TEST_SERVERS=required)", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """The worker's PostgreSQL; a test that wants a database of its own asks for `postgresql_url`."""
    need(PostgreSQL)
    with PostgreSQL(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """The worker's Redis, with what other tests have put there; one that wants it empty asks for `redis_url`."""
    need(Redis)
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def questdb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuestDB]:
    """The worker's QuestDB, with what other tests have put there; one that wants it empty asks for `questdb`."""
    need(QuestDB)
    with QuestDB(tmp_path_factory.mktemp("questdb")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """The worker's S3 server; a test that wants a bucket of its own asks for `bucket`."""
    need(S3)
    with S3(tmp_path_factory.mktemp("s3")) as server:
        yield server


# Each of these starts a server that an earlier test has killed and left so.


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL) -> Iterator[str]:
    """An empty database of the test's own."""
    postgresql.start()
    url = postgresql.database()
    yield url
    postgresql.start()
    postgresql.drop(url)


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """The worker's Redis, empty."""
    redis_server.start()
    redis_server.clear()
    return redis_server.url


@pytest.fixture
def questdb(questdb_server: QuestDB) -> Iterator[QuestDB]:
    """The worker's QuestDB without tables."""
    questdb_server.start()
    questdb_server.clear()
    yield questdb_server
    questdb_server.pause()


@pytest.fixture
def bucket(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket of the test's own, which the environment lets clients of S3 find."""
    s3_server.start()
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return Bucket(s3_server, s3_server.bucket())


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A browser of the test's own."""
    need(Chromium)
    with chromium() as found:
        yield found
