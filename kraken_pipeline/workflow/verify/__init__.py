"""Verification and repair of the lake, recovery of the catalog, and backups."""
