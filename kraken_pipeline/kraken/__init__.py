"""Readers of Kraken's archives and REST API. Nothing is stored here."""
