"""What several processes do to one catalog; imports little, because each of them starts from nothing."""

from __future__ import annotations

import sqlalchemy as sa

from kraken_pipeline.storage.catalog.database import open_catalog
from kraken_pipeline.storage.catalog.schema import publications


def count_up(database: str, times: int) -> None:
    """Reads a number and writes the next, as often as that; a lost update would repeat one."""
    catalog = open_catalog(database)
    for _ in range(times):
        with catalog.write() as connection:
            count = connection.scalar(sa.select(sa.func.count()).select_from(publications))
            row = {"pair": "XBTUSD", "interval": 60, "start": 0, "end": 3600, "made_at": count}
            connection.execute(sa.insert(publications).values(**row))
    catalog.close()
