"""kraken-pipeline: the shell's way in.

Exit codes: 0 done (open gaps are no failure), 1 something failed (a file, a series; the rest was done), 2 wrong use,
130 stopped by Ctrl-C or SIGTERM.
With `--json`, standard output is that JSON alone; everything else that is said goes to standard error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from dotenv import load_dotenv
from typer.completion import completion_init  # type: ignore[attr-defined]

from kraken_pipeline.cli.groups import COMPLETION_VARIABLE, Command, Group, flag
from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.output import err, let_go
from kraken_pipeline.errors import STOPPED, STOPPED_CODE, InvalidRequest, InvalidSettings
from kraken_pipeline.logs import configure
from kraken_pipeline.settings import load_settings

_COMMANDS: dict[str, Command | Group] = {
    "init": Command("home.init", "Make a folder for candles: settings, a description for Dagster, and a drop folder."),
    "ui": Command(
        "home.ui",
        "Run Dagster's UI and its daemon for this home, until Ctrl-C: the drop folder, schedules and sensors work "
        "then.",
    ),
    "plan": Command("run_commands.plan", "Show the route and the cost of every gap."),
    "ingest": Command("run_commands.ingest", "Ingest archives, fill gaps and report the result.", is_work=True),
    "backfill": Command(
        "run_commands.backfill",
        "Fill gaps through Kraken's API and by resampling, without reading archives.",
        is_work=True,
    ),
    "publish": Command("run_commands.publish", "Publish pending changes to QuestDB.", is_work=True),
    "reconcile": Command(
        "keep_commands.reconcile",
        "Compare intervals with each other, refute candles that are short, and list contradictions.",
        is_work=True,
    ),
    "resolve": Command(
        "keep_commands.resolve", "Withdraw wrong candles: those of a file, a release, a span, or all with one cause."
    ),
    "verify": Command("keep_commands.verify", "Compare every file of the lake with what was written.", is_work=True),
    "prove": Command(
        "run_commands.prove",
        "Count trades by the ids that the exchange gives them, and fill what is missing.",
        is_work=True,
    ),
    "recover": Command(
        "run_commands.recover", "Rebuild a lost catalog from the lake and the archives at hand.", is_work=True
    ),
    "backup": Command("keep_commands.backup", "Save the catalog and then the lake; runs may be at work.", is_work=True),
    "restore": Command(
        "keep_commands.restore", "Restore a backup into an empty home, and verify the result.", is_work=True
    ),
    "gaps": Command("gaps.gaps", "List the gaps, with their routes and the archives that fill them."),
    "report": Command("report.report", "Report how complete each tier and interval is, and what to do about the rest."),
    "explain": Command(
        "explain.explain",
        "Show the history of one candle: its source, the candles that lost to it, and what its values were compared "
        "to.",
    ),
    "pairs": Command(
        "pairs.pairs",
        "List the pairs of a day, or all that are known, with when each was listed and how that is known.",
    ),
    "export": Command(
        "export.export",
        "Write candles or kept trades to a file, or candles to the data folder of another program.",
        is_work=True,
    ),
    "release": Group(
        "Make, list, verify, compare and delete releases of a dataset: candles that never change, with a digest.",
        {
            "create": Command(
                "release.create",
                "Make a release: the selected candles as they are now, and what is known of them.",
                is_work=True,
            ),
            "list": Command("release.list_all", "List the releases of this home."),
            "verify": Command(
                "release.verify", "Check everything that a release claims; nothing but its folder is needed."
            ),
            "diff": Command("release.diff", "List the series and candles in which two releases differ, and why."),
            "delete": Command("release.delete", "Delete a release; the candles in the lake stay."),
        },
    ),
    "status": Command("status.status", "List runs with their progress and errors."),
    "health": Command(
        "health.health",
        "Check the disk, the servers, the exchange and the data; the exit code is 1 if a check has failed.",
    ),
    "completion": Command(
        "completion.completion", "Print the script that lets a shell complete commands, options, pairs and intervals."
    ),
    "metrics": Command("metrics.metrics", "Serve metrics for Prometheus, or write them to a file."),
    "alerts": Group(
        "Send alerts by mail, chat or webhook, and try whether they arrive.",
        {
            "check": Command("alerts.check", "Look for what is wrong, send the alerts that are due, and list them."),
            "test": Command("alerts.test", "Send a message to each address of KRAKEN_ALERT_URLS."),
        },
    ),
    "demo": Command(
        "demo.demo", "Build a small world of archives and an exchange, then plan, ingest, fill gaps and report."
    ),
    "dead-letters": Group(
        "List, export and retry rejected rows, rejected files and failed fetches.",
        {
            "list": Command("dead_letters.list_dead_letters", "List dead letters, those of the newest file first."),
            "export": Command(
                "dead_letters.export_dead_letters", "Write all dead letters to a CSV file with a header."
            ),
            "retry": Command(
                "run_commands.retry_dead_letters",
                "Repeat fetches that failed for good: all of them, unless some are named.",
                is_work=True,
            ),
        },
    ),
    "cache": Group(
        "Show and clear the cache of the exchange's replies.",
        {
            "stats": Command(
                "reply_cache.cache_stats",
                "Show the share of hits in the last day over all processes, and the size of the cache.",
            ),
            "clear": Command("reply_cache.clear_cache", "Delete replies; the next run requests them again."),
        },
    ),
}


def _begin() -> None:
    configure(load_settings())


def _tell_version() -> NoReturn:
    from importlib.metadata import version  # noqa: PLC0415 - no other command needs it

    sys.stdout.write(f"kraken-pipeline {version('kraken-pipeline')}\n")
    sys.exit()


app = Group(
    "Every Kraken candle, and the knowledge that it is every one.",
    _COMMANDS,
    begin=_begin,
    options=[flag("--version", then=_tell_version, text="Show the version and exit.")],
)


def main() -> None:
    """Runs the command line; errors become one sentence and an exit code."""
    try:
        _load_environment()
        if COMPLETION_VARIABLE in os.environ:
            completion_init()
        app(complete_var=COMPLETION_VARIABLE)
    except (InvalidRequest, InvalidSettings) as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail(STOPPED, STOPPED_CODE)
    except SystemExit as exit_:
        if exit_.code == STOPPED_CODE:  # so typer takes Ctrl-C
            _fail(STOPPED, STOPPED_CODE)
        let_go(is_shown=bool(exit_.code))
        raise
    except BaseException as error:  # a panic of Polars is no `Exception`
        from kraken_pipeline.storage.faults import fault_of  # noqa: PLC0415 - loads Polars, which `--help` does not need

        if (fault := fault_of(error)) is None:
            let_go(is_shown=True)
            raise
        _fail(str(fault), 1)


def _fail(sentence: str, code: int) -> NoReturn:
    let_go(is_shown=True)
    say(err, f"kraken-pipeline: {sentence}", "red")
    sys.exit(code)


def _load_environment() -> None:
    """Reads `.env` in the current folder, then that of the checkout: the same home from any folder."""
    for folder in (Path.cwd(), Path(__file__).parents[2]):
        load_dotenv(folder / ".env")


if __name__ == "__main__":
    main()
