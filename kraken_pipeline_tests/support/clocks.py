"""Another time for the present."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def clock_ahead(seconds: float) -> Iterator[None]:
    """Lets the program take another time for the present, which goes on as time does."""
    now, now_ns = time.time, time.time_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: now() + seconds)
        patch.setattr(time, "time_ns", lambda: now_ns() + round(seconds * 1e9))
        yield
