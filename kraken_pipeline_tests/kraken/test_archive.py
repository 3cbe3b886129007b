from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.errors import InvalidRequest, UnreadableArchive
from kraken_pipeline.kraken.archive import ArchiveFile, ArchiveReader, container_digest, open_zip
from kraken_pipeline.kraken.discovery import Discovery, classify, discover
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.quarter import Quarter
from kraken_pipeline.market.series import Series
from kraken_pipeline_tests.support.samples import at, csv_row, write_zip

ROWS = csv_row(at("2023-04-01")) + csv_row(at("2023-04-01T01:00"))
LITTER = "a file of the operating system or of a desktop"
STRAY = "the name is neither PAIR_MINUTES.csv (candles) nor PAIR.csv (trades)"


def names(files: list[ArchiveFile]) -> list[str]:
    return [file.name for file in files]


# --- names


@pytest.mark.parametrize(
    ("name", "kind", "pair", "interval"),
    [
        ("XBTUSD_60.csv", Kind.OHLCVT, "XBTUSD", Interval.H1),
        ("master_q4/XBTUSD_720.csv", Kind.OHLCVT, "XBTUSD", Interval.H12),
        ("1INCHUSD_1.csv", Kind.OHLCVT, "1INCHUSD", Interval.M1),
        ("AAPLxUSD_1440.csv", Kind.OHLCVT, "AAPLxUSD", Interval.D1),
        ("XBTUSD_60.CSV", Kind.OHLCVT, "XBTUSD", Interval.H1),
        ("folder\\XBTUSD_60.csv", Kind.OHLCVT, "XBTUSD", Interval.H1),
        ("BRANDNEW_60.csv", Kind.OHLCVT, "BRANDNEW", Interval.H1),
        ("DOGUSD_60.csv", Kind.OHLCVT, "DOGUSD", Interval.H1),
        ("adausd_60.csv", Kind.OHLCVT, "ADAUSD", Interval.H1),
        ("btcusd.csv", Kind.TRADES, "XBTUSD", Interval.M1),
        ("XBTUSD_60.csv.gz", Kind.OHLCVT, "XBTUSD", Interval.H1),
        ("XBTUSD_60 (1).csv", Kind.OHLCVT, "XBTUSD", Interval.H1),
        ("XBTUSD_60 - Copy.csv", Kind.OHLCVT, "XBTUSD", Interval.H1),
        ("XBTUSD_60.1.csv", Kind.OHLCVT, "XBTUSD", Interval.H1),
        ("BCHEUR-copy.csv", Kind.TRADES, "BCHEUR", Interval.M1),
        ("BCHEUR.csv", Kind.TRADES, "BCHEUR", Interval.M1),
        ("TimeAndSales_Combined/XBTUSD.csv", Kind.TRADES, "XBTUSD", Interval.M1),
    ],
)
def test_a_name_says_kind_pair_and_interval(name: str, kind: Kind, pair: str, interval: Interval) -> None:
    described = classify(name)
    assert not isinstance(described, str)
    assert (described[0], described[1].name, described[2]) == (kind, pair, interval)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("__MACOSX/._XBTUSD_60.csv", LITTER),
        ("__MACOSX/XBTUSD_60.csv", LITTER),
        ("master_q4/.DS_Store", LITTER),
        ("._XBTUSD_60.csv", LITTER),
        ("~XBTUSD_60.csv", LITTER),
        ("Thumbs.db", LITTER),
        ("FACTS.md", "not a CSV file"),
        ("rest_AssetPairs.json", "not a CSV file"),
        ("XBTUSD_60.csv.bak", "not a CSV file"),
        ("", "not a CSV file"),
        ("BTCUSD_Daily_OHLC.csv", STRAY),
        ("summary.csv", STRAY),
        ("USD.csv", STRAY),
        ("XBT-USD_60.csv", STRAY),
        ("XBTUSD_60 (a).csv", STRAY),
        ("XBTUSD_060.csv", STRAY),
        ("XBTUSD_0.csv", STRAY),
        ("XBTUSD_\N{ARABIC-INDIC DIGIT SIX}0.csv", STRAY),
    ],
)
def test_another_name_is_passed_over_with_a_reason(name: str, reason: str) -> None:
    assert classify(name) == reason


@pytest.mark.parametrize("name", ["XBTUSD_61.csv", "XBTUSD_2023.csv", "XBTUSD_60000.csv"])
def test_an_interval_that_does_not_exist_is_named_in_the_reason(name: str) -> None:
    reason = classify(name)
    assert isinstance(reason, str)
    assert "does not exist; allowed are 1, 5, 15, 30, 60" in reason


@pytest.mark.parametrize("name", ["a.csv", "x_60.csv", f"{'X' * 40}.csv", f"{'X' * 40}_60.csv", "...csv", "..60.csv"])
def test_what_cannot_be_a_pair_is_named_in_the_reason(name: str) -> None:
    assert isinstance(classify(name), str)


@given(st.one_of(st.text(max_size=30), st.text("XBTUSDx_.0169/", max_size=12).map(lambda stem: f"{stem}.csv")))
def test_any_name_is_described_or_passed_over(name: str) -> None:
    described = classify(name)
    if isinstance(described, str):
        assert described
    else:
        assert described[0] is Kind.OHLCVT or described[1].quote


# --- folders


def test_a_folder_is_searched_in_all_depths_and_in_order(tmp_path: Path) -> None:
    for name in ("b/XBTUSD_60.csv", "a/ADAUSD_1440.csv", "BCHEUR.csv", "a/deep/XBTUSD_1.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(ROWS, encoding="utf-8")
    found = discover([tmp_path])
    assert names(found.files) == ["BCHEUR.csv", "ADAUSD_1440.csv", "XBTUSD_1.csv", "XBTUSD_60.csv"]
    file = found.files[-1]
    assert (file.member, file.container, file.size) == (None, None, len(ROWS))
    assert file.location == str(tmp_path / "b" / "XBTUSD_60.csv")
    assert file.series == Series("XBTUSD", Interval.H1)
    assert not found.skipped
    assert not found.waiting
    assert not found.broken


def test_a_file_can_be_named_directly_and_is_found_once_however_often_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "XBTUSD_60.csv"
    path.write_text(ROWS, encoding="utf-8")
    assert names(discover([path]).files) == ["XBTUSD_60.csv"]
    assert names(discover([tmp_path, path, tmp_path]).files) == ["XBTUSD_60.csv"]


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="there is no file or folder"):
        discover([tmp_path / "absent"])


def test_what_was_ingested_before_is_passed_over_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "ingested" / "q2").mkdir(parents=True)
    (tmp_path / "ingested" / "q2" / "XBTUSD_60.csv").write_text(ROWS, encoding="utf-8")
    (tmp_path / "ADAUSD_60.csv").write_text(ROWS, encoding="utf-8")
    found = discover([tmp_path])
    assert names(found.files) == ["ADAUSD_60.csv"]
    assert not found.skipped


def test_other_files_are_passed_over_with_a_reason(tmp_path: Path) -> None:
    for name in ("FACTS.md", "rest_Time.json", "BTCUSD_Daily_OHLC.csv", ".DS_Store", "a.csv"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    found = discover([tmp_path])
    assert {each.name: each.reason for each in found.skipped} == {
        "FACTS.md": "not a CSV file",
        "rest_Time.json": "not a CSV file",
        "BTCUSD_Daily_OHLC.csv": STRAY,
        ".DS_Store": LITTER,
        "a.csv": "'a' is not the name of a pair; write a name such as XBTUSD, ADAEUR or XBT/USD",
    }
    assert not found.files


# --- what still grows

NOW = at("2024-01-01")


def aged(path: Path, seconds: float, content: str = ROWS) -> Path:
    """A file that was last changed so many seconds before now."""
    path.write_text(content, encoding="utf-8")
    os.utime(path, (NOW - seconds, NOW - seconds))
    return path


def test_a_file_that_was_changed_a_moment_ago_waits(tmp_path: Path) -> None:
    aged(tmp_path / "XBTUSD_60.csv", 3)
    aged(tmp_path / "ADAUSD_60.csv", 10)
    found = discover([tmp_path], settle_seconds=5, clock=lambda: NOW)
    assert names(found.files) == ["ADAUSD_60.csv"]
    assert [(each.name, each.reason) for each in found.waiting] == [
        ("XBTUSD_60.csv", "changed less than 5 s ago: it may still grow")
    ]


def test_a_file_from_the_future_is_a_wrong_clock_and_does_not_wait(tmp_path: Path) -> None:
    aged(tmp_path / "XBTUSD_60.csv", -1_000)
    slept: list[float] = []
    found = discover([tmp_path], settle_seconds=5, patience=True, clock=lambda: NOW, sleep=slept.append)
    assert names(found.files) == ["XBTUSD_60.csv"]
    assert slept == []


def test_with_patience_it_waits_once_until_the_youngest_has_settled(tmp_path: Path) -> None:
    aged(tmp_path / "XBTUSD_60.csv", 3)
    aged(tmp_path / "ADAUSD_60.csv", 4)
    now, slept = [float(NOW)], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    found = discover([tmp_path], settle_seconds=5, patience=True, clock=lambda: now[0], sleep=sleep)
    assert slept == [2.0]
    assert names(found.files) == ["ADAUSD_60.csv", "XBTUSD_60.csv"]
    assert not found.waiting


def test_a_file_that_changes_while_it_is_waited_for_goes_on_waiting(tmp_path: Path) -> None:
    path = aged(tmp_path / "XBTUSD_60.csv", 3)
    now = [float(NOW)]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        os.utime(path, (now[0], now[0]))

    found = discover([tmp_path], settle_seconds=5, patience=True, clock=lambda: now[0], sleep=sleep)
    assert [each.name for each in found.waiting] == ["XBTUSD_60.csv"]


def test_a_file_that_is_moved_away_in_the_meantime_is_no_error(tmp_path: Path) -> None:
    path = aged(tmp_path / "XBTUSD_60.csv", 3)
    found = discover([tmp_path], settle_seconds=5, patience=True, clock=lambda: NOW, sleep=lambda _: path.unlink())
    assert found == Discovery()


def test_an_archive_waits_for_all_of_its_parts(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "Kraken_OHLCVT_Full_2026Q2.zip", {"XBTUSD_60.csv": ROWS})
    for number, part in enumerate(split(whole, 2)):
        os.utime(part, (NOW - 100 * (1 - number), NOW - 100 * (1 - number)))
    found = discover([tmp_path], settle_seconds=5, clock=lambda: NOW)
    assert not found.files
    assert {each.name for each in found.waiting} == {
        "Kraken_OHLCVT_Full_2026Q2.zip.part01",
        "Kraken_OHLCVT_Full_2026Q2.zip",
    }


# --- ZIPs


def test_a_complete_archive_is_read_in_place_without_its_litter_and_strays(tmp_path: Path) -> None:
    write_zip(
        tmp_path / "Kraken_OHLCVT.zip",
        {
            "master_q4/": "",
            "master_q4/XBTUSD_60.csv": ROWS,
            "__MACOSX/master_q4/._XBTUSD_60.csv": b"\x00\x05\x16\x07",
            "master_q4/BTCUSD_Daily_OHLC.csv": "Date,Open\n",
            "master_q4/ADAUSD_1440.csv": ROWS,
        },
    )
    found = discover([tmp_path])
    assert names(found.files) == ["Kraken_OHLCVT.zip:XBTUSD_60.csv", "Kraken_OHLCVT.zip:ADAUSD_1440.csv"]
    assert [(each.name, each.reason) for each in found.skipped] == [
        ("Kraken_OHLCVT.zip:__MACOSX/master_q4/._XBTUSD_60.csv", LITTER),
        ("Kraken_OHLCVT.zip:master_q4/BTCUSD_Daily_OHLC.csv", STRAY),
    ]
    file = found.files[0]
    assert (file.path, file.member, file.size) == (tmp_path / "Kraken_OHLCVT.zip", "master_q4/XBTUSD_60.csv", len(ROWS))
    assert file.location == f"{tmp_path / 'Kraken_OHLCVT.zip'}:master_q4/XBTUSD_60.csv"
    assert file.container is not None
    assert file.container.release is not None
    assert file.container.release.end is None


def test_a_quarterly_archive_knows_its_quarter_and_its_manifest_is_no_stray(tmp_path: Path) -> None:
    write_zip(tmp_path / "Kraken_OHLCVT_2026Q2.zip", {"XBTUSD_60.csv": ROWS, "MANIFEST.json": "{}"})
    found = discover([tmp_path])
    (file,) = found.files
    assert file.container is not None
    assert file.container.release is not None
    assert file.container.release.quarter == Quarter(2026, 2)
    assert not found.skipped


def test_a_zip_that_is_no_release_is_read_all_the_same(tmp_path: Path) -> None:
    write_zip(tmp_path / "backup.zip", {"XBTUSD_60.csv": ROWS})
    (file,) = discover([tmp_path]).files
    assert file.container is not None
    assert file.container.release is None


def corrupt(content: bytes) -> dict[str, bytes]:
    return {"no zip at all": b"hello", "empty": b"", "cut short": content[: len(content) // 2]}


@pytest.mark.parametrize("how", corrupt(b""))
def test_a_container_that_cannot_be_opened_is_reported_and_stops_no_other(tmp_path: Path, how: str) -> None:
    good = write_zip(tmp_path / "Kraken_OHLCVT_Q2_2023.zip", {"XBTUSD_60.csv": ROWS * 100})
    (tmp_path / "Kraken_OHLCVT_Q1_2023.zip").write_bytes(corrupt(good.read_bytes())[how])
    found = discover([tmp_path])
    assert names(found.files) == ["Kraken_OHLCVT_Q2_2023.zip:XBTUSD_60.csv"]
    ((broken),) = found.broken
    assert broken.name == "Kraken_OHLCVT_Q1_2023.zip"
    assert broken.reason.startswith("Kraken_OHLCVT_Q1_2023.zip is not a ZIP that can be read")
    assert broken.reason.endswith("download it again")


def read(found: Discovery) -> dict[str, bytes]:
    with ArchiveReader() as reader:
        contents = {}
        for file in found.files:
            with reader.open(file) as stream:
                contents[file.name] = stream.read()
        return contents


def test_files_are_read_whole_from_folders_and_containers(tmp_path: Path) -> None:
    (tmp_path / "ADAUSD_60.csv").write_text(ROWS, encoding="utf-8")
    large = ROWS * 50_000
    write_zip(tmp_path / "Kraken_OHLCVT_Q2_2023.zip", {"XBTUSD_60.csv": large, "XBTUSD_1440.csv": ""})
    assert read(discover([tmp_path])) == {
        "ADAUSD_60.csv": ROWS.encode(),
        "Kraken_OHLCVT_Q2_2023.zip:XBTUSD_60.csv": large.encode(),
        "Kraken_OHLCVT_Q2_2023.zip:XBTUSD_1440.csv": b"",
    }


def test_members_are_read_from_several_threads_at_once(tmp_path: Path) -> None:
    contents = {f"XBTUSD_{interval.value}.csv": csv_row(interval.value) * 20_000 for interval in Interval}
    whole = write_zip(tmp_path / "Kraken_OHLCVT_Full_2026Q2.zip", contents)
    split(whole, 3)
    files = discover([tmp_path]).files
    start = threading.Barrier(len(files))
    with ArchiveReader() as reader, ThreadPoolExecutor(len(files)) as pool:

        def content(file: ArchiveFile) -> bytes:
            start.wait()
            with reader.open(file) as stream:
                return b"".join(iter(lambda: stream.read(10_000), b""))

        assert dict(zip(contents, pool.map(content, files), strict=True)) == {
            name: content.encode() for name, content in contents.items()
        }


def test_damage_within_a_member_is_an_unreadable_archive_and_leaves_the_others_readable(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "Kraken_OHLCVT_Q2_2023.zip", {"ADAUSD_60.csv": ROWS * 1_000, "XBTUSD_60.csv": ROWS})
    content = bytearray(path.read_bytes())
    for offset in range(60, 70):
        content[offset] ^= 0xFF
    path.write_bytes(content)
    damaged, sound = discover([tmp_path]).files
    with ArchiveReader() as reader:
        with pytest.raises(UnreadableArchive, match=r"ADAUSD_60\.csv cannot be read .* download its archive again"):
            reader.open(damaged).read()
        assert reader.open(sound).read() == ROWS.encode()


def sound_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("XBTUSD_60.csv", ROWS * 20)
        archive.writestr("MANIFEST.json", "{}")
    return buffer.getvalue()


SOUND = sound_zip()


@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_anywhere_in_a_zip_raises_nothing_but_unreadable_archive(damage: list[tuple[int, int]]) -> None:
    content = bytearray(SOUND)
    for offset, value in damage:
        content[offset] = value
    with tempfile.TemporaryDirectory() as folder, ArchiveReader() as reader:
        (Path(folder) / "Kraken_OHLCVT_Q2_2023.zip").write_bytes(content)
        for file in discover([Path(folder)]).files:
            assert file.container is not None
            with contextlib.suppress(UnreadableArchive):
                reader.manifest(file.container)
            with contextlib.suppress(UnreadableArchive):
                reader.open(file).read()


# --- parts


def split(whole: Path, count: int) -> list[Path]:
    """The ZIP in parts, in its place."""
    content = whole.read_bytes()
    size = -(-len(content) // count)
    parts = []
    for number in range(count):
        part = whole.with_name(f"{whole.name}.part{number:02d}")
        part.write_bytes(content[number * size : (number + 1) * size])
        parts.append(part)
    whole.unlink()
    return parts


@pytest.mark.parametrize("count", [1, 2, 5, 11])
def test_the_parts_of_an_archive_are_read_as_one(tmp_path: Path, count: int) -> None:
    random = os.urandom(5_000)
    contents: dict[str, str | bytes] = {"XBTUSD_60.csv": random, "ADAUSD_60.csv": ROWS}
    whole = write_zip(tmp_path / "Kraken_OHLCVT_Full_2026Q2.zip", contents)
    digest = hashlib.sha256(whole.read_bytes()).hexdigest()
    parts = split(whole, count)
    found = discover([tmp_path])
    assert list(read(found).values()) == [random, ROWS.encode()]
    container = found.files[0].container
    assert container is not None
    assert container.path == whole
    assert container.parts == tuple(parts)
    assert container.release is not None
    assert container.release.end == at("2026-07-01")
    assert container_digest(container, {}) == digest


@pytest.mark.parametrize(("lost", "names_it"), [(0, "part00"), (1, "part01")])
def test_a_missing_part_is_reported_by_its_name(tmp_path: Path, lost: int, names_it: str) -> None:
    parts = split(write_zip(tmp_path / "Kraken_OHLCVT_Full_2026Q2.zip", {"XBTUSD_60.csv": ROWS}), 3)
    parts[lost].unlink()
    found = discover([tmp_path])
    assert not found.files
    assert [(each.name, each.reason) for each in found.broken] == [
        ("Kraken_OHLCVT_Full_2026Q2.zip", f"missing parts: {names_it}; put all parts into one folder")
    ]


def test_a_missing_last_part_leaves_no_zip(tmp_path: Path) -> None:
    split(write_zip(tmp_path / "Kraken_OHLCVT_Full_2026Q2.zip", {"XBTUSD_60.csv": ROWS}), 3)[-1].unlink()
    (broken,) = discover([tmp_path]).broken
    assert (
        broken.reason
        == "the parts after part01 are missing, or part01 is cut short; put all complete parts into one folder"
    )


def test_a_list_of_sums_tells_which_of_the_last_parts_are_missing(tmp_path: Path) -> None:
    parts = split(write_zip(tmp_path / "Kraken_OHLCVT_Full_2026Q2.zip", {"XBTUSD_60.csv": ROWS}), 4)
    sums = "".join(f"{'0' * 64}  {part.name}\n" for part in parts)
    (tmp_path / "OHLCVT_Full_PARTS_SHA256SUMS.txt").write_text(sums, encoding="utf-8")
    for part in parts[2:]:
        part.unlink()
    (broken,) = discover([tmp_path]).broken
    assert broken.reason == "missing parts: part02, part03; put all parts into one folder"


def test_sums_of_parts_are_checked_where_they_are_known(tmp_path: Path) -> None:
    parts = split(write_zip(tmp_path / "Kraken_OHLCVT_Full_2026Q2.zip", {"XBTUSD_60.csv": ROWS}), 2)
    container = discover([tmp_path]).files[0].container
    assert container is not None
    sums = {part.name: hashlib.sha256(part.read_bytes()).hexdigest() for part in parts}
    assert container_digest(container, sums) == container_digest(container, {})
    wrong = {**sums, parts[1].name: "0" * 64}
    with pytest.raises(UnreadableArchive, match=r"part01 does not match its SHA-256 checksum; download it again"):
        container_digest(container, wrong)


# --- manifests


def manifest_of(folder: Path) -> object:
    container = discover([folder]).files[0].container
    assert container is not None
    with ArchiveReader() as reader:
        found = reader.manifest(container)
        assert reader.manifest(container) is found, "it is read once"
        return found and (found.columns, found.files)


def test_a_manifest_in_the_archive_is_found_in_any_folder_of_it(tmp_path: Path) -> None:
    manifest = json.dumps({"columns": ["timestamp"], "files": 1})
    write_zip(tmp_path / "Kraken_OHLCVT_2026Q2.zip", {"r1/XBTUSD_60.csv": ROWS, "r1/MANIFEST.json": manifest})
    assert manifest_of(tmp_path) == (("timestamp",), 1)


def test_a_manifest_beside_the_parts_is_theirs(tmp_path: Path) -> None:
    split(write_zip(tmp_path / "Kraken_OHLCVT_Full_2026Q2.zip", {"XBTUSD_60.csv": ROWS}), 2)
    (tmp_path / "MANIFEST.json").write_text('{"files": 1}', encoding="utf-8")
    assert manifest_of(tmp_path) == ((), 1)


def test_a_manifest_beside_a_whole_archive_may_be_anothers(tmp_path: Path) -> None:
    write_zip(tmp_path / "Kraken_OHLCVT_Q2_2023.zip", {"XBTUSD_60.csv": ROWS})
    (tmp_path / "MANIFEST.json").write_text('{"files": 9793}', encoding="utf-8")
    assert manifest_of(tmp_path) is None


def test_an_archive_that_holds_fewer_files_than_its_manifest_says_is_unreadable(tmp_path: Path) -> None:
    members = {"XBTUSD_60.csv": ROWS, "odd-name.csv": "", "notes.txt": "", "MANIFEST.json": '{"files": 3}'}
    write_zip(tmp_path / "Kraken_OHLCVT_2026Q2.zip", members)
    with pytest.raises(UnreadableArchive, match=r"has 2 CSV files, but its MANIFEST\.json lists 3"):
        manifest_of(tmp_path)


def test_a_broken_manifest_is_an_unreadable_archive(tmp_path: Path) -> None:
    write_zip(tmp_path / "Kraken_OHLCVT_2026Q2.zip", {"XBTUSD_60.csv": ROWS, "MANIFEST.json": "{"})
    with pytest.raises(UnreadableArchive, match=r"its MANIFEST\.json cannot be read"):
        manifest_of(tmp_path)


def test_a_closed_container_leaves_no_file_open(tmp_path: Path) -> None:
    split(write_zip(tmp_path / "Kraken_OHLCVT_Full_2026Q2.zip", {"XBTUSD_60.csv": ROWS}), 2)
    container = discover([tmp_path]).files[0].container
    assert container is not None
    archive = open_zip(container)
    archive.close()
    opened = {link.resolve() for link in Path("/proc/self/fd").iterdir()}
    assert opened.isdisjoint(container.parts)
