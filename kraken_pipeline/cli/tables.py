"""The tables and the advice that the command line prints."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from kraken_pipeline.cli.layout import TextTable, say, write
from kraken_pipeline.coverage.anchors import CountVerdict
from kraken_pipeline.coverage.completeness import by_tier, shown
from kraken_pipeline.market.moment import duration, iso, short
from kraken_pipeline.storage.records.gap_records import GapRow
from kraken_pipeline.storage.records.trade_counts import TradeCount, as_counted
from kraken_pipeline.workflow.gaps.gaps import by_use
from kraken_pipeline.workflow.health.check import Check
from kraken_pipeline.workflow.health.exchange_health import CacheState
from kraken_pipeline.workflow.reconcile.reconcile import Reconciled
from kraken_pipeline.workflow.reconcile.verdicts import CandleVerdict
from kraken_pipeline.workflow.report.report import NOTHING_KNOWN, Report
from kraken_pipeline.workflow.verify.backup import Backup
from kraken_pipeline.workflow.verify.verification import Verification
from kraken_pipeline.workflow.withdraw.resolve import Resolved
from kraken_pipeline.workflow.withdraw.settling import Grouped

if TYPE_CHECKING:
    from kraken_pipeline.demo.showcase import Showcase

ROWS = 40
_HEALTH = 24
"""The column at which the sentences of `health` begin."""
_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def console(*, stderr: bool = False) -> Console:
    """Return a console on standard output or standard error; `layout` does the wrapping."""
    return Console(stderr=stderr)


def more_rows(console: Console, count: int, where: str) -> None:
    """Print the number of rows not shown, and the command that shows all of them."""
    if count > ROWS:
        say(console, f"… and {count - ROWS:,} more: {where}", "dim")


def gaps(console: Console, rows: Sequence[GapRow], unknown: str = "") -> None:
    """Print the gaps: those with a route first, the longest of these first; without gaps, a sentence that says why."""
    if not rows:
        say(console, unknown or "No gaps: everything that is expected is covered.")
        return
    table = TextTable(
        "Gaps, the longest first",
        *("pair", ">interval", "from", "to", ">missing", "route", "status", ">tries", "archive with it"),
        least=("tries", "archive with it", "status", "to"),
    )
    for row in sorted(by_use(rows), key=lambda row: row.closed_at is not None)[:ROWS]:
        files = (row.required_csv_file or "").split(",")
        shown = files[0] + (f" and {len(files) - 1} more" if len(files) > 1 else "")
        table.add_row(
            row.series.pair,
            str(row.series.interval.value),
            short(row.span.start),
            short(row.span.end),
            f"{row.missing_candles:,}",
            str(row.route),
            str(row.status),
            str(row.attempts or ""),
            shown,
        )
    table.print(console)
    more_rows(console, len(rows), "gaps --json")


def report(console: Console, made: Report) -> None:
    """Print the completeness report."""
    table = TextTable(
        "Completeness",
        "tier",
        ">interval",
        ">complete",
        ">reconciled",
        ">verified",
        ">pairs",
        ">candles",
        ">quiet",
        ">gaps",
        ">unfillable",
        least=("quiet", "pairs", "unfillable", "candles"),
        spare=("quiet", "pairs"),
    )
    for tier, intervals in by_tier(made.series).items():
        for interval, total in intervals.items():
            table.add_row(
                str(tier),
                str(interval.value),
                shown(total.percent),
                shown(total.proven_percent),
                shown(total.verified_percent),
                str(total.pairs),
                f"{total.candles:,}",
                f"{total.quiet:,}",
                f"{total.gaps:,}",
                f"{total.unfillable:,}",
            )
    table.print(console)
    overall = made.overall
    say(
        console,
        made.unknown
        or f"{shown(made.percent)} complete over {overall.series:,} series of {overall.pairs:,} pairs, "
        f"{shown(made.proven_percent)} reconciled, {shown(made.verified_percent)} verified: "
        f"{overall.candles:,} candles, {overall.quiet:,} quiet, "
        f"{overall.gaps:,} gaps, {made.conflict_count:,} conflicts.",
    )
    if made.counted:
        say(console, f"{as_counted(made.counted)}.")
    if made.attention:
        attention = TextTable("Series that need attention", "series", ">complete", ">gaps", "what to do")
        for series in made.attention[:ROWS]:
            attention.add_row(str(series.series), shown(series.percent), str(series.gaps), series.action)
        attention.print(console)
        more_rows(console, len(made.attention), "report --json")
    say(console, "What to do", "bold")
    for advice in made.recommendations[:ROWS]:
        say(console, f"  • {advice}")
    more_rows(console, len(made.recommendations), "report --json")


def causes(console: Console, found: Sequence[Grouped], done: Reconciled, *, is_known: bool) -> None:
    """Print the causes of contradictions, one line each, and the result of the reconciliation."""
    _reconciled(console, done, is_known=is_known, is_clean=not found)
    if not found:
        return
    table = TextTable(
        "Causes",
        "cause",
        "of",
        ">intervals",
        "from",
        "to",
        ">count",
        "what to do",
        least=("what to do", "to", "from", "intervals", "of"),
    )
    for group in found[:ROWS]:
        table.add_row(
            group.cause.id,
            group.cause.name,
            ", ".join(str(interval.value) for interval in group.intervals),
            short(group.span.start),
            short(group.span.end),
            f"{len(group.verdicts):,}",
            group.action,
        )
    table.print(console)
    more_rows(console, len(found), "reconcile --by-cause --json")
    say(console, "kraken-pipeline reconcile --one-by-one lists each contradiction.", "dim")


def _reconciled(console: Console, done: Reconciled, *, is_known: bool, is_clean: bool) -> None:
    """Print the result of a reconciliation; `is_clean` means that no contradiction was found."""
    say(
        console,
        f"Reconciled the changes of {len(done.pairs):,} pairs: {done.refuted:,} spans refuted, {done.healed:,} "
        f"contradictions healed, {done.conflicts:,} new conflicts.",
    )
    if is_clean:
        say(console, "There are no contradictions." if is_known else NOTHING_KNOWN)


def verdicts(console: Console, found: Sequence[CandleVerdict], done: Reconciled, *, is_known: bool) -> None:
    """Print the verdicts of reconciliation, one line each, and its result."""
    _reconciled(console, done, is_known=is_known, is_clean=not found)
    if not found:
        return
    table = TextTable(
        "Verdicts",
        "pair",
        ">fine",
        ">coarse",
        "from",
        "to",
        "verdict",
        "short",
        ">trades",
        "what to do",
        least=("what to do", "short", "to"),
    )
    for verdict in found[:ROWS]:
        counts = ["" if count is None else f"{count:,}" for count in (verdict.fine_trades, verdict.coarse_trades)]
        table.add_row(
            verdict.pair,
            "" if verdict.fine is None else str(verdict.fine.value),
            str(verdict.coarse.value),
            short(verdict.span.start),
            short(verdict.span.end),
            str(verdict.proof),
            verdict.short_side or "",
            " : ".join(counts) if any(counts) else "",
            verdict.action,
        )
    table.print(console)
    more_rows(console, len(found), "reconcile --json")


def counts(console: Console, found: Sequence[TradeCount]) -> None:
    """Print the comparison of trade counts with the ids of trades: a total, and each span that is not proven."""
    proven = [count for count in found if count.verdict is CountVerdict.PROVEN]
    if not found:
        say(console, "No span has been counted by the ids of its trades yet.")
        return
    say(console, f"{len(proven):,} of {len(found):,} counts are proven by the ids of their trades.")
    rest = [count for count in found if count.verdict is not CountVerdict.PROVEN]
    if not rest:
        return
    table = TextTable(
        "Counts that differ, or that ids cannot prove",
        "pair",
        ">interval",
        "from",
        "to",
        "verdict",
        ">by ids",
        ">counted",
        "what to do",
        least=("what to do", "to"),
    )
    for count in rest[:ROWS]:
        table.add_row(
            count.series.pair,
            str(count.series.interval.value),
            short(count.span.start),
            short(count.span.end),
            str(count.verdict),
            "" if count.by_ids is None else f"{count.by_ids:,}",
            "" if count.counted is None else f"{count.counted:,}",
            count.action,
        )
    table.print(console)
    more_rows(console, len(rest), "prove --json")


def resolved(console: Console, done: Resolved) -> None:
    """Print what was withdrawn, what replaced it, and what is left to do."""
    verb = "would be withdrawn" if done.dry_run else "withdrawn"
    if not done.dry_run and not (done.files or done.series):
        say(console, f"{done.what} was withdrawn before; there is nothing left to withdraw.")
        return
    say(console, f"{done.what} {verb}: {done.candles:,} candles.")
    table = TextTable("Withdrawn", "pair", ">interval", "from", "to", ">candles")
    for withdrawn in done.series[:ROWS]:
        series, span = withdrawn.series, withdrawn.span
        table.add_row(
            series.pair, str(series.interval.value), short(span.start), short(span.end), f"{withdrawn.candles:,}"
        )
    if done.series:
        table.print(console)
        more_rows(console, len(done.series), "resolve --json")
    for series, count in sorted(done.refilled.items())[:ROWS]:
        say(console, f"  {count:,} candles of {series} were resampled from finer ones")
    more_rows(console, len(done.refilled), "resolve --json")
    if done.gaps:
        gaps(console, [gap.row() for gap in done.gaps])
    elif not done.dry_run:
        say(console, "No gaps remain.")
    for action in done.actions:
        say(console, f"  • {action}")


def cache(console: Console, state: CacheState) -> None:
    """Print the statistics of the reply cache."""
    lookups = state.lookups
    rate = "no lookups" if lookups.hit_rate is None else f"{lookups.hit_rate:.0%} hits"
    say(
        console,
        f"{rate} in the last day: {lookups.hits:,} hits, {lookups.misses:,} misses, {lookups.cold:,} requested for "
        f"the first time, {lookups.stale:,} served stale; {state.keys:,} keys with {state.size / 2**20:.1f} MiB on "
        "disk.",
    )


def status(console: Console, runs: Sequence[Mapping[str, Any]]) -> None:
    """Print runs, the newest first."""
    if not runs:
        say(console, "No runs yet: kraken-pipeline ingest starts one.")
        return
    table = TextTable(
        "Runs",
        "run",
        "job",
        "tier",
        "status",
        ">done",
        "started",
        ">took",
        ">files",
        ">candles",
        "error",
        least=("error", "tier", "took", "files"),
    )
    for run in runs:
        took = duration(run["duration_s"]) if run["duration_s"] is not None else ""
        table.add_row(
            run["run_id"][:8],
            run["job"],
            run["tier"] or "",
            run["status"],
            f"{run['progress_pct']:.0f} %",
            run["started_at"] or "",
            took,
            f"{run['files_ingested']:,}/{run['files_total']:,}",
            f"{run['candles_ingested']:,}",
            (run["error"] or "").partition("\n")[0],
        )
    table.print(console)


def _file_name(location: str) -> str:
    """Return the short name of a file: without its folder, but with the container that it is in."""
    container, _, member = location.rpartition(":")
    if container.lower().endswith(".zip"):
        return f"{Path(container).name}:{Path(member).name}"
    return Path(location).name


def dead_letters(console: Console, rows: Sequence[Mapping[str, Any]], count: int) -> None:
    """Print dead letters: rejected rows and files, and failed operations."""
    if not rows:
        say(console, "No dead letters: every row was accepted.")
        return
    table = TextTable("Dead letters", ">id", "from", ">line", "text", "reason", least=("text",))
    for row in rows:
        where = row["location"] if row["operation"] else _file_name(row["location"])
        table.add_row(str(row["id"]), where, str(row["line"] or ""), row["text"], row["reason"])
    table.print(console)
    if count > len(rows):
        say(console, f"{len(rows):,} of {count:,}: --limit shows more, `dead-letters export` writes all.")
    if any(row["operation"] for row in rows):
        say(console, "Fetches can be retried: kraken-pipeline dead-letters retry")


def health(console: Console, checks: Sequence[Check]) -> None:
    """Print the health checks, one line each."""
    for check in checks:
        line = f"{check.verdict:8} {check.name:14} {check.sentence}"
        say(console, line, first=_COLOURS[str(check.verdict)], hang=_HEALTH)


def verification(console: Console, found: Verification) -> None:
    """Print the result of a verification: each damaged file with its damage, and what to do."""
    size = f"{found.bytes / 2**20:,.1f} MiB"
    if found.adopted:
        say(console, f"{_counted(found.adopted, 'file')} recorded that the catalog did not have.")
    for damage in found.repaired:
        say(console, f"repaired: {damage}", "yellow")
    for damage in found.damaged:
        say(console, f"{damage.kind}: {damage}", "red")
    looked = f"{_counted(found.files, 'file')} with {size} in {found.seconds:.1f} s"
    if found.damaged:
        say(console, f"{_counted(len(found.damaged), 'file')} damaged, of {looked}; {found.damaged[0].action}.")
    elif found.repaired:
        done = f"{_counted(len(found.repaired), 'damaged file')} set aside"
        say(console, f"{done}; candles that no source had are gaps: kraken-pipeline gaps")
    else:
        say(console, f"Every file is unchanged: {looked}.")


def backed_up(console: Console, done: Backup, to: Path) -> None:
    """Print the contents of a backup."""
    say(
        console,
        f"The catalog as it was at {iso(done.started_at)} and {_counted(done.files, 'file')} with "
        f"{done.bytes / 2**20:,.1f} MiB are in {to}, {done.linked:,} of them as hard links.",
    )


def restored(console: Console, done: Backup, source: Path) -> None:
    """Print which backup was restored."""
    say(
        console,
        f"The backup of {iso(done.started_at)} was restored from {source}. To ingest later archives: "
        "kraken-pipeline ingest; with a QuestDB: kraken-pipeline publish --rebuild --verify",
    )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def showcase(console: Console, made: Showcase) -> None:
    """Print the contents of the demo's world, and its deliberate errors."""
    say(console, "A small exchange made trades, and archives of them:", "bold")
    for line in (
        f"{len(made.world.listings)} pairs: {', '.join(made.world.listings)}",
        f"{len(made.quarters)} quarterly archives: {', '.join(path.name for path in made.quarters)}",
        f"{len(made.loose)} loose files of the running quarter",
        f"missing on purpose: {made.missing}",
        f"broken on purpose: {made.corrupt.name} (an interrupted download), {len(made.rejected)} bad rows, "
        f"{len(made.wrong)} candles that other intervals contradict",
    ):
        say(console, f"  • {line}")


def next_steps(console: Console, home: Path) -> None:
    """Print the commands to try after the demo."""
    say(console, "What to try next", "bold")
    shell = f"cd {home} && {Path(sys.executable).with_name('kraken-pipeline')}"
    for command, what in (
        ("make dev DEMO=1", "the UI, with the assets, runs and checks of this world"),
        (f"{shell} report --html report.html", "the report as a page: maps, what to do, conflicts, sources"),
        (f"{shell} gaps", "what is missing, and which source can fill it"),
        (f"{shell} reconcile", "contradictions, and the commands that withdraw their wrong side"),
        (f"{shell} dead-letters list", "the rejected rows and file, with reasons"),
        (f"{shell} export XBTUSD 60 --to xbtusd.csv", "candles for other programs"),
        (
            f"{shell} demo --home . --serve",
            "this world's exchange, for commands such as backfill; run it in a separate terminal",
        ),
    ):
        write(console, f"  {command}")
        say(console, f"      {what}")
