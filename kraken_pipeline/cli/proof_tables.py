"""Prints contradictions with their causes, counts by ids of trades, and what was withdrawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from kraken_pipeline.cli.layout import TextTable, say
from kraken_pipeline.cli.tables import ROWS, gaps, more_rows
from kraken_pipeline.coverage.anchors import CountVerdict
from kraken_pipeline.market.moment import short
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.storage.records.trade_counts import TradeCount
from kraken_pipeline.workflow.gaps.unknown import NOTHING_KNOWN
from kraken_pipeline.workflow.reconcile.verdicts import CandleVerdict
from kraken_pipeline.workflow.withdraw.resolve import Resolved
from kraken_pipeline.workflow.withdraw.settling import Grouped


def causes(console: Console, found: Sequence[Grouped], done: Mapping[str, Any], *, is_known: bool) -> None:
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


def _reconciled(console: Console, done: Mapping[str, Any], *, is_known: bool, is_clean: bool) -> None:
    """Print the outcome of a reconciliation; `is_clean` means that no contradiction was found."""
    say(
        console,
        f"Reconciled the changes of {quantity(done.get('pairs_compared', 0), 'pair')}: "
        f"{quantity(done.get('spans_refuted', 0), 'span')} refuted, "
        f"{quantity(done.get('contradictions_healed', 0), 'contradiction')} healed, "
        f"{quantity(done.get('new_conflicts', 0), 'new conflict')}.",
    )
    if is_clean:
        say(console, "There are no contradictions." if is_known else NOTHING_KNOWN)


def verdicts(console: Console, found: Sequence[CandleVerdict], done: Mapping[str, Any], *, is_known: bool) -> None:
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
    say(
        console,
        f"{len(proven):,} of {quantity(len(found), 'count is', 'counts are')} proven by the ids of their trades.",
    )
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
    say(console, f"{done.what} {verb}: {quantity(done.candles, 'candle')}.")
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
        resampled = quantity(count, f"candle of {series} was", f"candles of {series} were")
        say(console, f"  {resampled} resampled from finer ones")
    more_rows(console, len(done.refilled), "resolve --json")
    if done.gaps:
        gaps(console, [gap.row() for gap in done.gaps])
    elif not done.dry_run:
        say(console, "No gaps remain.")
    for action in done.actions:
        say(console, f"  • {action}")
