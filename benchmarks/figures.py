"""What is measured, and what is required of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Results = Mapping[str, "Result"]


@dataclass(frozen=True, slots=True)
class Result:
    """A figure as it was measured: the best of several rounds, because noise only ever adds.

    Attributes:
        items: How many rows or series both sides worked on.
        ours: Seconds that this project took.
        bare: Seconds that the bare library took.
        peak_mib: The most memory that this project took in any round.
        bare_peak_mib: The most that the bare library took.
        told: What else this project had to tell.
    """

    items: int
    ours: float
    bare: float
    peak_mib: float
    bare_peak_mib: float
    told: str = ""

    @property
    def ratio(self) -> float:
        """How fast this project is; 1 is as fast as the bare library."""
        return self.bare / self.ours


@dataclass(frozen=True, slots=True)
class Requirement:
    """Something that a result must keep.

    Attributes:
        text: What, for the table.
        is_met: Whether a result keeps it; takes the results of the other figures as well.
    """

    text: str
    is_met: Callable[[Result, Results], bool]


def ratio_of(least: float) -> Requirement:
    """At least so fast, against the bare library."""
    return Requirement(f"ratio >= {least:g}", lambda result, _: result.ratio >= least)


def peak_of(most: int) -> Requirement:
    """No more memory than so many MiB."""
    return Requirement(f"peak <= {most} MiB", lambda result, _: result.peak_mib <= most)


def peak_like(other: str) -> Requirement:
    """No more memory than another figure, but for noise; met where that one was not measured."""
    return Requirement(
        f"peak <= 1.15 x {other}",
        lambda result, results: other not in results or result.peak_mib <= 1.15 * results[other].peak_mib,
    )


def pace_of(most: float) -> Requirement:
    """No more than so many seconds for 10,000 series."""
    return Requirement(f"10,000 in {most:g} s", lambda result, _: 1e4 * result.ours / result.items <= most)


def within(most: float) -> Requirement:
    """No more than so many seconds."""
    return Requirement(f"in {most:g} s", lambda result, _: result.ours <= most)


def start_within(most: float) -> Requirement:
    """No more than so many times what the imports of the bare side take."""
    return Requirement(f"<= {most:g} x imports", lambda result, _: result.ours <= most * result.bare)


def pace_like(other: str) -> Requirement:
    """An item costs no more than in another figure, but for noise; met where that one was not measured."""
    return Requirement(
        f"each <= 1.2 x {other}",
        lambda result, results: (
            other not in results or result.ours / result.items <= 1.2 * results[other].ours / results[other].items
        ),
    )


def rate_like(other: str, least: float) -> Requirement:
    """At least such a part of the rate of another figure; met where that one was not measured."""
    return Requirement(
        f"rate >= {least:g} x {other}",
        lambda result, results: (
            other not in results or result.items / result.ours >= least * results[other].items / results[other].ours
        ),
    )


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        name: What `--only` calls it.
        unit: Of what it works on.
        ours: The work in `benchmarks.ours`.
        bare: The work in `benchmarks.bare`.
        size: How much: rows, pairs.
        small: How much in a quick run.
        rounds: How often each side is measured, in turn.
        archive: What `benchmarks.archives` makes for it.
        server: Whether both sides need a QuestDB.
        requirements: What must be kept.
    """

    name: str
    unit: str
    ours: str
    bare: str
    size: int
    small: int
    rounds: int
    archive: str | None = None
    requirements: tuple[Requirement, ...] = ()
    server: bool = False


FIGURES = (
    Figure("file-5m", "rows", "ingest", "copy_csv", 5_000_000, 20_000, 5, "candles", (ratio_of(0.75), peak_of(800))),
    Figure("file-8m", "rows", "ingest", "copy_csv", 8_000_000, 30_000, 3, "candles", (peak_of(800),)),
    Figure("zip-2000", "rows", "ingest", "copy_zip", 250, 3, 5, "release", (ratio_of(0.8), peak_of(800))),
    Figure("trades-5m", "rows", "ingest", "fold_csv", 5_000_000, 20_000, 3, "trades", (peak_of(800),)),
    Figure(
        "trades-20m",
        "rows",
        "ingest",
        "fold_csv",
        20_000_000,
        30_000,
        2,
        "trades",
        (peak_of(800), peak_like("trades-5m")),
    ),
    Figure("fold-1m", "trades", "fold", "fold_frame", 1_000_000, 10_000, 5, "frames"),
    Figure("fold-5m", "trades", "fold", "fold_frame", 5_000_000, 20_000, 10, "frames", (ratio_of(0.5),)),
    Figure("fold-20m", "trades", "fold", "fold_frame", 20_000_000, 30_000, 3, "frames", (peak_like("fold-1m"),)),
    Figure("pages-500k", "trades", "page", "fold_frame", 500_000, 10_000, 3, "frames"),
    Figure("gaps-1000", "series", "detect_gaps", "walk_ranges", 1_000, 10, 5, None, (pace_of(0.5),)),
    Figure(
        "gaps-3000", "series", "detect_gaps", "walk_ranges", 3_000, 20, 5, None, (pace_of(0.5), pace_like("gaps-1000"))
    ),
    Figure(
        "gaps-10000",
        "series",
        "detect_gaps",
        "walk_ranges",
        10_000,
        30,
        5,
        None,
        (pace_of(0.5), pace_like("gaps-1000")),
    ),
    Figure("routes-1000", "series", "route_gaps", "walk_ranges", 1_000, 10, 3),
    # Five years of minutes, and the five coarser intervals that follow from them.
    Figure("reconcile-5y", "minutes", "reconcile", "read_lake", 2_629_440, 20_000, 5, "history", (ratio_of(1 / 3),)),
    Figure("reconcile-200", "series", "reconcile", "read_lake", 198, 12, 3, "histories"),
    Figure(
        "reconcile-1000", "series", "reconcile", "read_lake", 1_002, 18, 3, "histories", (pace_like("reconcile-200"),)
    ),
    Figure("verify-2000", "files", "verify_whole", "sum_files", 2_000, 20, 5, "files", (ratio_of(0.8),)),
    Figure("quick-10000", "files", "verify_quickly", "sum_files", 10_000, 20, 3, "files", (within(2.0),)),
    Figure("scan-100", "pairs", "scan_week", "scan_files", 100, 3, 5, "lake", (ratio_of(0.8),)),
    Figure("export-1m", "rows", "export_lake", "copy_lake", 10, 1, 5, "lake", (ratio_of(0.7),)),
    # A pair has six intervals and ten years: 200 of them are 144,000 cells of the report's maps.
    Figure("page-200", "cells", "make_page", "draw_cells", 200, 4, 3, "catalog", (peak_of(800),)),
    Figure("page-1500", "cells", "make_page", "draw_cells", 1_500, 5, 2, "catalog"),
    # Whole commands, in seconds of CPU with all imports: 1,500 pairs have 15,000 series.
    Figure("gaps-json", "series", "list_gaps", "read_catalog", 1_500, 4, 3, "whole-catalog", (within(3.0),)),
    Figure("report", "series", "print_report", "read_catalog", 1_500, 4, 3, "whole-catalog", (within(3.0),)),
    # Commands on a small home, in seconds of CPU; status imports Dagster.
    Figure("startup-help", "starts", "start_help", "start_bare", 1, 1, 5, "small-home", (start_within(1.5),)),
    Figure("startup-gaps", "starts", "start_gaps", "start_bare", 1, 1, 5, "small-home", (start_within(1.6),)),
    Figure("startup-report", "starts", "start_report", "start_bare", 1, 1, 5, "small-home", (start_within(1.6),)),
    Figure("startup-explain", "starts", "start_explain", "start_bare", 1, 1, 5, "small-home", (start_within(1.6),)),
    Figure("startup-export", "starts", "start_export", "start_bare", 1, 1, 5, "small-home", (start_within(1.6),)),
    Figure("startup-status", "starts", "start_status", "start_bare", 1, 1, 5, "small-home", (start_within(3.0),)),
    # A pair has 100,000 hourly candles.
    Figure("publish-6", "rows", "publish", "send_frame", 6, 1, 3, "lake", (ratio_of(0.75), peak_of(800)), server=True),
    Figure(
        "publish-60",
        "rows",
        "publish",
        "send_frame",
        60,
        2,
        3,
        "lake",
        (ratio_of(0.75), rate_like("publish-6", 0.85), peak_of(800)),
        server=True,
    ),
    Figure("publish-rows", "rows", "publish", "send_rows", 6, 1, 2, "lake", server=True),
)
