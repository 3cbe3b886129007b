"""What is particular to locks in files; what all locks do is in `contract`."""

from __future__ import annotations

from pathlib import Path

import pytest

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.locks.locks import FileLocks, Locks
from kraken_pipeline_tests.contract.test_locks import hold_run
from kraken_pipeline_tests.support.processes import line, process


def test_names_that_differ_in_case_alone_are_different_files_also_where_case_does_not_count(tmp_path: Path) -> None:
    locks = Locks(FileLocks(tmp_path))
    with locks.series([Series("AAPLxUSD", Interval.H1)]), locks.series([Series("AAPLXUSD", Interval.H1)], timeout=0):
        names = {path.name.casefold() for path in (tmp_path / "series").iterdir()}
    assert len(names) == 2


def test_the_file_of_a_run_goes_with_it(tmp_path: Path) -> None:
    locks = Locks(FileLocks(tmp_path))
    with locks.run("run-1"):
        assert len(list((tmp_path / "runs").iterdir())) == 1
    with pytest.raises(ZeroDivisionError), locks.run("run-1"):
        raise ZeroDivisionError
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.process
def test_the_file_of_a_killed_run_is_there_and_nobody_holds_it(tmp_path: Path) -> None:
    locks = Locks(FileLocks(tmp_path))
    with process(hold_run, str(tmp_path), "5f0c-aa") as other:
        assert line(other) == "held"
        other.kill()
        other.wait()
        assert len(list((tmp_path / "runs").iterdir())) == 1
        assert not locks.is_any_running()
        assert not locks.is_running("5f0c-aa")
