"""Why a selection has nothing that is complete or missing."""

from __future__ import annotations

from kraken_pipeline.market.series import Series
from kraken_pipeline.workflow.gaps.gaps import expected
from kraken_pipeline.workflow.gaps.snapshot import CatalogSnapshot
from kraken_pipeline.workflow.run_spec import RunSpec

NOTHING_KNOWN = "The lake is empty: kraken-pipeline ingest --archive-dir FOLDER reads Kraken's archives."
_NOTHING_EXPECTED = "There is no data of that time yet: kraken-pipeline report reports on all data."


def unknown(snapshot: CatalogSnapshot, spec: RunSpec) -> str:
    """Return a sentence on why nothing is complete or missing; empty if anything is expected."""
    if not snapshot.pairs:
        return NOTHING_KNOWN
    series = (Series(pair, interval) for pair in snapshot.pairs for interval in spec.intervals)
    return "" if any(expected(snapshot, spec, one_series) for one_series in series) else _NOTHING_EXPECTED
