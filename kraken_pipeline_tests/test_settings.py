from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from kraken_pipeline.errors import InvalidSettings
from kraken_pipeline.settings import Settings, load_settings

POSTGRESQL = "postgresql+psycopg://me:hunter2@db.example/kraken"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without a `.env`, and an environment without settings."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def test_everything_has_a_default_and_lies_under_the_current_folder(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.home == tmp_path / "data"
    assert settings.drop == tmp_path / "data" / "drop"
    assert settings.archive_dirs == ()
    assert settings.catalog_url == f"sqlite:///{tmp_path / 'data' / 'catalog.sqlite'}"
    assert settings.kraken_tiers_file is None
    assert settings.kraken_api_url == "https://api.kraken.com"
    assert (settings.kraken_api_rate, settings.kraken_max_requests_per_gap) == (1.0, 1_000)
    assert (settings.kraken_max_gaps, settings.kraken_settle_seconds) == (100, 5.0)
    assert (settings.kraken_keep_dropped_files, settings.kraken_log_level) == (False, "INFO")
    assert not settings.kraken_keep_trades
    assert not list(tmp_path.iterdir()), "looking at settings makes nothing"


def test_every_setting_is_documented() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
    assert all(name.startswith("kraken_") for name in Settings.model_fields)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KRAKEN_PIPELINE_HOME", "elsewhere")
    monkeypatch.setenv("KRAKEN_ARCHIVE_DIRS", os.pathsep.join(["first", "/second", ""]))
    monkeypatch.setenv("KRAKEN_KEEP_DROPPED_FILES", "true")
    monkeypatch.setenv("KRAKEN_CATALOG_URL", POSTGRESQL)
    settings = load_settings()
    assert settings.home == tmp_path / "elsewhere"
    assert settings.archive_dirs == (tmp_path / "first", Path("/second"))
    assert settings.kraken_keep_dropped_files
    assert settings.catalog_url == POSTGRESQL


def test_a_home_may_begin_with_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("KRAKEN_PIPELINE_HOME", "~/kraken")
    assert load_settings().home == tmp_path / "me" / "kraken"


def test_a_file_env_in_the_current_folder_counts_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("KRAKEN_MAX_GAPS=7\nKRAKEN_API_RATE=0.5\nSOMETHING_ELSE=1\n", encoding="utf-8")
    monkeypatch.setenv("KRAKEN_API_RATE", "2")
    settings = load_settings()
    assert (settings.kraken_max_gaps, settings.kraken_api_rate) == (7, 2.0)


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KRAKEN_PIPELINE_HOME", "")
    monkeypatch.setenv("KRAKEN_TIERS_FILE", "")
    (tmp_path / ".env").write_text("KRAKEN_CATALOG_URL=\nKRAKEN_MAX_GAPS=\n", encoding="utf-8")
    assert load_settings() == Settings(_env_file=None)


WRONG = [
    ("KRAKEN_KEEP_DROPPED_FILES", "perhaps"),
    ("KRAKEN_KEEP_TRADES", "perhaps"),
    ("KRAKEN_SETTLE_SECONDS", "-1"),
    ("KRAKEN_SETTLE_SECONDS", "3601"),
    ("KRAKEN_SETTLE_SECONDS", "nan"),
    ("KRAKEN_UNPACKED_GIB", "0"),
    ("KRAKEN_UNPACKED_RATIO", "19"),
    ("KRAKEN_WORKERS", "0"),
    ("KRAKEN_WORKERS", "65"),
    ("KRAKEN_WORKERS", "two"),
    ("KRAKEN_EXECUTOR", "threads"),
    ("KRAKEN_PARALLEL_RUNS", "0"),
    ("KRAKEN_PARALLEL_RUNS", "1.5"),
    ("KRAKEN_LAKE_URL", "/data/lake"),
    ("KRAKEN_LAKE_URL", "s3://"),
    ("KRAKEN_LAKE_URL", "https://bucket/prefix"),
    ("KRAKEN_LAKE_URL", "s3://bucket/a prefix"),
    ("KRAKEN_DROP_URL", "/data/drop"),
    ("KRAKEN_DROP_URL", "s3://bucket"),
    ("KRAKEN_DROP_URL", "s3://bucket/a prefix"),
    ("KRAKEN_LAKE_PATIENCE_SECONDS", "0"),
    ("KRAKEN_LAKE_PATIENCE_SECONDS", "3601"),
    ("KRAKEN_API_URL", "ftp://api.kraken.com"),
    ("KRAKEN_API_URL", "https://"),
    ("KRAKEN_API_URL", "https://api kraken"),
    ("KRAKEN_API_RATE", "0"),
    ("KRAKEN_API_RATE", "-1"),
    ("KRAKEN_API_RATE", "51"),
    ("KRAKEN_API_RATE", "inf"),
    ("KRAKEN_API_RATE", "nan"),
    ("KRAKEN_API_ENDPOINT_RATES", "Trades"),
    ("KRAKEN_API_ENDPOINT_RATES", "Trades=0"),
    ("KRAKEN_API_ENDPOINT_RATES", "Trades=fast"),
    ("KRAKEN_API_TIMEOUT_SECONDS", "0"),
    ("KRAKEN_API_ATTEMPTS", "0"),
    ("KRAKEN_API_RETRY_SECONDS", "-1"),
    ("KRAKEN_API_RETRY_LONGEST_SECONDS", "nan"),
    ("KRAKEN_API_PATIENCE_SECONDS", "-1"),
    ("KRAKEN_BREAKER_FAILURES", "0"),
    ("KRAKEN_BREAKER_SECONDS", "0"),
    ("KRAKEN_MAX_REQUESTS_PER_GAP", "-1"),
    ("KRAKEN_MAX_REQUESTS_PER_RUN", "-1"),
    ("KRAKEN_CACHE_ENVIRONMENT", "a:b"),
    ("KRAKEN_CACHE_POOL", "0"),
    ("KRAKEN_CACHE_POOL", "1001"),
    ("KRAKEN_CACHE_TIMEOUT_SECONDS", "0"),
    ("KRAKEN_CACHE_TIMEOUT_SECONDS", "61"),
    ("KRAKEN_CACHE_MIB", "0"),
    ("KRAKEN_CACHE_PRICES_SECONDS", "-1"),
    ("KRAKEN_CACHE_REPLIES_SECONDS", "nan"),
    ("KRAKEN_CACHE_HISTORY_SECONDS", "an hour"),
    ("KRAKEN_CACHE_ASSETS_SECONDS", "-1"),
    ("KRAKEN_AUTO_GAP_FILL", "perhaps"),
    ("KRAKEN_SCHEDULES", "sometimes"),
    ("KRAKEN_SCHEDULE_TIER", "TIER5"),
    ("KRAKEN_SCHEDULE_INTERVALS", "7"),
    ("KRAKEN_INTERVALS", "60;1440"),
    ("KRAKEN_INTERVALS", "1h,"),
    ("KRAKEN_INTERVALS", "2h"),
    ("KRAKEN_ARCHIVE_PUBLISHED_DAYS", "-1"),
    ("KRAKEN_SCHEDULE_LOOKBACK_DAYS", "366"),
    ("KRAKEN_BACKFILL_CRON", "hourly"),
    ("KRAKEN_REPORT_CRON", "? * * * *"),
    ("KRAKEN_REPORT_CRON", "99 * * * *"),
    ("KRAKEN_VALIDATE_CRON", "* * * *"),
    ("KRAKEN_CLEANUP_CRON", "a b c d e"),
    ("KRAKEN_VERIFY_CRON", "* * * *"),
    ("KRAKEN_VERIFY_DAYS", "0"),
    ("KRAKEN_PROVE_CRON", "* * * *"),
    ("KRAKEN_PROVE_REQUESTS", "-1"),
    ("KRAKEN_ASIDE_RETENTION_DAYS", "0"),
    ("KRAKEN_GAP_RETENTION_DAYS", "0"),
    ("KRAKEN_MAX_GAPS", "0"),
    ("KRAKEN_CATALOG_POOL", "1"),
    ("KRAKEN_CATALOG_POOL", "1001"),
    ("KRAKEN_CATALOG_OVERFLOW", "-1"),
    ("KRAKEN_CATALOG_OVERFLOW", "1001"),
    ("KRAKEN_CATALOG_RECYCLE_SECONDS", "0"),
    ("KRAKEN_CATALOG_RECYCLE_SECONDS", "nan"),
    ("KRAKEN_CATALOG_PATIENCE_SECONDS", "0"),
    ("KRAKEN_CATALOG_PATIENCE_SECONDS", "3601"),
    ("KRAKEN_QUESTDB_POOL_MIN", "0"),
    ("KRAKEN_QUESTDB_POOL_MIN", "1001"),
    ("KRAKEN_QUESTDB_POOL", "0"),
    ("KRAKEN_QUESTDB_POOL", "many"),
    ("KRAKEN_QUESTDB_RECYCLE_SECONDS", "0"),
    ("KRAKEN_QUESTDB_TIMEOUT_SECONDS", "0"),
    ("KRAKEN_QUESTDB_TIMEOUT_SECONDS", "601"),
    ("KRAKEN_QUESTDB_APPLY_SECONDS", "0"),
    ("KRAKEN_QUESTDB_APPLY_SECONDS", "nan"),
    ("KRAKEN_PUBLISH_ROWS", "999"),
    ("KRAKEN_PUBLISH_ROWS", "10000001"),
    ("KRAKEN_HEALTH_CRON", "always"),
    ("KRAKEN_HEALTH_CRON", "*/10 * * *"),
    ("KRAKEN_ALERT_SCHEDULE_HOURS", "0"),
    ("KRAKEN_ALERT_SCHEDULE_HOURS", "721"),
    ("KRAKEN_LOG_FORMAT", "yaml"),
    ("KRAKEN_LOG_FORMAT", "jsonl"),
    ("KRAKEN_LOG_LEVEL", "loud"),
    ("KRAKEN_LOG_LEVEL", "INFO\n"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_refused_in_a_sentence_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings) as refusal:
        load_settings()
    sentence = str(refusal.value)
    assert sentence.startswith(f"wrong settings in the environment or .env: {name}={value!r}: ")
    assert "\n" not in sentence
    assert "errors.pydantic.dev" not in sentence


@pytest.mark.parametrize("url", ["http://host", "amqp://", "redis://", "redis://host/one", "host:5672", "amqp://a b/"])
def test_a_broker_that_celery_cannot_use_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("KRAKEN_CELERY_URL", url)
    with pytest.raises(InvalidSettings, match=r"KRAKEN_CELERY_URL=\*\*\*\*.*amqp://user:password@host") as refusal:
        load_settings()
    assert url not in str(refusal.value).partition("write ")[0]


@pytest.mark.parametrize(
    "url", ["amqp://host", "amqp://user:p%40ss@host:5672//", "pyamqp://guest@host/vhost", "rediss://:word@host:6379/1"]
)
def test_rabbitmq_and_redis_are_brokers(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("KRAKEN_EXECUTOR", "celery")
    with pytest.raises(InvalidSettings, match="KRAKEN_EXECUTOR=celery needs KRAKEN_CELERY_URL"):
        load_settings()
    monkeypatch.setenv("KRAKEN_CELERY_URL", url)
    assert url not in repr(load_settings())


def test_the_lake_may_be_in_a_bucket_whose_url_has_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().kraken_lake_url is None
    for url in ("s3://bucket", "s3://my.bucket-1/a/prefix/", "gs://bucket/kraken", "az://container/kraken"):
        monkeypatch.setenv("KRAKEN_LAKE_URL", url)
        assert load_settings().kraken_lake_url == url
    monkeypatch.setenv("KRAKEN_LAKE_URL", "s3://key:hunter2@bucket/prefix")
    with pytest.raises(InvalidSettings, match="KRAKEN_LAKE_URL=") as wrong:
        load_settings()
    assert "hunter2" not in str(wrong.value)


def test_every_setting_that_can_be_wrong_is_among_those_tested() -> None:
    free = {"KRAKEN_PIPELINE_HOME", "KRAKEN_ARCHIVE_DIRS", "KRAKEN_TIERS_FILE"}  # any path is one
    secret = {
        "KRAKEN_ALERT_URLS",  # Apprise says what is wrong with them, when they are used
        "KRAKEN_CATALOG_URL",
        "KRAKEN_CACHE_URL",
        "KRAKEN_CELERY_URL",
        "KRAKEN_QUESTDB_URL",
        "KRAKEN_QUESTDB_PG_URL",
    }
    assert {name.upper() for name in Settings.model_fields} == {name for name, _ in WRONG} | free | secret


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRAKEN_WORKERS", "0")
    monkeypatch.setenv("KRAKEN_MAX_GAPS", "0")
    with pytest.raises(InvalidSettings, match=r"KRAKEN_WORKERS='0'.*; KRAKEN_MAX_GAPS='0'"):
        load_settings()


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "postgres://me:hunter2@db/k",
        "mysql://me:hunter2@db/k",
        "sqlite:hunter2",
        "postgresql://me:hunter2@db:port/k",
        "postgresql://me:hunter2@db:65536/k",
        # The driver would look for a host `hunter2@db`, and say so.
        "postgresql://me:not@hunter2@db/k",
        "postgresql://me:hunter2/encoded@db/k",
        "postgresql://me:hunter2@[::1/k",
    ],
)
def test_a_wrong_catalog_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("KRAKEN_CATALOG_URL", url)
    with pytest.raises(
        InvalidSettings, match=r"KRAKEN_CATALOG_URL=\*\*\*\*.*postgresql://user:password@host"
    ) as refusal:
        load_settings()
    assert "hunter2" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////var/a [catalog].sqlite",
        "postgresql://me@db/kraken",
        "postgresql:///kraken?host=/run/postgresql",
        "postgresql://me:h%2Funt%40er%5B2@[::1]:5432/kraken",
        POSTGRESQL,
    ],
)
def test_sqlite_and_postgresql_are_catalogs(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("KRAKEN_CATALOG_URL", url)
    assert load_settings().catalog_url == url


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "http://:hunter2@cache:6379",
        "unix://:hunter2@/run/redis.sock",
        "redis://",
        "redis://:hunter2/not-encoded@cache:6379/0",
        "redis://:hunter2@cache:port/0",
        "redis://:hunter2@cache/no-number",
        "redis://:hunter2@cache/0?socket_timeout=soon",
        "redis://:hunter2@cache/0?no_option=1",
        "rediss://:hunter2@cache/0?ssl_cert_reqs=perhaps",
        "redis://:hunter2@cache:6379/0 ",
    ],
)
def test_a_wrong_cache_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("KRAKEN_CACHE_URL", url)
    with pytest.raises(InvalidSettings, match=r"KRAKEN_CACHE_URL=\*\*\*\*.*redis://:password@host") as refusal:
        load_settings()
    assert "hunter2" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache",
        "redis://:hunter2@cache:6379/0",
        "rediss://me:hunt%2Fer2@cache.example:6380/3?ssl_cert_reqs=none",
        "redis://[::1]:6379/?client_name=kraken",
    ],
)
def test_redis_is_a_cache(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("KRAKEN_CACHE_URL", url)
    settings = load_settings()
    assert settings.kraken_cache_url is not None
    assert settings.kraken_cache_url.get_secret_value() == url
    assert "hunt" not in repr(settings)


HTTP = "http://me:hunter2@questdb:9000"
PGWIRE = "postgresql://me:hunter2@questdb:8812/qdb"


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "questdb:9000",
        "ftp://me:hunter2@questdb",
        "http://",
        "http://me:hunter2@",
        "http://me:hunter2@questdb:port",
        "http://me:hunter2@questdb:65536",
        "http://me:hunter2@questdb:0",
        "http://me:hunter2@questdb/a/path",
        "http://me:hunter2@questdb?query",
        # Raw signs that end the host or the password for one who reads it.
        "http://me:hunter2#encoded@questdb:9000",
        "http://me:hunter2?encoded@questdb:9000",
        "http://me:hunter2/encoded@questdb:9000",
        "http://me:not@hunter2@questdb:9000",
        "http://me:hunter2@questdb;auto_flush=on;",
        "http://me:hunter2@::1:9000",
        "http://me:hunter2@questdb:9000 ",
        "http://me:hunter2@questdb:9000\n",
    ],
)
def test_a_wrong_questdb_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("KRAKEN_QUESTDB_URL", url)
    monkeypatch.setenv("KRAKEN_QUESTDB_PG_URL", PGWIRE)
    with pytest.raises(
        InvalidSettings, match=r"KRAKEN_QUESTDB_URL=\*\*\*\*.*http://user:password@host:9000"
    ) as refusal:
        load_settings()
    assert "hunter2" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "http://me:hunter2@questdb:8812",
        "postgres://me:hunter2@questdb:8812/qdb",
        "postgresql+psycopg://me:hunter2@questdb:8812/qdb",
        "postgresql://",
        "postgresql:///qdb",
        "postgresql://me:hunter2@questdb:port/qdb",
        "postgresql://me:hunter2@questdb:65536/qdb",
        "postgresql://me:hunter2/encoded@questdb:8812/qdb",
        "postgresql://me:not@hunter2@questdb:8812/qdb",
        "postgresql://me:hunter2%zz@questdb:8812/qdb",
        "postgresql://me:hunter2@questdb:8812/qdb?no_option=1",
        "postgresql://me:hunter2@questdb:8812/q db",
    ],
)
def test_a_wrong_pgwire_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("KRAKEN_QUESTDB_URL", HTTP)
    monkeypatch.setenv("KRAKEN_QUESTDB_PG_URL", url)
    with pytest.raises(
        InvalidSettings, match=r"KRAKEN_QUESTDB_PG_URL=\*\*\*\*.*postgresql://user:password@host:8812/qdb"
    ) as refusal:
        load_settings()
    assert "hunter2" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    ("http", "pgwire"),
    [
        (HTTP, PGWIRE),
        ("http://questdb", "postgresql://questdb"),
        ("https://me:h%2Funt%40er%3A2%25@questdb.example/", "postgresql://me:h%2Funt%40er%3A2%25@questdb.example/qdb"),
        ("http://me:hunter2@[::1]:9000", "postgresql://me:hunter2@[fe80::2]:8812/qdb?sslmode=require"),
        ("http://me:hunt;er:2=!$&@10.0.0.7:9000", "postgresql://me:hunt;er:2=!$&@my_questdb:8812/qdb"),
    ],
)
def test_questdb_has_two_sides(monkeypatch: pytest.MonkeyPatch, http: str, pgwire: str) -> None:
    monkeypatch.setenv("KRAKEN_QUESTDB_URL", http)
    monkeypatch.setenv("KRAKEN_QUESTDB_PG_URL", pgwire)
    settings = load_settings()
    assert settings.has_questdb
    assert settings.kraken_questdb_url is not None
    assert settings.kraken_questdb_pg_url is not None
    assert settings.kraken_questdb_url.get_secret_value() == http
    assert settings.kraken_questdb_pg_url.get_secret_value() == pgwire
    assert "hunt" not in repr(settings)


@pytest.mark.parametrize(("name", "url"), [("KRAKEN_QUESTDB_URL", HTTP), ("KRAKEN_QUESTDB_PG_URL", PGWIRE)])
def test_one_side_of_questdb_alone_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str
) -> None:
    monkeypatch.setenv(name, url)
    monkeypatch.setenv("KRAKEN_CATALOG_URL", POSTGRESQL)
    with pytest.raises(InvalidSettings, match="set both KRAKEN_QUESTDB_URL and KRAKEN_QUESTDB_PG_URL") as refusal:
        load_settings()
    assert "hunter2" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_no_more_connections_can_be_open_from_the_start_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRAKEN_QUESTDB_POOL_MIN", "7")
    monkeypatch.setenv("KRAKEN_QUESTDB_POOL", "6")
    monkeypatch.setenv("KRAKEN_CATALOG_URL", POSTGRESQL)
    with pytest.raises(InvalidSettings, match="KRAKEN_QUESTDB_POOL is less than KRAKEN_QUESTDB_POOL_MIN") as refusal:
        load_settings()
    assert "hunter2" not in str(refusal.value)
    monkeypatch.setenv("KRAKEN_QUESTDB_POOL", "7")
    assert load_settings().kraken_questdb_pool == 7


def test_what_comes_with_the_servers_has_the_defaults_that_the_documentation_names() -> None:
    settings = load_settings()
    assert not settings.has_questdb
    assert (settings.kraken_catalog_pool, settings.kraken_catalog_overflow) == (20, 10)
    assert (settings.kraken_catalog_recycle_seconds, settings.kraken_catalog_patience_seconds) == (3_600, 30)
    assert (settings.kraken_questdb_pool_min, settings.kraken_questdb_pool) == (5, 50)
    assert (settings.kraken_questdb_recycle_seconds, settings.kraken_questdb_timeout_seconds) == (1_800, 10)
    assert (settings.kraken_publish_rows, settings.kraken_questdb_apply_seconds) == (500_000, 300)
    assert (settings.kraken_health_cron, settings.kraken_log_format) == ("*/10 * * * *", "text")


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, url in {
        "KRAKEN_CATALOG_URL": POSTGRESQL,
        "KRAKEN_CACHE_URL": "redis://:hunter2@cache",
        "KRAKEN_CELERY_URL": "amqp://kraken:hunter2@queue//",
        "KRAKEN_QUESTDB_URL": HTTP,
        "KRAKEN_QUESTDB_PG_URL": PGWIRE,
    }.items():
        monkeypatch.setenv(name, url)
    settings = load_settings()
    for shown in (
        repr(settings),
        str(settings),
        f"{settings}",
        settings.model_dump_json(),
        repr(settings.model_dump()),
    ):
        assert "hunter2" not in shown
        assert "kraken" in shown


def test_settings_do_not_change() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError):
        setattr(settings, "kraken_workers", 3)  # noqa: B010
