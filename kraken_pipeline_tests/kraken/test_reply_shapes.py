"""Kraken's recorded replies, with fields added, removed, retyped and reordered: values are right, or refused.

Where the recordings are not at hand, replies of the same shape stand in for them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from math import isfinite
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.errors import ExchangeUnavailable, PipelineError, UnusableReply
from kraken_pipeline.kraken.incidents import reported_incidents
from kraken_pipeline.kraken.ohlc import read_ohlc
from kraken_pipeline.kraken.replies import parse_ohlc, parse_pairs, parse_status, parse_trades
from kraken_pipeline.kraken.trades import TradesPage, page_trades
from kraken_pipeline.market.interval import Interval
from kraken_pipeline_tests.support.samples import REAL_FILES

NS = 10**9
T = 1_762_795_440
ROWS = 8


def recorded(name: str, otherwise: Any) -> Any:
    path = REAL_FILES / f"rest_{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["result"] if path.is_file() else otherwise


def entry(name: str) -> dict[str, Any]:
    base = name.removesuffix("USD")
    return {"altname": name, "wsname": f"{base}/USD", "aclass_base": "currency", "base": base, "quote": "ZUSD"}


OHLC = recorded(
    "OHLC_XBTUSDT_1",
    {
        "XBTUSDT": [[T + 60 * n, "10.5", "11.0", "10.0", "10.7", "10.6", "1.5", 3] for n in range(ROWS)],
        "last": T + 60 * (ROWS - 2),
    },
)
OHLC = {"XBTUSDT": OHLC["XBTUSDT"][-ROWS:], "last": OHLC["last"]}
TRADES = recorded(
    "Trades_XBTUSDT",
    {
        "XBTUSDT": [[f"{10 + n}.5", "0.25", T + 7.5 * n, "b", "l", "", 100 + n] for n in range(1_000)],
        "last": str(int((T + 7.5 * 999) * NS)),
    },
)
PAIRS = {**recorded("AssetPairs", {"XBTUSDT": entry("XBTUSDT")}), **{name: entry(name) for name in ("AUSD", "BUSD")}}
STATUS = {"status": "online", "timestamp": "2025-11-11T00:17:10Z", "upcoming_maintenance": [], "emergency": []}

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["0", "nan", "1e999", "-5", "1762795440", 10**400, -1, 0, "b", "online"]),
    st.just([]),
    st.just({}),
    st.just([[]]),
)


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of everything within a value that can be removed or replaced."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += [(*path, key), *spots(inner, (*path, key))]
    return found


@st.composite
def reshaped(draw: st.DrawFn, reply: Any) -> Any:
    """A reply in which some things were added, removed, retyped or put in another order."""
    reply = copy.deepcopy(reply)
    for _ in range(draw(st.integers(0, 3))):
        places = spots(reply)
        if not places:
            break
        *path, key = draw(st.sampled_from(places))
        inner = reply
        for step in path:
            inner = inner[step]
        _change(draw, inner, key)
    return reply


def _change(draw: st.DrawFn, inner: Any, key: Any) -> None:
    match draw(st.sampled_from(["remove", "retype", "replace", "append", "reorder"])):
        case "remove":
            del inner[key]
        case "retype":
            value = inner[key]
            inner[key] = float(value) if isinstance(value, str) and value.replace(".", "").isdigit() else str(value)
        case "replace":
            inner[key] = draw(VALUES)
        case "append" if isinstance(inner, list):
            inner.append(draw(VALUES))
        case "append":
            inner[draw(st.sampled_from(["new", "as_of", "XETHZUSD", "last"]))] = draw(VALUES)
        case "reorder" if isinstance(inner, list) and inner is not None and key != 0 and isinstance(inner[key], list):
            inner.insert(0, inner.pop(key))
        case _ if isinstance(inner, dict):
            inner[key] = inner.pop(key)


def read_or_refused(read: Callable[[], Any]) -> Any:
    """What is read of a reply; None where it is refused, as one of the errors that are foreseen."""
    try:
        return read()
    except (UnusableReply, ExchangeUnavailable):
        return None


def row_of(said: list[Any], length: int) -> tuple[float, ...]:
    return tuple(float(value) for value in said[:length])


@given(reshaped(OHLC))
def test_a_candle_of_ohlc_is_what_a_row_says(reply: Any) -> None:
    found = read_or_refused(
        lambda: read_ohlc(*parse_ohlc(reply, "OHLC", ["XBTUSDT"], {"XETHZUSD"}.__contains__), Interval.M1, "OHLC")
    )
    if found is None:
        return
    rows = next(value for key, value in reply.items() if key == "XBTUSDT" or (key != "last" and "XBTUSDT" not in reply))
    said = {row_of(row, 8) for row in rows}
    for time, *values, volume, trades in found.candles.select(
        "time", "open", "high", "low", "close", "volume", "trade_count"
    ).iter_rows():
        seconds = float(int(time.timestamp()))
        assert any(row[0] == seconds and (*row[1:5], row[6], row[7]) == (*values, volume, trades) for row in said)
        assert all(isfinite(value) and value > 0 for value in values)


PAGE = {"XBTUSDT": TRADES["XBTUSDT"][:40], "last": str(int(TRADES["XBTUSDT"][39][2] * NS))}
GAPLESS = {row[6]: row for row in PAGE["XBTUSDT"]}


@given(reshaped(PAGE))
def test_what_is_answered_for_by_trades_holds_all_trades_that_were_said(reply: Any) -> None:
    parsed = read_or_refused(lambda: parse_trades(reply, "Trades", ["XBTUSDT"], {"XETHZUSD"}.__contains__))
    if parsed is None:
        return
    rows, last = parsed
    first = Interval.M1.ceil(int(PAGE["XBTUSDT"][0][2]))
    wanted = Span(first, Interval.M1.ceil(int(PAGE["XBTUSDT"][-1][2])))

    def fetch(since: int) -> TradesPage:
        page = [row for row in rows if row[2] >= since / NS - 1e-6]
        return TradesPage(page, last, wanted.end + 99, "Trades", wanted.end + 99)

    pages = read_or_refused(lambda: list(page_trades(fetch, wanted)))
    for page in pages or ():
        for time, count in page.candles.select("time", "trade_count").iter_rows():
            start = int(time.timestamp())
            said = [row for row in rows if start <= row[2] < start + 60]
            assert count == len(said)
            assert all(row[0] > 0 and row[1] >= 0 for row in said)


@given(reshaped({name: entry(name) for name in ("AUSD", "BUSD", "CUSD")}))
def test_a_pair_is_what_its_entry_says_and_no_other_is_affected(reply: Any) -> None:
    found = read_or_refused(lambda: parse_pairs(reply))
    if found is None:
        return
    for key, pair in found.pairs.items():
        said = reply[key]
        assert (pair.altname, pair.base, pair.quote) == (said["altname"], said["base"], said["quote"])
    untouched = [key for key, said in reply.items() if said == entry(key)] if isinstance(reply, dict) else []
    assert set(untouched) <= set(found.pairs)
    assert found.pairs.keys() | found.unreadable.keys() <= reply.keys()


@given(reshaped(PAIRS), st.sampled_from(["AUSD", "BUSD"]))
def test_whatever_one_recorded_entry_has_become_the_others_are_read(reply: Any, name: str) -> None:
    found = read_or_refused(lambda: parse_pairs(reply))
    if isinstance(reply, dict) and reply.get(name) == entry(name):
        assert found is not None
        assert found.pairs[name].altname == name


@given(reshaped(STATUS))
def test_a_status_is_what_it_says_or_refused(reply: Any) -> None:
    found = read_or_refused(lambda: parse_status(reply))
    if found is not None:
        assert found.status == reply["status"]
        list(reported_incidents(found))


def test_nothing_but_what_is_foreseen_is_raised() -> None:
    for parse in (parse_ohlc, parse_trades):
        replies: list[Any] = [None, 7, "x", [], {}, {"XBTUSDT": None}, {"XBTUSDT": {}, "last": 7}]
        for reply in replies:
            with pytest.raises(PipelineError):
                parse(reply, "a reply", ["XBTUSDT"])
