"""Adoption: sound files of the lake that the manifest does not name are recorded, so that they are read.

In a restored home, a file may also lie in the place of one that was only announced: the catalog was saved while a write
was in progress, and the lake was copied after later ones. Nothing rests on an announced file, but a reader accepts no
other in its place.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence

import polars as pl

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.lake.files import LakeFiles
from kraken_pipeline.storage.lake.stored_series import recorded_rows
from kraken_pipeline.storage.paths import Layout, candles_path, former_path, layout_of, named_in
from kraken_pipeline.storage.records import damage as damages
from kraken_pipeline.storage.records import deliveries, evidence_records, manifest, proof_records
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.records.manifest import LakeFile, SeriesFiles
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.verify.sound_file import sound_file


def adopt_later(stores: Stores, known: LakeFile) -> bool:
    """Adopt a file if it is sound and of a later write than the recorded one, and return whether it is."""
    later = sound_file(stores.lake.files, known.path)
    if later is None or later.write_id <= known.write_id:
        return False
    with stores.catalog.write() as connection:
        manifest.adopt(connection, [later])
    stores.lake.manifest.forget([later.series])
    lost = f"is a later write with {later.rows:,} candles instead of {known.rows:,}"
    damage = Damage(known.path, known.series, known.year, DamageKind.CHANGED, lost, known.rows)
    if later.is_candles and later.rows < known.rows:
        # A later write with fewer candles withdrew some, so their grants no longer hold.
        _distrust(stores, damage)
    else:
        damages.lift(stores.catalog, stores.lake, damage, int(time.time()))
    return True


def _distrust(stores: Stores, damage: Damage) -> None:
    """Remove the coverage of a file that itself stays in place."""
    damages.notice(stores.catalog, stores.lake, [damage])
    with stores.catalog.write() as connection:
        damages.settle(connection, damage)
    if damage.series is not None:
        stores.lake.manifest.forget([damage.series])


def adopt(
    stores: Stores, unknown: Iterable[str], selected: Collection[Series], run: RunContext
) -> tuple[int, list[Damage]]:
    """Adopt sound files at valid paths; return their number, and the other files as damage.

    Args:
        stores: The stores.
        unknown: The paths of the files without a record and of those that `to_adopt` returned, relative to the home.
        selected: The series to verify; those from before the manifest are adopted with the files that they have.
        run: The context of the run.
    """
    by_series: dict[Series | None, list[str]] = {}
    for path in unknown:
        by_series.setdefault(named_in(path)[0], []).append(path)
    count = 0
    strays = [
        Damage(path, None, None, DamageKind.UNKNOWN, "is not a file of the lake") for path in by_series.pop(None, [])
    ]
    with stores.catalog.read() as connection:
        unadopted = manifest.unadopted_series(connection) & set(selected)
    for series in sorted(unadopted | {series for series in by_series if series is not None}):
        run.report(phase="adopting")
        with stores.locks.series([series]):
            adopted, broken = _adopt_series(
                stores, series, by_series.get(series, []), is_legacy=series in unadopted, now=run.now
            )
        count += adopted
        strays += broken
    return count, strays


def to_adopt(stores: Stores, announced: Iterable[str], damaged: Collection[Series]) -> list[str]:
    """Return the paths of files that may have to be adopted though a record of the manifest names their path.

    Args:
        stores: The stores.
        announced: The paths of existing files of which only announced ones are on record.
        damaged: The series with a damaged file. Files of a layout that was announced may have replaced it.
    """
    found: list[str] = []
    for path in announced:
        series = named_in(path)[0]
        if series is None:
            continue
        if _is_of_other_layout(stores.lake.manifest.of(series), path):
            is_wanted = series in damaged
        else:
            is_wanted = not _is_on_record(stores, series, path)
        if is_wanted:
            found.append(path)
    return found


def _is_of_other_layout(known: SeriesFiles, path: str) -> bool:
    return layout_of(path) not in (None, known.layout)


def _is_on_record(stores: Stores, series: Series, path: str) -> bool:
    """Return whether a file is the one on record or an announced one, by comparing all its bytes."""
    stream, damage = stores.lake.inspector.open(series, path, is_whole=True)
    if stream is not None:
        stream.close()
    return damage is None


def is_adoptable(stores: Stores, series: Series, path: str, *, is_legacy: bool) -> bool:
    """Return whether a file is sound and at a path where its series, as it is on record, has files."""
    layout = layout_of(path)
    recorded = stores.lake.manifest.of(series).layout
    if not path.startswith("replaced/") and (layout is None or recorded not in (None, layout)):
        return False
    return sound_file(stores.lake.files, path, is_legacy=is_legacy) is not None


def _adopt_series(
    stores: Stores, series: Series, paths: Sequence[str], *, is_legacy: bool, now: int
) -> tuple[int, list[Damage]]:
    known = stores.lake.manifest.reread(series)  # a writer may have recorded some in the meantime
    unknown = [path for path in paths if path not in known.files]
    announced = [path for path in paths if path in known.files and all(file.is_announced for file in known.files[path])]
    others = [path for path in announced if _is_of_other_layout(known, path)]
    unknown += [path for path in announced if path not in others and not _is_on_record(stores, series, path)]
    candidates = sound_files(stores, unknown, is_legacy=is_legacy)
    candidates += _announced_layouts(stores, known, others)
    layout = _layout_to_adopt(stores, known, candidates)
    later: list[LakeFile] = []
    if known.layout not in (None, layout):
        later = [file for file in candidates if file.is_candles and file.layout is layout]
        _take_over(stores, series, known, later, now)
        known = stores.lake.manifest.reread(series)
    sound = [file for file in candidates if file not in later and (not file.is_candles or file.layout is layout)]
    right = {file.path for file in (*sound, *later)}
    broken = [
        Damage(path, series, named_in(path)[1], DamageKind.UNKNOWN, "is not in the manifest")
        for path in unknown
        if path not in right
    ]
    files = [file for its in known.files.values() for file in its if not file.is_announced] + sound
    wrong = _miscounted(stores, series, [file for file in files if file.is_candles])
    # A series from before the manifest must hold the candles that the catalog counts. In any other series the files are
    # adopted, and the coverage of those that are short is removed.
    refused = {damage.path for damage in wrong} if is_legacy else set()
    adopted = [file for file in sound if file.path not in refused]
    with stores.catalog.write() as connection:
        manifest.adopt(connection, adopted)
        manifest.adopted(connection, [series])
    stores.lake.manifest.forget([series])
    if is_legacy:
        return len(adopted), [*broken, *wrong]
    short = {damage.path: damage for damage in wrong}
    for file in adopted:
        if file.path in short:
            _distrust(stores, short[file.path])
        else:
            damages.lift(stores.catalog, stores.lake, Damage(file.path, series, file.year, DamageKind.UNKNOWN, ""), now)
    return len(adopted) + len(later), broken


def sound_files(stores: Stores, paths: Iterable[str], *, is_legacy: bool) -> list[LakeFile]:
    """Return the manifest entries of the sound files at valid paths of the lake or the ledger."""
    found = (
        sound_file(stores.lake.files, path, is_legacy=is_legacy)
        for path in paths
        if path.startswith("replaced/") or layout_of(path) is not None
    )
    return [file for file in found if file is not None]


# --- layouts


def _layout_to_adopt(stores: Stores, known: SeriesFiles, candidates: Sequence[LakeFile]) -> Layout | None:
    """Return the layout in which the candles of a series are: that on record, unless sound later files have them all.

    These are there after a restored catalog turned out to be older than the lake.
    """
    candles = [file for file in candidates if file.is_candles]
    if all(file.layout is known.layout for file in candles):
        return known.layout
    recorded = [file for files in known.candles().values() for file in files if not file.is_announced]
    there = [file for file in recorded if sound_file(stores.lake.files, file.path) is not None]
    layout = complete_layout(stores.lake.files, [*there, *candles])
    newest = max((file.write_id for file in recorded), default="")
    is_later = all(file.write_id > newest for file in candles if file.layout is layout)
    return layout if is_later else known.layout


def _announced_layouts(stores: Stores, known: SeriesFiles, paths: Collection[str]) -> list[LakeFile]:
    """Return the sound files of announced layouts that are there in full, if the confirmed layout is not.

    Otherwise their write was killed, and they are to be deleted. A layout of which a file lacks would lose candles.
    """
    if not paths:
        return []
    confirmed = [file for files in known.candles().values() for file in files if not file.is_announced]
    if all(_is_on_record(stores, file.series, file.path) for file in confirmed):
        return []
    files = sound_files(stores, paths, is_legacy=False)
    there = {file.path for file in files}
    partial = {layout_of(path) for path in known.retired(known.layout) if path not in there}
    return [file for file in files if file.layout not in partial]


def complete_layout(place: LakeFiles, files: Sequence[LakeFile]) -> Layout | None:
    """Return the layout whose files hold all candles of a series, of its sound files; None where there are none.

    A write that was killed leaves two layouts. One that has candles of each year that the other has is complete. If
    both are, that of the later write has no fewer candles. If none is, as with damaged files, a file of all years is
    preferred, which is complete by itself.
    """
    layouts: dict[Layout, list[LakeFile]] = {}
    for file in files:
        layouts.setdefault(file.layout, []).append(file)
    if len(layouts) < 2:
        return next(iter(layouts), None)
    found = {layout: _years(place, its) for layout, its in layouts.items()}
    every = set().union(*found.values())
    complete = [layout for layout in found if found[layout].keys() == every]
    if complete:
        newest = {layout: max(file.write_id for file in layouts[layout]) for layout in complete}
        return max(complete, key=lambda layout: (sum(found[layout].values()), newest[layout]))
    if Layout.WHOLE in found:
        return Layout.WHOLE
    return max(found, key=lambda layout: (len(found[layout]), sum(found[layout].values())))


def _years(place: LakeFiles, files: Iterable[LakeFile]) -> dict[int, int]:
    """Return the number of candles of each year in some files of one layout."""
    years: dict[int, int] = {}
    for file in files:
        if file.year is not None:
            years[file.year] = file.rows
            continue
        with place.open(file.path) as stream:
            times = pl.read_parquet(stream, columns=["time"], hive_partitioning=False)["time"]
        years |= dict(times.dt.year().value_counts().iter_rows())
    return years


def _take_over(stores: Stores, series: Series, known: SeriesFiles, later: Sequence[LakeFile], now: int) -> None:
    """Record later files of another layout in the place of the recorded ones, which are set aside."""
    replaced = known.candles()
    with stores.catalog.write() as connection:
        manifest.adopt(connection, later)
        manifest.retire(connection, replaced)
        deliveries.forget(connection, replaced)
    stores.lake.manifest.forget([series])
    for path in replaced:
        stores.lake.set_aside(Damage(path, series, named_in(path)[1], DamageKind.UNKNOWN, "was replaced"))
    rows, before = sum(file.rows for file in later), recorded_rows(known)
    if rows < before:
        # A later write with fewer candles withdrew some, so their grants no longer hold.
        lost = f"is a later write of all {rows:,} candles instead of {before:,}"
        _distrust(stores, Damage(later[0].path, series, None, DamageKind.CHANGED, lost, before))
        return
    for file in later:
        damages.lift(stores.catalog, stores.lake, Damage(file.path, series, file.year, DamageKind.UNKNOWN, ""), now)


# --- series from before the manifest


def _miscounted(stores: Stores, series: Series, files: Sequence[LakeFile]) -> list[Damage]:
    """Return the damage of files that are missing or do not hold as many candles as the catalog counts."""
    with stores.catalog.read() as connection:
        extent = evidence_records.extents(connection, [series.pair]).get(series)
        counts = proof_records.counts_of(connection, [series.pair]).get(series, {})
    total = sum(file.rows for file in files)
    expected = extent.candles if extent is not None else 0
    if total == expected:
        return []
    first = extent.first_time if extent is not None else None
    by_year = {file.year: file for file in files}
    # Before there was a manifest, intervals of less than an hour were always stored by years.
    layouts = {file.layout for file in files} or {Layout.FORMER if series.interval < Interval.H1 else Layout.WHOLE}
    if Layout.WHOLE in layouts or not counts:
        return [_miscount(series, candles_path(series, None), by_year.get(None), expected, first)]
    path_of = former_path if Layout.FORMER in layouts else candles_path
    differing = [
        year for year, months in counts.items() if sum(months) != (by_year[year].rows if year in by_year else 0)
    ]
    years = differing or sorted(year for year in by_year if year is not None)
    return [
        _miscount(series, path_of(series, year), by_year.get(year), sum(counts.get(year, [])), first) for year in years
    ]


def _miscount(series: Series, path: str, file: LakeFile | None, expected: int, first: int | None) -> Damage:
    year = named_in(path)[1]
    if file is None:
        return Damage(path, series, year, DamageKind.MISSING, "does not exist", expected, first)
    detail = f"has {file.rows:,} candles, and the catalog has on record {expected:,}"
    return Damage(path, series, year, DamageKind.CHANGED, detail, expected, first)
