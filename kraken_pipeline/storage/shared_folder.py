"""What a folder that several processes share must guarantee, tried by two processes.

The lake relies on three things: a renamed file is at once the whole file, for every process; a lock of the operating
system excludes other processes; what was synchronised is on the disk. A local file system guarantees them. One that
machines share may not, depending on how it is mounted.

The second process runs this module as a program, which imports only the standard library and so starts at once.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_SIZE = 65_536
"""Bytes of a version of the file: more than one page, so that a version written in place is seen in part."""
_VERSIONS = 20
_SECONDS = 5.0
"""The time that one process waits for the other."""
_CLOCK_SECONDS = 5.0
"""The allowed difference between this machine's clock and the one that dates the files: KRAKEN_SETTLE_SECONDS."""


def faults_of(folder: Path) -> Sequence[str]:
    """Try a folder with a second process, and return what it does not guarantee; nothing if it guarantees all.

    Args:
        folder: The folder. What is written there is removed.

    Raises:
        OSError: The folder cannot be written, or synchronising it failed.
    """
    scratch = folder / f"{uuid.uuid4().hex}.probe"
    scratch.mkdir(parents=True)
    try:
        return list(_tried(scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _tried(scratch: Path) -> Iterator[str]:
    with _locked(scratch / "lock"):
        replace(scratch, 0)
        yield from _misdated(scratch)
        with subprocess.Popen(  # noqa: S603 - this module, by this interpreter
            [sys.executable, "-I", "-S", __file__, str(scratch)], stdout=subprocess.PIPE, text=True
        ) as other:
            try:
                # The other process reads from here on: only now is a version that it sees in part its own finding.
                _wait_for(scratch / "reading", other)
                for number in range(1, _VERSIONS):
                    replace(scratch, number)
                said, _ = other.communicate(timeout=_SECONDS * 2)
            finally:
                other.kill()
    yield from said.splitlines()
    if other.returncode:
        yield f"the second process ended with code {other.returncode}"


def _misdated(scratch: Path) -> Iterator[str]:
    ahead = (scratch / "value").stat().st_mtime - time.time()
    if abs(ahead) > _CLOCK_SECONDS:
        yield f"files are dated {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's clock"


def _wait_for(path: Path, other: subprocess.Popen[str]) -> None:
    until = time.monotonic() + _SECONDS
    while not path.exists() and other.poll() is None and time.monotonic() < until:
        time.sleep(0.001)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def replace(scratch: Path, number: int) -> None:
    """Write the next version of the file beside it, synchronise it, and rename it to its place."""
    beside = scratch / "beside"
    with beside.open("wb") as stream:
        stream.write(bytes([number]) * _SIZE)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(scratch / "value")
    descriptor = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def findings(scratch: Path) -> Iterator[str]:
    """Read the file again and again in the second process, and yield what another one's work should never show."""
    with (scratch / "lock").open("rb+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            yield "two processes hold one lock at the same time"
    (scratch / "reading").touch()
    until = time.monotonic() + _SECONDS
    newest = 0
    while newest < _VERSIONS - 1:
        try:
            content = (scratch / "value").read_bytes()
        except FileNotFoundError:
            yield "a file is missing for a moment while another one is renamed to its name"
            return
        if len(content) != _SIZE or len(set(content)) != 1:
            yield "a file that is renamed to its place is seen in part"
            return
        if content[0] < newest:
            yield "an older file is seen after the one that replaced it"
            return
        newest = content[0]
        if time.monotonic() > until:
            yield f"a renamed file is not seen by another process within {_SECONDS:.0f} s"
            return


if __name__ == "__main__":
    sys.stdout.writelines(f"{finding}\n" for finding in findings(Path(sys.argv[1])))
