"""Publishing: QuestDB gets what the outbox owes it, in order of time across pairs.

Each pair by itself would make QuestDB rewrite the same partitions again and again: measured 257,000 rows a second for
the first ten pairs falling to 140,000 at sixty, against 500,000 to 650,000, flat, in order of time. So all series of a
table are read in windows of time, a few hundred thousand rows each: that is what bounds the memory.

What QuestDB has applied before it goes away is not owed any more, all else is. Nothing here stops a run: what cannot be
delivered now is delivered by the next one, or by the sensor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import polars as pl

from kraken_pipeline.coverage.ranges import Span, Spans, intersect, normalise
from kraken_pipeline.errors import Busy, PipelineError, StoreUnavailable
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.questdb.client import QuestDB, open_questdb
from kraken_pipeline.storage.questdb.tables import TABLES, checksum, wrapped
from kraken_pipeline.storage.questdb.values import ROW_SCHEMA, RangeDigest, Receipt
from kraken_pipeline.storage.records import deliveries, publications
from kraken_pipeline.storage.records.damage import REPAIR
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.progress import RunContext

ROWS_OF_A_PAIR = 1_000
"""A window is so long that it holds about as many rows of each pair: a read costs a millisecond, however short."""
_EVER = Span(-(1 << 62), 1 << 62)
_DENSEST = 4
"""A window holds at most so many times the rows that are asked for: as many as there would be without quiet time."""


@dataclass(frozen=True, slots=True)
class Published:
    """What was delivered of one series.

    Attributes:
        series: Which.
        candles: How many were sent.
        spans: Where they lie.
    """

    series: Series
    candles: int
    spans: Spans


@dataclass(frozen=True, slots=True)
class PublishOutcome:
    """What publishing did.

    Attributes:
        series: What was delivered, and is applied.
        failed: What was not, with the reason.
        owed: How many ranges are owed after it.
    """

    series: tuple[Published, ...] = ()
    failed: tuple[str, ...] = ()
    owed: int = 0

    @property
    def candles(self) -> int:
        """How many were delivered."""
        return sum(each.candles for each in self.series)


@dataclass(frozen=True, slots=True)
class Difference:
    """A series of which QuestDB does not hold what the lake holds.

    Attributes:
        series: Which.
        lake: What the lake has; None where it has nothing.
        questdb: What QuestDB has; None where it has nothing.
        is_owed: Whether the outbox knows of it.
        is_damaged: Whether a file of it in the lake is damaged, so that nobody can say what it should be.
    """

    series: Series
    lake: RangeDigest | None
    questdb: RangeDigest | None
    is_owed: bool
    is_damaged: bool = False

    def __str__(self) -> str:
        if self.is_damaged:
            return f"{self.series}: a file of the lake is damaged, and QuestDB's copy is not verified: {REPAIR}"
        owed = ", and the rest is owed" if self.is_owed else ""
        return f"{self.series}: the lake has {self.lake or 'nothing'}, QuestDB {self.questdb or 'nothing'}{owed}"


def publish(stores: Stores, run: RunContext, series: Collection[Series] | None = None) -> PublishOutcome:
    """Delivers what is owed, as far as QuestDB lets it.

    Args:
        stores: Where from.
        run: Who does it; told of every window.
        series: Only of these; of all where it is None.

    Raises:
        InvalidRequest: QuestDB is off.
    """
    done: dict[Series, Published] = {}
    failed: list[str] = []
    with open_questdb(stores.settings) as questdb:
        for interval in Interval:
            with stores.catalog.read() as connection:
                if not publications.owed(connection, interval, series):
                    continue
            try:
                with stores.locks.table(TABLES[interval]) as is_held:
                    questdb.prepare([interval])  # a rebuild may just have dropped it
                    _publish_table(stores, questdb, interval, series, run, is_held, done, failed)
            except StoreUnavailable as error:
                failed.append(f"{error}: what is owed stays owed")
                break
            except PipelineError as error:
                failed.append(f"{TABLES[interval]}: {error}")
    with stores.catalog.read() as connection:
        left = publications.backlog(connection).count
    return PublishOutcome(tuple(done[each] for each in sorted(done)), tuple(failed), left)


def deliver(stores: Stores, run: RunContext) -> PublishOutcome:
    """Delivers what is owed at the end of a run, where there is a QuestDB; what fails is told and stays owed."""
    return publish(stores, run) if stores.settings.has_questdb else PublishOutcome()


def _publish_table(
    stores: Stores,
    questdb: QuestDB,
    interval: Interval,
    series: Collection[Series] | None,
    run: RunContext,
    is_held: Callable[[], bool],
    done: dict[Series, Published],
    failed: list[str],
) -> None:
    """Delivers what is owed of one interval; its lock is held from reading to applied.

    A lock that is lost on the way, with the connection to the catalog's server, may be another's by now, who has
    published newer candles and settled them. Then what was sent here may be older, and is owed once more.
    """
    with stores.catalog.read() as connection:
        owed = publications.owed(connection, interval, series)
    owed = {each: owed[each] for each in owed if _is_settled(stores, each, failed) and _is_sound(stores, each, failed)}
    ids = [publication.id for found in owed.values() for publication in found]
    spans = {each: normalise(publication.span for publication in found) for each, found in owed.items()}
    rows = _Rows(stores, interval, spans)

    settled = _EVER.start

    def confirm(window: _Window, receipt: Receipt) -> None:
        nonlocal settled
        questdb.wait_until_applied(receipt)
        if not is_held():
            raise StoreUnavailable(
                f"the lock of {TABLES[interval]} was lost with the connection to the catalog's server"
            )
        with stores.catalog.write() as connection:
            publications.deliver(connection, ids, window.span.end)
        settled = window.span.end
        for each, candles in window.candles.items():
            before = done.get(each, Published(each, 0, ()))
            parts = intersect(spans[each], (window.span,))
            done[each] = Published(each, before.candles + candles, normalise((*before.spans, *parts)))
        run.report(phase=f"publishing {TABLES[interval]}", published=run.progress.published + window.rows.height)

    try:
        _in_order(rows.windows(), lambda window: questdb.send(interval, window.rows), confirm)
        with stores.catalog.write() as connection:
            deliveries.record(connection, list(spans), run.now)
    except PipelineError:
        if not is_held():
            rest = Span(settled, _EVER.end)
            with stores.catalog.write() as connection:
                again = [(each, part) for each, parts in spans.items() for part in intersect(parts, (rest,))]
                publications.owe(connection, again, run.now)
        raise


def _is_settled(stores: Stores, series: Series, failed: list[str]) -> bool:
    """Waits until nobody is in the middle of writing a series; returns whether that came to be.

    A writer puts a range into the outbox before it moves its files. Whoever read the lake between the two, and then
    took the range out, would lose it.
    """
    try:
        with stores.locks.series([series]):
            return True
    except Busy as error:
        failed.append(str(error))
        return False


def _is_sound(stores: Stores, series: Series, failed: list[str]) -> bool:
    """Tells whether the files of a series are those that were written; of others nothing is published."""
    if stores.lake.is_sound(series):
        return True
    failed.append(f"{series}: a file of it is damaged, and what is owed of it stays owed: {REPAIR}")
    return False


@dataclass(frozen=True, slots=True)
class _Window:
    """Candles of all series of a table within a time."""

    span: Span
    rows: pl.DataFrame
    candles: Mapping[Series, int]


class _Rows:
    """What is owed of one table, window after window in order of time."""

    def __init__(self, stores: Stores, interval: Interval, spans: Mapping[Series, Spans]) -> None:
        self._stores = stores
        self._interval = interval
        self._spans = spans
        self._assets = {row["pair"]: (row["asset_id"], row["quote"]) for row in stores.lake.asset_ids.all().to_dicts()}
        self._wanted = max(stores.settings.kraken_publish_rows, ROWS_OF_A_PAIR * len(spans))

    def windows(self) -> Iterator[_Window]:
        edges = sorted({edge for spans in self._spans.values() for span in spans for edge in (span.start, span.end)})
        if not edges:
            return
        at, end = edges[0], edges[-1]
        length = self._wanted * self._interval.seconds // len(self._spans)
        while at < end:
            span = self._cut(Span(at, min(end, at + max(length, self._interval.seconds))))
            window = self._read(span)
            yield window
            # What comes is likely as dense as what came.
            length = min(2 * length, span.seconds * self._wanted // max(1, window.rows.height))
            at = self._next_start(span.end)

    def _next_start(self, at: int) -> int:
        """The first moment from `at` on at which something is owed; nothing is read in between."""
        starts = [max(at, span.start) for spans in self._spans.values() for span in spans if span.end > at]
        return min(starts, default=1 << 62)

    def _cut(self, span: Span) -> Span:
        """The beginning of a span that would not be too much even without quiet time."""
        while span.seconds > self._interval.seconds and self._slots(span) > _DENSEST * self._wanted:
            half = max(self._interval.seconds, self._interval.floor(span.seconds // 2))
            span = Span(span.start, span.start + half)
        return span

    def _slots(self, span: Span) -> int:
        owed = (intersect(spans, (span,)) for spans in self._spans.values())
        return sum(part.seconds for parts in owed for part in parts) // self._interval.seconds

    def _read(self, span: Span) -> _Window:
        frames: list[pl.DataFrame] = []
        candles: dict[Series, int] = {}
        for series, spans in self._spans.items():
            for part in intersect(spans, (span,)):
                found = self._stores.lake.read(series, part.start, part.end)
                candles[series] = candles.get(series, 0) + found.height
                if found.height:
                    frames.append(self._as_rows(series, found))
        rows = pl.concat(frames).sort("time") if frames else pl.DataFrame(schema=ROW_SCHEMA)
        return _Window(span, rows, candles)

    def _as_rows(self, series: Series, candles: pl.DataFrame) -> pl.DataFrame:
        asset_id, quote = self._assets[series.pair]
        return candles.select(
            *(pl.col(name) for name in ROW_SCHEMA.names() if name in candles.columns),
            pl.lit(asset_id, dtype=pl.Int32).alias("asset_id"),
            pl.lit(quote, dtype=pl.Categorical).alias("quote_currency"),
            pl.lit(series.pair, dtype=pl.Categorical).alias("pair"),
        ).select(ROW_SCHEMA.names())


def _in_order(
    windows: Iterator[_Window], send: Callable[[_Window], Receipt], confirm: Callable[[_Window, Receipt], None]
) -> None:
    """Sends windows, reads each beside the sending of the one before, and waits for that to be applied beside both.

    Waiting for each alone would leave QuestDB idle while it is read, and the reader while it is applied.
    """
    with ThreadPoolExecutor(1) as beside:
        reading = beside.submit(next, windows, None)
        sent: tuple[_Window, Receipt] | None = None
        while (window := reading.result()) is not None:
            reading = beside.submit(next, windows, None)
            receipt = send(window)
            if sent is not None:
                confirm(*sent)
            sent = window, receipt
        if sent is not None:
            confirm(*sent)


def rebuild(stores: Stores, run: RunContext, intervals: Sequence[Interval] = tuple(Interval)) -> PublishOutcome:
    """Empties tables and fills them anew from the lake.

    Everything is put into the outbox before a table is dropped, so whoever is interrupted only has to publish.

    Raises:
        InvalidRequest: QuestDB is off.
        StoreUnavailable: It does not answer; nothing has changed.
    """
    with open_questdb(stores.settings) as questdb:
        questdb.ping()
        for interval in intervals:
            with stores.locks.table(TABLES[interval]):
                owe_everything(stores, run.now, [interval])
                questdb.drop(interval)
                questdb.prepare([interval])
    return publish(stores, run)


def owe_everything(stores: Stores, now: int, intervals: Sequence[Interval] = tuple(Interval)) -> None:
    """Puts every series of the lake into the outbox, whole."""
    changes = [
        (series, Span(int(times[0]), int(times[-1]) + series.interval.seconds))
        for series in stores.lake.series()
        if series.interval in intervals and (times := stores.lake.times(series)).len()
    ]
    with stores.catalog.write() as connection:
        publications.owe(connection, changes, now)


def owed_series(stores: Stores) -> set[Series]:
    """Every series of which something is owed."""
    with stores.catalog.read() as connection:
        return {each for interval in Interval for each in publications.owed(connection, interval)}


def differences(stores: Stores, series: Collection[Series] | None = None) -> list[Difference]:
    """The series of which QuestDB and the lake do not hold the same: count, first, last and a checksum of all values.

    Args:
        stores: The lake.
        series: Only these; all that either side has where it is None.

    Raises:
        InvalidRequest: QuestDB is off.
        StoreUnavailable: It does not answer.
    """
    found: list[Difference] = []
    in_lake = set(stores.lake.series())
    with open_questdb(stores.settings) as questdb:
        for interval in Interval:
            wanted = None if series is None else {each for each in series if each.interval is interval}
            if wanted is not None and not wanted:
                continue
            questdb.prepare([interval])
            pairs = None if wanted is None else [each.pair for each in wanted]
            there = {Series(pair, interval): digest for pair, digest in questdb.ranges(interval, pairs).items()}
            here = wanted if wanted is not None else {each for each in in_lake if each.interval is interval}
            for each in sorted(here | there.keys()):
                if not stores.lake.is_sound(each):
                    found.append(Difference(each, None, there.get(each), is_owed=False, is_damaged=True))
                    continue
                ours, theirs = digest_of(stores, each), there.get(each)
                if ours != theirs:
                    found.append(Difference(each, ours, theirs, is_owed=False))
    if not found:
        return []
    owed = owed_series(stores)
    return [replace(each, is_owed=each.series in owed) for each in found]


def digest_of(stores: Stores, series: Series) -> RangeDigest | None:
    """What the lake holds of a series, as QuestDB would say it."""
    times = stores.lake.times(series)
    if times.is_empty():
        return None
    first, last = int(times[0]), int(times[-1])
    whole = (Span(first, last + series.interval.seconds),)
    total = sum(
        int(candles.select(checksum()).item()) for candles in stores.lake.batches(series, whole, series.interval)
    )
    return RangeDigest(times.len(), first, last, wrapped(total))
