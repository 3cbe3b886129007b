from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.health import Verdict, check_health, worst
from kraken_pipeline_tests.homes import Shelf, digest_of, run, settings_of, write_lines
from kraken_pipeline_tests.samples import csv_row


def verdicts(home: Path, **more: object) -> dict[str, tuple[Verdict, str]]:
    return {check.name: (check.verdict, check.sentence) for check in check_health(settings_of(home, **more))}


def test_a_fresh_home_is_well(tmp_path: Path) -> None:
    found = verdicts(tmp_path / "home")
    assert list(found) == ["lake", "space", "catalog", "series"]
    assert {verdict for verdict, _ in found.values()} <= {Verdict.OK, Verdict.WARNING}  # the disk may be full
    assert found["series"] == (Verdict.OK, "0 series, none with more than 100 gaps")
    assert "is at migration" in found["catalog"][1]


def test_series_with_more_gaps_than_the_threshold_are_a_warning(home: Path, tmp_path: Path) -> None:
    with opened(settings_of(home)) as stores:
        for number in range(3):
            start = 1_680_000_000 // 3_600 * 3_600 + number * 360_000
            rows = [csv_row(start).strip(), csv_row(start + 7_200).strip()]
            run(stores, write_lines(tmp_path / str(number) / "XBTUSD_60.csv", rows), intervals="60")
    found = verdicts(home, kraken_max_gaps=2)
    assert found["series"] == (Verdict.WARNING, "1 of 1 series have more than 2 gaps: XBTUSD 60")
    assert verdicts(home, kraken_max_gaps=3)["series"][0] is Verdict.OK


def test_a_home_that_cannot_be_made_has_failed_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    found = verdicts(tmp_path / "home")
    assert list(found) == ["stores"]
    verdict, sentence = found["stores"]
    assert verdict is Verdict.FAILED
    assert "KRAKEN_PIPELINE_HOME" in sentence
    assert "name a folder that can" in sentence


def test_a_broken_catalog_has_failed_with_a_sentence(home: Path) -> None:
    (home / "catalog.sqlite").write_bytes(b"this is no database, whatever its name says" * 100)
    (check,) = check_health(settings_of(home))
    assert check.verdict is Verdict.FAILED
    assert "the catalog at sqlite" in check.sentence


def test_a_newer_catalog_is_not_touched(home: Path) -> None:
    with opened(settings_of(home)) as stores, stores.catalog.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    (check,) = check_health(settings_of(home))
    assert check.verdict is Verdict.FAILED
    assert "install the version that wrote it, or a newer one" in check.sentence


def test_looking_changes_nothing(stores: Stores, home: Path, shelf: Shelf) -> None:
    run(stores, shelf.q1, resampling=False)
    stores.close()
    before = digest_of(home)
    check_health(settings_of(home))
    assert digest_of(home) == before


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([Verdict.OK], Verdict.OK),
        ([Verdict.OK, Verdict.FAILED, Verdict.WARNING], Verdict.FAILED),
        ([Verdict.WARNING, Verdict.OK], Verdict.WARNING),
        ([], Verdict.OK),
    ],
)
def test_the_worst_verdict_is_the_verdict(found: list[Verdict], expected: Verdict) -> None:
    from kraken_pipeline.workflow.health import Check

    assert worst([Check("a", verdict, "") for verdict in found]) is expected
