"""Prints the explanation of one candle for `explain`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from kraken_pipeline.cli.layout import say
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.moment import iso, short
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.storage.records.proof_records import ContradictionRecord
from kraken_pipeline.workflow.explain.explanation import VALUES, Evidence, Explanation, Stored


def explained(console: Console, explanation: Explanation) -> None:
    """Print the explanation of one candle: its values, coverage, proof and history."""
    start, end = iso(explanation.span.start), iso(explanation.span.end)
    say(console, f"{explanation.series} from {start} to {end}: {explanation.sentence}", "bold")
    if explanation.candle is not None:
        say(console, f"  {_candle(explanation.candle)}")
    covered = explanation.coverage
    where = f"{_from_to(covered.span)}, {covered.source}" if covered else "nothing"
    say(console, f"Covered by {where}")
    say(console, f"Proof: {': '.join(filter(None, (explanation.proof.state, '; '.join(explanation.proof.by))))}")
    for title, lines in _chapters(explanation):
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


def _chapters(explanation: Explanation) -> Iterator[tuple[str, list[str]]]:
    """Yield the sections of an explanation that are lists: the title and the lines of each."""
    yield "Evidence", [line for evidence in explanation.evidence for line in _witness(evidence)]
    yield (
        "Replaced and refused candles",
        [f"{short(loser.at)}: {loser.lost}, by {loser.by}: {_candle(loser.candle)}" for loser in explanation.losers],
    )
    yield (
        "Refutations",
        [
            f"{short(refutation.made_at)}: {refutation.reason}{'' if ended is None else f'; until {short(ended)}'}"
            for refutation, ended in explanation.refutations
        ],
    )
    yield "Contradictions", [_contradiction(contradiction) for contradiction in explanation.contradictions]
    yield "Conflicts", [f"{short(conflict.made_at)}: {conflict.reason}" for conflict in explanation.conflicts]
    yield "Suspicions", [f"{suspicion.reason}: {suspicion.state}" for suspicion in explanation.suspicions]
    yield (
        "Rejected rows",
        [
            f"{row['location']}, line {row['line'] or '?'}: {row['reason']}: {row['text']}"
            for row in explanation.letters
        ],
    )
    yield (
        "Withdrawals",
        [
            f"{short(withdrawal.made_at)}: {name or _from_to(withdrawal.span)}: {withdrawal.reason}"
            for withdrawal, name in explanation.withdrawals
        ],
    )


def _contradiction(record: ContradictionRecord) -> str:
    intervals = f"{record.coarse.value} against {record.fine.value}"
    return f"{short(record.changed_at)}: {intervals}: {record.reason}, {record.state}"


def _witness(evidence: Evidence) -> Iterator[str]:
    """Yield the lines that describe one source of a candle."""
    reach = "has a row, but does not cover it" if evidence.span is None else _from_to(evidence.span)
    what = evidence.request or (f"resampled from {evidence.made_of} minutes" if evidence.made_of else "")
    name = f"{evidence.file.name}, run {evidence.file.run_id[:8]}" if evidence.file else what
    yield f"{short(evidence.verified_at)}: {evidence.source}, {reach}{f': {name}' if name else ''}"
    if evidence.note:
        yield f"  {evidence.note}"
    for line in evidence.lines:
        yield f"  line {line.number}: {line.text}"
    if evidence.count > len(evidence.lines):
        yield f"  and {quantity(evidence.count - len(evidence.lines), 'more line')}"
