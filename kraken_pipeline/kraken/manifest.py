"""Metadata of newer releases: MANIFEST.json and lists of SHA-256 sums.

::

    {"product": "ohlcvt", "columns": ["timestamp", "open", …], "has_header": false,
     "coverage": {"start": "2026-04-01", "end": "2026-06-30"}, "pairs": 1399, "files": 9793, "rows": 35247327}

Everything is optional: what is absent is not checked, what is present must be true.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import IO, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ValidationError

from kraken_pipeline.archive_path import ArchivePath
from kraken_pipeline.errors import InvalidRequest, UnreadableArchive
from kraken_pipeline.market.moment import parse_moment

MANIFEST = "MANIFEST.json"
SUMS = "*SHA256SUMS*"
_MOST_BYTES = 8 << 20
"""The largest manifest or list of sums; a list of 9,793 files has 1 MiB."""
_DATE = len("2026-06-30")
_SUM_LINE = re.compile(r"(?P<sum>[0-9a-fA-F]{64})\s+\*?(?P<name>.+?)\s*")


def _start(value: Any) -> Any:
    try:
        return parse_moment(value) if isinstance(value, str) else value
    except InvalidRequest as error:
        raise ValueError(str(error)) from error


def _end(value: Any) -> Any:
    """Return the end of a release; a date includes the whole of that day."""
    return _start(value) + 86_400 if isinstance(value, str) and len(value) == _DATE else _start(value)


class PromisedSpan(BaseModel):
    """The time that a release promises to cover, `[start, end)` in seconds since the epoch."""

    start: Annotated[int | None, BeforeValidator(_start)] = None
    end: Annotated[int | None, BeforeValidator(_end)] = None


class ReleaseManifest(BaseModel):
    """A release's MANIFEST.json.

    Attributes:
        columns: The names of a row's fields, in order.
        has_header: Whether files begin with a line of names.
        coverage: The time that the release covers.
        files: The number of CSV files in it.
    """

    columns: tuple[str, ...] = ()
    has_header: bool = False
    coverage: PromisedSpan = PromisedSpan()
    files: int | None = None


def parse_manifest(stream: IO[bytes], container: str) -> ReleaseManifest:
    """Parse the manifest of a container.

    Raises:
        UnreadableArchive: The content is not a valid manifest.
    """
    content = stream.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise UnreadableArchive(f"{container}: its {MANIFEST} has more than {_MOST_BYTES:,} bytes; download it again")
    try:
        return ReleaseManifest.model_validate_json(content)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())
        raise UnreadableArchive(f"{container}: its {MANIFEST} cannot be read ({problems})") from error


def read_sums(folder: ArchivePath) -> Mapping[str, str]:
    """Return file name → SHA-256 in lower case, from all lists of sums in a folder (`…SHA256SUMS….txt`).

    A file of more than 8 MiB is no list of sums.
    """
    sums: dict[str, str] = {}
    for path in sorted(path for path in folder.glob(SUMS) if path.stat().st_size <= _MOST_BYTES):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if (found := _SUM_LINE.fullmatch(line)) is not None:
                sums[found["name"].rsplit("/", 1)[-1]] = found["sum"].lower()
    return sums
