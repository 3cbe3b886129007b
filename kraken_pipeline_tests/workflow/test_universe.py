"""The pairs of a day: from candles alone, and from the lists that runs against the demo exchange keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

import kraken_pipeline
from kraken_pipeline import pairs
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import Fault, Refusal
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import World
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import TIME
from kraken_pipeline.market.listed_state import ListedState, PairChange
from kraken_pipeline.market.moment import iso
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.exchange_state import pair_list_records
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.backfill.exchange import connected
from kraken_pipeline.workflow.universe import as_json, universe
from kraken_pipeline.workflow.verify import catalog_repair
from kraken_pipeline_tests.support.exchanges import at
from kraken_pipeline_tests.support.homes import Q1, START, Shelf, rows_of, run, settings_of

pytestmark = pytest.mark.slow

BEGIN = 1_700_006_400 // DAY * DAY
XBT = Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 28_000.0, 0.006, 30, BEGIN)
MATIC = Listing("MATICUSD", "MATICUSD", "MATIC/USD", "MATIC", "ZUSD", 4, 0.6, 50.0, 30, BEGIN)
POL = Listing("POLUSD", "POLUSD", "POL/USD", "POL", "ZUSD", 4, 0.6, 50.0, 30, BEGIN)
NOW = BEGIN + 9 * DAY
OURS = ("XBTUSD", "MATICUSD", "POLUSD")


@pytest.fixture
def kept(home: Path, shelf: Shelf) -> Iterator[Stores]:
    """A home with a quarter of candles, and no list."""
    with opened(settings_of(home)) as stores:
        run(stores, shelf.q1, intervals="60")
        yield stores


def fetched(home: Path, *listings: Listing, faults: tuple[Fault, ...] = ()) -> None:
    """Fetches a list with these pairs; the time of the last one is set back by two days, so that this one is newer."""
    with DemoExchange(World(7, listings, NOW), faults=faults) as exchange, at(exchange, home) as stores:
        with stores.catalog.write() as connection:
            lists = pair_list_records.lists_of(connection)
            changes = pair_list_records.changes_of(connection)
            for table in (schema.pair_lists, schema.pair_changes):
                connection.execute(sa.delete(table))
            moments = {one.listed_at: one.listed_at - 2 * DAY for one in lists}
            for one in lists:
                states = states_at(changes, one.listed_at)
                pair_list_records.record_list(connection, states, (), moments[one.listed_at])
        with connected(stores) as asked:
            asked.listed_pairs(is_fresh=True)


def states_at(changes: list[PairChange], moment: int) -> dict[str, ListedState]:
    states = {change.pair: change.after for change in changes if change.listed_at <= moment}
    return {pair: state for pair, state in states.items() if state is not None}


def told(home: Path) -> list[tuple[str, str | None, str | None]]:
    """Each change on record: its pair, and the status before and after."""

    def status(state: ListedState | None) -> str | None:
        return None if state is None else state.status

    with opened(settings_of(home)) as stores, stores.catalog.read() as connection:
        changes = pair_list_records.changes_of(connection)
    return [(change.pair, status(change.before), status(change.after)) for change in changes]


def of_ours(frame: pl.DataFrame) -> dict[str, str]:
    rows = frame.filter(pl.col("pair").is_in(OURS)).select("pair", "status").rows()
    return {row[0]: row[1] for row in rows}


def test_a_home_without_lists_is_answered_with_its_candles(kept: Stores) -> None:
    found = pairs(at=date(2023, 3, 28), settings=kept.settings)
    assert found.schema == {
        **dict.fromkeys(("pair", "base", "quote", "status"), pl.String()),
        **dict.fromkeys(("listed_from", "listed_until"), TIME),
        **dict.fromkeys(("from_evidence", "until_evidence", "notes"), pl.String()),
    }
    ours = found.filter(pl.col("pair") == "XBTUSD").row(0, named=True)
    assert (ours["base"], ours["quote"], ours["status"]) == ("XBT", "USD", "unknown")
    assert ours["listed_from"] == datetime.fromtimestamp(START, UTC)
    assert ours["listed_until"] == datetime.fromtimestamp(Q1.end, UTC)
    assert ours["from_evidence"] == "first candle stored (60 min)"
    assert ours["until_evidence"] == "last candle stored (60 min)"
    assert ours["notes"] == "XBT is called BTC elsewhere"


@pytest.mark.parametrize(
    "day",
    [
        "2023-03-28",
        "2023-03-28T23:59",
        date(2023, 3, 28),
        datetime.fromisoformat("2023-03-28T05:00"),
        datetime(2023, 3, 28, tzinfo=UTC),
    ],
)
def test_a_day_is_given_in_any_form(kept: Stores, day: str | date) -> None:
    assert "XBTUSD" in set(pairs(at=day, settings=kept.settings)["pair"])


def test_days_for_which_nothing_proves_a_pair_have_none(kept: Stores) -> None:
    for day in ("2012-01-01", START - 1, Q1.end):
        assert "XBTUSD" not in set(pairs(at=day, settings=kept.settings)["pair"])
    assert pairs(at="2012-01-01", settings=kept.settings).is_empty()
    assert set(pairs(at="2018-10-16", settings=kept.settings)["quote"]) == {"USD", "EUR", "CAD", "XBT", "ETH"}


def test_what_is_no_day_is_refused(kept: Stores) -> None:
    with pytest.raises(InvalidRequest, match="is not a time"):
        pairs(at="yesterday", settings=kept.settings)


def test_pairs_is_a_name_of_the_package() -> None:
    assert kraken_pipeline.pairs is pairs
    assert "pairs" in kraken_pipeline.__all__


def test_every_list_that_is_fetched_is_kept_as_what_changed(home: Path) -> None:
    fetched(home, XBT, MATIC)
    assert told(home) == [("MATICUSD", None, "online"), ("XBTUSD", None, "online")]
    fetched(home, XBT, MATIC)
    assert len(told(home)) == 2
    fetched(home, replace(XBT, status="cancel_only"), POL)
    changed = [("MATICUSD", "online", None), ("POLUSD", None, "online"), ("XBTUSD", "online", "cancel_only")]
    assert told(home)[2:] == changed
    everything = of_ours(pairs(settings=settings_of(home)))
    assert everything == {"MATICUSD": "absent", "POLUSD": "online", "XBTUSD": "cancel_only"}


def test_a_pair_of_today_is_in_the_universe_of_today_and_of_no_day_before_it_was_seen(home: Path) -> None:
    fetched(home, XBT, MATIC)
    fetched(home, XBT, POL)
    with opened(settings_of(home)) as stores:
        with stores.catalog.read() as connection:
            first, last = pair_list_records.lists_of(connection)
        assert last.listed_at - first.seen_at >= DAY
        pol, matic = (
            next(listed for listed in universe(stores) if listed.pair.name == name) for name in ("POLUSD", "MATICUSD")
        )
    assert (pol.listed_from, pol.listed_until) == (last.listed_at, None)
    assert matic.listed_until == first.seen_at
    assert matic.until_evidence == f"in the list of {iso(first.seen_at)}; the list of {iso(last.listed_at)} lacks it"
    assert pol.notes == matic.notes == "MATICUSD became POLUSD (date unknown)"
    assert of_ours(pairs(at=first.listed_at, settings=settings_of(home))) == {"MATICUSD": "online", "XBTUSD": "online"}
    assert of_ours(pairs(at=last.listed_at + DAY, settings=settings_of(home))) == {
        "POLUSD": "online",
        "XBTUSD": "online",
    }
    assert as_json(pol)["listed_until"] is None
    assert as_json(pol)["listed_from"] == iso(last.listed_at)


def test_a_list_without_a_class_of_pairs_that_was_refused_is_not_kept(home: Path) -> None:
    refused = Fault(Refusal("EGeneral:Permission denied"), endpoint="AssetPairs", after=1, times=None)
    fetched(home, XBT, MATIC, faults=(refused,))
    assert told(home) == []


def test_the_same_list_costs_no_further_row_and_no_list_a_run_reads_twice(home: Path) -> None:
    with DemoExchange(World(7, (XBT, MATIC), NOW)) as exchange, at(exchange, home) as stores:
        for _ in range(3):
            with connected(stores) as asked:
                asked.listed_pairs()
                asked.listed_pairs()
        assert len(rows_of(stores, schema.pair_lists, "listed_at")) == 1
        assert len(rows_of(stores, schema.pair_changes, "pair")) == 2


def test_damaged_rows_of_lists_are_named_and_removed(home: Path) -> None:
    fetched(home, XBT, MATIC)
    with opened(settings_of(home)) as stores:
        with stores.catalog.write() as connection:
            connection.execute(sa.update(schema.pair_lists).values(pairs=7))
            is_xbt = schema.pair_changes.c.pair == "XBTUSD"
            connection.execute(sa.update(schema.pair_changes).where(is_xbt).values(pair="XBTUSE"))
        details = [damage.detail for damage in catalog_repair.broken_rows(stores)]
        assert details == [f"has 1 rows of {table} that differ from what was written" for table in TABLES]
        catalog_repair.mend_catalog(stores, NOW)
        assert catalog_repair.broken_rows(stores) == []
    assert told(home) == [("MATICUSD", None, "online")]


TABLES = ("pair_lists", "pair_changes")


def test_the_table_of_the_known_past_is_part_of_the_universe(home: Path) -> None:
    with opened(settings_of(home)) as stores:
        known = universe(stores)
        assert {listed.pair.name for listed in known} >= {"TRIBEUSD", "XTZUSD", "MATICUSD", "LTCXBT", "XBTLTC"}
        reversed_ = next(listed for listed in known if listed.pair.name == "XBTLTC")
        assert (reversed_.pair.base, reversed_.pair.quote) == ("XBT", "LTC")
        day = reversed_.listed_until
        assert day is not None
        on_that_day = universe(stores, Span(day // DAY * DAY, day // DAY * DAY + DAY))
        assert {"LTCXBT", "XBTLTC"} <= {listed.pair.name for listed in on_that_day}
