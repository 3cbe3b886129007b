"""What the shell prints: tables, progress and advice."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from kraken_pipeline.coverage.completeness import by_tier
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.market.moment import iso, short
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.gap_records import GapRow
from kraken_pipeline.workflow.backup import Backup
from kraken_pipeline.workflow.check import Check
from kraken_pipeline.workflow.exchange_health import CacheState
from kraken_pipeline.workflow.explanation import VALUES, Evidence, Explanation, Stored
from kraken_pipeline.workflow.plan import Plan, Planned
from kraken_pipeline.workflow.progress import Progress
from kraken_pipeline.workflow.reconcile import Reconciled
from kraken_pipeline.workflow.report import Report
from kraken_pipeline.workflow.resolve import Resolved
from kraken_pipeline.workflow.selection import Fetch, estimated
from kraken_pipeline.workflow.verdicts import Verdict
from kraken_pipeline.workflow.verification import Verification

if TYPE_CHECKING:
    from kraken_pipeline.demo.showcase import Showcase

_ROWS = 40
_PLAIN_SECONDS = 5.0
_PLAIN_WIDTH = 160
_ERROR_CHARACTERS = 120
_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def console(*, stderr: bool = False) -> Console:
    """Where the shell prints: as wide as the terminal, and wide enough for tables where there is none."""
    made = Console(stderr=stderr)
    return made if made.is_terminal else Console(stderr=stderr, width=_PLAIN_WIDTH)


def _table(title: str, *columns: str) -> Table:
    table = Table(
        box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", header_style="dim", pad_edge=False
    )
    for column in columns:
        name = column.lstrip(">")
        is_last = column == columns[-1]
        table.add_column(
            name, justify="right" if column.startswith(">") else "left", no_wrap=not is_last, overflow="fold"
        )
    return table


def _more(console: Console, count: int, where: str) -> None:
    if count > _ROWS:
        console.print(f"… and {count - _ROWS:,} more: {where}", style="dim", highlight=False)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plan(console: Console, made: Plan) -> None:
    """The plan: what each source would give, then one line for each series and source."""
    by_source: dict[Route, list[Planned]] = {}
    by_series: dict[tuple[Series, Route], list[Planned]] = {}
    for planned in made.routes:
        by_source.setdefault(planned.leg.route, []).append(planned)
        by_series.setdefault((planned.series, planned.leg.route), []).append(planned)
    sources = _table("Plan", "source", ">series", ">candles", ">files", ">requests", ">about")
    for route in Route:
        if parts := by_source.get(route):
            sources.add_row(
                str(route),
                f"{len({part.series for part in parts}):,}",
                f"{sum(map(_candles, parts)):,}",
                f"{len({name for part in parts for name in part.leg.files}):,}",
                f"{sum(part.leg.requests for part in parts):,}",
                _duration(sum(part.seconds for part in parts)),
            )
    console.print(sources)
    table = _table("By series", "pair", ">interval", "source", "from", "to", ">parts", ">candles", ">requests")
    for (series, route), parts in sorted(by_series.items())[:_ROWS]:
        table.add_row(
            series.pair,
            str(series.interval.value),
            str(route),
            short(parts[0].leg.span.start),
            short(parts[-1].leg.span.end),
            f"{len(parts):,}",
            f"{sum(map(_candles, parts)):,}",
            f"{sum(part.leg.requests for part in parts):,}",
        )
    console.print(table)
    _more(console, len(by_series), "plan --json")
    for each in (*made.scanned.broken, *made.scanned.waiting):
        console.print(f"{each.name}: {each.reason}", style="yellow", markup=False, soft_wrap=True)
    if made.scanned.skipped:
        console.print(f"{len(made.scanned.skipped)} things in the folders are no archives.", style="dim")
    if made.missing_archives:
        console.print(f"Archives to fetch: {', '.join(made.missing_archives)}", soft_wrap=True, highlight=False)
    console.print(f"{made.requests:,} requests, about {_duration(made.seconds)}.", highlight=False)


def _candles(planned: Planned) -> int:
    return planned.leg.span.seconds // planned.series.interval.seconds


def gaps(console: Console, rows: Sequence[GapRow]) -> None:
    """The gaps, by series and time."""
    if not rows:
        console.print("No gaps: everything that is expected is covered.")
        return
    table = _table(
        "Gaps", "pair", ">interval", "from", "to", ">missing", "route", "status", ">tries", "archive that has it"
    )
    for row in rows[:_ROWS]:
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
            str(row.attempts),
            shown,
        )
    console.print(table)
    _more(console, len(rows), "gaps --json")


def report(console: Console, made: Report) -> None:
    """The completeness report."""
    table = _table(
        "Completeness",
        "tier",
        ">interval",
        ">complete",
        ">proven",
        ">pairs",
        ">candles",
        ">quiet",
        ">gaps",
        ">unfillable",
    )
    for tier, intervals in by_tier(made.series).items():
        for interval, each in intervals.items():
            table.add_row(
                str(tier),
                str(interval.value),
                f"{each.percent:.2f} %",
                f"{each.proven_percent:.2f} %",
                str(each.pairs),
                f"{each.candles:,}",
                f"{each.quiet:,}",
                f"{each.gaps:,}",
                f"{each.unfillable:,}",
            )
    console.print(table)
    overall = made.overall
    console.print(
        f"{made.percent:.2f} % complete over {overall.series:,} series of {overall.pairs:,} pairs, "
        f"{made.proven_percent:.2f} % proven: {overall.candles:,} candles, {overall.quiet:,} quiet, "
        f"{overall.gaps:,} gaps, {len(made.conflicts):,} conflicts.",
        highlight=False,
        soft_wrap=True,
    )
    if made.attention:
        attention = _table("Series that need you", "series", ">complete", ">gaps", "what to do")
        for series in made.attention[:_ROWS]:
            attention.add_row(str(series.series), f"{series.percent:.2f} %", str(series.gaps), series.action)
        console.print(attention)
        _more(console, len(made.attention), "report --json")
    console.print("What to do", style="bold")
    for advice in made.recommendations[:_ROWS]:
        console.print(f"  • {advice}", highlight=False, soft_wrap=True)


def verdicts(console: Console, found: Sequence[Verdict], done: Reconciled) -> None:
    """What reconciliation says, and what it did."""
    console.print(
        f"Reconciled what has changed of {len(done.pairs):,} pairs: {done.refuted:,} spans taken back, "
        f"{done.healed:,} contradictions healed, {done.conflicts:,} new conflicts.",
        highlight=False,
        soft_wrap=True,
    )
    if not found:
        console.print("Nothing contradicts.")
        return
    table = _table("Verdicts", "pair", ">fine", ">coarse", "from", "to", "verdict", "short", ">trades", "what about it")
    for each in found[:_ROWS]:
        counts = ["" if count is None else f"{count:,}" for count in (each.fine_trades, each.coarse_trades)]
        table.add_row(
            each.pair,
            "" if each.fine is None else str(each.fine.value),
            str(each.coarse.value),
            short(each.span.start),
            short(each.span.end),
            str(each.proof),
            each.short_side or "",
            " : ".join(counts) if any(counts) else "",
            escape(each.action),
        )
    console.print(table)
    _more(console, len(found), "reconcile --json")


@contextmanager
def progress_bar(console: Console, requests_a_second: float) -> Iterator[Callable[[Progress], None]]:
    """Shows a run's progress: a bar with rate and time left on a terminal, plain lines otherwise."""
    if not console.is_terminal:
        yield _plain_lines(console, requests_a_second)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None, told="")
        began = time.monotonic()

        def show(progress: Progress) -> None:
            is_known = bool(progress.requests_total or progress.bytes_total)
            bar.update(
                task,
                description=progress.phase,
                total=100 if is_known else None,
                completed=progress.percent,
                told=_told(progress, time.monotonic() - began, requests_a_second),
            )

        yield show


def _told(progress: Progress, seconds: float, requests_a_second: float) -> str:
    """What is done and left, and about how long that takes."""
    if progress.requests_total:
        left = progress.requests_left
        return (
            f"{progress.requests_done:,} of about {progress.requests_total:,} requests, {left:,} left, "
            f"about {_duration(left / requests_a_second)}"
        )
    if progress.published:
        return f"{progress.published:,} candles published"
    if not progress.files_total:
        return f"{progress.candles:,} candles"
    rate = progress.candles / max(seconds, 0.001)
    time_left = seconds * (100 / progress.percent - 1) if progress.percent else 0.0
    return (
        f"{progress.files_done:,} of {progress.files_total:,} files, "
        f"{progress.candles:,} candles, {rate:,.0f}/s, {progress.percent:.0f} %, {_duration(time_left)} left"
    )


def _plain_lines(console: Console, requests_a_second: float) -> Callable[[Progress], None]:
    began = time.monotonic()
    said_at, phase = -_PLAIN_SECONDS, ""

    def say(progress: Progress) -> None:
        nonlocal said_at, phase
        now = time.monotonic()
        if progress.phase == phase and now - said_at < _PLAIN_SECONDS:
            return
        said_at, phase = now, progress.phase
        told = _told(progress, now - began, requests_a_second)
        console.print(f"{progress.phase}: {told}", highlight=False, soft_wrap=True)

    return say


def ran(console: Console, run: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
    """What a run did."""
    colour = "green" if run["status"] == "SUCCESS" else "red"
    is_ingest = run["job"] == "ingest"
    files = f"{run['files_ingested']:,} of {run['files_total']:,} files ingested, " if is_ingest else ""
    requests = f" with {outcome['requests']:,} requests" if outcome.get("requests") else ""
    published = f"{outcome['candles_published']:,} candles published" if "candles_published" in outcome else ""
    stored = "" if run["job"] == "publish_candles" else f"{run['candles_ingested']:,} candles stored{requests}"
    console.print(
        f"[{colour}]{run['status']}[/] run {run['run_id'][:8]}: {files}"
        f"{', '.join(filter(None, (stored, published)))} in {run['duration_s'] or 0:.1f} s.",
        highlight=False,
        soft_wrap=True,
    )
    notes = {
        "files_taken_before": "files were ingested before: nothing new in them",
        "files_skipped": "files are the same as others that were ingested",
        "files_failed": "files failed",
        "fetches_failed": "fetches from the exchange failed; their gaps are tried again",
        "contradictions_healed": "contradictions between intervals were healed",
        "new_conflicts": "contradictions are left to you: kraken-pipeline reconcile",
        "files_waiting": "files may still grow, and wait",
        "rows_rejected": "rows were rejected: kraken-pipeline dead-letters list",
        "not_archives": "things in the folders are no archives",
        "publications_owed": "ranges are still owed to QuestDB: kraken-pipeline publish",
        "series_different": "series are not the same in QuestDB as in the lake",
        "rows_copied": "rows of the catalog were copied",
        "files_adopted": "files of the lake are on record again",
        "candles_on_their_own": "candles are covered by nothing but themselves: no archive at hand has them",
        "gaps_left": "gaps are left: kraken-pipeline gaps",
        "files_damaged": "files of the lake are damaged: kraken-pipeline verify --repair",
    }
    for name, text in notes.items():
        if outcome.get(name):
            console.print(f"  {outcome[name]:,} {text}", highlight=False)
    if outcome.get("series_different") == 0:
        console.print("  every series in QuestDB is the same as in the lake: count, first, last and checksum")
    if outcome.get("new_pairs"):
        console.print(f"  new pairs: {', '.join(outcome['new_pairs'])}", highlight=False, soft_wrap=True)
    for note in outcome.get("notes", ()):
        console.print(f"    {note}", style="dim", markup=False, highlight=False, soft_wrap=True)
    sentence, _, trace = (run["error"] or "").partition("\n")
    if sentence:
        console.print(f"  {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
    if trace:
        console.print("  kraken-pipeline status --json has the traceback", style="dim", highlight=False)


def explained(console: Console, told: Explanation) -> None:
    """The story of one candle."""

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    say(f"{told.series} from {iso(told.span.start)} to {iso(told.span.end)}: {told.sentence}", "bold")
    if told.candle is not None:
        say(f"  {_candle(told.candle)}")
    covered = told.coverage
    where = f"{_from_to(covered.span)}, {covered.source}" if covered else "nothing"
    say(f"Covered by {where}")
    say(f"Proof: {': '.join(filter(None, (told.proof.state, '; '.join(told.proof.by))))}")
    for title, lines in _chapters(told):
        if lines:
            say(title, "bold")
        for line in lines:
            say(f"  {line}")


def _from_to(span: Span) -> str:
    return f"{short(span.start)} to {short(span.end)}"


def _candle(candle: Stored) -> str:
    named = ", ".join(f"{name} {value:,}" for name, value in zip(VALUES, candle.values, strict=True))
    release = f" of the release that ends {short(candle.release * 86_400)}" if candle.release else ""
    return f"{named.replace('trade_count', 'trades')}; {candle.source}{release}"


def _chapters(told: Explanation) -> Iterator[tuple[str, list[str]]]:
    """The parts of a candle's story that are lists, each with its lines."""
    yield "What says so", [line for each in told.evidence for line in _witness(each)]
    yield (
        "What lost",
        [f"{short(each.at)}: {each.lost}, by {each.by}: {_candle(each.candle)}" for each in told.losers],
    )
    yield (
        "What was refuted",
        [
            f"{short(each.made_at)}: {each.reason}{'' if ended is None else f'; until {short(ended)}'}"
            for each, ended in told.refutations
        ],
    )
    yield (
        "What contradicts it",
        [
            f"{short(each.changed_at)}: {each.coarse.value} against {each.fine.value}: {each.reason}, {each.state}"
            for each in told.contradictions
        ],
    )
    yield "What says otherwise", [f"{short(each.made_at)}: {each.reason}" for each in told.conflicts]
    yield "Why its quiet is doubted", [f"{each.reason}: {each.state}" for each in told.suspicions]
    yield (
        "What was rejected",
        [f"{each['location']}, line {each['line'] or '?'}: {each['reason']}: {each['text']}" for each in told.letters],
    )
    yield (
        "What was withdrawn",
        [f"{short(each.made_at)}: {name or _from_to(each.span)}: {each.reason}" for each, name in told.withdrawals],
    )


def _witness(each: Evidence) -> Iterator[str]:
    """What answered for a candle, and its lines."""
    reach = "has a row, and does not answer for it" if each.span is None else _from_to(each.span)
    what = each.request or (f"resampled from {each.made_of} minutes" if each.made_of else "")
    name = f"{each.file.name}, run {each.file.run_id[:8]}" if each.file else what
    yield f"{short(each.verified_at)}: {each.source}, {reach}{f': {name}' if name else ''}"
    if each.note:
        yield f"  {each.note}"
    for line in each.lines:
        yield f"  line {line.number}: {line.text}"
    if each.count > len(each.lines):
        yield f"  and {each.count - len(each.lines):,} lines more"


def resolved(console: Console, done: Resolved) -> None:
    """What was taken back, what took its place, and what is left to do."""
    said = "would be withdrawn" if done.dry_run else "withdrawn"
    if not done.dry_run and not (done.files or done.series):
        console.print(f"{escape(done.what)} was withdrawn before; nothing is left of it.", soft_wrap=True)
        return
    console.print(f"{escape(done.what)} {said}: {done.candles:,} candles.", highlight=False, soft_wrap=True)
    table = _table("Taken back", "pair", ">interval", "from", "to", ">candles")
    for each in done.series[:_ROWS]:
        series, span = each.series, each.span
        table.add_row(series.pair, str(series.interval.value), short(span.start), short(span.end), f"{each.candles:,}")
    if done.series:
        console.print(table)
        _more(console, len(done.series), "resolve --json")
    for series, count in sorted(done.refilled.items())[:_ROWS]:
        console.print(f"  {count:,} candles of {series} follow from finer ones", highlight=False)
    if done.gaps:
        gaps(console, [gap.row() for gap in done.gaps])
    elif not done.dry_run:
        console.print("No gaps are left of it.")
    for action in done.actions:
        console.print(f"  • {escape(action)}", highlight=False, soft_wrap=True)


def fetches(console: Console, chosen: Sequence[Fetch], requests_a_second: float) -> None:
    """What a backfill would ask the exchange for, in its order."""
    if not chosen:
        console.print("Nothing to ask for: no gap within the limits needs the exchange.")
        return
    table = _table("To ask for", "source", "pair", ">interval", "from", "to", ">parts", ">requests", "fills intervals")
    for fetch in chosen[:_ROWS]:
        table.add_row(
            str(fetch.route),
            fetch.series.pair,
            str(fetch.series.interval.value),
            short(fetch.spans[0].start),
            short(fetch.spans[-1].end),
            f"{len(fetch.spans):,}",
            f"{fetch.requests:,}",
            ", ".join(str(interval) for interval in sorted({series.interval.value for series, _ in fetch.serves})),
        )
    console.print(table)
    _more(console, len(chosen), "backfill --dry-run --json")
    requests = estimated(chosen)
    console.print(f"{requests:,} requests, about {_duration(requests / requests_a_second)}.", highlight=False)


def cache(console: Console, state: CacheState) -> None:
    """How well the cache serves."""
    lookups = state.lookups
    rate = "no lookups" if lookups.hit_rate is None else f"{lookups.hit_rate:.0%} hits"
    console.print(
        f"{rate} in the last day: {lookups.hits:,} hits, {lookups.misses:,} misses, {lookups.cold:,} asked for the "
        f"first time, {lookups.stale:,} served stale; "
        f"{state.keys:,} keys with {state.size / 2**20:.1f} MiB on disk.",
        highlight=False,
        soft_wrap=True,
    )


def status(console: Console, runs: Sequence[Mapping[str, Any]]) -> None:
    """Runs, the newest first."""
    if not runs:
        console.print("No runs yet: kraken-pipeline ingest starts one.")
        return
    table = _table("Runs", "run", "job", "tier", "status", ">done", "started", ">took", ">files", ">candles", "error")
    for run in runs:
        took = _duration(run["duration_s"]) if run["duration_s"] is not None else ""
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
            (run["error"] or "").partition("\n")[0][:_ERROR_CHARACTERS],
        )
    console.print(table)


def dead_letters(console: Console, rows: Sequence[Mapping[str, Any]], count: int) -> None:
    """Rejected rows and files."""
    if not rows:
        console.print("No dead letters: every row was taken.")
        return
    table = _table("Dead letters", ">id", "from", ">line", "text", "reason")
    for row in rows:
        where = row["location"] if row["operation"] else Path(row["location"]).name
        table.add_row(str(row["id"]), where, str(row["line"] or ""), row["text"], row["reason"])
    console.print(table)
    if count > len(rows):
        console.print(f"{len(rows):,} of {count:,}: --limit shows more, `dead-letters export` all.", highlight=False)
    if any(row["operation"] for row in rows):
        console.print("Operations can be tried again: kraken-pipeline dead-letters retry", highlight=False)


def health(console: Console, checks: Sequence[Check]) -> None:
    """What was looked at, and how it is."""
    for check in checks:
        colour = _COLOURS[str(check.verdict)]
        console.print(
            f"[{colour}]{check.verdict:8}[/] {check.name:14} {escape(check.sentence)}", highlight=False, soft_wrap=True
        )


def verification(console: Console, found: Verification) -> None:
    """What a verification found: each damaged file with what is wrong and what to do."""
    size = f"{found.bytes / 2**20:,.1f} MiB"
    if found.adopted:
        console.print(f"{_counted(found.adopted, 'file')} put on record that was sound and not there.", soft_wrap=True)
    for damage in found.repaired:
        console.print(f"repaired  {damage}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    for damage in found.damaged:
        console.print(f"{damage.kind:10}{damage}", style="red", markup=False, highlight=False, soft_wrap=True)
    looked = f"{_counted(found.files, 'file')} with {size} in {found.seconds:.1f} s"
    if found.damaged:
        console.print(
            f"{_counted(len(found.damaged), 'file')} damaged, of {looked}; {found.damaged[0].action}.", soft_wrap=True
        )
    elif found.repaired:
        console.print(
            f"{_counted(len(found.repaired), 'damaged file')} out of the way; what nothing had is a gap: "
            "kraken-pipeline gaps",
            soft_wrap=True,
        )
    else:
        console.print(f"Every file is the one that was written: {looked}.", soft_wrap=True)


def backed_up(console: Console, done: Backup, to: Path) -> None:
    """What a backup holds."""
    console.print(
        f"The catalog as it was at {iso(done.started_at)} and {_counted(done.files, 'file')} with "
        f"{done.bytes / 2**20:,.1f} MiB are in {to}, {done.linked:,} of them as hard links.",
        highlight=False,
        soft_wrap=True,
    )


def restored(console: Console, done: Backup, source: Path) -> None:
    """Which backup was brought back."""
    console.print(
        f"The backup of {iso(done.started_at)} is back from {source}. What came after it: kraken-pipeline ingest; "
        "where there is a QuestDB: kraken-pipeline publish --rebuild --verify",
        highlight=False,
        soft_wrap=True,
    )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def showcase(console: Console, made: Showcase) -> None:
    """What the demo's world holds, and what is wrong with it on purpose."""
    console.print("A small exchange made trades, and archives from them:", style="bold")
    for line in (
        f"{len(made.world.listings)} pairs: {', '.join(made.world.listings)}",
        f"{len(made.quarters)} quarterly archives: {', '.join(path.name for path in made.quarters)}",
        f"{len(made.loose)} loose files of the running quarter",
        f"missing on purpose: {made.missing}",
        f"broken on purpose: {made.corrupt.name} (a download that broke off), {len(made.rejected)} bad rows, "
        f"{len(made.wrong)} candles that other intervals contradict",
    ):
        console.print(f"  • {line}", highlight=False, soft_wrap=True)


def next_steps(console: Console, home: Path) -> None:
    """What to look at after the demo."""
    console.print("What to look at next", style="bold")
    shell = f"cd {home} && {Path(sys.executable).with_name('kraken-pipeline')}"
    for command, what in (
        ("make dev DEMO=1", "the UI, with the assets, runs and checks of this world"),
        (f"{shell} report --html report.html", "the report as a page: maps, what to do, conflicts, sources"),
        (f"{shell} gaps", "what is missing, and where it can come from"),
        (f"{shell} reconcile", "what contradicts, and the command that takes it back"),
        (f"{shell} dead-letters list", "the rows and the file that were rejected, and why"),
        (f"{shell} export XBTUSD 60 --to xbtusd.csv", "candles for other programs"),
    ):
        console.print(f"  {command}\n      {what}", highlight=False, soft_wrap=True, markup=False)
