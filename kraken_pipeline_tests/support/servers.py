"""Real PostgreSQL, Redis, RabbitMQ, QuestDB and S3 on the loopback: started, stopped, killed, and started again.

A server that comes back has the same address and the same data, so that what talks to it sees what it would see of a
server that crashed. `python -m kraken_pipeline_tests.support.servers` starts each of them once and says its version.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self
from urllib.parse import unquote

import amqp  # type: ignore[import-untyped]
import psycopg
import redis
import requests
from psycopg import sql
from redis.backoff import NoBackoff
from redis.retry import Retry

# Read at import: the tests' environment is cleared of the developer's settings, which these are not.
REQUIRED = os.environ.get("KRAKEN_TEST_SERVERS") == "required"
"""Whether a machine without a server fails its tests (as in CI) or only skips them."""
_MAVEN_PATH = "org/questdb/questdb/9.3.4/questdb-9.3.4.jar"
QUESTDB_JAR = Path(os.environ.get("KRAKEN_TEST_QUESTDB_JAR") or Path.home() / ".m2" / "repository" / _MAVEN_PATH)

VERSITYGW = os.environ.get("KRAKEN_TEST_VERSITYGW")
"""The S3 server, where it is neither in PATH nor where `go install` puts it."""

DEBIAN_POSTGRESQL = Path("/usr/lib/postgresql")
"""Where Debian has PostgreSQL's programs, a folder for each version; they are not in PATH."""
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Debian's RabbitMQ. What is in PATH is a wrapper that runs it as another user, with that user's files."""

HOST = "127.0.0.1"
USER = "kraken"
READY_SECONDS = 60.0
STOP_SECONDS = 30.0
_QUESTDB_POOLS = ("shared", "wal.apply", "mat.view.refresh", "view.compiler", "export")
_QUESTDB_LOGS = "ERROR,CRITICAL"
_TRIES = 3
_POLL_SECONDS = 0.02
_THREADS = 17  # where Linux's record of a process has how many threads it has, counted from its state
_TAIL = 20


class DiedError(RuntimeError):
    """A server that was started is not there, or does not answer; the text ends with the last lines of its log."""


class Port:
    """A free port of the loopback, which nobody else is given while a server that has it is down.

    On Linux a socket that is bound to it but does not listen keeps it: connections are refused, as they are where
    nobody is, no other program is given the port, and a server that allows reuse of its address, as all of them do, can
    listen there. Elsewhere two sockets cannot have one port, so it is only found, and may be taken meanwhile.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((HOST, 0))
        self.number: int = self._socket.getsockname()[1]
        if sys.platform != "linux":
            self._socket.close()

    def close(self) -> None:
        """Gives it back."""
        self._socket.close()


class Server(ABC):
    """One server: a process group, its ports, its data and its log, which is all that `close` leaves."""

    title: ClassVar[str]
    ports_needed: ClassVar[int] = 1
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        self.log = folder / f"{self.title.lower()}.log"
        self.log.touch()
        self.password = secrets.token_hex(16)
        self._ports: list[Port] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- what differs

    @classmethod
    @abstractmethod
    def reason_without(cls) -> str | None:
        """What this machine lacks to run it, and how to install that; None where nothing is missing."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it is, with user and password."""

    @abstractmethod
    def version(self) -> str:
        """What it says it is; raises while it does not answer."""

    @abstractmethod
    def _prepare(self) -> None:
        """Writes what it needs before its first start; also before the next try of it, on other ports."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """What to run."""

    def _account(self) -> dict[str, Any]:
        """Arguments of `subprocess` for who runs it, and with which environment."""
        return {}

    # --- what all do

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def port(self, index: int = 0) -> int:
        """One of its ports; the same ones as long as it is not closed."""
        return self._ports[index].number

    def start(self) -> None:
        """Starts it and waits until it answers; one that runs only goes on, where it was paused.

        Raises:
            DiedError: It ended by itself, or does not answer within `READY_SECONDS`.
        """
        if self.running:
            self._continue()
            return
        if self._ports:
            self._launch()
            return
        for left in reversed(range(_TRIES)):
            self._ports = [Port() for _ in range(self.ports_needed)]
            try:
                self._prepare()
                self._launch()
            except DiedError as error:
                self._release_ports()
                if not left or not re.search(r"in use|could not bind", str(error), re.IGNORECASE):
                    raise
            else:
                return

    def pause(self) -> None:
        """Takes the processor from it until `start`: what it does while nobody asks takes a tenth of one."""
        if self._process is not None and self.running:
            os.killpg(self._process.pid, signal.SIGSTOP)

    def _continue(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Ends it as an operator would, by force where that takes longer than `STOP_SECONDS`; its data stay."""
        if self._process is not None and self.running:
            self._continue()
            self._process.send_signal(self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Ends all of it at once, as a loss of power would, and returns when nothing of it is left; its data stay."""
        if self._process is not None:
            if self.running:
                # PostgreSQL's children are in groups of their own: stopped, it makes no more of them to miss.
                os.killpg(self._process.pid, signal.SIGSTOP)
                os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                others = _descendants(self._process.pid)
                for group_or_other in (-self._process.pid, *others):
                    with suppress(ProcessLookupError):
                        os.kill(group_or_other, signal.SIGKILL)
                wait_for(lambda: not any(alive(other) for other in others), "the end of killed processes")
            self._process.wait()
            self._process = None
        self._dismiss_guard()

    def restart(self) -> None:
        """Stops it, where it runs, and starts it on the same ports with the same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Ends it for good: its ports are free and its data gone."""
        self.stop()
        self._release_ports()
        shutil.rmtree(self.data, ignore_errors=True)

    def _launch(self) -> None:
        self.kill()  # what is left of one that ended by itself
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.data,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self._account(),
            )
        # Tests that are killed themselves stop nothing; this ends the server when their end of the pipe is closed.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; kill -9 "-$1"; rm -rf "$2"', "guard", str(self._process.pid), str(self.data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_for(self._answers, f"an answer of {self.title}", READY_SECONDS)
        except BaseException as error:
            self.kill()
            if isinstance(error, TimeoutError | DiedError):
                raise DiedError(f"{error}; its log ends with:\n{self._tail()}") from error
            raise

    def _answers(self) -> bool:
        if not self.running:
            raise DiedError(f"{self.title} ended at its start")
        with suppress(psycopg.Error, redis.RedisError, amqp.AMQPError, OSError):  # OSError: also those of requests
            return bool(self.version())
        return False

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:])

    def _dismiss_guard(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None

    def _release_ports(self) -> None:
        for port in self._ports:
            port.close()
        self._ports = []


class PostgreSQL(Server):
    """PostgreSQL, whose log has every statement with its database: `[DATABASE] LOG:  statement: ...`."""

    title = "PostgreSQL"
    stop_signal = signal.SIGINT  # ends sessions; SIGTERM would wait for clients to leave

    @classmethod
    def reason_without(cls) -> str | None:
        """Its programs are missing."""
        if _postgres_programs() is None:
            return "PostgreSQL's initdb and postgres are not on this machine: apt-get install postgresql"
        return None

    @property
    def url(self) -> str:
        """The database of its own that it comes with."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Where one of its databases is."""
        return f"postgresql://{USER}:{self.password}@{HOST}:{self.port()}/{database}"

    def version(self) -> str:
        """As in `PostgreSQL 15.18`."""
        return f"PostgreSQL {self.execute('SHOW server_version')[0][0]}"

    def database(self, name: str | None = None) -> str:
        """Makes a database and returns its URL."""
        name = name or f"test_{secrets.token_hex(6)}"
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url_of(name)

    def drop(self, url: str) -> None:
        """Drops a database, by its URL, whoever is connected to it."""
        name = url.rpartition("/")[2]
        self.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def execute(self, statement: str | sql.Composed, url: str | None = None) -> list[tuple[Any, ...]]:
        """The rows of one statement, committed by itself."""
        return _rows(url or self.url, statement)

    def _account(self) -> dict[str, Any]:
        """It refuses to be run by root."""
        if os.geteuid() != 0:
            return {}
        account = _unprivileged()
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def _prepare(self) -> None:
        programs = _postgres_programs()
        if programs is None:
            raise DiedError(str(self.reason_without()))
        self._programs = programs
        cluster = self.data / "cluster"
        if cluster.exists():
            return
        if os.geteuid() == 0:
            # Folders of tests are root's alone, and pytest's are below others that are.
            self.data = Path(tempfile.mkdtemp(prefix="kraken-postgresql-", dir="/tmp"))
            cluster = self.data / "cluster"
        else:
            self.data.mkdir(mode=0o700)
        password = self.data / "password"
        password.write_text(self.password, encoding="utf-8")
        if os.geteuid() == 0:
            for path in (self.data, password):
                os.chown(path, _unprivileged().pw_uid, _unprivileged().pw_gid)
        said = subprocess.run(
            [
                str(programs / "initdb"),
                f"--pgdata={cluster}",
                f"--username={USER}",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "--no-instructions",
            ],
            cwd=self.data,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **self._account(),
        )
        if said.returncode:
            shutil.rmtree(self.data)
            raise DiedError(f"initdb made no data folder for {self.title}:\n{said.stdout}")

    def _command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            "max_connections": "200",
            "fsync": "off",  # a process that is killed loses nothing that was written; only a machine would
            "full_page_writes": "off",
            "autovacuum": "off",
            "jit": "off",
            "shared_buffers": "32MB",  # all of it is searched when a database is dropped
            "log_statement": "all",
            "log_line_prefix": "%m [%p] [%d] ",
        }
        chosen = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self.data / "cluster"), "-p", str(self.port()), *chosen]


class Redis(Server):
    """Redis that writes nothing to the disk: it comes back empty."""

    title = "Redis"

    @classmethod
    def reason_without(cls) -> str | None:
        """Its program is missing."""
        if shutil.which("redis-server") is None:
            return "redis-server is not on this machine: apt-get install redis-server"
        return None

    @property
    def url(self) -> str:
        """Its first database."""
        return f"redis://:{self.password}@{HOST}:{self.port()}/0"

    def version(self) -> str:
        """As in `Redis 7.0.15`."""
        with self._client() as client:
            found: Any = client.info("server")
        return f"Redis {found['redis_version']}"

    def clear(self) -> None:
        """Forgets everything."""
        with self._client() as client:
            client.flushall()

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=5, socket_connect_timeout=5)

    def _prepare(self) -> None:
        self.data.mkdir(exist_ok=True)

    def _command(self) -> Sequence[str]:
        keep_nothing = ["--save", "", "--appendonly", "no", "--dir", str(self.data)]
        where = ["--port", str(self.port()), "--bind", HOST]
        return ["redis-server", *where, *keep_nothing, "--requirepass", self.password]


class RabbitMQ(Server):
    """RabbitMQ without plugins, a node that no other finds: it comes back with its queues and their messages."""

    title = "RabbitMQ"
    ports_needed = 3

    @classmethod
    def reason_without(cls) -> str | None:
        """Its program is missing."""
        if not RABBITMQ.is_file():
            return "rabbitmq-server is not on this machine: apt-get install rabbitmq-server"
        return None

    @property
    def url(self) -> str:
        """Its first virtual host."""
        return f"amqp://{USER}:{self.password}@{HOST}:{self.port()}//"

    def version(self) -> str:
        """As in `RabbitMQ 3.10.8`."""
        where = f"{HOST}:{self.port()}"
        with amqp.Connection(where, USER, self.password, connect_timeout=5, read_timeout=5) as connection:
            return f"RabbitMQ {connection.server_properties['version']}"

    def _prepare(self) -> None:
        self.data.mkdir(exist_ok=True)
        configuration = {
            "listeners.tcp.1": f"{HOST}:{self.port()}",
            "default_user": USER,
            "default_pass": self.password,
            "log.console": "true",
            "log.console.level": "warning",
            "disk_free_limit.absolute": "1MB",
        }
        lines = "".join(f"{name} = {value}\n" for name, value in configuration.items())
        (self.data / "rabbitmq.conf").write_text(lines, encoding="utf-8")
        (self.data / "enabled_plugins").write_text("[].\n", encoding="utf-8")

    def _command(self) -> Sequence[str]:
        # It insists on the daemon that knows Erlang's nodes, and would start one that outlives it.
        both = """
            epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" & epmd=$!
            "$0" & server=$!
            trap 'kill -TERM $server' TERM
            wait $server; wait $server
            kill $epmd
        """
        return ["/bin/sh", "-c", both, str(RABBITMQ)]

    def _account(self) -> dict[str, Any]:
        """All of its files lie with its data."""
        given = {
            "HOME": str(self.data),  # where the cookie is
            "RABBITMQ_NODENAME": f"kraken{self.port()}@localhost",
            "RABBITMQ_DIST_PORT": str(self.port(1)),
            "ERL_EPMD_PORT": str(self.port(2)),
            "ERL_FLAGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1} +S 1:1",
            "RABBITMQ_CONF_ENV_FILE": str(self.data / "none"),
            "RABBITMQ_CONFIG_FILE": str(self.data / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.data / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.data / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.data / "logs"),
            "RABBITMQ_LOGS": "-",
        }
        return {"env": {**os.environ, **given}}


class QuestDB(Server):
    """QuestDB with its HTTP and PostgreSQL interfaces, both with a password."""

    title = "QuestDB"
    ports_needed = 2

    @classmethod
    def reason_without(cls) -> str | None:
        """Java or the program is missing."""
        if _java_version() < 17:
            return "No Java of version 17 or newer is on this machine: apt-get install openjdk-17-jre-headless"
        if not QUESTDB_JAR.is_file():
            return (
                f"QuestDB is not at {QUESTDB_JAR}: mvn dependency:get -Dartifact=org.questdb:questdb:9.3.4 "
                "-Dtransitive=false, or name the jar in KRAKEN_TEST_QUESTDB_JAR"
            )
        return None

    @property
    def url(self) -> str:
        """The same as `http_url`."""
        return self.http_url

    @property
    def http_url(self) -> str:
        """Where it takes lines and questions over HTTP."""
        return f"http://{USER}:{self.password}@{HOST}:{self.port(0)}"

    @property
    def pg_url(self) -> str:
        """Where it talks as PostgreSQL does."""
        return f"postgresql://{USER}:{self.password}@{HOST}:{self.port(1)}/qdb"

    def version(self) -> str:
        """As in `QuestDB 9.3.4`, asked on both sides."""
        with requests.Session() as session:
            session.trust_env = False  # no proxy, no .netrc
            asked = session.get(f"{self.http_url}/exec", params={"query": "SELECT build()"}, timeout=5)
        asked.raise_for_status()
        found = re.search(r"QuestDB ([\w.-]+)", str(self.execute("SELECT build()")[0][0]))
        return found.group() if found else "QuestDB"

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of one statement."""
        return _rows(self.pg_url, statement)

    def clear(self) -> None:
        """Drops all tables and views."""
        wait_for(self._cleared, "a QuestDB without tables")

    def _cleared(self) -> bool:
        # One that is being written to may stay, and the next try has it.
        if self.execute("SELECT table_name FROM tables()"):
            self.execute("DROP ALL TABLES")
        return not self.execute("SELECT table_name FROM tables()")

    def _prepare(self) -> None:
        configuration = {
            "http.bind.to": f"{HOST}:{self.port(0)}",
            "http.user": USER,
            "http.password": self.password,
            "pg.net.bind.to": f"{HOST}:{self.port(1)}",
            "pg.user": USER,
            "pg.password": self.password,
            "line.tcp.enabled": "false",
            "http.min.enabled": "false",
            "telemetry.enabled": "false",
            "line.auto.create.new.tables": "false",  # as deploy/compose.yaml has it
            "line.auto.create.new.columns": "false",
            "dev.mode.enabled": "true",  # lets a test suspend a table, as a full disk would
            "shared.worker.count": "2",
        }
        for pool in _QUESTDB_POOLS:
            # After each piece of work a worker looks for more ten thousand times before it sleeps.
            configuration |= {
                f"{pool}.worker.nap.threshold": "100",
                f"{pool}.worker.sleep.threshold": "200",
                f"{pool}.worker.sleep.timeout": "20",
            }
        (self.data / "conf").mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{name}={value}\n" for name, value in configuration.items())
        (self.data / "conf" / "server.conf").write_text(lines, encoding="utf-8")
        # Writing down what it does takes a third of its time.
        logging = f"writers=out\nw.out.class=io.questdb.log.LogConsoleWriter\nw.out.level={_QUESTDB_LOGS}\n"
        (self.data / "conf" / "log.conf").write_text(logging, encoding="utf-8")

    def _command(self) -> Sequence[str]:
        # A compiler and a collector that are soon ready: it starts in half the time, and tests are small.
        machine = ["-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
        machine += [f"-Djava.io.tmpdir={self.data}"]  # where a killed one leaves its native library
        program = ["-p", str(QUESTDB_JAR), "-m", "io.questdb/io.questdb.ServerMain", "-d", str(self.data)]
        return ["java", *machine, *program]


class S3(Server):
    """A server of S3's protocol over a folder: a bucket is a folder, and a key a path in it.

    Its log has a line for each request, by which `requests` counts them.
    """

    title = "S3"

    @classmethod
    def reason_without(cls) -> str | None:
        """Its program is missing."""
        if _versitygw() is None:
            return (
                "versitygw is not on this machine: go install github.com/versity/versitygw/cmd/versitygw@v1.8.0, or "
                "name the program in KRAKEN_TEST_VERSITYGW"
            )
        return None

    @property
    def url(self) -> str:
        """Where it answers over HTTP, without user and password: see `environment`."""
        return f"http://{HOST}:{self.port()}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which clients of S3 find it."""
        return {
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": self.password,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
        }

    def version(self) -> str:
        """As in `versitygw v1.8.0`, or `versitygw git` of one that Go has built from its source."""
        with requests.Session() as session:
            session.trust_env = False
            session.get(self.url, timeout=5)  # refused without a signature, which is an answer
        said = subprocess.run([str(_versitygw()), "--version"], capture_output=True, text=True, check=True)
        found = re.search(r"Version +: (\S+)", said.stdout)
        return f"versitygw {found.group(1) if found else said.stdout}"

    def bucket(self) -> Path:
        """Makes a bucket; the folder has its name, and its objects as files."""
        folder = self.data / "buckets" / f"test-{secrets.token_hex(6)}"
        folder.mkdir()
        return folder

    def requests(self, bucket: str) -> list[tuple[str, str]]:
        """The operation and the key of each request to a bucket so far: `("REST.PUT.OBJECT", "lake/…")`."""
        lines = self._accesses.read_text(encoding="utf-8").splitlines()
        found = (re.search(rf" {bucket} \[.*?\] \S+ \S+ \S+ (\S+) (\S+) ", line) for line in lines)
        return [(each[1], unquote(each[2])) for each in found if each is not None]

    @property
    def is_atomic(self) -> bool:
        """Whether an object and its e-tag appear at once, because the file system has extended attributes.

        Elsewhere e-tags are in files of their own: a server that is killed can leave one without its object, which is
        then neither there nor lets itself be put.
        """
        try:
            os.setxattr(self.data, "user.probe", b"")
        except OSError:
            return False
        return True

    @property
    def _accesses(self) -> Path:
        return self.data / "access.log"

    def _prepare(self) -> None:
        for name in ("buckets", "metadata"):
            (self.data / name).mkdir(parents=True, exist_ok=True)

    def _command(self) -> Sequence[str]:
        where = ["--port", f"{HOST}:{self.port()}", "--access-log", str(self._accesses), "--quiet"]
        who = ["--access", USER, "--secret", self.password]
        beside = [] if self.is_atomic else ["--sidecar", str(self.data / "metadata")]
        return [str(_versitygw()), *where, *who, "posix", *beside, str(self.data / "buckets")]


ALL: tuple[type[Server], ...] = (PostgreSQL, Redis, RabbitMQ, QuestDB, S3)


class Needed(Protocol):
    """What a machine may lack: a kind of server, a browser."""

    def reason_without(self) -> str | None:
        """What this machine lacks to run it, and how to install that; None where nothing is missing."""


def reason_without(kind: Needed) -> str | None:
    """Why this cannot be had here, in a sentence that says how to get it; None if it can."""
    return kind.reason_without()


def wait_for(happened: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> None:
    """Asks again and again until it has happened.

    Raises:
        TimeoutError: It has not within these seconds.
    """
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(_POLL_SECONDS)


def _rows(url: str, statement: str | sql.Composed) -> list[tuple[Any, ...]]:
    text = statement.encode() if isinstance(statement, str) else statement
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        cursor = connection.execute(text)
        return cursor.fetchall() if cursor.description else []


def _postgres_programs() -> Path | None:
    """The folder with both initdb and postgres."""
    folders = []
    if pg_config := shutil.which("pg_config"):
        said = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        folders.append(Path(said.stdout.strip()))
    if postgres := shutil.which("postgres"):
        folders.append(Path(postgres).resolve().parent)
    debian = DEBIAN_POSTGRESQL.glob("*/bin")
    folders += sorted(debian, key=lambda folder: int(re.sub(r"\D", "", folder.parent.name) or 0), reverse=True)
    programs = ("initdb", "postgres")
    return next((folder for folder in folders if all((folder / name).is_file() for name in programs)), None)


def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _versitygw() -> str | None:
    """The program of the S3 server."""
    installed = Path.home() / "go" / "bin" / "versitygw"
    return VERSITYGW or shutil.which("versitygw") or (str(installed) if installed.is_file() else None)


def _java_version() -> int:
    """The major version; 0 where there is none."""
    java = shutil.which("java")
    if java is None:
        return 0
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', said.stderr + said.stdout)
    return int(found.group(1)) if found else 0


def _stat(process: int) -> list[str]:
    """State, parent and what follows in Linux's record of a process; nothing where there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _descendants(process: int) -> list[int]:
    """The processes that it started, and those that these did."""
    every = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    parents = {other: stat[1] for other in every if len(stat := _stat(other)) > 1}
    found = [process]
    for one in found:
        found += [other for other, parent in parents.items() if parent == str(one)]
    return found[1:]


def alive(process: int) -> bool:
    """Whether anything of this process runs; on Linux only.

    A killed process is called a zombie as soon as its first thread has ended; the others may still hold its sockets.
    """
    stat = _stat(process)
    return bool(stat) and (stat[0] not in "ZX" or stat[_THREADS] != "1")


def main() -> int:
    """Starts each server once, and says what it is or why it is not here."""
    lacking = 0
    for kind in ALL:
        reason = reason_without(kind)
        if reason is not None:
            sys.stdout.write(f"{reason}\n")
            lacking += 1
            continue
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            with kind(Path(folder)) as server:
                sys.stdout.write(f"{server.version()} answers {time.monotonic() - began:.1f} s after its start\n")
    return min(lacking, 1)


if __name__ == "__main__":
    sys.exit(main())
