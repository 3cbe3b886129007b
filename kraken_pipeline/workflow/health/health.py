"""Health: checks whether the pipeline can do its work, with one sentence for each component it depends on."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TypeVar

import sqlalchemy as sa

from kraken_pipeline.errors import PipelineError
from kraken_pipeline.market.moment import iso
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.catalog.schema import gaps
from kraken_pipeline.storage.lake import verifications
from kraken_pipeline.storage.pool_peaks import peak_of, pool_limits
from kraken_pipeline.storage.pools import BUSY, Pool, PoolPeak
from kraken_pipeline.storage.questdb.client import open_questdb
from kraken_pipeline.storage.questdb.values import Lag
from kraken_pipeline.storage.records import evidence_records, publications
from kraken_pipeline.storage.records.damage import open_damages
from kraken_pipeline.storage.reply_cache.redis_cache import redis_health, redis_pool
from kraken_pipeline.storage.stores import Stores, create_stores
from kraken_pipeline.workflow.health.check import Check, HealthStatus
from kraken_pipeline.workflow.health.dagster_health import DagsterState, dagster_checks
from kraken_pipeline.workflow.health.distribution import check_folder, check_workers
from kraken_pipeline.workflow.health.exchange_health import EXCHANGE
from kraken_pipeline.workflow.health.exchange_probe import check_status

_Of = TypeVar("_Of")

LOW_SPACE_BYTES = 2 << 30
_BRIEFLY_SECONDS = 5.0
"""The most seconds that a check waits for a bucket. Runs wait for KRAKEN_LAKE_PATIENCE_SECONDS."""
LATE_SECONDS = 900
"""Seconds after which a pending range is a warning. Runs publish at once, and the sensor retries every minute."""
MANY_TRANSACTIONS = 1_000
"""The lag from which QuestDB does not keep up. A smaller lag is normal for seconds after a large delivery."""

NAMES: Mapping[str, str] = {
    "lake": "The lake can be written.",
    "files": "No file of the lake is known to be damaged, and all of it was read recently.",
    "folder": "Where steps are processes of their own, the home guarantees what they rely on.",
    "space": "There is space for the next archives.",
    "catalog": "The catalog answers, is at its newest migration, and has connections left.",
    "series": "No series has more gaps than KRAKEN_MAX_GAPS.",
    "outbox": "No change waits long for its publication to QuestDB.",
    "questdb": "QuestDB answers over HTTP and PGWire, and applies what it accepts.",
    "redis": "Redis answers, and has connections left.",
    "workers": "With KRAKEN_EXECUTOR=celery, a worker answers, and none is at work on a step for too long.",
    "dagster": "Dagster's storage answers, its daemon reports, and no run waits long in its queue.",
    "api": "The exchange answers, is not in maintenance, and its clock agrees with this host's.",
    "exchange": "The circuit to the exchange is closed.",
    "requests": "No more than a tenth of the requests of the last day failed.",
    "cache": "At least half of the lookups that the cache could answer are hits.",
}
"""The checks, with the condition that each of them tests."""


def check_health(settings: Settings, dagster: Callable[[], DagsterState]) -> Sequence[Check]:
    """Run all checks of `NAMES`, even if some fail, and return their results in that order.

    Args:
        settings: The settings.
        dagster: Reads the state of Dagster's storage.
    """
    order = list(NAMES)
    return sorted(_checks(settings, dagster), key=lambda check: order.index(check.about))


def _checks(settings: Settings, dagster: Callable[[], DagsterState]) -> Iterator[Check]:
    for name, look in _BY_ITSELF.items():
        yield from _looked(name, look, settings)
    yield from _looked("dagster", _dagster, dagster)
    try:
        stores = create_stores(settings)
    except Exception as error:
        yield _broken("catalog", error)
        for name in list(_IN_CATALOG)[1:]:
            yield Check(name, HealthStatus.WARNING, "unknown, because the catalog cannot be opened")
        return
    with closing(stores):
        for name, look_into in _IN_CATALOG.items():
            yield from _looked(name, look_into, stores)


def _looked(name: str, look: Callable[[_Of], Iterable[Check]], at: _Of) -> Iterator[Check]:
    """Yield the results of a check; any exception becomes a failed result, so that the other checks still run."""
    try:
        yield from look(at)
    except Exception as error:
        yield _broken(name, error)


def _broken(name: str, error: Exception) -> Check:
    kind = "" if isinstance(error, PipelineError) else f"{type(error).__name__}: "
    return Check(name, HealthStatus.FAILED, " ".join(f"{kind}{error}".split()))


def _lake(settings: Settings) -> Iterator[Check]:
    try:
        scratch = settings.home / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        probe = scratch / f"{uuid.uuid4().hex}.probe"
        try:
            with probe.open("wb") as stream:
                stream.write(b"probe")
                stream.flush()
                os.fsync(stream.fileno())
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        yield Check(
            "lake",
            HealthStatus.FAILED,
            f"KRAKEN_PIPELINE_HOME: {settings.home} cannot be written ({error}); name a folder that can be written",
        )
    else:
        yield _place_of_lake(settings)


def _place_of_lake(settings: Settings) -> Check:
    """Check that a bucket can be read and written, and refuses to overwrite what it is told to keep."""
    if settings.kraken_lake_url is None:
        return Check("lake", HealthStatus.OK, f"{settings.home / 'lake'} can be written")
    from kraken_pipeline.storage.lake.bucket import BucketFiles  # noqa: PLC0415 - an extra

    bucket = BucketFiles(settings.kraken_lake_url, min(_BRIEFLY_SECONDS, settings.kraken_lake_patience_seconds))
    bucket.probe()
    return Check(
        "lake", HealthStatus.OK, f"{bucket.place} can be read and written, and refuses to overwrite what it should keep"
    )


def _space(settings: Settings) -> Iterator[Check]:
    free = shutil.disk_usage(settings.home).free
    sentence = f"{free / 2**30:.1f} GiB free"
    if free < LOW_SPACE_BYTES:
        yield Check("space", HealthStatus.WARNING, f"{sentence}: make space before the next large archive")
    else:
        yield Check("space", HealthStatus.OK, sentence)


def _catalog(stores: Stores) -> Iterator[Check]:
    revision = stores.catalog.revision()
    where = "SQLite" if stores.catalog.is_sqlite else "PostgreSQL"
    yield Check("catalog", HealthStatus.OK, f"the catalog ({where}) answers and is at migration {revision}, the newest")
    if not stores.catalog.is_sqlite:
        yield _server_connections(stores)
    for pool, limit in pool_limits(stores.settings).items():
        yield _pool(pool, peak_of(stores.catalog, pool, limit))


def _server_connections(stores: Stores) -> Check:
    """Check the server's connections from all processes and programs: runs fail when they are used up."""
    limit = sa.cast(sa.func.current_setting("max_connections"), sa.Integer)
    activity = sa.table("pg_stat_activity", sa.column("datid"))
    # The server's own processes are listed too, and have no datid. Columns that would identify them are not readable
    # by every user.
    used = sa.select(sa.func.count()).select_from(activity).where(activity.c.datid.is_not(None)).scalar_subquery()
    with stores.catalog.read() as connection:
        in_use, most = connection.execute(sa.select(used, limit)).one()
    sentence = f"{in_use} of the server's {most} connections are in use"
    if in_use > BUSY * most:
        return Check(
            "catalog server", HealthStatus.WARNING, f"{sentence}: raise max_connections, or start fewer runs at once"
        )
    return Check("catalog server", HealthStatus.OK, sentence)


def _pool(pool: Pool, peak: PoolPeak) -> Check:
    """Check the use of a pool as the processes that have it recorded it: a pool of this process would be idle."""
    if peak.is_busy:
        setting = {Pool.CATALOG: "KRAKEN_CATALOG_POOL", Pool.QUESTDB: "KRAKEN_QUESTDB_POOL"}.get(
            pool, "KRAKEN_CACHE_POOL"
        )
        return Check(f"{pool} pool", HealthStatus.WARNING, f"{peak}: callers have to wait; raise {setting}")
    return Check(f"{pool} pool", HealthStatus.OK, str(peak))


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
            "series",
            HealthStatus.WARNING,
            f"{len(broken)} of {count} series have more than {threshold} gaps: {worst_of}",
        )
    else:
        yield Check("series", HealthStatus.OK, f"{count} series, none with more than {threshold} gaps")


def _intact(stores: Stores) -> Iterator[Check]:
    """Yield the check of known damage, with the time of the last verification."""
    with stores.catalog.read() as connection:
        damaged = open_damages(connection)
        last = verifications.last(connection)
    when = f"last verified on {iso(last.finished_at)}" if last is not None else "never verified: kraken-pipeline verify"
    if damaged:
        more = f" and {len(damaged) - 1:,} more files" if len(damaged) > 1 else ""
        yield Check("files", HealthStatus.FAILED, f"{damaged[0]}{more}; {when}; {damaged[0].action}")
    else:
        yield Check("files", HealthStatus.OK, f"no damage is known; {when}")


def _outbox(stores: Stores) -> Iterator[Check]:
    with stores.catalog.read() as connection:
        backlog = publications.backlog(connection)
    if backlog.oldest is None:
        yield Check("outbox", HealthStatus.OK, "nothing is pending for QuestDB")
    elif not stores.settings.has_questdb:
        yield Check("outbox", HealthStatus.OK, f"{backlog.count:,} ranges are pending until a QuestDB is configured")
    elif time.time() - backlog.oldest > LATE_SECONDS:
        sentence = f"{backlog.count:,} ranges are pending for QuestDB, the oldest since {iso(backlog.oldest)}"
        yield Check("outbox", HealthStatus.WARNING, f"{sentence}: kraken-pipeline publish prints the reason")
    else:
        yield Check(
            "outbox", HealthStatus.OK, f"{backlog.count:,} ranges are pending for QuestDB, none of them for long"
        )


def _questdb(settings: Settings) -> Iterator[Check]:
    if not settings.has_questdb:
        yield Check("questdb", HealthStatus.OK, "off: KRAKEN_QUESTDB_URL is not set")
        return
    with open_questdb(settings) as questdb:
        questdb.ping()
        yield Check("questdb", HealthStatus.OK, "QuestDB answers over HTTP and PGWire")
        yield lag(questdb.lags())


def lag(lags: Sequence[Lag]) -> Check:
    """Check whether QuestDB applies its transactions, by the lag between its logs and its tables."""
    for lag in lags:
        if lag.error is not None:
            return Check(
                "questdb lag",
                HealthStatus.FAILED,
                f"{lag.table} has stopped applying its log ({lag.error}); remove the cause, often a full disk, "
                f"then run in QuestDB: ALTER TABLE {lag.table} RESUME WAL",
            )
    behind = sum(lag.transactions for lag in lags)
    if behind > MANY_TRANSACTIONS:
        return Check(
            "questdb lag", HealthStatus.WARNING, f"{behind:,} transactions wait to be applied: QuestDB does not keep up"
        )
    return Check("questdb lag", HealthStatus.OK, f"{behind:,} transactions wait to be applied")


def _redis(settings: Settings) -> Iterator[Check]:
    if settings.kraken_cache_url is None:
        yield Check("redis", HealthStatus.OK, "off: KRAKEN_CACHE_URL is not set, the embedded cache is used")
        return
    url = settings.kraken_cache_url.get_secret_value()
    with closing(redis_pool(url, settings.kraken_cache_pool, settings.kraken_cache_timeout_seconds)) as pool:
        health = redis_health(pool)
    if health.error is not None:
        yield Check("redis", HealthStatus.WARNING, f"{health.error}; the embedded cache is used")
    else:
        clients, most = health.clients or 0, health.max_clients
        sentence = f"Redis {health.version} at {health.name} answers, {clients} of {most or 'any number of'} clients"
        if most and clients > BUSY * most:
            yield Check("redis", HealthStatus.WARNING, f"{sentence}: raise its maxclients, or start fewer runs at once")
        else:
            yield Check("redis", HealthStatus.OK, sentence)


def _dagster(read: Callable[[], DagsterState]) -> Iterator[Check]:
    yield from dagster_checks(read(), time.time())


_BY_ITSELF: Mapping[str, Callable[[Settings], Iterable[Check]]] = {
    "lake": _lake,
    "folder": check_folder,
    "space": _space,
    "questdb": _questdb,
    "redis": _redis,
    "workers": check_workers,
}
_IN_CATALOG: Mapping[str, Callable[[Stores], Iterable[Check]]] = {
    "catalog": _catalog,
    "files": _intact,
    "series": _series,
    "outbox": _outbox,
    "api": check_status,
    **EXCHANGE,
}
