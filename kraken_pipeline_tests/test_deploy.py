"""What is in deploy/: files that agree with each other, with the settings and with the servers that they configure."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import psycopg
import pytest
import redis
import requests
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kraken_pipeline.orchestration.instance import STORAGE_VARIABLE
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.exchange_state.counters import Counters
from kraken_pipeline.storage.reply_cache.redis_cache import redis_health, redis_pool
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline_tests.storage.caches import KEY, Caches, Clock, Source
from kraken_pipeline_tests.support import servers
from kraken_pipeline_tests.support.fixtures import need
from kraken_pipeline_tests.support.servers import HOST, PostgreSQL, QuestDB, Redis

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
TEXT = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXAMPLE = dict(
    line.split("=", 1)
    for line in (DEPLOY / ".env.example").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
SECRETS = {name for name in EXAMPLE if name.endswith("PASSWORD")}
PROGRAMS = ("code-location", "webserver", "daemon", "worker", "metrics")
SERVERS = ("postgresql", "redis", "questdb", "rabbitmq", "prometheus", "grafana")
STORES = {"CATALOG_PASSWORD", "DAGSTER_PASSWORD", "QUESTDB_PASSWORD", "REDIS_PASSWORD", "BROKER_PASSWORD"}
POSTGRES_VARIABLE = "KRAKEN_DAGSTER_POSTGRES_URL"
VARIABLE = re.compile(r"\$\{(\w+)(:[-?])?([^}]*)\}")


def rendered(value: object, variables: Mapping[str, str]) -> str:
    """A value as compose passes it on."""

    def replaced(found: re.Match[str]) -> str:
        name, how, rest = found.groups()
        return variables.get(name) or (rest if how == ":-" else "")

    # YAML's folded blocks end a line that compose does not mean.
    return VARIABLE.sub(replaced, str(value).strip()).replace("$$", "$")


def environment(service: str, **variables: str) -> dict[str, str]:
    """What a container finds in its environment."""
    return {name: rendered(value, EXAMPLE | variables) for name, value in SERVICES[service]["environment"].items()}


def files() -> list[Path]:
    """What deploy/ consists of, without what an operator puts there."""
    found = [path for path in DEPLOY.rglob("*") if path.is_file()]
    theirs = {".env", "settings.env"}
    return [path for path in found if path.name not in theirs and not {"drop", "archives"} & set(path.parts)]


# --- compose.yaml by itself


@pytest.mark.process
def test_the_compose_file_keeps_to_the_specification() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_has_the_servers_and_the_programs_and_starts_workers_and_monitoring_only_where_they_are_asked_for() -> None:
    assert set(SERVICES) == {*PROGRAMS, *SERVERS}
    profiles = {name: described["profiles"] for name, described in SERVICES.items() if "profiles" in described}
    assert profiles == {
        **{name: ["workers"] for name in ("rabbitmq", "worker")},
        **{name: ["monitoring"] for name in ("metrics", "prometheus", "grafana")},
    }


def test_a_worker_has_what_the_code_location_has() -> None:
    for part in ("environment", "env_file"):
        assert SERVICES["worker"][part] == SERVICES["code-location"][part]
    assert {*SERVICES["worker"]["networks"]} == {*SERVICES["code-location"]["networks"]} - {"code"}
    mounts = [
        [volume if isinstance(volume, str) else volume["target"] for volume in SERVICES[name]["volumes"]]
        for name in ("worker", "code-location")
    ]
    assert mounts[0] == mounts[1]
    assert "container_name" not in SERVICES["worker"], "it could not be scaled"
    assert "ports" not in SERVICES["worker"]
    assert "--app=kraken_pipeline.orchestration.celery" in SERVICES["worker"]["command"]


def test_the_image_has_what_alerts_workers_pods_and_buckets_need_and_else_the_same_versions() -> None:
    def pins(path: Path) -> set[str]:
        return {line for line in path.read_text(encoding="utf-8").splitlines() if "==" in line}

    image, embedded = pins(DEPLOY / "requirements.lock"), pins(ROOT / "requirements.lock")
    assert image > embedded
    assert {"apprise", "dagster-celery", "dagster-k8s", "obstore"} <= {
        line.partition("==")[0] for line in image - embedded
    }


LOCKED = re.compile(r"([\w.-]+)(?:\[([\w, -]+)\])?==[\w.+!-]+(?: ; [^\\]+)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n")
"""A line of a lock: a package with its extras at one version, where it is needed, and the hashes of its files."""
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-docs.lock", "deploy/requirements.lock")


@pytest.mark.parametrize("lock", LOCKS)
def test_every_dependency_is_locked_with_the_hashes_of_its_files_and_no_host_is_named(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert len(LOCKED.findall(text)) == len(re.findall(r"^\S", text, re.MULTILINE)) > 90
    assert LOCKED.sub("", text) == "", "a line without a hash, with an option or with a URL"
    assert LOCKED.sub("", f"{text}dagster==1.13.24\n") != "", "a version without a hash would not be seen"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_package_is_locked_with_the_extras_that_another_one_wants_of_it(lock: str) -> None:
    # With hashes, pip refuses `gql[requests]` where the lock names `gql` alone.
    locked = {name: {*extras.split(", ")} for name, extras in LOCKED.findall((ROOT / lock).read_text(encoding="utf-8"))}
    seen = set()
    for name in locked:
        try:
            wanted = requires(name) or ()
        except PackageNotFoundError:  # of another system, or only of the image or the docs
            continue
        for requirement in map(Requirement, wanted):
            needed = {canonicalize_name(requirement.name)} & {*locked}
            if requirement.extras and needed and (requirement.marker is None or requirement.marker.evaluate()):
                assert requirement.extras <= locked[needed.pop()], f"{name} wants {requirement}"
                seen.add(str(requirement.name))
    assert "gql" in seen


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_service_is_watched_started_again_and_kept_within_bounds(service: str) -> None:
    described = SERVICES[service]
    assert {"test", "interval", "timeout", "retries", "start_period"} <= set(described["healthcheck"])
    assert described["restart"] == "unless-stopped"
    assert described["init"] is True
    assert {"max-size", "max-file"} <= set(described["logging"]["options"])
    assert described["deploy"]["resources"]["limits"]["memory"]
    assert described["stop_grace_period"]


@pytest.mark.parametrize("service", PROGRAMS)
def test_the_programs_come_from_one_image_and_write_to_volumes_only(service: str) -> None:
    described = SERVICES[service]
    assert described["image"] == f"kraken_pipeline:{version('kraken_pipeline')}"
    assert (ROOT / "deploy" / described["build"]["context"] / described["build"]["dockerfile"]).is_file()
    assert described["read_only"] is True
    assert described["cap_drop"] == ["ALL"]


def test_images_are_pinned() -> None:
    bases = re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    images = [*bases, *(described["image"] for described in SERVICES.values())]
    assert len(bases) == 2
    assert [image for image in images if not re.fullmatch(r"[\w/]+:v?\d+\.\d+(\.\d+)?(-[a-z-]+)?", image)] == []


def test_questdb_is_the_version_that_the_tests_run_against() -> None:
    assert f"questdb-{SERVICES['questdb']['image'].partition(':')[2]}.jar" in servers._MAVEN_PATH


def test_ports_are_published_on_the_loopback_alone() -> None:
    published = {name: described["ports"] for name, described in SERVICES.items() if "ports" in described}
    assert set(published) == {"webserver", "questdb", "grafana"}
    assert all(re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port) for ports in published.values() for port in ports)


def test_postgresql_and_redis_have_no_way_out() -> None:
    assert COMPOSE["networks"]["stores"] == {"internal": True}
    assert {name for name in SERVICES if "outside" not in SERVICES[name]["networks"]} == {
        "postgresql",
        "redis",
        "rabbitmq",
        "daemon",
        "metrics",
        "prometheus",
    }


def test_the_code_is_served_to_webserver_and_daemon_alone() -> None:
    assert COMPOSE["networks"]["code"] == {"internal": True}
    assert {name for name in SERVICES if "code" in SERVICES[name]["networks"]} == {
        "code-location",
        "webserver",
        "daemon",
    }
    (alias,) = SERVICES["code-location"]["networks"]["code"]["aliases"]
    assert f"--host={alias}" in SERVICES["code-location"]["command"], "it would serve on the other networks too"
    assert TEXT.count("aliases:") == 1, "on another network the name would be another address"
    assert alias not in SERVICES
    assert "ports" not in SERVICES["code-location"]


def test_the_workspace_of_one_machine_names_the_server_that_its_documentation_starts() -> None:
    name = "deploy/workspace-of-one-machine.yaml"
    (location,) = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))["load_from"]
    address = location["grpc_server"]
    page = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
    server = f"--host {address['host']} --port {address['port']}"
    assert f"dagster api grpc {server} --module-name kraken_pipeline.definitions" in page
    assert f"--location-name {address['location_name']}" in page
    for program in ("dagster-webserver", "dagster-daemon run"):
        assert re.search(rf"{program} .*--workspace {name}", page)


def test_every_volume_is_declared_and_used() -> None:
    used = {
        str(volume).partition(":")[0]
        for described in SERVICES.values()
        for volume in described.get("volumes", [])
        if isinstance(volume, str) and not volume.startswith(".")
    }
    assert used == set(COMPOSE["volumes"])


def test_archives_are_only_read() -> None:
    mounts = {each["target"]: each for each in SERVICES["code-location"]["volumes"] if isinstance(each, dict)}
    assert mounts["/archives"]["read_only"] is True
    assert "read_only" not in mounts["/data/drop"]
    assert not any(each["bind"]["create_host_path"] for each in mounts.values())


# --- variables and passwords


def test_every_variable_is_in_the_example_and_the_other_way_round() -> None:
    assert {found[1] for found in VARIABLE.finditer(TEXT)} == set(EXAMPLE)
    assert not re.search(r"(?<!\$)\$(?![${])", TEXT), "a variable without braces"


def test_a_password_has_no_default_and_everything_else_has_one() -> None:
    how = {(name, found) for name, found, _ in VARIABLE.findall(TEXT)}
    assert how == {(name, ":?" if name in SECRETS else ":-") for name in EXAMPLE}


def test_defaults_are_what_the_example_says() -> None:
    defaults = {name: rest for name, how, rest in VARIABLE.findall(TEXT) if how == ":-"}
    free = {"KRAKEN_UID"}  # the image's own number, and that of most people
    assert {name: EXAMPLE[name] for name in defaults if name not in free} == {
        name: value for name, value in defaults.items() if name not in free
    }


def test_example_passwords_say_that_they_are_to_be_changed() -> None:
    values = [EXAMPLE[name] for name in SECRETS]
    assert len(values) == 8
    assert len(set(values)) == len(values)
    assert all(value.startswith("change-me") for value in values)


def test_no_file_but_the_example_has_a_password() -> None:
    literal = re.compile(
        r"://[^/\s:@$]*:(?!\$\{)[^@\s/]+@"  # in a URL
        r"|(?i:\w*(?:password|secret|auth|token)\b['\"]?\s*[:=]\s*)"  # as a value
        r"(?!\$\{\w+:\?)(?!')(?!(?:true|false)\n)['\"]?[\w$]"
        r"|requirepass\s+(?!\$\$)\S"
        r"|\bon >(?!\$\$)\S"
    )
    assert literal.search("KRAKEN_CACHE_URL: redis://:hunter2@redis:6379/0")
    assert literal.search("POSTGRES_PASSWORD: hunter2")
    assert literal.search("POSTGRES_PASSWORD: ${POSTGRES_PASSWORD:-hunter2}")
    assert literal.search("requirepass hunter2")
    assert literal.search("user kraken on >hunter2")
    assert literal.search("password: falsehood\n")
    found = {
        path.name: literal.findall(path.read_text(encoding="utf-8"))
        for path in files()
        if path.name != ".env.example" and literal.search(path.read_text(encoding="utf-8"))
    }
    assert found == {}


def test_each_container_knows_only_the_passwords_that_it_needs() -> None:
    known = {
        name: {found[1] for value in described["environment"].values() for found in VARIABLE.finditer(str(value))}
        & SECRETS
        for name, described in SERVICES.items()
    }
    assert known == {
        "postgresql": {"POSTGRES_PASSWORD", "CATALOG_PASSWORD", "DAGSTER_PASSWORD"},
        "redis": {"REDIS_PASSWORD"},
        "questdb": {"QUESTDB_PASSWORD", "QUESTDB_READER_PASSWORD"},
        "rabbitmq": {"BROKER_PASSWORD"},
        "code-location": STORES,
        "worker": STORES,
        "metrics": STORES,
        "prometheus": set(),
        "grafana": {"GRAFANA_PASSWORD", "QUESTDB_READER_PASSWORD"},
        "webserver": {"DAGSTER_PASSWORD"},
        "daemon": {"DAGSTER_PASSWORD"},
    }


# --- what fits together


def variables_of(value: object) -> set[str]:
    """The variables that an instance file reads."""
    if isinstance(value, dict):
        own = {value["env"]} if set(value) == {"env"} else set()
        return own.union(*(variables_of(each) for each in value.values()))
    return set().union(*(variables_of(each) for each in value)) if isinstance(value, list) else set()


INSTANCE_VARIABLES = variables_of(yaml.safe_load((DEPLOY / "dagster.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("service", PROGRAMS)
def test_the_programs_are_given_what_the_instance_file_reads(service: str) -> None:
    assert {POSTGRES_VARIABLE, STORAGE_VARIABLE} == INSTANCE_VARIABLES
    passed = environment(service)
    assert set(passed) >= INSTANCE_VARIABLES
    assert passed[POSTGRES_VARIABLE].startswith("postgresql+psycopg2://")


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_everything_passed_to_the_pipeline_is_a_setting(service: str) -> None:
    passed = {name for name in SERVICES[service]["environment"] if name.startswith("KRAKEN_")}
    assert passed - INSTANCE_VARIABLES <= {name.upper() for name in Settings.model_fields}


def test_the_settings_take_what_they_are_passed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in environment("code-location").items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.home == Path("/data")
    assert settings.archive_dirs == (Path("/archives"),)
    assert settings.catalog_url == "postgresql://kraken_catalog:change-me-2@postgresql:5432/kraken_catalog"


def test_addresses_name_services_and_the_ports_that_these_listen_on() -> None:
    ports = {"postgresql": {5432}, "redis": {6379}, "questdb": {9000, 8812}, "rabbitmq": {5672}}
    urls = [urlsplit(value) for value in environment("code-location").values() if "://" in value]
    assert len(urls) == 6
    for url in urls:
        assert url.port in ports[str(url.hostname)]
    (location,) = yaml.safe_load((DEPLOY / "workspace.yaml").read_text(encoding="utf-8"))["load_from"]
    address = location["grpc_server"]
    code = SERVICES["code-location"]
    assert [address["host"]] == code["networks"]["code"]["aliases"]
    for option in ("host", "port", "location-name"):
        assert f"--{option}={address[option.replace('-', '_')]}" in code["command"]
    probe = code["healthcheck"]["test"]
    assert probe[probe.index("--host") + 1] == address["host"]
    assert probe[probe.index("--port") + 1] == str(address["port"])


@pytest.mark.process
def test_commands_are_such_that_dagster_knows() -> None:
    for service in PROGRAMS:
        program, *arguments = SERVICES[service]["command"]
        words = [each for each in arguments if not each.startswith("--")]
        said = subprocess.run(
            [Path(sys.executable).with_name(program), *words, "--help"], capture_output=True, text=True, check=True
        ).stdout
        assert [each for each in arguments if each.startswith("--") and each.partition("=")[0] not in said] == []


def test_what_the_image_copies_is_there_and_let_in_and_nothing_else_is() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
        for source in line.split()[:-1]
    }
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {line[1:] for line in rules if line.startswith("!")} == copied
    assert [source for source in copied if not (ROOT / source).exists()] == []


# --- for real


@dg.op
def _work() -> int:
    return 1


@dg.job(executor_def=dg.in_process_executor)
def _trivial() -> None:
    _work()


def test_the_instance_file_keeps_a_run_in_postgresql(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme = urlsplit(environment("daemon")[POSTGRES_VARIABLE]).scheme
    monkeypatch.setenv(POSTGRES_VARIABLE, postgresql_url.replace("postgresql", scheme, 1))
    monkeypatch.setenv(STORAGE_VARIABLE, str(tmp_path / "storage"))
    shutil.copy(DEPLOY / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert isinstance(instance.run_coordinator, dg.QueuedRunCoordinator)
        assert instance.run_monitoring_enabled
        assert not instance.telemetry_enabled
        done = _trivial.execute_in_process(instance=instance)
    with dg.DagsterInstance.from_config(str(tmp_path)) as another:
        found = another.get_run_by_id(done.run_id)
        assert found is not None
        assert found.status is dg.DagsterRunStatus.SUCCESS
        assert any(
            event.dagster_event and event.dagster_event.is_step_success for event in another.all_logs(found.run_id)
        )
    with psycopg.connect(postgresql_url) as connection:
        assert connection.execute("SELECT run_id, status FROM runs").fetchall() == [(done.run_id, "SUCCESS")]


RUNS = yaml.safe_load((DEPLOY / "dagster.yaml").read_text(encoding="utf-8"))["run_coordinator"]["config"][
    "max_concurrent_runs"
]
_PROCESSES = RUNS + len(("code-location", "metrics"))
_POOL = sum(Settings.model_fields[f"kraken_catalog_{part}"].default for part in ("pool", "overflow"))
CONNECTIONS = {"kraken_catalog": _PROCESSES * _POOL + 12 * RUNS, "kraken_dagster": 52}
"""The most connections of a role: of the catalog's, a whole pool of each process and the locks of each run."""


@pytest.mark.servers
def test_the_roles_reach_their_own_database_and_no_other(tmp_path: Path) -> None:
    need(PostgreSQL)
    # A password with what SQL and the shell would trip over.
    passwords = {"CATALOG_PASSWORD": 'it\'s "odd" $1', "DAGSTER_PASSWORD": "a" * 48}
    # A cluster of its own: roles are shared by all databases of one.
    with PostgreSQL(tmp_path / "cluster") as server:
        psql = shutil.which("psql")
        assert psql is not None, "apt-get install postgresql-client"
        for script in sorted((DEPLOY / "postgresql").glob("*.sql")):
            subprocess.run(
                [psql, "--no-psqlrc", "--no-password", f"--file={script}", server.url],
                env={"PATH": os.environ["PATH"], **passwords},
                capture_output=True,
                text=True,
                check=True,
            )

        def connect(role: str, password: str, database: str) -> psycopg.Connection[Any]:
            return psycopg.connect(
                host=HOST, port=server.port(), user=role, password=password, dbname=database, autocommit=True
            )

        for own, variable in (("kraken_catalog", "CATALOG_PASSWORD"), ("kraken_dagster", "DAGSTER_PASSWORD")):
            assert own in "".join(environment("code-location").values())
            with connect(own, passwords[variable], own) as connection:
                connection.execute("CREATE TABLE t (a int)")
                for forbidden in ("CREATE DATABASE other", "CREATE ROLE other", "ALTER ROLE kraken SUPERUSER"):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(forbidden.encode())
            for other in {"kraken_catalog", "kraken_dagster", "postgres", "template1"} - {own}:
                with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                    connect(own, passwords[variable], other)
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                connect(own, "change-me", own)
        limits = dict(server.execute("SELECT rolname, rolconnlimit FROM pg_roles WHERE rolname LIKE 'kraken_%'"))
        assert limits == CONNECTIONS


def test_the_roles_leave_connections_to_people_and_backups() -> None:
    (most,) = [each for each in SERVICES["postgresql"]["command"] if each.startswith("max_connections=")]
    assert sum(CONNECTIONS.values()) + 20 == int(most.partition("=")[2])


def healthy(service: str, changes: Mapping[str, str], passed: Mapping[str, str]) -> bool:
    """Whether a service's health check, with other ports, says that it is well."""
    kind, *test = SERVICES[service]["healthcheck"]["test"]
    command = ["sh", "-c", *test] if kind == "CMD-SHELL" else test
    command = [each.replace("$$", "$") for each in command]
    for found, put in changes.items():
        assert any(found in each for each in command)
        command = [each.replace(found, put) for each in command]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"], **passed}, capture_output=True, check=False)
    return done.returncode == 0


class ComposedQuestDB(QuestDB):
    """QuestDB with the environment that compose gives it, on other ports."""

    ports_needed = 3

    def _prepare(self) -> None:
        self.data.mkdir(exist_ok=True)

    def _account(self) -> dict[str, Any]:
        addresses = {
            "QDB_HTTP_BIND_TO": f"{HOST}:{self.port(0)}",
            "QDB_PG_NET_BIND_TO": f"{HOST}:{self.port(1)}",
            "QDB_HTTP_MIN_NET_BIND_TO": f"{HOST}:{self.port(2)}",
        }
        passed = environment("questdb", QUESTDB_PASSWORD=self.password)
        return {"env": {"PATH": os.environ["PATH"], **passed, **addresses}}


@pytest.mark.servers
def test_questdb_wants_its_password_everywhere_but_in_the_health_check(tmp_path: Path) -> None:
    need(QuestDB)
    with ComposedQuestDB(tmp_path) as server:
        port = {"9003": str(server.port(2))}
        assert healthy("questdb", port, {})
        assert not healthy("questdb", {"9003": str(server.port(0))}, {}), "it would take any answer for well"
        bare = f"http://{HOST}:{server.port(0)}"
        for url in (f"{bare}/exec?query=SELECT+1", f"{bare}/write"):
            assert requests.post(url, timeout=5).status_code == 401
        with pytest.raises(psycopg.OperationalError, match="invalid username/password"):
            psycopg.connect(f"postgresql://admin:quest@{HOST}:{server.port(1)}/qdb")
        reader = f"postgresql://reader:{EXAMPLE['QUESTDB_READER_PASSWORD']}@{HOST}:{server.port(1)}/qdb"
        with psycopg.connect(reader, autocommit=True) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            with pytest.raises(psycopg.Error, match=r"permission|denied|Write"):
                connection.execute("CREATE TABLE mine (n INT)")
        chosen = dict(server.execute("SELECT property_path, value FROM (SHOW PARAMETERS)"))
        assert chosen["cairo.wal.enabled.default"] == "true"
        assert chosen["line.tcp.enabled"] == chosen["telemetry.enabled"] == "false"
        server.stop()
        assert not healthy("questdb", port, {})


class ComposedRedis(Redis):
    """Redis with the command that compose gives it, on another port, and with a user more, for the tests' questions."""

    @property
    def url(self) -> str:
        """Its first database, as who the pipeline is."""
        address = urlsplit(environment("code-location", REDIS_PASSWORD=self.password)["KRAKEN_CACHE_URL"])
        assert address.hostname == "redis"
        return f"redis://{address.username}:{address.password}@{HOST}:{self.port()}/0"

    def _command(self) -> Sequence[str]:
        *shell, script = SERVICES["redis"]["command"]
        more = f"port {self.port()}\nbind {HOST}\nuser tester on >{self.password} ~* +@all\n"
        return [*shell, script.replace("$$", "$").replace("user default", f"{more}user default", 1)]

    def _account(self) -> dict[str, Any]:
        return {"env": {"PATH": os.environ["PATH"], **environment("redis", REDIS_PASSWORD=self.password)}}

    def as_user(self, name: str | None, password: str | None = None) -> redis.Redis:
        """A client of one of its users."""
        return redis.Redis(HOST, self.port(), username=name, password=password or self.password, protocol=2)


@pytest.mark.servers
def test_redis_wants_its_password_and_is_a_cache(tmp_path: Path) -> None:
    need(Redis)
    with ComposedRedis(tmp_path) as server:
        passed = environment("redis", REDIS_PASSWORD=server.password)
        port = {"redis-cli": f"redis-cli -h {HOST} -p {server.port()}"}
        assert healthy("redis", port, passed)
        assert not healthy("redis", port, {})
        with server.as_user("tester") as tester:
            found: Any = tester.config_get("maxmemory", "maxmemory-policy", "save", "appendonly")
        assert found == {
            "maxmemory": str(256 * 2**20),
            "maxmemory-policy": "allkeys-lru",
            "save": "",
            "appendonly": "no",
        }
        server.stop()
        assert not healthy("redis", port, passed)


@pytest.mark.servers
def test_the_user_of_redis_can_do_what_the_cache_does_and_nothing_else(
    tmp_path: Path, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    need(Redis)
    name = environment("code-location")["KRAKEN_CACHE_ENVIRONMENT"]
    clock, source = Clock(), Source()
    with (
        ComposedRedis(tmp_path / "redis") as server,
        closing(Caches(tmp_path / "cache", Counters(stores.catalog, clock=clock), clock, server.url)) as caches,
    ):
        cache = caches(name)
        for _ in range(2):
            assert cache.get_or_make(KEY, 60, source).value == {"rows": [1]}
        stats = cache.stats()
        assert (stats.level, stats.keys) == ("redis", 1)
        assert cache.clear() == 1
        assert cache.stats().keys == 0
        with closing(redis_pool(server.url, 1, 5.0)) as pool:
            assert redis_health(pool).error is None
        levels = {record.levelname for record in caplog.records}
        assert levels <= {"DEBUG", "INFO"}, "where a privilege is missing, the embedded cache takes over with a warning"
        with server.as_user("kraken") as kraken:
            for command in ("KEYS *", "FLUSHALL", "CONFIG GET save", "ACL LIST", "SUBSCRIBE a", "SET other 1"):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    kraken.execute_command(*command.split())
        for user in (None, "default"):
            with server.as_user(user) as nobody, pytest.raises(redis.exceptions.AuthenticationError):
                nobody.ping()
