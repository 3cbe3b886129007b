"""The campaign: tries of every kind in an order that the seed decides, within the time that there is."""

from __future__ import annotations

import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.playground import Playground, playground
from chaos.tries import KINDS, End, Outcome, Try, deletable


@dataclass(frozen=True, slots=True)
class Result:
    """A try and what came of it."""

    kind: str
    number: int
    outcome: Outcome

    @property
    def name(self) -> str:
        """What repeats it, with the seed."""
        return f"{self.kind}:{self.number}"


def planned(ground: Playground, seed: int, share: float = 1.0) -> list[tuple[str, int]]:
    """Return a campaign's tries in the order in which they are made: whatever time ends it, it had some of each kind.

    Args:
        ground: Its home says how many files can be deleted.
        seed: Decides the order.
        share: How much of a full campaign.
    """
    chance = random.Random(f"{seed}")
    order: list[tuple[float, str, int]] = []
    for kind, (_, full) in KINDS.items():
        count = max(1, round(share * (full or len(deletable(ground)))))
        order += [((number + chance.random()) / count, kind, number) for number in range(count)]
    return [(kind, number) for _, kind, number in sorted(order)]


def tried(ground: Playground, seed: int, kind: str, number: int) -> Result:
    """Make one try; the same seed, kind and number make the same one."""
    ground.prepare()
    this = Try(ground, random.Random(f"{seed}:{kind}:{number}"), number)
    try:
        KINDS[kind][0](this)
    except Exception:
        this.outcome.tracebacks.append(traceback.format_exc())
    return Result(kind, number, this.outcome)


def campaign(
    ground: Playground,
    seed: int,
    order: Iterable[tuple[str, int]],
    seconds: float,
    tell: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """Make tries until they are all made or the time is over."""
    until = time.monotonic() + seconds
    results: list[Result] = []
    for kind, number in order:
        if time.monotonic() >= until:
            break
        results.append(tried(ground, seed, kind, number))
        tell(results[-1])
    return results


@dataclass(frozen=True, slots=True)
class Share:
    """One processor's part of a campaign.

    Attributes:
        seed: Decides what is damaged, and where.
        seconds: No try begins after them.
        named: The tries, where they are named.
        kinds: Only tries of these kinds; None for all.
        part: Which part.
        parts: Of how many.
    """

    seed: int
    seconds: float
    named: Sequence[tuple[str, int]]
    kinds: Sequence[str] | None
    part: int
    parts: int


def made(share: Share) -> tuple[list[Result], int]:
    """Make one part of the tries on a playground of its own; return what came of them, and how many there are."""
    until = time.monotonic() + share.seconds
    with tempfile.TemporaryDirectory(prefix="kraken-chaos-") as folder, playground(Path(folder)) as ground:
        every = share.named or planned(ground, share.seed)
        order = [(kind, number) for kind, number in every if not share.kinds or kind in share.kinds]
        order = order[share.part :: share.parts]
        ground.prepare()
        is_full = bool(share.named)
        left = until - time.monotonic()
        return campaign(ground, share.seed, order, left, lambda result: _tell(result, is_full=is_full)), len(order)


def _tell(result: Result, *, is_full: bool) -> None:
    mark = "FAILED" if result.outcome.is_failure else result.outcome.end
    print(f"{result.name}: {mark}: {result.outcome.damage}", file=sys.stderr, flush=True)
    if is_full:
        for note in result.outcome.notes:
            print(f"  {note}", file=sys.stderr)


_HEADINGS = (
    "kind", "tries", "noticed", "healed", "gap", "recover", "said", "skipped", "NOT HEALED", "false", "tracebacks",
)  # fmt: skip


def table(results: Sequence[Result]) -> str:
    """Lay out the tries and their outcomes by kind."""
    by_kind = {kind: [result.outcome for result in results if result.kind == kind] for kind in KINDS}
    by_kind = {kind: outcomes for kind, outcomes in by_kind.items() if outcomes}
    by_kind["all"] = [result.outcome for result in results]
    rows = [_HEADINGS, *((kind, *map(str, _counts(outcomes))) for kind, outcomes in by_kind.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _counts(outcomes: Sequence[Outcome]) -> list[int]:
    ends: Mapping[End, int] = {end: sum(outcome.end is end for outcome in outcomes) for end in End}
    return [
        len(outcomes),
        sum(outcome.was_noticed for outcome in outcomes),
        *(ends[end] for end in (End.HEALED, End.GAP, End.RECOVER, End.SAID, End.SKIPPED, End.NOT_HEALED)),
        sum(bool(outcome.false) for outcome in outcomes),
        sum(bool(outcome.tracebacks) for outcome in outcomes),
    ]
