"""Locks between processes, on one machine by files and on several by PostgreSQL."""
