"""What the program suggests: every command is about what it was computed for, and costs what it says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.cli import options
from kraken_pipeline.cli.app import app
from kraken_pipeline.demo.archives import write_csv
from kraken_pipeline.demo.clock import FixedClock
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.orchestration import steps
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.reconcile import reconcile_changes
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec
from kraken_pipeline_tests.support.exchanges import ARCHIVED, BEGIN, NOW, PAIRS, SUMMER, copied, stop_clock
from kraken_pipeline_tests.support.homes import run, settings_of
from kraken_pipeline_tests.support.pages import contradict, parsed
from kraken_pipeline_tests.support.shell import Said, shell

pytestmark = pytest.mark.slow

ALL_TEN = ",".join(str(each.value) for each in Interval)
LIMITED = {"KRAKEN_MAX_REQUESTS_PER_GAP": "3"}
"""Without `--complete`, most gaps are too long to be paged through: what is said must not depend on it."""
SELECTIONS = [
    (),
    ("--tier", "TIER1"),
    ("--pairs", "XBTUSD"),
    ("--intervals", "60"),
    ("--intervals", "240,720"),  # half-days are of the reply of four hours
    ("--intervals", ALL_TEN),
    ("--intervals", "1,1440", "--pairs", "ADAEUR", "--end", "2023-07-20"),
    ("--start", "2023-07-03", "--end", "2023-08-01T12:00"),
]


@pytest.fixture(scope="module", autouse=True)
def _stopped_clock() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        stop_clock(patch, NOW, options, steps)
        yield


@pytest.fixture(scope="module")
def holed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with hours and days that lack some weeks, of which minutes were resampled to five; only to read."""
    folder = tmp_path_factory.mktemp("advice")
    with opened(settings_of(folder / "home")) as stores:
        for number, (start, end) in enumerate(((BEGIN, ARCHIVED), (ARCHIVED + 9 * DAY, NOW - 3 * DAY))):
            for pair in PAIRS:
                for interval in (Interval.H1, Interval.D1):
                    write_csv(folder / str(number), SUMMER, pair, interval, start=start, end=interval.floor(end))
            run(stores, folder / str(number), now=NOW, run_id=f"run-{number}", intervals="60,1440", resampling=False)
        reconcile_changes(stores, PAIRS, RunContext("reconcile", NOW))
        contradict(stores, "XBTUSD", BEGIN + DAY)
        contradict(stores, "ADAEUR", BEGIN + 2 * DAY)
    return folder / "home"


def suggested(sentences: list[str], command: str) -> list[tuple[str, list[str]]]:
    """The sentences that suggest a command, each with the command's words, which come last."""
    found = [(each, re.search(rf"kraken-pipeline ({command}\b.*)$", each)) for each in sentences]
    return [(sentence, shlex.split(match[1])) for sentence, match in found if match]


def number(sentence: str, pattern: str) -> int:
    match = re.search(pattern, sentence)
    assert match, sentence
    return int(match[1].replace(",", ""))


def cost(said: Said) -> int:
    """What a dry run says that it costs."""
    assert said.code == 0, said.err
    told = said.json
    return int(told["requests"]) if isinstance(told, dict) else sum(fetch["requests"] for fetch in told)


@pytest.mark.parametrize("selection", SELECTIONS, ids=" ".join)
def test_each_command_of_a_report_costs_what_it_says(holed: Path, selection: tuple[str, ...]) -> None:
    report = shell(holed, "report", *selection, "--json", **LIMITED).json
    said = report["recommendations"]
    ((sentence, words),) = suggested(said, "backfill")
    requests = number(sentence, r"with about ([\d,]+) requests?")
    assert requests == cost(shell(holed, *words, "--dry-run", "--json", **LIMITED)) > 0
    assert f"{quantity(requests, 'request')}, about " in shell(holed, *words, "--dry-run", **LIMITED).out
    # It is all that the exchange can fill of what was asked for, and no more.
    assert number(sentence, r"^([\d,]+) gaps?") + free_of(holed, said) == report["total_gaps"]
    narrowed = ("--intervals", "60,1440") if "--intervals" not in selection else ()
    assert requests == cost(shell(holed, "backfill", *selection, *narrowed, "--complete", "--dry-run", "--json"))


def free_of(home: Path, sentences: list[str]) -> int:
    """How many gaps are said to cost nothing; the command for them must not cost anything."""
    gaps = 0
    for sentence, words in suggested(sentences, "ingest"):
        assert cost(shell(home, *words, "--dry-run", "--json")) == 0
        gaps += number(sentence, r"^([\d,]+) gaps? can be filled")
    return gaps


@pytest.mark.parametrize("selection", SELECTIONS, ids=" ".join)
def test_the_contradictions_that_are_counted_are_those_that_the_command_lists(
    holed: Path, selection: tuple[str, ...], tmp_path: Path
) -> None:
    home = copied(holed, tmp_path)  # reconciling is no reading
    report = shell(home, "report", *selection, "--json").json
    found = suggested(report["recommendations"], "reconcile")
    assert len(found) == bool(report["conflicts"])
    for sentence, words in found:
        listed = [row for row in shell(home, *words, "--json").json if row["fine"] == 60 and row["coarse"] == 1440]
        assert number(sentence, r"^(\d+) contradictions?") == report["conflicts"] == len(listed)


@pytest.mark.parametrize("selection", SELECTIONS, ids=" ".join)
def test_a_page_suggests_the_commands_of_its_report(holed: Path, selection: tuple[str, ...], tmp_path: Path) -> None:
    home = copied(holed, tmp_path)  # a page puts its numbers on record
    said = shell(home, "report", *selection, "--html", str(tmp_path / "page.html"), "--json", **LIMITED).json
    page = parsed((tmp_path / "page.html").read_text(encoding="utf-8"))
    (advice,) = page.all("ol")
    commands = [each.text for each in advice.all("code")]
    assert commands == [each.rpartition(": ")[2] for each in said["recommendations"] if ": kraken-pipeline" in each]
    ((sentence, _),) = suggested(said["recommendations"], "backfill")
    assert page.headline["requests to make"].startswith(str(number(sentence, r"with about ([\d,]+) requests?")))


def test_what_a_command_costs_is_about_what_it_then_asks_for(holed: Path, tmp_path: Path) -> None:
    home = copied(holed, tmp_path)
    report = shell(home, "report", "--json").json
    ((sentence, words),) = suggested(report["recommendations"], "backfill")
    with DemoExchange(SUMMER, clock=FixedClock(NOW)) as exchange:
        assert shell(home, *words, KRAKEN_API_URL=exchange.url).code == 0
        asked = [each.endpoint for each in exchange.requests if each.params.get("count") != "1"]
    # The status, the list of pairs and the first trade of each pair come on top.
    requests = sum(endpoint in ("OHLC", "Trades") for endpoint in asked)
    assert abs(requests - number(sentence, r"with about ([\d,]+) requests?")) <= 2
    after = shell(home, "report", "--json").json
    assert (after["overall_completeness_pct"], suggested(after["recommendations"], "backfill")) == (100.0, [])


def test_an_unknown_pair_is_suggested_to_be_fetched_with_the_same_selection(holed: Path) -> None:
    said = shell(holed, "gaps", "--pairs", "ETHUSD", "--intervals", "60", "--start", "2023-07-01")
    assert said.code == 2
    assert said.err.strip().endswith("kraken-pipeline backfill --pairs ETHUSD --intervals 60 --start 2023-07-01")


def spec_of(parameters: Mapping[str, Any]) -> RunSpec:
    """What a command makes of its options."""
    names = {"archive_dir": "archive_dirs", "max_gaps": "max_gaps_per_asset"}
    return run_spec({names.get(name, name): value for name, value in parameters.items()})


@pytest.mark.parametrize("command", ["plan", "ingest", "backfill", "report", "gaps", "reconcile"])
def test_the_words_of_a_spec_mean_that_spec(command: str) -> None:
    parser: Any = app.commands[command]
    given = {
        "tier": "TIER2",
        "pairs": "XBTUSD,AAPLxUSD",
        "intervals": "60,1440",
        "start": "2023-10-01",
        "end": "2023-10-02T12:30",
        "archive_dir": [Path("/my archives"), Path("/others")],
        "api_backfill": False,
        "complete": True,
        "lookback_days": 30,
        "max_gaps": 5,
        "budget": 7,
    }
    own = given.keys() & {each.name for each in parser.params}
    spec = spec_of({name: given[name] for name in own})
    words = shlex.split(spec.as_command(command))
    assert words[:2] == ["kraken-pipeline", command]
    read = parser.make_context(command, words[2:]).params
    assert spec_of({name: read[name] for name in own}) == spec
