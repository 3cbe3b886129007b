"""Withdrawals: a person withdraws a file, a release, a span, or everything with one cause."""
