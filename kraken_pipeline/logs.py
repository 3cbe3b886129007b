"""Log formatters: text for people, or one JSON object a line; passwords are always hidden."""

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
"""The attributes of a run in Dagster's log records."""
_PASSWORDS = re.compile(r"^[\w+]+://[^:/@]*:([^/]*)@|[?&](?:ssl)?password=([^&]+)")


class Secrets:
    """The passwords to hide in log lines: in plain text, percent-encoded or escaped.

    Args:
        passwords: The passwords in plain text.
    """

    def __init__(self, passwords: Iterable[str]) -> None:
        found = sorted(filter(None, passwords), key=len, reverse=True)
        self._any = re.compile("|".join("".join(map(_spelled, secret)) for secret in found)) if found else None

    def hide(self, text: str) -> str:
        """Return a text with every password replaced by asterisks."""
        return self._any.sub(HIDDEN, text) if self._any else text


def _spelled(character: str) -> str:
    """Return a pattern that matches every encoding of a character of a password."""
    spellings = {re.escape(character), re.escape(json.dumps(character)[1:-1]), re.escape(ascii(character)[1:-1])}
    spellings.add("(?i:" + "".join(f"%{byte:02x}" for byte in character.encode(errors="surrogateescape")) + ")")
    if character == " ":
        spellings.add(r"\+")
    if character in "\"'":
        spellings.add(r"\\" + character)
    return f"(?:{'|'.join(sorted(spellings, key=len, reverse=True))})"


class TextLines(logging.Formatter):
    """A formatter of text for people.

    Args:
        secrets: The passwords to hide.
        wrapped: The formatter that makes the lines.
    """

    def __init__(self, secrets: Secrets, wrapped: logging.Formatter | None = None) -> None:
        super().__init__()
        self._secrets = secrets
        self._wrapped = wrapped or logging.Formatter(_TEXT)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return self._secrets.hide(self._wrapped.format(record))


class JsonLines(logging.Formatter):
    """A formatter of one JSON object a line.

    The keys are `time`, `level`, `logger` and `message`; also `run_id`, `job` and `step` for a run, and `error` for an
    error.

    Args:
        secrets: The passwords to hide. They are hidden before the encoding as JSON, whose syntax a password may
            contain.
    """

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, in ASCII, because some programs treat other characters as the end of a line."""
        of_run = getattr(record, "dagster_meta", None) or {}
        entry: dict[str, str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": self._secrets.hide(of_run.get("orig_message") or record.getMessage()),
        }
        for name in _RUN:
            if of_run.get(name):
                entry[name.removesuffix("_name").removesuffix("_key")] = str(of_run[name])
        if error := self._error(record, of_run):
            entry["error"] = self._secrets.hide(error)
        return json.dumps(entry)

    def _error(self, record: logging.LogRecord, of_run: Mapping[str, Any]) -> str | None:
        """Return the traceback of a record, or the one in its Dagster event, such as the failure of a step."""
        if record.exc_info and record.exc_info[0]:
            return self.formatException(record.exc_info)
        error = getattr(getattr(of_run.get("dagster_event"), "event_specific_data", None), "error", None)
        return None if error is None else str(error.to_string())


def secrets_of(settings: Settings) -> Secrets:
    """Return every password in the URLs of the settings: before the host, or in the query."""
    found: set[str] = set()
    for name in Settings.model_fields:
        value = getattr(settings, name)
        url = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(url, str):
            found.update(*_PASSWORDS.findall(url))
    if settings.kraken_alert_urls is not None:  # services have tokens in any place
        addresses = settings.kraken_alert_urls.get_secret_value().split()
        found.update(addresses, *(groups for address in addresses for groups in _PASSWORDS.findall(address)))
    return Secrets({form for secret in found for form in (secret, unquote(secret))})


def formatter(settings: Settings, text: logging.Formatter | None = None) -> logging.Formatter:
    """Return the log formatter that the settings select.

    Args:
        settings: The settings, with KRAKEN_LOG_FORMAT and the passwords.
        text: The formatter of text for people; None for the default.
    """
    is_json = settings.kraken_log_format.lower() == "json"
    return JsonLines(secrets_of(settings)) if is_json else TextLines(secrets_of(settings), text)


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Make this program's loggers write to standard error, or to `stream`; the loggers of libraries are unchanged."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter(settings))
    logger = logging.getLogger(LOGGER)
    logger.handlers = [handler]
    logger.setLevel(settings.kraken_log_level.upper())
    logger.propagate = False
