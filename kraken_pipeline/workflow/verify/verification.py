"""Verification of the lake: compares every file with the manifest, and checks the catalog for consistency.

Damage that is found is recorded, and what the file had covered becomes a gap. A sound file without a record is adopted,
for example in a restored home or in one from before the manifest existed. A series in a layout that does not fit its
number of candles, as in a home of an earlier version, is stored anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256

import polars as pl

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.lake import verifications
from kraken_pipeline.storage.lake.asset_ids import ASSET_IDS_FILE, ASSETS_SCHEMA
from kraken_pipeline.storage.lake.files import LakeFiles
from kraken_pipeline.storage.lake.inspection import FOOTER_BYTES, is_said, said_by, unreadable
from kraken_pipeline.storage.lake.verifications import VerificationRecord
from kraken_pipeline.storage.paths import named_in
from kraken_pipeline.storage.records import damage as damages
from kraken_pipeline.storage.records import manifest
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.records.manifest import LakeFile
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import RunSpec
from kraken_pipeline.workflow.verify.adoption import adopt, adopt_later, is_adoptable, to_adopt
from kraken_pipeline.workflow.verify.catalog_repair import broken_rows, derive
from kraken_pipeline.workflow.verify.rearrangement import rearrange
from kraken_pipeline.workflow.verify.trades import verify_trades

_CHUNK = 256
"""The most files per task of a thread. A future for each file would cost as much as comparing a small file."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a verification.

    Attributes:
        files: The number of files compared.
        bytes: Their size in bytes.
        seconds: The duration in seconds.
        damaged: The present damage.
        adopted: The number of files that were adopted.
        repaired: The damage that has been set aside or mended.
        series: The series whose files were examined.
    """

    files: int
    bytes: int
    seconds: float
    damaged: tuple[Damage, ...]
    adopted: int = 0
    repaired: tuple[Damage, ...] = ()
    series: frozenset[Series] = frozenset()

    @property
    def status(self) -> str:
        """The status: `ok`, `damaged`, or `repaired` if all damage has been set aside or mended."""
        if self.damaged:
            return "damaged"
        return "repaired" if self.repaired else "ok"

    def as_json(self) -> dict[str, object]:
        """Return the result as `verify --json` shows it."""
        return {
            "status": self.status,
            "files": self.files,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "damaged": [damage_json(damage) for damage in self.damaged],
            "repaired": [damage_json(damage) for damage in self.repaired],
        }


def damage_json(damage: Damage) -> dict[str, object]:
    """Return a damaged file as `verify --json` shows it."""
    return {
        "path": damage.path,
        "pair": damage.series.pair if damage.series else None,
        "interval": damage.series.interval.value if damage.series else None,
        "kind": str(damage.kind),
        "detail": damage.detail,
        "action": damage.action,
    }


@dataclass(frozen=True, slots=True)
class Compared:
    """The files that were compared with their records.

    Attributes:
        differing: The files that differed.
        sound: The files that did not.
    """

    differing: tuple[LakeFile, ...] = ()
    sound: tuple[LakeFile, ...] = ()


def files_to_compare(stores: Stores, spec: RunSpec, part: float | None) -> list[LakeFile]:
    """Return the files of the selected series that a verification compares; `part` is the share of all bytes."""
    return _look(stores, spec).chosen(part)


def verify(
    stores: Stores,
    spec: RunSpec,
    run: RunContext,
    *,
    quick: bool = False,
    part: float | None = None,
    compared: Sequence[Compared] = (),
) -> Verification:
    """Compare the files of the selected series with the manifest, and check the catalog's evidence for consistency.

    With a read-only catalog, damage is reported and not recorded.

    Args:
        stores: The stores.
        spec: The selected pairs and intervals.
        run: The context of the run, which receives the progress.
        quick: Whether to compare only sizes and footers instead of all bytes.
        part: The share of all bytes to compare, least recently read files first; None for all files.
        compared: The files that groups have compared before; what was written since is compared here.

    Raises:
        StoreError: The catalog is not a sound database.
    """
    began = time.perf_counter()
    stores.catalog.require_sound()
    found = _look(stores, spec)
    differing = [file for some in compared for file in some.differing]
    sound = [file for some in compared for file in some.sound]
    before = {*differing, *sound}
    left = [file for file in found.chosen(part) if file not in before]
    chosen = [*before, *left]
    done_before = sum(file.bytes for file in before)
    run.report(phase="verifying", bytes_total=sum(file.bytes for file in chosen), bytes_done=done_before)
    rest = compare(stores, left, run, quick=quick, threads=stores.lake.files.at_once)
    differing += rest.differing
    sound += rest.sound
    is_noted = not stores.catalog.is_read_only
    found.unknown += to_adopt(stores, found.announced, {file.series for file in differing} if is_noted else ())
    trades = verify_trades(stores, _pairs(stores, spec), run, quick=quick, part=part)
    if is_noted:
        adopted, strays = adopt(stores, found.unknown, found.series, run)
        broken = [*_confirmed(stores, differing), *strays, *trades.damaged, *_assets(stores)]
        damages.notice(stores.catalog, stores.lake, broken)
    else:
        unsound = _unsound(stores, found)
        adopted, broken = 0, [*_still_differing(stores, differing), *unsound, *trades.damaged, *_assets(stores)]
    broken += broken_rows(stores)
    if is_noted and not quick:  # size and footer do not prove that a file with changed bytes is sound again
        _lift(stores, sound, broken, run)
    broken += _known(stores, spec, broken)
    if is_noted:
        derive(stores, found.series, run)
        broken += rearrange(stores, found.series - {damage.series for damage in broken}, run)
    done = Verification(
        len(chosen) + len(found.unknown) + trades.files,
        sum(file.bytes for file in chosen) + trades.bytes,
        time.perf_counter() - began,
        tuple(broken),
        adopted + trades.adopted,
        series=frozenset(found.series),
    )
    if is_noted:
        with stores.catalog.write() as connection:
            if not quick:
                manifest.scrubbed(connection, sound, run.now)
            is_all = part is None and spec == RunSpec()
            record = VerificationRecord(run.now, int(time.time()), quick, is_all, done.files, done.bytes, len(broken))
            verifications.record(connection, record)
    return done


# --- files


@dataclass(slots=True)
class _Found:
    """The expected files, those at paths that are only announced, and the files without a record."""

    expected: list[LakeFile] = field(default_factory=list)
    announced: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unadopted: frozenset[Series] = frozenset()
    series: set[Series] = field(default_factory=set)

    def chosen(self, part: float | None) -> list[LakeFile]:
        """Return the least recently read files that make up a share of all bytes; all files without a share."""
        if part is None:
            return self.expected
        wanted = part * sum(file.bytes for file in self.expected)
        chosen: list[LakeFile] = []
        for file in sorted(self.expected, key=lambda file: (file.scrubbed_at or 0, file.path)):
            if wanted <= 0:
                break
            chosen.append(file)
            wanted -= file.bytes
        return chosen


def selector(stores: Stores, spec: RunSpec) -> Callable[[Series], bool]:
    """Return a predicate that is true for the selected series."""
    if spec.selecting() == RunSpec():
        return lambda _: True
    is_selected = cache(lambda name: spec.selects(parse_pair(name), stores.tiers))
    return lambda series: series.interval in spec.intervals and is_selected(series.pair)


def _pairs(stores: Stores, spec: RunSpec) -> set[str] | None:
    """Return the selected pairs of which trades are kept; None for all that there are."""
    if spec.selecting() == RunSpec():
        return None
    is_wanted = selector(stores, spec)
    return {pair.name for pair in stores.lake.asset_ids.pairs() if is_wanted(Series(pair.name, Interval.M1))}


def _look(stores: Stores, spec: RunSpec) -> _Found:
    """Return the recorded files of the selected series, and the files that no row of the manifest names."""
    is_wanted = selector(stores, spec)
    with stores.catalog.read() as connection:
        recorded = manifest.all_files(connection)
        unadopted = manifest.unadopted_series(connection)
    wanted = {series for series in unadopted if is_wanted(series)}
    found = _Found(unadopted=frozenset(wanted), series=wanted)
    for files in recorded.values():
        if is_wanted(files[0].series):
            found.series.add(files[0].series)
            found.expected += [file for file in files if not file.is_announced] or []
    there = set(stores.lake.files.below("lake")) | set(stores.lake.files.below("replaced"))
    found.announced = sorted(
        path
        for path, files in recorded.items()
        if path in there and is_wanted(files[0].series) and all(file.is_announced for file in files)
    )
    for path in sorted(there - recorded.keys() - {ASSET_IDS_FILE}):
        series, _ = named_in(path)
        if series is None or is_wanted(series):
            found.unknown.append(path)
    found.series |= {series for path in found.unknown if (series := named_in(path)[0]) is not None}
    return found


# --- comparing


def compare(stores: Stores, files: Sequence[LakeFile], run: RunContext, *, quick: bool, threads: int) -> Compared:
    """Compare files with their records, and report the progress; nothing is recorded.

    Args:
        stores: The stores.
        files: The files.
        run: The context of the run, which receives the progress.
        quick: Whether to compare only sizes and footers instead of all bytes.
        threads: The number of threads that compare.
    """
    place = stores.lake.files
    looks_right = _looks_right if quick else _hashes_right
    size = min(_CHUNK, len(files) // threads + 1)
    chunks = [files[start : start + size] for start in range(0, len(files), size)]
    differing: list[LakeFile] = []
    sound: list[LakeFile] = []
    with ThreadPoolExecutor(threads) as pool:
        for chunk, right in zip(
            chunks,
            pool.map(lambda chunk: [looks_right(place, file) for file in chunk], chunks),
            strict=True,
        ):
            for file, is_right in zip(chunk, right, strict=True):
                (sound if is_right else differing).append(file)
            run.report(bytes_done=run.progress.bytes_done + sum(file.bytes for file in chunk))
    return Compared(tuple(differing), tuple(sound))


def _looks_right(place: LakeFiles, file: LakeFile) -> bool:
    try:
        size, end = place.end(file.path, FOOTER_BYTES)
        if size != file.bytes:
            return False
        if is_said(end, [file]):
            return True
        with place.open(file.path) as stream:
            said = said_by(stream)
    except (OSError, pl.exceptions.PolarsError):
        return False
    return said is None or said == (file.write_id, file.rows)


def _hashes_right(place: LakeFiles, file: LakeFile) -> bool:
    try:
        return place.sha256(file.path) == file.sha256
    except OSError:
        return False


def _confirmed(stores: Stores, differing: Iterable[LakeFile]) -> Iterator[Damage]:
    """Yield the damage of files that differed, without those that a writer has replaced in the meantime.

    A sound file of a later write, as in the lake of a backup, is adopted.
    """
    recorded = {file.path: file for file in differing}
    for damage in _still_differing(stores, recorded.values()):
        is_adopted = damage.kind in (DamageKind.CHANGED, DamageKind.UNKNOWN) and adopt_later(
            stores, recorded[damage.path]
        )
        if not is_adopted:
            yield damage


def _still_differing(stores: Stores, differing: Iterable[LakeFile]) -> Iterator[Damage]:
    """Compare files with the manifest once more, because a writer may have replaced one, and yield the damage."""
    for file in differing:
        stream, damage = stores.lake.inspector.open(file.series, file.path, is_whole=True)
        if stream is not None:
            stream.close()
        if damage is not None:
            yield damage


def _unsound(stores: Stores, found: _Found) -> Iterator[Damage]:
    """Yield the damage of files that no row of the manifest names and that cannot be adopted."""
    for path in found.unknown:
        series, year = named_in(path)
        if series is None or not is_adoptable(stores, series, path, is_legacy=series in found.unadopted):
            yield Damage(path, series, year, DamageKind.UNKNOWN, "is not in the manifest")


def _assets(stores: Stores) -> Iterator[Damage]:
    """Yield the damage of the copy of the pairs' ids."""
    name, expected = ASSET_IDS_FILE, stores.lake.asset_ids.all()
    if expected.is_empty() and not stores.lake.asset_ids.exists():
        return
    with stores.catalog.read() as connection:
        recorded = manifest.digest_of(connection, name)
    try:
        content = stores.lake.asset_ids.content()
        if not pl.read_parquet(content).select(ASSETS_SCHEMA.names()).sort("asset_id").equals(expected):
            yield Damage(name, None, None, DamageKind.CHANGED, "has other ids than the catalog")
        elif recorded is not None and sha256(content).hexdigest() != recorded:
            yield Damage(name, None, None, DamageKind.CHANGED, "has other bytes")
    except FileNotFoundError:
        yield Damage(name, None, None, DamageKind.MISSING, "does not exist")
    except (OSError, pl.exceptions.PolarsError) as error:
        yield Damage(name, None, None, DamageKind.UNREADABLE, unreadable(error))


# --- the catalog


def _known(stores: Stores, spec: RunSpec, found: Iterable[Damage]) -> list[Damage]:
    """Return the open damage that was recorded earlier and is not among the damage found now."""
    paths, is_wanted = {damage.path for damage in found}, selector(stores, spec)
    with stores.catalog.read() as connection:
        known = damages.open_damages(connection)
    return [
        damage for damage in known if damage.path not in paths and (damage.series is None or is_wanted(damage.series))
    ]


def _lift(stores: Stores, sound: Iterable[LakeFile], broken: Iterable[Damage], run: RunContext) -> None:
    """Restore the coverage of files that are in place again, for example from a backup."""
    right = {file.path for file in sound}
    still = {damage.path for damage in broken}
    with stores.catalog.read() as connection:
        known = damages.open_damages(connection)
    for damage in known:
        is_gone = damage.series is None or not damage.is_candles
        if damage.path in right or (is_gone and damage.path not in still):
            damages.lift(stores.catalog, stores.lake, damage, run.now)
