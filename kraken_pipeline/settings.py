"""The settings, read from the environment or from a `.env` file in the current folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from kraken_pipeline.archive_path import ArchiveFolder, ArchivePath, archive_path, archive_paths
from kraken_pipeline.errors import InvalidSettings
from kraken_pipeline.setting_syntax import (
    CronTime,
    IntervalList,
    is_broker,
    is_database,
    is_http,
    is_pgwire,
    is_redis,
    problems,
)


class Settings(BaseSettings):
    """The settings, each named like its environment variable in lower case.

    `KRAKEN_PIPELINE_HOME` and the other paths may be relative to the folder in which the program is started.
    """

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", env_ignore_empty=True, extra="ignore", frozen=True
    )

    kraken_pipeline_home: Path = Field(
        default=Path("data"),
        description="The folder with all data: the drop folder, the lake, the catalog, reports, Dagster's history.",
    )
    kraken_lake_url: str | None = Field(
        default=None,
        pattern=r"^(s3|gs|az)://[\w.-]+(/[\w.=-]+)*/?$",
        description="The bucket that has the lake, the ledger and damaged files, instead of the home: "
        "`s3://bucket/prefix`; `gs://` and `az://` for Google's and Azure's. It needs the extra `s3`. Credentials are "
        "not part of it: they are read from the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, "
        "`AWS_REGION`, `AWS_ENDPOINT_URL`). Several machines on one bucket also need KRAKEN_CATALOG_URL.",
    )
    kraken_lake_patience_seconds: float = Field(
        default=30.0,
        gt=0,
        le=3_600,
        description="Seconds to wait for a bucket that does not answer. After that a run fails, and the same command "
        "continues it.",
    )
    kraken_archive_dirs: Annotated[tuple[ArchiveFolder, ...], NoDecode] = Field(
        default=(),
        description="Further folders or buckets with Kraken's archives, separated by ':'. They are only read.",
    )
    kraken_drop_url: str | None = Field(
        default=None,
        pattern=r"^(s3|gs|az)://[\w.-]+(/[\w.=-]+)+/?$",
        description="The prefix of a bucket that is the drop folder instead of `drop/` in the home (extra `s3`).",
    )
    kraken_tiers_file: Path | None = Field(
        default=None, description="A TOML file with a table of tiers that replaces the built-in one."
    )
    kraken_intervals: IntervalList | None = Field(
        default=None,
        description="The intervals of reports, lists of gaps and maps without `--intervals`: `60,1440` or `1h,1d`. "
        "If it is not set, they are the intervals of ingested archives and those that an open-ended ingest or backfill "
        "named; the eight of Kraken's archives until there are any. More intervals show more gaps. Weekly and 15-day "
        "candles are made on reading, and stored as well if they are named here; else it does not change what is "
        "ingested.",
    )
    kraken_archive_published_days: int = Field(
        default=14,
        ge=0,
        le=366,
        description="Days after the end of a quarter until its archive counts as published and is named as the one "
        "to fetch. Kraken takes days to weeks (the archive of 2026Q3 was not there on 4 October). Until then, a gap "
        "of that quarter is reported as waiting for the archive.",
    )
    kraken_keep_dropped_files: bool = Field(
        default=False,
        description="Whether ingested files stay in the drop folder instead of being moved to its folder `ingested`.",
    )
    kraken_keep_trades: bool = Field(
        default=False,
        description="Whether trades that are paged or read from archives are kept, for `read_trades` and `read_bars`. "
        "A trade takes 12 to 15 bytes. Archives of trades that were ingested before are read again while they exist.",
    )
    kraken_settle_seconds: float = Field(
        default=5.0,
        ge=0,
        le=3600,
        description="Seconds for which a file must be unchanged before it is read. Raise it if files are copied "
        "slowly into the drop folder.",
    )
    kraken_unpacked_gib: int = Field(
        default=16, ge=1, description="The largest unpacked size of a file in an archive, in GiB; Kraken's have a few."
    )
    kraken_unpacked_ratio: int = Field(
        default=200,
        ge=20,
        description="The largest ratio of unpacked to packed size of a file in an archive that unpacks to more than "
        "16 MiB; Kraken's have 10. A higher one lets a small file keep a run busy for longer.",
    )
    kraken_workers: int = Field(
        default=min(8, os.cpu_count() or 1),
        ge=1,
        le=64,
        description="Processes of one run that work side by side where there is much to do, and files that it reads at "
        "the same time where there is little. Each takes up to 64 MiB of CSV in memory.",
    )
    kraken_executor: Literal["in_process", "multiprocess", "celery", "kubernetes"] = Field(
        default="in_process",
        description="Where the steps of an ingest, a backfill, a reconciliation, a proof, a verification and a "
        "publication run. `in_process`: one after another in the process of the run, which starts others where there "
        "is much to do. `multiprocess`: each step is a group of pairs in a process of its own, up to "
        "`KRAKEN_WORKERS` at the same time, which Dagster starts, shows and retries one by one. `celery`: each step "
        "runs on a Celery worker, on any machine that has the home and the folders. `kubernetes`: each step is a pod, "
        "up to `KRAKEN_WORKERS` at the same time.",
    )
    kraken_celery_url: SecretStr | None = Field(
        default=None,
        description="The broker of `KRAKEN_EXECUTOR=celery`: `amqp://user:password@host:5672//` for RabbitMQ, or "
        "`redis://host:6379/1`.",
    )
    kraken_parallel_runs: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Runs that may ingest at the same time, and runs that may send requests to the exchange. "
        "Others wait.",
    )
    kraken_api_url: str = Field(
        default="https://api.kraken.com", pattern=r"^https?://\S+$", description="The URL of the exchange's REST API."
    )
    kraken_api_rate: float = Field(
        default=1.0,
        gt=0,
        le=50,
        description="Requests a second, over all processes of all runs.",
    )
    kraken_api_endpoint_rates: Annotated[Mapping[str, float], NoDecode] = Field(
        default={},
        description="Additional limits of single endpoints, in requests a second: `Trades=0.5,OHLC=1`.",
    )
    kraken_api_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=600,
        description="Seconds to wait for the next part of a reply. A complete reply may take twice as long.",
    )
    kraken_api_attempts: int = Field(
        default=3, ge=1, le=20, description="Attempts for a request that fails with a transient error."
    )
    kraken_api_retry_seconds: float = Field(
        default=1.0,
        ge=0,
        le=60,
        description="Seconds before the second attempt. Each further attempt doubles the wait.",
    )
    kraken_api_retry_longest_seconds: float = Field(
        default=60.0, ge=0, le=3_600, description="The longest wait between two attempts, in seconds."
    )
    kraken_api_patience_seconds: float = Field(
        default=600.0,
        ge=0,
        description="Seconds for which a run with --complete waits for an exchange that does not answer. Other "
        "runs leave the gaps to the next run.",
    )
    kraken_breaker_failures: int = Field(
        default=5, ge=1, description="Consecutive failed requests after which no requests are sent for a while."
    )
    kraken_breaker_seconds: float = Field(
        default=60.0, gt=0, description="Seconds without requests after KRAKEN_BREAKER_FAILURES consecutive failures."
    )
    kraken_max_requests_per_gap: int = Field(
        default=1_000,
        ge=0,
        description="The most requests that a run without --complete spends on one gap. A gap that costs more is "
        "not filled from Trades, but reported with its archive.",
    )
    kraken_max_requests_per_run: int = Field(
        default=3_600,
        ge=0,
        description="The most requests of one run that names no budget of its own. At one "
        "request a second, the default is one hour.",
    )
    kraken_cache_environment: str = Field(
        default="local",
        pattern=r"^[A-Za-z0-9_-]{1,32}$",
        description="The prefix of all keys of the reply cache, so that several installations can share one.",
    )
    kraken_cache_url: SecretStr | None = Field(
        default=None,
        description="Redis as a reply cache that several machines share: `redis://:password@host:6379/0`, or "
        "`rediss://` for TLS. If it is not set or does not answer, the cache on disk is used.",
    )
    kraken_cache_pool: int = Field(default=100, ge=1, le=1_000, description="The most Redis connections of a process.")
    kraken_cache_timeout_seconds: float = Field(
        default=0.5, gt=0, le=60, description="Seconds that connecting to Redis may take, and also each of its answers."
    )
    kraken_cache_mib: int = Field(
        default=256,
        ge=1,
        description="The greatest size of the cache on disk, in MiB. Replies that expire first are deleted first.",
    )
    kraken_cache_prices_seconds: float = Field(
        default=60.0, ge=0, description="Seconds for which a reply with one-minute candles is reused."
    )
    kraken_cache_replies_seconds: float = Field(
        default=300.0, ge=0, description="Seconds for which a reply with coarser candles is reused."
    )
    kraken_cache_history_seconds: float = Field(
        default=3_600.0, ge=0, description="Seconds for which a full page of trades is reused."
    )
    kraken_cache_assets_seconds: float = Field(
        default=86_400.0, ge=0, description="Seconds for which the list of pairs is reused."
    )
    kraken_auto_gap_fill: bool = Field(
        default=False,
        description="Whether each ingest without `--no-api-backfill` is followed by a backfill through the API.",
    )
    kraken_schedules: bool = Field(
        default=False, description="Whether all schedules run without being switched on in the UI."
    )
    kraken_schedule_tier: str = Field(
        default="ALL", pattern=r"(?i)^(tier[1-4]|all)$", description="The tier of the scheduled runs."
    )
    kraken_schedule_intervals: IntervalList | None = Field(
        default=None,
        description="The intervals of the scheduled runs: `60,1440` or `1h,1d`; those of a run that names none if "
        "it is not set.",
    )
    kraken_schedule_lookback_days: int = Field(
        default=7,
        ge=1,
        le=365,
        description="The last days whose gaps the scheduled backfill fills and whose candles `validate_recent_data` "
        "compares.",
    )
    kraken_backfill_cron: CronTime = Field(
        default="*/15 * * * *", description="The schedule of `backfill_gaps_incremental`, as cron in UTC."
    )
    kraken_report_cron: CronTime = Field(
        default="0 6 * * *", description="The schedule of `report_data_completeness`, as cron in UTC."
    )
    kraken_validate_cron: CronTime = Field(
        default="30 5 * * *", description="The schedule of `validate_recent_data`, as cron in UTC."
    )
    kraken_cleanup_cron: CronTime = Field(
        default="0 4 * * 0", description="The schedule of `cleanup_old_gap_records`, as cron in UTC."
    )
    kraken_verify_cron: CronTime = Field(
        default="0 3 * * *",
        description="The schedule of `verify_lake`, as cron in UTC. Each run reads a part of the lake.",
    )
    kraken_prove_cron: CronTime = Field(
        default="0 2 * * *", description="The schedule of `prove_by_trade_ids`, as cron in UTC."
    )
    kraken_prove_requests: int = Field(
        default=1_200,
        ge=0,
        description="The most requests of `prove_by_trade_ids` in one night. At one request a second, the default "
        "takes twenty minutes. More requests prove a large collection in fewer nights, and delay other "
        "runs for longer.",
    )
    kraken_verify_days: int = Field(
        default=30,
        ge=1,
        le=3_650,
        description="Days within which `verify_lake` reads all of the lake. With more days each run reads less, "
        "and damage is found later.",
    )
    kraken_aside_retention_days: int | None = Field(
        default=None,
        ge=1,
        description="Days for which unused files are kept: damaged files in `damaged/`, and replaced candles in "
        "`replaced/`, with the record of writes by which `as_of` reads an earlier moment. They are kept for ever if it "
        "is not set.",
    )
    kraken_gap_retention_days: int = Field(
        default=90, ge=1, description="Days for which the record of a filled gap is kept."
    )
    kraken_max_gaps: int = Field(
        default=100, ge=1, description="The number of open gaps above which a series fails its asset check."
    )
    kraken_catalog_url: SecretStr | None = Field(
        default=None,
        description="The catalog's database as an SQLAlchemy URL. If it is not set, the catalog is a SQLite file "
        "in the home.",
    )
    kraken_catalog_pool: int = Field(
        default=20,
        ge=2,
        le=1_000,
        description="The number of connections to the catalog's server that a process keeps. Two are opened at the "
        "start.",
    )
    kraken_catalog_overflow: int = Field(
        default=10,
        ge=0,
        le=1_000,
        description="The number of further connections to the catalog's server that a process may open for a short "
        "time.",
    )
    kraken_catalog_recycle_seconds: float = Field(
        default=3_600.0, gt=0, description="The greatest age of a connection to the catalog's server, in seconds."
    )
    kraken_catalog_patience_seconds: float = Field(
        default=30.0,
        gt=0,
        le=3_600,
        description="Seconds to wait for a catalog's server that does not answer, and for a free connection.",
    )
    kraken_questdb_url: SecretStr | None = Field(
        default=None,
        description="The URL of QuestDB's HTTP port, to which candles are written: "
        "`http://user:password@host:9000`. If it is not set, nothing is published.",
    )
    kraken_questdb_pg_url: SecretStr | None = Field(
        default=None,
        description="The URL of QuestDB's PGWire port, from which candles are read: "
        "`postgresql://user:password@host:8812/qdb`.",
    )
    kraken_questdb_pool_min: int = Field(
        default=5, ge=1, le=1_000, description="The number of PGWire connections that a process opens at the start."
    )
    kraken_questdb_pool: int = Field(
        default=50, ge=1, le=1_000, description="The most PGWire connections a process has."
    )
    kraken_questdb_recycle_seconds: float = Field(
        default=1_800.0, gt=0, description="The greatest age of a PGWire connection, in seconds."
    )
    kraken_questdb_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="Seconds to wait for a connection to QuestDB, and also for each of its answers.",
    )
    kraken_questdb_apply_seconds: float = Field(
        default=300.0,
        gt=0,
        description="Seconds that QuestDB may take to apply what was sent. After that the changes stay pending and "
        "are sent again.",
    )
    kraken_publish_rows: int = Field(
        default=500_000,
        ge=1_000,
        le=10_000_000,
        description="Candles that are read and sent to QuestDB at once. More is faster for many pairs, and takes more "
        "memory.",
    )
    kraken_health_cron: CronTime = Field(
        default="*/10 * * * *", description="When `check_health` runs, as cron in UTC."
    )
    kraken_alert_urls: SecretStr | None = Field(
        default=None,
        description="Where alerts are sent, as URLs of Apprise, separated by spaces: "
        "`mailtos://user:password@example.com slack://…`. It needs the extra `alerts`. If it is not set, no alerts "
        "are sent.",
    )
    kraken_alert_schedule_hours: float = Field(
        default=3.0, gt=0, le=720, description="Hours after which an alert says that a scheduled job did not succeed."
    )
    kraken_log_format: str = Field(
        default="text",
        pattern=r"(?i)^(text|json)$",
        description="The format of log lines: `text` for people, `json` for one object a line.",
    )
    kraken_log_level: str = Field(
        default="INFO",
        pattern=r"(?i)^(debug|info|warning|error|critical)$",
        description="The lowest level of the log: DEBUG, INFO, WARNING, ERROR or CRITICAL.",
    )

    @field_validator("kraken_archive_dirs", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return archive_paths(value) if isinstance(value, str) else value

    @field_validator("kraken_api_endpoint_rates", mode="before")
    @classmethod
    def _rates(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        rates = {}
        for part in value.split(","):
            name, _, rate = part.partition("=")
            if (
                not re.fullmatch(r"\w+", name.strip())
                or not re.fullmatch(r"\d*\.?\d+", rate.strip())
                or not float(rate)
            ):
                raise ValueError("write endpoints with their requests a second, such as Trades=0.5,OHLC=1")
            rates[name.strip()] = float(rate)
        return rates

    @field_validator("kraken_celery_url")
    @classmethod
    def _name_a_broker(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not is_broker(value.get_secret_value()):
            raise ValueError(
                "write amqp://user:password@host:5672// or redis://:password@host:6379/1, with the password "
                "percent-encoded"
            )
        return value

    @field_validator("kraken_cache_url")
    @classmethod
    def _name_a_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not is_redis(value.get_secret_value()):
            raise ValueError(
                "write redis://:password@host:6379/0, or rediss:// for TLS, with the password percent-encoded"
            )
        return value

    @field_validator("kraken_catalog_url")
    @classmethod
    def _name_a_database(cls, value: SecretStr | None) -> SecretStr | None:
        url = "sqlite://" if value is None else value.get_secret_value()
        if not is_database(url):
            raise ValueError(
                "write sqlite:////a/path/catalog.sqlite or postgresql://user:password@host/database, with the "
                "password percent-encoded"
            )
        return value

    @field_validator("kraken_questdb_url")
    @classmethod
    def _name_questdb(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not is_http(value.get_secret_value()):
            raise ValueError("write http://user:password@host:9000, or https://…, with the password percent-encoded")
        return value

    @field_validator("kraken_questdb_pg_url")
    @classmethod
    def _name_pgwire(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not is_pgwire(value.get_secret_value()):
            raise ValueError("write postgresql://user:password@host:8812/qdb, with the password percent-encoded")
        return value

    @model_validator(mode="after")
    def _name_both_sides(self) -> Settings:
        if (self.kraken_questdb_url is None) != (self.kraken_questdb_pg_url is None):
            raise ValueError(
                "set both KRAKEN_QUESTDB_URL and KRAKEN_QUESTDB_PG_URL, or neither: QuestDB needs both ports"
            )
        if self.kraken_executor == "celery" and self.kraken_celery_url is None:
            raise ValueError("KRAKEN_EXECUTOR=celery needs KRAKEN_CELERY_URL, the URL of the broker")
        if self.kraken_questdb_pool < self.kraken_questdb_pool_min:
            raise ValueError("KRAKEN_QUESTDB_POOL is less than KRAKEN_QUESTDB_POOL_MIN")
        return self

    @property
    def has_questdb(self) -> bool:
        """Whether candles are published to QuestDB."""
        return self.kraken_questdb_url is not None

    @property
    def home(self) -> Path:
        """The home as an absolute path."""
        return self.kraken_pipeline_home.expanduser().absolute()

    @property
    def drop(self) -> ArchivePath:
        """The drop folder, as an absolute path, or as that of a prefix in a bucket."""
        return self.home / "drop" if self.kraken_drop_url is None else archive_path(self.kraken_drop_url)

    @property
    def archive_dirs(self) -> tuple[ArchivePath, ...]:
        """The read-only archive folders, as absolute paths."""
        return tuple(path.expanduser().absolute() for path in self.kraken_archive_dirs)

    @property
    def catalog_url(self) -> str:
        """The URL of the catalog's database, with its password: never log it."""
        if self.kraken_catalog_url is not None:
            return self.kraken_catalog_url.get_secret_value()
        return f"sqlite:///{self.home / 'catalog.sqlite'}"


def load_settings(**overrides: Any) -> Settings:
    """Return the settings of this process.

    Args:
        **overrides: Values that override the environment, by name.

    Raises:
        InvalidSettings: A variable is wrong; the message names it and says what is allowed.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        secrets = {name for name, known in Settings.model_fields.items() if SecretStr in get_args(known.annotation)}
        raise InvalidSettings(f"wrong settings in the environment or .env: {problems(error, secrets)}") from None
