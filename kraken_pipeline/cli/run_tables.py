"""Prints runs: the list of them, and the result of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from kraken_pipeline.cli.layout import TextTable, say
from kraken_pipeline.market.moment import duration
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.workflow.run_spec import RunSpec

_REJECTED = "kraken-pipeline dead-letters list"
_PUBLISHED = "candles_published"
_REPAIR = "kraken-pipeline verify --repair"


def ran(console: Console, run: Mapping[str, Any], outcome: Mapping[str, Any], spec: RunSpec | None) -> None:
    """Print the result of a run.

    Args:
        console: The console to print to.
        run: The run, as `RunStatus.as_json` returns it.
        outcome: The outcome of the run.
        spec: The run spec; None for a run that does not work on selected series.
    """
    is_ingest = run["job"] == "ingest"
    if is_ingest and outcome.get("files_failed") and not (run["files_ingested"] or run["candles_ingested"]):
        new = " that was new" if outcome["files_taken_before"] or outcome["files_skipped"] else ""
        say(console, f"Nothing was stored: every file{new} failed ({outcome['files_failed']:,}).", "bold red")
    colour = "green" if run["status"] == "SUCCESS" else "red"
    files = f"{run['files_ingested']:,} of {quantity(run['files_total'], 'file')} ingested, " if is_ingest else ""
    requests = f" with {quantity(outcome['requests'], 'request')}" if outcome.get("requests") else ""
    published = f"{quantity(outcome[_PUBLISHED], 'candle')} published" if _PUBLISHED in outcome else ""
    candles = quantity(run["candles_ingested"], "candle")
    stored = "" if run["job"] == "publish_candles" else f"{candles} stored{requests}"
    say(
        console,
        f"{run['status']} run {run['run_id'][:8]}: {files}"
        f"{', '.join(filter(None, (stored, published)))} in {run['duration_s'] or 0:.1f} s.",
        first=colour,
    )
    # A run reconciles all intervals of its pairs, so the command names no intervals.
    reconcile = (RunSpec(tier=spec.tier, pairs=spec.pairs) if spec else RunSpec()).as_command("reconcile")
    notes = {
        "files_taken_before": ("file was ingested before", "files were ingested before"),
        "files_skipped": ("file is a duplicate of an ingested one", "files are duplicates of ingested ones"),
        "files_failed": ("file failed",),
        "fetches_failed": (
            "fetch from the exchange failed; the next run tries its gaps again",
            "fetches from the exchange failed; the next run tries their gaps again",
        ),
        "contradictions_healed": (
            "contradiction between intervals was healed",
            "contradictions between intervals were healed",
        ),
        "new_conflicts": (f"contradiction is left to you: {reconcile}", f"contradictions are left to you: {reconcile}"),
        "files_waiting": ("file may still grow; a later run reads it", "files may still grow; a later run reads them"),
        "rows_rejected": (f"row was rejected: {_REJECTED}", f"rows were rejected: {_REJECTED}"),
        "not_archives": (
            "file or folder in the archive folders is not an archive",
            "files and folders in the archive folders are not archives",
        ),
        "publications_owed": (
            "range is not yet published to QuestDB: kraken-pipeline publish",
            "ranges are not yet published to QuestDB: kraken-pipeline publish",
        ),
        "series_different": (
            "series differs between QuestDB and the lake",
            "series differ between QuestDB and the lake",
        ),
        "rows_copied": ("row of the catalog was copied", "rows of the catalog were copied"),
        "files_adopted": ("file of the lake was recorded again", "files of the lake were recorded again"),
        "candles_on_their_own": (
            "candle is covered only by its own row: no archive at hand has it",
            "candles are covered only by their own rows: no archive at hand has them",
        ),
        "gaps_left": ("gap is left: kraken-pipeline gaps", "gaps are left: kraken-pipeline gaps"),
        "files_damaged": (f"file of the lake is damaged: {_REPAIR}", f"files of the lake are damaged: {_REPAIR}"),
    }
    for name, texts in notes.items():
        if outcome.get(name):
            say(console, f"  {quantity(outcome[name], *texts)}")
    if outcome.get("series_different") == 0:
        say(console, "  every series in QuestDB equals the lake: count, first, last and checksum")
    if outcome.get("new_pairs"):
        say(console, f"  new pairs: {', '.join(outcome['new_pairs'])}")
    for note in outcome.get("notes", ()):
        say(console, f"    {note}", "dim")
    sentence, _, trace = (run["error"] or "").partition("\n")
    if sentence:
        say(console, f"  {sentence}", "red")
    if trace:
        say(console, "  kraken-pipeline status --json has the traceback", "dim")


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
