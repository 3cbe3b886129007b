from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.demo.archives import candles_name, write_csv, write_quarterly_zip
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.explain.explain import explain
from kraken_pipeline.workflow.explain.explanation import CandleState, Explanation, ProofState
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.withdraw.resolve import resolve
from kraken_pipeline.workflow.withdraw.withdrawal import withdrawal
from kraken_pipeline_tests.support import exchanges
from kraken_pipeline_tests.support.exchanges import BEGIN, SUMMER, at, happened
from kraken_pipeline_tests.support.homes import NOW, Q1, Q3, SPRING, START, Shelf, lines_of, oracle, run, write_lines
from kraken_pipeline_tests.support.samples import csv_row
from kraken_pipeline_tests.support.shell import shell

pytestmark = pytest.mark.slow

HOUR = 3_600
BUSY = [int(row[0]) for row in oracle("XBTUSD", 60, START + DAY, Q1.end - DAY) if row[-1] > 3]


def told(stores: Stores, interval: int, time: int, pair: str = "XBTUSD", now: int = NOW) -> Explanation:
    found = explain(stores, pair, interval, iso(time), now)
    assert found.as_json()["standing"] == str(found.standing)
    return found


# --- the whole story


@pytest.fixture
def exchange() -> Iterator[DemoExchange]:
    with DemoExchange(SUMMER) as found:
        yield found


def test_a_candle_that_ohlc_gave_an_archive_replaced_and_trades_confirmed(
    home: Path, exchange: DemoExchange, tmp_path: Path
) -> None:
    now = exchanges.NOW
    day = BEGIN + 30 * DAY
    time = next(int(row[0]) for row in happened("XBTUSD", 60, day + 6 * HOUR) if row[-1] > 2)
    with at(exchange, home) as stores:
        # OHLC gives the newest 720 hours, two hours pass, and an archive of the same days comes out.
        backfill(stores, run_spec(pairs="XBTUSD", intervals="60", lookback_days=10), RunContext("run-one", now))
        ohlc = told(stores, 60, time + 1_234, now=now)
        assert ohlc.candle is not None
        assert (ohlc.candle.source, ohlc.proof.state) == ("OHLC", ProofState.NOT_TESTED)
        archive = write_csv(tmp_path / "in", SUMMER, "XBTUSD", Interval.H1, start=day, end=day + 5 * DAY)
        run(stores, archive, now=now + 60, run_id="run-two", resampling=False)
        # Then the trades of that time are paged through for the minutes.
        backfill(
            stores,
            run_spec(pairs="XBTUSD", intervals="1,60", start=day, end=day + 5 * DAY, complete=True),
            RunContext("run-three", now + 120),
        )
        found = told(stores, 60, time + 1_234, now=now + 180)

    (row,) = happened("XBTUSD", 60, time, time + HOUR)
    assert found.span == Span(time, time + HOUR)
    assert found.standing is CandleState.CANDLE
    assert found.candle is not None
    assert (found.candle.values, found.candle.source) == (row[1:], "CSV")
    assert found.coverage is not None
    assert found.coverage.source == "MIXED"
    assert not found.gaps

    reply, file = found.evidence
    assert (reply.source, reply.verified_at) == ("OHLC", now)
    assert reply.request == f"GET /0/public/OHLC?pair=XBTUSD&interval=60&since={time - 1}"
    assert (file.source, file.verified_at) == ("CSV", now + 60)
    assert file.file is not None
    assert (file.file.name, file.file.run_id) == ("XBTUSD_60.csv", "run-two")
    (line,) = file.lines
    assert lines_of(archive)[line.number - 1] == line.text
    assert line.text.startswith(f"{time},")

    (loser,) = found.losers
    assert (loser.candle.values, loser.candle.source) == (row[1:], "OHLC")
    assert (loser.lost, loser.by, loser.at) == ("REPLACED", "XBTUSD_60.csv", now + 60)

    assert found.proof.state is ProofState.VERIFIED
    compared = "open, high, low, close, volume and trades were compared"
    assert found.proof.by[:2] == (
        f"a second, independent source has the same values: {compared}",
        f"all trades within it were requested, and add up to it: {compared}",
    )

    # The minutes say it of themselves.
    with at(exchange, home) as stores:
        minute = next(int(row[0]) for row in happened("XBTUSD", 1, time, time + HOUR))
        paged = told(stores, 1, minute, now=now + 180)
    assert [each.request for each in paged.evidence] == [f"GET /0/public/Trades?pair=XBTUSD&since={minute * 10**9}"]
    assert paged.proof.state is ProofState.VERIFIED
    assert paged.proof.by[0].startswith("it was made of the trades themselves")


# --- the line


def test_the_line_is_found_in_a_release_and_where_a_dropped_one_was_moved_to_and_said_to_be_gone_when_it_is(
    stores: Stores, shelf: Shelf
) -> None:
    shutil.copy2(shelf.q1, stores.settings.home / "drop")
    run(stores)
    assert not (stores.settings.home / "drop" / shelf.q1.name).exists()
    found = told(stores, 60, BUSY[3])
    (witness,) = found.evidence
    with zipfile.ZipFile(shelf.q1) as archive:
        lines = archive.read("XBTUSD_60.csv").decode().splitlines()
    (line,) = witness.lines
    assert (lines[line.number - 1], witness.note) == (line.text, None)
    assert found.candle is not None
    assert found.candle.as_json()["release_ends"] == "2023-04-01"

    shutil.rmtree(stores.settings.home / "drop" / "ingested")
    (witness,) = told(stores, 60, BUSY[3]).evidence
    assert (witness.lines, witness.count) == ((), 0)
    assert "the file is no longer at" in (witness.note or "")


def test_a_file_that_another_has_taken_the_place_of_is_not_quoted(stores: Stores, tmp_path: Path) -> None:
    rows = [csv_row(START + hour * HOUR).strip() for hour in range(4)]
    path = write_lines(tmp_path / "XBTUSD_60.csv", rows)
    run(stores, path)
    assert [line.number for line in told(stores, 60, START + HOUR).evidence[0].lines] == [2]
    write_lines(path, [rows[0], *reversed(rows[1:])])
    (witness,) = told(stores, 60, START + HOUR).evidence
    assert (witness.lines, "is another file now" in (witness.note or "")) == ((), True)


def test_of_a_trades_archive_the_trades_of_the_minute_are_quoted(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.trades)
    minute = next(int(row[0]) for row in oracle("XBTUSD", 1, Q3.start + HOUR, Q3.start + DAY) if row[-1] > 1)
    found = told(stores, 1, minute)
    (witness,) = found.evidence
    lines = lines_of(shelf.trades)
    assert found.candle is not None
    assert witness.count == found.candle.values[-1] == len(witness.lines)
    for line in witness.lines:
        assert lines[line.number - 1] == line.text
        assert minute <= float(line.text.split(",")[0]) < minute + 60


def test_a_row_that_a_file_has_and_does_not_answer_for_is_told_as_such(stores: Stores, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "XBTUSD_60.csv", [csv_row(START + hour * HOUR).strip() for hour in range(4)])
    run(stores, path, intervals="60")
    found = told(stores, 60, START + 3 * HOUR)
    (witness,) = found.evidence
    assert (witness.span, [line.number for line in witness.lines]) == (None, [4])
    assert found.standing is CandleState.CANDLE
    assert "for which no source answers; it is part of a gap" in found.sentence


# --- what there is instead of a candle


def test_quiet_time_is_told_from_gaps_and_from_what_is_not_expected(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, pairs="ADAEUR", intervals="60")
    traded = {row[0] for row in oracle("ADAEUR", 60, START, Q1.end)}
    quiet = next(time for time in range(START + DAY, Q1.end, HOUR) if time not in traded)
    found = told(stores, 60, quiet, "ADAEUR")
    assert (found.standing, found.candle) == (CandleState.QUIET, None)
    assert found.sentence == "no candle: nobody traded, as the source says; it was not compared with anything"
    (witness,) = found.evidence
    assert witness.note == "the file has no line of that time: nobody traded"

    gap = told(stores, 60, Q1.end + 3 * DAY, "ADAEUR")
    assert (gap.standing, gap.evidence, gap.proof.state) == (CandleState.GAP, (), ProofState.NOT_TESTED)
    assert "route TRADES" in gap.sentence
    assert "Kraken_OHLCVT_Q2_2023.zip:ADAEUR_60.csv" in gap.sentence
    (shown,) = gap.as_json()["gaps"]
    assert {each["route"] for each in shown["routes"]} == {"TRADES"}

    early = told(stores, 60, Q1.start - 40 * DAY, "ADAEUR")
    assert early.standing is CandleState.NOT_EXPECTED
    assert "the first known trade of ADAEUR is at 2023-03-26" in early.sentence
    assert "it has not ended yet" in told(stores, 1440, NOW, "ADAEUR").sentence


def test_quiet_time_that_a_finer_interval_agrees_with_is_verified(stores: Stores, shelf: Shelf) -> None:
    run(stores, write_quarterly_zip(stores.settings.home / "in", SPRING, Q1, [Interval.M1, Interval.H1]))
    traded = {row[0] for row in oracle("ADAEUR", 60, START, Q1.end)}
    quiet = next(time for time in range(START + DAY, Q1.end, HOUR) if time not in traded)
    found = told(stores, 60, quiet, "ADAEUR")
    assert found.sentence == "no candle: nobody traded, and that is verified"
    assert "the 30-minute candles within it add up to it: none has a trade" in found.proof.by, "made of minutes"
    assert found.proof.state is ProofState.VERIFIED
    minute = told(stores, 1, quiet + 60, "ADAEUR")
    assert minute.proof.state is ProofState.RECONCILED
    assert minute.sentence == "no candle: nobody traded, and that is reconciled: no trade is missing around it"


# --- what is wrong with it


def test_a_conflict_is_told_with_both_sides_and_a_withdrawal_with_its_reason(stores: Stores, tmp_path: Path) -> None:
    defect = Defect(DefectKind.SPIKE, "XBTUSD", Interval.H1, BUSY[5])
    intervals = [Interval.M1, Interval.H1]
    run(stores, write_quarterly_zip(tmp_path, SPRING, Q1, intervals, pairs=["XBTUSD"], defects=[defect]))
    found = told(stores, 60, BUSY[5])
    assert found.proof.state is ProofState.CONFLICT
    assert any("differ in high" in each.reason for each in found.contradictions)
    assert [each["state"] for each in found.as_json()["contradictions"]] == ["CONFLICT"] * len(found.contradictions)

    name = f"{candles_name(Q1)}:XBTUSD_60.csv"
    resolve(stores, withdrawal(reason="a spike", file=name), RunContext("resolve-one", NOW + 60))
    healed = told(stores, 60, BUSY[5], now=NOW + 120)
    assert [(each.reason, of) for each, of in healed.withdrawals] == [("a spike", name)]
    assert [each.lost for each in healed.losers] == ["WITHDRAWN"]
    (witness,) = healed.evidence
    assert (witness.source, witness.made_of) == ("RESAMPLED", "30")
    assert healed.candle is not None
    assert healed.candle.values == oracle("XBTUSD", 60, BUSY[5], BUSY[5] + HOUR)[0][1:]


def test_a_row_that_was_rejected_is_told_with_its_line(stores: Stores, tmp_path: Path) -> None:
    defect = Defect(DefectKind.NEGATIVE_VOLUME, "XBTUSD", Interval.H1, BUSY[5])
    run(stores, write_quarterly_zip(tmp_path, SPRING, Q1, [Interval.H1], pairs=["XBTUSD"], defects=[defect]))
    found = told(stores, 60, BUSY[5])
    assert found.standing is CandleState.GAP
    (letter,) = found.letters
    assert (letter["reason"], letter["text"].split(",")[0]) == ("volume is negative", str(BUSY[5]))


@pytest.mark.parametrize(
    ("pair", "interval", "moment", "message"),
    [
        ("ETHUSD", "60", "2023-03-28", "ETHUSD is unknown"),
        ("../x", "60", "2023-03-28", "x"),
        ("XBTUSD", "61", "2023-03-28", "interval '61' does not exist"),
        ("XBTUSD", "60", "yesterday", "'yesterday' is not a time"),
        ("XBTUSD", "60", "0001-01-01", "is not between 2011"),
        ("XBTUSD", "21600", "9999-12-31", "and now, 2023-08-30"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_a_sentence(
    stores: Stores, shelf: Shelf, pair: str, interval: str, moment: str, message: str
) -> None:
    run(stores, shelf.q1, pairs="XBTUSD", intervals="60")
    with pytest.raises(InvalidRequest, match=message):
        explain(stores, pair, interval, moment, NOW)


def test_the_shell_tells_it_to_people_and_to_programs(tmp_path: Path, shelf: Shelf) -> None:
    home = tmp_path / "home"
    archive = str(shelf.q1)
    shell(home, "ingest", "--archive-dir", archive, "--pairs", "XBTUSD", "--intervals", "60", "--no-api-backfill")
    said = shell(home, "explain", "XBT/USD", "60", iso(BUSY[3] + 77))
    assert said.code == 0
    assert f"XBTUSD 60 from {iso(BUSY[3])}" in said.out
    assert "Kraken_OHLCVT_Q1_2023.zip:XBTUSD_60.csv" in said.out
    assert f"{BUSY[3]}," in said.out
    shown = shell(home, "explain", "XBTUSD", "60", iso(BUSY[3]), "--json").json
    assert (shown["start"], shown["evidence"][0]["lines"][0]["text"].split(",")[0]) == (iso(BUSY[3]), str(BUSY[3]))
    assert list(shown) == [
        *("pair", "interval", "start", "end", "standing", "sentence", "candle", "coverage", "proof", "evidence"),
        *("replaced", "gaps", "refutations", "contradictions", "conflicts", "suspicions", "dead_letters"),
        "withdrawals",
    ]
    assert shell(home, "explain", "XBTUSD", "60", "tomorrow").code == 2
