"""`python -m chaos`: damages homes of a small world, and exits with 1 where a command or a claim then was wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from chaos.campaign import Result, campaign, planned, table
from chaos.playground import playground
from chaos.tries import KINDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign; return the exit code."""
    asked = _parser().parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kraken-chaos-") as folder, playground(Path(folder)) as ground:
        named = [(kind, int(number)) for kind, _, number in (name.partition(":") for name in asked.only or ())]
        order = named or planned(ground, asked.seed)
        if asked.kind:
            order = [(kind, number) for kind, number in order if kind in asked.kind]
        left = asked.minutes * 60 - (time.monotonic() - began)
        results = campaign(ground, asked.seed, order, left, lambda result: _tell(result, is_full=bool(named)))
    seconds = time.monotonic() - began
    print(f"\n{len(results)} of {len(order)} tries in {seconds:.0f} s with --seed {asked.seed}\n\n{table(results)}")
    failures = [result for result in results if result.outcome.is_failure]
    for result in failures:
        print(f'\nmake chaos ARGS="--seed {asked.seed} --only {result.name}"')
        _explain(result)
    return int(bool(failures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="decides what is damaged, and where")
    parser.add_argument("--minutes", type=float, default=10, help="no try begins after them")
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="only tries of this kind; may be repeated")
    parser.add_argument("--only", metavar="KIND:NUMBER", action="append", help="repeat one try; may be repeated")
    return parser


def _tell(result: Result, *, is_full: bool) -> None:
    mark = "FAILED" if result.outcome.is_failure else result.outcome.end
    print(f"{result.name}: {mark}: {result.outcome.damage}", file=sys.stderr, flush=True)
    if is_full:
        for note in result.outcome.notes:
            print(f"  {note}", file=sys.stderr)


def _explain(result: Result) -> None:
    outcome = result.outcome
    print(f"  {outcome.damage}: {outcome.end}")
    for line in (*outcome.false, *outcome.tracebacks, *outcome.notes):
        print(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
