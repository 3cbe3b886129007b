"""How names are spelled on disk."""

from __future__ import annotations

import os
from pathlib import Path


def spelled(name: str) -> str:
    """A name as a part of a path, distinct for distinct names even where a file system does not tell case.

    Everything but capital letters, digits, dot, dash and underscore is percent-encoded, which readers of Hive
    layouts decode: AAPLxUSD lies in `pair=AAPL%78USD` and is read as AAPLxUSD.
    """
    return "".join(
        letter if letter.isascii() and (letter.isupper() or letter.isdigit() or letter in ".-_") else f"%{byte:02X}"
        for letter in name
        for byte in letter.encode()
    )


def make_folder(folder: Path) -> None:
    """Makes a folder where it is missing, unless what is there of its path is only to read.

    Who only reads needs no folder that nothing lies in. Whoever writes will be told.

    Raises:
        OSError: It cannot be made, although it could be written to.
    """
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if there == folder or os.access(there, os.W_OK):
        folder.mkdir(parents=True, exist_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder as durable as the files they name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Makes a written file durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
