"""Loaded first by the server that the processes of steps are forked from: they inherit how seldom it collects."""

from __future__ import annotations

from kraken_pipeline.collector import collect_seldom

collect_seldom()
