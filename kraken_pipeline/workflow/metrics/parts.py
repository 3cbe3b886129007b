"""The parts of the page that come from the stores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.metrics.counted import counted
from kraken_pipeline.workflow.metrics.measured import completeness, questdb
from kraken_pipeline.workflow.metrics.page import MetricsPart
from kraken_pipeline.workflow.metrics.recorded import recorded

QUICK_SECONDS = 5.0
"""The time for which aggregates of the catalog are used again."""
QUESTDB_SECONDS = 30.0
COMPLETENESS_SECONDS = 600.0
"""The time between two computations of completeness, which takes seconds for a large collection."""


def parts_of(stores: Stores) -> Sequence[MetricsPart]:
    """Return the parts of the page about some stores."""
    return (
        MetricsPart("counters", partial(counted, stores), QUICK_SECONDS),
        MetricsPart("catalog", partial(recorded, stores), QUICK_SECONDS),
        MetricsPart("questdb", partial(questdb, stores), QUESTDB_SECONDS, is_slow=True),
        MetricsPart("completeness", partial(completeness, stores), COMPLETENESS_SECONDS, is_slow=True),
    )
