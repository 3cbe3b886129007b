from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.kraken.archive import ArchiveFile, Container
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.states import ContradictionState, FileStatus
from kraken_pipeline.storage.records import (
    evidence_records,
    file_records,
    gap_records,
    proof_records,
    refutations,
    withdrawals,
)
from kraken_pipeline.storage.records.file_records import ContainerRecord
from kraken_pipeline.storage.records.gap_records import Attempt
from kraken_pipeline.storage.records.proof_records import ContradictionRecord
from kraken_pipeline.storage.records.withdrawals import WithdrawalRecord
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline_tests.support.homes import spans

HOUR = 3_600
HOURS, DAYS, MINUTES = (Series("XBTUSD", interval) for interval in (Interval.H1, Interval.D1, Interval.M1))
OTHER = Series("ADAEUR", Interval.H1)
ZIP = Container(Path("/drop/Kraken_OHLCVT_Q2_2023.zip"), (Path("/drop/Kraken_OHLCVT_Q2_2023.zip"),), None)
RELEASE = ContainerRecord("ab", ZIP.name, "OHLCVT", 0, 86_400, "2023Q2", ("XBTUSD_60",))


@pytest.fixture
def connection(stores: Stores) -> Iterator[sa.Connection]:
    with stores.catalog.write() as connection:
        yield connection


def completed(
    connection: sa.Connection,
    path: str,
    sha256: str,
    *,
    member: bool = False,
    status: str = "COMPLETED",
    begin: int = 0,
) -> int:
    container = ZIP if member else None
    file = ArchiveFile(
        ZIP.path if member else Path(path),
        path if member else None,
        Kind.OHLCVT,
        parse_pair("XBTUSD"),
        Interval.H1,
        100,
        container,
    )
    (file_id,) = file_records.enlist(connection, [(file, "ab" if member else None, "stamp")], "one", 1).values()
    values = {"first_time": begin, "last_time": begin + 9 * HOUR, "start": begin, "end": begin + 9 * HOUR}
    result = {"id": file_id, "status": FileStatus(status), "sha256": sha256, **values}
    file_records.finish(connection, [result])
    return file_id


def statuses(connection: sa.Connection) -> list[tuple[str, str | None]]:
    query = sa.select(schema.files.c.status, schema.files.c.reason).order_by(schema.files.c.id)
    return [(status, reason) for status, reason in connection.execute(query)]


def granted(connection: sa.Connection, series: Series) -> list[tuple[int, int, str, int]]:
    found = evidence_records.grants_of(connection, [series]).get(series, [])
    return sorted((each.span.start, each.span.end, each.source, each.trades) for each in found)


# --- files


def test_a_file_is_found_by_its_name_its_place_and_its_content_together_with_those_that_are_the_same(
    connection: sa.Connection,
) -> None:
    first = completed(connection, "/a/XBTUSD_60.csv", "11")
    twin = completed(connection, "/b/XBTUSD_60.csv", "11", status="SKIPPED")
    other = completed(connection, "/c/XBTUSD_60.csv", "22")
    for name, ids in {"XBTUSD_60.csv": [first, twin, other], "/a/XBTUSD_60.csv": [first], "22": [other]}.items():
        assert [record.id for record in withdrawals.files_called(connection, name)] == ids
    one = withdrawals.files_called(connection, "/a/XBTUSD_60.csv")
    assert [record.id for record in withdrawals.same_files(connection, one)] == [first, twin]
    assert withdrawals.files_called(connection, "'; DROP TABLE files; --") == []
    assert withdrawals.some_names(connection, 1) == (["XBTUSD_60.csv"], [])


def test_a_withdrawn_file_is_done_with_and_answers_for_nothing(connection: sa.Connection) -> None:
    bad = completed(connection, "/a/XBTUSD_60.csv", "11")
    file_records.finish(connection, [{"id": bad, "taken_start": 0, "taken_end": HOUR}])
    good = completed(connection, "/b/XBTUSD_60.csv", "22")
    for file_id in (bad, good):
        evidence_records.grant(connection, [(HOURS, [Grant(Span(0, HOUR), "CSV", 1)], file_id)])
    withdrawals.withdraw_files(connection, [bad], "wrong", 2)
    assert statuses(connection) == [("WITHDRAWN", "wrong"), ("COMPLETED", None)]
    assert len(granted(connection, HOURS)) == 1
    (record,) = file_records.withdrawn(connection, ["XBTUSD"], ["11", "22"])
    assert (record.id, record.became, record.taken_start, record.taken_end) == (bad, "withdrawn: wrong", None, None)
    assert record.status in file_records.DONE


def test_a_withdrawn_container_is_known_by_its_content_and_withdrawn_once(connection: sa.Connection) -> None:
    file_records.keep_container(connection, RELEASE, "stamp", 1)
    member = completed(connection, "XBTUSD_60.csv", "11", member=True)
    assert withdrawals.containers_called(connection, ZIP.name) == withdrawals.containers_called(connection, "ab")
    assert [record.id for record in withdrawals.members(connection, "ab", "XBTUSD")] == [member]
    assert withdrawals.members(connection, "ab", "ADAEUR") == []
    for _ in range(2):
        withdrawals.withdraw_container(connection, RELEASE, "all of it", "resolve-1", 2)
    assert file_records.withdrawn_containers(connection) == {"ab": "all of it"}
    assert len(statuses(connection)) == 2


def test_files_that_had_answered_are_read_again_with_their_twins_and_nothing_else_is(
    connection: sa.Connection,
) -> None:
    completed(connection, "/a/XBTUSD_60.csv", "11")
    completed(connection, "/b/XBTUSD_60.csv", "11", status="SKIPPED")
    completed(connection, "/c/XBTUSD_60.csv", "22", status="SKIPPED")
    completed(connection, "/d/XBTUSD_60.csv", "33", status="WITHDRAWN")
    completed(connection, "/e/XBTUSD_60.csv", "44", begin=20 * HOUR)
    before = statuses(connection)
    assert withdrawals.read_again(connection, HOURS, spans((0, HOUR)), "why", 2, without=[Kind.OHLCVT]) == []
    assert withdrawals.read_again(connection, OTHER, spans((0, HOUR)), "why", 2) == []
    assert statuses(connection) == before
    # Its last row is stored although it does not answer for it.
    again = withdrawals.read_again(connection, HOURS, spans((9 * HOUR, 10 * HOUR)), "why", 2)
    assert [record.location for record in again] == ["/a/XBTUSD_60.csv"]
    assert statuses(connection) == [("PENDING", "why"), ("PENDING", "why"), *before[2:]]


def test_a_member_that_is_to_be_read_again_has_answered_for_nothing(connection: sa.Connection) -> None:
    completed(connection, "XBTUSD_60.csv", "11", member=True)
    assert file_records.failed_members(connection) == frozenset()
    withdrawals.read_again(connection, HOURS, spans((0, HOUR)), "why", 2)
    assert file_records.failed_members(connection) == {("ab", "XBTUSD", 60)}


# --- evidence


def test_grants_are_trimmed_to_what_is_left_of_them(connection: sa.Connection) -> None:
    given = [
        Grant(Span(0, 10 * HOUR), "CSV", 1, 100),
        Grant(Span(2 * HOUR, 3 * HOUR), "OHLC", 1, 7),
        Grant(Span(20 * HOUR, 30 * HOUR), "OHLC", 1, 9),
    ]
    evidence_records.grant(connection, [(HOURS, given, None), (OTHER, given, None)])
    withdrawals.trim_grants(connection, HOURS, ())
    assert granted(connection, HOURS) == granted(connection, OTHER)
    withdrawals.trim_grants(connection, HOURS, spans((2 * HOUR, 4 * HOUR), (9 * HOUR, 12 * HOUR)))
    assert granted(connection, HOURS) == [
        (0, 2 * HOUR, "CSV", 20),
        (4 * HOUR, 9 * HOUR, "CSV", 50),
        (20 * HOUR, 30 * HOUR, "OHLC", 9),
    ]
    withdrawals.trim_grants(connection, HOURS, spans((0, 100 * HOUR)), "OHLC")
    assert [each[2] for each in granted(connection, HOURS)] == ["CSV", "CSV"]
    assert len(granted(connection, OTHER)) == 3


def test_a_piece_of_an_old_grant_is_no_answer_to_what_was_refuted_since(connection: sa.Connection) -> None:
    evidence_records.grant(connection, [(HOURS, [Grant(Span(0, 10 * HOUR), "CSV", 1)], None)])
    late = Span(8 * HOUR, 9 * HOUR)
    refutations.refute(connection, [(HOURS, late, None, "short")], 2)
    withdrawals.trim_grants(connection, HOURS, spans((HOUR, 2 * HOUR)))
    (refutation,) = refutations.active(connection, {"XBTUSD"})[HOURS]
    assert refutations.answered_since(connection, refutation) == []
    evidence_records.grant(connection, [(HOURS, [Grant(late, "TRADES", 3)], None)])
    assert refutations.answered_since(connection, refutation) == [(late, "TRADES")]


def test_answered_attempts_at_a_span_are_forgotten_and_failed_ones_kept(connection: sa.Connection) -> None:
    made = [
        Attempt(Span(0, 2 * HOUR), "RESAMPLE", "1", None, 1),
        Attempt(Span(0, 2 * HOUR), "OHLC", None, "busy", 1),
        Attempt(Span(5 * HOUR, 6 * HOUR), "RESAMPLE", "1", None, 1),
        Attempt(Span(8 * HOUR, 9 * HOUR), "RESAMPLE", "1", None, 1),
    ]
    gap_records.add_attempts(connection, {HOURS: made}, "one")
    withdrawals.forget_answers(connection, {HOURS: spans((HOUR, 2 * HOUR), (8 * HOUR, 9 * HOUR)), OTHER: ()})
    left = gap_records.attempts_of(connection, ["XBTUSD"])[HOURS]
    assert [(each.span.start, each.error) for each in left] == [(0, "busy"), (5 * HOUR, None)]


def contradiction(fine: Interval, coarse: Interval, start: int) -> ContradictionRecord:
    return ContradictionRecord(
        pair="XBTUSD",
        fine=fine,
        coarse=coarse,
        span=Span(start, start + coarse.seconds),
        short_side=None,
        fine_candle=None,
        coarse_candle=None,
        fine_trades=1,
        coarse_trades=1,
        outlier=None,
        state=ContradictionState.CONFLICT,
        reason="they differ",
        made_at=1,
        changed_at=1,
    )


def test_what_followed_from_comparing_is_open_again_where_something_was_taken_back(connection: sa.Connection) -> None:
    refutations.refute(connection, [(HOURS, Span(at, at + HOUR), None, "short") for at in (0, 50 * HOUR)], 1)
    proof_records.keep_contradictions(
        connection,
        [
            contradiction(Interval.M1, Interval.H1, 0),
            contradiction(Interval.H1, Interval.D1, 48 * HOUR),
            contradiction(Interval.M1, Interval.M5, 0),
        ],
    )
    proven = Proven(spans((0, 9 * HOUR)), spans((HOUR, 3 * HOUR)))
    proof_records.replace_proofs(connection, {HOURS: proven, MINUTES: proven})
    proof_records.confirm(connection, {HOURS: proven.verified, MINUTES: proven.verified})
    withdrawals.reopen(connection, "XBTUSD", {HOURS: spans((0, 2 * HOUR))}, 5)
    assert [each.span.start for each in refutations.active(connection, {"XBTUSD"})[HOURS]] == [50 * HOUR]
    assert {each.key: (each.state, each.changed_at) for each in proof_records.contradictions_of(connection)} == {
        (Interval.M1, Interval.H1, 0): (ContradictionState.SETTLED, 5),
        (Interval.H1, Interval.D1, 48 * HOUR): (ContradictionState.CONFLICT, 1),
        (Interval.M1, Interval.M5, 0): (ContradictionState.CONFLICT, 1),
    }
    assert proof_records.proofs_of(connection, ["XBTUSD"]) == {
        HOURS: Proven(spans((2 * HOUR, 9 * HOUR)), spans((2 * HOUR, 3 * HOUR))),
        MINUTES: proven,
    }
    assert proof_records.confirmed(connection) == {HOURS: spans((2 * HOUR, 3 * HOUR)), MINUTES: proven.verified}


def test_what_was_taken_back_is_found_by_its_time_and_a_file_is_complete_with_its_record(
    connection: sa.Connection,
) -> None:
    file_id = completed(connection, "/a/XBTUSD_60.csv", "11")
    assert withdrawals.complete(connection, [file_id]) == set()
    records = [
        WithdrawalRecord(HOURS, Span(0, HOUR), file_id, 1, "it's wrong", 7),
        WithdrawalRecord(HOURS, Span(5 * HOUR, 6 * HOUR), None, 2, "made of it", 8),
        WithdrawalRecord(DAYS, Span(0, 86_400), None, 1, "made of it", 8),
    ]
    withdrawals.record(connection, records)
    assert withdrawals.complete(connection, [file_id, file_id + 1]) == {file_id}
    assert withdrawals.of_series(connection, HOURS, Span(0, 6 * HOUR)) == records[:2]
    assert withdrawals.of_series(connection, HOURS, Span(HOUR, 5 * HOUR)) == []
