from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.coverage.ranges import Span, subtract
from kraken_pipeline.demo.archives import (
    COMPLETE,
    candles_name,
    write_complete_zip,
    write_csv,
    write_quarterly_zip,
)
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.states import ContradictionState, FileStatus
from kraken_pipeline.storage.lake.staged import move_all
from kraken_pipeline.storage.records import proof_records, withdrawals
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow import lake_write
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.withdraw import resolve
from kraken_pipeline.workflow.withdraw.resolve import Resolved
from kraken_pipeline.workflow.withdraw.withdrawal import Withdrawal, withdrawal
from kraken_pipeline_tests.support.homes import (
    NOW,
    Q1,
    SPRING,
    START,
    covered,
    digest_of,
    evidence_of,
    lake_of,
    lines_of,
    oracle,
    rows_of,
    run,
    settings_of,
    spans,
    stored,
)
from kraken_pipeline_tests.support.samples import write_zip
from kraken_pipeline_tests.support.shell import shell

pytestmark = pytest.mark.slow

HOUR = 3_600
HOURS = Series("XBTUSD", Interval.H1)
LATER = NOW + 3_600
RELEASE = candles_name(Q1)
BAD = f"{RELEASE}:XBTUSD_60.csv"
REASON = "its times are wrong"
UNTIL = Q1.end - DAY
"""The archives end with their last minute that was traded, in the last hour of the day after."""
TRUE_HOURS = oracle("XBTUSD", 60, START, Q1.end)
BUSY = [int(row[0]) for row in TRUE_HOURS if row[-1] > 3 and row[0] > START + DAY]
"""Hours with enough trades for every defect."""
DEFECTS = {
    "a spike": Defect(DefectKind.SPIKE, "XBTUSD", Interval.H1, BUSY[20]),
    "shifted times": Defect(DefectKind.SHIFTED, "XBTUSD", Interval.H1, hours=2),
    "fewer trades": Defect(DefectKind.FEWER_TRADES, "XBTUSD", Interval.H1),
    "a missing candle": Defect(DefectKind.MISSING_CANDLE, "XBTUSD", Interval.H1, BUSY[30]),
}
FINE = (Interval.M1, Interval.H1)
RESAMPLED = (Interval.H4, Interval.H12, Interval.D1)


def take_back(stores: Stores, what: Withdrawal | None = None, now: int = LATER, *, dry_run: bool = False) -> Resolved:
    what = what or withdrawal(reason=REASON, file=BAD)
    return resolve.preview(stores, what) if dry_run else resolve.resolve(stores, what, RunContext("resolve-one", now))


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory, empty_home: Path) -> Callable[[str], Path]:
    """A home with minutes and hours of one release, whose hours have a defect; made once for each, only to copy."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("spoilt")
            home = Path(shutil.copytree(empty_home, folder / "home"))
            archive = write_quarterly_zip(folder / "in", SPRING, Q1, FINE, pairs=["XBTUSD"], defects=[DEFECTS[name]])
            with opened(settings_of(home)) as stores:
                run(stores, archive)
            made[name] = folder
        return made[name]

    return make


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder / "home", to / "copy"))


def assert_true(stores: Stores, *intervals: Interval) -> None:
    """Every candle of XBTUSD is what was traded, and the time of all of them is covered."""
    for interval in intervals:
        assert stored(stores, "XBTUSD", interval, None, UNTIL) == oracle("XBTUSD", interval, START, UNTIL), interval
        assert not subtract((Span(interval.ceil(START), UNTIL),), covered(stores, "XBTUSD", interval)), interval


def assert_nothing_is_covered_that_is_not_there(stores: Stores) -> None:
    """Within coverage, every candle that was traded is in the lake."""
    for interval in Interval:
        times = {row[0] for row in stored(stores, "XBTUSD", interval)}
        for span in covered(stores, "XBTUSD", interval):
            traded = {row[0] for row in oracle("XBTUSD", interval, max(span.start, START), min(span.end, Q1.end))}
            assert traded <= times, (interval, span)


# --- a file


@pytest.mark.parametrize("name", DEFECTS)
def test_when_a_wrong_file_is_withdrawn_everything_it_said_is_healed_from_finer_candles(
    tmp_path: Path, spoilt: Callable[[str], Path], name: str
) -> None:
    folder = spoilt(name)
    with opened(settings_of(copied(folder, tmp_path))) as stores:
        done = take_back(stores)
        assert done.files == (BAD,)
        assert done.candles > 0
        assert_true(stores, *FINE, *RESAMPLED)
        assert set(stores.lake.read(HOURS)["source"]) == {"RESAMPLED"}
        assert done.refilled[HOURS] > 0
        assert [gap for gap in done.gaps if gap.span.start < UNTIL and gap.series.interval <= Interval.D1] == []
        with stores.catalog.read() as connection:
            open_ = proof_records.contradictions_of(
                connection, ["XBTUSD"], [ContradictionState.REFUTED, ContradictionState.CONFLICT]
            )
        assert open_ == []
        records = rows_of(stores, schema.files, "name", "status", "reason")
        assert (BAD, "WITHDRAWN", REASON) in records
        assert (f"{RELEASE}:XBTUSD_1.csv", "COMPLETED", None) in records
        withdrawn = stores.lake.replaced(HOURS).filter(lost="WITHDRAWN")
        assert set(withdrawn["by"]) == {REASON}
        assert set(withdrawn["at"]) == {LATER}
        rows = rows_of(stores, schema.withdrawals, "interval", "candles", "reason")
        assert (60, withdrawn.height, REASON) in rows


def test_what_was_resampled_from_a_wrong_file_goes_with_it(tmp_path: Path, spoilt: Callable[[str], Path]) -> None:
    spike = DEFECTS["a spike"].time or 0
    day = Interval.D1.floor(spike)
    with opened(settings_of(tmp_path / "home")) as stores:
        archive = write_quarterly_zip(
            tmp_path, SPRING, Q1, [Interval.H1], pairs=["XBTUSD"], defects=[DEFECTS["a spike"]]
        )
        run(stores, archive)
        true = oracle("XBTUSD", 1440, day, day + DAY)
        assert stored(stores, "XBTUSD", 1440, day, day + DAY) != true
        done = take_back(stores)
        for interval in (60, 240, 720, 1440):
            assert stored(stores, "XBTUSD", interval) == []
            assert covered(stores, "XBTUSD", interval) == ()
        assert {each.series.interval for each in done.series} >= {60, 240, 720, 1440}
        reasons = rows_of(stores, schema.withdrawals, "interval", "reason", "file_id")
        assert (1440, f"made of what was withdrawn: {REASON}", None) in reasons
        # And the minutes that come later make all of it again.
        run(stores, write_quarterly_zip(tmp_path / "more", SPRING, Q1, [Interval.M1], pairs=["XBTUSD"]), run_id="two")
        assert_true(stores, Interval.M1, Interval.H1, *RESAMPLED)


def test_a_file_that_was_withdrawn_is_never_ingested_again_under_whatever_name(
    tmp_path: Path, spoilt: Callable[[str], Path]
) -> None:
    folder = spoilt("a spike")
    with opened(settings_of(copied(folder, tmp_path))) as stores:
        take_back(stores)
        before = (lake_of(stores), evidence_of(stores))
        again = run(stores, folder / "in", run_id="run-two")
        assert again.files == {}
        taken = {each.name: each.reason for each in again.scanned.ingested_before}
        assert taken[BAD] == f"read before: withdrawn: {REASON}"
        assert (lake_of(stores), evidence_of(stores)) == before

        shutil.unpack_archive(folder / "in" / RELEASE, tmp_path / "unpacked")
        renamed = run(stores, tmp_path / "unpacked", run_id="run-three").files["XBTUSD_60.csv"]
        assert (renamed.status, renamed.reason) == (
            FileStatus.SKIPPED,
            f"the same as {BAD}, which was withdrawn: {REASON}",
        )
        assert_true(stores, Interval.H1)


def test_a_dropped_archive_of_which_a_file_was_withdrawn_is_tidied_away_like_any_other(
    stores: Stores, tmp_path: Path
) -> None:
    archive = write_quarterly_zip(tmp_path, SPRING, Q1, FINE, pairs=["XBTUSD"], defects=[DEFECTS["a spike"]])
    run(stores, archive)
    take_back(stores)
    shutil.copy2(archive, stores.settings.home / "drop")
    done = run(stores, run_id="two")
    assert {name: outcome.status for name, outcome in done.files.items()} == {
        BAD: FileStatus.SKIPPED,
        f"{RELEASE}:XBTUSD_1.csv": FileStatus.SKIPPED,
    }
    assert [path.name for path in (stores.settings.home / "drop").iterdir()] == ["ingested"]


def test_withdrawing_a_file_twice_is_withdrawing_it_once(tmp_path: Path, spoilt: Callable[[str], Path]) -> None:
    with opened(settings_of(copied(spoilt("a spike"), tmp_path))) as stores:
        take_back(stores)
        before = (lake_of(stores), evidence_of(stores), rows_of(stores, schema.withdrawals, "id"))
        again = take_back(stores, now=LATER + 60)
        assert (again.files, again.candles, again.gaps) == ((), 0, ())
        assert (lake_of(stores), evidence_of(stores), rows_of(stores, schema.withdrawals, "id")) == before


def test_a_dry_run_says_what_would_go_and_changes_nothing(tmp_path: Path, spoilt: Callable[[str], Path]) -> None:
    home = copied(spoilt("a spike"), tmp_path)
    with opened(settings_of(home)) as stores:
        before = digest_of(home)
        said = take_back(stores, dry_run=True)
        assert digest_of(home) == before
        done = take_back(stores)
    assert (said.files, said.series) == (done.files, done.series)
    assert said.as_json()["dry_run"]
    assert {each["interval"]: each["candles"] for each in said.as_json()["series"]}[60] == len(TRUE_HOURS)


# --- others that had answered for the same


@pytest.fixture
def two_releases(stores: Stores, tmp_path: Path) -> Stores:
    """The complete archive, whose hours have a spike, and the quarter's, which came first and lost to it."""
    spike = Defect(DefectKind.SPIKE, "XBTUSD", Interval.H1, BUSY[20], release=COMPLETE)
    one = ["XBTUSD"]
    quarter = write_quarterly_zip(tmp_path / "in", SPRING, Q1, [Interval.H1], pairs=one)
    whole = write_complete_zip(tmp_path / "in", SPRING, Q1.end + 2 * DAY, [Interval.H1], pairs=one, defects=[spike])
    run(stores, quarter)
    run(stores, whole, run_id="run-two")
    assert stored(stores, "XBTUSD", 60, None, Q1.end) != TRUE_HOURS
    return stores


def test_another_release_that_had_answered_too_is_read_again_and_its_candles_come_back(
    two_releases: Stores, tmp_path: Path
) -> None:
    stores = two_releases
    done = take_back(stores, withdrawal(reason="a spike", file=f"{COMPLETE}:XBTUSD_60.csv"))
    assert [(each.name, each.path) for each in done.read_again] == [(BAD, tmp_path / "in" / RELEASE)]
    assert stored(stores, "XBTUSD", 60) == []
    assert any(f"kraken-pipeline ingest --archive-dir {tmp_path / 'in' / RELEASE}" in each for each in done.actions)
    (again,) = [row for row in rows_of(stores, schema.files, "name", "status", "reason") if row[0] == BAD]
    assert again == (BAD, "PENDING", f"to be read again: {COMPLETE}:XBTUSD_60.csv was withdrawn")

    ingested = run(stores, tmp_path / "in", run_id="run-three")
    assert set(ingested.files) == {BAD}
    assert stored(stores, "XBTUSD", 60) == TRUE_HOURS
    assert not subtract(spans((START, Q1.end)), covered(stores, "XBTUSD", 60))
    found = stores.lake.read(HOURS)
    assert found["release"].unique().to_list() == [Q1.end // DAY]


def test_a_release_that_is_to_be_read_again_and_is_gone_is_named_as_one_to_fetch(
    two_releases: Stores, tmp_path: Path
) -> None:
    (tmp_path / "in" / RELEASE).unlink()
    done = take_back(two_releases, withdrawal(reason="a spike", file=f"{COMPLETE}:XBTUSD_60.csv"))
    assert [(each.name, each.path) for each in done.read_again] == [(BAD, None)]
    assert any(each.startswith(f"fetch {BAD} again") for each in done.actions)


def test_loose_files_of_the_same_time_cannot_be_told_apart_and_the_other_is_read_again(
    stores: Stores, tmp_path: Path
) -> None:
    bad = write_csv(
        tmp_path / "bad", SPRING, "XBTUSD", Interval.H1, start=START, end=Q1.end, defects=[DEFECTS["a spike"]]
    )
    good = write_csv(tmp_path / "good", SPRING, "XBTUSD", Interval.H1, start=START + DAY, end=Q1.end + DAY)
    run(stores, bad)
    run(stores, good, run_id="run-two")
    with pytest.raises(InvalidRequest, match="2 different files are called"):
        take_back(stores, withdrawal(reason="a spike", file="XBTUSD_60.csv"))
    done = take_back(stores, withdrawal(reason="a spike", file=str(bad)))
    assert [each.path for each in done.read_again] == [good]
    assert stored(stores, "XBTUSD", 60)[0][0] >= Q1.end, "what lies beyond the bad file is still there"
    run(stores, tmp_path, run_id="run-three")
    assert stored(stores, "XBTUSD", 60) == oracle("XBTUSD", 60, START + DAY, Q1.end + DAY)


def test_a_twin_of_a_file_that_is_to_be_read_again_may_take_its_place(two_releases: Stores, tmp_path: Path) -> None:
    stores = two_releases
    shutil.copytree(tmp_path / "in", tmp_path / "copy")
    run(stores, tmp_path / "copy" / RELEASE, run_id="run-three")
    (tmp_path / "in" / RELEASE).unlink()
    take_back(stores, withdrawal(reason="a spike", file=f"{COMPLETE}:XBTUSD_60.csv"))
    run(stores, tmp_path / "copy", run_id="run-four")
    assert stored(stores, "XBTUSD", 60) == TRUE_HOURS


# --- a release


def test_a_release_is_withdrawn_with_all_its_files_also_those_that_were_never_read(
    stores: Stores, tmp_path: Path
) -> None:
    archive = write_quarterly_zip(tmp_path, SPRING, Q1, [Interval.H1, Interval.D1])
    run(stores, archive, pairs="XBTUSD,ADAEUR", intervals="60")
    done = take_back(stores, withdrawal(reason="all of it", release=RELEASE))
    assert done.files == (f"{RELEASE}:ADAEUR_60.csv", BAD)
    assert lake_of(stores) == {series: [] for series in lake_of(stores)}
    assert rows_of(stores, schema.coverage, "pair") == []
    again = run(stores, tmp_path, run_id="run-two")
    assert again.files == {}
    assert {each.reason for each in again.scanned.ingested_before} == {"read before: withdrawn: all of it"}
    assert len(again.scanned.ingested_before) == 6
    assert take_back(stores, withdrawal(reason="all of it", release=RELEASE)).files == ()


# --- a span


def test_of_a_span_only_the_candles_of_the_source_go_and_the_file_is_not_read_again(
    stores: Stores, tmp_path: Path
) -> None:
    archive = write_quarterly_zip(tmp_path, SPRING, Q1, FINE, pairs=["XBTUSD"], defects=[DEFECTS["a spike"]])
    run(stores, archive)
    at = DEFECTS["a spike"].time or 0
    span = {"pair": "XBTUSD", "interval": 60, "start": iso(at), "end": iso(at + HOUR)}
    nothing = take_back(stores, withdrawal(reason="a spike", is_span=True, source="ohlc", **span))  # type: ignore[arg-type]
    assert nothing.candles == 0
    done = take_back(stores, withdrawal(reason="a spike", is_span=True, source="CSV", **span))  # type: ignore[arg-type]
    assert (HOURS, Span(at, at + HOUR), 1) in [(each.series, each.span, each.candles) for each in done.series]
    assert done.read_again == ()
    assert_true(stores, *FINE, *RESAMPLED)
    assert stores.lake.read(HOURS, at, at + HOUR)["source"].to_list() == ["RESAMPLED"]
    assert set(stores.lake.read(HOURS, at + HOUR, None)["source"]) == {"CSV"}


def test_a_span_takes_the_quiet_back_too_and_leaves_a_gap_where_nothing_finer_is(
    stores: Stores, tmp_path: Path
) -> None:
    run(stores, write_quarterly_zip(tmp_path, SPRING, Q1, [Interval.H1], pairs=["XBTUSD"]))
    what = Withdrawal("not believed", series=HOURS, span=Span(START + DAY, START + 2 * DAY))
    done = take_back(stores, what)
    assert covered(stores, "XBTUSD", 60) == spans((Q1.start, START + DAY), (START + 2 * DAY, Q1.end))
    (gap,) = [gap for gap in done.gaps if gap.series == HOURS]
    assert gap.span == what.span
    assert any("kraken-pipeline backfill --pairs XBTUSD --intervals" in each for each in done.actions)


# --- killed in between


class Killed(BaseException):
    """The process is gone."""


def killed_before_candles_go(patch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise Killed

    patch.setattr(resolve, "commit", die)


def killed_between_two_series(patch: pytest.MonkeyPatch) -> None:
    def move_some(files: Any, stages: Any) -> None:
        move_all(files, [next(iter(stages))])
        raise Killed

    patch.setattr(lake_write, "move_all", move_some)


def killed_before_it_is_on_record(patch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise Killed

    patch.setattr(withdrawals, "record", die)


@pytest.mark.parametrize("kill", [killed_before_candles_go, killed_between_two_series, killed_before_it_is_on_record])
def test_who_is_killed_while_taking_back_leaves_no_false_coverage_and_doing_it_again_completes_it(
    tmp_path: Path, spoilt: Callable[[str], Path], kill: Callable[[pytest.MonkeyPatch], None]
) -> None:
    folder = spoilt("shifted times")
    (tmp_path / "whole").mkdir()
    with opened(settings_of(copied(folder, tmp_path / "whole"))) as stores:
        whole = take_back(stores)
        wanted = (lake_of(stores), evidence_of(stores)["coverage"], rows_of(stores, schema.withdrawals, "candles"))
    with opened(settings_of(copied(folder, tmp_path))) as stores:
        with pytest.MonkeyPatch.context() as patch:
            kill(patch)
            with pytest.raises(Killed):
                take_back(stores)
        assert_nothing_is_covered_that_is_not_there(stores)
        assert rows_of(stores, schema.withdrawals, "id") == []
        done = take_back(stores)
        assert done.files == whole.files
        assert (lake_of(stores), evidence_of(stores)["coverage"]) == wanted[:2]
        assert rows_of(stores, schema.withdrawals, "candles", "interval")[-1] == (len(TRUE_HOURS), 60)
        assert_true(stores, *FINE, *RESAMPLED)


# --- what cannot be meant


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "exactly one of --file, --release, and --span"),
        ({"file": "a", "release": "b"}, "exactly one of"),
        ({"file": "a", "reason": " \t"}, "the reason is empty"),
        ({"file": "a", "pair": "XBTUSD"}, "--pair is for --span"),
        ({"is_span": True, "pair": "XBTUSD", "interval": 60}, "a span needs --start, --end as well"),
        (
            {"is_span": True, "pair": "XBTUSD", "interval": 60, "start": "2023-01-01", "end": "2023-01-01"},
            "end must be later than start",
        ),
        (
            {"is_span": True, "pair": "XBTUSD", "interval": 60, "start": "2023-01-01", "end": "2023-01-01T01:30"},
            "from 2023-01-01T00:00:00Z to 2023-01-01T02:00:00Z",
        ),
        (
            {
                "is_span": True,
                "pair": "XBTUSD",
                "interval": 60,
                "start": "2023-01-01",
                "end": "2023-01-02",
                "source": "API",
            },
            "there is no source 'API'; there are CSV, TRADES, RESAMPLED, OHLC",
        ),
    ],
)
def test_what_is_not_exactly_one_thing_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        withdrawal(**{"reason": "why", **given})


def test_where_nothing_has_that_name_the_message_says_what_there_is(
    tmp_path: Path, spoilt: Callable[[str], Path], stores: Stores
) -> None:
    with pytest.raises(InvalidRequest, match="nothing was ingested yet"):
        take_back(stores, withdrawal(reason="why", release="Kraken.zip"))
    with opened(settings_of(copied(spoilt("a spike"), tmp_path))) as there:
        for what in (withdrawal(reason="why", file="XBTUSD_5.csv"), withdrawal(reason="why", release="Kraken.zip")):
            with pytest.raises(InvalidRequest, match=f"there are .*{RELEASE}:XBTUSD_1.csv"):
                take_back(there, what)
        with pytest.raises(InvalidRequest, match="the lake has candles from 2023-03-"):
            take_back(there, Withdrawal("why", series=HOURS, span=Span(0, HOUR)))
        with pytest.raises(InvalidRequest, match="the lake has nothing"):
            take_back(there, Withdrawal("why", series=Series("ETHUSD", Interval.H1), span=Span(0, HOUR)))


def test_a_reason_and_a_name_are_kept_as_they_are_said_but_for_what_cannot_be_printed(
    tmp_path: Path, spoilt: Callable[[str], Path]
) -> None:
    reason = 'it\'s "wrong"; DROP TABLE gaps; -- %s \u2019 {0} \x00 \udcff'
    with opened(settings_of(copied(spoilt("a spike"), tmp_path))) as stores:
        done = take_back(stores, withdrawal(reason=reason, file=BAD))
        shown = 'it\'s "wrong"; DROP TABLE gaps; -- %s \u2019 {0} \\x00 \\udcff'
        assert done.reason == shown
        assert (BAD, shown) in rows_of(stores, schema.files, "name", "reason")
        assert set(stores.lake.replaced(HOURS).filter(lost="WITHDRAWN")["by"]) == {shown}


def test_a_zip_that_is_no_release_can_be_withdrawn_like_one(stores: Stores, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "csv", SPRING, "XBTUSD", Interval.H1, start=START, end=Q1.end)
    backup = write_zip(tmp_path / "in" / "backup.zip", {"XBTUSD_60.csv": "\n".join(lines_of(path)) + "\n"})
    run(stores, backup)
    assert stored(stores, "XBTUSD", 60) == TRUE_HOURS
    take_back(stores, withdrawal(reason="mine", release="backup.zip"))
    assert stored(stores, "XBTUSD", 60) == []
    assert Source.CSV.value not in {row[0] for row in rows_of(stores, schema.grants, "source")}


def test_the_shell_takes_back_and_says_what_is_left_to_do(tmp_path: Path, spoilt: Callable[[str], Path]) -> None:
    home = copied(spoilt("a spike"), tmp_path)
    command = ("resolve", "--file", BAD, "--reason", "a spike")
    would = shell(home, *command, "--dry-run")
    assert (would.code, f"{BAD} would be withdrawn" in would.out) == (0, True)
    shown = shell(home, *command, "--json").json
    assert list(shown) == [
        *("what", "reason", "dry_run", "files", "candles", "series", "read_again", "refilled", "gaps", "actions")
    ]
    assert (shown["what"], shown["reason"], shown["files"]) == (BAD, "a spike", [BAD])
    again = shell(home, *command)
    assert (again.code, "was withdrawn before; there is nothing left to withdraw" in again.out) == (0, True)
    absent = shell(home, "resolve", "--file", "absent.csv", "--reason", "a spike")
    assert (absent.code, "no file is called absent.csv; there are" in absent.err) == (2, True)
    assert shell(home, "resolve", "--reason", "a spike").code == 2


def test_where_there_is_a_questdb_the_way_to_rebuild_it_is_told(tmp_path: Path, spoilt: Callable[[str], Path]) -> None:
    urls = {"kraken_questdb_url": "http://127.0.0.1:9", "kraken_questdb_pg_url": "postgresql://127.0.0.1:9/qdb"}
    with opened(settings_of(copied(spoilt("a spike"), tmp_path), **urls)) as stores:
        done = take_back(stores)
    assert any("kraken-pipeline publish --rebuild --verify" in each for each in done.actions)
