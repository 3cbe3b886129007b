"""The page that Prometheus scrapes: parts that are measured when they are needed, and kept for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from kraken_pipeline.workflow.metrics.family import gauges

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class MetricsPart:
    """Some metrics that are measured together.

    Attributes:
        name: The name of the part, for the metrics about it.
        measure: Returns the metrics.
        seconds: The time for which a measurement is used.
        is_slow: Whether the page does not wait for it: it shows the last measurement while another one is made.
    """

    name: str
    measure: Callable[[], Iterable[Metric]]
    seconds: float
    is_slow: bool = False
    _metrics: Sequence[Metric] = ()
    _measured_at: float | None = None
    _took: float = 0.0
    _is_well: bool = True
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def metrics(self, *, is_waiting: bool) -> Sequence[Metric]:
        """Return the metrics, measured anew if they are too old; a part that fails has none.

        Args:
            is_waiting: Whether to wait for a slow part as well.
        """
        is_fresh = self._measured_at is not None and time.monotonic() - self._measured_at < self.seconds
        if not is_fresh:
            if is_waiting or not self.is_slow:
                with self._guard:
                    self._measure()
            elif self._guard.acquire(blocking=False):
                threading.Thread(target=self._measure_beside, name=f"metrics {self.name}", daemon=True).start()
        return self._metrics

    def _measure_beside(self) -> None:
        try:
            self._measure()
        finally:
            self._guard.release()

    def _measure(self) -> None:
        began = time.monotonic()
        try:
            self._metrics, self._is_well = tuple(self.measure()), True
        except Exception as error:
            _log.warning("the metrics of %s cannot be measured: %s", self.name, error)
            self._metrics, self._is_well = (), False
        self._measured_at = time.monotonic()
        self._took = self._measured_at - began

    @property
    def state(self) -> tuple[bool, float] | None:
        """Whether the last measurement succeeded, and its seconds; None before the first."""
        return None if self._measured_at is None else (self._is_well, self._took)


class MetricsPage(Collector):
    """All metrics, for a registry of Prometheus.

    Args:
        parts: The parts, in the order of the page.
        is_waiting: Whether the page waits for slow parts as well, as a file that is written once has to.
    """

    def __init__(self, parts: Sequence[MetricsPart], *, is_waiting: bool) -> None:
        self._parts = parts
        self._is_waiting = is_waiting

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering measures nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, and last whether each part could be measured, and how long that took."""
        for part in self._parts:
            yield from part.metrics(is_waiting=self._is_waiting)
        states = {(part.name,): part.state for part in self._parts}
        known = {labels: state for labels, state in states.items() if state is not None}
        text = "Whether the last measurement of a part of this page succeeded."
        yield gauges(
            "kraken_metrics_success", text, ("part",), {name: float(well) for name, (well, _) in known.items()}
        )
        text = "How long the last measurement of a part of this page took."
        yield gauges(
            "kraken_metrics_measure_seconds", text, ("part",), {name: took for name, (_, took) in known.items()}
        )
