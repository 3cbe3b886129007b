"""Keeping what is stored: verification, repair, recovery of the catalog, backups."""
