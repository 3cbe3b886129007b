"""From the lake to a real QuestDB."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import Span, Spans, intersect, normalise
from kraken_pipeline.errors import InvalidRequest, StoreError, StoreUnavailable
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake.staged import Staged
from kraken_pipeline.storage.lake.writer import CandleWriter
from kraken_pipeline.storage.locks.locks import Locks
from kraken_pipeline.storage.questdb.client import QuestDB, open_questdb
from kraken_pipeline.storage.questdb.tables import TABLES, create_table
from kraken_pipeline.storage.questdb.values import ROW_SCHEMA, Receipt
from kraken_pipeline.storage.records import publications
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow import publish as publish_flow
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline.workflow.progress import Progress, RunContext
from kraken_pipeline.workflow.publish import PublishOutcome, differences, publish, rebuild
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.verify.repair import repair
from kraken_pipeline_tests.support.homes import NOBODY, Shelf, run, settings_of, spans
from kraken_pipeline_tests.support.lakes import bring_in
from kraken_pipeline_tests.support.processes import line, process, tell
from kraken_pipeline_tests.support.samples import at, candle, frame
from kraken_pipeline_tests.support.servers import QuestDB as Server
from kraken_pipeline_tests.support.servers import wait_for

pytestmark = pytest.mark.slow

T0 = at("2023-07-01")
HOUR, DAY = 3_600, 86_400
H1, D1, M1 = Interval.H1, Interval.D1, Interval.M1
XBT, ADA = Series("XBTUSD", H1), Series("ADAEUR", H1)
XBT_DAYS = Series("XBTUSD", D1)


def settings_for(home: Path, server: Server, **more: Any) -> Any:
    given = {
        "kraken_questdb_url": server.http_url,
        "kraken_questdb_pg_url": server.pg_url,
        "kraken_questdb_pool_min": 1,
        "kraken_questdb_pool": 4,
    }
    return settings_of(home, **{**given, **more})


@pytest.fixture
def both(home: Path, questdb: Server) -> Iterator[Stores]:
    """An empty home, and an empty QuestDB that it publishes to in windows of a thousand rows."""
    with opened(settings_for(home, questdb, kraken_publish_rows=1_000)) as stores:
        yield stores


def staged(stores: Stores, series: Series, candles: pl.DataFrame) -> Staged:
    stores.lake.asset_ids.register([parse_pair(series.pair)])
    writer = CandleWriter(stores.lake, series, origin="a test", now=7)
    writer.add(candles)
    return writer.finish()


def write(stores: Stores, series: Series, candles: pl.DataFrame, now: int = 7) -> None:
    """Brings candles into the lake as every writer does."""
    with stores.locks.series([series]):
        commit(stores, [LakeWrite(staged(stores, series, candles), ())], now)


def some(
    count: int, price: float = 10.0, start: int = T0, *, interval: Interval = H1, source: Source = Source.CSV
) -> pl.DataFrame:
    times = (start + number * interval.seconds for number in range(count))
    return frame(candle(time, price + number, source=source) for number, time in enumerate(times))


def now_publish(stores: Stores, *series: Series) -> PublishOutcome:
    return publish(stores, RunContext("a-run", T0), series or None)


def pending(stores: Stores) -> dict[Series, Spans]:
    with stores.catalog.read() as connection:
        every = [publications.pending(connection, interval) for interval in Interval]
    return {series: tuple(each.span for each in ranges) for found in every for series, ranges in found.items()}


def assert_equal(stores: Stores) -> None:
    """QuestDB holds what the lake holds: all columns of all rows, each once."""
    with open_questdb(stores.settings) as there:
        for interval in Interval:
            pairs = [each.pair for each in stores.lake.series() if each.interval is interval]
            assert sorted(there.counts(interval)) == sorted(pairs)
            for pair in pairs:
                series = Series(pair, interval)
                assert there.candles(series).rows() == stores.lake.read(series).drop("release").rows()
    assert differences(stores) == []
    assert pending(stores) == {}


def state_of(server: Server) -> list[tuple[Any, ...]]:
    """What changes with every row that a table takes."""
    return sorted(server.execute("SELECT name, sequencerTxn, writerTxn FROM wal_tables()"))


# --- windows


class _AssetIds:
    def all(self) -> pl.DataFrame:
        names = [f"COIN{number}USD" for number in range(4)]
        return pl.DataFrame({"asset_id": range(1, 5), "pair": names, "base": names, "quote": ["USD"] * 4})


class _Lake:
    """A lake of candles that never end, but where there are none; every read is noted."""

    asset_ids = _AssetIds()

    def __init__(self, interval: Interval, quiet: Spans) -> None:
        self.interval = interval
        self.quiet = quiet
        self.read_spans: dict[Series, list[Span]] = {}

    def read(self, series: Series, start: int, end: int) -> pl.DataFrame:
        self.read_spans.setdefault(series, []).append(Span(start, end))
        return frame(candle(time) for time in self.times(start, end))

    def times(self, start: int, end: int) -> list[int]:
        grid = range(self.interval.ceil(start), end, self.interval.seconds)
        return [time for time in grid if not any(time in span for span in self.quiet)]


def slots(most: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(st.integers(0, most), st.integers(1, most)), max_size=4)


@given(
    st.sampled_from([M1, H1, D1]),
    st.lists(slots(60), min_size=1, max_size=4),
    slots(60),
    st.integers(1, 40),
    st.integers(1, 59),
)
def test_every_owed_candle_comes_once_in_order_of_time_in_windows_that_are_not_too_large(
    interval: Interval,
    owed_slots: list[list[tuple[int, int]]],
    quiet_slots: list[tuple[int, int]],
    wanted: int,
    cut: int,
) -> None:
    def spans_of(found: list[tuple[int, int]], shift: int = 0) -> Spans:
        seconds = interval.seconds
        return normalise(Span(T0 + start * seconds + shift, T0 + (start + length) * seconds) for start, length in found)

    # What was trimmed by a window begins anywhere, not at the beginning of a candle.
    wanted_spans = {
        Series(f"COIN{number}USD", interval): spans_of(found, shift=cut if number % 2 else 0)
        for number, found in enumerate(owed_slots)
        if found
    }
    lake = _Lake(interval, spans_of(quiet_slots))
    stores: Any = SimpleNamespace(lake=lake, settings=SimpleNamespace(kraken_publish_rows=wanted))
    rows = publish_flow._Rows(stores, interval, wanted_spans)
    rows._wanted = wanted  # without a thousand rows for each pair, or no example would have many windows
    windows = list(rows.windows())
    came: dict[Series, list[int]] = {}
    until = 0
    for window in windows:
        assert window.span.start >= until, "time goes on"
        until = window.span.end
        found = window.rows.select("pair", pl.col("time").dt.epoch("s")).rows()
        assert [time for _, time in found] == sorted(time for _, time in found)
        assert all(time in window.span for _, time in found)
        assert window.rows.schema == ROW_SCHEMA
        assert window.rows.height == sum(window.candles.values())
        assert window.rows.height <= publish_flow._DENSEST * wanted or window.span.seconds <= interval.seconds
        for pair, time in found:
            came.setdefault(Series(pair, interval), []).append(time)
    expected = {
        series: [time for span in ranges for time in lake.times(span.start, span.end)]
        for series, ranges in wanted_spans.items()
    }
    assert came == {series: times for series, times in expected.items() if times}
    # All that is owed was looked at before it is said to be delivered.
    for series, ranges in wanted_spans.items():
        assert normalise(lake.read_spans[series]) == ranges
        assert intersect(ranges, tuple(window.span for window in windows)) or not ranges


def test_a_window_that_grew_in_quiet_time_is_cut_where_trading_may_begin() -> None:
    series = Series("COIN0USD", H1)
    lake = _Lake(H1, spans((T0, T0 + 1_000 * HOUR)))
    stores: Any = SimpleNamespace(lake=lake, settings=SimpleNamespace(kraken_publish_rows=1))
    rows = publish_flow._Rows(stores, H1, {series: spans((T0, T0 + 2_000 * HOUR))})
    rows._wanted = 10
    heights = [window.rows.height for window in rows.windows()]
    assert sum(heights) == 1_000
    assert max(heights) <= publish_flow._DENSEST * 10
    assert len(heights) < 200, "and it grows"


def test_of_nothing_there_are_no_windows(stores: Stores) -> None:
    assert list(publish_flow._Rows(stores, H1, {}).windows()) == []


# --- publishing


def test_what_changed_is_delivered_and_owed_no_more(both: Stores) -> None:
    write(both, XBT, some(2_500))
    write(both, ADA, some(1_200, 0.3))
    write(both, XBT_DAYS, some(40, interval=D1))
    seen: list[Progress] = []
    done = publish(both, RunContext("a-run", T0, seen.append))
    assert {each.series: each.candles for each in done.series} == {ADA: 1_200, XBT: 2_500, XBT_DAYS: 40}
    assert {each.series: each.spans for each in done.series}[XBT] == spans((T0, T0 + 2_500 * HOUR))
    assert (done.candles, done.failed, done.pending) == (3_740, (), 0)
    assert seen[-1].published == 3_740
    assert len({each.published for each in seen}) > 2, "in several windows"
    assert_equal(both)


def test_publishing_again_sends_nothing_and_changes_nothing(both: Stores, questdb: Server) -> None:
    write(both, XBT, some(1_500))
    now_publish(both)
    before = state_of(questdb)
    assert now_publish(both) == PublishOutcome()
    assert state_of(questdb) == before
    # Nor does the same file again.
    write(both, XBT, some(1_500))
    assert now_publish(both) == PublishOutcome()
    assert state_of(questdb) == before


def test_only_the_ranges_that_changed_are_sent(both: Stores) -> None:
    write(both, XBT, some(2_000))
    now_publish(both)
    write(
        both,
        XBT,
        some(3, 99.0, T0 + 100 * HOUR, source=Source.CSV).with_columns(pl.lit(9, pl.Int32).alias("trade_count")),
    )
    write(both, XBT, some(2, 99.0, T0 + 5_000 * HOUR))
    (done,) = now_publish(both).series
    assert (done.candles, done.spans) == (
        5,
        spans((T0 + 100 * HOUR, T0 + 103 * HOUR), (T0 + 5_000 * HOUR, T0 + 5_002 * HOUR)),
    )
    assert_equal(both)


def test_only_the_series_that_are_asked_for_are(both: Stores) -> None:
    for series in (XBT, ADA, XBT_DAYS):
        write(both, series, some(5, interval=series.interval))
    done = now_publish(both, ADA, XBT_DAYS)
    assert [each.series for each in done.series] == [ADA, XBT_DAYS]
    assert (done.pending, set(pending(both))) == (1, {XBT})
    now_publish(both)
    assert_equal(both)


def test_a_candle_of_the_exchange_gives_way_to_the_archives(both: Stores) -> None:
    write(both, XBT, some(4, 50.0, source=Source.OHLC))
    now_publish(both)
    write(both, XBT, some(2, 60.0, T0 + HOUR))
    now_publish(both)
    with open_questdb(both.settings) as there:
        found = there.candles(XBT)
    assert found["source"].to_list() == ["OHLC", "CSV", "CSV", "OHLC"]
    assert found["close"].to_list() == [50.0, 60.0, 61.0, 53.0]
    assert_equal(both)


def test_a_real_home_is_published_as_it_is(both: Stores, shelf: Shelf) -> None:
    run(both, shelf.q1, shelf.q3, shelf.minutes)
    assert now_publish(both).failed == ()
    assert len({series.interval for series in both.lake.series()}) > 4
    assert_equal(both)


def flowing(candles: pl.DataFrame) -> pl.DataFrame:
    """Candles with a flow."""
    return candles.with_columns(vwap=pl.col("close"), quote_volume=pl.col("close"), buy_volume=pl.lit(0.25))


def test_a_flow_that_is_filled_in_is_published_and_comes_back_from_questdb(both: Stores) -> None:
    with both.locks.series([XBT]):
        grant = Grant(Span(T0, T0 + 4 * HOUR), Source.CSV, T0)
        commit(both, [LakeWrite(staged(both, XBT, some(4)), (grant,))], T0)
    now_publish(both)
    write(both, XBT, flowing(some(2, 11.0, T0 + HOUR, source=Source.TRADES)))
    assert pending(both) == {XBT: (Span(T0 + HOUR, T0 + 3 * HOUR),)}
    now_publish(both)
    assert_equal(both)
    before = both.lake.read(XBT)
    assert before["vwap"].to_list() == [None, 11.0, 12.0, None]
    assert set(before["source"]) == {"CSV"}
    ((_, path),) = both.lake.partitions(XBT)
    (both.lake.home / path).unlink()
    repaired = repair(both, run_spec(pairs="XBTUSD", api_backfill=False), RunContext("a-repair", T0 + DAY))
    assert (repaired.restored, repaired.notes) == ((XBT,), ())
    assert both.lake.read(XBT).equals(before)


def test_without_questdb_there_is_nothing_to_deliver(stores: Stores) -> None:
    write(stores, XBT, some(3))
    assert publish_flow.deliver(stores, RunContext("a-run", T0)) == PublishOutcome()
    with pytest.raises(InvalidRequest, match="QuestDB is not configured"):
        now_publish(stores)


# --- writers at work


def test_a_writer_that_has_owed_and_not_yet_moved_its_files_is_waited_for(
    both: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(both, XBT, some(3))
    lying = staged(both, XBT, some(3, 20.0, T0 + 3 * HOUR))
    assert lying.changed_span is not None
    is_asked_for = threading.Event()
    patient = Locks.series

    def series(self: Locks, names: list[Series]) -> AbstractContextManager[None]:
        is_asked_for.set()
        return patient(self, names)

    with ThreadPoolExecutor(1) as beside:
        with both.locks.series([XBT]):
            with both.catalog.write() as connection:
                publications.enqueue(connection, [(XBT, lying.changed_span)], 7)
            monkeypatch.setattr(Locks, "series", series)
            publishing = beside.submit(now_publish, both)
            wait_for(lambda: is_asked_for.is_set() or publishing.done(), "a publisher that waits for the writer")
            assert not publishing.done()
            bring_in(both.lake, lying)
        (done,) = publishing.result().series
    assert done.candles == 6
    assert_equal(both)


def write_slowly(home: str) -> None:
    """A writer that says when it has owed, and moves its files when it is told to."""
    with opened(settings_of(Path(home))) as stores:
        lying = staged(stores, XBT, some(3, 20.0, T0 + 3 * HOUR))
        assert lying.changed_span is not None
        with stores.locks.series([XBT]):
            with stores.catalog.write() as connection:
                publications.enqueue(connection, [(XBT, lying.changed_span)], 7)
            print("owed", flush=True)  # noqa: T201 - what the test waits for
            input()
            bring_in(stores.lake, lying)


def test_a_series_that_somebody_writes_for_too_long_stays_owed_and_holds_up_no_other(
    both: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(both, XBT, some(3))
    write(both, ADA, some(4))
    patient = Locks.series
    monkeypatch.setattr(Locks, "series", lambda self, names: patient(self, names, timeout=0.1))
    with process(write_slowly, str(both.settings.home)) as writer:
        assert line(writer) == "owed"
        done = now_publish(both)
        assert [each.series for each in done.series] == [ADA]
        (failure,) = done.failed
        assert "another process has been writing XBTUSD 60" in failure
        assert pending(both) == {XBT: spans((T0, T0 + 6 * HOUR))}
        tell(writer)
        assert writer.wait() == 0
    assert now_publish(both).failed == ()
    assert_equal(both)


def test_what_is_written_while_it_is_published_is_there_in_the_end(both: Stores) -> None:
    has_ended = threading.Event()

    def keep_publishing() -> None:
        while not has_ended.is_set():
            assert now_publish(both).failed == ()

    def keep_writing(series: Series) -> None:
        for number in range(12):
            start = T0 + number * 7 % 30 * HOUR
            fresh = some(10, float(number + 1), start).with_columns(pl.lit(5 + number, pl.Int32).alias("trade_count"))
            write(both, series, fresh)

    both.lake.asset_ids.register([parse_pair("XBTUSD"), parse_pair("ADAEUR")])
    with ThreadPoolExecutor(3) as beside:
        publisher = beside.submit(keep_publishing)
        try:
            for writer in [beside.submit(keep_writing, series) for series in (XBT, ADA)]:
                writer.result()
        finally:
            has_ended.set()
        publisher.result()
    now_publish(both)
    assert_equal(both)


def test_one_publishes_to_a_table_at_a_time(both: Stores) -> None:
    write(both, XBT, some(3))
    write(both, XBT_DAYS, some(3, interval=D1))
    table = Locks.table
    with pytest.MonkeyPatch.context() as patch, both.locks.table(TABLES[H1]):
        patch.setattr(Locks, "table", lambda self, name: table(self, name, timeout=0.1))
        done = now_publish(both)
    assert [each.series for each in done.series] == [XBT_DAYS]
    assert done.failed == ("candles_1h: another run is publishing to candles_1h",)
    now_publish(both)
    assert_equal(both)


def test_who_loses_the_lock_while_sending_may_have_undone_what_another_delivered_and_owes_it_once_more(
    both: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(both, XBT, some(3_000))
    held = [True]
    send = QuestDB.send

    @contextmanager
    def lost(*_: object) -> Iterator[Callable[[], bool]]:
        yield lambda: held[0]

    def send_late(self: QuestDB, interval: Interval, rows: pl.DataFrame) -> Receipt:
        if held[0]:  # the first window: the lock goes, and another writes and delivers before these rows arrive
            held[0] = False
            write(
                both, XBT, some(3_000, price=20.0, source=Source.TRADES).with_columns(trade_count=pl.lit(99, pl.Int32))
            )
            with monkeypatch.context() as patch:
                patch.setattr(QuestDB, "send", send)
                patch.setattr(Locks, "table", whole)
                now_publish(both)
            assert pending(both) == {}
        return send(self, interval, rows)

    whole = Locks.table
    with monkeypatch.context() as patch:
        patch.setattr(Locks, "table", lost)
        patch.setattr(QuestDB, "send", send_late)
        done = now_publish(both)
    assert "the lock of candles_1h was lost" in done.failed[0]
    assert differences(both), "older candles took the place of newer ones"
    assert pending(both) == {XBT: (Span(T0, T0 + 3_000 * HOUR),)}
    now_publish(both)
    assert_equal(both)


# --- what goes wrong


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception, *, after: int) -> None:
    """From a call of a method of QuestDB's on, it raises."""
    calls = itertools.count()
    whole: Callable[..., Any] = getattr(QuestDB, name)

    def may_fail(self: QuestDB, *arguments: Any) -> Any:
        if next(calls) >= after:
            raise error
        return whole(self, *arguments)

    monkeypatch.setattr(QuestDB, name, may_fail)


class Killed(BaseException):
    """What nothing catches."""


def test_who_is_killed_between_applied_and_delivered_sends_it_again_and_nothing_is_there_twice(
    both: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(both, XBT, some(3_000))
    before = pending(both)
    with monkeypatch.context() as patch:
        patch.setattr(publications, "deliver", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            now_publish(both)
    assert pending(both) == before
    with open_questdb(both.settings) as there:
        assert there.counts(H1)["XBTUSD"] > 0
    (done,) = now_publish(both).series
    assert done.candles == 3_000
    assert_equal(both)


@pytest.mark.parametrize("method", ["send", "wait_until_applied"])
def test_what_was_confirmed_before_it_goes_away_is_not_owed_any_more(
    both: Stores, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    write(both, XBT, some(6_000))
    write(both, XBT_DAYS, some(3, interval=D1))
    with monkeypatch.context() as patch:
        failing(patch, method, StoreUnavailable("it is gone"), after=3)
        done = now_publish(both)
    assert done.failed == ("it is gone: pending ranges stay pending",), "it is not asked for other tables"
    (sent,) = done.series
    (left,) = pending(both).pop(XBT)
    assert 0 < sent.candles < 6_000
    assert sent.spans == spans((T0, left.start))
    assert left.end == T0 + 6_000 * HOUR
    assert XBT_DAYS in pending(both)
    assert done.pending == 2
    now_publish(both)
    assert_equal(both)


def test_where_nobody_answers_all_stays_owed(home: Path) -> None:
    settings = settings_of(
        home,
        kraken_questdb_url=NOBODY,
        kraken_questdb_pg_url="postgresql://kraken:a-secret@127.0.0.1:9/qdb",
        kraken_questdb_timeout_seconds=0.2,
    )
    with opened(settings) as stores:
        write(stores, XBT, some(3))
        write(stores, XBT_DAYS, some(3, interval=D1))
        done = now_publish(stores)
        assert (done.series, done.pending) == ((), 2)
        (failure,) = done.failed
        assert "does not answer over PGWire" in failure
        assert failure.endswith(": pending ranges stay pending")
        assert "a-secret" not in failure
        assert pending(stores) == {XBT: spans((T0, T0 + 3 * HOUR)), XBT_DAYS: spans((T0, T0 + 3 * DAY))}
        with pytest.raises(StoreUnavailable):
            rebuild(stores, RunContext("a-run", T0))
        assert pending(stores) == {XBT: spans((T0, T0 + 3 * HOUR)), XBT_DAYS: spans((T0, T0 + 3 * DAY))}


def test_a_server_that_is_killed_in_the_middle_gets_the_rest_when_it_is_back(
    home: Path, tmp_path: Path, questdb: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(tmp_path / "own") as server:
        settings = settings_for(home, server, kraken_publish_rows=1_000, kraken_questdb_timeout_seconds=4)
        with opened(settings) as stores:
            write(stores, XBT, some(8_000))
            send, calls = QuestDB.send, itertools.count()

            def send_until(self: QuestDB, *arguments: Any) -> Receipt:
                if next(calls) == 3:
                    server.kill()
                return send(self, *arguments)

            with monkeypatch.context() as patch:
                patch.setattr(QuestDB, "send", send_until)
                done = now_publish(stores)
            assert done.failed[0].endswith("pending ranges stay pending")
            ((left,),) = pending(stores).values()
            assert T0 < left.start < left.end == T0 + 8_000 * HOUR
            server.start()
            with open_questdb(settings) as there:
                # All that is not owed any more has survived.
                assert there.candles(XBT, T0, left.start).height == len(range(T0, left.start, HOUR))
            assert now_publish(stores).failed == ()
            assert_equal(stores)


@pytest.mark.parametrize("damage", ["partition", "type", "suspended"])
def test_a_table_that_is_broken_stops_no_other(
    both: Stores, questdb: Server, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    for series in (XBT, XBT_DAYS, Series("XBTUSD", M1)):
        write(both, series, some(3, interval=series.interval))
    if damage == "suspended":
        whole = QuestDB.wait_until_applied

        def stopped(self: QuestDB, receipt: Receipt) -> None:
            if receipt.interval is H1:
                raise StoreError("QuestDB has stopped applying changes to candles_1h")
            whole(self, receipt)

        monkeypatch.setattr(QuestDB, "wait_until_applied", stopped)
    else:
        wrong = create_table(H1)
        questdb.execute(
            wrong.replace("YEAR", "DAY")
            if damage == "partition"
            else wrong.replace("LONG", "INT").replace("trade_count INT", "trade_count LONG")
        )
    done = now_publish(both)
    assert [each.series for each in done.series] == [Series("XBTUSD", M1), XBT_DAYS]
    (failure,) = done.failed
    assert failure.startswith("candles_1h: ")
    assert set(pending(both)) == {XBT}
    if damage == "suspended":
        monkeypatch.undo()
    else:
        questdb.execute("DROP TABLE candles_1h")
    assert now_publish(both).failed == ()
    assert_equal(both)


def test_a_table_that_a_rebuild_drops_while_others_are_published_to_is_made_anew(
    both: Stores, questdb: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or QuestDB would make it by itself, by day and without a key."""
    write(both, Series("XBTUSD", M1), some(3, interval=M1))
    write(both, XBT, some(3))
    whole = QuestDB.wait_until_applied

    def drop_another(self: QuestDB, receipt: Receipt) -> None:
        whole(self, receipt)
        if receipt.interval is M1:
            questdb.execute("DROP TABLE candles_1h")

    monkeypatch.setattr(QuestDB, "wait_until_applied", drop_another)
    assert now_publish(both).failed == ()
    assert questdb.execute("SELECT partitionBy, dedup FROM tables() WHERE table_name = 'candles_1h'") == [
        ("YEAR", True)
    ]
    assert_equal(both)


# --- rebuilding


def test_a_rebuild_leaves_what_the_lake_has_and_nothing_else(both: Stores) -> None:
    write(both, XBT, some(1_500))
    write(both, XBT_DAYS, some(5, interval=D1))
    now_publish(both)
    with open_questdb(both.settings) as there:
        there.wait_until_applied(there.send(H1, rows_of(both, some(3, start=T0 - 10 * HOUR))))
    assert [each.series for each in differences(both)] == [XBT]
    done = rebuild(both, RunContext("a-run", T0))
    assert {each.series: each.candles for each in done.series} == {XBT: 1_500, XBT_DAYS: 5}
    assert_equal(both)


def rows_of(stores: Stores, candles: pl.DataFrame, pair: str = "XBTUSD", asset_id: int | None = None) -> pl.DataFrame:
    """Candles as they are sent of a pair that the lake knows, or with an id of its own."""
    known = {row["pair"]: row["asset_id"] for row in stores.lake.asset_ids.all().to_dicts()}
    return candles.with_columns(
        pl.lit(known.get(pair, 0) if asset_id is None else asset_id, pl.Int32).alias("asset_id"),
        pl.lit("USD", pl.Categorical).alias("quote_currency"),
        pl.lit(pair, pl.Categorical).alias("pair"),
    ).select(ROW_SCHEMA.names())


@pytest.mark.parametrize("method", ["drop", "prepare", "send"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_rebuild_that_is_interrupted_is_ended_by_publishing(
    both: Stores, monkeypatch: pytest.MonkeyPatch, method: str, after: int
) -> None:
    write(both, XBT, some(1_500))
    write(both, XBT_DAYS, some(5, interval=D1))
    now_publish(both)
    whole: Callable[..., Any] = getattr(QuestDB, method)
    calls = itertools.count()

    def killed(self: QuestDB, *arguments: Any) -> Any:
        done = whole(self, *arguments)
        if next(calls) == after:
            raise Killed
        return done

    with monkeypatch.context() as patch:
        patch.setattr(QuestDB, method, killed)
        with pytest.raises(Killed):
            rebuild(both, RunContext("a-run", T0), [H1, D1])
    now_publish(both)
    assert_equal(both)


def test_some_tables_can_be_rebuilt(both: Stores, questdb: Server) -> None:
    write(both, XBT, some(5))
    write(both, XBT_DAYS, some(5, interval=D1))
    now_publish(both)
    before = questdb.execute("SELECT id FROM tables() WHERE table_name = 'candles_1h'")
    done = rebuild(both, RunContext("a-run", T0), [D1])
    assert [each.series for each in done.series] == [XBT_DAYS]
    assert questdb.execute("SELECT id FROM tables() WHERE table_name = 'candles_1h'") == before
    assert_equal(both)


# --- comparing


def test_what_differs_is_found_and_whether_it_is_owed(both: Stores) -> None:
    series = {name: Series(f"{name}USD", H1) for name in ("EQUAL", "LESS", "OTHER", "MORE", "OWED")}
    for each in series.values():
        write(both, each, some(5))
    now_publish(both)
    write(both, series["OWED"], some(1, start=T0 + 9 * HOUR))
    write(both, Series("NEWUSD", D1), some(1, interval=D1))
    with open_questdb(both.settings) as there:
        for name, candles in {
            "OTHER": some(1, 77.0, T0 + 2 * HOUR),
            "MORE": some(1, start=T0 + 8 * HOUR),
        }.items():
            receipt = there.send(H1, rows_of(both, candles, f"{name}USD"))
        receipt = there.send(H1, rows_of(both, some(2), "UNKNOWNUSD", 1_000))
        there.wait_until_applied(receipt)
    write_silently(both, series["LESS"], some(1, start=T0 + 6 * HOUR))
    found = {each.series: each for each in differences(both)}
    assert set(found) == {
        *(series[name] for name in ("LESS", "OTHER", "MORE", "OWED")),
        Series("UNKNOWNUSD", H1),
        Series("NEWUSD", D1),
    }
    assert {each.pair for each in found if found[each].is_pending} == {"OWEDUSD", "NEWUSD"}
    counts = {
        each.pair: (one.lake and one.lake.candles, one.questdb and one.questdb.candles) for each, one in found.items()
    }
    assert counts == {
        "LESSUSD": (6, 5),
        "OTHERUSD": (5, 5),
        "MOREUSD": (5, 6),
        "OWEDUSD": (6, 5),
        "UNKNOWNUSD": (None, 2),
        "NEWUSD": (1, None),
    }
    assert str(found[series["OWED"]]).endswith(", and the rest is pending")
    assert "the lake has nothing, QuestDB 2 candles" in str(found[Series("UNKNOWNUSD", H1)])
    # Of some series, only these.
    assert [each.series for each in differences(both, [series["LESS"], series["EQUAL"]])] == [series["LESS"]]
    assert differences(both, []) == differences(both, [Series("NOBODYUSD", H1)]) == []
    rebuild(both, RunContext("a-run", T0))
    assert_equal(both)


def write_silently(stores: Stores, series: Series, candles: pl.DataFrame) -> None:
    """As nobody must: QuestDB is not owed it."""
    bring_in(stores.lake, staged(stores, series, candles))


def test_a_series_of_many_years_is_compared_a_year_at_a_time(both: Stores) -> None:
    for number in range(4):  # sums that do not fit into 64 bits, of either sign
        write(both, Series(f"COIN{number}USD", D1), some(3_000, 1.5 + number, at("2012-01-01"), interval=D1))
    now_publish(both)
    assert_equal(both)


@pytest.mark.parametrize("column", ["open", "high", "low", "close", "volume", "trade_count", "source", *FLOW])
def test_a_change_of_any_column_is_found(both: Stores, column: str) -> None:
    write(both, XBT, flowing(some(5)))
    now_publish(both)
    fresh = flowing(some(1, 12.0, T0 + 2 * HOUR))
    value: Mapping[str, pl.Expr] = {
        "source": pl.lit("OHLC", dtype=fresh.schema["source"]),
        "trade_count": pl.lit(6, pl.Int32),
    }
    changed = fresh.with_columns(value.get(column, pl.col(column) * (1 + 2**-52)).alias(column))
    assert changed.rows() != fresh.rows()
    with open_questdb(both.settings) as there:
        there.wait_until_applied(there.send(H1, rows_of(both, changed)))
    assert [(each.series, each.is_pending) for each in differences(both)] == [(XBT, False)]


def test_a_table_that_is_broken_does_not_keep_others_from_being_compared(both: Stores, questdb: Server) -> None:
    write(both, XBT, some(5))
    write(both, XBT_DAYS, some(5, interval=D1))
    now_publish(both)
    questdb.execute("DROP TABLE candles_1h")
    questdb.execute(create_table(H1).replace("YEAR", "DAY"))
    assert differences(both, [XBT_DAYS]) == []
    with pytest.raises(StoreError, match="candles_1h is not partitioned by YEAR"):
        differences(both)


def test_a_difference_is_a_value_that_says_what_it_is() -> None:
    assert dataclasses.is_dataclass(publish_flow.Difference)
    nothing = publish_flow.Difference(XBT, None, None, is_pending=True)
    assert str(nothing) == "XBTUSD 60: the lake has nothing, QuestDB nothing, and the rest is pending"
