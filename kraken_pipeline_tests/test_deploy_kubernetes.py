"""What is in deploy/kubernetes/: manifests that Kubernetes' models take, and values that fit them and the settings.

Neither a cluster nor Dagster's chart is here. docs/kubernetes.md says what was checked with them by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml  # type: ignore[import-untyped]
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import construct_dagster_k8s_job
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict
from kubernetes.client import ApiClient, models  # type: ignore[import-untyped]

from kraken_pipeline.orchestration.execution import CODE_LOCATION
from kraken_pipeline.settings import Settings, load_settings

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "kubernetes"
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "values.yaml").read_text(encoding="utf-8"))
LAUNCHER: dict[str, Any] = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
(CODE,) = VALUES["dagster-user-deployments"]["deployments"]
SECRETS = dict(
    line.split("=", 1)
    for line in (FOLDER / ".env.example").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
IMAGE = "registry.example.com/kraken_pipeline:0.1.0"
MANIFESTS = {
    path.name: list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    for path in sorted(FOLDER.glob("*.yaml"))
    if path.name != "values.yaml"
}
OBJECTS: list[dict[str, Any]] = [found for documents in MANIFESTS.values() for found in documents]


def object_of(kind: str) -> dict[str, Any]:
    """The one object of a kind."""
    (found,) = [each for each in OBJECTS if each["kind"] == kind]
    return found


def strict(model: type[Any], described: Mapping[str, Any]) -> Any:
    """An object of a model of Kubernetes; a field that the model does not have is an error."""
    return k8s_model_from_dict(model, k8s_snake_case_dict(model, described))


def dagster_lock(package: str) -> str:
    """The version of a package in the image."""
    lock = (ROOT / "deploy" / "requirements.lock").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^{package}==(\S+) \\$", lock, re.MULTILINE)
    return str(found)


# --- manifests


@pytest.mark.parametrize("described", OBJECTS, ids=lambda each: f"{each['kind']} {each['metadata']['name']}")
def test_kubernetes_models_take_every_manifest(described: dict[str, Any]) -> None:
    made = strict(getattr(models, f"V1{described['kind']}"), described)
    assert made.api_version == {"NetworkPolicy": "networking.k8s.io/v1"}.get(described["kind"], "v1")
    assert ApiClient().sanitize_for_serialization(made) == described


def test_a_field_that_kubernetes_does_not_have_is_found() -> None:
    described = object_of("PersistentVolumeClaim")
    wrong = {**described, "spec": {**described["spec"], "storageClass": "shared"}}
    with pytest.raises(Exception, match="Unexpected keys in model class V1PersistentVolumeClaimSpec"):
        strict(models.V1PersistentVolumeClaim, wrong)


def test_the_volume_can_be_mounted_on_several_nodes() -> None:
    assert object_of("PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]


def test_settings_and_secrets_are_what_the_pipeline_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    passed: dict[str, str] = {**object_of("ConfigMap")["data"], **SECRETS}
    assert all(isinstance(value, str) for value in passed.values()), "Kubernetes refuses numbers and booleans"
    names = {name for name in passed if name.startswith("KRAKEN_")}
    assert names <= {name.upper() for name in Settings.model_fields}
    monkeypatch.chdir(tmp_path)
    for name, value in passed.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.kraken_executor == "kubernetes"
    assert settings.home == Path("/data")


def test_secrets_are_in_no_manifest() -> None:
    data = object_of("ConfigMap")["data"]
    assert data.keys().isdisjoint(SECRETS)
    assert not any("://" in value and "@" in value for value in data.values())
    assert "Secret" not in {each["kind"] for each in OBJECTS}
    assert all("change-me" in value for value in SECRETS.values() if "@" in value or "://" not in value)


# --- values


def test_every_pod_has_the_image_of_this_version_and_the_chart_that_of_its_dagster() -> None:
    images = [VALUES["dagsterWebserver"]["image"], VALUES["dagsterDaemon"]["image"], CODE["image"]]
    assert {f"{image['repository']}:{image['tag']}" for image in images} == {IMAGE}
    version = f"--version {dagster_lock('dagster')}"
    assert version in PAGE
    assert version in (FOLDER / "values.yaml").read_text(encoding="utf-8")
    assert IMAGE in PAGE


def test_names_fit() -> None:
    there = {(each["kind"], each["metadata"]["name"]) for each in OBJECTS}
    secret, settings = {"kraken-secrets"}, {"kraken-settings"}
    for pod in (CODE, LAUNCHER):
        assert {("ConfigMap", each["name"]) for each in pod["envConfigMaps"]} <= there
        assert {each["name"] for each in pod["envConfigMaps"]} == settings
        assert {each["name"] for each in pod["envSecrets"]} == secret
        claims = [each["persistentVolumeClaim"] for each in pod["volumes"] if "persistentVolumeClaim" in each]
        assert {("PersistentVolumeClaim", claim["claimName"]) for claim in claims} <= there
        assert {each["name"] for each in pod["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    for name in ("kraken-secrets", VALUES["global"]["postgresqlSecretName"]):
        assert f"create secret generic {name}" in PAGE


def test_the_code_location_is_where_the_workspace_says() -> None:
    (server,) = VALUES["dagsterWebserver"]["workspace"]["servers"]
    assert server == {"host": CODE["name"], "port": CODE["port"], "name": CODE_LOCATION}
    assert CODE["dagsterApiGrpcArgs"][1] == "kraken_pipeline.definitions"


def test_only_webserver_and_daemon_reach_the_code_location() -> None:
    policy = object_of("NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["podSelector"]["matchLabels"]["deployment"] == CODE["name"]
    (rule,) = policy["ingress"]
    assert [port["port"] for port in rule["ports"]] == [CODE["port"]]
    allowed = {pod["podSelector"]["matchLabels"]["component"] for pod in rule["from"]}
    assert allowed == {"dagster-webserver", "dagster-daemon"}
    assert "helm install dagster dagster/dagster" in PAGE
    labels = [policy["podSelector"]["matchLabels"], *(pod["podSelector"]["matchLabels"] for pod in rule["from"])]
    assert {each["app.kubernetes.io/instance"] for each in labels} == {"dagster"}, "the name of the release"


def test_a_pod_mounts_the_home_where_settings_and_instance_have_it() -> None:
    home = object_of("ConfigMap")["data"]["KRAKEN_PIPELINE_HOME"]
    artifacts = VALUES["additionalInstanceConfig"]["local_artifact_storage"]["config"]["base_dir"]
    for pod in (CODE, LAUNCHER):
        assert {"name": "home", "mountPath": home} in pod["volumeMounts"]
    assert Path(artifacts).is_relative_to(home), "what a step hands to another pod would be lost"


def test_queue_and_retention_are_those_of_compose() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text(encoding="utf-8"))
    daemon = VALUES["dagsterDaemon"]
    queue, theirs = daemon["runCoordinator"]["config"]["queuedRunCoordinator"], compose["run_coordinator"]["config"]
    assert queue == {
        "maxConcurrentRuns": theirs["max_concurrent_runs"],
        "tagConcurrencyLimits": theirs["tag_concurrency_limits"],
    }
    for what in ("sensor", "schedule"):
        assert VALUES["retention"][what]["purgeAfterDays"] == compose["retention"][what]["purge_after_days"]
    assert VALUES["pythonLogs"]["managedPythonLoggers"] == compose["python_logs"]["managed_python_loggers"]
    assert daemon["runRetries"]["maxRetries"] == compose["run_retries"]["max_retries"]
    assert VALUES["postgresql"]["postgresqlScheme"] == "postgresql+psycopg2"


# --- the pod of a run


def snake_case(name: str) -> str:
    return re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", name)


def launcher_config() -> dict[str, Any]:
    """The config of the run launcher as the chart's template of `dagster.yaml` writes it."""
    found = {snake_case(name): value for name, value in LAUNCHER.items()}
    found["env_config_maps"] = [each["name"] for each in LAUNCHER["envConfigMaps"]]
    found["env_secrets"] = [each["name"] for each in LAUNCHER["envSecrets"]]
    found["run_k8s_config"] = {snake_case(name): value for name, value in LAUNCHER["runK8sConfig"].items()}
    return {
        **found,
        "job_namespace": "kraken",
        "service_account_name": "dagster",
        "dagster_home": "/opt/dagster/dagster_home",
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": VALUES["global"]["postgresqlSecretName"],
        "load_incluster_config": False,
    }


@dg.job
def _nothing() -> None:
    """A job without a step."""


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> models.V1PodSpec:
    """The pod of a run, as the run launcher of the values makes it."""
    kubeconfig = tmp_path / "kubeconfig"
    context = {"name": "here", "context": {"cluster": "here", "user": "here"}}
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [context],
                "clusters": [{"name": "here", "cluster": {"server": "http://127.0.0.1:9"}}],
                "users": [{"name": "here", "user": {}}],
            }
        )
    )
    config = {**launcher_config(), "kubeconfig_file": str(kubeconfig)}
    overrides = {"run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": config}}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, K8sRunLauncher)
        run = instance.create_run_for_job(_nothing)
        found = K8sContainerContext.create_for_run(run, launcher, include_run_tags=True)
        job = construct_dagster_k8s_job(
            job_config=found.get_k8s_job_config(IMAGE, launcher),
            args=["dagster", "api", "execute_run"],
            job_name="dagster-run",
            pod_name="dagster-run",
            component="run_worker",
            user_defined_k8s_config=found.run_k8s_config,
        )
    assert job.spec.ttl_seconds_after_finished == 86_400
    assert job.spec.template.metadata.annotations == {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    return job.spec.template.spec


def test_the_pod_of_a_run_has_the_home_the_settings_and_no_rights(pod: models.V1PodSpec) -> None:
    (container,) = pod.containers
    assert container.image == IMAGE
    mounts = {each.mount_path: each.name for each in container.volume_mounts}
    volumes = {each.name: each for each in pod.volumes}
    assert volumes[mounts["/data"]].persistent_volume_claim.claim_name == "kraken-home"
    assert volumes[mounts["/tmp"]].empty_dir is not None  # noqa: S108
    assert [each.config_map_ref.name for each in container.env_from if each.config_map_ref] == ["kraken-settings"]
    assert [each.secret_ref.name for each in container.env_from if each.secret_ref] == ["kraken-secrets"]
    password = {each.name: each for each in container.env}["DAGSTER_PG_PASSWORD"].value_from.secret_key_ref
    assert (password.name, password.key) == ("kraken-dagster-postgresql", "postgresql-password")
    assert pod.security_context.run_as_non_root is True
    assert pod.security_context.run_as_user == pod.security_context.fs_group == 10_001
    assert container.security_context.read_only_root_filesystem is True
    assert container.security_context.capabilities.drop == ["ALL"]
    assert container.resources.limits["memory"] == "4Gi"


def test_the_user_of_the_pods_is_that_of_the_image() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    users = {
        VALUES["dagsterWebserver"]["podSecurityContext"]["runAsUser"],
        CODE["podSecurityContext"]["runAsUser"],
        LAUNCHER["runK8sConfig"]["podSpecConfig"]["securityContext"]["runAsUser"],
    }
    assert re.findall(r"^ARG KRAKEN_UID=(\d+)$", dockerfile, re.MULTILINE) == [str(user) for user in users]
