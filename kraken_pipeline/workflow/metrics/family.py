"""Metric families: counters and gauges as values, from which Prometheus' text is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

_Labels = TypeVar("_Labels", bound=tuple[str, ...])
"""The values of the labels of a family, in their order."""


def counter(name: str, text: str, value: float) -> Metric:
    """Return a counter without labels; Prometheus' text adds `_total` to its name."""
    return CounterMetricFamily(name, text, value=value)


def counters(name: str, text: str, labels: tuple[str, ...], values: Mapping[_Labels, float]) -> Metric:
    """Return a counter with labels."""
    family = CounterMetricFamily(name, text, labels=labels)
    for of_labels, value in sorted(values.items()):
        family.add_metric(list(of_labels), value)
    return family


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, text, value=value)


def gauges(name: str, text: str, labels: tuple[str, ...], values: Mapping[_Labels, float]) -> Metric:
    """Return a gauge with labels."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for of_labels, value in sorted(values.items()):
        family.add_metric(list(of_labels), value)
    return family
