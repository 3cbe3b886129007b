"""Makes every picture in docs/images anew: `make pictures`.

What they show is a demo world in a temporary folder, a year that arrives piece by piece, so that numbers rise: each of
its archives in a run of its own, one of them through assets; then the exchange is asked for the newest candles and for
one pair of the quarter that no archive has. Dagster's webserver and Chromium show it; nothing of all that stays but the
pictures.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import requests
from playwright.sync_api import Browser, Locator, Page, ViewportSize

from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.showcase import build_showcase
from kraken_pipeline_tests.support.browsers import Chromium, chromium
from kraken_pipeline_tests.support.servers import HOST, Server

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
LARGEST = 250_000
"""Bytes of a picture: they are part of every clone."""
_LOADING = ", ".join(f'[class*="{name}"]' for name in ("Skeleton_", "Spinner_", "Dot_loading", "LoadingBar_loading__"))
"""What Dagster's UI shows where something is to come."""
_INTERVALS = "60,240,1440"
"""Of the reports: those that have something to show of the whole year."""


class Webserver(Server):
    """Dagster's webserver over the demo's home."""

    title = "webserver"

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        super().__init__(folder)
        self._variables = variables

    @classmethod
    def reason_without(cls) -> str | None:
        """It comes with the project."""
        return None

    @property
    def url(self) -> str:
        """Where it is; it knows no passwords."""
        return f"http://{HOST}:{self.port()}"

    def version(self) -> str:
        """Dagster's."""
        return str(requests.get(f"{self.url}/server_info", timeout=5).json()["dagster_webserver_version"])

    def _prepare(self) -> None:
        self.data.mkdir(exist_ok=True)

    def _command(self) -> Sequence[str]:
        program = str(Path(sys.executable).with_name("dagster-webserver"))
        return [program, "-w", str(ROOT / "workspace.yaml"), "-h", HOST, "-p", str(self.port())]

    def _account(self) -> dict[str, dict[str, str]]:
        return {"env": self._variables}


@dataclass(frozen=True, slots=True)
class Home:
    """A demo world's home, and how commands are run in it."""

    path: Path
    variables: dict[str, str] = field(default_factory=dict)

    @classmethod
    def below(cls, folder: Path) -> Home:
        """A home in a folder, with the settings of `kraken-pipeline demo`."""
        home, archives = folder / "home", folder / "archives"
        home.mkdir()
        archives.mkdir()
        settings = {
            "DAGSTER_HOME": str(ROOT),
            "KRAKEN_PIPELINE_HOME": str(home),
            "KRAKEN_DAGSTER_STORAGE": str(home / "dagster"),
            "KRAKEN_ARCHIVE_DIRS": str(archives),
            "KRAKEN_SETTLE_SECONDS": "0",
            "KRAKEN_API_RATE": "50",
        }
        bare = {name: value for name, value in os.environ.items() if not name.startswith(("KRAKEN_", "DAGSTER_"))}
        return cls(home, bare | settings)

    @property
    def report(self) -> Path:
        """Where the report's page lies."""
        return self.path / "report.html"

    def run(self, program: str, *arguments: str) -> None:
        """Runs one of the environment's programs; what it says is shown only if it fails."""
        command = [str(Path(sys.executable).with_name(program)), *arguments]
        done = subprocess.run(command, cwd=self.path, env=self.variables, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{program} {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")

    def tell(self) -> None:
        """Lets the year arrive: afterwards there is a history of runs, and a report with a trend."""
        made = build_showcase(self.path.parent / "made", int(time.time()))
        with DemoExchange(made.world) as exchange:
            self.variables["KRAKEN_API_URL"] = exchange.url
            asked = ",".join(str(each.value) for each in made.intervals)
            ingest = ("kraken-pipeline", "ingest", "--intervals", asked, "--no-api-backfill")
            every = ("--partition-range", "ADAEUR|1...XDGUSD|21600")
            assets = ("dagster", "asset", "materialize", "-m", "kraken_pipeline.definitions")
            first, second, third = made.quarters
            steps: tuple[tuple[Sequence[Path], tuple[str, ...]], ...] = (
                ([first], ingest),
                ([second], (*assets, "--select", "tier1/candles", *every)),
                ([], ingest),
                ([third], ingest),
                (made.loose, ingest),
                ([], ("kraken-pipeline", "ingest")),
                ([], ("kraken-pipeline", "backfill", "--pairs", "XBTUSD", "--intervals", _INTERVALS, "--complete")),
            )
            for arriving, command in steps:
                for path in arriving:
                    path.rename(Path(self.variables["KRAKEN_ARCHIVE_DIRS"]) / path.name)
                self.run(*command)
                self.run("kraken-pipeline", "report", "--intervals", _INTERVALS, "--html", str(self.report))


# --- what is to be seen in each picture, before it is taken


def still(seen: Locator) -> None:
    """Waits until something is there and does not move any more."""
    seen.element_handle().wait_for_element_state("stable")


def assets(page: Page) -> None:
    """The path of a tier from archives to the report, its groups opened."""
    page.get_by_text("tier1_report").first.wait_for()
    page.get_by_text("Hide navigation").click()
    page.get_by_role("button").filter(has=page.get_by_label("panel_show_right")).click()
    page.keyboard.press("Alt+KeyE")
    page.get_by_text("40 partitions").nth(3).wait_for()
    still(page.get_by_text(re.compile(r"\d / \d Passed")).nth(2))


def partitions(page: Page) -> None:
    """Pairs by intervals, and what the latest materialisation of one says."""
    page.get_by_text("fill_gaps_and_report").wait_for()
    still(page.get_by_text("ranges", exact=True))


def materialization(page: Page) -> None:
    """What files brought into a partition."""
    still(page.get_by_text("rows_per_second"))


def plots(page: Page) -> None:
    """How the numbers of the report went up."""
    page.get_by_role("button", name="Plots").click()
    still(page.locator("canvas").nth(3))


def automation(page: Page) -> None:
    """Every schedule and sensor."""
    page.get_by_text("Scheduled At 05:30 AM UTC").wait_for()
    still(page.get_by_role("checkbox").nth(18))  # a box and a switch for each of nine, and a box for all


def report(page: Page) -> None:
    """The map of hours, and what the month is made of whose archive has a spike.

    It is the second of the quarter before the running one; the first key goes to the newest month of the first pair.
    """
    back = (datetime.now(UTC).month - 1) % 3 + 2
    for key in ("ArrowDown", "ArrowDown", *("ArrowLeft",) * back):
        page.get_by_label("Map of 1 hour").press(key)
    page.get_by_role("status").filter(has_text=re.compile("^ETHUSD, 1 hour, .*: conflict")).wait_for()


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture.

    Attributes:
        name: Of its file.
        address: What follows the webserver's address; None for the report.
        width: Of the window.
        height: Likewise.
        prepare: Waits for what is to be seen, and brings it about.
        is_dark: Whether the reader prefers dark pages.
    """

    name: str
    address: str | None
    width: int
    height: int
    prepare: Callable[[Page], None]
    is_dark: bool = False

    def take(self, browser: Browser, web: Webserver, home: Home) -> int:
        """Takes it; the number of its bytes."""
        window = ViewportSize(width=self.width, height=self.height)
        with browser.new_page(viewport=window, color_scheme="dark" if self.is_dark else "light") as page:
            page.goto(home.report.as_uri() if self.address is None else web.url + self.address)
            self.prepare(page)
            page.locator(_LOADING).first.wait_for(state="detached")
            return len(page.screenshot(path=IMAGES / f"{self.name}.png"))


_ASSET = "/assets/tier1"
PICTURES = (
    Picture("assets", '/asset-groups~tag:"kraken%2Ftier"="tier1" or key:"sources%2F*"', 1900, 940, assets),
    Picture("partitions", f"{_ASSET}/coverage?view=partitions&partition=ETHUSD%7C60", 1400, 800, partitions),
    Picture("materialization", f"{_ASSET}/candles?view=events&partition=XBTUSD%7C60", 1400, 800, materialization),
    Picture("plots", f"{_ASSET}/completeness_report?view=overview", 1400, 1080, plots),
    Picture("automation", "/automation", 1200, 740, automation),
    Picture("report-light", None, 1200, 1385, report),
    Picture("report-dark", None, 1200, 1385, report, is_dark=True),
    Picture("report-phone", None, 390, 1160, report),
)


def main() -> int:
    """Makes them all; the exit code is 1 where one is too large or cannot be made."""
    if reason := Chromium.reason_without():
        print(reason, file=sys.stderr)
        return 1
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="pictures-") as folder:
        home = Home.below(Path(folder))
        home.tell()
        with Webserver(Path(folder) / "web", home.variables) as web, chromium() as browser:
            for picture in PICTURES:
                sizes[picture.name] = picture.take(browser, web, home)
                print(f"docs/images/{picture.name}.png: {sizes[picture.name]:,} bytes")
    too_large = [name for name, size in sizes.items() if size > LARGEST]
    if too_large:
        print(f"larger than {LARGEST:,} bytes: {', '.join(too_large)}", file=sys.stderr)
    return int(bool(too_large))


if __name__ == "__main__":
    sys.exit(main())
