"""Prints releases of a dataset, the result of verifying one, and the differences of two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kraken_pipeline.cli.layout import TextTable, say
from kraken_pipeline.coverage.ranges import Spans, slots
from kraken_pipeline.market.moment import iso, short
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.workflow.explain.explanation import Stored
from kraken_pipeline.workflow.releases.certificate import Certificate
from kraken_pipeline.workflow.releases.differences import ReleaseDifference, SeriesDifference
from kraken_pipeline.workflow.releases.folder import ListedRelease
from kraken_pipeline.workflow.releases.verification import ReleaseVerification

_SIGNATURES = {
    "valid": "The signature is valid.",
    "not checked": "It is signed; the signature was not checked: name the public key with --public-key.",
    "none": "It is not signed.",
}


def made(console: Console, certificate: Certificate, folder: Path) -> None:
    """Print what a new release has, and its digest."""
    say(console, f"The release {certificate.name} is in {folder}: {_contents(certificate)}.")
    say(console, f"digest {certificate.digest}")


def listed(console: Console, releases: Sequence[ListedRelease]) -> None:
    """Print the releases of a home."""
    if not releases:
        say(console, "There is no release; kraken-pipeline release create NAME makes one.")
        return
    table = TextTable(
        "Releases", "name", "made at", ">series", ">candles", "end", "signed", "digest", least=("signed",)
    )
    for release in releases:
        found = release.certificate
        if found is None:
            table.add_row(release.name, "", "", "", "", "", f"RELEASE.json cannot be read: {release.error}")
        else:
            table.add_row(
                release.name,
                short(found.made_at),
                f"{len(found.series):,}",
                f"{found.rows:,}",
                short(found.selection.end),
                "yes" if release.is_signed else "no",
                found.digest,
            )
    table.print(console)


def verification(console: Console, found: ReleaseVerification) -> None:
    """Print the result of verifying a release: each claim that fails, and what holds."""
    for failed in found.failures:
        say(console, f"{failed.claim}: {failed.detail}", "red")
    if found.failures:
        say(console, f"{quantity(len(found.failures), 'claim')} of the release in {found.folder} failed.")
        return
    if found.certificate is not None:
        say(
            console,
            f"Every claim of {found.certificate.name} that can be checked holds: {_contents(found.certificate)}.",
        )
        say(console, _SIGNATURES[found.signature])
        say(console, f"digest {found.certificate.digest}")


def difference(console: Console, found: ReleaseDifference) -> None:
    """Print the differences of two releases."""
    if found.digests[0] == found.digests[1]:
        say(console, f"Both releases have the digest {found.digests[0]}: the same candles and the same claims.")
        return
    if found.selections[0] != found.selections[1]:
        say(console, "The two releases have different selections.")
    if not found.series:
        say(console, "All series have the same candles and the same claims.")
        return
    table = TextTable("Series that differ", "series", ">added", ">removed", ">changed", "claims")
    for series in found.series:
        counts = (f"{count:,}" for count in (series.added, series.removed, series.changed))
        table.add_row(str(series.series), *counts, _claims(series))
    table.print(console)
    if found.candles:
        candles = TextTable("Candles that differ", "series", "time", "change", "from", "to", "why")
        for candle in found.candles:
            values = (_values(candle.before), _values(candle.after))
            candles.add_row(str(candle.series), short(candle.time), candle.change, *values, candle.why)
        candles.print(console)
    if found.count > len(found.candles):
        say(console, f"{len(found.candles):,} of {quantity(found.count, 'candle')} are listed; --limit lists more.")


def _claims(series: SeriesDifference) -> str:
    def size(spans: Spans) -> int:
        return slots(spans, series.series.interval)

    said = [f"only in {series.only_in}"] if series.only_in else []
    for name, (lost, gained) in series.spans.items():
        if lost or gained:
            said.append(f"{name} {' '.join(f'{sign}{size(of):,}' for sign, of in (('-', lost), ('+', gained)) if of)}")
    return ", ".join(said)


def _values(candle: Stored | None) -> str:
    return (
        ""
        if candle is None
        else " ".join(f"{value:g}" if value == int(value) else str(value) for value in candle.values)
    )


def _contents(certificate: Certificate) -> str:
    start = certificate.selection.start
    time = f"{'from the first candle' if start is None else f'from {iso(start)}'} to {iso(certificate.selection.end)}"
    size = f"{certificate.bytes / 2**20:,.1f} MiB"
    return (
        f"{quantity(certificate.rows, 'candle')} of {len(certificate.series):,} series {time}, in "
        f"{quantity(len(certificate.files), 'file')} with {size}"
    )
