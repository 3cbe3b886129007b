from __future__ import annotations

import sqlalchemy as sa

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.storage.catalog.schema import asked_intervals
from kraken_pipeline.storage.records.interval_records import asked, record_asked
from kraken_pipeline.storage.stores import Stores


def test_an_interval_is_on_record_from_when_it_was_named_first(stores: Stores) -> None:
    with stores.catalog.write() as connection:
        record_asked(connection, [Interval.H1, Interval.D1], 100)
        record_asked(connection, [Interval.M1, Interval.H1], 200)
        record_asked(connection, [], 300)
    with stores.catalog.read() as connection:
        assert asked(connection) == {Interval.M1, Interval.H1, Interval.D1}
        rows = connection.execute(sa.select(asked_intervals).order_by(asked_intervals.c.interval)).all()
    assert [tuple(row) for row in rows] == [(1, 200), (60, 100), (1440, 100)]
