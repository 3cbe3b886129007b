"""What tests of interrupted ingests share: archives of many files, and what a run leaves that nothing happened to."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

from kraken_pipeline.demo.archives import candles_name
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.support.homes import (
    Q1,
    Q2,
    Shelf,
    evidence_of,
    files_of,
    lake_of,
    letters,
    rows_of,
    settings_of,
)

SERIES, PARTS = 14, 15
MEMBERS = SERIES * PARTS
"""Many files of a few series: each batch takes one of each, and reporting few series to Dagster takes little time."""
COMMAND = ("ingest", "--intervals", "60,1440", "--archive-dir", "../archives")


def write_archives(folder: Path, shelf: Shelf, series: int = SERIES, parts: int = PARTS) -> Path:
    """A release of many members, one of them with a bad row and one empty; a whole one; and loose files."""
    folder.mkdir()
    with zipfile.ZipFile(shelf.q2) as release:
        lines = release.read("XBTUSD_60.csv").splitlines(keepends=True)
    length = len(lines) // parts
    with zipfile.ZipFile(folder / candles_name(Q2), "w", zipfile.ZIP_DEFLATED) as release:
        for part in range(parts):
            text = b"".join(lines[part * length : (part + 1) * length])
            for number in range(series):
                release.writestr(f"{part:02d}/K{number:02d}USD_60.csv", text)
        release.writestr("BADUSD_60.csv", b"nonsense\n" + b"".join(lines))
        release.writestr("EMPTYUSD_60.csv", b"")
    shutil.copy(shelf.q1, folder)
    assert shelf.q1.name == candles_name(Q1)
    days = "".join(f"{Q2.start + day * DAY},1,2,1,2,3,4\n" for day in range(3))
    for number in range(3):
        (folder / f"K{number:02d}USD_1440.csv").write_text(days)
    return folder


def state(home: Path, **more: Any) -> dict[str, Any]:
    """What a home holds, without ids, runs and moments; the newest gaps reach up to the moment of asking.

    Gaps that were filled are left out: of two runs at once, one puts on record what the other is about to bring.
    """
    with opened(settings_of(home, **more)) as stores:
        evidence = evidence_of(stores)
        return evidence | {
            "gaps": {gap[:3] for gap in evidence["gaps"] if gap[-1] != "FILLED"},
            "proofs": rows_of(stores, schema.proofs, "pair", "interval", "start", "end", "level"),
            "lake": lake_of(stores),
            "files": files_of(stores),
            "letters": sorted((Path(each["location"]).name, each["line"], each["reason"]) for each in letters(stores)),
            "assets": stores.lake.asset_ids.all().select("pair", "base", "quote").sort("pair").rows(),
        }


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Whether two homes hold the same; says of what they do not."""
    assert found.keys() == expected.keys()
    for what, value in expected.items():
        assert found[what] == value, what


def home_beside(archives: Path, name: str) -> Path:
    """A home from which `../archives` leads to the archives."""
    return archives.parent / name / "home"


def copy_of(ingested: Path, name: str) -> Path:
    """A copy of a home beside the archives, from which `../archives` leads to them as well."""
    home = home_beside(ingested.parents[1] / "archives", name)
    home.parent.mkdir()
    shutil.copytree(ingested, home)
    return home


def proven(home: Path) -> dict[str, Any]:
    """The state of a home, with what was suspected of it and what is still to be compared and searched."""
    with opened(settings_of(home)) as stores:
        more = {
            "suspicions": rows_of(stores, schema.suspicions, "pair", "interval", "start", "end", "reason", "state"),
            "marks": rows_of(stores, schema.doubts, "pair", "interval", "start", "end"),
            "searches": rows_of(stores, schema.quiet_checks, "pair", "interval", "start", "end"),
        }
    return {**state(home), **more}
