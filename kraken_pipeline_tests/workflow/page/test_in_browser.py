"""The page in a real browser: nothing goes wrong, nothing is asked for, axe finds nothing, and the keys work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser
from playwright.sync_api import Page as Tab

from kraken_pipeline.coverage.months import State
from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import SuspicionState
from kraken_pipeline.storage.records import proof_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.page.chart import NEWEST
from kraken_pipeline.workflow.page.report_page import write_page
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import NOW, START, Shelf, run
from kraken_pipeline_tests.support.pages import contradict, count_candles

WIDE, PHONE = (1280, 900), (390, 844)
CHANGED = (
    "before => [...document.querySelectorAll('.panel .told')].some(e => e.offsetParent && e.textContent !== before)"
)
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"


@pytest.fixture
def page(stores: Stores, shelf: Shelf) -> Path:
    """A page with something in each of its tables."""
    run(stores, shelf.q1, shelf.q3, resampling=False)
    count_candles(stores)
    with stores.catalog.write() as connection:
        proven = Proven((Span(START, START + 3 * DAY),), (Span(START, START + DAY),))
        proof_records.replace_proofs(connection, {Series("XBTUSD", Interval.H1): proven})
        quiet = Span(START, START + DAY)
        suspicion = proof_records.SuspicionRecord(
            "XBTUSD", Interval.H1, quiet, "nobody traded", SuspicionState.UNPROVEN, NOW, NOW
        )
        proof_records.suspect(connection, [suspicion])
    contradict(stores, "XBTUSD", START + 4 * DAY)
    spec = run_spec(intervals="60,1440")
    write_page(stores, spec, NOW - DAY)
    return write_page(stores, spec, NOW, charts=["XBTUSD:1h", "ADA/EUR:1d"]).path


@dataclass(slots=True)
class Seen:
    """A page in the browser.

    Attributes:
        tab: Where it is shown.
        said: What went wrong, as the browser's console has it.
        asked: What was asked for.
    """

    tab: Tab
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @property
    def told(self) -> str:
        """The details of the cell."""
        return self.tab.locator(".panel:visible .told").text_content() or ""

    def press(self, *keys: str) -> str:
        """Presses keys, and returns the details once they have changed."""
        for key in keys:
            before = self.told
            self.tab.keyboard.press(key)
            self.tab.wait_for_function(CHANGED, arg=before)
        return self.told


def shown(browser: Browser, page: Path, size: tuple[int, int], scheme: str) -> Seen:
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
        has_touch=size == PHONE,
    )
    seen = Seen(context.new_page())
    seen.tab.on("console", lambda each: seen.said.append(each.text) if each.type in ("error", "warning") else None)
    seen.tab.on("pageerror", lambda error: seen.said.append(str(error)))
    seen.tab.on("request", lambda request: seen.asked.append(request.url))
    seen.tab.goto(page.as_uri())
    return seen


@pytest.fixture
def seen(browser: Browser, page: Path) -> Iterator[Seen]:
    """The page on a wide screen."""
    found = shown(browser, page, WIDE, "light")
    yield found
    assert found.said == []
    assert [url for url in found.asked if not url.startswith(("file:", "data:"))] == []


def test_axe_finds_nothing_in_light_in_dark_and_on_a_phone(browser: Browser, page: Path) -> None:
    for size, scheme in ((WIDE, "light"), (WIDE, "dark"), (PHONE, "light"), (PHONE, "dark")):
        found = shown(browser, page, size, scheme)
        sys.stdout.write(f"{scheme}, {size[0]} wide: loaded in {found.tab.evaluate(LOADED):.0f} ms\n")
        for opened in (False, True):  # as it comes, and with everything that can be opened and pinned
            if opened:
                found.tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
                found.tab.locator(".scroll:visible").focus()
                found.press("ArrowLeft")
                found.tab.locator(".plot").first.press("ArrowLeft")
            violations = Axe().run(found.tab).response["violations"]
            assert [(each["id"], each["nodes"][0]["html"]) for each in violations] == []
        assert found.tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
        assert found.said == []
        assert found.asked == [page.as_uri()]
        found.tab.context.close()


def test_the_arrow_keys_go_from_month_to_month_and_tell_of_each(seen: Seen) -> None:
    seen.tab.locator(".scroll:visible").focus()
    assert seen.press("End").startswith("ADAEUR, 1 hour, August 2023 (TIER1): gap")
    assert seen.press("Home").startswith(
        "ADAEUR, 1 hour, March 2023 (TIER1): complete, not reconciled. 144 of 144 candles"
    )
    april = (
        "ADAEUR, 1 hour, April 2023 (TIER1): gap, filled by Trades. 0 of 720 candles covered; missing 720 by "
        "Trades. Kept."
    )
    assert seen.press("ArrowRight") == april
    assert seen.press("ArrowDown").startswith("XBTUSD, 1 hour, April 2023 (TIER1)")
    conflict = seen.press("ArrowLeft")
    assert conflict.startswith(
        "XBTUSD, 1 hour, March 2023 (TIER1): conflict. 144 of 144 candles covered; 48 reconciled, 0 of them verified; "
    )
    assert conflict.endswith("; 1 conflict; 24 in quiet time that is hard to believe. Kept.")
    assert seen.press("PageDown").startswith("ZORKUSD, 1 hour, March 2023 (TIER4)")
    assert seen.tab.locator(".panel:visible .told").get_attribute("aria-live") == "polite"
    assert not seen.press("Escape").endswith("Kept.")


def test_the_pointer_tells_of_a_month_and_a_click_keeps_it(seen: Seen) -> None:
    box = seen.tab.locator(".picture:visible").bounding_box()
    assert box is not None
    width, height = box["width"] / 6, box["height"] / 3  # March to August, three pairs

    def at(column: int, row: int) -> tuple[float, float]:
        return box["x"] + (column + 0.5) * width, box["y"] + (row + 0.5) * height

    def told(start: str) -> None:
        seen.tab.wait_for_function(
            "start => [...document.querySelectorAll('.told')].some(e => e.textContent.startsWith(start))", arg=start
        )

    seen.tab.mouse.move(*at(1, 1))
    told("XBTUSD, 1 hour, April 2023")
    assert seen.tab.locator(".panel:visible .told").get_attribute("aria-live") == "off"
    seen.tab.mouse.move(*at(2, 0))
    told("ADAEUR, 1 hour, May 2023")
    seen.tab.mouse.click(*at(2, 0))
    seen.tab.wait_for_function("document.querySelector('.told').textContent.endsWith('Kept.')")
    seen.tab.mouse.move(*at(0, 2))
    assert seen.told.startswith("ADAEUR, 1 hour, May 2023")
    seen.tab.mouse.click(*at(0, 2))
    told("ZORKUSD, 1 hour, March 2023")


def test_each_interval_has_a_map_and_one_is_shown(seen: Seen) -> None:
    assert seen.tab.locator(".panel:visible").count() == 1
    seen.tab.locator("label", has_text="1 day").click()
    assert seen.tab.locator(".panel:visible h3").inner_text() == "Candles of 1 day"
    seen.tab.locator(".scroll:visible").focus()
    assert seen.press("End", "Home").startswith(
        "ADAEUR, 1 day, March 2023 (TIER1): complete, not reconciled. 6 of 6 candles"
    )
    seen.tab.emulate_media(media="print")
    assert seen.tab.locator(".panel:visible").count() == 2


def test_the_picture_has_the_colours_of_the_legend(seen: Seen) -> None:
    colours = seen.tab.evaluate(
        """async state => {
            const image = document.querySelector('.picture img');
            const canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            const context = canvas.getContext('2d');
            context.drawImage(image, 0, 0);
            const [red, green, blue] = context.getImageData(1, 1, 1, 1).data;
            const swatch = document.querySelector(`.legend li[data-state="${state}"] i`);
            return [`rgb(${red}, ${green}, ${blue})`, getComputedStyle(swatch).backgroundColor];
        }""",
        arg=int(State.TRADES),
    )
    assert colours[0] == colours[1]


def test_a_chart_draws_its_candles_and_the_keys_tell_of_each(seen: Seen) -> None:
    plot, told = seen.tab.locator(".plot").first, seen.tab.locator(".chart .bar").first
    plot.press("End")  # the first key shows where the cursor is
    plot.press("Home")
    first, count = told.text_content() or "", seen.tab.locator(".chart .legend b").all_text_contents()[:6]
    assert sum(map(int, count)) == NEWEST
    assert first.endswith("Kept.")
    colours = seen.tab.locator(".chart").first.evaluate(
        """chart => {
            const canvas = chart.querySelector('canvas');
            const ratio = canvas.width / canvas.clientWidth;
            const at = [4 * ratio, canvas.height - 25 * ratio, 1, 1];
            const [red, green, blue] = canvas.getContext('2d').getImageData(...at).data;
            const swatches = [...chart.querySelectorAll('.legend i')];
            return [`rgb(${red}, ${green}, ${blue})`, swatches.map(each => getComputedStyle(each).backgroundColor)];
        }"""
    )
    assert colours[0] in colours[1]
    plot.press("ArrowRight")
    assert (told.text_content() or "").partition(" UTC")[0] != first.partition(" UTC")[0]
    plot.press("End")
    assert "traded" in (told.text_content() or "")
    plot.press("Escape")
    assert (told.text_content() or "").startswith("Point at a bar")
    plot.locator("canvas").hover(position={"x": 40, "y": 40})
    assert " UTC: " in (told.text_content() or "")
    assert not (told.text_content() or "").endswith("Kept.")


def test_a_long_table_has_all_its_rows_once_it_is_opened(
    browser: Browser, stores: Stores, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(stores, shelf.q1, shelf.q3, resampling=False)
    count_candles(stores)
    monkeypatch.setattr("kraken_pipeline.workflow.page.html.MOST_ROWS", 1)
    made = write_page(stores, run_spec(intervals="60,1440"), NOW)
    rows = shown(browser, made.path, WIDE, "light").tab.locator("#table-series tbody tr")
    assert rows.count() == 1 < len(made.report.series)
    rows.page.locator("#table-series summary").click()
    rows.nth(1).wait_for()
    assert sorted(rows.locator("th").all_text_contents()) == sorted(str(each.series) for each in made.report.series)


def test_without_scripts_there_are_still_pictures_and_tables(browser: Browser, page: Path) -> None:
    tab = browser.new_context(java_script_enabled=False).new_page()
    tab.goto(page.as_uri())
    assert tab.locator(".picture img").first.is_visible()
    assert "Without JavaScript the maps are pictures only" in tab.locator("#map noscript").inner_text()
    assert tab.locator("#table-intervals table").is_visible()
    tab.locator("label", has_text="1 day").click()
    assert tab.locator(".panel:visible h3").inner_text() == "Candles of 1 day"
