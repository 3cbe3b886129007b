"""Health checks of what is recorded of the exchange and of the reply cache, over all processes and the last day."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kraken_pipeline.market.moment import iso
from kraken_pipeline.storage.exchange_state.breaker import BreakerState
from kraken_pipeline.storage.exchange_state.counters import totals
from kraken_pipeline.storage.exchange_state.limiter import Limiter
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.circuit import breaker_of
from kraken_pipeline.workflow.health.check import Check, HealthStatus

ERROR_RATE = 0.10
HIT_RATE = 0.50
FEW = 20
"""The minimum number of requests or lookups for which a rate is judged."""
_DAY = 86_400


def check_exchange(stores: Stores) -> Sequence[Check]:
    """Check the records of the exchange, without requests to it."""
    return [check for look in EXCHANGE.values() for check in look(stores)]


@dataclass(frozen=True, slots=True)
class Lookups:
    """The lookups in the reply cache in the last day, over all processes.

    Attributes:
        hits: The number of lookups that the cache answered.
        misses: The number that went to the exchange, because the cached reply was too old or not enough.
        cold: The number of first lookups of a reply; they are no measure of the cache.
        stale: The number that got an older reply, because the exchange did not answer.
    """

    hits: int
    misses: int
    cold: int
    stale: int

    @property
    def count(self) -> int:
        """The number of hits and misses, without cold lookups."""
        return self.hits + self.misses

    @property
    def hit_rate(self) -> float | None:
        """The share of hits among hits and misses; None if there were none."""
        return self.hits / self.count if self.count else None


@dataclass(frozen=True, slots=True)
class CacheState:
    """The state of the reply cache, over all processes.

    Attributes:
        lookups: The lookups in the last day.
        keys: The number of replies it holds.
        size: Their size in bytes.
    """

    lookups: Lookups
    keys: int
    size: int

    def as_json(self) -> dict[str, object]:
        """Return the state as `cache stats --json` shows it."""
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


def lookups_of(stores: Stores, now: float) -> Lookups:
    """Return the lookups of the last day."""
    with stores.catalog.read() as connection:
        counts = totals(connection, [f"cache.{name}" for name in Lookups.__slots__], now - _DAY)
    return Lookups(**{name: counts[f"cache.{name}"] for name in Lookups.__slots__})


def _circuit(stores: Stores) -> Iterator[Check]:
    record = breaker_of(stores).record()
    slowness = Limiter(stores.catalog, stores.settings.kraken_api_rate).slowness()
    slow = f", with requests {slowness:.1f} times slower since its last complaint" if slowness > 1.05 else ""
    if record.state is BreakerState.CLOSED:
        yield Check("exchange", HealthStatus.OK, f"the circuit is closed{slow}")
        return
    at = iso(int(record.retry_at or 0))
    yield Check(
        "exchange",
        HealthStatus.WARNING,
        f"the circuit is {record.state} after {record.failures} failures in a row; one process tries again at {at}",
    )


def _errors(stores: Stores) -> Iterator[Check]:
    with stores.catalog.read() as connection:
        counts = totals(connection, ("api.requests", "api.errors", "api.retries"), time.time() - _DAY)
    requests, errors = counts["api.requests"], counts["api.errors"]
    sentence = f"{requests:,} requests in the last day, {errors:,} failed, {counts['api.retries']:,} were retries"
    if requests >= FEW and errors > ERROR_RATE * requests:
        yield Check(
            "requests",
            HealthStatus.WARNING,
            f"{sentence}: more than {ERROR_RATE:.0%} failed; see `kraken-pipeline status`",
        )
    else:
        yield Check("requests", HealthStatus.OK, sentence)


def _cache(stores: Stores) -> Iterator[Check]:
    lookups = lookups_of(stores, time.time())  # does not open the cache file, which would create it
    if lookups.hit_rate is None:
        yield Check("cache", HealthStatus.OK, "no lookups in the last day")
        return
    sentence = f"{lookups.hit_rate:.0%} of {lookups.count:,} lookups in the last day were hits"
    if lookups.count >= FEW and lookups.hit_rate < HIT_RATE:
        yield Check("cache", HealthStatus.WARNING, f"{sentence}: below {HIT_RATE:.0%}")
    else:
        yield Check("cache", HealthStatus.OK, sentence)


EXCHANGE: Mapping[str, Callable[[Stores], Iterable[Check]]] = {
    "exchange": _circuit,
    "requests": _errors,
    "cache": _cache,
}
"""The checks of the recorded state of the exchange, by name."""
