"""The only place that knows Dagster: partitions, assets, jobs, sensors, and what the run history says.

What belongs here: the translation between Dagster's notions and the workflows'. What does not: deciding anything,
reading or writing candles, SQL.
"""

import warnings

from dagster import BetaWarning

# Dagster's version is pinned; it passes a sensor's owners to itself, and makes the references of its own function.
warnings.filterwarnings("ignore", r"Parameter `(backfill_policy|owners)`", BetaWarning)
warnings.filterwarnings("ignore", r"(Function|Class) `\w*(source_code_references|CodeReference)", BetaWarning)
