"""Every Kraken candle, and the knowledge that it is every one.

For notebooks::

    from kraken_pipeline import read_candles

    candles = read_candles("XBTUSD", 60, start="2024-01-01")   # a Polars frame; .to_pandas() away
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kraken_pipeline.workflow.read import read_candles

__all__ = ["read_candles"]


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that `import kraken_pipeline.market` stays a matter of milliseconds.
    if name == "read_candles":
        from kraken_pipeline.workflow.read import read_candles  # noqa: PLC0415

        return read_candles
    raise AttributeError(f"module 'kraken_pipeline' has no attribute {name!r}")
