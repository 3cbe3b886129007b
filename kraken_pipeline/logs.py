"""Logs: for people, or one JSON object a line; never with a password in them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TextIO, get_args
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from kraken_pipeline.settings import Settings

LOGGER = "kraken_pipeline"
HIDDEN = "**********"
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_RUN = ("run_id", "job_name", "step_key")
"""What Dagster tells of a record's run."""


class Redacted(logging.Formatter):
    """Hides passwords, wherever in a message or a traceback they come up.

    Args:
        wrapped: Writes the line.
        secrets: What may not be in it.
    """

    def __init__(self, wrapped: logging.Formatter, secrets: Iterable[str]) -> None:
        super().__init__()
        self._wrapped = wrapped
        self._secrets = sorted(secrets, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line = self._wrapped.format(record)
        for secret in self._secrets:
            line = line.replace(secret, HIDDEN)
        return line


class JsonLines(logging.Formatter):
    """An object a line: `time`, `level`, `logger`, `message`; of a run `run_id`, `job`, `step`; of an error `error`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        of_run = getattr(record, "dagster_meta", None) or {}
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": of_run.get("orig_message") or record.getMessage(),
        }
        for name in _RUN:
            if of_run.get(name):
                told[name.removesuffix("_name").removesuffix("_key")] = of_run[name]
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)


def secrets_of(settings: Settings) -> set[str]:
    """Every password in the settings, as it stands in a URL and as it is."""
    found: set[str] = set()
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, SecretStr) and SecretStr in (field.annotation, *get_args(field.annotation)):
            password = urlsplit(value.get_secret_value()).password
            found |= {password, unquote(password)} if password else set()
    return found


def formatter(settings: Settings, text: logging.Formatter | None = None) -> logging.Formatter:
    """What the settings ask for.

    Args:
        settings: KRAKEN_LOG_FORMAT and the secrets.
        text: How lines for people look.
    """
    is_json = settings.kraken_log_format.lower() == "json"
    return Redacted(JsonLines() if is_json else text or logging.Formatter(_TEXT), secrets_of(settings))


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Lets this program's own loggers write to standard error; those of libraries stay as they are."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter(settings))
    logger = logging.getLogger(LOGGER)
    logger.handlers = [handler]
    logger.setLevel(settings.kraken_log_level.upper())
    logger.propagate = False
