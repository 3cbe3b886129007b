"""Runs whose steps are Kubernetes jobs, on a stand-in for a cluster whose pods are processes of this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from kraken_pipeline.orchestration.executors import IMAGE_VARIABLE
from kraken_pipeline_tests.e2e.test_executors import is_at_rest
from kraken_pipeline_tests.support.clusters import Cluster
from kraken_pipeline_tests.support.ingests import COMMAND, assert_same, home_beside, state
from kraken_pipeline_tests.support.servers import wait_for
from kraken_pipeline_tests.support.shell import ROOT, TIMEOUT, ended, environment, start

pytestmark = [pytest.mark.slow, pytest.mark.process]

IMAGE = "registry.example.com/kraken_pipeline:0.1.0"


@contextmanager
def cluster_of(home: Path) -> Iterator[tuple[Cluster, dict[str, str]]]:
    """A cluster for a home, and the settings of a command that uses it."""
    home.parent.mkdir()
    instance = home.parent / "cluster-instance"
    instance.mkdir()
    variables = {
        "KRAKEN_EXECUTOR": "kubernetes",
        "KRAKEN_WORKERS": "2",
        "DAGSTER_HOME": str(instance),
        "KRAKEN_LOG_LEVEL": "CRITICAL",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KRAKEN_", "DAGSTER_"))}
    with Cluster(home.parent / "pods", {**kept, **environment(home), **variables, "PYTHONPATH": str(ROOT)}) as cluster:
        described = yaml.safe_load((ROOT / "dagster.yaml").read_text(encoding="utf-8"))
        launcher = {
            "load_incluster_config": False,
            "kubeconfig_file": str(cluster.kubeconfig),
            "job_namespace": "kraken",
            "service_account_name": "dagster",
            "dagster_home": str(instance),
            "instance_config_map": "dagster-instance",
            "env_config_maps": ["kraken-settings"],
            "env_secrets": ["kraken-secrets"],
        }
        described["run_launcher"] = {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher}
        (instance / "dagster.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
        yield cluster, {**variables, IMAGE_VARIABLE: IMAGE}


def operations(cluster: Cluster, jobs: Sequence[str]) -> list[str]:
    """The steps of some jobs, without what tells steps of one operation apart."""
    labels = [cluster.jobs[name]["metadata"]["labels"]["dagster/op"] for name in jobs]
    return [label.partition("-")[0] for label in labels]


def containers(cluster: Cluster) -> list[Mapping[str, Any]]:
    """The containers of all jobs."""
    return [job["spec"]["template"]["spec"]["containers"][0] for job in cluster.jobs.values()]


def test_a_run_and_its_steps_in_pods_leave_what_one_process_leaves(archives: Path, undisturbed: dict[str, Any]) -> None:
    home = home_beside(archives, "pods")
    config = {"intervals": [60, 1440], "archive_dirs": [str(archives)]}
    launch = ("job", "launch", "-m", "kraken_pipeline.definitions", "-j", "ingest", "--config-json", json.dumps(config))
    with cluster_of(home) as (cluster, variables):
        launched = ended(start(home, *launch, program="dagster", **variables))
        assert launched.code == 0, f"{launched.out}\n{launched.err}"
        wait_for(lambda: not cluster.running(), "the pod of the run", TIMEOUT)
        (of_run, *of_steps) = cluster.jobs
        assert cluster.status(of_run) == {"succeeded": 1}, cluster.logs()
        assert_same(state(home), undisturbed)
        assert is_at_rest(home)
    assert of_run.startswith("dagster-run-")
    found = operations(cluster, of_steps)
    assert (found[0], found[-1]) == ("look_at_folders", "fill_gaps_and_report")
    assert len(found) > 4
    assert {container["image"] for container in containers(cluster)} == {IMAGE}
    assert all({"configMapRef": {"name": "kraken-settings"}} in each["envFrom"] for each in containers(cluster))


def test_a_run_of_which_a_pod_is_lost_is_completed_by_the_same_command(
    archives: Path, undisturbed: dict[str, Any]
) -> None:
    home = home_beside(archives, "lost pod")
    with cluster_of(home) as (cluster, variables):
        variables |= {"KRAKEN_WORKERS": "1"}
        process = start(home, *COMMAND, **variables)
        wait_for(lambda: len(cluster.jobs) > 1, "the first group", TIMEOUT)
        cluster.kill([*cluster.jobs][1])
        said = ended(process)
        assert said.code != 0
        assert "SUCCESS" not in said.out
        again = ended(start(home, *COMMAND, **variables))
    assert "SUCCESS" in again.out, f"{again.out}\n{again.err}\n{cluster.logs()}"
    assert_same(state(home), undisturbed)
