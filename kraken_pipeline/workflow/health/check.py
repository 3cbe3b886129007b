"""What a look at something found: how it is, in a word and in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class HealthStatus(StrEnum):
    """How a thing is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        verdict: How it is.
        sentence: What was seen, and what to do where it is not well.
    """

    name: str
    verdict: HealthStatus
    sentence: str

    @property
    def about(self) -> str:
        """The thing, of which several may have been looked at: `questdb` of `questdb lag`."""
        return self.name.partition(" ")[0]


def worst(checks: Sequence[Check]) -> HealthStatus:
    """The worst verdict among them."""
    order = list(HealthStatus)
    return max((check.verdict for check in checks), key=order.index, default=HealthStatus.OK)
