"""The catalog's migrations, run by Alembic."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

FOLDER = Path(__file__).parent

VERSIONS = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Alembic's own record of the current migration, as Alembic creates it."""


def revisions() -> list[str]:
    """Return the numbers of all migrations in their order, read from their files' names: `v0012_quiet_checks.py`.

    Alembic would import every migration to know them, and each command has to know the newest.
    """
    return sorted(path.name[1:5] for path in (FOLDER / "versions").glob("v*.py"))
