"""Files that lack hours, of several pairs at once: what is missing is found, is a gap, and comes back by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kraken_pipeline.cli import options
from kraken_pipeline.coverage.ranges import Span, Spans, subtract
from kraken_pipeline.demo.archives import write_csv
from kraken_pipeline.demo.clock import FixedClock
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import World
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.orchestration import steps
from kraken_pipeline.storage.catalog.states import ContradictionState, SuspicionState
from kraken_pipeline.storage.records import proof_records
from kraken_pipeline.storage.records.proof_records import SuspicionRecord
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.report.report import make_report
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.exchanges import stop_clock
from kraken_pipeline_tests.support.homes import covered, oracle, run, settings_of, stored
from kraken_pipeline_tests.support.shell import shell

pytestmark = pytest.mark.slow

HOUR = 3_600
START = 1_680_307_200  # 2023-04-01
END = START + 20 * DAY
NOW = END + DAY + 1_800
LOST = START + 9 * DAY
M15, H1, H4, D1 = Interval.M15, Interval.H1, Interval.H4, Interval.D1
WORLD = World(
    31,
    [
        Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 28_000.0, 0.006, 400, START),
        Listing("ETHUSD", "XETHZUSD", "ETH/USD", "XETH", "ZUSD", 2, 1_900.0, 0.1, 300, START),
        # Of most of its hours nobody expects a trade.
        Listing("ZORKUSD", "ZORKUSD", "ZORK/USD", "ZORK", "ZUSD", 4, 2.5, 0.35, 14, START, night=(1, 8)),
    ],
    NOW,
)
BUSY = ("XBTUSD", "ETHUSD")
PAIRS = (*BUSY, "ZORKUSD")


@pytest.fixture(scope="module")
def exchange() -> Iterator[DemoExchange]:
    with DemoExchange(WORLD, clock=FixedClock(NOW)) as exchange:
        yield exchange


def files(
    folder: Path, hole: Span, pairs: Sequence[str] = BUSY, others: Sequence[Interval] = (), lacking: Interval = H1
) -> Path:
    """The files of some pairs, of which one interval's lack a span."""
    for pair in pairs:
        defects = [Defect(DefectKind.MISSING_CANDLE, pair, lacking, hole.start, hole.end)]
        for interval in (lacking, *others):
            write_csv(folder, WORLD, pair, interval, start=START, end=END, defects=defects)
    return folder


def wrong(stores: Stores, pairs: Sequence[str], interval: Interval = H1) -> list[str]:
    """The pairs of which the lake does not hold what happened; sums of volumes differ in their last digits."""
    end = interval.floor(NOW)
    return [
        pair
        for pair in pairs
        if rounded(stored(stores, pair, interval, START, end)) != rounded(oracle(pair, interval, START, end, WORLD))
    ]


def rounded(rows: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    return [(*row[:5], round(row[5], 6), row[6]) for row in rows]


def suspicions(stores: Stores) -> list[SuspicionRecord]:
    with stores.catalog.read() as connection:
        return proof_records.suspicions_of(connection)


def proven(stores: Stores, pair: str, interval: Interval) -> Spans:
    with stores.catalog.read() as connection:
        return proof_records.proven(connection).get(Series(pair, interval), ())


def conflicts(stores: Stores) -> list[str]:
    with stores.catalog.read() as connection:
        records = proof_records.contradictions_of(connection, None, [ContradictionState.CONFLICT])
    return [each.reason for each in records]


def test_two_pairs_that_lack_the_same_day_get_all_48_hours_back_by_one_command(
    home: Path, tmp_path: Path, exchange: DemoExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_clock(monkeypatch, NOW, options, steps)
    day = Span(LOST, LOST + DAY)
    folder = files(tmp_path / "files", day)
    said = shell(
        home,
        "ingest",
        "--archive-dir",
        str(folder),
        "--complete",
        "--intervals",
        "60,1440",
        "--json",
        KRAKEN_API_URL=exchange.url,
    )
    assert said.code == 0, said.out + said.err
    with opened(settings_of(home)) as stores:
        back = [row for pair in BUSY for row in stored(stores, pair, H1, day.start, day.end)]
        assert back == [row for pair in BUSY for row in oracle(pair, H1, day.start, day.end, WORLD)]
        assert len(back) == 48
        assert wrong(stores, BUSY) == wrong(stores, BUSY, D1) == []
        assert conflicts(stores) == []


EARLY, LATE = START + DAY + 5 * HOUR, END - 3 * HOUR


@pytest.mark.parametrize(
    ("hole", "lacking", "others"),
    [
        (Span(EARLY, EARLY + 12 * HOUR), H1, [D1]),
        (Span(LOST, LOST + 12 * HOUR), M15, [H1]),
        (Span(LOST + HOUR, LOST + 14 * HOUR), H1, [H4, D1]),
        (Span(LATE - 24 * HOUR, LATE), H1, [H4, D1]),
        (Span(LOST, LOST + 24 * HOUR), H1, [M15]),
        (Span(EARLY, EARLY + 24 * HOUR), M15, [H4]),
        (Span(LATE - 24 * HOUR, LATE), H1, []),
        (Span(EARLY, EARLY + 40 * HOUR), H1, []),
        (Span(LOST + HOUR, LOST + 41 * HOUR), H1, [D1]),
        (Span(LATE - 40 * HOUR, LATE), H1, [M15, H4, D1]),
    ],
    ids=str,
)
def test_a_hole_of_any_length_and_anywhere_is_no_shifted_file_and_heals(
    home: Path, tmp_path: Path, exchange: DemoExchange, hole: Span, lacking: Interval, others: list[Interval]
) -> None:
    folder = files(tmp_path / "files", hole, others=others, lacking=lacking)
    with opened(settings_of(home, kraken_api_url=exchange.url)) as stores:
        run(stores, folder, now=NOW, complete=True, intervals="60,240,1440")
        assert [wrong(stores, BUSY, interval) for interval in (H1, H4, D1)] == [[], [], []]
        assert conflicts(stores) == []
        before = len(exchange.requests)
        done = run(stores, folder, now=NOW, run_id="run-two", complete=True, intervals="60,240,1440").backfilled
        assert done is not None
        assert (done.requests, done.refuted, len(exchange.requests)) == (0, 0, before)


def test_what_the_trades_of_two_pairs_show_to_be_no_outage_is_asked_of_every_pair_that_was_silent(
    home: Path, tmp_path: Path, exchange: DemoExchange
) -> None:
    day = Span(LOST, LOST + DAY)
    folder = files(tmp_path / "files", day, PAIRS)
    with opened(settings_of(home, kraken_api_url=exchange.url, kraken_max_requests_per_gap=0)) as stores:
        run(stores, folder, now=NOW, intervals="60", api_backfill=False)
        assert [(each.pair, each.span, each.state) for each in suspicions(stores)] == [
            (None, day, SuspicionState.UNPROVEN)
        ]
        # All is covered, and nothing of it is proven.
        assert subtract((day,), covered(stores, "ZORKUSD", 60)) == ()
    with opened(settings_of(home, kraken_api_url=exchange.url)) as stores:
        run(stores, now=NOW, run_id="run-two", complete=True, intervals="60")
        assert wrong(stores, PAIRS) == []
        assert [each.state for each in suspicions(stores) if each.pair is None] == [SuspicionState.TRADED]
        assert make_report(stores, run_spec(intervals="60"), NOW).percent == 100.0


def test_a_day_that_one_file_lacks_is_marked_and_not_proven_until_its_trades_are_asked_for(
    home: Path, tmp_path: Path, exchange: DemoExchange
) -> None:
    day = Span(LOST, LOST + DAY)
    folder = tmp_path / "files"
    for interval in (H1, D1):
        files(folder, day, ["XBTUSD"], lacking=interval)
    write_csv(folder, WORLD, "ETHUSD", H1, start=START, end=END)
    with opened(settings_of(home, kraken_api_url=exchange.url)) as stores:
        run(stores, folder, now=NOW, intervals="60,1440", api_backfill=False)
        # Both files lack the day, and agree: that proves nothing.
        assert {(each.pair, each.interval, each.span, each.state) for each in suspicions(stores)} == {
            ("XBTUSD", interval, day, SuspicionState.UNPROVEN) for interval in (H1, D1)
        }
        for interval in (H1, D1):
            assert subtract((day,), covered(stores, "XBTUSD", interval)) == ()
            assert not [each for each in proven(stores, "XBTUSD", interval) if each.overlaps(day)]
    told = shell(home, "explain", "XBTUSD", "60", iso(LOST + HOUR), "--json").json
    assert (told["standing"], told["proof"]["state"]) == ("QUIET", "NOT_TESTED")
    assert "hard to believe" in told["sentence"]
    with opened(settings_of(home, kraken_api_url=exchange.url)) as stores:
        run(stores, now=NOW, run_id="run-two", complete=True, intervals="60,1440")
        assert {each.state for each in suspicions(stores)} == {SuspicionState.TRADED}
        assert wrong(stores, BUSY) == wrong(stores, ["XBTUSD"], D1) == []
        assert subtract((day,), proven(stores, "XBTUSD", H1)) == ()


def test_thirty_hours_that_ohlc_says_were_quiet_are_marked_and_heal(home: Path) -> None:
    quiet = Span(LOST + HOUR, LOST + 31 * HOUR)
    busy = [row[0] for row in oracle("XBTUSD", H1, quiet.start, quiet.end, WORLD)]
    lies = [Defect(DefectKind.FALSE_QUIET, "XBTUSD", H1, int(time)) for time in busy]
    with DemoExchange(WORLD, clock=FixedClock(NOW), defects=lies) as exchange:
        with opened(settings_of(home, kraken_api_url=exchange.url, kraken_max_requests_per_gap=0)) as stores:
            run(stores, now=NOW, pairs="XBTUSD", intervals="60", lookback_days=30)
            # Of the world's own lulls, two are as hard to believe.
            assert [each.span for each in suspicions(stores) if each.span.overlaps(quiet)] == [quiet]
            assert stored(stores, "XBTUSD", H1, quiet.start, quiet.end) == []
            assert subtract((quiet,), covered(stores, "XBTUSD", 60)) == ()
        with opened(settings_of(home, kraken_api_url=exchange.url)) as stores:
            run(stores, now=NOW, run_id="run-two", pairs="XBTUSD", intervals="60", lookback_days=30)
            states = {each.span == quiet: each.state for each in suspicions(stores)}
            assert states == {True: SuspicionState.TRADED, False: SuspicionState.PROVEN_QUIET}
            assert wrong(stores, ["XBTUSD"]) == []
