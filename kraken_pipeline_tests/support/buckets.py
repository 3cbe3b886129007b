"""Buckets to test with: what lies in them, and which requests reached them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kraken_pipeline_tests.support.servers import S3

PREFIX = "a/prefix"
"""Under which a lake lies in its bucket: it need not have the bucket for itself."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket.

    Attributes:
        server: Its server.
        folder: The folder that it is, with its objects as files.
    """

    server: S3
    folder: Path

    @property
    def url(self) -> str:
        """The value of KRAKEN_LAKE_URL."""
        return f"s3://{self.folder.name}/{PREFIX}"

    @property
    def place(self) -> Path:
        """The folder that has `lake`, `replaced` and `damaged`."""
        return self.folder / PREFIX

    def objects(self, below: str = "") -> set[str]:
        """The keys of its objects, without the prefix."""
        found = (path for path in (self.place / below).rglob("*") if path.is_file())
        return {path.relative_to(self.place).as_posix() for path in found}

    def requests(self) -> list[tuple[str, str]]:
        """The operation and the key of each request so far; the key without the prefix."""
        return [(what, key.removeprefix(f"{PREFIX}/")) for what, key in self.server.requests(self.folder.name)]

    def since(self, before: int) -> Mapping[str, int]:
        """How many requests there were of each operation after the first ones."""
        return Counter(what for what, _ in self.requests()[before:])
