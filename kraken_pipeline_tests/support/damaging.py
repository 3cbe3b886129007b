"""Ways to damage files, as disks, people and programs do."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path


def flip(path: Path, seed: int = 0) -> None:
    """Changes one bit of one byte somewhere in a file."""
    chance = random.Random(seed)
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Leaves the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path) -> None:
    """Leaves nothing of a file but its name."""
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    """Puts as many bytes of something else in a file's place."""
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


def delete(path: Path) -> None:
    """Deletes a file."""
    path.unlink()


WAYS: Mapping[str, Callable[[Path], None]] = {
    "flipped": flip,
    "truncated": truncate,
    "emptied": empty,
    "overwritten": overwrite,
    "deleted": delete,
}
