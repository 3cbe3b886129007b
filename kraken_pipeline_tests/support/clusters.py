"""A stand-in for a Kubernetes cluster: an API server on the loopback that starts the process of each job's container.

It has what dagster-k8s asks for: jobs that are created, looked at and deleted, and no pods. A job is validated strictly
by Kubernetes' models. It schedules nothing, and mounts nothing: a process gets the environment that config maps,
secrets and volumes would give it from whoever starts the cluster.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Self

import yaml  # type: ignore[import-untyped]
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict
from kubernetes.client import models  # type: ignore[import-untyped]

_JOBS = re.compile(r"/apis/batch/v1/namespaces/([^/?]+)/jobs(?:/([^/?]+))?(/status)?(?:\?.*)?")


class Cluster:
    """A cluster whose pods are processes of this machine.

    Args:
        folder: The folder of its kubeconfig and of the logs of its processes.
        environment: The variables of every process.

    Attributes:
        jobs: The manifests of all jobs ever created, by name.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.kubeconfig = folder / "kubeconfig"
        self.jobs: dict[str, dict[str, Any]] = {}
        self._folder, self._environment = folder, environment
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "here",
                    "contexts": [{"name": "here", "context": {"cluster": "here", "user": "here"}}],
                    "clusters": [
                        {"name": "here", "cluster": {"server": f"http://127.0.0.1:{self._server.server_port}"}}
                    ],
                    "users": [{"name": "here", "user": {}}],
                }
            )
        )

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for name in [*self._processes]:
            self.delete(name)

    def create(self, job: dict[str, Any]) -> None:
        """Starts the process of a job's container."""
        made = k8s_model_from_dict(models.V1Job, k8s_snake_case_dict(models.V1Job, job))
        (container,) = made.spec.template.spec.containers
        name = str(made.metadata.name)
        given = {each.name: each.value for each in container.env if each.value is not None}
        assert container.args[0] == "dagster"
        with (self._folder / f"{name}.log").open("wb") as log, self._lock:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", *container.args],
                env={**self._environment, **given},
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            # Last, since a job that is listed can be killed.
            self.jobs[name] = job

    def status(self, name: str) -> dict[str, int] | None:
        """The status of a job; None for one that is not there."""
        with self._lock:
            process = self._processes.get(name)
        if process is None:
            return None
        ended = process.poll()
        return {"active": 1} if ended is None else {"succeeded": 1} if ended == 0 else {"failed": 1}

    def running(self) -> list[str]:
        """The jobs whose processes are at work."""
        return [name for name in [*self._processes] if self.status(name) == {"active": 1}]

    def kill(self, name: str) -> None:
        """Ends the pod of a job as a node does that is lost; the job has failed."""
        process = self._processes[name]
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def delete(self, name: str) -> bool:
        """Deletes a job and ends its pod; returns whether it was there."""
        if name not in self._processes:
            return False
        self.kill(name)
        with self._lock:
            self._processes.pop(name, None)
        return True

    def logs(self) -> str:
        """What all processes have said."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self._folder.glob("*.log")))


def _handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            cluster.create(job)
            self._say(201, job)

        def do_GET(self) -> None:
            found = _JOBS.fullmatch(self.path)
            if found is None or found[2] is None:
                self._say(200, {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": []})
                return
            status = cluster.status(found[2])
            if status is None:
                self._say(404, {"kind": "Status", "code": 404, "reason": "NotFound"})
            else:
                self._say(200, {**cluster.jobs[found[2]], "status": status})

        def do_DELETE(self) -> None:
            found = _JOBS.fullmatch(self.path)
            there = found is not None and found[2] is not None and cluster.delete(found[2])
            self._say(200 if there else 404, {"kind": "Status", "status": "Success" if there else "Failure"})

        def _say(self, code: int, body: object) -> None:
            said = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of each request."""

    return Handler
