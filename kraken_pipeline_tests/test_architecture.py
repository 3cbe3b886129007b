"""Which package may know which: walks the imports, also those within functions and for type checkers alone."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from kraken_pipeline_tests.layers import (
    LAYERS,
    MODULES,
    ROOT,
    TOP,
    imports,
    in_order,
    known,
    module_name,
    package_of,
    parsed,
    rooms,
)


def test_the_walk_sees_imports() -> None:
    lake = ROOT / "storage" / "lake" / "lake.py"
    assert "kraken_pipeline.coverage.ranges.Spans" in set(imports(lake))
    assert known(lake) == {"coverage", "errors", "market"}
    assert "workflow" in known(ROOT / "__init__.py")
    assert {package_of(path) for path in MODULES} == {*LAYERS}


def violations(forbidden: Callable[[Path], set[str]]) -> dict[str, set[str]]:
    """Module → what it imports and should not."""
    return {module_name(path): found for path in MODULES if (found := forbidden(path))}


@pytest.mark.slow
def test_a_module_knows_only_what_lies_below_it() -> None:
    def above(path: Path) -> set[str]:
        return known(path) - LAYERS[package_of(path)]

    assert violations(above) == {}


def test_the_layers_are_in_no_circle() -> None:
    settled: set[str] = set()
    while settled != set(LAYERS):
        free = {package for package, below in LAYERS.items() if package not in settled and below <= settled}
        assert free, f"a circle among {set(LAYERS) - settled}"
        settled |= free


@pytest.mark.slow
def test_rooms_import_each_other_in_one_direction_and_are_not_crowded() -> None:
    order = in_order(rooms())
    assert order.index("market") < order.index("coverage") < order.index("storage.lake") < order.index("workflow.gaps")
    assert order[-1] in {"__main__", "definitions", "cli.commands"}
    files = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    assert {folder.name: count for folder, count in files.items() if count > 20} == {}


def test_a_module_can_be_read_at_once() -> None:
    lengths = {module_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_a_circle_of_rooms_is_named() -> None:
    with pytest.raises(ValueError, match="in a circle: a, b"):
        in_order({"a": {"b"}, "b": {"a"}, "c": set()})


def test_only_the_glue_and_the_shell_know_dagster() -> None:
    def dagster(path: Path) -> set[str]:
        return set() if package_of(path) in TOP else {name for name in imports(path) if name.startswith("dagster")}

    assert violations(dagster) == {}


ACTING = {"os", "socket", "subprocess", "threading", "time", "shutil", "sqlite3", "sqlalchemy", "requests", "filelock"}


def test_a_public_class_has_a_name_of_its_own() -> None:
    names = Counter(
        node.name
        for path in MODULES
        for node in parsed(path).body
        if isinstance(node, ast.ClassDef)
        if not node.name.startswith("_")
    )
    assert {name for name, count in names.items() if count > 1} == set()


def test_what_translates_queries_nothing() -> None:
    def querying(path: Path) -> set[str]:
        if package_of(path) not in TOP:
            return set()
        calls = (ast.unparse(node.func) for node in ast.walk(parsed(path)) if isinstance(node, ast.Call))
        transactions = {call for call in calls if call.endswith(("catalog.read", "catalog.write"))}
        return transactions | {name for name in imports(path) if name.split(".")[0] == "sqlalchemy"}

    assert violations(querying) == {}


def test_what_decides_does_not_act() -> None:
    def acting(path: Path) -> set[str]:
        decides = package_of(path) in ("market", "coverage")
        return {name.split(".")[0] for name in imports(path)} & ACTING if decides else set()

    assert violations(acting) == {}


def test_every_module_says_what_it_is_for() -> None:
    assert [module_name(path) for path in MODULES if not ast.get_docstring(parsed(path))] == []


QUIET = [
    module_name(path)
    for path in MODULES
    if package_of(path) not in TOP and "migrations" not in path.parts  # Alembic runs those, by importing them
]
WATCHED = """
import json, os, sys
seen = []
def watch(event, arguments):
    if event == "open":
        if isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            seen.append([event, arguments[0]])
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"):
        seen.append([event, str(arguments[0])])
    elif event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.fork"):
        seen.append([event, repr(arguments)])
sys.addaudithook(watch)
for name in json.loads(sys.argv[1]):
    __import__(name)
# urllib3 binds a socket to no port of the loopback, to see whether the machine has IPv6.
found = [each for each in seen if each[1] != os.devnull and "('::1', 0)" not in each[1]]
print(json.dumps({"seen": found, "dagster": "dagster" in sys.modules}))
"""


@pytest.mark.process
def test_importing_does_nothing_to_the_disk_or_the_network_and_does_not_load_dagster(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT.parent)}
    done = subprocess.run(
        [sys.executable, "-B", "-c", WATCHED, json.dumps(QUIET)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"seen": [], "dagster": False}
    assert list(tmp_path.iterdir()) == []
