"""The config of Dagster's Kubernetes executor: each step is a Kubernetes job with one pod.

The executor takes over what `K8sRunLauncher` gives the pod of a run: namespace, service account, environment, secrets,
volumes, resources. So this is configured in one place, in the Dagster instance. It needs the extra `kubernetes`.
"""

from __future__ import annotations

import os
from typing import Any

import dagster as dg
from dagster_k8s import K8sRunLauncher

from kraken_pipeline.errors import InvalidSettings
from kraken_pipeline.settings import Settings

IMAGE_VARIABLE = "DAGSTER_CURRENT_IMAGE"
"""The variable with the image of a code location, which Dagster's chart sets there. The pods of the steps of a run that
a command started use it. A run that Dagster launched knows its image by itself."""


def executor_config(settings: Settings, instance: dg.DagsterInstance) -> dict[str, Any]:
    """Return the config of Dagster's Kubernetes executor: how many pods at the same time, and their image.

    Raises:
        InvalidSettings: The Dagster instance launches runs otherwise, so that nothing says what a pod needs.
    """
    if not isinstance(instance.run_launcher, K8sRunLauncher):
        raise InvalidSettings(
            "KRAKEN_EXECUTOR=kubernetes needs K8sRunLauncher as the run launcher in dagster.yaml, because the pods of "
            f"steps are made as those of runs are; it is {type(instance.run_launcher).__name__}"
        )
    config: dict[str, Any] = {"max_concurrent": settings.kraken_workers}
    image = os.environ.get(IMAGE_VARIABLE)
    return {**config, "job_image": image} if image else config
