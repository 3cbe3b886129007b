"""What newer releases say of themselves: MANIFEST.json and lists of SHA-256 sums.

The manifest has `columns`, `coverage`, `rows` and `has_header`; the sums are in it or in a file SHA256SUMS beside
it. Everything is optional: what is not said is not checked, what is said must hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, ValidationError

from kraken_pipeline.errors import UnreadableArchive

MANIFEST = "MANIFEST.json"
_SUMS = "SHA256SUMS"
_SUM_LINE = re.compile(r"(?P<sum>[0-9a-fA-F]{64})\s+\*?(?P<name>.+?)\s*")


def _moment(value: Any, *, is_end: bool) -> Any:
    """A time as seconds since the epoch; a date that ends something means the whole of that day."""
    if not isinstance(value, str):
        return value
    if len(value) == len("2026-06-30"):
        day = date.fromisoformat(value) + timedelta(days=int(is_end))
        return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
    moment = datetime.fromisoformat(value)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


class Covered(BaseModel):
    """The time that a release says it covers, `[start, end)` in seconds since the epoch."""

    start: Annotated[int | None, BeforeValidator(lambda value: _moment(value, is_end=False))] = Field(
        default=None, validation_alias=AliasChoices("start", "from", "first")
    )
    end: Annotated[int | None, BeforeValidator(lambda value: _moment(value, is_end=True))] = Field(
        default=None, validation_alias=AliasChoices("end", "to", "last")
    )


class Listed(BaseModel):
    """A file that a manifest lists."""

    name: str = Field(validation_alias=AliasChoices("name", "path", "file"))
    rows: int | None = None
    sha256: str | None = None


class Manifest(BaseModel):
    """A release's MANIFEST.json.

    Attributes:
        columns: The names of a row's fields, in order.
        has_header: Whether files begin with a line of names.
        coverage: What the release covers.
        files: The members, with their rows and sums.
        parts: The files that the release is downloaded in, with their sums.
    """

    columns: tuple[str, ...] = ()
    has_header: bool = False
    coverage: Covered = Covered()
    files: tuple[Listed, ...] = ()
    parts: tuple[Listed, ...] = ()

    def is_about(self, names: set[str]) -> bool:
        """Whether it lists one of these downloads."""
        return any(part.name in names for part in self.parts)

    def rows_of(self, member: str) -> int | None:
        """How many rows a member has, where the manifest says so."""
        base = member.rsplit("/", 1)[-1]
        return next((file.rows for file in self.files if file.name.rsplit("/", 1)[-1] == base), None)


def parse_manifest(content: bytes, container: str) -> Manifest:
    """The manifest of a container.

    Raises:
        UnreadableArchive: It is not one, or its rows have columns in an order that is not known here.
    """
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise UnreadableArchive(f"{container}: its {MANIFEST} cannot be read ({problems})") from error
    return manifest


def read_sums(folder: Path) -> Mapping[str, str]:
    """Name → SHA-256 in lower case, of a file SHA256SUMS in a folder; empty where there is none."""
    path = folder / _SUMS
    if not path.is_file():
        return {}
    lines = (_SUM_LINE.fullmatch(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return {found["name"].rsplit("/", 1)[-1]: found["sum"].lower() for found in lines if found}
