from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
from PIL import Image

from kraken_pipeline.market.interval import INTERVALS
from kraken_pipeline.storage.records.report_records import ReportRecord
from kraken_pipeline.workflow.page.drawing import shares_png, trend_svgs
from kraken_pipeline_tests.support.pages import parsed, small_map

pytestmark = pytest.mark.slow

DAY = 86_400


def past(days: int, **numbers: float) -> list[ReportRecord]:
    known = {"completeness_pct": 90.0, "proven_pct": 80.0, "verified_pct": 70.0, "gaps": 4, "conflicts": 0, **numbers}
    return [ReportRecord("ALL", 1_700_000_000 + day * DAY, known) for day in range(days)]


def test_there_is_no_trend_of_fewer_than_two_reports() -> None:
    assert trend_svgs([]) == trend_svgs(past(1)) == trend_svgs(past(1) * 2) == []


def test_a_trend_is_drawn_in_the_colours_of_the_page_and_says_what_it_is() -> None:
    for svg in trend_svgs(past(10)):
        (drawn,) = parsed(svg).all("svg")
        assert drawn.attributes["role"] == "img"
        assert str(drawn.attributes["aria-label"]).startswith("Trend, ")
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) <= {
            "none", "currentColor", "var(--reconciled)", "var(--verified)",
            "var(--alarm)", "var(--conflict)", "var(--line)"
        }  # fmt: skip
        assert "width=" not in svg[: svg.index(">")]
    shares, counts = (parsed(svg).text for svg in trend_svgs(past(10)))
    assert all(word in shares for word in ("percent", "complete", "reconciled", "verified"))
    assert all(word in counts for word in ("how many", "gaps", "conflicts"))


def test_the_same_reports_give_the_same_drawing_whoever_else_is_drawing() -> None:
    expected = trend_svgs(past(50))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: trend_svgs(past(50)), range(8))) == [expected] * 8


def test_the_shares_are_a_small_picture() -> None:
    png = shares_png([small_map(interval) for interval in INTERVALS])
    assert len(png) < 60_000
    width, height = Image.open(BytesIO(png)).size
    assert width == 700
    assert height < 500
