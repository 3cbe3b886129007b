"""Layers: which package may know which, read from the imports. Run it to print who imports whom, lowest first.

python -m kraken_pipeline_tests.layers
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import kraken_pipeline

ROOT = Path(kraken_pipeline.__file__).parent
CORE = {"errors", "market"}
LAYERS = {
    "errors": set[str](),
    "collector": set[str](),
    "market": {"errors"},
    "setting_syntax": CORE,
    "object_store": {"errors"},
    "archive_path": {"errors", "object_store"},
    "settings": {"archive_path", "errors", "setting_syntax"},
    "coverage": CORE,
    "kraken": CORE | {"archive_path", "coverage"},
    "storage": CORE | {"collector", "coverage", "kraken", "object_store", "settings"},
    "workflow": CORE | {"archive_path", "coverage", "kraken", "storage", "settings"},
    "demo": CORE,
    "orchestration": CORE | {"collector", "coverage", "kraken", "storage", "settings", "logs", "workflow"},
    "logs": {"settings"},
    "definitions": {"market", "settings", "orchestration"},
    "cli": CORE
    | {
        "collector",
        "coverage",
        "kraken",
        "storage",
        "settings",
        "logs",
        "workflow",
        "demo",
        "orchestration",
        "definitions",
    },
    "__main__": {"collector", "errors", "cli"},
    "": {"errors", "market", "workflow"},
}
"""Each package, or module beside them, and what it may import beside itself; empty stands for the root's own names."""
TOP = {"orchestration", "definitions", "cli", "__main__"}
"""The packages and modules that translate: for Dagster, or for a terminal."""
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


_WITH_ROOMS = {path.parent.parent.name for path in ROOT.glob("*/*/__init__.py")}


def room_of(module: str) -> str:
    """The sub-package that a module lies in, as `storage.lake`, or the module itself beside one; else its package."""
    parts = module.split(".")[1:]
    return ".".join(parts[: 2 if parts and parts[0] in _WITH_ROOMS else 1])


def rooms() -> dict[str, set[str]]:
    """Each room, and the rooms that its modules import."""
    names = {module_name(path) for path in MODULES}
    found: dict[str, set[str]] = {}
    for path in MODULES:
        room = room_of(module_name(path))
        ours = (name for name in imports(path) if name.startswith("kraken_pipeline."))
        modules = (name if name in names else name.rpartition(".")[0] for name in ours)
        found.setdefault(room, set()).update(other for module in modules if (other := room_of(module)) != room)
    return found


def in_order(graph: Mapping[str, set[str]]) -> list[str]:
    """The rooms, each behind those that it imports.

    Raises:
        ValueError: Some import each other in a circle; the message names them.
    """
    order: list[str] = []
    while len(order) < len(graph):
        free = sorted(room for room in graph if room not in order and graph[room] <= {*order})
        if not free:
            raise ValueError(f"in a circle: {', '.join(sorted(graph.keys() - {*order}))}")
        order += free
    return order


def main() -> None:
    """Print the rooms, lowest first, each with how many modules it has and what it imports."""
    graph = rooms()
    for room in in_order(graph):
        modules = sum(room_of(module_name(path)) == room for path in MODULES)
        print(f"{room or 'kraken_pipeline':24} {modules:3}  {', '.join(sorted(graph[room]))}")  # noqa: T201


if __name__ == "__main__":
    main()
