"""The sensors that send alerts; they exist where KRAKEN_ALERT_URLS is set."""

from __future__ import annotations

import dagster as dg

from kraken_pipeline.errors import Busy, PipelineError
from kraken_pipeline.orchestration.monitoring.alerting import look_at_runs, look_or_say_that_it_is_lost
from kraken_pipeline.orchestration.schedules import schedules
from kraken_pipeline.settings import Settings, load_settings

INTERVAL_SECONDS = 300
"""The time between two looks. Each makes all health checks, one of which asks the exchange for its status."""


def alert_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """Return the sensors that send alerts; none if there is nobody to send them to."""
    return [] if settings.kraken_alert_urls is None else [_alerts(), _failed_runs()]


def _alerts() -> dg.SensorDefinition:
    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends an alert once when something begins to be wrong, and once when it is over.",
    )
    def alerts(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        settings, cursor = load_settings(), context.cursor
        try:
            done, cursor = look_or_say_that_it_is_lost(settings, context.instance, schedules(settings), cursor)
        except Busy as error:
            done = str(error)
        return dg.SensorResult(skip_reason=done, cursor=cursor or "")

    return alerts


def _failed_runs() -> dg.SensorDefinition:
    @dg.run_failure_sensor(
        name="alert_of_failure",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends an alert as soon as a run has failed; what cannot be sent is sent by the sensor `alerts`.",
    )
    def alert_of_failure(context: dg.RunFailureSensorContext) -> None:
        try:
            look_at_runs(load_settings(), context.instance)
        except PipelineError as error:
            context.log.warning(f"no alert is sent now: {error}")

    return alert_of_failure
