"""Rearrangement: series are stored anew in the layout that their numbers of candles ask for.

A write does that to its series by itself. Here it is done to series that nothing is written to: in a home of an earlier
version, after a withdrawal, or after a write that was killed.
"""

from __future__ import annotations

from collections.abc import Collection

from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake.stored_series import is_misplaced
from kraken_pipeline.storage.lake.writer import CandleWriter
from kraken_pipeline.storage.records import damage as damages
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline.workflow.progress import RunContext

_AT_ONCE = 32
"""The number of series that are committed together, because a transaction costs more than a small series."""


def rearrange(stores: Stores, series: Collection[Series], run: RunContext) -> list[Damage]:
    """Store series anew whose layout does not fit, and return the damage of those that cannot be read for it."""
    known = stores.lake.manifest.reread_all(series)
    wanted = sorted(one_series for one_series, its in known.items() if is_misplaced(its))
    found: list[Damage] = []
    for start in range(0, len(wanted), _AT_ONCE):
        run.report(phase="rearranging files")
        some = wanted[start : start + _AT_ONCE]
        with stores.locks.series(some):
            writes: list[LakeWrite] = []
            try:
                for one_series, its in stores.lake.manifest.reread_all(some).items():
                    broken = _damaged(stores, one_series)
                    found += broken
                    if is_misplaced(its) and not broken:
                        writer = CandleWriter(stores.lake, one_series, origin="layout", now=run.now, known=its)
                        writes.append(LakeWrite(writer.finish(), ()))
                commit(stores, writes, run.now)
            finally:
                for write in writes:
                    write.staged.discard()
    damages.notice(stores.catalog, stores.lake, found)
    return found


def _damaged(stores: Stores, series: Series) -> list[Damage]:
    """Return the damage of the candle files of a series, by comparing all their bytes."""
    found: list[Damage] = []
    for _, path in stores.lake.partitions(series):
        stream, damage = stores.lake.inspector.open(series, path, is_whole=True)
        if stream is not None:
            stream.close()
        if damage is not None:
            found.append(damage)
    return found
