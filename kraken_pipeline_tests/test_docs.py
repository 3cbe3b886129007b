"""The docs: the programs accept every command that they show, and print what they show; the site has every page."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer._click.exceptions import MissingParameter

import kraken_pipeline
from docs.conf import ADDED, NAVIGATION, loaded_from_elsewhere
from kraken_pipeline.cli.app import app
from kraken_pipeline.cli.examples import EXAMPLES
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.showcase import build_world
from kraken_pipeline.orchestration.run_records import JOBS
from kraken_pipeline_tests.support.clocks import clock_ahead
from kraken_pipeline_tests.support.consoles import Shown, calls, difference, named_in, shown_in
from kraken_pipeline_tests.support.shell import ROOT, Said, shell

PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "deploy").glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *ROOT.glob("docs/decisions/*.md"),
    ]
)
README, TOUR, CONCEPTS = ROOT / "README.md", ROOT / "docs" / "tour.md", ROOT / "docs" / "concepts.md"


# --- commands are such as the program accepts


def parse(program: Any, name: str, words: list[str]) -> None:
    """Parses words as a program does that is called with them, down to the command of its last group."""
    context = program.make_context(name, words)
    while hasattr(program, "commands"):
        # What a group leaves to the command: its name and the words behind it.
        found, program, words = program.resolve_command(context, [*context._protected_args, *context.args])
        context = program.make_context(found, words, parent=context)


@cache
def dagster_cli() -> Any:
    from dagster._cli import create_dagster_cli  # loads what only few tests need

    return create_dagster_cli()  # type: ignore[no-untyped-call]


def parse_make(words: list[str]) -> None:
    """Whether the Makefile knows a target and the variables that are given to it."""
    text = (ROOT / "Makefile").read_text("utf-8")
    for word in words:
        name, _, value = word.partition("=")
        pattern = rf"^{name} \?=|\$\(if \$\({name}\)" if value else rf"^{name}:"
        assert re.search(pattern, text, re.MULTILINE), word


def check(shown: Shown) -> list[str]:
    """Parses the programs of the project that a line calls, and returns their names."""
    called = []
    for name, *words in calls(shown.text):
        if name == "kraken-pipeline":
            parse(app, name, words)
        elif name == "dagster":
            parse(dagster_cli(), name, words)
            assert words[:2] != ["job", "launch"] or words[words.index("-j") + 1] in JOBS, words
        elif name == "make":
            parse_make(words)
        else:
            continue
        called.append(name)
    return called


def pages(shows: Callable[[Path], Iterator[Shown]]) -> pytest.MarkDecorator:
    """The pages that show a command."""
    return pytest.mark.parametrize("page", [page for page in PAGES if any(shows(page))], ids=lambda page: page.stem)


@pytest.mark.slow
@pytest.mark.process
@pages(shown_in)
def test_the_programs_accept_every_command_of_a_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for shown in shown_in(page):
        try:
            called = check(shown)
        except Exception as error:
            pytest.fail(f"{shown.place}: {shown.text}: {error!r}")
        bare = re.sub(r"(^|\s)#.*", "", shown.text)
        assert called or not re.search(r"\b(kraken-pipeline|make|dagster (job|asset|instance)) ", bare), shown


@pytest.mark.slow
@pytest.mark.process
@pages(named_in)
def test_every_command_within_a_sentence_has_options_of_the_command(page: Path) -> None:
    for shown in named_in(page):
        try:
            with suppress(typer.Exit, MissingParameter):  # help, or a command that is only named
                check(shown)
        except Exception as error:
            pytest.fail(f"{shown.place}: {shown.text}: {error!r}")


def test_a_command_with_an_option_that_does_not_exist_is_found() -> None:
    for text in ("kraken-pipeline gaps --pears XBTUSD", "docker compose exec x kraken-pipeline gap", "make tests"):
        with pytest.raises(Exception, match=r"pears|gap|tests"):
            check(Shown("here", text))
    accepted = "cd x && KRAKEN_WORKERS=2 .venv/bin/kraken-pipeline gaps > x # a comment; make tests"
    assert check(Shown("here", accepted)) == ["kraken-pipeline"]


# --- commands print what a page shows


AT = datetime(2026, 11, 26, 1, 7, tzinfo=UTC).timestamp()
"""When the world was made whose output the pages show."""
SERVE = "kraken-pipeline demo --home . --serve"
"""What runs in a terminal of its own, until it is stopped: the exchange."""


def run(home: Path, text: str, **variables: str) -> Said | None:
    """What a line prints in the demo's home; None of a line that is not the program's."""
    words = shlex.split("kraken-pipeline demo" if text == "make demo" else text, comments=True)
    return shell(home, *words[1:], **variables) if words[0] == "kraken-pipeline" and text != SERVE else None


@pytest.mark.slow
@pytest.mark.process
def test_the_commands_of_the_first_pages_print_what_they_show_in_one_home(tmp_path: Path) -> None:
    home = tmp_path / "demo-data"
    shown = [*(each for each in shown_in(README) if each.output), *shown_in(CONCEPTS), *shown_in(TOUR)]
    assert (shown[0].text, [each.text for each in shown].count("make demo")) == ("make demo", 2)
    with clock_ahead(AT - time.time()):
        made = run(home, "make demo")
        world = build_world(int(AT), int(AT))
        with DemoExchange(world) as exchange:
            given = {"KRAKEN_ARCHIVE_DIRS": str(home / "archives"), "KRAKEN_API_URL": exchange.url}
            for each in shown:
                said = made if each.text == "make demo" else run(home, each.text, **given)
                if said is not None:
                    terminal = said.out + said.err
                    assert said.code == 0, f"{each.place}: {each.text} fails:\n{terminal}"
                    differs = difference(each.output, terminal) if each.output else None
                    assert differs is None, f"{each.place}: {each.text} does not print {differs!r} but\n{terminal}"


def test_an_output_differs_from_a_page_unless_the_page_leaves_something_out() -> None:
    said = "SUCCESS run 89abcdef: 3 files in 22.5 s.\n\nx\nthe end\n\n"
    assert difference(["SUCCESS run 01234567: 3 files in 1.0 s.", "…", "the …"], said) is None
    assert (
        difference(["SUCCESS run 01234567: 4 files in 1.0 s.", "…"], said) == "SUCCESS run 01234567: 4 files in 1.0 s."
    )
    assert difference(["…", "x"], said) == "the end"
    assert difference(["…", "the end", "more"], said) == "more"


# --- the site


def test_every_page_is_in_the_navigation_once() -> None:
    listed = [page for part in NAVIGATION.values() for page in part.values()]
    found = [str(page.relative_to(ROOT).with_suffix("")) for page in PAGES]
    below = [page for page in found if page.startswith("docs/decisions/") and page != "docs/decisions/README"]
    assert sorted([*listed, "README", *below]) == sorted(found)


def test_the_reference_has_every_command_option_and_public_name() -> None:
    page = ADDED["docs/cli"]()
    assert "130 stopped by Ctrl-C" in page
    for heading, option in (("gaps", "--all"), ("release create", "--sign-with"), ("dead-letters retry", "--id")):
        section = page.partition(f"## kraken-pipeline {heading}\n")[2].partition("\n## ")[0]
        assert f"`{option}" in section
        assert f"$ kraken-pipeline {heading} " in section
    assert page.count("\n## kraken-pipeline ") == len(EXAMPLES)
    written = set(re.findall(r"^\.\. auto\w+:: kraken_pipeline\.(\w+)$", ADDED["docs/python"](), re.MULTILINE))
    assert written == set(kraken_pipeline.__all__)


def test_what_a_browser_would_load_from_elsewhere_is_found() -> None:
    for text in (
        '<script src="https://cdn.example/x.js">',
        '<link rel="stylesheet" type="text/css" href="//fonts.example/css">',
        '<img alt="x" src="http://example/x.png">',
        "@font-face { src: url(https://example/x.woff2) }",
        '@import "https://example/x.css";',
    ):
        assert loaded_from_elsewhere(text), text
    assert loaded_from_elsewhere('<a href="https://dagster.io">x</a> <script src="../_static/x.js">') == []
