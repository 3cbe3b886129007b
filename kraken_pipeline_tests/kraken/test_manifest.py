from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.errors import UnreadableArchive
from kraken_pipeline.kraken.manifest import ReleaseManifest, parse_manifest, read_sums
from kraken_pipeline_tests.support.samples import at

COLUMNS = ["timestamp", "open", "high", "low", "close", "volume", "trades"]


def parsed(content: object) -> ReleaseManifest:
    return parse_manifest(io.BytesIO(json.dumps(content).encode()), "Kraken_OHLCVT_2026Q2.zip")


def test_a_manifest_says_columns_coverage_and_how_many_files() -> None:
    manifest = parsed(
        {
            "product": "ohlcvt",
            "columns": COLUMNS,
            "has_header": False,
            "coverage": {"start": "2026-04-01", "end": "2026-06-30"},
            "pairs": 1399,
            "files": 9793,
            "rows": 35247327,
        }
    )
    assert list(manifest.columns) == COLUMNS
    assert not manifest.has_header
    assert (manifest.coverage.start, manifest.coverage.end) == (at("2026-04-01"), at("2026-07-01"))
    assert manifest.files == 9793


@pytest.mark.parametrize(
    ("coverage", "start", "end"),
    [
        ({"start": "2026-04-01", "end": "2026-06-30"}, at("2026-04-01"), at("2026-07-01")),
        ({"start": 1775001600, "end": 1782864000}, 1775001600, 1782864000),
        ({"start": "2026-04-01T00:00:00Z", "end": "2026-06-30T23:00:00"}, at("2026-04-01"), at("2026-06-30T23:00")),
        ({"start": "2026-04-01T02:00:00+02:00"}, at("2026-04-01"), None),
        ({}, None, None),
    ],
)
def test_coverage_ends_with_a_day_or_at_a_moment(
    coverage: dict[str, object], start: int | None, end: int | None
) -> None:
    found = parsed({"coverage": coverage}).coverage
    assert (found.start, found.end) == (start, end)


def test_everything_in_a_manifest_is_optional() -> None:
    manifest = parsed({"something": "new"})
    assert manifest == ReleaseManifest()
    assert (manifest.columns, manifest.files) == ((), None)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[]", "object"),
        (b'{"columns": "timestamp"}', "columns"),
        (b'{"has_header": "perhaps"}', "has_header"),
        (b'{"coverage": {"start": "spring"}}', "coverage.start"),
        (b'{"coverage": {"end": "2026-06-31"}}', "coverage.end"),
        (b'{"files": "many"}', "files"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_container_and_the_place(content: bytes, what: str) -> None:
    with pytest.raises(UnreadableArchive) as refusal:
        parse_manifest(io.BytesIO(content), "Kraken_OHLCVT_2026Q2.zip")
    assert str(refusal.value).startswith("Kraken_OHLCVT_2026Q2.zip: its MANIFEST.json cannot be read")
    assert what in str(refusal.value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=12)
    | st.sampled_from(["2026-04-01", "0001-01-01", "9999-12-31", "9999-12-31T23:59:59-01:00"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["columns", "coverage", "start", "end", "files", "has_header"]), inner)
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_a_manifest_or_refused(content: object) -> None:
    try:
        parsed(content)
    except UnreadableArchive:
        return


@pytest.mark.parametrize("moment", ["0001-01-01", "9999-12-31", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59Z"])
def test_the_ends_of_the_calendar_are_moments(moment: str) -> None:
    parsed({"coverage": {"start": moment, "end": moment}})


def test_sums_are_read_as_sha256sum_writes_them_from_every_list_in_the_folder(tmp_path: Path) -> None:
    first, second, third = "a" * 64, "B" * 64, "c" * 64
    (tmp_path / "SHA256SUMS").write_text(
        f"{first}  Kraken_OHLCVT_2026Q2.zip\n{second} *parts/Kraken OHLCVT.zip.part00\r\n# a note\n\nshort  x.zip\n",
        encoding="utf-8",
    )
    (tmp_path / "OHLCVT_Full_PARTS_SHA256SUMS.txt").write_bytes(f"{third}  x.part01\n\xff\xfe\n".encode("latin-1"))
    assert read_sums(tmp_path) == {
        "Kraken_OHLCVT_2026Q2.zip": first,
        "Kraken OHLCVT.zip.part00": second.lower(),
        "x.part01": third,
    }


def test_a_folder_without_sums_has_none(tmp_path: Path) -> None:
    assert read_sums(tmp_path) == {}
