"""Health of what is not on this machine's disk, asked of real servers that are well, wrong or not there."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.demo.clock import FixedClock
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import Fault, HttpStatus, SystemState
from kraken_pipeline.demo.faults import ThrottledReply as Complaint
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.exchange_state.limiter import Limiter
from kraken_pipeline.storage.pool_peaks import record_peak
from kraken_pipeline.storage.pools import Pool
from kraken_pipeline.storage.questdb.client import open_questdb
from kraken_pipeline.storage.questdb.tables import TABLES
from kraken_pipeline.storage.questdb.values import Lag
from kraken_pipeline.storage.records import publications
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.backfill import exchange as asking
from kraken_pipeline.workflow.health.check import HealthStatus
from kraken_pipeline.workflow.health.health import LATE_SECONDS, MANY_TRANSACTIONS, NAMES, check_health, lag
from kraken_pipeline_tests.support.exchanges import NOW, SUMMER
from kraken_pipeline_tests.support.homes import NO_DAEMON, NOBODY, settings_of
from kraken_pipeline_tests.support.servers import PostgreSQL, QuestDB, wait_for

pytestmark = pytest.mark.slow

Found = dict[str, tuple[HealthStatus, str]]
HUNTER = "hunter2-is-secret"
NOBODY_AT = "127.0.0.1:9"
HOURS = TABLES[Interval.H1]


def look(home: Path, *secrets: str, **more: Any) -> Found:
    """What health says, by name; everything is looked at, and no password is told."""
    checks = check_health(settings_of(home, **more), lambda: NO_DAEMON)
    assert {check.about for check in checks} == set(NAMES)
    for check in checks:
        assert all(secret not in check.sentence for secret in (HUNTER, *secrets))
        assert check.sentence
        assert "\n" not in check.sentence
    return {check.name: (check.verdict, check.sentence) for check in checks}


def well(found: Found, *but: str) -> None:
    """All the others are as they should be: nobody is at the exchange here, and the disk may be full."""
    others = {name: each for name, each in found.items() if name not in ("space", "api", "api clock", *but)}
    assert {verdict for verdict, _ in others.values()} == {HealthStatus.OK}, others


# --- QuestDB


def sides(questdb: QuestDB, **more: Any) -> dict[str, Any]:
    """Settings that name it."""
    given = {"kraken_questdb_url": questdb.http_url, "kraken_questdb_pg_url": questdb.pg_url}
    return {**given, "kraken_questdb_pool_min": 1, "kraken_questdb_timeout_seconds": 1, **more}


def wrong(url: str, password: str) -> str:
    assert password in url
    return url.replace(password, HUNTER)


def test_a_questdb_that_answers_is_well(questdb: QuestDB, home: Path) -> None:
    found = look(home, questdb.password, **sides(questdb, kraken_questdb_timeout_seconds=10))
    well(found)
    assert found["questdb"] == (HealthStatus.OK, "QuestDB answers over HTTP and PGWire")
    assert found["questdb lag"] == (HealthStatus.OK, "0 transactions wait to be applied")
    assert found["questdb pool"] == (
        HealthStatus.OK,
        "at most 0 of 50 connections of a process were in use in the last hour",
    )


@pytest.mark.parametrize(
    ("side", "sentence"),
    [
        ("kraken_questdb_url", r"does not answer over HTTP"),
        ("kraken_questdb_pg_url", r"PGWire.* within 1 s; .*KRAKEN_QUESTDB_PG_URL"),
    ],
)
@pytest.mark.parametrize("fault", ["nobody is there", "another password"])
def test_a_side_of_questdb_that_does_not_let_us_in_has_failed_and_is_named(
    questdb: QuestDB, home: Path, side: str, sentence: str, fault: str
) -> None:
    url = wrong(sides(questdb)[side], questdb.password)
    if fault == "nobody is there":
        url = re.sub(r"@[\d.:]+", f"@{NOBODY_AT}", url)
    elif side == "kraken_questdb_url":
        sentence = r"does not allow writing over HTTP: HTTP 401; .*KRAKEN_QUESTDB_URL"
    found = look(home, questdb.password, **sides(questdb, **{side: url}))
    well(found, "questdb")
    assert found["questdb"][0] is HealthStatus.FAILED
    assert re.search(sentence, found["questdb"][1])


def test_a_table_that_questdb_has_stopped_applying_has_failed_until_it_is_resumed(questdb: QuestDB, home: Path) -> None:
    settings = sides(questdb, kraken_questdb_timeout_seconds=10)
    with open_questdb(settings_of(home, **settings)) as client:
        client.prepare()
        questdb.execute(f"ALTER TABLE {HOURS} SUSPEND WAL WITH 24, 'no space left'")
        for hour in range(3):
            questdb.execute(f"INSERT INTO {HOURS} (time, asset_id, pair) VALUES ({hour * 3_600_000_000}, 1, 'XBTUSD')")
        found = look(home, questdb.password, **settings)
        well(found, "questdb lag")
        verdict, sentence = found["questdb lag"]
        assert verdict is HealthStatus.FAILED
        assert sentence.startswith(f"{HOURS} has stopped applying its log (no space left); remove the cause")
        assert sentence.endswith(f"then run in QuestDB: ALTER TABLE {HOURS} RESUME WAL")
        assert [each.transactions for each in client.lags() if each.table == HOURS] == [3]
        questdb.execute(f"ALTER TABLE {HOURS} RESUME WAL")
        wait_for(lambda: all(each.error is None and each.transactions == 0 for each in client.lags()), "the log")
    assert look(home, questdb.password, **settings)["questdb lag"][0] is HealthStatus.OK


@pytest.mark.parametrize(
    ("transactions", "expected"),
    [
        ((), HealthStatus.OK),
        ((MANY_TRANSACTIONS - 1, 1), HealthStatus.OK),
        ((MANY_TRANSACTIONS, 1), HealthStatus.WARNING),
    ],
)
def test_a_questdb_that_does_not_keep_up_is_a_warning(transactions: tuple[int, ...], expected: HealthStatus) -> None:
    check = lag([Lag(f"candles_{number}", count, None) for number, count in enumerate(transactions)])
    assert check.verdict is expected
    assert check.sentence.startswith(f"{sum(transactions):,} transactions wait to be applied")


def owe(stores: Stores, seconds: int) -> int:
    """Something has been owed for so long."""
    made_at = int(time.time()) - seconds
    with stores.catalog.write() as connection:
        publications.enqueue(connection, [(Series("XBTUSD", Interval.H1), Span(0, 3_600))], made_at)
    return made_at


SOMEWHERE = {
    "kraken_questdb_url": f"http://me:{HUNTER}@{NOBODY_AT}",
    "kraken_questdb_pg_url": f"postgresql://me:{HUNTER}@{NOBODY_AT}/qdb",
    "kraken_questdb_timeout_seconds": 0.2,
}


def test_what_questdb_is_owed_is_a_warning_when_it_is_old(stores: Stores, home: Path) -> None:
    assert look(home, **SOMEWHERE)["outbox"] == (HealthStatus.OK, "nothing is pending for QuestDB")
    owe(stores, LATE_SECONDS - 60)
    assert look(home, **SOMEWHERE)["outbox"] == (
        HealthStatus.OK,
        "1 ranges are pending for QuestDB, none of them for long",
    )
    made_at = owe(stores, LATE_SECONDS + 60)
    verdict, sentence = look(home, **SOMEWHERE)["outbox"]
    assert verdict is HealthStatus.WARNING
    assert sentence.startswith(
        f"1 ranges are pending for QuestDB, the oldest since {iso(made_at)}: kraken-pipeline publish"
    )


def test_what_is_owed_to_no_questdb_is_kept_and_well(stores: Stores, home: Path) -> None:
    owe(stores, 100 * LATE_SECONDS)
    assert look(home)["outbox"] == (HealthStatus.OK, "1 ranges are pending until a QuestDB is configured")


# --- Redis


def test_a_redis_that_answers_is_well(redis_url: str, home: Path) -> None:
    found = look(home, redis_url.split("@", maxsplit=1)[0].rpartition(":")[2], kraken_cache_url=redis_url)
    well(found)
    assert re.fullmatch(r"Redis [\d.]+ at 127\.0\.0\.1:\d+/0 answers, \d+ of \d+ clients", found["redis"][1])
    assert found["redis pool"][1] == "at most 0 of 100 connections of a process were in use in the last hour"


def test_a_redis_that_is_away_or_lets_us_not_in_is_a_warning_because_the_embedded_cache_serves(
    redis_url: str, home: Path
) -> None:
    away = look(home, kraken_cache_url=f"redis://:{HUNTER}@{NOBODY_AT}/0")
    refused = look(home, kraken_cache_url=re.sub(r":\w+@", f":{HUNTER}@", redis_url))
    for found, sentence in ((away, r"Redis at 127\.0\.0\.1:9/0: .*"), (refused, r"Redis at .*invalid.*")):
        well(found, "redis")
        assert found["redis"][0] is HealthStatus.WARNING
        assert re.fullmatch(f"{sentence}; the embedded cache is used", found["redis"][1])


def test_a_redis_with_few_connections_left_is_a_warning(redis_url: str, home: Path) -> None:
    import redis

    with closing(redis.Redis.from_url(redis_url)) as client:
        before = str(client.config_get("maxclients")["maxclients"])
        client.config_set("maxclients", 4)
        try:
            with ExitStack() as stack:
                for _ in range(2):
                    stack.enter_context(closing(redis.Redis.from_url(redis_url))).ping()
                found = look(home, kraken_cache_url=redis_url)
        finally:
            client.config_set("maxclients", before)
    assert found["redis"][0] is HealthStatus.WARNING
    assert found["redis"][1].endswith("4 of 4 clients: raise its maxclients, or start fewer runs at once")


# --- the catalog on a server


def test_a_catalog_on_postgresql_is_well_and_tells_of_its_connections(
    postgresql: PostgreSQL, postgresql_url: str, tmp_path: Path
) -> None:
    found = look(tmp_path / "home", postgresql.password, kraken_catalog_url=postgresql_url)
    well(found, "catalog server")
    assert found["catalog"][1].startswith("the catalog (PostgreSQL) answers and is at migration ")
    assert found["catalog pool"][1] == "at most 0 of 30 connections of a process were in use in the last hour"
    in_use = int(re.match(r"(\d+) of the server's 200 connections are in use$", found["catalog server"][1])[1])  # type: ignore[index]
    # Those of others that are being ended may be counted; the server's own processes are not.
    assert in_use >= 1
    assert found["catalog server"][0] is HealthStatus.OK


def test_a_pool_that_another_process_has_used_up_is_a_warning_for_an_hour(
    postgresql: PostgreSQL, postgresql_url: str, tmp_path: Path
) -> None:
    """The peak is recorded by whoever has the pool; the pool of the check itself is idle."""
    settings = {"kraken_catalog_url": postgresql_url, "kraken_catalog_pool": 2, "kraken_catalog_overflow": 3}
    with opened(settings_of(tmp_path / "home", **settings)) as other:
        with ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(other.catalog.read())
        record_peak(other.catalog, Pool.CATALOG, other.catalog.statistics)
    sentence = "at most 5 of 5 connections of a process were in use in the last hour"
    found = look(tmp_path / "home", postgresql.password, **settings)
    assert found["catalog pool"] == (
        HealthStatus.WARNING,
        f"{sentence}: callers have to wait; raise KRAKEN_CATALOG_POOL",
    )
    with opened(settings_of(tmp_path / "home", **settings)) as other, other.catalog.write() as connection:
        connection.execute(sa.update(schema.counters).values(hour=schema.counters.c.hour - 2 * 3_600))
    assert look(tmp_path / "home", postgresql.password, **settings)["catalog pool"][0] is HealthStatus.OK


def test_a_server_with_few_connections_left_is_a_warning_whoever_has_them(
    postgresql: PostgreSQL, postgresql_url: str, tmp_path: Path
) -> None:
    settings = {"kraken_catalog_url": postgresql_url}
    with opened(settings_of(tmp_path / "home", **settings)), ExitStack() as stack:
        for _ in range(161):
            stack.enter_context(psycopg.connect(postgresql.url))
        verdict, sentence = look(tmp_path / "home", postgresql.password, **settings)["catalog server"]
    assert verdict is HealthStatus.WARNING
    assert re.fullmatch(
        r"1[6-7]\d of the server's 200 connections .*: raise max_connections, or start fewer runs.*", sentence
    )


@pytest.mark.parametrize("fault", ["nobody is there", "another password", "no such database"])
def test_a_catalog_that_does_not_let_us_in_has_failed_soon_and_hides_no_server(
    postgresql: PostgreSQL, postgresql_url: str, tmp_path: Path, fault: str
) -> None:
    url = {
        "nobody is there": f"postgresql://me:{HUNTER}@{NOBODY_AT}/kraken",
        "another password": postgresql_url.replace(postgresql.password, HUNTER),
        "no such database": f"{postgresql_url}x",
    }[fault]
    began = time.monotonic()
    found = look(
        tmp_path / "home",
        postgresql.password,
        kraken_catalog_url=url,
        kraken_catalog_patience_seconds=0.5 if fault == "nobody is there" else 300,
        kraken_cache_url=f"redis://:{HUNTER}@{NOBODY_AT}/0",
        **SOMEWHERE,
    )
    assert time.monotonic() - began < 10
    assert found["catalog"][0] is HealthStatus.FAILED
    assert found["catalog"][1].startswith("the catalog's server does not answer: ")
    assert found["lake"][0] is HealthStatus.OK
    assert found["questdb"][0] is HealthStatus.FAILED
    assert found["redis"][0] is HealthStatus.WARNING
    for name in ("series", "outbox", "api", "exchange", "requests", "cache"):
        assert found[name] == (HealthStatus.WARNING, "unknown, because the catalog cannot be opened")


# --- the exchange


@pytest.fixture
def exchange() -> Iterator[DemoExchange]:
    with DemoExchange(SUMMER, clock=FixedClock(NOW)) as exchange:
        yield exchange


def records(stores: Stores) -> list[Any]:
    """What all processes know of the exchange: the circuit and the counts."""
    with stores.catalog.read() as connection:
        return [connection.execute(sa.select(table)).all() for table in (schema.breakers, schema.counters)]


def api(home: Path, url: str, **more: Any) -> tuple[HealthStatus, str]:
    found = look(home, kraken_api_url=url, **more)
    well(found)
    return found["api"]


def test_an_exchange_that_answers_is_well(exchange: DemoExchange, stores: Stores, home: Path) -> None:
    assert api(home, exchange.url) == (HealthStatus.OK, f"{exchange.url.removeprefix('http://')} answers: online")
    assert [each.endpoint for each in exchange.requests] == ["SystemStatus"]
    assert records(stores) == [[], []]


def test_with_a_password_in_its_address_it_is_named_without(exchange: DemoExchange, home: Path) -> None:
    where = exchange.url.removeprefix("http://")
    assert api(home, f"http://me:{HUNTER}@{where}/")[1] == f"{where} answers: online"


@pytest.mark.parametrize(
    ("effect", "sentence"),
    [
        (SystemState("maintenance"), "Kraken is in maintenance; no requests are made until it ends; gaps are"),
        (HttpStatus(503), "SystemStatus: HTTP 503"),
        (Complaint(3), "Kraken answered SystemStatus with EService:Throttled"),
    ],
)
def test_an_exchange_that_gives_no_answer_is_a_warning_and_no_failure_on_record(
    exchange: DemoExchange, stores: Stores, home: Path, effect: Any, sentence: str
) -> None:
    exchange.inject(Fault(effect, times=None))
    for _ in range(2):
        verdict, said = api(home, exchange.url, kraken_breaker_failures=1)
        assert verdict is HealthStatus.WARNING
        assert said.startswith(sentence)
        assert said.endswith("gaps are filled when it answers")
        with stores.catalog.write() as connection:
            connection.execute(sa.delete(schema.limits))  # it may be asked again at once
    assert len(exchange.requests) == 2, "one attempt each"
    assert records(stores) == [[], []]


def test_where_only_trading_is_closed_market_data_is_served(exchange: DemoExchange, home: Path) -> None:
    exchange.inject(Fault(SystemState("cancel_only")))
    assert api(home, exchange.url)[0] is HealthStatus.OK


def test_an_exchange_that_nobody_is_at_is_a_warning(stores: Stores, home: Path) -> None:
    verdict, sentence = api(home, NOBODY, kraken_breaker_failures=1)
    assert verdict is HealthStatus.WARNING
    assert sentence.startswith("SystemStatus: the connection failed")
    assert records(stores) == [[], []]


def test_an_exchange_that_never_answers_is_waited_for_a_few_seconds_only(
    stores: Stores, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asking.PROBE_SECONDS == 5
    monkeypatch.setattr(asking, "PROBE_SECONDS", 0.3)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        began = time.monotonic()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        verdict, sentence = api(home, url, kraken_api_timeout_seconds=30, kraken_api_attempts=9)
        assert time.monotonic() - began < 5
    assert verdict is HealthStatus.WARNING
    assert sentence.startswith("SystemStatus: no answer in time")
    assert records(stores) == [[], []]


def test_an_exchange_that_has_asked_for_silence_is_not_asked_and_not_waited_for(
    exchange: DemoExchange, stores: Stores, home: Path
) -> None:
    Limiter(stores.catalog, 50).throttled("SystemStatus", time.time() + 60)
    began = time.monotonic()
    found = look(home, kraken_api_url=exchange.url)
    assert time.monotonic() - began < 5
    verdict, sentence = found["api"]
    assert verdict is HealthStatus.WARNING
    assert re.match(r"no request was made: the next one may be made in (59|60) s", sentence)
    assert exchange.requests == ()


# --- everything at once


def test_of_all_that_is_broken_each_is_told(home: Path) -> None:
    found = look(home, kraken_cache_url=f"redis://:{HUNTER}@{NOBODY_AT}/0", **SOMEWHERE)
    well(found, "questdb", "redis")
    assert {name: found[name][0] for name in ("questdb", "redis", "api")} == {
        "questdb": HealthStatus.FAILED,
        "redis": HealthStatus.WARNING,
        "api": HealthStatus.WARNING,
    }
