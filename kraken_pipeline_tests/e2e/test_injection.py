"""Whatever is said to the program, by whomever: no server is told it as part of a statement.

Hostile texts are fed into every entry, each with a mark that nothing else has. Then what reached the servers is read:
the marks are among the values, and in no text; every text holds names, places for values, and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import psycopg
import pytest
import redis
import sqlalchemy as sa

import kraken_pipeline
from kraken_pipeline.cli import options
from kraken_pipeline.definitions import build_definitions
from kraken_pipeline.demo.clock import FixedClock
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import Fault, Refusal
from kraken_pipeline.demo.listing import Listing
from kraken_pipeline.demo.world import World
from kraken_pipeline.errors import InvalidRequest, plain
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.orchestration import steps
from kraken_pipeline.orchestration.resources import STORES, stores_resource
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.database import open_catalog
from kraken_pipeline.storage.questdb import tables as questdb_schema
from kraken_pipeline.storage.questdb.client import QuestDB
from kraken_pipeline.storage.questdb.values import READ_SCHEMA
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.support import servers
from kraken_pipeline_tests.support.exchanges import BEGIN, NOW, stop_clock
from kraken_pipeline_tests.support.homes import oracle, settings_of, stored
from kraken_pipeline_tests.support.servers import PostgreSQL
from kraken_pipeline_tests.support.shell import Said, environment, shell
from kraken_pipeline_tests.support.statements import (
    Commands,
    Reader,
    Requests,
    Tap,
    Walk,
    Wire,
    loose_statements,
    values_in,
)

pytestmark = pytest.mark.slow
MARK = "zqx"
"""What every hostile text has in it, and nothing else."""
PAYLOADS = (
    "zqx'); DROP TABLE gaps; --",
    "XBTUSD' OR 'zqx'='zqx",
    'zqx"; DELETE FROM files; --',
    "zqx\u2019; DROP TABLE candles_1h; \u2015\u2015",
    "zqx%s%(pair)s%%",
    "zqx$1 $zqx$",
    "{0}{pair!r}zqx",
    "zqx\\'; DROP TABLE grants; --",
    "zqx'||(SELECT 1)||'",
    "zqx\r\nFLUSHALL\r\n",
    "zqx\x1b[2J\x07",
    "zqx\udcff'",
    "zqx\x00'",
    "'; DROP TABLE coverage; --" + "zqx" * 2_000,
)
NAME = 'it\'s "zqx"; DROP TABLE gaps; -- $1 \u2019 {0}'
"""What folders are called."""
STRANGE = Listing("EVILxUSD", "E'); DROP TABLE zqx; --", "EV'IL/U\"zqx;D", "zqx'EVIL", "Z'zqx", 2, 10.0, 1.0, 30, BEGIN)
"""A pair with a good name among bad ones: its key, its assets."""
PAIRS = ("AAPLxUSD", "ETH2.SEUR", "EVILxUSD", "XBTUSD")
WORLD = World(
    3,
    (
        STRANGE,
        Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 28_000.0, 0.006, 40, BEGIN),
        Listing("AAPLxUSD", "AAPLxUSD", "AAPLx/USD", "AAPLx", "ZUSD", 2, 214.5, 0.35, 30, BEGIN, tokenized=True),
        Listing("ETH2.SEUR", "ETH2.SEUR", "ETH2.S/EUR", "ETH2.S", "ZEUR", 2, 1_700.0, 0.2, 30, BEGIN),
    ),
    NOW,
)
GOOD = "".join(f"{BEGIN + hour * 3_600},1,2,1,2,3,4\n" for hour in range(3))


class HostileExchange(DemoExchange):
    """An exchange that also lists pairs whose names are none."""

    def answer(self, endpoint: str, params: Mapping[str, str], caller: str) -> Any:
        answer = super().answer(endpoint, params, caller)
        if endpoint != "AssetPairs":
            return answer
        body = json.loads(answer.body)
        for each in PAYLOADS:
            body["result"][each] = {"altname": each, "wsname": f"{each}/{each}", "base": each, "quote": each}
        return replace(answer, body=json.dumps(body).encode())


# --- what the servers were told


@dataclass(slots=True)
class Told:
    """What reached the servers.

    Attributes:
        texts: The texts of statements, by server.
        values: All values of parameters, as bytes.
    """

    texts: dict[str, Sequence[str]] = field(default_factory=dict)
    values: Callable[[], bytes] = bytes

    def smuggled(self) -> dict[str, set[str]]:
        """What stands in a text and should be a value, by server."""
        return {server: found for server, texts in self.texts.items() if (found := _smuggled(texts))}


_OF_SCHEMA = {
    each
    for interval in Interval
    for text in (
        questdb_schema.create_table(interval),
        questdb_schema.view_query(),
        questdb_schema.checksum_sql().replace("%%", "%"),
    )
    for each in values_in(text)
}
_FIXED = _OF_SCHEMA | {"'advisory'", "0", "1", "24", "60000", "'ISO'"}
"""Values that the program itself writes into statements; the test says so where there is another."""


def _bare(text: str) -> str:
    """A text without what the libraries write: the ping of an idle connection, and numbers of rows that are sorted."""
    return re.sub(r", \d+\)", ")", text) if " AS imp_sen(" in text else text.removesuffix(";") if text == ";" else text


def _smuggled(texts: Sequence[str]) -> set[str]:
    found = {f"a mark in {text!r}" for text in texts if MARK in text.lower()}
    found |= {f"{pair} in {text!r}" for pair in PAIRS for text in texts if pair in text}
    return found | {f"{each} in {text!r}" for text in set(texts) for each in values_in(_bare(text)) - _FIXED}


@contextmanager
def listening() -> Iterator[tuple[list[str], list[str]]]:
    """What SQLAlchemy has SQLite execute in this process: texts, and values."""
    texts: list[str] = []
    values: list[str] = []

    def listen(
        connection: sa.Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> None:
        if str(connection.engine.url.database).endswith("catalog.sqlite"):
            texts.append(statement)
            values.extend(_flat(parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", listen)
    try:
        yield texts, values
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", listen)


def _flat(parameters: Any) -> Iterator[str]:
    """The values of one row or of many."""
    if isinstance(parameters, dict | list | tuple):
        for each in parameters.values() if isinstance(parameters, dict) else parameters:
            yield from _flat(each)
    else:
        yield str(parameters)


# --- what is said to the program


def write_archives(folder: Path) -> Path:
    """A folder of archives in which everything that can be hostile is, and the hours of XBTUSD to be taken."""
    folder.mkdir(parents=True)
    (folder / "XBTUSD_60.csv").write_text(
        GOOD + "".join(f"{BEGIN + 36_000},{each!r},2,1,2,3,4\n" for each in PAYLOADS), encoding="utf-8"
    )
    (folder / "ETH2.SEUR_60.csv").write_bytes(
        b"".join(os.fsencode(each).replace(b"\r\n", b"") + b"\n" for each in PAYLOADS) + GOOD.encode()
    )
    for number, each in enumerate(PAYLOADS):
        name = os.fsencode(each[:100].replace("/", "").replace("\x00", ""))
        inner = os.fsencode(folder) + b"/" + name
        Path(os.fsdecode(inner)).mkdir()
        for path, text in (
            (
                inner + b"/XBTUSD_60.csv",
                f"{BEGIN + number * 3_600},1,2,1,2,3,{number + 1}\n",
            ),  # hours, of a folder so named
            (inner + b"_60.csv", GOOD),  # a pair that is none
            (inner + b".zip", "no ZIP"),
        ):
            Path(os.fsdecode(path)).write_text(text, encoding="utf-8")
        with zipfile.ZipFile(os.fsdecode(inner + b".good.ZIP"), "w") as made:
            member = each.replace("\x00", "").encode("utf-8", "replace").decode()
            made.writestr(f"{member}/AAPLxUSD_60.csv", GOOD.replace(",3,4\n", f",3,{number + 5}\n"))
            made.writestr(f"{member}_60.csv", GOOD)
        with zipfile.ZipFile(folder / f"Kraken_OHLCVT_Q3_{2023 + number}.zip", "w") as release:
            release.writestr("XBTUSD_60.csv", GOOD)
            release.writestr("MANIFEST.json", json.dumps({"columns": [each], "coverage": {"start": each}}))
    return folder


ANYTHING = (0, 2)
OPTIONS: tuple[tuple[tuple[int, ...], tuple[str, ...]], ...] = (
    *(
        ((2,), (command, option, "{}"))
        for command in ("plan", "ingest", "backfill", "gaps", "report", "reconcile")
        for option in ("--pairs", "--intervals", "--tier", "--start", "--end")
    ),
    ((1, 2), ("plan", "--archive-dir", "{}")),
    ((2,), ("ingest", "--resume", "{}")),
    ((0, 2), ("backfill", "--dry-run", "--budget", "{}")),
    ((2,), ("backfill", "--lookback-days", "{}")),
    ((2,), ("export", "{}", "60", "--to", "x.csv")),
    ((2,), ("export", "XBTUSD", "{}", "--to", "x.csv")),
    ((2,), ("export", "XBTUSD", "60", "--to", "{}")),
    ((2,), ("export", "XBTUSD", "60", "--to", "x.csv", "--start", "{}")),
    ((2,), ("export", "XBTUSD", "60", "--to", "x.csv", "--end", "{}")),
    ((0, 1, 2), ("report", "--unfillable", "{}")),
    ((0, 1, 2), ("dead-letters", "export", "--to", "{}")),
    ((2,), ("dead-letters", "export", "--to", "x.csv", "--pairs", "{}")),
    ((2,), ("dead-letters", "list", "--pairs", "{}")),
    ((2,), ("dead-letters", "list", "--limit", "{}")),
    ((2,), ("dead-letters", "retry", "--id", "{}")),
    ((2,), ("status", "--limit", "{}")),
    (ANYTHING, ("cache", "clear", "--prefix", "{}")),
    ((2,), ("explain", "{}", "60", "2023-07-02")),
    ((2,), ("explain", "XBTUSD", "{}", "2023-07-02")),
    ((2,), ("explain", "XBTUSD", "60", "{}")),
    ((2,), ("resolve", "--reason", "zqx", "--file", "{}")),
    ((2,), ("resolve", "--reason", "zqx", "--release", "{}")),
    ((2,), ("resolve", "--file", "absent", "--reason", "{}")),
    *(
        (
            (2,),
            (
                *("resolve", "--reason", "zqx", "--span", "--pair", "XBTUSD", "--interval", "60"),
                *("--start", "2011-02-01", "--end", "2011-02-02", "--source", "CSV", option, "{}"),
            ),
        )
        for option in ("--pair", "--interval", "--start", "--end", "--source")
    ),
    ((2,), ("{}", "--json")),
)
"""What takes a text, with the exit codes that are clean."""
SETTINGS = (
    "KRAKEN_CACHE_ENVIRONMENT",
    "KRAKEN_SCHEDULE_TIER",
    "KRAKEN_SCHEDULE_INTERVALS",
    "KRAKEN_BACKFILL_CRON",
    "KRAKEN_LOG_LEVEL",
    "KRAKEN_LOG_FORMAT",
    "KRAKEN_API_ENDPOINT_RATES",
    "KRAKEN_API_RATE",
    "KRAKEN_CATALOG_URL",
    "KRAKEN_CACHE_URL",
    "KRAKEN_TIERS_FILE",
)
NUMBERS = ("--intervals", "--interval", "--start", "--end", "--budget", "--lookback-days", "--limit", "--id")
HUGE = ("9" * 30, "-" + "9" * 30)


@dataclass(frozen=True, slots=True)
class Siege:
    """A home, what is said to its program, and what that did.

    Attributes:
        home: The home.
        variables: Its settings.
        archives: Its hostile archives.
        exchange: Its hostile exchange.
    """

    home: Path
    variables: Mapping[str, str]
    archives: Path
    exchange: HostileExchange

    def say(self, *arguments: str, **variables: str) -> Said:
        return shell(self.home, *arguments, **{**self.variables, **variables})

    def everything(self) -> None:
        """One entry after the other."""
        self._archives()
        self._resolving()
        self._api()
        self._options()
        self._settings()
        self._job_configs()
        self._reading()

    def _archives(self) -> None:
        told = self.say("ingest", "--archive-dir", str(self.archives), "--no-api-backfill", "--json")
        assert (told.code, told.json["status"]) == (1, "SUCCESS"), told.json["error"]
        # No ZIPs, releases whose manifests are none, and a name in a ZIP that is too long.
        assert told.json["outcome"]["files_failed"] == 2 * len(PAYLOADS) + 1
        assert told.json["outcome"]["rows_rejected"] == 2 * len(PAYLOADS)
        assert told.json["files_ingested"] == 2 + 2 * len(PAYLOADS) - 1

    def _resolving(self) -> None:
        """Files with hostile places are taken back for hostile reasons, and told of."""
        for each in PAYLOADS[:4]:
            place = plain(str(self.archives.resolve() / each[:100].replace("/", "") / "XBTUSD_60.csv"))
            done = self.say("resolve", "--file", place, "--reason", each, "--json")
            assert (done.code, done.json["what"], done.json["reason"]) == (0, place, plain(each.strip())), done.err
        told = self.say("explain", "XBTUSD", "60", iso(BEGIN), "--json")
        assert told.code == 0, told.err
        assert PAYLOADS[0] in [each["reason"] for each in told.json["withdrawals"]]

    def _api(self) -> None:
        for half in (PAYLOADS[::2], PAYLOADS[1::2]):
            self.exchange.inject(Fault(Refusal(f"EQuery:Unknown asset pair:{'|'.join(half)}"), endpoint="OHLC"))
        fill = ("backfill", "--pairs", ",".join(PAIRS), "--intervals", "60", "--complete", "--json")
        failed = self.say(*fill)
        assert (failed.code, failed.json["outcome"]["fetches_failed"]) == (1, 2), failed.err
        retried = self.say("dead-letters", "retry", "--json")
        assert (retried.code, retried.json["status"]) == (0, "SUCCESS"), retried.err
        filled = self.say(*fill)
        assert (filled.code, filled.json["status"]) == (0, "SUCCESS"), filled.err

    def _options(self) -> None:
        for number, (codes, arguments) in enumerate(OPTIONS):
            is_path = arguments[-2:-1] in (("--to",), ("--unfillable",))
            # Another one for each option, and in the other test another again.
            payload = PAYLOADS[(number + len(self.variables)) % len(PAYLOADS)]
            for each in (payload, *(HUGE if arguments[-2] in NUMBERS else ())):
                given = each.replace("/", "") if is_path else each
                said = self.say(*(argument.replace("{}", given) for argument in arguments))
                assert said.code in codes, (arguments, each, said)
        failed = self.say("ingest", "--archive-dir", f"absent {PAYLOADS[0]}")
        assert (failed.code, "there is no file or folder" in failed.err) == (2, True)

    def _settings(self) -> None:
        for number, name in enumerate(SETTINGS):
            for step in (0, 4):
                payload = PAYLOADS[(number + step) % len(PAYLOADS)]
                if "\x00" not in payload:  # which no environment can hold
                    assert self.say("gaps", **{name: payload}).code == 2, (name, payload)
        both = {"KRAKEN_QUESTDB_PG_URL": "postgresql://127.0.0.1:9/qdb"}
        url = "http://127.0.0.1;tls_verify=unsafe_off;zqx=:9"
        assert self.say("gaps", KRAKEN_QUESTDB_URL=url, **both).code == 2
        tiers = self.home.parent / f"{NAME}.toml"
        rows = json.dumps([each for each in PAYLOADS if each.isprintable()])
        tiers.write_text(f'quotes = ["USD", "Z\'zqx"]\n[tiers]\nTIER1 = {rows}\n', encoding="utf-8")
        assert self.say("gaps", "--tier", "TIER1", KRAKEN_TIERS_FILE=str(tiers)).code == 0

    def _job_configs(self) -> None:
        lists = ("pairs", "intervals", "tier", "start", "end", "dry_run", "budget", "complete", "zqx")
        tries: list[tuple[str, dict[str, Any]]] = [
            *(("ingest", {name: each}) for name, each in zip(lists, PAYLOADS, strict=False)),
            *(("backfill_gaps_incremental", {name: [each]}) for name, each in zip(lists, PAYLOADS[3:], strict=False)),
            *(("report_data_completeness", {"pairs": ["XBTUSD", each]}) for each in PAYLOADS),
            ("validate_recent_data", {"archive_dirs": ["zqx\udcff"]}),
            ("validate_recent_data", {"archive_dirs": ["zqx\x00"]}),
            ("validate_recent_data", {"start": 10**30}),
            ("retry_dead_letters", {"ids": [PAYLOADS[0]]}),
            ("cleanup_old_gap_records", {"retention_days": PAYLOADS[0]}),
        ]
        with self._dagster() as run:
            for job, config in tries:
                with pytest.raises((dg.DagsterInvalidConfigError, dg.DagsterConfigMappingFunctionError)):
                    run(job, config)
            for job, config in (
                ("ingest", {"archive_dirs": [f"absent {PAYLOADS[0]}"]}),
                ("retry_dead_letters", {"ids": [10**30]}),
            ):
                assert not run(job, config).success
            assert run("report_data_completeness", {"archive_dirs": [PAYLOADS[0]], "pairs": list(PAIRS)}).success

    @contextmanager
    def _dagster(self) -> Iterator[Callable[[str, dict[str, Any]], dg.ExecuteInProcessResult]]:
        """Runs jobs of this home by their names."""
        with dg.DagsterInstance.ephemeral() as instance, pytest.MonkeyPatch.context() as patch:
            for name, value in {**environment(self.home), "KRAKEN_LOG_LEVEL": "CRITICAL", **self.variables}.items():
                patch.setenv(name, value)
            patch.chdir(self.home.parent)
            given = {name.lower(): value for name, value in self.variables.items()}
            settings = settings_of(self.home, **given)
            defined = build_definitions(resource_overrides={STORES: stores_resource(settings)})

            def run(job: str, config: dict[str, Any]) -> dg.ExecuteInProcessResult:
                found = defined.resolve_job_def(job)
                return found.execute_in_process(instance=instance, run_config=config, raise_on_error=False)

            yield run

    def _reading(self) -> None:
        for pair in PAIRS:
            path = self.home.parent / f"{pair}.csv"
            assert self.say("export", pair, "60", "--to", str(path), "--fill-quiet").code == 0
            assert path.stat().st_size > 0
        for command in (("plan",), ("gaps", "--all"), ("report",), ("dead-letters", "list"), ("status",), ("health",)):
            assert self.say(*command, "--json").code == 0, command


@contextmanager
def besieged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Iterator[Siege]:
    stop_clock(monkeypatch, NOW, options, steps)
    monkeypatch.setattr(options, "time", SimpleNamespace(time=lambda: float(NOW)))
    home = tmp_path / NAME / "home"
    home.parent.mkdir()
    with HostileExchange(WORLD, clock=FixedClock(NOW)) as exchange:
        yield Siege(
            home,
            {"KRAKEN_API_URL": exchange.url, "KRAKEN_BREAKER_FAILURES": "1000", **variables},
            write_archives(home.parent / "archives"),
            exchange,
        )


def assert_unharmed(siege: Siege) -> None:
    """Everything that was said is there as it was said, and everything else as if it had not been."""
    given = {name.lower(): value for name, value in siege.variables.items()}
    with opened(settings_of(siege.home, **given)) as stores:
        assert [each.name for each in stores.lake.asset_ids.pairs()] == sorted(PAIRS)
        for pair in PAIRS:
            end = Interval.H1.floor(NOW)
            true = {row[0]: row for row in oracle(pair, 60, BEGIN, end, WORLD)}
            kept = {row[0]: row for row in stored(stores, pair, 60)}
            assert true.keys() <= kept.keys(), pair
            assert {time: kept[time] for time in true if time >= BEGIN + 86_400} == {
                time: row for time, row in true.items() if time >= BEGIN + 86_400
            }, pair
        letters = siege.say("dead-letters", "list", "--limit", "1000", "--json").json
        said = "\n".join(f"{each['location']} {each['reason']} {each['text']}" for each in letters)
        for each in PAYLOADS:
            shown = plain(each)[:100]
            assert shown in said or repr(each)[1:-1][:100] in said, each


# --- the servers


def test_postgresql_questdb_and_redis_are_told_no_value_in_a_text(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    postgresql: PostgreSQL,
    postgresql_url: str,
    questdb: servers.QuestDB,
    redis_url: str,
) -> None:
    open_catalog(postgresql_url).close()  # migrations hold no value of anybody's, and say so in many words
    catalog, reading, lines, cache = Wire(), Wire(), Requests(), Commands()

    def tap(url: str, reader: Callable[[], Reader]) -> str:
        return stack.enter_context(Tap(url, reader)).url

    with ExitStack() as stack:
        variables = {
            "KRAKEN_CATALOG_URL": tap(postgresql_url, catalog.reader),
            "KRAKEN_QUESTDB_URL": tap(questdb.http_url, lines.reader),
            "KRAKEN_QUESTDB_PG_URL": tap(questdb.pg_url, reading.reader),
            "KRAKEN_QUESTDB_POOL_MIN": "1",
            "KRAKEN_CACHE_URL": tap(redis_url, cache.reader),
        }
        siege = stack.enter_context(besieged(tmp_path, monkeypatch, **variables))
        siege.everything()
        assert siege.say("publish", "--rebuild", "--verify", "--json").code == 0
        ask_questdb(siege)
        assert_unharmed(siege)

    tables = postgresql.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", postgresql_url)
    assert {name for (name,) in tables} == TABLES
    told = Told({"PostgreSQL": catalog.texts, "QuestDB": reading.texts})
    assert told.smuggled() == {}
    assert len(set(catalog.texts)) > 50
    assert_among([*catalog.values, *reading.values])

    # The server's own log says the same: of every text, not only of those that came this way.
    name = postgresql_url.rpartition("/")[2]
    logged = re.findall(
        rf"\[{name}\] LOG:  (?:execute \S+|statement): (.*)", postgresql.log.read_text(errors="replace")
    )
    assert len(logged) > len(set(catalog.texts))
    assert [each for each in logged if MARK in each.lower()] == []

    # Candles come to QuestDB as lines, which are no statements.
    assert {line.split("?")[0].split()[1] for line in lines.lines} <= {"/write", "/settings", "/ping"}
    assert questdb.execute("SELECT count() FROM tables() WHERE table_type = 'T'") == [(len(questdb_schema.TABLES),)]

    names = {each[0].upper() for each in cache.commands}
    assert names <= REDIS, names
    prefixes = [each for each in cache.commands if MARK.encode() in b" ".join(each)]
    assert {each[0].upper() for each in prefixes} <= {b"SCAN", b"SET"}, "a prefix, and a list of pairs"


TABLES = {*schema.metadata.tables, "alembic_version"}
REDIS = {
    b"AUTH",
    b"CLIENT",
    b"SELECT",
    b"PING",
    b"INFO",
    b"GET",
    b"MGET",
    b"SET",
    b"UNLINK",
    b"DEL",
    b"SCAN",
    b"STRLEN",
}
REDIS |= {b"EVALSHA", b"EVAL", b"SCRIPT", b"HELLO"}


def ask_questdb(siege: Siege) -> None:
    """The pairs with strange names, there and back; and names that are none."""
    given = {name.lower(): value for name, value in siege.variables.items()}
    urls = siege.variables["KRAKEN_QUESTDB_URL"], siege.variables["KRAKEN_QUESTDB_PG_URL"]
    with opened(settings_of(siege.home, **given)) as stores, QuestDB(*urls, pool=(1, 5)) as questdb:
        for pair in PAIRS:
            series = Series(pair, Interval.H1)
            assert questdb.candles(series).equals(stores.lake.read(series).select(READ_SCHEMA.names())), pair
        assert sorted(questdb.ranges(Interval.H1)) == sorted(PAIRS)
        assert questdb.latest(Interval.H1, PAIRS)["pair"].to_list() == sorted(PAIRS)
        sendable = [each for each in PAYLOADS if "\x00" not in each and "\udcff" not in each]
        for each in sendable:
            assert questdb.candles(Series(each, Interval.H1)).is_empty()
        assert questdb.ranges(Interval.H1, sendable) == {}
        assert questdb.latest(Interval.H1, sendable).is_empty()
        for wrong in (PAYLOADS[0], 1.5, True):
            with pytest.raises(InvalidRequest):
                questdb.candles(Series("XBTUSD", Interval.H1), wrong)  # type: ignore[arg-type]
            with pytest.raises(InvalidRequest):
                questdb.counts(wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest):
            questdb.latest(Interval.H1, PAYLOADS[0])
        quotes = {quote for (quote,) in questdb._fetch("SELECT DISTINCT quote_currency FROM candles_1h")}
        assert 'U"zqx;D' in quotes, "what the exchange calls it"


def assert_among(values: Sequence[bytes]) -> None:
    """The hostile texts did arrive: as values."""
    every = b"\n".join(values)
    for each in PAYLOADS:
        shown = plain(each)[:100]
        assert shown.encode() in every or repr(each)[1:-1][:100].encode("utf-8", "replace") in every, each
    for pair in PAIRS:
        assert pair.encode() in every, pair


def test_sqlite_is_told_no_value_in_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with besieged(tmp_path, monkeypatch) as siege:
        with opened(settings_of(siege.home)):
            """Migrations are done."""
        with listening() as (texts, values):
            siege.everything()
            assert_unharmed(siege)
        with closing(sqlite3.connect(siege.home / "catalog.sqlite")) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    assert {name for (name,) in tables} - {"sqlite_sequence"} == TABLES
    told = Told({"SQLite": [each for each in texts if not each.startswith("PRAGMA")]})
    assert told.smuggled() == {}
    assert len(set(texts)) > 50
    assert_among([each.encode("utf-8", "replace") for each in values])


# --- that all this sees anything


@pytest.mark.parametrize("value", PAYLOADS[:9])
def test_the_grep_sees_a_value_that_is_written_into_a_text(postgresql_url: str, value: str) -> None:
    wire = Wire()
    literal = value.replace("'", "''")
    with Tap(postgresql_url, wire.reader) as tapped, psycopg.connect(tapped.url, autocommit=True) as connection:
        assert connection.execute("SELECT %s::text", (value,)).fetchall() == [(value,)]
        assert Told({"PostgreSQL": wire.texts}).smuggled() == {}
        assert wire.values == [value.encode()]
        assert connection.execute(f"SELECT '{literal}'".encode()).fetchall() == [(value,)]
    assert Told({"PostgreSQL": wire.texts}).smuggled()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("SELECT a FROM b WHERE c = $1 AND d IN ($2, $3)", set()),
        ('SELECT "end", x1 FROM b WHERE c = ?', set()),
        ("SELECT a FROM b WHERE c = 'XBT''USD'", {"'XBT''USD'"}),
        ("SELECT a FROM b LIMIT 100", {"100"}),
        ("SELECT 1; DROP TABLE b -- $1", {"1", ";", "--"}),
        ("SELECT $zqx$ /* c */", {"$zqx$", "/*"}),
    ],
)
def test_what_stands_in_a_text_beside_names_and_places_is_seen(text: str, values: set[str]) -> None:
    assert values_in(text) == values


def test_a_tap_hears_redis_and_a_command_that_is_smuggled(redis_url: str) -> None:
    commands = Commands()
    with Tap(redis_url, commands.reader) as tapped, redis.Redis.from_url(tapped.url) as client:
        client.set("key\r\nFLUSHALL\r\n", "value")
        assert client.get("key\r\nFLUSHALL\r\n") == b"value"
    assert (b"SET", b"key\r\nFLUSHALL\r\n", b"value") in commands.commands
    reader = commands.reader()
    reader.feed(b"*1\r\n$4\r\nPI")
    reader.feed(b"NG\r\nFLUSHALL\r\n")
    assert commands.commands[-2:] == [(b"PING",), (b"INLINE", b"FLUSHALL\r\n")]


# --- the source


def test_no_statement_of_the_source_is_made_of_values() -> None:
    package = Path(kraken_pipeline.__file__).parent
    assert loose_statements(package) == {}
    counts = {path: len(Walk(path.read_text(), is_questdb=True).statements()) for path in package.rglob("*.py")}
    assert sum(counts.values()) > 100, "it sees them"
    storage = package / "storage"
    some = ("questdb/client.py", "records/evidence_records.py", "reply_cache/embedded_cache.py")
    assert min(counts[storage / name] for name in some) >= 7


CARELESS = {
    "an f-string": "connection.execute(sa.text(f'SELECT {name}'))",
    "a sum": "connection.execute(sa.text('SELECT ' + name))",
    "a percent sign": "connection.execute(sa.text('SELECT %s' % name))",
    "format": "connection.execute(sa.text('SELECT {}'.format(name)))",
    "join": "connection.execute(sa.text(', '.join(name)))",
    "replace": "connection.execute(sa.text('SELECT x'.replace('x', name)))",
    "a name": "query = f'SELECT {name}'\n    connection.exec_driver_sql(query)",
    "a name that is added to": "query = 'SELECT 1'\n    query += name\n    cursor.execute(query)",
    "one of two": "cursor.execute('SELECT 1' if name else name)",
    "several": "cursor.executemany(f'DELETE FROM {name}', [])",
    "a parameter": "cursor.execute(name)",
    "a helper's parameter": "ask(connection, name)\n\ndef ask(connection, text):\n    connection.execute(text)",
    "what a helper returns": "cursor.execute(made(name))\n\ndef made(name):\n    return f'SELECT {name}'",
    "a loop": "for each in name:\n        cursor.execute(each)",
    "an attribute": "cursor.execute(name.text)",
    "an element": "cursor.execute(TABLES[name])",
    "a literal column": "sa.select(sa.literal_column(name))",
    "a table": "sa.select(sa.table(name))",
    "an operator": "sa.select(x.op(name)(1))",
    "a prefix": "sa.select(x).prefix_with(name)",
    "a function by its name": "sa.select(getattr(sa.func, name)(1))",
    "QuestDB": "self._fetch(f'SELECT {name}')",
    "the schema's names are not everybody's": "self._fetch(f'SELECT * FROM {schema.name}')",
}
CAREFUL = {
    "values": "connection.execute(sa.select(x).where(x == name))",
    "places": "self._fetch(f\"SELECT a WHERE b IN ({', '.join(['%s'] * len(name))})\", name)",
    "names of the schema": "table, low = schema.TABLES[name], 1\n    self._fetch(f'SELECT * FROM {table}')",
    "texts of the schema": "self._fetch(schema.create_table(name))",
    "constants": "query = 'SELECT 1'\n    cursor.execute(query, (name,))",
    "a helper's parameter": "ask('a = :a')\n\ndef ask(text):\n    connection.execute(sa.text(f'SELECT {text}'))",
}


@pytest.mark.parametrize("code", CARELESS.values(), ids=CARELESS)
def test_the_walk_sees_a_careless_statement(code: str) -> None:
    assert Walk(f"def do(self, connection, cursor, x, name):\n    {code}", is_questdb=True).loose() != []


@pytest.mark.parametrize("code", CAREFUL.values(), ids=CAREFUL)
def test_the_walk_passes_a_careful_statement(code: str) -> None:
    assert Walk(f"def do(self, connection, cursor, x, name):\n    {code}", is_questdb=True).loose() == []


@pytest.mark.parametrize("value", PAYLOADS[:3])
def test_questdbs_texts_are_made_of_its_own_names_alone(value: Any) -> None:
    for make in (questdb_schema.create_table, questdb_schema.enable_dedup):
        with pytest.raises(KeyError):
            make(value)
    with pytest.raises(KeyError):
        questdb_schema.add_column(Interval.H1, value)
    texts = [
        *(questdb_schema.create_table(each) for each in Interval),
        *(questdb_schema.enable_dedup(each) for each in Interval),
        *(questdb_schema.add_column(Interval.H1, each) for each in questdb_schema.COLUMNS),
    ]
    assert {each for text in texts for each in values_in(text)} == set()
    assert all(re.fullmatch(r"[\w ,()]+", text) for text in texts)
