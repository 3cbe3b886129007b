"""Records what is wrong, and tells each address what it does not know yet."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from kraken_pipeline.errors import PipelineError
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.storage import alert_records
from kraken_pipeline.storage.alert_records import AlertRecord
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.alerts.alert import Alert, Finding, message_to, remaining, settled, told
from kraken_pipeline.workflow.alerts.sending import addresses_of, send


@dataclass(frozen=True, slots=True)
class Told:
    """The result of telling.

    Attributes:
        wrong: What is wrong now.
        sent: The number of messages that were accepted.
        failed: Why the others were not; they are sent again later.
    """

    wrong: tuple[Alert, ...]
    sent: int = 0
    failed: tuple[str, ...] = ()

    def __str__(self) -> str:
        active = quantity(len(self.wrong), "alert is active", "alerts are active")
        return f"{active}, {quantity(self.sent, 'message was', 'messages were')} sent"


def tell(stores: Stores, findings: Iterable[Finding], kinds: Collection[str], now: int) -> Told:
    """Record the findings of some kinds, and tell each address what has begun and what has ended.

    Each address gets one message, and what it accepts is recorded before the next one is sent. What it does not accept
    is sent with the next look.

    Args:
        stores: The stores.
        findings: Everything of these kinds that is wrong now.
        kinds: The kinds that were looked for.
        now: The time of the look, in seconds since the epoch.

    Raises:
        Busy: Another process is telling at this moment.
    """
    addresses = addresses_of(stores.settings)
    sent, failed = 0, list[str]()
    with stores.locks.alerts():
        alerts = dict(settled(_alerts(stores), findings, kinds, now))
        _record(stores, alerts.values())
        for digest, url in addresses.items():
            message = message_to(digest, alerts.values())
            if message is None:
                continue
            try:
                send(url, message.title, message.text)
            except PipelineError as error:
                failed.append(str(error))
                continue
            sent += 1
            alerts |= told(alerts.values(), digest, message)
            _record(stores, alerts.values())
        _record(stores, remaining(alerts.values(), addresses).values())
    wrong = tuple(alert for alert in alerts.values() if alert.ended_at is None)
    return Told(wrong, sent, tuple(failed))


def _alerts(stores: Stores) -> Sequence[Alert]:
    with stores.catalog.read() as connection:
        found = alert_records.records(connection)
    return [
        Alert(record.name, record.sentence, record.began_at, record.ended_at, frozenset(record.told))
        for record in found
    ]


def _record(stores: Stores, alerts: Iterable[Alert]) -> None:
    kept = [
        AlertRecord(alert.name, alert.sentence, alert.began_at, alert.ended_at, sorted(alert.told)) for alert in alerts
    ]
    with stores.catalog.write() as connection:
        alert_records.replace_all(connection, kept)
