"""What Dagster and Alembic make anew each time, kept for a whole process of tests: half of a small run's time.

A program of the user runs one command and ends; a process of tests runs thousands. The content of every database is
what it would be: only the folder of migrations is read once, and statements are compiled once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

_MANY = 64
"""Engines that are kept: one for each database, and each run has one of its own."""


def remember_migrations(patch: pytest.MonkeyPatch) -> None:
    """Lets Alembic read a folder of migrations once, and not each time that a database is opened."""
    patch.setattr(ScriptDirectory, "from_config", _scripts)


def remember_engines(patch: pytest.MonkeyPatch) -> None:
    """Lets Dagster's storage keep its engines, of which it makes two for each event otherwise."""
    from dagster._core.storage.event_log.sqlite import sqlite_event_log
    from dagster._core.storage.runs.sqlite import sqlite_run_storage
    from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage

    for module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        patch.setattr(module, "create_engine", _create_engine)


_read_scripts = ScriptDirectory.from_config


def _scripts(config: Config) -> ScriptDirectory:
    location = config.get_main_option("script_location")
    assert location is not None
    return _scripts_at(location)


@cache
def _scripts_at(location: str) -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", location.replace("%", "%%"))
    return _read_scripts(config)


def _create_engine(
    url: str, poolclass: type[sa.Pool] | None = None, connect_args: Mapping[str, Any] | None = None
) -> sa.Engine:
    return _engine(url, poolclass, tuple((connect_args or {}).items()))  # type: ignore[arg-type]


@lru_cache(_MANY)
def _engine(url: str, poolclass: Any, connect_args: tuple[tuple[str, Any], ...]) -> sa.Engine:
    made = sa.create_engine(url, poolclass=poolclass, connect_args=dict(connect_args))
    # A compiled statement belongs to a dialect; all of these databases are SQLite's, and share both.
    made.dialect, made._compiled_cache = _sqlite().dialect, _sqlite()._compiled_cache
    return made


@cache
def _sqlite() -> sa.Engine:
    made = sa.create_engine("sqlite://")
    made.connect().close()  # then the dialect knows which version of SQLite this is
    return made
