from __future__ import annotations

from pathlib import Path

import pytest

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.moment import parse_moment
from kraken_pipeline.market.pair import Pair, parse_pair
from kraken_pipeline.market.pair_history import EventKind, Rename, events_of, known_events, predecessors, successor

ROW = """
[[event]]
kind = "rename"
from = "{before}"
to = "{after}"
moment = "2024-09-04"
ratio = 1.0
source = "{source}"
"""


def written(folder: Path, *rows: tuple[str, str, str]) -> Path:
    path = folder / "pair_history.toml"
    path.write_text("".join(ROW.format(before=before, after=after, source=source) for before, after, source in rows))
    return path


def test_every_event_of_the_table_has_a_source_and_names_that_kraken_uses() -> None:
    events = known_events()
    assert {event.kind for event in events} == set(EventKind)
    for event in events:
        assert len(event.source) > 20, event
        assert event.ratio > 0
        if event.kind in (EventKind.LISTING, EventKind.DELISTING, EventKind.REVERSAL):
            for name in filter(None, (event.before, event.after)):
                assert parse_pair(name).name == name
        assert event.date == "date unknown" if event.moment is None else event.date.startswith("20")


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([("MATIC", "POL", "   ")], "has no source"),
        ([("MATIC", "POL", "known"), ("MATIC", "PLG", "known")], "renamed twice: MATIC, MATIC"),
        ([("MATIC", "POL", "known"), ("PLG", "POL", "known")], "renamed twice: POL, POL"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(tmp_path: Path, rows: list[tuple[str, str, str]], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        known_events(written(tmp_path, *rows))


def test_a_dated_event_has_its_moment(tmp_path: Path) -> None:
    (event,) = known_events(written(tmp_path, ("MATIC", "POL", "known")))
    assert (event.moment, event.date) == (parse_moment("2024-09-04"), "2024-09-04T00:00:00Z")


@pytest.mark.parametrize("name", ["POLUSD", "POL/USD"])
def test_a_pair_has_the_predecessors_of_its_base_with_its_own_quote(name: str) -> None:
    (rename,) = predecessors(name)
    assert (rename.before, rename.after, rename.moment, rename.ratio) == ("MATICUSD", "POLUSD", None, 1.0)
    assert successor("MATICUSD") == rename
    assert [found.before for found in predecessors("POLXBT")] == ["MATICXBT"]


@pytest.mark.parametrize("name", ["XBTUSD", "BTCUSD", "MATICUSD", "LUNA2USD", "LUNAUSD", "LTCXBT"])
def test_what_was_never_renamed_has_no_predecessor(name: str) -> None:
    assert predecessors(name) == ()


def test_predecessors_are_followed_to_the_first_name_and_a_circle_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("AAA", "BBB", "known"), ("BBB", "CCC", "known"), ("DDD", "EEE", "known"), ("EEE", "DDD", "known")]
    events = known_events(written(tmp_path, *rows))
    monkeypatch.setattr("kraken_pipeline.market.pair_history.known_events", lambda: events)
    assert [rename.before for rename in predecessors("CCCEUR")] == ["BBBEUR", "AAAEUR"]
    assert [rename.before for rename in predecessors("DDDEUR")] == ["EEEEUR", "DDDEUR"]


def test_what_is_no_pair_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        predecessors("../x")


def test_the_events_of_a_pair_are_its_own_and_those_of_its_base() -> None:
    def told(base: str, quote: str) -> list[tuple[EventKind, str, str]]:
        return [(event.kind, event.before, event.after) for event in events_of(Pair(base + quote, base, quote))]

    assert told("MATIC", "USD") == [(EventKind.RENAME, "MATIC", "POL"), (EventKind.LISTING, "", "MATICUSD")]
    assert told("TRIBE", "EUR") == [(EventKind.DELISTING, "TRIBEEUR", "")]
    assert told("XBT", "LTC") == [(EventKind.ALIAS, "XBT", "BTC"), (EventKind.REVERSAL, "XBTLTC", "LTCXBT")]
    assert told("LTC", "XBT") == [(EventKind.REVERSAL, "XBTLTC", "LTCXBT")]
    assert told("LUNA", "USD") == [(EventKind.ALIAS, "LUNA", "LUNC")], "not that LUNA2 is called LUNA elsewhere"
    assert told("ADA", "USD") == []


def test_a_rename_says_where_it_is_known_from() -> None:
    (rename,) = predecessors("REPV2EUR")
    assert isinstance(rename, Rename)
    assert "https://" in rename.source
