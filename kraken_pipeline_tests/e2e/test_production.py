"""The same commands with every server set: catalog and Dagster on PostgreSQL, QuestDB, Redis, S3; by variables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.support.buckets import Bucket
from kraken_pipeline_tests.support.homes import Shelf, evidence_of, files_of, lake_of, settings_of
from kraken_pipeline_tests.support.servers import PostgreSQL, QuestDB
from kraken_pipeline_tests.support.shell import ROOT, ended, shell, start

pytestmark = pytest.mark.slow


def test_the_same_commands_do_the_same_with_every_server_as_with_none(
    tmp_path: Path, shelf: Shelf, postgresql: PostgreSQL, questdb: QuestDB, redis_url: str, bucket: Bucket
) -> None:
    catalog, dagster = postgresql.database(), postgresql.database()
    servers = {
        "KRAKEN_CATALOG_URL": catalog,
        "KRAKEN_QUESTDB_URL": questdb.http_url,
        "KRAKEN_QUESTDB_PG_URL": questdb.pg_url,
        "KRAKEN_CACHE_URL": redis_url,
        "KRAKEN_LAKE_URL": bucket.url,
        "KRAKEN_LOG_FORMAT": "json",
        "KRAKEN_DAGSTER_POSTGRES_URL": dagster.replace("postgresql://", "postgresql+psycopg2://"),
        "DAGSTER_HOME": str(tmp_path / "instance"),
    }
    (tmp_path / "instance").mkdir()
    shutil.copy(ROOT / "deploy" / "dagster.yaml", tmp_path / "instance")
    archives = [option for path in (shelf.q2, shelf.q3) for option in ("--archive-dir", str(path))]
    command = ("ingest", *archives, "--no-api-backfill", "--json")
    alone, served = tmp_path / "alone", tmp_path / "served"
    embedded = start(alone, *command)
    with_servers = start(served, *command, **servers)
    for done in (ended(embedded), ended(with_servers)):
        assert done.code == 0, done.err
    outcome_and_log = done.out + done.err
    outcome = done.json["outcome"]
    assert outcome["publications_owed"] == 0
    assert outcome["candles_published"] > 0

    settings = settings_of(
        served,
        kraken_catalog_url=catalog,
        kraken_questdb_url=questdb.http_url,
        kraken_questdb_pg_url=questdb.pg_url,
        kraken_cache_url=redis_url,
        kraken_lake_url=bucket.url,
    )
    with opened(settings_of(alone)) as one, opened(settings) as other:
        assert lake_of(one) == lake_of(other)
        assert evidence_of(one) == evidence_of(other)
        assert files_of(one) == files_of(other)
    in_folder = {path.relative_to(alone).as_posix() for path in (alone / "lake").rglob("*.parquet")}
    assert bucket.objects("lake") == in_folder
    assert not list(served.rglob("*.parquet"))
    assert shell(served, "verify", **servers).code == 0
    verified = shell(served, "publish", "--verify", "--json", **servers)
    assert (verified.code, verified.json["outcome"]["series_different"]) == (0, 0), verified.err
    assert verified.json["outcome"]["candles_published"] == 0, "all of it was delivered by the run that changed it"
    assert [run["job"] for run in shell(served, "status", "--json", **servers).json] == [
        "publish_candles",
        "ingest",
    ], "history is in PostgreSQL"
    assert not list((served / "dagster").glob("**/*.db"))
    health = {each["name"]: each for each in shell(served, "health", "--json", **servers).json["checks"]}
    for name in ("lake", "catalog", "catalog pool", "catalog server", "questdb", "questdb lag", "redis", "outbox"):
        assert health[name]["status"] == "ok", health[name]
    assert f"{bucket.url} can be read and written" in json.dumps(health["lake"])
    told = json.dumps(health) + outcome_and_log
    assert not [secret for secret in (postgresql.password, bucket.server.password) if secret in told]
    stored = postgresql.execute("SELECT string_agg(event, '') FROM event_logs", dagster)[0][0]
    assert bucket.server.password not in stored
    for url in (catalog, dagster):
        postgresql.drop(url)
