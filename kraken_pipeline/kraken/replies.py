"""Models and parsers of the replies of Kraken's endpoints. Every reply must pass them."""

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
"""A price or volume. Kraken writes these as text; a number is accepted, too."""

Seconds = Annotated[int, Field(ge=0, lt=2**32), BeforeValidator(_no_truth)]
"""A time in seconds since the epoch, up to 2106, so that milliseconds or nanoseconds are refused."""

Moment = Annotated[FiniteFloat, BeforeValidator(_no_truth)]
"""A time in seconds since the epoch, with its fraction."""

Whole = Annotated[int, Field(ge=-(2**63), lt=2**63), BeforeValidator(_no_truth)]
"""A whole number that columns and databases can hold."""

OhlcRow = tuple[Seconds, Decimal, Decimal, Decimal, Decimal, Decimal, Decimal, Whole]
"""Start (seconds), open, high, low, close, vwap, volume, count."""

Text = Annotated[str, BeforeValidator(str)]
"""A value that nothing here depends on, so that any type is accepted."""

TradeRow = tuple[Decimal, Decimal, Moment, Text, Text, Text, Whole]
"""Price, volume, time (seconds, to 1e-7), side, order type, miscellaneous, id."""

KNOWN_STATUSES = frozenset({"online", "maintenance", "cancel_only", "post_only", "limit_only"})
KNOWN_SIDES = frozenset({"b", "s"})
KNOWN_ORDERS = frozenset({"m", "l"})
MAIN_BOOK = "international"
"""The venue of a pair whose entry names none."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class SystemStatus(_Model):
    """The status of the exchange, with its time."""

    status: str
    timestamp: datetime
    upcoming_maintenance: Annotated[list[Any], BeforeValidator(_listed)] = Field(default=[])
    emergency: Annotated[list[Any], BeforeValidator(_listed)] = Field(default=[])

    @property
    def time(self) -> float:
        """The exchange's time in seconds since the epoch; UTC if the timestamp names no zone."""
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
        """Whether it is the pair itself, and not its listing at another venue (`XBTUSD:BTNL`)."""
        return (self.execution_venue or MAIN_BOOK) == MAIN_BOOK and ":" not in self.altname + self.wsname


@dataclass(frozen=True, slots=True)
class PairsReply:
    """The readable and unreadable entries of an AssetPairs reply.

    Attributes:
        pairs: Kraken's internal key → pair; those of other venues are left out.
        unreadable: The key of each entry that cannot be read → the reason.
        unreadable_names: The keys of these entries, and their altnames if they have one.
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
    """Parse a result of SystemStatus.

    Raises:
        UnusableReply: The result is not valid.
    """
    return _parsed(_STATUS, result, "SystemStatus")


def parse_pairs(result: Any) -> PairsReply:
    """Parse a result of AssetPairs, entry by entry, so that an unreadable entry does not affect others.

    Raises:
        UnusableReply: The result is not an object, or has no readable pair.
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
    """Parse a result of OHLC into its rows and the start of the last committed candle, in seconds since the epoch.

    Rows are read by position. Values beyond the eighth are ignored, as are other fields of the result.

    Args:
        result: The reply's `result`.
        asked: The request, for messages.
        keys: The keys under which the rows are expected. Another key is accepted if it is the only one with a list and
            not another pair's.
        others: Returns whether a key is another pair's.

    Raises:
        UnusableReply: The result is not valid, or is about another pair.
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
    """Parse a result of Trades into its rows and the time of the last one in nanoseconds, if the reply has it.

    The rest is as for `parse_ohlc`; a row has seven values.

    Raises:
        UnusableReply: The result is not valid, or is about another pair.
    """
    rows, last = _under_key(result, asked, keys, others)
    is_number = not isinstance(last, bool) and re.fullmatch(r"[0-9]{1,19}", str(last))
    return _parsed(_TRADES, _cut(rows, 7), asked), (int(last) or None) if is_number else None


def unknown_words(rows: Sequence[TradeRow]) -> list[str]:
    """Return the unknown sides and order types of some trades; only the volume that takers bought depends on them."""
    sides, orders = {row[3] for row in rows} - KNOWN_SIDES, {row[4] for row in rows} - KNOWN_ORDERS
    return [
        *(f"the side {word!r:.20}" for word in sorted(sides)),
        *(f"the order type {word!r:.20}" for word in sorted(orders)),
    ]


def _cut(rows: Any, length: int) -> Any:
    """Return rows cut to their known fields."""
    return [row[:length] if isinstance(row, list) else row for row in rows] if isinstance(rows, list) else rows


def _under_key(result: Any, asked: str, keys: Iterable[str], others: Callable[[str], bool]) -> tuple[Any, Any]:
    """Return the rows of a result, and its `last`."""
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
