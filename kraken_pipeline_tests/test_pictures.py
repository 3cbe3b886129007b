"""The pictures of the docs: what `make pictures` makes is what the docs show, and small."""

from __future__ import annotations

import re
from pathlib import Path

from docs.pictures import IMAGES, LARGEST, PICTURES, ROOT

MADE = {picture.name for picture in PICTURES}


def shown() -> set[Path]:
    """The pictures that the docs show or link to."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").glob("*.md")]
    links = ((page, link) for page in pages for link in re.findall(r"\]\(([^)\s]+\.png)\)", page.read_text("utf-8")))
    return {(page.parent / link).resolve() for page, link in links}


def test_every_picture_of_the_docs_is_made_by_the_command_and_shown_somewhere() -> None:
    assert {path.stem for path in IMAGES.iterdir()} == MADE
    assert shown() == {IMAGES / f"{name}.png" for name in MADE}


def test_pictures_are_small_because_they_are_part_of_every_clone() -> None:
    assert {path.name: size for path in IMAGES.iterdir() if (size := path.stat().st_size) > LARGEST} == {}
