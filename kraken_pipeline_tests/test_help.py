"""Help with its examples, the version, the completion of a shell, and commands that print nothing."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster  # noqa: F401 - starts a process when it is imported, which a test may not
import pytest

from kraken_pipeline.cli.app import app, main
from kraken_pipeline.cli.examples import EXAMPLES
from kraken_pipeline.cli.groups import COMPLETION_VARIABLE, Command, Group
from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.options import complete_intervals, complete_tiers
from kraken_pipeline.cli.output import err, hold, is_held
from kraken_pipeline.market.interval import INTERVALS, Interval
from kraken_pipeline.market.tier import TIERS
from kraken_pipeline_tests.support.homes import Shelf
from kraken_pipeline_tests.support.shell import environment, shell


def commands(group: Group, before: tuple[str, ...] = ()) -> Iterator[tuple[str, Command, Any]]:
    """Every command with its words, what the list of commands knows of it, and what parses its options."""
    for name, member in group.members.items():
        if isinstance(member, Group):
            yield from commands(member, (*before, name))
        else:
            yield " ".join((*before, name)), member, group.commands[name]


def test_each_command_has_examples_of_itself_that_its_parser_accepts() -> None:
    found = list(commands(app))
    assert {member.place for _, member, _ in found} == set(EXAMPLES)
    for name, member, parser in found:
        for what, words in EXAMPLES[member.place]:
            assert what[0].isupper(), what
            if member.place != "completion.completion":
                assert f"{words} ".startswith(f"{name} "), words
                parser.make_context(name, shlex.split(words.removeprefix(name)))


def test_help_shows_the_examples_as_lines_to_copy(tmp_path: Path) -> None:
    said = shell(tmp_path / "home", "export", "-h", COLUMNS="80").out
    assert said == shell(tmp_path / "home", "export", "--help", COLUMNS="80").out
    assert "\n      kraken-pipeline export XBTUSD,ETHUSD 8h --to x.parquet\n" in said


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    said = shell(tmp_path / "home", "--version")
    assert (said.code, said.out, said.err) == (0, "kraken-pipeline 0.1.0\n", "")
    assert not (tmp_path / "home").exists()


# --- completion


def completed(home: Path, *words: str) -> list[str]:
    """What a shell offers for the last of these words."""
    asked = {COMPLETION_VARIABLE: "complete_bash", "COMP_CWORD": str(len(words))}
    said = shell(home, **asked, COMP_WORDS=" ".join(["kraken-pipeline", *words]))
    assert said.err == ""
    return said.out.split()


def test_names_of_intervals_and_tiers_are_complete() -> None:
    assert tuple(map(Interval.parse, complete_intervals(""))) == INTERVALS
    assert complete_tiers("") == [*TIERS, "ALL"]


@pytest.mark.slow
@pytest.mark.process
def test_a_shell_completes_commands_options_pairs_and_intervals(tmp_path: Path, shelf: Shelf) -> None:
    home = tmp_path / "home"
    shell(home, "ingest", "--archive-dir", str(shelf.q1), "--no-api-backfill")
    assert completed(home, "re") == ["reconcile", "resolve", "recover", "restore", "report", "release"]
    assert completed(home, "release", "v") == ["verify"]
    assert completed(home, "gaps", "--pa") == ["--pairs"]
    assert completed(home, "--v") == ["--version"]
    assert completed(home, "gaps", "--pairs", "XB") == ["XBTUSD"]
    assert completed(home, "gaps", "--pairs", "XBTUSD,X") == []
    assert completed(home, "export", "XBTU") == ["XBTUSD"]
    assert completed(home, "explain", "XBTUSD", "1h") == ["1h"]
    assert completed(home, "report", "--intervals", "1h,1") == ["1h,1m", "1h,15m", "1h,12h", "1h,1d", "1h,1w", "1h,15d"]
    assert completed(home, "report", "--tier", "TIER") == ["TIER1", "TIER2", "TIER3", "TIER4"]


def test_a_completion_fails_silently_and_makes_no_home(tmp_path: Path) -> None:
    assert completed(tmp_path / "home", "gaps", "--pairs", "X") == []
    assert not (tmp_path / "home").exists()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "catalog.sqlite").write_text("no database")
    assert completed(tmp_path / "home", "gaps", "--pairs", "X") == []


@pytest.mark.slow
@pytest.mark.process
def test_bash_takes_the_script(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("kraken-pipeline")
    script = f"""
        eval "$({program} completion bash)"
        complete -p kraken-pipeline
        COMP_WORDS=(kraken-pipeline gaps --inter) COMP_CWORD=2
        _kraken_pipeline_completion {program}
        echo "${{COMPREPLY[@]}}"
    """
    given = {"PATH": os.environ["PATH"], **environment(tmp_path / "home")}
    done = subprocess.run(["bash", "-c", script], env=given, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "complete -o default -F _kraken_pipeline_completion kraken-pipeline",
        "--intervals",
    ]


# --- quiet


@pytest.mark.slow
@pytest.mark.process
def test_a_quiet_command_prints_nothing_unless_something_fails(tmp_path: Path, shelf: Shelf) -> None:
    home = tmp_path / "home"
    ingest = ("ingest", "--archive-dir", str(shelf.q1), "--no-api-backfill")
    said = shell(home, *ingest, "--quiet")
    assert (said.code, said.out, said.err) == (0, "", "")
    assert shell(home, *ingest, "-q", "--json").json["status"] == "SUCCESS"
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 no archive")
    said = shell(home, "ingest", "--archive-dir", str(tmp_path / "bad.zip"), "--no-api-backfill", "--quiet")
    assert (said.code, said.out) == (1, "")
    assert "every file failed" in said.err
    assert "reading archives" not in said.err
    said = shell(home, "export", "XBTUSD", "1h", "--to", str(tmp_path / "x.csv"), "--quiet")
    assert (said.code, said.out, said.err) == (0, "", "")
    said = shell(home, "export", "NONEUSD", "1h", "--to", str(tmp_path / "x.csv"), "--quiet")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("kraken-pipeline: NONEUSD is unknown")
    assert shell(home, "ingest", "--archive-dir", str(shelf.q1), "--no-api-backfill").out != ""


@pytest.mark.slow
def test_a_quiet_command_that_ends_with_a_bug_shows_what_it_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def say_and_fail(**_: str) -> None:
        hold()
        say(err, "as far as it came")
        raise ZeroDivisionError

    monkeypatch.setattr(app, "main", say_and_fail)
    monkeypatch.setattr(sys, "argv", ["kraken-pipeline", "export"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        main()
    assert capsys.readouterr().err == "as far as it came\n"
    assert not is_held(err)
