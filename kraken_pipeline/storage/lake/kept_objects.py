"""Kept objects: what a process has just put into a bucket or read from it, in memory, so that it is not read again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

KEPT_BYTES = 64 * 2**20
"""The most bytes that are kept: a batch of 64 series with a megabyte each, which is what one step works on at once."""
LARGEST_BYTES = KEPT_BYTES // 16
"""The size above which an object is not kept: a year of minutes (14 MB) would displace hundreds of small series."""


class KeptObjects:
    """The content of objects by key; what was not used for longest goes first."""

    def __init__(self) -> None:
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._guard = threading.Lock()

    def keep(self, path: str, content: bytes) -> None:
        """Keep the content of an object instead of an earlier one."""
        with self._guard:
            self._drop(path)
            if len(content) > LARGEST_BYTES:
                return
            self._contents[path] = content
            self._bytes += len(content)
            while self._bytes > KEPT_BYTES:
                self._drop(next(iter(self._contents)))

    def get(self, path: str) -> bytes | None:
        """Return the content of an object; None where it is not kept."""
        with self._guard:
            if path in self._contents:
                self._contents.move_to_end(path)
            return self._contents.get(path)

    def drop(self, paths: Iterable[str]) -> None:
        """Keep some objects no longer."""
        with self._guard:
            for path in paths:
                self._drop(path)

    def _drop(self, path: str) -> None:
        self._bytes -= len(self._contents.pop(path, b""))
