"""`kraken-pipeline metrics` on real homes: what a run counts is scraped, under Prometheus' conventions."""

from __future__ import annotations

import re
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from kraken_pipeline.orchestration.run_records import JOBS
from kraken_pipeline_tests.support.fixtures import need
from kraken_pipeline_tests.support.homes import Shelf
from kraken_pipeline_tests.support.prometheus import Prometheus, lint
from kraken_pipeline_tests.support.servers import HOST, wait_for
from kraken_pipeline_tests.support.shell import ROOT, ended, shell, start

pytestmark = pytest.mark.slow

Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]
HOURLY = ("--no-api-backfill", "--intervals", "60,1440")


def parsed(text: str) -> Samples:
    """Name and labels → value, as Prometheus' own parser reads them."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("kraken_")
        assert family.documentation.endswith(".")
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, "a sample appears twice"
            found[key] = sample.value
    return found


def written(home: Path) -> tuple[str, Samples]:
    path = home.parent / "kraken.prom"
    said = shell(home, "metrics", "--textfile", str(path))
    assert said.code == 0, said.err
    assert list(home.parent.glob("kraken.prom*")) == [path], "nothing else is left beside it"
    text = path.read_text(encoding="utf-8")
    return text, parsed(text)


def one(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


@pytest.fixture
def ingested(home: Path, shelf: Shelf) -> Path:
    assert shell(home, "ingest", "--archive-dir", str(shelf.q1.parent), *HOURLY).code == 0
    return home


def test_what_a_run_did_is_counted_and_measured(ingested: Path) -> None:
    _, found = written(ingested)
    status = shell(ingested, "status", "--json").json[0]
    report = shell(ingested, "report", "--json").json
    assert one(found, "kraken_files_total", status="completed") == status["files_ingested"] > 0
    assert one(found, "kraken_candles_stored_total", source="csv") > 0
    assert one(found, "kraken_archive_rows_read_total") >= one(found, "kraken_candles_stored_total", source="csv")
    stored = sum(value for (name, _), value in found.items() if name == "kraken_phase_candles_total")
    assert stored == status["candles_ingested"]
    assert one(found, "kraken_phase_seconds_total", phase="finding gaps") > 0
    for tier, intervals in report["tiers"].items():
        for interval, total in intervals.items():
            labels = {"tier": tier.lower(), "interval": interval}
            for metric, key in (
                ("kraken_completeness_ratio", "completeness_pct"),
                ("kraken_reconciled_ratio", "proven_pct"),
                ("kraken_verified_ratio", "verified_pct"),
            ):
                assert one(found, metric, **labels) == pytest.approx(total[key] / 100, abs=1e-4)
    gaps = sum(value for (name, _), value in found.items() if name == "kraken_gaps")
    assert gaps == report["total_gaps"] > 0
    assert one(found, "kraken_job_last_success_timestamp_seconds", job="ingest") > 1.7e9
    assert one(found, "kraken_breaker_state", state="closed") == 1
    assert one(found, "kraken_disk_free_bytes") > 0
    assert all(one(found, "kraken_metrics_success", part=part) == 1 for part in ("counters", "catalog", "runs"))


def test_counters_go_on_over_runs_and_cleanups(ingested: Path, shelf: Shelf) -> None:
    _, before = written(ingested)
    again = ("ingest", "--archive-dir", str(shelf.q1.parent))
    assert shell(ingested, *again, KRAKEN_BREAKER_FAILURES="2").code == 0
    _, after = written(ingested)
    falling = {
        key: (value, after[key]) for key, value in before.items() if key[0].endswith("_total") and after[key] < value
    }
    assert falling == {}
    assert one(after, "kraken_requests_total") > one(before, "kraken_requests_total"), "nobody answered, but was asked"
    assert one(after, "kraken_request_errors_total") > 0
    assert one(after, "kraken_breaker_state", state="open") == 1


def test_the_page_keeps_prometheus_conventions(ingested: Path) -> None:
    need(Prometheus)
    text, _ = written(ingested)
    said = lint("check", "metrics", text=text)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


@pytest.mark.process
def test_a_real_prometheus_scrapes_a_run(home: Path, shelf: Shelf, tmp_path: Path) -> None:
    need(Prometheus)
    shutil.copy(shelf.q1, home / "drop")
    with closing(socket.socket()) as taken:
        taken.bind((HOST, 0))
        port = taken.getsockname()[1]
    server = start(home, "metrics", "--port", str(port), program="kraken_pipeline")
    try:
        wait_for(lambda: is_served(port), "the page")
        with Prometheus(tmp_path / "prometheus", port) as prometheus:
            wait_for(lambda: prometheus.value("up") == 1.0, "the first scrape")
            assert not prometheus.value('kraken_files_total{status="completed"}')
            said = shell(home, "ingest", *HOURLY)
            assert said.code == 0, said.err
            files = shell(home, "status", "--json").json[0]["files_ingested"]
            assert files > 0
            wait_for(lambda: prometheus.value('kraken_files_total{status="completed"}') == files, "what was ingested")
            wait_for(lambda: (prometheus.value("sum(kraken_candles)") or 0) > 0, "what is stored")
            wait_for(lambda: (prometheus.value("min(kraken_metrics_success)") or 0) == 1.0, "every part")
    finally:
        server.send_signal(signal.SIGTERM)
        said = ended(server)
    assert said.code == 0, said.err
    assert said.err == f"serving metrics at http://{HOST}:{port}/metrics; Ctrl-C ends it\n"


def is_served(port: int) -> bool:
    try:
        return requests.get(f"http://{HOST}:{port}/metrics", timeout=10).ok
    except requests.ConnectionError:
        return False


@pytest.fixture
def taken_port() -> Iterator[int]:
    with closing(socket.socket()) as listening:
        listening.bind((HOST, 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_a_port_that_is_taken_and_a_folder_that_is_absent_are_said(home: Path, taken_port: int) -> None:
    said = shell(home, "metrics", "--port", str(taken_port))
    assert (said.code, f"at 127.0.0.1:{taken_port}" in said.err) == (2, True)
    said = shell(home, "metrics", "--textfile", str(home / "absent" / "kraken.prom"))
    assert (said.code, "name a file in a folder that exists" in said.err) == (2, True)


def test_every_job_is_named() -> None:
    from kraken_pipeline.definitions import defs
    from kraken_pipeline.orchestration.jobs.publish_job import publish_job

    names = {job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    assert names | {publish_job.name} == set(JOBS)
    assert len(set(JOBS)) == len(JOBS)


def test_the_rules_for_prometheus_are_valid_and_about_metrics_that_exist(ingested: Path) -> None:
    need(Prometheus)
    folder = ROOT / "deploy" / "prometheus"
    for arguments in (("rules", folder / "kraken.rules.yml"), ("config", folder / "prometheus.yml")):
        said = lint("check", *arguments)
        assert said.returncode == 0, said.stdout + said.stderr
    text, _ = written(ingested)
    known = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    optional = {"kraken_publications_oldest_timestamp_seconds"}  # there only while something is pending
    used = set(re.findall(r"\bkraken_\w+", (folder / "kraken.rules.yml").read_text(encoding="utf-8")))
    assert used - known - optional == set()
    described = set(re.findall(r"kraken_\w+", (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")))
    assert known - described == set(), "every metric is described"
