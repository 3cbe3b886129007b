"""Commands about the cache of the exchange's replies."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from kraken_pipeline.cli import health_tables
from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.options import AsJson, present, stores_of_home
from kraken_pipeline.cli.output import err, out, print_json
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.settings import load_settings
from kraken_pipeline.storage.exchange_state.counters import Counters
from kraken_pipeline.storage.stores import require_writable
from kraken_pipeline.workflow.backfill.exchange import open_cache
from kraken_pipeline.workflow.health.cache_state import cache_state


def cache_stats(as_json: AsJson = False) -> None:
    """Show the share of hits in the last day over all processes, and the size of the cache."""
    with stores_of_home() as stores:
        stats = cache_state(stores, present())
    if as_json:
        print_json(stats.as_json())
    else:
        health_tables.cache(out, stats)


def clear_cache(
    prefix: Annotated[
        str, typer.Option(help="Delete only keys with this prefix: assets, prices, replies:OHLC:XBTUSD, history, …")
    ] = "",
) -> None:
    """Delete replies; the next run requests them again."""
    if not prefix.isprintable():
        raise InvalidRequest(f"no key begins with {prefix!r}; write assets, prices, replies:OHLC:XBTUSD, history, …")
    require_writable(load_settings())
    with stores_of_home() as stores, closing(open_cache(stores.settings, Counters(stores.catalog))) as opened_cache:
        count = opened_cache.clear(prefix)
    say(err, f"{quantity(count, 'reply', 'replies')} deleted")
