"""Jobs whose steps are groups: they leave, report and say what one step does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from kraken_pipeline.demo.archives import write_csv
from kraken_pipeline.demo.clock import FixedClock
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import Outage, World
from kraken_pipeline.errors import DamagedFile, StoreUnavailable
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.orchestration import failures, steps
from kraken_pipeline.orchestration.events import Event
from kraken_pipeline.orchestration.progress import PROGRESS_TAG, outcome_of, progress_of
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow import expected_work, pair_groups
from kraken_pipeline.workflow.ingest import batches
from kraken_pipeline.workflow.reconcile.quiet_search import LONG
from kraken_pipeline.workflow.reconcile.suspicion import OUTAGE
from kraken_pipeline_tests.orchestration.conftest import definitions
from kraken_pipeline_tests.support.exchanges import (
    BEGIN,
    NOW,
    SUMMER,
    asked,
    copied,
    stop_clock,
    write_home,
    write_hours,
)
from kraken_pipeline_tests.support.homes import (
    Q1,
    SPRING,
    START,
    Shelf,
    evidence_of,
    files_of,
    rows_of,
    run,
    settings_of,
    write_lines,
)
from kraken_pipeline_tests.support.lakes import rewritten

pytestmark = pytest.mark.slow

HOUR = 3_600
SPIKE = Defect(DefectKind.SPIKE, "XBTUSD", Interval.H4, START + DAY)
SHORT = Defect(DefectKind.SHORT_CANDLE, "ADAEUR", Interval.H1, START + 2 * DAY)
NOT_ALIKE = {"verify_seconds", "made_at", "rows_per_second"}
REPORTED = (dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_CHECK_EVALUATION)


@pytest.fixture(autouse=True)
def _a_step_for_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_groups, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(pair_groups, "STEPS_OF_WORKER", 100)
    for name in ("BATCH_FILES", "BATCH_BYTES"):
        monkeypatch.setattr(batches, name, 1)
    monkeypatch.setattr(batches, "_STEPS_OF_WORKER", 100)


def said_of(event: dg.DagsterEvent) -> str:
    """What a materialisation or an evaluation says, but for the time that it took."""
    found = event.event_specific_data
    about = found.materialization if event.is_step_materialization else found  # type: ignore[union-attr]
    values = {name: str(value.value) for name, value in about.metadata.items() if name not in NOT_ALIKE}  # type: ignore[union-attr]
    kind = [getattr(about, name, None) for name in ("asset_key", "check_name", "partition", "passed", "severity")]
    return f"{kind} {sorted(values.items())}"


def candles_of(stores: Stores, series: Series) -> list[Any] | str:
    """All columns of the candles of a series, or the damage of its file."""
    try:
        return stores.lake.read(series).rows()
    except DamagedFile as error:
        return str(error)


def ran(settings: Settings, job: str, **config: Any) -> dict[str, Any]:
    """What a run leaves, reports and says; its steps are in this process, whatever the executor is."""
    with dg.DagsterInstance.ephemeral() as instance:
        done = (
            definitions(settings)
            .resolve_job_def(job)
            .execute_in_process(instance=instance, run_config=config, raise_on_error=False)
        )
        stored = instance.get_run_by_id(done.run_id)
        assert stored is not None
        tags = {name: value for name, value in stored.tags.items() if name.startswith("kraken/")}
        outcome = outcome_of(tags)
        entries = instance.all_logs(done.run_id, of_type=set(REPORTED))
        events = [entry.dagster_event for entry in entries if entry.dagster_event is not None]
    assert done.success
    with opened(settings) as stores:
        left = {
            **evidence_of(stores),
            "lake": {series: candles_of(stores, series) for series in stores.lake.series()},
            "files": files_of(stores),
            "proofs": rows_of(stores, schema.proofs, "pair", "interval", "start", "end"),
            "contradictions": rows_of(stores, schema.contradictions, "pair", "fine", "coarse", "start", "end", "state"),
            "suspicions": rows_of(stores, schema.suspicions, "pair", "interval", "start", "end", "reason", "state"),
            "marked": rows_of(stores, schema.doubts, "pair", "interval", "start", "end"),
            "to search": rows_of(stores, schema.quiet_checks, "pair", "interval", "start", "end"),
            "counts": rows_of(stores, schema.trade_counts, "pair", "interval", "start", "end", "by_ids", "verdict"),
            "damages": rows_of(stores, schema.damages, "path", "kind"),
            "pending": rows_of(stores, schema.publications, "pair", "interval", "start", "end"),
        }
    reported = [
        (event.event_type_value, getattr(event, "asset_key", None), getattr(event, "partition", None))
        for event in events
    ]
    return {
        "left": left,
        "outcome": {name: value for name, value in outcome.items() if name not in NOT_ALIKE},
        "reported": sorted(map(str, reported)),
        "said": sorted(map(said_of, events)),
        "tags": tags,
        "steps": [event.step_key for event in done.all_events if event.is_step_success],
    }


def both(homes: Callable[[str], Path], job: str, **config: Any) -> Iterator[dict[str, Any]]:
    """What a run in one step and a run in groups leave, from the same state."""
    for executor in ("in_process", "multiprocess"):
        settings = settings_of(homes(executor), kraken_executor=executor, kraken_workers=1)
        yield ran(settings, job, **config)


@pytest.fixture
def homes(tmp_path: Path, shelf: Shelf) -> Callable[[str], Path]:
    """Copies of a home with three pairs, of which two have candles that others contradict."""
    first = tmp_path / "first"
    for pair, defects in (("XBTUSD", [SPIKE]), ("ADAEUR", [SHORT]), ("ZORKUSD", [])):
        for interval in (Interval.H1, Interval.H4, Interval.D1):
            write_csv(tmp_path / "in", SPRING, pair, interval, start=START, end=Q1.end, defects=defects)
    with opened(settings_of(first)) as stores:
        run(stores, tmp_path / "in", intervals="60,240,1440", api_backfill=False)

    def copy(name: str) -> Path:
        shutil.copytree(first, tmp_path / name)
        return tmp_path / name

    return copy


def groups_in(done: Mapping[str, Any], op: str) -> list[str]:
    return sorted(step for step in done["steps"] if step.startswith(f"{op}["))


DOWN = Outage(START + 10 * DAY, START + 10 * DAY + 3 * HOUR)
SILENT = (START + 14 * DAY, START + 14 * DAY + 30 * HOUR)
BUSY = World(
    5,
    [
        Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 28_000.0, 0.006, 500, START),
        Listing("ETHUSD", "XETHZUSD", "ETH/USD", "XETH", "ZUSD", 2, 1_900.0, 0.1, 400, START),
        Listing("ZORKUSD", "ZORKUSD", "ZORK/USD", "ZORK", "ZUSD", 4, 2.5, 0.35, 200, START, night=(1, 8)),
    ],
    START + 30 * DAY,
    outages=[DOWN],
)


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    """Archives of pairs with an outage, with quiet time of one pair, and with candles that contradict each other."""
    for pair in BUSY.listings:
        short = [Defect(DefectKind.SHORT_CANDLE, "ETHUSD", Interval.H1, START + 2 * DAY)]
        for interval in (Interval.M30, Interval.H1, Interval.H4):
            defects = short if pair == "ETHUSD" and interval is Interval.H1 else []
            path = write_csv(tmp_path / "in", BUSY, pair, interval, start=START, end=START + 23 * DAY, defects=defects)
            if pair == "XBTUSD":
                lines = path.read_text().splitlines()
                write_lines(path, (line for line in lines if not SILENT[0] <= int(line.partition(",")[0]) < SILENT[1]))
    return tmp_path / "in"


@pytest.fixture
def holding(tmp_path: Path, busy: Path) -> Callable[[str], Path]:
    """Copies of a home that holds some days of one pair, with a broken candle."""
    first = tmp_path / "first"
    path = busy / "ZORKUSD_60.csv"
    lines = path.read_text().splitlines()
    write_lines(path, lines[100:])
    with opened(settings_of(first)) as stores:
        run(stores, write_lines(tmp_path / "before" / "ZORKUSD_60.csv", lines[:100]), api_backfill=False)
        wrong = pl.when(pl.int_range(pl.len()) == 5).then(-1.0).otherwise("volume").alias("volume")
        rewritten(stores.lake, Series("ZORKUSD", Interval.H1), lambda candles: candles.with_columns(wrong))
    return lambda name: copied(first, tmp_path / name)


@pytest.mark.parametrize("most", [2_000, 2], ids=["everything", "the candles alone"])
def test_an_ingest_in_groups_is_one_in_one_step(
    holding: Callable[[str], Path], busy: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(expected_work, "FULL_REPORT_SERIES", most)
    stop_clock(monkeypatch, BUSY.now, steps)
    alone, grouped = both(holding, "ingest", archive_dirs=[str(busy)], api_backfill=False)
    groups = groups_in(grouped, "ingest_files")
    assert len(groups) == 3
    for what in ("left", "outcome", "said"):
        assert grouped[what] == alone[what], what
    assert grouped["tags"].keys() - alone["tags"].keys() == {f"kraken/progress/{group[13:-1]}" for group in groups}
    ended = [progress_of({PROGRESS_TAG: run["tags"][PROGRESS_TAG]}) for run in (alone, grouped)]
    assert [replace(progress, work={}) for progress in ended] == [replace(ended[0], work={})] * 2
    suspected = {(pair, reason) for pair, _, _, _, reason, _ in alone["left"]["suspicions"]}
    assert suspected >= {(None, OUTAGE), ("XBTUSD", LONG)}
    assert alone["left"]["to search"] == alone["left"]["marked"] == []
    assert any("volume is negative" in said for said in alone["said"])
    assert any("'coverage'" in said for said in alone["said"]) is (most > 2)


def test_a_repeated_step_reports_each_partition_once(
    holding: Callable[[str], Path], busy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_clock(monkeypatch, BUSY.now, steps)
    monkeypatch.setattr(failures, "WAIT", 0)
    log_events = steps.log_events
    killed: list[None] = []

    def dies_once(context: dg.OpExecutionContext, events: Iterable[Event]) -> None:
        log_events(context, events if killed else islice(events, 5))
        if not killed:
            killed.append(None)
            raise StoreUnavailable("the catalog has gone away")

    config = {"archive_dirs": [str(busy)], "intervals": "30,60,240", "api_backfill": False}
    alone = ran(settings_of(holding("in_process")), "ingest", **config)
    monkeypatch.setattr(steps, "log_events", dies_once)
    settings = settings_of(holding("multiprocess"), kraken_executor="multiprocess", kraken_workers=1)
    grouped = ran(settings, "ingest", **config)
    assert killed
    assert grouped["reported"] == alone["reported"]
    assert grouped["left"] == alone["left"]


def test_a_reconciliation_in_groups_is_one_in_one_step(homes: Callable[[str], Path]) -> None:
    alone, grouped = both(homes, "reconcile", full=True)
    assert alone["steps"] == ["find_changed_pairs", "compare_intervals"]
    assert len(groups_in(grouped, "compare_pairs")) == 3
    assert any(step.endswith("_XBTUSD]") for step in grouped["steps"]), "the UI shows the first pair of each group"
    for what in ("left", "outcome", "reported"):
        assert grouped[what] == alone[what]
    assert alone["outcome"]["pairs_compared"] == 3
    assert alone["left"]["contradictions"]
    assert alone["left"]["to search"] == alone["left"]["marked"] == []


@pytest.mark.parametrize("is_repair", [False, True], ids=["verified", "repaired"])
def test_a_verification_in_groups_is_one_in_one_step(
    homes: Callable[[str], Path], tmp_path: Path, *, is_repair: bool
) -> None:
    def damaged(name: str) -> Path:
        home = homes(name)
        (path,) = (home / "lake").glob("interval=240/pair=XBTUSD*/*.parquet")
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        (path,) = (home / "lake").glob("interval=60/pair=ADAEUR*/*.parquet")
        path.unlink()
        return home

    config = {"repair": True, "archive_dirs": [str(tmp_path / "in")], "api_backfill": False} if is_repair else {}
    alone, grouped = both(damaged, "verify_lake", **config)
    assert len(groups_in(grouped, "compare_files")) == 3
    for what in ("left", "outcome", "reported"):
        assert grouped[what] == alone[what]
    assert alone["outcome"]["files_set_aside" if is_repair else "files_damaged"] == 2


@pytest.mark.parametrize(
    ("config", "groups"),
    [
        ({}, 2),
        ({"complete": True, "end": BEGIN + 8 * DAY}, 2),
        ({"budget": 5}, 0),
        ({"pairs": "XBTUSD", "intervals": "60"}, 1),
    ],
    ids=["within the lookback", "complete", "a budget that does not suffice", "one pair"],
)
def test_a_backfill_in_groups_makes_the_requests_of_one_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], groups: int
) -> None:
    home = write_home(tmp_path / "home", write_hours(tmp_path / "archives"))
    stop_clock(monkeypatch, NOW, steps)
    found, requests = [], []
    for executor in ("in_process", "multiprocess"):
        with DemoExchange(SUMMER, clock=FixedClock(NOW)) as exchange:
            folder = copied(home, tmp_path / executor)
            settings = settings_of(folder, kraken_api_url=exchange.url, kraken_executor=executor, kraken_workers=1)
            found.append(ran(settings, "backfill_gaps_incremental", **config))
            requests.append(asked(exchange))
    alone, grouped = found
    assert len(groups_in(grouped, "request_candles")) == groups
    of_all = [[request for request in some if request != "SystemStatus"] for some in requests]
    assert of_all[0] == of_all[1]
    more = len(requests[1]) - len(requests[0])
    assert 0 <= more <= groups, "a process that needs the exchange's clock asks for it"
    assert grouped["outcome"].pop("requests") == alone["outcome"].pop("requests") + more
    assert len(requests[0]) > 3
    for what in ("left", "outcome", "reported"):
        assert grouped[what] == alone[what], what


@pytest.mark.parametrize(("budget", "groups"), [(None, 3), (12, 0)], ids=["without a budget", "with a budget"])
def test_a_proof_in_groups_makes_the_requests_of_one_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int | None, groups: int
) -> None:
    for pair, defects in (("XBTUSD", []), ("ADAEUR", [SHORT]), ("ZORKUSD", [])):
        write_csv(tmp_path / "in", SPRING, pair, Interval.H1, start=START, end=Q1.end, defects=defects)
    with opened(settings_of(tmp_path / "home")) as stores:
        run(stores, tmp_path / "in", intervals="60", api_backfill=False)
    stop_clock(monkeypatch, SPRING.now, steps)
    found, requests = [], []
    for executor in ("in_process", "multiprocess"):
        with DemoExchange(SPRING, clock=FixedClock(SPRING.now)) as exchange:
            folder = copied(tmp_path / "home", tmp_path / executor)
            settings = settings_of(folder, kraken_api_url=exchange.url, kraken_executor=executor, kraken_workers=1)
            found.append(ran(settings, "prove", depth="day", budget=budget))
            requests.append([request for request in asked(exchange) if request != "SystemStatus"])
    alone, grouped = found
    assert len(groups_in(grouped, "count_trades_of_pairs")) == groups
    assert requests[0] == requests[1]
    more = grouped["outcome"].pop("requests") - alone["outcome"].pop("requests")
    assert 0 <= more <= groups, "a group that makes requests asks for the status first"
    for what in ("left", "outcome", "reported"):
        assert grouped[what] == alone[what], what
    assert alone["left"]["counts"]
    assert bool(alone["outcome"]["spans_refuted"]) is (budget is None), "one candle lacks trades"
