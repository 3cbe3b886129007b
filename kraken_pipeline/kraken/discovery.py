"""Discovery of the archives in folders, and of the files that are skipped, each with its reason."""

from __future__ import annotations

import re
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from kraken_pipeline.archive_path import ArchivePath, changed_at, identity_of, identity_while_open
from kraken_pipeline.errors import InvalidRequest, SourceChanged, UnreadableArchive, plain
from kraken_pipeline.kraken.archive import ArchiveFile, Container, open_zip
from kraken_pipeline.kraken.manifest import MANIFEST, read_sums
from kraken_pipeline.kraken.packing import (
    MOST_DEPTH,
    ORDINARY,
    UnpackedLimits,
    fault_of,
    foreign,
    piece_of,
    split,
    unpacked_size,
)
from kraken_pipeline.kraken.release import Kind, Release, release_of, without_copy_mark
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import Pair, pair_of_file, parse_pair

INGESTED_FOLDER = "ingested"
MOST_MEMBERS = 200_000
"""The most files of a ZIP and of the ZIPs in it; a release of Kraken has 9,793."""
_MOST_FAULTS = 1_000
_NAME_CHARACTERS = 500
_REASON_CHARACTERS = 2_000
LITTER = "a file of the operating system or of a desktop"
_PART = re.compile(r"(?P<whole>.+\.zip)\.part(?P<number>[0-9]+)", re.IGNORECASE)
_CANDLES = re.compile(r"(?P<pair>[A-Za-z0-9.]+)_(?P<minutes>[1-9][0-9]*)")
_TRADES = re.compile(r"(?P<pair>[A-Za-z0-9.]+)")


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A file or member that is not read, with the reason. Name and reason are made `plain`, and cut if they are long.

    Attributes:
        name: The name to show.
        reason: Why it is not read.
        path: The file itself, or the file that contains it.
    """

    name: str
    reason: str
    path: ArchivePath | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", _short(self.name, _NAME_CHARACTERS))
        object.__setattr__(self, "reason", _short(self.reason, _REASON_CHARACTERS))


def _short(text: str, most: int) -> str:
    text = plain(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


@dataclass(slots=True)
class Discovery:
    """The contents of some folders, sorted by whether they can be ingested.

    Attributes:
        files: The files that can be ingested, in the order of reading.
        skipped: Files that are not archives: litter, strays, other formats.
        waiting: Files that are still growing, or were a moment ago.
        broken: Containers that cannot be opened, and files and members that cannot be read.
    """

    files: list[ArchiveFile] = field(default_factory=list)
    skipped: list[PassedOver] = field(default_factory=list)
    waiting: list[PassedOver] = field(default_factory=list)
    broken: list[PassedOver] = field(default_factory=list)

    @property
    def entries(self) -> int:
        """The number of files and members found so far."""
        return len(self.files) + len(self.skipped) + len(self.broken)


def classify(name: str, release: Release | None = None) -> tuple[Kind, Pair, Interval] | str:
    """Return the kind, pair and interval that a CSV's name states, or why it is not one of Kraken's files.

    A name without minutes is a file of trades. Its quote must then be a known one: `summary.csv` is not a pair.

    Args:
        name: The name, with its folders.
        release: The release that the file is a member of. Kraken names these files, so any quote is accepted.
    """
    parse = pair_of_file if release is None else parse_pair
    is_trades = release is not None and release.kind is Kind.TRADES
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    if name.startswith("__MACOSX/") or base.startswith((".", "~")) or base in ("Thumbs.db", "desktop.ini"):
        return LITTER
    stem, _, ending = base.removesuffix(".gz").rpartition(".")
    if ending.lower() != "csv":
        return "not a CSV file"
    stem = without_copy_mark(stem)
    try:
        if (found := _CANDLES.fullmatch(stem)) is not None:
            return Kind.OHLCVT, parse(found["pair"]), Interval.parse(found["minutes"])
        if (found := _TRADES.fullmatch(stem)) is not None and ((pair := parse(found["pair"])).quote or is_trades):
            return Kind.TRADES, pair, Interval.M1
    except InvalidRequest as error:
        return str(error)
    return "the name is neither PAIR_MINUTES.csv (candles) nor PAIR.csv (trades)"


def discover(
    folders: Iterable[ArchivePath],
    *,
    settle_seconds: float = 0,
    patience: bool = False,
    limits: UnpackedLimits = ORDINARY,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Discovery:
    """Find archives in folders at any depth, or named directly, except those that were ingested before.

    Args:
        folders: Folders, or single files.
        settle_seconds: A file that was changed less than this ago counts as still growing.
        patience: Whether to wait, once, until the youngest file has settled, instead of leaving it for later.
        limits: The limits on the unpacked size of files in archives.
        clock: Returns the current time, in seconds since the epoch.
        sleep: Waits the given number of seconds.

    Raises:
        InvalidRequest: A folder does not exist.
    """
    found = Discovery()
    paths = list(dict.fromkeys(path for folder in folders for path in _walk(folder)))
    ages = {path: changed_at(path) for path in paths}
    youngest = max((at for at in ages.values() if at <= clock()), default=0.0)
    if patience and 0 < (wait := youngest + settle_seconds - clock()) <= settle_seconds:
        sleep(wait)
    settled: list[ArchivePath] = []
    for path in paths:
        if not path.exists():
            continue  # moved away in the meantime
        # A time in the future is a wrong clock, not a file that grows.
        if 0 <= clock() - changed_at(path) < settle_seconds or changed_at(path) != ages[path]:
            found.waiting.append(
                PassedOver(path.name, f"changed less than {settle_seconds:g} s ago: it may still grow")
            )
        else:
            settled.append(path)
    _look_at_all(settled, found, limits)
    return found


def _look_at_all(paths: Sequence[ArchivePath], found: Discovery, limits: UnpackedLimits) -> None:
    parts: dict[ArchivePath, list[tuple[int, ArchivePath]]] = {}
    pieces: dict[ArchivePath, list[int]] = {}
    for path in paths:
        if (piece := piece_of(path)) is not None:
            pieces.setdefault(piece[0], []).append(piece[1])
    for path in paths:
        if path in pieces or piece_of(path) is not None:
            continue  # reported with its whole
        if (part := _PART.fullmatch(path.name)) is not None:
            parts.setdefault(path.with_name(part["whole"]), []).append((int(part["number"]), path))
        elif path.suffix.lower() == ".zip":
            _look_into(Container(path, (path,), release_of(path.name), limits=limits), found, found.entries)
        else:
            _look_at(path, found, limits)
    found.broken += [PassedOver(whole.name, split(whole, pieces[whole]), whole) for whole in sorted(pieces)]
    waiting = {skipped.name for skipped in found.waiting}
    for whole, numbered in sorted(parts.items()):
        if any(name.startswith(f"{plain(whole.name)}.part") for name in waiting):
            found.waiting.append(PassedOver(whole.name, "one of its parts still grows"))
            continue
        _join(whole, sorted(numbered), found, limits)


def _walk(folder: ArchivePath) -> Iterator[ArchivePath]:
    if folder.is_file():
        yield folder
        return
    there: list[ArchivePath] = sorted(folder.rglob("*"))
    if not there and not folder.is_dir():
        raise InvalidRequest(f"there is no file or folder {folder}; name one that holds Kraken's archives")
    for path in there:
        if path.is_file() and INGESTED_FOLDER not in path.relative_to(folder).parts[:-1]:
            yield path


def _look_at(path: ArchivePath, found: Discovery, limits: UnpackedLimits) -> None:
    if (fault := foreign(path.name)) is not None:
        found.broken.append(PassedOver(path.name, fault, path))
        return
    described = classify(path.name)
    if isinstance(described, str):
        found.skipped.append(PassedOver(path.name, described))
        return
    kind, pair, interval = described
    try:
        size = unpacked_size(path, limits) if path.suffix.lower() == ".gz" else path.stat().st_size
    except SourceChanged as error:
        found.waiting.append(PassedOver(path.name, str(error)))
        return
    found.files.append(ArchiveFile(path, None, kind, pair, interval, size, stood=identity_of(path), limits=limits))


def _look_into(container: Container, found: Discovery, before: int) -> None:
    """Add the members of a container to the discovery.

    Args:
        container: The container.
        found: The discovery.
        before: The number of its entries before the outermost ZIP.
    """
    try:
        container, members = _listing(replace(container, seen=identity_of(*container.parts)))
    except FileNotFoundError:
        return  # moved away in the meantime
    except SourceChanged as error:
        found.waiting.append(PassedOver(container.name, str(error)))
        return
    except (UnreadableArchive, OSError) as error:
        found.broken.append(PassedOver(container.name, str(error), container.parts[0]))
        return
    if found.entries - before + len(members) > MOST_MEMBERS:
        reason = f"it and the ZIPs beside it have more than {MOST_MEMBERS:,} files; unpack it, and name their folder"
        found.broken.append(PassedOver(container.name, reason, container.parts[0]))
        return
    files = len(found.files)
    names = Counter(member.filename for member in members)
    added = (_add_member(container, member, names[member.filename], found, before) for member in members)
    faults = list(dict.fromkeys(fault for fault in added if fault is not None))
    if faults and len(found.files) == files and len({fault.reason for fault in faults}) == 1:
        faults = [PassedOver(container.name, faults[0].reason, container.parts[0])]
    found.broken += faults[:_MOST_FAULTS]
    if more := faults[_MOST_FAULTS:]:
        reason = f"{len(more):,} more of its files cannot be read either; the first of them: {more[0].reason}"
        found.broken.append(PassedOver(container.name, reason, container.parts[0]))


def _add_member(
    container: Container, member: zipfile.ZipInfo, namesakes: int, found: Discovery, before: int
) -> PassedOver | None:
    """Add a member to the discovery; if it cannot be read, return it with the reason instead."""
    name = f"{container.path.name}:{member.filename}"
    base = member.filename.replace("\\", "/").rsplit("/", 1)[-1]
    described = classify(member.filename, container.release)
    if not base or base == MANIFEST:
        return None
    if described == LITTER:
        found.skipped.append(PassedOver(name, LITTER))
    elif base.lower().endswith(".zip"):
        if (fault := _misnamed(member, namesakes)) is not None:
            return PassedOver(name, fault, container.parts[0])
        return _look_deeper(container, member.filename, found, before)
    elif (fault := foreign(base) or _packed_apart(base)) is not None:
        return PassedOver(name, fault, container.parts[0])
    elif isinstance(described, str):
        found.skipped.append(PassedOver(name, described))
    elif (fault := fault_of(member, container.limits) or _misnamed(member, namesakes)) is not None:
        return PassedOver(name, fault, container.parts[0])
    elif container.release is not None and described[0] is not container.release.kind:
        reason = f"a file of {_rows(described[0])} in a release of {_rows(container.release.kind)}"
        found.skipped.append(PassedOver(name, f"{reason}, whose promise does not include it; unpack it to read it"))
    else:
        size, limits = member.file_size, container.limits
        found.files.append(ArchiveFile(container.path, member.filename, *described, size, container, limits=limits))
    return None


def _misnamed(member: zipfile.ZipInfo, namesakes: int) -> str | None:
    """Return why a member cannot be told from others by its name; None if it can."""
    if namesakes > 1:
        name = _short(member.filename, _NAME_CHARACTERS)
        return f"the archive has {namesakes} files named {name}, of which only one could be read; download it again"
    if len(plain(member.filename)) > _NAME_CHARACTERS:
        return f"the file's name has {len(member.filename):,} characters; unpack it under a shorter one"
    return None


def _rows(kind: Kind) -> str:
    return {Kind.OHLCVT: "candles", Kind.TRADES: "trades"}[kind]


def _packed_apart(name: str) -> str | None:
    path = Path(name)
    if _PART.fullmatch(path.name) is None and piece_of(path) is None:
        return None
    return "it is a part of an archive; unpack all of its parts into one folder, and name the folder"


def _look_deeper(container: Container, member: str, found: Discovery, before: int) -> PassedOver | None:
    if len(container.inside) == MOST_DEPTH:
        reason = f"it is {MOST_DEPTH + 1} ZIPs deep; unpack the outermost one, and name the folder of its files"
        return PassedOver(f"{container.path.name}:{member}", reason, container.parts[0])
    within = member.replace("\\", "/").strip("/")
    release = release_of(within.rsplit("/", 1)[-1])
    inside = (*container.inside, member)
    inner = Container(container.path / within, container.parts, release, inside=inside, limits=container.limits)
    _look_into(inner, found, before)
    return None


def _listing(container: Container) -> tuple[Container, tuple[zipfile.ZipInfo, ...]]:
    """Return the container as it is now, and its members in the order of their bytes."""
    return _kept_listing(container) if container.inside else _read_listing(container)


def _read_listing(container: Container) -> tuple[Container, tuple[zipfile.ZipInfo, ...]]:
    with open_zip(container) as archive:
        members = sorted(archive.infolist(), key=lambda member: member.header_offset)
        return replace(container, seen=identity_while_open(container.parts, archive.parts)), tuple(members)


# Cached, so that a ZIP compressed inside a ZIP is not unpacked again each time the folder is checked.
_kept_listing = lru_cache(maxsize=256)(_read_listing)


def _join(
    whole: ArchivePath, numbered: list[tuple[int, ArchivePath]], found: Discovery, limits: UnpackedLimits
) -> None:
    there = {number for number, _ in numbered}
    listed = (_PART.fullmatch(name) for name in read_sums(whole.parent))
    listed_numbers = {int(part["number"]) for part in listed if part is not None and part["whole"] == whole.name}
    missing = sorted(({*range(numbered[-1][0] + 1)} | listed_numbers) - there)
    if missing:
        names = ", ".join(f"part{number:02d}" for number in missing)
        reason = f"missing parts: {names}; put all parts into one folder"
        found.broken.append(PassedOver(whole.name, reason, numbered[0][1]))
        return
    parts = tuple(path for _, path in numbered)
    _look_into(Container(whole, parts, release_of(whole.name), limits=limits), found, found.entries)
