"""`python -m chaos`: damages homes of a small world, and exits with 1 where a command or a claim then was wrong."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from chaos.campaign import Result, Share, made, table
from chaos.tries import KINDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign; return the exit code."""
    asked = _parser().parse_args(arguments)
    began = time.monotonic()
    named = [(kind, int(number)) for kind, _, number in (name.partition(":") for name in asked.only or ())]
    parts = 1 if named else os.cpu_count() or 1
    shares = [Share(asked.seed, asked.minutes * 60, named, asked.kind, part, parts) for part in range(parts)]
    with ProcessPoolExecutor(parts, get_context("spawn")) as pool:
        done = list(pool.map(made, shares))
    results = [result for results, _ in done for result in results]
    count = sum(planned_there for _, planned_there in done)
    seconds = time.monotonic() - began
    print(f"\n{len(results)} of {count} tries in {seconds:.0f} s with --seed {asked.seed}\n\n{table(results)}")
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


def _explain(result: Result) -> None:
    outcome = result.outcome
    print(f"  {outcome.damage}: {outcome.end}")
    for line in (*outcome.false, *outcome.tracebacks, *outcome.notes):
        print(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
