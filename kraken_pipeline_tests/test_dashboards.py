"""The dashboards of Grafana in deploy/: they ask for what there is, in words that the servers understand."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from kraken_pipeline.workflow.read_questdb import connect_questdb
from kraken_pipeline_tests.support.fixtures import need
from kraken_pipeline_tests.support.homes import settings_of
from kraken_pipeline_tests.support.prometheus import Prometheus
from kraken_pipeline_tests.support.servers import QuestDB
from kraken_pipeline_tests.support.shell import ROOT

DEPLOY = ROOT / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
"""The dashboards of Grafana."""


def panels(path: Path) -> list[dict[str, Any]]:
    """The panels of a dashboard that show something."""
    return [panel for panel in json.loads(path.read_text(encoding="utf-8"))["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """All that the dashboards ask Prometheus for."""
    targets = [target for path in DASHBOARDS for panel in panels(path) for target in panel["targets"]]
    return [target["expr"] for target in targets if "expr" in target]


def test_the_dashboards_name_data_sources_that_are_provisioned_and_do_not_overlap() -> None:
    described = DEPLOY / "grafana" / "provisioning" / "datasources" / "kraken.yaml"
    sources = yaml.safe_load(described.read_text(encoding="utf-8"))["datasources"]
    provisioned = {(source["type"], source["uid"]) for source in sources}
    assert [path.stem for path in DASHBOARDS] == ["candles", "completeness", "operations"]
    for path in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in panels(path):
            for asked in (panel, *panel["targets"]):
                assert (asked["datasource"]["type"], asked["datasource"]["uid"]) in provisioned
            where = panel["gridPos"]
            fields = {
                (x, y)
                for x in range(where["x"], where["x"] + where["w"])
                for y in range(where["y"], where["y"] + where["h"])
            }
            assert not taken & fields, panel["title"]
            taken |= fields


def test_the_dashboards_ask_for_metrics_that_exist() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    asked = {name for expression in expressions() for name in re.findall(r"\bkraken_\w+", expression)}
    assert len(asked) > 25
    assert {name for name in asked if name not in page} == set()


@pytest.mark.servers
@pytest.mark.process
def test_prometheus_understands_what_the_dashboards_ask(tmp_path: Path) -> None:
    need(Prometheus)
    rules = [
        {"record": f"asked:{number}", "expr": expression.replace("$tier", "TIER1")}
        for number, expression in enumerate(expressions())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.servers
def test_questdb_answers_what_the_dashboard_of_candles_asks(questdb: QuestDB, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, kraken_questdb_url=questdb.http_url, kraken_questdb_pg_url=questdb.pg_url)
    with connect_questdb(settings) as client:
        client.prepare()
    given = {
        "${table}": "candles_1h",
        "${pair}": "XBTUSD",
        "${__from:date:iso}": "2024-01-01T00:00:00.000Z",
        "${__to:date:iso}": "2024-02-01T00:00:00.000Z",
    }
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "candles.json").read_text(encoding="utf-8"))
    queries = [target["rawSql"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [its["query"] for its in dashboard["templating"]["list"] if its["type"] == "query"]
    assert len(queries) == 5
    for query in queries:
        asked = query
        for name, value in given.items():
            asked = asked.replace(name, value)
        assert questdb.execute(asked) == []
