from __future__ import annotations

import base64
import gzip
import math
import time

import numpy as np
import pytest

from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.bars import Bars
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import SuspicionState
from kraken_pipeline.storage.records import proof_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.page.chart import MOST, NEWEST, ChartRequest, TimeKind, read_chart
from kraken_pipeline.workflow.page.report_page import write_page
from kraken_pipeline.workflow.reading.candles import read_candles
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import NOW, START, Shelf, run

pytestmark = pytest.mark.slow

HOUR, DAY = 3_600, 86_400


@pytest.fixture
def filled(stores: Stores, shelf: Shelf) -> Stores:
    run(stores, shelf.q1, shelf.q3, resampling=False)
    return stores


@pytest.mark.parametrize(
    ("text", "pair", "minutes"), [("XBTUSD:1h", "XBTUSD", 60), ("XBT/USD:1440", "XBT/USD", 1_440), ("a:3m", "a", 3)]
)
def test_a_chart_is_named_by_a_pair_and_an_interval(text: str, pair: str, minutes: int) -> None:
    assert ChartRequest.parse(text) == ChartRequest(pair, Bars(minutes))


@pytest.mark.parametrize("text", ["", "XBTUSD", ":1h", "XBTUSD:", "XBTUSD:hour", "XBTUSD:0"])
def test_what_names_no_chart_is_an_error_that_says_how_to_write_one(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"XBTUSD:1h|interval|minutes"):
        ChartRequest.parse(text)


def test_the_numbers_of_a_chart_are_those_that_reading_gives(filled: Stores) -> None:
    start, end = START, START + 3 * DAY
    chart = read_chart(filled, ChartRequest.parse("XBT/USD:2h"), start, end)
    rows = read_candles("XBTUSD", "2h", start, end, with_state=True, settings=filled.settings)
    data = gzip.decompress(base64.b64decode(chart.packed()))
    planes = np.frombuffer(data[: 7 * 8 * rows.height], "<f8").reshape(7, rows.height)
    assert planes[0].tolist() == [start + index * 2 * HOUR for index in range(36)]
    for plane, name in zip(planes[1:], ("open", "high", "low", "close", "volume", "trade_count"), strict=True):
        expected = [math.nan if value is None else float(value) for value in rows[name]]
        assert np.array_equal(plane, expected, equal_nan=True), name
    assert list(data[7 * 8 * rows.height :]) == chart.kinds.tolist()


def test_gaps_quiet_time_suspicion_and_proof_have_kinds_of_their_own(filled: Stores) -> None:
    everything = read_candles("ADAEUR", 60, START, START + 40 * DAY, with_state=True, settings=filled.settings)
    quiet = [int(each.timestamp()) for each in everything.filter(everything["state"] == "quiet")["time"]]
    suspicious = Span(quiet[0], quiet[0] + HOUR)
    with filled.catalog.write() as connection:
        record = proof_records.SuspicionRecord(
            "ADAEUR", Interval.H1, suspicious, "nobody traded", SuspicionState.UNPROVEN, NOW, NOW
        )
        proof_records.suspect(connection, [record])
    chart = read_chart(filled, ChartRequest.parse("ADAEUR:60"), START, START + 40 * DAY)
    kinds = {"gap": TimeKind.GAP, "quiet": TimeKind.QUIET, "traded": TimeKind.TRADED}
    found = [
        TimeKind.SUSPICIOUS if at.timestamp() == suspicious.start else kinds[state]
        for at, state in everything.select("time", "state").rows()
    ]
    assert chart.kinds.tolist() == found
    assert set(found) == {TimeKind.GAP, TimeKind.QUIET, TimeKind.SUSPICIOUS, TimeKind.TRADED}
    assert chart.counts == [found.count(kind) for kind in TimeKind]


def test_a_quiet_bar_of_which_a_part_is_hard_to_believe_is_not_shown_as_quiet(filled: Stores) -> None:
    rows = read_candles("ADAEUR", "2h", START, START + 5 * DAY, with_state=True, settings=filled.settings)
    quiet = [int(each.timestamp()) for each in rows.filter(rows["state"] == "quiet")["time"]]
    second_half = Span(quiet[0] + HOUR, quiet[0] + 2 * HOUR)
    with filled.catalog.write() as connection:
        record = proof_records.SuspicionRecord(
            "ADAEUR", Interval.H1, second_half, "nobody traded", SuspicionState.UNPROVEN, NOW, NOW
        )
        proof_records.suspect(connection, [record])
    chart = read_chart(filled, ChartRequest.parse("ADAEUR:2h"), START, START + 5 * DAY)
    suspicious = [int(each) for each in rows["time"].dt.epoch("s").filter(chart.kinds == TimeKind.SUSPICIOUS)]
    assert suspicious == quiet[:1]


def test_reconciled_and_verified_candles_are_told_apart(filled: Stores) -> None:
    with filled.catalog.write() as connection:
        proven = Proven((Span(START, START + 2 * DAY),), (Span(START, START + DAY),))
        proof_records.replace_proofs(connection, {Series("XBTUSD", Interval.H1): proven})
    chart = read_chart(filled, ChartRequest.parse("XBTUSD:60"), START, START + 3 * DAY)
    traded = [kind for kind in chart.kinds.tolist() if kind >= TimeKind.TRADED]
    assert traded == sorted(traded, reverse=True)
    assert set(traded) == {TimeKind.TRADED, TimeKind.RECONCILED, TimeKind.VERIFIED}


def test_without_a_start_the_newest_bars_are_shown(filled: Stores) -> None:
    chart = read_chart(filled, ChartRequest.parse("XBTUSD:1h"), None, None)
    last = read_candles("XBTUSD", 60, settings=filled.settings)["time"][-1]
    assert chart.rows["time"][-1] == last
    assert chart.rows.height == NEWEST
    assert chart.sentence().startswith(f"{NEWEST} bars from ")


def test_a_chart_of_nothing_or_of_too_much_is_an_error(filled: Stores) -> None:
    for text, start, end, why in (
        ("NOPE:1h", None, None, "NOPE is unknown"),
        ("XBTUSD:1m", None, None, "no candle of it is stored"),
        ("XBTUSD:1h", START, START + (MOST + 1) * HOUR, f"would have {MOST + 1:,} bars, and {MOST:,} can be shown"),
        ("XBTUSD:1h", int(time.time()) + DAY, int(time.time()) + 2 * DAY, "nothing of it is known in that time"),
    ):
        with pytest.raises(InvalidRequest, match=why):
            read_chart(filled, ChartRequest.parse(text), start, end)


def test_a_page_has_the_charts_that_were_asked_for_and_no_script_for_them_otherwise(filled: Stores) -> None:
    plain = write_page(filled, run_spec(intervals="60"), NOW).path.read_text()
    assert 'class="chart"' not in plain
    assert ".plot" not in plain.partition("<script>")[2]
    made = write_page(filled, run_spec(intervals="60"), NOW, charts=["XBTUSD:1h", "ADAEUR:1d"])
    html = made.path.read_text()
    assert html.count('class="chart"') == 2
    assert "XBTUSD, 1 hour" in html
    assert "ADAEUR, 1 day" in html
    assert made.size - len(plain) < 60_000
