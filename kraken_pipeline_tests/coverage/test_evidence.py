from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.evidence import MIXED, CoveredRange, Grant, answered, coverage
from kraken_pipeline.coverage.ranges import Span, Spans
from kraken_pipeline_tests.coverage.models import ENDS, LOOSE_SPANS, SETS, instants, is_a_set, model

GRANTS = st.lists(
    st.tuples(LOOSE_SPANS, st.sampled_from(["CSV", "OHLC", "TRADES"]), st.integers(1, 5), st.integers(0, 100)),
    max_size=5,
).map(lambda parts: [Grant(each, source, at, trades) for spans, source, at, trades in parts for each in spans])


@given(GRANTS, SETS)
def test_covered_is_what_was_granted_and_not_refuted(grants: list[Grant], refuted: Spans) -> None:
    found = coverage(grants, refuted)
    spans = tuple(each.span for each in found)
    assert is_a_set(spans)
    assert spans == model(instants(grant.span for grant in grants) - instants(refuted))


@given(GRANTS, SETS)
def test_a_range_has_the_source_and_the_latest_time_of_the_grants_that_reach_into_it(
    grants: list[Grant], refuted: Spans
) -> None:
    for covered in coverage(grants, refuted):
        behind = [grant for grant in grants if grant.span.overlaps(covered.span)]
        sources = {grant.source for grant in behind}
        assert covered.source == (sources.pop() if len(sources) == 1 else MIXED)
        assert covered.verified_at == max(grant.verified_at for grant in behind)


@given(GRANTS, SETS, st.randoms(use_true_random=False))
def test_the_order_of_grants_does_not_matter(grants: list[Grant], refuted: Spans, chance: random.Random) -> None:
    shuffled = list(grants)
    chance.shuffle(shuffled)
    assert coverage(shuffled, refuted) == coverage(grants, refuted)


def test_nothing_granted_is_nothing_covered() -> None:
    assert coverage([]) == ()
    assert coverage([], (Span(1, 2),)) == ()


def test_a_refutation_splits_a_range_and_each_part_keeps_its_own_source() -> None:
    grants = [Grant(Span(0, 60), "CSV", 10), Grant(Span(50, 100), "OHLC", 20)]
    assert coverage(grants) == (CoveredRange(Span(0, 100), MIXED, 20),)
    assert coverage(grants, (Span(40, 70),)) == (
        CoveredRange(Span(0, 40), "CSV", 10),
        CoveredRange(Span(70, 100), "OHLC", 20),
    )


@given(ENDS, ENDS, SETS)
def test_a_source_answers_for_its_reach_without_what_it_could_not_say(start: int, end: int, unanswered: Spans) -> None:
    assert answered(start, end, unanswered) == model(set(range(start, end)) - instants(unanswered))
