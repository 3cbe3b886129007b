from __future__ import annotations

from dataclasses import replace

import pytest

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.coverage.universe import (
    ABSENT,
    DAY,
    DELISTED,
    UNKNOWN,
    CandleEnds,
    ListedPair,
    PairEvidence,
    listed_pair,
)
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.listed_state import ListedState, PairChange, PairList
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.market.pair_history import EventKind, KnownEvent
from kraken_pipeline_tests.support.samples import at

T = at("2024-05-01")
HOUR = 3_600
POL = Pair("POLUSD", "POL", "USD")
ONLINE = ListedState("POLUSD", "POLUSD", "POL/USD", "POL", "USD", "online", is_tokenized=False)
HALTED = replace(ONLINE, status="cancel_only")
CANDLES = (CandleEnds(Interval.D1, T - 9 * DAY, T - DAY), CandleEnds(Interval.H1, T - 8 * DAY - HOUR, T - 2 * HOUR))


def change(day: float, after: ListedState | None, before: ListedState | None = None) -> PairChange:
    return PairChange("POLUSD", T + int(day * DAY), before, after)


def lists(*days: tuple[float, float]) -> list[PairList]:
    return [PairList(T + int(first * DAY), T + int(last * DAY), 2) for first, last in days]


def event(kind: EventKind, moment: int | None, before: str = "", after: str = "") -> KnownEvent:
    return KnownEvent(kind, before, after, moment, 1.0, "a test")


def window(listed: ListedPair) -> tuple[int | None, int | None]:
    return listed.listed_from, listed.listed_until


def on(listed: ListedPair, day: int) -> bool:
    return listed.is_listed_on(Span(T + day * DAY, T + (day + 1) * DAY))


def test_without_lists_the_candles_prove_what_they_span() -> None:
    listed = listed_pair(PairEvidence(POL, CANDLES), [])
    assert window(listed) == (T - 8 * DAY - HOUR, T - HOUR), "as exactly as any interval shows"
    assert (listed.status, listed.notes) == (UNKNOWN, "")
    assert (listed.from_evidence, listed.until_evidence) == (
        "first candle stored (60 min)",
        "last candle stored (60 min)",
    )
    assert [on(listed, day) for day in (-11, -10, -9, -8, -1, 0, 1)] == [False, False, True, True, True, False, False]


def test_a_candle_that_ends_at_midnight_proves_nothing_of_the_next_day() -> None:
    listed = listed_pair(PairEvidence(POL, [CandleEnds(Interval.H1, T - 2 * HOUR, T - HOUR)]), [])
    assert (on(listed, -1), on(listed, 0)) == (True, False)


def test_what_nothing_is_known_of_is_listed_on_no_day() -> None:
    listed = listed_pair(PairEvidence(POL), [])
    assert (window(listed), listed.status) == ((None, None), UNKNOWN)
    assert (listed.from_evidence, listed.until_evidence) == ("nothing", "nothing")
    assert not on(listed, 0)


def test_a_pair_in_the_newest_list_is_listed_without_end() -> None:
    listed = listed_pair(PairEvidence(POL, CANDLES, changes=[change(1, ONLINE)]), lists((1, 3)))
    assert window(listed) == (T - 8 * DAY - HOUR, None)
    assert (listed.status, listed.until_evidence) == ("online", f"in the list of {iso(T + 3 * DAY)}")
    assert on(listed, 1_000)


def test_the_first_list_with_a_pair_proves_it_where_nothing_earlier_does() -> None:
    listed = listed_pair(PairEvidence(POL, changes=[change(1, ONLINE)]), lists((0, 0), (1, 3)))
    assert (window(listed), listed.from_evidence) == ((T + DAY, None), f"in the list of {iso(T + DAY)}")
    assert (on(listed, 0), on(listed, 1)) == (False, True)


def test_the_first_trade_is_more_exact_than_the_candle_that_contains_it() -> None:
    first_trade = T - 9 * DAY + 7 * HOUR
    listed = listed_pair(PairEvidence(POL, CANDLES[:1], first_trade=first_trade), [])
    assert (listed.listed_from, listed.from_evidence) == (first_trade, "first trade, by the exchange")


@pytest.mark.parametrize(
    ("moment", "expected"),
    [(T - 9 * DAY + HOUR, T - 9 * DAY + HOUR), (T - 20 * DAY, T - 20 * DAY), (T - 8 * DAY, T - 9 * DAY)],
)
def test_a_listing_of_the_known_past_counts_unless_a_candle_contradicts_it(moment: int, expected: int) -> None:
    known = [event(EventKind.LISTING, moment, after="POLUSD")]
    listed = listed_pair(PairEvidence(POL, CANDLES[:1], events=known), [])
    assert listed.listed_from == expected
    assert (listed.from_evidence == "known past: listing, a test") == (moment == expected)


@pytest.mark.parametrize(
    ("moment", "expected"), [(T - HOUR // 2, T - HOUR // 2), (T + 9 * DAY, T + 9 * DAY), (T - DAY, T - HOUR)]
)
def test_a_delisting_of_the_known_past_counts_unless_a_candle_contradicts_it(moment: int, expected: int) -> None:
    known = [event(EventKind.DELISTING, moment, before="POLUSD")]
    listed = listed_pair(PairEvidence(POL, CANDLES, events=known), [])
    assert (listed.listed_until, listed.status) == (expected, DELISTED)
    before = listed_pair(PairEvidence(POL, CANDLES, events=known), [], Span(T - 3 * DAY, T - 2 * DAY))
    assert before.status == UNKNOWN, "of a day before, it says nothing"


def test_a_delisting_alone_proves_its_day() -> None:
    known = [event(EventKind.DELISTING, T + HOUR, before="POLUSD")]
    listed = listed_pair(PairEvidence(POL, events=known), [])
    assert window(listed) == (None, T + HOUR)
    assert [on(listed, day) for day in (-1, 0, 1)] == [False, True, False]


def test_events_without_a_date_prove_nothing() -> None:
    known = [event(EventKind.DELISTING, None, before="POLUSD"), event(EventKind.LISTING, None, after="POLUSD")]
    assert window(listed_pair(PairEvidence(POL, events=known), [])) == (None, None)


def test_a_pair_that_lists_lack_was_listed_until_the_last_list_with_it() -> None:
    gone = [change(1, ONLINE), change(5, None, ONLINE)]
    listed = listed_pair(PairEvidence(POL, CANDLES, changes=gone), lists((1, 1), (2, 4), (5, 5)))
    assert window(listed) == (T - 8 * DAY - HOUR, T + 4 * DAY)
    assert listed.status == ABSENT, "one list may err"
    assert listed.until_evidence == f"in the list of {iso(T + 4 * DAY)}; the list of {iso(T + 5 * DAY)} lacks it"
    assert [on(listed, day) for day in (1, 3, 5)] == [True, True, False]
    listed = listed_pair(PairEvidence(POL, CANDLES, changes=gone), lists((1, 1), (2, 4), (5, 6)))
    assert listed.status == DELISTED, "another one a day later has confirmed it"
    assert listed_pair(PairEvidence(POL, changes=gone, delisted_at=T), lists((1, 1), (5, 5))).status == DELISTED


def test_candles_after_the_last_list_with_a_pair_prove_more() -> None:
    gone = [change(-20, ONLINE), change(-15, None, ONLINE)]
    listed = listed_pair(PairEvidence(POL, CANDLES, changes=gone), lists((-20, -16), (-15, 3)))
    assert window(listed) == (T - 20 * DAY, T - HOUR)


def test_a_pair_that_comes_back_was_absent_in_between() -> None:
    back = [change(1, ONLINE), change(5, None, ONLINE), change(9, HALTED)]
    listed = listed_pair(PairEvidence(POL, changes=back), lists((1, 2), (5, 7), (9, 9)))
    assert listed.absences == (Span(T + 2 * DAY, T + 9 * DAY),)
    assert (window(listed), listed.status) == ((T + DAY, None), "cancel_only")
    assert [on(listed, day) for day in (0, 1, 2, 3, 8, 9)] == [False, True, True, False, False, True]


@pytest.mark.parametrize(
    ("day", "status"), [(0, UNKNOWN), (1, "online"), (4, "online"), (5, "cancel_only"), (8, ABSENT), (9, DELISTED)]
)
def test_the_status_of_a_day_is_that_of_the_newest_list_before_its_end(day: int, status: str) -> None:
    changes = [change(1, ONLINE), change(5, HALTED, ONLINE), change(8.5, None, HALTED)]
    told = lists((1, 4), (5, 8), (8.5, 20))
    listed = listed_pair(PairEvidence(POL, changes=changes), told, Span(T + day * DAY, T + (day + 1) * DAY))
    assert listed.status == status


def test_what_a_run_found_delisted_is_delisted_without_any_list_on_record() -> None:
    listed = listed_pair(PairEvidence(POL, CANDLES, delisted_at=T + DAY), [])
    assert (listed.status, listed.listed_until) == (DELISTED, T - HOUR)
    assert listed.until_evidence == f"last candle stored (60 min); the list of {iso(T + DAY)} lacks it"
    assert listed_pair(PairEvidence(POL, delisted_at=T + DAY), [], Span(T - DAY, T)).status == UNKNOWN


def test_other_names_are_noted() -> None:
    known = [
        event(EventKind.RENAME, None, "MATIC", "POL"),
        event(EventKind.ALIAS, None, "POL", "PLG"),
        event(EventKind.REVERSAL, T, "USDPOL", "POLUSD"),
    ]
    changes = [change(1, ONLINE), change(5, replace(ONLINE, wsname="PLG/USD"), ONLINE), change(6, None)]
    listed = listed_pair(PairEvidence(POL, changes=changes, events=known), lists((1, 2), (5, 5), (6, 6)))
    assert listed.notes.split("; ") == [
        "MATICUSD became POLUSD (date unknown)",
        "POL is called PLG elsewhere",
        "USDPOL was reversed to POLUSD (2024-05-01T00:00:00Z)",
        "wsname POL/USD became PLG/USD in the list of 2024-05-06",
    ]
    assert listed.listed_from == T, "a reversal is the beginning of the later pair"
