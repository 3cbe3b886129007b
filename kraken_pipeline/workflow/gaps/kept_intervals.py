"""The intervals that are kept: those of archives and those that somebody asked for.

They are the default selection of reports. Other intervals exist too, because they are resampled from finer candles by
default. A report that counted their gaps would hide those that matter.

Weekly and 15-day candles are in no archive and add up from daily ones, so reading makes them. They are stored only
where they are kept, and where a pair has stored ones already.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from kraken_pipeline.market.interval import INTERVALS_OF_ARCHIVES, Interval, parse_intervals
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.records import interval_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.run_spec import RunSpec


def record_asked(stores: Stores, spec: RunSpec, now: int) -> None:
    """Record the intervals that a run names, if it goes up to now.

    A run that names none does not ask for those that it works on. A run with an end repairs part of some series whose
    intervals may not be kept. Intervals of archives are kept without being asked for.
    """
    if spec.names_intervals and spec.end is None and not spec.dry_run:
        with stores.catalog.write() as connection:
            interval_records.record_asked(connection, spec.intervals, now)


def kept_intervals(stores: Stores) -> tuple[Interval, ...]:
    """Return the intervals of KRAKEN_INTERVALS, or those that were archived or asked for.

    If there are none, they are the eight that Kraken's archives have.
    """
    with stores.catalog.read() as connection:
        kept = _set_up(stores.settings) or _on_record(connection)
    return tuple(sorted(kept)) or INTERVALS_OF_ARCHIVES


def stored_intervals(connection: sa.Connection, settings: Settings) -> frozenset[Interval]:
    """Return the intervals that a run stores if it names none: the eight of Kraken's archives, and those kept."""
    return frozenset(INTERVALS_OF_ARCHIVES) | _set_up(settings) | _on_record(connection)


def _set_up(settings: Settings) -> frozenset[Interval]:
    named = settings.kraken_intervals
    return frozenset() if named is None else frozenset(parse_intervals(named))


def _on_record(connection: sa.Connection) -> frozenset[Interval]:
    return interval_records.archived(connection) | interval_records.asked(connection)


def filled_intervals(stores: Stores, spec: RunSpec) -> Collection[Interval]:
    """Return the intervals whose gaps a run fills in all pairs.

    Those that it only fills in pairs that have some candles of them already are not among them.
    """
    if spec.names_intervals:
        return spec.intervals
    with stores.catalog.read() as connection:
        return stored_intervals(connection, stores.settings)


def of_kept_intervals(stores: Stores, spec: RunSpec) -> RunSpec:
    """Return a spec of the kept intervals, unless it names some itself."""
    return spec if spec.names_intervals else spec.model_copy(update={"intervals": kept_intervals(stores)})
