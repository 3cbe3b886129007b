"""The command that shows the history of one candle."""

from __future__ import annotations

from typing import Annotated

import typer

from kraken_pipeline.cli import story
from kraken_pipeline.cli.options import AsJson, complete_intervals, complete_pairs, present, stores_of_home
from kraken_pipeline.cli.output import out, print_json
from kraken_pipeline.market.pair import named_pair
from kraken_pipeline.workflow.explain.explain import explain as explain_candle
from kraken_pipeline.workflow.known_pairs import known_pairs


def explain(
    pair: Annotated[str, typer.Argument(help="The pair: XBTUSD, XBT/USD, BTCUSD, …", autocompletion=complete_pairs)],
    interval: Annotated[str, typer.Argument(help="Minutes, or 1h, 1d, …", autocompletion=complete_intervals)],
    moment: Annotated[str, typer.Argument(metavar="TIME", help="Any moment within the candle: ISO, UTC.")],
    as_json: AsJson = False,
) -> None:
    """Show the history of one candle: its source, the candles that lost to it, and what its values were compared to."""
    with stores_of_home() as stores:
        explanation = explain_candle(stores, named_pair(pair, known_pairs(stores)), interval, moment, present())
    if as_json:
        print_json(explanation.as_json())
    else:
        story.explained(out, explanation)
