from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.pair import (
    LEGACY_ASSETS,
    Pair,
    PairBook,
    did_you_mean,
    named_pair,
    nearest,
    pair_of_file,
    parse_pair,
)
from kraken_pipeline_tests.support.samples import real_file

BOOK = PairBook(
    {
        "XXBTZUSD": {"altname": "XBTUSD", "wsname": "XBT/USD", "base": "XXBT", "quote": "ZUSD"},
        "XETHXXBT": {"altname": "ETHXBT", "wsname": "ETH/XBT", "base": "XETH", "quote": "XXBT"},
        "XDGUSD": {"altname": "XDGUSD", "wsname": "XDG/USD", "base": "XXDG", "quote": "ZUSD"},
        "DOGUSD": {"altname": "DOGUSD", "wsname": "DOG/USD", "base": "DOG", "quote": "ZUSD"},
        "XTZUSD": {"altname": "XTZUSD", "wsname": "XTZ/USD", "base": "XTZ", "quote": "ZUSD"},
        "USDTZUSD": {"altname": "USDTUSD", "wsname": "USDT/USD", "base": "USDT", "quote": "ZUSD"},
        "AAPLxUSD": {"altname": "AAPLxUSD", "wsname": "AAPLx/USD", "base": "AAPLx", "quote": "ZUSD"},
        "AAPLXUSD": {"altname": "AAPLXUSD", "wsname": "AAPLX/USD", "base": "AAPLX", "quote": "ZUSD"},
    }
)

NAMES = [
    ("XBTUSD", "XBT", "USD", ["XBTUSD", "XBT/USD", "XXBTZUSD", "BTCUSD", "BTC/USD", "XXBT/ZUSD"]),
    ("ETHXBT", "ETH", "XBT", ["ETHXBT", "ETH/XBT", "XETHXXBT", "ETHBTC", "ETH/BTC"]),
    ("XDGUSD", "XDG", "USD", ["XDGUSD", "XDG/USD", "DOGEUSD", "DOGE/USD", "XXDGZUSD"]),
    ("DOGUSD", "DOG", "USD", ["DOGUSD", "DOG/USD"]),
    ("XTZUSD", "XTZ", "USD", ["XTZUSD", "XTZ/USD"]),
    ("USDTUSD", "USDT", "USD", ["USDTUSD", "USDTZUSD", "USDT/USD"]),
    ("AAPLxUSD", "AAPLx", "USD", ["AAPLxUSD", "AAPLx/USD"]),
    ("AAPLXUSD", "AAPLX", "USD", ["AAPLXUSD", "AAPLX/USD"]),
]
SPELLINGS = [(spelling, name, base, quote) for name, base, quote, spellings in NAMES for spelling in spellings]


@pytest.mark.parametrize(("spelling", "name", "base", "quote"), SPELLINGS)
def test_every_spelling_stands_for_its_pair_by_rules_alone(spelling: str, name: str, base: str, quote: str) -> None:
    pair = parse_pair(spelling)
    assert (pair.name, pair.base, pair.quote) == (name, base, quote)


@pytest.mark.parametrize(("spelling", "name", "base", "quote"), SPELLINGS)
def test_every_spelling_resolves_to_the_listed_pair(spelling: str, name: str, base: str, quote: str) -> None:
    pair = BOOK.resolve(spelling)
    assert (pair.name, pair.base, pair.quote) == (name, base, quote)
    assert pair in BOOK


@pytest.mark.parametrize(
    ("name", "base", "quote"),
    [
        ("EURUSDT", "EUR", "USDT"),
        ("1INCHUSD", "1INCH", "USD"),
        ("XBTPYUSD", "XBT", "PYUSD"),
        ("PAXGXBT", "PAXG", "XBT"),
        ("TBTCXBT", "TBTC", "XBT"),
        ("WBTCUSD", "WBTC", "USD"),
        ("XRPRLUSD", "XRP", "RLUSD"),
        ("ZRXEUR", "ZRX", "EUR"),
        ("XCNUSD", "XCN", "USD"),
    ],
)
def test_the_longest_quote_that_fits_wins(name: str, base: str, quote: str) -> None:
    assert (parse_pair(name).base, parse_pair(name).quote) == (base, quote)


@pytest.mark.parametrize(("name", "wanted"), [("DOTBTC", "DOTXBT"), ("BATBTC", "BATXBT"), ("TBTCBTC", "TBTCXBT")])
def test_a_base_that_ends_in_t_keeps_it_when_it_is_quoted_in_btc(name: str, wanted: str) -> None:
    assert parse_pair(name).name == wanted


@pytest.mark.parametrize("base", sorted(code for code in LEGACY_ASSETS if code.startswith("X")))
def test_internal_keys_of_legacy_assets_lose_both_prefixes(base: str) -> None:
    assert parse_pair(f"{base}ZEUR") == Pair(f"{base[1:]}EUR", base[1:], "EUR")


def test_a_name_in_an_unknown_quote_keeps_its_name_and_has_no_quote() -> None:
    assert parse_pair("FOOBARBAZ") == Pair("FOOBARBAZ", "FOOBARBAZ", "")
    assert parse_pair("FOOBARBAZ").quote == ""
    assert parse_pair("USD").quote == ""


def test_case_matters() -> None:
    assert parse_pair("AAPLxUSD") != parse_pair("AAPLXUSD")
    assert parse_pair("xbtusd").name == "xbtusd"


@pytest.mark.parametrize(
    "name", ["", "X", "XBT-USD", "XBT USD", "XBT/", "/USD", "XBT/USD/EUR", "XBTUSD\n", "X" * 33, "ÄXBT", "../etc"]
)
def test_what_cannot_be_a_pair_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(InvalidRequest, match="write a name such as XBTUSD, ADAEUR or XBT/USD"):
        parse_pair(name)
    with pytest.raises(InvalidRequest):
        BOOK.resolve(name)


@given(st.one_of(st.text("BCDEGORSTUXZx/.1 ", max_size=12), st.text(max_size=40)))
def test_any_text_is_a_pair_or_refused_and_reading_a_name_again_changes_nothing(text: str) -> None:
    try:
        pair = parse_pair(text)
    except InvalidRequest:
        return
    assert pair.name == pair.base + pair.quote
    assert parse_pair(f"{pair.base}/{pair.quote}" if pair.quote else pair.name).name == pair.name


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("adausd", "ADAUSD"), ("xxbtzusd", "XBTUSD"), ("btcusd", "XBTUSD"), ("1inchusd", "1INCHUSD"),
     ("AAPLxUSD", "AAPLxUSD"), ("ADAUSD", "ADAUSD"), ("AdaUsd", "AdaUsd"), ("prices", "PRICES")],
)  # fmt: skip
def test_a_files_name_in_small_letters_is_that_pair_and_a_mixed_one_stays(name: str, wanted: str) -> None:
    assert pair_of_file(name).name == wanted


KNOWN = ("STORJUSD", "STORJEUR", "AAPLxUSD", "XBTUSD", "adaeur")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("storjusd", "STORJUSD"), ("StorjUSD", "STORJUSD"), ("aaplxusd", "AAPLxUSD"), ("AAPLXUSD", "AAPLxUSD"),
     ("btc/usd", "XBTUSD"), ("XBTUSD", "XBTUSD"), ("adaeur", "adaeur"), ("newusd", "NEWUSD"), ("NewUSD", "NewUSD")],
)  # fmt: skip
def test_a_pair_is_found_however_its_capitals_are_written(name: str, wanted: str) -> None:
    assert named_pair(name, KNOWN) == wanted


def test_of_two_pairs_that_differ_in_capitals_alone_the_one_that_was_written_is_meant() -> None:
    both = ("AAPLxUSD", "AAPLXUSD")
    assert [named_pair(name, both) for name in (*both, "aaplxusd")] == [*both, "AAPLXUSD"]


@given(st.sampled_from(KNOWN), st.data())
def test_whatever_letters_are_small_the_known_pair_is_found(name: str, data: st.DataObject) -> None:
    spelled = "".join(data.draw(st.sampled_from([letter.lower(), letter.upper()])) for letter in name)
    assert named_pair(spelled, KNOWN) == name


def test_the_nearest_names_are_told() -> None:
    assert nearest("STROJUSD", KNOWN)[0] == "STORJUSD"
    assert did_you_mean("aaplusd", KNOWN) == "; similar names are AAPLxUSD"
    assert did_you_mean("QQQQ", KNOWN) == ""


def test_pairs_are_equal_and_ordered_by_name_alone() -> None:
    assert Pair("XBTUSD", "XBT", "USD") == Pair("XBTUSD", "XBTUSD", "")
    assert Pair("ADAUSD", "Z", "Z") < Pair("XBTUSD", "A", "A")
    assert str(Pair("XBTUSD", "XBT", "USD")) == "XBTUSD"


def test_the_internal_key_of_a_listed_pair_is_known_and_an_unlisted_one_goes_by_its_name() -> None:
    assert BOOK.key(BOOK.resolve("BTC/USD")) == "XXBTZUSD"
    assert BOOK.key(BOOK.resolve("XTZUSD")) == "XTZUSD"
    unlisted = BOOK.resolve("FOOUSD")
    assert unlisted not in BOOK
    assert BOOK.key(unlisted) == "FOOUSD"


def test_a_book_without_a_listing_reads_names_by_the_rules() -> None:
    book = PairBook()
    assert len(book) == 0
    assert book.resolve("XXBTZUSD").name == "XBTUSD"


def test_a_pair_listed_without_a_websocket_name_is_known_by_its_assets() -> None:
    book = PairBook({"XXBTZEUR": {"altname": "XBTEUR", "base": "XXBT", "quote": "ZEUR"}})
    assert (book.resolve("XXBTZEUR").base, book.resolve("XXBTZEUR").quote) == ("XBT", "EUR")


@pytest.mark.real_files
@pytest.mark.parametrize(
    ("recording", "spellings", "base", "quote"),
    [
        ("rest_AssetPairs.json", ["XBTUSDT", "XBT/USDT", "BTCUSDT", "BTC/USDT"], "XBT", "USDT"),
        ("rest_AssetPairs_tokenized.json", ["AAPLxUSD", "AAPLx/USD"], "AAPLx", "USD"),
    ],
)
def test_the_recorded_listings_are_read(recording: str, spellings: list[str], base: str, quote: str) -> None:
    listed = json.loads(real_file(recording).read_text(encoding="utf-8"))["result"]
    book = PairBook(listed)
    assert len(book) == len(listed)
    for spelling in spellings:
        pair = book.resolve(spelling)
        assert (pair.base, pair.quote) == (base, quote)
        assert book.key(pair) in listed
