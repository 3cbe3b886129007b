"""Ingesting archives: what the folders hold, and how a file becomes candles and coverage."""
