from __future__ import annotations

import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.kraken.incidents import Incident, IncidentKind
from kraken_pipeline.storage.catalog.schema import incidents
from kraken_pipeline.storage.exchange_state.incident_records import down_times, incidents_of, is_news, record_reported
from kraken_pipeline.storage.stores import Stores

HOUR = 3_600
NOW = 1_000 * HOUR


def maintenance(start: int, end: int, *, stops: bool = True) -> Incident:
    return Incident("maintenance 21", IncidentKind.MAINTENANCE, "upgrade", start, end, False, stops)


def status(now: int, word: str = "maintenance") -> Incident:
    return Incident(f"status {word} {now}", IncidentKind.STATUS, f"the status {word}", now, now, True, True)


def emergency(start: int, now: int) -> Incident:
    return Incident("emergency 7", IncidentKind.EMERGENCY, "halted", start, now, True, True)


def told(stores: Stores, now: int, *said: Incident) -> list[Incident]:
    """What is on record after a status has told this."""
    with stores.catalog.write() as connection:
        record_reported(connection, said, now)
        return incidents_of(connection)


def down(stores: Stores) -> tuple[Span, ...]:
    with stores.catalog.read() as connection:
        return down_times(connection)


def test_a_window_stays_in_the_calendar_once_it_has_begun(stores: Stores) -> None:
    window = maintenance(NOW + HOUR, NOW + 2 * HOUR)
    told(stores, NOW, window)
    assert told(stores, NOW + HOUR + 60) == [window], "it is announced no more once it has begun"
    assert down(stores) == (Span(NOW + HOUR, NOW + 2 * HOUR),)


def test_a_window_that_moves_or_is_called_off_before_it_begins_is_what_was_said_last(stores: Stores) -> None:
    told(stores, NOW, maintenance(NOW + HOUR, NOW + 2 * HOUR))
    moved = maintenance(NOW + 3 * HOUR, NOW + 4 * HOUR)
    assert told(stores, NOW + 60, moved) == [moved]
    assert told(stores, NOW + 120) == []


def test_what_does_not_stop_trading_is_no_time_in_which_the_exchange_was_down(stores: Stores) -> None:
    told(stores, NOW, maintenance(NOW + HOUR, NOW + 2 * HOUR, stops=False))
    assert down(stores) == ()


def test_an_emergency_ends_when_it_is_told_no_more(stores: Stores) -> None:
    told(stores, NOW, emergency(NOW - 60, NOW))
    (going_on,) = told(stores, NOW + 600, emergency(NOW + 300, NOW + 600))
    assert (going_on.start, going_on.end, going_on.is_open) == (NOW - 60, NOW + 600, True)
    (over,) = told(stores, NOW + 900)
    assert (over.start, over.end, over.is_open) == (NOW - 60, NOW + 900, False)
    assert down(stores) == (Span(NOW - 60, NOW + 900),)


def test_a_status_goes_on_until_another_is_told_and_may_come_again(stores: Stores) -> None:
    for now in (NOW, NOW + 60, NOW + 120):
        told(stores, now, status(now))
    told(stores, NOW + 180)
    told(stores, NOW + 240, status(NOW + 240, "post_only"))
    assert [(each.title, each.start, each.end, each.is_open) for each in told(stores, NOW + 300)] == [
        ("the status maintenance", NOW, NOW + 180, False),
        ("the status post_only", NOW + 240, NOW + 300, False),
    ]


def test_what_nobody_asked_about_for_long_is_not_taken_to_have_gone_on(stores: Stores) -> None:
    told(stores, NOW, status(NOW))
    (over,) = told(stores, NOW + 40 * HOUR)
    assert (over.end, over.is_open) == (NOW, False)


def test_only_news_are_worth_a_write(stores: Stores) -> None:
    with stores.catalog.read() as connection:
        assert not is_news(connection, [], NOW)
        assert is_news(connection, [status(NOW)], NOW)
    told(stores, NOW, status(NOW))
    with stores.catalog.read() as connection:
        assert is_news(connection, [], NOW + 60), "it is over"
    told(stores, NOW + 60)
    with stores.catalog.read() as connection:
        assert not is_news(connection, [], NOW + 120)


def test_a_damaged_record_says_nothing(stores: Stores) -> None:
    told(stores, NOW, maintenance(NOW + HOUR, NOW + 2 * HOUR))
    with stores.catalog.write() as connection:
        connection.execute(sa.update(incidents).values(end=NOW + 900 * HOUR))
    assert down(stores) == ()
