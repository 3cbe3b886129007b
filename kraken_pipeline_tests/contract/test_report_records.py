from __future__ import annotations

from kraken_pipeline.storage.records.report_records import ReportRecord, keep_report, reports_of
from kraken_pipeline.storage.stores import Stores


def test_the_newest_reports_of_a_tier_come_back_in_order_of_time(stores: Stores) -> None:
    made = [ReportRecord("TIER1", time, {"completeness_pct": 99.5, "selection": {}}) for time in (30, 10, 20, 20)]
    other = ReportRecord("ALL", 15, {"gaps": 7})
    with stores.catalog.write() as connection:
        for record in (*made, other):
            keep_report(connection, record)
    with stores.catalog.read() as connection:
        assert [each.made_at for each in reports_of(connection, "TIER1", 3)] == [20, 20, 30]
        assert reports_of(connection, "ALL", 100) == [other]
        assert reports_of(connection, "TIER2", 100) == []
