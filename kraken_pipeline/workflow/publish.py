"""Publishing: sends the pending ranges of the outbox to QuestDB, in order of time across pairs.

Publishing pair by pair would make QuestDB rewrite the same partitions again and again: measured 257,000 rows a second
for the first ten pairs, falling to 140,000 at sixty, against a flat 500,000 to 650,000 in order of time. So all series
of a table are read in windows of time of a few hundred thousand rows each, which bounds the memory.

Ranges that QuestDB has applied before it goes away are no longer pending; all others are. A failure here stops no run:
the next run or the sensor publishes what is still pending.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from kraken_pipeline.coverage.ranges import Span, Spans, intersect, normalise
from kraken_pipeline.errors import Busy, PipelineError, StoreUnavailable
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.pool_peaks import record_peak
from kraken_pipeline.storage.pools import Pool
from kraken_pipeline.storage.questdb.client import QuestDB, open_questdb
from kraken_pipeline.storage.questdb.tables import TABLES, checksum, wrapped
from kraken_pipeline.storage.questdb.values import ROW_SCHEMA, RangeDigest, Receipt
from kraken_pipeline.storage.records import deliveries, publications
from kraken_pipeline.storage.records.damage import REPAIR
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import costs
from kraken_pipeline.workflow.progress import RunContext

ROWS_OF_A_PAIR = 1_000
"""The approximate number of rows of each pair in a window; a read costs a millisecond, however short it is."""
_EVER = Span(-(1 << 62), 1 << 62)
_DENSEST = 4
"""The limit of a window's rows, counted without quiet time, as a multiple of the rows asked for."""


@dataclass(frozen=True, slots=True)
class Published:
    """The published candles of one series.

    Attributes:
        series: The series.
        candles: The number of candles sent.
        spans: The spans that they lie in.
    """

    series: Series
    candles: int
    spans: Spans


@dataclass(frozen=True, slots=True)
class PublishOutcome:
    """The outcome of publishing.

    Attributes:
        series: The series of which candles were published and applied.
        failed: What was not published, with the reason.
        pending: The number of ranges that are still pending.
    """

    series: tuple[Published, ...] = ()
    failed: tuple[str, ...] = ()
    pending: int = 0

    @property
    def candles(self) -> int:
        """The number of candles published."""
        return sum(published.candles for published in self.series)


@dataclass(frozen=True, slots=True)
class Difference:
    """A series that differs between QuestDB and the lake.

    Attributes:
        series: The series.
        lake: The content of the lake; None if it has nothing.
        questdb: The content of QuestDB; None if it has nothing.
        is_pending: Whether ranges of the series are pending.
        is_damaged: Whether a file of the series in the lake is damaged, so that its right content is unknown.
    """

    series: Series
    lake: RangeDigest | None
    questdb: RangeDigest | None
    is_pending: bool
    is_damaged: bool = False

    def __str__(self) -> str:
        if self.is_damaged:
            return f"{self.series}: a file of the lake is damaged, and QuestDB's copy is not verified: {REPAIR}"
        pending = ", and the rest is pending" if self.is_pending else ""
        return f"{self.series}: the lake has {self.lake or 'nothing'}, QuestDB {self.questdb or 'nothing'}{pending}"


def publish(
    stores: Stores,
    run: RunContext,
    series: Collection[Series] | None = None,
    intervals: Sequence[Interval] = tuple(Interval),
) -> PublishOutcome:
    """Publish the pending ranges, as far as QuestDB accepts them.

    Args:
        stores: The stores to publish from.
        run: The run that publishes; its progress is updated after every window.
        series: The series to publish; None for all.
        intervals: The intervals whose tables are published to.

    Raises:
        InvalidRequest: QuestDB is off.
    """
    done: dict[Series, Published] = {}
    failed: list[str] = []
    with open_questdb(stores.settings) as questdb:
        for interval in intervals:
            with stores.catalog.read() as connection:
                if not publications.pending(connection, interval, series):
                    continue
            try:
                with stores.locks.table(TABLES[interval]) as is_held:
                    questdb.prepare([interval])  # a rebuild may just have dropped it
                    _publish_table(stores, questdb, interval, series, run, is_held, done, failed)
            except StoreUnavailable as error:
                failed.append(f"{error}: pending ranges stay pending")
                break
            except PipelineError as error:
                failed.append(f"{TABLES[interval]}: {error}")
    record_peak(stores.catalog, Pool.QUESTDB, questdb.statistics)
    run.finish("publishing")
    with stores.catalog.read() as connection:
        left = publications.backlog(connection).count
    return PublishOutcome(tuple(done[series] for series in sorted(done)), tuple(failed), left)


def deliver(stores: Stores, run: RunContext) -> PublishOutcome:
    """Publish the pending ranges at the end of a run, if there is a QuestDB; failures are reported and stay pending."""
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
    """Publish the pending ranges of one interval, with its table locked from reading until they are applied.

    The lock is lost if the connection to the catalog's server is lost. Another process may then have published newer
    candles and settled them. What was sent here may be older, so it becomes pending again.
    """
    with stores.catalog.read() as connection:
        pending = publications.pending(connection, interval, series)
    pending = {
        series: pending[series]
        for series in pending
        if _is_settled(stores, series, failed) and _is_sound(stores, series, failed)
    }
    ids = [publication.id for found in pending.values() for publication in found]
    spans = {series: normalise(publication.span for publication in found) for series, found in pending.items()}
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
        for one_series, candles in window.candles.items():
            before = done.get(one_series, Published(one_series, 0, ()))
            parts = intersect(spans[one_series], (window.span,))
            done[one_series] = Published(one_series, before.candles + candles, normalise((*before.spans, *parts)))
        run.did("publishing", costs.publishing(window.rows.height))
        run.report(phase=f"publishing {TABLES[interval]}", published=run.progress.published + window.rows.height)

    try:
        _in_order(rows.windows(), lambda window: questdb.send(interval, window.rows), confirm)
        with stores.catalog.write() as connection:
            deliveries.record(connection, list(spans), run.now)
    except PipelineError:
        if not is_held():
            rest = Span(settled, _EVER.end)
            with stores.catalog.write() as connection:
                again = [(series, part) for series, parts in spans.items() for part in intersect(parts, (rest,))]
                publications.enqueue(connection, again, run.now)
        raise


def _is_settled(stores: Stores, series: Series, failed: list[str]) -> bool:
    """Wait until no process is writing a series; return whether that was so in time.

    A writer puts a range into the outbox before it moves its files. Reading the lake between the two, and then removing
    the range from the outbox, would lose it.
    """
    try:
        with stores.locks.series([series]):
            return True
    except Busy as error:
        failed.append(str(error))
        return False


def _is_sound(stores: Stores, series: Series, failed: list[str]) -> bool:
    """Return whether the files of a series are those that were written; other series are not published."""
    if stores.lake.is_sound(series):
        return True
    failed.append(f"{series}: a file of it is damaged, and its pending ranges stay pending: {REPAIR}")
    return False


@dataclass(frozen=True, slots=True)
class _Window:
    """Candles of all series of a table within a span of time."""

    span: Span
    rows: pl.DataFrame
    candles: Mapping[Series, int]


class _Rows:
    """The pending rows of one table, window by window in order of time."""

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
            # The next window is probably as dense as this one.
            length = min(2 * length, span.seconds * self._wanted // max(1, window.rows.height))
            at = self._next_start(span.end)

    def _next_start(self, at: int) -> int:
        """Return the first moment from `at` on at which a range is pending; nothing is read before it."""
        starts = [max(at, span.start) for spans in self._spans.values() for span in spans if span.end > at]
        return min(starts, default=1 << 62)

    def _cut(self, span: Span) -> Span:
        """Shorten a span until its rows are within the limit even without quiet time."""
        while span.seconds > self._interval.seconds and self._slots(span) > _DENSEST * self._wanted:
            half = max(self._interval.seconds, self._interval.floor(span.seconds // 2))
            span = Span(span.start, span.start + half)
        return span

    def _slots(self, span: Span) -> int:
        pending = (intersect(spans, (span,)) for spans in self._spans.values())
        return sum(part.seconds for parts in pending for part in parts) // self._interval.seconds

    def _read(self, span: Span) -> _Window:
        frames: dict[Series, pl.DataFrame] = {}
        for series, spans in self._spans.items():
            parts = [self._stores.lake.read(series, part.start, part.end) for part in intersect(spans, (span,))]
            if parts:
                frames[series] = pl.concat(parts) if len(parts) > 1 else parts[0]
        return _Window(span, self._as_rows(frames), {series: frame.height for series, frame in frames.items()})

    def _as_rows(self, frames: Mapping[Series, pl.DataFrame]) -> pl.DataFrame:
        """Return the candles of all series in order of time, with the names of their pairs joined once."""
        if not frames:
            return pl.DataFrame(schema=ROW_SCHEMA)
        of_series = np.repeat(np.arange(len(frames)), [frame.height for frame in frames.values()])
        names = [(*self._assets[series.pair], series.pair) for series in frames]
        columns = {"asset_id": pl.Int32(), "quote_currency": pl.Categorical(), "pair": pl.Categorical()}
        named = pl.DataFrame(names, columns, orient="row")[of_series]
        candles = pl.concat(frames.values()).with_columns(named.get_columns())
        return candles.select(ROW_SCHEMA.names()).sort("time")


def _in_order(
    windows: Iterator[_Window], send: Callable[[_Window], Receipt], confirm: Callable[[_Window, Receipt], None]
) -> None:
    """Send windows in order; meanwhile, read the next window and wait for the previous one to be applied.

    Without this overlap, QuestDB would be idle while a window is read, and the reader while one is applied.
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
    """Empty tables and refill them from the lake.

    Everything is put into the outbox before a table is dropped, so publishing is enough after an interruption.

    Raises:
        InvalidRequest: QuestDB is off.
        StoreUnavailable: QuestDB does not answer; nothing has changed.
    """
    with open_questdb(stores.settings) as questdb:
        questdb.ping()
        for interval in intervals:
            with stores.locks.table(TABLES[interval]):
                enqueue_everything(stores, run.now, [interval])
                questdb.drop(interval)
                questdb.prepare([interval])
    return publish(stores, run, intervals=intervals)


def enqueue_everything(stores: Stores, now: int, intervals: Sequence[Interval] = tuple(Interval)) -> None:
    """Enqueue every series of the lake, whole, in the outbox."""
    changes = [
        (series, Span(int(times[0]), int(times[-1]) + series.interval.seconds))
        for series in stores.lake.series()
        if series.interval in intervals and (times := stores.lake.times(series)).len()
    ]
    with stores.catalog.write() as connection:
        publications.enqueue(connection, changes, now)


def pending_series(stores: Stores) -> set[Series]:
    """Return every series with pending ranges."""
    with stores.catalog.read() as connection:
        return {series for interval in Interval for series in publications.pending(connection, interval)}


def differences(
    stores: Stores, series: Collection[Series] | None = None, intervals: Sequence[Interval] = tuple(Interval)
) -> list[Difference]:
    """Return the series that differ between QuestDB and the lake in count, first, last or a checksum of all values.

    Args:
        stores: The stores with the lake.
        series: The series to compare; None for all that either side has.
        intervals: The intervals to compare.

    Raises:
        InvalidRequest: QuestDB is off.
        StoreUnavailable: QuestDB does not answer.
    """
    found: list[Difference] = []
    in_lake = set(stores.lake.series())
    with open_questdb(stores.settings) as questdb:
        for interval in intervals:
            wanted = (
                None if series is None else {one_series for one_series in series if one_series.interval is interval}
            )
            if wanted is not None and not wanted:
                continue
            questdb.prepare([interval])
            pairs = None if wanted is None else [series.pair for series in wanted]
            there = {Series(pair, interval): digest for pair, digest in questdb.ranges(interval, pairs).items()}
            here = wanted if wanted is not None else {series for series in in_lake if series.interval is interval}
            for one_series in sorted(here | there.keys()):
                if not stores.lake.is_sound(one_series):
                    found.append(Difference(one_series, None, there.get(one_series), is_pending=False, is_damaged=True))
                    continue
                ours, theirs = digest_of(stores, one_series), there.get(one_series)
                if ours != theirs:
                    found.append(Difference(one_series, ours, theirs, is_pending=False))
    if not found:
        return []
    pending = pending_series(stores)
    return [replace(difference, is_pending=difference.series in pending) for difference in found]


def digest_of(stores: Stores, series: Series) -> RangeDigest | None:
    """Return the digest of a series in the lake, in the form that QuestDB gives it."""
    times = stores.lake.times(series)
    if times.is_empty():
        return None
    first, last = int(times[0]), int(times[-1])
    whole = (Span(first, last + series.interval.seconds),)
    total = sum(
        int(candles.select(checksum()).item()) for candles in stores.lake.batches(series, whole, series.interval)
    )
    return RangeDigest(times.len(), first, last, wrapped(total))
