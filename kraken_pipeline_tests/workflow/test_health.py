from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from kraken_pipeline.market.moment import iso
from kraken_pipeline.storage.breaker import Breaker
from kraken_pipeline.storage.counters import Counters
from kraken_pipeline.storage.limiter import Limiter
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.exchange import breaker_of
from kraken_pipeline.workflow.check import Verdict, worst
from kraken_pipeline.workflow.health import check_health
from kraken_pipeline_tests.homes import Shelf, digest_of, run, settings_of, write_lines
from kraken_pipeline_tests.samples import csv_row


def verdicts(home: Path, **more: object) -> dict[str, tuple[Verdict, str]]:
    return {check.name: (check.verdict, check.sentence) for check in check_health(settings_of(home, **more))}


def test_a_fresh_home_is_well(tmp_path: Path) -> None:
    found = verdicts(tmp_path / "home")
    assert list(found) == ["lake", "space", "catalog", "series", "exchange", "requests", "cache"]
    assert {verdict for verdict, _ in found.values()} <= {Verdict.OK, Verdict.WARNING}  # the disk may be full
    assert found["series"] == (Verdict.OK, "0 series, none with more than 100 gaps")
    assert "is at migration" in found["catalog"][1]
    assert found["exchange"] == (Verdict.OK, "the circuit is closed")
    assert found["requests"] == (Verdict.OK, "0 requests in the last day, 0 failed, 0 were retries")
    assert found["cache"] == (Verdict.OK, "no lookups in the last day")


def test_series_with_more_gaps_than_the_threshold_are_a_warning(home: Path, tmp_path: Path) -> None:
    with opened(settings_of(home)) as stores:
        for number in range(3):
            start = 1_680_000_000 // 3_600 * 3_600 + number * 360_000
            rows = [csv_row(start).strip(), csv_row(start + 7_200).strip()]
            run(stores, write_lines(tmp_path / str(number) / "XBTUSD_60.csv", rows), intervals="60")
    found = verdicts(home, kraken_max_gaps=2)
    assert found["series"] == (Verdict.WARNING, "1 of 1 series have more than 2 gaps: XBTUSD 60")
    assert verdicts(home, kraken_max_gaps=3)["series"][0] is Verdict.OK


# --- the exchange


def failed(stores: Stores, times: int) -> None:
    """So many requests failed one after another."""
    breaker = breaker_of(stores)
    for _ in range(times):
        breaker.failed()


def test_an_open_circuit_is_a_warning_until_somebody_got_an_answer(stores: Stores, home: Path) -> None:
    failed(stores, 4)
    assert verdicts(home)["exchange"] == (Verdict.OK, "the circuit is closed")
    failed(stores, 1)
    retry_at = breaker_of(stores).record().retry_at
    assert retry_at is not None
    again = f"one process tries again at {iso(int(retry_at))}"
    assert verdicts(home)["exchange"] == (
        Verdict.WARNING,
        f"the circuit is OPEN after 5 failures in a row; {again}",
    )
    # The time is over as far as a home with a shorter one is concerned.
    verdict, sentence = verdicts(home, kraken_breaker_seconds=1e-9)["exchange"]
    assert verdict is Verdict.WARNING
    assert sentence.startswith("the circuit is HALF_OPEN after 5 failures in a row; one process tries again at ")
    prober = Breaker(stores.catalog, seconds=1e-9)
    prober.admit()
    prober.succeeded()
    assert verdicts(home)["exchange"] == (Verdict.OK, "the circuit is closed")


def test_after_complaints_it_says_how_much_slower_the_exchange_is_asked(stores: Stores, home: Path) -> None:
    Limiter(stores.catalog, 50).throttled("OHLC")
    verdict, sentence = verdicts(home)["exchange"]
    assert verdict is Verdict.OK
    assert re.fullmatch(r"the circuit is closed, asked \d\.\d times slower since it complained", sentence)


def count(stores: Stores, **counts: int) -> None:
    """Counts `api_errors` as `api.errors`, and so on."""
    counters = Counters(stores.catalog)
    for name, number in counts.items():
        counters.add(name.replace("_", "."), number)
    counters.flush()


@pytest.mark.parametrize(
    ("requests", "errors", "expected"),
    [
        (100, 10, Verdict.OK),
        (100, 11, Verdict.WARNING),
        (20, 3, Verdict.WARNING),
        (19, 19, Verdict.OK),  # of so few no rate is judged
    ],
)
def test_more_than_a_tenth_of_errors_is_a_warning(
    stores: Stores, home: Path, requests: int, errors: int, expected: Verdict
) -> None:
    count(stores, api_requests=requests, api_errors=errors, api_retries=2)
    verdict, sentence = verdicts(home)["requests"]
    assert verdict is expected
    assert sentence.startswith(f"{requests} requests in the last day, {errors} failed, 2 were retries")
    assert ("more than 10% fail" in sentence) is (expected is Verdict.WARNING)


@pytest.mark.parametrize(
    ("hits", "misses", "expected"),
    [
        (50, 50, Verdict.OK),
        (49, 51, Verdict.WARNING),
        (0, 20, Verdict.WARNING),
        (0, 19, Verdict.OK),
    ],
)
def test_less_than_half_of_hits_is_a_warning(
    stores: Stores, home: Path, hits: int, misses: int, expected: Verdict
) -> None:
    count(stores, cache_hits=hits, cache_misses=misses)
    verdict, sentence = verdicts(home)["cache"]
    assert verdict is expected
    assert sentence.startswith(f"{hits}% of 100 lookups" if hits else f"0% of {misses} lookups")
    assert ("below 50%" in sentence) is (expected is Verdict.WARNING)


def test_what_was_counted_more_than_a_day_ago_no_longer_matters(stores: Stores, home: Path) -> None:
    long_ago = Counters(stores.catalog, clock=lambda: time.time() - 90_000)
    for name in ("api.requests", "api.errors", "cache.misses"):
        long_ago.add(name, 1_000)
    long_ago.flush()
    found = verdicts(home)
    assert {found[name][0] for name in ("requests", "cache")} == {Verdict.OK}
    assert found["cache"][1] == "no lookups in the last day"


# --- a home that is not as it should be


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
    from kraken_pipeline.workflow.check import Check

    assert worst([Check("a", verdict, "") for verdict in found]) is expected
