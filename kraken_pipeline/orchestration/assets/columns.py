"""The column schemas of assets that are tables: names and types from the schemas, descriptions from this module."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg
import polars as pl

from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.market.candle import CANDLE_SCHEMA, Source
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.schema import TableShape, shape_of
from kraken_pipeline.storage.questdb import tables as questdb_schema

_OF_CANDLES: Mapping[str, str] = {
    "time": "The candle's start, UTC.",
    "open": "Price of the first trade, in the quote currency.",
    "high": "Highest price, in the quote currency.",
    "low": "Lowest price, in the quote currency.",
    "close": "Price of the last trade, in the quote currency.",
    "volume": "The traded volume, in units of the base asset.",
    "trade_count": "The number of trades.",
    "vwap": "The average price of its trades, weighted by volume; null where the source does not tell it.",
    "quote_volume": "The traded volume, in the quote currency; null where the source does not tell it.",
    "buy_volume": "The part of the volume that takers bought, in units of the base asset; null where the source does "
    "not tell it.",
    "source": f"The source of the candle: {', '.join(Source)}.",
    "release": "The end of the archive release that it came from, in days since 1970-01-01 UTC; 0 for every other "
    "source.",
    "asset_id": "The pair's number, as in lake/assets.parquet; never reused.",
    "quote_currency": "USD, EUR, …; empty if the pair's name does not show it.",
    "pair": "The pair's name, XBTUSD.",
}
_OF_SERIES: Mapping[str, str] = {
    "pair": "The pair's name, XBTUSD.",
    "interval": "The length of a candle, in minutes.",
}
_OF_COVERAGE: Mapping[str, str] = {
    **_OF_SERIES,
    "start": "The start of the range, in seconds since 1970-01-01 UTC.",
    "end": "The end, excluded, in seconds since 1970-01-01 UTC.",
    "source": f"The source that answered for it: {', '.join(Source)}, or MIXED.",
    "candles": "The number of its candles in the lake; nobody traded in the rest.",
    "verified_at": "The time of the last answer for it, in seconds since 1970-01-01 UTC.",
    "checksum": "CRC-32 of the row's other columns; a row with a wrong checksum covers nothing.",
}
_OF_GAPS: Mapping[str, str] = {
    **_OF_SERIES,
    "id": "The record's number.",
    "start": "The start of the gap, in seconds since 1970-01-01 UTC.",
    "end": "The end, excluded, in seconds since 1970-01-01 UTC.",
    "missing_candles": "Its length in candles.",
    "overflow_candles": "The number of candles before the newest 720, which OHLC has.",
    "route": f"The first route that can fill it: {', '.join(Route)}.",
    "required_csv_file": "The archive with it, RELEASE.zip:PAIR_MINUTES.csv; several are separated by commas.",
    "status": f"The state of the gap: {', '.join(GapStatus)}.",
    "attempts": "The number of attempts to fill any part of it.",
    "error": "The error of the last attempt.",
    "detected_at": "The time when any part of it was first found missing, in seconds since 1970-01-01 UTC.",
    "closed_at": "The time when it was found filled, in seconds since 1970-01-01 UTC; null while it is open.",
}


def lake_columns() -> dg.TableSchema:
    """Return the columns of the lake's files."""
    columns = [
        dg.TableColumn(
            name,
            _type_name(dtype),
            description=_OF_CANDLES.get(name),
            constraints=dg.TableColumnConstraints(nullable=name in FLOW),
        )
        for name, dtype in CANDLE_SCHEMA.items()
    ]
    return dg.TableSchema(columns, dg.TableConstraints(["unique by time"]))


def questdb_columns() -> dg.TableSchema:
    """Return the columns of each of QuestDB's tables."""
    columns = [
        dg.TableColumn(name, kind.lower(), description=_OF_CANDLES.get(name))
        for name, kind in questdb_schema.COLUMNS.items()
    ]
    return dg.TableSchema(columns, dg.TableConstraints([f"unique by {', '.join(questdb_schema.KEYS)}"]))


def coverage_columns() -> dg.TableSchema:
    """Return the columns of the catalog's table of coverage."""
    return _of_table(shape_of(schema.coverage), _OF_COVERAGE)


def gap_columns() -> dg.TableSchema:
    """Return the columns of the catalog's table of gaps."""
    return _of_table(shape_of(schema.gaps), _OF_GAPS)


def _of_table(shape: TableShape, sentences: Mapping[str, str]) -> dg.TableSchema:
    columns = [
        dg.TableColumn(
            name,
            type_name,
            description=sentences.get(name),
            constraints=dg.TableColumnConstraints(nullable=is_nullable),
        )
        for name, type_name, is_nullable in shape.columns
    ]
    return dg.TableSchema(columns, dg.TableConstraints([f"unique by {', '.join(shape.keys)}"]))


def _type_name(dtype: pl.DataType) -> str:
    """Return the name of a type, as in readers of Parquet and as the UI has an icon for it."""
    if isinstance(dtype, pl.Datetime):
        return f"timestamp[{dtype.time_unit}, {dtype.time_zone}]"
    return "string" if isinstance(dtype, pl.Enum) else str(dtype).lower()
