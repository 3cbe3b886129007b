"""Reconciliation in a lake: in whatever order files come, shortages heal, and what cannot is a conflict, once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.coverage.proof import NOTHING_PROVEN
from kraken_pipeline.coverage.ranges import Span, subtract
from kraken_pipeline.demo.archives import write_csv
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import ContradictionState
from kraken_pipeline.storage.exchange_state import listings
from kraken_pipeline.storage.records import evidence_records, proof_records, publications, refutations
from kraken_pipeline.storage.records.proof_records import ContradictionRecord
from kraken_pipeline.storage.records.publications import Publication
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow import pair_groups
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile import reconcile, suspicion
from kraken_pipeline.workflow.reconcile.reconcile import has_changes, mark_everything, reconcile_changes
from kraken_pipeline.workflow.reconcile.verdicts import VerdictState, contradicted, every_candle
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import (
    NOW,
    Q1,
    SPRING,
    START,
    covered,
    lake_of,
    open_gaps,
    oracle,
    run,
    settings_of,
    stored,
)
from kraken_pipeline_tests.support.samples import real_file

pytestmark = pytest.mark.slow

END = Q1.end
H1, H4, H12, D1 = Interval.H1, Interval.H4, Interval.H12, Interval.D1
PAIR = "XBTUSD"


def archive(folder: Path, *intervals: Interval, defects: Sequence[Defect] = (), pair: str = PAIR) -> Path:
    for interval in intervals:
        write_csv(folder, SPRING, pair, interval, start=START, end=END, defects=defects)
    return folder


def a_defect(kind: DefectKind, interval: Interval, time: int) -> Defect:
    return Defect(kind, PAIR, interval, time)


def contradictions(stores: Stores, *states: ContradictionState) -> list[ContradictionRecord]:
    with stores.catalog.read() as connection:
        return proof_records.contradictions_of(connection, None, states or tuple(ContradictionState))


def proven(stores: Stores, interval: Interval) -> tuple[Span, ...]:
    with stores.catalog.read() as connection:
        return proof_records.proven(connection).get(Series(PAIR, interval), ())


def verified(stores: Stores, interval: Interval) -> tuple[Span, ...]:
    with stores.catalog.read() as connection:
        return proof_records.proofs_of(connection).get(Series(PAIR, interval), NOTHING_PROVEN).verified


def test_a_heal_sticks_in_every_order_of_ingestion(tmp_path: Path, empty_home: Path) -> None:
    """Three archives of the same days, two of them short in different ways, and a run after each."""
    short_day = a_defect(DefectKind.SHORT_CANDLE, D1, START + 2 * DAY)
    files = [
        archive(tmp_path / "whole", H1, H4),
        archive(tmp_path / "short", D1, defects=[short_day]),
        archive(tmp_path / "missing", H12, D1, defects=[a_defect(DefectKind.MISSING_CANDLE, H12, START + 2 * DAY)]),
    ]
    states = []
    for number, order in enumerate(permutations(files)):
        home = Path(shutil.copytree(empty_home, tmp_path / f"home-{number}"))
        with opened(settings_of(home)) as stores:
            for index, path in enumerate(order):
                run(stores, path, run_id=f"run-{index}", api_backfill=False)
            # And once more the short one, under another name.
            again = shutil.copytree(files[1], tmp_path / f"again-{number}")
            run(stores, again, run_id="run-again", api_backfill=False)
            assert contradictions(stores, ContradictionState.REFUTED, ContradictionState.CONFLICT) == []
            states.append({series: [row[:7] for row in rows] for series, rows in lake_of(stores).items()})
            for interval in (H1, H4, H12, D1):
                end = covered(stores, PAIR, interval)[-1].end
                assert stored(stores, PAIR, interval, START, end) == oracle(PAIR, interval, START, end)
    assert all(state == states[0] for state in states)


def test_a_coarser_candle_that_is_short_is_filled_from_finer_ones_and_proven_where_these_are(
    stores: Stores, tmp_path: Path
) -> None:
    day = START + 2 * DAY
    files = archive(tmp_path, H12, D1, defects=[a_defect(DefectKind.SHORT_CANDLE, D1, day)])
    run(stores, files, api_backfill=False)
    (healed,) = contradictions(stores)
    assert (healed.state, healed.fine, healed.coarse, healed.short_side) == (
        ContradictionState.SETTLED,
        H12,
        D1,
        "coarse",
    )
    assert stored(stores, PAIR, D1, day, day + DAY) == oracle(PAIR, D1, day, day + DAY)
    # Filled, and not proven: the half days, which real files lack at the same time, are proven by nothing.
    assert Span(day, day + DAY) not in [*proven(stores, D1)]
    assert subtract((Span(day, day + DAY),), proven(stores, D1)) == (Span(day, day + DAY),)
    run(stores, archive(tmp_path / "finer", H4), run_id="run-two", api_backfill=False)
    assert subtract((Span(day, day + DAY),), proven(stores, D1)) == ()


def test_finer_candles_that_are_short_are_gaps_until_something_answers_again(stores: Stores, tmp_path: Path) -> None:
    half = START + 2 * DAY + 12 * 3_600
    files = archive(tmp_path, H12, D1, defects=[a_defect(DefectKind.MISSING_CANDLE, H12, half)])
    run(stores, files, api_backfill=False)
    (found,) = contradictions(stores)
    day = Span(START + 2 * DAY, START + 3 * DAY)
    assert (found.state, found.short_side, found.span) == (ContradictionState.REFUTED, "fine", day)
    assert open_gaps(stores, PAIR, 720)[0].span == day
    with stores.catalog.read() as connection:
        (refuted,) = refutations.active(connection)[Series(PAIR, H12)]
    assert (refuted.span, refuted.refuted is not None) == (day, True)
    (verdict,) = contradicted(stores, run_spec(intervals="1440"), NOW)
    assert verdict.action.startswith(f"720 lacks {found.coarse_trades - found.fine_trades} trades that 1440 counts: ")
    assert "is a gap" in verdict.action
    # Hours bring what is missing.
    run(stores, archive(tmp_path / "finer", H1), run_id="run-two", api_backfill=False)
    assert [each.state for each in contradictions(stores)] == [ContradictionState.SETTLED]
    assert stored(stores, PAIR, 720, day.start, day.end) == oracle(PAIR, 720, day.start, day.end)


def test_what_no_route_is_left_for_is_a_conflict_that_is_covered_and_silent_until_a_value_changes(
    stores: Stores, tmp_path: Path
) -> None:
    spike = a_defect(DefectKind.SPIKE, H4, START + 2 * DAY)
    files = archive(tmp_path, H1, H4, H12, defects=[spike])
    first = run(stores, files, api_backfill=False)
    assert first.backfilled is not None
    assert (first.backfilled.refuted, first.backfilled.conflicts) == (0, 2)
    conflicts = contradictions(stores, ContradictionState.CONFLICT)
    assert {(each.fine, each.coarse, each.outlier) for each in conflicts} == {(H1, H4, H4), (H4, H12, H4)}
    assert {each.fine_candle is not None and each.coarse_candle is not None for each in conflicts} == {True}
    assert subtract((Span(START + 2 * DAY, START + 3 * DAY),), covered(stores, PAIR, 240)) == ()
    again = run(stores, files, run_id="run-two", api_backfill=False)
    assert again.backfilled is not None
    assert (again.backfilled.refuted, again.backfilled.conflicts) == (0, 0)
    with stores.catalog.write() as connection:  # nothing has changed, and all of it is compared anew
        publications.mark_for_reconciliation(connection, [(Series(PAIR, H4), Span(START, END))], NOW)
    done = reconcile_changes(stores, [PAIR], RunContext("by hand", NOW + 9))
    assert (done.refuted, done.conflicts, done.healed) == (0, 0, 0)
    assert contradictions(stores, ContradictionState.CONFLICT) == conflicts


def test_what_is_missing_stays_a_gap_also_where_nobody_can_be_asked(stores: Stores, tmp_path: Path) -> None:
    """Of a pair that is listed no more; where both sides have a candle, they are a conflict, as ever."""
    day = START + 2 * DAY
    hole = Defect(DefectKind.MISSING_CANDLE, PAIR, H1, day, day + DAY)
    short = a_defect(DefectKind.MISSING_CANDLE, H1, START + 4 * DAY + 12 * 3_600)
    files = archive(tmp_path, H1, D1, defects=[hole, short])
    with stores.catalog.write() as connection:
        for day_before in (1, 0):
            listings.record_listed(connection, [], [PAIR], NOW - day_before * DAY)
    for number in range(3):
        run(stores, files, run_id=f"run-{number}", api_backfill=False, intervals="60,1440")
        (gap,) = [each for each in open_gaps(stores, PAIR, 60) if each.span.start < END - DAY]
        assert (gap.span, gap.route) == (Span(day, day + DAY), "NONE")
        assert {(each.span.start, each.state) for each in contradictions(stores)} == {
            (day, ContradictionState.REFUTED),
            (START + 4 * DAY, ContradictionState.CONFLICT),
        }


def test_reconciling_everything_anew_comes_to_the_same(stores: Stores, tmp_path: Path) -> None:
    defects = [
        a_defect(DefectKind.MISSING_CANDLE, D1, START + 2 * DAY),
        a_defect(DefectKind.SPIKE, H4, START + 4 * DAY),
    ]
    run(stores, archive(tmp_path, H1, H4, H12, D1, defects=defects), api_backfill=False)
    before = {interval: proven(stores, interval) for interval in Interval}
    records = contradictions(stores)
    mark_everything(stores, [PAIR], NOW)
    done = reconcile_changes(stores, [PAIR], RunContext("by hand", NOW))
    assert (done.pairs, done.refuted, done.healed) == ((PAIR,), 0, 0)
    assert {interval: proven(stores, interval) for interval in Interval} == before
    assert contradictions(stores) == records


def test_piece_by_piece_comes_to_the_same_as_all_at_once(tmp_path: Path, empty_home: Path) -> None:
    """The hours of one day after another, with everything else there from the start."""
    with opened(settings_of(Path(shutil.copytree(empty_home, tmp_path / "pieces")))) as stores:
        run(stores, archive(tmp_path / "coarse", H4, D1), api_backfill=False)
        for number in range(5):
            folder = tmp_path / f"day-{number}"
            write_csv(folder, SPRING, PAIR, H1, start=START + number * DAY, end=START + (number + 1) * DAY + 3_600)
            run(stores, folder, run_id=f"run-{number}", api_backfill=False)
        pieces = {interval: proven(stores, interval) for interval in (H1, H4, H12, D1)}
    with opened(settings_of(Path(shutil.copytree(empty_home, tmp_path / "whole")))) as stores:
        run(stores, *(tmp_path / f"day-{number}" for number in range(5)), tmp_path / "coarse", api_backfill=False)
        assert {interval: proven(stores, interval) for interval in (H1, H4, H12, D1)} == pieces
    ((start, end),) = ((span.start, span.end) for span in pieces[H1])
    assert (start, end >= START + 4 * DAY + 20 * 3_600) == (START, True)


def test_a_run_that_dies_between_the_lake_and_reconciliation_leaves_it_to_the_next(
    stores: Stores, tmp_path: Path
) -> None:
    files = archive(tmp_path, H4, D1, defects=[a_defect(DefectKind.SHORT_CANDLE, D1, START + 2 * DAY)])
    run(stores, files, resampling=False)
    with stores.catalog.read() as connection:
        assert set(publications.marked(connection)) == {PAIR}
    assert contradictions(stores) == []
    run(stores, run_id="run-two", api_backfill=False)
    assert [each.state for each in contradictions(stores)] == [ContradictionState.SETTLED]
    with stores.catalog.read() as connection:
        assert publications.marked(connection) == {}


def test_a_run_that_dies_at_its_second_pair_leaves_that_pair_and_the_search_to_the_next(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pair in (PAIR, "ADAEUR"):
        files = archive(tmp_path / pair, H4, D1, pair=pair)
        run(stores, files, resampling=False, run_id=f"run-{pair}")
    real = reconcile._reconcile_together
    compared: list[str] = []

    def dying(its: Stores, pairs: Sequence[str], now: int) -> object:
        if compared:
            raise KeyboardInterrupt
        compared.extend(pairs)
        return real(its, pairs, now)

    with monkeypatch.context() as patched:
        patched.setattr(reconcile, "_reconcile_together", dying)
        patched.setattr(pair_groups, "GROUP_PAIRS", 1)
        with pytest.raises(KeyboardInterrupt):
            reconcile_changes(stores, [PAIR, "ADAEUR"], RunContext("by hand", NOW))
    with stores.catalog.read() as connection:
        assert set(publications.marked(connection)) == {PAIR}
        assert set(publications.to_search(connection)) == {"ADAEUR"}
    assert has_changes(stores, ["ADAEUR"])
    searched: list[set[str]] = []
    look = suspicion.look

    def seen(its: Stores, checks: Mapping[str, Sequence[Publication]], *more: Any) -> int:
        searched.append(set(checks))
        return look(its, checks, *more)

    monkeypatch.setattr(suspicion, "look", seen)
    assert reconcile_changes(stores, [PAIR, "ADAEUR"], RunContext("by hand", NOW)).pairs == (PAIR,)
    assert searched == [{PAIR, "ADAEUR"}]
    assert not has_changes(stores, [PAIR, "ADAEUR"])


def test_a_pair_that_another_run_has_compared_meanwhile_is_not_compared_again(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(stores, archive(tmp_path, H4, D1), resampling=False)
    real = reconcile._reconcile_together

    def second(its: Stores, pairs: Sequence[str], now: int) -> object:
        real(its, pairs, now)
        monkeypatch.setattr(stores.lake, "read", None)  # whoever compares reads
        return real(its, pairs, now)

    with monkeypatch.context() as patched:
        patched.setattr(reconcile, "_reconcile_together", second)
        patched.setattr(suspicion, "look", lambda *_: 0)
        assert reconcile_changes(stores, [PAIR], RunContext("by hand", NOW)).pairs == (PAIR,)


def test_a_pair_that_is_being_written_is_left_to_the_next_run(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(stores, archive(tmp_path, H4, D1), resampling=False)
    held, real = [Series(PAIR, D1)], stores.locks.series
    monkeypatch.setattr(stores.locks, "series", lambda names, **_: real(names, 0.0))
    with real(held):
        done = reconcile_changes(stores, [PAIR], RunContext("by hand", NOW))
    assert "another process has been writing XBTUSD 1440" in done.notes[0]
    with stores.catalog.read() as connection:
        assert set(publications.marked(connection)) == {PAIR}


def test_the_other_pairs_of_a_group_are_compared_while_one_is_being_written(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = ("ADAEUR", PAIR, "ZORKUSD")
    for pair in pairs:
        run(stores, archive(tmp_path / pair, H4, D1, pair=pair), resampling=False, run_id=f"run-{pair}")
    held, real = [Series(PAIR, D1)], stores.locks.series
    monkeypatch.setattr(stores.locks, "series", lambda names, **_: real(names, 0.0))
    with real(held):
        done = reconcile_changes(stores, pairs, RunContext("by hand", NOW))
    (note,) = done.notes
    assert note.startswith(f"{PAIR} was not reconciled: ")
    with stores.catalog.read() as connection:
        assert set(publications.marked(connection)) == {PAIR}
        proven = {series.pair for series in proof_records.proven(connection)}
    assert proven == {"ADAEUR", "ZORKUSD"}


def test_candles_are_counted_by_month(stores: Stores, tmp_path: Path) -> None:
    run(stores, archive(tmp_path, H1), api_backfill=False)
    with stores.catalog.read() as connection:
        counts = proof_records.counts_of(connection)[Series(PAIR, H1)]
        extent = evidence_records.extents(connection)[Series(PAIR, H1)]
    assert (set(counts), sum(counts[2023]), counts[2023][2]) == ({2023}, extent.candles, extent.candles)


@pytest.mark.real_files
def test_of_real_files_every_day_is_verified_but_the_last_and_an_outage_and_none_is_contradicted(
    stores: Stores, tmp_path: Path
) -> None:
    for name in ("XBTCAD_720.csv", "XBTCAD_1440.csv"):
        shutil.copy(real_file(name), tmp_path)
    run(stores, tmp_path, now=1_795_600_000, api_backfill=False, intervals="720,1440")
    spec = run_spec(pairs="XBTCAD", intervals="720,1440", end="2025-04-01")
    found = list(every_candle(stores, spec, 1_795_600_000))
    last = found.pop()
    # On 12 January 2018 Kraken was down: neither file has it, and nothing but that speaks for it.
    assert [iso(each.span.start) for each in found if each.proof is not VerdictState.VERIFIED] == [
        "2018-01-12T00:00:00Z"
    ]
    assert {each.proof for each in found} == {VerdictState.VERIFIED, VerdictState.UNTESTED}
    assert (len(found), last.proof, last.coarse_trades) == (3_563, VerdictState.UNTESTED, None)
    assert contradicted(stores, spec, 1_795_600_000) == []
