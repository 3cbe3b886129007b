"""Steps as Kubernetes jobs: the executor and the job of a step, as they are made; no cluster runs here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml  # type: ignore[import-untyped]
from dagster._core.executor.init import InitExecutorContext
from dagster_k8s.executor import K8sStepHandler

from kraken_pipeline.errors import InvalidSettings
from kraken_pipeline.orchestration.executors import IMAGE_VARIABLE, DrivenExecutor, executor_by_setting

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path) -> dg.DagsterInstance:
    """An instance that launches runs on a cluster which does not exist."""
    config = tmp_path / "kubeconfig"
    config.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "here"}}],
                "clusters": [{"name": "here", "cluster": {"server": "http://127.0.0.1:9"}}],
                "users": [{"name": "here", "user": {}}],
            }
        )
    )
    launcher: dict[str, Any] = {
        "load_incluster_config": False,
        "kubeconfig_file": str(config),
        "service_account_name": "kraken",
        "job_namespace": "candles",
        "instance_config_map": "dagster-instance",
        "dagster_home": "/opt/dagster",
        "env_secrets": ["kraken-pipeline"],
    }
    overrides = {"run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher}}
    return dg.DagsterInstance.local_temp(str(tmp_path), overrides=overrides)


def chosen(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Set what chooses Kubernetes."""
    monkeypatch.setenv("KRAKEN_PIPELINE_HOME", str(home))
    monkeypatch.setenv("KRAKEN_EXECUTOR", "kubernetes")
    monkeypatch.setenv("KRAKEN_WORKERS", "7")


def created(instance: dg.DagsterInstance) -> dg.Executor:
    """The executor that the settings of the environment name."""
    create = executor_by_setting.executor_creation_fn
    assert create is not None
    context = InitExecutorContext(
        job=_job_base(), executor_def=executor_by_setting, executor_config={}, instance=instance
    )
    return create(context)


@dg.op
def _work() -> int:
    return 1


@dg.job
def _trivial() -> None:
    _work()


def _job_base() -> Any:
    from dagster._core.definitions.job_base import InMemoryJob

    return InMemoryJob(_trivial)


def test_the_executor_of_the_settings_is_dagsters_with_the_lock_of_the_run_around_it(
    cluster: dg.DagsterInstance, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(monkeypatch, home)
    with cluster:
        executor = created(cluster)
    assert isinstance(executor, DrivenExecutor)
    inner: Any = executor._executor
    assert isinstance(inner._step_handler, K8sStepHandler)
    assert inner._max_concurrent == 7
    assert executor.retries.enabled


def test_the_pod_of_a_step_gets_what_the_pod_of_a_run_gets(
    cluster: dg.DagsterInstance, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, "kraken_pipeline:0.1.0")
    chosen(monkeypatch, home)
    with cluster:
        launcher: Any = cluster.run_launcher
        executor: Any = created(cluster)
        handler = executor._executor._step_handler
        from dagster_k8s.container_context import K8sContainerContext
        from dagster_k8s.job import construct_dagster_k8s_job

        run = cluster.create_run_for_job(_trivial)
        context = K8sContainerContext.create_for_run(run, launcher, include_run_tags=False).merge(
            handler._executor_container_context
        )
        job = construct_dagster_k8s_job(
            job_config=context.get_k8s_job_config(handler._executor_image, launcher),
            args=["dagster", "api", "execute_step"],
            job_name="dagster-step-a",
            pod_name="dagster-step-a",
            component="step_worker",
            user_defined_k8s_config=context.run_k8s_config,
        )
    pod = job.spec.template.spec
    (container,) = pod.containers
    assert container.image == "kraken_pipeline:0.1.0"
    assert [source.secret_ref.name for source in container.env_from if source.secret_ref] == ["kraken-pipeline"]
    assert {variable.name: variable.value for variable in container.env}["DAGSTER_HOME"] == "/opt/dagster"
    assert pod.service_account_name == "kraken"
    assert context.namespace == "candles"


def test_another_run_launcher_is_refused_with_what_to_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen(monkeypatch, home)
    with (
        dg.DagsterInstance.ephemeral() as instance,
        pytest.raises(InvalidSettings, match=r"needs K8sRunLauncher as the run launcher in dagster\.yaml"),
    ):
        created(instance)
