"""What someone sees who has just cloned this."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kraken_pipeline_tests.shell import shell

pytestmark = pytest.mark.e2e


def test_the_demo_plans_ingests_and_reports_a_small_world_and_says_what_to_look_at_next(tmp_path: Path) -> None:
    home = tmp_path / "demo-data"
    said = shell(home, "demo", "--home", str(home))
    assert said.code == 0, said.err
    missing = re.search(r"missing on purpose: (\S+\.zip)", said.out)
    assert missing
    assert f"Archives to fetch: {missing[1]}" in said.out
    assert f"Fetch {missing[1]} and put it into the drop folder: it would fill gaps of 15 series." in said.out
    assert "Kraken_OHLCVT.zip is not a ZIP that can be read" in said.out
    assert re.search(r"SUCCESS run [0-9a-f]{8}: (\d+) of \1 files ingested", said.out)
    for title in ("Plan", "Completeness", "What to do", "What to look at next"):
        assert f"\n{title}" in said.out
    # In its folder, the same commands mean the demo.
    assert {row["reason"] for row in shell(home, "dead-letters", "list", "--json").json} >= {"volume is negative"}
