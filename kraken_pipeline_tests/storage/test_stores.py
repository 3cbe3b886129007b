from __future__ import annotations

from pathlib import Path

import pytest

from kraken_pipeline.errors import InvalidSettings, StoreError
from kraken_pipeline.storage.stores import create_stores, opened
from kraken_pipeline_tests.support.homes import settings_of


def test_a_home_is_made_where_there_is_none_and_used_where_there_is_one(tmp_path: Path) -> None:
    for _ in range(2):
        with opened(settings_of(tmp_path / "new" / "home")) as stores:
            assert stores.lake.series() == []
            assert stores.catalog.revision() is not None
    assert {path.name for path in (tmp_path / "new" / "home").iterdir()} >= {"drop", "lake", "locks", "catalog.sqlite"}


def test_a_home_that_cannot_be_written_is_refused_with_the_name_of_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(
        StoreError, match=r"^KRAKEN_PIPELINE_HOME: .* cannot be written .* name a folder that can be written$"
    ):
        create_stores(settings_of(tmp_path / "file"))


def test_a_wrong_table_of_tiers_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="KRAKEN_TIERS_FILE"):
        create_stores(settings_of(tmp_path / "home", kraken_tiers_file=tmp_path / "absent.toml"))
    assert not (tmp_path / "home").exists()
