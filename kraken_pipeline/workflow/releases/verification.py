"""Verifying a dataset release from its folder alone: each claim that can be checked is checked, and named if it fails.

What is checked: the form of RELEASE.json, its digest, every file, every row, the relations between the spans and the
rows, and the signature if a public key is given. What a source answered cannot be checked without the sources.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import polars as pl

from kraken_pipeline.coverage.claims import SeriesClaims, SeriesTally
from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import normalise, whole_candles
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import CANDLE_SCHEMA
from kraken_pipeline.market.flow import FLOW, with_flow
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.releases.certificate import (
    CERTIFICATE,
    SIGNATURE,
    Certificate,
    DatasetFile,
    InvalidCertificate,
    read_certificate,
)
from kraken_pipeline.workflow.releases.signature import is_signed


@dataclass(frozen=True, slots=True)
class FailedClaim:
    """A claim of a release that does not hold.

    Attributes:
        claim: The claim: `digest`, `signature`, a file's path, or `rows_sha256 of XBTUSD 60`.
        detail: What differs.
    """

    claim: str
    detail: str


@dataclass(frozen=True, slots=True)
class ReleaseVerification:
    """The result of verifying a release.

    Attributes:
        folder: The folder of the release.
        certificate: Its certificate; None where RELEASE.json cannot be read.
        signature: `valid`, `wrong`, `missing`, `not checked` (no public key was given) or `none`.
        failures: The claims that do not hold, in the order of the checks.
    """

    folder: Path
    certificate: Certificate | None
    signature: str
    failures: tuple[FailedClaim, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the result as `release verify --json` shows it."""
        found = self.certificate
        return {
            "status": "failed" if self.failures else "ok",
            "folder": str(self.folder),
            "name": found and found.name,
            "digest": found and found.digest,
            "series": 0 if found is None else len(found.series),
            "candles": 0 if found is None else found.rows,
            "files": 0 if found is None else len(found.files),
            "bytes": 0 if found is None else found.bytes,
            "signature": self.signature,
            "failures": [{"claim": failed.claim, "detail": failed.detail} for failed in self.failures],
        }


def verify_release(folder: Path, run: RunContext, *, public_key: Path | None = None) -> ReleaseVerification:
    """Verify the release in a folder; nothing else is read, and nothing is written.

    Args:
        folder: The folder.
        run: The context of the run, which receives the progress.
        public_key: A PEM file with an Ed25519 public key, with which the release has to be signed.

    Raises:
        InvalidRequest: The folder has no RELEASE.json, or the key is unusable.
    """
    if not (folder / CERTIFICATE).is_file():
        raise InvalidRequest(f"{folder} has no {CERTIFICATE}, so it is no release")
    signature, unsigned = _signature(folder, public_key)
    try:
        certificate, digest = read_certificate(folder)
    except InvalidCertificate as error:
        return ReleaseVerification(folder, None, signature, (*unsigned, FailedClaim(CERTIFICATE, str(error))))
    wrong = list(unsigned)
    if digest != certificate.digest:
        wrong.append(FailedClaim("digest", f"is {certificate.digest}, but the claims have the digest {digest}"))
    damaged = list(_damaged_files(folder, certificate.files))
    wrong += [failed for _, failed in damaged]
    wrong += _misplaced(certificate)
    of_series: dict[Series, list[DatasetFile]] = {}
    for file in certificate.files:
        of_series.setdefault(file.series, []).append(file)
    unreadable = {path for path, _ in damaged}
    rows = 0
    for claims in certificate.series:
        files = sorted(of_series.get(claims.series, ()), key=lambda file: (file.start, file.path))
        wrong += _failed(folder, certificate, claims, files, unreadable)
        rows += claims.rows
        run.report(phase="verifying", candles=rows)
    run.report(phase="done")
    return ReleaseVerification(folder, certificate, signature, tuple(wrong))


def _signature(folder: Path, public_key: Path | None) -> tuple[str, list[FailedClaim]]:
    """Return the state of the signature, and its failure."""
    there = folder / SIGNATURE
    if public_key is None:
        return ("not checked" if there.exists() else "none"), []
    signature = there.read_bytes() if there.is_file() else None
    if not is_signed((folder / CERTIFICATE).read_bytes(), signature or b"", public_key):
        if signature is None:
            return "missing", [FailedClaim("signature", f"{SIGNATURE} does not exist")]
        detail = f"{SIGNATURE} is not the signature of {CERTIFICATE} by the private key of {public_key}"
        return "wrong", [FailedClaim("signature", detail)]
    return "valid", []


# --- the files


def _damaged_files(folder: Path, files: Iterable[DatasetFile]) -> Iterator[tuple[str, FailedClaim]]:
    """Yield the files that differ from what is claimed: missing, changed, or not named at all."""
    found = dict(_files_below(folder))
    for file in files:
        is_regular = found.pop(file.path, None)
        if is_regular is None:
            yield file.path, FailedClaim(file.path, "does not exist")
        elif not is_regular:
            yield (
                file.path,
                FailedClaim(file.path, "is a link to another file, so that the release does not contain it"),
            )
        elif (size := (folder / file.path).stat().st_size) != file.bytes:
            yield file.path, FailedClaim(file.path, f"has {size:,} bytes instead of {file.bytes:,}")
        elif (sha256 := _sha256(folder / file.path)) != file.sha256:
            yield file.path, FailedClaim(file.path, f"has the SHA-256 {sha256} instead of {file.sha256}")
    for path in sorted(found.keys() - {CERTIFICATE, SIGNATURE}):
        yield path, FailedClaim(path, f"is not named in {CERTIFICATE}")


def _files_below(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield the path of every file in a folder, and whether it is a regular file; links are not followed."""
    for at, folders, names in os.walk(folder):
        for name in (*names, *(name for name in folders if (Path(at) / name).is_symlink())):
            path = Path(at) / name
            yield path.relative_to(folder).as_posix(), path.is_file() and not path.is_symlink()


def _sha256(path: Path) -> str:
    with path.open("rb", buffering=0) as stream:
        return file_digest(stream, "sha256").hexdigest()


# --- the claims


def _misplaced(certificate: Certificate) -> Iterator[FailedClaim]:
    """Yield what is said of series that are not selected, or twice of one."""
    series = [claims.series for claims in certificate.series]
    if series != sorted(set(series)):
        yield FailedClaim("series", "they are not in order of pair and interval, or one is there twice")
    selection = certificate.selection
    for one_series in series:
        if one_series.pair not in selection.pairs or one_series.interval not in selection.intervals:
            yield FailedClaim(f"selection of {one_series}", "the series is not selected")
    for file in certificate.files:
        if file.series not in set(series):
            yield FailedClaim(file.path, f"has candles of {file.series}, about which nothing is claimed")


def _failed(
    folder: Path,
    certificate: Certificate,
    claims: SeriesClaims,
    files: Iterable[DatasetFile],
    unreadable: set[str],
) -> Iterator[FailedClaim]:
    """Yield the claims about one series that do not hold."""
    series = claims.series
    window = whole_candles((certificate.selection.window,), series.interval)
    broken = list(claims.broken(window))
    yield from (FailedClaim(f"{name} of {series}", why) for name, why in broken)
    tally = SeriesTally(series, normalise(claims.covered))
    read = list(files)
    for file in read:
        if file.path in unreadable:
            return  # the file itself is named, and nothing can be said of rows that cannot be read
        candles = _read(folder / file.path)
        if isinstance(candles, str):
            yield FailedClaim(file.path, candles)
            return
        tally.add(candles)
        yield from (FailedClaim(file.path, why) for why in _edges(file, candles))
    actual = tally.claims(claims.gaps, Proven(claims.reconciled, claims.verified))
    if not tally.is_ordered:
        yield FailedClaim(f"rows of {series}", "they are not in order of time, or not on the grid of the interval")
    if any(file.start < certificate.selection.window.start for file in read):
        yield FailedClaim(f"rows of {series}", "a candle lies before the start of the release")
    for name in ("rows", "rows_sha256", "uncovered_rows", "quiet"):
        said, found = getattr(claims, name), getattr(actual, name)
        if said != found and not (name == "quiet" and broken):
            yield FailedClaim(f"{name} of {series}", f"is {said}, but the files have {found}")


def _read(path: Path) -> pl.DataFrame | str:
    """Return the candles of a file, or what is wrong with it."""
    try:
        candles = with_flow(pl.read_parquet(path, hive_partitioning=False))  # which earlier files do not have
    except (pl.exceptions.PolarsError, OSError) as error:
        return f"cannot be read: {error}"
    if candles.schema != CANDLE_SCHEMA:
        return f"has other columns than {', '.join(CANDLE_SCHEMA.names())}"
    if any(candles[name].null_count() for name in CANDLE_SCHEMA if name not in FLOW):
        return "has a candle with a missing value"
    return candles


def _edges(file: DatasetFile, candles: pl.DataFrame) -> Iterator[str]:
    """Yield what a certificate says wrong about the candles of a file."""
    if candles.height != file.rows:
        yield f"has {candles.height:,} rows instead of {file.rows:,}"
    elif candles.height:
        first, last = (int(time.timestamp()) for time in (candles["time"][0], candles["time"][-1]))
        if (first, last + file.series.interval.seconds) != (file.start, file.end):
            yield f"has candles from {iso(first)} to {iso(last + file.series.interval.seconds)}, which is not its span"
