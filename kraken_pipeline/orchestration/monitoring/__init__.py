"""Monitoring of what Dagster records: the metrics of its runs, and alerts."""
