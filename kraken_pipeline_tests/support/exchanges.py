"""A small world whose exchange is asked: two pairs, 40 days, and a clock that stands still on both sides."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kraken_pipeline.demo.archives import write_csv
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import World
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.quarter import Quarter
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline_tests.support.homes import oracle, run, settings_of

BEGIN = Quarter(2023, 3).start
ARCHIVED = BEGIN + 5 * DAY
NOW = BEGIN + 40 * DAY + 1_234
REACH = (NOW - 1_234) - 720 * 3_600
"""Where OHLC of hours begins."""
PAIRS = ("ADAEUR", "XBTUSD")
SUMMER = World(
    5,
    (
        Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 28_000.0, 0.006, 40, BEGIN),
        Listing("ADAEUR", "ADAEUR", "ADA/EUR", "ADA", "ZEUR", 6, 0.355, 55.0, 30, BEGIN, night=(2, 4)),
    ),
    NOW,
)
"""No archive has more of it than the first five days."""
UNCONTRADICTED = {"spans_refuted": 0, "contradictions_healed": 0, "new_conflicts": 0}
"""What the outcome of a run says of reconciliation where everything agrees."""


def write_hours(folder: Path) -> Path:
    """The archives of the first five days, of hours."""
    folder.mkdir(parents=True, exist_ok=True)
    for pair in PAIRS:
        write_csv(folder, SUMMER, pair, Interval.H1, start=BEGIN, end=ARCHIVED)
    return folder


def write_home(home: Path, archives: Path) -> Path:
    """A home that holds these archives, and of which nothing was asked of anybody yet; to be copied."""
    with opened(settings_of(home)) as stores:
        run(stores, archives, now=NOW, intervals="60", resampling=False)
    return home


def copied(home: Path, folder: Path) -> Path:
    """A copy of a home."""
    return Path(shutil.copytree(home, folder / "home"))


def stop_clock(patch: pytest.MonkeyPatch, now: int, *modules: ModuleType) -> None:
    """Lets runs that these modules start take a moment (seconds since the epoch) for the present."""
    for module in modules:
        patch.setattr(module, "time", SimpleNamespace(time=lambda: float(now)))


def asked(exchange: DemoExchange) -> list[str]:
    """What was asked for, sorted: endpoint, pair and interval, as far as it names them."""
    return sorted(
        " ".join(part for part in (each.endpoint, each.pair, each.params.get("interval")) if part)
        for each in exchange.requests
    )


def happened(pair: str, interval: int, start: int = BEGIN, end: int | None = None) -> list[tuple[float, ...]]:
    """The true candles up to now, as `homes.values`."""
    return oracle(pair, interval, start, Interval(interval).floor(NOW) if end is None else end, SUMMER)


@contextmanager
def at(exchange: DemoExchange, home: Path, **more: Any) -> Iterator[Stores]:
    """A home whose exchange is this one; its breaker stays out of the way."""
    given = {"kraken_api_url": exchange.url, "kraken_breaker_failures": 1_000}
    with opened(settings_of(home, **{**given, **more})) as stores:
        yield stores
