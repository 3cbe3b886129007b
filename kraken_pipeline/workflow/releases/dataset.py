"""Reading a dataset release: its candles and what it claims about them, from its folder alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from kraken_pipeline.coverage.claims import SeriesClaims
from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Spans
from kraken_pipeline.errors import DamagedFile, InvalidRequest
from kraken_pipeline.market.candle import CANDLE_SCHEMA, time_from_seconds
from kraken_pipeline.market.pair import did_you_mean
from kraken_pipeline.market.series import Series
from kraken_pipeline.workflow.releases.certificate import (
    CERTIFICATE,
    Certificate,
    DatasetFile,
    InvalidCertificate,
    read_certificate,
)


@dataclass(frozen=True, slots=True)
class DatasetRelease:
    """A dataset release that is open for reading.

    Attributes:
        folder: Its folder.
        certificate: Its certificate.
    """

    folder: Path
    certificate: Certificate
    _claims: Mapping[Series, SeriesClaims]
    _files: Mapping[Series, tuple[DatasetFile, ...]]

    @property
    def series(self) -> tuple[Series, ...]:
        """All series of the release, by pair and interval."""
        return tuple(self._claims)

    def claims(self, series: Series) -> SeriesClaims:
        """Return what the release claims about a series.

        Raises:
            InvalidRequest: The release does not have the series; the message names what it has.
        """
        if (found := self._claims.get(series)) is not None:
            return found
        name = self.certificate.name
        if intervals := [str(known.interval.value) for known in self._claims if known.pair == series.pair]:
            raise InvalidRequest(f"the release {name} has {series.pair} at {', '.join(intervals)} minutes only")
        near = did_you_mean(series.pair, {known.pair for known in self._claims})
        raise InvalidRequest(f"the release {name} does not have {series.pair}{near}")

    def coverage(self, series: Series) -> Spans:
        """Return the covered time of a series."""
        return self.claims(series).covered

    def gaps(self, series: Series) -> Spans:
        """Return the gaps of a series."""
        return self.claims(series).gaps

    def proven(self, series: Series) -> Proven:
        """Return the proven time of a series."""
        claims = self.claims(series)
        return Proven(claims.reconciled, claims.verified)

    def files(self, series: Series) -> tuple[DatasetFile, ...]:
        """Return the files with candles of a series, in order of time."""
        return self._files.get(series, ())

    def read(self, series: Series, start: int | None = None, end: int | None = None) -> pl.DataFrame:
        """Return the candles that start in `[start, end)`, with the columns of `CANDLE_SCHEMA`, sorted, unique by time.

        Args:
            series: The series.
            start: The start, in seconds since the epoch; unbounded where it is None.
            end: The end, likewise, excluded.

        Raises:
            InvalidRequest: The release does not have the series.
            DamagedFile: A file is missing, or has another size than the release says.
        """
        self.claims(series)
        files = [file for file in self.files(series) if file.overlaps(start, end)]
        if not files:
            return pl.DataFrame(schema=CANDLE_SCHEMA)
        for file in files:
            self._require(file)
        within = [] if start is None else [pl.col("time") >= time_from_seconds(pl.lit(start))]
        within += [] if end is None else [pl.col("time") < time_from_seconds(pl.lit(end))]
        try:
            found = pl.scan_parquet(
                [self.folder / file.path for file in files],
                schema=CANDLE_SCHEMA,
                missing_columns="insert",  # files of earlier versions have no flow
                hive_partitioning=False,
            )
            return found.filter(*within).select(CANDLE_SCHEMA.names()).collect()
        except pl.exceptions.PolarsError as error:
            paths = tuple(file.path for file in files)
            raise DamagedFile(f"{self.folder / paths[0]} cannot be read ({error}){self._advice}", paths) from error

    @property
    def _advice(self) -> str:
        return f"; kraken-pipeline release verify {self.folder} says what is damaged"

    def _require(self, file: DatasetFile) -> None:
        path = self.folder / file.path
        size = path.stat().st_size if path.is_file() else None
        if size != file.bytes:
            wrong = "does not exist" if size is None else f"has {size:,} bytes instead of {file.bytes:,}"
            raise DamagedFile(f"{path} {wrong}{self._advice}", (file.path,))


def open_release(folder: Path) -> DatasetRelease:
    """Open the release in a folder for reading; its digests are not compared, as `verify_release` does.

    Raises:
        InvalidRequest: The folder has no release.
    """
    try:
        certificate, _ = read_certificate(folder)
    except FileNotFoundError:
        raise InvalidRequest(f"{folder} has no {CERTIFICATE}, so it is no release") from None
    except InvalidCertificate as error:
        raise InvalidRequest(f"{folder / CERTIFICATE} is not the certificate of a release: {error}") from error
    files: dict[Series, list[DatasetFile]] = {}
    for file in certificate.files:
        files.setdefault(file.series, []).append(file)
    return DatasetRelease(
        folder,
        certificate,
        {claims.series: claims for claims in certificate.series},
        {series: tuple(sorted(its, key=lambda file: file.start)) for series, its in files.items()},
    )
