from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from kraken_pipeline.errors import UnusableReply
from kraken_pipeline.kraken.replies import parse_ohlc, parse_pairs, parse_status, parse_trades, unknown_words
from kraken_pipeline_tests.support.samples import at, real_file

ASKED = "OHLC of XBTUSDT 1"
OHLC_ROW = [1_762_777_020, "106038.2", "106038.3", "106038.1", "106038.2", "106038.2", "0.00250000", 3]
TRADE_ROW = ["105433.60000", "0.00027625", 1_762_795_433.9717445, "b", "l", "", 10_218_208]
NO_NUMBERS: list[Any] = [None, "", " 1.0", "1.0 ", "1,0", "1_000", "abc", "0x1", True, [], {}, 10**400]
PAIR = {"altname": "XBTUSDT", "wsname": "XBT/USDT", "aclass_base": "currency", "base": "XXBT", "quote": "USDT"}


def recorded(name: str) -> Any:
    file = f"{name}.json" if "/" in name else f"rest_{name}.json"
    return json.loads(real_file(file).read_text(encoding="utf-8"))["result"]


def ohlc(*rows: Any, key: str = "XBTUSDT", last: Any = OHLC_ROW[0]) -> dict[str, Any]:
    return {key: list(rows) or [OHLC_ROW], "last": last}


def trades(*rows: Any, key: str = "XBTUSDT", last: Any = "1762795433971744500") -> dict[str, Any]:
    return {key: list(rows) or [TRADE_ROW], "last": last}


def put(row: list[Any], place: int, value: Any) -> list[Any]:
    return [*row[:place], value, *row[place + 1 :]]


class TestRecordings:
    pytestmark = pytest.mark.real_files

    def test_the_recorded_status_is_online_at_its_time(self) -> None:
        status = parse_status(recorded("SystemStatus"))
        assert (status.status, status.time) == ("online", at("2025-11-11T00:17:10"))

    def test_recorded_pairs_are_named_by_altname_under_their_keys(self) -> None:
        (known,) = parse_pairs(recorded("AssetPairs")).pairs.items()
        assert (known[0], known[1].altname, known[1].wsname) == ("XBTUSDT", "XBTUSDT", "XBT/USDT")
        assert (known[1].base, known[1].quote, known[1].aclass_base) == ("XXBT", "USDT", "currency")
        assert known[1].status == "online"
        assert parse_pairs(recorded("AssetPairs_tokenized")).pairs["AAPLxUSD"].aclass_base == "tokenized_asset"

    def test_recorded_candles_are_721_rows_of_numbers(self) -> None:
        result = recorded("OHLC_XBTUSDT_1")
        rows, last = parse_ohlc(result, ASKED, ["XBTUSDT"])
        assert (len(rows), last) == (721, rows[-2][0])
        for said, row in zip(result["XBTUSDT"], rows, strict=True):
            assert row == (said[0], *map(float, said[1:7]), said[7])

    def test_recorded_trades_are_a_thousand_and_last_is_exact(self) -> None:
        result = recorded("Trades_XBTUSDT")
        rows, last = parse_trades(result, "Trades", ["XBTUSDT"])
        assert (len(rows), last) == (1_000, 1_762_820_035_982_277_754)
        for said, row in zip(result["XBTUSDT"], rows, strict=True):
            assert row == (float(said[0]), float(said[1]), *said[2:])


class TestStatus:
    @pytest.mark.parametrize("status", ["online", "maintenance", "cancel_only", "post_only", "resting"])
    def test_it_is_what_the_reply_says(self, status: str) -> None:
        assert parse_status({"status": status, "timestamp": "2025-11-11T00:17:10Z"}).status == status

    @pytest.mark.parametrize(
        "timestamp", ["2025-11-11T00:17:10", "2025-11-11T01:17:10+01:00", "2025-11-11T00:17:10.0Z"]
    )
    def test_its_time_is_utc_unless_it_says_otherwise(self, timestamp: str) -> None:
        assert parse_status({"status": "online", "timestamp": timestamp}).time == at("2025-11-11T00:17:10")

    @pytest.mark.parametrize(
        "result",
        [
            None,
            [],
            "online",
            {},
            {"status": "online"},
            {"timestamp": "2025-11-11T00:17:10Z"},
            {"status": None, "timestamp": "2025-11-11T00:17:10Z"},
            {"status": "online", "timestamp": "now"},
            {"status": "online", "timestamp": None},
        ],
    )
    def test_anything_else_is_unusable(self, result: Any) -> None:
        with pytest.raises(UnusableReply, match="SystemStatus"):
            parse_status(result)


class TestPairs:
    def test_what_an_entry_may_lack_has_a_default(self) -> None:
        entry = {"altname": "XBTUSDT", "base": "XXBT", "quote": "USDT"}
        pair = parse_pairs({"XBTUSDT": entry}).pairs["XBTUSDT"]
        assert (pair.wsname, pair.aclass_base, pair.status) == ("", "currency", "online")

    def test_what_is_not_known_of_an_entry_is_passed_over(self) -> None:
        grown = {**PAIR, "fees": [[0, 0.4]], "new": {}, "status": "resting"}
        assert parse_pairs({"XBTUSDT": grown}).pairs["XBTUSDT"].altname == "XBTUSDT"

    @pytest.mark.parametrize("name", ["altname", "base", "quote"])
    @pytest.mark.parametrize(
        "change", [lambda entry, name: entry.pop(name), lambda entry, name: entry.update({name: 7})]
    )
    def test_an_entry_without_its_names_takes_no_other_along(
        self, name: str, change: Callable[[dict[str, Any], str], object]
    ) -> None:
        entry: dict[str, Any] = dict(PAIR)
        change(entry, name)
        found = parse_pairs({"XETHZUSD": PAIR, "XBTUSDT": entry})
        assert list(found.pairs) == ["XETHZUSD"]
        assert f"XBTUSDT: {name} is" in found.unreadable["XBTUSDT"]
        assert "XBTUSDT" in found.unreadable_names
        with pytest.raises(UnusableReply, match=f"AssetPairs: XBTUSDT: {name}"):
            parse_pairs({"XBTUSDT": entry})

    @pytest.mark.parametrize(
        "entry", [None, [], 7, "XBTUSDT", {"altname": ["XBTUSDT"]}, {**PAIR, "altname": "币安USD"}]
    )
    def test_an_entry_that_is_none_takes_no_other_along(self, entry: Any) -> None:
        found = parse_pairs({"XBTUSDT": PAIR, "ODD": entry})
        assert (list(found.pairs), list(found.unreadable)) == (["XBTUSDT"], ["ODD"])

    @pytest.mark.parametrize(
        "more",
        [
            {"execution_venue": "bitnomial_exchange"},
            {"execution_venue": "bitnomial_exchange", "wsname": "XBT/USDT:BTNL"},
            {"wsname": "XBT/USDT:BTNL"},
            {"altname": "XBTUSDT:BTNL"},
        ],
    )
    @pytest.mark.parametrize("is_first", [False, True])
    def test_the_listing_of_another_venue_is_not_the_pair_that_it_is_named_like(
        self, more: dict[str, str], is_first: bool
    ) -> None:
        both = {"XBTUSDT": PAIR, "OTHER": {**PAIR, **more}}
        found = parse_pairs(dict(reversed(both.items())) if is_first else both)
        assert (list(found.pairs), dict(found.unreadable)) == (["XBTUSDT"], {})

    @pytest.mark.parametrize("venue", [None, "", "international"])
    def test_a_venue_that_is_the_usual_one_or_not_named_is_the_main_book(self, venue: str | None) -> None:
        assert list(parse_pairs({"XBTUSDT": {**PAIR, "execution_venue": venue}}).pairs) == ["XBTUSDT"]

    @pytest.mark.real_files
    def test_of_a_recording_with_odd_entries_the_sound_one_is_read(self) -> None:
        found = parse_pairs(recorded("../cases/AssetPairs_odd"))
        assert list(found.pairs) == ["XBTUSDT"]
        assert list(found.unreadable) == ["FOOUSD", "BARUSD"]

    @pytest.mark.parametrize("result", [{}, None, [], [PAIR], "XBTUSDT", {"XBTUSDT": None}, {"XBTUSDT": [PAIR]}])
    def test_a_list_that_is_none_is_unusable_and_never_an_empty_one(self, result: Any) -> None:
        with pytest.raises(UnusableReply, match="AssetPairs"):
            parse_pairs(result)


class TestKeys:
    @pytest.mark.parametrize("keys", [["XBTUSDT"], ["OTHER", "XBTUSDT"], []])
    def test_the_rows_lie_under_one_of_the_keys_or_any_where_none_is_known(self, keys: list[str]) -> None:
        assert parse_ohlc(ohlc(), ASKED, keys)[0][0][0] == OHLC_ROW[0]
        assert parse_trades(trades(), "Trades", keys)[0][0][6] == TRADE_ROW[6]

    @pytest.mark.parametrize("key", ["XETHZUSD", "XBTUSD"])
    def test_rows_of_another_pair_are_unusable(self, key: str) -> None:
        is_another = {"XETHZUSD", "XBTUSD"}.__contains__
        with pytest.raises(UnusableReply, match=f"{ASKED}: the result is about"):
            parse_ohlc(ohlc(key=key), ASKED, ["XBTUSDT"], is_another)
        with pytest.raises(UnusableReply, match="the result is about"):
            parse_trades(trades(key=key), "Trades", ["XBTUSDT"], is_another)

    @pytest.mark.parametrize("key", ["BTC/USDT", "xbtusdt", ""])
    def test_a_key_that_has_changed_is_believed_where_it_is_the_only_one(self, key: str) -> None:
        assert parse_ohlc(ohlc(key=key), ASKED, ["XBTUSDT"])[0][0][0] == OHLC_ROW[0]
        assert parse_trades(trades(key=key), "Trades", ["XBTUSDT"])[0][0][6] == TRADE_ROW[6]

    def test_what_stands_beside_the_rows_is_passed_over(self) -> None:
        more = {"as_of": [], "pages": {"next": 3}, "XETHZUSD": [], "note": "new"}
        assert parse_ohlc({**more, **ohlc()}, ASKED, ["XBTUSDT"]) == parse_ohlc(ohlc(), ASKED)
        assert parse_trades({**more, **trades()}, "Trades", ["XBTUSDT"]) == parse_trades(trades(), "Trades")

    @pytest.mark.parametrize("parse", [parse_ohlc, parse_trades])
    def test_rows_of_two_pairs_or_of_none_are_unusable(self, parse: Callable[..., object]) -> None:
        with pytest.raises(UnusableReply, match="XBTUSDT, XETHZUSD"):
            parse({**ohlc(), "XETHZUSD": []}, ASKED)
        with pytest.raises(UnusableReply, match="about nothing"):
            parse({"last": 1_762_777_020}, ASKED, ["XBTUSDT"])

    @pytest.mark.parametrize("parse", [parse_ohlc, parse_trades])
    @pytest.mark.parametrize("result", [None, [], [OHLC_ROW], "", 0, True])
    def test_a_result_that_is_no_object_is_unusable(self, parse: Callable[..., object], result: Any) -> None:
        with pytest.raises(UnusableReply, match=ASKED):
            parse(result, ASKED, ["XBTUSDT"])

    @pytest.mark.parametrize("parse", [parse_ohlc, parse_trades])
    @pytest.mark.parametrize("rows", [None, {}, "", 0, [None], [[]], [{}]])
    def test_rows_that_are_none_are_unusable(self, parse: Callable[..., object], rows: Any) -> None:
        with pytest.raises(UnusableReply, match=ASKED):
            parse({"XBTUSDT": rows, "last": 1_762_777_020}, ASKED, ["XBTUSDT"])


class TestOhlc:
    def test_no_rows_are_rows_here_and_somebody_elses_error(self) -> None:
        assert parse_ohlc({"XBTUSDT": [], "last": 0}, ASKED) == ([], 0)

    def test_last_can_be_zero(self) -> None:
        assert parse_ohlc(ohlc(last=0), ASKED)[1] == 0

    def test_last_can_be_text(self) -> None:
        assert parse_ohlc(ohlc(last="1762777020"), ASKED)[1] == 1_762_777_020

    @pytest.mark.parametrize("last", [None, "soon", "-5", "1e9", 1_762_777_020.0, True, [], math.nan])
    def test_last_is_a_whole_number_and_nothing_else(self, last: Any) -> None:
        with pytest.raises(UnusableReply, match="`last` is"):
            parse_ohlc(ohlc(last=last), ASKED)

    def test_last_must_be_there(self) -> None:
        with pytest.raises(UnusableReply, match="`last` is None"):
            parse_ohlc({"XBTUSDT": [OHLC_ROW]}, ASKED)

    @pytest.mark.parametrize("place", range(1, 7))
    @pytest.mark.parametrize("value", [106_038.2, 1, 10**9, "106038.2", "1e3"])
    def test_a_price_or_volume_is_a_number_with_or_without_quotes(self, place: int, value: Any) -> None:
        (row,), _ = parse_ohlc(ohlc(put(OHLC_ROW, place, value)), ASKED)
        assert row[place] == float(value)

    @pytest.mark.parametrize("place", range(1, 7))
    @pytest.mark.parametrize(
        "value",
        NO_NUMBERS,
        ids=lambda value: str(value)[:9],
    )
    def test_a_price_or_volume_is_nothing_else(self, place: int, value: Any) -> None:
        with pytest.raises(UnusableReply, match=rf"{ASKED}: 1\.{place} is"):
            parse_ohlc(ohlc(OHLC_ROW, put(OHLC_ROW, place, value)), ASKED)

    @pytest.mark.parametrize("text", ["NaN", "Infinity", "-inf", "1e999"])
    def test_text_that_is_no_finite_number_is_left_to_the_rules_for_candles(self, text: str) -> None:
        assert not math.isfinite(parse_ohlc(ohlc(put(OHLC_ROW, 1, text)), ASKED)[0][0][1])

    @pytest.mark.parametrize(
        "time",
        [None, "soon", 1_762_777_020.5, -60, 1_762_777_020_000, 1_762_777_020_000_000_000, 10**30, math.nan, math.inf],
    )
    def test_a_time_is_in_whole_seconds_of_our_days(self, time: Any) -> None:
        with pytest.raises(UnusableReply, match=rf"{ASKED}: 0\.0 is"):
            parse_ohlc(ohlc(put(OHLC_ROW, 0, time)), ASKED)

    @pytest.mark.parametrize("count", [None, "many", 2.5, 10**400])
    def test_a_count_is_a_whole_number(self, count: Any) -> None:
        with pytest.raises(UnusableReply, match=rf"{ASKED}: 0\.7 is"):
            parse_ohlc(ohlc(put(OHLC_ROW, 7, count)), ASKED)

    def test_a_row_may_have_grown(self) -> None:
        assert parse_ohlc(ohlc([*OHLC_ROW, "more", None]), ASKED) == parse_ohlc(ohlc(), ASKED)

    @pytest.mark.parametrize("row", [OHLC_ROW[:7], dict(enumerate(OHLC_ROW)), "row"])
    def test_a_row_has_eight_fields(self, row: Any) -> None:
        with pytest.raises(UnusableReply, match=ASKED):
            parse_ohlc(ohlc(row), ASKED)

    def test_the_message_does_not_repeat_a_long_value(self) -> None:
        with pytest.raises(UnusableReply) as raised:
            parse_ohlc(ohlc(put(OHLC_ROW, 1, "x" * 10_000)), ASKED)
        assert len(str(raised.value)) < 250


class TestTrades:
    @pytest.mark.parametrize("last", ["1762795433971744500", 1_762_795_433_971_744_500])
    def test_last_is_text_or_a_number(self, last: Any) -> None:
        assert parse_trades(trades(last=last), "Trades")[1] == 1_762_795_433_971_744_500

    @pytest.mark.parametrize(
        "last",
        [None, 0, "0", "000", "", "-5", -5, "1e9", "1.5", 1.76e18, "soon", "٣٤", True, [], {}, "9" * 5_000, 10**40],
    )
    def test_a_last_that_says_no_time_is_none(self, last: Any) -> None:
        assert parse_trades(trades(last=last), "Trades")[1] is None

    def test_last_may_be_missing(self) -> None:
        rows, last = parse_trades({"XBTUSDT": [TRADE_ROW]}, "Trades")
        assert (len(rows), last) == (1, None)

    def test_a_pair_without_trades_has_no_rows(self) -> None:
        assert parse_trades({"XBTUSDT": [], "last": "0"}, "Trades") == ([], None)

    @pytest.mark.parametrize(
        ("place", "value"),
        [
            (0, "cheap"),
            (0, None),
            (0, True),
            (1, ""),
            (2, None),
            (2, "soon"),
            (2, math.nan),
            (2, math.inf),
            (2, -math.inf),
            (2, True),
            (6, None),
            (6, True),
            (6, "x"),
            (6, 1.5),
            (6, 10**30),
        ],
    )
    def test_every_field_is_what_it_should_be(self, place: int, value: Any) -> None:
        with pytest.raises(UnusableReply, match=rf"Trades: 1\.{place} is"):
            parse_trades(trades(TRADE_ROW, put(TRADE_ROW, place, value)), "Trades")

    @pytest.mark.parametrize(("place", "value"), [(3, "x"), (3, None), (4, "q"), (4, ""), (5, None), (5, {})])
    def test_what_no_candle_depends_on_may_be_anything_and_is_told(self, place: int, value: Any) -> None:
        (row,), _ = parse_trades(trades(put(TRADE_ROW, place, value)), "Trades")
        assert (*row[:3], row[6]) == (105_433.6, 0.00027625, TRADE_ROW[2], TRADE_ROW[6])
        assert bool(unknown_words([row])) is (place != 5)

    def test_a_row_may_have_grown(self) -> None:
        assert parse_trades(trades([*TRADE_ROW, "more"]), "Trades") == parse_trades(trades(), "Trades")
        assert parse_trades(trades(put(TRADE_ROW, 0, 105_433.6)), "Trades") == parse_trades(trades(), "Trades")

    @pytest.mark.parametrize("row", [TRADE_ROW[:6], None])
    def test_a_row_has_seven_fields(self, row: Any) -> None:
        with pytest.raises(UnusableReply, match="Trades: 0"):
            parse_trades(trades(row), "Trades")
