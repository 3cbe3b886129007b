"""kraken-pipeline: the shell's way in.

Exit codes: 0 done (open gaps are no failure), 1 something failed (a file, a series; the rest was done), 2 wrong use,
130 stopped by Ctrl-C or SIGTERM.
With `--json`, standard output is that JSON alone; everything else that is said goes to standard error.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from dotenv import load_dotenv

from kraken_pipeline.cli.groups import Command, Group
from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.output import err
from kraken_pipeline.errors import STOPPED, STOPPED_CODE, InvalidRequest, InvalidSettings
from kraken_pipeline.logs import configure
from kraken_pipeline.settings import load_settings

_COMMANDS: dict[str, Command | Group] = {
    "plan": Command("run_commands.plan", "Show the route and the cost of every gap."),
    "ingest": Command("run_commands.ingest", "Ingest archives, fill gaps and report the result."),
    "backfill": Command(
        "run_commands.backfill", "Fill gaps through Kraken's API and by resampling, without reading archives."
    ),
    "publish": Command("run_commands.publish", "Publish pending changes to QuestDB."),
    "reconcile": Command(
        "keep_commands.reconcile",
        "Compare intervals with each other, refute candles that are short, and list contradictions.",
    ),
    "resolve": Command(
        "keep_commands.resolve", "Withdraw wrong candles: those of a file, a release, a span, or all with one cause."
    ),
    "verify": Command("keep_commands.verify", "Compare every file of the lake with what was written."),
    "prove": Command(
        "run_commands.prove", "Count trades by the ids that the exchange gives them, and fill what is missing."
    ),
    "recover": Command("run_commands.recover", "Rebuild a lost catalog from the lake and the archives at hand."),
    "backup": Command("keep_commands.backup", "Save the catalog and then the lake; runs may be at work."),
    "restore": Command("keep_commands.restore", "Restore a backup into an empty home, and verify the result."),
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
    "export": Command("export.export", "Write candles to a file, or to the data folder of another program."),
    "status": Command("status.status", "List runs with their progress and errors."),
    "health": Command(
        "health.health",
        "Check the disk, the servers, the exchange and the data; the exit code is 1 if a check has failed.",
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


app = Group("Every Kraken candle, and the knowledge that it is every one.", _COMMANDS, begin=_begin)


def main() -> None:
    """Runs the command line; errors become one sentence and an exit code."""
    try:
        _load_environment()
        app()
    except (InvalidRequest, InvalidSettings) as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail(STOPPED, STOPPED_CODE)
    except SystemExit as exit_:
        if exit_.code == STOPPED_CODE:  # so typer takes Ctrl-C
            _fail(STOPPED, STOPPED_CODE)
        raise
    except BaseException as error:  # a panic of Polars is no `Exception`
        from kraken_pipeline.storage.faults import fault_of  # noqa: PLC0415 - loads Polars, which `--help` does not need

        if (fault := fault_of(error)) is None:
            raise
        _fail(str(fault), 1)


def _fail(sentence: str, code: int) -> NoReturn:
    say(err, f"kraken-pipeline: {sentence}", "red")
    sys.exit(code)


def _load_environment() -> None:
    """Reads `.env` in the current folder, then that of the checkout: the same home from any folder."""
    for folder in (Path.cwd(), Path(__file__).parents[2]):
        load_dotenv(folder / ".env")


if __name__ == "__main__":
    main()
