"""What the catalog holds of proof: doubts, refutations, contradictions, suspicions, counts, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import ContradictionState, SuspicionState
from kraken_pipeline.storage.records import evidence_records, gap_records, proof_records, publications, refutations
from kraken_pipeline.storage.records.gap_records import Attempt
from kraken_pipeline.storage.records.proof_records import ContradictionRecord, SuspicionRecord
from kraken_pipeline.storage.stores import Stores

HOURS, DAYS = Series("XBTUSD", Interval.H1), Series("XBTUSD", Interval.D1)
OTHER = Series("ADAEUR", Interval.H1)
VALUES = (1.5, 2.5, 0.5, 2.0, 12.25, 7)


@pytest.fixture
def connection(stores: Stores) -> Iterator[sa.Connection]:
    with stores.catalog.write() as connection:
        yield connection


# --- doubts


def test_doubts_that_touch_are_one_and_go_once_they_are_reconciled(connection: sa.Connection) -> None:
    publications.mark_for_reconciliation(
        connection, [(HOURS, Span(0, 10)), (DAYS, Span(0, 10)), (OTHER, Span(5, 6))], 1
    )
    publications.mark_for_reconciliation(connection, [(HOURS, Span(10, 20)), (HOURS, Span(30, 40))], 2)
    found = publications.marked(connection)
    assert {pair: [(each.series, each.span) for each in doubts] for pair, doubts in found.items()} == {
        "ADAEUR": [(OTHER, Span(5, 6))],
        "XBTUSD": [(HOURS, Span(0, 20)), (HOURS, Span(30, 40)), (DAYS, Span(0, 10))],
    }
    assert set(publications.marked(connection, {"XBTUSD"})) == {"XBTUSD"}
    publications.reconciled(connection, found["XBTUSD"], 3)
    assert set(publications.marked(connection)) == {"ADAEUR"}


def test_what_is_reconciled_is_to_be_searched_and_gone_when_it_was(connection: sa.Connection) -> None:
    publications.mark_for_reconciliation(connection, [(HOURS, Span(0, 10)), (OTHER, Span(5, 6))], 1)
    assert publications.to_search(connection) == {}
    for pair in ("XBTUSD", "ADAEUR"):
        publications.reconciled(connection, publications.marked(connection, {pair})[pair], 2)
    publications.mark_for_reconciliation(connection, [(HOURS, Span(10, 20))], 3)
    publications.reconciled(connection, publications.marked(connection)["XBTUSD"], 4)
    found = publications.to_search(connection)
    assert {pair: [(each.series, each.span) for each in checks] for pair, checks in found.items()} == {
        "ADAEUR": [(OTHER, Span(5, 6))],
        "XBTUSD": [(HOURS, Span(0, 20))],
    }
    assert set(publications.to_search(connection, {"XBTUSD"})) == {"XBTUSD"}
    publications.searched(connection, found["XBTUSD"])
    assert set(publications.to_search(connection)) == {"ADAEUR"}
    assert publications.marked(connection) == {}


def test_what_is_doubted_again_while_it_is_compared_stays_doubted(connection: sa.Connection) -> None:
    publications.mark_for_reconciliation(connection, [(HOURS, Span(0, 10))], 1)
    (before,) = publications.marked(connection)["XBTUSD"]
    publications.mark_for_reconciliation(connection, [(HOURS, Span(5, 15))], 2)
    publications.reconciled(connection, [before], 3)
    assert [each.span for each in publications.marked(connection)["XBTUSD"]] == [Span(0, 15)]


# --- refutations


def grant(connection: sa.Connection, start: int, end: int, source: str = "TRADES") -> None:
    evidence_records.grant(connection, [(HOURS, [Grant(Span(start, end), source, 100, 1)], None)])


def test_only_what_comes_after_a_refutation_answers_for_it(connection: sa.Connection) -> None:
    grant(connection, 0, 50)
    refutations.refute(connection, [(HOURS, Span(10, 30), VALUES, "a test"), (DAYS, Span(0, 40), None, "another")], 7)
    (each,) = refutations.active(connection, {"XBTUSD"})[HOURS]
    assert (each.span, each.refuted, each.reason, each.made_at) == (Span(10, 30), VALUES, "a test", 7)
    assert refutations.active(connection)[DAYS][0].refuted is None
    assert refutations.active(connection, {"ADAEUR"}) == {}
    assert refutations.answered_since(connection, each) == []
    # It begins where the one before ends, and would prolong that: then nobody could tell that it came later.
    grant(connection, 50, 60)
    grant(connection, 5, 20, "OHLC")
    assert refutations.answered_since(connection, each) == [(Span(5, 20), "OHLC")]
    refutations.end(connection, [each.id], 9)
    assert set(refutations.active(connection)) == {DAYS}
    assert refutations.of_series(connection, HOURS, Span(0, 11)) == [(each, 9)]
    assert refutations.of_series(connection, HOURS, Span(30, 40)) == []
    grant(connection, 60, 70)
    spans = [(known.span.start, known.span.end) for known in evidence_records.grants_of(connection, [HOURS])[HOURS]]
    assert spans == [(0, 50), (50, 70), (5, 20)]


def test_an_attempt_at_what_is_refuted_is_kept_by_itself(connection: sa.Connection) -> None:
    def answered(start: int, end: int) -> None:
        gap_records.add_attempts(connection, {HOURS: [Attempt(Span(start, end), "TRADES", None, None, 1)]}, "run")

    answered(0, 10)
    answered(10, 20)
    refutations.refute(connection, [(HOURS, Span(5, 15), None, "a test")], 7)
    answered(20, 30)
    first, second = gap_records.attempts_of(connection, None)[HOURS]
    assert (first.span, second.span) == (Span(0, 20), Span(20, 30))
    (each,) = refutations.active(connection)[HOURS]
    assert first.id <= each.after_attempt < second.id


# --- proofs


def test_what_is_proven_of_a_series_takes_the_place_of_what_was(connection: sa.Connection) -> None:
    other = Proven((Span(1, 2),))
    proof_records.replace_proofs(connection, {HOURS: Proven((Span(0, 10), Span(20, 30))), OTHER: other})
    hours = Proven((Span(5, 30), Span(40, 50)), (Span(5, 8), Span(12, 15), Span(40, 50)))
    proof_records.replace_proofs(connection, {HOURS: hours, DAYS: Proven()})
    assert proof_records.proofs_of(connection) == {HOURS: hours, OTHER: other}
    assert proof_records.proofs_of(connection, ["ADAEUR"]) == {OTHER: other}
    assert proof_records.proven(connection) == {HOURS: hours.reconciled, OTHER: other.reconciled}


def test_what_a_second_source_confirmed_is_known_until_it_changes(connection: sa.Connection) -> None:
    proof_records.confirm(connection, {HOURS: (Span(0, 10),), OTHER: (Span(1, 2),), DAYS: ()})
    proof_records.confirm(connection, {HOURS: (Span(5, 20), Span(40, 50))})
    assert proof_records.confirmed(connection) == {HOURS: (Span(0, 20), Span(40, 50)), OTHER: (Span(1, 2),)}
    proof_records.unconfirm(connection, {HOURS: (Span(15, 45),), DAYS: (Span(0, 99),)})
    assert proof_records.confirmed(connection, ["XBTUSD"]) == {HOURS: (Span(0, 15), Span(45, 50))}


def contradiction(start: int = 0, state: ContradictionState = ContradictionState.REFUTED) -> ContradictionRecord:
    return ContradictionRecord(
        "XBTUSD",
        Interval.H1,
        Interval.D1,
        Span(start, start + 10),
        "fine",
        VALUES,
        None,
        7,
        0,
        None,
        state,
        "why",
        1,
        2,
    )


def test_a_contradiction_is_one_record_whatever_becomes_of_it(connection: sa.Connection) -> None:
    first, second = contradiction(), replace(contradiction(20), outlier=Interval.H1)
    proof_records.keep_contradictions(connection, [second, first])
    assert proof_records.contradictions_of(connection) == [first, second]
    settled = proof_records.settled(first, 9)
    proof_records.keep_contradictions(connection, [settled])
    assert proof_records.contradictions_of(connection, ["XBTUSD"]) == [settled, second]
    assert proof_records.contradictions_of(connection, ["ADAEUR"]) == []
    assert proof_records.contradictions_of(connection, None, [ContradictionState.SETTLED]) == [settled]
    assert (settled.state, settled.changed_at, settled.values) == (ContradictionState.SETTLED, 9, first.values)


def test_a_suspicion_is_judged_or_dispelled(connection: sa.Connection) -> None:
    lone = SuspicionRecord("XBTUSD", Interval.H1, Span(20, 30), "why", SuspicionState.UNPROVEN, 1, 1)
    outage = replace(lone, pair=None, span=Span(0, 10))
    proof_records.suspect(connection, [lone, outage])
    first, second = proof_records.suspicions_of(connection)
    assert (replace(first, id=0), replace(second, id=0)) == (outage, lone)
    assert proof_records.suspicions_of(connection, ["ADAEUR"]) == [first]
    proof_records.judge(connection, [first.id], SuspicionState.EXCHANGE_DOWN, 9)
    proof_records.dispel(connection, [second.id])
    assert proof_records.suspicions_of(connection) == [replace(first, state=SuspicionState.EXCHANGE_DOWN, changed_at=9)]


def test_what_rests_on_doubted_quiet_time_is_not_proven_until_it_was_checked(connection: sa.Connection) -> None:
    hour, day = Interval.H1.seconds, Interval.D1.seconds
    days, others = Series("XBTUSD", Interval.D1), Series("ADAEUR", Interval.H1)
    whole = (Span(0, 4 * day),)
    proven = {HOURS: Proven(whole, whole), days: Proven(whole), others: Proven(whole)}
    proof_records.replace_proofs(connection, proven)
    long = SuspicionRecord("XBTUSD", Interval.H1, Span(day - hour, day), "why", SuspicionState.UNPROVEN, 1, 1)
    outage = replace(long, pair=None, span=Span(2 * day, 2 * day + hour))
    proof_records.suspect(connection, [long, outage])
    found = proof_records.proven(connection)
    assert found[HOURS] == (Span(0, day - hour), Span(day, 2 * day), Span(2 * day + hour, 4 * day))
    # A day that is made of such hours lacks the same, and all pairs are doubted in an outage.
    assert found[days] == (Span(day, 2 * day), Span(3 * day, 4 * day))
    assert found[others] == (Span(0, 2 * day), Span(2 * day + hour, 4 * day))
    assert proof_records.proofs_of(connection)[HOURS].verified == found[HOURS]
    assert proof_records.added_up(connection) == proven
    for each, state in zip(
        proof_records.suspicions_of(connection),
        (SuspicionState.PROVEN_QUIET, SuspicionState.EXCHANGE_DOWN),
        strict=True,
    ):
        proof_records.judge(connection, [each.id], state, 9)
    assert proof_records.proofs_of(connection) == proven


def test_counts_of_a_year_take_the_place_of_what_was(connection: sa.Connection) -> None:
    months = [*range(12)]
    proof_records.keep_counts(connection, {HOURS: {2022: months, 2023: months}})
    proof_records.keep_counts(connection, {HOURS: {2023: [0] * 12, 2024: [1] * 12}})
    assert proof_records.counts_of(connection, ["XBTUSD"]) == {HOURS: {2022: months, 2024: [1] * 12}}
