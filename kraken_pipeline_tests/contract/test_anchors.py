from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from kraken_pipeline.coverage.anchors import Anchor, CountVerdict
from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.states import SuspicionState
from kraken_pipeline.storage.records import proof_records, refutations, trade_counts
from kraken_pipeline.storage.records.anchors import anchors_of, keep_anchors
from kraken_pipeline.storage.records.trade_counts import TradeCount
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline_tests.support.homes import spans

PAIR = "XBTUSD"
HOURS, DAYS = Series(PAIR, Interval.H1), Series(PAIR, Interval.D1)
DAY = 86_400
NOW = 1_700_000_000


def anchor(moment: int, trade_id: int, **more: int) -> Anchor:
    return Anchor(moment, trade_id, moment + 7, NOW, **more)


def proven(series: Series, start: int, end: int, trades: int = 34_817) -> TradeCount:
    return TradeCount(series, Span(start, end), trades, trades, CountVerdict.PROVEN, "", "run-one")


def record(stores: Stores, *counts: TradeCount) -> None:
    with stores.catalog.write() as connection:
        trade_counts.record(connection, counts, NOW)


def left(stores: Stores) -> dict[Series, list[Span]]:
    with stores.catalog.read() as connection:
        return {series: [each.span for each in some] for series, some in trade_counts.proven(connection).items()}


def test_an_anchor_is_on_record_until_a_page_says_otherwise(stores: Stores) -> None:
    last = Anchor(3 * DAY, 900, None, NOW)
    with stores.catalog.write() as connection:
        keep_anchors(connection, PAIR, [anchor(DAY, 5), anchor(2 * DAY, 70), last])
        keep_anchors(connection, "ADAEUR", [anchor(DAY, 1 << 40)])
        keep_anchors(connection, PAIR, [anchor(DAY, 6, listed=1_000, numbered=1_003)])
    with stores.catalog.read() as connection:
        found = anchors_of(connection, PAIR)
    assert found == {DAY: anchor(DAY, 6, listed=1_000, numbered=1_003), 2 * DAY: anchor(2 * DAY, 70), 3 * DAY: last}
    assert [each.is_probed for each in found.values()] == [True, False, False]


def test_a_damaged_anchor_is_none_and_is_asked_for_again(stores: Stores) -> None:
    with stores.catalog.write() as connection:
        keep_anchors(connection, PAIR, [anchor(DAY, 5), anchor(2 * DAY, 70)])
        connection.execute(sa.update(schema.anchors).where(schema.anchors.c.moment == DAY).values(trade_id=6))
    with stores.catalog.read() as connection:
        assert list(anchors_of(connection, PAIR)) == [2 * DAY]


def test_a_proven_count_is_proof_also_where_quiet_time_is_doubted(stores: Stores) -> None:
    record(stores, proven(HOURS, 0, 90 * DAY), replace(proven(DAYS, 0, 90 * DAY), verdict=CountVerdict.SHORT))
    doubt = proof_records.SuspicionRecord(
        PAIR, Interval.H1, Span(DAY, 2 * DAY), "quiet", SuspicionState.UNPROVEN, NOW, NOW
    )
    with stores.catalog.write() as connection:
        proof_records.replace_proofs(connection, {HOURS: Proven(spans((0, DAY)), spans((0, DAY)))})
        proof_records.suspect(connection, [doubt])
    with stores.catalog.read() as connection:
        assert proof_records.proofs_of(connection) == {HOURS: Proven(spans((0, 90 * DAY)), spans((0, DAY)))}
        assert proof_records.added_up(connection) == {HOURS: Proven(spans((0, DAY)), spans((0, DAY)))}


def test_a_count_within_another_is_not_counted_twice(stores: Stores) -> None:
    record(
        stores, proven(HOURS, 0, 90 * DAY, 900), proven(HOURS, 90 * DAY, 91 * DAY, 7), proven(HOURS, DAY, 2 * DAY, 1)
    )
    with stores.catalog.read() as connection:
        found = trade_counts.proven(connection, [PAIR])[HOURS]
    assert [each.span for each in found] == [Span(0, 90 * DAY), Span(90 * DAY, 91 * DAY)]
    assert trade_counts.in_all(found) == "counted: 907 trades by ids and by candles"
    assert str(found[1]) == "counted: 7 trades by ids and by candles, from 1970-04-01 to 1970-04-02"
    # A longer one takes the place of what it holds.
    record(stores, proven(HOURS, 90 * DAY, 92 * DAY, 9))
    with stores.catalog.read() as connection:
        assert [span for _, span in trade_counts.of_pair(connection, PAIR)][-1] == Span(90 * DAY, 92 * DAY)
        assert len(trade_counts.of_pair(connection, PAIR)) == 3


def test_candles_longer_than_a_day_go_with_the_days_that_prove_them(stores: Stores) -> None:
    weeks = Series(PAIR, Interval.W1)
    record(stores, proven(DAYS, 0, 90 * DAY), proven(weeks, 7 * DAY, 70 * DAY), proven(weeks, 91 * DAY, 98 * DAY))
    with stores.catalog.write() as connection:
        trade_counts.void(connection, {DAYS: spans((80 * DAY, 81 * DAY))})
    assert left(stores) == {weeks: [Span(91 * DAY, 98 * DAY)]}


def test_a_count_goes_as_a_whole_when_anything_of_it_changes_or_is_refuted(stores: Stores) -> None:
    quarters = [proven(series, start, start + 90 * DAY) for series in (HOURS, DAYS) for start in (0, 90 * DAY)]
    record(stores, *quarters)
    with stores.catalog.write() as connection:
        proof_records.unconfirm(connection, {HOURS: spans((DAY, DAY + 3_600))})
    both = [Span(0, 90 * DAY), Span(90 * DAY, 180 * DAY)]
    assert left(stores) == {HOURS: both[1:], DAYS: both}
    with stores.catalog.write() as connection:
        refutations.refute(connection, [(DAYS, Span(100 * DAY, 101 * DAY), None, "a test")], NOW)
    assert left(stores) == {HOURS: both[1:], DAYS: both[:1]}


def test_a_damaged_count_proves_nothing(stores: Stores) -> None:
    record(stores, proven(HOURS, 0, 90 * DAY))
    with stores.catalog.write() as connection:
        connection.execute(sa.update(schema.trade_counts).values(end=91 * DAY))
    assert left(stores) == {}


def test_what_a_run_found_is_told_by_time_and_is_replaced_by_what_is_found_later(stores: Stores) -> None:
    short = replace(proven(HOURS, DAY, DAY + 60), by_ids=5, counted=4, verdict=CountVerdict.SHORT, action="taken back")
    record(stores, short, proven(HOURS, 0, 90 * DAY))
    later = replace(short, action="filled", run_id="run-two")
    record(stores, later)
    with stores.catalog.read() as connection:
        assert trade_counts.of_run(connection, "run-two") == [later]
        assert trade_counts.of_pair(connection, PAIR)[HOURS, short.span] == later
    assert later.as_json() == {
        "pair": PAIR,
        "start": "1970-01-02T00:00:00Z",
        "end": "1970-01-02T00:01:00Z",
        "trades_by_ids": 5,
        "interval": 60,
        "trades_counted": 4,
        "verdict": "short",
        "action": "filled",
    }
