"""Sends messages to the addresses of KRAKEN_ALERT_URLS. An address is a secret, and is never logged or stored."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping

from kraken_pipeline.errors import InvalidSettings, StoreUnavailable
from kraken_pipeline.settings import Settings


def addresses_of(settings: Settings) -> Mapping[str, str]:
    """Return the addresses of the settings, by a digest of each, by which records know them."""
    if settings.kraken_alert_urls is None:
        return {}
    urls = settings.kraken_alert_urls.get_secret_value().split()
    return {hashlib.sha256(url.encode()).hexdigest()[:16]: url for url in urls}


def send(url: str, title: str, text: str) -> None:
    """Send a message to one address.

    Raises:
        InvalidSettings: Apprise is not installed, or does not know what the address is of.
        StoreUnavailable: The message was not accepted.
    """
    try:
        import apprise  # noqa: PLC0415 - an extra
    except ImportError:
        raise InvalidSettings("KRAKEN_ALERT_URLS needs apprise: pip install 'kraken-pipeline[alerts]'") from None
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its messages name the address
    service = apprise.Apprise()
    if not service.add(url):
        raise InvalidSettings("a part of KRAKEN_ALERT_URLS is no URL of Apprise; parts are separated by spaces")
    if not service.notify(body=text, title=title, body_format=apprise.NotifyFormat.TEXT):
        raise StoreUnavailable(f"the message was not accepted over {url.partition(':')[0]}")
