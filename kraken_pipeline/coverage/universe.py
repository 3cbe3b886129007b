"""The universe of pairs: when each pair was listed, as far as lists, candles and the known past prove it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.listed_state import ListedState, PairChange, PairList
from kraken_pipeline.market.moment import iso, short
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.market.pair_history import EventKind, KnownEvent

DAY = 86_400
ABSENT, DELISTED, UNKNOWN = "absent", "delisted", "unknown"
"""The states of a pair beside the exchange's own words: absent from the newest list, which a list a day later has to
confirm; absent for a day or more; in no list that is on record."""
NOTHING = "nothing"
"""The evidence where nothing proves a time."""


@dataclass(frozen=True, slots=True)
class CandleEnds:
    """The first and the last candle of a pair at one interval.

    Attributes:
        interval: The interval.
        first: The start of the first candle, in seconds since the epoch.
        last: The start of the last candle, in seconds since the epoch.
    """

    interval: Interval
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class PairEvidence:
    """Everything that is known of the listing of one pair.

    Attributes:
        pair: The pair.
        candles: The ends of its candles, by interval.
        first_trade: The start of the minute of its first trade, as the exchange reported it; None if unknown.
        delisted_at: The time when it was found to be delisted; None if it was not.
        changes: What the lists of pairs said of it, in order of time.
        events: The events of the known past.
    """

    pair: Pair
    candles: Sequence[CandleEnds] = ()
    first_trade: int | None = None
    delisted_at: int | None = None
    changes: Sequence[PairChange] = ()
    events: Sequence[KnownEvent] = ()


@dataclass(frozen=True, slots=True)
class ListedPair:
    """The listing of one pair. Times are in seconds since the epoch.

    Attributes:
        pair: The pair.
        status: The exchange's word for the state of trading, or `absent`, `delisted` or `unknown`.
        listed_from: The earliest time for which it is proven to be listed; None if nothing proves any.
        listed_until: The latest time for which it is proven to be listed; None while the newest list has it.
        from_evidence: What proves `listed_from`.
        until_evidence: What proves `listed_until`.
        notes: Its other names: renames, reversals, and how lists and other places call it.
        absences: The times between two lists with the pair in which lists lacked it.
    """

    pair: Pair
    status: str
    listed_from: int | None
    listed_until: int | None
    from_evidence: str
    until_evidence: str
    notes: str
    absences: tuple[Span, ...] = ()

    def is_listed_on(self, day: Span) -> bool:
        """Return whether it is proven to be listed at some time of a day."""
        first = self.listed_until if self.listed_from is None else self.listed_from
        if first is None or first >= day.end:
            return False
        is_over = self.listed_until is not None and max(self.listed_until - 1, first) < day.start
        is_absent = any(absence.start < day.start and day.end <= absence.end for absence in self.absences)
        return not is_over and not is_absent


@dataclass(frozen=True, slots=True)
class _Proof:
    """A time at which a pair was listed, known to lie within a span, and what proves it."""

    time: int
    within: Span
    text: str


def listed_pair(evidence: PairEvidence, lists: Sequence[PairList], day: Span | None = None) -> ListedPair:
    """Return the listing of a pair, as its evidence proves it.

    Args:
        evidence: What is known of the pair.
        lists: The lists of pairs that differed from the one before them, in order of time.
        day: The day whose status is wanted; None for the newest one.
    """
    is_in_newest = bool(evidence.changes) and evidence.changes[-1].after is not None
    first = _first(evidence)
    status = _status(evidence, lists, day)
    last = None if is_in_newest else _last(evidence, lists, first)
    until_evidence = NOTHING if last is None else last.text
    return ListedPair(
        pair=evidence.pair,
        status=status,
        listed_from=None if first is None else first.time,
        listed_until=None if last is None else last.time,
        from_evidence=NOTHING if first is None else first.text,
        until_evidence=f"in the list of {iso(_newest(lists))}" if is_in_newest else until_evidence,
        notes="; ".join(_notes(evidence)),
        absences=tuple(_absences(evidence.changes, lists)),
    )


def _first(evidence: PairEvidence) -> _Proof | None:
    """Return the earliest proof; a proof within the first candle is more exact than the candle."""
    exact = [*_table_proofs(evidence, is_begin=True)]
    if evidence.first_trade is not None:
        exact.append(_exact(evidence.first_trade, "first trade, by the exchange"))
    exact += [
        _exact(change.listed_at, f"in the list of {iso(change.listed_at)}")
        for change in evidence.changes
        if change.after is not None
    ][:1]
    earliest = min(exact, key=lambda proof: proof.time, default=None)
    candle = min(
        (
            _Proof(ends.first, _candle(ends, ends.first), f"first candle stored ({ends.interval.value} min)")
            for ends in evidence.candles
        ),
        key=lambda proof: (proof.within.end, -proof.within.start),
        default=None,
    )
    if candle is None or (earliest is not None and earliest.time < candle.within.end):
        return earliest
    return candle


def _last(evidence: PairEvidence, lists: Sequence[PairList], first: _Proof | None) -> _Proof | None:
    """Return the latest proof for a pair that the newest list lacks, or of which no list is on record."""
    gone = evidence.changes[-1].listed_at if evidence.changes else evidence.delisted_at
    lacking = f"; the list of {iso(gone)} lacks it" if gone is not None else ""
    candle = max(
        (
            _Proof(
                _candle(ends, ends.last).end,
                _candle(ends, ends.last),
                f"last candle stored ({ends.interval.value} min)",
            )
            for ends in evidence.candles
        ),
        key=lambda proof: (proof.within.start, -proof.within.end),
        default=None,
    )
    proofs = [proof for proof in (candle, first) if proof is not None]
    if evidence.changes:
        seen_at = _seen_before(lists, evidence.changes[-1].listed_at)
        proofs.append(_exact(seen_at, f"in the list of {iso(seen_at)}"))
    for known in _table_proofs(evidence, is_begin=False):
        if all(proof.within.start < known.time for proof in proofs):
            return known
    if not proofs:
        return None
    last = max(proofs, key=lambda proof: proof.time)
    return _Proof(last.time, last.within, last.text + lacking)


def _table_proofs(evidence: PairEvidence, *, is_begin: bool) -> Iterable[_Proof]:
    """Yield the dated events of the known past that begin, or end, the listing."""
    name = evidence.pair.name
    begins = (EventKind.LISTING, EventKind.REVERSAL)
    ends = (EventKind.DELISTING, EventKind.REVERSAL)
    for event in evidence.events:
        concerns = event.after == name if is_begin else event.before == name
        if event.kind in (begins if is_begin else ends) and concerns and event.moment is not None:
            yield _exact(event.moment, f"known past: {event.kind}, {event.source}")


def _exact(time: int, text: str) -> _Proof:
    return _Proof(time, Span(time, time + 1), text)


def _candle(ends: CandleEnds, start: int) -> Span:
    return Span(start, start + ends.interval.seconds)


def _newest(lists: Sequence[PairList]) -> int:
    """Return when the exchange sent the newest list on record; 0 if there is none."""
    return max((one.seen_at for one in lists), default=0)


def _seen_before(lists: Sequence[PairList], moment: int) -> int:
    """Return when the list before that of a moment was last seen; the moment itself if no such list is on record."""
    return max((one.seen_at for one in lists if one.listed_at < moment), default=moment)


def _status(evidence: PairEvidence, lists: Sequence[PairList], day: Span | None) -> str:
    """Return the state at the end of a day: that of the newest list before it."""
    changes = [change for change in evidence.changes if day is None or change.listed_at < day.end]
    if changes and (state := changes[-1].after) is not None:
        return state.status
    if not changes:
        ends = [proof.time for proof in _table_proofs(evidence, is_begin=False)]
        ends += [] if evidence.delisted_at is None else [evidence.delisted_at]
        return DELISTED if any(day is None or end < day.end for end in ends) else UNKNOWN
    newest = _newest(lists)
    known_at = newest if day is None else min(newest, day.end)
    return DELISTED if known_at - changes[-1].listed_at >= DAY or evidence.delisted_at is not None else ABSENT


def _absences(changes: Sequence[PairChange], lists: Sequence[PairList]) -> Iterable[Span]:
    """Yield the times between two lists with a pair, in which lists lacked it."""
    gone: int | None = None
    for change in changes:
        if change.after is None:
            gone = _seen_before(lists, change.listed_at)
        elif gone is not None:
            yield Span(gone, change.listed_at)
            gone = None


def _notes(evidence: PairEvidence) -> Iterable[str]:
    """Yield what is known of the pair's names."""
    pair = evidence.pair
    for event in evidence.events:
        if event.kind is EventKind.RENAME:
            yield f"{event.before}{pair.quote} became {event.after}{pair.quote} ({event.date})"
        elif event.kind is EventKind.REVERSAL:
            yield f"{event.before} was reversed to {event.after} ({event.date})"
        elif event.kind is EventKind.ALIAS:
            yield f"{event.before} is called {event.after} elsewhere"
    for before, change in zip(evidence.changes, evidence.changes[1:], strict=False):
        if before.after is not None and change.after is not None:
            yield from _renamed(before.after, change.after, change.listed_at)


def _renamed(before: ListedState, after: ListedState, moment: int) -> Iterable[str]:
    for word in ("key", "altname", "wsname"):
        if getattr(before, word) != getattr(after, word):
            yield f"{word} {getattr(before, word)} became {getattr(after, word)} in the list of {short(moment)}"


def changes_by_pair(changes: Iterable[PairChange]) -> Mapping[str, list[PairChange]]:
    """Return changes by pair, in their order."""
    found: dict[str, list[PairChange]] = {}
    for change in changes:
        found.setdefault(change.pair, []).append(change)
    return found
