"""Types of the catalog's columns that say so where a value cannot be one that was written: its row is damaged."""

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
        f"the catalog is damaged ({str(value)[:40]!r} stands in a row where no such value can be); "
        "`kraken-pipeline verify --repair` takes such rows out where they can be made anew, and "
        "`kraken-pipeline recover` builds a new catalog from the lake"
    )


class Minutes(sa.types.TypeDecorator[int]):
    """The minutes of an interval."""

    impl = sa.Integer
    cache_ok = True

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> int | None:  # noqa: ARG002
        """Refuse what is no interval."""
        if not self.can_be(value):
            raise _damaged(value)
        return value

    def can_be(self, value: object) -> bool:
        """Tell whether a value, as the database has it, can have been written."""
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

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        """Refuse what is none of them."""
        if not self.can_be(value):
            raise _damaged(value)
        return value

    def can_be(self, value: object) -> bool:
        """Tell whether a value, as the database has it, can have been written."""
        return value is None or value in self.words


class Json(sa.types.TypeDecorator[Any]):
    """Anything that JSON can say.

    Args:
        is_sealed: Whether its row carries a checksum: then what is no JSON is handed on as it is, and fails that.
        none_as_null: Whether None is NULL, and not JSON's null.
    """

    impl = sa.JSON
    cache_ok = True

    def __init__(self, *, is_sealed: bool = False, none_as_null: bool = False) -> None:
        super().__init__(none_as_null=none_as_null)
        self.is_sealed = is_sealed

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """Read what was written, or find that it is not what was written."""
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
        """Tell whether a text, as the database has it, can have been written."""
        try:
            return value is None or json.loads(str(value)) is not ...
        except ValueError:
            return False


def take_out_damaged(connection: sa.Connection, table: sa.Table) -> int:
    """Delete the rows of an SQLite table in which a value stands that cannot be; return how many there were."""
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
