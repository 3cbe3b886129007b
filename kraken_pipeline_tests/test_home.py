"""Homes that are made by the program itself: `init`, `ui`, and what is in the wheel."""

from __future__ import annotations

import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import requests
from dotenv import dotenv_values

from kraken_pipeline_tests.support.servers import Port, wait_for
from kraken_pipeline_tests.support.shell import ROOT, shell, start

ASKED = "{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }"


def test_init_makes_a_folder_whose_settings_name_it(tmp_path: Path) -> None:
    said = shell(tmp_path / "elsewhere", "init", str(tmp_path / "mine"))
    assert said.code == 0
    assert (tmp_path / "mine" / "data" / "drop").is_dir()
    named = dotenv_values(tmp_path / "mine" / ".env")
    assert named["DAGSTER_HOME"] == str(tmp_path / "mine")
    assert named["KRAKEN_PIPELINE_HOME"] == str(tmp_path / "mine" / "data")
    assert "${PWD}" not in (tmp_path / "mine" / ".env").read_text(encoding="utf-8")
    assert f"cd {tmp_path / 'mine'}" in said.out.splitlines()[1]


def test_init_changes_no_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".env").write_text("KRAKEN_API_RATE=2\n", encoding="utf-8")
    said = shell(tmp_path / "elsewhere", "init", str(tmp_path / "mine"))
    assert f"{tmp_path / 'mine' / '.env'} is there already, and stays as it is." in said.out
    assert (tmp_path / "mine" / ".env").read_text(encoding="utf-8") == "KRAKEN_API_RATE=2\n"
    assert (tmp_path / "mine" / "workspace.yaml").exists()
    said = shell(tmp_path / "elsewhere", "init", str(tmp_path / "mine" / ".env"))
    assert (said.code, said.err) == (
        2,
        f"kraken-pipeline: {tmp_path / 'mine' / '.env'} is a file: name a folder\n",
    )


@pytest.mark.parametrize("name", ["dagster.yaml", "workspace.yaml", ".env.example"])
def test_a_checkout_and_an_installed_program_have_the_same_files_of_a_home(name: str) -> None:
    packed = ROOT / "kraken_pipeline" / "cli" / "home_files" / name.replace(".env.example", "env")
    assert packed.read_text(encoding="utf-8") == (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.process
def test_the_ui_of_a_home_answers_and_has_its_code_location(tmp_path: Path) -> None:
    shell(tmp_path / "elsewhere", "init", str(tmp_path / "mine"))
    home, port = tmp_path / "mine" / "data", Port()
    instance = {"DAGSTER_HOME": str(tmp_path / "mine"), "KRAKEN_DAGSTER_STORAGE": str(home / "dagster")}
    running = start(home, "ui", "--port", str(port.number), **instance)
    try:

        def is_loaded() -> bool:
            try:
                asked = requests.post(f"http://127.0.0.1:{port.number}/graphql", json={"query": ASKED}, timeout=20)
            except requests.ConnectionError:
                return False
            entries = asked.json()["data"]["workspaceOrError"]["locationEntries"]
            return [entry["loadStatus"] for entry in entries] == ["LOADED"]

        wait_for(is_loaded, "the UI", 240)
    finally:
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
        port.close()


@pytest.mark.slow
@pytest.mark.process
def test_the_wheel_has_every_file_of_the_package(tmp_path: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "kraken_pipeline"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    copy = tmp_path / "checkout"
    for name in [*listed, "pyproject.toml", "setup.py", "README.md", "LICENSE"]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(copy)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("kraken_pipeline/")}
    assert packed == set(listed)
    assert wheel.stat().st_size < 2 * 2**20
