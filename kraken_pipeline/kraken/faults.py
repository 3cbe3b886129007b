"""Kraken's error codes, and the error that each stands for: retry, never retry, or wait until a given time."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kraken_pipeline.errors import ExchangeRefused, ExchangeUnavailable, Throttled

LOCKOUT_SECONDS = 900
"""The length of a temporary lockout, about a quarter of an hour. Kraken never asks for a longer wait."""

_NEVER = (
    "EQuery:Unknown asset",  # also of a pair
    "EGeneral:Invalid arguments",
    "EGeneral:Unknown method",
    "EGeneral:Permission denied",
    "EAPI:Invalid",  # key, signature, nonce
)
_LOCKOUT = "EGeneral:Temporary lockout"
_TOO_MANY = ("EAPI:Rate limit exceeded", "EGeneral:Too many requests", "EService:Throttled", _LOCKOUT)
_UNTIL = re.compile(r"EService:Throttled:\s*(\d+(?:\.\d+)?)")


def error_of(codes: Sequence[str], asked: str, now: float) -> ExchangeRefused | ExchangeUnavailable:
    """Return the error that Kraken's codes stand for.

    An unknown code counts as temporary: a request made in vain costs a second, a gap given up costs the candles.

    Args:
        codes: The codes in the reply's `error`.
        asked: The request, for the message.
        now: The current time, in seconds since the epoch.
    """
    said = "; ".join(codes)
    if any(code.startswith(_NEVER) for code in codes):
        return ExchangeRefused(f"Kraken refused {asked}: {said}; a retry does not help")
    if any(code.startswith(_TOO_MANY) for code in codes):
        moments = [moment for code in codes if (moment := _wait_until(code, now)) is not None]
        return Throttled(f"Kraken answered {asked} with {said}", max(moments, default=None))
    return ExchangeUnavailable(f"Kraken answered {asked} with {said}; a retry may help")


def _wait_until(code: str, now: float) -> float | None:
    """Return the time that a code says to wait until, at most `LOCKOUT_SECONDS` from now; None if it names none.

    Without the limit, a wrong clock or another unit could stop all requests for years.
    """
    latest = now + LOCKOUT_SECONDS
    if found := _UNTIL.match(code):
        return min(float(found[1]), latest)
    return latest if code.startswith(_LOCKOUT) else None
