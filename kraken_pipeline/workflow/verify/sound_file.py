"""Checks a Parquet file of the lake or the ledger for soundness, and derives its entry in the manifest."""

from __future__ import annotations

from hashlib import file_digest

import polars as pl

from kraken_pipeline.market.candle import CANDLE_SCHEMA, seconds_in
from kraken_pipeline.market.flow import with_flow
from kraken_pipeline.storage.lake.files import LakeFiles
from kraken_pipeline.storage.lake.inspection import DIGEST, said_by
from kraken_pipeline.storage.lake.row_digest import row_digest
from kraken_pipeline.storage.paths import named_in
from kraken_pipeline.storage.records.manifest import LakeFile


def sound_file(files: LakeFiles, path: str, *, is_legacy: bool = False) -> LakeFile | None:
    """Return the manifest entry of a sound file; None if it is not sound.

    The footer of a file contains a digest of its rows. A file from before the manifest existed has no digest, and is
    sound if all of it can be read.

    Args:
        files: The place of the file.
        path: The path of the file, as the manifest names it.
        is_legacy: Whether a file without a digest is accepted.
    """
    series, year = named_in(path)
    if series is None:
        return None
    try:
        with files.open(path) as stream:
            said = said_by(stream)
            stream.seek(0)
            claimed = pl.read_parquet_metadata(stream).get(DIGEST)
            stream.seek(0)
            rows = pl.read_parquet(stream, hive_partitioning=False)
            stream.seek(0)
            digest_of_bytes = file_digest(stream, "sha256").hexdigest()
            size = stream.seek(0, 2)
            written_at = files.modified_at(path)
    except (OSError, pl.exceptions.PolarsError):
        return None
    rows = with_flow(rows)
    if not set(CANDLE_SCHEMA.names()) <= set(rows.columns):
        return None
    digest = row_digest(rows)
    if (said is None and not is_legacy) or (said is not None and (digest, rows.height) != (claimed, said[1])):
        return None
    times = seconds_in(rows)
    return LakeFile(
        path=path,
        series=series,
        year=year,
        rows=rows.height,
        first_time=int(times[0]) if rows.height else None,
        last_time=int(times[-1]) if rows.height else None,
        bytes=size,
        sha256=digest_of_bytes,
        digest=digest,
        write_id=said[0] if said is not None else f"{written_at * 10**9:020d}-before",
        written_at=written_at,
    )
