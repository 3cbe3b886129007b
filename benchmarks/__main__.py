"""`python -m benchmarks`: measures every figure, prints a table, and exits with 1 where a requirement is missed."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.figures import FIGURES, Figure, Result, Results
from benchmarks.measure import measure
from kraken_pipeline_tests.support.servers import QuestDB, reason_without

_HEADER = ("figure", "ours", "bare", "ratio", "peak MiB", "bare MiB", "required", "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    asked = _parser().parse_args(arguments)
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="kraken-benchmarks-") as folder:
        for figure in FIGURES:
            if (reason := reason_without(QuestDB)) is not None and figure.server:
                print(f"leaving out {figure.name}: {reason}", file=sys.stderr)
            elif not asked.only or figure.name in asked.only:
                print(f"measuring {figure.name} ...", file=sys.stderr)
                results[figure.name] = measure(figure, asked.keep or Path(folder), small=asked.small)
    missed = {} if asked.small else _missed(results)
    print(table(results, missed, judged=not asked.small))
    for name, result in results.items():
        if result.told:
            print(f"{name}: {result.told}")
    if asked.json:
        lines = {
            name: {**asdict(each), "ratio": each.ratio, "missed": missed.get(name, [])}
            for name, each in results.items()
        }
        asked.json.write_text(json.dumps(lines, indent=2) + "\n")
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [figure.name for figure in FIGURES]
    parser.add_argument("--only", metavar="NAME", action="append", choices=names, help=f"one of {', '.join(names)}")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there as well")
    parser.add_argument("--small", action="store_true", help="one quick round on little input; nothing is required")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="make the input there, or use what is there")
    return parser


def _missed(results: Results) -> dict[str, list[str]]:
    missed = {
        figure.name: [each.text for each in figure.requirements if not each.is_met(results[figure.name], results)]
        for figure in _measured(results)
    }
    return {name: texts for name, texts in missed.items() if texts}


def _measured(results: Results) -> Iterable[Figure]:
    return (figure for figure in FIGURES if figure.name in results)


def table(results: Results, missed: Mapping[str, Sequence[str]], *, judged: bool) -> str:
    """The figures as text, one a line under a header."""
    lines = [_HEADER]
    for figure in _measured(results):
        result = results[figure.name]
        verdict = "MISSED: " + ", ".join(missed[figure.name]) if figure.name in missed else "ok"
        lines.append(
            (
                figure.name,
                f"{result.items / result.ours:,.0f} {figure.unit}/s",
                f"{result.items / result.bare:,.0f} {figure.unit}/s",
                f"{result.ratio:.2f}" if result.ratio >= 0.1 else f"{result.ratio:.3f}",
                f"{result.peak_mib:.0f}",
                f"{result.bare_peak_mib:.0f}",
                ", ".join(each.text for each in figure.requirements) or "-",
                verdict if judged and figure.requirements else "-",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 0 < column < 6 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


if __name__ == "__main__":
    sys.exit(main())
