from __future__ import annotations

import base64
import gzip
import hashlib
import re
from dataclasses import replace
from typing import Any

import pytest

from kraken_pipeline.coverage.completeness import SeriesCompleteness
from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.coverage.routing import Leg, Route
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import Tier
from kraken_pipeline.storage.catalog.states import DamageKind, SuspicionState
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.records.proof_records import SuspicionRecord
from kraken_pipeline.storage.records.report_records import ReportRecord
from kraken_pipeline.storage.records.source_records import ArchiveSource, Disagreement
from kraken_pipeline.workflow.gaps.gaps import Gap
from kraken_pipeline.workflow.page import contents as page_contents
from kraken_pipeline.workflow.page.html import render, selection
from kraken_pipeline.workflow.report.report import Advice, Report
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.pages import YEAR, Element, contents_of, parsed

pytestmark = pytest.mark.slow

HOURS = Series("XBTUSD", Interval.H1)
HOUR, DAY = 3_600, 86_400
NOW = 1_735_689_600
HOSTILE = """<script>alert(1)</script><img src=x onerror="alert(2)">'"&.zip"""


def gap(start: int, hours: int, *, route: Route = Route.TRADES, file: str | None = None) -> Gap:
    span = Span(start, start + hours * HOUR)
    legs = (Leg(span, route, requests=3),)
    return Gap(HOURS, span, 0, legs, file, GapStatus.DETECTED, 1, None)


def report(**more: Any) -> Report:
    series = (
        SeriesCompleteness(HOURS, Tier.TIER1, 1_000, 900, 800, 2, 1, "fetch it", proven=500, verified=250, conflicts=1),
        SeriesCompleteness(Series("ZORKUSD", Interval.H1), Tier.TIER4, 100, 100, 40, 0, proven=100, verified=100),
    )
    made: dict[str, Any] = {
        "made_at": NOW,
        "tier": Tier.ALL,
        "series": series,
        "gaps": (gap(NOW, 5), gap(NOW - 90 * HOUR, 80, route=Route.NONE, file=f"{HOSTILE}:XBTUSD_60.csv")),
        "contradictions": (),
        "disputed": {},
        "advice": (Advice(f"Fetch {HOSTILE}"), Advice("Fill it", "kraken-pipeline backfill --complete")),
        "requests": 6,
    }
    return Report(**{**made, **more})


def page(made: Report | None = None, **more: Any) -> tuple[Element, str]:
    html = render(contents_of(made or report(), **more))
    return parsed(html), html


def test_the_headline_numbers_are_those_of_the_report() -> None:
    made = report()
    found, _ = page(made)
    assert found.headline == {
        "complete": "95.00 %",
        "reconciled": "75.00 %",
        "verified": "62.50 %",
        "pairs": "2",
        "series": "2",
        "candles": "840",
        "quiet": "160",
        "gaps": "2",
        "conflicts": "0",
        "suspicious": "0",
        "damaged": "0",
        "requests to make": "6",
    }
    assert (made.percent, made.proven_percent, made.verified_percent) == (95.0, 75.0, 62.5)


def test_the_card_counts_gaps_that_have_no_route_in_part_as_the_map_does() -> None:
    halves = (Span(NOW, NOW + 2 * HOUR), Span(NOW + 2 * HOUR, NOW + 5 * HOUR))
    legs = (Leg(halves[0], Route.NONE, requests=0), Leg(halves[1], Route.TRADES, requests=1))
    found, _ = page(report(gaps=(gap(NOW, 5, route=Route.NONE), replace(gap(NOW, 5), legs=legs))))
    (card,) = [each for each in found.all("dd") if each.text.endswith("in part")]
    assert card.text == "2 1 without a route, 1 more in part"


def test_damaged_files_are_counted_and_listed_with_what_to_do() -> None:
    damage = Damage("lake/XBTUSD/60.parquet", HOURS, None, DamageKind.CHANGED, "has other bytes", 24, NOW)
    found, _ = page(damages=(damage,))
    assert found.headline["damaged"] == "1"
    assert "kraken-pipeline verify --repair" in found.text
    assert found.table("damages") == [
        {
            "file": "lake/XBTUSD/60.parquet",
            "candles": "24",
            "what is wrong": "It has other bytes.",
            "what to do": damage.action,
        }
    ]


def test_where_nothing_is_expected_there_is_no_percentage_but_a_grey_dash() -> None:
    made = report(series=(), gaps=(), unknown="Nothing is known yet.")
    found, html = page(made, maps=())
    assert [found.headline[name] for name in ("complete", "reconciled", "verified")] == ["–"] * 3  # noqa: RUF001
    assert html.count('<dd class="unknown">') == 3
    assert "Nothing is known yet." in found.text
    assert "100.00" not in html
    unknown = ReportRecord("ALL", NOW - 1, NUMBERS | dict.fromkeys(("completeness_pct", "proven_pct")))
    first, later = replace(unknown, made_at=NOW - DAY), ReportRecord("ALL", NOW, NUMBERS)
    found, _ = page(made, trend=(first, unknown, later))
    assert [row["complete"] for row in found.table("reports")] == ["90.00 %", "–", "–"]  # noqa: RUF001
    assert "completeness from – to 90.00 %" in found.text  # noqa: RUF001


def test_the_tables_have_each_series_each_tier_and_all_together() -> None:
    found, _ = page()
    assert found.table("series") == [
        {
            "series": "XBTUSD 60", "tier": "TIER1", "complete": "90.00 %", "reconciled": "50.00 %",
            "verified": "25.00 %", "expected": "1,000",
            "covered": "900", "candles": "800", "quiet": "100", "gaps": "2", "conflicts": "1", "to do": "fetch it",
        },
        {
            "series": "ZORKUSD 60", "tier": "TIER4", "complete": "100.00 %", "reconciled": "100.00 %",
            "verified": "100.00 %", "expected": "100",
            "covered": "100", "candles": "40", "quiet": "60", "gaps": "0", "conflicts": "0", "to do": "",
        },
    ]  # fmt: skip
    assert [(row["tier"], row["interval"], row["covered"]) for row in found.table("intervals")] == [
        ("TIER1", "60", "900"),
        ("TIER4", "60", "100"),
        ("all", "60", "1,000"),
    ]


def test_the_rows_of_a_long_table_that_follow_its_first_ones_are_packed_and_counted() -> None:
    (_, quiet) = report().series
    many = tuple(
        replace(quiet, series=Series(f"Q{number:03}USD", Interval.H1), action=HOSTILE)
        for number in range(page_contents.MOST_ROWS + 7)
    )
    found, _ = page(report(series=many))
    (table,) = found.all("details", id="table-series")
    assert [part.text for part in table.all("span", **{"class": "count"})] == ["507"]
    assert len(found.table("series")) == page_contents.MOST_ROWS
    (packed,) = table.all("script")
    further = parsed(gzip.decompress(base64.b64decode(packed.text)).decode()).all("tr")
    assert [row.all("th")[0].text for row in further] == [f"Q{number}USD 60" for number in range(500, 507)]
    assert {row.all("td")[-1].text for row in further} == {HOSTILE}
    assert not any(row.all("script") for row in further)


def test_the_longest_gaps_come_first_those_without_a_route_last_and_the_rest_is_counted() -> None:
    rows = page(report(gaps=(*report().gaps, gap(NOW - 9 * DAY, 7))))[0].table("gaps")
    assert [(row["missing"], row["route"]) for row in rows] == [("7", "TRADES"), ("5", "TRADES"), ("80", "NONE")]
    many = tuple(gap(NOW + number * DAY, 2) for number in range(page_contents.MOST_ROWS + 7))
    found, _ = page(report(gaps=many))
    assert len(found.table("gaps")) == page_contents.MOST_ROWS
    assert "7 more: kraken-pipeline gaps" in found.text


def test_what_comes_from_outside_is_text_and_nothing_else() -> None:
    hostile: dict[str, Any] = {
        "archives": (ArchiveSource(HOSTILE, "OHLCVT", False, 1, 1, 0, 5, 0, None, None),),
        "disagreements": (Disagreement(HOURS, Span(0, DAY), 3, HOSTILE, HOSTILE, 0),),
        "suspicions": (
            SuspicionRecord(HOSTILE, Interval.M1, Span(0, DAY), HOSTILE, SuspicionState.UNPROVEN, NOW, NOW),
        ),
    }
    found, html = page(**hostile)
    assert HOSTILE not in html
    assert [each for each in found.walk() if any(name.startswith("on") for name in each.attributes)] == []
    assert all("alert" not in script.text for script in found.all("script"))
    assert {image.attributes["src"][:22] for image in found.all("img")} == {"data:image/png;base64,"}  # type: ignore[index]
    shown = [found.table("archives")[0]["file"], found.table("disagreements")[0]["source"]]
    shown += [found.table("suspicions")[0]["pair"], found.table("disagreements")[0]["its difference"]]
    assert shown == [HOSTILE] * 4
    assert found.table("gaps")[-1]["archive with it"] == f"{HOSTILE}:XBTUSD_60.csv"
    assert f"Fetch {HOSTILE}." in found.text


def test_the_page_needs_nothing_from_outside() -> None:
    trend = [ReportRecord("ALL", NOW - day * DAY, NUMBERS) for day in (2, 1, 0)]
    found, html = page(trend=trend)
    for element in found.walk():
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            value = element.attributes.get(name) or ""
            assert value.startswith(("#", "data:")) or not value, f"{element.tag} {name}={value}"
    assert "@import" not in html
    assert all("url(" not in style.text.replace("url(#", "") for style in found.all("style"))
    assert {element.tag for element in found.walk()} & {"iframe", "object", "embed", "base", "form"} == set()


NUMBERS = {
    "completeness_pct": 90.0,
    "proven_pct": 80.0,
    "verified_pct": 70.0,
    "gaps": 4,
    "conflicts": 1,
    "candles": 1_000,
    "selection": {},
}


def test_the_browser_may_run_the_page_s_own_script_and_no_other() -> None:
    found, html = page()
    policy = found.all("meta", **{"http-equiv": "Content-Security-Policy"})[0].attributes["content"]
    own = html[html.rindex("<script>") + len("<script>") : html.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert policy == (f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'")


def test_every_table_has_a_caption_and_heads_with_a_scope() -> None:
    suspicion = SuspicionRecord(None, Interval.M1, Span(0, DAY), "nobody traded", SuspicionState.EXCHANGE_DOWN, 0, 0)
    found, _ = page(suspicions=(suspicion,))
    tables = found.all("table")
    assert len(tables) == 4
    for table in tables:
        assert len(table.all("caption")) == 1
        assert {each.attributes.get("scope") for each in table.all("th")} == {"col", "row"}
    (row,) = found.table("suspicions")
    assert (row["pair"], row["state"], row["why"]) == ("all pairs", "exchange down", "nobody traded")


def test_a_map_says_in_words_what_it_shows_and_counts_each_state() -> None:
    found, _ = page()
    (picture,) = found.all("img")
    assert picture.attributes["alt"] == (
        "2 pairs by 12 months: 6 nothing expected, 7 complete, not reconciled, 4 complete and reconciled, 2 "
        "complete and verified, 1 quiet: nobody traded, 1 complete, quiet that is hard to believe, 1 gap, filled "
        "by Trades, 1 gap without a route, 1 conflict"
    )
    counts = {each.parts[1].text: each.parts[3].text for each in legend(found)}  # type: ignore[union-attr]
    assert sum(map(int, counts.values())) == 2 * YEAR.count
    assert [each.text for each in found.all("li", **{"data-tier": "TIER4"})] == ["ZORKUSD"]


def legend(found: Element) -> list[Element]:
    (listed,) = found.all("ul", **{"class": "legend"})
    return listed.all("li")


def test_a_trend_needs_two_reports_and_says_how_far_it_went() -> None:
    first = ReportRecord("ALL", NOW - DAY, {**NUMBERS, "completeness_pct": 70.5})
    last = ReportRecord("ALL", NOW, NUMBERS)
    alone, _ = page(trend=(last,))
    assert "This is the first report on these series" in alone.text
    assert not alone.all("svg")
    found, _ = page(trend=(first, last))
    assert "completeness from 70.50 % to 90.00 %, reconciled from 80.00 % to 80.00 %, verified from" in found.text
    assert len(found.all("svg")) == 2
    assert [row["complete"] for row in found.table("reports")] == ["90.00 %", "70.50 %"]


def test_a_page_about_nothing_says_so() -> None:
    nothing = report(
        series=(), gaps=(), advice=(Advice("Put archives into the drop folder"),), unknown="Nothing is known yet."
    )
    found, _ = page(nothing, maps=())
    assert "Nothing is known yet." in found.text
    assert found.headline["complete"] == "–"  # noqa: RUF001 - a dash
    assert not found.all("table")


def test_a_narrowed_report_says_what_it_was_narrowed_to() -> None:
    spec = run_spec(pairs="XBTUSD,ADAEUR", intervals="60,1440", start="2024-01-01", end="2024-07-01T12:00")
    assert selection(spec) == {
        "pairs": "XBTUSD,ADAEUR",
        "intervals": "60,1440",
        "start": "2024-01-01",
        "end": "2024-07-01 12:00",
    }
    assert selection(run_spec(tier="TIER1")) == {}
    found, _ = page(report(tier=Tier.TIER1), spec=spec)
    assert found.all("h1")[0].text == "Completeness of TIER1"
    assert re.search(r"of pairs XBTUSD,ADAEUR, intervals 60,1440, start 2024-01-01", found.all("header")[0].text)
