"""kraken-pipeline: the shell's way in.

Exit codes: 0 done (open gaps are no failure), 1 something failed (a file, a series; the rest was done), 2 wrong use,
130 stopped by Ctrl-C or SIGTERM.
With `--json`, standard output is that JSON alone; everything else that is said goes to standard error.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import typer
from dotenv import load_dotenv
from polars.exceptions import PanicException
from typer.core import TyperGroup

from kraken_pipeline.cli import keep_commands, query_commands, run_commands
from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.output import err
from kraken_pipeline.errors import STOPPED, STOPPED_CODE, InvalidRequest, InvalidSettings
from kraken_pipeline.logs import configure
from kraken_pipeline.settings import load_settings
from kraken_pipeline.storage.faults import fault_of


class _Commands(TyperGroup):
    """Commands whose summaries are whole in the help: Typer cuts them where the terminal ends."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows = [(name, self.commands[name].get_short_help_str(sys.maxsize)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


app = typer.Typer(
    cls=_Commands,
    help="Every Kraken candle, and the knowledge that it is every one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # which cuts the names of options on a narrow terminal
)
dead_letters = typer.Typer(
    cls=_Commands,
    help="List, export and retry rejected rows, rejected files and failed fetches.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
cache = typer.Typer(
    cls=_Commands,
    help="Show and clear the cache of the exchange's replies.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for command in (
    run_commands.plan,
    run_commands.ingest,
    run_commands.backfill,
    run_commands.publish,
    keep_commands.reconcile,
    keep_commands.resolve,
    keep_commands.verify,
    run_commands.prove,
    run_commands.recover,
    keep_commands.backup,
    keep_commands.restore,
    query_commands.gaps,
    query_commands.report,
    query_commands.explain,
    query_commands.export,
    query_commands.status,
    query_commands.health,
    run_commands.demo,
):
    app.command()(command)
dead_letters.command("list")(query_commands.list_dead_letters)
dead_letters.command("export")(query_commands.export_dead_letters)
dead_letters.command("retry")(run_commands.retry_dead_letters)
cache.command("stats")(query_commands.cache_stats)
cache.command("clear")(query_commands.clear_cache)
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(cache, name="cache")


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
    except (Exception, PanicException) as error:
        if (fault := fault_of(error)) is None:
            raise
        _fail(str(fault), 1)


def _fail(sentence: str, code: int) -> NoReturn:
    say(err, f"kraken-pipeline: {sentence}", "red")
    sys.exit(code)


@app.callback()
def _begin() -> None:
    configure(load_settings())


def _load_environment() -> None:
    """Reads `.env` in the current folder, then that of the checkout: the same home from any folder."""
    for folder in (Path.cwd(), Path(__file__).parents[2]):
        load_dotenv(folder / ".env")


if __name__ == "__main__":
    main()
