"""Health: whether the pipeline can do its work, one sentence for each thing it stands on."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from kraken_pipeline.errors import PipelineError
from kraken_pipeline.market.moment import iso
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage import evidence_records
from kraken_pipeline.storage.breaker import BreakerState
from kraken_pipeline.storage.counters import Counters, totals
from kraken_pipeline.storage.limiter import Limiter
from kraken_pipeline.storage.schema import gaps
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.exchange import breaker_of, open_cache

LOW_SPACE_BYTES = 2 << 30
ERROR_RATE = 0.10
HIT_RATE = 0.50
FEW = 20
"""Of fewer requests or lookups no rate is judged."""
_DAY = 86_400


class Verdict(StrEnum):
    """How a thing is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        verdict: How it is.
        sentence: What was seen, and what to do where it is not well.
    """

    name: str
    verdict: Verdict
    sentence: str


def check_health(settings: Settings) -> list[Check]:
    """Looks at everything, whatever is broken."""
    try:
        with opened(settings) as stores:
            return [*(check(stores) for check in (_lake, _space, _catalog, _series)), *check_exchange(stores)]
    except PipelineError as error:
        return [Check("stores", Verdict.FAILED, str(error))]


def check_exchange(stores: Stores) -> list[Check]:
    """Looks at how the exchange has answered in the last day, as all processes counted it; asks it for nothing."""
    return [_exchange(stores), _errors(stores), _cache(stores)]


@dataclass(frozen=True, slots=True)
class Lookups:
    """How often the cache of replies served in the last day, over all processes.

    Attributes:
        hits: Lookups that it answered.
        misses: Those that went to the exchange, because what it had was too old or not enough.
        cold: Those of something that was never asked for before; they say nothing of how it serves.
        stale: Those that got an older reply, because the exchange did not answer.
    """

    hits: int
    misses: int
    cold: int
    stale: int

    @property
    def count(self) -> int:
        """How many there were of what had been asked for before."""
        return self.hits + self.misses

    @property
    def hit_rate(self) -> float | None:
        """The part of them that the cache answered; None where there were none."""
        return self.hits / self.count if self.count else None


@dataclass(frozen=True, slots=True)
class CacheState:
    """How well the cache of replies serves, over all processes.

    Attributes:
        lookups: How often it did in the last day.
        keys: How many replies it holds.
        size: How many bytes they take on disk.
    """

    lookups: Lookups
    keys: int
    size: int

    def as_json(self) -> dict[str, object]:
        """As `cache stats --json` shows it."""
        rate = self.lookups.hit_rate
        return {
            "hit_rate": None if rate is None else round(rate, 4),
            "hits": self.lookups.hits,
            "misses": self.lookups.misses,
            "cold": self.lookups.cold,
            "stale": self.lookups.stale,
            "keys": self.keys,
            "bytes": self.size,
        }


def cache_state(stores: Stores, now: float) -> CacheState:
    """How well the cache serves, and how large it is."""
    with closing(open_cache(stores.settings, Counters(stores.catalog))) as cache:
        stats = cache.stats()
    return CacheState(_lookups(stores, now), stats.keys, stats.size)


def _lookups(stores: Stores, now: float) -> Lookups:
    with stores.catalog.read() as connection:
        counts = totals(connection, [f"cache.{name}" for name in Lookups.__slots__], now - _DAY)
    return Lookups(**{name: counts[f"cache.{name}"] for name in Lookups.__slots__})


def worst(checks: list[Check]) -> Verdict:
    """The worst verdict among them."""
    order = list(Verdict)
    return max((check.verdict for check in checks), key=order.index, default=Verdict.OK)


def _lake(stores: Stores) -> Check:
    probe = stores.lake.scratch / f"{uuid.uuid4().hex}.probe"
    try:
        with probe.open("wb") as stream:
            stream.write(b"probe")
            stream.flush()
            os.fsync(stream.fileno())
        probe.unlink()
    except OSError as error:
        return Check("lake", Verdict.FAILED, f"{stores.lake.root} cannot be written: {error}")
    return Check("lake", Verdict.OK, f"{stores.lake.root} can be written")


def _space(stores: Stores) -> Check:
    free = shutil.disk_usage(stores.lake.root).free
    sentence = f"{free / 2**30:.1f} GiB free"
    if free < LOW_SPACE_BYTES:
        return Check("space", Verdict.WARNING, f"{sentence}: make room before the next large archive")
    return Check("space", Verdict.OK, sentence)


def _catalog(stores: Stores) -> Check:
    try:
        revision = stores.catalog.revision()
    except sa.exc.SQLAlchemyError as error:
        return Check("catalog", Verdict.FAILED, f"the catalog does not answer: {error}")
    return Check("catalog", Verdict.OK, f"the catalog answers and is at migration {revision}")


def _series(stores: Stores) -> Check:
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
        return Check(
            "series", Verdict.WARNING, f"{len(broken)} of {count} series have more than {threshold} gaps: {worst_of}"
        )
    return Check("series", Verdict.OK, f"{count} series, none with more than {threshold} gaps")


def _exchange(stores: Stores) -> Check:
    record = breaker_of(stores).record()
    slowness = Limiter(stores.catalog, stores.settings.kraken_api_rate).slowness()
    slow = f", asked {slowness:.1f} times slower since it complained" if slowness > 1.05 else ""
    if record.state is BreakerState.CLOSED:
        return Check("exchange", Verdict.OK, f"the circuit is closed{slow}")
    at = iso(int(record.retry_at or 0))
    return Check(
        "exchange",
        Verdict.WARNING,
        f"the circuit is {record.state} after {record.failures} failures in a row; one process tries again at {at}",
    )


def _errors(stores: Stores) -> Check:
    with stores.catalog.read() as connection:
        counts = totals(connection, ("api.requests", "api.errors", "api.retries"), time.time() - _DAY)
    requests, errors = counts["api.requests"], counts["api.errors"]
    sentence = f"{requests:,} requests in the last day, {errors:,} failed, {counts['api.retries']:,} were retries"
    if requests >= FEW and errors > ERROR_RATE * requests:
        return Check(
            "requests", Verdict.WARNING, f"{sentence}: more than {ERROR_RATE:.0%} fail, see `kraken-pipeline status`"
        )
    return Check("requests", Verdict.OK, sentence)


def _cache(stores: Stores) -> Check:
    lookups = _lookups(stores, time.time())  # without a look at its file, which would make one
    if lookups.hit_rate is None:
        return Check("cache", Verdict.OK, "no lookups in the last day")
    sentence = f"{lookups.hit_rate:.0%} of {lookups.count:,} lookups in the last day were hits"
    if lookups.count >= FEW and lookups.hit_rate < HIT_RATE:
        return Check("cache", Verdict.WARNING, f"{sentence}: below {HIT_RATE:.0%}")
    return Check("cache", Verdict.OK, sentence)
