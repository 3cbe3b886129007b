"""What Kraken's endpoints answer, as models that every reply must pass."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from kraken_pipeline.errors import UnusableReply


def _number(value: Any) -> Any:
    if isinstance(value, str) and value.strip() == value and "_" not in value:
        return float(value)
    raise ValueError("a decimal number in quotes")


Decimal = Annotated[float, BeforeValidator(_number)]
"""Kraken writes prices and volumes as text."""

Seconds = Annotated[int, Field(ge=0, lt=2**32)]
"""A moment in seconds since the epoch, up to 2106: one in milliseconds or nanoseconds is greater."""

Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""A whole number that columns and databases can hold."""

OhlcRow = tuple[Seconds, Decimal, Decimal, Decimal, Decimal, Decimal, Decimal, Whole]
"""Start (seconds), open, high, low, close, vwap, volume, count."""

TradeRow = tuple[Decimal, Decimal, FiniteFloat, Literal["b", "s"], Literal["m", "l"], str, Whole]
"""Price, volume, time (seconds, to 1e-7), side, order type, miscellaneous, id."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class SystemStatus(_Model):
    """Whether Kraken works, and what time it has."""

    status: Literal["online", "maintenance", "cancel_only", "post_only"]
    timestamp: datetime

    @property
    def time(self) -> float:
        """Its time in seconds since the epoch."""
        return self.timestamp.replace(tzinfo=self.timestamp.tzinfo or UTC).timestamp()


class AssetPair(_Model):
    """A pair as AssetPairs lists it."""

    altname: str
    wsname: str = ""
    aclass_base: str = "currency"
    base: str
    quote: str
    status: str = "online"


_STATUS = TypeAdapter(SystemStatus)
_PAIRS = TypeAdapter(dict[str, AssetPair])
_OHLC = TypeAdapter(list[OhlcRow])
_TRADES = TypeAdapter(list[TradeRow])
_Parsed = TypeVar("_Parsed")


def parse_status(result: Any) -> SystemStatus:
    """A result of SystemStatus.

    Raises:
        UnusableReply: It is none.
    """
    return _parsed(_STATUS, result, "SystemStatus")


def parse_pairs(result: Any) -> dict[str, AssetPair]:
    """A result of AssetPairs: Kraken's internal key → pair.

    Raises:
        UnusableReply: It is none, or lists nothing.
    """
    pairs = _parsed(_PAIRS, result, "AssetPairs")
    if not pairs:
        raise UnusableReply("AssetPairs lists no pair at all")
    return pairs


def parse_ohlc(result: Any, asked: str, keys: Iterable[str] = ()) -> tuple[list[OhlcRow], int]:
    """A result of OHLC: its rows, and the start of the last committed candle in seconds.

    Raises:
        UnusableReply: It is none, or about another pair than one of these keys.
    """
    rows, last = _under_key(result, asked, keys)
    if not isinstance(last, int) or isinstance(last, bool):
        raise UnusableReply(f"{asked}: `last` is {last!r}, not the start of a candle")
    return _parsed(_OHLC, rows, asked), last


def parse_trades(result: Any, asked: str, keys: Iterable[str] = ()) -> tuple[list[TradeRow], int | None]:
    """A result of Trades: its rows, and the time of the last one in nanoseconds where the reply has it.

    Raises:
        UnusableReply: It is none, or about another pair than one of these keys.
    """
    rows, last = _under_key(result, asked, keys)
    is_number = not isinstance(last, bool) and re.fullmatch(r"[0-9]{1,19}", str(last))
    return _parsed(_TRADES, rows, asked), (int(last) or None) if is_number else None


def _under_key(result: Any, asked: str, keys: Iterable[str]) -> tuple[Any, Any]:
    if not isinstance(result, Mapping):
        raise UnusableReply(f"{asked}: the result is {type(result).__name__}, not an object")
    found = [key for key in result if key != "last"]
    wanted = set(keys)
    if len(found) != 1 or (wanted and found[0] not in wanted):
        raise UnusableReply(f"{asked}: the result is about {', '.join(found) or 'nothing'}")
    return result[found[0]], result.get("last")


def _parsed(model: TypeAdapter[_Parsed], value: Any, asked: str) -> _Parsed:
    try:
        return model.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UnusableReply(f"{asked}: {where or 'the result'} is {first['input']!r:.80}: {first['msg']:.80}") from None
