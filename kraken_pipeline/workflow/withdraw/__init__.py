"""Withdrawing: a person takes back a file, a release, a span or all that has one cause."""
