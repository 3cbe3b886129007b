"""Reconciling: intervals compared with each other, what contradicts, why, and quiet time that is hard to believe."""
