"""The program with a QuestDB, in processes of its own: what is killed in the middle is made whole by publishing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.catalog.database import open_catalog
from kraken_pipeline.storage.lake.writer import CandleWriter
from kraken_pipeline.storage.questdb.client import open_questdb
from kraken_pipeline.storage.questdb.tables import TABLES, checksum
from kraken_pipeline.storage.questdb.values import RangeDigest
from kraken_pipeline.storage.records import publications
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow import publish as publish_flow
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline_tests.support.homes import settings_of
from kraken_pipeline_tests.support.lakes import lake_at
from kraken_pipeline_tests.support.samples import at, candle, frame
from kraken_pipeline_tests.support.servers import QuestDB, wait_for
from kraken_pipeline_tests.support.shell import TIMEOUT, Said, ended, start

pytestmark = pytest.mark.slow
T0 = at("2023-07-01")
MINUTES, HOURS = Series("XBTUSD", Interval.M1), Series("ADAEUR", Interval.H1)
CANDLES = 25_000


def variables(server: QuestDB) -> dict[str, str]:
    return {
        "KRAKEN_QUESTDB_URL": server.http_url,
        "KRAKEN_QUESTDB_PG_URL": server.pg_url,
        "KRAKEN_QUESTDB_POOL_MIN": "1",
        "KRAKEN_QUESTDB_TIMEOUT_SECONDS": "5",
    }


def settings_for(home: Path, server: QuestDB) -> Settings:
    return settings_of(
        home, kraken_questdb_url=server.http_url, kraken_questdb_pg_url=server.pg_url, kraken_questdb_pool_min=1
    )


def publish(home: Path, server: QuestDB, *options: str) -> Said:
    return ended(start(home, "publish", *options, **variables(server)))


def assert_equal(home: Path, server: QuestDB) -> None:
    """Every series has the same candles on both sides: how many, the first, the last and a checksum of all values."""
    lake = lake_at(home)
    expected: dict[Series, RangeDigest] = {}
    for series in lake.series():
        candles = lake.read(series)
        times = candles["time"].dt.epoch("s")
        total = int(candles.select(checksum()).item())
        expected[series] = RangeDigest(candles.height, int(times[0]), int(times[-1]), total)
    assert expected
    with open_questdb(settings_for(home, server)) as there:
        found = {
            Series(pair, interval): digest for interval in Interval for pair, digest in there.ranges(interval).items()
        }
    assert found == expected


def rows(server: QuestDB, statement: str) -> pl.DataFrame:
    """What somebody sees who asks for it with another client."""
    with psycopg.connect(server.pg_url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        names = [column.name for column in cursor.description or ()]
        return pl.DataFrame(cursor.fetchall(), schema=names, orient="row", infer_schema_length=None)


def test_after_the_demo_questdb_has_what_the_lake_has(tmp_path: Path, questdb: QuestDB) -> None:
    home = tmp_path / "demo-data"
    said = ended(start(home, "demo", "--home", str(home), **variables(questdb)))
    assert said.code == 0, said.err
    assert_equal(home, questdb)

    said = publish(home, questdb, "--verify", "--json")
    assert said.code == 0, said.err
    outcome = said.json["outcome"]
    assert (outcome["candles_published"], outcome["publications_owed"], outcome["series_different"]) == (0, 0, 0)

    # All rows of one series, with other means than the program's.
    series = Series("XBTUSD", Interval.H1)
    kept = (
        lake_at(home).read(series).with_columns(pl.col("time").dt.replace_time_zone(None), pl.col("source").cast(str))
    )
    columns = [name for name in kept.columns if name != "release"]
    statement = f"SELECT {', '.join(columns)} FROM {TABLES[series.interval]} WHERE pair = 'XBTUSD' ORDER BY time"
    assert rows(questdb, statement).rows() == kept.select(columns).rows()

    # A range of time through the view, of all pairs and intervals.
    first = kept["time"][0]
    end = first + timedelta(hours=12)
    found = rows(questdb, f"SELECT * FROM assetprice WHERE time >= '{first:%FT%TZ}' AND time < '{end:%FT%TZ}'")
    assert found.columns == [
        *("asset_id", "interval_minutes", "time", "open", "high", "low", "close", "volume", "trade_count"),
        *("quote_currency", "source", "pair", "vwap", "quote_volume", "buy_volume"),
    ]
    hours = found.filter(pair="XBTUSD", interval_minutes=60).sort("time")
    assert hours.select(columns).rows() == kept.filter(pl.col("time") < end).select(columns).rows()
    assert 0 < hours.height <= 12
    assert set(hours["quote_currency"]) == {"USD"}
    ids = {row["pair"]: row["asset_id"] for row in lake_at(home).asset_ids.all().to_dicts()}
    assert {ids[pair] == id_ for pair, id_ in zip(found["pair"], found["asset_id"], strict=True)} == {True}

    before = questdb.execute("SELECT name, sequencerTxn FROM wal_tables() ORDER BY name")
    assert publish(home, questdb).code == 0
    assert questdb.execute("SELECT name, sequencerTxn FROM wal_tables() ORDER BY name") == before
    assert_equal(home, questdb)


# --- killed in the middle


def filled(home: Path) -> Path:
    """A home with some candles of two tables, which QuestDB is owed."""
    with opened(settings_of(home)) as stores:
        for series, count in ((MINUTES, CANDLES), (HOURS, 50)):
            stores.lake.asset_ids.register([parse_pair(series.pair)])
            writer = CandleWriter(stores.lake, series, origin="a test", now=T0)
            seconds = series.interval.seconds
            writer.add(frame(candle(T0 + number * seconds, 1.0 + number / 7) for number in range(count)))
            with stores.locks.series([series]):
                commit(stores, [LakeWrite(writer.finish(), ())], T0)
    return home


def count(server: QuestDB) -> int:
    """How many minutes QuestDB shows; none while there is no table."""
    try:
        return int(server.execute(f"SELECT count() FROM {TABLES[Interval.M1]}")[0][0])
    except psycopg.Error:
        return 0


def killed_in_the_middle(home: Path, server: QuestDB, kill: Callable[[Any], None]) -> Said:
    """A rebuild in which something is killed after some windows were applied and confirmed, and others were not."""
    with opened(settings_for(home, server)) as stores:
        assert publish_flow.publish(stores, RunContext("a-run", T0)).failed == ()
    assert count(server) == CANDLES
    # Windows that are so small make it long.
    process = start(home, "publish", "--rebuild", **variables(server), KRAKEN_PUBLISH_ROWS="1000")

    def is_in_the_middle() -> bool:
        assert process.poll() is None, process.communicate()
        return 1_000 <= count(server) < CANDLES and owed_minutes(home) < CANDLES

    wait_for(is_in_the_middle, "some windows", TIMEOUT)
    kill(process)
    said = ended(process)
    assert said.code != 0
    assert 0 < owed_minutes(home) < CANDLES, "what was confirmed is not owed any more"
    return said


def owed_minutes(home: Path) -> int:
    """How many candles' worth of time is still owed of the minutes."""
    with closing(open_catalog(f"sqlite:///{home / 'catalog.sqlite'}")) as catalog, catalog.read() as connection:
        found = publications.pending(connection, Interval.M1).get(MINUTES, [])
    return sum(each.span.seconds for each in found) // 60


def assert_mended(home: Path, server: QuestDB) -> None:
    said = publish(home, server, "--verify", "--json")
    assert said.code == 0, said.err
    outcome = said.json["outcome"]
    assert (outcome["publications_owed"], outcome["series_different"], outcome["errors"]) == (0, 0, [])
    assert outcome["candles_published"] > 0
    assert_equal(home, server)
    assert count(server) == CANDLES, "nothing is there twice"


def test_a_questdb_that_is_killed_in_the_middle_of_a_rebuild_is_made_whole_by_publishing(
    home: Path, questdb: QuestDB
) -> None:
    filled(home)
    said = killed_in_the_middle(home, questdb, lambda _: questdb.kill())
    assert "pending ranges stay pending" in " ".join((said.out + said.err).split())
    assert questdb.password not in said.out + said.err
    questdb.start()
    assert count(questdb) >= CANDLES - owed_minutes(home), "nor was it lost"
    assert_mended(home, questdb)


def test_a_publisher_that_is_killed_in_the_middle_of_a_rebuild_is_taken_up_by_the_next(
    home: Path, questdb: QuestDB
) -> None:
    filled(home)
    killed_in_the_middle(home, questdb, lambda process: process.kill())
    assert count(questdb) >= CANDLES - owed_minutes(home)
    assert_mended(home, questdb)
