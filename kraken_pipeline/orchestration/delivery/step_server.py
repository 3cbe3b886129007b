"""The first module of the server that the processes of steps are forked from.

The processes inherit how seldom the server looks for reference cycles.
"""

from __future__ import annotations

from kraken_pipeline.collector import collect_seldom

collect_seldom()
