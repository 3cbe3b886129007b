"""Gaps: what should be there and is not, where it can come from, and what a run asks for."""
