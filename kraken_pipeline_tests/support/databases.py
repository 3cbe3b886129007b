"""PostgreSQL databases that hold a catalog without records: copies of one template, emptied and used again."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from kraken_pipeline.storage.catalog.database import open_catalog
from kraken_pipeline_tests.support.servers import PostgreSQL

TEMPLATE = "template_catalog"

# What tells one schema from another: of each relation its columns, its definition as a view, and its constraints.
_SHAPE = """
    SELECT md5(string_agg(line, E'\\n' ORDER BY line)) FROM (
        SELECT concat_ws(' ', c.relkind, c.relname, a.attname, a.atttypid, a.attnotnull) AS line
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'public'::regnamespace
        UNION ALL
        SELECT concat_ws(' ', conname, pg_get_constraintdef(oid)) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
    ) AS lines
"""
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
_USED_SEQUENCES = "SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL"


def copy_of_template(server: PostgreSQL) -> str:
    """A database with a catalog without records; of the first one, all others are copies."""
    name = f"test_{secrets.token_hex(6)}"
    copying = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(TEMPLATE))
    try:
        server.execute(copying)
    except psycopg.errors.InvalidCatalogName:
        open_catalog(server.database(TEMPLATE)).close()
        server.execute(copying)
    return server.url_of(name)


class Databases:
    """Catalogs without records on one server. One that a test has used is emptied for the next one.

    To empty one takes a twentieth of the time of dropping it and copying the template again. One whose schema has
    changed, or that cannot be emptied, is dropped.
    """

    def __init__(self, server: PostgreSQL) -> None:
        self._server = server
        self._shape = ""
        self._spare: list[str] = []

    @contextmanager
    def one(self) -> Iterator[str]:
        """The URL of one, which is the caller's alone as long as the block runs."""
        self._server.start()  # where an earlier test has killed it and left it so
        url = self._spare.pop() if self._spare else copy_of_template(self._server)
        if not self._shape:
            self._shape = self._server.execute(_SHAPE, url)[0][0]
        try:
            yield url
        finally:
            self._server.start()
            if self._emptied(url):
                self._spare.append(url)
            else:
                self._server.drop(url)

    def _emptied(self, url: str) -> bool:
        try:
            with psycopg.connect(url, connect_timeout=5) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                if connection.execute(_SHAPE).fetchall() != [(self._shape,)]:
                    return False
                connection.execute("SET session_replication_role = replica")  # foreign keys do not mind the order
                tables = [sql.Identifier(name) for (name,) in connection.execute(_TABLES)]
                connection.execute(sql.SQL("; ").join(sql.SQL("DELETE FROM {}").format(name) for name in tables))
                for (name,) in connection.execute(_USED_SEQUENCES).fetchall():
                    connection.execute(sql.SQL("ALTER SEQUENCE {} RESTART").format(sql.Identifier(name)))
        except psycopg.Error:
            return False
        return True
