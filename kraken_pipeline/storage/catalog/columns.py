"""Column types of the catalog that raise an error for a value that cannot have been written: its row is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from kraken_pipeline.errors import StoreError
from kraken_pipeline.market.interval import Interval

_MINUTES = frozenset(interval.value for interval in Interval)


def _damaged(value: object) -> StoreError:
    return StoreError(
        f"the catalog is damaged ({str(value)[:40]!r} is not a possible value of its column); `kraken-pipeline "
        "verify --repair` removes such rows if they can be derived again, and `kraken-pipeline recover` builds a "
        "new catalog from the lake"
    )


class _Possible(dict[Any, Any]):
    """The possible values of a column, each by itself; looking another one up raises an error."""

    def __missing__(self, value: object) -> None:
        raise _damaged(value)


class Minutes(sa.types.TypeDecorator[int]):
    """The minutes of an interval."""

    impl = sa.Integer
    cache_ok = True

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any]:  # noqa: ARG002
        """Return a function that returns a value, and raises an error for one that is no interval."""
        return _Possible({value: value for value in (None, *_MINUTES)}).__getitem__  # a look-up without Python's code

    def can_be(self, value: object) -> bool:
        """Return whether a raw database value can have been written."""
        return value is None or value in _MINUTES


class Word(sa.types.TypeDecorator[str]):
    """One of the values of an enumeration.

    Args:
        words: The enumeration.
    """

    impl = sa.String
    cache_ok = True

    def __init__(self, words: type[StrEnum]) -> None:
        super().__init__(16)
        self.words = frozenset(str(word) for word in words)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any]:  # noqa: ARG002
        """Return a function that returns a value, and raises an error for one that is not in the enumeration."""
        return _Possible({value: value for value in (None, *self.words)}).__getitem__

    def can_be(self, value: object) -> bool:
        """Return whether a raw database value can have been written."""
        return value is None or value in self.words


class Json(sa.types.TypeDecorator[Any]):
    """Any JSON value.

    Args:
        is_sealed: Whether the row has a checksum: invalid JSON is then returned as it is, and fails the checksum.
        none_as_null: Whether None is stored as NULL and not as JSON's null.
    """

    impl = sa.JSON
    cache_ok = True

    def __init__(self, *, is_sealed: bool = False, none_as_null: bool = False) -> None:
        super().__init__(none_as_null=none_as_null)
        self.is_sealed = is_sealed

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """Return a function that decodes a value, and raises an error for invalid JSON."""
        process = super().result_processor(dialect, coltype)

        def processed(value: Any) -> Any:
            try:
                return process(value) if process is not None else value
            except (ValueError, TypeError) as error:
                if self.is_sealed:
                    return str(value)
                raise _damaged(value) from error

        return processed

    def can_be(self, value: object) -> bool:
        """Return whether a raw database text can have been written."""
        try:
            return value is None or json.loads(str(value)) is not ...
        except ValueError:
            return False


def remove_damaged(connection: sa.Connection, table: sa.Table) -> int:
    """Delete the rows of an SQLite table that hold an impossible value, and return their number."""
    checked = {column: type_ for column in table.columns if isinstance(type_ := column.type, (Minutes, Word, Json))}
    keys = list(table.primary_key.columns)
    raw = [sa.type_coerce(column, sa.types.NullType()) for column in (*keys, *checked)]
    count = 0
    for row in connection.execute(sa.select(*raw)).all():
        if all(type_.can_be(value) for type_, value in zip(checked.values(), row[len(keys) :], strict=True)):
            continue
        is_one = [sa.type_coerce(key, sa.types.NullType()) == value for key, value in zip(keys, row, strict=False)]
        count += connection.execute(sa.delete(table).where(*is_one)).rowcount
    return count
