from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.overlaps import Overlaps
from kraken_pipeline.coverage.ranges import Span

SPANS = st.builds(lambda start, length: Span(start, start + length), st.integers(0, 60), st.integers(1, 30))


@given(st.lists(SPANS), SPANS)
def test_what_overlaps_a_span_is_found_in_the_order_in_which_it_was_given(spans: list[Span], wanted: Span) -> None:
    items = list(enumerate(spans))
    index = Overlaps(items, lambda item: item[1])
    assert index.over(wanted) == [item for item in items if item[1].overlaps(wanted)]


def test_many_spans_are_not_looked_at_one_by_one_for_each() -> None:
    looked = 0

    class Counted:
        def __init__(self, start: int) -> None:
            self.start, self.end = start, start + 1

        def overlaps(self, other: Span) -> bool:
            nonlocal looked
            looked += 1
            return self.start < other.end and other.start < self.end

    index = Overlaps(range(0, 20_000, 2), Counted)  # type: ignore[arg-type]
    assert sum(len(index.over(Span(start, start + 2))) for start in range(0, 20_000, 2)) == 10_000
    assert looked == 10_000
