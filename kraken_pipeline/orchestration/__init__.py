"""The only package that uses Dagster: partitions, assets, jobs, sensors, and the run history.

This package translates between Dagster's concepts and the workflows'. It makes no decisions, reads and writes no
candles, and contains no SQL.
"""

import warnings

from dagster import BetaWarning

# Dagster is pinned and triggers these warnings itself: it forwards a sensor's owners, and makes code references for its
# own function.
warnings.filterwarnings("ignore", r"Parameter `(backfill_policy|owners)`", BetaWarning)
warnings.filterwarnings("ignore", r"(Function|Class) `\w*(source_code_references|CodeReference)", BetaWarning)
