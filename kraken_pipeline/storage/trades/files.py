"""Files of the trade lake: written beside it, and read if they are the ones that were written."""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256

import numpy as np
import polars as pl

from kraken_pipeline.errors import StoreError
from kraken_pipeline.market.trade import TRADE_SCHEMA
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.lake.files import LakeFiles, OpenFile, Put
from kraken_pipeline.storage.lake.inspection import DIGEST, ROWS, WRITE_ID, difference, unreadable
from kraken_pipeline.storage.lake.lake import Lake
from kraken_pipeline.storage.lake.writer import ZSTD_LEVEL
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.trades.kept import KeptTrades, claims_text, parsed_claims
from kraken_pipeline.storage.trades.manifest import TradeFile
from kraken_pipeline.storage.trades.months import named_in_trades, trades_path

CLAIMS = "kraken_pipeline.claims"
"""The key in a file's footer for what the file claims."""
ROW_GROUP_ROWS = 100_000
"""A row group has an hour to a day of an active market: a reader of a day need not read the month."""


def trade_digest(trades: pl.DataFrame) -> str:
    """Return the digest of some trades: equal for equal rows, whatever file they are stored in.

    It shows whether the rows of a file that no manifest names are whole.
    """
    sums = sha256()
    for name in TRADE_SCHEMA:
        column = trades[name]
        if column.dtype == pl.String:
            sums.update("\n".join(f"{length}{text}" for text, length in _runs(column)).encode())
            continue
        numbers = column.to_physical().fill_null(0).to_numpy()
        sums.update(np.ascontiguousarray(numbers).tobytes())
        if column.null_count():
            sums.update(column.is_null().to_numpy().tobytes())
    return sums.hexdigest()


def _runs(column: pl.Series) -> Iterator[tuple[str, int]]:
    runs = column.rle().struct.unnest()
    return zip(runs["value"], runs["len"], strict=True)


def write_trades(lake: Lake, pair: str, month: int, kept: KeptTrades, now: int) -> tuple[Put, TradeFile]:
    """Write the trades of a month to a file beside the lake, and return it with its record."""
    name = uuid.uuid4().hex
    write_id, digest = f"{time.time_ns():020d}-{name[:12]}", trade_digest(kept.trades)
    packed = io.BytesIO()
    kept.trades.write_parquet(
        packed,
        row_group_size=ROW_GROUP_ROWS,
        compression_level=ZSTD_LEVEL,
        metadata={
            CLAIMS: claims_text(kept.claims),
            DIGEST: digest,
            ROWS: str(kept.trades.height),
            WRITE_ID: write_id,  # near the end, where readers search for it
        },
    )
    written = lake.scratch / f"{name}.parquet"
    try:
        with written.open("xb") as stream:
            stream.write(packed.getbuffer())
    except BaseException:
        written.unlink(missing_ok=True)
        raise
    file = TradeFile(
        path=trades_path(pair, month, write_id),
        pair=pair,
        month=month,
        rows=kept.trades.height,
        bytes=packed.tell(),
        sha256=sha256(packed.getbuffer()).hexdigest(),
        digest=digest,
        claims=kept.claims,
        write_id=write_id,
        written_at=now,
    )
    return Put(written, file.path, file.sha256), file


@contextmanager
def opened_trades(files: LakeFiles, file: TradeFile, *, is_whole: bool) -> Iterator[OpenFile | Damage]:
    """Yield an open file if it is the one on record, or else its damage.

    Args:
        files: The place of the lake.
        file: The file as it is on record.
        is_whole: Whether to compare all its bytes; an object of a bucket is always compared whole.
    """
    stream: OpenFile | None = None
    found: OpenFile | Damage
    try:
        stream = files.open(file.path)
        wrong = difference(stream, [file], is_trusted=False, is_whole=is_whole or files.is_read_whole)
        stream.seek(0)
        found = stream if wrong is None else damage_of(file, *wrong)
    except FileNotFoundError:
        found = damage_of(file, DamageKind.MISSING, "does not exist")
    except (OSError, pl.exceptions.PolarsError) as error:
        found = damage_of(file, DamageKind.UNREADABLE, unreadable(error))
    try:
        yield found
    finally:
        if stream is not None:
            stream.close()


def damage_of(file: TradeFile, kind: DamageKind, detail: str) -> Damage:
    """Return the damage of a file of trades, which belongs to no series of candles."""
    return Damage(file.path, None, None, kind, detail)


def read_file(
    files: LakeFiles, file: TradeFile, columns: Sequence[str] | None = None, *, is_whole: bool = False
) -> pl.DataFrame | Damage:
    """Return the trades of a file, or its damage."""
    with opened_trades(files, file, is_whole=is_whole) as stream:
        if isinstance(stream, Damage):
            return stream
        try:
            wanted = list(TRADE_SCHEMA) if columns is None else list(columns)
            return pl.read_parquet(stream, columns=wanted, hive_partitioning=False)
        except (OSError, pl.exceptions.PolarsError) as error:
            return damage_of(file, DamageKind.UNREADABLE, unreadable(error))


def file_as_found(files: LakeFiles, path: str, now: int) -> TradeFile | None:
    """Return the record of a file that no manifest names, if it is whole and lies where it belongs; else None."""
    named = named_in_trades(path)
    if named is None:
        return None
    try:
        with files.open(path) as stream:
            content = stream.read()
        footer = pl.read_parquet_metadata(io.BytesIO(content))
        trades = pl.read_parquet(io.BytesIO(content), hive_partitioning=False)
        claims = parsed_claims(footer[CLAIMS])
        is_whole = trades.schema == TRADE_SCHEMA and trade_digest(trades) == footer[DIGEST]
        if not is_whole or path != trades_path(*named, footer[WRITE_ID]):
            return None
    except (OSError, StoreError, KeyError, ValueError, pl.exceptions.PolarsError):
        return None
    return TradeFile(
        path=path,
        pair=named[0],
        month=named[1],
        rows=trades.height,
        bytes=len(content),
        sha256=sha256(content).hexdigest(),
        digest=footer[DIGEST],
        claims=claims,
        write_id=footer[WRITE_ID],
        written_at=now,
    )
