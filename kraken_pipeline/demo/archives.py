"""Writers of archives in Kraken's formats, made from a world.

Candles (`seconds,open,high,low,close,volume,trades`, no header, no row without a trade)::

    XBTUSD_60.csv                              write_csv
    Kraken_OHLCVT.zip                          write_complete_zip    under master_q4/, with litter
    Kraken_OHLCVT_Q2_2023.zip                  write_quarterly_zip   up to 2026Q1, files at the root
    Kraken_OHLCVT_2026Q2.zip                   write_quarterly_zip   with MANIFEST.json and SHA256SUMS
    Kraken_OHLCVT_Full_2026Q2.zip.part00 …     write_full_parts      the same in parts, with sums of the parts beside

Trades::

    TimeAndSales_Combined/XBTUSD.csv           write_trades_csv             seconds,price,volume
    Kraken_Trading_History.zip                 write_trades_zip             the same, in TimeAndSales_Combined/
    Kraken_Trading_History_Q4_2025.zip         write_quarterly_trades_zip   the same, at the root
    Kraken_Trading_History_Q1_2026.zip         write_quarterly_trades_zip   seven fields under six names

The manifest has the form of Kraken's release of September 2026: `files` is a number, and `coverage` names the first
and the last day. It is a guess that the sums of the members are in a file SHA256SUMS in the ZIP.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import polars as pl

from kraken_pipeline.demo.defects import (
    Defect,
    DefectKind,
    check_defects,
    spoil_candles,
    spoil_content,
    spoil_file,
    spoil_text,
)
from kraken_pipeline.demo.listing import DAY, LOT_DECIMALS
from kraken_pipeline.demo.world import SECOND_NS, World
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.quarter import Quarter

COMPLETE = "Kraken_OHLCVT.zip"
COMPLETE_TRADES = "Kraken_Trading_History.zip"
TRADES_FOLDER = "TimeAndSales_Combined"
PARTS_SUMS = "OHLCVT_Full_PARTS_SHA256SUMS.txt"
MANIFEST = "MANIFEST.json"
SUMS = "SHA256SUMS"
COLUMNS = ("timestamp", "open", "high", "low", "close", "volume", "trades")
SIX_NAMES = "Price,Volume,Timestamp,Type,OrderType,Misc"
"""The header of quarterly trades from 2026 on. Their lines have a seventh field, the trade's id."""

STRAY = "BTCUSD_Daily_OHLC.csv"
"""A file with a header among the others in the complete archive."""
STRAY_CONTENT = b"Date,Open,High,Low,Close\n2013-10-06,122.00,123.61,122.00,123.61\n"
_COMPLETE_FOLDER = "master_q4"
_APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "
_TRADES_AT_ONCE = 30 * DAY
_PUBLISHED_AFTER = timedelta(days=48)  # 2026Q2 was generated on 17 August


def has_manifest(quarter: Quarter) -> bool:
    """Return whether a quarter's release has the new name and a manifest: from 2026Q2 on."""
    return quarter >= Quarter(2026, 2)


def candles_name(quarter: Quarter) -> str:
    """Return the name of the archive of a quarter's candles."""
    middle = str(quarter) if has_manifest(quarter) else f"Q{quarter.number}_{quarter.year}"
    return f"Kraken_OHLCVT_{middle}.zip"


def trades_name(quarter: Quarter) -> str:
    """Return the name of the archive of a quarter's trades."""
    return f"Kraken_Trading_History_Q{quarter.number}_{quarter.year}.zip"


@dataclass(frozen=True, slots=True)
class _Contents:
    """The candles that a release holds.

    Attributes:
        world: The world with the trades.
        release: The name of the archive.
        pairs: The altnames of the pairs.
        intervals: The intervals of the candles.
        start: The start of the release, in seconds since the epoch.
        end: The end of the release, in seconds since the epoch, exclusive.
        defects: The defects to apply.
    """

    world: World
    release: str
    pairs: Sequence[str]
    intervals: Sequence[Interval]
    start: int
    end: int
    defects: Sequence[Defect]

    def __post_init__(self) -> None:
        check_defects(self.world, self.defects)


@dataclass(frozen=True, slots=True)
class _Member:
    """A file of candles that was written to an archive."""

    name: str
    pair: str
    rows: int
    sha256: str


def write_csv(
    folder: Path,
    world: World,
    pair: str,
    interval: Interval,
    *,
    start: int,
    end: int,
    defects: Sequence[Defect] = (),
) -> Path:
    """Write a loose file of candles, `PAIR_MINUTES.csv`.

    Args:
        folder: The folder to write to.
        world: The world with the trades.
        pair: The altname.
        interval: The length of the candles.
        start: The start of the file, in seconds since the epoch.
        end: The end of the file, in seconds since the epoch, exclusive, or the world's present if that is earlier. A
            candle cut by it is written with the trades until then.
        defects: The defects to apply; their `release` is the file's name.

    Returns:
        The path of the file.
    """
    check_defects(world, defects)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{pair}_{interval}.csv"
    here = [defect for defect in defects if defect.concerns(path.name, pair, interval)]
    with path.open("wb") as file:
        file.writelines(_candle_lines(world, pair, interval, start=start, end=min(end, world.now), defects=here))
    spoil_file(path, here)
    return path


def write_quarterly_zip(
    folder: Path,
    world: World,
    quarter: Quarter,
    intervals: Sequence[Interval],
    *,
    pairs: Sequence[str] | None = None,
    cut: int | None = None,
    defects: Sequence[Defect] = (),
) -> Path:
    """Write the candles of a quarter, in the form of its time.

    Args:
        folder: The folder to write to.
        world: The world with the trades.
        quarter: The quarter.
        intervals: The intervals of the release.
        pairs: The pairs of the release; None for all of the world. A pair without a trade in the quarter has no file.
        cut: The time at which the release was made, in seconds since the epoch, if that is before the quarter's end.
            The release has no trade from then on.
        defects: The defects to apply; their `release` is the archive's name.

    Returns:
        The path of the archive.
    """
    path = folder / candles_name(quarter)
    end = min(quarter.end, world.now, cut or quarter.end)
    contents = _Contents(world, path.name, pairs or list(world.listings), intervals, quarter.start, end, defects)
    folder.mkdir(parents=True, exist_ok=True)
    with _new_zip(path) as archive:
        members = list(_write_candles(archive, contents))
        if has_manifest(quarter):
            _write_manifest(archive, members, quarter.start, quarter.end)
    spoil_file(path, [defect for defect in defects if defect.concerns(path.name)])
    return path


def write_complete_zip(
    folder: Path,
    world: World,
    end: int,
    intervals: Sequence[Interval],
    *,
    pairs: Sequence[str] | None = None,
    defects: Sequence[Defect] = (),
) -> Path:
    """Write all candles since the first trade, as `Kraken_OHLCVT.zip`, with litter like Kraken's archive.

    Args:
        folder: The folder to write to.
        world: The world with the trades.
        end: The end of the release (seconds since the epoch, exclusive), or the world's present if that is earlier.
        intervals: The intervals of the release.
        pairs: The pairs of the release; None for all of the world.
        defects: The defects to apply; their `release` is the archive's name.

    Returns:
        The path of the archive.
    """
    path = folder / COMPLETE
    end = min(end, world.now)
    contents = _Contents(world, path.name, pairs or list(world.listings), intervals, world.start, end, defects)
    folder.mkdir(parents=True, exist_ok=True)
    with _new_zip(path) as archive:
        for member in _write_candles(archive, contents, f"{_COMPLETE_FOLDER}/"):
            archive.writestr(_litter_of(member.name), _APPLE_DOUBLE)
        archive.writestr(zipfile.ZipInfo(f"{_COMPLETE_FOLDER}/{STRAY}"), STRAY_CONTENT)
    spoil_file(path, [defect for defect in defects if defect.concerns(path.name)])
    return path


def write_full_parts(
    folder: Path,
    world: World,
    quarter: Quarter,
    intervals: Sequence[Interval],
    *,
    part_bytes: int,
    pairs: Sequence[str] | None = None,
    defects: Sequence[Defect] = (),
) -> list[Path]:
    """Write all candles up to the end of a quarter, as `Kraken_OHLCVT_Full_2026Q2.zip.part00` and so on.

    Args:
        folder: The folder to write to; the sums of the parts are written there, too.
        world: The world with the trades.
        quarter: The last quarter of the release.
        intervals: The intervals of the release.
        part_bytes: The size of a part in bytes; the last part may be smaller.
        pairs: The pairs of the release; None for all of the world.
        defects: The defects to apply to its files; their `release` is the archive's name without `.partNN`.

    Returns:
        The paths of the parts, in order.
    """
    name = f"Kraken_OHLCVT_Full_{quarter.year}Q{quarter.number}.zip"
    end = min(quarter.end, world.now)
    contents = _Contents(world, name, pairs or list(world.listings), intervals, world.start, end, defects)
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[Path] = []
    with tempfile.TemporaryFile() as whole:
        with _new_zip(whole) as archive:
            members = list(_write_candles(archive, contents))
            _write_manifest(archive, members, world.start, quarter.end)
        whole.seek(0)
        while block := whole.read(part_bytes):
            parts.append(folder / f"{name}.part{len(parts):02d}")
            parts[-1].write_bytes(block)
    sums = (f"{hashlib.sha256(part.read_bytes()).hexdigest()}  {part.name}\n" for part in parts)
    (folder / PARTS_SUMS).write_text("".join(sums), encoding="ascii")
    return parts


def write_trades_csv(folder: Path, world: World, pair: str, start: int, end: int) -> Path:
    """Write a pair's trades of `[start, end)` (seconds since the epoch) as `TimeAndSales_Combined/PAIR.csv`."""
    path = folder / TRADES_FOLDER / f"{pair}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.writelines(_trade_lines(world, pair, start, min(end, world.now)))
    return path


def write_trades_zip(folder: Path, world: World, end: int, *, pairs: Sequence[str] | None = None) -> Path:
    """Write all trades before `end` (seconds since the epoch), as `Kraken_Trading_History.zip`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / COMPLETE_TRADES
    with _new_zip(path) as archive:
        for pair in pairs or list(world.listings):
            lines = _trade_lines(world, pair, world.start, min(end, world.now))
            _write_member(archive, f"{TRADES_FOLDER}/{pair}.csv", lines)
    return path


def write_quarterly_trades_zip(
    folder: Path, world: World, quarter: Quarter, *, pairs: Sequence[str] | None = None
) -> Path:
    """Write the trades of a quarter: with three fields up to 2025, with seven under a header of six names from 2026."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / trades_name(quarter)
    lines_of = _trade_lines if quarter.year < 2026 else _seven_fields
    with _new_zip(path) as archive:
        for pair in pairs or list(world.listings):
            lines = lines_of(world, pair, quarter.start, min(quarter.end, world.now))
            _write_member(archive, f"{pair}.csv", lines)
    return path


def _new_zip(where: Path | IO[bytes]) -> zipfile.ZipFile:
    return zipfile.ZipFile(where, "w", zipfile.ZIP_DEFLATED, compresslevel=1)


def _litter_of(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"__MACOSX/{_COMPLETE_FOLDER}/._{name}")


def _write_candles(archive: zipfile.ZipFile, contents: _Contents, folder: str = "") -> Iterator[_Member]:
    whole = {defect for defect in contents.defects if defect.concerns(contents.release) and defect.damages_file}
    for pair in contents.pairs:
        for interval in contents.intervals:
            here = [
                defect
                for defect in contents.defects
                if defect not in whole and defect.concerns(contents.release, pair, interval)
            ]
            if any(defect.kind is DefectKind.MISSING_MEMBER for defect in here):
                continue
            name = f"{pair}_{interval}.csv"
            lines: Iterable[bytes] = _candle_lines(
                contents.world, pair, interval, start=contents.start, end=contents.end, defects=here
            )
            if any(defect.damages_file for defect in here):
                lines = [spoil_content(name, b"".join(lines), here)]
            rows, sha256 = _write_member(archive, folder + name, lines)
            if rows:
                yield _Member(name, pair, rows, sha256)


def _write_member(archive: zipfile.ZipFile, name: str, blocks: Iterable[bytes]) -> tuple[int, str]:
    """Write a file to an archive unless it is empty; return its number of lines and its SHA-256."""
    digest = hashlib.sha256()
    lines = 0
    filled = (block for block in blocks if block)
    if (first := next(filled, None)) is not None:
        with archive.open(name, "w") as member:
            for block in itertools.chain([first], filled):
                member.write(block)
                digest.update(block)
                lines += block.count(b"\n")
    return lines, digest.hexdigest()


def _write_manifest(archive: zipfile.ZipFile, members: Sequence[_Member], start: int, end: int) -> None:
    first, last = (datetime.fromtimestamp(moment, UTC).date() for moment in (start, end - 1))
    manifest = {
        "product": "ohlcvt",
        "schema_version": 1,
        "release": "r1",
        "columns": COLUMNS,
        "has_header": False,
        "coverage": {"start": first.isoformat(), "end": last.isoformat()},
        "pairs": len({member.pair for member in members}),
        "files": len(members),
        "rows": sum(member.rows for member in members),
        "generated": (last + _PUBLISHED_AFTER).isoformat(),
    }
    archive.writestr(zipfile.ZipInfo(MANIFEST), json.dumps(manifest))
    archive.writestr(zipfile.ZipInfo(SUMS), "".join(f"{member.sha256}  {member.name}\n" for member in members))


def _candle_lines(
    world: World, pair: str, interval: Interval, *, start: int, end: int, defects: Sequence[Defect]
) -> Iterator[bytes]:
    """Yield the lines of a file of candles, in blocks."""
    decimals = world.listing(pair).pair_decimals
    for tallies in world.tallies(pair, interval, start, end):
        rows = spoil_candles(world, pair, interval, tallies, defects).select(
            "time",
            *(shortest(pl.col(name), decimals).alias(name) for name in ("open", "high", "low", "close")),
            shortest(pl.col("lots"), LOT_DECIMALS).alias("volume"),
            pl.col("trade_count").cast(pl.String).alias("trades"),
            "lots",
        )
        yield _csv(spoil_text(rows, defects), "time", *COLUMNS[1:])


def _trade_lines(world: World, pair: str, start: int, end: int) -> Iterator[bytes]:
    """Yield the lines of a file of trades with three fields; times are whole seconds, without the fraction."""
    for trades, price, volume in _trades_as_text(world, pair, start, end):
        yield _csv(trades.select(pl.col("time") // SECOND_NS, price, volume), "time", "price", "volume")


def _seven_fields(world: World, pair: str, start: int, end: int) -> Iterator[bytes]:
    """Yield the header and the lines of a file of trades of 2026 and later; nothing if there are no trades."""
    header = f"{SIX_NAMES}\n".encode()
    for trades, price, volume in _trades_as_text(world, pair, start, end):
        rows = trades.select(
            price,
            volume,
            fixed(pl.col("time") // 100, 7).alias("time"),  # to 1e-7 s, as the REST API gives it
            "side",
            "order_type",
            pl.lit("").alias("misc"),
            "id",
        )
        yield header + _csv(rows, *rows.columns)
        header = b""


def _trades_as_text(world: World, pair: str, start: int, end: int) -> Iterator[tuple[pl.DataFrame, pl.Expr, pl.Expr]]:
    """Yield the trades, a month at a time, with text expressions for price and volume: BCHEUR has 6 and 8 decimals."""
    decimals = world.listing(pair).pair_decimals
    more = max(0, 6 - decimals)
    price = fixed(pl.col("ticks") * 10**more, decimals + more).alias("price")
    volume = fixed(pl.col("lots"), LOT_DECIMALS).alias("volume")
    at = max(start, world.listing(pair).first_trade)
    while at < end:
        until = min(at + _TRADES_AT_ONCE, end)
        trades = world.trades(pair, at * SECOND_NS, until * SECOND_NS)
        if trades.height:
            yield trades, price, volume
        at = until


def _csv(rows: pl.DataFrame, *fields: str) -> bytes:
    lines = rows.select(pl.concat_str(fields, separator=",", ignore_nulls=True))
    return lines.write_csv(include_header=False, quote_style="never").encode()


def fixed(units: pl.Expr, decimals: int) -> pl.Expr:
    """Return whole units of 10^-decimals as text with all decimals: 90.540000."""
    return pl.format("{}.{}", units // 10**decimals, (units % 10**decimals).cast(pl.String).str.zfill(decimals))


def shortest(units: pl.Expr, decimals: int) -> pl.Expr:
    """Return whole units of 10^-decimals as text with as few decimals as possible, at least one: 90.54, 315.0."""
    text = fixed(units, decimals).str.strip_chars_end("0")
    return pl.when(text.str.ends_with(".")).then(text + "0").otherwise(text)
