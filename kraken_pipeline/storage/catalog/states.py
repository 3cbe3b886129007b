"""The states and kinds that the catalog's columns hold."""

from __future__ import annotations

from enum import StrEnum


class FileStatus(StrEnum):
    """The processing state of an archive file."""

    PENDING = "PENDING"
    INGESTING = "INGESTING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    WITHDRAWN = "WITHDRAWN"


class ContradictionState(StrEnum):
    """The state of a contradiction between two intervals."""

    REFUTED = "REFUTED"  # the short side is a gap and is being filled
    CONFLICT = "CONFLICT"  # nothing is left to try: a person has to decide
    SETTLED = "SETTLED"  # the intervals agree by now


class ProofLevel(StrEnum):
    """The level to which a candle is proven; see `coverage.proof`."""

    RECONCILED = "RECONCILED"  # but not verified
    VERIFIED = "VERIFIED"


class SuspicionState(StrEnum):
    """The state of a suspicion about quiet time."""

    UNPROVEN = "UNPROVEN"
    PROVEN_QUIET = "PROVEN_QUIET"
    EXCHANGE_DOWN = "EXCHANGE_DOWN"
    TRADED = "TRADED"


class DamageKind(StrEnum):
    """The kind of difference between a file and what was written."""

    MISSING = "MISSING"  # it is on record but does not exist
    CHANGED = "CHANGED"  # its size, bytes or footer differ
    UNREADABLE = "UNREADABLE"  # it cannot be read as Parquet, or not at all
    UNKNOWN = "UNKNOWN"  # no row of the manifest names it
