"""A small round of the chaos campaign: no command ends in a traceback, no claim is false, nothing is missing unsaid."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos.campaign import planned, table, tried
from chaos.claims import false_claims
from chaos.playground import Playground, playground
from chaos.tries import KINDS
from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import evidence_records
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.support.homes import NOW, START

pytestmark = pytest.mark.slow

SLOW = ("kill-ingest", "kill-repair", "full-disk-ingest", "full-disk-repair")
"""They start programs, which the whole campaign does."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    with playground(tmp_path_factory.mktemp("chaos")) as made:
        yield made


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SLOW])
def test_after_damage_of_any_kind_every_claim_is_true_and_what_is_missing_is_said(
    ground: Playground, kind: str
) -> None:
    result = tried(ground, 1, kind, 2)
    assert not result.outcome.is_failure, f"{result.name}\n{result.outcome}"
    assert kind in table([result])


def test_what_nobody_answered_for_is_found_to_be_a_false_claim(ground: Playground) -> None:
    ground.prepare()
    ground.reset()
    five_minutes = Series("XBTUSD", Interval.M5)
    with opened(ground.settings()) as stores:
        assert false_claims(stores) == []
        with stores.catalog.write() as connection:
            nobody = Grant(Span(START, NOW), "OHLC", NOW, 5)
            evidence_records.grant(connection, [(five_minutes, [nobody], None)])
            evidence_records.renew(connection, {five_minutes: stores.lake.times(five_minutes)})
        found = false_claims(stores)
    assert [claim.partition(" at ")[0] for claim in found] == ["XBTUSD 5 is covered"]


def test_a_seed_decides_the_order_and_each_kind_comes_early(ground: Playground) -> None:
    order = planned(ground, 7)
    assert order == planned(ground, 7) != planned(ground, 8)
    flips = [kind for kind, _ in order if kind.startswith("flip")]
    assert len(flips) == 300
    assert {kind for kind, _ in order[: len(order) // 4]} == set(KINDS)
