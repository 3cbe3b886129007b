"""The health check that sends the exchange a request."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from kraken_pipeline.errors import PipelineError
from kraken_pipeline.kraken.incidents import Incident, IncidentKind, reported_incidents
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.exchange import probed
from kraken_pipeline.workflow.health.check import Check, HealthStatus

CLOCK_SECONDS = 5
"""The allowed difference between this host's clock and the exchange's, which has a resolution of one second."""


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
