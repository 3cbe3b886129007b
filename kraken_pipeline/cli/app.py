"""kraken-pipeline: the shell's way in.

Exit codes: 0 done (open gaps are no failure), 1 something failed (a file, a series; the rest was done), 2 wrong use,
130 stopped by Ctrl-C or SIGTERM.
With `--json`, standard output is that JSON alone; everything else that is said goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import urlsplit

import typer
from dotenv import load_dotenv
from polars.exceptions import PanicException
from rich.console import Console
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError
from typer.core import TyperGroup

from kraken_pipeline.cli import tables, terminal
from kraken_pipeline.cli.layout import say
from kraken_pipeline.coverage.anchors import Depth, Spacing
from kraken_pipeline.errors import STOPPED, STOPPED_CODE, InvalidRequest, InvalidSettings
from kraken_pipeline.logs import configure
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import named_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import load_tiers
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.exchange_state.counters import Counters
from kraken_pipeline.storage.faults import fault_of
from kraken_pipeline.storage.questdb.client import require_questdb
from kraken_pipeline.storage.records import dead_letters as letters
from kraken_pipeline.storage.records import gap_records
from kraken_pipeline.storage.records.damage import open_damages, settled_since
from kraken_pipeline.storage.stores import Stores, opened, opened_locks, require_writable
from kraken_pipeline.workflow.backfill.backfill import beyond, planned
from kraken_pipeline.workflow.backfill.exchange import open_cache
from kraken_pipeline.workflow.explain.explain import explain as tell
from kraken_pipeline.workflow.gaps.gaps import find_gaps, gap_json, selected_pairs, shown, survey
from kraken_pipeline.workflow.gaps.kept_intervals import of_kept_intervals
from kraken_pipeline.workflow.gaps.plan import Plan, make_plan
from kraken_pipeline.workflow.health.check import Verdict, worst
from kraken_pipeline.workflow.health.exchange_health import cache_state, check_exchange
from kraken_pipeline.workflow.health.health import check_health
from kraken_pipeline.workflow.heed import heeding
from kraken_pipeline.workflow.ingest.scan import known_pairs, require_folders, window
from kraken_pipeline.workflow.progress import Run
from kraken_pipeline.workflow.proof.completion import closing_cost
from kraken_pipeline.workflow.proof.prove import cost, said, verdicts
from kraken_pipeline.workflow.read import export as export_candles
from kraken_pipeline.workflow.read import read_series
from kraken_pipeline.workflow.reconcile.reconcile import doubt_everything, reconcile_changes
from kraken_pipeline.workflow.reconcile.verdicts import contradicted, every_candle
from kraken_pipeline.workflow.report.report import export_unfillable, make_report, unknown
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec
from kraken_pipeline.workflow.verify.backup import back_up
from kraken_pipeline.workflow.verify.backup import restore as bring_back
from kraken_pipeline.workflow.verify.verification import Verification
from kraken_pipeline.workflow.verify.verification import verify as verify_files
from kraken_pipeline.workflow.withdraw.resolve import resolve as take_back
from kraken_pipeline.workflow.withdraw.settling import grouped, withdrawal_of
from kraken_pipeline.workflow.withdraw.withdrawal import withdrawal

if TYPE_CHECKING:
    from kraken_pipeline.orchestration.runs import RunStatus


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
MOST = 1_000_000
"""What is listed at the most."""
out = tables.console()
err = tables.console(stderr=True)

Tier = Annotated[str, typer.Option(help="TIER1 to TIER4, or ALL.")]
Intervals = Annotated[str | None, typer.Option(help="Minutes, separated by commas: 60,1440. All ten by default.")]
KeptIntervals = Annotated[
    str | None,
    typer.Option(
        help="Minutes, separated by commas: 60,1440. By default KRAKEN_INTERVALS, or those that archives or runs named."
    ),
]
Pairs = Annotated[str | None, typer.Option(help="Separated by commas: XBTUSD,ADAEUR. All of the tier by default.")]
Start = Annotated[str | None, typer.Option(help="ISO date or time, UTC: 2023-10-01. Nothing before it.")]
End = Annotated[str | None, typer.Option(help="ISO date or time, UTC. Half-open: that moment is left out.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output, and nothing else there.")]
LookbackDays = Annotated[int, typer.Option(help="How old a gap is filled through the API: 1 to 365 days.")]
MaxGaps = Annotated[int, typer.Option(help="Gaps of a series filled through the API in one run: 1 to 100.")]
BudgetOption = Annotated[int | None, typer.Option(help="Requests of this run; without it, the setting's.")]
ArchiveDirs = Annotated[
    list[Path] | None, typer.Option(help="A folder or file to read archives from, only to read. May be repeated.")
]

AcceptUnknownPairs = Annotated[
    bool, typer.Option("--accept-unknown-pairs", help="Also read loose files whose name ends with no known currency.")
]


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


@contextmanager
def _stores() -> Iterator[Stores]:
    with opened(load_settings()) as stores:
        yield stores


def _spec(**given: Any) -> RunSpec:
    """Return what a command selects; `storjusd` on the command line is the pair STORJUSD."""
    spec = run_spec(**given)
    if all(name == name.upper() for name in spec.pairs):
        return spec
    with _stores() as stores:
        known = known_pairs(stores)
    return run_spec(**{**given, "pairs": [named_pair(name, known) for name in spec.pairs]})


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _now() -> int:
    return int(time.time())


# --- what would be done, and doing it


@app.command()
def plan(
    tier: Tier = "ALL",
    intervals: Intervals = None,
    pairs: Pairs = None,
    start: Start = None,
    end: End = None,
    archive_dir: ArchiveDirs = None,
    accept_unknown_pairs: AcceptUnknownPairs = False,
    complete: Annotated[bool, typer.Option(help="Without limits of requests.")] = False,
    as_json: AsJson = False,
) -> None:
    """Says for every gap where it can come from and what that costs. Writes nothing."""
    spec = _spec(
        tier=tier,
        intervals=intervals,
        pairs=pairs,
        start=start,
        end=end,
        archive_dirs=archive_dir,
        accept_unknown_pairs=accept_unknown_pairs,
        complete=complete,
        dry_run=True,
    )
    _show_plan(spec, as_json=as_json)


def _show_plan(spec: RunSpec, *, as_json: bool) -> Plan:
    with _stores() as stores:
        made = make_plan(stores, spec, _now())
    if as_json:
        _print_json(made.as_json())
    else:
        tables.plan(out, made)
    return made


@app.command()
def ingest(
    tier: Tier = "ALL",
    intervals: Intervals = None,
    pairs: Pairs = None,
    start: Start = None,
    end: End = None,
    archive_dir: ArchiveDirs = None,
    accept_unknown_pairs: AcceptUnknownPairs = False,
    api_backfill: Annotated[
        bool, typer.Option(help="Whether HTTP may be used to fill gaps; resampling goes on without it.")
    ] = True,
    complete: Annotated[
        bool, typer.Option(help="Until nothing fillable is left: no limit of lookback, gaps or requests.")
    ] = False,
    lookback_days: LookbackDays = 7,
    max_gaps: MaxGaps = 10,
    budget: BudgetOption = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be done, as `plan`.")] = False,
    resume: Annotated[
        str | None, typer.Option(help="Continue this failed, cancelled or killed run with its own configuration.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Brings archives into the lake, fills gaps, and says what is covered. A Dagster run like any other."""
    given = _spec(
        tier=tier,
        intervals=intervals,
        pairs=pairs,
        start=start,
        end=end,
        archive_dirs=archive_dir,
        accept_unknown_pairs=accept_unknown_pairs,
        api_backfill=api_backfill,
        complete=complete,
        lookback_days=lookback_days,
        max_gaps_per_asset=max_gaps,
        budget=budget,
        dry_run=dry_run,
    )
    if dry_run:
        _show_plan(given, as_json=as_json)
        return
    if resume is not None and given != RunSpec():
        raise InvalidRequest("--resume continues a run with its own configuration; leave the other options out")
    settings = load_settings()
    given.require_tier(load_tiers(settings.kraken_tiers_file))
    done = _ingest(settings, given, resume, as_json=as_json)
    raise typer.Exit(int(not _is_well(done)))


@app.command()
def backfill(
    tier: Tier = "ALL",
    intervals: Intervals = None,
    pairs: Pairs = None,
    start: Start = None,
    end: End = None,
    lookback_days: LookbackDays = 7,
    max_gaps: MaxGaps = 10,
    budget: BudgetOption = None,
    complete: Annotated[
        bool, typer.Option(help="Until nothing fillable is left: no limit of lookback, gaps or requests.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be asked for, and what it costs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fills gaps through Kraken's API and by resampling, without looking at archives. A Dagster run like any other.

    A pair that is named and of which nothing is known yet is fetched from its first trade on, if the budget allows.
    """
    spec = _spec(
        tier=tier,
        intervals=intervals,
        pairs=pairs,
        start=start,
        end=end,
        lookback_days=lookback_days,
        max_gaps_per_asset=max_gaps,
        budget=budget,
        complete=complete,
        dry_run=dry_run,
    )
    settings = load_settings()
    spec.require_tier(load_tiers(settings.kraken_tiers_file))
    if dry_run:
        with _stores() as stores:
            now = _now()
            fetches, unprobed = planned(stores, spec, now), beyond(stores, spec, now)
            closing = closing_cost(stores, spec, now) if complete else None
        if as_json:
            _print_json([fetch.as_json() for fetch in fetches])
            return
        tables.fetches(out, fetches, settings.kraken_api_rate, unprobed)
        if closing is not None:
            say(out, f"In the end trades are counted by their ids. {said(closing, settings.kraken_api_rate)}")
        return
    with _loading_dagster(settings, as_json=as_json):
        from kraken_pipeline.definitions import bound_backfill  # noqa: PLC0415

    done = _executed(settings, bound_backfill, spec, None, as_json=as_json)
    raise typer.Exit(int(not _is_well(done)))


@app.command()
def publish(
    rebuild: Annotated[bool, typer.Option(help="Empty QuestDB's tables and fill them anew from the lake.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare every series with the lake afterwards.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delivers to QuestDB what it is owed. A Dagster run like any other; needs KRAKEN_QUESTDB_URL."""
    settings = load_settings()
    require_questdb(settings)
    with _loading_dagster(settings, as_json=as_json):
        from kraken_pipeline.definitions import bound_publish  # noqa: PLC0415

    config = {"rebuild": rebuild, "verify": verify}
    done = _executed(settings, bound_publish, None, as_json=as_json, config=config)
    raise typer.Exit(int(done.status != "SUCCESS" or bool(done.outcome.get("errors"))))


@app.command()
def reconcile(
    tier: Tier = "ALL",
    intervals: Intervals = None,
    pairs: Pairs = None,
    start: Start = None,
    end: End = None,
    full: Annotated[bool, typer.Option(help="Compare everything anew, not only what has changed.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="The verdict on every candle, not only what contradicts.")
    ] = False,
    by_cause: Annotated[
        bool | None,
        typer.Option(
            "--by-cause/--one-by-one",
            help="A line for all that has one cause, or for each contradiction; the first without --json and --all.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compares intervals with each other, takes back what is short, and lists what contradicts. Asks for nothing."""
    if every and by_cause:
        raise InvalidRequest("--all lists every candle, and --by-cause what contradicts; name one of the two")
    spec = _spec(tier=tier, intervals=intervals, pairs=pairs, start=start, end=end)
    now = _now()
    require_writable(load_settings())
    with _stores() as stores:
        names = selected_pairs(stores, spec)
        if full:
            doubt_everything(stores, names, now)
        done = reconcile_changes(stores, names, Run(f"reconcile-{now}", now))
        found = heeding(
            lambda: list(every_candle(stores, spec, now)) if every else list(contradicted(stores, spec, now))
        )
    for note in done.notes:
        say(err, note, "yellow")
    is_grouped = not (every or as_json) if by_cause is None else by_cause
    if as_json:
        _print_json([each.as_json() for each in (grouped(found) if is_grouped else found)])
    elif is_grouped:
        tables.causes(out, grouped(found), done, is_known=bool(names))
    else:
        tables.verdicts(out, found, done, is_known=bool(names))
    raise typer.Exit(int(bool(done.notes)))


@app.command()
def resolve(
    reason: Annotated[str, typer.Option(help="Why, for whoever asks later.")],
    cause: Annotated[
        str | None,
        typer.Option(
            help="All that has one cause, as reconcile lists it; --interval or --file says which side is wrong where "
            "nobody else can."
        ),
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="XBTUSD_60.csv or RELEASE.zip:XBTUSD_60.csv; its location or SHA-256 as well.")
    ] = None,
    release: Annotated[str | None, typer.Option(help="Kraken_OHLCVT_Q2_2023.zip; its SHA-256 as well.")] = None,
    span: Annotated[
        bool, typer.Option("--span", help="The candles of --pair and --interval from --start to --end.")
    ] = False,
    pair: Annotated[str | None, typer.Option(help="Of the span.")] = None,
    interval: Annotated[str | None, typer.Option(help="Of the span, in minutes.")] = None,
    start: Annotated[str | None, typer.Option(help="Of the span: ISO, UTC, the start of a candle.")] = None,
    end: Annotated[str | None, typer.Option(help="Of the span: ISO, UTC. Half-open.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Only candles of the span from CSV, TRADES, RESAMPLED or OHLC.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be taken back.")] = False,
    as_json: AsJson = False,
) -> None:
    """Takes back what turned out to be wrong: a file, a release, a span, or all that has one cause.

    What follows from it goes as well.
    """
    if cause is not None and (release or span or pair or start or end or source):
        raise InvalidRequest("beside --cause there can only be --interval or --file, which say which side is wrong")
    named = None
    if cause is None:
        named = withdrawal(
            reason=reason,
            file=file,
            release=release,
            is_span=span,
            pair=pair,
            interval=interval,
            start=start,
            end=end,
            source=source,
        )
    now = _now()
    if not dry_run:
        require_writable(load_settings())
    with _stores() as stores:
        what = named or heeding(
            lambda: withdrawal_of(
                contradicted(stores, run_spec(), now), cause or "", reason, interval=interval, file=file
            )
        )
        done = take_back(stores, what, Run(f"resolve-{now}", now), dry_run=dry_run)
    if as_json:
        _print_json(done.as_json())
    else:
        tables.resolved(out, done)


@app.command()
def verify(
    tier: Tier = "ALL",
    intervals: Intervals = None,
    pairs: Pairs = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Compare sizes and footers only, instead of all bytes.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Set aside what is damaged, and bring back what it held.")
    ] = False,
    archive_dir: ArchiveDirs = None,
    api_backfill: Annotated[bool, typer.Option(help="Whether a repair may ask the exchange for what is lost.")] = True,
    budget: BudgetOption = None,
    as_json: AsJson = False,
) -> None:
    """Compares every file of the lake with what was written. With --repair a Dagster run like any other.

    Exit code 1 where damage is left. What is damaged is a gap from then on; a repair fills it from the archives that
    are still there, from QuestDB, from finer candles, and through the API within the budget.
    """
    given = {"tier": tier, "intervals": intervals, "pairs": pairs}
    if not repair and (archive_dir or not api_backfill or budget is not None):
        raise InvalidRequest(
            "--archive-dir, --no-api-backfill and --budget are about --repair; add it, or leave them out"
        )
    spec = _spec(**given, archive_dirs=archive_dir, api_backfill=api_backfill, budget=budget)
    settings = load_settings()
    console = err if as_json else out
    if repair:
        found, failure = _repair(settings, spec, quick=quick, console=console)
    else:
        failure = None
        with opened(settings) as stores, terminal.progress_bar(console, settings.kraken_api_rate) as listener:
            found = verify_files(stores, spec, Run("verify", _now(), listener), quick=quick)
    if as_json:
        _print_json(found.as_json())
    else:
        tables.verification(out, found)
    if failure:
        say(err, f"kraken-pipeline: {failure}", "red")
    raise typer.Exit(int(bool(found.damaged) or failure is not None))


def _repair(settings: Settings, spec: RunSpec, *, quick: bool, console: Console) -> tuple[Verification, str | None]:
    """Repairs the lake in a Dagster run; returns what was found, and why the run failed where it did."""
    with _loading_dagster(settings, as_json=console is err):
        from kraken_pipeline.definitions import bound_verify  # noqa: PLC0415

    began = _now()
    config = {**spec.as_config(), "repair": True, "quick": quick}
    done = _run(settings, bound_verify, None, console=console, config=config)
    with opened(settings) as stores, stores.catalog.read() as connection:
        damaged, settled = open_damages(connection), settled_since(connection, began)
    found = Verification(
        done.outcome.get("files_verified", 0),
        done.outcome.get("bytes_verified", 0),
        done.outcome.get("verify_seconds", 0.0),
        tuple(damaged),
        repaired=tuple(settled),
    )
    return found, None if done.status == "SUCCESS" else (done.error or done.status).partition("\n")[0]


@app.command()
def prove(
    tier: Tier = "ALL",
    pairs: Pairs = None,
    start: Start = None,
    end: End = None,
    every: Annotated[
        Spacing, typer.Option(help="How far apart the first moments are that are asked about, on the calendar.")
    ] = Spacing.QUARTER,
    depth: Annotated[Depth, typer.Option(help="Down to what a difference is searched.")] = Depth.MINUTE,
    budget: Annotated[int | None, typer.Option(help="Requests of this run; no limit without it.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be asked for, and what it costs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Counts trades by the ids that the exchange gives them, and fills what is short. A Dagster run like any other.

    Two requests prove a span of any length, whatever archives say; what was asked for once is never asked again.
    """
    spec = run_spec(tier=tier, pairs=pairs, start=start, end=end, budget=budget, dry_run=dry_run)
    settings = load_settings()
    spec.require_tier(load_tiers(settings.kraken_tiers_file))
    with _stores() as stores:
        now = _now()
        costs = said(cost(stores, spec, every, now), settings.kraken_api_rate)
        found = verdicts(stores, spec, every, Run("", now))
    say(err if as_json else out, costs)
    if not dry_run:
        with _loading_dagster(settings, as_json=as_json):
            from kraken_pipeline.definitions import bound_prove  # noqa: PLC0415

        config = {**spec.as_config(), "every": str(every), "depth": str(depth)}
        done = _run(settings, bound_prove, None, console=err if as_json else out, config=config)
        tables.ran(err if as_json else out, done.as_json(), done.outcome, None)
        if done.status == "SUCCESS":
            with _stores() as stores:
                found = verdicts(stores, spec, every, Run(done.run_id, done.outcome["made_at"]))
    if as_json:
        _print_json([count.as_json() for count in found])
    else:
        tables.counts(out, found)
    raise typer.Exit(int(not dry_run and not _is_well(done)))


@app.command()
def recover(
    archive_dir: ArchiveDirs = None,
    source: Annotated[
        str | None,
        typer.Option("--from", help="Copy this catalog whole instead: sqlite:////a/path/catalog.sqlite. No password."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Builds a catalog that was lost from the lake and the archives at hand. A Dagster run like any other.

    A damaged file of SQLite's is set aside. Archives are read again and bring coverage back; where there are none, each
    candle covers its own time and nothing else. To move from SQLite to PostgreSQL, with KRAKEN_CATALOG_URL set to an
    empty database: kraken-pipeline recover --from sqlite:///data/catalog.sqlite
    """
    if source is not None:
        source = _without_password(source)
        if archive_dir:
            raise InvalidRequest("--from copies a catalog whole, and reads no archives: leave --archive-dir out")
    settings = load_settings()
    with _loading_dagster(settings, as_json=as_json):
        from kraken_pipeline.definitions import bound_recover  # noqa: PLC0415

    archives = [str(path) for path in run_spec(archive_dirs=archive_dir).archive_dirs]
    done = _executed(
        settings, bound_recover, None, as_json=as_json, config={"archive_dirs": archives, "copied_from": source}
    )
    raise typer.Exit(int(not _is_well(done) or bool(done.outcome.get("files_damaged"))))


def _without_password(url: str) -> str:
    """The URL of a catalog, as it may stand in the record of a run."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InvalidRequest("--from names no database; write sqlite:////a/path/catalog.sqlite") from None
    if parsed.password is not None:
        raise InvalidRequest("--from: leave the password out, and say it by PGPASSWORD or PGPASSFILE")
    return url


@app.command()
def backup(
    to: Annotated[Path, typer.Argument(help="An empty folder, or one with an earlier backup of this home.")],
    copy: Annotated[bool, typer.Option("--copy", help="Copy files also where hard links would do.")] = False,
    as_json: AsJson = False,
) -> None:
    """Saves the catalog and then the lake, while runs are at work.

    For example: kraken-pipeline backup /backups/kraken
    """
    with _stores() as stores:
        done = back_up(stores, to, links=not copy)
    if as_json:
        _print_json(done.as_json())
    else:
        tables.backed_up(out, done, to)


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="The folder of a backup.")],
    copy: Annotated[bool, typer.Option("--copy", help="Copy files also where hard links would do.")] = False,
    as_json: AsJson = False,
) -> None:
    """Brings a backup back into an empty home, and verifies what is there then.

    For example: kraken-pipeline restore /backups/kraken
    """
    settings = load_settings()
    with terminal.progress_bar(err if as_json else out, settings.kraken_api_rate) as listener:
        done, found = bring_back(settings, source, Run("restore", _now(), listener), links=not copy)
    if as_json:
        _print_json({"backup": done.as_json(), "verification": found.as_json()})
    else:
        tables.restored(out, done, source)
        tables.verification(out, found)
    raise typer.Exit(int(bool(found.damaged)))


def _is_well(run: RunStatus) -> bool:
    """Whether a run succeeded, and neither a file nor a fetch failed in it."""
    return run.status == "SUCCESS" and not run.outcome.get("files_failed") and not run.outcome.get("fetches_failed")


@contextmanager
def _loading_dagster(settings: Settings, *, as_json: bool) -> Iterator[None]:
    require_writable(settings)
    # It takes seconds to import, in which something moves, and only the commands that start or list runs need it.
    if not os.environ.get("KRAKEN_LOG_LEVEL"):  # an empty variable counts as not set
        os.environ["KRAKEN_LOG_LEVEL"] = "CRITICAL"  # the shell says by itself what happens
    with terminal.progress_bar(err if as_json else out, 1):
        yield


def _ingest(settings: Settings, spec: RunSpec, resume: str | None, *, as_json: bool) -> RunStatus:
    unfinished: list[RunStatus] = []
    with _loading_dagster(settings, as_json=as_json):
        from kraken_pipeline.definitions import bound_ingest  # noqa: PLC0415
        from kraken_pipeline.orchestration import runs  # noqa: PLC0415
        from kraken_pipeline.orchestration.instance import instance_of  # noqa: PLC0415

        require_folders(settings, spec)
        with instance_of(settings) as instance, opened_locks(settings) as locks:
            if resume is not None:
                earlier = runs.find_run(instance, locks, resume)
                if earlier.job != "ingest":
                    raise InvalidRequest(f"run {earlier.run_id} is one of {earlier.job}: only an ingest can be resumed")
                if earlier.spec is None or earlier.status not in runs.UNFINISHED:
                    raise InvalidRequest(f"run {earlier.run_id} is {earlier.status}: there is nothing to resume")
                spec, resume = earlier.spec, earlier.run_id
            else:
                unfinished = runs.unfinished(runs.statuses(instance, locks, 50, job="ingest"))
    for run in unfinished:
        say(
            err if as_json else out,
            f"Run {run.run_id[:8]} is {run.status}; this run takes up what it left of the same files. "
            f"To repeat it as it was: kraken-pipeline ingest --resume {run.run_id[:8]}",
            "yellow",
        )
    require_folders(settings, spec)  # of the run that is resumed
    return _executed(settings, bound_ingest, spec, resume, as_json=as_json)


def _executed(
    settings: Settings,
    job: Callable[[], Any],
    spec: RunSpec | None,
    resume: str | None = None,
    *,
    as_json: bool,
    config: dict[str, Any] | None = None,
) -> RunStatus:
    """Runs a job in this process, shows its progress and what it did."""
    done = _run(settings, job, spec, resume, console=err if as_json else out, config=config)
    if as_json:
        _print_json({**done.as_json(), "outcome": dict(done.outcome)})
    else:
        tables.ran(out, done.as_json(), done.outcome, spec)
        if done.status == "SUCCESS" and spec is not None:
            with terminal.progress_bar(out, settings.kraken_api_rate, "reporting"), opened(settings) as stores:
                made = make_report(stores, spec, _now())
            tables.report(out, made)
    return done


def _run(
    settings: Settings,
    job: Callable[[], Any],
    spec: RunSpec | None,
    resume: str | None = None,
    *,
    console: Console,
    config: dict[str, Any] | None = None,
) -> RunStatus:
    """Runs a job in this process and shows its progress."""
    from kraken_pipeline.orchestration import progress, runs  # noqa: PLC0415
    from kraken_pipeline.orchestration.instance import instance_of  # noqa: PLC0415

    with (
        terminal.progress_bar(console, settings.kraken_api_rate) as listener,
        progress.listening(listener),
        instance_of(settings) as instance,
    ):
        run_id = runs.execute(instance, job, spec, resume, config=config)
        with opened_locks(settings) as locks:
            done = runs.find_run(instance, locks, run_id)
    if done.status == "CANCELED":
        raise KeyboardInterrupt
    return done


# --- what there is


@app.command()
def gaps(
    tier: Tier = "ALL",
    intervals: KeptIntervals = None,
    pairs: Pairs = None,
    start: Start = None,
    end: End = None,
    every: Annotated[bool, typer.Option("--all", help="Those that were filled, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Lists what is missing, where it can come from, and the archive that has it."""
    spec = _spec(tier=tier, intervals=intervals, pairs=pairs, start=start, end=end)
    with _stores() as stores:
        spec = of_kept_intervals(stores, spec)
        holdings = survey(stores, spec, _now())
        rows = shown(stores, find_gaps(stores, spec, holdings), holdings)
        if every:
            with stores.catalog.read() as connection:
                closed = gap_records.closed_gaps(connection, sorted(holdings.pairs))
            wanted = [row for series in sorted(closed) if series.interval in spec.intervals for row in closed[series]]
            rows += [row for row in wanted if row.span.overlaps(window(spec))]
    if as_json:
        _print_json([gap_json(row) for row in rows])
    else:
        tables.gaps(out, rows, unknown(holdings, spec))


@app.command()
def report(
    tier: Tier = "ALL",
    intervals: KeptIntervals = None,
    pairs: Pairs = None,
    start: Start = None,
    end: End = None,
    unfillable: Annotated[Path | None, typer.Option(help="Write the gaps without a route to this CSV file.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write it as one HTML page that needs nothing else, with maps and tables.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Says how complete everything is, and what to do about the rest."""
    spec = _spec(tier=tier, intervals=intervals, pairs=pairs, start=start, end=end)
    with _stores() as stores:
        if html is None:
            made = make_report(stores, spec, _now())
        else:
            from kraken_pipeline.workflow.report.report_page import write_page  # noqa: PLC0415 - loads what draws

            page = write_page(stores, spec, _now(), html)
            made = page.report
            console = err if as_json else out
            say(console, f"The page of the report is {page.path} ({page.size / 1000:,.0f} kB).")
    if unfillable is not None:
        count = export_unfillable(made, unfillable)
        say(err, f"{count} gaps without a route written to {unfillable}")
    if as_json:
        _print_json(made.as_json())
    else:
        tables.report(out, made)


@app.command()
def explain(
    pair: Annotated[str, typer.Argument(help="XBTUSD, XBT/USD, BTCUSD, …")],
    interval: Annotated[str, typer.Argument(help="Minutes.")],
    moment: Annotated[str, typer.Argument(metavar="TIME", help="Any moment within the candle: ISO, UTC.")],
    as_json: AsJson = False,
) -> None:
    """Tells the whole story of one candle: where it came from, what lost to it, what its values were compared with."""
    with _stores() as stores:
        told = tell(stores, named_pair(pair, known_pairs(stores)), interval, moment, _now())
    if as_json:
        _print_json(told.as_json())
    else:
        tables.explained(out, told)


@app.command()
def export(
    pair: Annotated[str, typer.Argument(help="XBTUSD, XBT/USD, BTCUSD, …")],
    interval: Annotated[int, typer.Argument(help="Minutes.")],
    to: Annotated[Path, typer.Option(help="A .csv or .parquet file.")],
    start: Start = None,
    end: End = None,
    fill_quiet: Annotated[bool, typer.Option(help="Fill in candles without a trade where there was none.")] = False,
) -> None:
    """Writes the candles of one series to a file."""
    spec = _spec(pairs=pair, intervals=[interval], start=start, end=end)
    series = Series(spec.pairs[0], Interval.parse(interval))
    with _stores() as stores:
        candles = read_series(stores, series, start=spec.start, end=spec.end, fill_quiet=fill_quiet)
    if candles.is_empty():
        raise InvalidRequest(f"the lake has no candle of {series} there; `kraken-pipeline report` shows what it has")
    export_candles(candles, to)
    say(err, f"{candles.height:,} candles of {series} written to {to}")


@app.command()
def status(
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="How many runs, the newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Lists runs with their progress and errors."""
    from kraken_pipeline.orchestration import runs  # noqa: PLC0415
    from kraken_pipeline.orchestration.instance import instance_of  # noqa: PLC0415

    settings = load_settings()
    with instance_of(settings) as instance, opened_locks(settings) as locks:
        found = runs.statuses(instance, locks, limit)
    if as_json:
        _print_json([run.as_json() for run in found])
    else:
        tables.status(out, [run.as_json() for run in found])
    with opened(settings) as stores:
        if found and not as_json:
            tables.health(out, check_exchange(stores))


dead_letters = typer.Typer(
    cls=_Commands,
    help="Rows and files that were rejected, each with its reason.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(dead_letters, name="dead-letters")


@dead_letters.command("list")
def list_dead_letters(
    pairs: Pairs = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="How many at the most.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Lists them, those of the newest file first."""
    spec = _spec(pairs=pairs)
    with _stores() as stores, stores.catalog.read() as connection:
        rows = letters.listed(connection, spec.pairs or None, limit)
        count = letters.count(connection, spec.pairs or None)
    if as_json:
        _print_json([letters.as_json(row) for row in rows])
    else:
        tables.dead_letters(out, rows, count)


@dead_letters.command("export")
def export_dead_letters(
    to: Annotated[Path, typer.Option(help="A .csv file.")],
    pairs: Pairs = None,
) -> None:
    """Writes them to a CSV file with a header."""
    spec = _spec(pairs=pairs)
    with _stores() as stores, stores.catalog.read() as connection:
        count = letters.export(connection, spec.pairs or None, to)
    say(err, f"{count:,} dead letters written to {to}")


@dead_letters.command("retry")
def retry_dead_letters(
    ids: Annotated[list[int] | None, typer.Option("--id", help="Of `dead-letters list`; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Does operations again that failed for good: the same, all of them unless some are named."""
    with _loading_dagster(load_settings(), as_json=as_json):
        from kraken_pipeline.definitions import bound_retry  # noqa: PLC0415

    with _stores() as stores, stores.catalog.read() as connection:
        known = {each.id for each in letters.operations(connection, None)}
    if missing := sorted(set(ids or ()) - known):
        raise InvalidRequest(
            f"{', '.join(map(str, missing))}: no operation that failed has that number; "
            "only operations can be retried, rows of files cannot"
        )
    if not known:
        say(err, "No operation has failed for good: there is nothing to retry.")
        if as_json:
            _print_json([])
        return
    done = _executed(load_settings(), bound_retry, None, as_json=as_json, config={"ids": list(ids or ())})
    raise typer.Exit(int(not _is_well(done)))


cache = typer.Typer(
    cls=_Commands,
    help="Replies of the exchange that are kept for a while.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(cache, name="cache")


@cache.command("stats")
def cache_stats(as_json: AsJson = False) -> None:
    """Says how many lookups of the last day were hits, and how large the cache is, over all processes."""
    with _stores() as stores:
        stats = cache_state(stores, _now())
    if as_json:
        _print_json(stats.as_json())
    else:
        tables.cache(out, stats)


@cache.command("clear")
def clear_cache(
    prefix: Annotated[
        str, typer.Option(help="Only keys that begin like that: assets, prices, replies:OHLC:XBTUSD, history, …")
    ] = "",
) -> None:
    """Forgets replies; the next run asks for them again."""
    if not prefix.isprintable():
        raise InvalidRequest(f"no key begins with {prefix!r}; write assets, prices, replies:OHLC:XBTUSD, history, …")
    require_writable(load_settings())
    with _stores() as stores, closing(open_cache(stores.settings, Counters(stores.catalog))) as opened_cache:
        count = opened_cache.clear(prefix)
    say(err, f"{count:,} replies forgotten")


@app.command()
def health(as_json: AsJson = False) -> None:
    """Says whether the pipeline can do its work; the exit code is 1 where it cannot."""
    checks = check_health(load_settings())
    verdict = worst(checks)
    if as_json:
        _print_json(
            {
                "status": str(verdict),
                "checks": [
                    {"name": each.name, "status": str(each.verdict), "detail": each.sentence} for each in checks
                ],
            }
        )
    else:
        tables.health(out, checks)
    raise typer.Exit(int(verdict is Verdict.FAILED))


@app.command()
def demo(
    home: Annotated[Path, typer.Option(help="Where the demo's world and its lake go, away from real candles.")] = Path(
        "demo-data"
    ),
    complete: Annotated[
        bool, typer.Option(help="Fill every gap through the exchange, also the missing quarter: some hundred requests.")
    ] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Only run the exchange of the demo that was built there, until Ctrl-C.")
    ] = False,
) -> None:
    """Builds a small world of archives and an exchange, plans, ingests, fills gaps and reports."""
    from kraken_pipeline.demo import exchange as demo_exchange  # noqa: PLC0415
    from kraken_pipeline.demo.showcase import build_showcase, build_world  # noqa: PLC0415

    home = home.absolute()
    archives = home / "archives"
    described = home / "exchange.json"
    if serve:
        if not described.exists():
            raise InvalidRequest(f"there is no demo in {home}: run kraken-pipeline demo --home {home} first")
        known = json.loads(described.read_text(encoding="utf-8"))
        world = build_world(known["built_at"], _now())
        demo_exchange.serve(world, port=known["port"], announce=lambda url: say(out, url))
        return
    variables = {
        "KRAKEN_PIPELINE_HOME": str(home),
        "KRAKEN_DAGSTER_STORAGE": str(home / "dagster"),
        "KRAKEN_ARCHIVE_DIRS": str(archives),
        "KRAKEN_SETTLE_SECONDS": "0",
    }
    archives.mkdir(parents=True, exist_ok=True)
    now = _now()
    made = build_showcase(archives, now)
    with demo_exchange.DemoExchange(made.world) as exchange:
        # An exchange of one's own may be asked as fast as it answers. Kraken itself made other candles.
        variables |= {"KRAKEN_API_URL": exchange.url, "KRAKEN_API_RATE": "50"}
        # In its folder, `kraken-pipeline` and Dagster's commands mean the demo.
        kept = {name: os.environ[name] for name in ("DAGSTER_HOME",) if name in os.environ}
        lines = [f"{name}={value}\n" for name, value in (variables | kept).items()]
        (home / ".env").write_text("".join(lines), encoding="utf-8")
        described.write_text(json.dumps({"built_at": now, "port": urlsplit(exchange.url).port}), encoding="utf-8")
        os.environ.update(variables)
        tables.showcase(out, made)
        spec = run_spec(intervals=list(made.intervals), complete=complete)
        _show_plan(spec, as_json=False)
        done = _ingest(load_settings(), spec, None, as_json=False)
    tables.next_steps(out, home)
    # The broken download must have failed, and nothing else.
    is_well = done.status == "SUCCESS" and done.outcome.get("files_failed") == 1
    raise typer.Exit(int(not is_well or bool(done.outcome.get("fetches_failed"))))


if __name__ == "__main__":
    main()
