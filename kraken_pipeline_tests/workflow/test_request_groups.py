"""Requests in groups: what is left of the budget, and what stops the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kraken_pipeline.demo.clock import FixedClock
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import Fault, HttpStatus, SystemState
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import pair_groups
from kraken_pipeline.workflow.backfill.ask import BUDGET_SPENT
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.backfill.groups import groups_to_request, request_group
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.exchanges import NOW, PAIRS, SUMMER, asked, at, copied, write_home, write_hours
from kraken_pipeline_tests.support.homes import evidence_of, lake_of

pytestmark = pytest.mark.slow

SPEC = run_spec(lookback_days=60, budget=40)
MOMENT = RunContext("a-run", NOW)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pair_groups, "LEAST_SECONDS", 0.0)
    return write_home(tmp_path / "first", write_hours(tmp_path / "archives"))


@pytest.fixture
def exchange() -> Iterator[DemoExchange]:
    with DemoExchange(SUMMER, clock=FixedClock(NOW)) as found:
        yield found


@pytest.fixture
def stores(home: Path, tmp_path: Path, exchange: DemoExchange) -> Iterator[Stores]:
    with at(exchange, copied(home, tmp_path / "other")) as found:
        yield found


def test_a_group_whose_share_of_the_budget_is_short_leaves_the_rest_to_the_last_step(
    stores: Stores, home: Path, exchange: DemoExchange
) -> None:
    with DemoExchange(SUMMER, clock=FixedClock(NOW)) as another, at(another, home) as whole:
        done = backfill(whole, SPEC, MOMENT)
        expected = lake_of(whole), evidence_of(whole)
    first, groups = groups_to_request(stores, SPEC, MOMENT)
    assert first.is_prepared
    assert sorted(pair for group in groups for pair in group.pairs) == sorted(PAIRS)
    shares = [group.allowed or 0 for group in groups]
    assert sum(shares) <= 40 - first.outcome.requests
    assert min(shares) > 3, "what the fetches of no pair need is shared too"
    parts = [request_group(stores, SPEC, replace(group, allowed=1), MOMENT) for group in groups]
    assert any(part.is_cut_short for part in parts)
    assert not any(part.is_stopped for part in parts)
    assert not [note for part in parts for note in part.outcome.notes if note.startswith(BUDGET_SPENT)]
    assert lake_of(stores) != expected[0]
    left = backfill(stores, SPEC, MOMENT, [first, *parts])
    assert (lake_of(stores), evidence_of(stores)) == expected
    assert left.requests == len(exchange.requests) <= 40
    assert [outcome.series for outcome in left.filled] == [outcome.series for outcome in done.filled]


def test_groups_that_have_made_all_fetches_leave_none_to_the_last_step(stores: Stores, exchange: DemoExchange) -> None:
    first, groups = groups_to_request(stores, SPEC, MOMENT)
    parts = [request_group(stores, SPEC, group, MOMENT) for group in groups]
    before = asked(exchange)
    done = backfill(stores, SPEC, MOMENT, [first, *parts])
    assert asked(exchange) == before
    assert done.requests == len(before)


def test_a_budget_that_does_not_cover_all_fetches_is_not_shared(stores: Stores) -> None:
    for budget in (4, 5):
        _, groups = groups_to_request(stores, SPEC.model_copy(update={"budget": budget}), MOMENT)
        assert groups == []


def test_an_exchange_that_does_not_answer_a_group_is_not_asked_by_the_last_step(
    stores: Stores, exchange: DemoExchange
) -> None:
    first, groups = groups_to_request(stores, SPEC, MOMENT)
    faults = [
        Fault(SystemState("maintenance"), endpoint="SystemStatus", times=None),
        Fault(HttpStatus(503), endpoint="OHLC", times=None),
    ]
    with (
        DemoExchange(SUMMER, clock=FixedClock(NOW), faults=faults) as down,
        at(down, stores.settings.home) as meanwhile,
    ):
        parts = [request_group(meanwhile, SPEC, group, MOMENT) for group in groups]
    assert all(part.is_stopped for part in parts)
    before = asked(exchange)
    backfill(stores, SPEC, MOMENT, [first, *parts])
    assert asked(exchange) == before
