"""Gaps: the missing spans, their routes, and what a run fetches for them."""
