"""Kraken's error codes, and what each means for whoever asked: again, never, or wait until a moment."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kraken_pipeline.errors import ExchangeRefused, ExchangeUnavailable, Throttled

LOCKOUT_SECONDS = 900
"""A temporary lockout lasts for about a quarter of an hour. Kraken asks for no longer wait than that."""

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
    """The error that Kraken's codes stand for.

    A code that is not known here counts as one that passes: a request made in vain costs a second, a gap given up
    costs the candles.

    Args:
        codes: What the reply's `error` lists.
        asked: What was asked, for the message.
        now: The moment, in seconds since the epoch.
    """
    said = "; ".join(codes)
    if any(code.startswith(_NEVER) for code in codes):
        return ExchangeRefused(f"Kraken refused {asked}: {said}; asking again does not help")
    if any(code.startswith(_TOO_MANY) for code in codes):
        moments = [moment for code in codes if (moment := _wait_until(code, now)) is not None]
        return Throttled(f"Kraken answered {asked} with {said}", max(moments, default=None))
    return ExchangeUnavailable(f"Kraken answered {asked} with {said}; it may pass")


def _wait_until(code: str, now: float) -> float | None:
    """The moment that a code names; a clock that is off, or another unit, must not stop everybody for years."""
    latest = now + LOCKOUT_SECONDS
    if found := _UNTIL.match(code):
        return min(float(found[1]), latest)
    return latest if code.startswith(_LOCKOUT) else None
