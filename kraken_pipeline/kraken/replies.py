"""What Kraken's endpoints answer, as models that every reply must pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from kraken_pipeline.errors import InvalidRequest, UnusableReply
from kraken_pipeline.market.pair import parse_pair


def _number(value: Any) -> Any:
    if isinstance(value, str) and value.strip() == value and "_" not in value:
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value)
    raise ValueError("a decimal number")


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number")  # noqa: TRY004  what pydantic counts as invalid
    return value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


Decimal = Annotated[float, BeforeValidator(_number)]
"""Kraken writes prices and volumes as text; a number is read as well."""

Seconds = Annotated[int, Field(ge=0, lt=2**32), BeforeValidator(_no_truth)]
"""A moment in seconds since the epoch, up to 2106: one in milliseconds or nanoseconds is greater."""

Moment = Annotated[FiniteFloat, BeforeValidator(_no_truth)]
"""A moment in seconds since the epoch, with its fraction."""

Whole = Annotated[int, Field(ge=-(2**63), lt=2**63), BeforeValidator(_no_truth)]
"""A whole number that columns and databases can hold."""

OhlcRow = tuple[Seconds, Decimal, Decimal, Decimal, Decimal, Decimal, Decimal, Whole]
"""Start (seconds), open, high, low, close, vwap, volume, count."""

Text = Annotated[str, BeforeValidator(str)]
"""What nothing here depends on, whatever it has become."""

TradeRow = tuple[Decimal, Decimal, Moment, Text, Text, Text, Whole]
"""Price, volume, time (seconds, to 1e-7), side, order type, miscellaneous, id."""

KNOWN_STATUSES = frozenset({"online", "maintenance", "cancel_only", "post_only", "limit_only"})
KNOWN_SIDES = frozenset({"b", "s"})
KNOWN_ORDERS = frozenset({"m", "l"})
MAIN_BOOK = "international"
"""Where a pair is traded unless its entry says otherwise."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class SystemStatus(_Model):
    """Whether Kraken works, and what time it has."""

    status: str
    timestamp: datetime
    upcoming_maintenance: Annotated[list[Any], BeforeValidator(_listed)] = Field(default=[])
    emergency: Annotated[list[Any], BeforeValidator(_listed)] = Field(default=[])

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
    status: Text = "online"
    execution_venue: str | None = None

    @property
    def is_of_main_book(self) -> bool:
        """Whether it is the pair that its name stands for, and not its listing at another venue (`XBTUSD:BTNL`)."""
        return (self.execution_venue or MAIN_BOOK) == MAIN_BOOK and ":" not in self.altname + self.wsname


@dataclass(frozen=True, slots=True)
class PairsReply:
    """What can be read of a reply of AssetPairs.

    Attributes:
        pairs: Kraken's internal key → pair; those of other venues are left out.
        unreadable: The key of each entry that cannot be read → what is wrong with it.
        unreadable_names: These keys, and the altnames of these entries where they have one.
    """

    pairs: Mapping[str, AssetPair]
    unreadable: Mapping[str, str]
    unreadable_names: frozenset[str]


_STATUS = TypeAdapter(SystemStatus)
_PAIR = TypeAdapter(AssetPair)
_OHLC = TypeAdapter(list[OhlcRow])
_TRADES = TypeAdapter(list[TradeRow])
_Parsed = TypeVar("_Parsed")


def parse_status(result: Any) -> SystemStatus:
    """A result of SystemStatus.

    Raises:
        UnusableReply: It is none.
    """
    return _parsed(_STATUS, result, "SystemStatus")


def parse_pairs(result: Any) -> PairsReply:
    """A result of AssetPairs, entry by entry: one that cannot be read takes no other along.

    Raises:
        UnusableReply: It is none, or nothing of it can be read.
    """
    if not isinstance(result, Mapping):
        raise UnusableReply(f"AssetPairs: the result is {type(result).__name__}, not an object")
    pairs: dict[str, AssetPair] = {}
    unreadable: dict[str, str] = {}
    for key, entry in result.items():
        try:
            pair = _parsed(_PAIR, entry, f"AssetPairs: {key}")
            parse_pair(pair.altname.partition(":")[0])
        except (UnusableReply, InvalidRequest) as error:
            unreadable[key] = str(error)
        else:
            if pair.is_of_main_book and ":" not in key:
                pairs[key] = pair
    if not pairs:
        raise UnusableReply(next(iter(unreadable.values()), "AssetPairs lists no pair at all"))
    entries = [entry for key, entry in result.items() if key in unreadable and isinstance(entry, Mapping)]
    names = (*unreadable, *(entry.get("altname") for entry in entries))
    return PairsReply(pairs, unreadable, frozenset(name for name in names if isinstance(name, str)))


def parse_ohlc(
    result: Any, asked: str, keys: Iterable[str] = (), others: Callable[[str], bool] = lambda _: False
) -> tuple[list[OhlcRow], int]:
    """A result of OHLC: its rows, and the start of the last committed candle in seconds.

    Rows are read by position; what they have beyond eight values is not for us, nor is what stands beside them.

    Args:
        result: Of the reply.
        asked: The request, for messages.
        keys: Under which the rows should stand. Another is believed where it is the only one, and no other pair's.
        others: Whether a key is another pair's.

    Raises:
        UnusableReply: It is none, or about another pair.
    """
    rows, last = _under_key(result, asked, keys, others)
    if isinstance(last, str) and re.fullmatch(r"[0-9]{1,19}", last):
        last = int(last)
    if not isinstance(last, int) or isinstance(last, bool):
        raise UnusableReply(f"{asked}: `last` is {last!r:.80}, not the start of a candle")
    return _parsed(_OHLC, _cut(rows, 8), asked), last


def parse_trades(
    result: Any, asked: str, keys: Iterable[str] = (), others: Callable[[str], bool] = lambda _: False
) -> tuple[list[TradeRow], int | None]:
    """A result of Trades: its rows, and the time of the last one in nanoseconds where the reply has it.

    The rest is as for `parse_ohlc`; a row has seven values.

    Raises:
        UnusableReply: It is none, or about another pair.
    """
    rows, last = _under_key(result, asked, keys, others)
    is_number = not isinstance(last, bool) and re.fullmatch(r"[0-9]{1,19}", str(last))
    return _parsed(_TRADES, _cut(rows, 7), asked), (int(last) or None) if is_number else None


def unknown_words(rows: Sequence[TradeRow]) -> list[str]:
    """Return the sides and kinds of orders of some trades that nobody knew of: they say nothing about a candle."""
    sides, orders = {row[3] for row in rows} - KNOWN_SIDES, {row[4] for row in rows} - KNOWN_ORDERS
    return [
        *(f"the side {word!r:.20}" for word in sorted(sides)),
        *(f"the order type {word!r:.20}" for word in sorted(orders)),
    ]


def _cut(rows: Any, length: int) -> Any:
    """Rows without what they have grown beyond what is known of them."""
    return [row[:length] if isinstance(row, list) else row for row in rows] if isinstance(rows, list) else rows


def _under_key(result: Any, asked: str, keys: Iterable[str], others: Callable[[str], bool]) -> tuple[Any, Any]:
    """The rows of a result, and its `last`."""
    if not isinstance(result, Mapping):
        raise UnusableReply(f"{asked}: the result is {type(result).__name__}, not an object")
    last = result.get("last")
    if found := [key for key in keys if key in result]:
        return result[found[0]], last
    lists = [key for key, value in result.items() if key != "last" and isinstance(value, list)]
    if len(lists) != 1 or others(lists[0]):
        about = [str(key) for key in result if key != "last"]
        raise UnusableReply(f"{asked}: the result is about {', '.join(about)[:80] or 'nothing'}")
    return result[lists[0]], last


def _parsed(model: TypeAdapter[_Parsed], value: Any, asked: str) -> _Parsed:
    try:
        return model.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UnusableReply(f"{asked}: {where or 'the result'} is {first['input']!r:.80}: {first['msg']:.80}") from None
