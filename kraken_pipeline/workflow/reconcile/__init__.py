"""Reconciliation: comparison of intervals, contradictions with their causes, and suspicions."""
