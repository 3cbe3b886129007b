"""Dataset releases to test with, and a verifier of their digest that shares nothing with the program."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import polars as pl

from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.releases.certificate import Certificate
from kraken_pipeline.workflow.releases.create import create_release
from kraken_pipeline.workflow.releases.verification import ReleaseVerification, verify_release
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import NOW


def released(stores: Stores, name: str = "a", *, now: int = NOW, links: bool = True, **selected: Any) -> Certificate:
    """A release of a home."""
    return create_release(stores, name, run_spec(**selected), RunContext("release", now), links=links)


def verified(folder: Path, public_key: Path | None = None) -> ReleaseVerification:
    """A verification without a display."""
    return verify_release(folder, RunContext("verify", NOW), public_key=public_key)


def failed_claims(folder: Path, public_key: Path | None = None) -> list[str]:
    """The names of the claims of a release that do not hold."""
    return [failed.claim for failed in verified(folder, public_key).failures]


def digest_by_hand(folder: Path) -> str:
    """The digest of a release as docs/releases.md describes it, from its rows and its JSON, in plain Python."""
    said = json.loads((folder / "RELEASE.json").read_text())
    for claims in said["claims"]["series"]:
        paths = [each["path"] for each in said["files"] if (each["pair"], each["interval"]) == key_of(claims)]
        rows = sorted(row for path in paths for row in rows_by_hand(folder / path))
        claims["rows"] = len(rows)
        claims["rows_sha256"] = hashlib.sha256(b"".join(struct.pack("<qdddddq", *row) for row in rows)).hexdigest()
        times, length = {row[0] for row in rows}, claims["interval"] * 60
        claims["uncovered_rows"] = sum(not any(a <= time < b for a, b in claims["covered"]) for time in times)
        quiet: list[list[int]] = []
        for start, end in claims["covered"]:
            for time in range(start, end, length):
                if time not in times:
                    if quiet and quiet[-1][1] == time:
                        quiet[-1][1] = time + length
                    else:
                        quiet.append([time, time + length])
        claims["quiet"] = {
            "spans": len(quiet),
            "candles": sum(end - start for start, end in quiet) // length,
            "sha256": hashlib.sha256(b"".join(struct.pack("<qq", *span) for span in quiet)).hexdigest(),
        }
    canonical = json.dumps(said["claims"], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def key_of(claims: Any) -> tuple[str, int]:
    """Pair and interval."""
    return claims["pair"], claims["interval"]


def rows_by_hand(path: Path) -> list[tuple[Any, ...]]:
    """Time in seconds, open, high, low, close, volume and trade count of each candle of a file."""
    names = ("open", "high", "low", "close", "volume", "trade_count")
    found = pl.read_parquet(path, hive_partitioning=False).select("time", *names)
    return [(int(time.timestamp()), *values) for time, *values in found.iter_rows()]
