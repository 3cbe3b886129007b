"""The server that keeps Dagster's history of runs: what its URL must say, and whether it answers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from kraken_pipeline.errors import InvalidSettings, StoreUnavailable

VARIABLE = "KRAKEN_DAGSTER_POSTGRES_URL"
_DRIVER = "postgresql+psycopg2"
_EXAMPLE = f"{_DRIVER}://user:password@host:5432/database"
_CONNECT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class HistoryServer:
    """The PostgreSQL server with Dagster's history.

    Attributes:
        url: The URL of its database, with the password, which is not shown.
    """

    url: sa.URL = field(repr=False)

    @property
    def place(self) -> str:
        """The server and its database in words, without user and password."""
        return f"Dagster's storage at {self.url.host}:{self.url.port or 5432}/{self.url.database}"

    def require_answer(self) -> None:
        """Connect once. Dagster itself tries for 13 seconds, which a run may wait and a health check may not.

        Raises:
            StoreUnavailable: The server does not answer, or refuses the login.
        """
        engine = sa.create_engine(
            self.url, poolclass=sa.NullPool, connect_args={"connect_timeout": _CONNECT_SECONDS}, hide_parameters=True
        )
        try:
            with engine.connect():
                pass
        except sa.exc.OperationalError as error:
            said = " ".join(str(error.orig).split())
            raise StoreUnavailable(
                f"{self.place} does not answer ({said}); start its server, or correct {VARIABLE}"
            ) from None
        finally:
            engine.dispose()


def history_server(described: Path) -> HistoryServer | None:
    """Return the server with Dagster's history; None if the instance file does not read it.

    Args:
        described: The file `dagster.yaml` of the instance.

    Raises:
        InvalidSettings: The file reads KRAKEN_DAGSTER_POSTGRES_URL, which is not set or not a URL that Dagster can use.
    """
    if not _reads_variable(described):
        return None
    given = os.environ.get(VARIABLE)
    if not given:
        raise InvalidSettings(f"{VARIABLE} is not set, and {described} reads it; set it to {_EXAMPLE}")
    try:
        url = sa.make_url(given)
    except (sa.exc.ArgumentError, ValueError):
        url = None
    # With psycopg 3, which plain postgresql:// means to SQLAlchemy 2.1, dagster-postgres cannot store an event.
    if url is None or url.drivername != _DRIVER or not url.host or not url.database:
        raise InvalidSettings(f"{VARIABLE} is not a URL that Dagster can use; it has the form {_EXAMPLE}")
    return HistoryServer(url)


def _reads_variable(described: Path) -> bool:
    if not described.exists():
        return False
    lines = described.read_text(encoding="utf-8").splitlines()
    return any(VARIABLE in line.partition("#")[0] for line in lines)
