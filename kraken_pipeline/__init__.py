"""Archives and REST API of the Kraken exchange as a complete, verified store of candles.

For notebooks::

    from kraken_pipeline import Interval, Series, condition, connect_questdb, pairs, read_candles, scan_candles

    candles = read_candles("XBTUSD", "2h", start="2024-01-01")  # from the lake: a Polars frame; or .to_pandas()
    universe = pairs(at="2024-01-01")                          # the pairs of that day, and how each is known
    closes = read_candles(["XBTUSD", "ETHUSD"], "1d", timezone="Europe/Berlin", pivot="close")
    state = read_candles("XBTUSD", "1h", with_state=True)      # traded, quiet or missing, and how well it is proven
    days = condition("XBTUSD", "1h")                           # of each day: complete, degraded, pending, missing
    trades = read_trades("XBTUSD", start="2024-01-01")         # where KRAKEN_KEEP_TRADES is set
    bars = read_bars("XBTUSD", by="volume", size=100)          # and by ticks, dollars or time
    lazy = scan_candles(["XBTUSD", "ETHUSD"], "1m")            # reads only what a query needs
    with connect_questdb() as questdb:                         # from QuestDB, if it is set up
        newest = questdb.latest(Interval.H1)
        candles = questdb.candles(Series("XBTUSD", Interval.H1), start=1_704_067_200)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kraken_pipeline.errors import Incomplete
    from kraken_pipeline.market.interval import Interval
    from kraken_pipeline.market.series import Series
    from kraken_pipeline.workflow.read_questdb import connect_questdb
    from kraken_pipeline.workflow.reading.candles import read_candles
    from kraken_pipeline.workflow.reading.condition import condition, covered, gaps
    from kraken_pipeline.workflow.reading.plot import plot_candles
    from kraken_pipeline.workflow.reading.scan import scan_candles
    from kraken_pipeline.workflow.reading.trade_bars import read_bars
    from kraken_pipeline.workflow.reading.trades import covered_trades, read_trades, scan_trades
    from kraken_pipeline.workflow.universe import pairs

__all__ = [
    "Incomplete",
    "Interval",
    "Series",
    "condition",
    "connect_questdb",
    "covered",
    "covered_trades",
    "gaps",
    "pairs",
    "plot_candles",
    "read_bars",
    "read_candles",
    "read_trades",
    "scan_candles",
    "scan_trades",
]

_FROM = {
    "Incomplete": "kraken_pipeline.errors",
    "Interval": "kraken_pipeline.market.interval",
    "Series": "kraken_pipeline.market.series",
    "condition": "kraken_pipeline.workflow.reading.condition",
    "connect_questdb": "kraken_pipeline.workflow.read_questdb",
    "covered": "kraken_pipeline.workflow.reading.condition",
    "covered_trades": "kraken_pipeline.workflow.reading.trades",
    "gaps": "kraken_pipeline.workflow.reading.condition",
    "pairs": "kraken_pipeline.workflow.universe",
    "plot_candles": "kraken_pipeline.workflow.reading.plot",
    "read_bars": "kraken_pipeline.workflow.reading.trade_bars",
    "read_candles": "kraken_pipeline.workflow.reading.candles",
    "read_trades": "kraken_pipeline.workflow.reading.trades",
    "scan_candles": "kraken_pipeline.workflow.reading.scan",
    "scan_trades": "kraken_pipeline.workflow.reading.trades",
}


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `import kraken_pipeline.market` takes only milliseconds.
    if name in _FROM:
        return getattr(import_module(_FROM[name]), name)
    raise AttributeError(f"module 'kraken_pipeline' has no attribute {name!r}")
