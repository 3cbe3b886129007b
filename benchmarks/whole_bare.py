"""`python -m benchmarks.whole_bare ZIP FOLDER PROCESSES`: every member of a ZIP to a Parquet file, and nothing else."""

from __future__ import annotations

import shutil
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import polars as pl


def copied(path: Path, folder: Path, names: list[str]) -> int:
    """Copy some members; return the number of rows."""
    height = 0
    with zipfile.ZipFile(path) as archive:
        for name in names:
            rows = pl.read_csv(archive.read(name), has_header=False)
            rows.write_parquet(folder / f"{Path(name).name}.parquet")
            height += rows.height
    return height


def main(path: Path, folder: Path, processes: int) -> None:
    """Copy all members but the litter, dealt out to so many processes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
    shares = [names[number::processes] for number in range(processes)]
    if processes == 1:
        print(copied(path, folder, names))
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            print(sum(pool.map(partial(copied, path, folder), shares)))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
