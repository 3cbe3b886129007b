"""Prometheus, as Debian has it: a server that scrapes one page, and its lint of pages, rules and settings."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests

from kraken_pipeline_tests.support.servers import HOST, Server


class Prometheus(Server):
    """A Prometheus that scrapes a page on the loopback every second.

    Args:
        folder: The folder of its data and its log.
        target: The port of the page.
    """

    title = "Prometheus"

    def __init__(self, folder: Path, target: int) -> None:
        super().__init__(folder)
        self._target = target

    @classmethod
    def reason_without(cls) -> str | None:
        """Its programs are missing."""
        if shutil.which("prometheus") is None or shutil.which("promtool") is None:
            return "prometheus and promtool are not on this machine: apt-get install prometheus"
        return None

    @property
    def url(self) -> str:
        """Where its own API is."""
        return f"http://{HOST}:{self.port()}"

    def version(self) -> str:
        """As in `Prometheus 2.42.0`; it answers only when it is ready."""
        requests.get(f"{self.url}/-/ready", timeout=5).raise_for_status()
        found = requests.get(f"{self.url}/api/v1/status/buildinfo", timeout=5).json()
        return f"Prometheus {found['data']['version']}"

    def value(self, query: str) -> float | None:
        """What an expression is now; None where nothing was scraped that it selects."""
        found = requests.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=5).json()
        results: list[Any] = found["data"]["result"]
        return float(results[0]["value"][1]) if results else None

    def _prepare(self) -> None:
        self.data.mkdir(exist_ok=True)
        (self.data / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s}\nscrape_configs:\n"
            f"  - {{job_name: kraken, static_configs: [{{targets: ['{HOST}:{self._target}']}}]}}\n",
            encoding="utf-8",
        )

    def _command(self) -> Sequence[str]:
        return [
            "prometheus",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=tsdb",
            f"--web.listen-address={HOST}:{self.port()}",
        ]


def lint(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """What `promtool` says."""
    return subprocess.run(
        ["promtool", *map(str, arguments)], input=text, capture_output=True, text=True, check=False, timeout=60
    )
