"""Changes to results before they are sent: a given status, rows left out, or a tampering."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kraken_pipeline.demo.faults import LeftOut, SystemState, Tampering

Change = SystemState | LeftOut | Tampering
_HOUR_NS = 3_600 * 10**9


def changed(result: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """Return a result with a change applied."""
    match change:
        case SystemState(status, upcoming, emergency):
            added = {"upcoming_maintenance": upcoming, "emergency": emergency}
            return {
                **result,
                "status": status,
                **{name: list(entries) for name, entries in added.items() if entries is not None},
            }
        case LeftOut(first, last, every):
            left_out = range(first, last + 1, every)
            return _with_rows(result, lambda rows: [row for row in rows if row[6] not in left_out])
        case Tampering():
            return _TAMPERINGS[change](result)


def _with_rows(result: Mapping[str, Any], change: Callable[[list[Any]], list[Any]]) -> dict[str, Any]:
    return {key: change(value) if isinstance(value, list) else value for key, value in result.items()}


def _exchanged(rows: list[Any]) -> list[Any]:
    """Exchange the second and third of each four rows; most pages then still begin and end with the same rows."""
    return [rows[place ^ 3 if place % 4 in (1, 2) and place ^ 3 < len(rows) else place] for place in range(len(rows))]


def _later(rows: list[Any]) -> list[Any]:
    return [*rows[:-1], [*rows[-1][:2], rows[-1][2] + _HOUR_NS / 10**9, *rows[-1][3:]]] if rows else rows


def _grown(result: Mapping[str, Any]) -> dict[str, Any]:
    def grown(rows: list[Any]) -> list[Any]:
        return [[*(float(value) if _is_decimal(value) else value for value in row), "new"] for row in rows]

    added = {"last": str(result["last"])} if "last" in result else {}
    return {"as_of": [], **_with_rows(result, grown), **added, "more": {"pages": 3}}


def _is_decimal(value: Any) -> bool:
    return isinstance(value, str) and "." in value


_TAMPERINGS: Mapping[Tampering, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    Tampering.LAST_MISSING: lambda result: {key: value for key, value in result.items() if key != "last"},
    Tampering.LAST_ZERO: lambda result: {**result, "last": 0},
    Tampering.NO_ROWS: lambda result: _with_rows(result, lambda _: []),
    Tampering.EXCHANGED: lambda result: _with_rows(result, _exchanged),
    Tampering.LATER_THAN_LAST: lambda result: _with_rows(result, _later),
    Tampering.FROM_THE_FUTURE: lambda result: {
        **_with_rows(result, _later),
        "last": str(int(result["last"]) + _HOUR_NS),
    },
    Tampering.GROWN: _grown,
}
