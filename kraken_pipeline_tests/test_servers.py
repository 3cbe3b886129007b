"""The servers that tests run on: they start, answer, die when told to and come back as they were."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import amqp  # type: ignore[import-untyped]
import obstore
import psycopg
import pytest
import redis
import requests
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError
from obstore.store import from_url

from kraken_pipeline_tests.support import servers
from kraken_pipeline_tests.support.browsers import Chromium
from kraken_pipeline_tests.support.buckets import Bucket
from kraken_pipeline_tests.support.fixtures import need
from kraken_pipeline_tests.support.servers import (
    HOST,
    S3,
    DiedError,
    Needed,
    Port,
    PostgreSQL,
    QuestDB,
    RabbitMQ,
    Redis,
    Server,
    main,
    reason_without,
    wait_for,
)
from kraken_pipeline_tests.support.shell import ROOT

pytestmark = pytest.mark.servers

KINDS = [PostgreSQL, Redis, RabbitMQ, QuestDB, S3]


def refused(port: int) -> bool:
    """Whether nobody listens there."""
    try:
        socket.create_connection((HOST, port), 5).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


def rows(server: QuestDB, statement: str, expected: list[tuple[object, ...]]) -> None:
    """Waits until a question has this answer: QuestDB writes first, and shows it a little later."""
    wait_for(lambda: server.execute(statement) == expected, f"{expected} of {statement}")


# --- any of them

LISTENER_WITH_THREADS = """
import socket, threading, time
listener = socket.create_server(("127.0.0.1", 0))
memory = bytearray(100_000_000)
for _ in range(300):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print(listener.getsockname()[1], flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's record of a process")
def test_a_killed_process_is_alive_as_long_as_one_of_its_threads_holds_its_sockets() -> None:
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", LISTENER_WITH_THREADS], stdout=subprocess.PIPE) as killed:
            assert killed.stdout is not None
            port = int(killed.stdout.readline())
            assert servers.alive(killed.pid)
            killed.kill()
            wait_for(lambda process=killed.pid: not servers.alive(process), "its end")  # type: ignore[misc]
            assert refused(port)


# --- PostgreSQL


def test_a_killed_postgresql_comes_back_at_its_address_with_what_was_committed(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    postgresql.execute("CREATE TABLE kept (n int)", postgresql_url)
    postgresql.execute("INSERT INTO kept VALUES (1)", postgresql_url)

    with psycopg.connect(postgresql_url) as open_one:
        open_one.execute("INSERT INTO kept VALUES (2)")
        postgresql.kill()
        assert refused(postgresql.port())
        with pytest.raises(psycopg.OperationalError):
            open_one.execute("SELECT 1")
    postgresql.start()

    assert postgresql.execute("SELECT n FROM kept", postgresql_url) == [(1,)]


def test_a_postgresql_that_is_working_dies_with_all_its_processes(postgresql: PostgreSQL, postgresql_url: str) -> None:
    with closing(psycopg.connect(postgresql_url, autocommit=True)) as busy:
        process = busy.info.backend_pid
        busy.execute("CREATE TABLE kept (n int)")
        statement = b"INSERT INTO kept SELECT n FROM generate_series(1, 1000000000) AS n"
        busy.pgconn.send_query(statement)
        wait_for(lambda: statement.decode() in postgresql.log.read_text(encoding="utf-8"), "the statement's start")
        postgresql.kill()
    assert not servers.alive(process)
    postgresql.restart()
    assert postgresql.execute("SELECT count(*) FROM kept", postgresql_url) == [(0,)]


def test_postgresql_restarts_in_an_orderly_way_while_somebody_is_connected(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    postgresql.execute("CREATE TABLE kept AS SELECT 1 AS n", postgresql_url)
    with psycopg.connect(postgresql_url) as open_one:
        postgresql.restart()
        with pytest.raises(psycopg.OperationalError):
            open_one.execute("SELECT 1")
    assert postgresql.execute("SELECT n FROM kept", postgresql_url) == [(1,)]
    assert "received fast shutdown request" in postgresql.log.read_text(encoding="utf-8")


def test_the_log_of_postgresql_has_each_statement_its_database_and_its_parameters(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    name = postgresql_url.rpartition("/")[2]
    with psycopg.connect(postgresql_url) as connection:
        connection.execute("SELECT 'told', %s", ["a parameter"])
    log = postgresql.log.read_text(encoding="utf-8")
    assert f"[{name}] LOG:  execute <unnamed>: SELECT 'told', $1" in log
    assert f"[{name}] DETAIL:  parameters: $1 = 'a parameter'" in log


def test_a_database_has_its_own_tables_and_goes_with_those_who_use_it(postgresql: PostgreSQL) -> None:
    one, other = postgresql.database(), postgresql.database("other-name")
    postgresql.execute("CREATE TABLE kept (n int)", one)
    with pytest.raises(psycopg.errors.UndefinedTable):
        postgresql.execute("SELECT * FROM kept", other)
    with psycopg.connect(one):
        postgresql.drop(one)
        postgresql.drop(other)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        postgresql.execute("SELECT 1", one)


def test_postgresql_takes_nobody_without_the_password(postgresql: PostgreSQL, postgresql_url: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        postgresql.execute("SELECT 1", postgresql_url.replace(postgresql.password, "wrong"))


# --- Redis


def test_a_killed_redis_answers_again_at_its_address(redis_server: Redis, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("here", 1)
        redis_server.kill()
        assert refused(redis_server.port())
        redis_server.start()
        assert client.ping()
        assert client.get("here") is None


def test_redis_takes_nobody_without_the_password(redis_server: Redis, redis_url: str) -> None:
    with (
        redis.Redis.from_url(redis_url.replace(redis_server.password, "wrong")) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


# --- RabbitMQ


@pytest.mark.slow
def test_a_killed_rabbitmq_comes_back_at_its_address_with_its_messages_and_nothing_of_it_is_left(
    tmp_path: Path,
) -> None:
    need(RabbitMQ)
    with RabbitMQ(tmp_path / "rabbitmq") as server:
        address = f"{HOST}:{server.port()}"
        with pytest.raises(amqp.AccessRefused), amqp.Connection(address, servers.USER, "wrong"):
            pass
        with amqp.Connection(address, servers.USER, server.password) as connection:
            channel = connection.channel()
            channel.queue_declare("kept", durable=True, auto_delete=False)
            channel.confirm_select()
            channel.basic_publish_confirm(amqp.Message("a message", delivery_mode=2), routing_key="kept")
        server.kill()
        assert refused(server.port())
        server.start()
        with amqp.Connection(address, servers.USER, server.password) as connection:
            assert connection.channel().basic_get("kept").body == "a message"
        ports = [server.port(index) for index in range(server.ports_needed)]
        server.stop()
        assert all(refused(port) for port in ports)


# --- QuestDB

TABLE = "CREATE TABLE kept (ts TIMESTAMP, a SYMBOL, n LONG) TIMESTAMP(ts) PARTITION BY DAY WAL DEDUP UPSERT KEYS(ts, a)"
VIEW = "CREATE MATERIALIZED VIEW {} AS (SELECT ts, a, max(n) AS n FROM {} SAMPLE BY {}) PARTITION BY MONTH"


def test_a_killed_questdb_comes_back_at_its_address_with_its_rows(questdb: QuestDB) -> None:
    questdb.execute(TABLE)
    questdb.execute("INSERT INTO kept VALUES ('2024-01-01', 'x', 7)")
    rows(questdb, "SELECT a, n FROM kept", [("x", 7)])

    with psycopg.connect(questdb.pg_url, autocommit=True) as open_one:
        questdb.kill()
        assert refused(questdb.port(0))
        assert refused(questdb.port(1))
        with pytest.raises(psycopg.OperationalError):
            open_one.execute("SELECT 1")
    questdb.start()

    rows(questdb, "SELECT a, n FROM kept", [("x", 7)])
    questdb.execute("INSERT INTO kept VALUES ('2024-01-01', 'x', 8)")
    rows(questdb, "SELECT a, n FROM kept", [("x", 8)])


def test_a_cleared_questdb_has_no_tables_or_views_and_takes_new_ones_of_the_same_names(questdb: QuestDB) -> None:
    for n in (1, 2):
        questdb.execute(TABLE)
        questdb.execute(VIEW.format("by_hour", "kept", "1h"))
        questdb.execute(VIEW.format("by_day", "by_hour", "1d"))
        questdb.execute("CREATE VIEW plain AS (SELECT * FROM kept)")
        questdb.execute("CREATE TABLE unordered (n LONG)")
        questdb.execute(f"INSERT INTO kept VALUES ('2024-01-01', 'x', {n})")
        rows(questdb, "SELECT n FROM by_day", [(n,)])
        questdb.execute("ALTER TABLE kept SUSPEND WAL")

        questdb.clear()

        assert questdb.execute("SELECT table_name FROM tables()") == []
        assert questdb.execute("SELECT view_name FROM materialized_views()") == []
        assert questdb.execute("SELECT view_name FROM views()") == []


def test_questdb_takes_nobody_without_the_password(questdb_server: QuestDB, questdb: QuestDB) -> None:
    assert questdb is questdb_server
    asked = {"query": "SELECT 1"}
    with requests.Session() as session:
        session.trust_env = False
        assert session.get(f"{questdb.http_url}/exec", params=asked, timeout=5).json()["dataset"] == [[1]]
        nobody = f"http://{HOST}:{questdb.port(0)}"
        for url in (nobody, questdb.http_url.replace(questdb.password, "wrong")):
            assert session.get(f"{url}/exec", params=asked, timeout=5).status_code == 401
    with pytest.raises(psycopg.OperationalError), psycopg.connect(questdb.pg_url.replace(questdb.password, "wrong")):
        pass


# --- S3


def test_a_killed_s3_server_comes_back_at_its_address_with_its_objects(bucket: Bucket) -> None:
    client = from_url(bucket.url, client_options={"allow_http": True}, retry_config={"max_retries": 0})
    put = obstore.put(client, "kept", b"content", mode="create")
    bucket.server.kill()
    assert refused(bucket.server.port())
    with pytest.raises(BaseError):
        obstore.get(client, "kept")
    bucket.server.start()
    found = obstore.get(client, "kept")
    assert (bytes(found.bytes()), found.meta["e_tag"]) == (b"content", put["e_tag"])
    with pytest.raises(AlreadyExistsError):
        obstore.put(client, "kept", b"other", mode="create")
    assert ("s3_GetObject", "kept") in bucket.requests()


def test_the_s3_server_takes_nobody_without_the_password(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(PermissionDeniedError):
        obstore.put(from_url(bucket.url, client_options={"allow_http": True}), "kept", b"content")
    assert bucket.objects() == set()


# --- what goes wrong


class Stub(Server):
    """A server that is a shell's script and never answers."""

    title = "Stub"
    scripts: Sequence[str] = ()

    @classmethod
    def reason_without(cls) -> str | None:
        return None

    @property
    def url(self) -> str:
        return f"{HOST}:{self.port()}"

    def version(self) -> str:
        if refused(self.port()):
            raise redis.ConnectionError(self.url)
        return self.title

    def _prepare(self) -> None:
        self.data.mkdir(exist_ok=True)

    def _command(self) -> Sequence[str]:
        script, *self.scripts = self.scripts
        listen = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(600)"
        return [sys.executable, "-c", listen, str(self.port())] if script == "listen" else ["/bin/sh", "-c", script]


def test_a_server_that_ends_at_its_start_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    stub = Stub(tmp_path)
    stub.scripts = ["echo the disk is full; exit 1"]
    with pytest.raises(DiedError, match=r"Stub ended at its start; its log ends with:\nthe disk is full"), stub:
        pass
    assert not stub.running
    assert not stub.data.exists()
    assert stub.log.exists()


def test_a_server_that_never_answers_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "READY_SECONDS", 0.2)
    stub = Stub(tmp_path)
    stub.scripts = ["exec sleep 600"]
    with pytest.raises(DiedError, match=r"waited 0\.2 s for an answer of Stub"), stub:
        pass
    assert not stub.running


def test_a_first_start_on_a_port_that_was_taken_meanwhile_is_tried_on_another(tmp_path: Path) -> None:
    stub = Stub(tmp_path)
    stub.scripts = ["echo bind: Address already in use; exit 1", "listen"]
    with stub:
        assert stub.running
        assert not refused(stub.port())
        stub.start()
        assert stub.scripts == []


def test_a_server_that_ignores_its_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "STOP_SECONDS", 0.2)
    monkeypatch.setattr(Stub, "stop_signal", signal.SIGWINCH)
    stub = Stub(tmp_path)
    stub.scripts = ["listen"]
    with stub:
        stub.stop()
        assert not stub.running
        assert refused(stub.port())


@pytest.mark.skipif(sys.platform != "linux", reason="a port cannot be held here while a server has it")
def test_the_port_of_a_server_that_is_down_is_given_to_nobody_else() -> None:
    port = Port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((HOST, port.number))
    port.close()
    with socket.socket() as other:
        other.bind((HOST, port.number))


def test_a_server_ends_with_the_tests_even_where_they_are_killed(tmp_path: Path) -> None:
    need(Redis)
    program = """
import pathlib, sys, time
from kraken_pipeline_tests.support.servers import Redis
server = Redis(pathlib.Path(sys.argv[1]))
server.start()
print(server.port(), flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "redis")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout is not None
        port = int(tests.stdout.readline())
        assert not refused(port)
        tests.kill()
    wait_for(lambda: refused(port), "the end of a server without tests")
    wait_for(lambda: not (tmp_path / "redis" / "data").exists(), "the end of its data")


# --- machines without them


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that has none of them."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(servers, "DEBIAN_POSTGRESQL", tmp_path)
    monkeypatch.setattr(servers, "QUESTDB_JAR", tmp_path / "questdb.jar")
    monkeypatch.setattr(servers, "VERSITYGW", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(servers, "RABBITMQ", tmp_path / "rabbitmq-server")


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (PostgreSQL, "PostgreSQL's initdb and postgres are not on this machine: apt-get install postgresql"),
        (Redis, "redis-server is not on this machine: apt-get install redis-server"),
        (RabbitMQ, "rabbitmq-server is not on this machine: apt-get install rabbitmq-server"),
        (QuestDB, "No Java of version 17 or newer is on this machine: apt-get install openjdk-17-jre-headless"),
        (
            S3,
            "versitygw is not on this machine: go install github.com/versity/versitygw/cmd/versitygw@v1.8.0, or name "
            "the program in KRAKEN_TEST_VERSITYGW",
        ),
        (Chromium, "chromium is not on this machine: apt-get install chromium"),
    ],
)
def test_a_machine_without_a_server_has_a_reason_that_says_what_to_install(kind: Needed, reason: str) -> None:
    assert reason_without(kind) == reason


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(("said", "enough"), [("1.8.0_402", False), ("11.0.2", False), ("17.0.15", True), ("25", True)])
def test_questdb_needs_a_java_that_is_new_enough_and_the_jar(tmp_path: Path, said: str, enough: bool) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{said}\" 2025-04-15' >&2\n", encoding="utf-8")
    java.chmod(0o755)
    reason = reason_without(QuestDB)
    assert reason is not None
    assert ("mvn dependency:get -Dartifact=org.questdb:questdb:9.3.4" in reason) is enough
    (tmp_path / "questdb.jar").touch()
    assert (reason_without(QuestDB) is None) is enough


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("kind", [*KINDS, Chromium])
def test_a_test_without_its_server_is_skipped_and_fails_where_servers_are_required(
    monkeypatch: pytest.MonkeyPatch, kind: Needed
) -> None:
    monkeypatch.setattr(servers, "REQUIRED", False)
    with pytest.raises(pytest.skip.Exception, match=r"(apt-get|go) install"):
        need(kind)
    monkeypatch.setattr(servers, "REQUIRED", True)
    with pytest.raises(pytest.fail.Exception, match=r"(apt-get|go) install .*KRAKEN_TEST_SERVERS=required"):
        need(kind)


@pytest.mark.usefixtures("bare")
def test_the_program_names_each_server_that_is_missing_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 1
    assert len(re.findall("(?:apt-get|go) install", capsys.readouterr().out)) == len(KINDS)


def test_the_program_says_which_version_each_server_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need(Redis)
    monkeypatch.setattr(servers, "ALL", (Redis,))
    assert main() == 0
    assert capsys.readouterr().out.startswith("Redis ")
