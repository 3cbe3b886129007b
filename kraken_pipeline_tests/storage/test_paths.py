from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.storage.paths import spelled, sync_file, sync_folder, written_whole

NAMES = st.text("aAxX%_.-169éÉß/ ", max_size=8)


@pytest.mark.parametrize(
    ("name", "path"),
    [("XBTUSD", "XBTUSD"), ("AAPLxUSD", "AAPL%78USD"), ("1INCHUSD", "1INCHUSD"), ("a/b", "%61%2F%62"), ("é", "%C3%A9")],
)
def test_everything_but_capitals_digits_and_three_signs_is_encoded(name: str, path: str) -> None:
    assert spelled(name) == path


@given(NAMES)
def test_readers_of_hive_layouts_read_the_name_back(name: str) -> None:
    assert unquote(spelled(name)) == name
    assert "/" not in spelled(name)


@given(NAMES, NAMES)
def test_names_stay_apart_where_a_file_system_does_not_tell_case(left: str, right: str) -> None:
    assert (spelled(left).casefold() == spelled(right).casefold()) == (left == right)


def test_files_and_folders_are_made_durable(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x", encoding="utf-8")
    sync_file(path)
    sync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_file(tmp_path / "absent")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x.csv"
    with written_whole(path) as beside:
        beside.write_text("first", encoding="utf-8")
        assert not path.exists()
    with pytest.raises(UnicodeEncodeError), written_whole(path) as beside:
        beside.write_text("a part \udc80", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "first"
    link = tmp_path / "link.csv"
    link.symlink_to(path)
    with written_whole(link) as beside:
        beside.write_text("second", encoding="utf-8")
    assert link.is_symlink()
    assert path.read_text(encoding="utf-8") == "second"
    assert list(path.parent.iterdir()) == [path]
