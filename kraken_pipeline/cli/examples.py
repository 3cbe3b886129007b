"""The examples in the help of each command: what a line does, and what follows `kraken-pipeline`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_SELECTED = "--pairs XBTUSD --intervals 1h"

EXAMPLES: Mapping[str, Sequence[tuple[str, str]]] = {
    "home.init": (("A home of its own", "init ~/candles"),),
    "home.ui": (("On another port", "ui --port 3001"),),
    "run_commands.plan": (
        ("What is missing, and what filling it would cost", "plan"),
        ("The same if these archives were ingested first", "plan --archive-dir ~/kraken"),
    ),
    "run_commands.ingest": (
        ("Everything in a folder, then the gaps that are left", "ingest --archive-dir ~/kraken"),
        ("Two intervals of the largest pairs", "ingest --tier TIER1 --intervals 1h,1d"),
        ("Without requests to the exchange", "ingest --no-api-backfill"),
    ),
    "run_commands.backfill": (
        ("What it would request", "backfill --pairs XBTUSD --dry-run"),
        ("Gaps of any age, with at most 500 requests", "backfill --complete --budget 500"),
    ),
    "run_commands.publish": (
        ("What is pending", "publish"),
        ("Compare QuestDB with the lake", "publish --verify"),
    ),
    "keep_commands.reconcile": (
        ("What changed since the last time", "reconcile"),
        ("The contradictions, one line for each cause", "reconcile --by-cause"),
    ),
    "keep_commands.resolve": (
        ("Withdraw a file called X", "resolve --file X --reason wrong"),
        ("What that would change", "resolve --file X --reason x --dry-run"),
    ),
    "keep_commands.verify": (
        ("Read every file of the lake", "verify"),
        ("Only names and sizes", "verify --quick"),
        ("Restore what is damaged", "verify --repair --archive-dir ~/kraken"),
    ),
    "run_commands.prove": (
        ("What it would request", "prove --pairs XBTUSD --dry-run"),
        ("Count the trades of a pair", "prove --pairs XBTUSD"),
    ),
    "run_commands.recover": (
        ("Rebuild the catalog", "recover --archive-dir ~/kraken"),
        ("Take it from a backup", "recover --from /backups/kraken"),
    ),
    "keep_commands.backup": (("Save this home", "backup /backups/kraken"),),
    "keep_commands.restore": (("Fill an empty home", "restore /backups/kraken"),),
    "gaps.gaps": (
        ("Hourly gaps of a pair", f"gaps {_SELECTED}"),
        ("All gaps, for a program", "gaps --json"),
    ),
    "report.report": (
        ("The tiers and intervals", "report"),
        ("A page with a map of each pair", "report --html report.html"),
        ("With a chart", "report --html p.html --chart XBTUSD:1d"),
    ),
    "metrics.metrics": (
        ("Serve them to Prometheus on this machine", "metrics"),
        ("Write them once", "metrics --textfile kraken.prom"),
    ),
    "alerts.check": (("What is wrong now", "alerts check"),),
    "alerts.test": (("Whether alerts arrive", "alerts test"),),
    "explain.explain": (("Where one candle comes from", "explain XBTUSD 1h 2024-03-05T14:00"),),
    "pairs.pairs": (
        ("All pairs that are known", "pairs"),
        ("Those of a day", "pairs --at 2021-01-01"),
    ),
    "export.export": (
        ("Hourly candles", "export XBTUSD 1h --to x.csv"),
        ("Eight-hour candles of two pairs", "export XBTUSD,ETHUSD 8h --to x.parquet"),
        ("A data folder for freqtrade", "export ALL 1h --format freqtrade --to x"),
        ("The kept trades of a pair", "export XBTUSD --trades --to x.parquet"),
    ),
    "release.create": (("A release of the daily candles", "release create daily --intervals 1d"),),
    "release.list_all": (("All releases", "release list"),),
    "release.verify": (("One, by its name or folder", "release verify daily"),),
    "release.diff": (("What changed between two", "release diff daily-2024 daily"),),
    "release.delete": (("One that is not needed", "release delete daily"),),
    "status.status": (("The last five runs", "status --limit 5"),),
    "health.health": (("All checks", "health"),),
    "demo.demo": (
        ("In the folder demo-data", "demo"),
        ("Fill every gap as well", "demo --complete"),
    ),
    "dead_letters.list_dead_letters": (("Those of a pair", "dead-letters list --pairs XBTUSD"),),
    "dead_letters.export_dead_letters": (("All, as CSV", "dead-letters export --to rejected.csv"),),
    "run_commands.retry_dead_letters": (
        ("All that failed", "dead-letters retry"),
        ("One", "dead-letters retry --id 17"),
    ),
    "reply_cache.cache_stats": (("Hits and size", "cache stats"),),
    "reply_cache.clear_cache": (("All replies", "cache clear"),),
    "completion.completion": (("In the startup file of Bash", 'eval "$(kraken-pipeline completion bash)"'),),
}


def shown(place: str) -> str | None:
    """Return the examples of a command for its help, in lines that the parser does not wrap; None without any."""
    lines = [
        line
        for what, words in EXAMPLES.get(place, ())
        for line in (f"  {what}:", f"    {words if words.startswith('eval') else f'kraken-pipeline {words}'}")
    ]
    return "\n".join(["\b", "Examples:", *lines]) if lines else None
