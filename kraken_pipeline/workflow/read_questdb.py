"""Reading candles from QuestDB, for notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.questdb.client import QuestDB, open_questdb


@contextmanager
def connect_questdb(settings: Settings | None = None) -> Iterator[QuestDB]:
    """Yield a client of QuestDB for the duration of a `with` block.

    Args:
        settings: The settings; those from the environment by default.

    Raises:
        InvalidRequest: KRAKEN_QUESTDB_URL and KRAKEN_QUESTDB_PG_URL are not set.
    """
    with open_questdb(settings or load_settings()) as questdb:
        yield questdb
