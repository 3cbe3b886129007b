from __future__ import annotations

import pytest

from kraken_pipeline.errors import ExchangeRefused, ExchangeUnavailable, LastingError, PassingError, Throttled
from kraken_pipeline.kraken.faults import LOCKOUT_SECONDS, error_of

NOW = 1_762_820_224.5
ASKED = "OHLC pair=XBTUSD interval=60"

PASSING = [
    "EService:Unavailable",
    "EService:Busy",
    "EService:Timeout",
    "EService:Deadline elapsed",
    "EGeneral:Internal error",
    "EService:Market in cancel_only mode",
    "EService:Market in post_only mode",
]
TOO_MANY = ["EAPI:Rate limit exceeded", "EGeneral:Too many requests"]
LASTING = [
    "EQuery:Unknown asset pair",
    "EQuery:Unknown asset",
    "EGeneral:Invalid arguments",
    "EGeneral:Invalid arguments:interval",
    "EGeneral:Unknown method",
    "EAPI:Invalid key",
    "EAPI:Invalid signature",
    "EAPI:Invalid nonce",
    "EGeneral:Permission denied",
]


def throttled(*codes: str) -> Throttled:
    error = error_of(codes, ASKED, NOW)
    assert isinstance(error, Throttled)
    return error


@pytest.mark.parametrize("code", PASSING)
def test_a_code_of_the_exchanges_own_trouble_passes(code: str) -> None:
    assert type(error_of([code], ASKED, NOW)) is ExchangeUnavailable


@pytest.mark.parametrize("code", LASTING)
def test_a_code_about_the_request_itself_lasts(code: str) -> None:
    error = error_of([code], ASKED, NOW)
    assert isinstance(error, ExchangeRefused)
    assert isinstance(error, LastingError)
    assert not isinstance(error, PassingError)


@pytest.mark.parametrize("code", TOO_MANY)
def test_asking_too_often_is_throttling_without_a_moment(code: str) -> None:
    assert throttled(code).wait_until is None


@pytest.mark.parametrize("text", ["1762820230", " 1762820230", "1762820230.0"])
def test_throttling_can_name_the_moment_to_wait_for(text: str) -> None:
    assert throttled(f"EService:Throttled:{text}").wait_until == 1_762_820_230


@pytest.mark.parametrize("code", ["EService:Throttled", "EService:Throttled:", "EService:Throttled: soon"])
def test_throttling_without_a_moment_that_can_be_read_is_still_throttling(code: str) -> None:
    assert throttled(code).wait_until is None


@pytest.mark.parametrize("moment", ["1762820224000", "1762820224000000000", "9" * 400, "4102444800"])
def test_a_moment_in_another_unit_or_far_away_stops_nobody_for_longer_than_a_lockout(moment: str) -> None:
    assert throttled(f"EService:Throttled:{moment}").wait_until == NOW + LOCKOUT_SECONDS


def test_a_moment_that_has_passed_is_told_as_it_is() -> None:
    assert throttled("EService:Throttled:1762820000").wait_until == 1_762_820_000


def test_a_temporary_lockout_lasts_a_quarter_of_an_hour() -> None:
    assert LOCKOUT_SECONDS == 15 * 60
    assert throttled("EGeneral:Temporary lockout").wait_until == NOW + 900


@pytest.mark.parametrize("code", ["EService:Something new", "EFuture:Unheard of", "nonsense", "", "WGeneral:Careful"])
def test_an_unknown_code_passes(code: str) -> None:
    assert type(error_of([code], ASKED, NOW)) is ExchangeUnavailable


@pytest.mark.parametrize("code", [*PASSING, *LASTING, *TOO_MANY, "EService:Throttled:1762820230", "EX:New"])
def test_the_message_says_what_was_asked_and_what_kraken_said(code: str) -> None:
    message = str(error_of([code], ASKED, NOW))
    assert ASKED in message
    assert code in message


@pytest.mark.parametrize(
    "codes", [["EService:Busy", LASTING[0]], [LASTING[0], "EService:Busy"], [TOO_MANY[0], LASTING[3]]]
)
def test_of_several_codes_one_that_lasts_decides(codes: list[str]) -> None:
    error = error_of(codes, ASKED, NOW)
    assert isinstance(error, ExchangeRefused)
    assert "; ".join(codes) in str(error)


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_codes_the_longest_wait_counts(order: int) -> None:
    codes = [
        "EService:Busy",
        "EGeneral:Too many requests",
        "EService:Throttled:1762820230",
        "EService:Throttled:1762820229",
    ]
    assert throttled(*codes[::order]).wait_until == 1_762_820_230
    assert throttled(*[*codes, "EGeneral:Temporary lockout"][::order]).wait_until == NOW + LOCKOUT_SECONDS
