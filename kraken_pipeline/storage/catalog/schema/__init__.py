"""The catalog's tables, by subject.

Times are in seconds since the epoch, ranges are half-open `[start, end)`, intervals are in minutes. The migrations in
`storage/catalog/migrations` bring a database to this state; a test compares the two.
"""

from __future__ import annotations

from kraken_pipeline.storage.catalog.schema.evidence import attempts, coverage, gaps, grants, refutations
from kraken_pipeline.storage.catalog.schema.exchange import (
    absences,
    breakers,
    counters,
    incidents,
    limits,
    listings,
    pair_changes,
    pair_lists,
)
from kraken_pipeline.storage.catalog.schema.lake import (
    assets,
    damages,
    deliveries,
    history_starts,
    lake_commits,
    lake_files,
    publications,
    trade_files,
    unadopted,
    verifications,
)
from kraken_pipeline.storage.catalog.schema.parts import TableShape, metadata, of_pairs, shape_of
from kraken_pipeline.storage.catalog.schema.proof import (
    absent_ids,
    anchors,
    confirmations,
    contradictions,
    doubts,
    proofs,
    quiet_checks,
    suspicions,
    trade_counts,
)
from kraken_pipeline.storage.catalog.schema.reporting import alerts, asked_intervals, candle_counts, extents, reports
from kraken_pipeline.storage.catalog.schema.sources import (
    conflicts,
    containers,
    dead_letters,
    disputes,
    earlier_archives,
    files,
    withdrawals,
)

__all__ = [
    "TableShape",
    "absences",
    "absent_ids",
    "alerts",
    "anchors",
    "asked_intervals",
    "assets",
    "attempts",
    "breakers",
    "candle_counts",
    "confirmations",
    "conflicts",
    "containers",
    "contradictions",
    "counters",
    "coverage",
    "damages",
    "dead_letters",
    "deliveries",
    "disputes",
    "doubts",
    "earlier_archives",
    "extents",
    "files",
    "gaps",
    "grants",
    "history_starts",
    "incidents",
    "lake_commits",
    "lake_files",
    "limits",
    "listings",
    "metadata",
    "of_pairs",
    "pair_changes",
    "pair_lists",
    "proofs",
    "publications",
    "quiet_checks",
    "refutations",
    "reports",
    "shape_of",
    "suspicions",
    "trade_counts",
    "trade_files",
    "unadopted",
    "verifications",
    "withdrawals",
]
