"""The outcome of ingesting a file."""

from __future__ import annotations

from dataclasses import dataclass

from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import FileStatus


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """The outcome of ingesting a file.

    Attributes:
        name: The name of the file.
        series: The series of its candles.
        status: COMPLETED, SKIPPED or FAILED; PENDING if it kept changing while it was read.
        reason: Why it was skipped, failed or waits.
        rows: The number of valid rows.
        rows_rejected: The number of rejected rows.
        candles_stored: The number of its candles that are new or changed.
        seconds: The time that it took, in seconds.
    """

    name: str
    series: Series
    status: FileStatus
    reason: str | None = None
    rows: int = 0
    rows_rejected: int = 0
    candles_stored: int = 0
    seconds: float = 0.0
