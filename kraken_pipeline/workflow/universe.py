"""The pairs of a day, or of all time, with when each was listed and how that is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.coverage.universe import DAY, CandleEnds, ListedPair, PairEvidence, changes_by_pair, listed_pair
from kraken_pipeline.market.candle import TIME, time_from_seconds
from kraken_pipeline.market.listed_state import PairChange
from kraken_pipeline.market.moment import iso, parse_moment
from kraken_pipeline.market.pair import Pair, parse_pair
from kraken_pipeline.market.pair_history import EventKind, events_of, known_events
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.exchange_state import listings, pair_list_records
from kraken_pipeline.storage.exchange_state.listings import ListingRecord
from kraken_pipeline.storage.records import evidence_records
from kraken_pipeline.storage.stores import Stores, opened

_SCHEMA = pl.Schema(
    {
        "pair": pl.String(),
        "base": pl.String(),
        "quote": pl.String(),
        "status": pl.String(),
        "listed_from": TIME,
        "listed_until": TIME,
        "from_evidence": pl.String(),
        "until_evidence": pl.String(),
        "notes": pl.String(),
    }
)
_TIMES = ("listed_from", "listed_until")


def pairs(at: str | date | int | None = None, *, settings: Settings | None = None) -> pl.DataFrame:
    """Return the pairs that were listed on a day, or all that are known.

    A pair counts as listed from the first to the last time that something proves: a list of pairs that the exchange
    sent, its first trade, a candle, or the table of the known past that comes with the project. The columns say what.

    Args:
        at: The day: an ISO date or time, a date, a datetime, or seconds since the epoch, in UTC. All days by default.
        settings: The settings; those from the environment by default.

    Returns:
        One row for each pair, sorted by name: `pair`, `base`, `quote`, `status` (the exchange's word, such as online or
        cancel_only; `absent` from its newest list; `delisted`; or `unknown`), `listed_from`, `listed_until`
        (datetime[us, UTC]; null while it is listed), `from_evidence`, `until_evidence`, `notes` (its other names).

    Raises:
        InvalidRequest: `at` is not a time.
    """
    with opened(settings or load_settings()) as stores:
        rows = [_row(listed) for listed in universe(stores, None if at is None else _day(at))]
    seconds = pl.Schema({**_SCHEMA, **dict.fromkeys(_TIMES, pl.Int64())})
    frame = pl.DataFrame(rows, schema=seconds, orient="row")
    return frame.with_columns(time_from_seconds(pl.col(name)) for name in _TIMES)


def universe(stores: Stores, day: Span | None = None) -> list[ListedPair]:
    """Return the pairs that were listed on a day, or all that are known, sorted by name."""
    with stores.catalog.read() as connection:
        lists = pair_list_records.lists_of(connection)
        changes = changes_by_pair(pair_list_records.changes_of(connection))
        extents = evidence_records.extents(connection)
        known = listings.listings_of(connection)
    candles: dict[str, list[CandleEnds]] = {}
    for series, extent in extents.items():
        if extent.candles:
            ends = CandleEnds(series.interval, extent.first_time, extent.last_time)
            candles.setdefault(series.pair, []).append(ends)
    found = []
    for pair in _named(stores.lake.asset_ids.pairs(), changes, known):
        listing = known.get(pair.name, ListingRecord(None, None))
        evidence = PairEvidence(
            pair,
            candles.get(pair.name, ()),
            listing.first_trade,
            listing.delisted_at,
            changes.get(pair.name, ()),
            events_of(pair),
        )
        found.append(listed_pair(evidence, lists, day))
    return found if day is None else [listed for listed in found if listed.is_listed_on(day)]


def as_json(listed: ListedPair) -> dict[str, str | int | None]:
    """Return a listing as a JSON object."""
    values = dict(zip(_SCHEMA, _row(listed), strict=True))
    return {name: iso(value) if name in _TIMES and value is not None else value for name, value in values.items()}


def day_of(moment: int) -> Span:
    """Return the day in UTC that contains a moment."""
    start = moment // DAY * DAY
    return Span(start, start + DAY)


def _day(at: str | date | int) -> Span:
    if isinstance(at, str):
        return day_of(parse_moment(at))
    if isinstance(at, datetime):
        return day_of(int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()))
    if isinstance(at, date):
        return day_of(parse_moment(at.isoformat()))
    return day_of(at)


def _named(
    stored: Iterable[Pair], changes: Mapping[str, list[PairChange]], known: Mapping[str, ListingRecord]
) -> list[Pair]:
    """Return every pair that was ever stored, listed or named by the known past, with the best known base and quote."""
    found = {name: parse_pair(name) for name in known}
    for event in known_events():
        reversed_ = event.kind is EventKind.REVERSAL
        if event.kind in (EventKind.LISTING, EventKind.DELISTING) or reversed_:
            for name in filter(None, (event.before, event.after)):
                found[name] = parse_pair(name)
        if reversed_:  # the name of the later pair reveals both assets, as its quote is one
            later = parse_pair(event.after)
            found[event.before] = Pair(event.before, later.quote, later.base)
    found |= {pair.name: pair for pair in stored if pair.quote or pair.name not in found}
    for name, states in changes.items():
        state = next(change.after or change.before for change in reversed(states))
        if state is not None:
            found[name] = Pair(name, state.base, state.quote)
    return [found[name] for name in sorted(found)]


def _row(listed: ListedPair) -> tuple[Any, ...]:
    pair = listed.pair
    return (
        pair.name,
        pair.base,
        pair.quote,
        listed.status,
        listed.listed_from,
        listed.listed_until,
        listed.from_evidence,
        listed.until_evidence,
        listed.notes,
    )
