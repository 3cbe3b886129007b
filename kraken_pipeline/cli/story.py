"""Prints the explanation of one candle for `explain`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from kraken_pipeline.cli.layout import say
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.moment import iso, short
from kraken_pipeline.workflow.explain.explanation import VALUES, Evidence, Explanation, Stored

if TYPE_CHECKING:
    pass


def explained(console: Console, told: Explanation) -> None:
    """Print the explanation of one candle: its values, coverage, proof and history."""
    say(console, f"{told.series} from {iso(told.span.start)} to {iso(told.span.end)}: {told.sentence}", "bold")
    if told.candle is not None:
        say(console, f"  {_candle(told.candle)}")
    covered = told.coverage
    where = f"{_from_to(covered.span)}, {covered.source}" if covered else "nothing"
    say(console, f"Covered by {where}")
    say(console, f"Proof: {': '.join(filter(None, (told.proof.state, '; '.join(told.proof.by))))}")
    for title, lines in _chapters(told):
        if lines:
            say(console, title, "bold")
        for line in lines:
            say(console, f"  {line}")


def _from_to(span: Span) -> str:
    return f"{short(span.start)} to {short(span.end)}"


def _candle(candle: Stored) -> str:
    named = ", ".join(f"{name} {value:,}" for name, value in zip(VALUES, candle.values, strict=True))
    release = f" of the release that ends {short(candle.release * 86_400)}" if candle.release else ""
    return f"{named.replace('trade_count', 'trades')}; {candle.source}{release}"


def _chapters(told: Explanation) -> Iterator[tuple[str, list[str]]]:
    """Yield the sections of an explanation that are lists: the title and the lines of each."""
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
    """Yield the lines that describe one source of a candle."""
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
