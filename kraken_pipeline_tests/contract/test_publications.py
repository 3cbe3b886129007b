from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.ranges import Span, normalise
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.database import Catalog, open_catalog
from kraken_pipeline.storage.records import publications
from kraken_pipeline.storage.records.publications import Backlog, Publication
from kraken_pipeline_tests.contract.conftest import Backend
from kraken_pipeline_tests.support.homes import spans

HOURS = Series("XBTUSD", Interval.H1)
DAYS = Series("XBTUSD", Interval.D1)
OTHER = Series("ADAEUR", Interval.H1)


@pytest.fixture(scope="module")
def catalog(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    with backend.migrated(tmp_path_factory.mktemp("outbox")) as url, closing(open_catalog(url)) as found:
        yield found


@pytest.fixture(autouse=True)
def _empty(catalog: Catalog) -> None:
    clear(catalog)


def clear(catalog: Catalog) -> None:
    with catalog.write() as connection:
        connection.execute(sa.delete(schema.publications))


def owe(catalog: Catalog, *changes: tuple[Series, Span], now: int = 7) -> None:
    with catalog.write() as connection:
        publications.enqueue(connection, changes, now)


def owed(catalog: Catalog, series: Series = HOURS) -> list[Publication]:
    with catalog.read() as connection:
        return publications.pending(connection, series.interval).get(series, [])


def owed_spans(catalog: Catalog, series: Series = HOURS) -> list[Span]:
    return [each.span for each in owed(catalog, series)]


def ids_of(catalog: Catalog, *series: Series) -> list[int]:
    return [each.id for one in series or (HOURS,) for each in owed(catalog, one)]


def deliver(catalog: Catalog, ids: list[int], until: int) -> None:
    with catalog.write() as connection:
        publications.deliver(connection, ids, until)


# --- owing


def test_what_changed_is_owed_by_series_and_in_order_of_time(catalog: Catalog) -> None:
    owe(catalog)
    owe(catalog, (HOURS, Span(30, 40)), (DAYS, Span(5, 20)), (HOURS, Span(0, 10)), (OTHER, Span(1, 2)))
    with catalog.read() as connection:
        found = publications.pending(connection, Interval.H1)
        assert publications.pending(connection, Interval.M1) == {}
        assert set(publications.pending(connection, Interval.H1, [OTHER, DAYS])) == {OTHER}
        assert publications.pending(connection, Interval.H1, []) == {}
    assert list(found) == [OTHER, HOURS]
    assert [(each.series, each.span, each.made_at) for each in found[HOURS]] == [
        (HOURS, Span(0, 10), 7),
        (HOURS, Span(30, 40), 7),
    ]
    assert owed_spans(catalog, DAYS) == [Span(5, 20)]


def test_what_touches_a_range_that_is_owed_takes_its_place_under_a_new_id(catalog: Catalog) -> None:
    owe(catalog, (HOURS, Span(0, 10)), (HOURS, Span(30, 40)), (DAYS, Span(0, 10)), now=7)
    before = ids_of(catalog)
    owe(catalog, (HOURS, Span(10, 20)), now=9)
    hours, rest = owed(catalog)
    assert (hours.span, hours.made_at) == (Span(0, 20), 7), "as old as the oldest of them"
    assert (rest.span, rest.made_at) == (Span(30, 40), 7)
    assert hours.id not in before, "whoever publishes the old one deletes nothing of this"
    assert rest.id in before
    owe(catalog, (HOURS, Span(15, 35)), now=11)
    assert owed_spans(catalog) == [Span(0, 40)]
    assert owed_spans(catalog, DAYS) == [Span(0, 10)]


def test_ranges_that_touch_become_one_whatever_their_order(catalog: Catalog) -> None:
    for change in (Span(20, 30), Span(0, 10), Span(40, 50), Span(30, 40), Span(10, 20)):
        owe(catalog, (HOURS, change))
    assert tuple(owed_spans(catalog)) == spans((0, 50))


def test_an_id_is_never_given_again_even_if_it_was_the_only_one(catalog: Catalog) -> None:
    seen: set[int] = set()
    for _ in range(5):
        owe(catalog, (HOURS, Span(0, 10)))
        (id_,) = ids_of(catalog)
        assert id_ not in seen
        seen.add(id_)
    deliver(catalog, [id_], 10)
    owe(catalog, (HOURS, Span(0, 10)))
    assert not seen & set(ids_of(catalog))


def test_the_backlog_is_how_many_ranges_and_since_when(catalog: Catalog) -> None:
    def backlog() -> Backlog:
        with catalog.read() as connection:
            return publications.backlog(connection)

    assert backlog() == Backlog(0, None)
    owe(catalog, (HOURS, Span(0, 10)), now=9)
    owe(catalog, (DAYS, Span(0, 10)), (OTHER, Span(0, 10)), now=5)
    assert backlog() == Backlog(3, 5)
    deliver(catalog, ids_of(catalog, DAYS, OTHER), 10)
    assert backlog() == Backlog(1, 9)


# --- delivering


def test_what_lies_before_a_moment_is_trimmed_away(catalog: Catalog) -> None:
    owe(catalog, (HOURS, Span(0, 10)), (HOURS, Span(20, 30)), (HOURS, Span(40, 50)), (OTHER, Span(0, 100)))
    ids = ids_of(catalog)
    deliver(catalog, ids, 0)
    assert owed_spans(catalog) == [Span(0, 10), Span(20, 30), Span(40, 50)]
    deliver(catalog, ids, 9)
    assert owed_spans(catalog) == [Span(9, 10), Span(20, 30), Span(40, 50)]
    deliver(catalog, ids, 10)
    assert owed_spans(catalog) == [Span(20, 30), Span(40, 50)]
    deliver(catalog, ids, 45)
    assert owed_spans(catalog) == [Span(45, 50)]
    assert ids_of(catalog) == ids[-1:], "a range that is trimmed is still the same one"
    deliver(catalog, ids, 1_000)
    assert owed_spans(catalog) == []
    assert owed_spans(catalog, OTHER) == [Span(0, 100)], "nobody said that it was delivered"


def test_nothing_is_delivered_by_no_ids(catalog: Catalog) -> None:
    owe(catalog, (HOURS, Span(0, 10)))
    deliver(catalog, [], 100)
    assert owed_spans(catalog) == [Span(0, 10)]


def test_as_many_ids_as_a_rebuild_has_are_delivered(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publications, "_IDS", 7)
    owe(catalog, *((HOURS, Span(10 * number, 10 * number + 5)) for number in range(30)))
    deliver(catalog, ids_of(catalog), 152)
    assert owed_spans(catalog) == [Span(152, 155), *(Span(10 * number, 10 * number + 5) for number in range(16, 30))]


@pytest.mark.parametrize("change", [Span(2, 4), Span(0, 10), Span(10, 12), Span(-5, 20)])
def test_what_changes_between_reading_and_delivering_stays_owed_whole(catalog: Catalog, change: Span) -> None:
    owe(catalog, (HOURS, Span(0, 10)))
    ids = ids_of(catalog)
    owe(catalog, (HOURS, change))
    deliver(catalog, ids, 1_000)
    assert normalise(owed_spans(catalog)) == normalise([Span(0, 10), change])


def test_what_changes_after_it_was_delivered_and_before_the_rest_is_stays_owed(catalog: Catalog) -> None:
    owe(catalog, (OTHER, Span(0, 100)), (HOURS, Span(0, 10)))
    ids = ids_of(catalog, OTHER, HOURS)
    deliver(catalog, ids, 10)
    owe(catalog, (HOURS, Span(2, 4)))
    deliver(catalog, ids, 100)
    assert (owed_spans(catalog), owed_spans(catalog, OTHER)) == ([Span(2, 4)], [])


def test_what_changes_in_a_range_that_was_trimmed_stays_owed_with_what_is_left_of_it(catalog: Catalog) -> None:
    owe(catalog, (HOURS, Span(0, 100)))
    ids = ids_of(catalog)
    deliver(catalog, ids, 50)
    owe(catalog, (HOURS, Span(10, 20)))
    assert owed_spans(catalog) == [Span(10, 20), Span(50, 100)]
    owe(catalog, (HOURS, Span(60, 61)))
    deliver(catalog, ids, 100)
    assert owed_spans(catalog) == [Span(10, 20), Span(50, 100)]


# --- any interleaving

SECONDS = 40
SPANS = st.tuples(st.integers(0, SECONDS - 1), st.integers(1, 12)).map(lambda pair: Span(pair[0], pair[0] + pair[1]))
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("owe"), st.sampled_from([HOURS, OTHER, DAYS]), SPANS),
        st.tuples(st.just("read"), st.sampled_from([Interval.H1, Interval.D1]), st.none()),
        st.tuples(st.just("deliver"), st.sampled_from([Interval.H1, Interval.D1]), st.integers(1, SECONDS + 12)),
    ),
    max_size=25,
)


@given(EVENTS)
def test_nothing_that_changed_after_it_was_read_is_lost(
    catalog: Catalog, events: list[tuple[str, Series | Interval, Span | int | None]]
) -> None:
    """A publisher a table, and writers; moments count the events."""
    clear(catalog)
    changed: dict[tuple[Series, int], int] = {}  # (series, second) → the event that changed it last; until delivered
    read: dict[Interval, tuple[int, list[int]]] = {}
    for moment, (name, subject, value) in enumerate(events):
        if name == "owe":
            assert isinstance(subject, Series)
            assert isinstance(value, Span)
            owe(catalog, (subject, value))
            changed |= {(subject, second): moment for second in range(value.start, value.end)}
        elif name == "read":
            assert isinstance(subject, Interval)
            table = [HOURS, OTHER] if subject is Interval.H1 else [DAYS]
            read[subject] = moment, ids_of(catalog, *table)
        elif isinstance(subject, Interval) and subject in read:
            assert isinstance(value, int)
            since, ids = read[subject]
            was_alone = all(when < since for (series, _), when in changed.items() if series.interval is subject)
            deliver(catalog, ids, value)
            changed = {
                key: when
                for key, when in changed.items()
                if key[0].interval is not subject or key[1] >= value or when > since
            }
            if was_alone:
                assert owed_seconds(catalog, subject) == {key for key in changed if key[0].interval is subject}
    assert owed_seconds(catalog, Interval.H1) | owed_seconds(catalog, Interval.D1) >= set(changed)


def owed_seconds(catalog: Catalog, interval: Interval) -> set[tuple[Series, int]]:
    with catalog.read() as connection:
        found = publications.pending(connection, interval)
    return {
        (series, second)
        for series, ranges in found.items()
        for each in ranges
        for second in range(each.span.start, each.span.end)
    }


# --- writers and publishers at the same time


class Rehearsal:
    """What a writer and a publisher do, with values of a dictionary for the lake's files and for QuestDB's rows."""

    def __init__(self, catalog: Catalog, *series: Series) -> None:
        self.catalog = catalog
        self.lake = {(each, second): 0 for each in series for second in range(100)}
        self.there = dict(self.lake)
        self.writing = {each: threading.Lock() for each in series}
        self.publishing = threading.Lock()
        self.has_ended = threading.Event()

    def write(self, series: Series) -> None:
        for number in range(1, 31):
            start = number * 37 % 90
            with self.writing[series]:
                owe(self.catalog, (series, Span(start, start + 10)))
                self.lake |= {(series, second): number for second in range(start, start + 10)}

    def publish(self) -> None:
        with self.publishing:
            with self.catalog.read() as connection:
                found = publications.pending(connection, Interval.H1)
            for series in found:
                with self.writing[series]:
                    pass
            every = [each for ranges in found.values() for each in ranges]
            at = 0
            for until in (30, 60, 100):
                for each in every:
                    for second in range(max(each.span.start, at), min(each.span.end, until)):
                        self.there[each.series, second] = self.lake[each.series, second]
                deliver(self.catalog, [each.id for each in every], until)
                at = until

    def keep_publishing(self) -> None:
        while not self.has_ended.is_set():
            self.publish()


def test_writers_and_publishers_at_work_at_once_leave_nothing_behind(catalog: Catalog) -> None:
    both = Rehearsal(catalog, HOURS, OTHER)
    with ThreadPoolExecutor(4) as beside:
        publishers = [beside.submit(both.keep_publishing) for _ in range(2)]
        try:
            for writer in [beside.submit(both.write, series) for series in (HOURS, OTHER)]:
                writer.result()
        finally:
            both.has_ended.set()
        for publisher in publishers:
            publisher.result()
    both.publish()
    assert both.there == both.lake
    assert (owed(catalog), owed(catalog, OTHER)) == ([], [])
