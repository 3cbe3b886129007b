"""Another time for the present."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from dagster import _time


@contextmanager
def clock_ahead(seconds: float) -> Iterator[None]:
    """Lets the program take another time for the present, which goes on as time does."""
    now, now_ns = time.time, time.time_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: now() + seconds)
        patch.setattr(time, "time_ns", lambda: now_ns() + round(seconds * 1e9))
        yield


@contextmanager
def dagsters_clock_ahead(seconds: float) -> Iterator[None]:
    """Lets Dagster alone take another time for the present: gRPC, by which its programs talk, needs the real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_time, "_mockable_get_current_timestamp", lambda: time.time() + seconds)
        patch.setattr(_time, "_mockable_get_current_datetime", lambda: datetime.now(UTC) + timedelta(seconds=seconds))
        yield
