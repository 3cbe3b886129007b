from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import INTERVALS, Interval
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.tier import Tier, load_tiers
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec
from kraken_pipeline_tests.support.samples import at


def test_without_options_a_run_means_everything() -> None:
    spec = run_spec()
    assert spec == RunSpec()
    assert (spec.tier, spec.intervals, spec.pairs) == (Tier.ALL, INTERVALS, ())
    assert (spec.lookback_days, spec.max_gaps_per_asset) == (7, 10)
    assert spec.api_backfill
    assert spec.selects_all_time
    assert spec.as_config() == {}


def test_lists_are_comma_separated_and_names_are_resolved() -> None:
    spec = run_spec(pairs=" BTCUSD, ADA/EUR ,XXBTZUSD", intervals="1440, 60,60", tier="tier1")
    assert spec.pairs == ("XBTUSD", "ADAEUR")
    assert spec.intervals == (Interval.H1, Interval.D1)
    assert spec.tier is Tier.TIER1


def test_times_are_utc_and_may_be_dates() -> None:
    spec = run_spec(start="2023-07-01", end="2023-10-01T12:30")
    assert (spec.start, spec.end) == (at("2023-07-01"), at("2023-10-01T12:30"))
    assert run_spec(start="2023-07-01T02:00+02:00").start == at("2023-07-01")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tier": "TIER5"}, "tier='TIER5': Input should be 'TIER1', 'TIER2', 'TIER3', 'TIER4' or 'ALL'"),
        ({"intervals": "60,7"}, "interval '7' does not exist; allowed are 1, 5, 15, 30, 60, 240, 720, 1440, 10080"),
        ({"intervals": [2]}, "interval 2 does not exist; allowed are 1, 5"),
        ({"intervals": "hourly"}, "interval 'hourly' does not exist; allowed are 1, 5"),
        ({"intervals": ""}, "'' names nothing; to select all, leave the option out"),
        ({"intervals": []}, "no interval is named; to select the default, leave intervals out"),
        ({"pairs": " , "}, "' , ' names nothing; to select all, leave the option out"),
        ({"pairs": "XBTUSD,€"}, "'€' is not the name of a pair; write a name such as XBTUSD, ADAEUR or XBT/USD"),
        ({"start": "soon"}, "'soon' is not a time; write 2023-10-01 or 2023-10-01T12:00 (UTC)"),
        ({"end": "2023-13-01"}, "'2023-13-01' is not a time; write 2023-10-01"),
        ({"start": "2023-10-01", "end": "2023-10-01"}, "end must be later than start; the range is half-open"),
        ({"start": "2023-10-02", "end": "2023-10-01"}, "end must be later than start; the range is half-open"),
        ({"lookback_days": 0}, "lookback_days=0: Input should be greater than or equal to 1"),
        ({"lookback_days": 366}, "lookback_days=366: Input should be less than or equal to 365"),
        ({"max_gaps_per_asset": 0}, "max_gaps_per_asset=0: Input should be greater than or equal to 1"),
        ({"max_gaps_per_asset": 101}, "max_gaps_per_asset=101: Input should be less than or equal to 100"),
        ({"dry_run": "perhaps"}, "dry_run='perhaps': Input should be a valid boolean"),
        ({"api_backfill": "perhaps"}, "api_backfill='perhaps': Input should be a valid boolean"),
        ({"complete": "perhaps"}, "complete='perhaps': Input should be a valid boolean"),
        ({"archive_dirs": [3]}, "archive_dirs.0=3: Input is not a valid path"),
        ({"pear": "XBTUSD"}, "pear: there is no such option; the options are tier, intervals, pairs, start, end"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        run_spec(options)
    assert message in str(refused.value)


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(InvalidRequest, match=r"lookback_days=0.*; max_gaps_per_asset=0"):
        run_spec(lookback_days=0, max_gaps_per_asset=0)


def test_what_is_not_given_counts_as_not_given() -> None:
    assert run_spec({"pairs": None, "tier": None}, intervals=None) == RunSpec()


def test_folders_are_known_by_one_path_wherever_the_run_is_resumed_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    spec = run_spec(archive_dirs=["in", "./in", "in/../in", str(tmp_path / "in")])
    assert spec.archive_dirs == (tmp_path / "in",)
    monkeypatch.chdir("/")
    assert run_spec(spec.as_config()) == spec


def test_it_selects_by_pair_and_by_tier() -> None:
    tiers = load_tiers()
    ada, zork = parse_pair("ADAEUR"), parse_pair("ZORKUSD")
    assert run_spec(tier="TIER1").selects(ada, tiers)
    assert not run_spec(tier="TIER1").selects(zork, tiers)
    assert run_spec(tier="TIER4").selects(zork, tiers)
    assert not run_spec(pairs="XBTUSD").selects(ada, tiers)
    assert run_spec(pairs="XBTUSD,ADAEUR", tier="TIER1").selects(ada, tiers)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "tier": st.sampled_from([*Tier]),
            "intervals": st.lists(st.sampled_from([*Interval]), min_size=1),
            "pairs": st.lists(st.sampled_from(["XBTUSD", "ADAEUR", "AAPLxUSD", "1INCHUSD"])),
            "start": st.integers(0, 10**9),
            "end": st.integers(10**9 + 1, 2 * 10**9),
            "archive_dirs": st.lists(st.sampled_from(["/a", "/b/c"])),
            "api_backfill": st.booleans(),
            "complete": st.booleans(),
            "dry_run": st.booleans(),
            "lookback_days": st.integers(1, 365),
            "max_gaps_per_asset": st.integers(1, 100),
        },
    )
)
def test_a_runs_configuration_makes_the_same_run_again(options: dict[str, Any]) -> None:
    spec = run_spec(options)
    assert run_spec(spec.as_config()) == spec
    assert RunSpec.model_validate_json(spec.model_dump_json(exclude_defaults=True)) == spec


def test_intervals_that_are_named_are_told_from_those_that_are_not() -> None:
    every = run_spec(intervals=list(INTERVALS))
    assert (run_spec().names_intervals, every.names_intervals) == (False, True)
    # Through a run's configuration as well.
    assert run_spec(every.as_config()).names_intervals
    assert not run_spec(run_spec(tier="TIER1").as_config()).names_intervals
    assert every.selecting(complete=True).names_intervals
    assert not run_spec(budget=7).selecting(complete=True).names_intervals


EVERY = {"intervals": list(INTERVALS)}


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("backfill", {}, ""),
        ("backfill", {"tier": "tier2", "pairs": "XBTUSD,ADAEUR"}, "--tier TIER2 --pairs XBTUSD,ADAEUR"),
        ("backfill", {"intervals": "1440,60", "start": "2023-10-01"}, "--intervals 60,1440 --start 2023-10-01"),
        ("backfill", {"end": "2023-10-02T12:30", "complete": True}, "--end 2023-10-02T12:30:00Z --complete"),
        ("ingest", {"archive_dirs": ["/my kraken"]}, "--archive-dir '/my kraken'"),
        ("ingest", {"api_backfill": False, "max_gaps_per_asset": 5}, "--no-api-backfill --max-gaps 5"),
        ("ingest", {"lookback_days": 30, "budget": 0}, "--lookback-days 30 --budget 0"),
        # A report has no limits. To name all intervals is not the same as to name none.
        ("report", {"budget": 7, "complete": True}, ""),
        ("report", EVERY, "--intervals 1,5,15,30,60,240,720,1440,10080,21600"),
        ("ingest", EVERY, "--intervals 1,5,15,30,60,240,720,1440,10080,21600"),
    ],
)
def test_a_spec_is_written_as_a_command(command: str, options: dict[str, Any], words: str) -> None:
    assert run_spec(**options).as_command(command) == f"kraken-pipeline {command} {words}".strip()
