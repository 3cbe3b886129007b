"""The states and kinds that the catalog's columns hold."""

from __future__ import annotations

from enum import StrEnum


class FileStatus(StrEnum):
    """How far an archive file has got."""

    PENDING = "PENDING"
    INGESTING = "INGESTING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    WITHDRAWN = "WITHDRAWN"


class ContradictionState(StrEnum):
    """What is being done about two intervals that contradict each other."""

    REFUTED = "REFUTED"  # the side that is short is a gap, and being filled
    CONFLICT = "CONFLICT"  # nothing is left to try: a person decides
    SETTLED = "SETTLED"  # they agree by now


class ProofLevel(StrEnum):
    """How far a candle is proven; see `coverage.proof`."""

    RECONCILED = "RECONCILED"  # and not verified
    VERIFIED = "VERIFIED"


class SuspicionState(StrEnum):
    """What became of a quiet time that is hard to believe."""

    UNPROVEN = "UNPROVEN"
    PROVEN_QUIET = "PROVEN_QUIET"
    EXCHANGE_DOWN = "EXCHANGE_DOWN"
    TRADED = "TRADED"


class DamageKind(StrEnum):
    """How a file differs from what was written."""

    MISSING = "MISSING"  # it is on record and not there
    CHANGED = "CHANGED"  # its size, its bytes, or what it says of itself are others
    UNREADABLE = "UNREADABLE"  # it cannot be read as Parquet, or not at all
    UNKNOWN = "UNKNOWN"  # no row of the manifest names it
