from __future__ import annotations

import sqlite3

from kraken_pipeline.errors import CatalogLost
from kraken_pipeline.storage.faults import fault_of

WHAT = "the catalog /data/catalog.sqlite"


def test_a_schema_that_was_changed_is_damage_and_a_statement_of_ours_that_is_none_is_not() -> None:
    schema = sqlite3.OperationalError('malformed database schema (reports) - near "(": syntax error')
    found = fault_of(schema, WHAT)
    assert isinstance(found, CatalogLost)
    assert "kraken-pipeline recover" in str(found)
    assert fault_of(sqlite3.OperationalError('near "SELEC": syntax error'), WHAT) is None
