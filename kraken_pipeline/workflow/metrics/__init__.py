"""Metrics for Prometheus: what the catalog and the counters already have, under Prometheus' conventions."""
