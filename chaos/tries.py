"""The tries: each damages a home in one way, lets commands run over it, and says what came of it."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from chaos.claims import HomeState, false_claims, gaps_of
from chaos.playground import ARCHIVES_ONLY, FILL, Playground
from kraken_pipeline.coverage.ranges import subtract
from kraken_pipeline.demo.archives import write_quarterly_zip
from kraken_pipeline.errors import STOPPED_CODE, PipelineError
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.support.homes import HOURS_AND_DAYS, Q2, SPRING
from kraken_pipeline_tests.support.shell import Said

_ALLOWED = (0, 1, 2, STOPPED_CODE)
_KILLED = -9
_REPAIR = ("verify", "--repair", "--json")


class End(StrEnum):
    """How a try ended."""

    HEALED = "healed"  # as if nothing had happened
    GAP = "gap"  # what is missing is said to be
    RECOVER = "recover"  # the catalog cannot be used, and the command that builds a new one is named
    SAID = "said"  # nothing can be demanded but that no claim is false
    SKIPPED = "skipped"  # it cannot be tried here
    NOT_HEALED = "NOT HEALED"  # what is missing is not said to be


@dataclass(slots=True)
class Outcome:
    """What came of one try.

    Attributes:
        damage: What was done, in words.
        end: How it ended.
        was_noticed: Whether any command said that something is wrong.
        false: The claims that are not so.
        tracebacks: What commands said that ended in a way nobody foresaw.
        notes: What helps to understand it.
    """

    damage: str = ""
    end: End = End.NOT_HEALED
    was_noticed: bool = False
    false: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_failure(self) -> bool:
        """Whether the product broke its word."""
        return bool(self.false or self.tracebacks) or self.end is End.NOT_HEALED


@dataclass(slots=True)
class Try:
    """One try on a playground.

    Attributes:
        ground: Where.
        chance: Decides what it is; made from the seed, the kind and the number alone.
        number: Which one of its kind.
        outcome: What has come of it so far.
    """

    ground: Playground
    chance: random.Random
    number: int
    outcome: Outcome = field(default_factory=Outcome)

    def heard(self, said: Said, what: str, *, is_killed: bool = False) -> Said:
        """Take note of what a command said."""
        text = f"{said.out}\n{said.err}"
        allowed = (*_ALLOWED, _KILLED) if is_killed else _ALLOWED
        if said.code not in allowed or "Traceback" in text:
            lines = text.strip().splitlines()
            self.outcome.tracebacks.append(f"{what} (exit code {said.code}): " + " | ".join(lines[-12:]))
        if said.code in (1, 2):
            self.outcome.was_noticed = True
            self.outcome.notes.append(f"{what}: {(said.err or said.out).strip()[-300:]}")
        return said

    def command(self, *arguments: str) -> Said:
        """Run a command in this process."""
        return self.heard(self.ground.command(*arguments), " ".join(arguments))

    def apart(self, *arguments: str) -> Said:
        """Run a command in a process of its own."""
        return self.heard(self.ground.in_process_of_its_own(*arguments), " ".join(arguments))

    def run(self, name: str) -> Said:
        """Run `repair` or `ingest` without Dagster."""
        return self.heard(self.ground.run(name), name)

    def check(self, when: str, falsified: frozenset[str] = frozenset()) -> None:
        """Compare every claim with what happened."""
        try:
            with opened(self.ground.settings()) as stores:
                self.outcome.false += [f"{when}: {claim}" for claim in false_claims(stores, falsified)]
        except PipelineError as error:
            self.outcome.notes.append(f"{when}: {error}")

    def judge(self, expected: HomeState) -> None:
        """Compare the home with the one that nothing happened to."""
        try:
            now = self.ground.state()
        except PipelineError as error:
            is_named = "recover" in str(error)
            self.outcome.end = End.RECOVER if is_named else End.NOT_HEALED
            self.outcome.notes.append(str(error))
            return
        lacking = expected.differs(now)
        if not lacking:
            self.outcome.end = End.HEALED
            return
        with opened(self.ground.settings()) as stores:
            gaps = gaps_of(stores)
        unsaid = {series: left for series, spans in lacking.items() if (left := subtract(spans, gaps.get(series, ())))}
        self.outcome.end = End.NOT_HEALED if unsaid else End.GAP
        self.outcome.notes.append(f"{'not said' if unsaid else 'gaps'}: {str(unsaid or lacking)[:300]}")


# --- what a user would do after any damage


_LOOKS: tuple[tuple[str, ...], ...] = (
    ("explain", "XBTUSD", "60", "2023-05-02T13:00"),
    ("gaps", "--json"),
    ("plan", "--json"),
    ("health", "--json"),
    ("dead-letters", "list", "--json"),
    ("reconcile", "--json"),
    ("status", "--json"),
    ("cache", "stats", "--json"),
    ("resolve", "--file", "XBTUSD_1.csv", "--reason", "a try", "--dry-run"),
)


def look_and_mend(this: Try, *, with_dagster: bool = False) -> None:
    """Ask what a user asks, verify, compare the claims, repair, and compare what is left with what was there."""
    this.command("report", "--json")
    this.command(*this.chance.choice(_LOOKS))
    if this.chance.random() < 0.5:
        pair, interval = this.chance.choice(["XBTUSD", "ADAEUR", "ZORKUSD"]), this.chance.choice(["60", "1440"])
        this.command("export", pair, interval, "--to", str(this.ground.folder / "out.csv"))
    this.command("verify", "--json")
    this.check("after verify")
    for _ in range(2):  # a repair that says that something is left is run again, as it asks for
        said = this.command(*_REPAIR) if with_dagster else this.run("repair")
        if said.code == 0:
            break
    this.check("after the repair")
    this.judge(this.ground.expected)
    if this.outcome.end in (End.GAP, End.NOT_HEALED):
        this.command(*FILL)
        this.check("after the same ingest")
        this.judge(this.ground.expected)
    if this.outcome.end is End.RECOVER:
        this.command("recover")
        this.check("after recover")
        this.judge(this.ground.expected)


# --- flipped bytes


def _flip(this: Try, path: Path) -> None:
    content = bytearray(path.read_bytes())
    at, mask = this.chance.randrange(len(content)), this.chance.randrange(1, 256)
    content[at] ^= mask
    path.write_bytes(content)
    where = path.relative_to(this.ground.world)
    this.outcome.damage = f"byte {at:,} of {len(content):,} of {where} flipped by {mask:#04x}"


def _flip_one_of(this: Try, *patterns: str) -> None:
    found = sorted(path for pattern in patterns for path in this.ground.home.glob(pattern) if path.is_file())
    _flip(this, this.chance.choice([path for path in found if path.stat().st_size]))


def flip_lake(this: Try) -> None:
    """A byte of a file of the lake."""
    this.ground.reset()
    _flip_one_of(this, "lake/interval*/**/*.parquet")
    look_and_mend(this)


def flip_ledger(this: Try) -> None:
    """A byte of a file of the ledger."""
    this.ground.reset()
    _flip_one_of(this, "replaced/**/*.parquet")
    look_and_mend(this)


def flip_assets(this: Try) -> None:
    """A byte of the copy of the pairs' ids."""
    this.ground.reset()
    _flip_one_of(this, "lake/assets.parquet")
    look_and_mend(this)


def flip_catalog(this: Try) -> None:
    """A byte of the catalog's file."""
    this.ground.reset()
    _flip_one_of(this, "catalog.sqlite")
    look_and_mend(this)


def flip_log(this: Try) -> None:
    """A byte of SQLite's log of a catalog that was not closed."""
    this.ground.reset_with_log()
    _flip_one_of(this, "catalog.sqlite-wal")
    look_and_mend(this)


def flip_row(this: Try) -> None:
    """A byte of one value in the catalog, of which the database itself notices nothing."""
    this.ground.reset()
    with closing(sqlite3.connect(this.ground.home / "catalog.sqlite", isolation_level=None)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        filled = [name for name in tables if database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]]
        while not _flip_value(this, database, this.chance.choice(filled)):
            pass
    look_and_mend(this)


def _flip_value(this: Try, database: sqlite3.Connection, table: str) -> bool:
    columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
    rowids = [row[0] for row in database.execute(f'SELECT rowid FROM "{table}"')]
    column, rowid = this.chance.choice(columns), this.chance.choice(rowids)
    ((value,),) = database.execute(f'SELECT "{column}" FROM "{table}" WHERE rowid = ?', (rowid,))
    if value is None or value in ("", b""):
        return False
    other: object
    if isinstance(value, int):
        other = value ^ (1 << this.chance.randrange(max(1, value.bit_length())))
        expression = "?"
    else:
        content = bytearray(str(value).encode())
        content[this.chance.randrange(len(content))] ^= this.chance.randrange(1, 256)
        other, expression = bytes(content), f"CAST(? AS {'TEXT' if isinstance(value, str) else 'REAL'})"
    try:
        database.execute(f'UPDATE "{table}" SET "{column}" = {expression} WHERE rowid = ?', (other, rowid))
    except sqlite3.IntegrityError:
        return False
    this.outcome.damage = f"{table}.{column} of row {rowid}: {value!r} became {other!r}"
    return True


def flip_history(this: Try) -> None:
    """A byte of Dagster's history."""
    this.ground.reset()
    _flip_one_of(this, "dagster/**/*.db")
    this.command("status", "--json")
    look_and_mend(this, with_dagster=True)


def flip_cache(this: Try) -> None:
    """A byte of the cache of the exchange's replies."""
    this.ground.reset()
    _flip_one_of(this, "cache/*.sqlite")
    shutil.rmtree(this.ground.home / "lake" / "interval=60" / "pair=ADAEUR")
    look_and_mend(this)


def flip_zip(this: Try) -> None:
    """A byte of a release, before it is ingested, or after what it brought was lost."""
    ground = this.ground
    if this.number % 2:
        ground.reset()
        _flip(this, this.chance.choice([ground.archives / ground.shelf.q2.name, _ingested(ground, ground.shelf.q1)]))
        lost = this.chance.choice(sorted(ground.home.glob("lake/interval=*/pair=*/*.parquet")))
        lost.unlink()
        this.outcome.damage += f", and {lost.relative_to(ground.home)} deleted"
        look_and_mend(this)
        return
    ground.reset_empty()
    path = this.chance.choice([ground.archives / ground.shelf.q2.name, ground.home / "drop" / ground.shelf.q1.name])
    _flip(this, path)
    this.run("ingest")
    this.command("report", "--json")
    this.command("verify", "--json")
    this.check("after the ingest")
    shutil.copy(ground.shelf.q1.parent / path.name, path)
    this.run("ingest")
    this.check("with the true archive")
    this.judge(ground.expected_of_archives)


def _ingested(ground: Playground, path: Path) -> Path:
    return ground.home / "drop" / "ingested" / path.name


def flip_csv(this: Try) -> None:
    """A byte of a loose file, before it is ingested: no checksum tells, and another source may."""
    ground = this.ground
    ground.reset_empty()
    _flip(
        this,
        this.chance.choice(
            [
                ground.home / "drop" / ground.shelf.minutes.name,
                ground.archives / ground.shelf.trades.relative_to(ground.shelf.q2.parent),
            ]
        ),
    )
    this.run("ingest")
    this.command("reconcile", "--json")
    this.command("report", "--json")
    this.command("verify", "--json")
    this.check("after the ingest", frozenset({"XBTUSD"}))
    this.outcome.end = End.SAID


# --- deleted files


def deletable(ground: Playground) -> list[Path]:
    """Return every file under a filled home, relative to it."""
    ground.reset()
    home = ground.home
    files = sorted(path.relative_to(home) for path in home.rglob("*") if path.is_file())
    return [path for path in files if path.parts[0] != "locks" and path.parts[:2] != ("cache", "locks")] + [
        path for path in files if path.parts[0] == "locks" or path.parts[:2] == ("cache", "locks")
    ]


def delete_file(this: Try) -> None:
    """One file under the home, each once."""
    files = deletable(this.ground)
    this.ground.reset()
    path = files[this.number % len(files)]
    (this.ground.home / path).unlink()
    this.outcome.damage = f"{path} deleted"
    look_and_mend(this, with_dagster=path.parts[0] == "dagster")


# --- kills


def _kill(this: Try, longest: float, *arguments: str) -> None:
    process = this.ground.begin(*arguments)
    after = this.chance.uniform(0, longest)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
    out, err = process.communicate()
    this.outcome.damage += f"{arguments[0]} killed after {after:.2f} s (exit code {process.returncode}); "
    this.heard(Said(process.returncode, out, err), "the killed command", is_killed=True)


def kill_ingest(this: Try) -> None:
    """An ingest is killed, perhaps twice, and then run again."""
    expected = this.ground.expected_of_archives
    this.ground.reset_empty()
    for _ in range(this.chance.randint(1, 2)):
        _kill(this, 2.5, *ARCHIVES_ONLY)
        this.command("report", "--json")
        this.check("after the kill")
    this.command(*ARCHIVES_ONLY)
    this.command("verify", "--json")
    this.check("after the same command")
    this.judge(expected)


def kill_repair(this: Try) -> None:
    """A repair is killed, and then run again."""
    expected = this.ground.expected
    this.ground.reset()
    for path in this.chance.sample(sorted(this.ground.home.glob("lake/interval*/**/*.parquet")), 2):
        path.unlink()
        this.outcome.damage += f"{path.relative_to(this.ground.home)} deleted, "
    _kill(this, 2.0, *_REPAIR)
    this.command("report", "--json")
    this.command("verify", "--json")
    this.check("after the kill")
    this.command(*_REPAIR)
    this.check("after the same command")
    this.judge(expected)


# --- full disks


def _mounted(path: Path, size: int) -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], capture_output=True, check=False
    )
    return done.returncode == 0


@contextmanager
def _little_room(this: Try, room: int) -> Iterator[bool]:
    """The home on a disk with so many bytes of room beside what it holds; False where nothing can be mounted."""
    home = this.ground.home
    aside = this.ground.folder / "aside"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.move(home, aside)
    home.mkdir()
    used = sum((path.stat().st_size + 4_096) // 4_096 * 4_096 + 4_096 for path in aside.rglob("*"))
    is_mounted = _mounted(home, used + room)
    shutil.copytree(aside, home, dirs_exist_ok=True)
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(home)], check=False)


def _make_room(this: Try) -> None:
    subprocess.run(["mount", "-o", "remount,size=256m", str(this.ground.home)], check=True)


def full_disk_ingest(this: Try) -> None:
    """The disk is full in the middle of an ingest; room is made, and the same command is run again."""
    expected = this.ground.expected_of_archives
    this.ground.reset_empty()
    _run_with_little_room(this, this.chance.randrange(20_000, 3_000_000), ARCHIVES_ONLY, expected)


def full_disk_repair(this: Try) -> None:
    """The disk is full in the middle of a repair; room is made, and the same command is run again."""
    expected = this.ground.expected
    this.ground.reset()
    for path in this.chance.sample(sorted(this.ground.home.glob("lake/interval*/**/*.parquet")), 2):
        path.unlink()
    _run_with_little_room(this, this.chance.randrange(20_000, 1_500_000), _REPAIR, expected)


def _run_with_little_room(this: Try, room: int, arguments: tuple[str, ...], expected: HomeState) -> None:
    this.outcome.damage = f"{arguments[0]} with {room:,} bytes of room"
    with _little_room(this, room) as is_mounted:
        if not is_mounted:
            this.outcome.end = End.SKIPPED
            this.outcome.notes.append("no small disk can be mounted here")
            return
        this.apart(*arguments)
        this.apart("report", "--json")
        _make_room(this)
        this.command("verify", "--json")
        this.check("with room again")
        this.command(*arguments)
        this.check("after the same command")
        this.judge(expected)


# --- sources that change while they are read


def replace_source(this: Try) -> None:
    """An archive is replaced while it is read, and the true one comes back afterwards."""
    ground = this.ground
    expected = ground.expected_of_archives
    ground.reset_empty()
    true = this.chance.choice([ground.shelf.q2, ground.shelf.q1, ground.shelf.minutes])
    path = next(
        folder / true.name for folder in (ground.archives, ground.home / "drop") if (folder / true.name).exists()
    )
    way, other = _other_content(this, true)
    delay, in_place = this.chance.uniform(0, 0.5), this.chance.random() < 0.5
    this.outcome.damage = f"{true.name} {way} after {delay:.2f} s, {'in place' if in_place else 'renamed over it'}"
    thread = threading.Thread(target=_replace, args=(path, other, delay, in_place))
    thread.start()
    this.run("ingest")
    thread.join()
    this.command("report", "--json")
    this.command("verify", "--json")
    this.check("after it was replaced")
    for place in (path, _ingested(ground, true)):
        if place.exists() or place == path:
            shutil.copy(true, place)
    this.run("ingest")
    this.check("with the true one back")
    this.judge(expected)


def _other_content(this: Try, true: Path) -> tuple[str, bytes | None]:
    content = true.read_bytes()
    ways = ["cut", "deleted"] + (["replaced by a shorter release"] if true == this.ground.shelf.q2 else [])
    way = this.chance.choice(ways)
    if way == "deleted":
        return way, None
    if way == "cut":
        return way, content[: this.chance.randrange(len(content))]
    folder = this.ground.folder / "shorter"
    folder.mkdir(exist_ok=True)
    # At a full hour: of an archive that ends within one, nothing at hand can tell that its last candle is short.
    cut = this.chance.randrange(Q2.start + 86_400, Q2.end - 86_400) // 3_600 * 3_600
    return way, write_quarterly_zip(folder, SPRING, Q2, HOURS_AND_DAYS, cut=cut).read_bytes()


def _replace(path: Path, content: bytes | None, delay: float, in_place: bool) -> None:
    time.sleep(delay)
    if not path.exists():  # it was ingested by then, and moved out of the drop folder
        return
    if content is None:
        path.unlink(missing_ok=True)
    elif in_place:
        path.write_bytes(content)
    else:
        beside = path.with_name(f".{path.name}.new")
        beside.write_bytes(content)
        beside.replace(path)


KINDS: Mapping[str, tuple[Callable[[Try], None], int]] = {
    "flip-catalog": (flip_catalog, 65),
    "flip-row": (flip_row, 95),
    "flip-log": (flip_log, 15),
    "flip-lake": (flip_lake, 40),
    "flip-ledger": (flip_ledger, 20),
    "flip-assets": (flip_assets, 10),
    "flip-zip": (flip_zip, 24),
    "flip-csv": (flip_csv, 11),
    "flip-history": (flip_history, 10),
    "flip-cache": (flip_cache, 10),
    "delete-file": (delete_file, 0),
    "kill-ingest": (kill_ingest, 12),
    "kill-repair": (kill_repair, 10),
    "full-disk-ingest": (full_disk_ingest, 5),
    "full-disk-repair": (full_disk_repair, 5),
    "replace-source": (replace_source, 15),
}
"""Kind → what does it, and how many of it a full campaign has; 0: as many as there are files."""
