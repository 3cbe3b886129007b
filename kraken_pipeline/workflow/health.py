"""Health: whether the pipeline can do its work, one sentence for each thing it stands on."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

import sqlalchemy as sa

from kraken_pipeline.errors import PipelineError
from kraken_pipeline.market.moment import iso
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage import evidence_records, publications
from kraken_pipeline.storage.counters import Counters
from kraken_pipeline.storage.pools import BUSY, PoolStats
from kraken_pipeline.storage.questdb import QuestDB, open_questdb
from kraken_pipeline.storage.schema import gaps
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.check import Check, Verdict
from kraken_pipeline.workflow.exchange import open_cache
from kraken_pipeline.workflow.exchange_health import check_exchange, check_status

LOW_SPACE_BYTES = 2 << 30
LATE_SECONDS = 900
"""What QuestDB is owed for longer is a warning: runs deliver at once, and the sensor tries again every minute."""
MANY_TRANSACTIONS = 1_000
"""QuestDB's log is ahead of its tables for seconds after a large delivery; by so many, it does not keep up."""


NAMES: Mapping[str, str] = {
    "lake": "The lake can be written.",
    "space": "There is room for the next archives.",
    "catalog": "The catalog answers, is at its newest migration, and has connections left.",
    "series": "No series has more gaps than KRAKEN_MAX_GAPS.",
    "outbox": "QuestDB is owed nothing for long.",
    "questdb": "QuestDB answers over HTTP and PGWire, and applies what it takes.",
    "redis": "Redis answers, and has connections left.",
    "api": "The exchange answers, and is not in maintenance.",
    "exchange": "The circuit to the exchange is closed.",
    "requests": "No more than a tenth of the requests of the last day failed.",
    "cache": "The cache serves at least half of what it could.",
}
"""What is looked at."""


def check_health(settings: Settings) -> Sequence[Check]:
    """Looks at everything, whatever is broken."""
    try:
        with opened(settings) as stores:
            return list(_checks(stores))
    except PipelineError as error:
        return [Check("catalog", Verdict.FAILED, str(error))]


def _checks(stores: Stores) -> Iterator[Check]:
    looks: Mapping[str, Callable[[Stores], Iterator[Check]]] = {
        "lake": _lake,
        "space": _space,
        "catalog": _catalog,
        "series": _series,
        "outbox": _outbox,
        "questdb": _questdb,
        "redis": _redis,
    }
    for name, look in looks.items():
        try:
            yield from look(stores)
        except PipelineError as error:
            yield Check(name, Verdict.FAILED, str(error))
    yield check_status(stores)
    yield from check_exchange(stores)


def _lake(stores: Stores) -> Iterator[Check]:
    probe = stores.lake.scratch / f"{uuid.uuid4().hex}.probe"
    try:
        with probe.open("wb") as stream:
            stream.write(b"probe")
            stream.flush()
            os.fsync(stream.fileno())
        probe.unlink()
    except OSError as error:
        yield Check("lake", Verdict.FAILED, f"{stores.lake.root} cannot be written: {error}")
        return
    yield Check("lake", Verdict.OK, f"{stores.lake.root} can be written")


def _space(stores: Stores) -> Iterator[Check]:
    free = shutil.disk_usage(stores.lake.root).free
    sentence = f"{free / 2**30:.1f} GiB free"
    if free < LOW_SPACE_BYTES:
        yield Check("space", Verdict.WARNING, f"{sentence}: make room before the next large archive")
    else:
        yield Check("space", Verdict.OK, sentence)


def _catalog(stores: Stores) -> Iterator[Check]:
    revision = stores.catalog.revision()
    where = "SQLite" if stores.catalog.is_sqlite else "PostgreSQL"
    yield Check("catalog", Verdict.OK, f"the catalog ({where}) answers and is at migration {revision}, the newest")
    if (pool := stores.catalog.statistics) is not None:
        yield _pool("catalog pool", pool, "KRAKEN_CATALOG_POOL")
        yield _server_connections(stores)


def _server_connections(stores: Stores) -> Check:
    """How many connections the server has, from all processes and programs: when they are used up, runs fail."""
    limit = sa.cast(sa.func.current_setting("max_connections"), sa.Integer)
    used = sa.select(sa.func.count()).select_from(sa.table("pg_stat_activity")).scalar_subquery()
    with stores.catalog.read() as connection:
        in_use, most = connection.execute(sa.select(used, limit)).one()
    sentence = f"{in_use} of the server's {most} connections are in use"
    if in_use > BUSY * most:
        return Check("catalog server", Verdict.WARNING, f"{sentence}: raise max_connections, or run less at once")
    return Check("catalog server", Verdict.OK, sentence)


def _pool(name: str, stats: PoolStats, setting: str) -> Check:
    if stats.is_busy:
        return Check(name, Verdict.WARNING, f"{stats}: callers will have to wait, see {setting}")
    return Check(name, Verdict.OK, str(stats))


def _series(stores: Stores) -> Iterator[Check]:
    threshold = stores.settings.kraken_max_gaps
    query = (
        sa.select(gaps.c.pair, gaps.c.interval)
        .where(gaps.c.closed_at.is_(None))
        .group_by(gaps.c.pair, gaps.c.interval)
        .having(sa.func.count() > threshold)
    )
    with stores.catalog.read() as connection:
        broken = connection.execute(query).all()
        count = len(evidence_records.extents(connection))
    if broken:
        worst_of = ", ".join(f"{pair} {interval}" for pair, interval in broken[:5])
        yield Check(
            "series", Verdict.WARNING, f"{len(broken)} of {count} series have more than {threshold} gaps: {worst_of}"
        )
    else:
        yield Check("series", Verdict.OK, f"{count} series, none with more than {threshold} gaps")


def _outbox(stores: Stores) -> Iterator[Check]:
    with stores.catalog.read() as connection:
        backlog = publications.backlog(connection)
    if backlog.oldest is None:
        yield Check("outbox", Verdict.OK, "nothing is owed to QuestDB")
    elif not stores.settings.has_questdb:
        yield Check("outbox", Verdict.OK, f"{backlog.count:,} ranges are kept for a QuestDB to come")
    elif time.time() - backlog.oldest > LATE_SECONDS:
        sentence = f"{backlog.count:,} ranges are owed to QuestDB, the oldest since {iso(backlog.oldest)}"
        yield Check("outbox", Verdict.WARNING, f"{sentence}: kraken-pipeline publish says what is in the way")
    else:
        yield Check("outbox", Verdict.OK, f"{backlog.count:,} ranges are owed to QuestDB, none of them for long")


def _questdb(stores: Stores) -> Iterator[Check]:
    if not stores.settings.has_questdb:
        yield Check("questdb", Verdict.OK, "off: KRAKEN_QUESTDB_URL is not set")
        return
    with open_questdb(stores.settings) as questdb:
        questdb.ping()
        yield Check("questdb", Verdict.OK, "QuestDB answers over HTTP and PGWire")
        yield _lag(questdb)
        yield _pool("questdb pool", questdb.statistics, "KRAKEN_QUESTDB_POOL")


def _lag(questdb: QuestDB) -> Check:
    lags = questdb.lags()
    for each in lags:
        if each.error is not None:
            return Check(
                "questdb lag",
                Verdict.FAILED,
                f"{each.table} has stopped taking in what is in its log ({each.error}); mend that, often a full disk, "
                f"then: ALTER TABLE {each.table} RESUME WAL",
            )
    behind = sum(each.transactions for each in lags)
    if behind > MANY_TRANSACTIONS:
        return Check("questdb lag", Verdict.WARNING, f"{behind:,} transactions wait to be applied: it does not keep up")
    return Check("questdb lag", Verdict.OK, f"{behind:,} transactions wait to be applied")


def _redis(stores: Stores) -> Iterator[Check]:
    cache = open_cache(stores.settings, Counters(stores.catalog))
    try:
        health = cache.redis_health()
    finally:
        cache.close()
    if health is None:
        yield Check("redis", Verdict.OK, "off: KRAKEN_CACHE_URL is not set, the embedded cache serves")
    elif health.error is not None:
        yield Check("redis", Verdict.WARNING, f"{health.error}; the embedded cache serves")
    else:
        clients, most = health.clients or 0, health.max_clients
        sentence = f"Redis {health.version} at {health.name} answers, {clients} of {most or 'any number of'} clients"
        if most and clients > BUSY * most:
            yield Check("redis", Verdict.WARNING, f"{sentence}: raise its maxclients, or run less at once")
        else:
            yield Check("redis", Verdict.OK, sentence)
        yield _pool("redis pool", health.pool, "KRAKEN_CACHE_POOL")
