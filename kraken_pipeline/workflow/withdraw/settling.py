"""Settling by cause: groups contradictions of one cause, so that one command withdraws what is wrong."""

from __future__ import annotations

import shlex
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kraken_pipeline.coverage.causes import Cause
from kraken_pipeline.coverage.ranges import Span, normalise
from kraken_pipeline.errors import InvalidRequest, plain
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.market.series import Series
from kraken_pipeline.workflow.reconcile.verdicts import CandleVerdict, Remedy
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.withdraw.withdrawal import Withdrawal

_PAIRS_NAMED = 10


@dataclass(frozen=True, slots=True)
class Grouped:
    """Contradictions of one cause.

    Attributes:
        cause: The cause.
        verdicts: The contradictions, in order.
    """

    cause: Cause
    verdicts: tuple[CandleVerdict, ...]

    @property
    def span(self) -> Span:
        """The span from the earliest start to the latest end."""
        return Span(
            min(verdict.span.start for verdict in self.verdicts), max(verdict.span.end for verdict in self.verdicts)
        )

    @property
    def pairs(self) -> list[str]:
        """The names of their pairs, sorted."""
        return sorted({verdict.pair for verdict in self.verdicts})

    @property
    def intervals(self) -> list[Interval]:
        """The intervals that contradict each other."""
        sides = {side for verdict in self.verdicts for side in (verdict.fine, verdict.coarse)}
        return sorted(side for side in sides if side is not None)

    @property
    def action(self) -> str:
        """The action for all of them, with its commands."""
        return "; ".join([*self._filling(), *self._proving(), *self._taking_back()])

    def of(self, remedy: Remedy) -> list[CandleVerdict]:
        """Return the contradictions that a remedy settles."""
        return [verdict for verdict in self.verdicts if verdict.remedy is remedy]

    def _filling(self) -> Iterator[str]:
        if gaps := self.of(Remedy.FILL):
            pairs = sorted({gap.pair for gap in gaps})
            spec = run_spec(
                pairs=pairs if len(pairs) <= _PAIRS_NAMED else None,
                intervals=sorted({side for gap in gaps for side in gap.suspects}),
                start=min(gap.span.start for gap in gaps),
                end=max(gap.span.end for gap in gaps),
                complete=True,
            )
            left = quantity(len(gaps), "is a gap now, which is", "are gaps now, which are")
            yield f"{left} filled by {spec.as_command('backfill')}"

    def _proving(self) -> Iterator[str]:
        if kept := self.of(Remedy.PROVE):
            spec = run_spec(pairs=sorted({verdict.pair for verdict in kept})[:_PAIRS_NAMED])
            yield (
                f"of {len(kept):,} the greater trade count is kept, which finer candles, trades or another archive "
                f"prove; {spec.as_command('report')} shows where it is unproven"
            )

    def _taking_back(self) -> Iterator[str]:
        if left := self.of(Remedy.WITHDRAW):
            command = f"kraken-pipeline resolve --cause {self.cause.id}"
            files = list(dict.fromkeys(name for verdict in left for name in verdict.files))
            suspects = sorted({side for verdict in left for side in verdict.suspects})
            if files:
                choices = [f"{command} --file {shlex.quote(name)} --reason …" for name in files]
            elif any(len(verdict.suspects) > 1 for verdict in left):
                choices = [f"{command} --interval {side.value} --reason …" for side in suspects]
            else:
                choices = [f"{command} --reason …"]
            first = "find out which is wrong, then run " if len(choices) > 1 else "withdraw what is suspected: "
            yield f"{first}{' or '.join(choices)}"

    def as_json(self) -> dict[str, object]:
        """Return the group as `reconcile --by-cause --json` shows it."""
        return {
            "cause": self.cause.id,
            "kind": str(self.cause.kind),
            "of": self.cause.name,
            "pairs": self.pairs,
            "intervals": [interval.value for interval in self.intervals],
            "start": iso(self.span.start),
            "end": iso(self.span.end),
            "count": len(self.verdicts),
            "conflicts": len(self.verdicts) - len(self.of(Remedy.FILL)),
            "action": self.action,
        }


def grouped(found: Iterable[CandleVerdict]) -> list[Grouped]:
    """Return contradictions grouped by cause, the largest group first."""
    by_cause: dict[Cause, list[CandleVerdict]] = {}
    for verdict in found:
        if verdict.cause is not None:
            by_cause.setdefault(verdict.cause, []).append(verdict)
    groups = [Grouped(cause, tuple(verdicts)) for cause, verdicts in by_cause.items()]
    return sorted(groups, key=lambda grouped: (-len(grouped.verdicts), grouped.cause.kind, grouped.cause.key))


def withdrawal_of(
    found: Sequence[CandleVerdict], cause_id: str, reason: str, *, interval: str | None = None, file: str | None = None
) -> Withdrawal:
    """Return the withdrawal that settles all contradictions of one cause.

    Args:
        found: All contradictions.
        cause_id: The id of the cause.
        reason: The reason for the withdrawal.
        interval: The wrong interval, in minutes, if there are several suspects.
        file: The wrong file, if two files differ.

    Raises:
        InvalidRequest: The reason is empty, there is no such cause, it leaves nothing for a person to withdraw, or the
            wrong side is not named or does not belong to it.
    """
    if not reason.strip():
        raise InvalidRequest("the reason is empty; say why the candles are withdrawn")
    group = next((candidate for candidate in grouped(found) if candidate.cause.id == cause_id), None)
    if group is None:
        raise InvalidRequest(f"there is no cause {cause_id}; kraken-pipeline reconcile lists the causes")
    left = group.of(Remedy.WITHDRAW)
    if not left:
        raise InvalidRequest(f"nothing of {cause_id} can be withdrawn: {group.action}")
    text = plain(reason.strip())
    names = list(dict.fromkeys(name for verdict in left for name in verdict.files))
    if names:
        return Withdrawal(text, file=_one_of(names, file, "--file", group))
    if file is not None:
        raise InvalidRequest(f"--file is for files that differ, but {cause_id} is about intervals: {group.action}")
    label = f"{cause_id} ({group.cause.name})"
    side = None if interval is None else str(Interval.parse(interval).value)
    chosen = [(verdict, _chosen(verdict, side, group)) for verdict in left]
    if all(suspect in dict(verdict.wholes) for verdict, suspect in chosen):
        wholes = dict.fromkeys(dict(verdict.wholes)[suspect] for verdict, suspect in chosen)
        return Withdrawal(text, files=tuple(wholes), label=label)
    claims: dict[Series, list[Span]] = {}
    for verdict, suspect in chosen:
        span = Span(suspect.floor(verdict.span.start), suspect.ceil(verdict.span.end))
        claims.setdefault(Series(verdict.pair, suspect), []).append(span)
    spans = tuple((series, span) for series, parts in sorted(claims.items()) for span in normalise(_narrowest(parts)))
    return Withdrawal(text, claims=spans, label=label)


def _chosen(verdict: CandleVerdict, side: str | None, group: Grouped) -> Interval:
    suspects = {str(suspect.value): suspect for suspect in verdict.suspects}
    return suspects[_one_of(list(suspects), side, "--interval", group)]


def _narrowest(spans: Iterable[Span]) -> Iterator[Span]:
    """Yield the spans that contain no other of the spans.

    A wrong candle usually contradicts finer candles as well as coarser ones. The finer contradiction locates it.
    """
    known: list[Span] = []
    for span in sorted(set(spans), key=lambda span: (span.seconds, span.start)):
        at = bisect_left(known, span.start, key=lambda span: span.start)
        if at == len(known) or known[at].end > span.end:
            insort(known, span, key=lambda span: span.start)
            yield span


def _one_of(there: Sequence[str], given: str | None, option: str, group: Grouped) -> str:
    """Return the chosen option, or the only one if nothing was chosen.

    Raises:
        InvalidRequest: Several are there and none was chosen, or the chosen one is not among them.
    """
    if given is None and len(there) == 1:
        return there[0]
    if given is None:
        raise InvalidRequest(f"no source can decide which is wrong: {group.action}")
    if given not in there:
        raise InvalidRequest(f"{option} {given} is not a side of {group.cause.id}: {group.action}")
    return given
