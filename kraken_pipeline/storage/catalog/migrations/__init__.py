"""The catalog's migrations, run by Alembic."""
