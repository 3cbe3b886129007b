"""The syntax of settings: intervals, cron times, and URLs of servers as the libraries that use them can parse them."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, ValidationError

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import parse_intervals

_CRON_FIELD = re.compile(r"[\d*/,-]+|[A-Za-z]{3}([,-][A-Za-z]{3})*")
# User and password must be percent-encoded: three libraries parse special characters between // and @ in three ways,
# and their messages contain what they parse as host or port.
_USER = r"(?:[^\s/?#@\[\]]+@)?"
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::\d{1,5})?"
_HTTP = re.compile(rf"https?://{_USER}{_HOST}/?")
_PGWIRE = re.compile(rf"postgresql://{_USER}{_HOST}(/[^\s/]*)?")
_POSTGRESQL = re.compile(rf"postgresql(\+\w+)?://{_USER}({_HOST})?(/\S*)?")
_CRON_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def _is_cron_field(field: str, bounds: tuple[int, int]) -> bool:
    lowest, highest = bounds
    return bool(_CRON_FIELD.fullmatch(field)) and all(
        lowest <= int(number) <= highest for number in re.findall(r"(?<!/)\b\d+", field)
    )


def _is_server(shape: re.Pattern[str], url: str) -> bool:
    """Check whether a URL matches a pattern and has a valid port."""
    if not shape.fullmatch(url):
        return False
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def _require_cron(value: str) -> str:
    fields = value.split()
    if len(fields) != len(_CRON_BOUNDS) or not all(map(_is_cron_field, fields, _CRON_BOUNDS)):
        raise ValueError("write a cron time of five fields, such as */15 * * * *")
    return value


def _require_intervals(value: str) -> str:
    try:
        parse_intervals(value)
    except InvalidRequest as error:
        raise ValueError(str(error)) from None
    return value


CronTime = Annotated[str, AfterValidator(_require_cron)]
"""A cron time of five fields."""
IntervalList = Annotated[str, AfterValidator(_require_intervals)]
"""A text with intervals, such as `60,1440` or `1h,1d`."""


def is_http(url: str) -> bool:
    """Check whether a URL names an HTTP server and nothing below it."""
    return _is_server(_HTTP, url)


def is_database(url: str) -> bool:
    """Check whether a URL names an SQLite file or a PostgreSQL database."""
    return bool(re.match(r"sqlite(\+\w+)?://", url)) or _is_server(_POSTGRESQL, url)


def is_pgwire(url: str) -> bool:
    """Check whether libpq can parse all of a URL."""
    from psycopg import Error  # noqa: PLC0415 - as redis-py below
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    if not _is_server(_PGWIRE, url):
        return False
    try:
        conninfo_to_dict(url)
    except Error:
        return False
    return True


def is_broker(url: str) -> bool:
    """Check whether a URL names a message broker that Celery can use: RabbitMQ or Redis."""
    return bool(re.fullmatch(r"(py)?amqps?://[^/?#\s]+(/[^?#\s]*)?", url)) or is_redis(url)


def is_redis(url: str) -> bool:
    """Check whether redis-py can parse all of a URL; it silently ignores a database that is not a number."""
    from redis import ConnectionPool, RedisError  # noqa: PLC0415 - 150 ms, only needed with Redis

    if not re.fullmatch(r"rediss?://[^/?#\s]+(/\d*)?(\?[^#\s]+)?", url):
        return False
    try:
        ConnectionPool.from_url(url).make_connection()  # does not connect yet
    except (ValueError, TypeError, AttributeError, RedisError):
        return False
    return True


def problems(error: ValidationError, secrets: Collection[str]) -> str:
    """Return what is wrong with settings, without the values of those that are secret.

    Args:
        error: The error of the settings' model.
        secrets: The names of the secret settings.
    """
    return "; ".join(
        # An error of several settings together has no location, and its input holds all settings, with secrets.
        f"{str(detail['loc'][0]).upper()}={_shown(detail['input'], str(detail['loc'][0]) in secrets)}: {detail['msg']}"
        if detail["loc"]
        else detail["msg"]
        for detail in error.errors(include_url=False)
    )


def _shown(value: object, is_secret: bool) -> str:
    # A URL with a user may have a password, also where none belongs.
    return "**********" if is_secret or "@" in str(value) else repr(value)
