"""The small world of `make demo`: a folder of archives of about a year, with examples of everything that goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from kraken_pipeline.demo.archives import (
    COMPLETE,
    STRAY,
    STRAY_CONTENT,
    candles_name,
    write_complete_zip,
    write_csv,
    write_quarterly_zip,
)
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.listing import DAY, demo_listings
from kraken_pipeline.demo.world import World
from kraken_pipeline.market.candle import seconds_of
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.quarter import Quarter

SHOWCASE_INTERVALS = (Interval.H1, Interval.H4, Interval.D1)
_SEED = 2013
_QUARTERS = 4
_MISSING = 1  # the second of the four
BROKEN_DOWNLOAD = Defect(DefectKind.TRUNCATED, release=COMPLETE)
_REJECTED_PAIR = "XDGUSD"
_REJECTED = (DefectKind.HIGH_BELOW_LOW, DefectKind.NEGATIVE_VOLUME, DefectKind.MISALIGNED, DefectKind.UNREADABLE)


@dataclass(frozen=True, slots=True)
class Showcase:
    """The result of `build_showcase`, with the files and candles that it left out or broke on purpose.

    Attributes:
        folder: The folder with the files.
        world: The world with the true trades.
        intervals: The intervals of the candles in the archives.
        quarters: The archives of quarters.
        loose: The files of the current quarter.
        missing: The name of the quarterly archive that is absent.
        missing_quarter: The quarter that it would hold.
        corrupt: The file that cannot be opened: a truncated download of the complete archive.
        rejected: The rows that must be rejected; `release` names the archive that has them.
        wrong: The candles that are wrong and that other intervals contradict: a missing day, which is repaired, and a
            spike, which a person has to withdraw.
        strays: Files that are not archives.
    """

    folder: Path
    world: World
    intervals: tuple[Interval, ...]
    quarters: tuple[Path, ...]
    loose: tuple[Path, ...]
    missing: str
    missing_quarter: Quarter
    corrupt: Path
    rejected: tuple[Defect, ...]
    wrong: tuple[Defect, ...]
    strays: tuple[Path, ...]


def build_showcase(
    folder: Path, now: int, *, seed: int = _SEED, intervals: Sequence[Interval] = SHOWCASE_INTERVALS
) -> Showcase:
    """Write five pairs for the last four complete quarters, and for the current quarter as loose files.

    One of the four archives is left out. The same seed and time give the same bytes.

    Args:
        folder: The folder to write to; it is created if absent.
        now: The end of all data, in seconds since the epoch.
        seed: The seed of the trades.
        intervals: The intervals of the candles.
    """
    running, quarters = Quarter.of(now), _quarters(now)
    missing = quarters[_MISSING]
    world = build_world(now, now, seed=seed)
    rejected = _rejected_rows(world, quarters[-1], min(intervals))
    wrong = _wrong_candles(quarters[-1], sorted(intervals))
    written = tuple(
        write_quarterly_zip(folder, world, quarter, intervals, defects=(*rejected, *wrong))
        for quarter in quarters
        if quarter != missing
    )
    loose = tuple(
        write_csv(folder, world, pair, interval, start=running.start, end=interval.floor(now))
        for pair in world.listings
        for interval in intervals
        if world.candles(pair, interval, running.start, interval.floor(now)).height
    )
    return Showcase(
        folder=folder,
        world=world,
        intervals=tuple(intervals),
        quarters=written,
        loose=loose,
        missing=candles_name(missing),
        missing_quarter=missing,
        corrupt=write_complete_zip(folder, world, running.start, intervals, defects=[BROKEN_DOWNLOAD]),
        rejected=rejected,
        wrong=wrong,
        strays=_write_strays(folder),
    )


def build_world(built_at: int, now: int, *, seed: int = _SEED) -> World:
    """Return the world of a showcase.

    Args:
        built_at: The end of the showcase's archives, in seconds since the epoch.
        now: The present of the world, in seconds since the epoch. Trades before it do not depend on it.
        seed: The seed of the trades.
    """
    return World(seed, demo_listings(_quarters(built_at)[0].start), now)


def _quarters(now: int) -> list[Quarter]:
    """Return the last complete quarters, oldest first."""
    quarters = [Quarter.of(now).previous]
    while len(quarters) < _QUARTERS:
        quarters.insert(0, quarters[0].previous)
    return quarters


def _rejected_rows(world: World, quarter: Quarter, interval: Interval) -> tuple[Defect, ...]:
    """Return a few rows of one file that break the rules for rows, far from each other."""
    times = world.candles(_REJECTED_PAIR, interval, quarter.start, quarter.end).select(seconds_of(pl.col("time")))
    step = times.height // (len(_REJECTED) + 1)
    return tuple(
        Defect(kind, _REJECTED_PAIR, interval, times.item(place * step, 0), release=candles_name(quarter))
        for place, kind in enumerate(_REJECTED, start=1)
    )


def _wrong_candles(quarter: Quarter, intervals: Sequence[Interval]) -> tuple[Defect, ...]:
    """Return a missing candle of the coarsest interval, and one of the next finer whose high is ten times too high."""
    if len(intervals) < 2:
        return ()
    wrong = (
        (DefectKind.MISSING_CANDLE, "XBTUSD", intervals[-1], quarter.start + 20 * DAY),
        (DefectKind.SPIKE, "ETHUSD", intervals[-2], quarter.start + 40 * DAY + DAY // 2),
    )
    return tuple(
        Defect(kind, pair, interval, interval.floor(time), release=candles_name(quarter))
        for kind, pair, interval, time in wrong
    )


def _write_strays(folder: Path) -> tuple[Path, ...]:
    strays = {
        ".DS_Store": b"\x00\x00\x00\x01Bud1",
        STRAY: STRAY_CONTENT,
        "where these come from.txt": b"Made by kraken_pipeline's demo exchange; no real prices.\n",
    }
    for name, content in strays.items():
        (folder / name).write_bytes(content)
    return tuple(folder / name for name in strays)
