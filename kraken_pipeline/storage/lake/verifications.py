"""Catalog records of verifications, in which the lake is read and compared with what was written."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import sqlalchemy as sa

from kraken_pipeline.storage.catalog.schema import verifications


@dataclass(frozen=True, slots=True)
class VerificationRecord:
    """One verification.

    Attributes:
        started_at: The start, in seconds since the epoch.
        finished_at: The end, in seconds since the epoch.
        is_quick: Whether only sizes and footers were compared.
        is_all: Whether all files of the lake were compared, and not a part of them.
        files: The number of files.
        bytes: The total size of the files in bytes.
        damaged: The number of damaged files.
    """

    started_at: int
    finished_at: int
    is_quick: bool
    is_all: bool
    files: int
    bytes: int
    damaged: int


def record(connection: sa.Connection, done: VerificationRecord) -> None:
    """Record a verification."""
    connection.execute(sa.insert(verifications).values(asdict(done)))


def last(connection: sa.Connection) -> VerificationRecord | None:
    """Return the verification that ended last; None where there was none."""
    query = sa.select(verifications).order_by(verifications.c.id.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return None if row is None else VerificationRecord(**{name: row[name] for name in VerificationRecord.__slots__})
