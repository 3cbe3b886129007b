"""Verification of the trade lake: each of its files is compared with its record, and sound ones without one adopted.

A file's claims are in its footer. So trades that lie in a restored home, or beside a catalog that was lost, go on to
claim what they did, but for what a person has withdrawn since.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kraken_pipeline.coverage.ranges import Span, Spans, normalise, subtract
from kraken_pipeline.errors import Busy
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso, short
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.schema import files as file_table
from kraken_pipeline.storage.catalog.states import DamageKind, FileStatus
from kraken_pipeline.storage.records import damage as damages
from kraken_pipeline.storage.records import file_records, withdrawals
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.storage.trades import manifest
from kraken_pipeline.storage.trades.files import file_as_found, opened_trades, read_file, write_trades
from kraken_pipeline.storage.trades.kept import (
    THE_EXCHANGE,
    KeptTrades,
    TradeClaim,
    claimed_by,
    file_source_name,
    merged,
    without_sources,
)
from kraken_pipeline.storage.trades.manifest import TradeFile
from kraken_pipeline.storage.trades.months import TRADES, named_in_trades
from kraken_pipeline.storage.trades.writer import StagedTrades, begin, clear, confirm, read_all
from kraken_pipeline.workflow.progress import RunContext


@dataclass(frozen=True, slots=True)
class VerifiedTrades:
    """The result of verifying the trade lake.

    Attributes:
        files: The number of files compared.
        bytes: Their size in bytes.
        damaged: The damage that was found.
        adopted: The number of files that were adopted.
    """

    files: int = 0
    bytes: int = 0
    damaged: tuple[Damage, ...] = ()
    adopted: int = 0


def verify_trades(
    stores: Stores, pairs: Collection[str] | None, run: RunContext, *, quick: bool, part: float | None
) -> VerifiedTrades:
    """Compare files of the trade lake with their records; unless the catalog is read-only, adopt what is sound.

    Args:
        stores: The stores.
        pairs: The pairs to verify; None for all.
        run: The context of the run.
        quick: Whether to compare only sizes and footers instead of all bytes.
        part: The share of all bytes to compare, least recently read files first; None for all files.
    """
    with stores.catalog.read() as connection:
        recorded = manifest.trade_files_of(connection, pairs)
        every = recorded if pairs is None else manifest.trade_files_of(connection)
        damaged = manifest.damaged_paths(connection)
    known = {file.path for file in every}
    unknown = [path for path in stores.lake.files.below(TRADES) if path not in known]
    if pairs is not None:
        unknown = [path for path in unknown if (its := named_in_trades(path)) is None or its[0] in pairs]
    chosen = _chosen([file for file in recorded if not file.is_announced], part, damaged)
    if chosen:
        run.report(phase="verifying")
    with ThreadPoolExecutor(stores.lake.files.at_once) as pool:
        compared = list(pool.map(lambda file: _damage(stores, file, quick=quick), chosen))
    broken = [damage for damage in compared if damage is not None]
    size = sum(file.bytes for file in chosen)
    if stores.catalog.is_read_only:
        strays = [path for path in unknown if file_as_found(stores.lake.files, path, run.now) is None]
        return VerifiedTrades(len(chosen), size, (*broken, *map(_stray, sorted(strays))))
    left = {file.pair for file in recorded if file.is_announced} | {pair for pair, _ in _crowded(recorded)}
    adopted, more = _adopt(stores, unknown, left, run)
    broken = [damage for damage in broken if not _is_made_up_for(stores, damage)]
    if not quick:
        wrong = {damage.path for damage in broken}
        with stores.catalog.write() as connection:
            manifest.scrubbed(connection, [file.path for file in chosen if file.path not in wrong], run.now)
    return VerifiedTrades(len(chosen) + len(unknown), size, (*broken, *more), adopted)


def _chosen(files: Sequence[TradeFile], part: float | None, damaged: Collection[str]) -> list[TradeFile]:
    """Return the files to compare; those whose damage is on record are always among them."""
    if part is None:
        return list(files)
    wanted = part * sum(file.bytes for file in files)
    chosen: list[TradeFile] = []
    for file in sorted(files, key=lambda file: (file.scrubbed_at or 0, file.path)):
        if wanted > 0 or file.path in damaged:
            chosen.append(file)
            wanted -= file.bytes
    return chosen


def _damage(stores: Stores, file: TradeFile, *, quick: bool) -> Damage | None:
    with opened_trades(stores.lake.files, file, is_whole=not quick) as stream:
        if not isinstance(stream, Damage):
            return None
        damage = stream
    # A writer may have replaced the file since.
    return damage if any(one.path == file.path for one in _confirmed(stores, file.pair)) else None


def _confirmed(stores: Stores, pair: str) -> list[TradeFile]:
    with stores.catalog.read() as connection:
        return [file for file in manifest.trade_files_of(connection, [pair]) if not file.is_announced]


def _crowded(files: Iterable[TradeFile]) -> set[tuple[str, int]]:
    """Return the pairs and months with confirmed files that claim the same time.

    So it is where a damaged file is back in its place, and its archive was read again in between.
    """
    claims: dict[tuple[str, int], list[TradeClaim]] = {}
    for file in files:
        if not file.is_announced:
            claims.setdefault((file.pair, file.month), []).extend(file.claims)
    return {
        month
        for month, its in claims.items()
        if sum(claim.span.seconds for claim in its) > sum(span.seconds for span in claimed_by(its))
    }


def _stray(path: str) -> Damage:
    return Damage(path, None, None, DamageKind.UNKNOWN, "is not in the manifest")


def _is_made_up_for(stores: Stores, damage: Damage) -> bool:
    """Return whether other files claim all that a missing one did, and forget it then.

    So it is after a restore: the catalog was saved before the lake, and a write has replaced the file in between.
    """
    named = named_in_trades(damage.path)
    if damage.kind is not DamageKind.MISSING or named is None:
        return False
    with stores.locks.series([Series(named[0], Interval.M1)]):
        files = _confirmed(stores, named[0])
        lost = claimed_by(claim for file in files if file.path == damage.path for claim in file.claims)
        there = claimed_by(claim for file in files if file.path != damage.path for claim in file.claims)
        if subtract(lost, there):
            return False
        with stores.catalog.write() as connection:
            manifest.strike(connection, [damage.path])
    return True


# --- adoption


def _adopt(stores: Stores, unknown: Iterable[str], left: Collection[str], run: RunContext) -> tuple[int, list[Damage]]:
    """Adopt sound files without a record, and delete those that killed writes have left.

    Args:
        stores: The stores.
        unknown: The paths of the files without a record.
        left: The pairs of which a killed write has left files, or of which several files claim the same time.
        run: The context of the run.

    Returns:
        The number of files that were adopted, and the others as damage.
    """
    by_pair: dict[str, list[str]] = {pair: [] for pair in left}
    strays: list[Damage] = []
    for path in sorted(unknown):
        if (named := named_in_trades(path)) is None:
            strays.append(_stray(path))
        else:
            by_pair.setdefault(named[0], []).append(path)
    count = 0
    for pair in sorted(by_pair):
        try:
            with stores.locks.series([Series(pair, Interval.M1)]):
                adopted, broken = _adopt_pair(stores, pair, by_pair[pair], run.now)
        except Busy:  # somebody writes these files: they are no longer unknown, or are adopted by the next verification
            continue
        count += adopted
        strays += broken
    return count, strays


def _adopt_pair(stores: Stores, pair: str, paths: Iterable[str], now: int) -> tuple[int, list[Damage]]:
    lake = stores.lake
    with stores.catalog.read() as connection:
        records = manifest.trade_files_of(connection, [pair])
        is_withdrawn = (file_table.c.pair == pair) & (file_table.c.status == FileStatus.WITHDRAWN)
        withdrawn = {
            file_source_name(record.sha256)
            for record in file_records.matching(connection, is_withdrawn)
            if record.sha256 is not None
        }
    staged = StagedTrades(pair, left=[file.path for file in records if file.is_announced])
    known = {file.path for file in records}
    found = {path: file_as_found(lake.files, path, now) for path in paths if path not in known}
    months: dict[int, list[TradeFile]] = {month: [] for _, month in _crowded(records)}
    for file in found.values():
        if file is not None:
            months.setdefault(file.month, []).append(file)
    try:
        for month, files in months.items():
            held, sound = read_all(lake, [file for file in records if file.month == month and not file.is_announced])
            parts = [(file, read_file(lake.files, file)) for file in files]
            accounts = [KeptTrades(trades, file.claims) for file, trades in parts if not isinstance(trades, Damage)]
            kept = without_sources(merged([held, *accounts]), withdrawn)
            if kept.claims:
                staged.moves.append(write_trades(lake, pair, month, kept, now))
            staged.retired += [file.path for file in (*sound, *files)]
        begin(lake, [staged])
    except BaseException:
        staged.discard()
        raise
    with stores.catalog.write() as connection:
        stores.locks.require([Series(pair, Interval.M1)])
        confirm(connection, [staged])
    clear(lake, [staged])
    return sum(file is not None for file in found.values()), [_stray(path) for path, file in found.items() if not file]


# --- repair


def set_trades_aside(stores: Stores, damage: Damage, run: RunContext) -> tuple[str | None, Series, Spans]:
    """Move a damaged file of trades out of the lake, and have the archives read again that had answered for its time.

    Returns:
        The new path, None where there is nothing to move; the series whose archives are read again; and the time of the
        file for which the exchange had answered.
    """
    named = named_in_trades(damage.path)
    assert named is not None, "a path of trades"  # noqa: S101 - the caller has asked
    series = Series(named[0], Interval.M1)
    with stores.locks.series([series]):
        file = next((file for file in _confirmed(stores, named[0]) if file.path == damage.path), None)
        if file is not None and _damage(stores, file, quick=False) is None:
            damages.lift(stores.catalog, stores.lake, damage, run.now)
            return None, series, ()
        target = stores.lake.set_aside(damage)
        with stores.catalog.write() as connection:
            manifest.strike(connection, [damage.path])
            if file is not None:
                reason = f"to be read again: {damage}"
                spans = claimed_by(file.claims)
                withdrawals.read_again(connection, series, spans, reason, run.now, without={Kind.OHLCVT})
    claims = () if file is None else file.claims
    return target, series, claimed_by(claim for claim in claims if THE_EXCHANGE in claim.sources)


def not_paged_again(stores: Stores, paged: Mapping[Series, Spans]) -> list[str]:
    """Return a sentence for each span whose trades were paged and are lost, with the command that has them paged again.

    Their candles are sound and covered, so that no run requests them.

    Args:
        stores: The stores.
        paged: The time for which pages had answered, by the series of minutes.
    """
    with stores.catalog.read() as connection:
        there = {series: claimed_by(manifest.claims_of(connection, series.pair)) for series in paged}
    return [
        _lost_sentence(series.pair, span)
        for series, spans in sorted(paged.items())
        for span in subtract(normalise(spans), there[series])
    ]


def _lost_sentence(pair: str, span: Span) -> str:
    withdraw = (
        f"kraken-pipeline resolve --span --pair {pair} --interval 1 --start {iso(span.start)} --end {iso(span.end)} "
        '--reason "lost trades"'
    )
    return (
        f"the trades of {pair} from {short(span.start)} to {short(span.end)} were paged, and are lost: `{withdraw}` "
        f"and `kraken-pipeline backfill --pairs {pair} --complete` have them paged again"
    )
