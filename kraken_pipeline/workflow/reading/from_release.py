"""A dataset release as a source of candles, with what it claims of them."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import did_you_mean, named_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.workflow.reading.assembly import NO_ROWS, Read
from kraken_pipeline.workflow.reading.evidence import TimeEvidence
from kraken_pipeline.workflow.releases.dataset import DatasetRelease


def pairs_in(release: DatasetRelease, names: Iterable[str]) -> list[str]:
    """Return the names of pairs of a release, each once.

    Raises:
        InvalidRequest: The release does not have one of them; the message names similar ones.
    """
    known = {series.pair for series in release.series}
    found = list(dict.fromkeys(named_pair(name, known) for name in names))
    for pair in found:
        if pair not in known:
            near = did_you_mean(pair, known)
            raise InvalidRequest(f"the release {release.certificate.name} does not have {pair}{near}")
    return found


def claimed_evidence(release: DatasetRelease, pair: str) -> TimeEvidence:
    """Return what a release claims of the time of a pair.

    It does not name suspicious quiet time, which it does not claim to be proven.
    """
    claims = {series.interval: release.claims(series) for series in release.series if series.pair == pair}
    stored = {
        interval: Span(files[0].start, files[-1].end)
        for interval in claims
        if (files := release.files(Series(pair, interval)))
    }
    expected = [span.start for its in claims.values() for span in (*its.covered[:1], *its.gaps[:1])]
    return TimeEvidence(
        covered={interval: its.covered for interval, its in claims.items() if its.covered},
        proven={interval: release.proven(Series(pair, interval)) for interval in claims},
        stored=stored,
        first_known=min([*expected, *(span.start for span in stored.values())], default=None),
    )


def release_reader(release: DatasetRelease, pair: str) -> Read:
    """Return the function that reads the candles of a pair; those of intervals that the release lacks are none."""
    there = {series.interval for series in release.series if series.pair == pair}

    def read(interval: Interval, start: int, end: int) -> pl.DataFrame:
        return release.read(Series(pair, interval), start, end) if interval in there else NO_ROWS

    return read


def end_of(release: DatasetRelease) -> int:
    """Return the end of what a release claims, in seconds since the epoch."""
    ends = [span.end for its in release.certificate.series for span in (*its.covered[-1:], *its.gaps[-1:])]
    return max([*ends, *(file.end for file in release.certificate.files)], default=0)
