"""Archives that are made to exhaust memory, through the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kraken_pipeline_tests.support.samples import at, csv_row

pytestmark = [pytest.mark.process, pytest.mark.slow]

T = at("2023-04-01")
MOST = 800 << 20
CHILD = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({MOST}, {MOST}))
from kraken_pipeline.__main__ import main
main()
"""
"""The limit is one of data, not of addresses (`ulimit -v`): Polars and glibc reserve addresses for each thread, which
they never touch, and the libraries are mapped as well."""


def command(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "KRAKEN_PIPELINE_HOME": str(home),
        "KRAKEN_SETTLE_SECONDS": "0",
        "KRAKEN_API_URL": "http://127.0.0.1:9",
        "POLARS_MAX_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_an_archive_of_bombs_is_ingested_within_its_memory_and_its_sound_file_is_stored(tmp_path: Path) -> None:
    good = "".join(csv_row(T + 3_600 * hour) for hour in range(100))
    mebibyte = 1 << 20
    folder = tmp_path / "archives"
    folder.mkdir()
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("XBTUSD_60.csv", good)
        archive.writestr("ADAUSD_60.csv", b"\0" * (64 * mebibyte))
        archive.writestr("ETHUSD_60.csv", b"12," * (5 * mebibyte))
        archive.writestr("XRPUSD_60.csv", good + "\n" * 3_010)
    (folder / "LTCUSD_60.csv").write_bytes(b"x\n" * (16 * mebibyte))
    (folder / "DOTUSD.csv").write_bytes(b"12," * (20 * mebibyte))
    home = tmp_path / "home"
    ran = command(home, "ingest", "--archive-dir", str(folder))
    assert ran.returncode == 1, ran.stderr
    assert "MemoryError" not in ran.stdout + ran.stderr
    letters = json.loads(command(home, "dead-letters", "list", "--json", "--limit", "10000").stdout)
    reasons = {letter["location"].rpartition("/")[2]: letter["reason"] for letter in letters if letter["line"] is None}
    assert set(reasons) == {
        "x.zip:ADAUSD_60.csv",
        "x.zip:ETHUSD_60.csv",
        "x.zip:XRPUSD_60.csv",
        "LTCUSD_60.csv",
        "DOTUSD.csv",
    }
    assert "KRAKEN_UNPACKED_RATIO" in reasons["x.zip:ADAUSD_60.csv"]
    assert sum(letter["rows"] for letter in letters if "XRPUSD" in letter["location"]) == 3_010
    assert sum("XRPUSD" in letter["location"] for letter in letters) == 1_001
