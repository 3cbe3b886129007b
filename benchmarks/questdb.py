"""A QuestDB of a side's own, warmed up and empty: as a server runs it, not as tests do, which start it often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.storage.questdb.client import QuestDB
from kraken_pipeline.storage.questdb.values import ROW_SCHEMA
from kraken_pipeline_tests.support.servers import QUESTDB_JAR
from kraken_pipeline_tests.support.servers import QuestDB as Server

SENDS_OF_WARMING = 5


class _Server(Server):
    def _command(self) -> Sequence[str]:
        program = ["-p", str(QUESTDB_JAR), "-m", "io.questdb/io.questdb.ServerMain", "-d", str(self.data)]
        return ["java", "-Xmx1g", *program]


@contextmanager
def warmed(folder: Path, rows: pl.DataFrame) -> Iterator[tuple[Server, QuestDB]]:
    """A server, and a client of it; some rows have been sent to another table than the one that is measured.

    Args:
        folder: Where its files lie.
        rows: What to warm up with, of the schema that is sent.
    """
    assert rows.schema == ROW_SCHEMA
    with _Server(folder) as server, QuestDB(server.http_url, server.pg_url) as client:
        client.prepare()
        for _ in range(SENDS_OF_WARMING):
            client.wait_until_applied(client.send(Interval.H4, rows))
        client.drop(Interval.H4)
        client.prepare([Interval.H4])
        yield server, client
