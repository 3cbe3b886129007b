"""ZIPs in ZIPs, gzip, what is packed in a way that is not read, and what would unpack to too much."""

from __future__ import annotations

import contextlib
import gzip
import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.errors import UnreadableArchive
from kraken_pipeline.kraken import packing
from kraken_pipeline.kraken.archive import ArchiveReader, container_digest
from kraken_pipeline.kraken.discovery import Discovery, discover
from kraken_pipeline.kraken.edges import first_time, last_time
from kraken_pipeline.kraken.packing import ORDINARY, Gunzipped, piece_of
from kraken_pipeline_tests.support.samples import at, csv_row, write_zip

T = at("2023-04-01")
ROWS = csv_row(T) + csv_row(T + 3_600)
QUARTER = "Kraken_OHLCVT_Q2_2023.zip"


def zipped(members: dict[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def marked(content: bytes, *, flag: int = 0, method: int | None = None, only: str = "") -> bytes:
    """A ZIP whose members say that they are encrypted, or compressed in another way."""
    data = bytearray(content)
    for signature, at_flag, at_name in ((b"PK\x03\x04", 6, 30), (b"PK\x01\x02", 8, 46)):
        place = data.find(signature)
        while place >= 0:
            if data[place + at_name :].startswith(only.encode()):
                data[place + at_flag] |= flag
                if method is not None:
                    data[place + at_flag + 2] = method
            place = data.find(signature, place + 4)
    return bytes(data)


def contents(found: Discovery) -> dict[str, bytes]:
    with ArchiveReader() as reader:
        read = {}
        for file in found.files:
            with reader.open(file) as stream:
                read[file.location] = stream.read()
        return read


def reasons(found: Discovery) -> dict[str, str]:
    return {each.name: each.reason for each in found.broken}


# --- ZIPs in ZIPs


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_of_krakens_zips_is_read_through_and_each_keeps_its_promise(tmp_path: Path, method: int) -> None:
    inner = zipped({"XBTUSD_60.csv": ROWS, "ADAUSD_60.csv": ROWS * 900})
    outer = tmp_path / "drive-download-20240101T000000Z-001.zip"
    outer.write_bytes(zipped({f"some/{QUARTER}": inner, "XRPUSD_60.csv": ROWS, "notes.txt": "x"}, method))
    found = discover([tmp_path])
    assert contents(found) == {
        f"{outer}/some/{QUARTER}:XBTUSD_60.csv": ROWS.encode(),
        f"{outer}/some/{QUARTER}:ADAUSD_60.csv": (ROWS * 900).encode(),
        f"{outer}:XRPUSD_60.csv": ROWS.encode(),
    }
    first, loose = found.files[0].container, found.files[2].container
    assert first is not None
    assert loose is not None
    assert (first.release is not None, first.name, first.parts) == (True, QUARTER, (outer,))
    assert (loose.release, loose.seen) == (None, first.seen)
    (tmp_path / QUARTER).write_bytes(inner)
    plain = discover([tmp_path / QUARTER]).files[0].container
    assert plain is not None
    assert container_digest(first, {}) == container_digest(plain, {}), "it is the same release wherever it lies"
    assert found.broken == []


def test_zips_in_zips_are_read_so_deep_and_no_deeper(tmp_path: Path) -> None:
    content: bytes = zipped({"XBTUSD_60.csv": ROWS})
    for depth, method in enumerate((0, 8, 0)):
        content = zipped({f"{depth}.zip": content}, zipfile.ZIP_DEFLATED if method else zipfile.ZIP_STORED)
        (tmp_path / "all.zip").write_bytes(content)
        found = discover([tmp_path])
        if depth < packing.MOST_DEPTH:
            assert [len(each) for each in contents(found).values()] == [len(ROWS)]
        else:
            assert found.files == []
            assert reasons(found) == {
                "1.zip": "it is 3 ZIPs deep; unpack the outermost one, and name the folder of its files"
            }


def test_a_damaged_zip_in_a_zip_fails_alone(tmp_path: Path) -> None:
    sound, damaged = zipped({"XBTUSD_60.csv": ROWS}), zipped({"ADAUSD_60.csv": ROWS})[:40]
    (tmp_path / "all.zip").write_bytes(zipped({"a.zip": damaged, "b.zip": sound, "c.zip.part00": b"PK", "d.7z": b"7z"}))
    found = discover([tmp_path])
    assert [file.name for file in found.files] == ["b.zip:XBTUSD_60.csv"]
    told = reasons(found)
    assert told["a.zip"].startswith("a.zip is not a ZIP that can be read")
    assert told["all.zip:c.zip.part00"].startswith("it is a part of an archive; unpack all of its parts")
    assert told["all.zip:d.7z"].startswith("it is a 7z archive, which cannot be read")
    assert contents(found)


# --- gzip


def test_a_csv_in_gzip_is_read_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "XBTUSD_60.csv.gz").write_bytes(gzip.compress(ROWS.encode() * 5_000))
    write_zip(tmp_path / "some.zip", {"ADAUSD_60.csv.gz": gzip.compress(ROWS.encode())})
    found = discover([tmp_path])
    assert {file.pair.name: file.size for file in found.files}["XBTUSD"] == len(ROWS) * 5_000
    assert sorted(map(len, contents(found).values())) == [len(ROWS), len(ROWS) * 5_000]
    with ArchiveReader() as reader:
        edges = {(first_time(file, reader, T * 2), last_time(file, reader, T * 2)) for file in found.files}
    assert edges == {(T, T + 3_600)}


def test_a_damaged_gzip_and_one_that_unpacks_to_too_much_are_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "XBTUSD_60.csv.gz"
    path.write_bytes(gzip.compress(ROWS.encode() * 5_000)[:-100])
    with pytest.raises(UnreadableArchive, match=r"XBTUSD_60\.csv\.gz cannot be read .* download it again"):
        contents(discover([tmp_path]))
    monkeypatch.setattr(packing, "FREE_BYTES", 1 << 20)
    path.write_bytes(gzip.compress(b"\0" * (4 << 20)))
    with pytest.raises(UnreadableArchive, match="unpacks to more than 1,048,576 bytes out of"):
        contents(discover([tmp_path]))


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_at_all_in_gzip_raise_nothing_but_unreadable_archive(data: bytes, is_sound: bool) -> None:
    packed = gzip.compress(data) if is_sound else data
    with io.BufferedReader(Gunzipped(io.BytesIO(packed), "x", len(packed), ORDINARY)) as stream:
        if is_sound:
            assert stream.read() == data
            return
        with contextlib.suppress(UnreadableArchive):
            stream.read()


# --- what is not read


def test_encrypted_members_are_named_with_what_to_do(tmp_path: Path) -> None:
    both = zipped({"XBTUSD_60.csv": ROWS, "ADAUSD_60.csv": ROWS})
    (tmp_path / "a.zip").write_bytes(marked(both, flag=1))
    (tmp_path / "b.zip").write_bytes(marked(both, flag=1, only="ADAUSD"))
    found = discover([tmp_path])
    why = "it is encrypted; unpack it with its password, and name the folder of its files"
    assert reasons(found) == {"a.zip": why, "b.zip:ADAUSD_60.csv": why}
    assert [file.name for file in found.files] == ["b.zip:XBTUSD_60.csv"]


@pytest.mark.parametrize(("method", "name"), [(9, "Deflate64"), (93, "Zstandard"), (98, "PPMd"), (77, "method 77")])
def test_members_that_are_compressed_in_another_way_are_named_with_what_to_do(
    tmp_path: Path, method: int, name: str
) -> None:
    (tmp_path / QUARTER).write_bytes(marked(zipped({"XBTUSD_60.csv": ROWS}), method=method))
    found = discover([tmp_path])
    assert found.files == []
    assert reasons(found)[QUARTER].startswith(f"it is compressed with {name}, which cannot be read; unpack it")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Kraken_OHLCVT.7z", "a 7z archive"),
        ("x.rar", "a RAR archive"),
        ("x.tar.gz", "a gzip file without a CSV"),
        ("x.tgz", "a tar archive"),
    ],
)
def test_what_is_packed_with_something_else_is_named_with_what_to_do(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    why = f"it is {kind}, which cannot be read; unpack it, and name the folder of its files"
    assert reasons(discover([tmp_path])) == {name: why}


def test_a_7z_archive_under_the_name_of_a_zip_is_told_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / QUARTER).write_bytes(b"7z\xbc\xaf\x27\x1c" + b"\0" * 100)
    assert reasons(discover([tmp_path]))[QUARTER].startswith("it is a 7z archive in spite of its name")


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (
            ["x.zip.001", "x.zip.002"],
            "it was split into 2 pieces, which cannot be read; join them: cat x.zip.[0-9]*",
        ),
        (["x.zip.001", "x.zip.003"], "it was split, and pieces are missing (.002); put all pieces into one folder"),
        (["x.zip.002"], "it was split, and pieces are missing (.001); put all pieces into one folder"),
        (["x.z01", "x.z02", "x.zip"], "it was split into 3 pieces, which cannot be read; join them: zip -s 0 x.zip"),
        (["x.z02"], "it was split, and pieces are missing (.z01, .zip); put all pieces into one folder, and join them"),
    ],
)
def test_a_zip_in_pieces_says_which_is_missing_or_how_to_join_them(tmp_path: Path, names: list[str], why: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"PK\x03\x04")
    found = discover([tmp_path])
    (reason,) = reasons(found).values()
    assert reason.startswith(why)
    assert (found.files, found.skipped) == ([], [])


@given(st.text("xz.ip0123456789", max_size=14))
def test_a_piece_is_of_a_zip_and_has_a_number(name: str) -> None:
    found = piece_of(Path(name or "x"))
    assert found is None or (found[0].name.lower().endswith(".zip") and found[0].name != name)


def test_a_member_that_says_it_unpacks_to_too_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "FREE_BYTES", 1 << 20)
    (tmp_path / QUARTER).write_bytes(zipped({"XBTUSD_60.csv": b"\0" * (4 << 20), "ADAUSD_60.csv": ROWS}))
    (tmp_path / "all.zip").write_bytes(zipped({"b.zip": b"\0" * (4 << 20)}))
    found = discover([tmp_path])
    assert [file.name for file in found.files] == [f"{QUARTER}:ADAUSD_60.csv"]
    told = reasons(found)
    assert told[f"{QUARTER}:XBTUSD_60.csv"].startswith("it unpacks to more than 1,048,576 bytes out of")
    assert told["b.zip"].startswith("b.zip: it unpacks to more than 1,048,576 bytes out of")
