from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.bars import Bars
from kraken_pipeline.market.interval import Interval

MINUTE, HOUR, DAY = 60, 3_600, 86_400


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


ZONES = {
    "UTC": at("2023-03-26"),
    "Europe/Berlin": at("2023-03-26"),
    "America/New_York": at("2023-11-05"),
    "Australia/Lord_Howe": at("2023-04-01"),  # by half an hour
    "Asia/Kolkata": at("2023-03-26"),  # half an hour beside all others
    "Asia/Beirut": at("2022-03-27"),  # at midnight, which the clock skips
    "America/Sao_Paulo": at("2018-02-18"),  # at midnight, to the day before
    "Pacific/Apia": at("2011-12-30"),  # a day that never was
}


@lru_cache(maxsize=1 << 18)
def clock(zone: str, time: int) -> int:
    """What a clock shows, in minutes since 1970-01-01T00:00 on that clock."""
    return int(datetime.fromtimestamp(time, ZoneInfo(zone)).replace(tzinfo=UTC).timestamp()) // MINUTE


def started(bars: Bars, start: int, end: int) -> list[int]:
    """The starts of the bars in a time, by looking at the clock each minute."""
    width, offset = bars.minutes, bars.offset // MINUTE
    is_daily = width % 1_440 == 0
    found = []
    before: int | None = None
    latest = -math.inf
    for time in range(start - 2 * bars.seconds - 2 * DAY, end, MINUTE):
        local = clock(bars.zone, time)
        number = (local - offset) // width
        if is_daily:
            is_start = number > latest
        elif before is None or local > before:
            is_start = before is not None and number > (before - offset) // width
        else:
            is_start = (local - offset) % width == 0
        if is_start and time >= start:
            found.append(time)
        latest, before = max(latest, number), local
    return found


@given(
    zone=st.sampled_from(sorted(ZONES)),
    minutes=st.sampled_from([1, 3, 7, 15, 60, 90, 120, 240, 300, 480, 720, 1_440, 2_880, 4_320]),
    offset=st.integers(0, 2_000),
    begin=st.integers(-1_500, 200),
    length=st.integers(0, 1_500),
    is_fallen_back=st.booleans(),
)
@example(zone="Europe/Berlin", minutes=1_440, offset=0, begin=-1_440, length=4_000, is_fallen_back=False)
@example(zone="America/Sao_Paulo", minutes=1_440, offset=0, begin=-1_440, length=4_000, is_fallen_back=False)
@example(zone="Pacific/Apia", minutes=2_880, offset=0, begin=-1_440, length=4_000, is_fallen_back=False)
@settings(max_examples=40)
def test_bars_start_when_the_clock_of_their_zone_says_so(
    zone: str, minutes: int, offset: int, begin: int, length: int, is_fallen_back: bool
) -> None:
    bars = Bars.parse(minutes, offset, zone)
    change = ZONES[zone] + (31 * 7 * DAY if is_fallen_back and zone == "Europe/Berlin" else 0)
    start = change + begin * MINUTE
    end = start + length * MINUTE
    expected = started(bars, start, end)
    found = bars.edges(start, end)
    assert found[:-1].tolist() == expected
    if expected:
        assert found[-1] == started(bars, end, end + 2 * bars.seconds + 3 * DAY)[0]
    held = start if start % MINUTE == 0 else start + 1
    assert bars.floor(held) == started(bars, held - 2 * bars.seconds - 3 * DAY, held + 1)[-1]


@pytest.mark.parametrize("interval", list(Interval))
def test_bars_of_a_stored_width_are_its_candles(interval: Interval) -> None:
    bars = Bars.parse(interval.value)
    assert bars.stored_as is interval
    edges = bars.edges(1_000_000_001, 1_100_000_000)
    assert edges[0] == interval.ceil(1_000_000_001)
    assert set(np.diff(edges).tolist()) == {interval.seconds}
    assert edges[-1] >= 1_100_000_000 > edges[-2]


@pytest.mark.parametrize(
    ("text", "minutes"), [("3m", 3), ("2h", 120), (" 8h ", 480), ("1d", 1_440), ("1w", 10_080), (90, 90), ("90", 90)]
)
def test_a_width_is_minutes_or_a_number_with_a_unit(text: str | int, minutes: int) -> None:
    assert Bars.parse(text).minutes == minutes


def test_only_plain_bars_are_stored() -> None:
    assert Bars.parse("1h", "1h").stored_as is Interval.H1, "an offset of a whole bar is none"
    assert Bars.parse("1h", "30m").stored_as is None
    assert Bars.parse("1d", timezone="Europe/Berlin").stored_as is None
    assert Bars.parse("2h").stored_as is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("2x",), "'2x' is not a length of time; examples are 90"),
        (("",), "'' is not a length of time"),
        ((0,), "interval 0 is not between a minute and 366 days"),
        ((-5,), "interval -5 is not between"),
        (("400d",), "interval '400d' is not between"),
        (("1h", "soon"), "'soon' is not a length of time"),
        (("1h", None, "Berlin"), "'Berlin' is not the name of a time zone"),
        (("1h", None, "../etc/passwd"), "is not the name of a time zone"),
        (("1h", None, "Europe"), "'Europe' is not the name of a time zone"),
    ],
)
def test_what_is_wrong_is_said(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Bars.parse(*arguments)
