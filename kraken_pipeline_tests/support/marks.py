"""The marks of tests: what a test needs, so that those that need nothing can be run often.

`make test-fast` leaves out all that are marked. Tests with a server's or the browser's fixture are marked by it; `slow`
and `process` are written at the test. A test that needs more than its marks say fails.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

SERVERS = frozenset(
    {"postgresql", "postgresql_url", "redis_server", "redis_url", "questdb", "questdb_server", "s3_server", "bucket"}
)
NEEDS = ("servers", "process", "browser", "slow")


def mark_by_fixtures(items: Iterable[pytest.Item]) -> None:
    """Marks each test that asks for a server or for the browser."""
    for item in items:
        asked = set(getattr(item, "fixturenames", ()))
        if asked & SERVERS:
            item.add_marker("servers")
        if "browser" in asked:
            item.add_marker("browser")


@contextmanager
def no_process(item: pytest.Item) -> Iterator[None]:
    """While an unmarked test is set up or runs, a process that it starts is an error."""
    if any(item.get_closest_marker(name) for name in NEEDS):
        yield
        return
    started: list[object] = []

    def refuse(self: object, *arguments: Any, **_: Any) -> None:
        started.append(arguments[0] if arguments else self)
        raise AssertionError(f"a test that starts a process has the mark `process`: {started[-1]}")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(subprocess.Popen, "__init__", refuse)
        patched.setattr(BaseProcess, "start", refuse)
        yield
    assert not started, f"a test that starts a process has the mark `process`: {started}"
