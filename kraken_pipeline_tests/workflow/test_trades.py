"""Kept trades: what is paged and read from archives, what it claims, and what becomes of it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from kraken_pipeline import covered_trades, read_bars, read_trades, scan_trades
from kraken_pipeline.coverage.ranges import Span, intersect, subtract
from kraken_pipeline.demo.archives import write_quarterly_trades_zip, write_trades_csv
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import Fault, LeftOut
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import SECOND_NS, World
from kraken_pipeline.errors import DamagedFile, Incomplete, InvalidRequest
from kraken_pipeline.market.candle import TIME
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.quarter import Quarter
from kraken_pipeline.market.series import Series
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.records import evidence_records, refutations
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.storage.trades import writer
from kraken_pipeline.storage.trades.kept import claimed_by
from kraken_pipeline.storage.trades.manifest import claims_of, trade_files_of
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec
from kraken_pipeline.workflow.verify.backup import back_up, restore
from kraken_pipeline.workflow.verify.recovery import recover
from kraken_pipeline.workflow.verify.repair import repair
from kraken_pipeline.workflow.verify.verification import verify
from kraken_pipeline.workflow.withdraw.resolve import resolve
from kraken_pipeline.workflow.withdraw.withdrawal import withdrawal
from kraken_pipeline_tests.support.buckets import Bucket
from kraken_pipeline_tests.support.exchanges import at
from kraken_pipeline_tests.support.homes import covered, rows_of, run, settings_of, stored
from kraken_pipeline_tests.support.shell import shell

pytestmark = pytest.mark.slow

QUARTER = Quarter(2026, 1)
START = QUARTER.end - 2 * DAY
"""Two days before the end of a quarter, of which Kraken's archive of trades has ids and sides."""
END = START + 4 * DAY
NOW = END + 14 * DAY + 30
XBT = Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 61_250.0, 0.006, 900, START)
WORLD = World(11, (XBT,), NOW)
TRADES = WORLD.trades("XBTUSD", START * SECOND_NS, END * SECOND_NS)
SIDES = {"b": "buy", "s": "sell"}
TYPES = {"m": "market", "l": "limit"}


def happened(start: int = START, end: int = END) -> list[tuple[Any, ...]]:
    """Microsecond, price, volume, side, order type and id of each trade; a time may be told 1 us too early."""
    trades = TRADES.filter(pl.col("time").is_between(start * SECOND_NS, end * SECOND_NS, closed="left"))
    return [
        (price, volume, SIDES[side], TYPES[kind], number)
        for price, volume, side, kind, number in trades.select("price", "volume", "side", "order_type", "id").rows()
    ]


def kept(settings: Settings, **options: Any) -> list[tuple[Any, ...]]:
    return read_trades(
        "XBTUSD", columns=["price", "volume", "side", "order_type", "trade_id"], settings=settings, **options
    ).rows()


def claimed(stores: Stores) -> tuple[Span, ...]:
    with stores.catalog.read() as connection:
        return claimed_by(claims_of(connection, "XBTUSD"))


def sources(settings: Settings) -> list[str]:
    found = covered_trades("XBTUSD", settings=settings)["sources"].to_list()
    return [name if name == "API" else "file" for names in found for name in names]


@pytest.fixture
def exchange() -> Iterator[DemoExchange]:
    with DemoExchange(WORLD) as found:
        yield found


@pytest.fixture
def there(home: Path, exchange: DemoExchange) -> Iterator[Stores]:
    with at(exchange, home, kraken_keep_trades=True) as stores:
        yield stores


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with ids and sides of the first two days, and a loose file without of all four."""
    folder = tmp_path_factory.mktemp("archives")
    write_quarterly_trades_zip(folder, WORLD, QUARTER)
    write_trades_csv(folder, WORLD, "XBTUSD", START, END)
    return folder


def numbered(archives: Path) -> Path:
    return next(archives.glob("*.zip"))


def loose(archives: Path) -> Path:
    return archives / "TimeAndSales_Combined" / "XBTUSD.csv"


def fill(stores: Stores, run_id: str = "run-one", **options: Any) -> BackfillOutcome:
    window = {"start": START, "end": END, "intervals": "1", "pairs": "XBTUSD"}
    return backfill(stores, run_spec(**{"complete": True, **window, **options}), RunContext(run_id, NOW))


def ingest(stores: Stores, *paths: Path, run_id: str = "run-one", **options: Any) -> None:
    run(stores, *paths, now=NOW, run_id=run_id, resampling=False, **options)


def files_of(stores: Stores) -> set[str]:
    """The files of trades that are there; each is on record, and no other one is."""
    found = set(stores.lake.files.below("trades"))
    with stores.catalog.read() as connection:
        recorded = trade_files_of(connection)
    assert {file.path for file in recorded} == found
    assert not any(file.is_announced for file in recorded)
    return found


# --- what is kept


def test_paged_trades_are_kept_as_they_were_made_and_their_time_is_claimed(there: Stores) -> None:
    fill(there)
    assert kept(there.settings) == happened()
    assert claimed(there) == covered(there, "XBTUSD", 1) == (Span(START, END),)
    times = read_trades("XBTUSD", settings=there.settings)["time"].cast(pl.Int64)
    exact = TRADES["time"] // 1_000
    assert times.is_sorted()
    assert set((times - exact).abs()) <= {0, 1}, "a reply's float is exact to 240 ns"
    assert {path.split("/")[2] for path in files_of(there)} == {"month=2026-03", "month=2026-04"}
    assert sources(there.settings) == ["API"], "one span, although each page and each month has a file"


def test_candles_that_are_made_of_kept_trades_are_those_that_were_stored(there: Stores) -> None:
    fill(there)
    candles = there.lake.read(Series("XBTUSD", Interval.M1)).drop("source", "release")
    made = read_bars("XBTUSD", by="time", size="1m", settings=there.settings).cast({"trade_count": pl.Int32()})
    exact = [name for name in candles.columns if name not in ("vwap", "quote_volume")]
    assert made.select(exact).equals(candles.select(exact))
    assert_frame_equal(made.select(candles.columns), candles, rel_tol=1e-11)


def test_nothing_is_kept_unless_it_is_wanted(home: Path, exchange: DemoExchange, archives: Path) -> None:
    with at(exchange, home) as stores:
        fill(stores)
        ingest(stores, archives)
        assert not (stores.settings.home / "trades").exists()
        assert rows_of(stores, schema.trade_files, "path") == []
        assert kept(stores.settings) == []
        assert covered_trades("XBTUSD", settings=stores.settings).is_empty()
        with pytest.raises(Incomplete, match="no trades of XBTUSD are kept: KRAKEN_KEEP_TRADES"):
            kept(stores.settings, require_complete=True)


def test_an_archive_with_ids_is_kept_with_all_that_it_tells(there: Stores, archives: Path) -> None:
    ingest(there, numbered(archives))
    assert kept(there.settings) == happened(END - 4 * DAY, QUARTER.end)
    assert claimed(there) == covered(there, "XBTUSD", 1)


def test_an_archive_without_ids_is_kept_but_for_its_cut_minutes(there: Stores, archives: Path) -> None:
    ingest(there, loose(archives))
    (span,) = claimed(there)
    assert (span,) == covered(there, "XBTUSD", 1)
    assert [(*row[:2], None, None, None) for row in happened(span.start, span.end)] == kept(there.settings)


@pytest.mark.parametrize("order", ["loose numbered paged", "paged loose numbered", "numbered paged loose"])
def test_what_is_kept_of_several_sources_does_not_depend_on_their_order(
    there: Stores, archives: Path, order: str
) -> None:
    window = {"start": QUARTER.end - DAY, "end": QUARTER.end + DAY}
    for number, name in enumerate(order.split()):
        if name == "paged":
            # What the lake has already would not be asked for.
            with there.catalog.write() as connection:
                connection.execute(schema.grants.delete())
                connection.execute(schema.coverage.delete())
            fill(there, f"run-{number}", **window)
        else:
            ingest(there, loose(archives) if name == "loose" else numbered(archives), run_id=f"run-{number}")
    whole = happened()
    (span,) = claimed(there)
    rows = kept(there.settings)
    with_ids = happened(START, QUARTER.end + DAY)
    assert rows[: len(with_ids)] == with_ids
    after = [(*row[:2], None, None, None) for row in happened(QUARTER.end + DAY, span.end)]
    assert rows[len(with_ids) :] == after
    assert len(rows) <= len(whole)
    found = covered_trades("XBTUSD", settings=there.settings)
    assert [len(names) for names in found["sources"]] == [1, 2, 1, 1]
    files_of(there)


def test_a_hole_in_the_pages_is_no_quiet_time(there: Stores, exchange: DemoExchange) -> None:
    exchange.inject(Fault(LeftOut(1_205, 1_244), endpoint="Trades", times=None, condition=lambda: is_bad))
    is_bad = True
    fill(there)
    (hole,) = subtract((Span(START, END),), claimed(there))
    assert kept(there.settings) == happened(START, hole.start) + happened(hole.end, END)
    with pytest.raises(Incomplete, match="the trades of XBTUSD are not all kept") as raised:
        kept(there.settings, require_complete=True)
    assert raised.value.gaps == (("XBTUSD", hole.start, hole.end),)
    assert kept(there.settings, start=hole.end, require_complete=True) == happened(hole.end, END)
    bars = read_bars("XBTUSD", by="ticks", size=97, settings=there.settings, incomplete=True)
    edge = pl.Series([hole.start * 1_000_000]).cast(TIME)[0]
    over = bars.filter((pl.col("first_trade") < edge) & (pl.col("last_trade") >= edge))
    assert over.is_empty(), "a bar does not reach over a hole"
    assert (bars["trade_count"].sum(), bars.filter(~pl.col("is_whole")).height) == (len(kept(there.settings)), 2)
    is_bad = False
    fill(there, "run-two")
    assert kept(there.settings, require_complete=True) == happened()
    files_of(there)


def test_reading_and_scanning_take_time_and_columns(there: Stores) -> None:
    fill(there)
    window: dict[str, Any] = {"start": QUARTER.end - 3_600, "end": QUARTER.end + 3_600}
    found = read_trades("XBT/USD", settings=there.settings, **window)
    assert [row[4] for row in happened(**window)] == found["trade_id"].to_list()
    lazy = scan_trades("XBTUSD", settings=there.settings, columns=["time", "trade_id"], **window).collect()
    assert lazy.sort("trade_id").equals(found.select("time", "trade_id"))
    assert scan_trades("XBTUSD", start=NOW, settings=there.settings).collect().is_empty()
    with pytest.raises(InvalidRequest, match="end must be later"):
        read_trades("XBTUSD", start=5, end=5, settings=there.settings)
    with pytest.raises(InvalidRequest, match="there is no column 'open'"):
        read_trades("XBTUSD", columns=["open"], settings=there.settings)
    with pytest.raises(InvalidRequest, match="XBTUSX is unknown"):
        read_bars("XBTUSX", by="ticks", size=1, settings=there.settings)


def test_bars_do_not_depend_on_where_months_end(there: Stores) -> None:
    fill(there)
    every = read_trades("XBTUSD", settings=there.settings)
    bars = read_bars("XBTUSD", by="volume", size=5, settings=there.settings, incomplete=True)
    assert bars["trade_count"].sum() == every.height
    ends = bars["trade_count"].cum_sum().to_list()
    turn = int((every["time"] < pl.Series([QUARTER.end * 1_000_000]).cast(TIME)[0]).sum())
    assert turn not in ends, "a bar reaches over the end of the month"
    volumes, at_ = every["volume"].to_list(), 0
    for end in ends[:-1]:
        assert sum(volumes[at_:end]) >= 5 - 1e-8 > sum(volumes[at_ : end - 1]) - 2e-8
        at_ = end
    assert bars["is_whole"].to_list() == [True] * (bars.height - 1) + [False]


def test_archives_that_were_ingested_before_are_read_again_once_their_trades_are_to_be_kept(
    home: Path, exchange: DemoExchange, archives: Path
) -> None:
    with at(exchange, home) as stores:
        ingest(stores, archives)
        before = stored(stores, "XBTUSD", 1)
    with at(exchange, home, kraken_keep_trades=True) as stores:
        ingest(stores, archives, run_id="run-two")
        rows = kept(stores.settings)
        assert len(rows) == len(happened(START, claimed(stores)[-1].end))
        assert claimed(stores) == covered(stores, "XBTUSD", 1)
        assert stored(stores, "XBTUSD", 1) == before
        # What is kept by now is not read again, also not what had lost to another file.
        again = run(stores, archives, now=NOW, run_id="run-three", resampling=False)
        assert (again.files, len(again.scanned.ingested_before)) == ({}, 2)
        assert kept(stores.settings) == rows
        assert {row[0] for row in rows_of(stores, schema.files, "status")} == {FileStatus.COMPLETED}


# --- pages


def test_many_pages_become_one_file_in_the_end(there: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PARTS", 2)
    fill(there)
    assert kept(there.settings) == happened()
    assert len(files_of(there)) <= 2 * 2


def test_trades_that_are_more_than_fit_memory_are_spilled(
    there: Stores, archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "HELD_ROWS", 100)
    ingest(there, numbered(archives))
    assert kept(there.settings) == happened(START, QUARTER.end)
    assert list(there.lake.scratch.iterdir()) == []


# --- kills


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["begin", "confirm", "clear"])
def test_a_kill_between_any_two_steps_loses_and_repeats_nothing(
    there: Stores, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    real = getattr(writer, step)
    calls = 0

    def dies(*given: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            if step == "begin":
                real(*given)
            raise Killed
        real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(writer, step, dies)
        with pytest.raises(Killed):
            fill(there)
    assert claimed(there) == covered(there, "XBTUSD", 1), "neither is there without the other"
    before = kept(there.settings)
    assert before == happened(START, claimed(there)[-1].end)
    fill(there, "run-two")
    assert kept(there.settings, require_complete=True) == happened()
    assert claimed(there) == (Span(START, END),)
    verify(there, RunSpec(), RunContext("run-three", NOW))
    files_of(there)


# --- withdrawals


def test_a_withdrawn_file_claims_nothing_and_what_had_lost_to_it_is_read_again(there: Stores, archives: Path) -> None:
    ingest(there, loose(archives), numbered(archives))
    assert sources(there.settings) == ["file", "file"]
    end_of_release = covered_trades("XBTUSD", settings=there.settings)["end"].dt.epoch("s")[0]
    records = {row[0]: row[1] for row in rows_of(there, schema.files, "location", "sha256")}
    member = next(sha256 for location, sha256 in records.items() if "Trading_History" in location)
    what = withdrawal(reason="a test", file=member)
    resolve(there, what, RunContext("run-two", NOW))
    (left,) = claimed(there)
    assert left.start == end_of_release
    assert kept(there.settings) == [(*row[:2], None, None, None) for row in happened(left.start, left.end)]
    states = {row[0]: row[1] for row in rows_of(there, schema.files, "sha256", "status")}
    assert states.pop(member) == FileStatus.WITHDRAWN
    assert set(states.values()) == {FileStatus.PENDING}
    ingest(there, archives, run_id="run-three")
    (whole,) = claimed(there)
    assert kept(there.settings) == [(*row[:2], None, None, None) for row in happened(whole.start, whole.end)]
    assert sources(there.settings) == ["file"]
    files_of(there)


def test_a_withdrawn_span_of_minutes_is_claimed_no_more_and_paged_again(there: Stores) -> None:
    fill(there)
    hour = Span(QUARTER.end - 1_800, QUARTER.end + 1_800)
    span: dict[str, Any] = {"pair": "XBTUSD", "interval": 1, "start": "2026-03-31T23:30", "end": "2026-04-01T00:30"}
    resolve(there, withdrawal(reason="a test", is_span=True, **span), RunContext("run-two", NOW))
    assert claimed(there) == subtract((Span(START, END),), (hour,))
    assert kept(there.settings) == happened(START, hour.start) + happened(hour.end, END)
    fill(there, "run-three")
    assert kept(there.settings, require_complete=True) == happened()
    files_of(there)


# --- damage


def damaged_file(stores: Stores) -> Path:
    """Changes a byte in the middle of a file of trades."""
    paths = [stores.settings.home / path for path in files_of(stores)]
    path = max(paths, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def test_damage_is_found_set_aside_and_read_again_from_the_archive(there: Stores, archives: Path) -> None:
    ingest(there, numbered(archives))
    damaged_file(there)
    found = verify(there, RunSpec(), RunContext("run-two", NOW))
    assert [(damage.path.split("/")[0], damage.detail) for damage in found.damaged] == [("trades", "has other bytes")]
    assert intersect(claimed(there), (Span(START, QUARTER.end),)) == ()
    with pytest.raises(DamagedFile, match="verify --repair sets it aside and restores its trades from the archives"):
        kept(there.settings)
    spec = run_spec(archive_dirs=[numbered(archives)], api_backfill=False)
    done = repair(there, spec, RunContext("run-three", NOW))
    assert done.verification.status == "repaired"
    assert [path.split("/")[:2] for path in done.moved.values()] == [["damaged", "trades"]]
    assert kept(there.settings) == happened(START, QUARTER.end)
    assert verify(there, RunSpec(), RunContext("run-four", NOW)).status == "ok"
    files_of(there)


def test_a_repair_names_the_command_that_pages_lost_trades_again(there: Stores) -> None:
    fill(there)
    assert [path.split("/")[2] for path in files_of(there)].count("month=2026-04") > 0
    april = Span(QUARTER.end, END)
    for path in files_of(there):
        if "month=2026-04" in path:
            (there.settings.home / path).unlink()
    candles = stored(there, "XBTUSD", 1)
    window = run_spec(start=START, end=END)
    done = repair(there, window, RunContext("run-two", NOW))
    assert done.verification.status == "repaired"
    assert claimed(there) == (Span(START, QUARTER.end),)
    assert (stored(there, "XBTUSD", 1), covered(there, "XBTUSD", 1)) == (candles, (Span(START, END),))
    command = (
        f"kraken-pipeline resolve --span --pair XBTUSD --interval 1 --start {iso(april.start)} --end {iso(april.end)} "
        '--reason "lost trades"'
    )
    (sentence,) = done.trades_lost
    assert sentence == (
        f"the trades of XBTUSD from 2026-04-01 to 2026-04-03 were paged, and are lost: `{command}` and "
        "`kraken-pipeline backfill --pairs XBTUSD --complete` have them paged again"
    )
    assert repair(there, window, RunContext("run-three", NOW)).trades_lost == ()
    begin, end = iso(april.start), iso(april.end)
    spec = withdrawal(reason="lost trades", is_span=True, pair="XBTUSD", interval="1", start=begin, end=end)
    resolve(there, spec, RunContext("run-four", NOW))
    fill(there, "run-five")
    assert kept(there.settings, require_complete=True) == happened()
    assert stored(there, "XBTUSD", 1) == candles
    files_of(there)


def test_the_command_that_a_repair_names_is_one_that_the_program_takes(there: Stores) -> None:
    fill(there)
    gone = there.settings.home / max(files_of(there))
    gone.unlink()
    said = shell(there.settings.home, "verify", "--repair", "--no-api-backfill", "--json", KRAKEN_KEEP_TRADES="true")
    assert (said.code, said.json["status"]) == (0, "repaired")
    (sentence,) = [line for line in said.err.splitlines() if "were paged, and are lost" in line]
    withdraw, page = (shlex.split(part) for part in sentence.split("`")[1::2])
    tried = shell(there.settings.home, *withdraw[1:], "--dry-run", "--json")
    assert tried.code == 0, tried.err
    withdrawn = tried.json["series"][0]
    assert (withdrawn["pair"], withdrawn["interval"], withdrawn["candles"] > 0) == ("XBTUSD", 1, True)
    assert shell(there.settings.home, *page[1:], "--dry-run").code == 0


def test_a_reader_finds_a_file_that_is_gone(there: Stores) -> None:
    fill(there)
    gone = there.settings.home / min(files_of(there))
    whole = claimed(there)
    content = gone.read_bytes()
    gone.unlink()
    with pytest.raises(DamagedFile, match="does not exist"):
        kept(there.settings)
    assert claimed(there) != whole
    gone.write_bytes(content)
    assert verify(there, RunSpec(), RunContext("run-two", NOW)).status == "ok"
    assert (claimed(there), kept(there.settings)) == (whole, happened())


def test_a_stray_file_is_damage_and_is_not_read(there: Stores) -> None:
    fill(there)
    some = there.settings.home / min(files_of(there))
    shutil.copy(some, some.with_name("copy.parquet"))
    found = verify(there, RunSpec(), RunContext("run-two", NOW))
    assert [(damage.path.rpartition("/")[2], damage.detail) for damage in found.damaged] == [
        ("copy.parquet", "is not in the manifest")
    ]
    assert kept(there.settings) == happened()
    assert repair(there, run_spec(api_backfill=False), RunContext("run-three", NOW)).verification.status == "repaired"
    files_of(there)


def test_a_damaged_file_that_is_back_after_its_archive_was_read_again_repeats_no_trade(
    there: Stores, archives: Path
) -> None:
    ingest(there, numbered(archives))
    path = max((there.settings.home / path for path in files_of(there)), key=lambda path: path.stat().st_size)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert verify(there, RunSpec(), RunContext("run-two", NOW)).status == "damaged"
    ingest(there, numbered(archives), run_id="run-three")
    assert intersect(claimed(there), (Span(START, QUARTER.end),)) != ()
    path.write_bytes(content)
    assert verify(there, RunSpec(), RunContext("run-four", NOW)).status == "ok"
    assert kept(there.settings) == happened(START, QUARTER.end)
    assert len(files_of(there)) == len({path.split("/")[2] for path in files_of(there)})


def test_minutes_that_are_refuted_count_as_covered_again_when_they_were_paged_again(there: Stores) -> None:
    fill(there)
    minutes, hour = Series("XBTUSD", Interval.M1), Span(QUARTER.end, QUARTER.end + 3_600)
    with there.catalog.write() as connection:  # as `prove` does where ids count more trades
        refutations.refute(connection, [(minutes, hour, None, "a test")], NOW)
        evidence_records.renew(connection, {minutes: there.lake.times(minutes)})
    found = covered_trades("XBTUSD", settings=there.settings)
    assert found["end"].dt.epoch("s").to_list() == [hour.start, END]
    assert found["start"].dt.epoch("s").to_list() == [START, hour.end]
    with pytest.raises(Incomplete):
        kept(there.settings, require_complete=True)
    fill(there, "run-three")
    assert kept(there.settings, require_complete=True) == happened()
    files_of(there)


# --- copies


def test_a_backup_has_the_trades_and_so_has_what_is_restored_from_it(there: Stores, tmp_path: Path) -> None:
    fill(there)
    back_up(there, tmp_path / "backup")
    again = settings_of(tmp_path / "again")
    _, verification = restore(again, tmp_path / "backup", RunContext("run-two", NOW))
    assert verification.status == "ok"
    assert kept(again, require_complete=True) == happened()


def test_files_that_replaced_others_during_a_backup_are_adopted(there: Stores, tmp_path: Path) -> None:
    fill(there, end=START + DAY)
    back_up(there, tmp_path / "backup")
    fill(there, "run-two")
    # As if the catalog had been saved before the second run and the files after it.
    shutil.rmtree(tmp_path / "backup" / "trades")
    shutil.copytree(there.settings.home / "trades", tmp_path / "backup" / "trades")
    again = settings_of(tmp_path / "again")
    _, verification = restore(again, tmp_path / "backup", RunContext("run-two", NOW))
    assert [damage for damage in verification.damaged if damage.path.startswith("trades/")] == []
    assert kept(again, require_complete=True) == happened()


def test_a_lost_catalog_costs_no_trades(there: Stores, tmp_path: Path) -> None:
    fill(there)
    home = Path(shutil.copytree(there.settings.home, tmp_path / "copy"))
    for path in home.glob("catalog.sqlite*"):
        path.unlink()
    settings = settings_of(home)
    with opened(settings, is_recovering=True) as stores:
        recover(stores, run_spec(), RunContext("run-two", NOW))
        assert claimed(stores) == (Span(START, END),)
        files_of(stores)
    assert kept(settings, require_complete=True) == happened()


def test_kept_trades_change_no_candle(there: Stores, exchange: DemoExchange, tmp_path: Path, archives: Path) -> None:
    fill(there)
    ingest(there, archives, run_id="run-two")
    with at(exchange, tmp_path / "other") as other:
        fill(other)
        ingest(other, archives, run_id="run-two")
        assert stored(there, "XBTUSD", 1) == stored(other, "XBTUSD", 1)
        assert covered(there, "XBTUSD", 1) == covered(other, "XBTUSD", 1)


def test_trades_in_a_bucket_are_kept_read_and_verified_as_in_a_folder(
    home: Path, exchange: DemoExchange, bucket: Bucket, archives: Path, tmp_path: Path
) -> None:
    with at(exchange, home, kraken_keep_trades=True, kraken_lake_url=bucket.url) as stores:
        ingest(stores, numbered(archives))
        fill(stores)
        settings = stores.settings
        assert kept(settings, start=START, require_complete=True) == happened()
        assert scan_trades("XBTUSD", settings=settings).collect().height == len(happened())
        assert bucket.objects("trades") == files_of(stores)
        assert not list(home.rglob("*.parquet"))
        assert verify(stores, RunSpec(), RunContext("run-two", NOW)).status == "ok"
        back_up(stores, tmp_path / "backup")
    again = settings_of(tmp_path / "again")
    _, verification = restore(again, tmp_path / "backup", RunContext("run-three", NOW))
    assert verification.status == "ok"
    assert kept(again, start=START, require_complete=True) == happened()
