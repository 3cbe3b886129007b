"""Health checks of the exchange and of the reply cache, over all processes and the last day."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

from kraken_pipeline.errors import PipelineError
from kraken_pipeline.kraken.incidents import Incident, IncidentKind, reported_incidents
from kraken_pipeline.market.moment import iso
from kraken_pipeline.storage.exchange_state.breaker import BreakerState
from kraken_pipeline.storage.exchange_state.counters import Counters, totals
from kraken_pipeline.storage.exchange_state.limiter import Limiter
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.exchange import breaker_of, open_cache, probed
from kraken_pipeline.workflow.health.check import Check, HealthStatus

CLOCK_SECONDS = 5
"""The allowed difference between this host's clock and the exchange's, which has a resolution of one second."""
ERROR_RATE = 0.10
HIT_RATE = 0.50
FEW = 20
"""The minimum number of requests or lookups for which a rate is judged."""
_DAY = 86_400


def check_exchange(stores: Stores) -> Sequence[Check]:
    """Check the records of the exchange, without requests to it."""
    return [check for look in EXCHANGE.values() for check in look(stores)]


def check_status(stores: Stores) -> Iterator[Check]:
    """Request the status of the exchange once, within the rate limit that all processes share.

    No answer is only a warning: gaps stay gaps until the exchange answers.
    """
    try:
        with probed(stores) as exchange:
            status = exchange.require_online()
            ahead, warnings = exchange.clock_ahead, exchange.warnings
    except PipelineError as error:
        yield Check("api", HealthStatus.WARNING, f"{error}; gaps are filled when it answers")
    else:
        where = urlsplit(stores.settings.kraken_api_url).netloc.rpartition("@")[2]
        yield Check("api", HealthStatus.OK, " ".join((f"{where} answers: {status.status}", *warnings)))
        yield _clock(ahead if ahead is not None else time.time() - status.time)
        yield from _incidents(list(reported_incidents(status)))


def _clock(ahead: float) -> Check:
    """Check this host's clock against the exchange's, by which candles begin and end."""
    sentence = f"the clock here is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} the exchange's"
    if abs(ahead) <= CLOCK_SECONDS:
        return Check("api clock", HealthStatus.OK, f"{sentence}, within {CLOCK_SECONDS} s")
    return Check(
        "api clock", HealthStatus.WARNING, f"{sentence}: set it by a time server, or candles come late or too early"
    )


def _incidents(reported: Sequence[Incident]) -> Iterator[Check]:
    """Yield the check of announced maintenance and of emergencies."""
    emergencies = [incident for incident in reported if incident.kind is IncidentKind.EMERGENCY]
    announced = [incident for incident in reported if incident.kind is IncidentKind.MAINTENANCE]
    if emergencies:
        names = "; ".join(map(str, emergencies))
        yield Check("api incidents", HealthStatus.WARNING, f"the exchange reports an emergency: {names}")
    elif announced:
        yield Check("api incidents", HealthStatus.OK, f"maintenance is announced: {'; '.join(map(str, announced))}")
    else:
        yield Check("api incidents", HealthStatus.OK, "no maintenance is announced, and no emergency is reported")


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


def cache_state(stores: Stores, now: float) -> CacheState:
    """Return the lookups of the last day and the size of the reply cache."""
    with closing(open_cache(stores.settings, Counters(stores.catalog))) as cache:
        stats = cache.stats()
    return CacheState(_lookups(stores, now), stats.keys, stats.size)


def _lookups(stores: Stores, now: float) -> Lookups:
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
    lookups = _lookups(stores, time.time())  # does not open the cache file, which would create it
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
