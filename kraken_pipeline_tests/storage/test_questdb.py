"""Against a real QuestDB; what is asked of nobody is asked at an address where nobody is."""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as searching
from hypothesis import strategies as st

from kraken_pipeline.errors import InvalidRequest, PipelineError, StoreError, StoreUnavailable
from kraken_pipeline.market.candle import CANDLE_SCHEMA, SOURCE, Source
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.questdb import tables as questdb_schema
from kraken_pipeline.storage.questdb.client import QuestDB, open_questdb, require_questdb
from kraken_pipeline.storage.questdb.ilp import sender_conf
from kraken_pipeline.storage.questdb.tables import TABLES, VIEW, checksum, partitioning
from kraken_pipeline.storage.questdb.values import READ_SCHEMA, ROW_SCHEMA, RangeDigest, Receipt
from kraken_pipeline_tests.support.homes import settings_of, values
from kraken_pipeline_tests.support.processes import process, result
from kraken_pipeline_tests.support.samples import at, candle, frame
from kraken_pipeline_tests.support.servers import HOST, USER, Port, wait_for
from kraken_pipeline_tests.support.servers import QuestDB as Server

T0 = at("2023-07-01")
HOUR = 3_600
H1 = Interval.H1
XBT = Series("XBTUSD", H1)


def client(server: Server, **more: Any) -> QuestDB:
    given = {"pool": (1, 4), "timeout": 20.0, "apply_seconds": 60.0}
    return QuestDB(server.http_url, server.pg_url, **{**given, **more})


@pytest.fixture
def there(questdb: Server) -> Iterator[QuestDB]:
    """An empty QuestDB with its tables."""
    with client(questdb) as found:
        found.prepare()
        yield found


def rows(candles: pl.DataFrame, pair: str = "XBTUSD", asset_id: int = 1, quote: str = "USD") -> pl.DataFrame:
    """Candles of one pair as they are sent."""
    return candles.with_columns(
        pl.lit(asset_id, dtype=pl.Int32).alias("asset_id"),
        pl.lit(quote, dtype=pl.Categorical).alias("quote_currency"),
        pl.lit(pair, dtype=pl.Categorical).alias("pair"),
    ).select(ROW_SCHEMA.names())


def hours(count: int, price: float = 10.0, start: int = T0, **more: Any) -> pl.DataFrame:
    return frame(candle(start + number * HOUR, price + number, **more) for number in range(count))


def put(there: QuestDB, *frames: pl.DataFrame, interval: Interval = H1) -> None:
    """Sends frames in this order and waits until they can be read."""
    for each in frames:
        receipt = there.send(interval, each)
    there.wait_until_applied(receipt)


# --- tables and view


def test_there_is_a_table_an_interval_partitioned_as_its_rows_need_it(questdb: Server, there: QuestDB) -> None:
    found = questdb.execute("SELECT table_name, table_type, partitionBy, walEnabled, dedup FROM tables()")
    assert set(found) == {
        *((TABLES[each], "T", "MONTH" if each < H1 else "YEAR", True, True) for each in Interval),
        (VIEW, "V", "N/A", True, False),
    }
    for table in TABLES.values():
        columns = questdb.execute(f"SHOW COLUMNS FROM {table}")
        assert {name: kind for name, kind, *_ in columns} == dict(questdb_schema.COLUMNS)
        assert {name for name, *_, is_key in columns if is_key} == {"time", "asset_id", "quote_currency"}
        assert [name for name, *_, is_time, _ in columns if is_time] == ["time"]
    assert [name for name, *_ in questdb.execute(f"SHOW COLUMNS FROM {VIEW}")] == [
        *("asset_id", "interval_minutes", "time", "open", "high", "low", "close", "volume", "trade_count"),
        *("quote_currency", "source", "pair", "vwap", "quote_volume", "buy_volume"),
    ]


def test_preparing_again_changes_nothing(questdb: Server, there: QuestDB) -> None:
    def state() -> list[tuple[Any, ...]]:
        return sorted(questdb.execute("SELECT id, table_name, directoryName FROM tables()"))

    put(there, rows(hours(3)))
    before = state(), there.ranges(H1), there.lags()
    with client(questdb) as again:
        for _ in range(2):
            again.prepare()
    assert (state(), there.ranges(H1), there.lags()) == before


def prepare(http_url: str, pg_url: str) -> None:
    with QuestDB(http_url, pg_url, pool=(1, 2)) as found:
        found.prepare()


def test_several_prepare_at_once(questdb: Server) -> None:
    urls = questdb.http_url, questdb.pg_url
    with process(prepare, *urls) as first, process(prepare, *urls) as second:
        prepare_beside(*urls)
        result(first)
        result(second)
    for _ in range(3):
        questdb.clear()
        prepare_beside(*urls)
        assert questdb.execute("SELECT view_status FROM views()") == [("valid",)]
        assert len(questdb.execute("SELECT 1 FROM tables()")) == len(TABLES) + 1


def prepare_beside(http_url: str, pg_url: str) -> None:
    with ThreadPoolExecutor(4) as beside:
        for each in [beside.submit(prepare, http_url, pg_url) for _ in range(4)]:
            each.result()


def test_a_table_that_lacks_a_column_gets_it_and_the_view_can_be_read_at_once(questdb: Server, there: QuestDB) -> None:
    put(there, rows(hours(2)))
    questdb.execute("DROP VIEW assetprice")
    for column in ("source", "trade_count", "pair"):
        questdb.execute(f"ALTER TABLE candles_1h DROP COLUMN {column}")
    wait_for(lambda: "pair" not in columns_of(questdb), "a table without the columns")
    with client(questdb) as newer:
        newer.prepare()
        put(newer, rows(hours(1, start=T0 + 9 * HOUR, source=Source.OHLC)))
        found = questdb.execute(f"SELECT pair, source, trade_count FROM {VIEW} WHERE time >= '2023-07-01'")
        assert set(found) == {(None, None, None), ("XBTUSD", "OHLC", 5)}
        # What an earlier version wrote has nulls there: it is not taken for what it should be, and breaks nothing.
        assert set(newer.ranges(H1)) == {"", "XBTUSD"}
        assert newer.ranges(H1)[""].candles == 2
        assert newer.counts(H1) == {"": 2, "XBTUSD": 1}


@pytest.mark.parametrize("statement", ["DEDUP DISABLE", "DEDUP ENABLE UPSERT KEYS(time, asset_id)"])
def test_a_table_with_another_key_gets_the_right_one(questdb: Server, there: QuestDB, statement: str) -> None:
    questdb.execute(f"ALTER TABLE candles_1h {statement}")
    wait_for(lambda: keys_of(questdb) != {"time", "asset_id", "quote_currency"}, "the other key")
    with client(questdb) as newer:
        newer.prepare()
        assert keys_of(questdb) == {"time", "asset_id", "quote_currency"}
        put(newer, rows(hours(2)), rows(hours(2)))
        assert newer.counts(H1) == {"XBTUSD": 2}


def columns_of(questdb: Server) -> set[str]:
    return {name for name, *_ in questdb.execute("SHOW COLUMNS FROM candles_1h")}


def keys_of(questdb: Server) -> set[str]:
    return {name for name, *_, is_key in questdb.execute("SHOW COLUMNS FROM candles_1h") if is_key}


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (questdb_schema.create_table(H1).replace("YEAR", "DAY"), "is not partitioned by YEAR with a log (WAL)"),
        (questdb_schema.create_table(H1).partition(" WAL")[0] + " BYPASS WAL", "is not partitioned by YEAR"),
        (questdb_schema.create_table(H1).replace("trade_count INT", "trade_count LONG"), "trade_count is LONG, not"),
        (questdb_schema.create_table(H1).replace("pair SYMBOL", "pair VARCHAR"), "pair is VARCHAR, not SYMBOL"),
        ("CREATE VIEW candles_1h AS (SELECT x FROM long_sequence(1))", "is not partitioned by YEAR"),
    ],
    ids=["partition", "no log", "type", "symbol", "view"],
)
def test_a_table_that_cannot_be_brought_up_to_date_says_what_to_do_and_hinders_no_other(
    questdb: Server, made: str, sentence: str
) -> None:
    questdb.execute(made)
    with client(questdb) as found:
        for wanted in (tuple(Interval), [H1]):
            with pytest.raises(StoreError) as refusal:
                found.prepare(wanted)
            assert sentence in str(refusal.value)
            assert "candles_1h" in str(refusal.value)
            assert "DROP TABLE candles_1h" in str(refusal.value)
            assert "kraken-pipeline publish --rebuild" in str(refusal.value)
        found.prepare([Interval.D1])
        put(found, rows(hours(1)), interval=Interval.D1)
        if "VIEW" not in made:
            questdb.execute("DROP TABLE candles_1h")
            found.prepare()
            assert questdb.execute("SELECT view_status FROM views()") == [("valid",)]


@pytest.mark.parametrize(
    "statement",
    [
        "DROP VIEW assetprice",
        "CREATE OR REPLACE VIEW assetprice AS (SELECT * FROM candles_1h)",
        "DROP TABLE candles_5m",
    ],
)
def test_a_view_that_is_gone_changed_or_invalid_is_made_anew(questdb: Server, there: QuestDB, statement: str) -> None:
    before = questdb.execute("SELECT view_sql, view_status FROM views()")
    questdb.execute(statement)
    with client(questdb) as newer:
        newer.prepare()
        put(newer, rows(hours(1)))
        assert questdb.execute("SELECT view_sql, view_status FROM views()") == before
        assert len(questdb.execute(f"SELECT * FROM {VIEW} WHERE time >= '2023-07-01' AND time < '2023-07-02'")) == 1


def test_a_table_where_the_view_belongs_is_not_touched(questdb: Server) -> None:
    questdb.execute("CREATE TABLE assetprice (mine INT)")
    with (
        client(questdb) as found,
        pytest.raises(StoreError, match="has a table with the name of the view assetprice; rename it"),
    ):
        found.prepare()
    assert questdb.execute("SELECT table_type FROM tables() WHERE table_name = 'assetprice'") == [("T",)]


def test_a_table_that_somebody_dropped_is_made_anew_by_who_was_ready_before(questdb: Server, there: QuestDB) -> None:
    def tables() -> set[tuple[Any, ...]]:
        return set(questdb.execute("SELECT table_name, partitionBy, dedup FROM tables()"))

    put(there, rows(hours(2)))
    before = tables()
    for _ in range(10):  # as many as make the driver prepare its statements at the server
        assert there.candles(XBT).height == 2
    there.drop(H1)
    there.prepare([Interval.D1])
    assert tables() == before - {("candles_1h", "YEAR", True)}, "that is asked about another one"
    there.prepare([H1])
    assert tables() == before
    assert there.candles(XBT).height == 0


# --- writing


def test_what_is_sent_can_be_read_in_order_of_time(there: QuestDB) -> None:
    late, early = hours(3, start=T0 + 5 * HOUR), hours(2, price=99.0)
    put(there, rows(late), rows(early), rows(hours(2, price=5.0), "ADAEUR", 2, "EUR"))
    found = there.candles(XBT)
    assert found.schema == READ_SCHEMA
    assert values(found) == values(pl.concat([early, late]))
    assert set(found["source"]) == {"CSV"}
    assert values(there.candles(XBT, T0 + HOUR, T0 + 6 * HOUR)) == [*values(early)[1:], *values(late)[:1]]
    assert values(there.candles(XBT, T0 + 6 * HOUR)) == values(late)[1:]
    assert values(there.candles(XBT, end=T0 + HOUR)) == values(early)[:1]
    assert there.candles(XBT, T0 + 5, T0 + 5).is_empty()


def test_what_is_sent_twice_is_there_once_and_another_value_takes_its_place(there: QuestDB) -> None:
    first = hours(4)
    put(there, rows(first), rows(first))
    before = there.ranges(H1)
    put(there, rows(first[1:3]))
    assert there.ranges(H1) == before == {"XBTUSD": digest(first)}
    # The source is not part of the key: the archive's copy takes the place of the exchange's.
    other = frame([candle(T0, 77.0, volume=3.5, trades=9, source=Source.OHLC)])
    put(there, rows(other))
    assert there.candles(XBT)["source"].to_list() == ["OHLC", "CSV", "CSV", "CSV"]
    assert values(there.candles(XBT)) == [*values(other), *values(first)[1:]]


def test_pairs_quotes_and_intervals_do_not_get_into_each_others_way(there: QuestDB) -> None:
    names = {"XBTUSD": (1, "USD"), "AAPLxUSD": (2, "USD"), "aaplxusd": (3, ""), "ADAEUR": (4, "EUR"), "1INCHÅ": (5, "")}
    every = pl.concat([rows(hours(2, price=id_), pair, id_, quote) for pair, (id_, quote) in names.items()])
    put(there, every.sort("time"))
    put(there, rows(hours(1, price=500.0)), interval=Interval.D1)
    assert there.counts(H1) == dict.fromkeys(sorted(names), 2)
    for pair, (id_, _) in names.items():
        assert values(there.candles(Series(pair, H1))) == values(hours(2, price=id_))
    assert values(there.candles(Series("XBTUSD", Interval.D1))) == values(hours(1, price=500.0))
    # An empty currency equals itself: sent again, its rows are there once.
    put(there, every.sort("time"))
    assert there.counts(H1) == dict.fromkeys(sorted(names), 2)


def test_of_nothing_nothing_is_sent(there: QuestDB) -> None:
    receipt = there.send(H1, rows(hours(0)))
    there.wait_until_applied(receipt)
    assert (receipt.interval, receipt.transaction, there.counts(H1)) == (H1, 0, {})


def test_what_a_dropped_table_takes_is_not_taken_for_written(questdb: Server, there: QuestDB) -> None:
    put(there, rows(hours(2)))
    questdb.execute("DROP TABLE candles_1h")
    with pytest.raises(StoreError, match="has no table candles_1h any more"):
        there.send(H1, rows(hours(3)))
    assert "candles_1h" not in {name for (name,) in questdb.execute("SELECT table_name FROM tables()")}
    with client(questdb) as other:
        other.prepare()
    # The connection that has written to the old one goes on to.
    with pytest.raises(StoreUnavailable, match="accepted 3 candles into a candles_1h that was dropped"):
        there.send(H1, rows(hours(3)))
    put(there, rows(hours(4)))
    assert there.ranges(H1) == {"XBTUSD": digest(hours(4))}


def test_several_threads_send_and_read_at_once(there: QuestDB) -> None:
    def work(number: int) -> None:
        pair = f"COIN{number}USD"
        for part in range(3):
            there.wait_until_applied(there.send(H1, rows(hours(5, start=T0 + part * 5 * HOUR), pair, number)))
            assert there.candles(Series(pair, H1)).height == 5 * (part + 1)

    with ThreadPoolExecutor(8) as beside:
        for each in [beside.submit(work, number) for number in range(1, 9)]:
            each.result()
    assert set(there.counts(H1).values()) == {15}


# --- the checksum

PRICES = st.floats(1e-12, 1e12, allow_nan=False)
VOLUMES = st.one_of(st.just(0.0), st.floats(1e-12, 1e15))
COUNTS = st.one_of(st.integers(0, 5), st.integers(0, 2**31 - 1))
CANDLES = st.lists(
    st.tuples(st.integers(0, 60_000), PRICES, PRICES, PRICES, PRICES, VOLUMES, COUNTS, st.sampled_from(Source)),
    min_size=1,
    max_size=20,
    unique_by=lambda row: row[0],
)
Row = tuple[int, float, float, float, float, float, int, Source]


def made(found: list[Row]) -> pl.DataFrame:
    return frame(
        (T0 + slot * HOUR, first, high, low, last, volume, count, source.value, 0)
        for slot, first, high, low, last, volume, count, source in sorted(found)
    )


def digest(candles: pl.DataFrame) -> RangeDigest:
    times = [int(row[0]) for row in values(candles)]
    return RangeDigest(len(times), times[0], times[-1], total(candles))


def total(candles: pl.DataFrame) -> int:
    return int(candles.select(checksum()).item())


EXTREME: list[Row] = [
    (0, 1e-12, 1e-12, 1e-12, 1e-12, 0.0, 0, Source.CSV),
    (1, 1e12, 1e12, 1e12, 1e12, 1e12, 2**31 - 1, Source.OHLC),
    (2, 0.1, 0.30000000000000004, 0.1, 0.3, 1e-8, 1, Source.TRADES),
    (3, 123456.78901234567, 2.0**53, 1.0, math.pi, 9e18, 2**31 - 1, Source.RESAMPLED),
    (4, 5e-324, 1.7e308, 2.2e-308, 1e16, 1.7e308, 7, Source.CSV),
]


def test_both_sides_come_to_the_same_checksum_of_extreme_values(there: QuestDB) -> None:
    for number, row in enumerate(EXTREME):
        put(there, rows(made([row]), f"COIN{number}USD", number + 1))
        assert values(there.candles(Series(f"COIN{number}USD", H1))) == values(made([row])), "bit by bit"
    put(there, rows(made(EXTREME[:4]), asset_id=99))
    found = there.ranges(H1)
    assert found.pop("XBTUSD") == digest(made(EXTREME[:4]))
    expected = {f"COIN{number}USD": digest(made([row])) for number, row in enumerate(EXTREME[:4])}
    # Of what no market ever has a checksum need not say anything, but both sides say it.
    whole = made([EXTREME[4]])
    expected["COIN4USD"] = RangeDigest(1, T0 + 4 * HOUR, T0 + 4 * HOUR, total(whole))
    assert found == expected


@searching(max_examples=10)
@given(st.lists(CANDLES, min_size=1, max_size=5))
def test_both_sides_come_to_the_same_checksum_of_anything(questdb_server: Server, frames: list[list[Row]]) -> None:
    questdb_server.start()
    with client(questdb_server) as there:
        there.prepare()
        there.drop(H1)
        there.prepare([H1])
        every = {f"COIN{number}USD": made(found) for number, found in enumerate(frames)}
        sent = [rows(candles, pair, number) for number, (pair, candles) in enumerate(every.items(), start=1)]
        put(there, pl.concat(sent).sort("time"))
        assert there.ranges(H1) == {pair: digest(candles) for pair, candles in every.items()}


FLOWS: list[tuple[float | None, float | None, float | None]] = [
    (None, None, None),
    (10.5, 1e-12, 0.0),
    (None, None, 0.0),
    (9.99, None, None),
    (1 / 3, 9e17, 123456.78901234),
]


def flowing(*flows: tuple[float | None, float | None, float | None]) -> pl.DataFrame:
    """Hours one after another, each with a flow."""
    columns = zip(FLOW, zip(*flows, strict=True), strict=True)
    return hours(len(flows)).with_columns(pl.Series(name, column, pl.Float64()) for name, column in columns)


def test_both_sides_come_to_the_same_checksum_of_flows_and_read_them_bit_by_bit(there: QuestDB) -> None:
    put(there, rows(flowing(*FLOWS)))
    assert there.candles(XBT).select(FLOW).rows() == FLOWS
    assert there.latest(H1)["vwap"].to_list() == [1 / 3]
    assert there.ranges(H1) == {"XBTUSD": digest(flowing(*FLOWS))}
    put(there, rows(hours(5)))
    assert there.candles(XBT).select(FLOW).rows() == [(None, None, None)] * 5, "a row is replaced as a whole"
    assert there.ranges(H1) == {"XBTUSD": digest(hours(5))}


def test_a_null_counts_as_nothing_and_differs_from_a_zero_in_any_column_of_the_flow() -> None:
    found = [total(flowing(flow)) for flow in [*FLOWS, (0.0, None, None), (None, 0.0, None), (None, 10.5, 1e-12)]]
    assert len(set(found)) == len(found)
    assert total(hours(1)) == total(flowing(FLOWS[0]))


def test_tables_of_a_version_without_the_flow_get_its_columns_and_stay_equal(questdb: Server, there: QuestDB) -> None:
    put(there, rows(hours(2)))
    for column in FLOW:
        questdb.execute(f"ALTER TABLE candles_1h DROP COLUMN {column}")
    wait_for(lambda: not set(FLOW) & set(columns_of(questdb)), "a table without the columns")
    with client(questdb) as newer:
        newer.prepare()
        assert newer.candles(XBT).select(FLOW).rows() == [(None, None, None)] * 2
        assert newer.ranges(H1) == {"XBTUSD": digest(hours(2))}
        put(newer, rows(flowing(*FLOWS)))
        assert newer.ranges(H1) == {"XBTUSD": digest(flowing(*FLOWS))}
        found = questdb.execute(f"SELECT vwap, buy_volume FROM {VIEW} WHERE time >= '2023-07-01'")
        assert sorted(found, key=str) == sorted(((vwap, bought) for vwap, _, bought in FLOWS), key=str)


@given(CANDLES, st.data())
def test_the_checksum_changes_with_the_last_digit_of_any_value(found: list[Row], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(found) - 1))
    column = data.draw(st.integers(1, 7))
    row: list[Any] = list(found[index])
    if column == 7:
        row[7] = data.draw(st.sampled_from([source for source in Source if source is not row[7]]))
    elif column == 6:
        row[6] += 1 if row[6] < 2**31 - 1 else -1
    else:
        row[column] = math.nextafter(row[column], data.draw(st.sampled_from([math.inf, 0.0])) if row[column] else 1e-3)
        if row[column] < 1e-15:
            row[column] = 1e-8
    changed: Any = [*found[:index], tuple(row), *found[index + 1 :]]
    assert total(made(changed)) != total(made(found))


@given(st.integers(0, 4_000), st.integers(1, 1_020), st.integers(1, 5), PRICES, PRICES)
def test_the_checksum_changes_when_two_candles_or_two_columns_swap_a_value(
    slot: int, apart: int, column: int, first: float, second: float
) -> None:
    if first == second:
        return

    def pair(one: float, other: float) -> pl.DataFrame:
        left: list[Any] = [slot, 1.0, 1.0, 1.0, 1.0, 1.0, 5, Source.CSV]
        right: list[Any] = [slot + apart, *left[1:]]
        left[column], right[column] = one, other
        return made([tuple(left), tuple(right)])

    assert total(pair(first, second)) != total(pair(second, first))
    other = column % 5 + 1
    row: list[Any] = [slot, 1.0, 1.0, 1.0, 1.0, 1.0, 5, Source.CSV]
    row[column], row[other] = first, second
    swapped = [*row]
    swapped[column], swapped[other] = second, first
    assert total(made([tuple(row)])) != total(made([tuple(swapped)]))


@pytest.mark.parametrize("power", range(-10, 11))
@pytest.mark.parametrize("interval", [Interval.M1, Interval.D1, Interval.D15])
def test_the_checksum_tells_round_values_apart_that_change_places(interval: Interval, power: int) -> None:
    """Powers of two have one bit only, which a factor must not shift out."""
    for apart in (1, 2, 3, 64, 128, 256, 512):
        slots = (0, apart)
        one, other = (
            total(frame(candle(T0 + slot * interval.seconds, price) for slot, price in zip(slots, prices, strict=True)))
            for prices in ((2.0**power, 2.0 ** (power + 1)), (2.0 ** (power + 1), 2.0**power))
        )
        assert one != other


# --- reading


def test_ranges_say_what_each_pair_holds(there: QuestDB) -> None:
    xbt, ada = hours(5), hours(3, price=0.3, start=T0 + 7 * HOUR)
    put(there, rows(xbt), rows(ada, "ADAEUR", 2, "EUR"))
    assert there.ranges(H1) == {"ADAEUR": digest(ada), "XBTUSD": digest(xbt)}
    assert list(there.ranges(H1)) == ["ADAEUR", "XBTUSD"]
    assert there.ranges(H1, ["XBTUSD", "ETHUSD", "XBTUSD"]) == {"XBTUSD": digest(xbt)}
    assert there.ranges(H1, []) == {}
    assert there.ranges(Interval.M1) == {}
    assert str(digest(xbt)).startswith("5 candles from 2023-07-01 00:00 to 2023-07-01 04:00 (")


def test_counts_are_those_of_a_time(there: QuestDB) -> None:
    put(there, rows(hours(5)), rows(hours(3, start=T0 + 7 * HOUR), "ADAEUR", 2))
    assert there.counts(H1) == {"ADAEUR": 3, "XBTUSD": 5}
    assert there.counts(H1, T0 + HOUR, T0 + 8 * HOUR) == {"ADAEUR": 1, "XBTUSD": 4}
    assert there.counts(H1, end=T0 + 7 * HOUR) == {"XBTUSD": 5}
    assert there.counts(H1, start=T0 + 100 * HOUR) == {}
    assert there.counts(Interval.W1) == {}


def test_the_latest_candle_of_each_pair(there: QuestDB) -> None:
    put(there, rows(hours(5)), rows(hours(3, start=T0 + 7 * HOUR), "ADAEUR", 2))
    found = there.latest(H1)
    assert found.schema == pl.Schema({"pair": pl.String(), **READ_SCHEMA})
    assert found["pair"].to_list() == ["ADAEUR", "XBTUSD"]
    assert values(found) == [*values(hours(3, start=T0 + 7 * HOUR))[-1:], *values(hours(5))[-1:]]
    assert there.latest(H1, ["XBTUSD", "ETHUSD"])["pair"].to_list() == ["XBTUSD"]
    for nothing in (there.latest(H1, []), there.latest(Interval.M1), there.latest(Interval.M1, ["XBTUSD"])):
        assert (nothing.height, nothing.schema) == (0, found.schema)


def test_more_names_than_a_statement_takes_are_asked_for_in_parts(there: QuestDB) -> None:
    names = [f"COIN{number:04d}USD" for number in range(2_001)]
    first = hours(1)
    put(there, pl.concat([rows(first, name, number) for number, name in enumerate(names, start=1)]))
    assert list(there.ranges(H1, names)) == names
    assert there.latest(H1, names)["pair"].to_list() == names
    assert set(there.ranges(H1, names).values()) == {digest(first)}


def test_tables_say_how_far_they_are_behind_and_how_large_they_are(there: QuestDB) -> None:
    put(there, rows(hours(5)))
    assert {each.table: (each.transactions, each.error) for each in there.lags()} == dict.fromkeys(
        TABLES.values(), (0, None)
    )
    sizes = there.sizes()
    assert set(sizes) == set(Interval)
    assert sizes[H1] > 0


# --- what is refused before anything is sent

NOBODY = QuestDB("http://kraken:a-secret@127.0.0.1:9", "postgresql://kraken:a-secret@127.0.0.1:9/qdb", timeout=0.2)
WRONG: dict[str, Callable[[Any], object]] = {
    "interval as text": lambda there: there.counts("60"),
    "interval as number": lambda there: there.ranges(60),
    "interval of the latest": lambda there: there.latest("candles_1h; DROP TABLE candles_1h"),
    "series as text": lambda there: there.candles("XBTUSD"),
    "pair as number": lambda there: there.candles(Series(7, H1)),  # type: ignore[arg-type]
    "interval of a series": lambda there: there.candles(Series("XBTUSD", 60)),  # type: ignore[arg-type]
    "start as text": lambda there: there.candles(XBT, "2023-01-01' OR 1=1"),
    "end as fraction": lambda there: there.candles(XBT, 0, 1.5),
    "start as truth": lambda there: there.counts(H1, True),
    "end beyond all calendars": lambda there: there.counts(H1, 0, 1 << 60),
    "start before all calendars": lambda there: there.candles(XBT, -(1 << 60)),
    "pairs as one text": lambda there: there.ranges(H1, "XBTUSD"),
    "pairs with a number": lambda there: there.ranges(H1, ["XBTUSD", 7]),
    "pairs with nothing": lambda there: there.latest(H1, [None]),
    "rows of another shape": lambda there: there.send(H1, rows(hours(1)).drop("source")),
    "rows of another type": lambda there: there.send(
        H1, rows(hours(1)).with_columns(pl.col("asset_id").cast(pl.Int64))
    ),
    "rows in another order": lambda there: there.send(H1, rows(hours(1)).select(sorted(ROW_SCHEMA.names()))),
    "rows of no interval": lambda there: there.send(7, rows(hours(1))),
}


@pytest.mark.parametrize("ask", WRONG.values(), ids=WRONG)
def test_what_has_the_wrong_type_is_refused_before_anybody_is_asked(ask: Callable[[QuestDB], object]) -> None:
    with pytest.raises(InvalidRequest):
        ask(NOBODY)


@pytest.mark.parametrize("name", ["x' OR '1'='1", "'; DROP TABLE candles_1h; --", "%s", "%%", "a\\' b", "💰"])
def test_a_name_is_never_part_of_a_statement(there: QuestDB, name: str) -> None:
    put(there, rows(hours(2)))
    assert there.candles(Series(name, H1)).is_empty()
    assert there.ranges(H1, [name, "XBTUSD"]).keys() == {"XBTUSD"}
    assert there.latest(H1, [name]).is_empty()
    assert there.counts(H1) == {"XBTUSD": 2}


# --- a table that stops


def suspend(questdb: Server, table: str = "candles_1h") -> None:
    questdb.execute(f"ALTER TABLE {table} SUSPEND WAL WITH 28, 'No space left on device'")


def test_a_table_that_was_suspended_is_resumed(questdb: Server, there: QuestDB) -> None:
    put(there, rows(hours(1)))
    suspend(questdb)
    receipt = there.send(H1, rows(hours(3)))
    (lag,) = [each for each in there.lags() if each.table == "candles_1h"]
    assert (lag.transactions, lag.error) == (1, "No space left on device")
    there.wait_until_applied(receipt)
    assert there.counts(H1) == {"XBTUSD": 3}
    assert {each.error for each in there.lags()} == {None}


def test_a_table_that_stops_again_is_told_with_its_reason(
    questdb: Server, there: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspend(questdb)
    receipt = there.send(H1, rows(hours(3)))
    fetch = QuestDB._fetch

    def stubborn(self: QuestDB, statement: str, *rest: Any) -> list[tuple[Any, ...]]:
        return [] if "RESUME WAL" in statement else fetch(self, statement, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(QuestDB, "_fetch", stubborn)
        with pytest.raises(StoreError) as stopped:
            there.wait_until_applied(receipt)
    assert "candles_1h (No space left on device); remove the cause" in str(stopped.value)
    assert "ALTER TABLE candles_1h RESUME WAL" in str(stopped.value)
    there.wait_until_applied(receipt)
    assert there.counts(H1) == {"XBTUSD": 3}


def test_who_is_too_slow_is_not_waited_for_longer_than_that(questdb: Server, there: QuestDB) -> None:
    with client(questdb, apply_seconds=0.2) as hasty:
        receipt = hasty.send(H1, rows(hours(3)))
        later = Receipt(H1, receipt.transaction + 1)
        with pytest.raises(
            StoreUnavailable, match=r"within 0\.2 s \(KRAKEN_QUESTDB_APPLY_SECONDS\): they stay pending"
        ):
            hasty.wait_until_applied(later)


def test_a_table_that_is_gone_is_told(questdb: Server, there: QuestDB) -> None:
    receipt = there.send(H1, rows(hours(3)))
    questdb.execute("DROP TABLE candles_1h")
    with pytest.raises(StoreError, match="has no table candles_1h any more: it was dropped"):
        there.wait_until_applied(receipt)
    with pytest.raises(StoreError, match=r"refuses: .*table does not exist"):
        there.counts(H1)


# --- a server that is not there


def timed(ask: Callable[[], object]) -> tuple[PipelineError, float]:
    """What it raises, and after how long."""
    began = time.monotonic()
    with pytest.raises(PipelineError) as raised:
        ask()
    return raised.value, time.monotonic() - began


def assert_secret(error: BaseException | None) -> None:
    while error is not None:
        assert "a-secret" not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__


ASKS: dict[str, Callable[[QuestDB], object]] = {
    "prepare": lambda there: there.prepare(),
    "candles": lambda there: there.candles(XBT),
    "send": lambda there: there.send(H1, rows(hours(1))),
    "ping": lambda there: there.ping(),
    "lags": lambda there: there.lags(),
    "drop": lambda there: there.drop(H1),
}


@pytest.mark.slow
@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_a_server_that_is_not_there_is_told_within_the_time_out(ask: Callable[[QuestDB], object]) -> None:
    with QuestDB(
        "http://kraken:a-secret@127.0.0.1:9", "postgresql://kraken:a-secret@127.0.0.1:9/qdb", timeout=0.3
    ) as nobody:
        error, seconds = timed(lambda: ask(nobody))
        assert isinstance(error, StoreUnavailable)
        assert seconds < 3
        assert_secret(error)
        # And again: it is not broken by it.
        assert isinstance(timed(lambda: ask(nobody))[0], StoreUnavailable)


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port at which connections are accepted, and nothing is ever said."""
    with socket.create_server((HOST, 0)) as listener, ExitStack() as accepted:
        is_open = True

        def accept() -> None:
            while is_open:
                connection, _ = listener.accept()
                accepted.enter_context(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        is_open = False
        socket.create_connection(listener.getsockname()[:2]).close()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_one_that_accepts_and_says_nothing_costs_the_time_out_and_no_more(
    black_hole: int, ask: Callable[[QuestDB], object]
) -> None:
    urls = f"http://kraken:a-secret@{HOST}:{black_hole}", f"postgresql://kraken:a-secret@{HOST}:{black_hole}/qdb"
    began = time.monotonic()
    with QuestDB(*urls, timeout=0.5) as mute:
        error, seconds = timed(lambda: ask(mute))
        assert isinstance(error, StoreUnavailable)
        assert seconds < 3
        assert_secret(error)
    assert time.monotonic() - began < 5, "to leave does not take long either"


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    """The server is there and does nothing."""
    assert server._process is not None
    os.kill(server._process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, server._process.pid, os.WSTOPPED | os.WNOWAIT)
    try:
        yield
    finally:
        os.kill(server._process.pid, signal.SIGCONT)


def test_one_that_freezes_in_the_middle_costs_the_time_out_and_is_used_again(questdb: Server) -> None:
    with client(questdb, timeout=1.0, apply_seconds=1.0) as there:
        there.prepare()
        put(there, rows(hours(1)))
        with frozen(questdb):
            for ask in (there.lags, lambda: there.candles(XBT)):
                error, seconds = timed(ask)
                assert isinstance(error, StoreUnavailable)
                assert seconds < 6
        with client(questdb) as patient:
            wait_for(lambda: patient.counts(H1) == {"XBTUSD": 1}, "an answer")
        wait_for(lambda: is_answered(there), "an answer on the same pool")
        put(there, rows(hours(2)))
        assert there.counts(H1) == {"XBTUSD": 2}


def is_answered(there: QuestDB) -> bool:
    try:
        return bool(there.lags())
    except StoreUnavailable:
        return False


def test_of_either_side_is_told_that_it_is_not_there(questdb: Server) -> None:
    port = Port()
    nobody = f"{HOST}:{port.number}"
    with QuestDB(f"http://{USER}:{questdb.password}@{nobody}", questdb.pg_url, pool=(1, 2), timeout=1.0) as half:
        half.prepare()
        assert half.counts(H1) == {}
        for ask in (half.ping, lambda: half.send(H1, rows(hours(1)))):
            error, seconds = timed(ask)
            assert isinstance(error, StoreUnavailable)
            assert str(error).startswith(f"QuestDB at {nobody} ")
            assert questdb.password not in str(error)
            assert seconds < 5
    with QuestDB(
        questdb.http_url, f"postgresql://{USER}:{questdb.password}@{nobody}/qdb", pool=(1, 2), timeout=0.5
    ) as half:
        error, _ = timed(half.ping)
        assert "does not answer over PGWire within 0.5 s" in str(error)
        assert questdb.password not in str(error)
    port.close()


def test_a_wrong_password_is_told_without_it(questdb: Server) -> None:
    questdb_wrong = questdb.http_url.replace(questdb.password, "a-secret")
    pg_wrong = questdb.pg_url.replace(questdb.password, "a-secret")
    with QuestDB(questdb_wrong, questdb.pg_url, pool=(1, 2), timeout=2.0) as half:
        half.prepare()
        error, _ = timed(lambda: half.send(H1, rows(hours(1))))
        assert isinstance(error, StoreError), "no second attempt helps"
        assert_secret(error)
    with QuestDB(questdb.http_url, pg_wrong, pool=(1, 2), timeout=0.5) as half:
        error, seconds = timed(half.prepare)
        assert isinstance(error, StoreUnavailable)
        assert "check that it is running, and the user and the password of KRAKEN_QUESTDB_PG_URL" in str(error)
        assert seconds < 3
        assert_secret(error)


def test_after_a_restart_the_same_client_goes_on(tmp_path: Path, questdb: Server) -> None:
    with Server(tmp_path / "own") as server, client(server, timeout=2.0) as there:
        there.prepare()
        put(there, rows(hours(2)))
        server.kill()
        for ask in (lambda: there.candles(XBT), lambda: there.send(H1, rows(hours(4)))):
            assert isinstance(timed(ask)[0], StoreUnavailable)
        server.start()
        wait_for(lambda: is_answered(there), "an answer on the same pool")
        assert values(there.candles(XBT)) == values(hours(2)), "what was applied survives a loss of power"
        put(there, rows(hours(4)))
        assert there.ranges(H1) == {"XBTUSD": digest(hours(4))}


# --- the pool


def test_the_pool_says_how_busy_it_is(questdb: Server) -> None:
    with client(questdb, pool=(2, 3), timeout=20.0) as there:
        assert (there.statistics.size, there.statistics.limit) == (0, 3)
        there.ping()
        # The first caller came before any was there, so it may have opened one more.
        wait_for(lambda: there.statistics.idle == there.statistics.size >= 2, "the connections that are kept")
        found = there.statistics
        assert (found.in_use, found.waiting, found.overflow) == (0, 0, found.size - 2)
        may_end = threading.Event()

        def hold() -> None:
            with there._pool.connection():
                assert may_end.wait(30)

        with ThreadPoolExecutor(5) as beside:
            try:
                held = [beside.submit(hold) for _ in range(5)]
                wait_for(lambda: there.statistics.waiting == 2 and there.statistics.size == 3, "two that wait")
                found = there.statistics
                assert (found.in_use, found.idle, found.overflow, found.limit) == (3, 0, 1, 3)
            finally:
                may_end.set()
            for each in held:
                each.result()
        wait_for(lambda: there.statistics.in_use == 0, "connections that come back")
        assert there.statistics.waiting == 0


def test_who_gets_no_connection_within_the_time_out_is_told(questdb: Server) -> None:
    with client(questdb, pool=(1, 1), timeout=1.0) as there:
        there.prepare()
        with there._pool.connection():
            error, seconds = timed(there.lags)
        assert isinstance(error, StoreUnavailable)
        assert 0.9 < seconds < 5
        assert len(there.lags()) == len(TABLES), "the pool is as good as before"


def test_connections_are_replaced_when_they_are_old(questdb: Server) -> None:
    def connections(recycle_seconds: float) -> int:
        with client(questdb, pool=(1, 1), recycle_seconds=recycle_seconds) as there:
            for _ in range(5):
                there.ping()
            return int(there._pool.get_stats()["connections_num"])

    assert connections(1e-6) > connections(1_800.0) == 1


# --- the settings


def test_it_is_opened_as_the_settings_say(questdb: Server, tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        kraken_questdb_url=questdb.http_url,
        kraken_questdb_pg_url=questdb.pg_url,
        kraken_questdb_pool_min=1,
        kraken_questdb_pool=2,
    )
    assert questdb.password not in repr(settings)
    with open_questdb(settings) as there:
        there.prepare()
        there.ping()
        assert there.statistics.limit == 2
        assert questdb.password not in f"{there!r} {there}"


def test_without_settings_it_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidRequest, match=r"QuestDB is not configured: set KRAKEN_QUESTDB_URL .* KRAKEN_QUESTDB_PG_URL"
    ):
        require_questdb(settings_of(tmp_path))


@pytest.mark.parametrize(
    ("url", "conf"),
    [
        ("http://host:9000", "http::addr=host:9000;"),
        ("http://host", "http::addr=host:9000;"),
        ("https://host", "https::addr=host:443;"),
        ("http://me:a%3Bb%40c%25@host:1", "http::addr=host:1;username=me;password=a;;b@c%;"),
        ("http://me@host:1", "http::addr=host:1;username=me;password=;"),
    ],
)
def test_a_url_is_spelled_as_the_client_wants_it(url: str, conf: str) -> None:
    assert sender_conf(url, 2.5).partition("auto_flush")[0] == conf
    assert "request_timeout=2500;" in sender_conf(url, 2.5)


def test_partitions_and_schemas_are_those_that_were_measured() -> None:
    assert {partitioning(each) for each in Interval if each < H1} == {"MONTH"}
    assert {partitioning(each) for each in Interval if each >= H1} == {"YEAR"}
    assert set(TABLES) == set(Interval)
    assert len(set(TABLES.values())) == len(TABLES)
    assert set(ROW_SCHEMA) == set(questdb_schema.COLUMNS)
    assert set(READ_SCHEMA) <= set(CANDLE_SCHEMA)
    assert READ_SCHEMA["source"] == SOURCE
