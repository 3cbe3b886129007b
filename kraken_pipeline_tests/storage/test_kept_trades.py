from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.ranges import Span, normalise
from kraken_pipeline.market.candle import TIME, seconds_in
from kraken_pipeline.market.trade import TOLD_SCHEMA, told
from kraken_pipeline.storage.trades.kept import (
    THE_EXCHANGE,
    KeptTrades,
    TradeSource,
    answered_by,
    claims_text,
    limited,
    merged,
    parsed_claims,
    without_sources,
    without_spans,
)

MINUTE = 60
OLD = TradeSource("old", has_ids=False, release=19_000, length=900)
NEW = TradeSource("new", has_ids=False, release=20_000, length=300)
LOOSE = TradeSource("loose", has_ids=False, length=900)
NUMBERED = TradeSource("numbered", has_ids=True, release=20_454, length=900)
SOURCES = (THE_EXCHANGE, NUMBERED, NEW, OLD, LOOSE)
"""The sources, the best one first."""


def trades(*rows: tuple[int, float, int | None]) -> pl.DataFrame:
    """Trades from their seconds, prices and ids."""
    schema = {"time": pl.Int64(), "price": pl.Float64(), "trade_id": pl.Int64()}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    times = (pl.col("time") * 1_000_000).cast(TIME)
    return told(frame.with_columns(times, pl.lit(1.0).alias("volume"))).select(TOLD_SCHEMA.names())


def rows_of(kept: KeptTrades) -> list[tuple[int, float, int | None, str]]:
    return kept.trades.select(pl.col("time").dt.epoch("s"), "price", "trade_id", "source").rows()


def said(kept: KeptTrades) -> list[tuple[int, int, list[str]]]:
    return [(claim.span.start, claim.span.end, [source.name for source in claim.sources]) for claim in kept.claims]


@st.composite
def accounts(draw: st.DrawFn) -> list[KeptTrades]:
    """What some sources have of ten minutes: those with ids tell of the same trades, and may lack some."""
    found = []
    for number, source in enumerate(draw(st.lists(st.sampled_from(SOURCES), min_size=1, max_size=4, unique=True))):
        bounds = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=2))
        spans = normalise(Span(first * MINUTE, (first + length) * MINUTE) for first, length in bounds)
        if source.has_ids:
            ids = sorted(draw(st.sets(st.integers(0, 19), max_size=8)))
            rows = trades(*((id_ * 30, 1.0 + id_ + number / 10, id_) for id_ in ids))
        else:
            seconds = sorted(draw(st.lists(st.integers(0, 599), max_size=8)))
            rows = trades(*((time, 1.0 + number / 10, None) for time in seconds))
        found.append(answered_by(source, rows, spans))
    return found


def same(one: KeptTrades, other: KeptTrades) -> bool:
    return one.claims == other.claims and one.trades.equals(other.trades)


@given(told=accounts())
def test_what_is_kept_does_not_depend_on_the_order_of_accounts(told: list[KeptTrades]) -> None:
    kept = merged(told)
    for order in permutations(told):
        assert same(merged(order), kept)
        assert same(merged([merged(order[:2]), merged(order[2:])]), kept), "in groups"
    assert same(merged([kept, *told]), kept), "told again"


@given(told=accounts())
def test_each_claim_holds_exactly_what_its_sources_have(told: list[KeptTrades]) -> None:
    kept = merged(told)
    assert kept.claimed == normalise(span for account in told for span in account.claimed)
    by_name = {account.claims[0].sources[0].name: account for account in told}
    for claim in kept.claims:
        here = [name for name, account in by_name.items() if any(claim.span.start in span for span in account.claimed)]
        ranked = [source.name for source in SOURCES if source.name in here]
        with_ids = [name for name in ranked if name in (THE_EXCHANGE.name, NUMBERED.name)]
        assert [source.name for source in claim.sources] == (with_ids or ranked[:1])
        expected: dict[object, tuple[int, float, int | None]] = {}
        for name in reversed(with_ids or ranked[:1]):
            part = limited(by_name[name], (claim.span,))
            for number, row in enumerate(rows_of(part)):
                expected[row[2] if row[2] is not None else (name, number)] = row[:3]
        found = [row[:3] for row in rows_of(limited(kept, (claim.span,)))]
        assert sorted(found) == sorted(expected.values())
    assert seconds_in(kept.trades).is_sorted()


@given(told=accounts(), which=st.integers(0, 3))
def test_a_withdrawn_source_leaves_nothing_and_the_others_told_again_are_as_if_it_had_never_been(
    told: list[KeptTrades], which: int
) -> None:
    gone = told[which % len(told)]
    name = gone.claims[0].sources[0].name
    others = [account for account in told if account is not gone]
    left = without_sources(merged(told), [name])
    assert name not in left.trades["source"].to_list()
    assert all(source.name != name for claim in left.claims for source in claim.sources)
    # What is left is true by itself: each remaining claim is one that the others make, with the same trades.
    whole = merged(others)
    for claim in left.claims:
        names = {source.name for source in claim.sources}
        there = limited(
            merged(account for account in others if account.claims[0].sources[0].name in names), (claim.span,)
        )
        assert rows_of(limited(left, (claim.span,))) == rows_of(there)
    assert same(merged([left, *others]), whole)


def test_equal_trades_of_one_source_are_separate_fills() -> None:
    fills = trades((5, 1.0, None), (5, 1.0, None), (5, 1.0, None))
    account = answered_by(LOOSE, fills, (Span(0, MINUTE),))
    assert merged([account, account]).trades.height == 3


def test_a_source_with_ids_wins_and_only_where_it_answers() -> None:
    loose = answered_by(LOOSE, trades((5, 1.0, None), (65, 2.0, None)), (Span(0, 120),))
    exchange = answered_by(THE_EXCHANGE, trades((6, 1.5, 7), (66, 9.0, 8)), (Span(0, 60),))
    kept = merged([loose, exchange])
    assert rows_of(kept) == [(6, 1.5, 7, "API"), (65, 2.0, None, "loose")]
    assert said(kept) == [(0, 60, ["API"]), (60, 120, ["loose"])]


def test_two_sources_with_ids_make_up_for_each_other() -> None:
    file = answered_by(NUMBERED, trades((5, 1.0, 1), (6, 1.1, 2)), (Span(0, 60),))
    exchange = answered_by(THE_EXCHANGE, trades((6, 1.1, 2), (7, 1.2, 3)), (Span(0, 60),))
    kept = merged([file, exchange])
    assert rows_of(kept) == [(5, 1.0, 1, "numbered"), (6, 1.1, 2, "API"), (7, 1.2, 3, "API")]
    assert said(kept) == [(0, 60, ["API", "numbered"])]
    assert said(without_sources(kept, ["numbered"])) == [(0, 60, ["API"])]
    assert said(without_sources(kept, ["API"])) == [], "the file has lost a trade to the exchange"


def test_a_span_that_is_taken_out_is_claimed_no_more() -> None:
    kept = answered_by(LOOSE, trades((5, 1.0, None), (65, 2.0, None), (125, 3.0, None)), (Span(0, 180),))
    left = without_spans(kept, (Span(60, 120),))
    assert said(left) == [(0, 60, ["loose"]), (120, 180, ["loose"])]
    assert [row[0] for row in rows_of(left)] == [5, 125]


@given(told=accounts())
def test_claims_are_the_same_after_they_were_written_and_read(told: list[KeptTrades]) -> None:
    kept = merged(told)
    assert parsed_claims(claims_text(kept.claims)) == kept.claims


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sources":[],"claims":[[0,60,[0]]]}', '{"sources":1,"claims":[]}'])
def test_text_that_claims_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no claims of trades"):
        parsed_claims(text)


def test_the_best_source_is_numbered_then_the_exchange_then_the_later_release_then_the_longer_file() -> None:
    def ranked(*sources: TradeSource) -> Sequence[TradeSource]:
        return sorted(sources, key=lambda source: source.rank, reverse=True)

    assert ranked(*reversed(SOURCES)) == [*SOURCES]
