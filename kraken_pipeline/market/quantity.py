"""A number with its noun, for sentences to people."""

from __future__ import annotations


def quantity(count: int, one: str, several: str | None = None) -> str:
    """Return a number and what it counts: `1 gap`, `1,204 gaps`.

    Args:
        count: The number.
        one: What follows it where it is one.
        several: What follows it otherwise; `one` with an s by default.
    """
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"
