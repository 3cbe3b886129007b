"""Logs: for people, or one JSON object a line; never with a password in them."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO
from urllib.parse import unquote

from pydantic import SecretStr

from kraken_pipeline.settings import Settings

LOGGER = "kraken_pipeline"
HIDDEN = "**********"
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_RUN = ("run_id", "job_name", "step_key")
"""What Dagster tells of a record's run."""
_PASSWORDS = re.compile(r"^[\w+]+://[^:/@]*:([^/]*)@|[?&](?:ssl)?password=([^&]+)")


class Secrets:
    """Passwords that no line may have in it, however they are spelled: as they are, percent-encoded, or escaped.

    Args:
        passwords: As they are.
    """

    def __init__(self, passwords: Iterable[str]) -> None:
        found = sorted(filter(None, passwords), key=len, reverse=True)
        self._any = re.compile("|".join("".join(map(_spelled, each)) for each in found)) if found else None

    def hide(self, text: str) -> str:
        """The text without them."""
        return self._any.sub(HIDDEN, text) if self._any else text


def _spelled(character: str) -> str:
    """A pattern of all that may stand for a character of a password."""
    spellings = {re.escape(character), re.escape(json.dumps(character)[1:-1]), re.escape(ascii(character)[1:-1])}
    spellings.add("(?i:" + "".join(f"%{byte:02x}" for byte in character.encode(errors="surrogateescape")) + ")")
    if character == " ":
        spellings.add(r"\+")
    if character in "\"'":
        spellings.add(r"\\" + character)
    return f"(?:{'|'.join(sorted(spellings, key=len, reverse=True))})"


class TextLines(logging.Formatter):
    """Lines for people.

    Args:
        secrets: What they may not have in them.
        wrapped: Writes them.
    """

    def __init__(self, secrets: Secrets, wrapped: logging.Formatter | None = None) -> None:
        super().__init__()
        self._secrets = secrets
        self._wrapped = wrapped or logging.Formatter(_TEXT)

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return self._secrets.hide(self._wrapped.format(record))


class JsonLines(logging.Formatter):
    """An object a line: `time`, `level`, `logger`, `message`; of a run `run_id`, `job`, `step`; of an error `error`.

    Args:
        secrets: What they may not have in them; hidden before JSON's own signs are there, which a password may hold.
    """

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, in ASCII: there are signs that some programs take for the end of a line."""
        of_run = getattr(record, "dagster_meta", None) or {}
        told: dict[str, str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": self._secrets.hide(of_run.get("orig_message") or record.getMessage()),
        }
        for name in _RUN:
            if of_run.get(name):
                told[name.removesuffix("_name").removesuffix("_key")] = str(of_run[name])
        if error := self._error(record, of_run):
            told["error"] = self._secrets.hide(error)
        return json.dumps(told)

    def _error(self, record: logging.LogRecord, of_run: Mapping[str, Any]) -> str | None:
        """The traceback; of an event of Dagster's, such as a step that failed, the one that it carries."""
        if record.exc_info and record.exc_info[0]:
            return self.formatException(record.exc_info)
        error = getattr(getattr(of_run.get("dagster_event"), "event_specific_data", None), "error", None)
        return None if error is None else str(error.to_string())


def secrets_of(settings: Settings) -> Secrets:
    """Every password in the settings: between user and host, or in a query."""
    found: set[str] = set()
    for name in Settings.model_fields:
        value = getattr(settings, name)
        url = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(url, str):
            found.update(*_PASSWORDS.findall(url))
    return Secrets({form for each in found for form in (each, unquote(each))})


def formatter(settings: Settings, text: logging.Formatter | None = None) -> logging.Formatter:
    """What the settings ask for.

    Args:
        settings: KRAKEN_LOG_FORMAT and the secrets.
        text: How lines for people look.
    """
    is_json = settings.kraken_log_format.lower() == "json"
    return JsonLines(secrets_of(settings)) if is_json else TextLines(secrets_of(settings), text)


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Lets this program's own loggers write to standard error; those of libraries stay as they are."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter(settings))
    logger = logging.getLogger(LOGGER)
    logger.handlers = [handler]
    logger.setLevel(settings.kraken_log_level.upper())
    logger.propagate = False
