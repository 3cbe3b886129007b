"""The code location of this project for a daemon under test: of its sensors only `lost_runs`, at each of its ticks."""

import dagster as dg

from kraken_pipeline.definitions import build_definitions
from kraken_pipeline.orchestration.sensors import lost_runs_sensor


def _with_a_quick_sensor(every: dg.Definitions) -> dg.Definitions:
    return dg.Definitions(
        assets=every.assets,
        jobs=every.jobs,
        # A busy machine needs seconds until a run that has begun holds its lock.
        sensors=[lost_runs_sensor(interval_seconds=5)],
        resources=every.resources,
        executor=every.executor,
        loggers=every.loggers,
    )


defs = _with_a_quick_sensor(build_definitions())
