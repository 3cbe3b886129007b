"""A release of a dataset is what the lake had, for ever, and its digest says only that."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from kraken_pipeline.coverage.ranges import Span, intersect
from kraken_pipeline.demo.archives import write_csv, write_quarterly_zip
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.errors import DamagedFile, InvalidRequest
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake import stored_series
from kraken_pipeline.storage.lake.staged import Staged
from kraken_pipeline.storage.lake.writer import stage_file
from kraken_pipeline.storage.paths import candles_path
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.cleanup import clean_up
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.releases import create, folder
from kraken_pipeline.workflow.releases.certificate import Certificate
from kraken_pipeline.workflow.releases.certificate import digest_of as digest_of_claims
from kraken_pipeline.workflow.releases.dataset import open_release
from kraken_pipeline.workflow.releases.folder import delete, find, find_anywhere, list_releases, names_of
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.verify.backup import back_up, restore
from kraken_pipeline.workflow.verify.verification import verify
from kraken_pipeline.workflow.withdraw.resolve import resolve
from kraken_pipeline.workflow.withdraw.withdrawal import withdrawal
from kraken_pipeline_tests.support.buckets import Bucket
from kraken_pipeline_tests.support.damaging import flip
from kraken_pipeline_tests.support.datasets import digest_by_hand, failed_claims, released, verified
from kraken_pipeline_tests.support.homes import (
    HOURS_AND_DAYS,
    NOW,
    Q1,
    Q2,
    Q3,
    SPRING,
    START,
    Shelf,
    covered,
    digest_of,
    run,
    settings_of,
    write_lines,
)
from kraken_pipeline_tests.support.lakes import bring_in, into_former_layout

pytestmark = pytest.mark.slow

DAY = 86_400
HOURS = Series("XBTUSD", Interval.H1)
DAYS = Series("XBTUSD", Interval.D1)
HOURS_FILE = "candles/interval=60/pair=XBTUSD/candles.parquet"


class Killed(BaseException):
    """What a test ends a release with."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Path:
    """A home with hours and days of three pairs and some minutes; only to copy."""
    home = tmp_path_factory.mktemp("filled") / "home"
    with opened(settings_of(home)) as stores:
        run(stores, shelf.q1, shelf.q2, shelf.minutes, intervals="1,60,1440")
    return home


@pytest.fixture
def own(filled: Path, tmp_path: Path) -> Iterator[Stores]:
    """The stores of a copy of that home."""
    with opened(settings_of(Path(shutil.copytree(filled, tmp_path / "own")))) as stores:
        yield stores


@pytest.fixture(scope="module")
def made(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of hours and days; only to copy."""
    home = Path(shutil.copytree(filled, tmp_path_factory.mktemp("made") / "home"))
    with opened(settings_of(home)) as stores:
        released(stores, intervals="60,1440")
    return home / "releases" / "a"


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """A copy of that release, far from its home."""
    return Path(shutil.copytree(made, tmp_path / "copied"))


def at(stores: Stores, name: str = "a") -> Path:
    return stores.settings.home / "releases" / name


def left_over(stores: Stores) -> list[str]:
    return [path.name for path in stores.lake.scratch.iterdir()]


# --- the digest


def filled_in_order(home: Path, *paths: Path) -> tuple[str, str]:
    """The digest of a home that was filled in this order, as the program and as the documentation compute it."""
    with opened(settings_of(home)) as stores:
        for number, path in enumerate(paths):
            run(stores, path, run_id=f"run-{number}", now=NOW + number)
        certificate = released(stores, now=NOW + 100 * len(home.name))
        return certificate.digest, digest_by_hand(at(stores))


def test_two_homes_that_were_filled_in_different_orders_have_the_same_digest(tmp_path: Path, shelf: Shelf) -> None:
    busy = SPRING.candles("XBTUSD", Interval.H1, Q2.start + 12 * DAY, Q2.end)
    times = busy.filter(pl.col("trade_count") > 1)["time"].dt.epoch("s")
    defects = [
        Defect(DefectKind.SHORT_CANDLE, "XBTUSD", Interval.H1, times[5]),
        Defect(DefectKind.MISSING_CANDLE, "XBTUSD", Interval.H1, times[50]),
        Defect(DefectKind.FEWER_TRADES, "ADAEUR", Interval.D1, Q2.start + 3 * DAY, until=Q2.start + 5 * DAY),
    ]
    short = Defect(DefectKind.SHORT_CANDLE, "XBTUSD", Interval.H1, times[200])
    days = {"start": Q2.start + 20 * DAY, "end": Q2.end - DAY}
    paths = (
        shelf.q1,
        write_quarterly_zip(tmp_path / "bad", SPRING, Q2, HOURS_AND_DAYS, defects=defects),
        shelf.q2,
        write_csv(tmp_path / "loose", SPRING, "XBTUSD", Interval.H1, defects=[short], **days),
        shelf.complete,
        shelf.minutes,
    )
    first = filled_in_order(tmp_path / "one", *paths)
    other = filled_in_order(tmp_path / "another", *reversed(paths))
    third = filled_in_order(tmp_path / "third", *paths[2:4], paths[0], paths[5], paths[1], paths[4])
    assert len({*first, *other, *third}) == 1


def test_the_noise_of_volumes_has_one_winner_in_any_order(tmp_path: Path) -> None:
    start = Q1.end
    folders = []
    for number, noise in enumerate((0.0, 1e-12, -3e-12)):
        lines = (f"{start + hour * 3600},1,2,1,2,{4 + noise + hour * noise!r},4" for hour in range(48))
        folders.append(write_lines(tmp_path / f"archive{number}" / "XBTUSD_60.csv", lines).parent)
    assert filled_in_order(tmp_path / "one", *folders) == filled_in_order(tmp_path / "another", *reversed(folders))


def test_the_division_into_files_does_not_reach_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (f"{Q1.start + day * DAY},1,2,1,2,{3 + day % 7},4" for day in range(-500, 90) if day % 11)
    path = write_lines(tmp_path / "XBTUSD_1440.csv", lines)
    found: list[tuple[Certificate, str]] = []
    for name, rows in (("whole", 10_000), ("years", 10)):
        monkeypatch.setattr(stored_series, "WHOLE_ROWS", rows)
        with opened(settings_of(tmp_path / name)) as stores:
            run(stores, path, intervals="1440")
            found.append((released(stores), digest_by_hand(at(stores))))
    (whole, by_hand), (years, by_hand_of_years) = found
    assert (len(whole.files), [Path(file.path).name for file in years.files]) == (
        1,
        ["2021.parquet", "2022.parquet", "2023.parquet"],
    )
    assert {whole.digest, years.digest} == {by_hand} == {by_hand_of_years}


def test_a_home_of_an_earlier_layout_has_the_same_digest(own: Stores) -> None:
    digest = released(own).digest
    assert into_former_layout(own.lake)
    former = released(own, "b")
    assert former.digest == digest
    assert "candles/interval=1/pair=XBTUSD/2023.parquet" in [file.path for file in former.files]
    assert failed_claims(at(own, "b")) == []


def test_files_from_before_the_flow_of_candles_are_released_as_they_are(own: Stores) -> None:
    digest = released(own).digest
    without = own.lake.read(HOURS).drop(FLOW)
    staged = Staged(HOURS, "an earlier version", NOW)
    stage_file(own.lake, staged, without, candles_path(HOURS, None), None)
    bring_in(own.lake, staged)
    assert released(own, "b").digest == digest
    assert failed_claims(at(own, "b")) == []
    assert not set(FLOW) & set(pl.read_parquet(at(own, "b") / HOURS_FILE, hive_partitioning=False).columns)
    assert open_release(at(own, "b")).read(HOURS).equals(own.lake.read(HOURS))
    assert released(own, "c", start="2023-03-27").rows < released(own, "d").rows
    assert failed_claims(at(own, "c")) == []


def test_conflicts_and_sources_are_beside_the_claims(stores: Stores, shelf: Shelf, tmp_path: Path) -> None:
    fewer = Defect(DefectKind.FEWER_TRADES, "XBTUSD", Interval.H1, Q1.end - DAY, until=Q1.end)
    other = write_csv(tmp_path, SPRING, "XBTUSD", Interval.H1, start=START, end=Q1.end, defects=[fewer])
    run(stores, shelf.q1, intervals="60,1440")
    agreed = released(stores, pairs="XBTUSD")
    assert agreed.conflicts == ()
    run(stores, other, now=NOW + 1, run_id="run-two", intervals="60,1440")
    disputed = released(stores, "b", pairs="XBTUSD")
    assert [(one["pair"], one["interval"], one["reason"]) for one in disputed.conflicts] == [
        ("XBTUSD", 60, "XBTUSD_60.csv counts fewer trades than the kept candles")
    ]
    hours = next(one for one in disputed.sources if one["interval"] == 60)
    assert hours["candles"] == {"CSV": open_release(at(stores, "b")).claims(HOURS).rows}
    assert [(one["name"], one["container"]) for one in hours["archives"]] == [
        (f"{shelf.q1.name}:XBTUSD_60.csv", shelf.q1.name),
        ("XBTUSD_60.csv", None),
    ]
    assert hours["archives"][1]["sha256"] == hashlib.sha256(other.read_bytes()).hexdigest()
    rows = [open_release(at(stores, name)).claims(HOURS).rows_sha256 for name in "ab"]
    assert rows[0] == rows[1], "the loser of a merge is in the ledger and not in the release"


def test_the_digest_depends_on_the_candles_on_the_evidence_and_on_the_selection(own: Stores, shelf: Shelf) -> None:
    digests = [
        released(own, "a").digest,
        released(own, "b", intervals="60,1440").digest,
        released(own, "c", start="2023-04-01").digest,
        released(own, "d", end="2023-06-01").digest,
        released(own, "e", tier="TIER1").digest,
        released(own, "f", pairs="XBTUSD").digest,
    ]
    assert len(set(digests)) == 6
    assert released(own, "g", now=NOW + 9 * DAY).digest == digests[0], "the clock says nothing"
    run(own, shelf.complete, now=NOW + 1, run_id="run-two", intervals="60,1440")  # agrees in each candle
    assert released(own, "h").digest != digests[0]
    rows = [
        {claims.series: claims.rows_sha256 for claims in open_release(at(own, name)).certificate.series}
        for name in "ah"
    ]
    assert rows[0] == rows[1]


def test_the_end_that_is_left_open_is_the_end_of_coverage(own: Stores) -> None:
    certificate = released(own)
    end = max(span.end for series in own.lake.series() for span in covered(own, *series))
    assert certificate.selection.end == end > Q3.start + 3 * DAY
    assert certificate.selection.start is None
    hours = released(own, "b", intervals="60,1440")
    assert released(own, "c", intervals="60,1440", end=iso(hours.selection.end)).digest == hours.digest
    for claims in certificate.series:
        length = claims.series.interval.seconds
        assert not claims.gaps or claims.gaps[-1].end <= end // length * length


def test_what_changed_since_intervals_were_compared_is_not_called_proven(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, resampling=False)
    claims = open_release_of(stores, "a").claims(HOURS)
    assert claims.covered
    assert (claims.reconciled, claims.verified) == ((), ())
    run(stores, run_id="run-two")
    assert open_release_of(stores, "b").claims(HOURS).reconciled


def open_release_of(stores: Stores, name: str) -> Any:
    released(stores, name)
    return open_release(at(stores, name))


def test_a_candle_that_no_source_answers_for_is_there_and_counted(stores: Stores, tmp_path: Path) -> None:
    lines = [f"{Q1.end + hour * 3600},1,2,1,2,3,4" for hour in (0, 1, 2, 3, 50)]
    run(stores, write_lines(tmp_path / "XBTUSD_60.csv", lines), intervals="60")
    run(stores, write_lines(tmp_path / "ADAEUR_60.csv", [*lines, f"{Q1.end + 80 * 3600},1,1,1,1,1,1"]), intervals="60")
    claims = open_release_of(stores, "a").claims(HOURS)
    assert (claims.rows, claims.uncovered_rows) == (5, 1)
    assert claims.gaps[-1].start == Q1.end + 50 * 3600
    assert failed_claims(at(stores)) == []


# --- the files


def test_it_costs_its_json_alone_and_keeps_what_the_lake_had(own: Stores, shelf: Shelf) -> None:
    certificate = released(own)
    mine = [path for path in at(own).rglob("*") if path.is_file() and path.name != "RELEASE.json"]
    assert len(mine) == len(certificate.files) > 5
    lake = {path.stat().st_ino for path in (own.settings.home / "lake").rglob("*.parquet")}
    assert {path.stat().st_ino for path in mine} <= lake
    assert {path.stat().st_nlink for path in mine} == {2}
    before, candles = digest_of(at(own)), own.lake.read(HOURS)

    run(own, shelf.q3, shelf.complete, shelf.trades, now=NOW + 1, run_id="run-two")
    day = iso(Q1.end)
    span = withdrawal(is_span=True, pair="XBTUSD", interval=60, start=day, end=iso(Q1.end + DAY), reason="a test")
    resolve(own, span, RunContext("resolve", NOW + 2))
    clean_up(own, 1, NOW + 9_999 * DAY)
    assert verify(own, run_spec(), RunContext("verify", NOW + 3)).status == "ok"

    assert not own.lake.read(HOURS).equals(candles)
    assert digest_of(at(own)) == before
    assert failed_claims(at(own)) == []
    assert open_release(at(own)).read(HOURS).equals(candles)


@pytest.mark.parametrize("links", [True, False])
def test_only_files_that_the_selection_cuts_are_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    monkeypatch.setattr(stored_series, "WHOLE_ROWS", 10)
    lines = (f"{Q1.start + day * DAY},1,2,1,2,{3 + day % 7},4" for day in range(-800, 90))
    with opened(settings_of(tmp_path / "home")) as stores:
        run(stores, write_lines(tmp_path / "XBTUSD_1440.csv", lines), intervals="1440")
        released(stores, start="2021-02-03", end="2023-01-01", links=links)
        counts = {path.name: path.stat().st_nlink for path in at(stores).rglob("*.parquet")}
        found = open_release(at(stores))
        assert found.read(DAYS).equals(
            stores.lake.read(DAYS).filter(
                pl.col("time").dt.strftime("%F").is_between(pl.lit("2021-02-03"), pl.lit("2022-12-31"))
            )
        )
        assert failed_claims(at(stores)) == []
    assert counts == {"2021.parquet": 1, "2022.parquet": 2 if links else 1}


def test_files_are_read_as_the_lake_is(own: Stores) -> None:
    released(own)
    found = open_release(at(own))
    assert set(found.series) >= {HOURS, DAYS, Series("ADAEUR", Interval.H1)}
    for series in found.series:
        assert found.read(series).equals(own.lake.read(series))
        archived = [own.lake.read(Series(series.pair, interval))["time"][0] for interval in HOURS_AND_DAYS]
        first = int(min(archived).timestamp())
        since = (Span(series.interval.floor(first), NOW),)
        assert found.coverage(series) == intersect(covered(own, *series), since), "from the first known candle on"
    start, end = Q1.end - DAY, Q1.end + DAY
    assert found.read(HOURS, start, end).equals(own.lake.read(HOURS, start, end))
    assert found.read(HOURS, 0, 10).schema == found.read(HOURS).schema
    assert found.proven(HOURS).verified == found.claims(HOURS).verified
    assert found.gaps(HOURS) == (Span(Q3.start, Q3.start + 3600),), "the first hour of the loose minutes is cut"


def test_a_reader_is_told_what_a_release_does_not_have(copied: Path) -> None:
    found = open_release(copied)
    with pytest.raises(InvalidRequest, match="has XBTUSD at 60, 1440 minutes only"):
        found.read(Series("XBTUSD", Interval.M1))
    with pytest.raises(InvalidRequest, match="does not have XBTUSDT; similar names are XBTUSD"):
        found.coverage(Series("XBTUSDT", Interval.H1))
    (copied / HOURS_FILE).write_bytes(b"")
    with pytest.raises(DamagedFile, match=r"has 0 bytes instead of .*; kraken-pipeline release verify"):
        found.read(HOURS)
    (copied / HOURS_FILE).unlink()
    with pytest.raises(DamagedFile, match="does not exist"):
        found.read(HOURS)
    with pytest.raises(InvalidRequest, match="is no release"):
        open_release(copied / "candles")


# --- verification


def edited(change: Callable[[Any], None]) -> Callable[[Path], None]:
    """An edit of RELEASE.json that forgets the digest."""

    def edit(at: Path) -> None:
        said = json.loads((at / "RELEASE.json").read_text())
        change(said)
        (at / "RELEASE.json").write_text(json.dumps(said))

    return edit


def redone(change: Callable[[Any], None]) -> Callable[[Path], None]:
    """An edit of RELEASE.json by somebody who computes the digest anew."""

    def edit(at: Path) -> None:
        edited(change)(at)
        said = json.loads((at / "RELEASE.json").read_text())
        said["digest"] = digest_of_claims(said["claims"])
        (at / "RELEASE.json").write_text(json.dumps(said))

    return edit


def of_hours(said: Any) -> Any:
    return next(one for one in said["claims"]["series"] if (one["pair"], one["interval"]) == HOURS)


def file_of_hours(said: Any) -> Any:
    return next(one for one in said["files"] if one["path"] == HOURS_FILE)


def drop_row(at: Path) -> None:
    """Somebody removes a candle, and changes all that is said of the file."""
    candles = pl.read_parquet(at / HOURS_FILE, hive_partitioning=False)
    gone = candles.filter(pl.int_range(pl.len()) != 5)
    gone.write_parquet(at / HOURS_FILE)

    def change(said: Any) -> None:
        file_of_hours(said).update(
            rows=gone.height,
            bytes=(at / HOURS_FILE).stat().st_size,
            sha256=hashlib.sha256((at / HOURS_FILE).read_bytes()).hexdigest(),
        )

    redone(change)(at)


def swap(spans: list[Any]) -> None:
    spans[:] = [[spans[0][0], spans[0][0] + 3600], [spans[0][0] + 3600, spans[0][1]], *spans[1:]]


def link_elsewhere(at: Path) -> None:
    path = at / HOURS_FILE
    shutil.move(path, at.parent / "elsewhere")
    path.symlink_to(at.parent / "elsewhere")


WAYS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "a flipped byte": (lambda at: flip(at / HOURS_FILE), [HOURS_FILE]),
    "a missing file": (lambda at: (at / HOURS_FILE).unlink(), [HOURS_FILE]),
    "a cut file": (lambda at: os.truncate(at / HOURS_FILE, 100), [HOURS_FILE]),
    "another file": (lambda at: (at / "candles" / "notes.txt").write_text("x"), ["candles/notes.txt"]),
    "an edited digest": (edited(lambda said: said.update(digest="0" * 64)), ["digest"]),
    "an edited claim": (
        edited(lambda said: of_hours(said).update(rows=7)),
        ["digest", "rows of XBTUSD 60"],
    ),
    "an edited row count": (redone(lambda said: of_hours(said).update(rows=7)), ["rows of XBTUSD 60"]),
    "other rows": (redone(lambda said: of_hours(said).update(rows_sha256="0" * 64)), ["rows_sha256 of XBTUSD 60"]),
    "fewer rows": (
        drop_row,
        [f"{name} of XBTUSD 60" for name in ("rows", "rows_sha256", "quiet")],
    ),
    "less quiet time": (
        redone(lambda said: of_hours(said)["quiet"].update(candles=0)),
        ["quiet of XBTUSD 60"],
    ),
    "more coverage": (
        redone(lambda said: of_hours(said)["covered"].insert(0, [Q1.start - DAY, Q1.start - DAY + 3600])),
        ["quiet of XBTUSD 60"],
    ),
    "less coverage": (
        redone(lambda said: of_hours(said)["covered"].__setitem__(0, [Q1.end, Q3.start])),
        [f"{name} of XBTUSD 60" for name in ("reconciled", "uncovered_rows")],
    ),
    "a gap where there is coverage": (
        redone(lambda said: of_hours(said)["gaps"].append([Q1.end, Q1.end + 3600])),
        ["gaps of XBTUSD 60"],
    ),
    "more that is verified": (
        redone(lambda said: of_hours(said)["verified"].append([Q3.start, Q3.start + 3600])),
        ["verified of XBTUSD 60"],
    ),
    "spans that touch": (redone(lambda said: swap(of_hours(said)["reconciled"])), ["reconciled of XBTUSD 60"]),
    "a span off the grid": (
        redone(lambda said: of_hours(said)["covered"][0].__setitem__(1, Q3.start - 1)),
        ["covered of XBTUSD 60", "reconciled of XBTUSD 60"],
    ),
    "a file of another series": (
        redone(lambda said: file_of_hours(said).update(pair="NOUSD")),
        [HOURS_FILE, *(f"{name} of XBTUSD 60" for name in ("rows", "rows_sha256", "quiet"))],
    ),
    "a span of a file": (
        edited(lambda said: file_of_hours(said).update(start="2023-01-01T00:00:00Z")),
        [HOURS_FILE],
    ),
    "an earlier end": (
        redone(lambda said: said["claims"]["selection"].update(end="2023-06-01T00:00:00Z")),
        ["covered of ADAEUR 60", "gaps of ADAEUR 60"],
    ),
    "a later start": (
        redone(lambda said: said["claims"]["selection"].update(start="2023-06-30T00:00:00Z")),
        ["covered of ADAEUR 60", "reconciled of ADAEUR 60", "rows of ADAEUR 60"],
    ),
    "a pair that is not selected": (
        redone(lambda said: said["claims"]["selection"].update(pairs=["ADAEUR", "ZORKUSD"])),
        ["selection of XBTUSD 60", "selection of XBTUSD 1440"],
    ),
    "a series that is left out": (
        redone(lambda said: said["claims"]["series"].remove(of_hours(said))),
        [HOURS_FILE],
    ),
    "a link instead of a file": (link_elsewhere, [HOURS_FILE]),
    "a path out of the folder": (
        edited(lambda said: file_of_hours(said).update(path="../elsewhere")),
        ["../elsewhere", HOURS_FILE],
    ),
    "no JSON": (lambda at: (at / "RELEASE.json").write_text("{"), ["RELEASE.json"]),
    "a list": (lambda at: (at / "RELEASE.json").write_text("[]"), ["RELEASE.json"]),
    "deep JSON": (lambda at: (at / "RELEASE.json").write_text("[" * 100_000), ["RELEASE.json"]),
    "a key twice": (
        lambda at: (at / "RELEASE.json").write_text(
            (at / "RELEASE.json").read_text().replace("{", '{"digest": "",', 1)
        ),
        ["RELEASE.json"],
    ),
    "a key too many": (edited(lambda said: of_hours(said).update(note="mine")), ["RELEASE.json"]),
    "a key too few": (edited(lambda said: said.pop("files")), ["RELEASE.json"]),
    "another format": (redone(lambda said: said["claims"].update(format=2)), ["RELEASE.json"]),
    "a number that is none": (edited(lambda said: of_hours(said).update(rows=1.5)), ["RELEASE.json"]),
    "an enormous number": (edited(lambda said: of_hours(said)["gaps"].append([0, 1 << 80])), ["RELEASE.json"]),
    "a moment that is none": (edited(lambda said: said.update(made_at="yesterday")), ["RELEASE.json"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_does_not_hold_is_named(copied: Path, way: str) -> None:
    change, named = WAYS[way]
    change(copied)
    assert failed_claims(copied)[: len(named)] == named


def test_a_release_is_verified_from_its_folder_alone(copied: Path) -> None:
    before = digest_of(copied)
    found = verified(copied)
    assert found.as_json() == {
        "status": "ok",
        "folder": str(copied),
        "name": "a",
        "digest": digest_by_hand(copied),
        "series": 6,
        "candles": sum(claims.rows for claims in open_release(copied).certificate.series),
        "files": 6,
        "bytes": sum(path.stat().st_size for path in copied.rglob("*.parquet")),
        "signature": "none",
        "failures": [],
    }
    assert digest_of(copied) == before
    with pytest.raises(InvalidRequest, match=r"has no RELEASE\.json"):
        verified(copied.parent)


def test_the_verifier_in_the_documentation_verifies(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "releases.md").read_text()
    program = text.split("```python\n")[-1].partition("```")[0]
    assert "rows_sha256" in program
    monkeypatch.chdir(copied)
    exec(program, {})  # noqa: S102
    edited(lambda said: said["claims"]["series"][0]["covered"].clear())(copied)
    with pytest.raises(AssertionError):
        exec(program, {})  # noqa: S102


def test_digest_is_the_name_of_one_key_alone(made: Path) -> None:
    assert (made / "RELEASE.json").read_text().count('"digest"') == 1


# --- names, and what is refused


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", ".hidden", "-rf", "a b", "ä", "a\n", "x" * 101])
def test_a_name_is_that_of_a_plain_folder(own: Stores, name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be the name of a release"):
        released(own, name)
    assert not (own.settings.home / "releases").exists()


def test_a_release_never_changes_and_is_deleted_by_name_alone(own: Stores) -> None:
    home = own.settings.home
    released(own, "majors-2023Q2", pairs="XBTUSD")
    before = digest_of(home / "releases")
    with pytest.raises(InvalidRequest, match="there is a release majors-2023Q2 already"):
        released(own, "majors-2023Q2")
    for use in (find, delete, find_anywhere):
        with pytest.raises(InvalidRequest, match=r"no release 'majors-2023Q1' in .*; similar names are majors-2023Q2"):
            use(home, "majors-2023Q1")
    with pytest.raises(InvalidRequest, match="kraken-pipeline release list"):
        find(home, "..")
    assert digest_of(home / "releases") == before
    lake = digest_of(home / "lake")
    delete(home, "majors-2023Q2")
    assert (names_of(home), digest_of(home / "lake"), left_over(own)) == ([], lake, [])


def test_releases_are_listed_those_that_cannot_be_read_too(own: Stores) -> None:
    assert list(list_releases(own.settings.home)) == []
    certificate = released(own, "b")
    released(own, "a", pairs="XBTUSD")
    (at(own, "a") / "RELEASE.json").write_text("{")
    (own.settings.home / "releases" / "mine").mkdir()
    broken, whole = (one.as_json() for one in list_releases(own.settings.home))
    assert (broken["name"], broken["digest"], whole["name"], whole["digest"]) == ("a", None, "b", certificate.digest)
    assert broken.keys() == whole.keys()
    assert "Expecting property name" in broken["error"]
    assert whole["candles"] == sum(own.lake.read(series).height for series in own.lake.series())


@pytest.mark.parametrize(
    ("selected", "message"),
    [
        ({"pairs": "NOPEUSD"}, "NOPEUSD is unknown"),
        ({"intervals": "5", "pairs": "ADAEUR"}, "nothing is selected of ADAEUR at 5 minutes"),
        ({"end": "2020-01-01"}, "nothing is selected of any pair"),
        ({"start": "2023-09-01"}, "nothing is selected of any pair"),
        ({"pairs": "ADAEUR,XBTUSD", "intervals": "1"}, "nothing is selected of ADAEUR:"),
        ({"end": "2043-01-01"}, "is in the future"),
        ({"tier": "TIER3"}, "nothing is selected of the pairs of TIER3"),
    ],
)
def test_an_empty_selection_makes_no_release(own: Stores, selected: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        released(own, "a", **selected)
    assert (names_of(own.settings.home), left_over(own)) == ([], [])


def test_an_empty_home_has_nothing_to_release(stores: Stores) -> None:
    with pytest.raises(InvalidRequest, match="no time is covered"):
        released(stores)


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_series_is_not_released(own: Stores, damage: Callable[[Path], object]) -> None:
    path = own.settings.home / "lake" / "interval=60" / "pair=XBTUSD" / "candles.parquet"
    damage(path)
    with pytest.raises(InvalidRequest, match=r"XBTUSD 60 cannot be released: lake/.*; kraken-pipeline verify --repair"):
        released(own)
    assert (names_of(own.settings.home), left_over(own)) == ([], [])
    assert covered(own, "XBTUSD", 60) == (), "the damage is on record"
    assert released(own, "others", pairs="ADAEUR").series


# --- interruptions


@pytest.mark.parametrize("place", ["content_of", "publish", "sync_folder"])
def test_a_release_that_is_interrupted_leaves_nothing(own: Stores, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(create, place, kill)
        with pytest.raises(Killed):
            released(own)
    assert (names_of(own.settings.home), left_over(own)) == ([], [])
    released(own)


def test_what_a_killed_process_leaves_is_no_release_and_is_swept(own: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(create, "publish", kill)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            released(own)
    (left,) = left_over(own)
    assert list(list_releases(own.settings.home)) == []
    lake = digest_of(own.settings.home / "lake")
    assert own.lake.sweep((own.lake.scratch / left).stat().st_mtime) == 0
    assert own.lake.sweep((own.lake.scratch / left).stat().st_mtime + 1) == 1
    assert left_over(own) == []
    assert digest_of(own.settings.home / "lake") == lake


def test_of_two_at_once_one_makes_the_release(own: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(2)
    found: list[object] = []

    def together(scratch: Path, target: Path) -> None:
        barrier.wait(60)
        folder.publish(scratch, target)

    def make() -> None:
        try:
            found.append(released(own).digest)
        except InvalidRequest as error:
            found.append(str(error))

    monkeypatch.setattr(create, "publish", together)
    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(isinstance(one, str) and one.startswith("there is a release a already") for one in found) == [
        False,
        True,
    ]
    assert failed_claims(at(own)) == []
    assert left_over(own) == []


# --- other places


def test_a_backup_has_the_releases_and_shares_their_files(own: Stores, tmp_path: Path) -> None:
    certificate = released(own)
    for links in (True, False):
        saved = tmp_path / f"saved-{links}"
        done = back_up(own, saved, links=links)
        assert digest_of(saved / "releases") == digest_of(own.settings.home / "releases")
        inodes = {path.stat().st_ino for path in saved.rglob("*.parquet")}
        assert len(inodes) + len(certificate.files) == len(list(saved.rglob("*.parquet")))
        assert done.files > 2 * len(certificate.files)
        there = settings_of(tmp_path / f"there-{links}")
        restore(there, saved, RunContext("restore", NOW), links=links)
        assert failed_claims(there.home / "releases" / "a") == []


def test_two_releases_of_one_name_are_never_mixed(own: Stores, tmp_path: Path) -> None:
    home, saved = own.settings.home, tmp_path / "saved"
    released(own, intervals="60")
    back_up(own, saved)
    delete(home, "a")
    released(own, pairs="ADAEUR")
    there = settings_of(Path(shutil.copytree(home / "releases", tmp_path / "there" / "releases")).parent)
    before = digest_of(there.home)
    with pytest.raises(InvalidRequest, match="the home has another release a than the backup"):
        restore(there, saved, RunContext("restore", NOW))
    assert digest_of(there.home) == before
    back_up(own, saved)
    assert digest_of(saved / "releases") == digest_of(home / "releases")
    restore(there, saved, RunContext("restore", NOW))
    assert failed_claims(there.home / "releases" / "a") == []


def test_with_the_lake_in_a_bucket_a_release_is_a_copy_in_the_home(
    bucket: Bucket, home: Path, shelf: Shelf, tmp_path: Path
) -> None:
    with opened(settings_of(tmp_path / "folder")) as stores:
        run(stores, shelf.q1, shelf.minutes, intervals="1,60,1440")
        expected = released(stores).digest
    with opened(settings_of(home, kraken_lake_url=bucket.url)) as stores:
        run(stores, shelf.minutes, intervals="1,60,1440")
        run(stores, shelf.q1, intervals="1,60,1440", run_id="run-two")
        assert released(stores).digest == expected
        assert failed_claims(at(stores)) == []
        back_up(stores, tmp_path / "saved")
    assert failed_claims(tmp_path / "saved" / "releases" / "a") == []
