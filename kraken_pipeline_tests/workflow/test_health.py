from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from kraken_pipeline.market.moment import iso
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.exchange_state.breaker import Breaker
from kraken_pipeline.storage.exchange_state.counters import Counters
from kraken_pipeline.storage.exchange_state.limiter import Limiter
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.backfill.circuit import breaker_of
from kraken_pipeline.workflow.health import health
from kraken_pipeline.workflow.health.check import Check, HealthStatus, worst
from kraken_pipeline.workflow.health.health import check_health
from kraken_pipeline_tests.support.homes import (
    LISTED,
    NO_DAEMON,
    OF_DAGSTER,
    Shelf,
    digest_of,
    run,
    settings_of,
    write_lines,
)
from kraken_pipeline_tests.support.samples import csv_row

pytestmark = pytest.mark.slow


def verdicts(home: Path, **more: object) -> dict[str, tuple[HealthStatus, str]]:
    return {
        check.name: (check.verdict, check.sentence)
        for check in check_health(settings_of(home, **more), lambda: NO_DAEMON)
    }


def test_a_fresh_home_is_well(tmp_path: Path) -> None:
    found = verdicts(tmp_path / "home")
    assert list(found) == LISTED
    assert {verdict for name, (verdict, _) in found.items() if name not in ("space", "api")} == {HealthStatus.OK}
    assert found["lake"] == (HealthStatus.OK, f"{tmp_path / 'home' / 'lake'} can be written")
    assert found["outbox"] == (HealthStatus.OK, "nothing is pending for QuestDB")
    assert found["questdb"] == (HealthStatus.OK, "off: KRAKEN_QUESTDB_URL is not set")
    assert found["redis"][1].startswith("off: KRAKEN_CACHE_URL is not set")
    assert found["series"] == (HealthStatus.OK, "0 series, none with more than 100 gaps")
    assert "is at migration" in found["catalog"][1]
    assert found["exchange"] == (HealthStatus.OK, "the circuit is closed")
    assert found["requests"] == (HealthStatus.OK, "0 requests in the last day, 0 failed, 0 were retries")
    assert found["cache"] == (HealthStatus.OK, "no lookups in the last day")


def test_series_with_more_gaps_than_the_threshold_are_a_warning(home: Path, tmp_path: Path) -> None:
    with opened(settings_of(home)) as stores:
        for number in range(3):
            start = 1_680_000_000 // 3_600 * 3_600 + number * 360_000
            rows = [csv_row(start).strip(), csv_row(start + 7_200).strip()]
            run(stores, write_lines(tmp_path / str(number) / "XBTUSD_60.csv", rows), intervals="60")
    found = verdicts(home, kraken_max_gaps=2)
    assert found["series"] == (HealthStatus.WARNING, "1 of 1 series have more than 2 gaps: XBTUSD 60")
    assert verdicts(home, kraken_max_gaps=3)["series"][0] is HealthStatus.OK


# --- the exchange


def failed(stores: Stores, times: int) -> None:
    """So many requests failed one after another."""
    breaker = breaker_of(stores)
    for _ in range(times):
        breaker.failed()


def test_an_open_circuit_is_a_warning_until_somebody_got_an_answer(stores: Stores, home: Path) -> None:
    failed(stores, 4)
    assert verdicts(home)["exchange"] == (HealthStatus.OK, "the circuit is closed")
    failed(stores, 1)
    retry_at = breaker_of(stores).record().retry_at
    assert retry_at is not None
    again = f"one process tries again at {iso(int(retry_at))}"
    assert verdicts(home)["exchange"] == (
        HealthStatus.WARNING,
        f"the circuit is OPEN after 5 failures in a row; {again}",
    )
    # The time is over as far as a home with a shorter one is concerned.
    verdict, sentence = verdicts(home, kraken_breaker_seconds=1e-9)["exchange"]
    assert verdict is HealthStatus.WARNING
    assert sentence.startswith("the circuit is HALF_OPEN after 5 failures in a row; one process tries again at ")
    prober = Breaker(stores.catalog, seconds=1e-9)
    prober.admit()
    prober.succeeded()
    assert verdicts(home)["exchange"] == (HealthStatus.OK, "the circuit is closed")


def test_after_complaints_it_says_how_much_slower_the_exchange_is_asked(stores: Stores, home: Path) -> None:
    Limiter(stores.catalog, 50).throttled("OHLC")
    verdict, sentence = verdicts(home)["exchange"]
    assert verdict is HealthStatus.OK
    assert re.fullmatch(r"the circuit is closed, with requests \d\.\d times slower since its last complaint", sentence)


def count(stores: Stores, **counts: int) -> None:
    """Counts `api_errors` as `api.errors`, and so on."""
    counters = Counters(stores.catalog)
    for name, number in counts.items():
        counters.add(name.replace("_", "."), number)
    counters.flush()


@pytest.mark.parametrize(
    ("requests", "errors", "expected"),
    [
        (100, 10, HealthStatus.OK),
        (100, 11, HealthStatus.WARNING),
        (20, 3, HealthStatus.WARNING),
        (19, 19, HealthStatus.OK),  # of so few no rate is judged
    ],
)
def test_more_than_a_tenth_of_errors_is_a_warning(
    stores: Stores, home: Path, requests: int, errors: int, expected: HealthStatus
) -> None:
    count(stores, api_requests=requests, api_errors=errors, api_retries=2)
    verdict, sentence = verdicts(home)["requests"]
    assert verdict is expected
    assert sentence.startswith(f"{requests} requests in the last day, {errors} failed, 2 were retries")
    assert ("more than 10% fail" in sentence) is (expected is HealthStatus.WARNING)


@pytest.mark.parametrize(
    ("hits", "misses", "expected"),
    [
        (50, 50, HealthStatus.OK),
        (49, 51, HealthStatus.WARNING),
        (0, 20, HealthStatus.WARNING),
        (0, 19, HealthStatus.OK),
    ],
)
def test_less_than_half_of_hits_is_a_warning(
    stores: Stores, home: Path, hits: int, misses: int, expected: HealthStatus
) -> None:
    count(stores, cache_hits=hits, cache_misses=misses)
    verdict, sentence = verdicts(home)["cache"]
    assert verdict is expected
    assert sentence.startswith(f"{hits}% of 100 lookups" if hits else f"0% of {misses} lookups")
    assert ("below 50%" in sentence) is (expected is HealthStatus.WARNING)


def test_what_was_counted_more_than_a_day_ago_no_longer_matters(stores: Stores, home: Path) -> None:
    long_ago = Counters(stores.catalog, clock=lambda: time.time() - 90_000)
    for name in ("api.requests", "api.errors", "cache.misses"):
        long_ago.add(name, 1_000)
    long_ago.flush()
    found = verdicts(home)
    assert {found[name][0] for name in ("requests", "cache")} == {HealthStatus.OK}
    assert found["cache"][1] == "no lookups in the last day"


# --- a home that is not as it should be


def test_a_home_that_cannot_be_made_has_failed_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    found = verdicts(tmp_path / "home")
    for name in ("lake", "catalog"):
        verdict, sentence = found[name]
        assert verdict is HealthStatus.FAILED
        assert "KRAKEN_PIPELINE_HOME" in sentence
        assert "name a folder that can" in sentence
    assert list(found) == LISTED


def test_a_broken_catalog_has_failed_with_a_sentence(home: Path) -> None:
    (home / "catalog.sqlite").write_bytes(b"this is no database, whatever its name says" * 100)
    found = verdicts(home)
    assert found["catalog"][0] is HealthStatus.FAILED
    assert "catalog.sqlite is damaged (file is not a database): kraken-pipeline recover" in found["catalog"][1]
    assert_nothing_is_known_but_of_what_needs_no_catalog(found)


def assert_nothing_is_known_but_of_what_needs_no_catalog(found: dict[str, tuple[HealthStatus, str]]) -> None:
    assert {name: verdict for name, (verdict, _) in found.items() if name != "space"} == {
        **dict.fromkeys(("lake", "folder", "questdb", "redis", "workers", *OF_DAGSTER), HealthStatus.OK),
        "catalog": HealthStatus.FAILED,
        **dict.fromkeys(("files", "series", "outbox", "api", "exchange", "requests", "cache"), HealthStatus.WARNING),
    }
    assert all("\n" not in sentence for _, sentence in found.values())


def test_a_newer_catalog_is_not_touched(home: Path) -> None:
    with opened(settings_of(home)) as stores, stores.catalog.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    found = verdicts(home)
    assert "install the version that wrote it, or a newer one" in found["catalog"][1]
    assert_nothing_is_known_but_of_what_needs_no_catalog(found)


def test_a_table_of_tiers_that_is_none_has_failed_with_its_name(home: Path, tmp_path: Path) -> None:
    found = verdicts(home, kraken_tiers_file=tmp_path / "nowhere.toml")
    assert found["catalog"][0] is HealthStatus.FAILED
    assert "KRAKEN_TIERS_FILE" in found["catalog"][1]
    assert found["lake"][0] is HealthStatus.OK


def test_a_catalog_that_breaks_under_the_look_hides_nothing_else(stores: Stores, home: Path) -> None:
    with stores.catalog.write() as connection:
        connection.execute(sa.text("DROP TABLE publications"))
        connection.execute(sa.text("DROP TABLE breakers"))
    found = verdicts(home)
    assert found["outbox"][0] is HealthStatus.FAILED
    assert "no such table: publications" in found["outbox"][1]
    assert "\n" not in found["outbox"][1]
    assert found["exchange"][0] is HealthStatus.FAILED
    assert {found[name][0] for name in ("lake", "catalog", "series", "questdb", "redis", "requests", "cache")} == {
        HealthStatus.OK
    }
    assert list(found) == LISTED


def test_a_lake_that_cannot_be_written_has_failed_and_hides_nothing(home: Path) -> None:
    (home / "tmp").rmdir()
    (home / "tmp").symlink_to("/proc/self/fdinfo")  # a folder in which nobody can write, root included
    found = verdicts(home)
    assert found["lake"][0] is HealthStatus.FAILED
    assert "KRAKEN_PIPELINE_HOME" in found["lake"][1]
    assert found["lake"][1].endswith("name a folder that can be written")
    assert {found[name][0] for name in ("catalog", "series", "outbox", "exchange")} == {HealthStatus.OK}


def test_little_space_is_a_warning(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOW_SPACE_BYTES", 1 << 60)  # more than any disk has
    verdict, sentence = verdicts(home)["space"]
    assert verdict is HealthStatus.WARNING
    assert re.fullmatch(r"[\d.]+ GiB free: make space before the next large archive", sentence)
    monkeypatch.setattr(health, "LOW_SPACE_BYTES", 0)
    assert verdicts(home)["space"][0] is HealthStatus.OK


def test_looking_changes_nothing_but_whose_turn_it_is_to_ask_the_exchange(
    stores: Stores, home: Path, shelf: Shelf
) -> None:
    run(stores, shelf.q1, resampling=False)

    def everything() -> dict[str, list[tuple[object, ...]]]:
        with stores.catalog.read() as connection:
            tables = [table for table in schema.metadata.sorted_tables if table.name != "limits"]
            return {table.name: [tuple(row) for row in connection.execute(sa.select(table))] for table in tables}

    files, records = digest_of(home), everything()
    assert records["extents"]
    check_health(settings_of(home), lambda: NO_DAEMON)
    assert everything() == records
    assert {**digest_of(home), "catalog.sqlite": ""} == {**files, "catalog.sqlite": ""}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([HealthStatus.OK], HealthStatus.OK),
        ([HealthStatus.OK, HealthStatus.FAILED, HealthStatus.WARNING], HealthStatus.FAILED),
        ([HealthStatus.WARNING, HealthStatus.OK], HealthStatus.WARNING),
        ([], HealthStatus.OK),
    ],
)
def test_the_worst_verdict_is_the_verdict(found: list[HealthStatus], expected: HealthStatus) -> None:
    assert worst([Check("a", verdict, "") for verdict in found]) is expected
