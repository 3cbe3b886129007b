"""With its catalog on PostgreSQL the pipeline leaves what it leaves with SQLite, also where many work at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.demo.archives import candles_name, write_quarterly_zip
from kraken_pipeline.demo.clock import FixedClock
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.explain.explain import explain
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.withdraw.resolve import resolve
from kraken_pipeline.workflow.withdraw.withdrawal import withdrawal
from kraken_pipeline_tests.support import exchanges
from kraken_pipeline_tests.support.exchanges import SUMMER, asked, at, write_hours
from kraken_pipeline_tests.support.homes import (
    HOURS_AND_DAYS,
    NOW,
    Q1,
    SPRING,
    START,
    Shelf,
    evidence_of,
    files_of,
    lake_of,
    letters,
    rows_of,
    run,
    settings_of,
)
from kraken_pipeline_tests.support.processes import process, result

pytestmark = pytest.mark.slow

DAY = 86_400


def state(stores: Stores) -> dict[str, Any]:
    """What a home holds, without ids, runs and moments."""
    where = ("pair", "interval", "start", "end")
    return {
        **evidence_of(stores),
        # Once more with how often: nothing is granted twice.
        "grants": rows_of(stores, schema.grants, *where, "source", "trades"),
        "gaps": rows_of(stores, schema.gaps, *where, "missing_candles", "route", "required_csv_file", "status"),
        "attempts": rows_of(stores, schema.attempts, *where, "route", "origin", "error"),
        "conflicts": rows_of(stores, schema.conflicts, *where, "candles", "reason"),
        "listings": rows_of(stores, schema.listings, "pair", "delisted_at", "first_trade"),
        "containers": rows_of(stores, schema.containers, "sha256", "name", "kind", "start", "end", "quarter"),
        "lake": lake_of(stores),
        "files": [row for row in files_of(stores) if "SKIPPED" not in row],
        "letters": [(each["pair"], each["line"], each["reason"]) for each in letters(stores)],
    }


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for what, value in expected.items():
        assert found[what] == value, what


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Path:
    """Two quarters, the first with a file that fails and one with bad rows; a loose file and one that is no archive."""
    folder = tmp_path_factory.mktemp("shared")
    garbage = Defect(DefectKind.GARBAGE, "ADAEUR", Interval.H1, release=candles_name(Q1))
    row = Defect(DefectKind.UNREADABLE, "XBTUSD", Interval.D1, START, release=candles_name(Q1))
    write_quarterly_zip(folder, SPRING, Q1, HOURS_AND_DAYS, defects=[garbage, row])
    for path in (shelf.q2, shelf.minutes, shelf.trades):
        (folder / path.name).symlink_to(path)
    (folder / "Kraken_OHLCVT_Q3_2023.zip").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, archives: Path) -> dict[str, Any]:
    """What one run leaves with SQLite."""
    with opened(settings_of(tmp_path_factory.mktemp("sqlite") / "home")) as stores:
        run(stores, archives)
        return state(stores)


@pytest.fixture
def there(postgresql_url: str, tmp_path: Path) -> Iterator[Stores]:
    with opened(settings_of(tmp_path / "home", kraken_catalog_url=postgresql_url)) as stores:
        yield stores


def test_an_ingest_leaves_what_it_leaves_with_sqlite(there: Stores, archives: Path, expected: dict[str, Any]) -> None:
    assert {row[4] for row in expected["files"]} == {"COMPLETED", "FAILED"}
    assert len(expected["letters"]) > 2
    run(there, archives)
    assert_same(state(there), expected)
    assert not (there.settings.home / "catalog.sqlite").exists()
    again = run(there, archives)
    assert again.candles_stored == 0
    assert_same(state(there), expected)


def ingest_all(home: str, url: str, folder: str, run_id: str) -> None:
    with opened(settings_of(Path(home), kraken_catalog_url=url)) as stores:
        run(stores, Path(folder), run_id=run_id)


def test_four_processes_that_ingest_the_same_leave_what_one_does(
    there: Stores, postgresql_url: str, archives: Path, expected: dict[str, Any]
) -> None:
    home = str(there.settings.home)
    with ExitStack() as stack:
        several = [
            stack.enter_context(process(ingest_all, home, postgresql_url, str(archives), f"run-{number}"))
            for number in range(4)
        ]
        for running in several:
            result(running)
    assert_same(state(there), expected)
    with there.catalog.read() as connection:
        left = schema.files.select().where(schema.files.c.status.in_(["PENDING", "INGESTING"]))
        assert connection.execute(left).all() == []
    assert not there.locks.is_any_running()


def test_a_backfill_leaves_what_it_leaves_with_sqlite(postgresql_url: str, tmp_path: Path) -> None:
    hours = write_hours(tmp_path / "archives")
    states, requests = [], []
    for name, url in (("sqlite", None), ("postgresql", postgresql_url)):
        with (
            DemoExchange(SUMMER, clock=FixedClock(exchanges.NOW)) as exchange,
            at(exchange, tmp_path / name, kraken_catalog_url=url) as stores,
        ):
            run(stores, hours, now=exchanges.NOW, intervals="60", api_backfill=False)
            spec = run_spec(intervals="60,240,1440", complete=True)
            done = backfill(stores, spec, RunContext("run-two", exchanges.NOW))
            assert (done.failed, done.gaps) == ((), ())
            states.append(state(stores))
            requests.append(asked(exchange))
    assert_same(states[1], states[0])
    assert {each.partition(" ")[0] for each in requests[0]} >= {"OHLC", "Trades"}
    assert requests[0] == requests[1]


def test_taking_back_and_explaining_leave_and_say_what_they_do_with_sqlite(
    postgresql_url: str, tmp_path: Path, shelf: Shelf
) -> None:
    states, told = [], []
    for name, url in (("sqlite", None), ("postgresql", postgresql_url)):
        with opened(settings_of(tmp_path / name, kraken_catalog_url=url)) as stores:
            run(stores, shelf.q1, shelf.complete, pairs="XBTUSD")
            what = withdrawal(reason="it's wrong", file="Kraken_OHLCVT.zip:XBTUSD_60.csv")
            done = resolve(stores, what, RunContext("resolve-one", NOW + 60))
            found = explain(stores, "XBTUSD", 60, iso(START + DAY), NOW + 120)
            states.append({**state(stores), "withdrawals": rows_of(stores, schema.withdrawals, "interval", "candles")})
            told.append([done.as_json(), found.as_json()])
    assert_same(states[1], states[0])
    assert told[0] == told[1]
    assert told[0][0]["candles"] > 0
