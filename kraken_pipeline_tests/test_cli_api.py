from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kraken_pipeline.cli import options
from kraken_pipeline.demo.archives import write_csv
from kraken_pipeline.demo.clock import FixedClock
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import Fault, HttpStatus, Refusal, SystemState
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.orchestration import steps
from kraken_pipeline.storage.exchange_state.counters import Counters
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.support.exchanges import (
    ARCHIVED,
    BEGIN,
    NOW,
    PAIRS,
    REACH,
    SUMMER,
    UNCONTRADICTED,
    asked,
    copied,
    happened,
    stop_clock,
    write_hours,
)
from kraken_pipeline_tests.support.homes import digest_of, settings_of, stored
from kraken_pipeline_tests.support.shell import Said, shell

pytestmark = pytest.mark.slow

HOUR = 3_600
REFUSED = Refusal("EQuery:Unknown asset pair")


@pytest.fixture(scope="module", autouse=True)
def _stopped_clock() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        stop_clock(patch, NOW, options, steps)
        yield


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hours(tmp_path_factory.mktemp("archives"))


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with nothing but a history of runs that is empty; only to be copied."""
    home = tmp_path_factory.mktemp("untouched") / "home"
    assert shell(home, "status").code == 0
    with opened(settings_of(home)):
        return home


@pytest.fixture(scope="module")
def ingested(untouched: Path, archives: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """A home with the hours of the first five days, of which the exchange was asked for nothing; only to be copied."""
    home = copied(untouched, tmp_path_factory.mktemp("ingested"))
    with DemoExchange(SUMMER, clock=FixedClock(NOW)) as exchange:
        options = ("--archive-dir", str(archives), "--intervals", "60", "--no-api-backfill", "--json")
        said = shell(home, "ingest", *options, KRAKEN_API_URL=exchange.url)
        assert exchange.requests == ()
    return home, said


@pytest.fixture
def home(ingested: tuple[Path, Said], tmp_path: Path) -> Path:
    return copied(ingested[0], tmp_path)


@pytest.fixture
def exchange() -> Iterator[DemoExchange]:
    with DemoExchange(SUMMER, clock=FixedClock(NOW)) as exchange:
        yield exchange


def ask(home: Path, exchange: DemoExchange, *arguments: str, **variables: str) -> Said:
    return shell(home, *arguments, KRAKEN_API_URL=exchange.url, **variables)


def hours_of(home: Path, pair: str) -> list[tuple[float, ...]]:
    with opened(settings_of(home)) as stores:
        return stored(stores, pair, 60)


# --- ingest


def test_an_ingest_without_the_api_asks_for_nothing(ingested: tuple[Path, Said]) -> None:
    home, said = ingested
    assert said.code == 0
    assert (said.json["outcome"]["requests"], said.json["outcome"]["fetches_failed"]) == (0, 0)
    for pair in PAIRS:
        assert hours_of(home, pair) == happened(pair, 60, BEGIN, ARCHIVED)


def test_an_ingest_fills_what_is_recent_through_the_api(
    untouched: Path, archives: Path, tmp_path: Path, exchange: DemoExchange
) -> None:
    home = copied(untouched, tmp_path)
    options = ("--archive-dir", str(archives), "--intervals", "60", "--api-backfill", "--json")
    said = ask(home, exchange, "ingest", *options)
    assert said.code == 0
    assert asked(exchange) == ["AssetPairs", "AssetPairs", "OHLC ADAEUR 60", "OHLC XBTUSD 60", "SystemStatus"]
    assert said.json["outcome"]["requests"] == 5
    assert "requesting candles: " in said.err
    assert re.search(r"done: 5 of about 5 requests, 0 left, about 0 s", said.err)
    for pair in PAIRS:
        newest = happened(pair, 60, REACH)
        assert hours_of(home, pair)[-len(newest) :] == newest
    # What is older than OHLC reaches, and than the lookback, is left.
    left = ask(home, exchange, "gaps", "--intervals", "60", "--json").json
    assert {(gap["pair"], gap["end"], gap["route"]) for gap in left} == {(pair, iso(REACH), "TRADES") for pair in PAIRS}


def test_an_ingest_until_nothing_fillable_is_left_leaves_nothing(
    untouched: Path, archives: Path, tmp_path: Path, exchange: DemoExchange
) -> None:
    home = copied(untouched, tmp_path)
    options = ("--archive-dir", str(archives), "--intervals", "60,1440", "--complete")
    said = ask(home, exchange, "ingest", *options, KRAKEN_MAX_REQUESTS_PER_GAP="0", KRAKEN_MAX_REQUESTS_PER_RUN="1")
    assert said.code == 0
    assert "100.00 % complete over 4 series of 2 pairs" in said.out
    assert f"with {len(exchange.requests)} requests in " in said.out
    assert ask(home, exchange, "gaps", "--intervals", "60,1440", "--json").json == []
    with opened(settings_of(home)) as stores:
        for pair in PAIRS:
            assert stored(stores, pair, 60) == happened(pair, 60)
            assert stored(stores, pair, 1440) == happened(pair, 1440)
    before = len(exchange.requests)
    assert ask(home, exchange, "ingest", *options).code == 0
    assert len(exchange.requests) == before, "everything is known by now"


# --- backfill


def test_a_backfill_does_what_its_options_say(home: Path, exchange: DemoExchange) -> None:
    start, end = REACH + 10 * DAY, REACH + 20 * DAY
    said = ask(
        home,
        exchange,
        *("backfill", "--tier", "TIER1", "--pairs", "XBTUSD", "--intervals", "60,240"),
        *("--start", iso(start), "--end", iso(end), "--lookback-days", "40"),
        *("--max-gaps", "1", "--budget", "50", "--json"),
    )
    assert said.code == 0
    told = said.json
    assert (told["job"], told["tier"], told["intervals"]) == ("backfill_gaps_incremental", "TIER1", [60, 240])
    assert (told["start"], told["end"], told["assets"]) == (iso(start), iso(end), ["XBTUSD"])
    assert (told["status"], told["error"], told["files_total"]) == ("SUCCESS", None, 0)
    assert told["outcome"] == {"requests": 4, "fetches_failed": 0, **UNCONTRADICTED, "errors": [], "notes": []}
    assert [each for each in asked(exchange) if "OHLC" in each] == ["OHLC XBTUSD 60"]
    with opened(settings_of(home)) as stores:
        assert stored(stores, "XBTUSD", 240, start, end) == happened("XBTUSD", 240, start, end)
        assert stored(stores, "XBTUSD", 240, end) == []


def test_only_what_the_lookback_reaches_is_asked_for_and_no_more_gaps_than_allowed(
    home: Path, exchange: DemoExchange, tmp_path: Path
) -> None:
    # A day of the last three is known, so that there is a gap on either side of it.
    midnight = NOW - 1_234
    known = write_csv(tmp_path, SUMMER, "ADAEUR", Interval.H1, start=midnight - 2 * DAY, end=midnight - DAY)
    options = ("--archive-dir", str(known), "--intervals", "60", "--no-api-backfill")
    assert ask(home, exchange, "ingest", *options).code == 0

    def spans(*options: str) -> list[tuple[str, int]]:
        said = ask(
            home, exchange, "backfill", "--intervals", "60", "--pairs", "ADAEUR", "--dry-run", "--json", *options
        )
        return [(fetch["source"], fetch["spans"]) for fetch in said.json]

    assert spans("--lookback-days", "1") == [("OHLC", 1)]
    assert spans("--lookback-days", "7", "--max-gaps", "1") == [("OHLC", 1)]
    assert spans("--lookback-days", "7") == [("OHLC", 2)]
    assert spans("--lookback-days", "40") == [("OHLC", 2), ("TRADES", 1)]
    assert spans("--complete", "--max-gaps", "1") == [("OHLC", 2), ("TRADES", 1)]
    assert spans("--start", iso(NOW - DAY)) == [("OHLC", 1)]


def test_a_dry_run_says_what_would_be_asked_for_and_what_that_costs(home: Path, exchange: DemoExchange) -> None:
    before = digest_of(home)
    options = ("backfill", "--intervals", "60,1440", "--lookback-days", "40", "--dry-run")
    told = ask(home, exchange, *options, "--json")
    assert (told.code, told.err) == (0, "")
    (first, *others) = told.json
    assert first == {
        "pair": "ADAEUR",
        "interval": 60,
        "source": "OHLC",
        "start": iso(REACH),
        "end": iso(NOW - 1_234),
        "spans": 1,
        "requests": 1,
        "serves": [60],
        "expires_at": iso(REACH + 721 * HOUR),
    }
    assert [(each["pair"], each["source"]) for each in others] == [
        ("XBTUSD", "OHLC"),
        ("ADAEUR", "TRADES"),
        ("XBTUSD", "TRADES"),
    ]
    shown = ask(home, exchange, *options, KRAKEN_API_RATE="0.01")
    assert re.search(r"OHLC\s+ADAEUR\s+60\s+2023-07-11\s+2023-08-10", shown.out)
    assert "4 requests, about 7 min." in shown.out
    closing = "At the end, trades are counted by their ids. "
    assert closing not in shown.out
    counted = ask(home, exchange, *options, "--complete").out.partition(closing)[2]
    assert re.match(r"\d+ requests for the ids of trades at the edges of \d+ spans", counted)
    assert digest_of(home) == before
    nothing = ask(home, exchange, "backfill", "--intervals", "60", "--end", iso(BEGIN + DAY), "--dry-run")
    assert nothing.out == "No requests are needed: no gap within the limits needs the exchange.\n"
    assert exchange.requests == ()
    assert digest_of(home) == before


def test_progress_tells_the_requests_that_are_left_and_for_how_long(home: Path, exchange: DemoExchange) -> None:
    said = ask(home, exchange, "backfill", "--intervals", "60", "--lookback-days", "40")
    assert said.code == 0
    lines = [line for line in said.out.splitlines() if " left, about " in line]
    phases = ["requesting candles", "reconciling", "paging through trades", "finding gaps", "reporting", "done"]
    assert list(dict.fromkeys(line.partition(":")[0] for line in lines)) == phases
    first = re.fullmatch(r"requesting candles: 3 of about (\d+) requests, (\d+) left, about \d+ s", lines[0])
    assert first is not None
    # Two replies of OHLC, and the trades of two pairs, of which about one page each was expected.
    assert (int(first[1]), int(first[2])) == (7, 4)
    assert [line.partition(":")[0] for line in lines if line.endswith(" about 0 s")] == ["done"]
    assert re.search(
        rf"SUCCESS run [0-9a-f]{{8}}: [\d,]+ candles stored with {len(exchange.requests)} requests", said.out
    )
    assert "files" not in said.out
    assert "100.00 % complete over 2 series of 2 pairs" in said.out


def test_a_pair_without_history_is_fetched_from_its_first_trade_on(
    untouched: Path, tmp_path: Path, exchange: DemoExchange
) -> None:
    home = copied(untouched, tmp_path)
    said = ask(home, exchange, "backfill", "--pairs", "ADA/EUR", "--intervals", "60", "--json")
    assert said.code == 0
    assert said.json["assets"] == ["ADAEUR"]
    assert hours_of(home, "ADAEUR") == happened("ADAEUR", 60)
    assert ask(home, exchange, "gaps", "--intervals", "60", "--json").json == []


def test_a_pair_that_nobody_knows_fails_with_a_sentence(home: Path, exchange: DemoExchange) -> None:
    said = ask(home, exchange, "backfill", "--pairs", "NOPEUSD", "--json")
    assert said.code == 1
    assert said.json["error"].startswith("NOPEUSD is unknown: neither the lake nor the exchange has it")


# --- how it went


def test_a_fetch_that_failed_is_exit_code_1_and_the_rest_is_done(home: Path, exchange: DemoExchange) -> None:
    exchange.inject(Fault(REFUSED, endpoint="OHLC", pair="ADAEUR"))
    said = ask(home, exchange, "backfill", "--intervals", "60")
    assert said.code == 1
    assert re.search(r"SUCCESS run [0-9a-f]{8}: ", said.out)
    assert "1 fetch from the exchange failed; the next run tries its gaps again" in said.out
    assert "OHLC of ADAEUR 60: Kraken refused OHLC pair=ADAEUR" in said.out
    assert hours_of(home, "XBTUSD")[-1] == happened("XBTUSD", 60)[-1]


def test_an_exchange_that_is_in_maintenance_or_not_to_be_reached_is_no_failure(
    home: Path, exchange: DemoExchange
) -> None:
    before = hours_of(home, "ADAEUR")
    exchange.inject(Fault(SystemState("maintenance"), endpoint="SystemStatus"))
    in_maintenance = ask(home, exchange, "backfill", "--intervals", "60")
    unreachable = shell(home, "backfill", "--intervals", "60")
    for said, why in (
        (in_maintenance, "Kraken is in maintenance"),
        (unreachable, "SystemStatus: the connection failed"),
    ):
        assert said.code == 0
        assert f"No requests were made, and the gaps stay as they are: {why}" in said.out
    assert hours_of(home, "ADAEUR") == before
    assert {gap["attempts"] for gap in shell(home, "gaps", "--intervals", "60", "--json").json} == {0}


def test_a_budget_of_nothing_asks_for_nothing_and_says_so(home: Path, exchange: DemoExchange) -> None:
    said = ask(home, exchange, "backfill", "--intervals", "60", "--budget", "0", "--json")
    assert (said.code, exchange.requests) == (0, ())
    assert said.json["outcome"]["notes"] == ["The budget allows no request: no requests were made."]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("backfill", "--lookback-days", "366"), "lookback_days=366: Input should be less than or equal to 365"),
        (("backfill", "--max-gaps", "0"), "max_gaps_per_asset=0: Input should be greater than or equal to 1"),
        (("backfill", "--budget", "-1"), "budget=-1: Input should be greater than or equal to 0"),
        (("backfill", "--pairs", "ADAEUR", "--tier", "TIER2"), "ADAEUR is in TIER1, not in TIER2"),
        (("backfill", "--intervals", "61"), "interval '61' does not exist"),
        (("backfill", "--pairs", "ETHUSD", "--dry-run"), "ETHUSD is unknown"),
        (("dead-letters", "retry", "--id", "7", "--id", "5"), "5, 7: no failed fetch has that number"),
    ],
)
def test_wrong_use_is_exit_code_2_and_a_sentence(
    ingested: tuple[Path, Said], arguments: tuple[str, ...], sentence: str
) -> None:
    home, _ = ingested
    before = digest_of(home)
    said = shell(home, *arguments)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("kraken-pipeline: ")
    assert sentence in said.err
    assert digest_of(home) == before


def test_only_an_ingest_can_be_resumed(untouched: Path, tmp_path: Path) -> None:
    home = copied(untouched, tmp_path)
    failed = shell(home, "backfill", "--json")
    assert failed.code == 1
    assert failed.json["error"].startswith("the lake is empty: ingest archives first, or name the pairs to fetch")
    said = shell(home, "ingest", "--resume", failed.json["run_id"][:8])
    assert said.code == 2
    assert "is a run of backfill_gaps_incremental; only an ingest can be resumed" in said.err


# --- the cache


def test_the_cache_says_how_well_it_serves_and_forgets_what_it_is_told_to(home: Path, exchange: DemoExchange) -> None:
    nothing = {"hit_rate": None, "hits": 0, "misses": 0, "cold": 0, "stale": 0, "keys": 0, "bytes": 0}
    assert ask(home, exchange, "cache", "stats", "--json").json == nothing
    assert "no lookups in the last day" in ask(home, exchange, "cache", "stats").out
    ask(home, exchange, "backfill", "--intervals", "60")
    told = ask(home, exchange, "cache", "stats", "--json").json
    # The lists of the two classes of pairs are looked up more than once; two replies of OHLC were asked for.
    assert (told["keys"], told["cold"], told["misses"], told["stale"], told["hit_rate"]) == (4, 4, 0, 0, 1.0)
    assert told["hits"] > 0
    assert told["bytes"] > 100
    shown = ask(home, exchange, "cache", "stats").out
    assert shown.startswith(
        f"100% hits in the last day: {told['hits']} hits, 0 misses, 4 requested for the first time, 0 served stale; "
    )
    assert re.search(r"; 4 keys with 0\.\d MiB on disk\.$", shown)

    cleared = ask(home, exchange, "cache", "clear", "--prefix", "replies:OHLC:XBTUSD")
    assert (cleared.code, cleared.out, cleared.err) == (0, "", "1 reply deleted\n")
    assert ask(home, exchange, "cache", "clear", "--prefix", "elsewhere").err == "0 replies deleted\n"
    assert ask(home, exchange, "cache", "stats", "--json").json["keys"] == 3
    assert ask(home, exchange, "cache", "clear").err == "3 replies deleted\n"


# --- what failed for good


@pytest.fixture
def given_up(home: Path, exchange: DemoExchange) -> dict[str, int]:
    """Pair → the number of the operation that failed for good."""
    for pair in PAIRS:
        exchange.inject(Fault(REFUSED, endpoint="OHLC", pair=pair))
    assert ask(home, exchange, "backfill", "--intervals", "60").code == 1
    rows = ask(home, exchange, "dead-letters", "list", "--json").json
    span = {"route": "OHLC", "start": iso(REACH), "end": iso(NOW - 1_234)}
    assert [row["operation"] for row in rows] == [span, span]
    assert {row["location"] for row in rows} == {f"OHLC of {pair} 60" for pair in PAIRS}
    return {row["pair"]: row["id"] for row in rows}


def test_operations_that_failed_for_good_are_listed_with_what_to_do_and_done_again(
    home: Path, exchange: DemoExchange, given_up: dict[str, int]
) -> None:
    listed = ask(home, exchange, "dead-letters", "list").out
    assert re.search(rf"{given_up['ADAEUR']}\s+OHLC of ADAEUR 60\s+{iso(REACH)} to \S+Z\s+Kraken refused", listed)
    assert "Fetches can be retried: kraken-pipeline dead-letters retry" in listed
    before = len(exchange.requests)
    one = ask(home, exchange, "dead-letters", "retry", "--id", str(given_up["ADAEUR"]), "--json")
    assert one.code == 0
    told = one.json
    assert (told["job"], told["status"], told["assets"]) == ("retry_dead_letters", "SUCCESS", ["ADAEUR"])
    assert told["outcome"]["requests"] == len(exchange.requests) - before
    assert [each.pair for each in exchange.requests[before:] if each.endpoint == "OHLC"] == ["ADAEUR"]
    assert hours_of(home, "ADAEUR")[-1] == happened("ADAEUR", 60)[-1]
    all_ = ask(home, exchange, "dead-letters", "retry")
    assert all_.code == 0
    assert re.search(r"SUCCESS run [0-9a-f]{8}: ", all_.out)
    assert hours_of(home, "XBTUSD")[-1] == happened("XBTUSD", 60)[-1]
    assert ask(home, exchange, "dead-letters", "list", "--json").json == []
    nothing = ask(home, exchange, "dead-letters", "retry", "--json")
    assert (nothing.code, nothing.json) == (0, [])
    assert nothing.err == "No fetch has failed for good: there is nothing to retry.\n"


def test_what_fails_again_is_exit_code_1_and_stays_listed(
    home: Path, exchange: DemoExchange, given_up: dict[str, int]
) -> None:
    exchange.inject(Fault(REFUSED, endpoint="OHLC", pair="XBTUSD"))
    said = ask(home, exchange, "dead-letters", "retry")
    assert said.code == 1
    assert "OHLC of XBTUSD 60: Kraken refused" in said.out
    assert [row["pair"] for row in ask(home, exchange, "dead-letters", "list", "--json").json] == ["XBTUSD"]


# --- health


def test_health_warns_of_an_exchange_that_is_left_alone(home: Path, exchange: DemoExchange) -> None:
    exchange.inject(Fault(HttpStatus(503), times=3))
    settings = {"KRAKEN_BREAKER_FAILURES": "3"}
    assert ask(home, exchange, "backfill", "--intervals", "60", **settings).code == 0
    said = ask(home, exchange, "health", "--json", **settings)
    assert (said.code, said.json["status"]) == (0, "warning")
    checks = {check["name"]: check for check in said.json["checks"]}
    assert checks["exchange"]["status"] == "warning"
    assert re.fullmatch(
        r"the circuit is OPEN after 3 failures in a row; one process tries again at \S+Z", checks["exchange"]["detail"]
    )
    assert re.search(r"warning\s+exchange\s+the circuit is OPEN", ask(home, exchange, "health", **settings).out)
    # Meanwhile nobody asks it.
    before = len(exchange.requests)
    left_alone = ask(home, exchange, "backfill", "--intervals", "60", **settings)
    assert (left_alone.code, len(exchange.requests)) == (0, before)
    assert "requests are made until" in left_alone.out


def test_health_warns_of_many_errors_and_few_hits(home: Path) -> None:
    with opened(settings_of(home)) as stores:
        counters = Counters(stores.catalog)
        for name, count in {"api.requests": 100, "api.errors": 11, "cache.hits": 49, "cache.misses": 51}.items():
            counters.add(name, count)
        counters.flush()
    said = shell(home, "health", "--json")
    assert (said.code, said.json["status"]) == (0, "warning")
    checks = {check["name"]: (check["status"], check["detail"]) for check in said.json["checks"]}
    assert checks["requests"][0] == "warning"
    assert "more than 10% fail" in checks["requests"][1]
    assert checks["cache"] == ("warning", "49% of 100 lookups in the last day were hits: below 50%")
