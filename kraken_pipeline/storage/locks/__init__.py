"""Locks between processes: files on one machine, PostgreSQL across machines."""
