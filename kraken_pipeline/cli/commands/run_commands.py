"""Commands that fetch and fill: each starts a Dagster run, or says what that would do."""

from __future__ import annotations

from typing import Annotated

import typer

from kraken_pipeline.cli import plan_tables, proof_tables, run_tables
from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.options import (
    AcceptUnknownPairs,
    ArchiveDirs,
    AsJson,
    BudgetOption,
    End,
    Intervals,
    LookbackDays,
    MaxGaps,
    Pairs,
    Start,
    Tier,
    present,
    selection,
    stores_of_home,
)
from kraken_pipeline.cli.output import err, out, print_json
from kraken_pipeline.cli.runs import executed, ingest_archives, is_well, loading_dagster, run_job
from kraken_pipeline.coverage.anchors import Depth, Spacing
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.tier import load_tiers
from kraken_pipeline.settings import load_settings
from kraken_pipeline.storage.catalog.database import has_password
from kraken_pipeline.storage.questdb.client import require_questdb
from kraken_pipeline.workflow.backfill.backfill import beyond, planned
from kraken_pipeline.workflow.dead_letters import failed_operations
from kraken_pipeline.workflow.gaps.plan import Plan, make_plan
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.proof.count_verdicts import verdicts
from kraken_pipeline.workflow.proof.counting import closing_cost, cost, said
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec


def plan(
    tier: Tier = "ALL",
    intervals: Intervals = None,
    pairs: Pairs = None,
    start: Start = None,
    end: End = None,
    archive_dir: ArchiveDirs = None,
    accept_unknown_pairs: AcceptUnknownPairs = False,
    complete: Annotated[bool, typer.Option(help="Plan without limits of lookback, gaps or requests.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the route and the cost of every gap. Writes nothing."""
    spec = selection(
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
    show_plan(spec, as_json=as_json)


def show_plan(spec: RunSpec, *, as_json: bool) -> Plan:
    """Print the plan of a run spec."""
    with stores_of_home() as stores:
        made = make_plan(stores, spec, present())
    if as_json:
        print_json(made.as_json())
    else:
        plan_tables.plan(out, made)
    return made


def ingest(
    tier: Tier = "ALL",
    intervals: Intervals = None,
    pairs: Pairs = None,
    start: Start = None,
    end: End = None,
    archive_dir: ArchiveDirs = None,
    accept_unknown_pairs: AcceptUnknownPairs = False,
    api_backfill: Annotated[
        bool, typer.Option(help="Whether to fill gaps through the API. Resampling works without it.")
    ] = True,
    complete: Annotated[
        bool,
        typer.Option(
            help="Continue until no gap that can be filled is left, without limits of lookback, gaps or requests."
        ),
    ] = False,
    lookback_days: LookbackDays = 7,
    max_gaps: MaxGaps = 10,
    budget: BudgetOption = None,
    dry_run: Annotated[bool, typer.Option(help="Show what would be done, as `plan` does.")] = False,
    resume: Annotated[
        str | None,
        typer.Option(help="Repeat what is left of this failed, cancelled or killed run, with its own configuration."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ingest archives, fill gaps and report the result. A Dagster run like any other."""
    given = selection(
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
        show_plan(given, as_json=as_json)
        return
    if resume is not None and given != RunSpec():
        raise InvalidRequest("--resume continues a run with its own configuration; leave the other options out")
    settings = load_settings()
    given.require_tier(load_tiers(settings.kraken_tiers_file))
    done = ingest_archives(settings, given, resume, as_json=as_json)
    raise typer.Exit(int(not is_well(done)))


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
        bool,
        typer.Option(
            help="Continue until no gap that can be filled is left, without limits of lookback, gaps or requests."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Show the requests and their cost without making any.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fill gaps through Kraken's API and by resampling, without reading archives. A Dagster run like any other.

    A named pair without any candles is fetched from its first trade on, if the budget allows.
    """
    spec = selection(
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
        with stores_of_home() as stores:
            now = present()
            fetches, unprobed = planned(stores, spec, now), beyond(stores, spec, now)
            closing = closing_cost(stores, spec, now) if complete else None
        if as_json:
            print_json([fetch.as_json() for fetch in fetches])
            return
        plan_tables.fetches(out, fetches, settings.kraken_api_rate, unprobed)
        if closing is not None:
            say(out, f"At the end, trades are counted by their ids. {said(closing, settings.kraken_api_rate)}")
        return
    with loading_dagster(settings, as_json=as_json):
        from kraken_pipeline.definitions import bound_backfill  # noqa: PLC0415

    done = executed(settings, bound_backfill, spec, None, as_json=as_json)
    raise typer.Exit(int(not is_well(done)))


def publish(
    rebuild: Annotated[bool, typer.Option(help="Empty QuestDB's tables and fill them again from the lake.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare every series with the lake afterwards.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish pending changes to QuestDB. A Dagster run like any other; needs KRAKEN_QUESTDB_URL."""
    settings = load_settings()
    require_questdb(settings)
    with loading_dagster(settings, as_json=as_json):
        from kraken_pipeline.definitions import bound_publish  # noqa: PLC0415

    config = {"rebuild": rebuild, "verify": verify}
    done = executed(settings, bound_publish, None, as_json=as_json, config=config)
    raise typer.Exit(int(done.status != "SUCCESS" or bool(done.outcome.get("errors"))))


def prove(
    tier: Tier = "ALL",
    pairs: Pairs = None,
    start: Start = None,
    end: End = None,
    every: Annotated[
        Spacing, typer.Option(help="The length of the calendar spans that are compared first.")
    ] = Spacing.QUARTER,
    depth: Annotated[
        Depth, typer.Option(help="The unit of time down to which a difference is searched.")
    ] = Depth.MINUTE,
    budget: Annotated[int | None, typer.Option(help="The most requests of this run. Unlimited by default.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Show the requests and their cost without making any.")] = False,
    as_json: AsJson = False,
) -> None:
    """Count trades by the ids that the exchange gives them, and fill what is missing. A Dagster run like any other.

    Two requests prove a span of any length, independently of archives. No request is made twice.
    """
    spec = selection(tier=tier, pairs=pairs, start=start, end=end, budget=budget, dry_run=dry_run)
    settings = load_settings()
    spec.require_tier(load_tiers(settings.kraken_tiers_file))
    console = err if as_json else out
    run_id, now, is_done = "", present(), True
    with stores_of_home() as stores:
        say(console, said(cost(stores, spec, every, now), settings.kraken_api_rate))
    if not dry_run:
        with loading_dagster(settings, as_json=as_json):
            from kraken_pipeline.definitions import bound_prove  # noqa: PLC0415

        config = {**spec.as_config(), "every": str(every), "depth": str(depth)}
        done = run_job(settings, bound_prove, None, console=console, config=config)
        run_tables.ran(console, done.as_json(), done.outcome, None)
        run_id, now, is_done = done.run_id, done.outcome.get("made_at", now), is_well(done)
    with stores_of_home() as stores:
        found = verdicts(stores, spec, every, RunContext(run_id, now))
    if as_json:
        print_json([count.as_json() for count in found])
    else:
        proof_tables.counts(out, found)
    raise typer.Exit(int(not is_done))


def recover(
    archive_dir: ArchiveDirs = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Copy this complete catalog instead: sqlite:////a/path/catalog.sqlite. Leave the password out.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild a lost catalog from the lake and the archives at hand. A Dagster run like any other.

    A damaged SQLite file is set aside. Archives are read again, which restores coverage; without an archive, each
    candle covers its own time and nothing else. To move from SQLite to PostgreSQL, with KRAKEN_CATALOG_URL set to an
    empty database: kraken-pipeline recover --from sqlite:///data/catalog.sqlite
    """
    if source is not None:
        source = _without_password(source)
        if archive_dir:
            raise InvalidRequest("--from copies a complete catalog and reads no archives; leave --archive-dir out")
    settings = load_settings()
    with loading_dagster(settings, as_json=as_json):
        from kraken_pipeline.definitions import bound_recover  # noqa: PLC0415

    archives = [str(path) for path in run_spec(archive_dirs=archive_dir).archive_dirs]
    done = executed(
        settings, bound_recover, None, as_json=as_json, config={"archive_dirs": archives, "copied_from": source}
    )
    raise typer.Exit(int(not is_well(done) or bool(done.outcome.get("files_damaged"))))


def _without_password(url: str) -> str:
    """The URL of a catalog, as it may stand in the record of a run."""
    try:
        says_password = has_password(url)
    except InvalidRequest:
        raise InvalidRequest("--from names no database; write sqlite:////a/path/catalog.sqlite") from None
    if says_password:
        raise InvalidRequest("--from: leave the password out, and set PGPASSWORD or PGPASSFILE")
    return url


def retry_dead_letters(
    ids: Annotated[
        list[int] | None, typer.Option("--id", help="A number from `dead-letters list`. May be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Repeat fetches that failed for good: all of them, unless some are named."""
    with loading_dagster(load_settings(), as_json=as_json):
        from kraken_pipeline.definitions import bound_retry  # noqa: PLC0415

    with stores_of_home() as stores:
        chosen = failed_operations(stores, ids or ())
    if not chosen:
        say(err, "No fetch has failed for good: there is nothing to retry.")
        if as_json:
            print_json([])
        return
    done = executed(load_settings(), bound_retry, None, as_json=as_json, config={"ids": list(ids or ())})
    raise typer.Exit(int(not is_well(done)))
