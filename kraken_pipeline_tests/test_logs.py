from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import quote, quote_plus

import pytest
import sqlalchemy as sa

from kraken_pipeline.logs import HIDDEN, LOGGER, configure, formatter
from kraken_pipeline.settings import Settings

CATALOG, CACHE, HTTP, PGWIRE = "cat/Al og@1", 'ca"che\\2%', "h;tt:p#3'", "pgwïre[4]"
"""Passwords with all signs that mean something in a URL, in JSON or in Python."""
SECRETS = (CATALOG, CACHE, HTTP, PGWIRE)


def encoded(password: str) -> str:
    return quote(password, safe="")


SERVERS = {
    "kraken_catalog_url": f"postgresql://me:{encoded(CATALOG)}@db/kraken",
    "kraken_cache_url": f"rediss://me:{encoded(CACHE)}@cache:6379/0",
    "kraken_questdb_url": f"http://me:{encoded(HTTP)}@[::1]:9000",
    "kraken_questdb_pg_url": f"postgresql://me:{encoded(PGWIRE)}@questdb:8812/qdb",
}


def settings_with(**more: Any) -> Settings:
    return Settings(_env_file=None, **more)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where this program's loggers write to; they are afterwards as they were."""
    logger = logging.getLogger(LOGGER)
    before = logger.handlers, logger.level, logger.propagate
    yield io.StringIO()
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """The objects that were written, each in a line of its own for whoever looks for the ends of lines."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail(error: Exception, cause: Exception) -> NoReturn:
    raise error from cause


# --- JSON


def test_a_line_is_an_object_that_says_when_how_bad_who_and_what(stream: io.StringIO) -> None:
    configure(settings_with(kraken_log_format="JSON"), stream)
    before = datetime.now(UTC)
    logging.getLogger("kraken_pipeline.storage.lake.lake").warning("%d of %s\nand more", 3, "XBTUSD")
    (line,) = lines(stream)
    assert list(line) == ["time", "level", "logger", "message"]
    assert (line["level"], line["logger"]) == ("WARNING", "kraken_pipeline.storage.lake.lake")
    assert line["message"] == "3 of XBTUSD\nand more"
    assert abs((datetime.fromisoformat(line["time"]) - before).total_seconds()) < 60
    assert line["time"].endswith("+00:00")


@pytest.mark.parametrize(
    "text", ["a\r\nb", "a\x85b\u2028c\x1e", "Zürich 東京 \N{PILE OF POO}", "\udcff", '"}{', "\x00\t\\"]
)
def test_whatever_a_message_holds_is_one_line_and_comes_back_as_it_was(stream: io.StringIO, text: str) -> None:
    configure(settings_with(kraken_log_format="json"), stream)
    logging.getLogger(LOGGER).error(text)
    logging.getLogger(LOGGER).error("next")
    assert [line["message"] for line in lines(stream)] == [text, "next"]
    assert stream.getvalue().isascii()


def test_an_exception_is_in_the_line_with_its_traceback_and_cause(stream: io.StringIO) -> None:
    configure(settings_with(kraken_log_format="json"), stream)
    try:
        fail(KeyError("the end"), ValueError("the cause\nin two lines"))
    except KeyError:
        logging.getLogger(LOGGER).exception("it failed")
    (line,) = lines(stream)
    assert list(line) == ["time", "level", "logger", "message", "error"]
    assert line["message"] == "it failed"
    assert line["error"].startswith("ValueError: the cause\nin two lines\n")
    assert "\nTraceback (most recent call last):\n" in line["error"]
    assert line["error"].endswith("KeyError: 'the end'")


def test_who_asks_for_a_traceback_where_there_is_no_exception_gets_none(stream: io.StringIO) -> None:
    configure(settings_with(kraken_log_format="json"), stream)
    logging.getLogger(LOGGER).warning("all is well", exc_info=True)
    assert "error" not in lines(stream)[0]


# --- text, and levels


def test_text_is_for_people(stream: io.StringIO) -> None:
    configure(settings_with(), stream)
    logging.getLogger("kraken_pipeline.x").warning("nothing to see")
    assert re.fullmatch(r"[\d-]+ [\d:,]+ WARNING kraken_pipeline\.x: nothing to see\n", stream.getvalue())


@pytest.mark.parametrize("format_", ["text", "json"])
def test_what_is_below_the_level_is_not_told(stream: io.StringIO, format_: str) -> None:
    configure(settings_with(kraken_log_format=format_, kraken_log_level="warning"), stream)
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logging.getLogger("kraken_pipeline.x"), level)(f"told of {level}")
    assert re.findall(r"told of (\w+)", stream.getvalue()) == ["warning", "error", "critical"]


def test_configured_again_it_says_everything_once(stream: io.StringIO) -> None:
    for _ in range(2):
        configure(settings_with(kraken_log_format="json"), stream)
    logging.getLogger(LOGGER).info("once")
    assert [line["message"] for line in lines(stream)] == ["once"]


def test_without_a_stream_it_writes_to_standard_error(stream: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    configure(settings_with(kraken_log_format="json"))
    logging.getLogger(LOGGER).info("hello")
    said = capsys.readouterr()
    assert (said.out, json.loads(said.err)["message"]) == ("", "hello")


# --- secrets


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "encoded": encoded,
    "encoded in lower case": lambda password: re.sub("%..", lambda found: found.group().lower(), encoded(password)),
    "encoded but for slashes": quote,
    "encoded as in a form": quote_plus,
    "in SQLAlchemy's way": lambda password: sa.URL.create("x", "me", password, "h").render_as_string(False),
    "in Python": repr,
    "in Python, in ASCII": ascii,
    "in JSON": json.dumps,
    "in JSON, not in ASCII": lambda password: json.dumps(password, ensure_ascii=False),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("format_", ["text", "json"])
def test_no_password_is_told_however_it_is_spelled(stream: io.StringIO, format_: str, spelling: str) -> None:
    configure(settings_with(kraken_log_format=format_, **SERVERS), stream)
    for password in SECRETS:
        logging.getLogger(LOGGER).warning("before(%s)after", SPELLINGS[spelling](password))
    entry = [line["message"] for line in lines(stream)] if format_ == "json" else stream.getvalue().splitlines()
    assert len(entry) == len(SECRETS)
    for message in entry:
        assert re.search(r"before\(.*\*{10}.*\)after$", message)
        assert re.search(r"(?i)al.?og|che|tt.{1,3}p|gw|[1-4]\)", message.partition("before")[2]) is None


@pytest.mark.parametrize("format_", ["text", "json"])
def test_no_password_is_told_in_the_traceback_of_an_exception(stream: io.StringIO, format_: str) -> None:
    configure(settings_with(kraken_log_format=format_, **SERVERS), stream)
    try:
        fail(OSError(f"{CATALOG}\n{HTTP}"), ConnectionError(SERVERS["kraken_cache_url"], [PGWIRE]))
    except OSError:
        logging.getLogger(LOGGER).exception("failed")
    text = stream.getvalue()
    assert text.count(HIDDEN) == 4
    for password in SECRETS:
        assert password not in text
        assert encoded(password) not in text
        assert json.dumps(password)[1:-1] not in text
    if format_ == "json":
        assert "OSError: **********\n**********" in lines(stream)[0]["error"]


def test_whole_settings_and_urls_may_be_logged(stream: io.StringIO) -> None:
    settings = settings_with(kraken_log_format="json", **SERVERS)
    configure(settings, stream)
    logging.getLogger(LOGGER).info("%s %r", settings, SERVERS)
    (line,) = lines(stream)
    assert "postgresql://me:**********@db/kraken" in line["message"]
    assert "http://me:**********@[::1]:9000" in line["message"]


@pytest.mark.parametrize("password", ["message", '"', ",", ":", "{", "level", "INFO", "\\", "1", "*"])
def test_a_password_of_jsons_own_signs_or_of_our_keys_breaks_no_line(stream: io.StringIO, password: str) -> None:
    url = f"redis://:{encoded(password)}@cache"
    configure(settings_with(kraken_log_format="json", kraken_cache_url=url), stream)
    logging.getLogger(LOGGER).info('<{"%s"}>', password)
    (line,) = lines(stream)
    assert list(line) == ["time", "level", "logger", "message"]
    assert line["level"] == "INFO"
    assert re.search(r"<.*\*{10}.*>", line["message"])


def test_a_password_in_a_query_is_one_too(stream: io.StringIO) -> None:
    given = {
        "kraken_cache_url": "redis://cache/0?client_name=me&password=hunter2",
        "kraken_catalog_url": "postgresql:///kraken?host=/run/postgresql&password=cat%2Fch22&user=me",
        "kraken_api_url": "https://me:proxied@proxy.example/kraken",
    }
    configure(settings_with(**given), stream)
    logging.getLogger(LOGGER).info("hunter2 cat/ch22 cat%2fch22 proxied /run/postgresql me")
    assert stream.getvalue().endswith(f": {' '.join([HIDDEN] * 4)} /run/postgresql me\n")


def test_where_there_is_no_password_nothing_is_hidden(stream: io.StringIO) -> None:
    configure(settings_with(kraken_cache_url="redis://cache", kraken_catalog_url="postgresql://me@db/kraken"), stream)
    logging.getLogger(LOGGER).info("me cache redis://cache db kraken")
    assert stream.getvalue().endswith(": me cache redis://cache db kraken\n")


def test_the_record_is_left_as_it_was_for_other_handlers() -> None:
    settings = settings_with(kraken_log_format="json", **SERVERS)
    record = logging.LogRecord(LOGGER, logging.INFO, __file__, 1, "%s", (CATALOG,), sys.exc_info())
    before = dict(record.__dict__)
    assert HIDDEN in formatter(settings).format(record)
    assert record.__dict__ == before
