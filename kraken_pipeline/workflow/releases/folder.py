"""The folder of the dataset releases of a home, `<home>/releases/NAME/`: names, listing and deletion.

A release appears under its name by one rename, and disappears by one. What a killed process leaves lies in
`<home>/tmp`, which the next ingest sweeps.
"""

from __future__ import annotations

import errno
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.storage.paths import make_folder, sync_folder
from kraken_pipeline.workflow.releases.certificate import (
    CERTIFICATE,
    SIGNATURE,
    Certificate,
    InvalidCertificate,
    read_certificate,
)

RELEASES = "releases"
"""The folder of the home with all dataset releases."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_IS_THERE = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


@dataclass(frozen=True, slots=True)
class ListedRelease:
    """A release of a home, as listed.

    Attributes:
        name: Its name.
        certificate: Its certificate; None where RELEASE.json cannot be read.
        is_signed: Whether it has a signature.
        error: The reason why RELEASE.json cannot be read.
    """

    name: str
    certificate: Certificate | None
    is_signed: bool
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the release as `release list --json` shows it."""
        keys = ("digest", "made_at", "series", "candles", "files", "bytes", "start", "end")
        found = dict.fromkeys(keys) if self.certificate is None else self.certificate.summary()
        return {**found, "name": self.name, "signed": self.is_signed, "error": self.error}


def require_new(home: Path, name: str) -> Path:
    """Return the folder of a release that is to be made.

    Raises:
        InvalidRequest: The name is not the plain name of a folder, or there is such a release.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} cannot be the name of a release; use up to 100 letters, digits, dots, dashes and underscores, "
            "beginning with a letter or a digit: majors-2026Q2"
        )
    folder = home / RELEASES / name
    if folder.exists():
        raise _exists(name)
    return folder


def _exists(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"there is a release {name} already, and a release never changes; choose another name, or delete it: "
        f"kraken-pipeline release delete {name}"
    )


def publish(scratch: Path, folder: Path) -> None:
    """Give a complete release, which lies in a scratch folder and is synced, its place.

    Raises:
        InvalidRequest: Another process has made a release of that name meanwhile.
    """
    make_folder(folder.parent)
    try:
        scratch.rename(folder)
    except OSError as error:
        if error.errno in _IS_THERE:
            raise _exists(folder.name) from None
        raise
    sync_folder(folder.parent)
    sync_folder(folder.parent.parent)


def names_of(home: Path) -> list[str]:
    """Return the names of all releases of a home, sorted."""
    return sorted(path.parent.name for path in (home / RELEASES).glob(f"*/{CERTIFICATE}"))


def find(home: Path, name: str) -> Path:
    """Return the folder of a release of a home.

    Raises:
        InvalidRequest: There is none of that name; the message names the nearest ones.
    """
    names = names_of(home)
    if name not in names:
        near = get_close_matches(name, names, n=3, cutoff=0.6)
        others = f"similar names are {', '.join(near)}" if near else "kraken-pipeline release list shows all"
        raise InvalidRequest(f"there is no release {name!r} in {home / RELEASES}; {others}")
    return home / RELEASES / name


def find_anywhere(home: Path, name: str) -> Path:
    """Return the folder of a release of a home, or a folder with a release that lies anywhere.

    Raises:
        InvalidRequest: There is neither.
    """
    if name in names_of(home):
        return home / RELEASES / name
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else find(home, name)


def list_releases(home: Path) -> Iterator[ListedRelease]:
    """Yield the releases of a home, by name."""
    for name in names_of(home):
        folder = home / RELEASES / name
        is_signed = (folder / SIGNATURE).exists()
        try:
            certificate, _ = read_certificate(folder)
        except (InvalidCertificate, OSError) as error:
            yield ListedRelease(name, None, is_signed, str(error))
        else:
            yield ListedRelease(name, certificate, is_signed)


def other_releases(home: Path, copy: Path) -> list[str]:
    """Return the releases of a home of which a copy of the home has another one under the same name."""
    both = set(names_of(home)) & set(names_of(copy))
    certificates = {name: [place / RELEASES / name / CERTIFICATE for place in (home, copy)] for name in sorted(both)}
    return [name for name, (mine, other) in certificates.items() if mine.read_bytes() != other.read_bytes()]


def delete(home: Path, name: str) -> None:
    """Delete a release; candles that it shares with the lake stay in the lake.

    Raises:
        InvalidRequest: There is none of that name.
    """
    folder = find(home, name)
    doomed = home / "tmp" / f"release-{uuid.uuid4().hex}"
    make_folder(doomed.parent)
    folder.rename(doomed)
    sync_folder(folder.parent)
    shutil.rmtree(doomed)
