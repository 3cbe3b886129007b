"""`python -m benchmarks.scaling_model`: how long an archive takes with more workers, from what was measured.

A run has three parts. The first step finds the files and deals them out. The groups are worked on side by side. The
last step does what concerns all pairs. Only the groups get faster by more workers, and not below three bounds: the
largest pair, which is one group, the processors of the database's server, and the lock that a group holds on the table
of files while it enlists its own. docs/scaling.md explains the figures and says what the model leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WORKERS = (1, 4, 16, 64)
STEPS_OF_WORKER = 4
"""The number of groups for each worker, as `workflow.pair_groups` deals them out."""


@dataclass(frozen=True, slots=True)
class Archive:
    """The size of an archive.

    Attributes:
        name: Its name, for the table.
        files: The number of members that are read.
        rows: The number of their rows.
        largest: The number of rows of the pair with the most.
        largest_files: The number of files of that pair.
    """

    name: str
    files: int
    rows: int
    largest: int
    largest_files: int = 8


@dataclass(frozen=True, slots=True)
class Costs:
    """The cost of parts of a run, in seconds of one processor.

    Attributes:
        start: The start of a step.
        of_first: The rest of the first step, for each file.
        of_file: The work of a group on each file: reading, storing, settling, reporting.
        of_row: The work of a group on each row.
        of_last_file: The last step, for each file.
        of_last_row: The last step, for each row.
        of_server: The work of the database's server on each file of a group.
        of_lock: The time for which no other group can write to the table of files, for each file.
    """

    start: float
    of_first: float
    of_file: float
    of_row: float
    of_last_file: float
    of_last_row: float
    of_server: float
    of_lock: float


@dataclass(frozen=True, slots=True)
class Duration:
    """The predicted time of a run, in seconds.

    Attributes:
        workers: The number of processes that take steps, each with a processor of its own.
        first: The first step.
        groups: All groups.
        last: The last step.
        bound: What the groups wait for.
    """

    workers: int
    first: float
    groups: float
    last: float
    bound: str

    @property
    def whole(self) -> float:
        """The time of the run."""
        return self.first + self.groups + self.last


ARCHIVES = (
    Archive("82 million rows", files=12_024, rows=82_000_000, largest=6_430_000),
    Archive("400 million rows", files=12_024, rows=400_000_000, largest=6_430_000),
)
"""That of `benchmarks.whole`, and Kraken's complete one, whose rows are an estimate. Of the 24,056 members every other
one is litter. The largest pair has at most every minute from October 2013 to 2022, at eight intervals."""
MEASURED = Costs(
    start=1.3,
    of_first=0.0005,
    of_file=0.0099,
    of_row=7.2e-7,
    of_last_file=0.00068,
    of_last_row=5.5e-8,
    of_server=0.0035,
    of_lock=0.0005,
)
SERVER_PROCESSORS = 2


def duration(archive: Archive, costs: Costs, workers: int, *, server_processors: int) -> Duration:
    """Return the predicted time of a run.

    Args:
        archive: The archive.
        costs: The costs.
        workers: The number of processes that take steps.
        server_processors: The number of processors of the database's server.
    """
    work = costs.of_file * archive.files + costs.of_row * archive.rows
    bounds = {
        "their own work": STEPS_OF_WORKER * costs.start + work / workers,
        "the largest pair": costs.start + costs.of_file * archive.largest_files + costs.of_row * archive.largest,
        "the database": costs.of_server * archive.files / server_processors,
        "the lock": costs.of_lock * archive.files,
    }
    bound = max(bounds, key=lambda name: bounds[name])
    return Duration(
        workers,
        costs.start + costs.of_first * archive.files,
        bounds[bound],
        costs.start + costs.of_last_file * archive.files + costs.of_last_row * archive.rows,
        bound,
    )


def table(archive: Archive, costs: Costs, workers: Sequence[int], *, server_processors: int) -> Iterator[str]:
    """Yield the predicted times as rows of a table in Markdown."""
    one = duration(archive, costs, workers[0], server_processors=server_processors).whole
    for count in workers:
        found = duration(archive, costs, count, server_processors=server_processors)
        yield (
            f"| {archive.name} | {count} | {found.first:,.0f} s | {found.groups:,.0f} s | {found.last:,.0f} s "
            f"| {found.whole / 60:,.1f} min | {one / found.whole:.1f} | {found.bound} |"
        )


def lines() -> Iterator[str]:
    """Yield the rows of the table in docs/scaling.md."""
    for archive in ARCHIVES:
        yield from table(archive, MEASURED, WORKERS, server_processors=SERVER_PROCESSORS)


def main() -> None:
    """Print the table."""
    print("| archive | workers | first step | groups | last step | all | times faster | the groups wait for |")
    print("|---|---|---|---|---|---|---|---|")
    for line in lines():
        print(line)


if __name__ == "__main__":
    main()
