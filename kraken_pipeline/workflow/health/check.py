"""The result of a health check: a verdict and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class HealthStatus(StrEnum):
    """The verdict of a health check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one health check.

    Attributes:
        name: The name of the check.
        verdict: The verdict.
        sentence: The finding, and what to do if it is not ok.
    """

    name: str
    verdict: HealthStatus
    sentence: str

    @property
    def about(self) -> str:
        """The component, which can have several checks: `questdb` for `questdb lag`."""
        return self.name.partition(" ")[0]


def worst(checks: Sequence[Check]) -> HealthStatus:
    """Return the worst verdict of some checks; OK if there are none."""
    order = list(HealthStatus)
    return max((check.verdict for check in checks), key=order.index, default=HealthStatus.OK)
