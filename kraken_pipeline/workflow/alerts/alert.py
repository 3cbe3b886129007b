"""Alerts, and what of them is still to be said to whom; nothing here acts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

LISTED = 20
"""The most alerts that one message lists."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong now.

    Attributes:
        name: Its name, which stays the same as long as it is wrong: `KIND:WHAT`.
        sentence: What is wrong, with what to do; never a secret.
    """

    name: str
    sentence: str

    @property
    def kind(self) -> str:
        """The kind: findings of a kind are looked for together."""
        return self.name.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is wrong, or was, with those who know of it.

    Attributes:
        name: The name of the finding.
        sentence: Its sentence when it began.
        began_at: When it was found first, in seconds since the epoch.
        ended_at: When it was not found any more; None as long as it is wrong.
        told: The addresses that know that it has begun, and not yet that it has ended.
    """

    name: str
    sentence: str
    began_at: int
    ended_at: int | None = None
    told: frozenset[str] = frozenset()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and nobody is left to be told."""
        return self.ended_at is not None and not self.told


@dataclass(frozen=True, slots=True)
class Message:
    """A message to one address.

    Attributes:
        begun: The alerts that the address does not know yet.
        ended: The alerts of which it does not know yet that they have ended.
    """

    begun: tuple[Alert, ...]
    ended: tuple[Alert, ...]

    @property
    def title(self) -> str:
        """The first line."""
        alerts, what = (self.begun, "") if self.begun else (self.ended, "over: ")
        more = f", and {len(alerts) - 1} more" if len(alerts) > 1 else ""
        return f"kraken-pipeline: {what}{alerts[0].name}{more}"

    @property
    def text(self) -> str:
        """The lines below it."""
        parts = (("Begun", self.begun), ("Over", self.ended))
        return "\n\n".join(f"{what}:\n{_lines(alerts)}" for what, alerts in parts if alerts)


def _lines(alerts: Sequence[Alert]) -> str:
    more = [f"- and {len(alerts) - LISTED} more: kraken-pipeline alerts check"] if len(alerts) > LISTED else []
    return "\n".join([*(f"- {alert.name}: {alert.sentence}" for alert in alerts[:LISTED]), *more])


def settled(
    known: Iterable[Alert], findings: Iterable[Finding], kinds: Collection[str], now: int
) -> Mapping[str, Alert]:
    """Return the alerts after a look, by name.

    Args:
        known: The alerts on record.
        findings: What is wrong now.
        kinds: The kinds that were looked for: an alert of another kind goes on as it is.
        now: The time of the look, in seconds since the epoch.
    """
    wrong = {finding.name: finding for finding in findings}
    alerts = {alert.name: alert for alert in known}
    for name, alert in alerts.items():
        if name in wrong:  # one that comes back before its end was told to all has never ended for the others
            alerts[name] = replace(alert, ended_at=None)
        elif alert.ended_at is None and Finding(name, "").kind in kinds:
            alerts[name] = replace(alert, ended_at=now)
    new = {name: Alert(name, finding.sentence, now) for name, finding in wrong.items() if name not in alerts}
    return {**alerts, **new}


def message_to(address: str, alerts: Iterable[Alert]) -> Message | None:
    """Return what an address is still to be told; None if it knows all."""
    found = sorted(alerts, key=lambda alert: (alert.began_at, alert.name))
    begun = tuple(alert for alert in found if alert.ended_at is None and address not in alert.told)
    ended = tuple(alert for alert in found if alert.ended_at is not None and address in alert.told)
    return Message(begun, ended) if begun or ended else None


def told(alerts: Iterable[Alert], address: str, message: Message) -> dict[str, Alert]:
    """Return the alerts of a message after the address was told, by name."""
    begun, ended = {alert.name for alert in message.begun}, {alert.name for alert in message.ended}
    found = {}
    for alert in alerts:
        if alert.name in begun:
            found[alert.name] = replace(alert, told=alert.told | {address})
        elif alert.name in ended:
            found[alert.name] = replace(alert, told=alert.told - {address})
    return found


def remaining(alerts: Iterable[Alert], addresses: Collection[str]) -> dict[str, Alert]:
    """Return the alerts that are not over, by name; those who are no address any more need not be told."""
    kept = (replace(alert, told=alert.told & frozenset(addresses)) for alert in alerts)
    return {alert.name: alert for alert in kept if not alert.is_over}
