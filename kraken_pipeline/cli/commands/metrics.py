"""The command that shows metrics to Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile

from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.output import err
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.orchestration.instance import instance_of
from kraken_pipeline.orchestration.monitoring.run_metrics import part_of_runs
from kraken_pipeline.settings import load_settings
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.metrics.page import MetricsPage, MetricsPart
from kraken_pipeline.workflow.metrics.parts import parts_of

_PATIENCE_SECONDS = 5.0
"""The longest wait for the catalog's server: Prometheus waits ten seconds for a page."""


def metrics(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The port to serve them at.")] = 9_464,
    host: Annotated[
        str, typer.Option(help="The address to serve them at; 0.0.0.0 lets other machines read them.")
    ] = "127.0.0.1",
    textfile: Annotated[
        Path | None,
        typer.Option(help="Write them once to this file, for node_exporter's textfile collector, and end."),
    ] = None,
) -> None:
    """Serve metrics for Prometheus, or write them to a file.

    They are served at http://HOST:PORT/metrics until Ctrl-C.
    """
    settings = load_settings()
    patience = min(_PATIENCE_SECONDS, settings.kraken_catalog_patience_seconds)
    settings = settings.model_copy(update={"kraken_catalog_patience_seconds": patience})
    with opened(settings) as stores, instance_of(settings) as instance:
        parts = [*parts_of(stores), part_of_runs(instance)]
        if textfile is not None:
            _write(textfile, _registry(parts, is_waiting=True))
            return
        registry = _registry(parts, is_waiting=False)
        try:
            server, thread = start_http_server(port, host, registry)
        except OSError as error:
            raise InvalidRequest(
                f"nothing can be served at {host}:{port} ({error.strerror}); choose another --port"
            ) from None
        say(err, f"serving metrics at http://{host}:{port}/metrics; Ctrl-C ends it")
        with suppress(KeyboardInterrupt):  # also SIGTERM: a server that is ended has not failed
            threading.Event().wait()
        server.shutdown()
        server.server_close()
        thread.join()


def _registry(parts: Sequence[MetricsPart], *, is_waiting: bool) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(MetricsPage(parts, is_waiting=is_waiting))
    return registry


def _write(path: Path, registry: CollectorRegistry) -> None:
    """Write the page beside the file, and rename it into place."""
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise InvalidRequest(
            f"{path} cannot be written ({error.strerror}); name a file in a folder that exists"
        ) from None
