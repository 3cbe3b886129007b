"""The catalog's migrations, run by Alembic."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def revisions() -> list[str]:
    """Return the numbers of all migrations in their order, read from their files' names: `v0012_quiet_checks.py`.

    Alembic would import every migration to know them, and each command has to know the newest.
    """
    return sorted(path.name[1:5] for path in (FOLDER / "versions").glob("v*.py"))
