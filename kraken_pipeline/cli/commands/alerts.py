"""The commands about alerts."""

from __future__ import annotations

import typer

from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.options import AsJson
from kraken_pipeline.cli.output import err, out, print_json
from kraken_pipeline.cli.runs import loading_dagster
from kraken_pipeline.errors import InvalidRequest, PipelineError
from kraken_pipeline.market.moment import iso
from kraken_pipeline.orchestration.instance import instance_of
from kraken_pipeline.settings import load_settings
from kraken_pipeline.workflow.alerts.sending import addresses_of, send


def test() -> None:
    """Send a message to each address of KRAKEN_ALERT_URLS.

    The exit code is 1 if one does not accept it.
    """
    addresses = addresses_of(load_settings()).values()
    if not addresses:
        raise InvalidRequest("there is nobody to send alerts to: KRAKEN_ALERT_URLS is not set")
    failed = 0
    for number, url in enumerate(addresses, 1):
        try:
            send(url, "kraken-pipeline: a test", "Alerts of this installation arrive here.")
        except PipelineError as error:
            failed += 1
            say(err, f"address {number} of {len(addresses)}: {error}", "red")
        else:
            say(out, f"address {number} of {len(addresses)} accepted the message")
    raise typer.Exit(int(failed > 0))


def check(as_json: AsJson = False) -> None:
    """Look for what is wrong, send the alerts that are due, and list them.

    The exit code is 1 if an alert could not be sent.
    """
    settings = load_settings()
    with loading_dagster(settings, as_json=as_json):
        from kraken_pipeline.orchestration.monitoring.alerting import look  # noqa: PLC0415 - with all jobs
        from kraken_pipeline.orchestration.schedules import schedules  # noqa: PLC0415 - likewise
    with instance_of(settings) as instance:
        done = look(settings, instance, schedules(settings))
    if as_json:
        wrong = [{"name": alert.name, "since": iso(alert.began_at), "detail": alert.sentence} for alert in done.wrong]
        print_json({"alerts": wrong, "sent": done.sent, "errors": list(done.failed)})
    else:
        for alert in done.wrong:
            say(out, f"{alert.name} since {iso(alert.began_at)}: {alert.sentence}")
        say(out, str(done))
        for error in done.failed:
            say(err, error, "red")
    raise typer.Exit(int(bool(done.failed)))
