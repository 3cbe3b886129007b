"""The certificate of a dataset release, which is its file RELEASE.json; `docs/releases.md` describes its format.

The digest is the SHA-256 of the canonical JSON of `claims`: keys sorted, no spaces, only ASCII, only objects, lists,
strings, integers and null. It depends on nothing else: neither on the name of the release, nor on its files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

from kraken_pipeline.coverage.claims import SPAN_SETS, QuietClaim, SeriesClaims
from kraken_pipeline.coverage.ranges import Span, Spans
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso, parse_moment
from kraken_pipeline.market.series import Series

CERTIFICATE = "RELEASE.json"
SIGNATURE = f"{CERTIFICATE}.sig"
FORMAT = 1
"""The version of the format of RELEASE.json and of the encodings under its digests."""

_MOST = 1 << 62
_KEYS = ("digest", "name", "claims", "files", "conflicts", "sources", "versions", "made_at")
_KEYS_OF_CLAIMS = ("format", "selection", "series")


class InvalidCertificate(ValueError):
    """A RELEASE.json is not one: not JSON, or without what its format requires."""


@dataclass(frozen=True, slots=True)
class DatasetSelection:
    """The selection of a dataset release, without anything left open but its start.

    Attributes:
        tier: The tier; ALL for any.
        pairs: The pairs, sorted.
        intervals: The intervals, the finest first.
        start: The start in seconds since the epoch; None for the first candle of each series.
        end: The end, excluded.
    """

    tier: str
    pairs: tuple[str, ...]
    intervals: tuple[Interval, ...]
    start: int | None
    end: int

    @property
    def window(self) -> Span:
        """The selected time."""
        return Span(0 if self.start is None else self.start, self.end)

    def as_json(self) -> dict[str, Any]:
        """Return the selection as RELEASE.json has it."""
        return {
            "tier": self.tier,
            "pairs": list(self.pairs),
            "intervals": [interval.value for interval in self.intervals],
            "start": None if self.start is None else iso(self.start),
            "end": iso(self.end),
        }


@dataclass(frozen=True, slots=True)
class DatasetFile:
    """A file of a dataset release.

    Attributes:
        path: The path relative to the folder of the release, with slashes.
        series: The series of its candles.
        rows: The number of candles.
        start: The start of the first candle, in seconds since the epoch.
        end: The end of the last candle.
        bytes: The size in bytes.
        sha256: The SHA-256 of its bytes.
    """

    path: str
    series: Series
    rows: int
    start: int
    end: int
    bytes: int
    sha256: str

    def overlaps(self, start: int | None, end: int | None) -> bool:
        """Return whether a candle of the file may start in `[start, end)`."""
        return (end is None or self.start < end) and (start is None or start < self.end)

    def as_json(self) -> dict[str, Any]:
        """Return the file as RELEASE.json has it."""
        return {
            "path": self.path,
            "pair": self.series.pair,
            "interval": self.series.interval.value,
            "rows": self.rows,
            "start": iso(self.start),
            "end": iso(self.end),
            "bytes": self.bytes,
            "sha256": self.sha256,
        }


@dataclass(frozen=True, slots=True)
class Certificate:
    """The content of a RELEASE.json.

    Attributes:
        digest: The digest that it states.
        name: The name that the release was made with.
        selection: The selection.
        series: The claims about each series, by pair and interval.
        files: The files, by path.
        conflicts: The differences between sources that no source settles, each with its reason.
        sources: The sources of the candles of each series: counts by source, and the archives that were ingested.
        versions: The versions of the format, the program and the catalog.
        made_at: The time when it was made, in seconds since the epoch.
    """

    digest: str
    name: str
    selection: DatasetSelection
    series: tuple[SeriesClaims, ...]
    files: tuple[DatasetFile, ...]
    conflicts: tuple[Mapping[str, Any], ...]
    sources: tuple[Mapping[str, Any], ...]
    versions: Mapping[str, str]
    made_at: int

    @property
    def rows(self) -> int:
        """The number of candles of all series."""
        return sum(claims.rows for claims in self.series)

    @property
    def bytes(self) -> int:
        """The size of all files of candles, in bytes."""
        return sum(file.bytes for file in self.files)

    def summary(self) -> dict[str, Any]:
        """Return the release as `release list --json` shows it."""
        selection = self.selection.as_json()
        return {
            "name": self.name,
            "digest": self.digest,
            "made_at": iso(self.made_at),
            "series": len(self.series),
            "candles": self.rows,
            "files": len(self.files),
            "bytes": self.bytes,
            "start": selection["start"],
            "end": selection["end"],
        }


def claims_json(selection: DatasetSelection, series: Iterable[SeriesClaims]) -> dict[str, Any]:
    """Return the part of a certificate that its digest covers."""
    return {"format": FORMAT, "selection": selection.as_json(), "series": [claims.as_json() for claims in series]}


def digest_of(claims: Any) -> str:
    """Return the digest of the part of a certificate that `claims_json` returns."""
    canonical = json.dumps(claims, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return sha256(canonical.encode()).hexdigest()


def content_of(certificate: Certificate) -> bytes:
    """Return the content of RELEASE.json, with one series, file or conflict a line."""
    claims = claims_json(certificate.selection, certificate.series)
    parts = {
        "digest": _line(certificate.digest),
        "name": _line(certificate.name),
        "claims": "".join(
            (
                '{\n"format": ',
                _line(claims["format"]),
                ',\n"selection": ',
                _line(claims["selection"]),
                ',\n"series": ',
                _lines(claims["series"]),
                "\n}",
            )
        ),
        "files": _lines(file.as_json() for file in certificate.files),
        "conflicts": _lines(certificate.conflicts),
        "sources": _lines(certificate.sources),
        "versions": _line(dict(certificate.versions)),
        "made_at": _line(iso(certificate.made_at)),
    }
    text = ",\n".join(f'"{name}": {value}' for name, value in parts.items())
    return f"{{\n{text}\n}}\n".encode()


def _line(value: Any) -> str:
    return json.dumps(value, separators=(", ", ": "), allow_nan=False)


def _lines(values: Iterable[Any]) -> str:
    lines = [_line(value) for value in values]
    return "[\n" + ",\n".join(lines) + "\n]" if lines else "[]"


# --- reading


def read_certificate(folder: Path) -> tuple[Certificate, str]:
    """Return the certificate in a folder, and the digest that its claims have.

    Raises:
        InvalidCertificate: The file is not a certificate of a known format; the message says where.
        OSError: There is no such file, or it cannot be read.
    """
    content = (folder / CERTIFICATE).read_bytes()
    try:
        said = json.loads(content, object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_no_number)
        return _certificate(said), digest_of(said["claims"])
    except RecursionError:
        raise InvalidCertificate("its JSON is nested too deeply") from None
    except KeyError as error:
        raise InvalidCertificate(f"the key {error} is missing") from error
    except (ValueError, TypeError, AttributeError, InvalidRequest) as error:
        raise InvalidCertificate(str(error)) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InvalidCertificate("a key stands twice in one object")
    return found


def _no_number(text: str) -> NoReturn:
    raise InvalidCertificate(f"{text} is not an integer")


def _certificate(said: Mapping[str, Any]) -> Certificate:
    claims = said["claims"]
    if claims["format"] != FORMAT:
        raise InvalidCertificate(f"its format is {claims['format']!r}; this version reads format {FORMAT}")
    for what, keys in ((said, _KEYS), (claims, _KEYS_OF_CLAIMS)):
        if others := sorted(what.keys() - set(keys)):
            raise InvalidCertificate(f"the key {others[0]!r} is not in its format")
    return Certificate(
        digest=_text(said["digest"]),
        name=_text(said["name"]),
        selection=_selection(claims["selection"]),
        series=tuple(_claims(one) for one in claims["series"]),
        files=tuple(_file(one) for one in said["files"]),
        conflicts=tuple(map(dict, said["conflicts"])),
        sources=tuple(map(dict, said["sources"])),
        versions=dict(said["versions"]),
        made_at=parse_moment(said["made_at"]),
    )


def _selection(said: Mapping[str, Any]) -> DatasetSelection:
    found = DatasetSelection(
        tier=_text(said["tier"]),
        pairs=tuple(map(_text, said["pairs"])),
        intervals=tuple(map(Interval, said["intervals"])),
        start=None if said["start"] is None else parse_moment(said["start"]),
        end=parse_moment(said["end"]),
    )
    if found.as_json() != said:
        raise InvalidCertificate("the selection has other keys, or other spellings, than its format")
    return found


def _claims(said: Mapping[str, Any]) -> SeriesClaims:
    found = SeriesClaims(
        series=_series(said),
        rows=_number(said["rows"]),
        rows_sha256=_text(said["rows_sha256"]),
        uncovered_rows=_number(said["uncovered_rows"]),
        quiet=QuietClaim(**said["quiet"]),
        **{name: _spans(said[name]) for name in SPAN_SETS},
    )
    if found.as_json() != said:  # nothing else may stand beside what is verified
        raise InvalidCertificate(f"the claims about {found.series} have other keys than the format")
    return found


def _file(said: Mapping[str, Any]) -> DatasetFile:
    return DatasetFile(
        path=_text(said["path"]),
        series=_series(said),
        rows=_number(said["rows"]),
        start=parse_moment(said["start"]),
        end=parse_moment(said["end"]),
        bytes=_number(said["bytes"]),
        sha256=_text(said["sha256"]),
    )


def _series(said: Mapping[str, Any]) -> Series:
    return Series(_text(said["pair"]), Interval(said["interval"]))


def _spans(said: Iterable[Any]) -> Spans:
    return tuple(Span(_number(start), _number(end)) for start, end in said)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidCertificate(f"{value!r} is not a string")
    return value


def _number(value: Any) -> int:
    if type(value) is not int or abs(value) > _MOST:
        raise InvalidCertificate(f"{value!r} is not an integer of at most 62 bits")
    return value


def conflict_json(series: Series, span: Span, reason: str, *, candles: int) -> dict[str, Any]:
    """Return a conflict as RELEASE.json has it."""
    return {
        "pair": series.pair,
        "interval": series.interval.value,
        **{edge: iso(moment) for edge, moment in asdict(span).items()},
        "candles": candles,
        "reason": reason,
    }
