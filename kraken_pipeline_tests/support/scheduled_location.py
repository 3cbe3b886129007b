"""The code location of this project for a daemon under test: its schedules with their jobs, and no sensor."""

import dagster as dg

from kraken_pipeline.definitions import build_definitions


def _without_sensors(every: dg.Definitions) -> dg.Definitions:
    return dg.Definitions(
        assets=every.assets,
        jobs=every.jobs,
        schedules=every.schedules,
        resources=every.resources,
        executor=every.executor,
        loggers=every.loggers,
    )


defs = _without_sensors(build_definitions())
