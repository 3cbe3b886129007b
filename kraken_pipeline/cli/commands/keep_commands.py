"""Commands about what is stored: comparing it, taking it back, verifying and saving it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from kraken_pipeline.cli import lake_tables, proof_tables, terminal
from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.options import (
    ArchiveDirs,
    AsJson,
    BudgetOption,
    End,
    Intervals,
    Pairs,
    Start,
    Tier,
    named_pairs,
    present,
    selection,
    stores_of_home,
)
from kraken_pipeline.cli.output import err, out, print_json
from kraken_pipeline.cli.runs import failure_of, loading_dagster, require_success, result_of, run_job
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.stores import opened, require_writable
from kraken_pipeline.workflow.gaps.snapshot import selected_pairs
from kraken_pipeline.workflow.heed import heeding
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.reconcile import has_changes
from kraken_pipeline.workflow.reconcile.verdicts import contradicted, every_candle
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec
from kraken_pipeline.workflow.verify.backup import back_up
from kraken_pipeline.workflow.verify.backup import restore as bring_back
from kraken_pipeline.workflow.verify.known_damage import left_and_settled
from kraken_pipeline.workflow.verify.verification import Verification
from kraken_pipeline.workflow.verify.verification import verify as verify_files
from kraken_pipeline.workflow.withdraw.resolve import Resolved, find, preview
from kraken_pipeline.workflow.withdraw.settling import grouped, withdrawal_of
from kraken_pipeline.workflow.withdraw.withdrawal import withdrawal


def reconcile(
    tier: Tier = "ALL",
    intervals: Intervals = None,
    pairs: Pairs = None,
    start: Start = None,
    end: End = None,
    full: Annotated[bool, typer.Option(help="Compare everything again, not only what has changed.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="List the verdict on every candle, not only contradictions.")
    ] = False,
    by_cause: Annotated[
        bool | None,
        typer.Option(
            "--by-cause/--one-by-one",
            help="List one line a cause, or one line a contradiction. The default is one line a cause; with --json "
            "or --all, one line a contradiction.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare intervals with each other, refute candles that are short, and list contradictions. Makes no requests."""
    if every and by_cause:
        raise InvalidRequest(
            "--all lists every candle, and --by-cause the causes of contradictions; use only one of them"
        )
    spec = selection(tier=tier, intervals=intervals, pairs=pairs, start=start, end=end)
    settings, now, done = load_settings(), present(), dict[str, Any]()
    require_writable(settings)
    with stores_of_home() as stores:
        names = selected_pairs(stores, spec)
        is_due = full or has_changes(stores, names)
    if is_due:
        done = _reconciled(settings, spec, full=full, console=err if as_json else out)
    with stores_of_home() as stores:
        found = heeding(
            lambda: list(every_candle(stores, spec, now)) if every else list(contradicted(stores, spec, now))
        )
    left = done.get("comparisons_left", 0)
    for note in done.get("notes", ())[:left]:
        say(err, note, "yellow")
    is_grouped = not (every or as_json) if by_cause is None else by_cause
    if as_json:
        print_json([verdict.as_json() for verdict in (grouped(found) if is_grouped else found)])
    elif is_grouped:
        proof_tables.causes(out, grouped(found), done, is_known=bool(names))
    else:
        proof_tables.verdicts(out, found, done, is_known=bool(names))
    raise typer.Exit(int(bool(left)))


def _reconciled(settings: Settings, spec: RunSpec, *, full: bool, console: Console) -> dict[str, Any]:
    """Reconcile in a Dagster run; return its outcome.

    Raises:
        Exit: The run failed, which is reported.
    """
    with loading_dagster(settings, as_json=console is err):
        from kraken_pipeline.definitions import bound_reconcile  # noqa: PLC0415

    config = {**run_spec(tier=spec.tier, pairs=list(spec.pairs)).as_config(), "full": full}
    run = run_job(settings, bound_reconcile, None, config=config, console=console)
    require_success(run)
    return dict(run.outcome)


def resolve(
    reason: Annotated[str, typer.Option(help="The reason for the withdrawal. It is recorded.")],
    cause: Annotated[
        str | None,
        typer.Option(
            help="Withdraw all candles with one cause, as listed by reconcile. If no source can decide which side "
            "is wrong, name it with --interval or --file."
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(help="Withdraw a file: XBTUSD_60.csv, RELEASE.zip:XBTUSD_60.csv, its location or its SHA-256."),
    ] = None,
    release: Annotated[
        str | None, typer.Option(help="Withdraw all files of a release: Kraken_OHLCVT_Q2_2023.zip, or its SHA-256.")
    ] = None,
    span: Annotated[
        bool, typer.Option("--span", help="Withdraw the candles of --pair and --interval from --start to --end.")
    ] = False,
    pair: Annotated[str | None, typer.Option(help="The pair of the span.")] = None,
    interval: Annotated[str | None, typer.Option(help="The interval of the span: minutes, or 1h, 1d, …")] = None,
    start: Annotated[str | None, typer.Option(help="The start of the span: the start of a candle, ISO, UTC.")] = None,
    end: Annotated[str | None, typer.Option(help="The end of the span, excluded: ISO, UTC.")] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Withdraw only the candles of the span with this source: CSV, TRADES, RESAMPLED or OHLC."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Show what would be withdrawn, without withdrawing it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Withdraw wrong candles: those of a file, a release, a span, or all with one cause.

    Candles and coverage that were derived from them are withdrawn as well.
    """
    if cause is not None and (release or span or pair or start or end or source):
        raise InvalidRequest("with --cause, only --interval or --file can be used, to name the wrong side")
    named = None
    if cause is None:
        named = withdrawal(
            reason=reason,
            file=file,
            release=release,
            is_span=span,
            pair=None if pair is None else named_pairs([pair])[0],
            interval=interval,
            start=start,
            end=end,
            source=source,
        )
    settings, now = load_settings(), present()
    if not dry_run:
        require_writable(settings)
    with stores_of_home() as stores:
        what = named or heeding(
            lambda: withdrawal_of(
                contradicted(stores, run_spec(), now), cause or "", reason, interval=interval, file=file
            )
        )
        if dry_run:
            done = preview(stores, what)
        else:
            find(stores, what)  # a wrong name is no run
    if not dry_run:
        config = {
            **{"reason": reason, "cause": cause, "file": file, "release": release, "is_span": span or None},
            **{"pair": pair and named_pairs([pair])[0], "interval": interval, "start": start, "end": end},
            "source": source,
        }
        given = {name: value for name, value in config.items() if value is not None}
        done = _resolved(settings, given, console=err if as_json else out)
    if as_json:
        print_json(done.as_json())
    else:
        proof_tables.resolved(out, done)


def _resolved(settings: Settings, config: dict[str, Any], *, console: Console) -> Resolved:
    """Withdraw in a Dagster run; return the result.

    Raises:
        Exit: The run failed, which is reported.
    """
    with loading_dagster(settings, as_json=console is err):
        from kraken_pipeline.definitions import bound_resolve  # noqa: PLC0415

    return result_of(settings, bound_resolve, Resolved, config=config, console=console)


def verify(
    tier: Tier = "ALL",
    intervals: Intervals = None,
    pairs: Pairs = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Compare only sizes and footers instead of all bytes.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Set damaged files aside, and restore their candles.")
    ] = False,
    archive_dir: ArchiveDirs = None,
    api_backfill: Annotated[
        bool, typer.Option(help="Whether a repair may request lost candles from the exchange.")
    ] = True,
    budget: BudgetOption = None,
    as_json: AsJson = False,
) -> None:
    """Compare every file of the lake with what was written. With --repair, it is a Dagster run like any other.

    The exit code is 1 if damage remains. Damaged candles become gaps. A repair fills them from the archives that
    are still there, from QuestDB, from finer candles, and through the API within the budget.
    """
    given = {"tier": tier, "intervals": intervals, "pairs": pairs}
    if not repair and (archive_dir or not api_backfill or budget is not None):
        raise InvalidRequest("--archive-dir, --no-api-backfill and --budget need --repair; add it, or leave them out")
    spec = selection(**given, archive_dirs=archive_dir, api_backfill=api_backfill, budget=budget)
    settings = load_settings()
    console = err if as_json else out
    if repair:
        found, failure = _repair(settings, spec, quick=quick, console=console)
    else:
        failure = None
        with opened(settings) as stores, terminal.progress_bar(console) as listener:
            found = verify_files(stores, spec, RunContext("verify", present(), listener), quick=quick)
    if as_json:
        print_json(found.as_json())
    else:
        lake_tables.verification(out, found)
    if failure:
        say(err, f"kraken-pipeline: {failure}", "red")
    raise typer.Exit(int(bool(found.damaged) or failure is not None))


def _repair(settings: Settings, spec: RunSpec, *, quick: bool, console: Console) -> tuple[Verification, str | None]:
    """Repair the lake in a Dagster run; return what was found, and the reason if the run failed."""
    with loading_dagster(settings, as_json=console is err):
        from kraken_pipeline.definitions import bound_verify  # noqa: PLC0415

    began = present()
    config = {**spec.as_config(), "repair": True, "quick": quick}
    done = run_job(settings, bound_verify, None, console=console, config=config)
    with opened(settings) as stores:
        damaged, settled = left_and_settled(stores, began)
    found = Verification(
        done.outcome.get("files_verified", 0),
        done.outcome.get("bytes_verified", 0),
        done.outcome.get("verify_seconds", 0.0),
        tuple(damaged),
        repaired=tuple(settled),
    )
    for sentence in done.outcome.get("trades_lost", ()):
        say(err, sentence, "yellow")
    return found, failure_of(done)


def backup(
    to: Annotated[Path, typer.Argument(help="An empty folder, or one with an earlier backup of this home.")],
    copy: Annotated[bool, typer.Option("--copy", help="Copy files even if hard links are possible.")] = False,
    as_json: AsJson = False,
) -> None:
    """Save the catalog and then the lake; runs may be at work.

    For example: kraken-pipeline backup /backups/kraken
    """
    with stores_of_home() as stores:
        done = back_up(stores, to, links=not copy)
    if as_json:
        print_json(done.as_json())
    else:
        lake_tables.backed_up(out, done, to)


def restore(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="The folder of a backup.")],
    copy: Annotated[bool, typer.Option("--copy", help="Copy files even if hard links are possible.")] = False,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into an empty home, and verify the result.

    For example: kraken-pipeline restore /backups/kraken
    """
    settings = load_settings()
    with terminal.progress_bar(err if as_json else out) as listener:
        done, found = bring_back(settings, source, RunContext("restore", present(), listener), links=not copy)
    if as_json:
        print_json({"backup": done.as_json(), "verification": found.as_json()})
    else:
        lake_tables.restored(out, done, source)
        lake_tables.verification(out, found)
    raise typer.Exit(int(bool(found.damaged)))
