"""The default selection of reports: the intervals that are kept.

Other intervals exist too, because they are resampled from finer candles by default. A report that counted their gaps
would hide those that matter.
"""

from __future__ import annotations

from kraken_pipeline.market.interval import INTERVALS, Interval
from kraken_pipeline.storage.records import interval_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.run_spec import RunSpec


def record_asked(stores: Stores, spec: RunSpec, now: int) -> None:
    """Record the intervals that a run names, if it goes up to now.

    A run that names none works on all ten, but that does not count as asking for them. A run with an end repairs part
    of some series whose intervals may not be kept. Intervals of archives are kept without being asked for.
    """
    if spec.names_intervals and spec.end is None and not spec.dry_run:
        with stores.catalog.write() as connection:
            interval_records.record_asked(connection, spec.intervals, now)


def kept_intervals(stores: Stores) -> tuple[Interval, ...]:
    """Return the intervals of KRAKEN_INTERVALS, or those that were archived or asked for; all if there are none."""
    if stores.settings.kraken_intervals is not None:
        return tuple(sorted({Interval.parse(text) for text in stores.settings.kraken_intervals.split(",")}))
    with stores.catalog.read() as connection:
        kept = interval_records.archived(connection) | interval_records.asked(connection)
    return tuple(sorted(kept)) or INTERVALS


def of_kept_intervals(stores: Stores, spec: RunSpec) -> RunSpec:
    """Return a spec of the kept intervals, unless it names some itself."""
    return spec if spec.names_intervals else spec.model_copy(update={"intervals": kept_intervals(stores)})
