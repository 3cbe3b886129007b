"""Which package may know which: walks the imports, also those within functions and for type checkers alone."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import kraken_pipeline

ROOT = Path(kraken_pipeline.__file__).parent
CORE = {"errors", "market"}
LAYERS = {
    "errors": set[str](),
    "settings": {"errors"},
    "market": {"errors"},
    "coverage": CORE,
    "kraken": CORE | {"coverage"},
    "storage": CORE | {"coverage", "kraken", "settings"},
    "workflow": CORE | {"coverage", "kraken", "storage", "settings"},
    "demo": CORE,
}
"""Each package and what it may import beside itself; who is not named here stands above all of them."""
TOP = {"orchestration", "definitions", "cli", "__main__"}
MODULES = sorted(path for path in ROOT.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(path: Path) -> str:
    """`market`, `cli`, …; empty for the root itself."""
    parts = module_name(path).split(".")
    return parts[1] if len(parts) > 1 else ""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, in full."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            # `from kraken_pipeline.storage import lake` imports a module by its name.
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def known(path: Path) -> set[str]:
    """The packages of ours that a file imports, without its own."""
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("kraken_pipeline.")}
    return ours - {package_of(path)}


def test_the_walk_sees_imports() -> None:
    assert "kraken_pipeline.coverage.ranges.Span" in set(imports(ROOT / "storage" / "lake.py"))
    assert known(ROOT / "storage" / "lake.py") == {"coverage", "market"}
    assert "workflow" in known(ROOT / "__init__.py")
    assert {package_of(path) for path in MODULES} >= {*LAYERS, *TOP}


def violations(forbidden: Callable[[Path], set[str]]) -> dict[str, set[str]]:
    """Module → what it imports and should not."""
    return {module_name(path): found for path in MODULES if (found := forbidden(path))}


def test_a_module_knows_only_what_lies_below_it() -> None:
    def above(path: Path) -> set[str]:
        package = package_of(path)
        if package in LAYERS:
            return known(path) - LAYERS[package]
        return known(path) & ({"cli", "demo"} if package == "orchestration" else set() if package in TOP else TOP)

    assert violations(above) == {}


def test_the_layers_are_in_no_circle() -> None:
    settled: set[str] = set()
    while settled != set(LAYERS):
        free = {package for package, below in LAYERS.items() if package not in settled and below <= settled}
        assert free, f"a circle among {set(LAYERS) - settled}"
        settled |= free


def test_only_the_glue_and_the_shell_know_dagster() -> None:
    def dagster(path: Path) -> set[str]:
        return set() if package_of(path) in TOP else {name for name in imports(path) if name.startswith("dagster")}

    assert violations(dagster) == {}


ACTING = {"os", "socket", "subprocess", "threading", "time", "shutil", "sqlite3", "sqlalchemy", "requests", "filelock"}


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
    if package_of(path) in (*LAYERS, "") and "migrations" not in path.parts  # Alembic runs those, by importing them
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
